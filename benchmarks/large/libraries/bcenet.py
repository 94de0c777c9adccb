"""bcenet: one call of `fit`, which checks the data, shuffles and starts its threads itself.

From a file it opens the dataset too, and reads the targets once before it trains. Of sparse rows
the columns that a batch lacks are left alone (``lazy=True``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

import bcenet
from benchmarks.large.problems import SEED, Training

_OPTIMIZERS = {"sgd": bcenet.SGD, "adam": bcenet.Adam}


class Trainer:
    def __init__(self, training: Training, threads: int) -> None:
        self.training = training
        self.threads = threads
        self.load()

    def load(self) -> None:
        self.held = self.training.matrix("train"), self.training.y

    def data(self) -> tuple[Any, ...]:
        """What `fit` is given."""
        return self.held

    def prepare(self, epochs: int) -> None:
        self.epochs = epochs
        self.network = self.training.network()
        self.optimizer = _OPTIMIZERS[self.training.form.method](
            self.training.rate, rate_factors={"intercepts": self.training.intercept_factor}
        )

    def run(self) -> None:
        bcenet.fit(
            self.network,
            *self.data(),
            optimizer=self.optimizer,
            batch_size=self.training.form.batch,
            epochs=self.epochs,
            shuffle=self.training.shuffled,
            lazy=self.training.workload.data == "words",
            n_threads=self.threads,
            random_state=SEED,
        )

    def test_scores(self) -> np.ndarray:
        return self.network.decision_function(self.training.matrix("test"))


class FileTrainer(Trainer):
    def load(self) -> None:
        """Nothing: the files are opened in `run`."""

    def data(self) -> tuple[Any, ...]:
        folder = self.training.folder
        return (bcenet.data.open_dataset((folder / "train-X.npy", folder / "train-y.npy")),)

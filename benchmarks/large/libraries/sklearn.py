"""scikit-learn: `partial_fit` with 65536 rows a call, of the mapped file or of the CSR matrix."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from benchmarks.large.problems import BLOCK_ROWS, SEED, Training


class _Trainer:
    dtype = "float32"

    def __init__(self, training: Training, threads: int) -> None:
        self.training = training
        self.X = self.matrix("train")
        self.y = training.y

    def matrix(self, part: str):
        if self.training.workload.data == "collisions":
            X = self.training.arrays(part)[0]
        else:
            X = self.training.matrix(part)
        return X.astype(self.dtype, copy=False)

    def start(self):
        raise NotImplementedError

    def prepare(self, epochs: int) -> None:
        self.epochs = epochs
        self.model = self.start()

    def run(self) -> None:
        for _ in range(self.epochs):
            for first in range(0, len(self.y), BLOCK_ROWS):
                rows = slice(first, first + BLOCK_ROWS)
                self.model.partial_fit(self.X[rows], self.y[rows], classes=[0, 1])


class SgdTrainer(_Trainer):
    """A row at a time."""

    def __init__(self, training: Training, threads: int) -> None:
        (self.dtype,) = training.form.options
        super().__init__(training, threads)

    def start(self) -> SGDClassifier:
        return SGDClassifier(
            loss="log_loss",
            penalty=None,
            learning_rate="constant",
            eta0=self.training.rate,
            shuffle=self.training.shuffled,
            random_state=SEED,
        )

    def test_scores(self) -> np.ndarray:
        return self.model.decision_function(self.matrix("test"))


class MlpTrainer(_Trainer):
    def start(self) -> MLPClassifier:
        return MLPClassifier(
            self.training.workload.hidden,
            activation=self.training.workload.activation,
            alpha=0.0,
            batch_size=self.training.form.batch,
            learning_rate_init=self.training.rate,
            shuffle=self.training.shuffled,
            random_state=SEED,
        )

    def test_scores(self) -> np.ndarray:
        """The logits, from probabilities: it gives nothing else."""
        p = self.model.predict_proba(self.matrix("test"))
        return np.log(p[:, 1]) - np.log(p[:, 0])

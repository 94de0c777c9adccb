"""Vowpal Wabbit: its own driver over its own cache file, without Python between the rows.

`Workspace` with ``--passes`` runs the loop of the command `vw`: one thread reads the cache file,
another one learns. Setting up the workspace is timed with it, since they are one call. Rows are
taken in the order of the file, which is random.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from vowpalwabbit import Workspace

from benchmarks.large.problems import ENTRIES, Training

TEXT_ROWS = 8192  # that are written at a time


def _lines(arrays: list[np.ndarray], y: np.ndarray) -> list[str]:
    """The rows as text: "1 | COLUMN:VALUE ..."."""
    if len(arrays) == 1:
        (X,) = arrays
        form = "%d |" + "".join(f" {i}:%.9g" for i in range(X.shape[1])) + "\n"
        numbers = X
    else:
        columns, values = arrays
        form = "%d |" + ENTRIES * " %d:%.9g" + "\n"
        numbers = np.empty((len(columns), 2 * ENTRIES))
        numbers[:, 0::2], numbers[:, 1::2] = columns, values
    signs = np.where(y > 0, 1, -1).tolist()
    return [form % (sign, *row) for sign, row in zip(signs, numbers.tolist(), strict=True)]


def cache(training: Training, part: str) -> Path:
    """The cache file of the rows, which is written if it is not there."""
    path = training.folder / f"{part}.cache"
    if path.exists():
        return path
    text, unfinished = path.with_suffix(".vw"), path.with_suffix(".unfinished")
    arrays = training.arrays(part)
    y = training.y if part == "train" else training.y_test
    with open(text, "w", encoding="ascii") as file:
        for first in range(0, len(y), TEXT_ROWS):
            rows = slice(first, first + TEXT_ROWS)
            file.writelines(_lines([array[rows] for array in arrays], y[rows]))
    words = ["--data", str(text), "--cache_file", str(unfinished), "-k", "--noop", "--quiet"]
    Workspace(arg_list=words).finish()
    os.replace(unfinished, path)
    text.unlink()
    return path


class Trainer:
    def __init__(self, training: Training, threads: int) -> None:
        self.training = training
        self.words = ["--cache_file", str(cache(training, "train")), "--loss_function", "logistic"]
        self.words += ["--quiet", "--holdout_off", *training.form.options]
        self.words += ["--learning_rate", str(training.rate)]
        if training.intercept_factor != 1.0:
            self.words.append("--noconstant")  # a rate of its own cannot be given to it
        if training.workload.hidden:
            (units,) = training.workload.hidden
            self.words += ["--nn", str(units)]
        self.workspace = None

    def prepare(self, epochs: int) -> None:
        if self.workspace is not None:
            self.workspace.finish()
        self.epochs = epochs

    def run(self) -> None:
        self.workspace = Workspace(arg_list=[*self.words, "--passes", str(self.epochs)])

    def test_scores(self) -> np.ndarray:
        training = self.training
        model, scores = (training.folder / f"{os.getpid()}.{name}" for name in ("model", "scores"))
        self.workspace.save(str(model))
        words = ["-i", str(model), "-t", "--cache_file", str(cache(training, "test"))]
        words += ["--passes", "1", "--quiet", "--predictions", str(scores)]
        Workspace(arg_list=words).finish()
        logits = np.loadtxt(scores, ndmin=1)
        model.unlink()
        scores.unlink()
        return logits

"""The workloads, and the files of their rows."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import bcenet

SEED = 7
TEST_ROWS = 65_536
BLOCK_ROWS = 65_536  # that a partial_fit is given at a time, and that are made at a time
COLUMNS = 2**18
ENTRIES = 60  # of a row of words
DRAWS = 128  # of words for a row: of these about 100 are distinct
SPREAD = 4.0  # of the logits of rows of words: their standard deviation


@dataclass(frozen=True)
class Workload:
    """One epoch over ``rows`` rows.

    Attributes:
        title: of its table. data: "collisions" or "words".
        hidden: units of the hidden layers. activation: theirs.
        forms: the names of those who take part (`benchmarks.large.libraries.FORMS`).
        rates: learning rates by method and batch, 1 being a row at a time. They are those of 1, 2,
            5, 10, ... that gave the lowest held-out log-loss.
    """

    title: str
    data: str
    rows: int
    hidden: tuple[int, ...]
    activation: str
    forms: tuple[str, ...]
    rates: dict[tuple[str, int], float]


WORKLOADS = {
    "linear": Workload(
        "logistic regression, 28 columns",
        "collisions",
        2**20,
        (),
        "identity",
        (
            *("bcenet-file-sgd-200", "bcenet-file-adam-200", "bcenet-sgd-200"),
            *("bcenet-adam-200", "torch-sgd-200", "torch-adam-200"),
            *("sgd-float32", "vw-sgd", "vw"),
        ),
        {("sgd", 200): 0.05, ("adam", 200): 0.001, ("sgd", 1): 0.0005, ("adam", 1): 0.5},
    ),
    "nn": Workload(
        "28-16-1, tanh",
        "collisions",
        2**18,
        (16,),
        "tanh",
        (
            *("bcenet-file-adam-200", "bcenet-adam-200", "torch-adam-200"),
            *("mlp", "vw-sgd", "vw"),
        ),
        {("adam", 200): 0.01, ("sgd", 1): 0.01, ("adam", 1): 0.5},
    ),
    "tab": Workload(
        "28-64-32-1, relu",
        "collisions",
        2**20,
        (64, 32),
        "relu",
        ("bcenet-file-adam-200", "bcenet-adam-200", "torch-adam-200", "mlp"),
        {("adam", 200): 0.005},
    ),
    "words": Workload(
        "logistic regression, 2^18 columns, 60 entries a row",
        "words",
        2**18,
        (),
        "identity",
        (
            *("bcenet-sgd-200", "bcenet-sgd-2000", "bcenet-adam-200", "bcenet-adam-2000"),
            *("torch-sgd-200", "torch-sgd-2000", "torch-adam-200", "torch-adam-2000"),
            *("sgd-float32", "sgd-float64", "vw-sgd", "vw"),
        ),
        {
            ("sgd", 200): 200.0,
            ("sgd", 2000): 200.0,
            ("adam", 200): 0.05,
            ("adam", 2000): 0.1,
            ("sgd", 1): 2.0,
            ("adam", 1): 2.0,
        },
    ),
    "words-nn": Workload(
        "2^18-16-1, tanh, 60 entries a row",
        "words",
        2**17,
        (16,),
        "tanh",
        (
            *("bcenet-adam-200", "bcenet-adam-2000", "torch-adam-200", "torch-adam-2000"),
            *("vw-sgd", "vw"),
        ),
        {("adam", 200): 0.005, ("adam", 2000): 0.02, ("sgd", 1): 0.05, ("adam", 1): 0.5},
    ),
}


class Training:
    """What a form computes: the rows of a workload, its network and its learning rate.

    Attributes:
        folder: holds the files of the rows.
        shuffled: whether rows are taken in random order, or else as they lie.
    """

    def __init__(self, workload: str, form: Any, folder: str, shuffled: bool) -> None:
        self.workload = WORKLOADS[workload]
        self.folder = Path(folder)
        self.form = form
        self.shuffled = shuffled

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        inputs = COLUMNS if self.workload.data == "words" else self.arrays("train")[0].shape[1]
        return (inputs, *self.workload.hidden, 1)

    @property
    def rate(self) -> float:
        return self.workload.rates[self.form.method, self.form.batch]

    @property
    def intercept_factor(self) -> float:
        """Of the intercepts' rate. SGD on rare words needs a rate too large for what every row has:
        SGDClassifier has this factor for sparse rows built in.
        """
        return 0.01 if (self.workload.data, self.form.method) == ("words", "sgd") else 1.0

    @cached_property
    def y(self) -> np.ndarray:
        """(rows,), float32, in memory."""
        return np.load(self.folder / "train-y.npy")

    @cached_property
    def y_test(self) -> np.ndarray:
        return np.load(self.folder / "test-y.npy")

    def arrays(self, part: str) -> list[np.ndarray]:
        """The mapped files of X: one of collisions; columns and values (rows, 60) of words."""
        names = _NAMES[self.workload.data]
        return [np.load(self.folder / f"{part}-{name}.npy", mmap_mode="c") for name in names]

    def matrix(self, part: str) -> Any:
        """X in memory: an array of collisions, a CSR matrix of words."""
        if self.workload.data == "collisions":
            return np.array(self.arrays(part)[0])
        import scipy.sparse

        columns, values = (np.array(array) for array in self.arrays(part))
        starts = np.arange(0, columns.size + 1, ENTRIES, dtype=columns.dtype)
        shape = (len(columns), COLUMNS)
        return scipy.sparse.csr_matrix((values.ravel(), columns.ravel(), starts), shape)

    def network(self) -> bcenet.Network:
        """A new network with the starting weights."""
        activation = self.workload.activation if self.workload.hidden else "relu"
        return bcenet.Network(self.layer_sizes, activation=activation, random_state=SEED)


_NAMES = {"collisions": ("X",), "words": ("columns", "values")}


def _collisions() -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """`block` of examples/make_collisions.py."""
    path = Path(__file__).parents[2] / "examples" / "make_collisions.py"
    spec = importlib.util.spec_from_file_location("make_collisions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.block


def collision_blocks() -> Iterator[tuple[np.ndarray, ...]]:
    """(X, y) of 65536 simulated collisions at a time, without end.

    Every column has the mean 0 and the standard deviation 1 in the first block.
    """
    block, number, mean, deviation = _collisions(), 0, 0.0, 1.0
    while True:
        X, y = block(SEED, number)
        if number == 0:
            mean, deviation = X.mean(axis=0), X.std(axis=0)
        yield (X - mean) / deviation, y
        number += 1


def word_blocks() -> Iterator[tuple[np.ndarray, ...]]:
    """(columns, values, y) of 65536 texts at a time, without end.

    A text has 60 distinct words. They are drawn by Zipf's law, P(r) = log(1 + 1 / r) / log(2^18 +
    1) being the probability of the r-th most frequent one, and lie anywhere among the columns, as
    hashed words do. A value is -log P(r), and the row's Euclidean norm is 1, as in TF-IDF. Each
    word has a weight, normal, with the standard deviation 4, for the logit of y.
    """
    rng = np.random.default_rng(SEED)
    column = rng.permutation(COLUMNS).astype(np.int32)
    weight = SPREAD * rng.standard_normal(COLUMNS)
    rank = np.arange(1, COLUMNS + 1)
    value = -np.log(np.log1p(1 / rank) / math.log(COLUMNS + 1))
    number = 0
    while True:
        parts = [_texts(np.random.default_rng([SEED, number, i])) for i in range(8)]
        words = np.concatenate(parts)
        values = value[words]
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        logits = np.sum(values * weight[words], axis=1)
        y = rng.random(len(words)) < 1 / (1 + np.exp(-logits))
        columns = column[words]
        order = np.argsort(columns, axis=1)
        yield (
            np.take_along_axis(columns, order, 1),
            np.take_along_axis(values, order, 1).astype(np.float32),
            y,
        )
        number += 1


def _texts(rng: np.random.Generator) -> np.ndarray:
    """Words (8192, 60), counted by their frequency from 0: of those drawn the first distinct 60."""
    draws = np.exp(rng.random((BLOCK_ROWS // 8, DRAWS)) * math.log(COLUMNS + 1)).astype(np.int32)
    draws = np.minimum(draws, COLUMNS) - 1
    order = np.argsort(draws, axis=1, kind="stable")
    ordered = np.take_along_axis(draws, order, 1)
    new = np.ones(draws.shape, bool)
    np.put_along_axis(new, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], 1)
    return draws[new & (np.cumsum(new, axis=1) <= ENTRIES)].reshape(-1, ENTRIES)


BLOCKS = {"collisions": collision_blocks, "words": word_blocks}


def make(data: str, sizes: list[int], test_rows: int, root: Path) -> None:
    """Write the files of the first rows, for each of ``sizes``, and of those held out.

    They go to root/DATA-SIZE: train-NAME.npy and test-NAME.npy. Those held out follow the largest.
    """
    names = [*_NAMES[data], "y"]
    needed = max(sizes) + test_rows
    blocks: list[tuple[np.ndarray, ...]] = []
    for block in BLOCKS[data]():
        blocks.append(block)
        if len(blocks) * BLOCK_ROWS >= needed:
            break
    for name, parts in zip(names, zip(*blocks, strict=True), strict=True):
        whole = np.concatenate(parts)
        whole = whole.astype(np.float32) if name == "y" else whole
        for size in sizes:
            folder = root / f"{data}-{size}"
            folder.mkdir(exist_ok=True)
            np.save(folder / f"train-{name}.npy", whole[:size])
            np.save(folder / f"test-{name}.npy", whole[max(sizes) : needed])

"""What every library computes: the workloads, their data, starting weights and batch order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from bcenet import Network
from bcenet.training import row_order

SEED = 7
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 0.001, 0.9, 0.999, 1e-8
TEST_ROWS = 20_000

# Of an epoch's loss, relative to bcenet's. In float64 rounding hides nothing: the libraries differ
# by 2e-14 at most, and by 2e-6 or more with another epsilon in Adam. In float32, which is what is
# timed, rounding grows from step to step: bcenet's own losses in float32 and float64 differ by
# 5e-3 in `higgs`.
TOLERANCES = {"float32": 1e-2, "float64": 1e-9}
# How far a test AUC may be below bcenet's.
AUC_TOLERANCE = 0.005
# Of probabilities from the same weights: a few roundings of logits below 10.
PROBABILITY_TOLERANCE = 2e-6


@dataclass(frozen=True)
class Workload:
    """Training with Adam on ``steps`` batches of ``batch`` rows an epoch; relu between layers."""

    name: str
    layer_sizes: tuple[int, ...]
    batch: int
    steps: int

    @property
    def rows(self) -> int:
        return self.batch * self.steps

    @property
    def title(self) -> str:
        return f"{'-'.join(map(str, self.layer_sizes))}, batch {self.batch}"

    @property
    def useful_operations(self) -> int:
        """Floating-point operations of the products of a step.

        Forward, weight gradients and deltas are one product each a layer, but the first layer
        needs no deltas: 2 batch (3 sum(fan_in fan_out) - fan_in_0 fan_out_0).
        """
        products = [fan_in * fan_out for fan_in, fan_out in pairwise(self.layer_sizes)]
        return 2 * self.batch * (3 * sum(products) - products[0])


# The steps of an epoch make bcenet's take 1 ms or more, and the others' not more than 1 s.
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("lr", (28, 1), 256, 200),
        Workload("tab", (28, 64, 32, 1), 200, 200),
        Workload("small32", (28, 64, 32, 1), 32, 500),
        Workload("skdef", (28, 100, 1), 200, 200),
        Workload("higgs", (28, 300, 300, 300, 300, 1), 100, 50),
        Workload("wide", (512, 1024, 1024, 1), 1024, 8),
    )
}

PREDICTION_LAYERS = (28, 64, 32, 1)
PREDICTIONS = {"one row": 1, "200,000 rows": 200_000}


class Training:
    """The data of a workload, the same in every process.

    Attributes:
        X (rows, inputs) and y (rows,) of 0 and 1, in ``dtype``; X_test and y_test alike.
        parameters: the starting weights W1, b1, W2, b2, ... in one flat array.
    """

    def __init__(self, workload: Workload, dtype: str) -> None:
        self.workload = workload
        self.dtype = np.dtype(dtype)
        rng = np.random.default_rng(SEED)
        X = rng.standard_normal((workload.rows + TEST_ROWS, workload.layer_sizes[0]), np.float32)
        direction = rng.standard_normal(X.shape[1]) * (2.0 / np.sqrt(X.shape[1]))
        # No BLAS here: its sums, and with them a label, could depend on the number of threads.
        logits = (X * direction).sum(axis=1) + X[:, 0] * X[:, 1]
        y = rng.random(len(X)) < 1 / (1 + np.exp(-logits))
        X, y = X.astype(self.dtype), y.astype(self.dtype)
        self.X, self.X_test = X[: workload.rows], X[workload.rows :]
        self.y, self.y_test = y[: workload.rows], y[workload.rows :]
        self.parameters = self.network().parameters

    def network(self) -> Network:
        """A new network with the starting weights."""
        return Network(self.workload.layer_sizes, dtype=self.dtype, random_state=SEED)

    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """New copies of the starting weights (fan_in, fan_out) and (fan_out,) of each layer."""
        network = self.network()
        return [
            (weights.copy(), intercepts.copy())
            for weights, intercepts in zip(network.coefs, network.intercepts, strict=True)
        ]

    def orders(self, epochs: int) -> list[np.ndarray]:
        """The order of the rows in each of the first epochs, as `bcenet.fit` takes them."""
        return [row_order(SEED, epoch, self.workload.rows) for epoch in range(epochs)]


class Prediction:
    """Rows (n, inputs) in float32 and the network that gives their probabilities."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.network = Network(PREDICTION_LAYERS, random_state=SEED)

    @cached_property
    def X(self) -> np.ndarray:
        rng = np.random.default_rng(SEED)
        return rng.standard_normal((self.rows, PREDICTION_LAYERS[0]), np.float32)

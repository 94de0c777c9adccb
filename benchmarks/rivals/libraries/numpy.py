"""NumPy: `bcenet.bench.numpy_twin`, BLAS products and everything else in place."""

from __future__ import annotations

from bcenet.bench.numpy_twin import NumpyTwin
from benchmarks.rivals.problems import LEARNING_RATE, Training


class Trainer:
    """The twin's own beta_1, beta_2 and epsilon are the ones of the comparison."""

    def __init__(self, training: Training, threads: int) -> None:
        self.training = training

    def prepare(self, epochs: int) -> None:
        workload = self.training.workload
        self.orders = self.training.orders(epochs)
        self.twin = NumpyTwin(
            workload.layer_sizes,
            self.training.parameters.copy(),
            learning_rate=LEARNING_RATE,
            batch_size=workload.batch,
        )

    def run(self) -> list[float]:
        X, y = self.training.X, self.training.y
        return [self.twin.epoch(X, y, order) for order in self.orders]

"""scikit-learn: `MLPClassifier`, and `SGDClassifier` where there is no hidden layer.

Both go through `partial_fit`, an epoch a call, with rows that lie in the batch order already.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from benchmarks.rivals.problems import BETA_1, BETA_2, EPSILON, LEARNING_RATE, Training


class _PartialFit:
    def __init__(self, training: Training, threads: int) -> None:
        self.training = training

    def prepare(self, epochs: int) -> None:
        X, y = self.training.X, self.training.y.astype(np.intp)
        self.passes = [(X[order], y[order]) for order in self.training.orders(epochs)]
        self.model = self.start()

    def start(self):
        raise NotImplementedError


class _Mlp(_PartialFit):
    def start(self) -> MLPClassifier:
        workload = self.training.workload
        model = MLPClassifier(
            workload.layer_sizes[1:-1],
            solver="adam",
            alpha=0.0,
            batch_size=workload.batch,
            learning_rate_init=LEARNING_RATE,
            beta_1=BETA_1,
            beta_2=BETA_2,
            epsilon=EPSILON,
            shuffle=False,
            random_state=0,
        )
        # It takes no starting weights: one step makes the arrays, which are then filled, and
        # without the optimizer of that step the next call makes a new one.
        batch = slice(workload.batch)
        y = self.training.y[batch].astype(np.intp)
        model.partial_fit(self.training.X[batch], y, classes=[0, 1])
        for i, (weights, intercepts) in enumerate(self.training.layers()):
            model.coefs_[i][...] = weights
            model.intercepts_[i][...] = intercepts
        del model._optimizer
        return model

    def run(self) -> list[float]:
        losses = []
        for X, y in self.passes:
            self.model.partial_fit(X, y)
            losses.append(self.model.loss_)
        return losses


class _Sgd(_PartialFit):
    """A row at a time and no Adam: it is compared by test AUC, and reports no losses."""

    def start(self) -> SGDClassifier:
        weights, intercepts = self.training.layers()[0]
        model = SGDClassifier(
            loss="log_loss",
            penalty=None,
            learning_rate="constant",
            eta0=LEARNING_RATE,
            shuffle=False,
        )
        model.partial_fit(self.training.X[:2], [0, 1], classes=[0, 1])
        model.coef_[...] = weights.T
        model.intercept_[...] = intercepts
        return model

    def run(self) -> list[float]:
        for X, y in self.passes:
            self.model.partial_fit(X, y)
        return []

    def test_scores(self) -> np.ndarray:
        return self.model.decision_function(self.training.X_test)


def Trainer(training: Training, threads: int) -> _PartialFit:
    """The estimator that fits the workload."""
    kind = _Mlp if len(training.workload.layer_sizes) > 2 else _Sgd
    return kind(training, threads)

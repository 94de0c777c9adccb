"""bcenet: one call of `fit`, which checks the data, shuffles and starts its threads itself."""

from __future__ import annotations

import numpy as np

import bcenet
from benchmarks.rivals.problems import (
    BETA_1,
    BETA_2,
    EPSILON,
    LEARNING_RATE,
    SEED,
    Prediction,
    Training,
)


class Trainer:
    epsilon_inside = False

    def __init__(self, training: Training, threads: int) -> None:
        self.training = training
        self.threads = threads

    def prepare(self, epochs: int) -> None:
        self.epochs = epochs
        self.network = self.training.network()
        self.optimizer = bcenet.Adam(
            LEARNING_RATE, BETA_1, BETA_2, EPSILON, epsilon_inside=self.epsilon_inside
        )

    def run(self) -> list[float]:
        history = bcenet.fit(
            self.network,
            self.training.X,
            self.training.y,
            optimizer=self.optimizer,
            batch_size=self.training.workload.batch,
            epochs=self.epochs,
            n_threads=self.threads,
            random_state=SEED,
        )
        return history.loss

    def test_scores(self) -> np.ndarray:
        return self.network.decision_function(self.training.X_test)


class EpsilonInsideTrainer(Trainer):
    """With scikit-learn's Adam, which it is compared with."""

    epsilon_inside = True


class Predictor:
    def __init__(self, prediction: Prediction, threads: int) -> None:
        self.X = prediction.X
        self.network = prediction.network
        self.threads = threads

    def run(self) -> np.ndarray:
        return self.network.predict_proba(self.X, self.threads)

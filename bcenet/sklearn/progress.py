"""A fit's course: losses and scores an epoch, when to stop, and what the next fit goes on from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from bcenet.callbacks import State
from bcenet.network import Network
from bcenet.optimizers import Optimizer
from bcenet.sklearn import solvers
from bcenet.sklearn.callbacks import Hooks


class Training:
    """What a fit leaves for the next one to go on from.

    Attributes:
        network: of the last epoch; the best one, which predicts, may be another.
        optimizer: with its moments, counters and seed. made_from: its hyperparameters at first.
        schedule: an object or None. schedule_from: the parameter it was made from, as text.
        split: the random state that draws the validation rows.
        no_improvement: epochs without progress.
        best: the network with the best validation score so far, or None.
    """

    def __init__(
        self, network: Network, optimizer: Optimizer, split: np.random.RandomState
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.made_from = optimizer.hyper()
        self.schedule: Any = None
        self.schedule_from = ""
        self.split = split
        self.no_improvement = 0
        self.best: Network | None = None


class Monitor:
    """The callback that keeps an estimator's losses and scores, and decides when to stop.

    It counts as MLPClassifier does: an epoch makes progress if its loss is at most best - tol,
    or its validation score at least best + tol; after more than ``n_iter_no_change`` epochs in a
    row without, the fit stops, or with "adaptive" the learning rate is divided by 5.

    Arguments:
        estimator: under construction; fitted attributes are kept on it.
        training: of which ``network`` is being trained.
        rows: of an epoch.
        penalised: whether the loss has a penalty.
        score: gives the validation score of the network as it is, or None.
        hooks: of scikit-learn's callbacks.
    """

    # bcenet.fit shows no bar of its own beside it: scikit-learn prints if `verbose`, and is
    # silent otherwise.
    shows_progress = True

    def __init__(
        self,
        estimator: Any,
        training: Training,
        rows: int,
        penalised: bool,
        score: Callable[[], float] | None,
        hooks: Hooks,
    ) -> None:
        self.estimator = estimator
        self.training = training
        self.rows = rows
        self.penalised = penalised
        self.score = score
        self.hooks = hooks
        self.stopped = False
        rate = estimator.learning_rate
        # scikit-learn's Adam keeps its learning rate whatever the parameter says.
        self.rate = rate if rate in solvers.RATES and estimator.solver != "adam" else "constant"

    def on_fit_begin(self, state: State) -> None:
        self.hooks.begin_epoch()

    def on_epoch_end(self, state: State) -> bool:
        estimator = self.estimator
        loss = state.loss + (state.penalty if self.penalised else 0.0)
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.t_ += self.rows
        estimator.loss_curve_.append(loss)
        self._print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if estimator.validation_loss_curve_ is not None:
            estimator.validation_loss_curve_.append(state.validation_loss)
        if self.score is None:
            improved = loss <= estimator.best_loss_ - estimator.tol
            estimator.best_loss_ = min(estimator.best_loss_, loss)
        else:
            improved = self._keep_best(self.score())
        self.training.no_improvement = 0 if improved else self.training.no_improvement + 1
        if self.rate == "invscaling":
            base = self.training.made_from["learning_rate"]
            state.optimizer.learning_rate = base / (estimator.t_ + 1) ** estimator.power_t
        self.stopped = self._stop(state.optimizer)
        self.stopped = self.hooks.end_epoch() or self.stopped
        if not self.stopped and state.epoch < state.epochs:
            self.hooks.begin_epoch()
        return self.stopped

    def _keep_best(self, score: float) -> bool:
        """Whether the validation score made progress; a NaN makes none."""
        estimator = self.estimator
        estimator.validation_scores_.append(score)
        self._print(f"Validation score: {score:f}")
        improved = score >= estimator.best_validation_score_ + estimator.tol
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            self.training.best = copy.deepcopy(self.training.network)
        return improved

    def _stop(self, optimizer: Optimizer) -> bool:
        estimator = self.estimator
        if self.training.no_improvement <= estimator.n_iter_no_change:
            return False
        what = "Training loss" if self.score is None else "Validation score"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        if self.rate != "adaptive":
            self._print(f"{message} Stopping.")
            return True
        if optimizer.learning_rate <= 1e-6:
            self._print(f"{message} Learning rate too small. Stopping.")
            return True
        optimizer.learning_rate /= 5.0
        self._print(f"{message} Setting learning rate to {optimizer.learning_rate:f}")
        self.training.no_improvement = 0
        return False

    def _print(self, text: str) -> None:
        if self.estimator.verbose:
            print(text)

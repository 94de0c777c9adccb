"""A fit's course: losses and scores an epoch, when to stop, and what the next fit goes on from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.network import Network
from bcenet.sklearn import checkpoints, solvers
from bcenet.sklearn.callbacks import Hooks

# Attributes that an estimator learns epoch by epoch.
_NUMBERS = ("n_iter_", "t_", "loss_", "best_loss_", "best_validation_score_")
_CURVES = ("loss_curve_", "validation_loss_curve_", "validation_scores_")


class Training:
    """What a fit leaves for the next one to go on from.

    Attributes:
        network: of the last epoch; the best one, which predicts, may be another.
        optimizer: with its moments, counters and seed. made_from: its hyperparameters at first.
        schedule, averaging: objects with their state, or None. asked: the parameters that they
            were made from, as text.
        split: the random state that drew the validation rows, or None.
        no_improvement: epochs without progress.
        best: the network with the best validation score so far, or None.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.optimizer: Any = None
        self.made_from: dict[str, Any] = {}
        self.schedule: Any = None
        self.averaging: Any = None
        self.asked: dict[str, str] = {}
        self.split: np.random.RandomState | None = None
        self.no_improvement = 0
        self.best: Network | None = None

    def prepare(self, estimator: Any, rows: int, rng: np.random.RandomState) -> None:
        """Make optimizer, schedule and average, or keep those whose parameters are as they were."""
        fresh = solvers.optimizer(estimator)
        if solvers.is_lbfgs(estimator):
            self.optimizer = fresh
        else:
            hyper = fresh.hyper()
            self.optimizer = solvers.continued(self.optimizer, self.made_from, fresh)
            self.made_from = hyper
            if self.optimizer.seed is None:
                self.optimizer.seed = int(rng.randint(np.iinfo(np.int32).max))
        asked = {name: repr(getattr(estimator, name)) for name in ("learning_rate", "averaging")}
        if asked["learning_rate"] != self.asked.get("learning_rate"):
            epoch = getattr(self.optimizer, "epoch", 0)
            self.schedule = solvers.schedule(estimator, rows, epoch)
        if asked["averaging"] != self.asked.get("averaging"):
            self.averaging = copy.deepcopy(estimator.averaging)
        self.asked = asked

    def take_up(self, resumed: Any) -> None:
        """Go on with what a checkpoint holds: see `bcenet.resuming.Resumed`."""
        self.network, self.optimizer = resumed.network, resumed.optimizer
        self.schedule, self.averaging = resumed.schedule, resumed.averaging


class Monitor:
    """The callback that keeps an estimator's losses and scores, and decides when to stop.

    It counts as MLPClassifier does: an epoch makes progress if its loss is at most best - tol,
    or its validation score at least best + tol; after more than ``n_iter_no_change`` epochs in a
    row without, the fit stops, or with "adaptive" the learning rate is divided by 5.

    Arguments:
        estimator: under construction; fitted attributes are kept on it.
        training: of which ``network`` is being trained.
        rows: of an epoch.
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
        score: Callable[[], float] | None,
        hooks: Hooks,
    ) -> None:
        self.estimator = estimator
        self.training = training
        self.rows = rows
        self.score = score
        self.hooks = hooks
        self.stopped = False
        rate = estimator.learning_rate
        self.stops = not solvers.is_lbfgs(estimator)  # that stops by itself
        # scikit-learn's Adam keeps its learning rate whatever the parameter says.
        own = isinstance(rate, str) and rate in solvers.RATES
        self.rate = rate if own and self.stops and estimator.solver != "adam" else "constant"

    def on_fit_begin(self, state: Any) -> None:
        self.hooks.begin_epoch()

    def checkpoint_state(self) -> dict[str, Any]:
        """What a fit that goes on from a checkpoint needs, whatever came before the fit."""
        estimator, training = self.estimator, self.training
        best = training.best  # another network each time, so that its arrays stay as they are
        return {
            "parameters": checkpoints.parameters(estimator),
            "learned": {name: getattr(estimator, name, None) for name in _NUMBERS},
            "no_improvement": training.no_improvement,
            "stopped": self.stopped,
            **{name: _array(getattr(estimator, name)) for name in _CURVES},
            "best_parameters": None if best is None else best.parameters,
            "best_statistics": None if best is None else best.statistics,
            **checkpoints.state_of(training.split),
        }

    def take_up(self, saved: dict[str, Any]) -> None:
        """Go on with what `checkpoint_state` gave.

        Raises: what nonsense makes its parts raise.
        """
        estimator, training, learned = self.estimator, self.training, saved["learned"]
        for name in ("n_iter_", "t_"):
            setattr(estimator, name, checks.integer(name, learned[name], 0))
        for name in ("loss_", "best_loss_", "best_validation_score_"):
            value = learned[name]
            setattr(estimator, name, None if value is None else float(value))
        if estimator.loss_ is None:  # which the first epoch brings
            del estimator.loss_
        for name in _CURVES:
            setattr(estimator, name, None if saved[name] is None else saved[name].tolist())
        training.no_improvement = checks.integer("no_improvement", saved["no_improvement"], 0)
        self.stopped = checks.boolean("stopped", saved["stopped"])
        if saved["best_parameters"] is not None:
            best = (saved["best_parameters"], saved["best_statistics"])
            training.best = Network.from_config(training.network.config(), *best)

    def on_fit_resume(self, state: Any, saved: dict[str, Any]) -> None:
        """After `take_up`."""
        if not self.stopped and state.epoch < state.epochs:
            self.hooks.begin_epoch()

    def on_epoch_end(self, state: Any) -> bool:
        estimator = self.estimator
        loss = state.loss + state.penalty
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

    def _stop(self, optimizer: Any) -> bool:
        estimator = self.estimator
        if not self.stops or self.training.no_improvement <= estimator.n_iter_no_change:
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


def _array(values: list[float] | None) -> np.ndarray | None:
    return None if values is None else np.array(values, np.float64)

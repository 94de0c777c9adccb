"""One fit of an estimator: data in, a trained network and the fit's course out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from bcenet import checks, losses, resuming, training
from bcenet.checkpoint import Saved
from bcenet.errors import NonFiniteError
from bcenet.model_file import content_of
from bcenet.network import Network
from bcenet.sklearn import checkpoints, scores, solvers
from bcenet.sklearn import rows as rows_
from bcenet.sklearn.callbacks import Hooks
from bcenet.sklearn.labels import Labels
from bcenet.sklearn.progress import Monitor, Training
from bcenet.sklearn.rows import Rows

# What a fit learns beside scikit-learn's n_features_in_ and feature_names_in_. A fit that
# starts anew forgets all of it.
LEARNED = (
    "best_loss_",
    "best_validation_score_",
    "class_weight_",
    "classes_",
    "loss_",
    "loss_curve_",
    "n_iter_",
    "n_layers_",
    "n_outputs_",
    "network_",
    "out_activation_",
    "pos_weight_",
    "t_",
    "threshold_",
    "validation_loss_curve_",
    "validation_scores_",
    "_labels",
    "_training",
)

# Frames between a warning here and the line that called `fit` or `partial_fit`.
_TO_CALLER = 5


class Fit:
    """One call of `fit` or `partial_fit`.

    Everything is built on a copy of the estimator; its attributes become the estimator's own at
    the very end, so that a fit that fails leaves the estimator as it was.

    Arguments:
        estimator: a BCENetClassifier.
        incremental: one epoch on a chunk of the data (`partial_fit`).
        init: coefs_init and intercepts_init by name, or None.
        checkpoint, checkpoint_every: as `bcenet.fit` takes them. resume: go on from the checkpoint.

    Attributes:
        estimator: the copy. goes_on: whether an earlier fit is continued; a checkpoint holds all
            that one left, so that a fit which goes on from it begins like a new one.
        early: whether a validation score decides; not with L-BFGS, as in scikit-learn.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        incremental: bool = False,
        init: dict[str, Any] | None = None,
        checkpoint: Any = None,
        checkpoint_every: Any = None,
        resume: bool = False,
    ) -> None:
        self.original = estimator
        self.incremental = incremental
        self.epochs = 1 if incremental else estimator.max_iter
        self.full_batch = solvers.is_lbfgs(estimator)
        self.early = estimator.early_stopping and not self.full_batch
        self.init = {name: given for name, given in (init or {}).items() if given is not None}
        self.goes_on = (
            hasattr(estimator, "network_")
            and (incremental or estimator.warm_start)
            and not self.init
            and not resume
        )
        self.place = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every}
        self.resume = resume
        self.saved: Saved | None = None
        self.hooks = Hooks(estimator, self.epochs)
        self.estimator = object.__new__(type(estimator))
        self.estimator.__dict__.update(estimator.__dict__)
        if not self.goes_on:
            for name in LEARNED:
                self.estimator.__dict__.pop(name, None)

    def run(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        offset: Any,
        *,
        classes: Any = None,
        validation: tuple[Any, Any, Any, Any] = (None, None, None, None),
    ) -> None:
        """Fit, and hand what was learned to the estimator.

        Arguments:
            validation: X, y, sample weights and offsets of validation rows, or Nones.
        """
        self._check_parameters()
        estimator = self.estimator
        rows = rows_.read(estimator, X, y, sample_weight, reset=not self.goes_on)
        self._set_labels(rows, classes)
        rows.offset = rows_.read_offset(offset, len(rows.y), self.labels.outputs)
        held = self._read_validation(*validation)
        self._check_threshold(held)
        rng = check_random_state(estimator.random_state)
        state = self._set_network(rows, rng)
        if self.resume:
            self.saved = checkpoints.read(self.place["checkpoint"], estimator)
            with content_of(self.saved.path):
                state.split = checkpoints.generator_of(self.saved.callbacks[0][1])
        if self.early and held is None:
            rows, held = self._split(rows, rng, state)
        state.prepare(estimator, len(rows.y), rng)
        self._train(rows, held, state)
        if isinstance(estimator.threshold, str):
            estimator.threshold_ = self._best_threshold(held)
        self.hooks.end()
        self._publish()

    @property
    def labels(self) -> Labels:
        return self.estimator._labels

    def _publish(self) -> None:
        learned, own = self.estimator.__dict__, self.original.__dict__
        for name in own.keys() - learned.keys():
            del own[name]
        own.update(learned)

    # ---- checks ---------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        checkpoint = self.place["checkpoint"]
        if checks.boolean("resume", self.resume) and checkpoint is None:
            raise ValueError("checkpoint must be a path with resume=True; got None")
        if checkpoint is not None and self.full_batch:
            raise ValueError(
                "solver must not be 'lbfgs' with checkpoint, as its state is SciPy's; "
                f"got {self.estimator.solver!r}"
            )
        if not self.incremental:
            return
        if self.estimator.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if isinstance(self.estimator.class_weight, str):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which does not see all "
                "of y. Use compute_class_weight('balanced', classes=classes, y=y) on all of it, "
                "and pass the weights as a dict"
            )

    def _set_labels(self, rows: Rows, classes: Any) -> None:
        """Learn the labels, or check that y holds no others."""
        estimator, y = self.estimator, rows.y
        if not self.goes_on:
            if self.incremental and classes is None and y.ndim == 1:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            estimator._labels = Labels.of(y, classes)
            estimator.classes_ = self.labels.classes
        elif classes is not None and not np.array_equal(np.unique(classes), estimator.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{estimator.classes_!r}"
            )
        if (y.ndim == 2) != (self.labels.kind == "multilabel"):
            raise ValueError(
                f"y must be {self.labels.kind} as in the previous fit; got shape {y.shape}"
            )
        found = self.labels.present(y)
        if self.goes_on and not self.incremental and set(found) != set(estimator.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {estimator.classes_}, `y` has {found}"
            )
        if len(np.setdiff1d(found, estimator.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {estimator.classes_}. 'y' has {found}."
            )
        if not self.incremental and rows.weight is not None and y.ndim == 1:
            weighty = np.unique(y[rows.weight > 0])
            if len(weighty) < 2:
                raise ValueError(
                    "BCENetClassifier needs samples of at least 2 classes in the data, but the "
                    f"rows with a positive weight contain only one class: {weighty[0]!r}"
                )

    def _read_validation(self, X: Any, y: Any, weight: Any, offset: Any) -> Rows | None:
        if X is None and y is None:
            if weight is not None or offset is not None:
                raise ValueError("X_val and y_val must be given beside their weights or offset")
            return None
        if X is None or y is None:
            raise ValueError("X_val and y_val must be given together; got one of them")
        held = rows_.read(self.estimator, X, y, weight, reset=False)
        found = self.labels.present(held.y)
        wanted = 2 if self.labels.kind == "multilabel" else 1
        if held.y.ndim != wanted or len(np.setdiff1d(found, self.labels.classes)):
            raise ValueError(
                f"y_val must hold labels that y has ({self.labels.classes}), in y's shape; "
                f"got {found} in shape {held.y.shape}"
            )
        held.offset = rows_.read_offset(offset, len(held.y), self.labels.outputs, "offset_val")
        return held

    def _check_threshold(self, held: Rows | None) -> None:
        estimator, threshold = self.estimator, self.estimator.threshold
        if self.labels.kind == "multiclass" and threshold != 0.5:
            raise ValueError(
                "threshold must be 0.5 for more than two classes, of which the most probable is "
                f"predicted; got {threshold!r}"
            )
        chosen_later = isinstance(threshold, str)
        estimator.threshold_ = 0.5 if chosen_later else float(threshold)
        if chosen_later and held is None and not self.early:
            raise ValueError(
                f"threshold={threshold!r} is chosen on validation rows: give X_val and y_val, or "
                "early_stopping=True"
            )

    # ---- preparations ---------------------------------------------------------------------

    def _set_network(self, rows: Rows, rng: np.random.RandomState) -> Training:
        """The network that is to be trained: a new one, or a copy of the one that goes on."""
        estimator = self.estimator
        layers = solvers.layers(estimator, rows.X.shape[1], self.labels.outputs)
        if self.goes_on:
            state = copy.deepcopy(estimator._training)
            self._check_same(state.network, layers)
            estimator.network_ = state.network
            return state
        dtype = estimator.dtype
        if dtype is None:
            dtype = "float32" if rows.X.dtype == np.float32 else "float64"
        network = solvers.network(layers, dtype)
        solvers.draw(network, estimator.activation, rng)
        for name, given in self.init.items():
            solvers.set_weights(network, name, given)
        estimator.network_ = network
        estimator.n_layers_ = len(network.layer_sizes)
        estimator.n_outputs_ = self.labels.outputs
        estimator.out_activation_ = "logistic"
        estimator.t_ = 0
        return Training(network)

    def _check_same(self, network: Network, layers: dict[str, Any]) -> None:
        dtype = self.estimator.dtype
        asked = {**layers, "dtype": network.dtype if dtype is None else np.dtype(dtype)}
        was = {**network.shape.config(), "dtype": network.dtype}
        changed = [name for name in was if was[name] != asked[name]]
        if changed:
            raise ValueError(
                "The network's layers and dtype must be as in the previous fit to go on from it; "
                + ", ".join(f"{name} was {was[name]} and is {asked[name]}" for name in changed)
            )

    def _split(self, rows: Rows, rng: np.random.RandomState, state: Training) -> tuple[Rows, Rows]:
        """Training and validation rows, drawn as MLPClassifier draws them.

        A fit that goes on draws as the first one did, so that of the same data the same rows are
        held out.
        """
        if state.split is None:
            state.split = copy.deepcopy(rng)
        else:
            rng = copy.deepcopy(state.split)
        train, test = train_test_split(
            np.arange(len(rows.y)),
            random_state=rng,
            test_size=self.estimator.validation_fraction,
            stratify=rows.y if self.labels.kind == "binary" else None,
        )
        if len(test) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return rows.take(train), rows.take(test)

    def _batch_size(self, rows: int) -> int:
        size = self.estimator.batch_size
        if size == "auto":
            return min(200, rows)
        if size > rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=_TO_CALLER + 1,
            )
        return min(size, rows)

    def _begin_curves(self, state: Training, held: Rows | None) -> None:
        """Lists of losses and scores, which begin with those of the fits that are continued."""
        estimator = self.estimator
        estimator.n_iter_ = 0
        estimator.loss_curve_ = list(getattr(estimator, "loss_curve_", ()))
        before = getattr(estimator, "validation_loss_curve_", None)
        estimator.validation_loss_curve_ = None if held is None else list(before or ())
        if not self.early:
            if getattr(estimator, "best_loss_", None) is None:
                estimator.best_loss_ = np.inf
            estimator.validation_scores_ = None
            estimator.best_validation_score_ = None
            state.best = None
            return
        scores_before = getattr(estimator, "validation_scores_", None)
        estimator.validation_scores_ = list(scores_before or ())
        if scores_before is None:
            estimator.best_validation_score_ = -np.inf
        estimator.best_loss_ = None

    # ---- training -------------------------------------------------------------------------

    def _train(self, rows: Rows, held: Rows | None, state: Training) -> None:
        estimator, labels = self.estimator, self.labels
        codes = labels.codes(rows.y)
        estimator.class_weight_ = labels.class_weight(estimator.class_weight, codes, rows.weight)
        pos_weight = losses.pos_weight_array(estimator.pos_weight, labels.outputs)
        estimator.pos_weight_ = np.ones(labels.outputs) if pos_weight is None else pos_weight
        weight = labels.element_weights(estimator.class_weight_, codes, rows.weight)
        targets = labels.targets(codes)
        validation_data = None if held is None else self._validation_data(held)
        self._begin_curves(state, held)
        batch_size = len(rows.y) if self.full_batch else self._batch_size(len(rows.y))
        monitor = Monitor(
            estimator,
            state,
            rows=0 if self.full_batch else len(rows.y),
            score=self._score_of(held) if self.early else None,
            hooks=self.hooks,
        )
        if estimator.output_bias == "base_rate" and not self.goes_on:
            state.network.init_output_bias(
                targets, sample_weight=weight, pos_weight=estimator.pos_weight_
            )
        self.hooks.begin(rows.X, rows.y, rows.weight, self._snapshot)
        try:
            data: dict[str, Any] = {
                "sample_weight": weight,
                "offset": rows.offset,
                "validation_data": validation_data,
                "callbacks": [monitor, *_listed(estimator.callbacks)],
            }
            if self.saved is not None:
                self._go_on(self.saved, monitor, rows.X, targets, **data)
            else:
                training.fit(
                    state.network,
                    rows.X,
                    targets,
                    optimizer=state.optimizer,
                    schedule=state.schedule,
                    averaging=state.averaging,
                    batch_size=batch_size,
                    epochs=self.epochs,
                    **data,
                    **self.place,
                    **solvers.fit_options(estimator),
                )
        except NonFiniteError as error:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                f"values and need to be preprocessed. ({error})"
            ) from error
        except KeyboardInterrupt:
            if estimator.n_iter_ == 0:
                raise
            monitor.stopped = True
            warnings.warn("Training interrupted by user.", stacklevel=_TO_CALLER)
        if estimator.n_iter_ == 0 and not hasattr(estimator, "loss_"):
            estimator.loss_ = np.nan  # L-BFGS began at a minimum
        if estimator.n_iter_ == self.epochs and not monitor.stopped:
            self._warn_of_the_end()
        if state.best is not None:
            estimator.network_ = state.best
        estimator._training = state

    def _go_on(
        self, saved: Saved, monitor: Monitor, X: Any, targets: np.ndarray, **data: Any
    ) -> None:
        """Train from a checkpoint to the end of its fit."""
        every, threads = self.place["checkpoint_every"], self.estimator.n_threads
        resumed, train = resuming.prepare(
            saved, X, targets, checkpoint_every=every, n_threads=threads, **data
        )
        monitor.training.take_up(resumed)
        self.estimator.network_ = resumed.network
        with content_of(saved.path):
            monitor.take_up(saved.callbacks[0][1])
        train()

    def _warn_of_the_end(self) -> None:
        """That max_iter ended the fit, unless just so many epochs were asked for."""
        never_stops = np.isinf(self.estimator.n_iter_no_change) and not self.full_batch
        if self.incremental or never_stops:
            return
        message = (
            f"Stochastic Optimizer: Maximum iterations ({self.epochs}) reached and the "
            "optimization hasn't converged yet."
        )
        if self.full_batch:
            message = (
                f"lbfgs failed to converge after {self.epochs} iteration(s). Increase the number "
                f"of iterations to improve the convergence (max_iter={self.epochs})."
            )
        warnings.warn(message, ConvergenceWarning, stacklevel=_TO_CALLER + 1)

    def _validation_data(self, held: Rows) -> tuple[Any, ...]:
        """Validation rows as `bcenet.fit` takes them, under the class weights of the training."""
        codes = self.labels.codes(held.y)
        weight = self.labels.element_weights(self.estimator.class_weight_, codes, held.weight)
        return held.X, self.labels.targets(codes), weight, held.offset

    def _snapshot(self) -> dict[str, Any]:
        """The attributes of an estimator fitted so far, for scikit-learn's callbacks."""
        fitted = {**self.estimator.__dict__, "network_": copy.deepcopy(self.estimator.network_)}
        return {**fitted, "feature_names_in_": None}  # the rows they get have lost their names

    def _score_of(self, held: Any) -> Callable[[], float]:
        """The validation score of the network as it is when called."""
        estimator, metric = self.estimator, self.estimator.early_stopping_metric
        if held.offset is not None and metric not in scores.MEASURES:
            raise ValueError(
                f"early_stopping_metric must be one of {', '.join(map(repr, scores.MEASURES))} "
                f"beside offset_val, which a scorer does not know of; got {metric!r}"
            )
        data = scores.Validation(self.labels, held.X, held.y, held.weight)
        measure = scores.of(metric, data, estimator.threshold_)

        def score() -> float:
            view = object.__new__(type(estimator))
            view.__dict__.update(estimator.__dict__, feature_names_in_=None)
            return measure(view, lambda: estimator._logits_of(held.X, held.offset))

        return score

    def _best_threshold(self, held: Any) -> Any:
        """The threshold, one a label for several, that is best for a metric."""
        from bcenet.calibration import choose_threshold

        data = scores.Validation(self.labels, held.X, held.y, held.weight)
        probability = losses.sigmoid(self.estimator._logits_of(held.X, held.offset))
        best = [
            choose_threshold(targets, p, metric=self.estimator.threshold, sample_weight=weight)
            for targets, p, weight in data.columns(probability)
        ]
        return np.array(best) if self.labels.kind == "multilabel" else best[0]


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if hasattr(callbacks, "__iter__") else [callbacks]

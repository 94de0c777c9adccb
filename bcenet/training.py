"""Training: `fit` checks its arguments and runs the native epoch engine, epoch by epoch."""

from __future__ import annotations

import contextlib
import math
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import averaging as averaging_
from bcenet import callbacks as callbacks_
from bcenet import checks, gradients, kernels, optimizers, runs, sparse
from bcenet import rows as rows_
from bcenet.history import History
from bcenet.network import Network
from bcenet.objective import Objective, drop_rates
from bcenet.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import ArrayLike

    from bcenet.checkpoint import Saved, Writer
    from bcenet.losses import FocalLoss


def row_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which `fit` takes n rows in an epoch (from 0): a permutation.

    Fisher and Yates' shuffle with numbers from Philox4x32-10 keyed by the seed, so it is a
    function of its arguments alone: Salmon et al., "Parallel random numbers: as easy as 1, 2,
    3", SC 2011.

    Returns: int32 (n,), or int64 where 32 bits are too few.

    Raises: ValueError or TypeError for arguments out of range.

    Example:
        >>> from bcenet.training import row_order
        >>> sorted(row_order(0, 0, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    return kernels.row_order(
        checks.integer("seed", seed, 0, 2**64 - 1),
        checks.integer("epoch", epoch, 0, 2**32 - 1),
        checks.integer("n", n, 0),
    )


class Plan(Record):
    """The checked options of a fit, but for its rows."""

    optimizer: Any
    objective: Objective
    drop_rates: list[int] | None
    schedule: Any
    averaging: averaging_.Averaging | None
    batch_size: int
    epochs: int
    shuffle: bool
    seed: int
    n_threads: Any
    stage: str


def fit(
    network: Network,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    optimizer: str | optimizers.Optimizer = "adam",
    learning_rate: float | None = None,
    batch_size: int = 200,
    epochs: int = 10,
    sample_weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    validation_data: tuple[Any, ...] | None = None,
    callbacks: Any = (),
    shuffle: bool = True,
    n_threads: int | None = None,
    random_state: int | np.random.Generator | None = None,
    loss: str | FocalLoss = "bce",
    label_reduction: str = "mean",
    missing_labels: str = "error",
    offset: ArrayLike | None = None,
    schedule: Any = None,
    clip_norm: float | None = None,
    dropout: float | Sequence[float] = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    max_norm: float | None = None,
    averaging: averaging_.Averaging | None = None,
    lazy: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
) -> History:
    """Train a network in place by mini-batches, and return its losses.

    Each batch's loss is sum(w * l) / sum(w) over its label elements (w = 1 without weights),
    l as in `bcenet.bce_loss`, plus (l1 |W| + l2 |W|^2 / 2) / sum(w). Every row is used in every
    epoch; the last batch may be short; a batch whose weights sum to 0 is skipped. The weights
    afterwards have the same bits for any number of threads and any layout of the data.

    Arguments:
        network: changed at the end of every epoch; training works on a private copy.
        X: (n, inputs), finite, any real dtype and strides; read batch by batch, never copied. Or
            a sparse matrix or array of SciPy's, with the bits of the same rows made dense. Or a
            `bcenet.data.Dataset`, without y and sample_weight, which it brings itself: its rows
            are read window by window in another thread and taken in the order of its ``order``.
        y: (n,) for one output or (n, k) for k: labels, or probabilities in [0, 1]. Both classes
            must be there, unless an optimizer object goes from one part of the data to the next.
        optimizer: "sgd", "adam", "adamw", "amsgrad", "rmsprop", "lion", "lbfgs", or an object such
            as bcenet.Adam(0.01), which keeps its state for the next fit.
        learning_rate: of an optimizer given by name; None takes its default.
        batch_size: rows of a step, capped at n. epochs: passes over the rows.
        sample_weight: (n,) or y's shape, not negative. pos_weight: of the positive terms, a
            number or (k,). label_smoothing: e in [0, 1]; targets become t (1 - e) + e / 2.
        validation_data: (X, y), (X, y, sample_weight) or (X, y, sample_weight, offset): its loss
            is measured every epoch, with ``pos_weight`` and without smoothing and penalties.
        callbacks: objects or callables: see `bcenet.callbacks`. True from on_epoch_end stops.
        shuffle: take the rows in the order of `bcenet.training.row_order`, else as they lie.
        n_threads: None chooses from the work, the affinity mask and the CPU quota.
        random_state: seed of the shuffling and of dropout. An optimizer object keeps its first
            one unless another is given.
        loss: "bce", "focal", or a `bcenet.FocalLoss`.
        label_reduction: "mean" over all label elements; or "sum" over a row's labels, of which the
            mean over rows is taken, as scikit-learn does: the history then holds the mean over
            an epoch's batches by their rows, not by their weights.
        missing_labels: "error", or "ignore": NaN in y counts neither in sums nor in divisors.
        offset: (n,) or y's shape, added to the logits: what another model said already.
        schedule: of the learning rate: a name or an object of `bcenet.schedules`.
        clip_norm: the gradient of a step is scaled down to this Euclidean norm.
        dropout: part of the units of a hidden layer that a step leaves out (the others are scaled
            up), in [0, 1), for all hidden layers or one each; a whole number of 65536ths.
        l1, l2: penalties on the weights, not the intercepts, divided by the weights' sum of the
            batch: ``l2`` is scikit-learn's ``alpha``. The derivative of |w| at 0 is 0.
        max_norm: the largest Euclidean norm of the weights into a unit, held after every step.
        averaging: a `bcenet.EMA` or `bcenet.SWA`: the network then holds the average.
        lazy: for sparse X: a step leaves alone the first layer's weights of the columns that its
            rows lack, with their moments and penalties: far faster where there are many columns,
            and another result. It goes with neither clip_norm, max_norm, averaging nor factors.
        checkpoint: where to write what `bcenet.resume` goes on from: a file, or a folder (with "/"
            at its end if it is to be made), in which the last two are kept. Ctrl-C writes one too.
        checkpoint_every: steps from one to the next; None writes one after every epoch.

    Returns: a History with one loss (and validation loss) an epoch.

    Raises: ValueError and TypeError naming the argument; RuntimeError if the network or the
    optimizer is being fitted by another thread; NonFiniteError when the loss, the parameters
    or the optimizer's state leave the finite numbers: the network then holds the weights before
    that step. Ctrl-C raises KeyboardInterrupt and leaves the last whole step: within 100 ms, or
    when a large step that has begun to change parameters is done. OSError if a checkpoint can't be
    written, the one before being left as it was; DataChangedError where a dataset's file changes
    while it is read, with the last whole step kept.

    Example:
        >>> import bcenet, numpy as np
        >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, X, [0, 0, 1, 1], learning_rate=0.1, epochs=200)
        >>> history.loss[-1] < 0.2
        True
    """
    return _fit(
        network,
        X,
        y,
        sample_weight,
        offset,
        validation_data,
        callbacks,
        optimizer=optimizer,
        learning_rate=learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=shuffle,
        n_threads=n_threads,
        random_state=random_state,
        schedule=schedule,
        dropout=dropout,
        averaging=averaging,
        loss=loss,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        label_reduction=label_reduction,
        missing_labels=missing_labels,
        clip_norm=clip_norm,
        l1=l1,
        l2=l2,
        max_norm=max_norm,
        lazy=lazy,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )


def _fit(
    network: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    offset: Any,
    validation_data: Any,
    callbacks: Any,
    *,
    checkpoint: Any = None,
    checkpoint_every: Any = None,
    **options: Any,
) -> History:
    """`fit`, with its options by name: see `_plan`."""
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bcenet.Network; got {checks.describe(network)}")
    plan = _plan(network, **options)
    hooks = callbacks_.Callbacks(callbacks)
    check_classes = not isinstance(options["optimizer"], optimizers.Optimizer)
    masked = plan.objective.masked
    rows: Any
    if isinstance(X, rows_.Stream):
        rows = _check_dataset(network, X, masked, check_classes, (y, sample_weight, offset))
        _refuse_for_datasets(plan)
        _warn_of_drift(rows, rows.scan(network.dtype, masked))
    else:
        rows = rows_.check(network, X, y, sample_weight, offset, missing=masked)
        if plan.objective.lazy:
            check_lazy(
                plan.stage, rows.X, optimizer=plan.optimizer, averaging=plan.averaging is not None
            )
        if check_classes:
            _check_classes(rows.y, masked)
    validation = _check_validation(network, validation_data, plan.objective.masked)
    writer = None
    if checkpoint is not None:
        from bcenet import checkpoint as checkpoint_

        configuration = checkpoint_.configuration(network, plan)
        writer = checkpoint_.Writer(checkpoint, checkpoint_every)
        writer.prepare(configuration, _fingerprints(rows, validation))
    elif checkpoint_every is not None:
        raise ValueError(
            "checkpoint_every must be None without checkpoint; "
            f"got {checks.describe(checkpoint_every)}"
        )
    if callbacks_.shows_progress() and not hooks.show_progress:
        hooks.append(callbacks_.ProgressBar())
    course = _Course(network, plan, hooks, validation)
    course.state.rows = rows.n
    held = [network._fitting]
    if isinstance(plan.optimizer, optimizers.LBFGS):
        from bcenet import lbfgs

        def train() -> None:
            course.run(lambda: lbfgs.minimize(network, rows, plan, course.after_epoch))
    else:
        held.append(plan.optimizer._in_use)

        def train() -> None:
            run = runs.StreamRun if isinstance(rows, rows_.Stream) else runs.Run
            course.run(lambda: _train(run(network, rows, plan), course, writer))

    kernels.exclusively(held, train)
    return course.history


def _fingerprints(rows: Any, validation: Any) -> dict[str, Any]:
    from bcenet.checkpoint import fingerprint

    return {**(fingerprint(rows) or {}), "validation_data": fingerprint(validation)}


def _plan(
    network: Network,
    *,
    optimizer: Any,
    learning_rate: Any,
    batch_size: Any,
    epochs: Any,
    shuffle: Any,
    n_threads: Any,
    random_state: Any,
    schedule: Any,
    dropout: Any,
    averaging: Any,
    stage: str | None = None,
    **objective: Any,
) -> Plan:
    """The checked options; ``stage`` is the form of a step, "plain" or "staged", if it matters."""
    optimizer = optimizers.resolve(optimizer, learning_rate)
    averaging = averaging_.check(averaging)
    rate = 0.0 if averaging is None else averaging.rate
    checked = Objective.of(network.layer_sizes[-1], **objective, average_rate=rate)
    if schedule is not None:
        from bcenet.schedules import resolve

        schedule = resolve(schedule)
    return Plan(
        optimizer=optimizer,
        objective=checked,
        drop_rates=drop_rates(dropout, len(network.layer_sizes) - 2),
        schedule=schedule,
        averaging=averaging,
        batch_size=checks.integer("batch_size", batch_size, 1),
        epochs=checks.integer("epochs", epochs, 1),
        shuffle=checks.boolean("shuffle", shuffle),
        seed=seed_of(random_state, optimizer),
        n_threads=n_threads,
        stage=choose_stage(network, checked) if stage is None else stage,
    )


def check_lazy(
    stage: str, X: Any = None, *, optimizer: Any = None, averaging: bool = False
) -> None:
    """ValueError for what a lazy step has no place for; without X before there are rows."""
    given = {
        "a dense X": X is not None and not sparse.is_sparse(X),
        "optimizer 'lbfgs'": isinstance(optimizer, optimizers.LBFGS),
        "averaging": averaging,
        "clip_norm, max_norm or feature_scale": stage != "plain",
    }
    for what, there in given.items():
        if there:
            raise ValueError(f"lazy must be False with {what}; got True")


def choose_stage(network: Network, objective: Objective) -> str:
    """The form of a step: "plain", or "staged" where it needs the whole gradient first."""
    whole = objective.needs_whole_gradient or network.shape.feature_scale
    return "staged" if whole else "plain"


class _Course:
    """What goes on beside a fit: its history, its validation and its callbacks."""

    def __init__(
        self,
        network: Network,
        plan: Plan,
        hooks: callbacks_.Callbacks,
        validation: Any,
        saved: Saved | None = None,
    ) -> None:
        self.history = History()
        self.state = callbacks_.State(network, plan.optimizer, self.history, plan.epochs)
        self.stopped = False  # by a callback or the schedule
        self.callbacks = hooks
        self._network = network
        self._plan = plan
        self._validation = validation
        self._saved = saved
        if saved is not None:
            self._take_up(saved)

    def _take_up(self, saved: Saved) -> None:
        epoch, state, history = saved.config["epoch"], self.state, self.history
        for name in ("loss", "penalty", "validation_loss"):
            values = saved.tensors[f"history.{name}"].tolist()
            setattr(history, name, values)
            if values:
                setattr(state, name, values[-1])
        state.epoch, state.learning_rate = epoch["done"], epoch["learning_rate"]
        state.seconds = saved.config["at"]["seconds"]
        self.stopped = epoch["stopped"]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    @property
    def is_over(self) -> bool:
        return self.stopped or self.state.epoch == self.state.epochs

    def run(self, train: Callable[[], None]) -> None:
        """Train, between the first hook and the last."""
        self._begun = time.monotonic() - self.state.seconds
        self.callbacks.begin(self.state, None if self._saved is None else self._saved.callbacks)
        try:
            train()
        finally:
            self.callbacks.call("on_fit_end", self.state)

    def tell(self, rows: int) -> None:
        """Note rows of the epoch that is running, and call the hook."""
        self.state.rows_done += rows
        self.state.seconds = self.seconds
        self.callbacks.call("on_progress", self.state)

    def after_epoch(self, loss: float, penalty: float, learning_rate: float | None = None) -> bool:
        """Note an epoch, measure the validation loss, call the hooks; whether to stop."""
        state, history, schedule = self.state, self.history, self._plan.schedule
        state.loss, state.penalty, state.learning_rate = loss, penalty, learning_rate
        history.loss.append(loss)
        history.penalty.append(penalty)
        measured = loss + penalty
        if self._validation is not None:
            state.validation_loss = measured = self._validation_loss(self._validation)
            history.validation_loss.append(measured)
        state.epoch += 1
        state.rows_done = 0
        state.seconds = self.seconds
        stop = schedule is not None and schedule.end_epoch(
            measured, self._plan.optimizer.learning_rate
        )
        return self.callbacks.call("on_epoch_end", state) or stop

    def _validation_loss(self, rows: Any) -> float:
        objective = self._plan.objective.unsmoothed()
        total = weight = 0.0
        parts = _in_windows(self._network, rows, objective.masked)
        with contextlib.closing(parts):
            for part in parts:
                sums = gradients.losses_of(self._network, part, objective, self._plan.n_threads)
                total, weight = total + sums[0], weight + sums[1]
        return total / weight * (self._network.layer_sizes[-1] if objective.label_sum else 1)


def _train(run: runs.Run, course: _Course, writer: Writer | None) -> None:
    """Epoch after epoch, and the end of the threads."""
    try:
        if course.callbacks.has("on_progress"):
            run.tell = course.tell
        if writer is not None:
            writer.begin(run, course)
        _epochs(run, course, writer)
    finally:
        run.close()


def _epochs(run: runs.Run, course: _Course, writer: Writer | None) -> None:
    """Epoch after epoch; Ctrl-C, or what else is to end the process, leaves a checkpoint."""
    try:
        while not course.is_over:
            loss, penalty = run.epoch(course.state.epoch + 1, writer)
            course.stopped = course.after_epoch(loss, penalty, run.learning_rate)
            if writer is not None:
                writer.after_epoch()
    except (KeyboardInterrupt, SystemExit):
        if writer is not None:
            writer.rescue()
        run.publish_last_step()
        raise


def seed_of(random_state: Any, optimizer: Any) -> int:
    """The seed of shuffling and dropout: the one given, the optimizer's, or a random one."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if random_state is not None:
        return checks.integer("random_state", random_state, 0, 2**64 - 1)
    if getattr(optimizer, "seed", None) is not None:
        return optimizer.seed
    return int(np.random.default_rng().integers(2**63))


def _check_classes(targets: np.ndarray, masked: bool) -> None:
    """ValueError where the targets hold one class only, over all labels; NaN is none of them."""
    count = targets.size
    if masked and targets.dtype.kind == "f":
        count -= int(np.count_nonzero(np.isnan(targets)))
        total = float(np.nansum(targets, dtype=np.float64))
    else:
        total = float(targets.sum(dtype=np.float64))  # copies nothing
    if total in (0.0, float(count)):
        raise ValueError(f"y must hold both classes; got only {int(total > 0)}")


def _check_dataset(
    network: Network, dataset: Any, missing: bool, classes: bool, apart: tuple[Any, ...] = ()
) -> Any:
    """The dataset, read once for its targets; ValueError where it does not fit the network."""
    if any(argument is not None for argument in apart):
        raise ValueError("y, sample_weight and offset must be None beside a dataset as X")
    inputs, outputs = network.layer_sizes[0], network.rows_shape(1)[1:]
    if len(dataset.columns) != inputs:
        raise ValueError(f"X must have {inputs} columns; the dataset has {len(dataset.columns)}")
    if dataset.labels != outputs:
        wanted = ("n", *outputs)
        raise ValueError(f"y must have shape {wanted}; the dataset's has {('n', *dataset.labels)}")
    found = dataset.scan(network.dtype, missing)
    if not found.labels or not found.weight > 0:
        raise ValueError(f"y must hold labels that weigh something; got none in {dataset}")
    if classes and found.positive in (0.0, found.labels):
        raise ValueError(f"y must hold both classes; got only {int(found.positive > 0)}")
    return dataset


def _refuse_for_datasets(plan: Plan) -> None:
    """ValueError for what a fit of a dataset has no place for."""
    given = {
        "optimizer 'lbfgs'": isinstance(plan.optimizer, optimizers.LBFGS),
        "lazy": plan.objective.lazy,
    }
    for name, there in given.items():
        if there:
            raise ValueError(f"{name} must not be given with a dataset")


# Windows whose mean targets differ by more, in standard deviations of the targets, are told of.
_MUCH_DRIFT = 0.05


def _warn_of_drift(dataset: Any, found: Any) -> None:
    mean = found.positive / found.labels
    if found.drift > _MUCH_DRIFT * math.sqrt(mean * (1 - mean)):
        warnings.warn(
            f"the rows are not in random order: the mean of y is {mean:.3g}, and from "
            f"{found.lowest:.3g} to {found.highest:.3g} in parts of the data; between windows of "
            f"{dataset.window_rows} rows it will differ by about {found.drift:.2g} "
            "(bcenet shuffle writes the rows in random order)",
            stacklevel=4,
        )


def _in_windows(network: Network, rows: Any, missing: bool) -> Generator[rows_.Rows, None, None]:
    """Rows in memory as they are; a dataset's, window by window as they lie."""
    if not isinstance(rows, rows_.Stream):
        yield rows
        return
    reader = rows.windows(network.dtype, missing, room=0, seed=0, epochs=range(1), shuffle=False)
    try:
        last = False
        while not last:
            window = reader.next()
            last = window.last
            yield rows_.Rows(*window.part(slice(window.rows)), None)
            reader.release(window)
    finally:
        reader.close()


def _check_validation(network: Network, validation_data: Any, missing: bool) -> Any:
    if validation_data is None:
        return None
    if isinstance(validation_data, rows_.Stream):
        return _check_dataset(network, validation_data, missing, False)
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3, 4):
        raise ValueError(
            "validation_data must be (X, y), (X, y, sample_weight) or "
            f"(X, y, sample_weight, offset); got {checks.describe(validation_data)}"
        )
    return rows_.check(network, *validation_data, missing=missing, prefix="validation_data ")

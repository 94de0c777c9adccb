"""Training: `fit` checks its arguments and runs the native epoch engine, epoch by epoch."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import averaging as averaging_
from bcenet import callbacks as callbacks_
from bcenet import checks, gradients, kernels, optimizers, threads
from bcenet import rows as rows_
from bcenet.errors import NonFiniteError
from bcenet.history import History
from bcenet.network import Network
from bcenet.objective import Objective, drop_rates
from bcenet.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import ArrayLike

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
    X: ArrayLike | rows_.Stream,
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
) -> History:
    """Train a network in place by mini-batches, and return its losses.

    Each batch's loss is sum(w * l) / sum(w) over its label elements (w = 1 without weights),
    l as in `bcenet.bce_loss`, plus (l1 |W| + l2 |W|^2 / 2) / sum(w). Every row is used in every
    epoch; the last batch may be short; a batch whose weights sum to 0 is skipped. The weights
    afterwards have the same bits for any number of threads and any layout of the data.

    Arguments:
        network: changed at the end of every epoch; training works on a private copy.
        X: (n, inputs), finite, any real dtype and strides; read batch by batch, never copied. Or
            a `bcenet.data.Dataset`, without y and sample_weight, which it brings itself: its rows
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
            is measured every epoch, with ``pos_weight`` and without smoothing and penalties. Or a
            dataset, as X.
        callbacks: objects or callables: see `bcenet.callbacks`. True from on_epoch_end stops.
        shuffle: take the rows in the order of `bcenet.training.row_order` (of a dataset: in that
            of its ``order``), else as they lie.
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

    Returns: a History with one loss (and validation loss) an epoch.

    Raises: ValueError and TypeError naming the argument; RuntimeError if the network or the
    optimizer is being fitted by another thread; NonFiniteError when the loss, the parameters
    or the optimizer's state leave the finite numbers: the network then holds the weights before
    that step. Ctrl-C raises KeyboardInterrupt within 100 ms and leaves the last whole step, and
    so does what goes wrong in reading a dataset: DataChangedError where a file changes.

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
    )


def _fit(
    network: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    offset: Any,
    validation_data: Any,
    callbacks: Any,
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
        _warn_of_drift(rows, rows.scan(network.dtype, masked))
        if isinstance(plan.optimizer, optimizers.LBFGS):
            raise ValueError("optimizer must take steps for a dataset; got 'lbfgs'")
    else:
        rows = rows_.check(network, X, y, sample_weight, offset, missing=masked)
        if check_classes:
            _check_classes(rows.y, masked)
    validation = _check_validation(network, validation_data, plan.objective.masked)
    if callbacks_.shows_progress() and not hooks.show_progress:
        hooks.append(callbacks_.ProgressBar())
    course = _Course(network, plan, hooks, validation)
    held = [network._fitting]
    if isinstance(plan.optimizer, optimizers.LBFGS):
        from bcenet import lbfgs

        def train() -> None:
            course.run(lambda: lbfgs.minimize(network, rows, plan, course.after_epoch))
    else:
        held.append(plan.optimizer._in_use)

        def train() -> None:
            make = _StreamRun if isinstance(rows, rows_.Stream) else _Run
            course.run(lambda: _train(make(network, rows, plan), course))

    kernels.exclusively(held, train)
    return course.history


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
        validation: rows_.Rows | rows_.Stream | None,
    ) -> None:
        self.history = History()
        self.state = callbacks_.State(network, plan.optimizer, self.history, plan.epochs)
        self._network = network
        self._plan = plan
        self._hooks = hooks
        self._validation = validation

    def run(self, train: Callable[[], None]) -> None:
        """Train, between the first hook and the last."""
        self._begun = time.monotonic()
        self._hooks.call("on_fit_begin", self.state)
        try:
            train()
        finally:
            self._hooks.call("on_fit_end", self.state)

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
        state.seconds = time.monotonic() - self._begun
        stop = schedule is not None and schedule.end_epoch(
            measured, self._plan.optimizer.learning_rate
        )
        return self._hooks.call("on_epoch_end", state) or stop

    def _validation_loss(self, rows: Any) -> float:
        objective = self._plan.objective.unsmoothed()
        total = weight = 0.0
        parts = _in_windows(self._network, rows, objective.masked)
        with contextlib.closing(parts):
            for part in parts:
                sums = gradients.losses_of(self._network, part, objective, self._plan.n_threads)
                total, weight = total + sums[0], weight + sums[1]
        return total / weight * (self._network.layer_sizes[-1] if objective.label_sum else 1)


def _train(run: _Run, course: _Course) -> None:
    """Epoch after epoch."""
    try:
        for number in range(1, run.plan.epochs + 1):
            loss, penalty = run.epoch(number)
            if course.after_epoch(loss, penalty, run.learning_rate):
                break
    finally:
        run.close()


class _Run:
    """The engine of one fit, and what it publishes to the network, optimizer and averages."""

    def __init__(self, network: Network, rows: Any, plan: Plan) -> None:
        self.network = network
        self.plan = plan
        self.rows = rows
        optimizer, averaging = plan.optimizer, plan.averaging
        optimizer.begin(network.parameters)
        optimizer.seed = plan.seed
        self._batch_size = min(plan.batch_size, rows.n)
        self._batches = math.ceil(rows.n / self._batch_size)
        if plan.schedule is not None:
            plan.schedule.begin(plan.epochs, rows.n, optimizer.epoch)
        step = 3 * network._work(self._batch_size)
        whole = 3 * network._work(rows.n) * plan.epochs
        self._engine = kernels.Engine(
            network.shape,
            network.dtype,
            self._batch_size,
            threads.choose_for_steps(plan.n_threads, step, whole),
            hyper=optimizer.native_hyper(),
            objective=plan.objective.native(),
            drop_rates=plan.drop_rates,
            batch_statistics=True,
            averages=averaging is not None,
        )
        self.learning_rate = optimizer.learning_rate
        # What the engine holds, and where it is published to.
        states = list(zip(("first", "second", "third"), optimizer.state.values(), strict=False))
        self._held = [("statistics", network.statistics), *states]
        if averaging is None:
            self._held.append(("parameters", network.parameters))
        else:
            averaging.begin(network.parameters)
            self._held += [("parameters", averaging.raw), ("average", averaging.average)]
        # Where a bad epoch is replayed from: the same as last published.
        self._kept = [(part, array.copy()) for part, array in self._held]
        self._restore()

    def _restore(self) -> None:
        for part, array in self._kept:
            self._engine.load(part, array)
        self._engine.steps = self.plan.optimizer.step
        if self.plan.averaging is not None:
            self._engine.averaged = self.plan.averaging.count

    def _publish(self, epoch: int) -> None:
        """Copy all out of the engine at once, and count the epochs of the optimizer."""
        averaging = self.plan.averaging
        parts = self._kept + self._held
        counters = [
            (self.plan.optimizer, "step", self._engine.steps),
            (self.plan.optimizer, "epoch", epoch),
        ]
        if averaging is not None:
            averaged = self._engine.averaged
            counters.append((averaging, "count", averaged))
            parts.append(("average" if averaged else "parameters", self.network.parameters))
            if not averaged:
                parts.append(("parameters", averaging.average))
        self._engine.publish(parts, counters)

    def close(self) -> None:
        """End the threads."""
        self._engine.close()

    def _train(
        self,
        rows: rows_.Rows,
        order: np.ndarray | None,
        rates: np.ndarray | None,
        batches: int,
        seed: int,
    ) -> kernels.Pass:
        plan = self.plan
        return self._engine.train(
            rows.sources(),
            self._batch_size,
            range(batches),
            order=order,
            rates=None if rates is None else rates[:batches],
            stage=plan.stage,
            seed=None if plan.drop_rates is None else seed,
            epoch=plan.optimizer.epoch,
        )

    def _steps(
        self,
        rows: rows_.Rows,
        order: np.ndarray | None,
        rates: np.ndarray | None,
        batches: int,
        seed: int,
    ) -> tuple[kernels.Pass, BaseException | None]:
        """Batches of rows; at a bad step the state before it. And the exception of a signal."""
        passed = self._train(rows, order, rates, batches, seed)
        pending = self._engine.take_pending()
        if passed.status == "bad parameters":
            # The step is done; the state before it comes from what was kept.
            self._restore()
            self._train(rows, order, rates, passed.batch, seed)
            pending = pending or self._engine.take_pending()
        return passed, pending

    def _begin_epoch(self) -> np.ndarray | None:
        """The factors of the learning rate, one a batch."""
        plan, optimizer = self.plan, self.plan.optimizer
        rates = None
        self.learning_rate = optimizer.learning_rate
        if plan.schedule is not None:
            rates = _rates(plan.schedule, optimizer.epoch, self._batches)
            self.learning_rate *= float(rates[-1])
        self._engine.configure(optimizer.native_hyper())
        return rates

    def _end_epoch(self, number: int, done: bool) -> None:
        """Publish; of a whole epoch, its average too."""
        averaging = self.plan.averaging
        if done and averaging is not None and averaging.averages_epoch(number, self.plan.epochs):
            self._engine.average()
        self._publish(self.plan.optimizer.epoch + done)

    def _means(self, loss: float, penalty: float, weight: float) -> tuple[float, float]:
        labels = self.network.layer_sizes[-1] if self.plan.objective.label_sum else 1
        return loss / weight * labels, penalty / weight * labels

    def epoch(self, number: int) -> tuple[float, float]:
        """One epoch: its mean loss and penalty. Publishes, also before it raises."""
        plan = self.plan
        order = None
        if plan.shuffle:
            order = kernels.row_order(plan.seed, plan.optimizer.epoch, self.rows.n)
        rates = self._begin_epoch()
        passed, pending = self._steps(self.rows, order, rates, self._batches, plan.seed)
        done = passed.status == "done"
        self._end_epoch(number, done)
        if pending is not None:
            raise pending
        if not done:
            self._raise_non_finite(passed, passed.batch, self.rows, order)
        return self._means(passed.loss, passed.penalty, passed.weight)

    def _raise_non_finite(
        self, passed: kernels.Pass, batch: int, rows: rows_.Rows, order: np.ndarray | None
    ) -> None:
        """The error of a bad pass over rows; ``batch`` is the bad one's number in the epoch."""
        first = passed.batch * self._batch_size
        chosen: Any = slice(first, first + self._batch_size)
        if order is not None:
            chosen = order[chosen]
        what = "the step overflowed the parameters, the statistics or the optimizer's state"
        layer = passed.layer
        if passed.status == "bad loss":
            layer = gradients.first_bad_layer(self._trained(), rows.X[chosen])
            what = "the loss is not finite"
        epoch = self.plan.optimizer.epoch + 1
        raise NonFiniteError(
            f"training left the finite numbers in epoch {epoch}, batch {batch}, layer {layer}: "
            f"{what}; the network holds the weights before this step "
            "(try a smaller learning_rate, or scale the columns of X)",
            epoch=epoch,
            batch=batch,
            layer=layer,
        )

    def _trained(self) -> Network:
        """The network with the parameters that are trained, where it holds their average."""
        averaging = self.plan.averaging
        if averaging is None or averaging.raw is None:
            return self.network
        return Network.from_config(self.network.config(), averaging.raw, self.network.statistics)


class _StreamRun(_Run):
    """A run over a dataset: a pass of the engine for each of its windows.

    Batches are cut from the whole sequence of an epoch's rows, as if they lay in memory in its
    order: what a window leaves over is put in front of the next one.
    """

    def __init__(self, network: Network, rows: Any, plan: Plan) -> None:
        self._counts: tuple[int, int] | None = None
        super().__init__(network, rows, plan)
        first = plan.optimizer.epoch
        self._reader = rows.windows(
            network.dtype,
            plan.objective.masked,
            room=self._batch_size - 1,
            seed=plan.seed,
            epochs=range(first, first + plan.epochs),
            shuffle=plan.shuffle,
        )

    def close(self) -> None:
        """End the threads: the engine's and the reader's."""
        try:
            super().close()
        finally:
            self._reader.close()

    def _keep(self) -> None:
        """What `_restore` goes back to: the state before a window."""
        for part, array in self._kept:
            self._engine.store(part, array)
        self._counts = self._engine.steps, self._engine.averaged

    def _restore(self) -> None:
        super()._restore()
        if self._counts is not None:
            self._engine.steps, self._engine.averaged = self._counts

    def epoch(self, number: int) -> tuple[float, float]:
        """One epoch: its mean loss and penalty. Publishes, also before it raises."""
        size = self._batch_size
        done = 0
        sums = np.zeros(3)
        left: list[Any] = []  # rows of the window before
        last = bad = False
        try:
            rates = self._begin_epoch()
            while not (last or bad):
                window = self._reader.next()
                last = window.last
                rows, order = self._with_left(window, left)
                batches = -(-rows.n // size) if last else rows.n // size
                self._keep()
                its_rates = None if rates is None else rates[done : done + batches]
                passed, pending = self._steps(rows, order, its_rates, batches, window.seed)
                if pending is not None:
                    raise pending
                bad = passed.status != "done"
                done += passed.batch if bad else batches
                sums += passed.loss, passed.penalty, passed.weight
                rest: Any = slice(batches * size, None)
                if order is not None:
                    rest = order[rest]
                left = [None if array is None else array[rest].copy() for array in rows.arrays()]
                if not bad:
                    self._reader.release(window)
        except BaseException:
            self._end_epoch(number, False)
            raise
        self._end_epoch(number, not bad)
        if bad:
            self._raise_non_finite(passed, done, rows, order)
        return self._means(*sums.tolist())

    def _with_left(self, window: Any, left: list[Any]) -> tuple[rows_.Rows, np.ndarray | None]:
        """A window's rows behind those left over, and the order of them all."""
        count = len(left[0]) if left else 0
        arrays = window.part(slice(window.room - count, window.room + window.rows))
        order = window.order
        if count:
            for array, before in zip(arrays, left, strict=False):
                if array is not None:
                    array[:count] = before
            if order is not None:
                order = np.concatenate([np.arange(count, dtype=order.dtype), order + count])
        return rows_.Rows(*arrays, None), order


def _rates(schedule: Any, epoch: int, batches: int) -> np.ndarray:
    """The factors of an epoch's steps, as the engine reads them; a schedule may be the user's."""
    rates = checks.real_array("schedule.factors()", schedule.factors(epoch, batches))
    if rates.shape != (batches,):
        raise ValueError(f"schedule.factors() must have shape ({batches},); got {rates.shape}")
    rates = np.ascontiguousarray(rates, np.float64)
    kernels.check_values("schedule.factors()", rates, rates.dtype, "finite and not negative")
    return rates


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

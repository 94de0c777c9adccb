"""Training: `fit` checks its arguments and runs the native epoch engine, epoch by epoch."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import callbacks as callbacks_
from bcenet import checks, gradients, kernels, losses, optimizers, threads
from bcenet.errors import NonFiniteError
from bcenet.history import History
from bcenet.network import Network
from bcenet.records import Record

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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


class Rows(Record):
    """Checked rows: X (n, inputs), y (n,) or (n, k), weight like y or (n,) or None."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None

    @property
    def n(self) -> int:
        return self.X.shape[0]

    def sources(self) -> tuple[Any, Any, Any]:
        return (
            kernels.source(self.X),
            kernels.source(self.y),
            kernels.optional_source(self.weight),
        )


class Loss(Record):
    """The loss of a fit: what it has beside targets and weights."""

    pos_weight: np.ndarray | None
    smoothing: float


def fit(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
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
) -> History:
    """Train a network in place by mini-batches, and return its losses.

    Each batch's loss is sum(w * l) / sum(w) over its label elements (w = 1 without weights),
    l as in `bcenet.bce_loss`. Every row is used in every epoch; the last batch may be short; a
    batch whose weights sum to 0 is skipped. The weights afterwards have the same bits for any
    number of threads and any layout of the data.

    Arguments:
        network: changed at the end of every epoch; training works on a private copy.
        X: (n, inputs), finite, any real dtype and strides; read batch by batch, never copied.
        y: (n,) for one output or (n, k) for k: labels, or probabilities in [0, 1]. Both classes
            must be there, unless an optimizer object goes from one part of the data to the next.
        optimizer: "sgd", "adam", "adamw", "rmsprop", or an object such as bcenet.Adam(0.01),
            which keeps its state for the next fit.
        learning_rate: of an optimizer given by name; None takes its default.
        batch_size: rows of a step, capped at n. epochs: passes over the rows.
        sample_weight: (n,) or y's shape, not negative. pos_weight: of the positive terms, a
            number or (k,). label_smoothing: e in [0, 1]; targets become t (1 - e) + e / 2.
        validation_data: (X, y) or (X, y, sample_weight): its loss is measured every epoch, with
            ``pos_weight`` and without smoothing.
        callbacks: objects or callables: see `bcenet.callbacks`. True from on_epoch_end stops.
        shuffle: take the rows in the order of `bcenet.training.row_order`, else as they lie.
        n_threads: None chooses from the work, the affinity mask and the CPU quota.
        random_state: seed of the shuffling. An optimizer object keeps its first one unless
            another is given.

    Returns: a History with one loss (and validation loss) an epoch.

    Raises: ValueError and TypeError naming the argument; RuntimeError if the network or the
    optimizer is being fitted by another thread; NonFiniteError when the loss, the parameters
    or the optimizer's state leave the finite numbers: the network then holds the weights before
    that step. Ctrl-C raises KeyboardInterrupt within 100 ms and leaves the last whole step.

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
        optimizer,
        learning_rate,
        batch_size,
        epochs,
        sample_weight,
        pos_weight,
        label_smoothing,
        validation_data,
        callbacks,
        shuffle,
        n_threads,
        random_state,
    )


def _fit(
    network: Any,
    X: Any,
    y: Any,
    optimizer: Any,
    learning_rate: Any,
    batch_size: Any,
    epochs: Any,
    sample_weight: Any,
    pos_weight: Any,
    label_smoothing: Any,
    validation_data: Any,
    callbacks: Any,
    shuffle: Any,
    n_threads: Any,
    random_state: Any,
    stage: str = "plain",
) -> History:
    """`fit`, with the form of its step: "plain", or "staged" (the whole gradient first)."""
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bcenet.Network; got {checks.describe(network)}")
    in_parts = isinstance(optimizer, optimizers.Optimizer)
    optimizer = optimizers.resolve(optimizer, learning_rate)
    batch_size = checks.integer("batch_size", batch_size, 1)
    epochs = checks.integer("epochs", epochs, 1)
    shuffle = checks.boolean("shuffle", shuffle)
    loss = Loss(
        losses.pos_weight_array(pos_weight, network.layer_sizes[-1]),
        checks.number("label_smoothing", label_smoothing, 0.0, 1.0),
    )
    hooks = callbacks_.Callbacks(callbacks)
    seed = _seed(random_state, optimizer)
    rows = _check_rows(network, X, y, sample_weight, in_parts)
    validation = _check_validation(network, validation_data)
    batch_size = min(batch_size, rows.n)
    work = 3 * network._work(batch_size)
    count = threads.choose(n_threads, work, threads.WORK_PER_THREAD)
    if callbacks_.shows_progress() and not hooks.show_progress:
        hooks.append(callbacks_.ProgressBar())

    def train() -> History:
        optimizer.begin(network.parameters)
        optimizer.seed = seed
        run = _Run(network, optimizer, rows, loss, batch_size, count, seed, shuffle, stage)
        try:
            return _epochs(run, hooks, epochs, validation, n_threads)
        finally:
            run.close()

    return kernels.exclusively([network._fitting, optimizer._in_use], train)


def _epochs(
    run: _Run, hooks: callbacks_.Callbacks, epochs: int, validation: Rows | None, n_threads: Any
) -> History:
    """Epoch after epoch, with the validation and the callbacks between them."""
    history = History()
    state = callbacks_.State(run.network, run.optimizer, history, epochs)
    begun = time.monotonic()
    hooks.call("on_fit_begin", state)
    try:
        for epoch in range(1, epochs + 1):
            state.loss = run.epoch()
            history.loss.append(state.loss)
            if validation is not None:
                total, weight = gradients.losses_of(
                    run.network,
                    validation.X,
                    validation.y,
                    validation.weight,
                    run.loss.pos_weight,
                    0.0,
                    n_threads,
                )
                state.validation_loss = total / weight
                history.validation_loss.append(state.validation_loss)
            state.epoch = epoch
            state.seconds = time.monotonic() - begun
            if hooks.call("on_epoch_end", state):
                break
    finally:
        hooks.call("on_fit_end", state)
    return history


class _Run:
    """The engine of one fit, and what it publishes to the network and the optimizer."""

    def __init__(
        self,
        network: Network,
        optimizer: optimizers.Optimizer,
        rows: Rows,
        loss: Loss,
        batch_size: int,
        threads_: int,
        seed: int,
        shuffle: bool,
        stage: str,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.rows = rows
        self.loss = loss
        self._sources = rows.sources()
        self._batch_size = batch_size
        self._batches = math.ceil(rows.n / batch_size)
        self._seed = seed
        self._shuffle = shuffle
        self._stage = stage
        self._engine = kernels.Engine(
            network.layer_sizes,
            network.activations,
            network.dtype,
            batch_size,
            threads_,
            optimizer.native_hyper(),
        )
        # Where a bad epoch is replayed from: the parts of the engine as last published.
        states = list(zip(("first", "second"), optimizer.state.values(), strict=False))
        self._kept = [("parameters", network.parameters.copy())]
        self._kept += [(part, array.copy()) for part, array in states]
        self._published = [("parameters", network.parameters), *states]
        self._restore()

    def _restore(self) -> None:
        for part, array in self._kept:
            self._engine.load(part, array)
        self._engine.steps = self.optimizer.step

    def _publish(self, epoch: int) -> None:
        self._engine.publish(self._kept + self._published, self.optimizer, epoch)

    def close(self) -> None:
        """End the threads."""
        self._engine.close()

    def _train(self, order: np.ndarray | None, batches: int) -> tuple[str, int, float, float, int]:
        return self._engine.train(
            *self._sources,
            order,
            self._batch_size,
            range(batches),
            self.loss.pos_weight,
            self.loss.smoothing,
            self._stage,
        )

    def epoch(self) -> float:
        """One epoch; its mean loss. Publishes the parameters, also before it raises."""
        order = None
        if self._shuffle:
            order = kernels.row_order(self._seed, self.optimizer.epoch, self.rows.n)
        self._engine.configure(self.optimizer.native_hyper())
        status, batch, loss, weight, layer = self._train(order, self._batches)
        pending = self._engine.take_pending()
        if status == "bad parameters":
            # The step is done; the state before it comes from the start of the epoch.
            self._restore()
            self._train(order, batch)
            pending = pending or self._engine.take_pending()
        self._publish(self.optimizer.epoch + (status == "done"))
        if pending is not None:
            raise pending
        if status != "done":
            self._raise_non_finite(status, batch, layer, order)
        return loss / weight

    def _raise_non_finite(
        self, status: str, batch: int, layer: int, order: np.ndarray | None
    ) -> None:
        first = batch * self._batch_size
        chosen: Any = slice(first, first + self._batch_size)
        if order is not None:
            chosen = order[chosen]
        what = "the step overflowed the parameters or the optimizer's state"
        if status == "bad loss":
            layer = gradients.first_bad_layer(self.network, self.rows.X[chosen])
            what = "the loss is not finite"
        epoch = self.optimizer.epoch + 1
        raise NonFiniteError(
            f"training left the finite numbers in epoch {epoch}, batch {batch}, layer {layer}: "
            f"{what}; the network holds the weights before this step "
            "(try a smaller learning_rate, or scale the columns of X)",
            epoch=epoch,
            batch=batch,
            layer=layer,
        )


def _seed(random_state: Any, optimizer: optimizers.Optimizer) -> int:
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if random_state is not None:
        return checks.integer("random_state", random_state, 0, 2**64 - 1)
    if optimizer.seed is not None:
        return optimizer.seed
    return int(np.random.default_rng().integers(2**63))


def _check_rows(network: Network, X: Any, y: Any, sample_weight: Any, in_parts: bool) -> Rows:
    array = network.check_rows(X)
    count = array.shape[0]
    if count == 0:
        raise ValueError("X must have at least one row; got 0")
    targets = network.check_targets(y, count)
    total = float(targets.sum(dtype=np.float64))
    if total in (0.0, float(targets.size)) and not in_parts:
        raise ValueError(f"y must hold both classes; got only {int(total > 0)}")
    return Rows(array, targets, gradients.check_weight(sample_weight, targets, network.dtype))


def _check_validation(network: Network, validation_data: Any) -> Rows | None:
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise ValueError(
            "validation_data must be (X, y) or (X, y, sample_weight); "
            f"got {checks.describe(validation_data)}"
        )
    X, y, *weight = validation_data
    array = network.check_rows(X, "validation_data X")
    if array.shape[0] == 0:
        raise ValueError("validation_data X must have at least one row; got 0")
    targets = network.check_targets(y, array.shape[0], "validation_data y")
    given = weight[0] if weight else None
    name = "validation_data sample_weight"
    return Rows(array, targets, gradients.check_weight(given, targets, network.dtype, name))

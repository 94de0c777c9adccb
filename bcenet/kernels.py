"""The only door to the native code: each function here makes one native call.

Arguments are NumPy arrays that the callers have checked for shape; values are checked here,
natively, and reported by position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bcenet import _base, _dispatch
from bcenet.parameters import Shape
from bcenet.records import Record


def kernel_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that a kernel computes in: float32 for float16 and float32, else float64."""
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def activation_names() -> tuple[str, ...]:
    return tuple(_dispatch.native.ACTIVATIONS)


def loss_names() -> tuple[str, ...]:
    return tuple(_dispatch.native.LOSSES)


def loss_code(name: str) -> int:
    return _dispatch.native.LOSSES[name]


def rule_names() -> tuple[str, ...]:
    return tuple(_dispatch.native.RULES)


def rule_code(name: str) -> int:
    return _dispatch.native.RULES[name]


def group_names() -> tuple[str, ...]:
    """Of parameters that can have a learning rate of their own."""
    return tuple(_dispatch.native.GROUP_CODES)


def normalizations() -> tuple[str | None, ...]:
    return tuple(_dispatch.native.NORMALIZATIONS)


def activation_codes(names: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers that the kernels know the activations by: the same in every variant."""
    return tuple(_dispatch.native.ACTIVATIONS[name] for name in names)


def few_outputs(
    X: Any,
    parameters: np.ndarray,
    layer_sizes: tuple[int, ...],
    codes: tuple[int, ...],
    probabilities: bool,
) -> np.ndarray | None:
    """Outputs of a few finite rows of floats, with the engine's bits; None for anything else."""
    return _dispatch.native.few_outputs(X, parameters, layer_sizes, codes, probabilities)


def source(array: Any) -> Any:
    """An array as the kernels read it: any real dtype, byte order and strides, never copied.

    Or a matrix of compressed sparse rows, checked by `bcenet.sparse`.
    """
    if isinstance(array, np.ndarray):
        return _dispatch.native.Source(array)
    return _dispatch.native.SparseSource(
        array.data, _indices(array.indices), _indices(array.indptr)
    )


def _indices(indices: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(indices, np.int32 if indices.dtype == np.int32 else np.int64)


def first_unsorted(matrix: Any, width: int) -> int:
    """The first row of a CSR matrix whose columns do not rise within [0, width), or -1; -2 where
    its indptr does not fit."""
    if matrix.data.shape != matrix.indices.shape or matrix.indptr.size != matrix.shape[0] + 1:
        return -2
    return _dispatch.native.find_unsorted(source(matrix), width)


def optional_source(array: np.ndarray | None) -> Any:
    return None if array is None else source(array)


def first_bad(array: np.ndarray, dtype: np.dtype, wanted: str) -> int:
    """The flat index of the first value that is not ``wanted`` once it is in ``dtype``, or -1."""
    native = _dispatch.native
    return native.find_bad(source(array), dtype.itemsize, native.CHECKS[wanted])[0]


def check_values(
    name: str, array: np.ndarray, dtype: np.dtype, wanted: str, first_row: int = 0
) -> float:
    """Refuse the first value that is not ``wanted`` once it is in ``dtype``.

    The message counts rows from ``first_row``. Returns the sum where weights are checked.
    """
    native = _dispatch.native
    index, total = native.find_bad(source(array), dtype.itemsize, native.CHECKS[wanted])
    if index >= 0:
        raise_bad_value(name, array, index, wanted, dtype, first_row)
    return total


def raise_bad_value(
    name: str, array: np.ndarray, index: int, wanted: str, dtype: np.dtype, first_row: int = 0
) -> None:
    """The ValueError for the value at a flat index, with its row and column."""
    position = [int(i) for i in np.unravel_index(index, array.shape)]
    value = array[tuple(position)].item()
    if position:
        position[0] += first_row
    places = ("row", "column") if len(position) <= 2 else ("index",) * len(position)
    where = ", ".join(f"{place} {i}" for place, i in zip(places, position, strict=False))
    note = f" (in {dtype})" if np.isfinite(value) and "finite" in wanted and value >= 0 else ""
    raise ValueError(
        f"{name} must be {wanted}{note}; got {value!r}{' at ' if where else ''}{where}"
    )


def sigmoid(out: np.ndarray, logits: np.ndarray) -> None:
    """s(z) into a C-contiguous array of the kernel's dtype."""
    _dispatch.native.apply_sigmoid(source(logits), out)


def bce(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
    pos_weight: np.ndarray | None,
    smoothing: float,
    divisor: float,
    loss: np.ndarray | None,
    gradient: np.ndarray | None,
) -> float:
    """The sum of the weighted losses; losses and derivatives / divisor go to the arrays."""
    dtype = kernel_dtype(logits.dtype)
    total, bad = _dispatch.native.apply_bce(
        source(logits),
        source(targets),
        optional_source(weight),
        optional_source(pos_weight),
        smoothing,
        divisor,
        dtype.itemsize,
        loss,
        gradient,
    )
    if bad >= 0:
        raise_bad_value("targets", targets, bad, "in [0, 1]", dtype)
    return total


def activate(name: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(g(z), g'(z)) of an activation, elementwise, for float32 or float64."""
    a = np.array(z, order="C")
    slope = np.empty_like(a)
    _dispatch.native.apply_activation(_dispatch.native.ACTIVATIONS[name], a, slope)
    return a, slope


def loss(
    name: str, z: np.ndarray, t: np.ndarray, pos_weight: np.ndarray, focus: float
) -> tuple[np.ndarray, np.ndarray]:
    """(losses, derivatives) of logits: C-contiguous arrays of one shape and dtype."""
    losses, dz = np.empty_like(z), np.empty_like(z)
    _dispatch.native.apply_loss(loss_code(name), losses, dz, z, t, pos_weight, focus)
    return losses, dz


def product_into(
    out: np.ndarray, a: np.ndarray, b: np.ndarray, *, transpose_a: bool = False
) -> None:
    """A B, or A^T B, of C-contiguous arrays into ``out``; columns a multiple of 8."""
    depth, columns = b.shape
    _dispatch.native.apply_product(out, a, b, out.shape[0], depth, columns, transpose_a)


def product(a: np.ndarray, b: np.ndarray, *, transpose_a: bool = False) -> np.ndarray:
    """A B, or A^T B, with the engine's own tiles and bits: one chain of terms an element."""
    depth, columns = b.shape
    rows = a.shape[1] if transpose_a else a.shape[0]
    padded = np.zeros((depth, -(-columns // 8) * 8), b.dtype)
    padded[:, :columns] = b
    c = np.empty((rows, padded.shape[1]), b.dtype)
    if c.size and depth:
        product_into(c, np.ascontiguousarray(a), padded, transpose_a=transpose_a)
    else:
        c[...] = 0
    return np.ascontiguousarray(c[:, :columns])


def row_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of n rows, a function of seed and epoch; int32 where it fits."""
    order = np.empty(n, np.int32 if n <= np.iinfo(np.int32).max else np.int64)
    _dispatch.native.fill_order(order, seed, epoch)
    return order


def exclusive(name: str) -> Any:
    """What one call at a time may hold: see `exclusively`."""
    return _base.Exclusive(name)


def exclusively(held: list[Any], function: Callable[[], Any]) -> Any:
    """Call a function holding all of ``held``; RuntimeError if another call holds one."""
    return _base.exclusively(held, function)


class Pass(Record):
    """What came of batches: a status, the batch that was stopped or bad, sums of weighted loss,
    weight and penalty, and the layer that was bad, or -1."""

    status: str
    batch: int
    loss: float
    weight: float
    penalty: float
    layer: int

    @property
    def sums(self) -> tuple[float, float, float]:
        """Loss, weight and penalty."""
        return self.loss, self.weight, self.penalty


class Engine:
    """A private copy of a network, with buffers and optimizer state: the native engine.

    Parts are flat arrays laid out as ``Network.parameters``: "parameters", "average", "gradient",
    and the optimizer's state "first", "second" and "third"; and "statistics", laid out as
    ``Network.statistics``.

    Arguments:
        shape: of the network. capacity: rows of a batch; 0 for inference alone.
        hyper: `Optimizer.native_hyper`, to update. objective: `Objective.native`.
        drop_rates: one a layer, in parts of 65536. batch_statistics: whether batch normalisation
            takes the batch's. averages: whether there is a moving average of the parameters.
        entries: the most that a batch of sparse rows has, where X is sparse; -1 where it is dense.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: np.dtype,
        capacity: int,
        threads: int,
        *,
        hyper: dict[str, Any] | None = None,
        objective: dict[str, Any] | None = None,
        drop_rates: list[int] | None = None,
        batch_statistics: bool = False,
        averages: bool = False,
        entries: int = -1,
    ) -> None:
        self._native = _dispatch.native
        self._engine = self._native.Engine(
            shape.layer_sizes,
            activation_codes(shape.activations),
            tuple(self._native.NORMALIZATIONS[name] for name in shape.normalization),
            shape.feature_scale,
            dtype.itemsize,
            capacity,
            threads,
            hyper,
            objective,
            drop_rates,
            batch_statistics,
            averages,
            entries,
        )
        self.threads = threads

    def configure(self, hyper: dict[str, Any]) -> None:
        """Hyperparameters for the steps to come; the optimizer's state stays."""
        self._engine.configure(hyper)

    @property
    def steps(self) -> int:
        return self._engine.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._engine.steps = value

    @property
    def averaged(self) -> int:
        """Steps, or epochs, in the average so far."""
        return self._engine.averaged

    @averaged.setter
    def averaged(self, value: int) -> None:
        self._engine.averaged = value

    @property
    def progress(self) -> tuple[int, int, float, float, float] | None:
        """(epoch, batches done, loss, weight, penalty) of the last `train`: in step with what the
        engine holds whenever a signal's exception comes. Its batch is -1 after a bad step."""
        return self._engine.progress

    @progress.setter
    def progress(self, value: tuple[int, int, float, float, float]) -> None:
        self._engine.progress = value

    def average(self) -> None:
        """Take the parameters into their average, the mean of all that were taken."""
        self._engine.average()

    def load(self, part: str, flat: np.ndarray) -> None:
        self._engine.load(self._native.PARTS[part], flat)

    def store(self, part: str, flat: np.ndarray) -> None:
        self._engine.store(self._native.PARTS[part], flat)

    def publish(
        self, parts: list[tuple[str, np.ndarray]], counters: list[tuple[Any, str, int]]
    ) -> None:
        """Store the parts, and set each (object, name, value): all at once, or nothing."""
        coded = [(self._native.PARTS[part], array) for part, array in parts]
        self._engine.publish(coded, counters)

    def train(
        self,
        sources: tuple[Any, Any, Any, Any],
        batch_size: int,
        batches: range,
        *,
        order: np.ndarray | None = None,
        rates: np.ndarray | None = None,
        stage: str = "plain",
        seed: int | None = None,
        epoch: int = 0,
        derivatives: bool = False,
        sums: tuple[float, float, float] | None = None,
        sequence: int = -1,
    ) -> Pass:
        """Steps on the rows of ``sources``, (X, y, weight, offset): see the native Engine.train.

        ``sums`` are the loss, weight and penalty of the epoch's batches before these, to which
        those of these are added, one by one: an epoch in parts has the bits of a whole one.
        """
        status, *rest = self._engine.train(
            *sources,
            order,
            rates,
            batch_size,
            batches.start,
            batches.stop,
            self._native.STAGES[stage],
            self.threads,
            seed,
            epoch,
            derivatives,
            sums,
            sequence,
        )
        return Pass(self._native.STATUSES[status], *rest)

    def gradients(self, sources: tuple[Any, Any, Any, Any], batch_size: int, out: Any) -> str:
        """The gradient of each batch into ``out``, (batches, parameters): a status."""
        status = self._engine.gradients(*sources, batch_size, out, self.threads)
        return self._native.STATUSES[status]

    def update(self, rate: float = 1.0) -> str:
        """A step with the loaded gradient, at ``rate`` times the learning rate: a status."""
        return self._native.STATUSES[self._engine.update(rate)]

    def logits(self, x: Any, out: np.ndarray, *, seed: int | None = None, epoch: int = 0) -> str:
        """The logits of one batch as a step on it computes them: a status."""
        status = self._engine.logits(x, out, self.threads, seed, epoch)
        return self._native.STATUSES[status]

    def rest(self, count: int) -> None:
        """So many threads do nothing from now on; from any thread, also while others train."""
        self._engine.rest(count)

    def close(self) -> None:
        """End the threads that `train` started."""
        self._engine.close()

    def take_pending(self) -> BaseException | None:
        return self._engine.take_pending()

    def predict(self, x: Any, offset: Any, out: np.ndarray, *, probabilities: bool) -> str:
        """Outputs of all rows into ``out``: "done", or "bad input" if one is not finite."""
        return self._engine.predict(x, offset, out, probabilities, self.threads)

    def evaluate(self, sources: tuple[Any, Any, Any, Any]) -> tuple[float, float]:
        """(weighted loss, weight) over all rows."""
        return self._engine.evaluate(*sources, self.threads)

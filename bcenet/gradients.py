"""Seeing gradients: of the loss by every parameter, and of everything between.

The formulas, row-major and batch first, with g' the derivative of an activation:

    dz_L = p - y (sigmoid outputs with binary cross-entropy: see `bcenet.bce_gradient`)
    da_{l-1} = dz_l W_l^T,  dz_{l-1} = da_{l-1} * g'(z_{l-1})
    dW_l = a_{l-1}^T dz_l,  db_l = sum over rows of dz_l
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import kernels, losses, sparse, threads
from bcenet import rows as rows_
from bcenet.objective import Objective
from bcenet.parameters import Shape
from bcenet.records import Record, plain

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bcenet.network import Network


class Gradient(Record):
    """A gradient, laid out as the parameters are.

    Attributes:
        coefs: one (fan_in, fan_out) a layer; intercepts: one (fan_out,) a layer; norms: gain and
        shift, (2, width), of each normalised layer; scale: (inputs,) or None; all views of
        flat: one array, laid out as ``Network.parameters``.
    """

    coefs: list[np.ndarray]
    intercepts: list[np.ndarray]
    norms: list[np.ndarray]
    scale: np.ndarray | None
    flat: np.ndarray

    @classmethod
    def of(cls, shape: Shape, flat: np.ndarray) -> Gradient:
        return cls(*shape.split(flat), *shape.split_norms(flat), flat)


class LayerTrace(Record):
    """One layer of a trace, n rows: z, y, a, da and dz are (n, fan_out); dw is (fan_in, fan_out),
    db (fan_out,). y is z behind the layer's normalisation, z itself where there is none. da and
    dz belong to each row's own loss; dw and db are means over rows, so for k outputs they are k
    times the gradient of the mean over all label elements."""

    z: np.ndarray
    y: np.ndarray
    a: np.ndarray
    da: np.ndarray
    dz: np.ndarray
    dw: np.ndarray
    db: np.ndarray


class Trace(Record):
    """Every number of a forward and a backward pass: ``layers[i]``, from the first hidden on.

    ``str(trace)`` is a table of the largest numbers of each layer and of the output of each row.
    """

    layers: list[LayerTrace]

    _MOST_LINES = 20

    def __str__(self) -> str:
        lines = ["largest absolute value of each layer"]
        lines.append("layer  units" + "".join(f"{name:>11}" for name in LayerTrace.__annotations__))
        for index, layer in enumerate(self.layers):
            largest = [float(np.abs(values).max()) for values in layer.__dict__.values()]
            lines.append(
                f"{index:5d}  {layer.z.shape[1]:5d}" + "".join(f"{x:11.3e}" for x in largest)
            )
        last = self.layers[-1]
        lines += ["", "last layer: da = dC/dp, dz = p - y"]
        lines.append("  row  label" + "".join(f"{name:>13}" for name in ("z", "a", "da", "dz")))
        for row, label in list(np.ndindex(last.z.shape))[: self._MOST_LINES]:
            values = (last.z, last.a, last.da, last.dz)
            lines.append(
                f"{row:5d}  {label:5d}" + "".join(f"{float(v[row, label]):13.5e}" for v in values)
            )
        if last.z.size > self._MOST_LINES:
            lines.append(f"  ... and {last.z.size - self._MOST_LINES:,} more")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """``{"layers": [{"z": ..., ...}]}`` of nested lists, ready for JSON: what is not finite is
        the text "nan", "inf" or "-inf"."""
        return plain(self)


class _Norm(Record):
    """A normalisation of rows as predictions do it: y = gain normed + shift.

    ``inverse`` is 1 / deviation, of each column (batch) or of each row, (n, 1) (layer).
    """

    kind: str
    normed: np.ndarray
    inverse: np.ndarray
    gain: np.ndarray

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """dz: constants of a batch normalisation, or through the row's own mean and variance."""
        dx = self.gain * dy
        if self.kind == "layer":
            dx -= dx.mean(1, keepdims=True) + self.normed * (dx * self.normed).mean(
                1, keepdims=True
            )
        return self.inverse * dx


class Forward(Record):
    """A forward pass of rows, one of each a layer: z, y (behind a normalisation), a, g'(y), and
    the normalisation or None. The last a is the sigmoid."""

    z: list[np.ndarray]
    y: list[np.ndarray]
    a: list[np.ndarray]
    slopes: list[np.ndarray]
    norms: list[_Norm | None]


def forward(network: Network, X: np.ndarray) -> Forward:
    """z, y, a and g'(y) of every layer, with the engine's own bits up to a normalisation."""
    a = sparse.dense(X, network.dtype)  # (n, fan_in)
    result = Forward([], [], [], [], [])
    gains = iter(network.norms)
    statistics = iter(network.shape.split_statistics(network.statistics))
    coefs = network.coefs
    if network.scale is not None:
        coefs = [coefs[0] * network.scale[:, np.newaxis], *coefs[1:]]
    for weights, intercept, name, kind in zip(
        coefs, network.intercepts, network.activations, network.shape.normalization, strict=True
    ):
        # The logits of a network of this layer alone.
        shape = Shape(weights.shape, ("sigmoid",), (None,), False)
        engine = kernels.Engine(shape, network.dtype, 0, 1)
        engine.load("parameters", np.concatenate((weights.ravel(), intercept)))
        z = np.full((len(a), weights.shape[1]), np.nan, network.dtype)  # (n, fan_out)
        engine.predict(kernels.source(a), None, z, probabilities=False)
        y, norm = z, None
        if kind is not None:
            gain, shift = next(gains)
            mean, variance = z.mean(1, keepdims=True), z.var(1, keepdims=True)
            if kind == "batch":
                mean, variance = next(statistics)
            inverse = 1 / np.sqrt(variance + network.dtype.type(1e-5))
            norm = _Norm(kind, (z - mean) * inverse, inverse, gain)
            y = gain * norm.normed + shift
        a, slope = kernels.activate(name, y)
        for values, value in zip(result.__dict__.values(), (z, y, a, slope, norm), strict=True):
            values.append(value)
    return result


def first_bad_layer(network: Network, X: np.ndarray) -> int:
    """The first layer whose z is not finite on these rows; the last if all are."""
    with np.errstate(all="ignore"):
        zs = forward(network, X).z
    for index, z in enumerate(zs):
        if not np.isfinite(z).all():
            return index
    return len(zs) - 1


def trace(network: Network, X: ArrayLike, y: ArrayLike) -> Trace:
    """Every number of a forward and a backward pass of rows, in the network's dtype.

    z_l = a_{l-1} W_l + b_l, a_l = g_l(z_l); dz_L = p - y; da_{l-1} = dz_l W_l^T,
    dz_{l-1} = da_{l-1} * g'(z_{l-1}); dw_l = a_{l-1}^T dz_l / n, db_l = mean of dz_l. A
    normalisation comes between z and g, as predictions do it; factors of X's columns multiply
    a_0.

    Arguments:
        X: (n, inputs); y: (n,) for one output or (n, k) for k, in [0, 1].

    Returns: a Trace with one LayerTrace a layer. The last layer's da is dC/dp, which is
    infinite where p is 0 or 1 and the label is not; its dz is right all the same.

    Raises: ValueError as `Network.loss_gradient` does.

    Example:
        >>> import bcenet
        >>> net = bcenet.Network([1, 1], dtype="float64")
        >>> net.parameters[:] = [2.0, 0.0]
        >>> layer = net.trace([[0.0], [20.0]], [1, 1]).layers[0]
        >>> layer.z.ravel().tolist(), layer.dz.ravel().tolist()
        ([0.0, 40.0], [-0.5, -4.248354255291589e-18])
        >>> print(net.trace([[0.0], [20.0]], [1, 1]))
        largest absolute value of each layer
        layer  units          z          y          a         da         dz         dw         db
            0      1  4.000e+01  4.000e+01  1.000e+00  2.000e+00  5.000e-01  4.248e-17  2.500e-01
        <BLANKLINE>
        last layer: da = dC/dp, dz = p - y
          row  label            z            a           da           dz
            0      0  0.00000e+00  5.00000e-01 -2.00000e+00 -5.00000e-01
            1      0  4.00000e+01  1.00000e+00 -1.00000e+00 -4.24835e-18
    """
    rows = rows_.check(network, X, y)
    targets = rows.y.reshape(rows.n, -1).astype(network.dtype)
    passed = forward(network, rows.X)
    inputs = sparse.dense(rows.X, network.dtype)
    befores = [inputs if network.scale is None else inputs * network.scale, *passed.a[:-1]]
    ones = np.ones((1, rows.n), network.dtype)
    mean = network.dtype.type(1 / rows.n)
    z = passed.z[-1]
    dz = losses.bce_gradient(z, targets, reduction="none")  # [formula fused-gradient]
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where np.where takes the 0
        # dC/dp = (1 - y) / (1 - p) - y / p, with 1 - p = s(-z) to its last digit.
        away = np.where(targets < 1, (1 - targets) / losses.sigmoid(-z), 0)
        da = away - np.where(targets > 0, targets / losses.sigmoid(z), 0)
    layers: list[LayerTrace] = []
    for index in range(len(passed.z) - 1, -1, -1):
        # [formula weight-gradient]
        dw = kernels.product(befores[index], dz, transpose_a=True) * mean
        db = kernels.product(ones, dz)[0] * mean  # [formula bias-gradient]
        layers.append(LayerTrace(passed.z[index], passed.y[index], passed.a[index], da, dz, dw, db))
        if index > 0:
            # [formula hidden-da]
            da = kernels.product(dz, np.ascontiguousarray(network.coefs[index].T))
            dz = da * passed.slopes[index - 1]  # [formula hidden-dz]
            norm = passed.norms[index - 1]
            if norm is not None:
                dz = norm.backward(dz)
    return Trace(layers[::-1])


def inference_engine(
    network: Network, count: int, objective: Objective | None = None, *, is_sparse: bool = False
) -> kernels.Engine:
    """An engine for forward passes with a network's parameters as they are now."""
    native = None if objective is None else objective.native()
    entries = 0 if is_sparse else -1
    engine = kernels.Engine(
        network.shape, network.dtype, 0, count, objective=native, entries=entries
    )
    engine.load("parameters", network.parameters)
    engine.load("statistics", network.statistics)
    return engine


class GradientPass:
    """Loss and gradient over all of some rows, for one set of parameters after another.

    The network is taken as predictions take it: running statistics, nothing dropped. More than
    4096 rows are taken in parts, whose gradients are added in float64, so the memory does not
    grow with them.
    """

    _PART = 4096

    def __init__(
        self, network: Network, rows: rows_.Rows, objective: Objective, n_threads: int | None
    ) -> None:
        part = min(rows.n, self._PART)
        count = threads.choose(n_threads, 3 * network._work(part))
        self._rows, self._part = rows, part
        self._sources = rows.sources()
        self._labels = network.layer_sizes[-1] if objective.label_sum else 1
        self._flat = np.empty_like(network.parameters)
        self._engine = kernels.Engine(
            network.shape,
            network.dtype,
            part,
            count,
            objective=objective.native(),
            entries=rows.most_entries(part),
        )
        self._engine.load("statistics", network.statistics)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """(mean loss, its gradient, flat and float64); a loss that is not finite gives NaN."""
        loss, weight, gradient = self.sums(parameters)
        return loss / weight * self._labels, gradient / weight * self._labels

    def sums(self, parameters: np.ndarray) -> tuple[float, float, np.ndarray]:
        """(loss, weight, gradient of the loss) summed over the rows: nothing is divided yet."""
        self._engine.load("parameters", parameters)
        total = np.zeros(parameters.size)
        loss = weight = 0.0
        for batch in range(-(-self._rows.n // self._part)):
            passed = self._engine.train(
                self._sources, self._part, range(batch, batch + 1), stage="gradient"
            )
            pending = self._engine.take_pending()
            if pending is not None:
                raise pending
            if passed.status != "done":
                return np.nan, np.nan, np.full(parameters.size, np.nan)
            if passed.weight > 0:
                self._engine.store("gradient", self._flat)
                total += passed.weight / self._labels * self._flat.astype(np.float64)
            loss += passed.loss
            weight += passed.weight
        return loss, weight, total

    def publish(self, parameters: np.ndarray, to: np.ndarray) -> None:
        """Copy parameters to where others read them, in one call: never a mixture."""
        self._engine.load("parameters", parameters)
        self._engine.publish([("parameters", to)], [])

    def close(self) -> None:
        self._engine.close()


def loss_gradient(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Gradient]:
    """The mean loss over rows and its gradient by every parameter, by the training engine.

    loss = sum(w * l) / sum(w) over all label elements (w = 1 without weights), l as in
    `bcenet.bce_loss`; batch normalisation takes its running statistics, as predictions do.

    Arguments:
        X: (n, inputs); y: (n,) for one output or (n, k) for k, in [0, 1].
        sample_weight: (n,) or y's shape, not negative. pos_weight: a number or (k,).
        label_smoothing: in [0, 1].

    Returns: (loss as a float, Gradient with coefs, intercepts, norms, scale and flat).

    Raises: ValueError for shapes that don't match, values out of range, NaN or infinity in X
    (with row and column), weights that sum to 0.

    Example:
        >>> import bcenet
        >>> net = bcenet.Network([1, 1], dtype="float64")
        >>> net.parameters[:] = [0.0, 0.0]
        >>> loss, gradient = net.loss_gradient([[1.0], [3.0]], [0, 1])
        >>> round(loss, 6), gradient.coefs[0].tolist(), gradient.intercepts[0].tolist()
        (0.693147, [[-0.5]], [0.0])
    """
    rows = rows_.check(network, X, y, sample_weight)
    objective = Objective.of(
        network.layer_sizes[-1], pos_weight=pos_weight, label_smoothing=label_smoothing
    )
    gradient_pass = GradientPass(network, rows, objective, None)
    try:
        loss, gradient = gradient_pass(network.parameters)
    finally:
        gradient_pass.close()
    if np.isnan(loss):  # what it really is: infinite, perhaps
        total, weight = losses_of(network, rows, objective)
        loss = total / weight
    return loss, Gradient.of(network.shape, gradient.astype(network.dtype))


def row_gradients(
    network: Network, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> np.ndarray:
    """The gradient of each row's own loss by every parameter, for influence and for privacy.

    Row i holds d/d(parameters) of the mean of w * l over the labels of row i: their mean over
    rows is `loss_gradient`'s. Batch normalisation takes its running statistics.

    Arguments:
        X: (n, inputs); y: (n,) for one output or (n, k) for k, in [0, 1].
        sample_weight: (n,), not negative: a factor of the row's gradient.

    Returns: (n, parameters) in the network's dtype, each row laid out as ``Network.parameters``.

    Raises: ValueError as `loss_gradient` does; MemoryError for what does not fit.

    Example:
        >>> import bcenet
        >>> net = bcenet.Network([1, 1], dtype="float64")
        >>> net.parameters[:] = [0.0, 0.0]
        >>> net.row_gradients([[1.0], [3.0]], [0, 1]).tolist()
        [[0.5, 0.5], [-1.5, -0.5]]
    """
    rows = rows_.check(network, X, y, sample_weight)
    if rows.weight is not None and rows.weight.ndim != 1:
        raise ValueError(f"sample_weight must have shape ({rows.n},); got {rows.weight.shape}")
    objective = Objective.of(network.layer_sizes[-1])
    engine = kernels.Engine(
        network.shape,
        network.dtype,
        1,
        1,
        objective=objective.native(),
        entries=rows.most_entries(1),
    )
    engine.load("parameters", network.parameters)
    engine.load("statistics", network.statistics)
    out = np.zeros((rows.n, network.parameters.size), network.dtype)
    unweighted = rows_.Rows(rows.X, rows.y, None, None)
    status = engine.gradients(unweighted.sources(), 1, out)
    pending = engine.take_pending()
    if pending is not None:
        raise pending
    if status != "done":
        raise ValueError("the loss must be finite for every row; it is not")
    if rows.weight is not None:
        out *= rows.weight.astype(network.dtype)[:, np.newaxis]
    return out


def losses_of(
    network: Network, rows: rows_.Rows, objective: Objective, n_threads: int | None = None
) -> tuple[float, float]:
    """(weighted loss, weight) over checked rows, by the engine's forward pass."""
    is_sparse = sparse.is_sparse(rows.X)
    entries = rows.X.nnz if is_sparse else -1
    count = threads.choose(n_threads, network._work(rows.n, entries))
    return inference_engine(network, count, objective, is_sparse=is_sparse).evaluate(rows.sources())

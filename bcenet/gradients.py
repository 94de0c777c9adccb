"""Seeing and checking gradients: of the loss by every parameter, and of everything between.

The formulas, row-major and batch first, with g' the derivative of an activation:

    dz_L = p - y (sigmoid outputs with binary cross-entropy: see `bcenet.bce_gradient`)
    da_{l-1} = dz_l W_l^T,  dz_{l-1} = da_{l-1} * g'(z_{l-1})
    dW_l = a_{l-1}^T dz_l,  db_l = sum over rows of dz_l
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, kernels, losses, threads
from bcenet.parameters import split
from bcenet.records import Record

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bcenet.network import Network


class Gradient(Record):
    """A gradient, laid out as the parameters are.

    Attributes:
        coefs: one (fan_in, fan_out) a layer; intercepts: one (fan_out,) a layer; both views of
        flat: W1, b1, W2, b2, … in one array.
    """

    coefs: list[np.ndarray]
    intercepts: list[np.ndarray]
    flat: np.ndarray


class LayerTrace(Record):
    """One layer of a trace, n rows: z, a, da and dz are (n, fan_out); dw is (fan_in, fan_out),
    db (fan_out,). da and dz belong to each row's own loss; dw and db are means over rows, so for
    k outputs they are k times the gradient of the mean over all label elements."""

    z: np.ndarray
    a: np.ndarray
    da: np.ndarray
    dz: np.ndarray
    dw: np.ndarray
    db: np.ndarray


class Trace(Record):
    """Every number of a forward and a backward pass: ``layers[i]``, from the first hidden on."""

    layers: list[LayerTrace]


class LayerCheck(Record):
    """One layer of a gradient check.

    Attributes:
        index: from 0. passed: whether the largest error is within the tolerance.
        max_relative_error: |given - finite difference| over the layer's largest entry.
        mistake: None, or "unknown" where the gradient is wrong.
        checked: entries compared; skipped: entries left out, where a step crosses a kink.
    """

    index: int
    passed: bool
    max_relative_error: float
    mistake: str | None
    checked: int
    skipped: int


class GradientCheck(Record):
    """What `check_gradient` found: ``passed``, and one LayerCheck a layer in ``layers``."""

    passed: bool
    layers: list[LayerCheck]

    def __str__(self) -> str:
        lines = ["layer  verdict  largest relative error  compared"]
        for layer in self.layers:
            verdict = "right" if layer.passed else "WRONG"
            lines.append(
                f"{layer.index:5d}  {verdict:7s}  {layer.max_relative_error:22.2e}  "
                f"{layer.checked:8d}"
            )
        return "\n".join(lines)


def forward(network: Network, X: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], list]:
    """z, a and g'(z) of every layer, with the engine's own bits; the last a is the sigmoid."""
    a = np.array(X, network.dtype, order="C")  # (n, fan_in)
    zs, activations, slopes = [], [], []
    for weights, intercept, name in zip(
        network.coefs, network.intercepts, network.activations, strict=True
    ):
        # The logits of a network of this layer alone.
        engine = kernels.Engine(weights.shape, ("sigmoid",), network.dtype, 0, 1)
        engine.load("parameters", np.concatenate((weights.ravel(), intercept)))
        z = np.full((len(a), weights.shape[1]), np.nan, network.dtype)  # (n, fan_out)
        engine.predict(kernels.source(a), z, probabilities=False)
        a, slope = kernels.activate(name, z)
        zs.append(z)
        activations.append(a)
        slopes.append(slope)
    return zs, activations, slopes


def first_bad_layer(network: Network, X: np.ndarray) -> int:
    """The first layer whose z is not finite on these rows; the last if all are."""
    with np.errstate(all="ignore"):
        zs, _, _ = forward(network, X)
    for index, z in enumerate(zs):
        if not np.isfinite(z).all():
            return index
    return len(zs) - 1


def trace(network: Network, X: ArrayLike, y: ArrayLike) -> Trace:
    """Every number of a forward and a backward pass of rows, in the network's dtype.

    z_l = a_{l-1} W_l + b_l, a_l = g_l(z_l); dz_L = p - y; da_{l-1} = dz_l W_l^T,
    dz_{l-1} = da_{l-1} * g'(z_{l-1}); dw_l = a_{l-1}^T dz_l / n, db_l = mean of dz_l.

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
    """
    rows = network.check_rows(X)
    n = rows.shape[0]
    if n == 0:
        raise ValueError("X must have at least one row; got 0")
    targets = network.check_targets(y, n).reshape(n, -1).astype(network.dtype)
    zs, activations, slopes = forward(network, rows)
    befores = [np.array(rows, network.dtype, order="C"), *activations[:-1]]
    ones = np.ones((1, n), network.dtype)
    mean = network.dtype.type(1 / n)
    dz = losses.bce_gradient(zs[-1], targets, reduction="none")
    with np.errstate(divide="ignore"):
        # dC/dp = (1 - y) / (1 - p) - y / p, with 1 - p = s(-z) to its last digit.
        away = np.where(targets < 1, (1 - targets) / losses.sigmoid(-zs[-1]), 0)
        da = away - np.where(targets > 0, targets / losses.sigmoid(zs[-1]), 0)
    layers: list[LayerTrace] = []
    for index in range(len(zs) - 1, -1, -1):
        dw = kernels.product(befores[index], dz, transpose_a=True) * mean
        db = kernels.product(ones, dz)[0] * mean
        layers.append(LayerTrace(zs[index], activations[index], da, dz, dw, db))
        if index > 0:
            da = kernels.product(dz, np.ascontiguousarray(network.coefs[index].T))
            dz = da * slopes[index - 1]
    return Trace(layers[::-1])


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
    `bcenet.bce_loss`. Memory grows with the rows: all activations are held.

    Arguments:
        X: (n, inputs); y: (n,) for one output or (n, k) for k, in [0, 1].
        sample_weight: (n,) or y's shape, not negative. pos_weight: a number or (k,).
        label_smoothing: in [0, 1].

    Returns: (loss as a float, Gradient with coefs, intercepts and flat).

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
    rows = network.check_rows(X)
    n = rows.shape[0]
    if n == 0:
        raise ValueError("X must have at least one row; got 0")
    targets = network.check_targets(y, n)
    weight = check_weight(sample_weight, targets, network.dtype)
    pos = losses.pos_weight_array(pos_weight, network.layer_sizes[-1])
    smoothing = checks.number("label_smoothing", label_smoothing, 0.0, 1.0)
    count = threads.choose(None, 3 * network._work(n))
    engine = kernels.Engine(network.layer_sizes, network.activations, network.dtype, n, count)
    engine.load("parameters", network.parameters)
    status, _, loss, weights, _ = engine.train(
        kernels.source(rows),
        kernels.source(targets),
        kernels.optional_source(weight),
        None,
        n,
        range(1),
        pos,
        smoothing,
        stage="gradient",
    )
    engine.close()
    pending = engine.take_pending()
    if pending is not None:
        raise pending
    flat = np.empty_like(network.parameters)
    if status == "done":
        engine.store("gradient", flat)
    else:  # a loss that is not finite: the gradient says so too
        flat[...] = np.nan
        loss, weights = losses_of(network, rows, targets, weight, pos, smoothing)
    return loss / weights, Gradient(*split(flat, network.layer_sizes), flat)


def losses_of(
    network: Network,
    rows: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
    pos: np.ndarray | None,
    smoothing: float,
    n_threads: int | None = None,
) -> tuple[float, float]:
    """(weighted loss, weight) over checked rows, by the engine's forward pass."""
    count = threads.choose(n_threads, network._work(rows.shape[0]))
    engine = kernels.Engine(network.layer_sizes, network.activations, network.dtype, 0, count)
    engine.load("parameters", network.parameters)
    return engine.evaluate(
        kernels.source(rows),
        kernels.source(targets),
        kernels.optional_source(weight),
        pos,
        smoothing,
    )


def check_weight(
    sample_weight: Any, targets: np.ndarray, dtype: np.dtype, name: str = "sample_weight"
) -> np.ndarray | None:
    """Weights of shape (n,) or the targets' shape, finite, not negative, not all 0; or None."""
    if sample_weight is None:
        return None
    weight = losses.check_sample_weight(sample_weight, targets.shape)
    if losses.sum_weights(weight, dtype, name) == 0:
        raise ValueError(f"{name} must not be 0 everywhere")
    return weight


# Entries compared in each of a layer's two arrays: enough to meet every row and column pattern.
_MOST_ENTRIES = 200


def check_gradient(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    gradients: Gradient | list[tuple[ArrayLike, ArrayLike]] | None = None,
    orientation: str = "auto",
) -> GradientCheck:
    """Compare a gradient of the mean loss with finite differences, layer by layer.

    Central differences (C(w + h) - C(w - h)) / 2 h of a float64 copy of the network, over all
    entries of a layer or 200 of each array, spread evenly. Where the one-sided differences
    disagree a kink lies between (a ReLU changes sides) and the entry is skipped and counted.

    Arguments:
        network: the network; X, y: rows as for `Network.loss_gradient`.
        gradients: None checks bcenet's own; or one (dW, db) a layer, or a Gradient, to check.
        orientation: of ``gradients``: "rows" for dW of (fan_in, fan_out), "columns" for
            (fan_out, fan_in) with db of (fan_out,) or (fan_out, 1); "auto" takes what fits.

    Returns: a GradientCheck. An entry is right within 1e-6 of the layer's largest (1e-4 where
    a float32 gradient is given).

    Raises: ValueError for gradients of the wrong number or shapes.

    Example:
        >>> import bcenet, numpy as np
        >>> net = bcenet.Network([3, 5, 1], activation="tanh", random_state=0)
        >>> X, y = np.eye(3), np.array([0, 1, 1])
        >>> bcenet.check_gradient(net, X, y).passed
        True
        >>> _, g = net.loss_gradient(X, y)
        >>> wrong = [(g.coefs[0], g.intercepts[0]), (-g.coefs[1], g.intercepts[1])]
        >>> [layer.passed for layer in bcenet.check_gradient(net, X, y, wrong).layers]
        [True, False]
    """
    rows = network.check_rows(X)
    targets = network.check_targets(y, rows.shape[0])
    if gradients is None:
        _, own = loss_gradient(network, rows, targets)
        pairs: list[tuple[Any, Any]] = list(zip(own.coefs, own.intercepts, strict=True))
        orientation = "rows"
    elif isinstance(gradients, Gradient):
        pairs = list(zip(gradients.coefs, gradients.intercepts, strict=True))
    else:
        pairs = gradients
    given = _oriented(network, pairs, orientation)
    exact = type(network).from_config(
        {**network.config(), "dtype": "float64"}, network.parameters.astype(np.float64)
    )
    single = any(array.dtype.itemsize < 8 for pair in given for array in pair)
    tolerance = 1e-4 if single else 1e-6
    layers = []
    for index, pair in enumerate(given):
        numeric, claimed, skipped = [], [], 0
        parameters = (exact.coefs[index], exact.intercepts[index])
        for values, claim in zip(parameters, pair, strict=True):
            entries = np.unique(
                np.linspace(0, values.size - 1, min(values.size, _MOST_ENTRIES)).astype(int)
            )
            for entry in entries:
                slope = _difference(exact, rows, targets, values.reshape(-1), entry)
                if slope is None:
                    skipped += 1
                else:
                    numeric.append(slope)
                    claimed.append(float(claim.reshape(-1)[entry]))
        truth, claims = np.array(numeric), np.array(claimed)
        scale = float(np.abs(truth).max(initial=0.0))
        error = float(np.abs(claims - truth).max(initial=0.0))
        relative = error / scale if scale > 0 else (np.inf if error > 0 else 0.0)
        # A layer that vanishes is compared with the noise of the differences themselves.
        passed = bool(relative <= tolerance or error <= 1e-10)
        layers.append(
            LayerCheck(
                index, passed, relative, None if passed else "unknown", len(numeric), skipped
            )
        )
    return GradientCheck(all(layer.passed for layer in layers), layers)


def _difference(
    network: Network, rows: np.ndarray, targets: np.ndarray, values: np.ndarray, entry: int
) -> float | None:
    """The central difference by one parameter, or None where a kink lies in the step."""
    kept = values[entry]
    # The cube root of the rounding unit balances rounding (u / h) and truncation (h^2).
    step = 6e-6 * max(1.0, abs(kept))
    loss = []
    for shift in (-step, 0.0, step):
        values[entry] = kept + shift
        total, weight = losses_of(network, rows, targets, None, None, 0.0)
        loss.append(total / weight)
    values[entry] = kept
    left, right = (loss[1] - loss[0]) / step, (loss[2] - loss[1]) / step
    # Smooth losses differ by h C'', about 1e-5; a kink by the whole jump of the slope.
    if abs(left - right) > 1e-3 * max(abs(left), abs(right)) + 1e-4:
        return None
    return (loss[2] - loss[0]) / (2 * step)


def _oriented(
    network: Network, gradients: list[tuple[Any, Any]], orientation: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gradients as (fan_in, fan_out) and (fan_out,), whatever orientation they came in."""
    checks.choice("orientation", orientation, ("auto", "rows", "columns"))
    if not isinstance(gradients, (list, tuple)) or len(gradients) != len(network.coefs):
        raise ValueError(
            f"gradients must be a list of (dW, db), one a layer ({len(network.coefs)}); "
            f"got {checks.describe(gradients)}"
        )
    pairs = [
        (checks.real_array("gradients", dw), checks.real_array("gradients", db))
        for dw, db in gradients
    ]
    shapes = [weights.shape for weights in network.coefs]
    rows = all(dw.shape == shape for (dw, _), shape in zip(pairs, shapes, strict=True))
    columns = all(dw.shape == shape[::-1] for (dw, _), shape in zip(pairs, shapes, strict=True))
    if orientation == "auto":
        # Column-shaped biases settle it where every layer is square.
        upright = all(db.ndim == 2 for _, db in pairs)
        orientation = "columns" if columns and (not rows or upright) else "rows"
    result = []
    for index, ((dw, db), shape) in enumerate(zip(pairs, shapes, strict=True)):
        wanted = shape if orientation == "rows" else shape[::-1]
        if dw.shape != wanted:
            raise ValueError(
                f"gradients[{index}] must have a dW of shape {wanted} "
                f"(orientation {orientation!r}); got {dw.shape}"
            )
        if db.size != shape[1] or db.shape not in ((shape[1],), (shape[1], 1), (1, shape[1])):
            raise ValueError(
                f"gradients[{index}] must have a db of shape ({shape[1]},); got {db.shape}"
            )
        result.append((dw if orientation == "rows" else dw.T, db.reshape(-1)))
    return result

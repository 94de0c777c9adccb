"""The slow twin: everything that bcenet's native code computes, in plain NumPy, as on paper.

The tests hold every fast kernel against these few lines, so they are written for reading:
no blocking, no threads, no tricks. All functions work in the dtype of their input: float32,
float64 or `np.longdouble` (80 bits on x86), the last being the oracle of the float64 kernels.

Shapes: X is (n, features); layer l has W (fan_in, fan_out), b (fan_out,), z and a
(n, fan_out). Gradients carry the prefix d: `dz` is the derivative of the cost with respect
to z.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

# ---------------------------------------------------------------------------- activations
# Each takes z and gives (a, derivative of a with respect to z).


def sigmoid(z):
    """1 / (1 + e^-z), from e^-|z|, which never overflows."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def _identity(z):
    return z.copy(), np.ones_like(z)


def _relu(z):
    return np.maximum(z, 0), (z > 0).astype(z.dtype)


def _leaky_relu(z):
    slope = z.dtype.type("0.01")
    return np.where(z > 0, z, slope * z), np.where(z > 0, z.dtype.type(1), slope)


def _elu(z):
    below = np.minimum(z, 0)
    return np.where(z > 0, z, np.expm1(below)), np.exp(below)


def _selu(z):
    # Klambauer et al., "Self-Normalizing Neural Networks", 2017.
    alpha = z.dtype.type("1.6732632423543772848170429916717")
    scale = z.dtype.type("1.0507009873554804934193349852946")
    below = np.minimum(z, 0)
    a = scale * np.where(z > 0, z, alpha * np.expm1(below))
    return a, scale * np.where(z > 0, z.dtype.type(1), alpha * np.exp(below))


def normal_pdf(z):
    """Density of the standard normal distribution, e^(-z^2 / 2) / sqrt(2 pi)."""
    return np.exp(-z * z / 2) / z.dtype.type("2.5066282746310005024157652848110452530")


def normal_cdf(z):
    """Distribution function of the standard normal distribution, right to the tails.

    Around 0 the series 1/2 + pdf(z) (z + z^3/3 + z^5/(3 5) + z^7/(3 5 7) + ...); beyond
    |z| = 3 Laplace's continued fraction pdf(z) / (z + 1/(z + 2/(z + 3/(z + ...)))) of the
    upper tail (Abramowitz and Stegun 26.2.11 and 26.2.14).
    """
    inner = np.clip(z, -3, 3)
    term = inner.copy()
    total = inner.copy()
    for k in range(3, 141, 2):
        term = term * inner * inner / k
        total = total + term
    centre = z.dtype.type(0.5) + normal_pdf(inner) * total

    outer = np.maximum(np.abs(z), 3)
    fraction = outer.copy()
    for k in range(100, 0, -1):
        fraction = outer + k / fraction
    tail = normal_pdf(outer) / fraction
    return np.where(np.abs(z) <= 3, centre, np.where(z < 0, tail, 1 - tail))


def _gelu(z):
    # Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: the exact form.
    cdf = normal_cdf(z)
    return z * cdf, cdf + z * normal_pdf(z)


def _silu(z):
    s = sigmoid(z)
    return z * s, s * (1 + z * sigmoid(-z))


def _tanh(z):
    a = np.tanh(z)
    return a, 1 - a * a


def _sigmoid(z):
    s = sigmoid(z)
    return s, s * sigmoid(-z)


def _softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), sigmoid(z)


ACTIVATIONS = {
    "identity": _identity,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": _silu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
}

# --------------------------------------------------------------------------------- losses
# Each takes logits z and targets t and gives (loss, dz), both per element.


def _times(weight, value):
    """weight * value, where a weight of 0 gives 0 even for an infinite value."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0, weight * value)


def _bce(z, t, pos_weight=1.0, label_smoothing=0.0):
    """Binary cross-entropy -[w t log s(z) + (1-t) log s(-z)], w = pos_weight.

    With L = log(1 + e^-|z|): -log s(-z) = L + max(z, 0) and -log s(z) = L + max(-z, 0).
    """
    w = np.asarray(pos_weight, z.dtype)
    e = z.dtype.type(label_smoothing)
    t = t.astype(z.dtype) * (1 - e) + e / 2
    tail = np.log1p(np.exp(-np.abs(z)))
    linear = np.where(z > 0, _times(1 - t, z), _times(w * t, -z))
    loss = ((1 - t) + w * t) * tail + linear
    dz = (1 - t) * sigmoid(z) - w * t * sigmoid(-z)
    return loss, dz


def _focal(z, t, pos_weight=1.0, label_smoothing=0.0, gamma=2.0):
    """Each term of the cross-entropy times the probability of the other label to the gamma.

    (1-t) s(z)^gamma log(1 + e^z) + w t s(-z)^gamma log(1 + e^-z), w = pos_weight: Lin et al.,
    "Focal loss for dense object detection", 2017.
    """
    w = np.asarray(pos_weight, z.dtype)
    e = z.dtype.type(label_smoothing)
    g = z.dtype.type(gamma)
    t = t.astype(z.dtype) * (1 - e) + e / 2
    p, q = sigmoid(z), sigmoid(-z)
    tail = np.log1p(np.exp(-np.abs(z)))
    above, below = tail + np.maximum(z, 0), tail + np.maximum(-z, 0)  # -log q, -log p
    negative, positive = (1 - t) * p**g, w * t * q**g
    loss = _times(negative, above) + _times(positive, below)
    # dp/dz = p q and dq/dz = -p q, d above/dz = p and d below/dz = -q
    dz = negative * (g * _times(q, above) + p) - positive * (g * _times(p, below) + q)
    return loss, dz


LOSSES = {"bce": _bce, "focal": _focal}


def element_weights(sample_weight, shape, dtype):
    """`sample_weight`, None or (n,) or `shape`, as one weight for each element of `shape`."""
    if sample_weight is None:
        return np.ones(shape, dtype)
    weight = np.asarray(sample_weight, dtype)
    if weight.shape != shape:
        weight = weight.reshape(-1, *[1] * (len(shape) - 1))  # (n,) -> (n, 1, ...)
    return np.broadcast_to(weight, shape)


def reduced_loss(z, t, *, sample_weight=None, reduction="mean", **options):
    """(loss, gradient) as `bcenet.bce_loss_gradient` defines them."""
    weight = element_weights(sample_weight, z.shape, z.dtype)
    loss, dz = _bce(z, t, **options)
    loss, dz = _times(weight, loss), _times(weight, dz)
    if reduction == "none":
        return loss, dz
    if reduction == "sum":
        return loss.sum(), dz
    return loss.sum() / weight.sum(), dz / weight.sum()


# ------------------------------------------------------------------------- normalizations
# x = (z - mean) / sqrt(variance + 1e-5), and then y = gain x + shift. Mean and variance are taken
# over this axis of z, (n, fan_out): of each column over the rows, or of each row over its columns.

NORMALIZATIONS = {None: None, "batch": 0, "layer": 1}


def normalize(z, kind, running=None):
    """(x, 1 / deviation); `running` is a (mean, variance) to take in the place of the batch's."""
    if running is None:
        axis = NORMALIZATIONS[kind]
        mean, variance = z.mean(axis, keepdims=True), z.var(axis, keepdims=True)
    else:
        mean, variance = running
    inverse = 1 / np.sqrt(variance + z.dtype.type("1e-5"))
    return (z - mean) * inverse, inverse


def normalize_back(dx, x, inverse, kind, running=None):
    """dz from dx. z enters x itself, and through the mean and the variance if those are its own."""
    if running is not None:
        return inverse * dx
    axis = NORMALIZATIONS[kind]
    through_mean = dx.mean(axis, keepdims=True)
    through_variance = x * (dx * x).mean(axis, keepdims=True)
    return inverse * (dx - through_mean - through_variance)


# ---------------------------------------------------------------------------- the network
# A network is the list of its parts, one (W, b) a layer, then one (gain, shift) a normalised layer,
# then (factors of X's columns,) if it has them; with the list of its activations' names, the last
# one "sigmoid", and of its normalizations, None for the last. y is (n,) for one output, else
# (n, k).


def unflatten(parameters, layer_sizes, normalization=None, feature_scale=False):
    """The parts of a network, as views into the flat array W1, b1, W2, b2, ..."""
    shapes = [((i, o), (o,)) for i, o in itertools.pairwise(layer_sizes)]
    shapes += [
        ((o,), (o,))
        for o, kind in zip(layer_sizes[1:], normalization or (), strict=False)
        if kind is not None
    ]
    if feature_scale:
        shapes.append((layer_sizes[:1],))
    parts, at = [], 0
    for part in shapes:
        views = []
        for shape in part:
            views.append(parameters[at : at + math.prod(shape)].reshape(shape))
            at += math.prod(shape)
        parts.append(tuple(views))
    assert at == parameters.size
    return parts


def flatten(parts):
    """The flat array of a list of (W, b) and so on, or of (dw, db) and so on."""
    return np.concatenate([values.ravel() for part in parts for values in part])


def pairs(statistics, layer_sizes, normalization):
    """The running (mean, variance) a layer, views into a flat array; None if it has none."""
    result, at = [], 0
    for width, kind in zip(layer_sizes[1:], normalization, strict=True):
        if kind == "batch":
            result.append((statistics[at : at + width], statistics[at + width : at + 2 * width]))
            at += 2 * width
        else:
            result.append(None)
    return result


class Pass(NamedTuple):
    """What one layer computes of its input: y = z where nothing is normalised."""

    input: np.ndarray
    z: np.ndarray
    x: np.ndarray | None
    inverse: np.ndarray | None
    y: np.ndarray
    a: np.ndarray
    slope: np.ndarray  # of a with respect to y


def forward(parts, activations, X, *, normalization=None, running=None, masks=None):
    """One Pass a layer; the last a is P(y = 1).

    `running` holds a (mean, variance) a layer for a batch normalisation, as in prediction; without
    them it takes the batch's. `masks` holds a factor for each unit, (n, fan_out), a layer, or None:
    0 for a unit that is dropped.
    """
    layers, rest = parts[: len(activations)], parts[len(activations) :]
    normalization = normalization or [None] * len(layers)
    gains = iter(rest)
    a = X * rest[-1][0] if rest and len(rest[-1]) == 1 else X
    passes = []
    for index, ((W, b), name, kind) in enumerate(
        zip(layers, activations, normalization, strict=True)
    ):
        before = a
        z = y = before @ W + b
        x = inverse = None
        if kind is not None:
            gain, shift = next(gains)
            x, inverse = normalize(z, kind, running and running[index])
            y = gain * x + shift
        a, slope = ACTIVATIONS[name](y)
        if masks is not None and masks[index] is not None:
            a, slope = a * masks[index], slope * masks[index]
        passes.append(Pass(before, z, x, inverse, y, a, slope))
    return passes


def backward(
    parts,
    activations,
    X,
    y,
    *,
    sample_weight=None,
    loss="bce",
    label_sum=False,
    masked=False,
    offset=None,
    normalization=None,
    running=None,
    masks=None,
    **options,
):
    """The mean loss, the dz of every layer, row by row, and the mean gradients of all parts.

    The mean runs over all label elements: with k outputs and weights (n,) its divisor is
    k * sum(w); or sum(w) with `label_sum`, where a row's loss is the sum over its labels. With
    `masked` a NaN in y weighs nothing. `dz` holds each row's own derivative, times its weight.
    """
    passes = forward(
        parts, activations, X, normalization=normalization, running=running, masks=masks
    )
    z = passes[-1].z
    if offset is not None:
        z = z + np.asarray(offset, z.dtype).reshape(len(z), -1)
    targets = np.asarray(y).reshape(z.shape)
    weight = element_weights(sample_weight, z.shape, z.dtype)
    if masked:
        weight = np.where(np.isnan(targets), 0, weight)
        targets = np.nan_to_num(targets)
    divisor = weight.sum() / (z.shape[1] if label_sum else 1)
    losses, dz = LOSSES[loss](z, targets, **options)
    losses, dz = _times(weight, losses), _times(weight, dz)

    layers, rest = parts[: len(activations)], parts[len(activations) :]
    normalization = normalization or [None] * len(layers)
    gains = [part for part in rest if len(part) == 2]
    dzs, gradients, gain_gradients = [], [], []
    for index in reversed(range(len(layers))):
        here = passes[index]
        if normalization[index] is not None:
            dy = dz
            gain, _ = gains.pop()
            gain_gradients.insert(
                0, ((dy * here.x).sum(axis=0) / divisor, dy.sum(axis=0) / divisor)
            )
            dz = normalize_back(
                gain * dy, here.x, here.inverse, normalization[index], running and running[index]
            )
        dw = here.input.T @ dz / divisor
        db = dz.sum(axis=0) / divisor
        dzs.insert(0, dz)
        gradients.insert(0, (dw, db))
        da = dz @ layers[index][0].T
        if index:
            dz = da * passes[index - 1].slope
    gradients += gain_gradients
    if rest and len(rest[-1]) == 1:
        gradients.append(((da * X).sum(axis=0) / divisor,))
    return losses.sum() / divisor, dzs, gradients


# ----------------------------------------------------------------------------- optimizers
# Each changes the flat parameters w in place by one step along the flat mean gradient g.
# `state` keeps what it remembers from step to step, `step` counts from 1, `decays` is 1
# where weight decay applies (coefs) and 0 where it does not, and `factors` multiplies the
# learning rate: a number, or one a parameter.


def _memory(state, name, w):
    return state.setdefault(name, np.zeros_like(w))


def _sgd(
    w,
    g,
    state,
    step,
    decays,
    factors=1.0,
    *,
    learning_rate=0.01,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    rate_inside=False,
):
    rate = learning_rate * factors
    w -= rate * weight_decay * decays * w
    if rate_inside:  # scikit-learn's velocity, of opposite sign
        g, rate = rate * g, 1.0
    if momentum:
        buffer = _memory(state, "momentum", w)
        buffer[:] = momentum * buffer + g
        g = g + momentum * buffer if nesterov else buffer
    w -= rate * g


def _adam(
    w,
    g,
    state,
    step,
    decays,
    factors=1.0,
    *,
    learning_rate=0.001,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
    epsilon_inside=False,
    weight_decay=0.0,
    amsgrad=False,
):
    rate = learning_rate * factors
    w -= rate * weight_decay * decays * w
    m, v = _memory(state, "m", w), _memory(state, "v", w)
    m[:] = beta_1 * m + (1 - beta_1) * g
    v[:] = beta_2 * v + (1 - beta_2) * g * g
    if amsgrad:
        top = _memory(state, "top", w)
        v = top[:] = np.maximum(top, v)
    correction_1, correction_2 = 1 - beta_1**step, 1 - beta_2**step
    if epsilon_inside:
        w -= rate * np.sqrt(correction_2) / correction_1 * m / (np.sqrt(v) + epsilon)
    else:
        w -= rate / correction_1 * m / (np.sqrt(v) / np.sqrt(correction_2) + epsilon)


def _adamw(w, g, state, step, decays, factors=1.0, *, weight_decay=0.01, **options):
    _adam(w, g, state, step, decays, factors, weight_decay=weight_decay, **options)


def _amsgrad(w, g, state, step, decays, factors=1.0, **options):
    _adam(w, g, state, step, decays, factors, amsgrad=True, **options)


def _rmsprop(w, g, state, step, decays, factors=1.0, *, learning_rate=0.001, rho=0.9, epsilon=1e-8):
    v = _memory(state, "v", w)
    v[:] = rho * v + (1 - rho) * g * g
    w -= learning_rate * factors * g / (np.sqrt(v) + epsilon)


def _lion(
    w,
    g,
    state,
    step,
    decays,
    factors=1.0,
    *,
    learning_rate=0.0001,
    beta_1=0.9,
    beta_2=0.99,
    weight_decay=0.0,
):
    rate = learning_rate * factors
    m = _memory(state, "m", w)
    direction = np.sign(beta_1 * m + (1 - beta_1) * g)
    w -= rate * weight_decay * decays * w
    w -= rate * direction
    m[:] = beta_2 * m + (1 - beta_2) * g


OPTIMIZERS = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "amsgrad": _amsgrad,
    "rmsprop": _rmsprop,
    "lion": _lion,
}

# ------------------------------------------------------------------------------- training

GROUPS = ("coefs", "intercepts", "norms", "scale")


def by_group(parts, layers, values):
    """A flat array with the value of its group for every parameter of the network's parts."""
    groups = [("coefs", "intercepts")] * layers
    groups += [("norms", "norms") if len(part) == 2 else ("scale",) for part in parts[layers:]]
    return flatten(
        [
            tuple(
                np.full_like(array, values.get(name, 1))
                for array, name in zip(part, names, strict=True)
            )
            for part, names in zip(parts, groups, strict=True)
        ]
    )


def drop_masks(rates, keys, widths, dtype):
    """A mask a layer for rows of an epoch, from `dropped`; `keys` is (seed, epoch, rows)."""
    return [
        np.where(dropped(rate, *keys, layer, width), 0, dtype.type(65536 / (65536 - rate)))
        if rate
        else None
        for layer, (rate, width) in enumerate(zip(rates, widths, strict=True))
    ]


def fit(
    parameters,
    layer_sizes,
    activations,
    X,
    y,
    *,
    order,
    optimizer="sgd",
    optimizer_options=None,
    rate_factors=None,
    batch_size=200,
    sample_weight=None,
    offset=None,
    validation_data=None,
    normalization=None,
    feature_scale=False,
    statistics=None,
    schedule=None,
    clip_norm=None,
    dropout=None,
    l1=0.0,
    l2=0.0,
    max_norm=None,
    ema=None,
    swa=None,
    **loss_options,
):
    """Train a copy of the flat `parameters`; `order` lists the row order of each epoch.

    Returns the new parameters and the history: one "loss", "penalty" and "validation_loss" an
    epoch, and "raw", the trained parameters behind an average, and "statistics". A batch whose
    weights sum to 0 is skipped. The validation loss is that of the targets as they are, without
    label smoothing.

    `schedule` lists the factors of the learning rate of each epoch's steps. `dropout` is (rates
    a layer in parts of 65536, seed). `ema` is the decay of a moving average after every step,
    `swa` the part of the epochs that come before those whose mean is taken.
    """
    w = parameters.copy()
    n_layers = len(activations)
    parts = unflatten(w, layer_sizes, normalization, feature_scale)
    normalization = list(normalization or [None] * n_layers)
    decays = by_group(parts, n_layers, {"intercepts": 0, "norms": 0, "scale": 0})
    factors = by_group(parts, n_layers, rate_factors or {})
    widths = [
        2 * width for width, kind in zip(layer_sizes[1:], normalization, strict=True)
        if kind == "batch"
    ]  # fmt: skip
    if statistics is None:
        statistics = [part for width in widths for part in np.repeat([0, 1], width // 2)]
    statistics = np.array(statistics, w.dtype)
    running = pairs(statistics, layer_sizes, normalization)
    X = np.asarray(X, w.dtype)
    y = np.asarray(y)
    weights = element_weights(sample_weight, y.shape, w.dtype)
    if offset is not None:
        offset = np.broadcast_to(np.reshape(offset, (len(y), -1)), (len(y), layer_sizes[-1]))
    loss_options = {**loss_options, "normalization": normalization}
    state, step = {}, 0
    average, averaged = w.copy(), 0
    history = {"loss": [], "penalty": [], "validation_loss": []}
    for epoch, rows in enumerate(order):
        total = total_weight = total_penalty = w.dtype.type(0)
        for number, start in enumerate(range(0, len(rows), batch_size)):
            batch = rows[start : start + batch_size]
            weight = weights[batch]
            if loss_options.get("masked"):
                weight = np.where(np.isnan(y[batch]), 0, weight)
            if weight.sum() == 0:
                continue
            divisor = weight.sum()
            if loss_options.get("label_sum"):
                divisor = divisor / layer_sizes[-1]
            batch_options = {**loss_options, "sample_weight": weight}
            if offset is not None:
                batch_options["offset"] = offset[batch]
            if dropout is not None:
                rates, seed = dropout
                keys = (seed, epoch, batch)
                batch_options["masks"] = drop_masks(rates, keys, layer_sizes[1:], w.dtype)
            loss, _, gradients = backward(parts, activations, X[batch], y[batch], **batch_options)
            g = flatten(gradients)
            penalty = l1 * np.abs(decays * w).sum() + l2 / 2 * (decays * w * w).sum()
            g += decays * (l1 * np.sign(w) + l2 * w) / divisor
            if clip_norm is not None:
                g *= min(1, clip_norm / np.sqrt((g * g).sum()))
            if statistics.size:
                move_statistics(running, parts, activations, X[batch], batch_options)
            step += 1
            factor = 1.0 if schedule is None else schedule[epoch][number]
            OPTIMIZERS[optimizer](
                w, g, state, step, decays, factors * w.dtype.type(factor),
                **(optimizer_options or {}),
            )  # fmt: skip
            if max_norm is not None:
                for W, _ in parts[:n_layers]:
                    norm = np.sqrt((W * W).sum(axis=0))
                    W *= np.where(norm > max_norm, max_norm / np.maximum(norm, max_norm), 1)
            if ema is not None:
                averaged += 1
                average += (w - average) * (1 if averaged == 1 else 1 - ema)
            total += loss * divisor
            total_weight += divisor
            total_penalty += penalty
        if swa is not None and epoch + 1 > swa * len(order):
            averaged += 1
            average += (w - average) / averaged
        published = average if averaged else w
        history["loss"].append(total / total_weight)
        history["penalty"].append(total_penalty / total_weight)
        if validation_data is not None:
            rows, targets, *rest = validation_data
            options = {**loss_options, "label_smoothing": 0.0, "running": running}
            options.update(zip(("sample_weight", "offset"), rest, strict=False))
            loss, _, _ = backward(
                unflatten(published, layer_sizes, normalization, feature_scale), activations,
                np.asarray(rows, w.dtype), targets, **options,
            )  # fmt: skip
            history["validation_loss"].append(loss)
    return published, {**history, "raw": w, "statistics": statistics}


def move_statistics(running, parts, activations, X, options):
    """Running means and variances go a tenth of the way to the batch's, its unbiased variance."""
    names = ("normalization", "masks")
    passes = forward(parts, activations, X, **{k: v for k, v in options.items() if k in names})
    n = len(X)
    for pair, here in zip(running, passes, strict=True):
        if pair is not None:
            mean, variance = pair
            mean += (here.z.mean(axis=0) - mean) / 10
            variance += (here.z.var(axis=0) * n / max(n - 1, 1) - variance) / 10


# ----------------------------------------------------------------------------- randomness


def philox4x32(counter, key):
    """Philox4x32-10: four 32-bit random words from four of counter and two of key.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    mask = 0xFFFFFFFF
    for _ in range(10):
        product_0 = 0xD2511F53 * c0
        product_1 = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product_1 >> 32) ^ c1 ^ k0,
            product_1 & mask,
            (product_0 >> 32) ^ c3 ^ k1,
            product_0 & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def row_order(seed, epoch, n):
    """The order of n rows in an epoch (from 0): Fisher-Yates with numbers out of Philox.

    The number that chooses the partner of row i depends on seed, epoch and i alone: the first
    or the second half of four random words.
    """
    order = list(range(n))
    mask = 0xFFFFFFFF
    for i in range(n - 1, 0, -1):
        counter = (i // 2 & mask, i // 2 >> 32, epoch, 0)
        words = philox4x32(counter, (seed & mask, seed >> 32))
        low, high = words[2 * (i % 2) :][:2]
        j = ((low | high << 32) * (i + 1)) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)


def dropped(rate, seed, epoch, rows, layer, n):
    """Which of n units each of the rows drops: (rows, n) of booleans; rate in parts of 65536.

    Unit u takes one of the eight 16-bit parts of four random words, and is dropped if it is below
    the rate: a function of (seed, epoch, row, layer, unit) alone.
    """
    mask = np.uint64(0xFFFFFFFF)
    row, call = np.meshgrid(
        np.asarray(rows, np.uint64), np.arange(-(-n // 8), dtype=np.uint64), indexing="ij"
    )
    counter = (
        row & mask,
        row >> np.uint64(32),
        np.full_like(row, epoch),
        np.uint64(layer + 1 << 20) + call,
    )
    words = np.stack(philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)), axis=-1)
    halves = np.stack((words & np.uint64(0xFFFF), words >> np.uint64(16)), axis=-1)
    return halves.reshape(len(row), -1)[:, :n] < rate

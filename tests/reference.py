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


LOSSES = {"bce": _bce}


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


# ---------------------------------------------------------------------------- the network
# A network is the list of its (W, b) and the list of its activations' names, the last one
# "sigmoid". y is (n,) for one output, else (n, k).


def unflatten(parameters, layer_sizes):
    """Views (W, b) of each layer into the flat array W1, b1, W2, b2, ..."""
    layers, at = [], 0
    for fan_in, fan_out in itertools.pairwise(layer_sizes):
        W = parameters[at : at + fan_in * fan_out].reshape(fan_in, fan_out)
        at += fan_in * fan_out
        b = parameters[at : at + fan_out]
        at += fan_out
        layers.append((W, b))
    assert at == parameters.size
    return layers


def flatten(layers):
    """The flat array of a list of (W, b), or of (dw, db)."""
    return np.concatenate([part.ravel() for layer in layers for part in layer])


def forward(layers, activations, X):
    """The list of (z, a, derivative) of all layers; the last a is P(y = 1)."""
    passes, a = [], X
    for (W, b), name in zip(layers, activations, strict=True):
        z = a @ W + b
        a, derivative = ACTIVATIONS[name](z)
        passes.append((z, a, derivative))
    return passes


def backward(layers, activations, X, y, *, sample_weight=None, loss="bce", **options):
    """The mean loss, the dz of every layer, row by row, and the mean gradients (dw, db).

    The mean runs over all label elements: with k outputs and weights (n,) its divisor is
    k * sum(w). `dz` holds each row's own derivative, times its weight.
    """
    passes = forward(layers, activations, X)
    z = passes[-1][0]
    targets = np.asarray(y).reshape(z.shape)
    weight = element_weights(sample_weight, z.shape, z.dtype)
    losses, dz = LOSSES[loss](z, targets, **options)
    losses, dz = _times(weight, losses), _times(weight, dz)

    dzs, gradients = [], []
    for index in reversed(range(len(layers))):
        below = passes[index - 1][1] if index else X
        dw = below.T @ dz / weight.sum()
        db = dz.sum(axis=0) / weight.sum()
        dzs.insert(0, dz)
        gradients.insert(0, (dw, db))
        if index:
            da = dz @ layers[index][0].T
            dz = da * passes[index - 1][2]
    return losses.sum() / weight.sum(), dzs, gradients


# ----------------------------------------------------------------------------- optimizers
# Each changes the flat parameters w in place by one step along the flat mean gradient g.
# `state` keeps what it remembers from step to step, `step` counts from 1, and `decays` is 1
# where weight decay applies (coefs) and 0 where it does not (intercepts).


def _memory(state, name, w):
    return state.setdefault(name, np.zeros_like(w))


def _sgd(
    w,
    g,
    state,
    step,
    decays,
    *,
    learning_rate=0.01,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
):
    w -= learning_rate * weight_decay * decays * w
    if momentum:
        buffer = _memory(state, "momentum", w)
        buffer[:] = momentum * buffer + g
        g = g + momentum * buffer if nesterov else buffer
    w -= learning_rate * g


def _adam(
    w,
    g,
    state,
    step,
    decays,
    *,
    learning_rate=0.001,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
    epsilon_inside=False,
    weight_decay=0.0,
):
    w -= learning_rate * weight_decay * decays * w
    m, v = _memory(state, "m", w), _memory(state, "v", w)
    m[:] = beta_1 * m + (1 - beta_1) * g
    v[:] = beta_2 * v + (1 - beta_2) * g * g
    correction_1, correction_2 = 1 - beta_1**step, 1 - beta_2**step
    if epsilon_inside:
        w -= learning_rate * np.sqrt(correction_2) / correction_1 * m / (np.sqrt(v) + epsilon)
    else:
        w -= learning_rate / correction_1 * m / (np.sqrt(v) / np.sqrt(correction_2) + epsilon)


def _adamw(w, g, state, step, decays, *, weight_decay=0.01, **options):
    _adam(w, g, state, step, decays, weight_decay=weight_decay, **options)


def _rmsprop(w, g, state, step, decays, *, learning_rate=0.001, rho=0.9, epsilon=1e-8):
    v = _memory(state, "v", w)
    v[:] = rho * v + (1 - rho) * g * g
    w -= learning_rate * g / (np.sqrt(v) + epsilon)


OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "rmsprop": _rmsprop}

# ------------------------------------------------------------------------------- training


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
    batch_size=200,
    sample_weight=None,
    validation_data=None,
    **loss_options,
):
    """Train a copy of the flat `parameters`; `order` lists the row order of each epoch.

    Returns the new parameters and the history {"loss": [...], "validation_loss": [...]}.
    A batch whose weights sum to 0 is skipped. The validation loss is that of the targets as
    they are, without label smoothing.
    """
    w = parameters.copy()
    layers = unflatten(w, layer_sizes)
    decays = flatten([(np.ones_like(W), np.zeros_like(b)) for W, b in layers])
    X = np.asarray(X, w.dtype)
    y = np.asarray(y)
    weights = element_weights(sample_weight, y.shape, w.dtype)
    state, step = {}, 0
    history = {"loss": [], "validation_loss": []}
    for rows in order:
        total = total_weight = w.dtype.type(0)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            weight = weights[batch]
            if weight.sum() == 0:
                continue
            loss, _, gradients = backward(
                layers, activations, X[batch], y[batch], sample_weight=weight, **loss_options
            )
            step += 1
            OPTIMIZERS[optimizer](
                w, flatten(gradients), state, step, decays, **(optimizer_options or {})
            )
            total += loss * weight.sum()
            total_weight += weight.sum()
        history["loss"].append(total / total_weight)
        if validation_data is not None:
            rows, targets = validation_data
            options = {**loss_options, "label_smoothing": 0.0}
            loss, _, _ = backward(
                layers, activations, np.asarray(rows, w.dtype), targets, **options
            )
            history["validation_loss"].append(loss)
    return w, history


# ------------------------------------------------------------------------------ row order


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

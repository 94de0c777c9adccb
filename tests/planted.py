"""Backpropagation by hand, in rows, with one mistake planted: what gradient checks must find."""

from __future__ import annotations

import itertools

import numpy as np
import reference as ref

# mistake -> its variants: what is planted
VARIANTS = {
    "sign": ("delta", "hidden delta", "one layer", "db alone"),
    "missing-batch-mean": ("all", "one layer", "db alone", "labels added"),
    "output-sigmoid-derivative-twice": ("output",),
    "missing-activation-derivative": ("all hidden", "one hidden", "output"),
    "relu-mask": ("z of another", "slope of another", "at da", "next layer's", "relu's"),
    "transposed-weights": ("all square", "one", "reshaped", "reshaped in columns", "dW"),
    "bias-axis": (
        "one number",
        "scalar",
        "mean of all",
        "over units",
        "over units as mean",
        "delta",
    ),
    "updated-weights": ("sgd",),
}


def backward(net, X, y, mistake=None, variant=None, layer=0, other=0, rate=0.1):
    """One (dW, db) a layer, (fan_in, fan_out) and (fan_out,), of the mean loss over labels.

    ``layer`` is where a mistake of one layer is made, ``other`` where it takes its slope from.
    """
    kind = (mistake, variant)
    W, b = net.coefs, net.intercepts
    last = len(W) - 1
    a, z, slopes = [X], [], []
    for i, name in enumerate(net.activations):
        z.append(a[i] @ W[i] + b[i])
        value, slope = ref.ACTIVATIONS[name](z[i])
        a.append(value)
        slopes.append(slope)
    p, t = a[-1], y.reshape(len(X), -1)
    n, k = p.shape
    gradients = [None] * (last + 1)
    for i in reversed(range(last + 1)):
        if i == last:
            dz = p - t
            if kind == ("sign", "delta"):
                dz = t - p
            if mistake == "output-sigmoid-derivative-twice":
                dz = dz * p * (1 - p)
            if kind == ("missing-activation-derivative", "output"):
                dz = dz / (p * (1 - p))
        else:
            above = W[i + 1]
            if mistake == "updated-weights":
                above = above - rate * gradients[i + 1][0]
            da = dz @ above.T
            square = above.shape[0] == above.shape[1]
            if kind == ("transposed-weights", "all square") and square:
                da = dz @ above
            if kind == ("transposed-weights", "one") and i == layer:
                da = dz @ above
            if kind == ("transposed-weights", "reshaped") and i == layer:
                da = dz @ above.reshape(above.shape[::-1])
            if kind == ("transposed-weights", "reshaped in columns") and i == layer:
                da = (above.T.reshape(above.shape) @ dz.T).T
            slope = slopes[i]
            here = i == layer
            if kind == ("missing-activation-derivative", "all hidden"):
                slope = 1
            if kind == ("missing-activation-derivative", "one hidden") and here:
                slope = 1
            if kind == ("relu-mask", "z of another") and here:
                slope = ref.ACTIVATIONS[net.activations[i]](X if other < 0 else z[other])[1]
            if kind == ("relu-mask", "slope of another") and here:
                slope = slopes[other]
            if kind == ("relu-mask", "at da") and here:
                slope = ref.ACTIVATIONS[net.activations[i]](da)[1]
            if kind == ("relu-mask", "relu's") and here:
                slope = z[i] > 0
            if kind == ("relu-mask", "next layer's") and here:
                da, slope = (dz * slopes[i + 1]) @ above.T, 1
            dz = da * slope
            if kind == ("sign", "hidden delta") and here:
                dz = -dz
        divisor = n * k
        if kind == ("missing-batch-mean", "all"):
            divisor = 1
        if kind == ("missing-batch-mean", "one layer") and i == layer:
            divisor = 1
        if kind == ("missing-batch-mean", "labels added"):
            divisor = n
        dw, db = a[i].T @ dz / divisor, dz.sum(axis=0) / divisor
        if i == layer:
            match kind:
                case ("missing-batch-mean", "db alone"):
                    db = dz.sum(axis=0)
                case ("sign", "one layer"):
                    dw, db = -dw, -db
                case ("sign", "db alone"):
                    db = -db
                case ("transposed-weights", "dW"):
                    dw = dw.T
                case ("bias-axis", "one number"):
                    db = np.full_like(db, dz.sum() / divisor)
                case ("bias-axis", "scalar"):
                    db = dz.sum() / divisor
                case ("bias-axis", "mean of all"):
                    db = np.mean(dz)
                case ("bias-axis", "over units"):
                    db = dz.sum(axis=1) / divisor
                case ("bias-axis", "over units as mean"):
                    db = dz.mean(axis=1)
                case ("bias-axis", "delta"):
                    db = dz / divisor
        gradients[i] = (dw, db)
    return gradients


def places(net, mistake, variant):
    """Every (layer, other) in which a variant of a mistake can be made, and changes something."""
    sizes = net.layer_sizes
    last = len(sizes) - 2
    hidden = range(last)
    square = [i for i in hidden if sizes[i + 1] == sizes[i + 2] > 1]
    match (mistake, variant):
        case ("sign", "hidden delta") | ("missing-activation-derivative", "one hidden"):
            found = [(i, 0) for i in hidden]
        case ("sign" | "missing-batch-mean", "one layer" | "db alone"):
            found = [(i, 0) for i in range(last + 1)]
        case ("missing-batch-mean", "labels added"):
            found = [(0, 0)] * (sizes[-1] > 1)
        case ("missing-activation-derivative", "all hidden") | ("updated-weights", _):
            found = [(0, 0)] * (last > 0)
        case ("relu-mask", "z of another"):
            found = [
                (i, m) for i in hidden for m in range(-1, last + 1)
                if m != i and sizes[m + 1] in (1, sizes[i + 1])
            ]  # fmt: skip
        case ("relu-mask", "slope of another"):
            pairs = itertools.product(hidden, hidden)
            found = [(i, m) for i, m in pairs if i != m and sizes[m + 1] in (1, sizes[i + 1])]
        case ("relu-mask", "at da"):
            found = [(i, 0) for i in hidden]
        case ("relu-mask", "relu's"):
            found = [(i, 0) for i in hidden if net.activations[i] != "relu"]
        case ("relu-mask", "next layer's"):
            found = [(i, 0) for i in range(last - 1)]
        case ("transposed-weights", "all square"):
            found = [(0, 0)] * bool(square)
        case ("transposed-weights", "one"):
            found = [(i, 0) for i in square]
        case ("transposed-weights", "reshaped" | "reshaped in columns"):
            found = [
                (i, 0) for i in hidden
                if sizes[i + 1] != sizes[i + 2] and min(sizes[i + 1], sizes[i + 2]) > 1
            ]  # fmt: skip
        case ("transposed-weights", "dW"):
            found = [(i, 0) for i in range(last + 1) if sizes[i] == sizes[i + 1] > 1]
        case ("bias-axis", _):
            found = [(i, 0) for i in range(last + 1) if sizes[i + 1] > 1]
        case _:
            found = [(0, 0)]
    if mistake == "relu-mask":
        found = [(i, m) for i, m in found if net.activations[i] != "identity"]
    return found

"""The hidden layers: why nothing cancels there, and what the wrong formulas would give.

A hidden layer sees the cost only through the layer after it:

    da_{l-1} = dz_l W_l^T,  dz_{l-1} = da_{l-1} * g'(z_{l-1})

No factor of da_{l-1} is 1 / g'(z_{l-1}), so g' stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import gradients, losses, sparse
from bcenet.records import Record
from bcenet.rows import Rows

if TYPE_CHECKING:
    from bcenet.network import Network


class HiddenUnit(Record):
    """One hidden unit on one row, with all the numbers of its backward formula.

    Attributes:
        row: of X. layer, unit: from 0. activation, normalization: of the layer.
        z, a: before and after the activation. terms: (dz_k, w_k) of every unit k of the next
            layer; da: their products' sum. slope: g' where the activation was taken: at z, or
            behind the normalisation. product: da * slope. dz: the same, or taken back through
            the normalisation.
        target: y of the row (its labels' mean); literal: a - y, what the last layer's formula
            would give here.
    """

    row: int
    layer: int
    unit: int
    activation: str
    normalization: str | None
    z: float
    a: float
    terms: list[tuple[float, float]]
    da: float
    slope: float
    product: float
    dz: float
    target: float
    literal: float


class LayerError(Record):
    """A layer's gradient by a wrong formula, beside the right one.

    Attributes: layer: from 0. relative_error: |wrong - right| / |right|, in the Euclidean norm
    over the layer's weights and intercepts. cosine: of the angle between them, -1 to 1.
    """

    layer: int
    relative_error: float
    cosine: float


class Mistake(Record):
    """A formula in the wrong place. name: a word; formula: what is computed; layers: the
    LayerErrors of every layer that it changes."""

    name: str
    formula: str
    layers: list[LayerError]


MISTAKES = {
    "literal-in-hidden-layers": "dz_l = a_l - y in every hidden layer",
    "slope-at-the-output": "dz_L = (a - y) * a (1 - a) at the output",
    "slope-of-the-output": "dz_l = (dz_{l+1} W_{l+1}^T) * a (1 - a), with a of the output",
}


_RIGHT = ""  # no mistake
_PART = 4096  # rows at a time


def _rows(network: Network, X: Any, y: np.ndarray) -> tuple[gradients.Forward, np.ndarray]:
    """(forward pass, dz of the outputs) of checked rows, without warnings."""
    with np.errstate(all="ignore"):
        passed = gradients.forward(network, X)
        z = passed.z[-1]
        dz = losses.bce_gradient(z, y.reshape(z.shape).astype(z.dtype), reduction="none")
    return passed, dz


def _backward(
    network: Network, passed: gradients.Forward, dz: np.ndarray, y: np.ndarray, mistake: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(da of every hidden layer, dz of every layer), first layer first, by the right formulas or
    with a mistake of them."""
    slope = passed.a[-1] * (1 - passed.a[-1])  # (n, k)
    if mistake == "slope-at-the-output":
        dz = dz * slope
    das: list[np.ndarray] = []
    dzs = [dz]
    for layer in range(len(passed.z) - 2, -1, -1):
        das.append(dzs[-1] @ network.coefs[layer + 1].T)
        if mistake == "literal-in-hidden-layers":
            dz = passed.a[layer] - y.reshape(len(y), -1).mean(1, keepdims=True)
        elif mistake == "slope-of-the-output":
            dz = das[-1] * slope
        else:
            dz = das[-1] * passed.slopes[layer]
            norm = passed.norms[layer]
            if norm is not None:
                dz = norm.backward(dz)
        dzs.append(dz)
    return das[::-1], dzs[::-1]


def mistakes(network: Network, rows: Rows) -> list[Mistake]:
    """What each mistake does to the gradient over all the rows; float64, 4096 rows at a time.

    The mistakes of hidden layers are left out where there are none, and what multiplies by the
    output's slope where there are several outputs: the shapes would not fit.
    """
    names = ["slope-at-the-output"]
    if len(network.coefs) > 1:
        names.insert(0, "literal-in-hidden-layers")
        if network.layer_sizes[-1] == 1:
            names.append("slope-of-the-output")
    wide = network.astype("float64")
    sums: dict[str, list[Any]] = {name: [0.0] * len(wide.coefs) for name in [_RIGHT, *names]}
    for start in range(0, rows.n, _PART):
        part = rows.part(slice(start, start + _PART))
        y = part.y.astype(np.float64)
        passed, dz = _rows(wide, part.X, y)
        inputs = sparse.dense(part.X, wide.dtype)
        befores = [inputs if wide.scale is None else inputs * wide.scale, *passed.a[:-1]]
        for name, old in sums.items():
            with np.errstate(all="ignore"):
                _, dzs = _backward(wide, passed, dz, y, name)
                flat = [
                    np.concatenate(((before.T @ dz).ravel(), dz.sum(0)))
                    for before, dz in zip(befores, dzs, strict=True)
                ]
            sums[name] = [a + b for a, b in zip(old, flat, strict=True)]
    right = sums[_RIGHT]
    result = []
    for name in names:
        layers = [
            LayerError(layer, *_compare(wrong, truth))
            for layer, (wrong, truth) in enumerate(zip(sums[name], right, strict=True))
            if name == "slope-at-the-output" or layer < len(right) - 1
        ]
        result.append(Mistake(name, MISTAKES[name], layers))
    return result


def _compare(wrong: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """(relative error, cosine) of vectors; NaN where either is undefined."""
    with np.errstate(all="ignore"):
        # divided by their largest entries first: squares of tiny numbers would underflow
        largest = np.abs(right).max()
        size = np.linalg.norm(right / largest)
        relative = np.linalg.norm((wrong - right) / largest) / size
        other = wrong / np.abs(wrong).max()
        cosine = (other / np.linalg.norm(other)) @ (right / largest / size)
    return float(relative), float(cosine)


def units(network: Network, rows: Rows, row: int) -> list[HiddenUnit]:
    """Of each hidden layer, last first, the unit with the largest dz on a row."""
    part = rows.part(slice(row, row + 1))
    passed, dz = _rows(network, part.X, part.y)
    y = float(part.y.mean())
    with np.errstate(all="ignore"):
        das, dzs = _backward(network, passed, dz, part.y.astype(network.dtype), _RIGHT)
        found = []
        for layer in range(len(dzs) - 2, -1, -1):
            size = np.abs(dzs[layer][0])
            unit = int(np.argmax(np.where(np.isnan(size), -1, size)))
            weights = network.coefs[layer + 1][unit]
            following = dzs[layer + 1][0]
            da, slope = das[layer][0, unit], passed.slopes[layer][0, unit]
            found.append(
                HiddenUnit(
                    row,
                    layer,
                    unit,
                    network.activations[layer],
                    network.shape.normalization[layer],
                    float(passed.z[layer][0, unit]),
                    float(passed.a[layer][0, unit]),
                    list(zip(following.tolist(), weights.tolist(), strict=True)),
                    float(da),
                    float(slope),
                    float(da * slope),
                    float(dzs[layer][0, unit]),
                    y,
                    float(passed.a[layer][0, unit]) - y,
                )
            )
    return found

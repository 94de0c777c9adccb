"""The float64 twin of a network on some rows: every number of its passes, and differences of
its loss, which a gradient is checked against.

    z_l = a_{l-1} W_l + b_l, y_l = z_l or its normalisation, a_l = g_l(y_l); C = sum(w c) / D
    dz_L = w (s(z) - t); da_l = dz_{l+1} W_{l+1}^T, dy_l = da_l * g'(y_l), dz_l behind the norm
    dW_l = a_{l-1}^T dz_l / D, db_l = (sum over rows of dz_l) / D

c is a label's loss, w its weight, D the sum of the weights: n k for n rows of k labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import gradients, kernels, losses, sparse

if TYPE_CHECKING:
    from bcenet.network import Network
    from bcenet.rows import Rows

KINKED = ("relu", "leaky_relu", "elu", "selu")  # their derivative, or its own, jumps at 0
EPS = float(np.finfo(np.float64).eps)
# The cube root of the rounding unit balances rounding (u / h) and truncation (h^2).
STEP = 6e-6
_COMPLEX_STEP = 1e-20  # no difference is taken, so nothing is rounded away
_CHUNK = 2**18  # numbers of a layer in one pass over several entries


def _softplus(z: np.ndarray) -> np.ndarray:
    """log(1 + e^z), of real or complex z."""
    positive = z.real > 0
    return np.where(positive, z, 0) + np.log1p(np.exp(np.where(positive, -z, z)))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    positive = z.real > 0
    e = np.exp(np.where(positive, -z, z))
    return np.where(positive, 1, e) / (1 + e)


# Activations without a kink that NumPy computes of complex numbers; gelu's erf it does not.
COMPLEX: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda z: z * _sigmoid(z),
    "softplus": _softplus,
}

Delta = tuple[np.ndarray, np.ndarray]  # (dy, dz) of a layer, (n, fan_out) each


class Twin:
    """The passes of a network's float64 copy over rows, and what differs from them.

    Attributes:
        befores, y, a, slopes: of each layer, (n, fan): a_{l-1}, y_l, a_l, g'(y_l).
        coefs, names: weights (fan_in, fan_out) and activations of each layer.
        delta: dz_L, (n, k). deltas: (dy, dz) of each layer.
        divisor: D. is_mean: whether it is the sum of the weights, as in the loss of a network.
        magnitude: the largest sum of |a W| and |b| of any z: what its rounding grows with.
    """

    def __init__(
        self,
        network: Network,
        rows: Rows,
        pos_weight: np.ndarray | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self._network = exact = network.astype("float64")
        self.n, self.k = rows.n, network.layer_sizes[-1]
        self.names = network.activations
        self.coefs, self.intercepts = exact.coefs, exact.intercepts
        self._kinds = network.shape.normalization
        self._statistics = iter(exact.shape.split_statistics(exact.statistics))
        norms = iter(exact.norms)
        self._gains = [None if kind is None else next(norms) for kind in self._kinds]
        self._running = [next(self._statistics) if k == "batch" else None for k in self._kinds]
        self.passed = passed = gradients.forward(exact, rows.X)
        self.inputs = sparse.dense(rows.X, exact.dtype)
        scaled = self.inputs if exact.scale is None else self.inputs * exact.scale
        self.befores = [scaled, *passed.a[:-1]]
        self.y, self.a, self.slopes = passed.y, passed.a, passed.slopes
        logits = passed.z[-1]
        targets = rows.y.reshape(self.n, -1).astype(np.float64)
        weight = np.ones_like(targets)
        if rows.weight is not None:
            weight *= rows.weight.reshape(self.n, -1)
        self.divisor, self.is_mean = float(weight.sum()), True
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        self._negative = weight * (1 - smooth)
        self._positive = weight * smooth * (1.0 if pos_weight is None else pos_weight)
        self.delta = losses.bce_gradient(
            logits,
            targets,
            sample_weight=weight,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            reduction="none",
        )
        self.odds = losses.sigmoid(logits) * losses.sigmoid(-logits)  # p (1 - p), to its digits
        self.deltas: list[Delta] = self._spread(self.delta)
        self._sizes = [self._spread(np.abs(start), np.abs) for start in (self.delta, weight)]
        self.magnitude = max(
            float((np.abs(a) @ np.abs(w) + np.abs(b)).max())
            for a, w, b in zip(self.befores, self.coefs, self.intercepts, strict=True)
        )
        for norm in passed.norms:
            if norm is not None:
                self.magnitude *= max(1.0, float(np.abs(norm.inverse * norm.gain).max()))

    @property
    def last(self) -> int:
        """The index of the output layer."""
        return len(self.coefs) - 1

    @property
    def loss(self) -> float:
        return float(self._losses(self.y[-1]).sum() / self.divisor)

    # ---- backward ---------------------------------------------------------------------------

    def back(self, index: int, da: np.ndarray, slope: Any = None) -> Delta:
        """(dy, dz) of a hidden layer from its da, by its own g' or by another factor."""
        dy = da * (self.slopes[index] if slope is None else slope)
        norm = self.passed.norms[index]
        return dy, dy if norm is None else norm.backward(dy)

    def _spread(self, start: np.ndarray, part: Any = np.asarray) -> list[Delta]:
        """(dy, dz) of every layer from dz_L; with ``np.abs`` bounds of what is summed in them."""
        deltas = [(start, start)]
        for index in range(self.last - 1, -1, -1):
            da = deltas[0][1] @ part(self.coefs[index + 1]).T
            dy, dz = self.back(index, da, part(self.slopes[index]))
            norm = self.passed.norms[index]
            if norm is not None and part is np.abs:
                dz = dy * np.abs(norm.inverse * norm.gain) * (1 + np.abs(norm.normed))
            deltas.insert(0, (dy, dz))
        return deltas

    def array_names(self, index: int) -> list[str]:
        """What a layer's gradient is made of."""
        names = ["dW", "db"]
        if self._kinds[index] is not None:
            names += ["dgain", "dshift"]
        return [*names, "dscale"] if index == 0 and self._network.scale is not None else names

    def gradient(self, index: int, name: str, delta: Delta, part: Any = np.asarray) -> np.ndarray:
        """One array of a layer's mean gradient, from the layer's (dy, dz)."""
        dy, dz = delta
        if name == "dW":
            total = part(self.befores[index]).T @ dz
        elif name == "dscale":
            total = (part(self.inputs) * (dz @ part(self.coefs[0]).T)).sum(0)
        elif name == "dgain":
            total = (part(self._normed(index)) * dy).sum(0)
        else:
            total = (dz if name == "db" else dy).sum(0)
        return total / self.divisor

    def _normed(self, index: int) -> np.ndarray:
        norm = self.passed.norms[index]
        assert norm is not None  # it has a gain
        return norm.normed

    def noise(self, index: int, name: str, eps: float, step: float | None) -> float:
        """What rounding may add to an entry of a gradient computed with ``eps``, and to a
        difference with a ``step``, None for the complex one."""
        terms, units = (
            float(self.gradient(index, name, sizes[index], np.abs).max()) for sizes in self._sizes
        )
        noise = eps * max(8.0, self.magnitude) * units  # z and p - y are rounded as they and 1 are
        if step is not None:
            noise += 1e-10 * STEP / step * max(1.0, self.magnitude) * terms
        return noise

    # ---- differences --------------------------------------------------------------------------

    def is_smooth(self, index: int) -> bool:
        """Whether the complex step applies to a layer: to all activations from it on."""
        return all(name in COMPLEX for name in self.names[index:])

    def differences(
        self, index: int, name: str, entries: np.ndarray, step: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(derivatives of the loss by entries of an array, whether a step crosses a kink).

        A step of h in W[i, j] moves column j of z by h a[:, i], and nothing else before it; h is
        such that no z of the layer moves by more than ``step``. That z and the layers behind
        it are computed anew, and the losses compared row by row: central differences
        (C(+h) - C(-h)) / 2 h. Without a step the derivative is Im C(i h) / h.
        """
        slopes, crossed = np.empty(entries.size), np.zeros(entries.size, bool)
        width = max(a.shape[1] for a in self.a[index:])
        count = max(1, _CHUNK // (self.n * width))
        for start in range(0, entries.size, count):
            part = slice(start, start + count)
            direction = self._direction(index, name, entries[part])
            largest = np.abs(direction).max((1, 2))
            largest[largest == 0] = 1
            direction /= largest[:, np.newaxis, np.newaxis]
            if step is None:
                loss, _ = self._moved(index, name, direction * (1j * _COMPLEX_STEP))
                slope = loss.imag.sum((1, 2)) / _COMPLEX_STEP
            else:
                above, sides_above = self._moved(index, name, direction * step)
                below, sides_below = self._moved(index, name, direction * -step)
                slope = (above - below).sum((1, 2)) / (2 * step)
                for one, other in zip(sides_above, sides_below, strict=True):
                    crossed[part] |= (one != other).any((1, 2))
            slopes[part] = slope * largest / self.divisor
        return slopes, crossed

    def _direction(self, index: int, name: str, entries: np.ndarray) -> np.ndarray:
        """How z (y for a normalisation's gain and shift) moves with each entry: (e, n, fan_out)."""
        fan_out = self.coefs[index].shape[1]
        direction = np.zeros((entries.size, self.n, fan_out))
        every = np.arange(entries.size)
        if name == "dscale":
            return self.inputs.T[entries][:, :, np.newaxis] * self.coefs[0][entries][:, np.newaxis]
        if name == "dW":
            rows, columns = np.divmod(entries, fan_out)
            direction[every, :, columns] = self.befores[index].T[rows]
        elif name == "dgain":
            direction[every, :, entries] = self._normed(index).T[entries]
        else:
            direction[every, :, entries] = 1
        return direction

    def _moved(
        self, index: int, name: str, shift: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """(weighted losses, sides of every kink) with a layer's z or y shifted."""
        if name in ("dgain", "dshift"):
            y = self.y[index] + shift
        else:
            y = self._normalize(index, self.passed.z[index] + shift)
        sides = []
        while index < self.last:
            name = self.names[index]
            if np.iscomplexobj(y):
                a = COMPLEX[name](y)
            else:
                a = kernels.activate(name, y)[0]
                if name in KINKED:
                    sides.append(y > 0)
            index += 1
            y = self._normalize(index, a @ self.coefs[index] + self.intercepts[index])
        return self._losses(y), sides

    def _normalize(self, index: int, z: np.ndarray) -> np.ndarray:
        gains = self._gains[index]
        if gains is None:
            return z
        running = self._running[index]
        if running is None:
            mean = z.mean(-1, keepdims=True)
            variance = ((z - mean) ** 2).mean(-1, keepdims=True)
        else:
            mean, variance = running
        return gains[0] * ((z - mean) / np.sqrt(variance + 1e-5)) + gains[1]

    def _losses(self, z: np.ndarray) -> np.ndarray:
        """w [(1-t) log(1 + e^z) + t log(1 + e^-z)] of every label."""
        return self._negative * _softplus(z) + self._positive * _softplus(-z)

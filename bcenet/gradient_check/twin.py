"""The float64 twin of a network on some rows: every number of its passes, and differences of
its loss, which a gradient is checked against.

    z_l = a_{l-1} W_l + b_l, y_l = z_l or its normalisation, a_l = g_l(y_l); C = sum(w c) / D
    dz_L = w (s(z) - t); da_l = dz_{l+1} W_{l+1}^T, dy_l = da_l * g'(y_l), dz_l behind the norm
    dW_l = a_{l-1}^T dz_l / D, db_l = (sum over rows of dz_l) / D

c is a label's loss, w its weight, D the sum of the weights: n k for n rows of k labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import gradients, kernels, losses, sparse

if TYPE_CHECKING:
    from bcenet.network import Network
    from bcenet.rows import Rows

EPS = float(np.finfo(np.float64).eps)
_STEP = 1e-20  # of the complex step: no difference is taken, so nothing is rounded away
_CHUNK = 2**18  # numbers of a layer in one pass over several entries


def _softplus(z: np.ndarray) -> np.ndarray:
    """log(1 + e^z), of real or complex z."""
    positive = z.real > 0
    return np.where(positive, z, 0) + np.log1p(np.exp(np.where(positive, -z, z)))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    positive = z.real > 0
    e = np.exp(np.where(positive, -z, z))
    return np.where(positive, 1, e) / (1 + e)


def _elu(z: np.ndarray) -> np.ndarray:
    positive = z.real > 0
    return np.where(positive, z, np.expm1(np.where(positive, 0, z)))


def _selu(z: np.ndarray) -> np.ndarray:
    # Klambauer et al., "Self-Normalizing Neural Networks", 2017.
    below = 1.6732632423543772848170429916717 * _elu(np.where(z.real > 0, 0, z))
    return 1.0507009873554804934193349852946 * np.where(z.real > 0, z, below)


def _gelu(z: np.ndarray) -> np.ndarray:
    """z F(z), F(x + ih) = F(x) + ih F'(x) for a tiny h, and F' is the normal density."""
    x = z.real
    cdf = np.where(x == 0, 0.5, kernels.activate("gelu", x)[0] / x)
    return z * (cdf + 1j * z.imag * np.exp(-x * x / 2) / np.sqrt(2 * np.pi))


# Of complex numbers, on the side of the real part where there is a kink.
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda z: z,
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "leaky_relu": lambda z: np.where(z.real > 0, z, 0.01 * z),
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": lambda z: z * _sigmoid(z),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
}
# By how much a derivative jumps at 0.
_JUMPS = {"relu": 1.0, "leaky_relu": 0.99, "selu": 1.0507009873554805 * (1 - 1.6732632423543772)}

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
        statistics = iter(exact.shape.split_statistics(exact.statistics))
        norms = iter(exact.norms)
        self._gains = [None if kind is None else next(norms) for kind in self._kinds]
        self._running = [next(statistics) if k == "batch" else None for k in self._kinds]
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
        steps = [_ACTIVATIONS[g](y + 1j * _STEP) for g, y in zip(self.names, self.y, strict=True)]
        steps[-1] = self._losses(logits + 1j * _STEP)
        self._steps = [step.imag / _STEP for step in steps]
        # As if p - y were 1 everywhere.
        self._units = self._spread(self._negative + self._positive, np.abs)
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

    def other_side(self) -> Twin | None:
        """The twin of someone who takes the other derivative at every kink; None without one."""
        other = copy.copy(self)
        other.slopes = list(self.slopes)
        near = self.rounding(EPS)
        for index, name in enumerate(self.names):
            if name in _JUMPS:
                above = kernels.activate(name, np.ones(1))[1]
                other.slopes[index] = np.where(
                    np.abs(self.y[index]) <= near, above, self.slopes[index]
                )
        if all(np.array_equal(*pair) for pair in zip(self.slopes, other.slopes, strict=True)):
            return None
        other.deltas = other._spread(self.delta)
        return other

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

    def rounding(self, eps: float) -> float:
        """What rounding with ``eps`` may do to a z."""
        return eps * max(8.0, self.magnitude if np.isfinite(self.magnitude) else 0.0)

    def noise(self, index: int, name: str, eps: float) -> float:
        """What rounding with ``eps`` may do to an entry of a gradient: dz is off as z and p are."""
        return self.rounding(eps) * float(
            self.gradient(index, name, self._units[index], np.abs).max()
        )

    # ---- derivatives by the complex step ------------------------------------------------------

    def derivatives(
        self, index: int, name: str, entries: np.ndarray, near: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """(Im C(w + ih) / h by entries of an array, what kinks may add to them: (2, entries)).

        An imaginary step of W[i, j] moves column j of z by ih a[:, i], and nothing else before
        it; how that layer and those behind it move follows. With h = 1e-20 what is real stays as
        it is, to the last digit, and each activation's Im g(y + ih) / h is found once. Of units
        nearer to a kink than ``near`` the other derivative is right too: together they add no less
        than the first row and no more than the second.
        """
        slopes, play = np.empty(entries.size), np.empty((2, entries.size))
        kinks = {}
        for layer in range(index, self.last):
            y = self.y[layer]
            close = np.abs(y) <= near
            if self.names[layer] in _JUMPS and close.any():
                jump = np.where(y > 0, -1, 1) * _JUMPS[self.names[layer]]
                da = self.deltas[layer + 1][1] @ self.coefs[layer + 1].T
                kinks[layer] = np.where(close, jump * da, 0)
        width = max(a.shape[1] for a in self.a[index:])
        count = max(1, _CHUNK // (self.n * width))
        for start in range(0, entries.size, count):
            part = slice(start, start + count)
            direction = self._direction(index, name, entries[part])
            slopes[part], play[:, part] = self._moved(index, name, direction, kinks)
        return slopes / self.divisor, play / self.divisor

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
        self, index: int, name: str, move: np.ndarray, kinks: dict[int, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(Im of the loss, what kinks may add) with a layer's z or y moved: (e, n, fan_out)."""
        play = np.zeros((2, len(move)))
        if name not in ("dgain", "dshift"):
            move = self._normalize(index, move)
        for layer in range(index, self.last):
            if layer in kinks:
                more = move * kinks[layer]
                play += np.minimum(more, 0).sum((1, 2)), np.maximum(more, 0).sum((1, 2))
            rows = (move * self._steps[layer]).reshape(-1, move.shape[2])
            after = rows @ self.coefs[layer + 1]  # all entries in one product
            move = self._normalize(layer + 1, after.reshape(*move.shape[:2], -1))
        return (move * self._steps[-1]).sum((1, 2)), play

    def _normalize(self, index: int, move: np.ndarray) -> np.ndarray:
        """How y moves with z."""
        gains = self._gains[index]
        if gains is None:
            return move
        z = self.passed.z[index] + 1j * _STEP * move
        running = self._running[index]
        if running is None:
            mean = z.mean(-1, keepdims=True)
            variance = ((z - mean) ** 2).mean(-1, keepdims=True)
        else:
            mean, variance = running
        return (gains[0] * ((z - mean) / np.sqrt(variance + 1e-5))).imag / _STEP

    def _losses(self, z: np.ndarray) -> np.ndarray:
        """w [(1-t) log(1 + e^z) + t log(1 + e^-z)] of every label."""
        return self._negative * _softplus(z) + self._positive * _softplus(-z)

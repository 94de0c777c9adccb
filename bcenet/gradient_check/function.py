"""Checking the gradients of a function f(parameters, X, y) of the loss, whatever it computes.

If its loss is that of a network that bcenet knows, that network is the twin, whose delta of every
layer says which mistake was made in a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from bcenet import checks, kernels
from bcenet import rows as rows_
from bcenet.gradient_check import claims as claims_
from bcenet.gradient_check.claims import Claims
from bcenet.gradient_check.mistakes import Finding, find
from bcenet.gradient_check.report import Findings, GradientCheck
from bcenet.gradient_check.twin import EPS, Twin
from bcenet.network import Network

# The cube root of the rounding unit balances rounding (u / h) and truncation (h^2).
_STEP = 6e-6


class _Function:
    """The user's function, of float64 copies of the parameters in their own layout."""

    def __init__(self, function: Callable[..., Any], parameters: Any, X: Any, y: Any) -> None:
        self._function, self._X, self._y = function, X, y
        self.is_flat = not isinstance(parameters, (list, tuple))
        if self.is_flat:
            flat = checks.real_array("parameters", parameters)
            if flat.ndim != 1 or flat.size == 0:
                raise ValueError(
                    "parameters must be a list of (W, b) or one array of one dimension; "
                    f"got {checks.describe(parameters)}"
                )
            self.layers = [[flat.astype(np.float64)]]
            return
        self.layers = []
        for index, pair in enumerate(parameters):
            name = f"parameters[{index}]"
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ValueError(f"{name} must be (W, b); got {checks.describe(pair)}")
            weights, bias = (checks.real_array(name, each).astype(np.float64) for each in pair)
            if weights.ndim != 2 or weights.size == 0 or bias.size not in weights.shape:
                raise ValueError(
                    f"{name} must be a W of two dimensions and a b of one of them; "
                    f"got shapes {weights.shape} and {bias.shape}"
                )
            self.layers.append([weights, bias])
        if not self.layers:
            raise ValueError("parameters must hold at least one (W, b); got none")

    def __call__(self) -> tuple[float, Any]:
        """(loss, gradients or None) at the parameters as they are now."""
        # Copies, for functions that update them.
        if self.is_flat:
            parameters: Any = self.layers[0][0].copy()
        else:
            parameters = [(weights.copy(), bias.copy()) for weights, bias in self.layers]
        result = self._function(parameters, self._X, self._y)
        loss, gradients = (
            result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        )
        value = checks.real_array("the function's loss", loss)
        if value.size != 1:
            raise ValueError(f"the function's loss must be one number; got shape {value.shape}")
        if value.dtype.kind == "f" and value.dtype.itemsize < 8:
            raise ValueError(
                f"the function's loss must be computed in float64; got {value.dtype}, whose "
                "rounding hides the differences"
            )
        return float(value.reshape(())), gradients

    def loss(self) -> float:
        return self()[0]


def check(
    function: Callable[..., Any],
    X: Any,
    y: Any,
    gradients: Any,
    orientation: str,
    parameters: Any,
) -> GradientCheck:
    """See `bcenet.check_gradient`."""
    if parameters is None:
        raise ValueError(
            "parameters must be given with a function: the list of (W, b), or the flat array, that "
            "it is called with"
        )
    f = _Function(function, parameters, X, y)
    loss, own = f()
    if not np.isfinite(loss):
        raise ValueError(f"the function's loss must be finite at the parameters; got {loss}")
    if gradients is None:
        if own is None:
            raise ValueError(
                "gradients must be given with a function that returns the loss alone; or let it "
                "return (loss, gradients)"
            )
        gradients = own
    twin, read = (None, "flat") if f.is_flat else _twin(f, X, y, loss, orientation)
    claims = _flat_claims(f, gradients) if f.is_flat else _claims(f, gradients, twin, read)
    layers = [_layer(f, claims, index, loss, twin) for index in range(len(f.layers))]
    wrong = [not layer.passed for layer, _ in layers]
    if twin is None:
        explained = [
            _guess(claims.layers[index], expected, y, index) if wrong[index] else None
            for index, (_, expected) in enumerate(layers)
        ]
    else:
        explained = find(twin, claims.given(), wrong, claims.eps, claims.tolerance)
    checked = [layer.layer(finding) for (layer, _), finding in zip(layers, explained, strict=True)]
    return GradientCheck(not any(wrong), checked, claims.orientation)


# --------------------------------------------------------------------------------- the twin


def _twin(f: _Function, X: Any, y: Any, loss: float, orientation: str) -> tuple[Twin | None, str]:
    """The network whose loss the function's is, if there is one, and how its weights lie."""
    for read in ("rows", "columns"):
        if orientation not in ("auto", read):
            continue
        shapes = [weights.shape[:: 1 if read == "rows" else -1] for weights, _ in f.layers]
        chained = all(one[1] == other[0] for one, other in pairwise(shapes))
        biased = all(bias.size == s[1] for (_, bias), s in zip(f.layers, shapes, strict=True))
        if not (chained and biased):
            continue
        rows = _rows(X, y, shapes[0][0], shapes[-1][1], read)
        if rows is None:
            continue
        sizes = [shapes[0][0], *(shape[1] for shape in shapes)]
        for activation in kernels.activation_names() if len(shapes) > 1 else ["identity"]:
            network = Network(sizes, activation, dtype="float64")
            for layer, (weights, bias) in enumerate(f.layers):
                network.coefs[layer][:] = weights if read == "rows" else weights.T
                network.intercepts[layer][:] = bias.reshape(-1)
            twin = Twin(network, rows_.check(network, *rows))
            # Their mean, the mean over rows of the sum over labels, or the sum.
            for divisor in (twin.divisor, float(twin.n), 1.0):
                if abs(twin.loss * twin.divisor / divisor - loss) <= 1e-6 * abs(loss):
                    twin.is_mean, twin.divisor = divisor == twin.divisor, divisor
                    return twin, read
    return None, orientation


def _rows(X: Any, y: Any, inputs: int, outputs: int, read: str) -> tuple[Any, Any] | None:
    """X (n, inputs) and y (n,) or (n, outputs) of what a function takes, or None."""
    try:
        features, targets = checks.real_array("X", X), checks.real_array("y", y)
    except (TypeError, ValueError):
        return None
    if read == "columns":
        features, targets = features.T, targets.T
    n = len(features) if features.ndim == 2 else 0
    if n == 0 or features.shape[1] != inputs or targets.size != n * outputs:
        return None
    if outputs > 1 and targets.shape != (n, outputs):
        return None
    if not (np.isfinite(features).all() and ((targets >= 0) & (targets <= 1)).all()):
        return None
    return features, targets.reshape(n) if outputs == 1 else targets


# ------------------------------------------------------------------------------- the claims


def _flat_claims(f: _Function, gradients: Any) -> Claims:
    flat = checks.real_array("gradients", gradients)
    wanted = f.layers[0][0].shape
    if flat.shape != wanted:
        raise ValueError(f"gradients must have the parameters' shape {wanted}; got {flat.shape}")
    claims = Claims.of([{"dW": flat, "db": flat[:0]}], "rows")
    claims.orientation = "flat"
    return claims


def _claims(f: _Function, gradients: Any, twin: Twin | None, read: str) -> Claims:
    pairs = claims_.pairs_of(gradients, len(f.layers))
    read = "rows" if read == "auto" else read
    for index, ((dw, db), (weights, bias)) in enumerate(zip(pairs, f.layers, strict=True)):
        if dw.shape != weights.shape:
            hint = ", its transpose" if dw.shape == weights.shape[::-1] else ""
            raise ValueError(
                f"gradients[{index}] must have a dW of its W's shape {weights.shape}; "
                f"got {dw.shape}{hint}"
            )
        claims_.check_bias(index, db, bias.size, bias.size if twin is None else twin.n, read)
    layers = [{"dW": dw, "db": db} for dw, db in pairs]
    return Claims.of(layers, read)


# ------------------------------------------------------------------------------ the verdict


def _layer(
    f: _Function, claims: Claims, index: int, loss: float, twin: Twin | None
) -> tuple[Findings, dict[str, np.ndarray]]:
    """A layer against differences, and those by name, NaN where there are none."""
    findings = Findings(claims, index)
    known: dict[str, np.ndarray] = {}
    for name, values in zip(("dW", "db"), f.layers[index], strict=False):
        claim = claims.layers[index][name]
        if findings.is_refused(name, values.size):
            continue
        if name == "dW" and claims.orientation == "columns":
            values = values.T
        error = claim
        if twin is not None:
            error = claim - twin.gradient(index, name, twin.deltas[index])
        entries = claims_.choose(error, np.random.default_rng(index))
        slopes, crossed, noise = _differences(f, values, entries, loss, claims.tolerance)
        play = np.where(crossed, np.inf, 0.0) * [[-1], [1]]
        findings.compare(name, entries, slopes, play, noise / claims.tolerance)
        known[name] = np.full(claim.size, np.nan)
        known[name][entries[~crossed]] = slopes[~crossed]
        known[name] = known[name].reshape(claim.shape)
    return findings, known


def _differences(
    f: _Function, values: np.ndarray, entries: np.ndarray, loss: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """(differences by entries of a view of the parameters, whether a kink lies there, rounding).

    With D(h) = (C(h) - C(-h)) / 2 h the result is (4 D(h/2) - D(h)) / 3. Of a smooth loss D(h) and
    D(h/2) agree, and the second differences (C(h) - 2 C(0) + C(-h)) / h shrink as h does. A kink
    within h of 0 breaks the first rule, or the second if it lies at 0, or both.
    """
    slopes, crossed = np.full(entries.size, np.nan), np.ones(entries.size, bool)
    noise = 0.0
    for step in (_STEP, _STEP / 30, _STEP / 1000):  # shorter: for large X, and beside kinks
        todo = np.flatnonzero(crossed)
        if todo.size == 0:
            break
        unsteady = np.empty(todo.size)
        for number, at in enumerate(todo):
            place = np.unravel_index(entries[at], values.shape)
            kept = float(values[place])
            h = step * max(1.0, abs(kept))
            losses = []
            for shift in (h, -h, h / 2, -h / 2):
                values[place] = kept + shift
                losses.append(f.loss())
            values[place] = kept
            above, below, half_above, half_below = losses
            whole, half = (above - below) / (2 * h), (half_above - half_below) / h
            bend = (above - 2 * loss + below) / h
            half_bend = (half_above - 2 * loss + half_below) / (h / 2)
            slopes[at] = (4 * half - whole) / 3
            unsteady[number] = max(abs(whole - half), abs(bend - 2 * half_bend))
        noise = 50 * EPS * abs(loss) / step
        scale = np.abs(slopes[np.isfinite(slopes)]).max(initial=0.0)
        crossed[todo] = unsteady > tolerance / 5 * scale + noise
    return slopes, crossed, noise


def _guess(
    claimed: dict[str, np.ndarray], known: dict[str, np.ndarray], y: Any, index: int
) -> Finding:
    """A mistake that can be told without knowing how the loss is computed."""
    shape = np.shape(y)
    forms: list[tuple[str, float, bool, str]] = [("sign", -1.0, False, "has the opposite sign")]
    for count in dict.fromkeys((*shape, int(np.prod(shape)))):
        if count > 1:
            text = f"is {count} times too large, which is a size of y: a sum is not divided by it"
            forms.append(("missing-batch-mean", float(count), False, text))
    forms.append(("transposed-weights", 1.0, True, "is transposed"))
    found: dict[str, tuple[str, str]] = {}
    for name, truth in known.items():
        claim = claimed[name]
        there = np.isfinite(truth)
        if there.any() and _fits(claim[there], truth[there]):
            continue
        for mistake, factor, turned, text in forms:
            given = claim
            if turned:
                if name != "dW" or claim.ndim != 2 or claim.shape[0] != claim.shape[1]:
                    continue
                given = claim.T
            if there.any() and _fits(given[there], factor * truth[there]):
                found[name] = (mistake, text)
                break
        else:
            found.clear()
            break
    if not found:
        text = "none of the mistakes that can be told from the loss alone gives these numbers"
        return Finding("unknown", index, text, 1)
    mistakes = list(dict.fromkeys(found.values()))
    names = (
        "the gradient" if len(found) == len(known) and len(mistakes) == 1 else " and ".join(found)
    )
    return Finding(mistakes[0][0], index, f"{names} {mistakes[0][1]}", 1)


def _fits(given: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(given - expected).max() <= 1e-5 * np.abs(expected).max())

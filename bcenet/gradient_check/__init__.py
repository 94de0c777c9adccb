"""Checking a gradient against differences of the loss, and naming the mistake in a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, losses
from bcenet import gradients as gradients_
from bcenet import rows as rows_
from bcenet.gradient_check import claims as claims_
from bcenet.gradient_check import function
from bcenet.gradient_check.claims import Claims
from bcenet.gradient_check.mistakes import MISTAKES, find
from bcenet.gradient_check.report import Findings, GradientCheck, LayerCheck
from bcenet.gradient_check.twin import Twin
from bcenet.network import Network

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["MISTAKES", "GradientCheck", "LayerCheck", "check_gradient"]


def check_gradient(
    network: Network | Callable[..., Any],
    X: ArrayLike,
    y: ArrayLike,
    gradients: Any = None,
    orientation: str = "auto",
    *,
    parameters: Any = None,
    sample_weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> GradientCheck:
    """Compare a gradient of the mean loss with differences of the loss, and name the mistake.

    In float64, layer by layer: of a network by the complex step Im C(w + ih) / h, a difference that
    rounds nothing away (Squire and Trapp 1998); of a function by central differences
    (C(w + h) - C(w - h)) / 2 h. Of an array with more than 200 entries a sample is compared, the
    same every time, and the entries that look worst. Where a kink, such as relu's at 0, is within
    the rounding of z, either derivative is right, and the entry is counted as skipped; so is one
    whose step crosses a kink of a function.

    A wrong gradient is then compared with what each well-known mistake gives, to rounding. Each
    wrong layer's ``mistake`` is one of these, which ``docs/check-gradient.md`` describes:

    - "sign", "missing-batch-mean" (a sum where it is the mean over all label elements),
    - "output-sigmoid-derivative-twice": dz_L = (p - y) p (1 - p),
    - "missing-activation-derivative": dz_l = da_l, or dz_L = dC/dp,
    - "relu-mask": the activation's derivative of another layer, or at something else than z,
    - "transposed-weights": da_{l-1} = dz_l W_l, or dW_l itself transposed,
    - "bias-axis": db is the sum over the units, or over everything,
    - "updated-weights": da_{l-1} = dz_l (W_l - rate dW_l)^T, the rate fitted by least squares,
    - "unknown": none of these gives the numbers.

    Arguments:
        network: a Network. Or a function f(parameters, X, y) of the loss, or of (loss, gradients),
            in float64, whose gradients are checked against its own loss. If that is the loss of a
            network with sigmoid outputs and hidden layers of one activation, all mistakes are
            looked for; else the sign, the mean and a transposed dW.
        X, y: rows as for `Network.loss_gradient`; for a function, whatever it takes.
        gradients: None checks bcenet's own, or the function's; or one (dW, db) a layer, or a
            Gradient. A db that is the sum over a wrong axis may have the shape it then has.
        orientation: of ``gradients``: "rows" for dW of (fan_in, fan_out); "columns" for (fan_out,
            fan_in), from ``np.dot(W, A)`` with samples in columns; "auto" takes what fits, and
            reads square layers as the others. db is (fan_out,), (fan_out, 1) or (1, fan_out).
        parameters: what a function is called with: a list of (W, b), or one flat array. Its
            gradients are laid out as they are.
        sample_weight, pos_weight, label_smoothing: of a network's loss, as for
            `Network.loss_gradient`.

    Returns: a GradientCheck. An entry is right within 1e-6 of the largest of its array; within 1e-4
    where a gradient in float32 is given, or no mistake explains that of a float32 network.

    Raises: ValueError or TypeError for rows as `Network.loss_gradient` does, and for gradients of
    another number or other shapes.

    Example:
        >>> import bcenet, numpy as np
        >>> net = bcenet.Network([3, 5, 1], activation="tanh", random_state=0)
        >>> X, y = np.eye(3), np.array([0, 1, 1])
        >>> bcenet.check_gradient(net, X, y).passed
        True
        >>> _, g = net.loss_gradient(X, y)
        >>> wrong = [(g.coefs[0], g.intercepts[0]), (-g.coefs[1], -g.intercepts[1])]
        >>> [layer.mistake for layer in bcenet.check_gradient(net, X, y, wrong).layers]
        [None, 'sign']
    """
    checks.choice("orientation", orientation, ("auto", "rows", "columns"))
    if not isinstance(network, Network):
        if not callable(network):
            raise TypeError(
                "network must be a bcenet.Network or a function f(parameters, X, y); "
                f"got {checks.describe(network)}"
            )
        if sample_weight is not None or pos_weight is not None or label_smoothing != 0:
            raise ValueError(
                "sample_weight, pos_weight and label_smoothing must be left out with a function, "
                "whose loss is its own"
            )
        with np.errstate(all="ignore"):
            return function.check(network, X, y, gradients, orientation, parameters)
    if parameters is not None:
        raise ValueError("parameters must be left out with a network, which has its own")
    rows = rows_.check(network, X, y, sample_weight)
    pos = losses.pos_weight_array(pos_weight, network.layer_sizes[-1])
    smoothing = checks.number("label_smoothing", label_smoothing, 0.0, 1.0)
    if gradients is None:
        _, gradients = gradients_.loss_gradient(
            network,
            rows.X,
            rows.y,
            sample_weight=rows.weight,
            pos_weight=pos,
            label_smoothing=smoothing,
        )
    with np.errstate(all="ignore"):
        twin = Twin(network, rows, pos, smoothing)
        claims = _claims(twin, gradients, orientation)
        layers = _layers(twin, claims)
        if any(layer.mistake == "unknown" for layer in layers):
            # What is left may be the rounding of the network's own dtype, whatever that of dW is.
            coarse = claims.rounded_as(network.dtype)
            if coarse.eps > claims.eps:
                for index, layer in enumerate(_layers(twin, coarse)):
                    if layers[index].mistake == "unknown":
                        layers[index] = layer
    return GradientCheck(all(layer.passed for layer in layers), layers, claims.orientation)


def _layers(twin: Twin, claims: Claims) -> list[LayerCheck]:
    """Every layer's verdict, and what explains it."""
    layers = [_layer(twin, claims, index) for index in range(len(claims.layers))]
    wrong = [not layer.passed for layer in layers]
    explained = find(twin, claims.given(), wrong, claims.eps, claims.tolerance)
    if any(finding is not None and finding.mistake == "unknown" for finding in explained):
        other = twin.other_side()
        if other is not None:
            explained = find(other, claims.given(), wrong, claims.eps, claims.tolerance)
    return [layer.layer(finding) for layer, finding in zip(layers, explained, strict=True)]


def _claims(twin: Twin, gradients: Any, orientation: str) -> Claims:
    """What is to be checked, as it came and in rows."""
    if isinstance(gradients, gradients_.Gradient):
        layers = [
            {"dW": dw, "db": db}
            for dw, db in zip(gradients.coefs, gradients.intercepts, strict=True)
        ]
        norms = iter(gradients.norms)
        for index, layer in enumerate(layers):
            if "dgain" in twin.array_names(index):
                layer["dgain"], layer["dshift"] = next(norms)
        if gradients.scale is not None:
            layers[0]["dscale"] = gradients.scale
        return Claims.of(layers, "rows")
    shapes = [weights.shape for weights in twin.coefs]
    pairs = claims_.pairs_of(gradients, len(shapes))
    recognised = claims_.orientation_of(pairs, shapes, orientation)
    for index, ((_, db), (_, fan_out)) in enumerate(zip(pairs, shapes, strict=True)):
        claims_.check_bias(index, db, fan_out, twin.n, recognised or "rows")
    layers = [{"dW": dw, "db": db} for dw, db in pairs]
    if recognised is not None:
        return Claims.of(layers, recognised)
    # Every layer is square: the reading in which more is right, or else explained.
    readings = [Claims.of(layers, each) for each in ("rows", "columns")]
    return max(readings, key=lambda claims: _sense(twin, claims))


def _sense(twin: Twin, claims: Claims) -> tuple[int, int, int]:
    """(layers whose dW is right, others whose mistake is known, minus how many were made)."""
    wrong = []
    for index, layer in enumerate(claims.layers):
        truth = twin.gradient(index, "dW", twin.deltas[index])
        limit = claims.tolerance * np.abs(truth).max() + twin.noise(index, "dW", claims.eps)
        wrong.append(not np.abs(layer["dW"] - truth).max() <= limit)
    found = find(twin, claims.given(), wrong, claims.eps, claims.tolerance)
    known = [finding for finding in found if finding and finding.mistake != "unknown"]
    return wrong.count(False), len(known), -sum(finding.own for finding in known)


def _layer(twin: Twin, claims: Claims, index: int) -> Findings:
    """A layer's arrays against the twin's derivatives."""
    findings = Findings(claims, index)
    for name in twin.array_names(index):
        claim = claims.layers[index].get(name)
        if claim is None:  # (dW, db) of a network that has more
            continue
        truth = twin.gradient(index, name, twin.deltas[index])
        if findings.is_refused(name, truth.size):
            continue
        entries = claims_.choose(claim - truth, np.random.default_rng(index))
        # What is nearer to a kink than this may be on its other side in the user's own z.
        slopes, play = twin.derivatives(index, name, entries, twin.rounding(claims.eps))
        noise = twin.noise(index, name, claims.eps)
        findings.compare(name, entries, slopes, play, noise / claims.tolerance)
    return findings

"""From a trained network's outputs to decisions: a threshold, and a temperature for its logits.

Both belong on rows that the network was not trained on: it is too sure of those it was trained on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bcenet import checks, kernels, losses, metrics

__all__ = ["choose_threshold", "fit_temperature"]

METRICS = ("f1", "balanced_accuracy", "accuracy")


def choose_threshold(
    y: Any,
    probability: Any,
    *,
    metric: str | None = None,
    cost: tuple[float, float] | None = None,
    sample_weight: Any = None,
) -> float:
    """The threshold on P(y = 1) that is best for a measure, or cheapest, on given rows.

    A row is predicted 1 where ``probability >= threshold``. Every prediction that a threshold in
    [0, 1] can make is tried: 1 from each distinct probability upwards, and nowhere. The best is
    exact but for the rounding of the weights' sums in float64; without weights the counts are
    exact.

    The threshold returned is half-way between the lowest probability predicted 1 and the highest
    predicted 0 (0 and 1 stand in where there is none). Where too few numbers lie between them, it
    is the former. So ``probability >= threshold`` is the prediction meant, also in float32, to
    which NumPy rounds a Python number beside a float32 array. Of thresholds that are equally good
    it is the one nearest to 0.5, and of two equally near the higher.

    Arguments:
        y: targets 0 and 1 (or False and True), shape (n,).
        probability: of 1, in [0, 1], shape (n,).
        metric: what to make large: "f1" (the default), "balanced_accuracy" or "accuracy"; see
            ``bcenet.metrics``.
        cost: instead of a metric, (cost of a false positive, cost of a false negative), finite,
            not negative and not both 0; the total over the rows is made small. If probabilities
            are calibrated and rows many, this nears ``cost[0] / sum(cost)`` (Elkan 2001).
        sample_weight: weights, shape (n,), or None; rows of weight 0 count as if they were absent.

    Returns: a number in [0, 1], as ``bcenet.model.Model`` takes it.

    Raises: ValueError for shapes that differ, other targets, a probability outside [0, 1], a bad
    weight, an unknown metric, a metric beside a cost, a bad cost, "f1" without a row of 1, or
    "balanced_accuracy" without both classes; TypeError for what does not hold numbers.

    Example:
        >>> import bcenet
        >>> y, probability = [0, 0, 1, 0, 1, 1], [0.125, 0.25, 0.375, 0.5, 0.75, 0.875]
        >>> bcenet.calibration.choose_threshold(y, probability)
        0.3125
        >>> bcenet.calibration.choose_threshold(y, probability, cost=(5, 1))
        0.625
    """
    if cost is None:
        metric = checks.choice("metric", "f1" if metric is None else metric, METRICS)
    elif metric is not None:
        raise ValueError(f"metric must not be given beside cost; got {metric!r}")
    else:
        cost = _checked_cost(cost)
    y, p, weight = metrics.checked_probability(y, probability, sample_weight)
    present = weight > 0
    values, positive, negative = metrics.by_score(y[present], p[present], weight[present])
    # Candidate i predicts 1 from values[i] upwards, the last one nowhere: the weight of the
    # positive and of the negative rows that are predicted 1. Scaling by a power of 2 changes no
    # bit and keeps products from overflowing.
    total = positive.sum() + negative.sum()
    tp, fp = (
        np.ldexp(np.append(np.cumsum(part[::-1])[::-1], 0.0), -np.frexp(total)[1])
        for part in (positive, negative)
    )
    if cost is not None:
        gain = -(cost[0] * fp + cost[1] * (tp[0] - tp))
    else:
        _require_classes(metric, tp[0] > 0, fp[0] > 0)
        if metric == "f1":
            gain = 2 * tp / (tp + fp + tp[0])
        elif metric == "accuracy":
            gain = tp - fp
        else:  # twice the balanced accuracy less 1, times the weights of both classes
            gain = tp * fp[0] - fp * tp[0]
    lower, upper = np.append(0.0, values), np.append(values, 1.0)
    if values[-1] == 1:  # no threshold in [0, 1] is above it
        gain, lower, upper = gain[:-1], lower[:-1], upper[:-1]
    best = gain == gain.max()
    threshold = _between(lower[best], upper[best], checks.real_array("probability", probability))
    return float(threshold[::-1][np.argmin(np.abs(threshold[::-1] - 0.5))])


def fit_temperature(logits: Any, y: Any, *, sample_weight: Any = None) -> float:
    """The T > 0 for which ``sigmoid(logits / T)`` is calibrated best (Guo et al. 2017).

    T makes the weighted mean of ``log(1 + e^(z/T)) - y z/T`` over all labels as small as it can
    be. T above 1 means that the logits were too far from 0. Order, and so AUC, stay as they are.

    In b = 1/T the loss is convex, and its derivative ``mean of z (s(b z) - y)`` is concave for
    b >= 0: Newton's steps from b = 0 rise to the minimum without passing it.

    Arguments:
        logits: z, finite, shape (n,), or (n, k) for k labels that share one temperature; computed
            in float64.
        y: targets in [0, 1], the logits' shape.
        sample_weight: weights, finite and not negative, shape (n,) or the logits', or None.

    Returns: T, a float.

    Raises: ValueError for shapes that differ, values out of range, or where no T is best: if the
    logits separate the classes (each is 0 or has its label's sign) the loss falls for ever as T
    nears 0, and if they do not rise with y (all 0, or no better than the reverse) it falls for
    ever as T grows. TypeError for what does not hold numbers.

    Example:
        Probabilities of 0.88 and 0.12 that are right in three of four cases become 0.75 and 0.25.

        >>> import bcenet
        >>> logits, y = [2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0], [1, 1, 1, 0, 0, 0, 0, 1]
        >>> temperature = bcenet.calibration.fit_temperature(logits, y)
        >>> bcenet.sigmoid([2.0 / temperature, -2.0 / temperature]).round(12).tolist()
        [0.75, 0.25]

        A network's last layer takes the temperature in, and then predicts so by itself:

        >>> net = bcenet.Network([2, 4, 1], random_state=0)
        >>> for part in (net.coefs[-1], net.intercepts[-1]):
        ...     part /= temperature
    """
    z, t, weight = _checked_logits(logits, y, sample_weight)
    largest = float(np.abs(z).max())
    if largest == 0:
        raise ValueError("logits must not all be 0; no temperature changes them")
    u = z / largest
    if not (((u > 0) & (t < 1)) | ((u < 0) & (t > 0))).any():
        raise ValueError(
            "logits must not separate the classes; as every one has its label's sign, "
            "the loss falls for ever as the temperature nears 0"
        )
    slope, curvature = _derivatives(0.0, u, t, weight)
    if slope >= -(2**-40) * float(np.sum(weight * np.abs(u))):  # 0 but for rounding
        raise ValueError(
            "logits must rise with y; here the loss falls for ever as the temperature grows"
        )
    return _checked_temperature(largest / _root(slope, curvature, u, t, weight))


def _checked_cost(cost: Any) -> tuple[float, float]:
    if not isinstance(cost, (tuple, list)) or len(cost) != 2:
        raise ValueError(
            f"cost must be (false positive, false negative); got {checks.describe(cost)}"
        )
    false_positive, false_negative = (
        checks.number(f"cost[{i}]", value, 0.0) for i, value in enumerate(cost)
    )
    if false_positive == false_negative == 0:
        raise ValueError("cost must not be 0 for both errors")
    return false_positive, false_negative


def _require_classes(metric: str | None, ones: bool, zeros: bool) -> None:
    if metric == "f1" and not ones:
        raise ValueError("y must hold a 1 (with a positive weight) for f1; got none")
    if metric == "balanced_accuracy" and not (ones and zeros):
        raise ValueError(
            "y must hold both classes (with positive weights) for balanced_accuracy; got one"
        )


def _between(lower: np.ndarray, upper: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Half-way between, or ``upper`` where that is not in (lower, upper], also once rounded.

    Rounded to float32, or to the dtype of the probabilities if that is less.
    """
    middle = lower + (upper - lower) / 2
    half = probability.dtype.kind == "f" and probability.dtype.itemsize == 2
    rounded = middle.astype(np.float16 if half else np.float32)
    inside = (lower < np.minimum(middle, rounded)) & (rounded <= upper)
    return np.where(inside, middle, upper)


def _checked_logits(
    logits: Any, y: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, targets and weights / their sum, without those of weight 0: float64, 1-D."""
    z = checks.real_array("logits", logits)
    t = checks.real_array("y", y)
    double = np.dtype(np.float64)
    if z.ndim not in (1, 2) or z.size == 0:
        raise ValueError(
            f"logits must have shape (n,) or (n, k), not empty; got {checks.describe(z)}"
        )
    if t.shape != z.shape:
        raise ValueError(f"y must have the logits' shape {z.shape}; got {t.shape}")
    kernels.check_values("logits", z, double, "finite")
    kernels.check_values("y", t, double, "in [0, 1]")
    z, t = z.astype(double), t.astype(double)
    if sample_weight is None:
        return z.ravel(), t.ravel(), np.full(z.size, 1 / z.size)
    weight = losses.check_sample_weight(sample_weight, z.shape)
    weight = weight.reshape(weight.shape + (1,) * (z.ndim - weight.ndim))
    weight = np.broadcast_to(weight, z.shape)
    total = losses.sum_weights(weight, double)
    if total == 0:
        raise ValueError("sample_weight must not sum to 0")
    present = weight > 0
    return z[present], t[present], weight[present] / total


def _derivatives(b: float, u: np.ndarray, t: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The first and second derivative by b of the mean loss of the logits b u."""
    dz = losses.bce_gradient(b * u, t, sample_weight=weight, reduction="sum")
    p = losses.sigmoid(-b * np.abs(u))
    return float(np.sum(dz * u)), float(np.sum(weight * u * u * p * (1 - p)))


def _root(
    slope: float, curvature: float, u: np.ndarray, t: np.ndarray, weight: np.ndarray
) -> float:
    """The b > 0 where the loss is smallest, from its derivatives at 0, which are < 0 and >= 0.

    The root of the slope stays between ``low`` and ``high``, which come closer at every step. In
    exact arithmetic Newton's steps never leave them; in floating point they may once they are as
    small as the rounding, or where a product of tiny numbers is 0.
    """
    low, high = 0.0, math.inf
    b = -slope / curvature if curvature > 0 else 1.0
    while True:
        slope, curvature = _derivatives(b, u, t, weight)
        low, high = (b, high) if slope < 0 else (low, b)
        after = b - slope / curvature if curvature > 0 else math.inf
        nearest = 2**-51 * b
        if abs(after - b) > nearest and not low < after < high:
            after = 2 * b if high == math.inf else low + (high - low) / 2
        if abs(after - b) <= nearest:
            return after
        b = after


def _checked_temperature(temperature: float) -> float:
    if not 0 < temperature < math.inf:
        raise ValueError(f"logits must have a temperature that float64 can hold; got {temperature}")
    return temperature

"""How good predicted probabilities are, with weights.

Names and results are scikit-learn's where it has the measure and nothing else is said.
Targets are 0 and 1 (or False and True). ``sample_weight`` has one weight a row, finite and not
negative, with a positive sum; without it every row weighs 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks

__all__ = [
    "accuracy_score",
    "average_precision_score",
    "balanced_accuracy_score",
    "binary_report",
    "brier_score_loss",
    "confusion_matrix",
    "expected_calibration_error",
    "f1_score",
    "log_loss",
    "roc_auc_score",
]


def roc_auc_score(y: Any, score: Any, *, sample_weight: Any = None) -> float:
    """The area under the ROC curve: how likely a positive row scores above a negative one.

    ``sum of w_i w_j (1 if s_i > s_j, 1/2 if equal) over positive i, negative j``, divided by the
    product of the weights of both classes (Mann and Whitney 1947).

    Args:
        y: targets, shape (n,).
        score: any numbers that rise with the probability of 1, shape (n,); infinite ones too.
        sample_weight: weights, shape (n,), or None.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: shapes that differ, a target other than 0 and 1, a NaN, a bad weight, or only
            one class (of positive weight).
        TypeError: an argument does not hold numbers.

    >>> roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    y, score, weight = _checked(y, "score", score, sample_weight)
    _, positive, negative = by_score(y, score, weight)
    if not positive.any() or not negative.any():
        raise ValueError("y must hold both classes (with positive weights); got one")
    positive, negative = positive / positive.sum(), negative / negative.sum()
    below = np.cumsum(negative) - negative  # the part of the negative rows with lower scores
    return float(np.sum(positive * (below + negative / 2)))


def average_precision_score(y: Any, score: Any, *, sample_weight: Any = None) -> float:
    """The precision, averaged over the positive rows in order of falling score.

    ``sum over thresholds of (recall_k - recall_(k-1)) * precision_k``, without interpolation; rows
    of equal score share one threshold.

    Args, Raises: as in ``roc_auc_score``; here only the positive class must be there.

    Returns:
        A number in (0, 1].

    >>> round(average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 6)
    0.833333
    """
    y, score, weight = _checked(y, "score", score, sample_weight)
    _, positive, negative = by_score(y, score, weight)
    if not positive.any():
        raise ValueError("y must hold a 1 (with a positive weight); got none")
    true = np.cumsum(positive[::-1])  # from the highest score down
    predicted = np.cumsum((positive + negative)[::-1])
    hit = positive[::-1] > 0
    return float(np.sum(positive[::-1][hit] * (true[hit] / predicted[hit])) / positive.sum())


def log_loss(y: Any, probability: Any, *, sample_weight: Any = None) -> float:
    """The mean of ``-log(p)`` over the rows of 1 and ``-log(1 - p)`` over those of 0.

    Exact for the probabilities given: a probability of 0 for a row of 1 costs infinity, as does 1
    for a row of 0, where scikit-learn first moves probabilities away from 0 and 1 by the spacing
    of their dtype at 1. A row of weight 0 costs nothing, whatever its probability. From logits,
    where nothing is rounded to 0 or 1, ``bcenet.bce_loss`` gives the same mean.

    Args:
        y: targets, shape (n,).
        probability: of 1, in [0, 1], shape (n,).
        sample_weight: weights, shape (n,), or None.

    Returns:
        A number in [0, inf].

    Raises:
        ValueError: shapes that differ, a target other than 0 and 1, a probability outside [0, 1],
            or a bad weight.

    >>> round(log_loss([0, 1], [0.1, 0.8]), 6)
    0.164252
    >>> log_loss([0, 1], [0.1, 0.0])
    inf
    """
    y, probability, weight = checked_probability(y, probability, sample_weight)
    with np.errstate(divide="ignore"):
        loss = -np.where(y, np.log(probability), np.log1p(-probability))
    counted = weight > 0
    return float(np.sum(weight[counted] / weight.sum() * loss[counted])) + 0.0  # -0.0 to 0.0


def brier_score_loss(y: Any, probability: Any, *, sample_weight: Any = None) -> float:
    """The mean of ``(p - y)^2``, in [0, 1].

    Args, Raises: as in ``log_loss``.

    >>> round(brier_score_loss([0, 1], [0.1, 0.8]), 6)
    0.025
    """
    y, probability, weight = checked_probability(y, probability, sample_weight)
    return float(np.sum(weight / weight.sum() * (probability - y) ** 2))


def expected_calibration_error(
    y: Any,
    probability: Any,
    *,
    bins: int = 15,
    strategy: str = "uniform",
    sample_weight: Any = None,
) -> float:
    """How far probabilities lie from the frequencies of 1, averaged over bins of probabilities.

    ``sum over bins of W_b / W * |mean of y - mean of p|``, with W_b the weight of the rows in bin
    b, W that of all, and weighted means over the rows of the bin; empty bins count nothing. p is
    the probability of 1 (Naeini, Cooper and Hauskrecht 2015), where Guo et al. 2017 take that of
    the predicted class.

    Every bin includes its upper edge and excludes its lower one; the first includes 0. The value
    depends on the bins: compare it only between equal ``bins`` and ``strategy``, on many rows.

    Args:
        y: targets, shape (n,).
        probability: of 1, in [0, 1], shape (n,).
        bins: number of bins, at least 1.
        strategy: "uniform" has the edges k / bins. With "quantile" edge k is the lowest
            probability with at least k / bins of the weight at or below it, so bins are of about
            equal weight; rows of equal probability share a bin, and so bins may be empty.
        sample_weight: weights, shape (n,), or None.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: as in ``log_loss``, fewer than one bin, or an unknown strategy.
        TypeError: ``bins`` is not an integer.

    >>> round(expected_calibration_error([0, 0, 1, 1], [0.1, 0.1, 0.7, 0.9], bins=2), 6)
    0.15
    """
    bins = checks.integer("bins", bins, 1)
    checks.choice("strategy", strategy, ("uniform", "quantile"))
    y, probability, weight = checked_probability(y, probability, sample_weight)
    steps = np.arange(1, bins)
    if strategy == "uniform":
        edges = steps / bins
    else:
        values, positive, negative = by_score(y, probability, weight)
        below = np.cumsum(positive + negative)
        # Scaled by a power of 2, which changes no bit, lest steps * total overflow.
        below = np.ldexp(below, -np.frexp(below[-1])[1])
        edges = values[np.searchsorted(below, steps * below[-1] / bins)]
    places = np.searchsorted(edges, probability)
    return float(np.abs(np.bincount(places, weight / weight.sum() * (y - probability))).sum())


def accuracy_score(y: Any, predicted: Any, *, sample_weight: Any = None) -> float:
    """The part of the rows (of their weight) with ``predicted == y``.

    Args:
        y: targets, shape (n,).
        predicted: predicted targets, 0 and 1, shape (n,).
        sample_weight: weights, shape (n,), or None.

    Raises:
        ValueError: shapes that differ, anything other than 0 and 1, or a bad weight.

    >>> accuracy_score([0, 1, 1, 0], [0, 1, 0, 0])
    0.75
    """
    matrix = confusion_matrix(y, predicted, sample_weight=sample_weight)
    return float(matrix.trace() / matrix.sum())


def balanced_accuracy_score(y: Any, predicted: Any, *, sample_weight: Any = None) -> float:
    """The mean over both classes of the part of their rows (of their weight) that is right.

    ``(tp / (tp + fn) + tn / (tn + fp)) / 2``. A class without rows (of positive weight) is left
    out, as in scikit-learn, but without a warning.

    Args, Raises: as in ``accuracy_score``.

    Returns:
        A number in [0, 1].

    >>> balanced_accuracy_score([0, 1, 1, 0], [0, 1, 0, 0])
    0.75
    """
    matrix = confusion_matrix(y, predicted, sample_weight=sample_weight)
    rows = matrix.sum(axis=1)
    present = rows > 0
    return float(np.mean(matrix.diagonal()[present] / rows[present]))


def f1_score(y: Any, predicted: Any, *, sample_weight: Any = None) -> float:
    """The harmonic mean of the precision and the recall of the class 1.

    ``2 tp / (2 tp + fp + fn)``. It is 0 if no row (of positive weight) is 1 or predicted 1, which
    is scikit-learn's value too, but without a warning.

    Args, Raises: as in ``accuracy_score``.

    Returns:
        A number in [0, 1].

    >>> round(f1_score([0, 1, 1, 0], [0, 1, 0, 0]), 6)
    0.666667
    >>> f1_score([0, 0], [0, 0])
    0.0
    """
    (_, fp), (fn, tp) = confusion_matrix(y, predicted, sample_weight=sample_weight)
    divisor = tp + (fp + fn) / 2
    return float(tp / divisor) if divisor > 0 else 0.0


def confusion_matrix(y: Any, predicted: Any, *, sample_weight: Any = None) -> np.ndarray:
    """The rows (their weight) by class: ``[[true negatives, false positives], [fn, tp]]``.

    Args, Raises: as in ``accuracy_score``.

    Returns:
        Array of shape (2, 2), int64 without weights and float64 with them. The row is the target
        and the column the prediction; both classes are there even if the data lack one.

    >>> confusion_matrix([0, 1, 1, 0], [0, 1, 0, 0])
    array([[2, 0],
           [1, 1]])
    """
    y, predicted, weight = _checked(y, "predicted", predicted, sample_weight)
    predicted = _binary("predicted", predicted)
    places = 2 * y + predicted
    weights = None if sample_weight is None else weight
    return np.bincount(places, weights, minlength=4).reshape(2, 2)


def binary_report(
    y: Any, probability: Any, threshold: float = 0.5, sample_weight: Any = None
) -> dict[str, Any]:
    """All of these measures in one JSON-able dict, and the same for a constant prediction.

    A row is predicted 1 where its probability is at least ``threshold``. The constant is the
    (weighted) part of ones in ``y``, which no other constant beats.

    Args:
        y: targets, shape (n,).
        probability: of 1, in [0, 1], shape (n,).
        threshold: a number in [0, 1].
        sample_weight: weights, shape (n,), or None.

    Returns:
        Keys ``rows``, ``positive_rate`` (the part of ones), ``threshold``, ``roc_auc``,
        ``average_precision``, ``log_loss``, ``brier_score``, ``expected_calibration_error`` (of 15
        uniform bins), ``accuracy``, ``balanced_accuracy``, ``f1``, ``confusion_matrix`` (a list of
        two lists) and ``base_rate``, a dict with the measures of the constant prediction under the
        same keys. A measure that is not defined because ``y`` holds one class only is None.

    Raises:
        ValueError: as in ``log_loss``, or a threshold outside [0, 1].

    >>> report = binary_report([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> report["roc_auc"], report["accuracy"], report["base_rate"]["roc_auc"]
    (0.75, 0.75, 0.5)
    """
    threshold = checks.number("threshold", threshold, 0.0, 1.0)
    y, probability, weight = checked_probability(y, probability, sample_weight)
    rate = float(np.sum(weight * y) / weight.sum())
    weights = None if sample_weight is None else weight
    return {
        "rows": len(y),
        "positive_rate": rate,
        "threshold": threshold,
        **_measures(y, probability, threshold, weights),
        "base_rate": _measures(y, np.full(len(y), rate), threshold, weights),
    }


def _measures(
    y: np.ndarray, probability: np.ndarray, threshold: float, weight: np.ndarray | None
) -> dict[str, Any]:
    present = y if weight is None else y[weight > 0]
    predicted = probability >= threshold
    return {
        "roc_auc": (
            roc_auc_score(y, probability, sample_weight=weight)
            if 0 < present.sum() < len(present)
            else None
        ),
        "average_precision": (
            average_precision_score(y, probability, sample_weight=weight) if present.any() else None
        ),
        "log_loss": log_loss(y, probability, sample_weight=weight),
        "brier_score": brier_score_loss(y, probability, sample_weight=weight),
        "expected_calibration_error": expected_calibration_error(
            y, probability, sample_weight=weight
        ),
        "accuracy": accuracy_score(y, predicted, sample_weight=weight),
        "balanced_accuracy": balanced_accuracy_score(y, predicted, sample_weight=weight),
        "f1": f1_score(y, predicted, sample_weight=weight),
        "confusion_matrix": confusion_matrix(y, predicted, sample_weight=weight).tolist(),
    }


def by_score(
    y: np.ndarray, score: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, rising, and the weight of the positive and negative rows at each."""
    values, codes = np.unique(score, return_inverse=True)
    return values, np.bincount(codes, weight * y), np.bincount(codes, weight * (1 - y))


def _checked(
    y: Any, name: str, values: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets as int64, values and weights as float64, all of shape (n,) with n > 0."""
    y = _binary("y", y)
    values = _numbers(name, values, len(y))
    if np.isnan(values).any():
        row = int(np.argmax(np.isnan(values)))
        raise ValueError(f"{name} must not be NaN; got NaN in row {row}")
    if sample_weight is None:
        return y, values, np.ones(len(y))
    weight = _numbers("sample_weight", sample_weight, len(y))
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"sample_weight must be finite and not negative; got {weight[row]} in row {row}"
        )
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not 0 < total < np.inf:
        raise ValueError(f"sample_weight must have a positive, finite sum; got {total}")
    return y, values, weight


def checked_probability(
    y: Any, probability: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets as int64, probabilities and weights as float64, all of shape (n,) with n > 0."""
    y, probability, weight = _checked(y, "probability", probability, sample_weight)
    outside = (probability < 0) | (probability > 1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"probability must be in [0, 1]; got {probability[row]} in row {row}")
    return y, probability, weight


def _numbers(name: str, values: Any, n_rows: int | None = None) -> np.ndarray:
    """A 1-D float64 array, of ``n_rows`` values if that is given."""
    array = checks.real_array(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D; got {checks.describe(array)}")
    if n_rows is not None and len(array) != n_rows:
        raise ValueError(f"{name} must have one value a row, {n_rows}; got {len(array)}")
    return array.astype(np.float64)


def _binary(name: str, values: Any) -> np.ndarray:
    """0 and 1 as int64, at least one of them."""
    array = _numbers(name, values)
    if not len(array):
        raise ValueError(f"{name} must have at least one row; got none")
    other = (array != 0) & (array != 1)
    if other.any():
        row = int(np.argmax(other))
        raise ValueError(f"{name} must be 0 or 1; got {array[row]} in row {row}")
    return array.astype(np.int64)

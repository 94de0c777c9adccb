"""Scores of validation rows for early stopping: the higher, the better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import get_scorer

from bcenet import losses, metrics
from bcenet.sklearn.labels import Labels


class Validation:
    """Validation rows as a score sees them.

    ``codes`` are `Labels.codes` of the labels ``y``; ``weight`` is (n,) or None.
    """

    def __init__(
        self, labels: Labels, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> None:
        self.labels = labels
        self.X = X
        self.y = y
        self.codes = labels.codes(y)
        self.weight = weight

    def columns(self, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, Any]]:
        """(targets 0 and 1, values, weights) of each output, without missing labels."""
        targets = self.labels.targets(self.codes)
        targets, values = targets.reshape(len(targets), -1), values.reshape(len(values), -1)
        known = ~np.isnan(targets) if targets.dtype.kind == "f" else np.ones(targets.shape, bool)
        return [
            (
                targets[rows, i].astype(int),
                values[rows, i],
                None if self.weight is None else self.weight[rows],
            )
            for i, rows in enumerate(known.T)
        ]


def of(metric: Any, data: Validation, threshold: Any) -> Callable[..., float]:
    """The score as a function of (a fitted estimator, its logits of the validation rows).

    Arguments:
        metric: one of `MEASURES`, the name of a scorer of scikit-learn, or a scorer
            f(estimator, X, y), called with sample_weight too where the rows have weights.
    """
    if isinstance(metric, str) and metric in MEASURES:
        measure = MEASURES[metric]
        return lambda estimator, logits: float(measure(data, logits(), threshold))
    scorer = get_scorer(metric) if isinstance(metric, str) else metric
    options = {} if data.weight is None else {"sample_weight": data.weight}
    return lambda estimator, logits: float(scorer(estimator, data.X, data.y, **options))


def _predicted(data: Validation, logits: np.ndarray, threshold: Any) -> np.ndarray:
    predicted = data.labels.predict(logits, threshold)
    return predicted if data.labels.kind == "multilabel" else data.labels.codes(predicted)


def _accuracy(data: Validation, logits: np.ndarray, threshold: Any) -> float:
    predicted = _predicted(data, logits, threshold)
    if data.labels.kind == "multilabel":
        wrong = (predicted != data.labels.targets(data.codes)) & (data.codes == data.codes)
        right = ~wrong.any(axis=1)
    else:
        right = predicted == data.codes
    return float(np.average(right, weights=data.weight))


def _balanced_accuracy(data: Validation, logits: np.ndarray, threshold: Any) -> float:
    """The mean of the classes' recalls; with several labels, the mean over labels."""
    predicted = _predicted(data, logits, threshold)
    if data.labels.kind != "multilabel":
        return _mean_recall(data.codes, predicted, data.weight)
    return float(np.mean([_mean_recall(*column) for column in data.columns(predicted)]))


def _mean_recall(codes: np.ndarray, predicted: np.ndarray, weight: Any) -> float:
    weight = np.ones(len(codes)) if weight is None else weight
    total = np.bincount(codes, weight)
    right = np.bincount(codes, weight * (codes == predicted), len(total))
    return float(np.mean(right[total > 0] / total[total > 0]))


def _f1(data: Validation, logits: np.ndarray, threshold: Any) -> float:
    """F1 of the second class; with several classes or labels, the mean over them."""
    predicted = _predicted(data, logits, threshold)
    if data.labels.kind == "multiclass":
        return sklearn_metrics.f1_score(
            data.codes, predicted, average="macro", sample_weight=data.weight, zero_division=0
        )
    return np.mean(
        [
            sklearn_metrics.f1_score(t, p, sample_weight=w, zero_division=0)
            for t, p, w in data.columns(predicted)
        ]
    )


def _roc_auc(data: Validation, logits: np.ndarray, threshold: Any) -> float:
    """The area under the ROC curve; with several outputs, the mean over them."""
    return _mean_of(metrics.roc_auc_score, data, _ranking(data, logits))


def _average_precision(data: Validation, logits: np.ndarray, threshold: Any) -> float:
    return _mean_of(metrics.average_precision_score, data, _ranking(data, logits))


def _ranking(data: Validation, logits: np.ndarray) -> np.ndarray:
    return data.labels.log_proba(logits) if data.labels.kind == "multiclass" else logits


def _mean_of(measure: Callable[..., float], data: Validation, values: np.ndarray) -> float:
    """The mean over the outputs whose validation rows hold both classes."""
    results = [
        measure(targets, column, sample_weight=weight)
        for targets, column, weight in data.columns(values)
        if _holds_both(targets, weight)
    ]
    if not results:
        raise ValueError(
            "early_stopping_metric must have validation rows of both classes to rank; "
            "there is one class alone"
        )
    return float(np.mean(results))


def _holds_both(targets: np.ndarray, weight: Any) -> bool:
    seen = targets if weight is None else targets[weight > 0]
    return 0 < seen.sum() < len(seen)


def _log_loss(data: Validation, logits: np.ndarray, threshold: Any) -> float:
    """Minus the mean log-loss, from the logits; with several labels, the mean over all."""
    if data.labels.kind == "multiclass":
        log_p = data.labels.log_proba(logits)[np.arange(len(logits)), data.codes]
        return float(np.average(log_p, weights=data.weight))
    parts = data.columns(logits)
    z, t = (np.concatenate([part[i] for part in parts]) for i in (1, 0))
    weight = None if data.weight is None else np.concatenate([part[2] for part in parts])
    return -losses.bce_loss(z, t, sample_weight=weight)


MEASURES = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "log_loss": _log_loss,
}

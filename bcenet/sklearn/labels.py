"""Labels as targets of sigmoids, and logits as labels and probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from bcenet import losses


def read(y: Any, missing: bool) -> np.ndarray:
    """Validated y as labels (n,), or as an indicator (n, k) of 0 and 1.

    With ``missing`` an indicator may hold NaN: a label that nobody knows.

    Raises: ValueError for regression targets, or several multi-class columns.
    """
    if hasattr(y, "toarray"):
        y = y.toarray()
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    known = y
    if missing and y.ndim == 2:
        gaps = np.isnan(y)
        if gaps.all():
            raise ValueError("y must hold a label that is not missing; got NaN alone")
        known = np.where(gaps, 0.0, y)
    kind = type_of_target(known, input_name="y")
    if kind not in ("binary", "multiclass", "multilabel-indicator"):
        check_classification_targets(known)  # raises, for most
    if y.ndim == 2 and kind != "multilabel-indicator":
        raise ValueError(
            "y must hold one label a row, or be an indicator matrix of 0 and 1 for several; "
            f"got targets of type {kind!r}"
        )
    return y


class Labels:
    """The labels of a classifier, and how a network's outputs stand for them.

    Attributes:
        kind: "binary" (one sigmoid, for the second class), "multiclass" (one a class) or
            "multilabel" (one a label).
        classes: sorted; 0 ... k-1 for multilabel.
    """

    def __init__(self, kind: str, classes: np.ndarray) -> None:
        self.kind = kind
        self.classes = classes
        self.outputs = 1 if kind == "binary" else len(classes)

    @classmethod
    def of(cls, y: np.ndarray, classes: Any = None) -> Labels:
        """The labels in y as `read` gives it, or the ``classes`` that it will have some day.

        Raises: ValueError for a single class, or classes that are not y's columns.
        """
        if y.ndim == 2:
            columns = np.arange(y.shape[1])
            if classes is not None and not np.array_equal(np.unique(classes), columns):
                raise ValueError(
                    f"classes must be the {y.shape[1]} columns of a multi-label y, "
                    f"0 to {y.shape[1] - 1}; got {classes!r}"
                )
            return cls("multilabel", columns)
        found = np.unique(y if classes is None else classes)
        if len(found) < 2:
            raise ValueError(
                "BCENetClassifier needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {found[0]!r}"
            )
        return cls("binary" if len(found) == 2 else "multiclass", found)

    def present(self, y: np.ndarray) -> np.ndarray:
        """The labels that y holds: its columns' numbers for an indicator."""
        return np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y)

    def codes(self, y: np.ndarray) -> np.ndarray:
        """Positions in ``classes`` (n,) of labels, or an indicator's cells (n, k) as they are."""
        return y if self.kind == "multilabel" else np.searchsorted(self.classes, y)

    def targets(self, codes: np.ndarray) -> np.ndarray:
        """What the sigmoids are to say: bool (n,) or (n, outputs); float with NaN if missing."""
        if self.kind == "multiclass":
            return codes[:, None] == np.arange(self.outputs)
        if codes.dtype.kind == "f" and np.isnan(codes).any():
            return np.where(np.isnan(codes), np.nan, codes != 0)
        return codes != 0

    # ---- weights --------------------------------------------------------------------------

    def class_weight(
        self, class_weight: Any, codes: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray:
        """The weight of each class (classes,), or of 0 and 1 of each label (k, 2).

        "balanced" is sum(weights) / (classes * sum(weights of the class)).
        """
        if self.kind != "multilabel":
            return self._weights_of(class_weight, self.classes, codes, sample_weight)
        if isinstance(class_weight, dict):
            raise ValueError(
                "For multi-output, class_weight should be a list of dicts, or the string "
                "'balanced'."
            )
        if isinstance(class_weight, (list, tuple)) and len(class_weight) != self.outputs:
            raise ValueError(
                "For multi-output, number of elements in class_weight should match number of "
                f"outputs. Got {len(class_weight)} element(s) while having {self.outputs} outputs."
            )
        weights = []
        for label in range(self.outputs):
            given = class_weight
            if isinstance(class_weight, (list, tuple)):
                given = class_weight[label]
            column = codes[:, label]
            known = ~np.isnan(column) if column.dtype.kind == "f" else slice(None)
            weight = None if sample_weight is None else sample_weight[known]
            binary = (column[known] != 0).astype(int)
            weights.append(self._weights_of(given, np.arange(2), binary, weight))
        return np.array(weights)

    def _weights_of(
        self,
        class_weight: Any,
        classes: np.ndarray,
        codes: np.ndarray,
        sample_weight: np.ndarray | None,
    ) -> np.ndarray:
        if class_weight is None:
            return np.ones(len(classes))
        if isinstance(class_weight, str):  # "balanced"
            counts = np.bincount(codes, sample_weight, len(classes))
            present = counts > 0
            weights = np.ones(len(classes))
            weights[present] = counts.sum() / (np.sum(present) * counts[present])
            return weights
        weights = compute_class_weight(class_weight, classes=classes, y=classes[codes])
        if not np.all(np.isfinite(weights) & (weights >= 0)):
            raise ValueError(
                f"class_weight must hold finite weights that are not negative; got {class_weight!r}"
            )
        return weights.astype(np.float64)

    def element_weights(
        self, class_weight: np.ndarray, codes: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray | None:
        """Class and sample weights in one: (n,), (n, k) if labels weigh differently, or None."""
        if np.all(class_weight == 1):
            return sample_weight
        if self.kind != "multilabel":
            weight = class_weight[codes]
            return weight if sample_weight is None else weight * sample_weight
        weight = np.where(codes != 0, class_weight[:, 1], class_weight[:, 0])
        return weight if sample_weight is None else weight * sample_weight[:, None]

    # ---- predictions ----------------------------------------------------------------------

    def predict(self, logits: np.ndarray, threshold: Any) -> np.ndarray:
        """Labels (n,), or an indicator (n, k)."""
        if self.kind == "multiclass":
            return self.classes[np.argmax(logits, axis=1)]
        if np.ndim(threshold) == 0 and threshold == 0.5:
            positive = logits > 0
        else:
            positive = losses.sigmoid(logits) >= np.asarray(threshold, logits.dtype)
        codes = positive.astype(int)
        return codes if self.kind == "multilabel" else self.classes[codes]

    def corrected(
        self, logits: np.ndarray, class_weight: np.ndarray, pos_weight: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits without the weights they were trained with, and the log weight of each class.

        A sigmoid trained with weight w on its positive term has the logit
        z = log(w P / (1 - P)): the truth is z - log w. With one sigmoid a class the negative
        term's weight is a mixture, and s(z) is proportional to the weight of the class times
        its probability: that weight is divided out when the sigmoids are normalised, its
        logarithm is the second result (0 otherwise).
        """
        if not (np.all(class_weight > 0) and np.all(np.asarray(pos_weight) > 0)):
            raise ValueError(
                "corrected=True needs class weights and a pos_weight above 0; got "
                f"class weights {class_weight.tolist()} and pos_weight {pos_weight!r}"
            )
        log_weight = np.log(pos_weight)
        log_class = np.log(class_weight)
        if self.kind == "multiclass":
            return self._shifted(logits, log_weight), log_class
        log_weight = log_weight + log_class[..., 1] - log_class[..., 0]
        return self._shifted(logits, log_weight), np.zeros(1)

    def _shifted(self, logits: np.ndarray, by: Any) -> np.ndarray:
        return (logits - by).astype(logits.dtype)

    def proba(self, logits: np.ndarray, log_weight: Any = 0.0) -> np.ndarray:
        """P(class) (n, classes), or P(label) (n, k), never 0/0."""
        if self.kind == "binary":
            return np.stack([losses.sigmoid(-logits), losses.sigmoid(logits)], axis=1)
        if self.kind == "multilabel":
            return losses.sigmoid(logits)
        return np.exp(self.log_proba(logits, log_weight))

    def log_proba(self, logits: np.ndarray, log_weight: Any = 0.0) -> np.ndarray:
        """log P, from the logits: finite for every finite logit.

        log s(z) = -log(1 + e^-z) is the loss of a target 1, negated; with one sigmoid a class
        log P = l - log(sum of e^l), where l = log s(z) - log weight.
        """
        log_s = -losses.bce_loss(logits, np.ones_like(logits), reduction="none")
        if self.kind == "binary":
            other = -losses.bce_loss(logits, np.zeros_like(logits), reduction="none")
            return np.stack([other, log_s], axis=1)
        if self.kind == "multilabel":
            return log_s
        log_s = self._shifted(log_s, log_weight)
        log_s -= log_s.max(axis=1, keepdims=True)
        return log_s - np.log(np.exp(log_s).sum(axis=1, keepdims=True))

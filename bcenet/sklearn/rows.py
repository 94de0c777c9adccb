"""Rows as scikit-learn takes and checks them: tables, arrays and sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import _check_sample_weight, validate_data

from bcenet.records import Record
from bcenet.sklearn import labels

FLOATS = (np.float64, np.float32)


class Rows(Record):
    """Checked rows: X (n, features) dense or CSR, y as `labels.read`; weight, offset or None."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None
    offset: np.ndarray | None

    def take(self, rows: np.ndarray) -> Rows:
        parts = (self.X, self.y, self.weight, self.offset)
        return Rows(*(None if part is None else part[rows] for part in parts))


def read(estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Rows:
    """Check rows for a fit; with ``reset`` the estimator takes its features from them.

    Raises: ValueError and TypeError as scikit-learn words them.
    """
    missing = estimator.missing_labels == "ignore"
    options: dict[str, Any] = {"accept_sparse": "csr", "dtype": FLOATS, "reset": reset}
    if missing and np.ndim(y) == 2:
        X = validate_data(estimator, X, **options)
        y = check_array(
            y,
            accept_sparse="csr",
            dtype="numeric",
            ensure_all_finite="allow-nan",
            input_name="y",
        )
        check_consistent_length(X, y)
    else:
        X, y = validate_data(estimator, X, y, multi_output=True, **options)
    y = labels.read(y, missing)
    weight = None
    if sample_weight is not None:
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():  # scikit-learn 1.9 has found that already
            raise ValueError("Sample weights must contain at least one non-zero number.")
    return Rows(X, y, weight, None)


def read_offset(offset: Any, rows: int, outputs: int, name: str = "offset") -> np.ndarray | None:
    """Base logits, (n,), or (n, outputs) where there is more than one output; or None."""
    if offset is None:
        return None
    offset = check_array(offset, ensure_2d=False, dtype=FLOATS, input_name=name)
    wanted = [(rows,)] if outputs == 1 else [(rows,), (rows, outputs)]
    if offset.shape not in wanted:
        raise ValueError(
            f"{name} must have shape {' or '.join(map(str, wanted))}; got {offset.shape}"
        )
    return offset


def read_X(estimator: Any, X: Any) -> Any:
    """X for a prediction: dense or CSR, with the features of the fit."""
    return validate_data(estimator, X, accept_sparse="csr", dtype=FLOATS, reset=False)

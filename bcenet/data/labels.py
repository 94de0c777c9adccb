"""The column to predict: its two labels, which of them is positive, and each row's 0 or 1."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bcenet.data.values import MISSING_VALUES, Coded, distinct_values
from bcenet.errors import CellError


def is_missing(value: Any) -> bool:
    """True for None, NaN and the texts that stand for nothing."""
    return value is None or value != value or (isinstance(value, str) and value in MISSING_VALUES)


def choose_labels(cells: Collection[Any], positive: str | None, name: str) -> tuple[Any, Any]:
    """(negative, positive) of a column that holds two labels; ValueError for any other number.

    Positive is the one named, else the one that says yes (1, True, "yes", "true", "positive"),
    else the second in sorted order. Labels are compared as they stand: ``a`` and ``a.`` are two.
    """
    labels = sorted(set(cells), key=lambda value: (isinstance(value, str), value))
    if len(labels) != 2:
        listed = ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
        raise ValueError(f"column {name!r} must have two labels; got {len(labels)}: {listed}")
    if _key(labels[0]) == _key(labels[1]):
        raise ValueError(
            f"column {name!r} has the labels {labels[0]!r} and {labels[1]!r}, which mean the same"
        )
    if positive is not None:
        wanted = [value for value in labels if _key(value) == _key(positive)]
        if not wanted:
            raise ValueError(
                f"--positive must be a label of {name!r}, {labels[0]!r} or {labels[1]!r}; "
                f"got {positive!r}"
            )
    else:
        wanted = [value for value in labels if _key(value) in (1.0, "true", "yes", "positive")]
    chosen = wanted[0] if len(wanted) == 1 else labels[1]
    return (labels[1] if chosen is labels[0] else labels[0]), chosen


def distinct_labels(name: str, column: Any) -> tuple[list[Any], np.ndarray]:
    """The different cells of a target column, and each row's place among them.

    The column is an array or `Coded`. Raises: CellError for a missing cell, or one that is
    neither text nor number.
    """
    if isinstance(column, Coded):
        cells, codes = column.texts, column.codes
    elif column.dtype.kind == "O":
        cells, codes = distinct_values(column)
    else:
        values, codes = np.unique(column, return_inverse=True)
        cells = values.tolist()
    held = np.bincount(codes, minlength=len(cells)) > 0
    for place, cell in enumerate(cells):
        if held[place] and is_missing(cell):
            row = int(np.argmax(codes == place))
            raise CellError(name, row, f"the target must not be missing; got {cell!r}")
        if held[place] and not isinstance(cell, (str, int, float)):
            row = int(np.argmax(codes == place))
            raise CellError(name, row, f"must be a text or a number; got {cell!r}")
    kept = np.cumsum(held) - 1
    return [cell for cell, there in zip(cells, held, strict=True) if there], kept[codes]


def to_targets(name: str, column: Any, labels: tuple[Any, Any]) -> np.ndarray:
    """0.0 for the negative and 1.0 for the positive label: (n,), float32.

    A label from another kind of file counts as the same if it is the same number or truth value:
    "1" in a CSV file is 1 in a Parquet file. Raises: CellError for any other cell.
    """
    cells, codes = distinct_labels(name, column)
    values = {_key(label): float(i) for i, label in enumerate(labels)}
    found = [values.get(_key(cell)) for cell in cells]
    if None in found:
        place = found.index(None)
        row = int(np.argmax(codes == place))
        what = f"must be {labels[0]!r} or {labels[1]!r}; got {cells[place]!r}"
        raise CellError(name, row, what)
    return np.array(found, dtype=np.float32)[codes]


def _key(label: Any) -> float | str:
    """What makes labels of different types the same: a number, or a text."""
    if isinstance(label, bool):
        return str(label).lower()
    text = str(label)
    try:
        return float(text)
    except ValueError:
        lowered = text.lower()
        return lowered if lowered in ("true", "false", "yes", "positive") else text

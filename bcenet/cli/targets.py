"""The column to predict: its two labels, which of them is positive, and each row's 0 or 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet.cli.tables import require_columns
from bcenet.data.values import MISSING_VALUES


def target_column(
    table: dict[str, np.ndarray], name: str, source: str, who: str = "--target"
) -> list[Any]:
    """The target's cells as Python values; ValueError where the column or a cell is missing."""
    require_columns(who, [name], table, source)
    cells = table[name].tolist()
    if not all(isinstance(value, (str, int, float, type(None))) for value in cells):
        raise ValueError(f"{source}: column {name!r} must hold texts or numbers")
    for value in set(cells):
        if is_missing(value):
            row = next(row for row, cell in enumerate(cells) if is_missing(cell))
            raise ValueError(
                f"{source}: column {name!r}, row {row} (from 0): the target must not be missing; "
                f"got {value!r}"
            )
    return cells


def is_missing(value: Any) -> bool:
    """True for None, NaN and the texts that stand for nothing."""
    return value is None or value != value or (isinstance(value, str) and value in MISSING_VALUES)


def choose_labels(cells: list[Any], positive: str | None, name: str) -> tuple[Any, Any]:
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


def to_targets(cells: list[Any], labels: tuple[Any, Any], name: str, source: str) -> np.ndarray:
    """0.0 for the negative and 1.0 for the positive label: (n,), float32.

    A label from another kind of file counts as the same if it is the same number or truth value:
    "1" in a CSV file is 1 in a Parquet file.
    """
    values = {_key(label): float(i) for i, label in enumerate(labels)}
    codes = {}
    for value in set(cells):
        code = values.get(_key(value))
        if code is None:
            raise ValueError(
                f"{source}: column {name!r}, row {cells.index(value)} (from 0): must be "
                f"{labels[0]!r} or {labels[1]!r}; got {value!r}"
            )
        codes[value] = code
    return np.fromiter(map(codes.__getitem__, cells), np.float32, len(cells))


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

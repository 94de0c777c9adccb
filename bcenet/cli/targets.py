"""The column to predict, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bcenet.cli.tables import require_columns
from bcenet.data import labels as labels_


def target_column(
    table: dict[str, np.ndarray], name: str, source: str, who: str = "--target"
) -> np.ndarray:
    """The target's cells; ValueError where the table has no such column."""
    require_columns(who, [name], table, source)
    return table[name]


def choose_labels(
    column: np.ndarray, positive: str | None, name: str, source: str
) -> tuple[Any, Any]:
    """`bcenet.data.labels.choose_labels` of a column; a missing cell is a ValueError."""
    with _named(source):
        found = labels_.distinct_labels(name, column)[0]
    return labels_.choose_labels(found, positive, name)


def to_targets(column: np.ndarray, labels: tuple[Any, Any], name: str, source: str) -> np.ndarray:
    """`bcenet.data.labels.to_targets`: 0.0 and 1.0, (n,), float32."""
    with _named(source):
        return labels_.to_targets(name, column, labels)


@contextmanager
def _named(source: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

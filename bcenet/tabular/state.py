"""Fitted columns as JSON and arrays, and back from a source that is not trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.tabular.categorical import CategoricalColumn
from bcenet.tabular.numeric import LIMIT, NumericColumn

_NUMERIC_KEYS = {"name", "type", "missing"}
_CATEGORICAL_KEYS = _NUMERIC_KEYS | {"categories", "other"}
_ARRAY_TYPES = {"center": "float64", "scale": "float64", "edges": "float64", "n_edges": "int64"}


def columns_to_state(
    columns: Sequence[NumericColumn | CategoricalColumn],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """One JSON-able entry a column, and the numbers of all numeric columns, end to end.

    Arrays: ``center``, ``scale`` and ``n_edges`` of shape (numeric columns,), ``edges`` of shape
    (sum of n_edges,).
    """
    entries: list[dict[str, Any]] = []
    numeric = []
    for column in columns:
        if isinstance(column, NumericColumn):
            numeric.append(column)
            entries.append({"name": column.name, "type": "numeric", "missing": column.missing})
        else:
            entries.append(
                {
                    "name": column.name,
                    "type": "categorical",
                    "categories": list(column.categories),
                    "other": column.other,
                    "missing": column.missing,
                }
            )
    arrays = {
        "center": np.array([c.center for c in numeric], dtype=np.float64),
        "scale": np.array([c.scale for c in numeric], dtype=np.float64),
        "edges": np.concatenate([np.empty(0), *(c.edges for c in numeric)]),
        "n_edges": np.array([len(c.edges) for c in numeric], dtype=np.int64),
    }
    return entries, arrays


def columns_from_state(entries: Any, arrays: Any) -> tuple[NumericColumn | CategoricalColumn, ...]:
    """The columns that ``columns_to_state`` described.

    Raises:
        ValueError: anything is not as ``columns_to_state`` writes it.
    """
    if not isinstance(entries, list):
        raise ValueError(f"columns must be a list; got {checks.describe(entries)}")
    n_numeric = 0
    for place, entry in enumerate(entries):
        where = f"columns[{place}]"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} must be an object; got {checks.describe(entry)}")
        if entry.get("type") == "numeric":
            check_keys(where, entry, _NUMERIC_KEYS)
            n_numeric += 1
        elif entry.get("type") == "categorical":
            check_keys(where, entry, _CATEGORICAL_KEYS)
        else:
            raise ValueError(
                f"{where}['type'] must be 'numeric' or 'categorical'; "
                f"got {checks.describe(entry.get('type'))}"
            )
        check_texts(f"{where}['name']", [entry["name"]])
    numbers = iter(_numbers_from_state(arrays, n_numeric))
    columns: list[NumericColumn | CategoricalColumn] = []
    for place, entry in enumerate(entries):
        where = f"columns[{place}]"
        missing = _flag(f"{where}['missing']", entry["missing"])
        column: NumericColumn | CategoricalColumn
        if entry["type"] == "numeric":
            center, scale, edges = next(numbers)
            column = NumericColumn(entry["name"], center, scale, edges, missing)
            least = 1
        else:
            categories = check_texts(f"{where}['categories']", entry["categories"])
            if any(a >= b for a, b in pairwise(categories)):
                raise ValueError(f"{where}['categories'] must be sorted and all different")
            other = _flag(f"{where}['other']", entry["other"])
            column = CategoricalColumn(entry["name"], categories, other, missing)
            least = 2
        if column.n_features < least:
            raise ValueError(f"{where} must give at least {least} features")
        columns.append(column)
    return tuple(columns)


def _numbers_from_state(arrays: Any, n_numeric: int) -> list[tuple[float, float, np.ndarray]]:
    """Center, scale and edges of each numeric column."""
    check_keys("arrays", arrays, set(_ARRAY_TYPES))
    for name, dtype in _ARRAY_TYPES.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
            raise ValueError(
                f"arrays[{name!r}] must be a 1-D {dtype} array; got {checks.describe(array)}"
            )
        if name != "edges" and len(array) != n_numeric:
            raise ValueError(f"arrays[{name!r}] must have {n_numeric} values; got {len(array)}")
        # A NaN fails the comparison too.
        if not (np.abs(array.astype(np.float64)) <= 2 * LIMIT).all():
            raise ValueError(f"arrays[{name!r}] must hold finite numbers")
    edges, n_edges = arrays["edges"], arrays["n_edges"]
    if ((n_edges < 0) | (n_edges == 1) | (n_edges > len(edges))).any():
        raise ValueError("arrays['n_edges'] must be 0 or between 2 and the length of edges")
    # Python integers: a sum of int64 could wrap around.
    stops = np.cumsum(n_edges.astype(object)).tolist()
    if (stops[-1] if stops else 0) != len(edges):
        raise ValueError("arrays['n_edges'] must add up to the length of edges")
    if (arrays["scale"] < 0).any():
        raise ValueError("arrays['scale'] must not be negative")
    numbers = []
    for center, scale, stop, count in zip(
        arrays["center"].tolist(), arrays["scale"].tolist(), stops, n_edges.tolist(), strict=True
    ):
        own = edges[stop - count : stop].copy()
        if not (np.diff(own) > 0).all():
            raise ValueError("arrays['edges'] must increase within each column")
        numbers.append((center, scale, own))
    return numbers


def check_keys(where: str, value: Any, keys: set[str]) -> None:
    """Refuse what is not a mapping with exactly these keys."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object; got {checks.describe(value)}")
    if set(value) != keys:
        raise ValueError(
            f"{where} must have exactly the keys {', '.join(sorted(keys))}; "
            f"got {checks.describe(sorted(map(str, value)))}"
        )


def check_texts(where: str, value: Any) -> tuple[str, ...]:
    """A list of texts as a tuple; refuses anything else."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{where} must hold text; got {checks.describe(value)}")
    return tuple(value)


def _flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false; got {checks.describe(value)}")
    return value

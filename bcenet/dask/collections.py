"""Dask collections as blocks of rows: arrays, and DataFrames with the targets among the columns."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np

from bcenet import checks

# What a task reads a partition from: (X, y, weight or None), or (frame, names of X's columns, of
# y's or the one of y, of the weight's or None).
Block = tuple[Any, ...]


def is_frame(X: Any) -> bool:
    """Whether X is a Dask DataFrame, told without importing dask.dataframe."""
    return hasattr(X, "columns") and hasattr(X, "to_delayed")


def split(X: Any, y: Any, sample_weight: Any) -> list[Block]:
    """The partitions, lazy. Raises: TypeError or ValueError naming the argument."""
    if is_frame(X):
        return _split_frame(X, y, sample_weight)
    rows = rows_of(X)
    columns = [aligned("y", y, rows)]
    if sample_weight is not None:
        columns.append(aligned("sample_weight", sample_weight, rows))
    delayed = [list(array.to_delayed().ravel()) for array in (rows, *columns)]
    if sample_weight is None:
        delayed.append([None] * rows.numblocks[0])
    return list(zip(*delayed, strict=True))


def _split_frame(X: Any, y: Any, sample_weight: Any) -> list[Block]:
    known = list(X.columns)
    check_names(X, y, sample_weight)
    named = [*(y if isinstance(y, list) else [y]), sample_weight]
    _check_numbers(X, known)
    inputs = [name for name in known if name not in named]
    return [(frame, inputs, y, sample_weight) for frame in X.to_delayed()]


def check_names(X: Any, y: Any, sample_weight: Any) -> None:
    """Whether a DataFrame has the columns that are named as targets and weights."""
    names = [("y", name) for name in (y if isinstance(y, list) else [y])]
    if sample_weight is not None:
        names.append(("sample_weight", sample_weight))
    for argument, name in names:
        if not isinstance(name, str) or name not in list(X.columns):
            raise ValueError(
                f"{argument} must name a column of the DataFrame; got {checks.describe(name)}"
            )


def _check_numbers(X: Any, columns: list[Any]) -> None:
    for name in columns:
        kind = getattr(X.dtypes[name], "kind", "O")
        if kind not in "biuf":
            raise TypeError(f"column {name!r} must hold real numbers; got dtype {X.dtypes[name]}")


def rows_of(X: Any) -> da.Array:
    """X as a Dask array of two dimensions whose blocks hold whole rows."""
    if is_frame(X):
        _check_numbers(X, list(X.columns))
        X = X.to_dask_array()
    if not isinstance(X, da.Array):
        raise TypeError(f"X must be a Dask array or a Dask DataFrame; got {checks.describe(X)}")
    if X.ndim != 2:
        raise ValueError(f"X must have two dimensions; got shape {X.shape}")
    return X if X.numblocks[1] == 1 else X.rechunk({1: -1})


def values_of(columns: Any) -> da.Array:
    """Columns of a DataFrame, of any type, as an array: text as objects."""
    like = np.asarray(columns._meta)
    shape = (np.nan, *like.shape[1:])
    values = dask.delayed(np.asarray)
    blocks = [
        da.from_delayed(values(part), shape, dtype=like.dtype) for part in columns.to_delayed()
    ]
    return da.concatenate(blocks, allow_unknown_chunksizes=True)


def aligned(name: str, array: Any, rows: da.Array) -> da.Array:
    """An array cut where X is."""
    if not isinstance(array, da.Array):
        raise TypeError(
            f"{name} must be a Dask array, or a column's name beside a Dask DataFrame; "
            f"got {checks.describe(array)}"
        )
    known = not np.isnan([*rows.chunks[0], *array.chunks[0]]).any()
    if known:
        if array.shape[0] != rows.shape[0]:
            raise ValueError(f"{name} must have {rows.shape[0]} rows, as X; got {array.shape[0]}")
        array = array.rechunk({0: rows.chunks[0], **({1: -1} if array.ndim > 1 else {})})
    if array.ndim > 2 or array.numblocks != (rows.numblocks[0], *(1,) * (array.ndim - 1)):
        raise ValueError(
            f"{name} must have one or two dimensions and X's {rows.numblocks[0]} chunks of rows; "
            f"got shape {array.shape} in {array.numblocks} chunks"
        )
    return array


def arrays(block: Block, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """X, y and the weight of a partition that was computed."""
    if len(block) == 3:
        X, y, weight = block
        return np.asarray(X), np.asarray(y), None if weight is None else np.asarray(weight)
    frame, inputs, y, weight = block
    return (
        numbers(frame[inputs], dtype),
        numbers(frame[y], dtype),
        None if weight is None else numbers(frame[weight], np.dtype(np.float64)),
    )


def numbers(frame: Any, dtype: np.dtype) -> np.ndarray:
    """Columns of a pandas DataFrame as C-contiguous numbers; missing values are NaN."""
    return np.ascontiguousarray(frame.to_numpy(dtype=dtype, na_value=np.nan))

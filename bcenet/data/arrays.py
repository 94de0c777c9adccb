"""Tables in memory: any common form to a dict of named, equally long, one-dimensional columns."""

from __future__ import annotations

import decimal
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.data.values import Coded

_NUMBER_TYPES = (numbers.Real, np.bool_, decimal.Decimal)


def as_table(obj: Any) -> dict[str, np.ndarray]:
    """The columns of a table, whatever holds it.

    Numeric columns keep their type (with missing values: float64 and NaN); texts and mixtures
    become object arrays of str, numbers and None.

    Args:
        obj: a mapping of names to 1-D sequences, a pandas or polars DataFrame, a pyarrow Table,
            a NumPy structured array, or a 2-D array, whose columns are named x0, x1, ...

    Returns:
        A dict from column names to arrays of shape (n,), in the table's order.

    Raises:
        TypeError: ``obj`` is none of these, or a column's name is not text.
        ValueError: columns of different lengths, a column that is not 1-D, two of the same name.

    >>> as_table({"age": [39, None], "sex": ["Male", "Female"]})
    {'age': array([39., nan]), 'sex': array(['Male', 'Female'], dtype=object)}
    >>> list(as_table(np.zeros((2, 3))))
    ['x0', 'x1', 'x2']
    """
    return _table(obj, _column)


def as_columns(obj: Any) -> dict[str, Any]:
    """As `as_table`, but pyarrow's columns of text become `Coded`, and `Coded` ones stay.

    >>> import pyarrow
    >>> as_columns(pyarrow.table({"sex": ["F", "M", "F"]}))["sex"].codes
    array([0, 1, 0], dtype=int32)
    """
    return _table(obj, _coded_column)


def _coded_column(name: str, column: Any) -> Any:
    if isinstance(column, Coded):
        return column
    is_arrow = hasattr(column, "dictionary_encode")
    return coded_arrow_column(column) if is_arrow else _column(name, column)


def coded_arrow_column(column: Any) -> Any:
    """As `arrow_column`, but texts become `Coded`."""
    if is_arrow_text(column.type):
        texts, codes = arrow_texts(column)
        return Coded([*texts, None], codes)
    return arrow_column(column)


def _table(obj: Any, read: Callable[[str, Any], Any]) -> dict[str, Any]:
    names, columns = _parts(obj)
    table: dict[str, Any] = {}
    for name, column in zip(names, columns, strict=True):
        if not isinstance(name, str):
            raise TypeError(f"a column's name must be text; got {checks.describe(name)}")
        if name in table:
            raise ValueError(f"columns must have different names; got {name!r} twice")
        table[name] = read(name, column)
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        first = next(iter(lengths))
        other = next(name for name in lengths if lengths[name] != lengths[first])
        raise ValueError(
            f"columns must be equally long; {first!r} has {lengths[first]} rows "
            f"and {other!r} has {lengths[other]}"
        )
    return table


def _parts(obj: Any) -> tuple[list[Any], list[Any]]:
    """The names and the columns of ``obj``, as they are."""
    if isinstance(obj, Mapping):
        return list(obj.keys()), list(obj.values())
    if isinstance(obj, np.ndarray):
        if obj.dtype.names is not None and obj.ndim == 1:
            return list(obj.dtype.names), [obj[name] for name in obj.dtype.names]
        if obj.dtype.names is None and obj.ndim == 2:
            return [f"x{i}" for i in range(obj.shape[1])], list(obj.T)
    elif hasattr(obj, "column_names") and hasattr(obj, "column"):  # pyarrow.Table, RecordBatch
        names = list(obj.column_names)
        return names, [obj.column(i) for i in range(len(names))]
    elif hasattr(obj, "columns") and hasattr(obj, "iloc"):  # pandas.DataFrame
        return list(obj.columns), [obj.iloc[:, i] for i in range(len(obj.columns))]
    elif hasattr(obj, "columns") and hasattr(obj, "get_column"):  # polars.DataFrame
        return list(obj.columns), [obj.get_column(name) for name in obj.columns]
    raise TypeError(
        "a table must be a mapping of names to columns, a DataFrame, a pyarrow Table, "
        f"a structured array or a 2-D array; got {checks.describe(obj)}"
    )


def _column(name: str, column: Any) -> np.ndarray:
    """One column as a 1-D array: a numeric type, or objects that are str, numbers or None."""
    if isinstance(column, Coded):
        column = np.asarray(column)
    elif hasattr(column, "isna") and hasattr(column, "to_numpy"):  # pandas.Series
        column = _pandas_column(column)
    elif hasattr(column, "dictionary_encode"):  # pyarrow.Array or ChunkedArray
        column = arrow_column(column)
    elif hasattr(column, "to_numpy"):  # polars.Series, whose nulls become NaN or None
        column = column.to_numpy()
    elif isinstance(column, np.ma.MaskedArray):
        objects = column.data.astype(object)
        objects[np.ma.getmaskarray(column)] = None
        column = objects
    elif not isinstance(column, np.ndarray):
        column = _objects(name, column)
    if column.ndim != 1:
        raise ValueError(f"column {name!r} must be 1-D; got {checks.describe(column)}")
    if column.dtype.kind in "OU":
        return _simplest(column.astype(object))
    return column


def _objects(name: str, column: Any) -> np.ndarray:
    """A sequence as a 1-D object array, without NumPy's guess at a common type."""
    if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
        raise TypeError(f"column {name!r} must be a 1-D sequence; got {checks.describe(column)}")
    return np.fromiter(column, dtype=object, count=len(column))


def _simplest(column: np.ndarray) -> np.ndarray:
    """An object array that holds only numbers (and None) as a numeric one, others as they are."""
    types = set(map(type, column.tolist()))
    missing = type(None) in types
    types.discard(type(None))
    if not types or not all(issubclass(t, _NUMBER_TYPES) for t in types):
        return column
    if missing:
        return column.astype(np.float64)
    numeric = np.array(column.tolist())
    return column.astype(np.float64) if numeric.dtype.kind == "O" else numeric


def _pandas_column(series: Any) -> np.ndarray:
    """A pandas Series without pandas' own kinds of missing values."""
    missing = series.isna().to_numpy(dtype=bool)
    if series.dtype.kind in "biuf" and not missing.any():
        return series.to_numpy(dtype=getattr(series.dtype, "numpy_dtype", series.dtype))
    if series.dtype.kind in "biuf":
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if series.dtype.kind in "mMc":
        return series.to_numpy()
    objects = series.to_numpy(dtype=object).copy()
    objects[missing] = None
    return objects


def arrow_column(column: Any) -> np.ndarray:
    """A pyarrow Array or ChunkedArray as NumPy: numbers, or objects that are str or None.

    Nulls in a numeric column become NaN (and the column float64), decimals float64; dates and
    times become their ISO text; nested and binary values stay Python objects.

    >>> import pyarrow
    >>> arrow_column(pyarrow.array([1, None]))
    array([ 1., nan])
    """
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_decimal(kind):
        column = column.cast(pyarrow.float64())
    elif types.is_boolean(kind) and column.null_count:
        column = column.cast(pyarrow.uint8())
    elif types.is_temporal(kind) and not types.is_interval(kind):
        column = column.cast(pyarrow.string())
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return column.to_numpy(**({} if _is_chunked(column) else {"zero_copy_only": False}))
    if is_arrow_text(kind):
        texts, codes = arrow_texts(column)
        return np.array([*texts, None], dtype=object)[codes]
    return np.fromiter(column.to_pylist(), dtype=object, count=len(column))


def is_arrow_text(kind: Any) -> bool:
    """Whether a pyarrow type is one of texts, or a dictionary of them."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_chunked(column: Any) -> bool:
    return hasattr(column, "chunks")


def arrow_texts(column: Any) -> tuple[list[str], np.ndarray]:
    """The distinct texts of a column of arrow strings, and each row's place among them.

    A null has the place after the last text. Sharing one str among equal rows makes a column of
    objects cheap to build, to keep and to look up.
    """
    encoded = column.dictionary_encode()
    if _is_chunked(encoded):
        encoded = encoded.unify_dictionaries().combine_chunks()
    texts = encoded.dictionary.to_pylist()
    codes = encoded.indices
    if codes.null_count:
        codes = codes.fill_null(len(texts))
    return texts, codes.to_numpy(zero_copy_only=False)

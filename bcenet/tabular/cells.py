"""The cells of a column, read as float64 numbers or as texts; errors name column and row."""

from __future__ import annotations

import decimal
import numbers
from collections.abc import Set
from itertools import compress
from typing import Any

import numpy as np

from bcenet.data.values import Coded, distinct_values, parse_numbers
from bcenet.errors import CellError

Column = np.ndarray | Coded


def numbers_of(name: str, column: Column, missing_values: Set[str]) -> np.ndarray:
    """A column as float64 numbers, NaN where the value is missing.

    Args:
        name: the column's name, for messages.
        column: shape (n,), numeric, objects or `Coded`.
        missing_values: texts that stand for a missing value.

    Raises:
        ValueError: a text is not a number, or a number is infinite or too large for float64.
        TypeError: a cell, or the array's type, is neither number nor text.

    >>> numbers_of("age", np.array(["39", " ?", None], dtype=object), {"?"})
    array([39., nan, nan])
    """
    values = parsed_numbers(name, column, missing_values)
    if values is None:
        raise no_number(name, column, missing_values)
    if np.isinf(values).any():
        raise infinity(name, column, values)
    return values


def texts_of(
    name: str, column: Column, missing_values: Set[str], first: int = 0
) -> tuple[list[str | None], np.ndarray]:
    """A column as texts and codes: row i holds ``texts[codes[i]]``, None where missing.

    Texts lose surrounding blanks; whole numbers become text without a fraction, so 1, 1.0 and "1"
    are the same category. Several codes may have the same text, and a text no code. ``first`` is
    the number of the first row, for messages.

    Raises:
        TypeError: a cell, or the array's type, is neither number nor text.

    >>> texts_of("job", np.array(["clerk ", None, "clerk "], dtype=object), {"?"})
    (['clerk', None], array([0, 1, 0]))
    """
    if isinstance(column, Coded):
        stripped = [None if text is None else text.strip() for text in column.texts]
        return [None if text in missing_values else text for text in stripped], column.codes
    if _is_numeric_type(name, column):
        values, codes = np.unique(column, return_inverse=True)
        return [_number_text(value) for value in values], codes
    try:
        cells, codes = distinct_values(column)
    except TypeError:  # a cell that cannot be looked up, such as a list: refused below
        cells, codes = column.tolist(), np.arange(len(column))
    texts: list[str | None] = []
    for place, cell in enumerate(cells):
        if isinstance(cell, str):
            text = cell.strip()
            texts.append(None if text in missing_values else text)
        elif cell is None or isinstance(cell, numbers.Real | np.bool_ | decimal.Decimal):
            texts.append(_number_text(cell))
        else:
            raise TypeError(
                f"column {name!r}, row {first + np.argmax(codes == place)} (from 0): must be a "
                f"number or text; got {type(cell).__name__}"
            )
    return texts, codes


def parsed_numbers(
    name: str, column: Column, missing_values: Set[str], first: int = 0
) -> np.ndarray | None:
    """The numbers, infinite ones too, NaN where missing; None if a text is not a number.

    Raises:
        TypeError: as `texts_of`.

    >>> parsed_numbers("age", np.array(["39", "?"], dtype=object), {"?"})
    array([39., nan])
    """
    if isinstance(column, Coded):
        texts, codes = texts_of(name, column, missing_values)
        held = np.bincount(codes, minlength=len(texts)).tolist()
        values = _parsed_where(
            [text is not None and n > 0 for text, n in zip(texts, held, strict=True)], texts
        )
        return None if values is None else values[codes]
    if _is_numeric_type(name, column):
        with np.errstate(over="ignore"):  # from a wider type
            return column.astype(np.float64)
    cells = column.tolist()
    if set(map(type, cells)) <= {str, type(None)}:
        # Without a look at which cells are equal: far faster where nearly all differ.
        absent = {*missing_values, None}
        values = _parsed_where([cell not in absent for cell in cells], cells)
        if values is not None:
            return values
    texts, codes = texts_of(name, column, missing_values, first)
    values = _parsed_where([text is not None for text in texts], texts)
    return None if values is None else values[codes]


def _parsed_where(present: list[bool], texts: list[Any]) -> np.ndarray | None:
    """The texts that are present as numbers, NaN for the others; None if one is not a number."""
    parsed = parse_numbers(list(compress(texts, present)))
    if parsed is None:
        return None
    values = np.full(len(texts), np.nan)
    values[np.array(present, dtype=bool)] = parsed
    return values


def no_number(name: str, column: Column, missing_values: Set[str], first: int = 0) -> CellError:
    """The error of a column in which a text is not a number."""
    texts, codes = texts_of(name, column, missing_values)
    words = [text is not None and parse_numbers([text]) is None for text in texts]
    row = int(np.argmax(np.array(words)[codes]))
    return CellError(name, first + row, f"must be a number; got {_cell(column, row)!r}")


def infinity(name: str, column: Column, values: np.ndarray, first: int = 0) -> CellError:
    """The error of a column whose numbers ``values`` are not all finite."""
    row = int(np.argmax(np.isinf(values)))
    return CellError(name, first + row, f"must be a finite number; got {_cell(column, row)!r}")


def _cell(column: Column, row: int) -> Any:
    if isinstance(column, Coded):
        return column.texts[column.codes[row]]
    return column[row].item() if isinstance(column[row], np.generic) else column[row]


def is_typed(column: Column) -> bool:
    """Whether it is an array of a numeric type."""
    return isinstance(column, np.ndarray) and column.dtype.kind != "O"


def _is_numeric_type(name: str, column: np.ndarray) -> bool:
    """Whether the array's type is numeric; TypeError if it is neither that nor objects."""
    if column.dtype.kind not in "biufO":
        raise TypeError(f"column {name!r} must hold numbers or text; got dtype {column.dtype}")
    return column.dtype.kind != "O"


def _number_text(value: Any) -> str | None:
    """A number as the text of its category; None for None and NaN."""
    if value is None or value != value:
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    try:
        whole = int(value)
    except OverflowError:
        return str(value)
    return str(whole) if whole == value else str(value)

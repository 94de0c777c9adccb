"""The cells of a column, read as float64 numbers or as texts; errors name column and row."""

from __future__ import annotations

import decimal
import numbers
import warnings
from collections.abc import Set
from itertools import compress
from typing import Any

import numpy as np

from bcenet.data.values import distinct_values, parse_numbers

# A column of texts in which so large a part are numbers, of so many values, looks like a mistake.
_MOSTLY = 0.95
_MANY = 20


def numbers_of(name: str, column: np.ndarray, missing_values: Set[str]) -> np.ndarray:
    """A column as float64 numbers, NaN where the value is missing.

    Args:
        name: the column's name, for messages.
        column: shape (n,), numeric or objects.
        missing_values: texts that stand for a missing value.

    Raises:
        ValueError: a text is not a number, or a number is infinite or too large for float64.
        TypeError: a cell, or the array's type, is neither number nor text.

    >>> numbers_of("age", np.array(["39", " ?", None], dtype=object), {"?"})
    array([39., nan, nan])
    """
    values = _parsed(name, column, missing_values)
    if values is None:
        texts, codes = texts_of(name, column, missing_values)
        raise _refusal(name, column, int(np.argmax(codes == _words(texts)[0])), "number")
    infinite = np.isinf(values)
    if infinite.any():
        raise _refusal(name, column, int(np.argmax(infinite)), "finite number")
    return values


def texts_of(
    name: str, column: np.ndarray, missing_values: Set[str]
) -> tuple[list[str | None], np.ndarray]:
    """A column as texts and codes: row i holds ``texts[codes[i]]``, None where missing.

    Texts lose surrounding blanks; whole numbers become text without a fraction, so 1, 1.0 and "1"
    are the same category. Several codes may have the same text.

    Raises:
        TypeError: a cell, or the array's type, is neither number nor text.

    >>> texts_of("job", np.array(["clerk ", None, "clerk "], dtype=object), {"?"})
    (['clerk', None], array([0, 1, 0]))
    """
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
                f"column {name!r}, row {np.argmax(codes == place)} (from 0): must be a number or "
                f"text; got {type(cell).__name__}"
            )
    return texts, codes


def is_numeric_column(name: str, column: np.ndarray, missing_values: Set[str]) -> bool:
    """Whether all values present are numbers; warns where nearly all are, and not all.

    The warning points at the caller's caller.

    Raises:
        TypeError: a cell, or the array's type, is neither number nor text.

    >>> is_numeric_column("age", np.array(["39", "?"], dtype=object), {"?"})
    True
    """
    if _parsed(name, column, missing_values) is not None:
        return True
    texts, codes = texts_of(name, column, missing_values)
    words = _words(texts)
    present = [place for place, text in enumerate(texts) if text is not None]
    counts = np.bincount(codes, minlength=len(texts))
    n_words, n_present = int(counts[words].sum()), int(counts[present].sum())
    if n_words <= (1 - _MOSTLY) * n_present and len(present) - len(words) >= _MANY:
        warnings.warn(
            f"column {name!r} holds numbers in {n_present - n_words} rows and text in {n_words} "
            f"(the first: {texts[words[0]]!r} in row {np.argmax(codes == words[0])}, from 0), so "
            "it is taken for categorical; name it in numeric or categorical to settle that, or "
            "add the text to missing_values",
            UserWarning,
            stacklevel=3,
        )
    return False


def _parsed(name: str, column: np.ndarray, missing_values: Set[str]) -> np.ndarray | None:
    """The numbers, infinite ones too, NaN where missing; None if a text is not a number."""
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
    texts, codes = texts_of(name, column, missing_values)
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


def _words(texts: list[str | None]) -> list[int]:
    """The places of the texts that are not numbers."""
    return [
        place
        for place, text in enumerate(texts)
        if text is not None and parse_numbers([text]) is None
    ]


def _refusal(name: str, column: np.ndarray, row: int, wanted: str) -> ValueError:
    value = column[row].item() if isinstance(column[row], np.generic) else column[row]
    return ValueError(f"column {name!r}, row {row} (from 0): must be a {wanted}; got {value!r}")


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

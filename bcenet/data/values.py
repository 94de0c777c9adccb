"""What a cell means: a number, a text, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MISSING_VALUES = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""Texts that stand for a missing value, in this spelling, once surrounding blanks are gone."""


def parse_numbers(texts: Sequence[str]) -> np.ndarray | None:
    """The texts as float64 numbers, or None if any of them is not a number.

    A number is what Python's ``float`` reads from ASCII characters without underscores: an
    integer, a decimal or an exponent form, ``inf`` and ``nan`` in any case. What is too large for
    float64 becomes infinite, as in ``float``; callers decide what that means.

    >>> parse_numbers(["1", "-2.5e-1", "1e400"])
    array([ 1.  , -0.25,   inf])
    >>> parse_numbers(["1", "2_000"]) is None
    True
    """
    try:
        values = np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        return None
    joined = "".join(texts)
    return None if "_" in joined or not joined.isascii() else values


def distinct_values(column: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The distinct values of a column of objects in order of appearance, and each row's place.

    Args:
        column: object array of shape (n,) of hashable values. Equal ones (1 and 1.0) are one, but
            for True and False, which are not 1 and 0.

    Returns:
        ``(values, codes)`` with ``values[codes[i]] == column[i]``; codes are intp of shape (n,).

    Raises:
        TypeError: a value is not hashable (a list, an array).

    >>> values, codes = distinct_values(np.array(["b", "a", "b"], dtype=object))
    >>> values, codes
    (['b', 'a'], array([0, 1, 0]))
    """
    cells = column.tolist()
    different = dict.fromkeys(cells)
    values = list(different)
    if 0 in different or 1 in different:  # False and True equal these
        cells = [_APART[bool(c)] if isinstance(c, bool | np.bool_) else c for c in cells]
        different = dict.fromkeys(cells)
        values = [_APART.index(value) == 1 if value in _APART else value for value in different]
    places = {value: place for place, value in enumerate(different)}
    return values, np.fromiter(map(places.__getitem__, cells), np.intp, len(cells))


_APART = (object(), object())  # in the place of False and True, and equal to nothing else


class Coded:
    """A column of texts: its different ones, and each row's place among them.

    Arguments:
        texts: str, or None where missing; ``codes``: integers of shape (n,), so that row i holds
            ``texts[codes[i]]``.

    >>> column = Coded(["a", None], np.array([0, 1, 0]))
    >>> len(column), column[1:].codes
    (3, array([1, 0]))
    >>> np.asarray(column)
    array(['a', None, 'a'], dtype=object)
    """

    __slots__ = ("codes", "texts")

    def __init__(self, texts: list[str | None], codes: np.ndarray) -> None:
        self.texts, self.codes = texts, codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Coded:
        """Some of the rows: a slice, or what else chooses from an array."""
        return Coded(self.texts, self.codes[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        texts = np.array([*self.texts, None], dtype=object)  # objects, also where there are none
        return texts[self.codes].astype(object if dtype is None else dtype, copy=False)

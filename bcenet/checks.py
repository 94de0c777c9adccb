"""Checks of single arguments, all worded alike: the argument, what it must be, what it was."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


def describe(value: Any) -> str:
    """A short text for error messages: the value, or its type and shape where that is long."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {shape} and dtype {getattr(value, 'dtype', '?')}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}... ({type(value).__name__})"


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """``value`` if it is one of the strings in ``known``, else a ValueError with the nearest."""
    known = list(known)
    if isinstance(value, str) and value in known:
        return value
    listed = ", ".join(repr(k) for k in known)
    message = f"{name} must be one of {listed}; got {describe(value)}"
    if isinstance(value, str):
        import difflib  # only for an error

        near = difflib.get_close_matches(value.lower(), known, n=1)
        if near:
            message += f" (did you mean {near[0]!r}?)"
    raise ValueError(message)


def integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """``value`` as an int within the bounds; True and False are not integers here."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {describe(value)}")
    value = int(value)
    if value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name} must be at least {minimum}{upper}; got {value}")
    return value


def number(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> float:
    """``value`` as a finite float within the bounds; an open bound itself is refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {describe(value)}")
    value = float(value)
    low = value <= minimum if open_minimum else value < minimum
    high = value >= maximum if open_maximum else value > maximum
    if low or high or not math.isfinite(value):
        wanted = "finite"
        if minimum > -math.inf:
            wanted += f", {'above' if open_minimum else 'at least'} {minimum:g}"
        if maximum < math.inf:
            wanted += f", {'below' if open_maximum else 'at most'} {maximum:g}"
        raise ValueError(f"{name} must be {wanted}; got {value!r}")
    return value


def boolean(name: str, value: Any) -> bool:
    """``value`` if it is True or False (NumPy's too)."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False; got {describe(value)}")


def real_array(name: str, value: Any) -> np.ndarray:
    """``value`` as an array of real numbers of at most 64 bits; not copied if it is one."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill it or drop the masked rows")
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name} must be a rectangular array of numbers; {error}") from None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{name} must hold real numbers (bool, integers, float16 to float64); "
            f"got dtype {array.dtype}"
        )
    return array

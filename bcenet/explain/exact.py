"""The reference: the last layer's gradient in decimal arithmetic, to 30 digits and more.

The standard library's `decimal` shares no code with the kernels that it judges.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

import numpy as np


def _context(digits: int) -> Context:
    """Without traps: a limit is an infinity, and what is beyond any exponent is 0."""
    return Context(prec=digits, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


CONTEXT = _context(80)
SHORT = _context(30)  # of the numbers that a report holds


def number(value: Any) -> Decimal:
    """A float as the decimal number that it is, every digit of it."""
    return Decimal(float(value))


def sigmoids(z: float, c: Context = CONTEXT) -> tuple[Decimal, Decimal]:
    """(s(z), s(-z)) of a logit that is not NaN: p and 1 - p, neither from the other.

    >>> p, rest = sigmoids(37.0)
    >>> float(1 - p), float(rest)
    (8.533047625744065e-17, 8.533047625744065e-17)
    """
    small = c.exp(number(-abs(z)))  # e^-|z|
    total = c.add(1, small)
    large, rest = c.divide(1, total), c.divide(small, total)
    return (large, rest) if z >= 0 else (rest, large)


def gradient(z: float, y: float) -> Decimal | None:
    """dC/dz = s(z) - y = (1 - y) s(z) - y s(-z), which loses nothing at y = 0 and y = 1.

    None where the logit is NaN: there is no truth.

    >>> gradient(0.0, 1.0)
    Decimal('-0.5')
    """
    if math.isnan(z):
        return None
    target = number(y)
    # 80 digits leave more than 30 where a soft target cancels against p; but near z = 0 the
    # difference of s(z) and 1/2 is z / 4, however small that is.
    c = CONTEXT if abs(z) > 1e-9 or not z else _context(80 - number(z).adjusted())
    p, rest = sigmoids(z, c)
    return c.subtract(c.multiply(c.subtract(1, target), p), c.multiply(target, rest))


def errors(value: np.floating, exact: Decimal | None) -> tuple[float, float]:
    """(relative error, error in units in the last place) of a float beside the exact number.

    The unit is the distance of the dtype's numbers around the exact one. (nan, nan) where either
    is not a number.

    >>> errors(np.float64(0.0), Decimal("-0.25"))
    (1.0, 4503599627370496.0)
    """
    if exact is None or math.isnan(value):
        return math.nan, math.nan
    if math.isinf(value):
        return math.inf, math.inf
    c = CONTEXT
    unit = np.spacing(np.abs(value.dtype.type(float(exact))))
    error = c.abs(c.subtract(number(value), exact))
    ulp = float(c.divide(error, number(unit)))
    if not exact:
        return (0.0 if not error else math.inf), ulp
    return float(c.divide(error, c.abs(exact))), ulp

"""Three ways to dC/dz of the last layer in floating point, and where each of them breaks.

On paper they are one: dC/da * da/dz = (a - y) / (a (1 - a)) * a (1 - a) = a - y. Here each is
computed in the dtype of its arguments, as it would be typed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bcenet import losses
from bcenet.records import Record

DTYPES = ("float32", "float64")


def naive_sigmoid(z: np.ndarray) -> np.ndarray:
    """a = 1 / (1 + exp(-z)), as it is typed."""
    return 1 / (1 + np.exp(-z))


def chain(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(1) The chain rule: dC/da * da/dz, with both factors computed."""
    a = naive_sigmoid(z)
    slope = a * (1 - a)  # [formula sigmoid-derivative]
    return (a - y) / slope * slope  # [formula cost-derivative], times the slope


def literal(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(2) The cancelled formula to the letter: a - y."""
    return naive_sigmoid(z) - y  # [formula cancellation]


def fused(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(3) What bcenet computes: (1 - y) s(z) - y s(-z), from the logit."""
    return losses.bce_gradient(z, y, reduction="none")


def clipped(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The usual repair of (1): a is kept within 1e-7 of 0 and 1 in dC/da, against the NaN."""
    a = naive_sigmoid(z)
    edge = z.dtype.type(1e-7)
    inside = np.clip(a, edge, 1 - edge)
    return (inside - y) / (inside * (1 - inside)) * (a * (1 - a))


PATHS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "chain": chain,
    "literal": literal,
    "fused": fused,
}
TITLES = {"chain": "(1) dC/da * da/dz", "literal": "(2) a - y", "fused": "(3) fused"}

VERDICTS = ("right", "wrong", "zero", "infinite", "nan")

# Rounding alone costs the other two paths a few units: four bits, about a digit, are forgiven.
RIGHT_WITHIN = 16


def judge(value: np.ndarray, truth: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Positions in `VERDICTS` for values of one dtype beside the truth, rounded to that dtype.

    A value is right within 16 units in the last place of the truth. With a soft target the truth
    is a difference of rounded numbers, and a value is right within 4 rounding units of 1 too.
    """
    unit = np.spacing(np.abs(truth))
    soft = (y != 0) & (y != 1)
    near = np.maximum(RIGHT_WITHIN * unit, np.where(soft, 2 * np.finfo(value.dtype).eps, 0))
    error = np.abs(value - truth)
    verdict = np.where(error <= near, 0, 1)
    verdict[(value == 0) & (error > 2 * unit) & ~(soft & (error <= near))] = 2
    verdict[np.isinf(value)] = 3
    verdict[np.isnan(value)] = 4
    return verdict


class Threshold(Record):
    """Where a path breaks, found by bisection among the numbers of a dtype.

    Attributes:
        dtype: "float32" or "float64". path: "chain", "literal" or "fused". target: y, 0 or 1.
        logit: the first logit that breaks it. upwards: whether those above break it too, or
            those below.
        effect: "nan" or "zero" is the verdict from there on; "half" that the path has fewer
            than half of the dtype's digits.
    """

    dtype: str
    path: str
    target: int
    logit: float
    upwards: bool
    effect: str


def first_logit(
    breaks: Callable[[np.ndarray], np.ndarray], dtype: str, *, upwards: bool
) -> float | None:
    """The first logit, from 0 up or down, for which ``breaks`` holds; None if none does.

    Bisection on the bits: for numbers of one sign their order is that of integers.

    >>> round(first_logit(lambda z: 1 - naive_sigmoid(z) == 0, "float64", upwards=True), 4)
    36.7368
    """
    real, whole = (np.float32, np.int32) if dtype == "float32" else (np.float64, np.int64)
    sign = 1 if upwards else -1
    low, high = 0, int(np.array(np.finfo(real).max).view(whole))

    def broken(bits: int) -> bool:
        z = sign * np.array([bits], whole).view(real)
        return bool(breaks(z)[0])

    if not broken(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if broken(middle) else (middle, high)
    return float(sign * np.array([high], whole).view(real)[0])


def few_digits(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether the rounding of a is more than the square root of the unit beside |a - y|."""
    a = naive_sigmoid(z)
    unit = np.finfo(z.dtype).eps / 2
    return np.spacing(a) / 2 > np.sqrt(unit) * np.abs(a - y)


# path, effect, whether logits and targets show it
_CASES: list[tuple[str, str, Callable[..., np.ndarray]]] = [
    ("chain", "half", few_digits),
    ("chain", "nan", lambda z, y: np.isnan(chain(z, y))),
    ("literal", "half", few_digits),
    ("literal", "zero", lambda z, y: literal(z, y) == 0),
    ("fused", "zero", lambda z, y: fused(z, y) == 0),
]


def thresholds() -> list[Threshold]:
    """Every first logit, up and down from 0, from which a path is NaN or 0 or has few digits.

    a itself keeps its digits, so for y = 0 there is no "half".
    """
    found = []
    with np.errstate(all="ignore"):
        for dtype, (path, effect, breaks), target, upwards in itertools.product(
            DTYPES, _CASES, (0, 1), (True, False)
        ):
            if effect == "half" and not target:
                continue
            y = np.array([target], dtype)
            logit = first_logit(partial(breaks, y=y), dtype, upwards=upwards)
            if logit is not None:
                found.append(Threshold(dtype, path, target, logit, upwards, effect))
    return found


def why(path: str, z: Any, y: Any, a: Any, truth: float) -> str:
    """One sentence on why a path is not right, with its own numbers, of one dtype."""
    if np.isnan(z):
        return "the logit itself is NaN"
    digits = np.finfo(z.dtype)
    if a in (0, 1):
        with np.errstate(all="ignore"):
            power = np.exp(-z)
        lost = (
            f"a rounds to 1 and 1 - a to 0, because exp(-z) = {power:.4g} is no more than "
            f"{digits.eps / 2:.4g}, half the step of the numbers above 1"
            if a == 1
            else f"a is 0, because exp(-z) is beyond {digits.max:.4g}, the largest number"
        )
        top = a - y
        if path == "literal":
            return f"{lost}; a - y = {a} - {y} = {top}, where the truth is {truth:.4g}"
        if top == 0:
            return f"{lost}; dC/da = 0/0 is NaN"
        return f"{lost}; dC/da = {top}/0 is infinite, da/dz is 0, and infinity times 0 is NaN"
    step = np.spacing(a)
    left = int(max(0.0, np.floor(-np.log10(step / 2 / abs(a - y)))))
    return (
        f"a is a multiple of {step:.4g} here, so of a - y = {a - y!s} about {left} of "
        f"{digits.precision + 1} digits mean something"
    )

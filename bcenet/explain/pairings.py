"""Cost or activation? dC/dz of one logit and target for several pairs of the two.

In decimal arithmetic, so that what differs is the mathematics and not the rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from bcenet.explain.exact import CONTEXT as C
from bcenet.explain.exact import number, sigmoids
from bcenet.records import Record

# a, dC/da, da/dz, a - y
_Parts = tuple[Decimal, Decimal, Decimal, Decimal]


class Pairing(Record):
    """One pair of output activation and cost, at one logit and target.

    Attributes:
        activation, cost: what the pair is, in words. logit, target: z and y. a: the output.
        dc_da, da_dz, product: of the chain rule. difference: a - y.
        equal: whether the product is a - y. remark: what the pair gives instead, or why.
    """

    activation: str
    cost: str
    logit: float
    target: float
    a: float
    dc_da: float
    da_dz: float
    product: float
    difference: float
    equal: bool
    remark: str


def _difference(a: Decimal, rest: Decimal, y: Decimal) -> Decimal:
    """a - y from a and 1 - a, without cancellation at y = 0 and y = 1."""
    return C.subtract(C.multiply(C.subtract(1, y), a), C.multiply(y, rest))


def _bernoulli(a: Decimal, rest: Decimal, y: Decimal) -> Decimal:
    """dC/da of binary cross-entropy: (a - y) / (a (1 - a))."""
    return C.divide(_difference(a, rest, y), C.multiply(a, rest))


def _sigmoid_entropy(z: float, y: Decimal) -> _Parts:
    a, rest = sigmoids(z)
    return a, _bernoulli(a, rest, y), C.multiply(a, rest), _difference(a, rest, y)


def _sigmoid_squares(z: float, y: Decimal) -> _Parts:
    a, rest = sigmoids(z)
    difference = _difference(a, rest, y)
    return a, difference, C.multiply(a, rest), difference


def _softsign_entropy(z: float, y: Decimal) -> _Parts:
    # a = (1 + z / (1 + |z|)) / 2, whose tails are rational: exact here
    below = C.add(1, number(abs(z)))
    small = C.divide(Decimal("0.5"), below)
    large = C.subtract(1, small)
    a, rest = (large, small) if z >= 0 else (small, large)
    slope = C.divide(small, below)
    return a, _bernoulli(a, rest, y), slope, _difference(a, rest, y)


def _tanh_entropy(z: float, y: Decimal) -> _Parts:
    # q = (1 + a) / 2 = s(2z), so a - y = 2 q - 1 - y; dC/da = dC/dq / 2 and 1 - a^2 = 4 q (1 - q)
    q, rest = sigmoids(2 * z)
    slope = C.multiply(4, C.multiply(q, rest))
    difference = C.subtract(C.multiply(C.subtract(1, y), q), C.multiply(C.add(1, y), rest))
    return C.subtract(q, rest), C.divide(_bernoulli(q, rest, y), 2), slope, difference


def _softmax_entropy(z: float, y: Decimal) -> _Parts:
    # Logits (0, z), so a = a_2 = s(z), a_1 = 1 - a and da_1/dz = -da_2/dz; dC/da_j = -y_j / a_j.
    a, rest = sigmoids(z)
    dc_da = C.subtract(C.divide(C.subtract(1, y), rest), C.divide(y, a))
    return a, dc_da, C.multiply(a, rest), _difference(a, rest, y)


def _identity_squares(z: float, y: Decimal) -> _Parts:
    a = number(z)
    difference = C.subtract(a, y)
    return a, difference, Decimal(1), difference


PAIRS: list[tuple[str, str, Callable[[float, Decimal], _Parts], str]] = [
    (
        "sigmoid",
        "BCE",
        _sigmoid_entropy,
        "a pair; the sigmoid is the canonical link of the Bernoulli likelihood",
    ),
    (
        "softmax of two",
        "cross-entropy",
        _softmax_entropy,
        "a pair; of the logits (0, z) it is the sigmoid again, and as a_1 = 1 - a, dC/da is "
        "dC/da_2 - dC/da_1",
    ),
    ("identity", "squared error", _identity_squares, "a pair, of the normal likelihood"),
    (
        "sigmoid",
        "squared error",
        _sigmoid_squares,
        "the activation alone is not enough; a (1 - a) stays, and fades where a is sure",
    ),
    (
        "softsign",
        "BCE",
        _softsign_entropy,
        "the cost alone is not enough; a = (1 + z/(1 + |z|))/2 has another slope than a (1 - a), "
        "and dC/da does not cancel it",
    ),
    (
        "tanh",
        "BCE of (1 + a)/2",
        _tanh_entropy,
        "with q = (1 + a)/2 = s(2z), a sigmoid in disguise, it cancels to 2 (q - y), which is "
        "a - y only where the target 0 is written as -1",
    ),
]


# e^-2|z| has an exponent in decimal arithmetic up to here, and far beyond.
LARGEST_LOGIT = 1e6


def pairings(z: float, y: float) -> list[Pairing]:
    """The pairs at one logit, of at most 10^6 in size, and one target in [0, 1].

    >>> for pair in pairings(2.0, 0.0):
    ...     print(f"{pair.activation:14} {pair.product:.6f} {pair.difference:.6f} {pair.equal}")
    sigmoid        0.880797 0.880797 True
    softmax of two 0.880797 0.880797 True
    identity       2.000000 2.000000 True
    sigmoid        0.092478 0.880797 False
    softsign       0.333333 0.833333 False
    tanh           1.964028 0.964028 False
    """
    result = []
    for activation, cost, parts, remark in PAIRS:
        a, dc_da, da_dz, difference = parts(z, number(y))
        product = C.multiply(dc_da, da_dz)
        apart = C.abs(C.subtract(product, difference))
        equal = apart <= C.multiply(C.abs(difference), Decimal("1e-40"))
        values = map(float, (a, dc_da, da_dz, product, difference))
        result.append(Pairing(activation, cost, z, y, *values, equal, remark))
    return result

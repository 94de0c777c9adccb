"""Formulas that are written once and shown as plain text or as MathML.

A formula is a text such as ``"da_{l-1} = dz_l W_l^T"``, a `Frac`, a `Power`, a `Label`, or a list
of them.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from bcenet.records import Record


class Frac(Record):
    """top / bottom, each a formula."""

    top: Any
    bottom: Any


class Power(Record):
    """base to the exponent, each a formula."""

    base: Any
    exponent: Any


class Label(Record):
    """text: what stands before a formula."""

    text: str


def to_text(formula: Any) -> str:
    """The formula in one line of ASCII.

    >>> to_text(["dC/da = ", Frac("a - y", "a (1 - a)"), " = ", Power("e", "-2.0")])
    'dC/da = (a - y)/(a (1 - a)) = e^-2.0'
    """
    if isinstance(formula, list):
        return "".join(map(to_text, formula))
    if isinstance(formula, Frac):
        return f"{_grouped(formula.top)}/{_grouped(formula.bottom)}"
    if isinstance(formula, Power):
        return f"{to_text(formula.base)}^{_grouped(formula.exponent)}"
    return f"{formula.text} " if isinstance(formula, Label) else formula


def _grouped(formula: Any) -> str:
    text = to_text(formula)
    return f"({text})" if " " in text else text


_TOKEN = re.compile(
    r"""(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
    | (?P<special>\b(?:nan|inf)\b)
    | (?P<name>[A-Za-z]+)(?P<prime>')?(?:_(?P<index>\{[^}]*\}|\w))?(?P<transposed>\^T)?
    | (?P<blank>\s+)
    | (?P<sign>.)""",
    re.VERBOSE,
)
_THIN = '<mspace width="0.17em"/>'
_SIGNS = {"-": "\N{MINUS SIGN}", "*": "\N{MIDDLE DOT}"}


def to_mathml(formula: Any) -> str:
    """The formula as the content of a ``<math>`` element.

    >>> to_mathml(Frac("a_L", "2"))
    '<mfrac><mrow><msub><mi>a</mi><mi>L</mi></msub></mrow><mrow><mn>2</mn></mrow></mfrac>'
    """
    if isinstance(formula, list):
        return "".join(map(to_mathml, formula))
    if isinstance(formula, Frac):
        return f"<mfrac>{_row(formula.top)}{_row(formula.bottom)}</mfrac>"
    if isinstance(formula, Power):
        return f"<msup>{_row(formula.base)}{_row(formula.exponent)}</msup>"
    if isinstance(formula, Label):
        return f'<mtext>{escape(formula.text)}</mtext><mspace width="0.8em"/>'
    return "".join(map(_token, _TOKEN.finditer(formula)))


def _row(formula: Any) -> str:
    return f"<mrow>{to_mathml(formula)}</mrow>"


def _token(match: re.Match[str]) -> str:
    kind = match.lastgroup
    text = match.group()
    if match["number"]:
        digits, _, exponent = text.partition("e")
        if not exponent:
            return f"<mn>{digits}</mn>"
        power = str(int(exponent)).replace("-", _SIGNS["-"])
        base = f"<mo>{_SIGNS['*']}</mo><msup><mn>10</mn><mn>{power}</mn></msup>"
        return f"<mrow><mn>{digits}</mn>{base}</mrow>"
    if match["special"]:
        return "<mi>NaN</mi>" if text == "nan" else "<mn>\N{INFINITY}</mn>"
    if match["name"]:
        return _name(match)
    if kind == "blank":
        return ""
    before = match.string[: match.start()].rstrip()
    # a sign of a number, not between two: renderers look no further than the row's beginning
    form = ' form="prefix"' if text == "-" and (not before or before[-1] in "(=*+,") else ""
    return f"<mo{form}>{escape(_SIGNS.get(text, text))}</mo>"


def _name(match: re.Match[str]) -> str:
    base = f"<mi>{match['name']}</mi>"
    if match["name"] == "log":  # of an argument without brackets
        return f"{_THIN}{base}{_THIN}"
    above = "<mo>\N{PRIME}</mo>" if match["prime"] else ""
    above += "<mi>T</mi>" if match["transposed"] else ""
    index = match["index"]
    if index is None:
        return f"<msup>{base}<mrow>{above}</mrow></msup>" if above else base
    below = to_mathml(index.strip("{}"))
    if above:
        return f"<msubsup>{base}<mrow>{below}</mrow><mrow>{above}</mrow></msubsup>"
    return f"<msub>{base}{below if len(index) == 1 else f'<mrow>{below}</mrow>'}</msub>"

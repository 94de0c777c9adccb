"""What a report says, in order, as blocks that are rendered as text or as a page.

The reader's own numbers are put into every formula.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet.explain import paths
from bcenet.explain.formula import Frac, Label, Power
from bcenet.records import Record

if TYPE_CHECKING:
    from bcenet.explain.hidden import HiddenUnit
    from bcenet.explain.report import Explanation, Paths, PathValue, RowReport


class Heading(Record):
    """level: 1 or 2. text: of it."""

    level: int
    text: str


class Paragraph(Record):
    """text: in one line. warning: whether it says that something is wrong."""

    text: str
    warning: bool


class Formulas(Record):
    """lines: formulas (`bcenet.explain.formula`), one below the other."""

    lines: list[Any]


class Table(Record):
    """header, rows: texts; the first column is to the left. verdicts: one a row, a word of
    `paths.VERDICTS` or ""."""

    header: list[str]
    rows: list[list[str]]
    verdicts: list[str]


class Picture(Record):
    """The three paths against the logit, where pictures can be shown."""


Block = Heading | Paragraph | Formulas | Table | Picture

_A = "a (1 - a)"


def tell(report: Explanation) -> list[Block]:
    """All blocks of a report."""
    blocks: list[Block] = [
        *_question(report),
        *_overview(report),
        *(block for row in report.rows for block in _row(report, row)),
        *_thresholds(report),
        *_hidden(report),
        *_pairings(report),
    ]
    return blocks


def _say(text: str) -> Paragraph:
    return Paragraph(text, False)


def _question(report: Explanation) -> list[Block]:
    labels = "" if report.outputs == 1 else f" of {report.outputs} labels"
    blocks: list[Block] = [
        Heading(1, "Why the last layer's gradient is a - y"),
        _say(
            f"{report.network} on {report.n:,} {_plural(report.n, 'row')}{labels}. z is the logit, "
            "the last layer's number before its activation; a, the probability, is behind it; y is "
            "the target. C is what one label of one row costs."
        ),
        Formulas(
            [
                ["a = s(z) = ", Frac("1", "1 + exp(-z)")],
                "C = -(y log a + (1 - y) log(1 - a))",
                [Frac("dC", "da"), " = ", Frac("a - y", _A)],
                [Frac("da", "dz"), f" = {_A}"],
                [Frac("dC", "dz"), " = ", Frac("a - y", _A), f" * {_A} = a - y"],
            ]
        ),
        _say(
            "On paper a (1 - a) cancels, because this cost and this activation are a pair: the "
            "sigmoid is the canonical link of the Bernoulli likelihood. With floating-point "
            "numbers there are three ways to compute the same dC/dz: (1) both factors of the chain "
            "rule and their product; (2) a - y to the letter; (3) the fused form, which goes "
            "back to the logit, s(z) for y = 0 and -s(-z) for y = 1. bcenet trains with (3). "
            "The exact value beside them is computed in decimal arithmetic with 80 digits."
        ),
    ]
    return blocks + [Paragraph(f"Note: {remark}.", True) for remark in report.remarks]


def _overview(report: Explanation) -> list[Block]:
    rows = []
    verdicts = []
    for part in report.summary:
        counts = [f"{part.counts[name]:,}" for name in ("right", "wrong", "zero")]
        lost = f"{part.counts['nan'] + part.counts['infinite']:,}"
        rows.append([part.dtype, paths.TITLES[part.path], *counts, lost, f"{part.mean:.6g}"])
        verdicts.append("" if math.isfinite(part.mean) else "nan")
    total = report.n * report.outputs
    blocks: list[Block] = [
        Heading(2, "All rows"),
        _say(
            f"The {total:,} {_plural(total, 'logit')} of these rows, by what each path makes of "
            "them. Right is within 16 units in the last place (ULP), four bits; zero is a 0 where "
            "the truth is none. The mean is what the last intercept would get: one NaN "
            f"makes it, and with it the whole step, NaN. {len(report.rows)} of the "
            f"{_plural(total, 'logit')} {'follows' if len(report.rows) == 1 else 'follow'}."
        ),
        Table(
            ["dtype", "dC/dz by", "right", "wrong", "zero", "not finite", "mean"], rows, verdicts
        ),
        Picture(),
    ]
    return blocks


def _row(report: Explanation, row: RowReport) -> list[Block]:
    label = "" if report.outputs == 1 else f", label {row.label}"
    own: Paths = getattr(row, report.dtype)
    blocks: list[Block] = [
        Heading(2, f"Row {row.row}{label}: z = {row.logit:.6g}, y = {row.target:g}"),
        _comparison(row),
    ]
    if own.exact is None:
        blocks.append(_say("The logit is NaN, so there is nothing to compare with."))
        return blocks
    blocks += [
        _say(f"The formulas with these numbers, in {report.dtype}:"),
        Formulas(_substituted(own, report.dtype)),
    ]
    reasons: dict[str, list[str]] = {}
    for dtype in paths.DTYPES[::-1]:
        for name in paths.PATHS:
            why = getattr(getattr(row, dtype), name).why
            if why:
                reasons.setdefault(f"{dtype}: {why}.", []).append(paths.TITLES[name][:3])
    blocks += [_say(f"{' and '.join(names)} in {reason}") for reason, names in reasons.items()]
    truth = float(own.exact)
    off = abs(own.clipped - truth)
    if own.chain.verdict == "nan" or off > max(
        1e-3 * abs(truth), 10 * abs(own.chain.value - truth)
    ):
        blocks.append(
            _say(
                "The usual repair of (1), to keep a within 1e-7 of 0 and 1 in dC/da, gives "
                f"{own.clipped + 0.0:.4g} here, where the truth is {truth:.4g}: finite, and wrong."
            )
        )
    return blocks


def _comparison(row: RowReport) -> Table:
    table = Table(["", "dC/dz", "rel. error", "ULP", "verdict"], [], [])
    for dtype in paths.DTYPES[::-1]:
        part: Paths = getattr(row, dtype)
        exact = "-" if part.exact is None else _exact(part.exact)
        table.rows.append([f"{dtype}  exact", exact, "", "", ""])
        table.verdicts.append("")
        for name, title in paths.TITLES.items():
            value: PathValue = getattr(part, name)
            table.rows.append(
                [
                    f"{dtype}  {title}",
                    shown(value.value, dtype),
                    _error(value.relative_error),
                    _error(value.ulp),
                    _verdict(value, part),
                ]
            )
            table.verdicts.append(value.verdict)
    return table


def _exact(value: Decimal) -> str:
    """20 digits."""
    return f"{value:.20g}" if abs(value) >= Decimal("1e-4") or not value else f"{value:.19e}"


def shown(value: float, dtype: str) -> str:
    """The shortest text that gives the same number of the dtype again."""
    return str(np.dtype(dtype).type(value))


def _error(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if 0.01 <= value < 1000 or value == 0 else f"{value:.1e}"


def _verdict(value: PathValue, part: Paths) -> str:
    if value.verdict == "wrong" and value.relative_error < 0.1:
        return f"wrong from digit {int(-math.log10(value.relative_error)) + 1}"
    if value.verdict == "zero":
        return "0, the truth is not"
    if value.verdict == "right" and value.value == 0 and part.exact:
        return "right: rounds to 0"
    return {"nan": "NaN"}.get(value.verdict, value.verdict)


def _substituted(part: Paths, dtype: str) -> list[Any]:
    """The formulas of the last layer, with a row's numbers in a dtype."""

    def text(value: Any) -> str:
        return str(np.dtype(dtype).type(value))

    real = np.dtype(dtype).type
    z, y, a = real(part.logit), real(part.target), real(part.a)
    with np.errstate(all="ignore"):
        rest = 1 - a
        slope = a * rest
        dc_da = (a - y) / slope
    a_, y_, rest_, slope_, z_ = map(text, (a, y, rest, slope, z))
    lines = [
        ["a = ", Frac("1", f"1 + exp({_negated(z_)})"), f" = {a_}"],
        f"1 - a = {rest_}",
        [
            Frac("dC", "da"),
            " = ",
            Frac("a - y", _A),
            " = ",
            Frac(f"{a_} - {y_}", f"{a_} * {rest_}"),
            f" = {text(dc_da)}",
        ],
        [Frac("da", "dz"), f" = {_A} = {a_} * {rest_} = {slope_}"],
        [
            Label("(1)"),
            Frac("dC", "da"),
            " * ",
            Frac("da", "dz"),
            f" = {_signed(text(dc_da))} * {slope_} = {text(part.chain.value)}",
        ],
        [Label("(2)"), f"a - y = {a_} - {y_} = {text(part.literal.value)}"],
    ]
    fused = text(part.fused.value)
    if y == 0:
        form = ["s(z) = ", Frac("1", ["1 + ", Power("e", _negated(z_))])]
    elif y == 1:
        form = ["-s(-z) = -", Frac("1", ["1 + ", Power("e", z_)])]
    else:
        form = [f"(1 - y) s(z) - y s(-z) = {text(1 - y)} * s({z_}) - {y_} * s({_negated(z_)})"]
    return [*lines, [Label("(3)"), *form, f" = {fused}"]]


def _negated(text: str) -> str:
    return text[1:] if text.startswith("-") else f"-{text}"


def _signed(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


_HALF = {"half": "wrong"}
_EFFECTS = {
    ("chain", "nan"): "NaN",
    ("literal", "zero"): "0, the truth is not",
    ("fused", "zero"): "0, as the truth is when rounded",
}


def _thresholds(report: Explanation) -> list[Block]:
    merged: dict[tuple[Any, ...], list[str]] = {}  # one line for both targets where they agree
    for part in report.thresholds:
        key = (part.dtype, part.path, part.logit, part.upwards, part.effect)
        merged.setdefault(key, []).append(str(part.target))
    table = Table(["dtype", "dC/dz by", "y", "from z", "on, it is"], [], [])
    for (dtype, path, logit, upwards, effect), targets in merged.items():
        sign = ">=" if upwards else "<="
        words = _EFFECTS.get((path, effect), "short of half its digits")
        cells = [paths.TITLES[path], " and ".join(targets), f"{sign} {logit:.4f}", words]
        table.rows.append([dtype, *cells])
        table.verdicts.append("right" if path == "fused" else _HALF.get(effect, effect))
    return [
        Heading(2, "From which logit on each path breaks"),
        _say(
            "Found by bisection among the numbers of each dtype, with the arithmetic of this "
            "machine. Upwards, 1 + exp(-z) rounds to 1; downwards, exp(-z) is beyond the largest "
            "number. Path (1) breaks for both targets, so also where a row is surely wrong and its "
            "gradient is 1 or -1. Path (2) breaks where a row is surely right and its gradient is "
            "tiny: the step hardly changes, but what is left of the row is noise or nothing."
        ),
        table,
    ]


def _hidden(report: Explanation) -> list[Block]:
    blocks: list[Block] = [
        Heading(2, "The hidden layers: why nothing cancels there"),
    ]
    if report.units:
        blocks += [
            _say(
                "A hidden layer sees the cost only through the layer after it. Its da is a sum "
                "over that layer, with no 1/g'(z) in it that g'(z) could cancel, whatever the "
                "cost is:"
            ),
            Formulas(["da_{l-1} = dz_l W_l^T", "dz_{l-1} = da_{l-1} * g'(z_{l-1})"]),
        ]
        for unit in report.units:
            blocks += _unit(unit, report)
    else:
        blocks.append(
            _say("This network has no hidden layer: it is logistic regression, and a - y is all.")
        )
    if not report.mistakes:
        return blocks
    table = Table(["computed instead", "layer", "relative error", "cosine"], [], [])
    for mistake in report.mistakes:
        for error in mistake.layers:
            cells = [_error(error.relative_error), f"{error.cosine:.4f}"]
            table.rows.append([mistake.formula, str(error.layer), *cells])
            table.verdicts.append("wrong" if error.relative_error > 1e-6 else "")
    return [
        *blocks,
        Heading(2, "The wrong formula in the wrong place"),
        _say(
            "What it does to the gradient over all the rows, in float64: the error as a part "
            "of the right gradient's length, and the cosine of the angle between the two (1 is the "
            "same direction; below 0 a small step makes the cost larger). a - y in a hidden layer "
            "compares a unit with a target that was never its own. da * g'(z) at the output, with "
            "a - y for da, counts the slope a (1 - a), which is at most 1/4, where it had "
            "cancelled: it is the gradient of squared error / 2, and rows that are surely wrong "
            "hardly count. And W^T dz is the da of the layer before: it takes that layer's slope, "
            "not the output's."
        ),
        table,
    ]


def _unit(unit: HiddenUnit, report: Explanation) -> list[Block]:
    def text(value: float) -> str:
        return shown(value, report.dtype)

    terms = [f"{_signed(text(dz))} * {_signed(text(w))}" for dz, w in unit.terms[:3]]
    more = len(unit.terms) - len(terms)
    total = " + ".join(terms) + (" + ..." if more else "")
    norm = f" behind {unit.normalization} normalisation" if unit.normalization else ""
    lines: list[Any] = [
        f"da = {total} = {text(unit.da)}",
        f"g'(z) = {text(unit.slope)}",
        f"da * g'(z) = {_signed(text(unit.da))} * {_signed(text(unit.slope))} = "
        f"{text(unit.product)}",
        f"a - y = {text(unit.a)} - {text(unit.target)} = {text(unit.literal)}",
    ]
    if unit.normalization:
        lines.insert(3, f"dz = {text(unit.dz)}")
    of = "" if report.outputs == 1 else ", with the mean of the row's labels for y,"
    through = " The normalisation then takes it back to dz." if unit.normalization else ""
    return [
        _say(
            f"Row {unit.row}, layer {unit.layer}, unit {unit.unit} ({unit.activation}{norm}, the "
            f"largest dz of its layer): z = {text(unit.z)}, a = {text(unit.a)}.{through} The "
            f"last line{of} is not its gradient:"
        ),
        Formulas(lines),
    ]


def _pairings(report: Explanation) -> list[Block]:
    blocks: list[Block] = [Heading(2, "Cost or activation?")]
    if not report.pairings:
        blocks.append(_say("No shown logit is finite and at most 1e6 in size: nothing to show."))
        return blocks
    first = report.pairings[0]
    blocks.append(
        _say(
            f"Neither alone: the pair. The same logit z = {first.logit:.6g}, with other "
            "activations and costs, in decimal arithmetic, so that what differs is mathematics "
            "and not rounding. Where the cost is the likelihood whose canonical link the "
            "activation is, the product is a - y for either target. BCE is binary cross-entropy; "
            "squared error is halved."
        )
    )
    table = Table(["activation", "cost", "y", "dC/da", "da/dz", "product", "a - y", ""], [], [])
    for pair in report.pairings:
        figures = [pair.dc_da, pair.da_dz, pair.product, pair.difference]
        table.rows.append(
            [
                pair.activation,
                pair.cost,
                f"{pair.target:g}",
                *(f"{figure:.4g}" for figure in figures),
                "equal" if pair.equal else "differs",
            ]
        )
        table.verdicts.append("right" if pair.equal else "wrong")
    blocks.append(table)
    for pair in report.pairings[: len({(p.activation, p.cost) for p in report.pairings})]:
        blocks.append(_say(f"{pair.activation} with {pair.cost}: {pair.remark}."))
    return blocks


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"

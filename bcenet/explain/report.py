"""The numbers of an explanation, row by row, and the report that holds them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks
from bcenet import rows as rows_
from bcenet.explain import exact, hidden, pairings, paths
from bcenet.network import Network
from bcenet.records import Record, plain

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class PathValue(Record):
    """What one path gives for one logit in one dtype.

    Attributes:
        value: the gradient. verdict: "right" (within 16 units in the last place), "wrong", "zero"
            (where the truth is not), "infinite" or "nan".
        relative_error: |value - exact| / |exact|; ulp: the same error in units in the last place
            of the dtype; both NaN where the value is. why: what went wrong, or "".
    """

    value: float
    verdict: str
    relative_error: float
    ulp: float
    why: str


class Paths(Record):
    """The last layer's gradient of one row in one dtype.

    Attributes:
        logit, target: z and y in this dtype. a: 1 / (1 + exp(-z)) in it.
        exact: the truth at this z and y, a Decimal of 30 digits; None where z is NaN.
        chain: dC/da * da/dz; literal: a - y; fused: bcenet's. PathValues.
        clipped: chain with a kept within 1e-7 of 0 and 1 in dC/da, the usual repair.
    """

    logit: float
    target: float
    a: float
    exact: Decimal | None
    chain: PathValue
    literal: PathValue
    fused: PathValue
    clipped: float


class RowReport(Record):
    """One label of one row: row and label, from 0; logit and target as the network has them;
    float32 and float64: Paths."""

    row: int
    label: int
    logit: float
    target: float
    float32: Paths
    float64: Paths


class PathSummary(Record):
    """One path in one dtype over all rows and labels.

    Attributes: dtype, path; counts: of each verdict, by its name; mean: of the path's values, what
    the last layer's intercept would get from it.
    """

    dtype: str
    path: str
    counts: dict[str, int]
    mean: float


class Explanation(Record):
    """What `bcenet.explain_last_layer` found. ``str(report)`` is the text.

    Attributes:
        network: its description. dtype: its dtype. n: rows of X. outputs: labels a row.
        rows: RowReports, the worst first (or as asked for).
        summary: PathSummaries, over all rows. thresholds: from which logit on each path breaks.
        units: HiddenUnits of one row, of each hidden layer. mistakes: wrong formulas over all
            rows. pairings: other activations and costs at one logit, for its target and for the
            opposite one.
        remarks: what is wrong with the network or the logits; empty if nothing is.
    """

    network: str
    dtype: str
    n: int
    outputs: int
    rows: list[RowReport]
    summary: list[PathSummary]
    thresholds: list[paths.Threshold]
    units: list[hidden.HiddenUnit]
    mistakes: list[hidden.Mistake]
    pairings: list[pairings.Pairing]
    remarks: list[str]

    def __str__(self) -> str:
        from bcenet.explain.text import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page in a frame of its own, so that the styles stay apart."""
        from html import escape

        page = escape(self.to_html(), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'

    def to_html(self, *, title: str | None = None, subtitle: str = "") -> str:
        """One HTML page with everything in it: formulas in MathML, a picture in SVG, no script.

        Arguments: title, subtitle: texts at its head, escaped.
        """
        from bcenet.explain.page import to_html

        return to_html(self, title, subtitle)

    def as_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON: the attributes by name. What is not finite is the text
        "nan", "inf" or "-inf", and an exact number the text of its digits."""
        return plain(self)

    def plot(self) -> Any:
        """The three paths against the logit, on a logarithmic scale, with the rows marked.

        Returns: a matplotlib Figure; ``figure.savefig(path)`` writes it.

        Raises: ImportError without matplotlib (``pip install 'bcenet[plot]'``).
        """
        from bcenet.explain.plot import draw

        return draw(self)


def explain_last_layer(
    network: Network, X: ArrayLike, y: ArrayLike, *, rows: int | list[int] = 5
) -> Explanation:
    """Why the last layer's gradient is a - y and no other layer's is, on your own numbers.

    For rows of X, with z the network's logits: the chain rule
    ``dC/da * da/dz = (a - y) / (a (1 - a)) * a (1 - a)`` with ``a = 1 / (1 + exp(-z))``, the
    cancelled ``a - y``, and the fused gradient ``(1 - y) s(z) - y s(-z)``, each in float32 and in
    float64 (where z and y are first rounded to it), beside the exact value from `decimal`; from
    which logit on each breaks; the same question for hidden layers and for other costs.

    Arguments:
        network: a `bcenet.Network`; its parameters need not be finite.
        X: (n, inputs), also sparse; y: (n,) for one output or (n, k) for k, in [0, 1].
        rows: how many labels of rows to show, those that go wrong worst first; or a list of row
            numbers, from 0, to show with all their labels.

    Returns: an `Explanation`: ``print(report)``, ``report.rows[0].float64.fused.value``,
    ``report.to_html()``, ``report.as_dict()``, ``report.plot()``.

    Raises: ValueError or TypeError as `bcenet.Network.loss_gradient` does for X and y, and for
    row numbers that X does not have.

    Example:
        The logit is X itself here.

        >>> import bcenet
        >>> net = bcenet.Network([1, 1], dtype="float64")
        >>> net.parameters[:] = [1.0, 0.0]
        >>> report = bcenet.explain_last_layer(net, [[2.0], [37.0]], [1, 1], rows=1)
        >>> worst = report.rows[0].float64
        >>> worst.logit, worst.chain.value, worst.literal.value, worst.fused.value
        (37.0, nan, 0.0, -8.533047625744065e-17)
        >>> worst.chain.verdict, worst.literal.verdict, worst.fused.verdict
        ('nan', 'zero', 'right')
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bcenet.Network; got {checks.describe(network)}")
    checked = rows_.check(network, X, y)
    chosen = _chosen(rows, checked.n)
    shape = (checked.n, network.layer_sizes[-1])
    logits = network.decision_function(checked.X).reshape(shape)
    targets = checked.y.reshape(shape)
    measured = {dtype: _measure(logits, targets, dtype) for dtype in paths.DTYPES}
    if isinstance(chosen, int):
        order = _worst_first(measured, chosen)
    else:
        order = [(row, label) for row in chosen for label in range(shape[1])]
    found = [_row(row, label, logits, targets, measured) for row, label in order]
    return Explanation(
        network=repr(network),
        dtype=network.dtype.name,
        n=shape[0],
        outputs=shape[1],
        rows=found,
        summary=[_summary(dtype, path, measured) for dtype in paths.DTYPES for path in paths.PATHS],
        thresholds=paths.thresholds(),
        units=hidden.units(network, checked, found[0].row),
        mistakes=hidden.mistakes(network, checked),
        pairings=_pairings(found),
        remarks=_remarks(network, logits, measured),
    )


def _chosen(rows: Any, n: int) -> int | list[int]:
    if not isinstance(rows, (list, tuple, range, np.ndarray)):
        return checks.integer("rows", rows, 1)
    if len(rows) == 0:
        raise ValueError("rows must hold at least one row number; got none")
    numbers = []
    for row in rows:
        if isinstance(row, (bool, np.bool_)) or not isinstance(row, (int, np.integer)):
            raise TypeError(f"rows must hold row numbers; got {checks.describe(row)}")
        if not 0 <= row < n:
            raise ValueError(f"rows must hold numbers from 0 to {n - 1}, the rows of X; got {row}")
        numbers.append(int(row))
    return numbers


class _Measured(Record):
    """All rows and labels, (n, k), in one dtype: z, y, and by path the values and verdicts."""

    z: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]
    verdicts: dict[str, np.ndarray]


def _measure(logits: np.ndarray, targets: np.ndarray, dtype: str) -> _Measured:
    """Every path in a dtype, judged by the fused one: `_row` judges by the exact value."""
    with np.errstate(all="ignore"):
        z, y = logits.astype(dtype), targets.astype(dtype)
        values = {name: path(z, y) for name, path in paths.PATHS.items()}
        verdicts = {name: paths.judge(v, values["fused"], y) for name, v in values.items()}
    return _Measured(z, y, values, verdicts)


def _worst_first(measured: dict[str, _Measured], count: int) -> list[tuple[int, int]]:
    """(row, label) by how many paths are not finite, then how many are 0, then the largest
    relative error of those that are wrong; equal ones in their order."""
    parts = list(measured.values())
    verdicts = np.array([v for part in parts for v in part.verdicts.values()])
    errors = np.zeros(parts[0].z.shape)
    with np.errstate(all="ignore"):
        for part in parts:
            truth = part.values["fused"].astype(np.float64)
            for name, values in part.values.items():
                error = np.abs((values - truth) / truth)
                errors = np.fmax(errors, np.where(part.verdicts[name] == 1, error, 0))
    keys = (-errors.ravel(), -(verdicts == 2).sum(0).ravel(), -(verdicts > 2).sum(0).ravel())
    order = np.lexsort(keys)[:count]  # the last key counts first; stable
    labels = parts[0].z.shape[1]
    return [divmod(int(place), labels) for place in order]


def _row(
    row: int,
    label: int,
    logits: np.ndarray,
    targets: np.ndarray,
    measured: dict[str, _Measured],
) -> RowReport:
    at = (row, label)
    by_dtype = {dtype: _paths(part, at) for dtype, part in measured.items()}
    return RowReport(row, label, float(logits[at]), float(targets[at]), **by_dtype)


def _paths(part: _Measured, at: tuple[int, int]) -> Paths:
    """The paths of one label, judged by the exact value; the verdicts go back to ``part``."""
    z, y = part.z[at], part.y[at]
    with np.errstate(all="ignore"):
        a = paths.naive_sigmoid(z)
        clipped = paths.clipped(z, y)
    truth = exact.gradient(float(z), float(y))
    rounded = np.full(1, np.nan if truth is None else float(truth), z.dtype)
    found = {}
    for name, values in part.values.items():
        value = values[at]
        with np.errstate(all="ignore"):
            part.verdicts[name][at] = paths.judge(value.reshape(1), rounded, y.reshape(1))[0]
        verdict = paths.VERDICTS[part.verdicts[name][at]]
        errors = exact.errors(value, truth)
        why = "" if verdict == "right" else paths.why(name, z, y, a, float(rounded[0]))
        found[name] = PathValue(float(value), verdict, *errors, why)
    short = None if truth is None else exact.SHORT.plus(truth)
    return Paths(float(z), float(y), float(a), short, **found, clipped=float(clipped))


def _summary(dtype: str, path: str, measured: dict[str, _Measured]) -> PathSummary:
    part = measured[dtype]
    verdicts = part.verdicts[path]
    counts = {name: int((verdicts == code).sum()) for code, name in enumerate(paths.VERDICTS)}
    with np.errstate(all="ignore"):
        mean = float(part.values[path].mean(dtype=np.float64))
    return PathSummary(dtype, path, counts, mean)


def _pairings(found: list[RowReport]) -> list[pairings.Pairing]:
    """At the first shown logit that is not too large for them: its target, then the opposite."""
    for row in found:
        if abs(row.logit) <= pairings.LARGEST_LOGIT:
            pairs = pairings.pairings(row.logit, row.target)
            if row.target != 0.5:
                pairs += pairings.pairings(row.logit, 1 - row.target)
            return pairs
    return []


def _remarks(network: Network, logits: np.ndarray, measured: dict[str, _Measured]) -> list[str]:
    remarks = []
    arrays = []
    for layer, (weights, intercepts) in enumerate(
        zip(network.coefs, network.intercepts, strict=True)
    ):
        arrays += [(f"coefs[{layer}]", weights), (f"intercepts[{layer}]", intercepts)]
    arrays += [(f"norms[{i}]", values) for i, values in enumerate(network.norms)]
    arrays += [("scale", network.scale)] if network.scale is not None else []
    for name, values in [*arrays, ("statistics", network.statistics)]:
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            place = tuple(int(i) for i in bad[0])
            remarks.append(
                f"{name} holds {len(bad):,} of {values.size:,} numbers that are not finite; the "
                f"first is {name}[{', '.join(map(str, place))}] = {values[place]}"
            )
    lost = int(np.isnan(logits).sum())
    if lost:
        remarks.append(
            f"{lost:,} of {logits.size:,} logits are NaN: no path can be right where there is no "
            "logit"
        )
    z = measured["float32"].z
    overflown = int((np.isinf(z) & np.isfinite(logits)).sum())
    if overflown:
        remarks.append(f"{overflown:,} of {logits.size:,} logits are infinite in float32")
    return remarks

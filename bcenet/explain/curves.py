"""The three paths as curves over the logit, for `page` and `plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bcenet.explain import paths
from bcenet.records import Record

if TYPE_CHECKING:
    from bcenet.explain.report import Explanation, RowReport

POINTS = 401
_WIDEST = 2.5  # times the logit at which 1 - a is 0


class Curve(Record):
    """One path: |dC/dz| at ``Panel.z``, NaN where it is NaN or 0; ends: the first logit above 0
    from which it is, and whether it is NaN there; None where there is none."""

    path: str
    size: np.ndarray
    ends: tuple[float, bool] | None


class Panel(Record):
    """One dtype and target: z, the logits; curves; rows: those of the report whose target is
    this one and whose logit is within z's range, with |exact| above 0; left_out: how many are
    beyond it."""

    dtype: str
    target: int
    z: np.ndarray
    curves: list[Curve]
    rows: list[RowReport]
    left_out: int


def panel(report: Explanation, dtype: str, target: int) -> Panel:
    """The curves of a dtype and a target, 0 or 1, wide enough for the rows where that is sane."""
    ends = {
        part.path: (part.logit, part.effect == "nan")
        for part in report.thresholds
        if part.dtype == dtype and part.target == target and part.upwards and part.effect != "half"
    }
    edge = ends["chain"][0]
    mine = [row for row in report.rows if row.target == target and np.isfinite(row.logit)]
    shown = [row for row in mine if abs(row.logit) <= _WIDEST * edge]
    logits = [row.logit for row in shown]
    low = min([-0.4 * edge, *(1.08 * z for z in logits)])
    high = max([1.25 * edge, *(1.08 * z for z in logits)])
    z = np.linspace(low, high, POINTS).astype(dtype)
    y = np.full_like(z, target)
    curves = []
    for name, path in paths.PATHS.items():
        with np.errstate(all="ignore"):
            size = np.abs(path(z, y).astype(np.float64))
        size[size == 0] = np.nan
        end = ends.get(name)
        curves.append(Curve(name, size, end if end and end[0] <= high else None))
    return Panel(dtype, target, z, curves, shown, len(mine) - len(shown))


def failing(row: RowReport, dtype: str) -> bool:
    """Whether the chain rule or a - y is not right for the row in the dtype."""
    part = getattr(row, dtype)
    return part.chain.verdict != "right" or part.literal.verdict != "right"


def height(row: RowReport, dtype: str) -> float:
    """|exact| of the row in the dtype, as a float."""
    return abs(float(getattr(row, dtype).exact))

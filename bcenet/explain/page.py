"""A report as one HTML page: MathML, inline SVG and CSS; no script, nothing from elsewhere."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from bcenet.explain import curves, paths
from bcenet.explain.formula import to_mathml
from bcenet.explain.story import Formulas, Heading, Paragraph, Picture, Table, tell

if TYPE_CHECKING:
    from bcenet.explain.report import Explanation

_STYLE = """
:root { color-scheme: light dark; --text: #1d2125; --back: #ffffff; --soft: #f1f3f5;
  --line: #d5dade; --good: #17683a; --bad: #b3261e; --fused: #1b6ca8; --literal: #b56a00;
  --chain: #c0392b; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7ea; --back: #15181b; --soft: #20252a; --line: #3a424a; --good: #7bd29b;
    --bad: #ff8f85; --fused: #6db5ea; --literal: #f0ab4a; --chain: #ff7b6b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .8rem 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; overflow-wrap: anywhere; }
.subtitle { margin: 0; opacity: .75; }
.warning { border-left: 4px solid var(--bad); padding-left: .7rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
.formulas { background: var(--soft); border-radius: 6px; padding: .5rem .9rem; }
.formulas math { display: block math; text-align: left; width: max-content; margin: .6rem 0;
  font-size: 1.08rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
@media (max-width: 40rem) {
  table { font-size: .74rem; } th, td { white-space: normal; padding-right: .45rem; }
  td.number { white-space: nowrap; } .formulas math { font-size: .95rem; } }
tr.right td:last-child { color: var(--good); }
tr.wrong td:last-child, tr.zero td:last-child, tr.nan td:last-child, tr.infinite td:last-child {
  color: var(--bad); font-weight: 600; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; }
.panels svg { flex: 1 1 20rem; max-width: 30rem; width: 100%; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); }
svg .fused { stroke: var(--fused); stroke-width: 5; stroke-opacity: .5; fill: none; }
svg .literal { stroke: var(--literal); stroke-width: 2; stroke-dasharray: 7 3; fill: none; }
svg .chain { stroke: var(--chain); stroke-width: 2; stroke-dasharray: 2 3; fill: none; }
svg text.fused, svg text.literal, svg text.chain { stroke: none; fill-opacity: 1; }
svg text.fused { fill: var(--fused); } svg text.literal { fill: var(--literal); }
svg text.chain { fill: var(--chain); }
svg .row { stroke: var(--text); stroke-width: 2; fill: none; }
"""


def to_html(report: Explanation, title: str | None, subtitle: str) -> str:
    """The page; see `Explanation.to_html`."""
    parts = []
    name = "Why the last layer's gradient is a - y" if title is None else title
    for block in tell(report):
        if isinstance(block, Heading):
            text = name if block.level == 1 else block.text
            parts.append(f"<h{block.level}>{escape(text)}</h{block.level}>")
            if block.level == 1 and subtitle:
                parts.append(f'<p class="subtitle">{escape(subtitle)}</p>')
        elif isinstance(block, Paragraph):
            kind = ' class="warning"' if block.warning else ""
            parts.append(f"<p{kind}>{_prose(block.text)}</p>")
        elif isinstance(block, Formulas):
            lines = "\n".join(
                f'<math display="block"><mrow>{to_mathml(line)}</mrow></math>'
                for line in block.lines
            )
            parts.append(f'<div class="wide formulas">\n{lines}\n</div>')
        elif isinstance(block, Table):
            parts.append(_table(block))
        elif isinstance(block, Picture):
            parts.append(_picture(report))
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _prose(text: str) -> str:
    """Escaped; a difference stays on one line."""
    return escape(text).replace(" - ", "&nbsp;&minus;&nbsp;")


def _cell(text: str) -> str:
    kind = ' class="number"' if " " not in text else ""  # not broken at the sign of an exponent
    return f"<td{kind}>{_prose(text)}</td>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    rows = []
    for cells, verdict in zip(table.rows, table.verdicts, strict=True):
        kind = f' class="{verdict}"' if verdict else ""
        rows.append(f"<tr{kind}>{''.join(map(_cell, cells))}</tr>")
    body = "\n".join(rows)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 26, 40


def _picture(report: Explanation) -> str:
    """Two panels of the network's dtype, for y = 1 and for y = 0."""
    panels = "\n".join(_panel(curves.panel(report, report.dtype, target)) for target in (1, 0))
    legend = (
        "|dC/dz| against the logit, on a logarithmic scale. Solid: (3) fused. Dashed: (2) a - y. "
        "Dotted: (1) the chain rule. Circles: rows below that every path gets right; crosses: rows "
        "that (1) or (2) miss."
    )
    return f'<div class="panels">\n{panels}\n</div>\n<p>{escape(legend)}</p>'


def _panel(panel: curves.Panel) -> str:
    smallest = min(float(np.nanmin(curve.size)) for curve in panel.curves)
    bottom, top = math.floor(math.log10(smallest)) - 1, 1
    low, high = float(panel.z[0]), float(panel.z[-1])

    def x(z: float) -> float:
        return _LEFT + (z - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(size: float) -> float:
        part = (max(math.log10(size), bottom) - bottom) / (top - bottom) if size > 0 else 0
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    title = f"{panel.dtype}, y = {panel.target}"
    if panel.left_out:
        title += f" (rows beyond: {panel.left_out})"
    parts = [f'<text x="{_LEFT}" y="16">{escape(title)}</text>']
    step = max(1, -(-(top - bottom) // 6))
    for power in range(top - 1, bottom - 1, -step):
        at = y(10.0**power)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>'
        )
    spacing = next(s for s in (5, 10, 20, 50) if (high - low) / s <= 10 or s == 50)
    for z in range(math.ceil(low / spacing) * spacing, math.floor(high) + 1, spacing):
        at = x(z)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}"/><text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" '
            f'text-anchor="middle">{z}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">logit z</text>')
    for curve in panel.curves[::-1]:
        known = ~np.isnan(curve.size)
        points = " ".join(
            f"{x(float(z)):.1f},{y(float(size)):.1f}"
            for z, size in zip(panel.z[known], curve.size[known], strict=True)
        )
        parts.append(f'<polyline class="{curve.path}" points="{points}"/>')
    for line, curve in enumerate(curve for curve in panel.curves if curve.ends):
        assert curve.ends is not None
        logit, is_nan = curve.ends
        text = f"{paths.TITLES[curve.path][:3]} {'NaN' if is_nan else '0'} from {logit:.4f}"
        height = _HEIGHT - _BOTTOM - 10 - 16 * line
        parts.append(
            f'<line class="grid" x1="{x(logit):.1f}" x2="{x(logit):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}" style="stroke: currentColor"/>'
            f'<text class="{curve.path}" x="{x(logit) - 5:.1f}" y="{height}" '
            f'text-anchor="end">{text}</text>'
        )
    for row in panel.rows:
        at, up = x(row.logit), y(curves.height(row, panel.dtype))
        if curves.failing(row, panel.dtype):
            shape = f'<path class="row" d="M{at - 5:.1f} {up - 5:.1f} l10 10 m0 -10 l-10 10"/>'
        else:
            shape = f'<circle class="row" cx="{at:.1f}" cy="{up:.1f}" r="5"/>'
        parts.append(f"<g><title>row {row.row}: z = {row.logit:.6g}</title>{shape}</g>")
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}: the three '
        f'paths against the logit">\n{inside}\n</svg>'
    )

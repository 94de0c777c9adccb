"""A report as plain text, for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from bcenet.explain.formula import to_text as formula_text
from bcenet.explain.story import Formulas, Heading, Paragraph, Table, tell

if TYPE_CHECKING:
    from bcenet.explain.report import Explanation


def to_text(report: Explanation) -> str:
    """Headings underlined, paragraphs wrapped, formulas indented, tables aligned."""
    parts = []
    for block in tell(report):
        if isinstance(block, Heading):
            parts.append(f"{block.text}\n{('=' if block.level == 1 else '-') * len(block.text)}")
        elif isinstance(block, Paragraph):
            parts.append(textwrap.fill(block.text, 96, break_on_hyphens=False))
        elif isinstance(block, Formulas):
            parts.append("\n".join(f"    {formula_text(line)}" for line in block.lines))
        elif isinstance(block, Table):
            parts.append(_table(block))
    return "\n\n".join(parts)


def _table(table: Table) -> str:
    rows = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

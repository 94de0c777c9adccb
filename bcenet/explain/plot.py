"""The paths as a picture, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet.explain import curves, paths

if TYPE_CHECKING:
    from bcenet.explain.report import Explanation

# In the order of `paths.PATHS`, drawn from the last: the widest line lies below.
STYLES: dict[str, dict[str, Any]] = {
    "chain": {"color": "#c0392b", "linewidth": 1.6, "linestyle": (0, (1, 1.6))},
    "literal": {"color": "#d98200", "linewidth": 1.6, "linestyle": (0, (5, 2))},
    "fused": {"color": "#1b6ca8", "linewidth": 4.0, "alpha": 0.45},
}


def draw(report: Explanation) -> Any:
    """A figure of four panels: two dtypes by two targets; see `Explanation.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot() needs matplotlib, which is not installed: pip install 'bcenet[plot]'"
        ) from error
    figure = Figure(figsize=(11, 7.5), dpi=120, layout="constrained")
    axes = figure.subplots(2, 2)
    for column, dtype in enumerate(paths.DTYPES):
        for line, target in enumerate((1, 0)):
            _panel(axes[line, column], curves.panel(report, dtype, target))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle("Three ways to compute the last layer's gradient")
    return figure


def _panel(axes: Any, panel: curves.Panel) -> None:
    for curve in panel.curves[::-1]:
        style = STYLES[curve.path]
        axes.plot(panel.z, curve.size, label=paths.TITLES[curve.path], **style)
    smallest = np.nanmin(panel.curves[-1].size)
    axes.set_yscale("log")
    axes.set_ylim(smallest / 10, 30)
    for curve in panel.curves:
        if curve.ends:
            logit, is_nan = curve.ends
            text = f"{'NaN' if is_nan else '0'} from z = {logit:.4f}"
            axes.axvline(logit, color="#888888", linewidth=0.8)
            # two at the same logit, one above the other
            low = 0.04 if is_nan else 0.12
            axes.text(
                logit,
                low,
                f"{paths.TITLES[curve.path][:3]} {text} ",
                color=STYLES[curve.path]["color"],
                transform=axes.get_xaxis_transform(),
                horizontalalignment="right",
            )
    marks = {
        False: ("o", "rows that all paths get right"),
        True: ("X", "rows that (1) or (2) miss"),
    }
    for fails, (marker, label) in marks.items():
        rows = [row for row in panel.rows if curves.failing(row, panel.dtype) is fails]
        axes.plot(
            [row.logit for row in rows],
            [max(curves.height(row, panel.dtype), smallest / 10) for row in rows],
            linestyle="none",
            marker=marker,
            markersize=7,
            markerfacecolor="#222222" if fails else "none",
            markeredgecolor="white" if fails else "#222222",
            markeredgewidth=0.6 if fails else 1.2,
            label=label,
        )
    beyond = f" (rows beyond: {panel.left_out})" if panel.left_out else ""
    axes.set_title(f"{panel.dtype}, y = {panel.target}{beyond}", fontsize=11)
    axes.set_xlabel("logit z")
    axes.set_ylabel("|dC/dz|")
    axes.grid(alpha=0.25)

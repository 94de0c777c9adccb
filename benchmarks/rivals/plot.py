"""The results as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.rivals.libraries import LIBRARIES, OURS
from benchmarks.rivals.report import best, three_digits, title

_OURS_COLOUR, _OTHERS_COLOUR = "#1b6ca8", "#b9c0c7"
_ROOF_LINE = {"color": "#c0392b", "linewidth": 1, "linestyle": "--"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write a PNG: a panel a workload, a bar a library, the time of a step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    workloads = list(results["training"].items())
    columns = min(3, len(workloads))
    rows = -(-len(workloads) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.6 * rows + 1.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, result) in zip(axes, workloads, strict=False):
        _panel(panel, name, result)
    for panel in axes[len(workloads) :]:
        panel.set_axis_off()
    machine = results["machine"]
    figure.suptitle(
        "Time of a training step, each library at its better number of threads (thr.): "
        f"Adam, float32\n{machine['processor']}, CPUs: {machine['cpus']}, {results['date']}",
        fontsize=10,
    )
    figure.legend(
        handles=[Line2D([], [], **_ROOF_LINE)],
        labels=["the step's matrix products at the rate of sgemm, on bcenet's number of threads"],
        loc="outside lower center",
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path)


def _panel(panel: Any, name: str, result: dict[str, Any]) -> None:
    """Horizontal bars, fastest on top, each with its time, its ratio and its threads."""
    records = {library: best(result, library) for library in LIBRARIES}
    timed = {library: record for library, record in records.items() if record}
    order = sorted(timed, key=lambda library: timed[library]["seconds"])
    longest = max((record["seconds"] for record in timed.values()), default=0.0)
    unit, scale = ("ms", 1e3) if longest > 0.01 else ("us", 1e6)
    times = [timed[library]["seconds"] * scale for library in order]
    colours = [_OURS_COLOUR if library == OURS else _OTHERS_COLOUR for library in order]
    panel.barh(range(len(order)), times, color=colours, height=0.7)
    panel.set_yticks(range(len(order)), [LIBRARIES[library].title for library in order])
    for i, (library, value) in enumerate(zip(order, times, strict=True)):
        label = f"{three_digits(value)} {unit}"
        if library != OURS and OURS in timed:
            label += f", {timed[library]['seconds'] / timed[OURS]['seconds']:.1f} x bcenet"
        label += f" ({timed[library]['threads']} thr.)"
        panel.annotate(
            label, (value, i), (4, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    if OURS in timed:
        rate = result["roof"][str(timed[OURS]["threads"])]
        panel.axvline(result["useful_operations"] / rate * scale, **_ROOF_LINE)
    panel.set_xlim(0, longest * scale * 1.85)
    panel.set_ylim(len(order) - 0.4, -0.6)
    panel.locator_params(axis="x", nbins=5)
    panel.set_title(title(name, result), fontsize=9, loc="left")
    panel.set_xlabel(f"{unit} a step", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)

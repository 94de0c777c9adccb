"""How the cost of training grows: with the rows, the width, the batch and the threads.

``python -m benchmarks.scaling`` measures each of these questions and writes a picture and its
numbers into ``docs/images/``; it prints the figures that ``docs/scaling.md`` quotes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import bcenet
from bcenet import threads
from bcenet.cli import arguments
from benchmarks.rivals import machine
from benchmarks.rivals.libraries import LIBRARIES, OURS, ROOF
from benchmarks.rivals.options import Parser
from benchmarks.rivals.problems import WORKLOADS, Workload
from benchmarks.rivals.rounds import Worker, roof_rate

IMAGES = Path(__file__).parents[1] / "docs" / "images"
TAB = WORKLOADS["tab"]
SECONDS = 0.1  # that a measurement takes at least: long against the clock and its noise
BLOCK = 100_000  # rows of a table that are made at a time


class Point:
    """A workload on a number of threads, and its times.

    Attributes:
        x: its place on the horizontal axis. series: the line that it belongs to.
        seconds: of one step, an entry a measurement.
    """

    def __init__(self, x: int, workload: Workload, n_threads: int = 1, series: str = "") -> None:
        self.x = x
        self.series = series
        self.workload = workload
        self.n_threads = n_threads
        self.seconds: list[float] = []
        self._network = bcenet.Network(workload.layer_sizes, random_state=0)
        self._optimizer = bcenet.Adam()
        self._epochs = 1

    @property
    def step(self) -> float:
        """Seconds of a step: the median."""
        return statistics.median(self.seconds)

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return self.step * self.workload.steps

    @property
    def row(self) -> float:
        """Seconds of a row."""
        return self.step / self.workload.batch

    @property
    def rate(self) -> float:
        """Useful operations a second."""
        return self.workload.useful_operations / self.step

    def run(self, X: np.ndarray, y: np.ndarray) -> float:
        """Seconds of a step, from whole epochs; the first one of the fit warms up."""
        ends: list[float] = []
        bcenet.fit(
            self._network,
            X[: self.workload.rows],
            y[: self.workload.rows],
            optimizer=self._optimizer,
            batch_size=self.workload.batch,
            epochs=1 + self._epochs,
            n_threads=self.n_threads,
            random_state=0,
            callbacks=[lambda state: ends.append(state.seconds)],
        )
        return (ends[-1] - ends[0]) / (self._epochs * self.workload.steps)

    def warm_up(self, X: np.ndarray, y: np.ndarray) -> None:
        """Find out how many epochs a measurement needs."""
        self._epochs = math.ceil(SECONDS / (self.run(X, y) * self.workload.steps))

    def record(self) -> dict[str, Any]:
        """As it is written to the JSON file."""
        return {
            "series": self.series,
            "x": self.x,
            "layer_sizes": self.workload.layer_sizes,
            "batch_size": self.workload.batch,
            "rows": self.workload.rows,
            "threads": self.n_threads,
            "median_seconds_a_step": self.step,
            "seconds_a_step": self.seconds,
        }


def table(rows: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """(X, y): normal numbers and a rule to learn, made in blocks so that X is all it takes."""
    rng = np.random.default_rng(0)
    X, y = np.empty((rows, inputs), np.float32), np.empty(rows, np.float32)
    for start in range(0, rows, BLOCK):
        block = X[start : start + BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        y[start : start + BLOCK] = block[:, 0] + block[:, 1] * block[:, 2] > 0
    return X, y


def measure(points: list[Point], rounds: int, beside: Callable[[], None] | None = None) -> None:
    """Every point once a round, so that a slow moment of the machine meets all of them.

    ``beside`` is called once a round too.
    """
    rows: dict[int, int] = {}
    for point in points:
        inputs = point.workload.layer_sizes[0]
        rows[inputs] = max(rows.get(inputs, 0), point.workload.rows)
    tables = {inputs: table(count, inputs) for inputs, count in rows.items()}
    for point in points:
        point.warm_up(*tables[point.workload.layer_sizes[0]])
    for _ in range(rounds):
        for point in points:
            point.seconds.append(point.run(*tables[point.workload.layer_sizes[0]]))
        if beside is not None:
            beside()


# ---- the questions ------------------------------------------------------------------------------
# Each function measures, draws into a matplotlib figure, and returns its points and the figures
# that docs/scaling.md quotes. A quick run takes three points, to see that everything works.

Value = Callable[[Point], float]
Answer = tuple[list[Point], dict[str, str]]


def draw(
    axes: Any,
    points: list[Point],
    value: Value,
    *,
    title: str,
    x: str,
    y: str,
    base: int | None = None,
    log: bool = False,
) -> None:
    """A line a series. ``base`` makes the x axis logarithmic, ``log`` the y axis."""
    for name in dict.fromkeys(point.series for point in points):
        chosen = [point for point in points if point.series == name]
        axes.plot([p.x for p in chosen], [value(p) for p in chosen], marker="o", label=name)
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, alpha=0.3)
    if base is not None:
        axes.set_xscale("log", base=base)
    if base == 2:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    if log:
        axes.set_yscale("log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 3))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(0, 1.1 * max(map(value, points)))


def quoted(points: list[Point], value: Value, decimals: int) -> str:
    """A value at every point, as "x: value, x: value"."""
    return ", ".join(f"{point.x:,}: {value(point):,.{decimals}f}" for point in points)


def cost_of_rows(figure: Any, rounds: int, quick: bool) -> Answer:
    counts = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
    points = [
        Point(n, Workload("rows", TAB.layer_sizes, TAB.batch, n // TAB.batch))
        for n in counts[: 3 if quick else None]
    ]
    measure(points, rounds)
    left, right = figure.subplots(1, 2)
    x: dict[str, Any] = {"x": "rows of the table", "base": 10}
    title = "28-64-32-1: one step of 200 rows"
    draw(left, points, lambda p: p.step * 1e6, y="µs", title=title, **x)
    draw(right, points, lambda p: p.epoch, y="seconds", title="One epoch", log=True, **x)
    first, last = points[0], points[-1]
    return points, {
        "µs a step": quoted(points, lambda p: p.step * 1e6, 1),
        "million rows a second": quoted(points, lambda p: 1e-6 / p.row, 2),
        "seconds an epoch": quoted(points, lambda p: p.epoch, 3),
        f"a row of {last.x:,} over one of {first.x:,}": f"{last.row / first.row:.2f}",
    }


def cost_of_width(figure: Any, rounds: int, quick: bool) -> Answer:
    widths = [8, 16, 32, 64, 100, 128, 256, 300, 512, 1024, 2048]
    points = [
        Point(w, Workload("width", (28, w, w, 1), 200, 100 if w < 300 else 20))
        for w in widths[: 3 if quick else None]
    ]
    worker = Worker(ROOF, 1)
    rates: list[list[float]] = []
    try:
        measure(points, rounds, lambda: rates.append(worker.ask("roof")["rates"]))
    finally:
        worker.close()
    roof = roof_rate(rates)
    left, right = figure.subplots(1, 2)
    x: dict[str, Any] = {"x": "width w of both hidden layers", "base": 2}
    title = "28-w-w-1: one step of 200 rows"
    draw(left, points, lambda p: p.step * 1e6, y="µs", title=title, log=True, **x)
    draw(right, points, lambda p: p.rate / 1e9, y="GFLOP/s", title="Useful operations", **x)
    right.axhline(roof / 1e9, color="grey", linestyle="--")
    right.text(points[0].x, roof / 1e9, "NumPy's sgemm", va="bottom", color="grey")
    right.set_ylim(0, 1.15 * max(roof, *(p.rate for p in points)) / 1e9)
    return points, {
        "µs a step": quoted(points, lambda p: p.step * 1e6, 1),
        "GFLOP/s": quoted(points, lambda p: p.rate / 1e9, 1),
        "GFLOP/s of NumPy's sgemm": f"{roof / 1e9:.1f}",
        "% of it": quoted(points, lambda p: 100 * p.rate / roof, 0),
    }


def cost_of_batch(figure: Any, rounds: int, quick: bool) -> Answer:
    sizes = [2**k for k in range(14)]
    points = [
        Point(b, Workload("batch", TAB.layer_sizes, b, 2**15 // b))
        for b in sizes[-3 if quick else 0 :]
    ]
    measure(points, rounds)
    left, right = figure.subplots(1, 2)
    x: dict[str, Any] = {"x": "rows of a batch", "base": 2}
    draw(left, points, lambda p: p.row * 1e6, y="µs", title="28-64-32-1: one row", log=True, **x)
    draw(right, points, lambda p: p.step * 1e6, y="µs", title="One step", log=True, **x)
    first, last = points[0], points[-1]
    return points, {
        "µs a row": quoted(points, lambda p: p.row * 1e6, 3),
        "µs a step": quoted(points, lambda p: p.step * 1e6, 1),
        f"a row in batches of {first.x:,} over {last.x:,}": f"{first.row / last.row:.1f}",
    }


def cost_of_threads(figure: Any, rounds: int, quick: bool) -> Answer:
    count = threads.available()
    counts = range(1, count + 1) if count <= 8 else [2**k for k in range(count.bit_length())]
    points = [
        Point(n, workload, n, f"{workload.name}: {workload.title}")
        for workload in [TAB, WORKLOADS["higgs"], WORKLOADS["wide"]][: 2 if quick else None]
        for n in sorted({*counts, count})
    ]
    measure(points, rounds)
    alone = {point.series: point.step for point in points if point.n_threads == 1}
    axes = figure.subplots()
    axes.plot([1, count], [1, count], color="grey", linestyle="--", label="proportional")
    draw(
        axes,
        points,
        lambda p: alone[p.series] / p.step,
        title="Speed-up over one thread",
        x="threads",
        y="times as fast",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figures = {}
    for name in alone:
        line = [point for point in points if point.series == name]
        figures[f"{name}: µs a step"] = quoted(line, lambda p: p.step * 1e6, 1)
        figures[f"{name}: speed-up"] = quoted(line, lambda p: alone[p.series] / p.step, 2)
    return points, figures


QUESTIONS = {
    "rows": cost_of_rows,
    "width": cost_of_width,
    "batch": cost_of_batch,
    "threads": cost_of_threads,
}

# ---- the command --------------------------------------------------------------------------------


def questions(text: str) -> list[str]:
    return list(map(arguments.choice(*QUESTIONS), arguments.names(text)))


def parse() -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.scaling", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=IMAGES,
        help="where the pictures and their numbers go (default: docs/images)",
    )
    parser.add_argument(
        "--only",
        metavar="NAMES",
        type=questions,
        default=list(QUESTIONS),
        help=f"questions, joined by commas (default: {','.join(QUESTIONS)})",
    )
    parser.add_argument(
        "--rounds",
        type=arguments.integer(1),
        default=7,
        help="measurements of each point (default: 7)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few small points, to see that everything works"
    )
    options = parser.parse_args()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: {error.filename}: {error.strerror}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        parser.error("drawing needs matplotlib: pip install 'bcenet[rivals]'")
    return options


def main() -> None:
    options = parse()
    from matplotlib.figure import Figure

    this_machine = machine.describe([LIBRARIES[OURS]])
    for name in options.only:
        figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
        points, figures = QUESTIONS[name](figure, options.rounds, options.quick)
        figure.savefig(options.output / f"scaling-{name}.png")
        record = {
            "question": name,
            "machine": this_machine,
            "rounds": options.rounds,
            "figures": figures,
            "points": [point.record() for point in points],
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (options.output / f"scaling-{name}.json").write_text(text, encoding="utf-8")
        print(name)
        for what, value in figures.items():
            print(f"  {what}: {value}")


if __name__ == "__main__":
    main()

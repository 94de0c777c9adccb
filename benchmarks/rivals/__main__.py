"""`python -m benchmarks.rivals`, from the root of the checkout."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from bcenet import threads
from bcenet.cli import arguments
from benchmarks.rivals import machine, plot, report
from benchmarks.rivals.libraries import LIBRARIES, OURS
from benchmarks.rivals.options import Parser, several
from benchmarks.rivals.problems import AUC_TOLERANCE, PREDICTIONS, TOLERANCES, WORKLOADS
from benchmarks.rivals.rounds import Run, WorkerError

RESULTS = Path(__file__).parents[1] / "results"
RIVALS = [name for name in LIBRARIES if name != OURS]
PREDICTION = "predict"
ROUNDS, QUICK_ROUNDS = 15, 3


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(
        prog="python -m benchmarks.rivals",
        description="Time bcenet beside other libraries in one interleaved run and write "
        "rivals.json, rivals.md and rivals.png.",
    )
    options.add_argument(
        "--workloads",
        metavar="NAMES",
        type=several(arguments.choice(*WORKLOADS, PREDICTION)),
        default=[*WORKLOADS, PREDICTION],
        help=f"of {', '.join([*WORKLOADS, PREDICTION])} (default: all)",
    )
    options.add_argument(
        "--rivals",
        metavar="NAMES",
        type=several(arguments.choice(*RIVALS)),
        default=RIVALS,
        help=f"of {', '.join(RIVALS)} (default: all)",
    )
    options.add_argument(
        "--threads",
        metavar="COUNTS",
        type=several(arguments.integer(1)),
        default=sorted({1, threads.available()}),
        help="numbers of threads to run every library on (default: 1 and all CPUs)",
    )
    options.add_argument(
        "--rounds", type=arguments.integer(1), help=f"turns of everybody (default: {ROUNDS})"
    )
    options.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, unless --rounds says else"
    )
    options.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=RESULTS,
        help="where the results are written (default: benchmarks/results)",
    )
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; the results as they are written to rivals.json."""
    absent = [name for name in options.rivals if LIBRARIES[name].missing()]
    rivals = [name for name in options.rivals if name not in absent]
    for name in absent:
        print(f"not installed: {name}", flush=True)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(LIBRARIES[name] for name in (OURS, *rivals)),
        "settings": {
            "rounds": rounds,
            "threads": options.threads,
            "tolerances": {**TOLERANCES, "auc": AUC_TOLERANCE},
        },
        "not_installed": absent,
        "training": {},
        "prediction": {},
    }
    run = Run(rounds, lambda text: print(text, flush=True))
    try:
        for name in options.workloads:
            print(name, flush=True)
            if name == PREDICTION:
                for title in PREDICTIONS:
                    results["prediction"][title] = run.prediction(title, rivals)
            else:
                results["training"][name] = run.training(name, rivals, options.threads)
    finally:
        run.close()
    return results


def write(results: dict[str, Any], folder: Path) -> None:
    """rivals.json, rivals.md and, with matplotlib, rivals.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rivals.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "rivals.md").write_text(report.markdown(results), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print("not installed: matplotlib (no rivals.png)")
    elif results["training"]:
        plot.draw(results, folder / "rivals.png")


def main(words: list[str] | None = None) -> int:
    """The command; its exit status."""
    options = parser().parse_args(words)
    try:
        results = measure(options)
    except WorkerError as error:
        print(f"python -m benchmarks.rivals: error: {error}", file=sys.stderr)
        return 1
    write(results, options.output)
    print(report.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

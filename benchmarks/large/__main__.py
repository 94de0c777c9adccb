"""`python -m benchmarks.large`, from the root of the checkout."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bcenet import threads
from bcenet.cli import arguments
from benchmarks.large import report
from benchmarks.large.libraries import FORMS, OURS, TITLES, form
from benchmarks.large.problems import TEST_ROWS, WORKLOADS, make
from benchmarks.rivals import machine, rounds
from benchmarks.rivals.options import Parser, several

RIVALS = list(TITLES)
ROUNDS, QUICK_ROUNDS = 5, 1
QUICK_ROWS = 4096


def say(text: str) -> None:
    """How far it is, on standard error: the tables have standard output."""
    print(text, file=sys.stderr, flush=True)


class Worker(rounds.Worker):
    module = "benchmarks.large.worker"
    find = staticmethod(form)


class Run(rounds.Run):
    """The rounds of `benchmarks.rivals`, with the workers of one workload at a time."""

    worker = Worker

    def larger(self, names: list[str], counts: list[int], **command: Any) -> list[dict[str, Any]]:
        """The records of these forms, on these numbers of threads, in a workload."""
        contenders = [
            rounds.Contender(name, count) for name in names for count in FORMS[name].counts(counts)
        ]
        try:
            for contender in contenders:
                answer = self._ask(contender, "training", **command)
                if answer is not None:
                    contender.begin(answer, rounds.MOST_REPEATS["training"])
            self._take_turns(contenders, {})
        finally:
            self.close()
        return [contender.record(1) for contender in contenders]


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(
        prog="python -m benchmarks.large",
        description="Time training on larger data, of bcenet beside other libraries, in one "
        "interleaved run, and print tables in Markdown.",
    )
    options.add_argument(
        "--workloads",
        metavar="NAMES",
        type=several(arguments.choice(*WORKLOADS)),
        default=list(WORKLOADS),
        help=f"of {', '.join(WORKLOADS)} (default: all)",
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
        "--quick",
        action="store_true",
        help=f"{QUICK_ROWS} rows, and {QUICK_ROUNDS} round unless --rounds says else",
    )
    options.add_argument(
        "--in-order",
        action="store_true",
        help="take the rows as they lie in the file, which is in random order",
    )
    options.add_argument("--json", metavar="OUT", type=Path, help="write every time and loss there")
    options.add_argument(
        "--folder", help="where 2 GB of files go for the while (default: the system's)"
    )
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; the results as they are written to the JSON file."""
    kept = [OURS, *options.rivals]
    missing = {one.adapter for one in FORMS.values() if one.missing()}
    absent = [name for name in options.rivals if name in missing]
    for name in absent:
        say(f"not installed: {name}")
    present = {
        name: one for name, one in FORMS.items() if one.adapter in kept and not one.missing()
    }
    test_rows = min(TEST_ROWS, QUICK_ROWS) if options.quick else TEST_ROWS
    sizes = {
        name: min(WORKLOADS[name].rows, QUICK_ROWS) if options.quick else WORKLOADS[name].rows
        for name in options.workloads
    }
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(present.values()),
        "settings": {
            "rounds": options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
            "threads": options.threads,
            "shuffled": not options.in_order,
            "test_rows": test_rows,
        },
        "not_installed": absent,
        "training": {},
    }
    run = Run(results["settings"]["rounds"], say)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        say("making the data")
        for data in {WORKLOADS[name].data: None for name in sizes}:
            wanted = sorted({size for name, size in sizes.items() if WORKLOADS[name].data == data})
            make(data, wanted, test_rows, Path(folder))
        for name, rows in sizes.items():
            say(name)
            workload = WORKLOADS[name]
            records = run.larger(
                [one for one in workload.forms if one in present],
                options.threads,
                workload=name,
                folder=str(Path(folder) / f"{workload.data}-{rows}"),
                shuffled=not options.in_order,
            )
            results["training"][name] = {
                "title": workload.title,
                "rows": rows,
                "contenders": records,
            }
    return results


def main(words: list[str] | None = None) -> int:
    """The command; its exit status."""
    options = parser().parse_args(words)
    results = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report.markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

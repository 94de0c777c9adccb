"""``bcenet bench``: bcenet's kernels and epochs timed beside pure NumPy's."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from bcenet.cli import arguments

# What the BLAS libraries under NumPy read, once, when they are loaded.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "bench",
        help="time the kernels and an epoch beside pure NumPy",
        description="Time tiles, kernels and whole epochs beside pure NumPy, run in turn on the "
        "same number of threads, and print the medians and their ratio.",
    )
    parser.add_argument(
        "--dtype",
        type=arguments.choice("float32", "float64"),
        help="only this one (default: both)",
    )
    parser.add_argument(
        "--seconds",
        type=arguments.number("a number above 0", 0.0, 3600.0, open_minimum=True),
        default=0.5,
        help="of measuring a row of the table (default: 0.5)",
    )
    parser.add_argument(
        "--threads",
        type=arguments.integer(1),
        default=1,
        help="of both sides (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def run(options: argparse.Namespace) -> None:
    """Measure and print as the options say."""
    threads = str(options.threads)
    if any(os.environ.get(name) != threads for name in _BLAS_THREADS):
        # NumPy has loaded its BLAS by now: a fresh process starts it with the right number.
        import subprocess

        command = [sys.executable, "-m", "bcenet", "bench", "--seconds", str(options.seconds)]
        command += ["--threads", threads, *(["--json"] if options.json else [])]
        command += ["--dtype", options.dtype] if options.dtype else []
        environment = os.environ | dict.fromkeys(_BLAS_THREADS, threads)
        sys.stdout.flush()
        status = subprocess.run(command, env=environment, check=False).returncode
        if status:
            raise RuntimeError(f"the measuring process ended with status {status}")
        return
    _measure(options)


def _measure(options: argparse.Namespace) -> None:
    import json

    from bcenet import _dispatch
    from bcenet.bench.cases import rows

    dtypes = [options.dtype] if options.dtype else ["float32", "float64"]
    measured = []
    if not options.json:
        print(f"{_dispatch.native.INSTRUCTION_SET}, {options.threads} thread(s) on both sides")
        print(f"{'':56}{'bcenet':>11}{'NumPy':>11}{'ratio':>8}{'rate':>19}")
    for row in rows(options.seconds, options.threads, dtypes):
        measured.append(row)
        if not options.json:
            ours, numpy = (
                f"{row[key] * 1e6:.1f} us" for key in ("bcenet_seconds", "numpy_seconds")
            )
            rate = f"{row['rate'] / 1e9:.2f} G{row['unit']}"
            if row["group"] == "epoch":
                rate = f"{row['rate'] / 1e6:.2f} M{row['unit']}"
            print(
                f"{row['group']:7}{row['name']:40}{row['dtype']:9}{ours:>11}{numpy:>11}"
                f"{row['ratio']:8.2f}{rate:>19}",
                flush=True,
            )
    if options.json:
        print(
            json.dumps(
                {
                    "instruction_set": _dispatch.native.INSTRUCTION_SET,
                    "threads": options.threads,
                    "rows": measured,
                }
            )
        )

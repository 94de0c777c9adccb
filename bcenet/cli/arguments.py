"""Types of option values: text from the command line to checked Python values."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Sequence
from typing import Any

from bcenet import checks


def integer(minimum: int) -> Callable[[str], int]:
    """A type for argparse: an integer of at least ``minimum``."""

    def convert(text: str) -> int:
        try:
            return checks.integer("it", int(text), minimum)
        except ValueError:
            raise _wrong(f"an integer of at least {minimum}", text) from None

    return convert


def number(what: str, minimum: float, maximum: float, **bounds: bool) -> Callable[[str], float]:
    """A type for argparse: a number that `bcenet.checks.number` accepts, called ``what``."""

    def convert(text: str) -> float:
        try:
            return checks.number("it", float(text), minimum, maximum, **bounds)
        except ValueError:
            raise _wrong(what, text) from None

    return convert


probability = number("a number from 0 to 1", 0.0, 1.0)


def probability_or(names: Sequence[str]) -> Callable[[str], float | str]:
    """A type for argparse: a probability, or one of the names as it stands."""
    convert = number(f"a number from 0 to 1, {_listed(names)}", 0.0, 1.0)
    return lambda text: text if text in names else convert(text)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def choice(*known: str) -> Callable[[str], str]:
    """A type for argparse: one of the names, or an error with the nearest."""

    def convert(text: str) -> str:
        try:
            return checks.choice("it", text, known)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("it ")) from None

    return convert


def layers(text: str) -> list[int]:
    """``"64,32"`` as [64, 32]; ``"none"`` as no hidden layer."""
    if text == "none":
        return []
    try:
        return [checks.integer("it", int(part), 1) for part in text.split(",")]
    except ValueError:
        raise _wrong('positive integers separated by commas, or "none"', text) from None


def names(text: str) -> list[str]:
    """``"age,sex"`` as its parts, without surrounding blanks; quoted as in a CSV file."""
    parts = [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]
    if not parts or not all(parts):
        raise _wrong("names separated by commas", text)
    return parts


def _wrong(what: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"must be {what}; got {text!r}")


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, a file to read."""
    parser.add_argument("model", metavar="MODEL", help="model file, as bcenet train writes it")


def add_data(parser: argparse.ArgumentParser, remark: str) -> None:
    """DATA, a table to read."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help=f"table in CSV (.csv, .csv.gz) or Parquet, or - for CSV on standard input; {remark}",
    )


def add_threshold(parser: Any, default: str, measures: Sequence[str] = ()) -> None:
    """--threshold, with what it is where it isn't given, and the measures that can choose it."""
    help_text = "smallest probability that is called positive"
    if measures:
        help_text += f", or the measure that it makes best on held-out rows: {_listed(measures)}"
    parser.add_argument(
        "--threshold",
        type=probability_or(measures) if measures else probability,
        metavar="P|NAME" if measures else "P",
        help=f"{help_text} (default: {default})",
    )


def add_threads(parser: Any) -> None:
    """--threads; the results don't depend on it."""
    parser.add_argument(
        "--threads",
        type=integer(1),
        metavar="N",
        help="number of threads (default: chosen from the work and the processors)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json, for programs that read the result."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )


def refuse_overwriting(option: str, output: str, *inputs: str | None) -> None:
    """ValueError if the file to write is one that is read, or would be one of a folder's."""
    for name in inputs:
        if name is None:
            continue
        if os.path.isdir(name):
            from bcenet.data.dataset import is_in_dataset

            if is_in_dataset(name, output):
                raise ValueError(f"{option} must not be one of the data files in {name}")
        elif os.path.exists(name) and os.path.exists(output) and os.path.samefile(name, output):
            raise ValueError(f"{option} must not be the input file {name}")

"""``bcenet shuffle``: the rows of a file in random order."""

from __future__ import annotations

import argparse
from typing import Any

from bcenet.cli import arguments


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "shuffle",
        help="write the rows of a file in random order",
        description="Write the rows of IN in random order to OUT, once, in little memory: "
        "training that reads a file part by part wants its rows mixed.",
    )
    parser.add_argument(
        "source",
        metavar="IN",
        help=".csv, .csv.gz, .parquet, .arrow or .npy file, or a folder of files of one kind",
    )
    parser.add_argument("out", metavar="OUT", help="file of the same kind to write")
    parser.add_argument(
        "--seed",
        type=arguments.integer(0),
        default=0,
        metavar="N",
        help="the order is a function of this and of the number of rows (default: 0)",
    )
    return parser


def run(options: argparse.Namespace) -> None:
    """Shuffle as the options say."""
    from bcenet.cli import report, tables
    from bcenet.data import shuffle

    tables.prepare_pyarrow()
    rows = shuffle(options.source, options.out, seed=options.seed)
    report.write(f"{options.out}: {rows} rows in random order\n")

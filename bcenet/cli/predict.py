"""``bcenet predict``: a probability and a label for every row of a table."""

from __future__ import annotations

import argparse
import gzip
from typing import Any

from bcenet.cli import arguments


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "predict",
        help="write a probability and a label for each row",
        description="Write a CSV table with the columns probability (of the positive label) and "
        "label, one row for each row of DATA, in its order.",
    )
    arguments.add_model(parser)
    arguments.add_data(parser, "its target column may be absent")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.csv",
        help="write there (gzipped if it ends in .gz) instead of to standard output",
    )
    arguments.add_threshold(parser, "the model's")
    arguments.add_threads(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Predict as the options say."""
    import csv
    import io

    from bcenet.atomic_file import write_file
    from bcenet.cli import report, signals, tables
    from bcenet.model import load_model

    if options.output:
        arguments.refuse_overwriting("--output", options.output, options.model, options.data)
    model = load_model(options.model)
    if options.threshold is not None:
        model.threshold = options.threshold
    table = tables.read(options.data, columns=model.encoder.columns)
    X = tables.encode(model.encoder, table, tables.source_name(options.data))
    probability = model.network.predict_proba(X, options.threads)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["probability", "label"])
    # str() of a NumPy number is the shortest text that gives the same number again
    writer.writerows(zip(map(str, probability), model.label_of(probability).tolist(), strict=True))
    signals.check()
    if options.output is None:
        report.write(text.getvalue())
        return
    content = text.getvalue().encode()
    if options.output.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    write_file(options.output, [content])

"""``bcenet predict``: a probability and a label for every row of a table."""

from __future__ import annotations

import argparse
import csv
import io
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bcenet.cli import arguments, signals

if TYPE_CHECKING:
    from bcenet.model import Model


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
    from bcenet.atomic_file import write_file
    from bcenet.cli import report, streaming, tables
    from bcenet.model import load_model

    if options.output:
        arguments.refuse_overwriting("--output", options.output, options.model, options.data)
    model = load_model(options.model)
    if options.threshold is not None:
        model.threshold = options.threshold
    parts: Iterable[Any]
    if streaming.is_large(options.data):
        parts = streaming.encoded_blocks(model.encoder, options.data)
    else:
        table = tables.read(options.data, columns=model.encoder.columns)
        parts = [tables.encode(model.encoder, table, tables.source_name(options.data))]
    texts = _texts(model, parts, options.threads)
    if options.output is None:
        for text in texts:
            report.write(text.decode())
    else:
        write_file(options.output, _packed(texts) if options.output.endswith(".gz") else texts)


def _texts(model: Model, parts: Iterable[Any], threads: int | None) -> Iterator[bytes]:
    """The lines of the table, part by part."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["probability", "label"])
    for X in parts:
        probability = model.network.predict_proba(X, threads)
        # str() of a NumPy number is the shortest text that gives the same number again
        labels = model.label_of(probability).tolist()
        writer.writerows(zip(map(str, probability), labels, strict=True))
        signals.check()
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _packed(texts: Iterable[bytes]) -> Iterator[bytes]:
    """The same in gzip's format."""
    packing = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    yield from map(packing.compress, texts)
    yield packing.flush()

"""``bcenet evaluate``: how good a model is on a table whose labels are known."""

from __future__ import annotations

import argparse
from typing import Any

from bcenet.cli import arguments


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on a table with known labels",
        description="Measure a model on the rows of DATA, beside always predicting the part of "
        "positive rows.",
    )
    arguments.add_model(parser)
    arguments.add_data(parser, "it must have the model's target column")
    arguments.add_threshold(parser, "the model's")
    arguments.add_threads(parser)
    arguments.add_json(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Evaluate as the options say."""
    from bcenet.cli import report, streaming, tables, targets
    from bcenet.model import load_model

    model = load_model(options.model)
    if options.threshold is not None:
        model.threshold = options.threshold
    if streaming.is_large(options.data) and not model.encoder.hashed_columns:
        blocks = streaming.labelled_blocks(model, options.data)
    else:
        source = tables.source_name(options.data)
        table = tables.read(options.data)
        cells = targets.target_column(table, model.target, source, "the model's target")
        y = targets.to_targets(cells, model.labels, model.target, source)
        blocks = [(tables.encode(model.encoder, table, source), y)]
    measures = report.measure(model, blocks, options.threads)
    if options.json:
        report.print_json(
            {
                "command": "evaluate",
                "model": options.model,
                "data": options.data,
                "target": model.target,
                "labels": report.named_labels(model.labels),
                "measures": measures,
            }
        )
    else:
        report.print_measures(measures, model.labels, "rows")

"""``bcenet explain``: why the last layer's gradient is a - y, on the numbers of a table."""

from __future__ import annotations

import argparse
from typing import Any

from bcenet.cli import arguments


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "explain",
        help="show on a table's rows why the last layer's gradient is a - y",
        description="Compute the last layer's gradient three ways on rows of DATA, beside the "
        "exact value, and show where each goes wrong, what hidden layers do, and whether it is the "
        "cost or the activation. Without --row the rows that go wrong worst are shown.",
    )
    arguments.add_model(parser)
    arguments.add_data(parser, "it must have the model's target column")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--row",
        type=arguments.integer(0),
        action="append",
        metavar="N",
        help="show this row, counted from 0; may be given again for more",
    )
    which.add_argument(
        "--rows",
        type=arguments.integer(1),
        default=5,
        metavar="K",
        help="show the K rows that go wrong worst (default: 5)",
    )
    parser.add_argument(
        "--html", metavar="OUT", help="write it as one HTML page too, with formulas and a picture"
    )
    arguments.add_json(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Explain as the options say."""
    from bcenet.atomic_file import write_file
    from bcenet.cli import report, signals, tables, targets
    from bcenet.explain import explain_last_layer
    from bcenet.model import load_model

    if options.html:
        arguments.refuse_overwriting("--html", options.html, options.model, options.data)
    model = load_model(options.model)
    source = tables.source_name(options.data)
    table = tables.read(options.data)
    cells = targets.target_column(table, model.target, source, "the model's target")
    y = targets.to_targets(cells, model.labels, model.target, source)
    for row in options.row or ():
        if row >= len(y):
            raise ValueError(f"--row must be at most {len(y) - 1}, the last of {source}; got {row}")
    X = tables.encode(model.encoder, table, source)
    explanation = explain_last_layer(model.network, X, y, rows=options.row or options.rows)
    negative, positive = model.labels
    context = (
        f"{options.model} on {source}; y is 1 where {model.target} is {positive}, 0 where it is "
        f"{negative}"
    )
    if options.html:
        page = explanation.to_html(subtitle=context).encode()
        signals.check()
        write_file(options.html, [page])
    if options.json:
        report.print_json(
            {
                "command": "explain",
                "model": options.model,
                "data": options.data,
                "target": model.target,
                "labels": report.named_labels(model.labels),
                "explanation": explanation.as_dict(),
            }
        )
    else:
        report.write(f"{context}\n\n{explanation}\n")

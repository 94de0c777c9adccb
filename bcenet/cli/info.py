"""``bcenet info``: what a model file holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from bcenet.cli import arguments


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "info",
        help="show what a model file holds",
        description="Check a model file and show what it holds.",
    )
    arguments.add_model(parser)
    arguments.add_json(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Show the file that the options name."""
    import os

    from bcenet import model_file
    from bcenet.cli import report
    from bcenet.model import load_model, load_network

    _, metadata = model_file.read(options.model)
    model = load_model(options.model) if metadata["kind"] == "model" else None
    network = load_network(options.model) if model is None else model.network
    content: dict[str, Any] = {
        "command": "info",
        "file": options.model,
        "bytes": os.path.getsize(options.model),
        "bcenet_version": metadata["bcenet_version"],
        "kind": metadata["kind"],
        "network": network.config(),
        "parameters": network.parameters.size,
    }
    if model is not None:
        content |= {
            "target": model.target,
            "labels": report.named_labels(model.labels),
            "threshold": model.threshold,
            "columns": {
                "numeric": list(model.encoder.numeric_columns),
                "categorical": list(model.encoder.categorical_columns),
                "hashed": list(model.encoder.hashed_columns),
                "dropped": list(model.encoder.dropped_columns),
            },
            "training": model.training,
        }
    if options.json:
        report.print_json(content)
    else:
        del content["command"]
        report.print_table(list(_rows(content)), align=str.ljust)


def _rows(content: dict[str, Any], prefix: str = "") -> Iterator[list[str]]:
    """The leaves of nested dicts, each with the names that lead to it."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name} ")
        elif isinstance(value, list):
            yield [prefix + name, ", ".join(map(str, value)) or "none"]
        elif isinstance(value, int) and not isinstance(value, bool):
            yield [prefix + name, f"{value:,}"]
        else:
            yield [prefix + name, str(value)]

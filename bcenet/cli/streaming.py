"""Large data, read in parts: to train, encoders are fitted in one pass over the files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bcenet.cli import tables
from bcenet.cli.progress import Reading
from bcenet.cli.training_data import Data, measured_blocks
from bcenet.data import open_dataset, read_blocks
from bcenet.data.arrow_sources import KINDS
from bcenet.data.dataset import in_part
from bcenet.data.encoded import located
from bcenet.data.labels import choose_labels, distinct_labels
from bcenet.data.sources import BLOCK_ROWS, suffix_of
from bcenet.data.tables import Blocks
from bcenet.model import Model
from bcenet.tabular import TabularEncoder

LARGE_BYTES = 1 << 28
"""Files of more bytes are read in parts: a constant, so that a command means the same anywhere."""


def is_large(path: str) -> bool:
    """Whether the data at a path are read in parts: a folder, or a large file of a known kind."""
    if path == "-":
        return False
    if os.path.isdir(path):
        return True
    known = suffix_of(path) in KINDS
    return known and os.path.exists(path) and os.path.getsize(path) > LARGE_BYTES


def labelled_blocks(model: Model, data: str) -> Iterable[tuple[Any, ...]]:
    """Blocks (X, y) of large data to measure a model on: all rows, or many of very many."""
    tables.prepare_pyarrow()
    blocks = read_blocks(data)
    known = dict.fromkeys(blocks.columns)
    tables.require_columns("the model's target", [model.target], known, data)
    dataset = open_dataset(blocks, target=model.target, encoder=model.encoder, classes=model.labels)
    return measured_blocks(dataset, blocks.rows, 0)


def encoded_blocks(encoder: TabularEncoder, data: str) -> Iterator[Any]:
    """The features of large data, part by part."""
    tables.prepare_pyarrow()
    for columns, place in read_blocks(data, columns=encoder.columns).parts():
        for start in range(0, len(columns[encoder.columns[0]]), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            with located(_from(-start, place)):
                X = encoder.transform({name: column[rows] for name, column in columns.items()})
            yield X


def read(options: argparse.Namespace) -> Data:
    """Fit the encoder in a pass over the training rows, and open the datasets."""
    tables.prepare_pyarrow()
    names = read_blocks(options.data)
    source, target = options.data, options.target
    tables.require_columns("--target", [target], dict.fromkeys(names.columns), source)
    inputs = [name for name in names.columns if name != target]
    tables.require_columns("--drop", options.drop, dict.fromkeys(inputs), source)
    inputs = [name for name in inputs if name not in options.drop]
    tables.require_columns("--numeric", options.numeric, dict.fromkeys(inputs), source)
    tables.require_columns("--categorical", options.categorical, dict.fromkeys(inputs), source)
    blocks = Blocks(names.tables, [*inputs, target])
    share = 0.0 if options.validation_data else options.validation
    encoder, labels = _learn(blocks, inputs, share, options)
    settings = {"target": target, "encoder": encoder, "classes": labels}
    training = open_dataset(blocks, **settings)
    held_out = None
    if options.validation_data is not None:
        held_out = open_dataset(options.validation_data, **settings)
    elif share:
        training, held_out = training.split(share, options.seed)
    found = training.scan(options.dtype)
    other = None if held_out is None else held_out.scan(options.dtype)
    return Data(
        labels,
        encoder,
        (training,),
        held_out,
        found.n,
        0 if other is None else other.n,
        int(found.positive),
        0 if other is None else int(other.positive),
    )


def _from(start: int, place: Callable[[int], str]) -> Callable[[int], str]:
    """The places of a block's rows by their numbers in the whole stream."""
    return lambda row: place(row - start)


def _learn(
    blocks: Blocks, inputs: list[str], share: float, options: argparse.Namespace
) -> tuple[TabularEncoder, tuple[Any, Any]]:
    """(encoder, labels) from one pass; of held-out rows only whether a column holds texts."""
    encoder = TabularEncoder(numeric=options.numeric, categorical=options.categorical)
    learner = encoder.learner()
    target = options.target
    found: dict[Any, None] = {}
    with Reading(blocks.rows, options.quiet) as reading:
        for columns, place in blocks.parts():
            with located(place):
                cells, codes = distinct_labels(target, columns[target])
            found |= dict.fromkeys(cells)
            if len(found) > 2:
                break
            start, count = learner.rows, len(codes)
            chosen = ~in_part(start, count, share, options.seed) if share else None
            with located(_from(start, place)):
                learner.add({name: columns[name] for name in inputs}, chosen)
            reading.add(count)
    labels = choose_labels(found, options.positive, target)
    with located(blocks.place):
        encoder.take(learner)
    return encoder, labels

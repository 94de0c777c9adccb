"""``bcenet train``: from a table to a model file, with an honest measurement on held-out rows."""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

from bcenet.cli import arguments

if TYPE_CHECKING:
    import numpy as np

    from bcenet.cli.training_data import Data
    from bcenet.history import History
    from bcenet.network import Network
    from bcenet.optimizers import Optimizer
    from bcenet.tabular import TabularEncoder

_ADAMW_DECAY = 0.3
_DECAYING = ("adamw", "amsgrad", "lion", "sgd")
_MEASURES = ("f1", "balanced-accuracy", "accuracy")  # that --threshold can name


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand to the parser's ``commands`` and return its parser."""
    parser = commands.add_parser(
        "train",
        help="train a network on a table and save the model",
        description="Train a network on the rows of DATA, measure it on rows that were held out, "
        "and save the model. The weights kept are those of the epoch with the smallest loss on "
        "the held-out rows.",
    )
    arguments.add_data(parser, "every column but the target is an input")
    parser.add_argument("--target", required=True, metavar="COL", help="column to predict")
    parser.add_argument(
        "--positive",
        metavar="LABEL",
        help="label whose probability is predicted (default: 1, true, yes or positive, "
        "else the second in sorted order)",
    )
    parser.add_argument(
        "--model", metavar="OUT", help="model file to write (default: DATA.bcenet, beside DATA)"
    )

    network = parser.add_argument_group("network")
    network.add_argument(
        "--hidden",
        type=arguments.layers,
        default=[64, 32],
        metavar="N,N",
        help='sizes of the hidden layers, or "none" for logistic regression (default: 64,32)',
    )
    network.add_argument(
        "--activation",
        type=arguments.names,
        default=["silu"],
        metavar="NAME",
        help="activation of the hidden layers, one for all or one each (default: silu)",
    )
    network.add_argument(
        "--normalization",
        type=arguments.choice("batch", "layer"),
        metavar="NAME",
        help="of the hidden layers: batch or layer (default: none)",
    )
    network.add_argument(
        "--dtype",
        type=arguments.choice("float32", "float64"),
        default="float32",
        metavar="NAME",
        help="float32 or float64 (default: float32)",
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs",
        type=arguments.integer(1),
        metavar="N",
        help="most passes over the rows (default: 200, or 20 where no rows are held out)",
    )
    training.add_argument(
        "--patience",
        type=arguments.integer(1),
        default=10,
        metavar="N",
        help="stop after so many epochs without a smaller held-out loss (default: 10)",
    )
    training.add_argument(
        "--batch-size",
        type=arguments.integer(1),
        metavar="N",
        help="rows of a step (default: a fortieth of the rows, but 32 to 200)",
    )
    training.add_argument(
        "--optimizer",
        type=arguments.choice("adam", "adamw", "amsgrad", "lion", "rmsprop", "sgd"),
        default="adamw",
        metavar="NAME",
        help="adam, adamw, amsgrad, lion, rmsprop or sgd (default: adamw)",
    )
    training.add_argument(
        "--learning-rate",
        type=arguments.number("a number above 0", 0.0, math.inf, open_minimum=True),
        metavar="X",
        help="(default: 0.01 with sgd, 0.0001 with lion, 0.001 with the others)",
    )
    training.add_argument(
        "--weight-decay",
        type=arguments.number("a number of at least 0", 0.0, math.inf),
        metavar="X",
        help="decoupled weight decay (default: 0.3 with adamw, 0 with amsgrad, lion and sgd; "
        "adam and rmsprop have none)",
    )
    training.add_argument(
        "--schedule",
        type=arguments.choice(
            "constant", "inverse-scaling", "adaptive", "cosine", "one-cycle", "warm-up", "coslog4"
        ),
        metavar="NAME",
        help="of the learning rate: constant, inverse-scaling, adaptive, cosine, one-cycle, "
        "warm-up or coslog4, over --epochs (default: constant)",
    )
    training.add_argument(
        "--dropout",
        type=arguments.number("a number from 0 to below 1", 0.0, 1.0, open_maximum=True),
        default=0.0,
        metavar="P",
        help="part of the hidden units that a step leaves out (default: 0)",
    )
    held_out = training.add_mutually_exclusive_group()
    held_out.add_argument(
        "--validation",
        type=arguments.number("a number from 0 to below 1", 0.0, 1.0, open_maximum=True),
        default=0.2,
        metavar="P",
        help="part of each label's rows to hold out, or 0 for none (default: 0.2)",
    )
    held_out.add_argument(
        "--validation-data", metavar="FILE", help="table with the rows to measure on instead"
    )
    training.add_argument(
        "--seed",
        type=arguments.integer(0),
        default=0,
        metavar="N",
        help="of the first weights, the held-out rows and the shuffling (default: 0)",
    )
    arguments.add_threads(training)
    arguments.add_threshold(training, "0.5", _MEASURES)

    long_runs = parser.add_argument_group("long runs")
    place = long_runs.add_mutually_exclusive_group()
    place.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="folder for checkpoints, made if it is missing; Ctrl-C and SIGTERM write one too",
    )
    place.add_argument(
        "--resume",
        metavar="DIR",
        help="go on from the newest checkpoint in DIR, with the same table and options",
    )
    long_runs.add_argument(
        "--checkpoint-every",
        type=arguments.integer(1),
        metavar="N",
        help="steps from one checkpoint to the next (default: an epoch)",
    )

    columns = parser.add_argument_group("columns")
    for option, remark in [
        ("--numeric", "columns to take as numbers"),
        ("--categorical", "columns to take as categories"),
        ("--hashed", "columns of very many values, such as ids, to hash"),
        ("--drop", "columns not to use"),
    ]:
        columns.add_argument(
            option, type=arguments.names, default=[], metavar="COL,COL", help=remark
        )

    columns.add_argument(
        "--hashed-features",
        type=arguments.integer(1),
        metavar="N",
        help="features that the hashed columns share (default: 262144)",
    )

    parser.add_argument(
        "--stream",
        action="store_true",
        help="read DATA in parts, as is done with folders and with files of more than 256 MiB",
    )
    arguments.add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    return parser


def run(options: argparse.Namespace) -> None:
    """Train as the options say."""
    import bcenet
    from bcenet.callbacks import BestWeights, EarlyStopping
    from bcenet.cli import report, signals
    from bcenet.model import Model

    _check_checkpoint(options)
    if options.hashed_features and not options.hashed:
        raise ValueError("--hashed-features needs --hashed")
    path = _model_path(options)
    optimizer = _optimizer(options)
    data = _data(options)
    _check_threshold(options, data)
    network = bcenet.Network(
        [data.encoder.n_features_out, *options.hidden, 1],
        options.activation[0] if len(options.activation) == 1 else options.activation,
        normalization=options.normalization,
        dtype=options.dtype,
        random_state=options.seed,
    )
    rows, validation = data.rows, data.held_out
    batch_size = options.batch_size or min(max(rows // 40, 32), 200)
    if not options.quiet:
        _describe(options.target, data, network)
    best = BestWeights()
    choosing = [best, EarlyStopping(patience=options.patience)] if validation else []
    begun = time.monotonic()
    with _progress(options.quiet) as shown:
        network, history = _train(
            options,
            network,
            data,
            optimizer=optimizer,
            learning_rate=None,
            schedule=options.schedule,
            dropout=options.dropout,
            averaging=None,
            lazy=bool(options.hashed),
            batch_size=batch_size,
            shuffle=True,
            epochs=options.epochs or (200 if validation else 20),
            validation_data=validation,
            callbacks=[*choosing, *shown],
            n_threads=options.threads,
            random_state=options.seed,
            checkpoint_every=options.checkpoint_every,
        )
    seconds = time.monotonic() - begun
    best_epoch = best.best_epoch or len(history.loss)
    model = Model(
        data.encoder,
        network,
        data.labels,
        threshold=_threshold(options, network, data),
        target=options.target,
        training={
            "data": os.path.basename(options.data),
            "rows": rows,
            "held_out_rows": data.held_out_rows,
            "optimizer": options.optimizer,
            **optimizer.hyper(),
            "schedule": options.schedule or "constant",
            "dropout": options.dropout,
            "batch_size": batch_size,
            "epochs": len(history.loss),
            "best_epoch": best_epoch,
            "seed": options.seed,
        },
    )
    signals.check()
    model.save(path)
    if not options.quiet:
        _log(f"trained {len(history.loss)} epochs in {seconds:.1f} s; kept epoch {best_epoch}")
        _log(f"wrote {path}")

    measured_on = "held-out rows" if validation else "training rows"
    measures = report.measure(model, data.measured(options.seed), options.threads)
    if not options.json:
        report.print_measures(measures, model.labels, measured_on)
        return
    report.print_json(
        {
            "command": "train",
            "model": path,
            "target": model.target,
            "labels": report.named_labels(model.labels),
            "network": network.config(),
            "parameters": network.parameters.size,
            "training": model.training,
            "seconds": seconds,
            "history": {"loss": history.loss, "validation_loss": history.validation_loss},
            "measured_on": measured_on,
            "measures": measures,
        }
    )


def _train(
    options: argparse.Namespace, network: Network, data: Data, **fit_options: Any
) -> tuple[Network, History]:
    """(network, history) of a training from its start, or from a checkpoint."""
    if options.resume is None:
        import bcenet

        folder = options.checkpoint and os.path.join(options.checkpoint, "")
        history = bcenet.fit(network, *data.training, checkpoint=folder, **fit_options)
        return network, history
    from bcenet.resuming import resume_same

    resumed = resume_same(options.resume, network, *data.training, **fit_options)
    return resumed.network, resumed.history


def _check_checkpoint(options: argparse.Namespace) -> None:
    """An error now rather than after the table is read."""
    if options.checkpoint_every and not (options.checkpoint or options.resume):
        raise ValueError("--checkpoint-every needs --checkpoint or --resume")
    if options.resume is not None and not os.path.exists(options.resume):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), options.resume)


def _data(options: argparse.Namespace) -> Data:
    """The rows, in memory or as datasets."""
    from bcenet.cli import streaming

    if options.stream and options.data == "-":
        raise ValueError("--stream needs a file or a folder; standard input can be read only once")
    large = streaming.is_large(options.data)
    if options.hashed and os.path.isfile(options.data):
        large = False
    if not (options.stream or large):
        return _read(options)
    if options.hashed:
        raise ValueError("--hashed is not for data that are read in parts")
    return streaming.read(options)


def _read(options: argparse.Namespace) -> Data:
    """Read the files and fit the encoder, on the training rows alone."""
    from bcenet.cli import tables, targets
    from bcenet.cli.training_data import Data

    source = tables.source_name(options.data)
    table = tables.read(options.data)
    cells = targets.target_column(table, options.target, source)
    labels = targets.choose_labels(cells, options.positive, options.target, source)
    y = targets.to_targets(cells, labels, options.target, source)
    inputs = _inputs(table, options, source)
    held_out = _held_out(y, options)
    encoder = _encoder(inputs, ~held_out, options)
    X = encoder.transform({name: column[~held_out] for name, column in inputs.items()})
    if options.validation_data is None:
        other = {name: column[held_out] for name, column in inputs.items()}
        y_held_out = y[held_out]
    else:
        source = tables.source_name(options.validation_data)
        other = tables.read(options.validation_data, [*encoder.columns, options.target])
        cells = targets.target_column(other, options.target, source)
        y_held_out = targets.to_targets(cells, labels, options.target, source)
    X_held_out = tables.encode(encoder, other, source)
    held_out_rows = len(y_held_out)
    return Data(
        labels,
        encoder,
        (X, y[~held_out]),
        (X_held_out, y_held_out) if held_out_rows else None,
        X.shape[0],
        held_out_rows,
        int(y[~held_out].sum(dtype="float64")),
        int(y_held_out.sum(dtype="float64")),
    )


def _model_path(options: argparse.Namespace) -> str:
    """Where the model goes; an error now rather than after the training if it cannot."""
    path = options.model
    if path is None:
        if options.data == "-":
            raise ValueError("--model must be given when the table comes from standard input")
        stem, suffix = os.path.splitext(options.data)
        if os.path.isdir(options.data):
            stem, suffix = os.path.abspath(options.data), ""
        if suffix == ".gz":
            stem, suffix = os.path.splitext(stem)
        path = stem + ".bcenet"
    arguments.refuse_overwriting("--model", path, options.data, options.validation_data)
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    return path


def _optimizer(options: argparse.Namespace) -> Optimizer:
    from bcenet.optimizers import BY_NAME

    given = {}
    if options.learning_rate is not None:
        given["learning_rate"] = options.learning_rate
    if options.weight_decay is not None:
        if options.optimizer not in _DECAYING:
            raise ValueError(
                f"--weight-decay needs --optimizer {', '.join(_DECAYING[:-1])} or {_DECAYING[-1]}; "
                f"got {options.optimizer}"
            )
        given["weight_decay"] = options.weight_decay
    elif options.optimizer == "adamw":
        given["weight_decay"] = _ADAMW_DECAY
    return BY_NAME[options.optimizer](**given)


def _check_threshold(options: argparse.Namespace, data: Data) -> None:
    """An error now rather than after the training if no rows can choose the threshold."""
    if options.threshold not in _MEASURES or 0 < data.held_out_positive < data.held_out_rows:
        return
    got = "none"
    if data.held_out_rows:
        got = f"only rows of {data.labels[data.held_out_positive > 0]!r}"
    raise ValueError(
        f"--threshold {options.threshold} needs held-out rows of both labels; got {got}"
    )


def _threshold(options: argparse.Namespace, network: Network, data: Data) -> float:
    """The number given, or the one that is best for the measure on the held-out rows."""
    if options.threshold not in _MEASURES:
        return 0.5 if options.threshold is None else options.threshold
    import numpy as np

    from bcenet.calibration import choose_threshold

    metric = options.threshold.replace("-", "_")
    found = [(network.predict_proba(X, options.threads), y) for X, y in data.measured(options.seed)]
    probability, y = map(np.concatenate, zip(*found, strict=True))
    threshold = choose_threshold(y, probability, metric=metric)
    if not options.quiet:
        _log(f"threshold {threshold:g} has the best {options.threshold} on the held-out rows")
    return threshold


def _inputs(
    table: dict[str, np.ndarray], options: argparse.Namespace, source: str
) -> dict[str, np.ndarray]:
    """The columns to learn from, once every column that an option names is found."""
    from bcenet.cli import tables

    inputs = {name: column for name, column in table.items() if name != options.target}
    tables.require_columns("--drop", options.drop, inputs, source)
    inputs = {name: column for name, column in inputs.items() if name not in options.drop}
    tables.require_columns("--numeric", options.numeric, inputs, source)
    tables.require_columns("--categorical", options.categorical, inputs, source)
    tables.require_columns("--hashed", options.hashed, inputs, source)
    return inputs


def _encoder(
    inputs: dict[str, np.ndarray], chosen: np.ndarray, options: argparse.Namespace
) -> TabularEncoder:
    """An encoder whose column types hold for all rows.

    What it learns comes from the training rows alone, which are chosen; but a column with a text
    in one held-out row is no column of numbers.
    """
    from bcenet.tabular import TabularEncoder

    encoder = TabularEncoder(
        numeric=options.numeric,
        categorical=options.categorical,
        hashed=options.hashed,
        n_hashed_features=options.hashed_features or 2**18,
    )
    learner = encoder.learner()
    learner.add(inputs, chosen)
    return encoder.take(learner)


def _held_out(y: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """Which rows to hold out: the same part of the rows of each label; (n,), bool.

    The rows of a label are shuffled by the seed and the first ones taken, at least one, so both
    parts hold both labels.
    """
    import numpy as np

    held_out = np.zeros(len(y), dtype=bool)
    if options.validation_data is not None or options.validation == 0:
        return held_out
    rng = np.random.default_rng(options.seed)
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(y == label))
        if len(rows) < 2:
            raise ValueError(
                "each label must have at least 2 rows, to train on and to hold out "
                "(--validation 0 holds out none); one has 1"
            )
        count = min(max(round(options.validation * len(rows)), 1), len(rows) - 1)
        held_out[rows[:count]] = True
    return held_out


@contextmanager
def _progress(quiet: bool) -> Iterator[list[Any]]:
    """Callbacks that tell of progress on standard error, where no progress bar does."""
    from bcenet.callbacks import shows_progress
    from bcenet.cli.progress import Lines

    if quiet:  # bcenet.fit shows its bar only where standard error is a terminal
        with redirect_stderr(io.StringIO()):
            yield []
    else:
        yield [] if shows_progress() else [Lines()]


def _describe(target: str, data: Data, network: Network) -> None:
    """Say what is about to be trained."""
    negative, positive = data.labels
    rate = 100 * data.positive / data.rows
    encoder = data.encoder
    kinds = {
        "numeric": encoder.numeric_columns,
        "categorical": encoder.categorical_columns,
        "hashed": encoder.hashed_columns,
        "constant and dropped": encoder.dropped_columns,
    }
    sizes = "-".join(map(str, network.layer_sizes))
    hidden = ", ".join(dict.fromkeys(network.activations[:-1])) or "no hidden layer"
    _log(f"{data.rows:,} training rows, {data.held_out_rows:,} held out")
    _log(f"{target}: {positive} is positive, {rate:.1f} %; {negative} is negative")
    _log("columns: " + ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names))
    _log(f"network: {sizes}, {hidden}, {network.parameters.size:,} parameters")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

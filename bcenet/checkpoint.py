"""Checkpoints: all that a fit needs to go on from one of its steps as if it had never stopped.

A checkpoint is one file of `bcenet.model_file`, of the kind "checkpoint": numbers and JSON,
replaced as a whole. Its configuration has these parts:

=================  =============================================================================
``configuration``  the network's shape, the optimizer and all other options of the fit
``data``           shapes, dtypes and SHA-256 of X, y, weights, offsets and the validation data;
                   of datasets their fingerprints
``every``          the cadence
``epoch``          what held when the epoch began: epochs done, hyperparameters, the schedule's and
                   the callbacks' counters
``at``             batches done in that epoch and their sums, counts of steps, the time
=================  =============================================================================

Its tensors are the engine's parts (parameters in training, average, statistics, the optimizer's
state), the history, and the arrays of callbacks, best weights for one.

What an epoch changes in Python's objects is noted between epochs, and what its steps change is
read from the engine with the engine's own count of them. So a checkpoint can be written at any
time, also when an exception from a signal has come anywhere between.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import averaging as averaging_
from bcenet import checks, kernels, losses, model_file, optimizers, schedules
from bcenet.atomic_file import remove_temporaries
from bcenet.config import __version__
from bcenet.errors import ModelFormatError
from bcenet.network import Network
from bcenet.objective import DROP_PARTS, Objective, drop_rates
from bcenet.records import Record
from bcenet.rows import Stream
from bcenet.sparse import is_sparse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bcenet.callbacks import State
    from bcenet.rows import Rows

_KEPT = 2  # checkpoints in a folder: the newest, and one if that is damaged
_NAME = re.compile(r"checkpoint-([0-9]{6,})-([0-9]{9,})\.bcenet")
_STATE_PARTS = ("first", "second", "third")
_HISTORY = ("loss", "penalty", "validation_loss")
_AVERAGES = {"EMA": averaging_.EMA, "SWA": averaging_.SWA}


class Saved(Record):
    """What a file holds, not yet checked against anything but its digest and its version.

    Attributes:
        path: of the file. config: see the module. tensors: by name, read-only.
    """

    path: str
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @property
    def callbacks(self) -> list[tuple[str, dict[str, Any]]]:
        """(class, state) of each callback that keeps one."""
        result = []
        for i, saved in enumerate(self.config["epoch"]["callbacks"]):
            prefix = f"callbacks.{i}."
            arrays = {
                name.removeprefix(prefix): array
                for name, array in self.tensors.items()
                if name.startswith(prefix)
            }
            result.append((saved["name"], saved["state"] | arrays))
        return result


# ------------------------------------------------------------------------------- writing


class Writer:
    """Writes the checkpoints of one fit.

    Arguments:
        path: a file; or a folder, with a separator at its end if it is yet to be made.
        every: steps from one checkpoint to the next; None for one after every epoch.
    """

    def __init__(self, path: Any, every: Any) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a path; got {checks.describe(path)}")
        self.path = os.fspath(path)
        self._every = None if every is None else checks.integer("checkpoint_every", every, 1)
        self._in_folder = os.path.isdir(self.path) or self.path.endswith(os.sep)
        self._written: tuple[int, int] | None = None

    def prepare(
        self, configuration: dict[str, Any], data: dict[str, Any], *, resumed: bool = False
    ) -> None:
        """Take what stays the same, and make the place ready.

        Raises: ValueError for a folder with another fit's checkpoints; OSError for no folder.
        """
        self._fixed = {"configuration": configuration, "data": data, "every": self._every}
        self._resumed = resumed
        if not self._in_folder:
            folder = os.path.dirname(self.path) or "."
            if not os.path.isdir(folder):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
            return
        os.makedirs(self.path, exist_ok=True)
        if resumed:
            remove_temporaries(self.path)  # of a process that was killed
        elif _names(self.path):
            raise ValueError(
                "checkpoint must be a folder without checkpoints of another fit (resume goes on "
                f"from them); got {self.path!r}"
            )

    def begin(self, run: Any, course: Any) -> None:
        """Take up the engine's and the Python side of the fit."""
        self._run = run
        self._course = course
        self._note()
        if not (self._in_folder or self._resumed) and os.path.exists(self.path):
            self.write()  # nobody is to go on from another fit's by mistake

    def next_stop(self, batch: int) -> int:
        """The batch of this epoch before which the next checkpoint is due, or the epoch's end."""
        batches = self._run.batches
        if self._every is None:
            return batches
        before = self._noted[0]["done"] * batches
        due = ((before + batch) // self._every + 1) * self._every
        return min(due - before, batches)

    def after_epoch(self) -> None:
        """Between two epochs: note where the fit is, and write that if it is due, or the end."""
        self._note()
        done = self._noted[0]["done"]
        due = self._every is None or done * self._run.batches % self._every == 0
        if due or self._course.is_over:
            self.write()

    def rescue(self) -> None:
        """Write the last whole step, for an exception that ends the fit.

        A file that can't be written is a warning: the exception matters more.
        """
        try:
            self.write()
        except OSError as error:
            warnings.warn(f"the last checkpoint was not written: {error}", stacklevel=2)

    def write(self) -> None:
        """Write the last whole step, if it isn't written yet."""
        engine, (epoch, arrays) = self._run.engine, self._noted
        batch, sums = self._run.done_in(epoch["optimizer_epoch"])
        if batch < 0 or self._written == (epoch["done"], batch):
            return
        if batch == self._run.batches:
            self._run.take_into_average(epoch["done"] + 1)
        at = {
            "batch": batch,
            "sums": sums,
            "step": engine.steps,
            "averaged": engine.averaged,
            "seconds": self._course.seconds,
        }
        tensors = self._run.parts() | arrays
        config = self._fixed | {"epoch": epoch, "at": _to_plain(at, "the step")}
        path = self.path
        if self._in_folder:
            path = os.path.join(path, f"checkpoint-{epoch['done']:06d}-{batch:09d}.bcenet")
        model_file.write(path, tensors, {"kind": "checkpoint", "config": config})
        self._written = epoch["done"], batch
        if self._in_folder:
            for name in _names(self.path)[_KEPT:]:
                os.unlink(os.path.join(self.path, name))

    def _note(self) -> None:
        """Note what the Python side holds: all at once, so that a signal sees the old or the
        new."""
        course, plan = self._course, self._run.plan
        state: State = course.state
        arrays = {
            f"history.{name}": np.array(getattr(course.history, name), np.float64)
            for name in _HISTORY
        }
        if plan.objective.pos_weight is not None:
            arrays["pos_weight"] = plan.objective.pos_weight
        callbacks = []
        for i, (name, saved) in enumerate(course.callbacks.states()):
            plain = {}
            for key, value in saved.items():
                if isinstance(value, np.ndarray):
                    arrays[f"callbacks.{i}.{key}"] = value
                else:
                    plain[key] = _to_plain(value, f"{name}.checkpoint_state()[{key!r}]")
            callbacks.append({"name": name, "state": plain})
        epoch = {
            "done": state.epoch,
            "stopped": course.stopped,
            "learning_rate": state.learning_rate,
            "optimizer_epoch": plan.optimizer.epoch,
            "hyper": plan.optimizer.hyper(),
            "schedule": None if plan.schedule is None else _schedule_state(plan.schedule),
            "callbacks": callbacks,
        }
        self._noted = _to_plain(epoch, "the state of the fit"), arrays


def configuration(network: Network, plan: Any) -> dict[str, Any]:
    """The options of a fit, and what the network is, as JSON.

    Raises: ValueError for an optimizer, schedule or averaging whose class is not bcenet's: it
    couldn't be made again.
    """
    optimizer = plan.optimizer
    objective = {k: v for k, v in plan.objective.__dict__.items() if k != "pos_weight"}
    if isinstance(optimizer, optimizers.LBFGS):
        raise ValueError(
            f"optimizer must not be L-BFGS with checkpoint, as its state is SciPy's; "
            f"got {optimizer!r}"
        )
    result = {
        "network": network.config(),
        "optimizer": {
            "name": _name("optimizer", optimizer, optimizers.BY_NAME),
            **optimizer.hyper(),
        },
        "objective": {**objective, "has_pos_weight": plan.objective.pos_weight is not None},
        "dropout": plan.drop_rates and [rate / DROP_PARTS for rate in plan.drop_rates],
        "schedule": None if plan.schedule is None else _schedule_arguments(plan.schedule),
        "averaging": None if plan.averaging is None else _averaging_arguments(plan.averaging),
        "batch_size": plan.batch_size,
        "epochs": plan.epochs,
        "shuffle": plan.shuffle,
        "seed": plan.seed,
    }
    return _to_plain(result, "the configuration of the fit")


def fingerprint(rows: Rows | Stream | None) -> dict[str, Any] | None:
    """Shape, dtype and SHA-256 of each array of some rows: of their values, in any layout; of a
    dataset, what it says of itself."""
    if rows is None:
        return None
    if isinstance(rows, Stream):
        return {"dataset": rows.fingerprint()}
    names = {"X": rows.X, "y": rows.y, "sample_weight": rows.weight, "offset": rows.offset}
    return {name: None if a is None else _fingerprint(a) for name, a in names.items()}


def _fingerprint(array: Any) -> dict[str, Any]:
    total = hashlib.sha256()
    values = array.data if is_sparse(array) else array
    dtype = values.dtype.newbyteorder("<")
    if is_sparse(array):
        for indices in (array.indptr, array.indices):
            _update(total, indices, np.dtype("<i8"))
    _update(total, values, dtype)
    return {"shape": list(array.shape), "dtype": dtype.name, "sha256": total.hexdigest()}


def _update(total: Any, array: np.ndarray, dtype: np.dtype) -> None:
    """Add the values of an array, in any layout, about 1 MiB at a time."""
    rows = max(2**20 // max(array[:1].nbytes, 1), 1)
    for first in range(0, len(array), rows):
        total.update(np.ascontiguousarray(array[first : first + rows], dtype).data)


def _name(what: str, value: Any, known: dict[str, Any]) -> str:
    for name, kind in known.items():
        if type(value) is kind:
            return name
    raise ValueError(
        f"{what} must be one of bcenet's own with checkpoint; got {checks.describe(value)}"
    )


def _schedule_arguments(schedule: schedules.Schedule) -> dict[str, Any]:
    result: dict[str, Any] = {"name": _name("schedule", schedule, schedules.BY_NAME)}
    for name in schedule._arguments:
        value = getattr(schedule, name)
        inner = isinstance(value, schedules.Schedule)
        result[name] = _schedule_arguments(value) if inner else value
    return result


def _schedule_state(schedule: schedules.Schedule) -> dict[str, Any]:
    """What isn't an argument; of a schedule within it too."""
    return {
        name: _schedule_state(value) if isinstance(value, schedules.Schedule) else value
        for name, value in schedule.__dict__.items()
        if name not in schedule._arguments or isinstance(value, schedules.Schedule)
    }


def _averaging_arguments(averaging: averaging_.Averaging) -> dict[str, Any]:
    return {"name": _name("averaging", averaging, _AVERAGES), **averaging.arguments()}


def _to_plain(value: Any, what: str) -> Any:
    """A copy of JSON's types alone; an infinity or a NaN as {"non-finite": text}.

    Raises: TypeError for anything else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"non-finite": repr(value)}
    if isinstance(value, dict):
        return {str(key): _to_plain(part, what) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(part, what) for part in value]
    raise TypeError(
        f"{what} must consist of numbers, strings, lists and dicts; got {checks.describe(value)}"
    )


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_plain(part) for part in value]
    if isinstance(value, dict):
        if value.keys() == {"non-finite"}:
            return float(value["non-finite"])
        return {key: _from_plain(part) for key, part in value.items()}
    return value


# ------------------------------------------------------------------------------- reading


def read(path: Any) -> Saved:
    """The checkpoint in a file, or the newest whole one in a folder.

    Raises: FileNotFoundError where there is none; ModelFormatError if it is damaged, or of
    another version of bcenet.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path; got {checks.describe(path)}")
    path = os.fspath(path)
    if not os.path.isdir(path):
        return _read_file(path)
    files = [os.path.join(path, name) for name in _names(path)]
    if not files:
        raise FileNotFoundError(errno.ENOENT, "no checkpoint in this folder", path)
    reason: ModelFormatError | None = None
    for file in files:
        try:
            saved = _read_file(file)
        except ModelFormatError as error:
            reason = reason or error
            continue
        if reason is not None:
            warnings.warn(f"{reason}; going on from {file}", stacklevel=3)
        return saved
    assert reason is not None
    raise reason


def _names(folder: str) -> list[str]:
    """The checkpoints in a folder, newest first."""
    found = [match for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
    found.sort(key=lambda match: (int(match[1]), int(match[2])), reverse=True)
    return [match[0] for match in found]


def _read_file(path: str) -> Saved:
    tensors, metadata = model_file.read(path)
    if metadata["kind"] != "checkpoint":
        raise ModelFormatError(f"{path}: it holds a {metadata['kind']!r}, not a 'checkpoint'")
    if metadata["bcenet_version"] != __version__:
        raise ModelFormatError(
            f"{path}: it was written by bcenet {metadata['bcenet_version']}, and this is "
            f"{__version__}, which may not go on with the same bits"
        )
    with model_file.content_of(path):
        config = _from_plain(metadata["config"])
        if config.keys() != {"configuration", "data", "every", "epoch", "at"}:
            raise ValueError(f"it has the parts {sorted(config)}")
        return Saved(path, config, tensors)


def home(path: Any) -> str:
    """Where a fit that goes on from a file writes: its folder, if it is one of a folder's
    checkpoints.

    Those that are newer there are what the fit will come to, bit for bit.
    """
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(folder or ".", "") if _NAME.fullmatch(name) else os.fspath(path)


def check_same(saved: Saved, part: str, now: Any) -> None:
    """ValueError saying what differs, if the fit of a checkpoint had other data or options.

    Arguments:
        part: "configuration" or "data", and ``now`` what it is today.
    """
    for name, before, here in _differences("", saved.config[part], now):
        if part == "configuration":
            raise ValueError(
                f"{saved.path}: its fit had another configuration: {name} was {before!r} there "
                f"and is {here!r}"
            )
        array, _, what = name.rpartition(".")
        if what in ("X", "dataset") and (before is None or here is None):
            streams = (what == "dataset") == (here is None)
            raise ValueError(
                f"{array or 'X'} must be {'a dataset' if streams else 'rows in memory'}, "
                "as in the checkpoint's fit"
            )
        if array.endswith("dataset"):
            _refuse_dataset("validation_data" if "." in array else "X", what, before, here)
        if what == "sha256":
            raise ValueError(f"{array} must hold the values of the checkpoint's fit; others came")
        if what in ("shape", "dtype"):
            raise ValueError(
                f"{array} must have the {what} of the checkpoint's fit, {_shown(before)}; "
                f"got {_shown(here)}"
            )
        wanted = "None" if before is None else "given"
        raise ValueError(f"{name} must be {wanted}, as in the checkpoint's fit")


_OF_DATASETS = {
    "rows": "number of rows",
    "columns": "columns",
    "dtypes": "dtypes of X, y and weight",
    "units": "row groups, record batches or other units",
    "window_rows": "window_rows",
    "split": "split",
}


def _refuse_dataset(name: str, what: str, before: Any, here: Any) -> None:
    """ValueError: a part of a dataset's fingerprint differs."""
    if what not in _OF_DATASETS:
        raise ValueError(
            f"{name} must be a dataset with the {what} of the checkpoint's fit; others came"
        )
    shown = "" if isinstance(before, str) else f", {_shown(before)}; got {_shown(here)}"
    raise ValueError(
        f"{name} must be a dataset with the {_OF_DATASETS[what]} of the checkpoint's fit{shown}"
    )


def _shown(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, list) else str(value)


def _differences(name: str, before: Any, now: Any) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, before.get(key), now.get(key))
    elif before != now:
        yield name, before, now


def restore(saved: Saved) -> tuple[Network, dict[str, Any]]:
    """The network at the checkpoint's step, and the plan of its fit: its fields but for n_threads
    and stage.

    Raises: ModelFormatError for content that makes no sense.
    """
    tensors, epoch, at = saved.tensors, saved.config["epoch"], saved.config["at"]
    options = saved.config["configuration"]
    with model_file.content_of(saved.path):
        raw, statistics = tensors["parameters"], tensors["statistics"]
        network = Network.from_config(options["network"], raw, statistics)
        _check_arrays(tensors, network)
        averaging = _averaging(options["averaging"], tensors, at)
        if averaging is not None:
            network.parameters[:] = averaging.average
        optimizer = _optimizer(options, epoch, at, tensors)
        optimizer.begin(network.parameters)
        objective = _objective(options["objective"], tensors, network.layer_sizes[-1])
        dropout = options["dropout"]
        epochs = checks.integer("epochs", options["epochs"], 1)
        done = checks.integer("epoch", epoch["done"], 0, epochs)
        for name in _HISTORY:
            shape = tensors[f"history.{name}"].shape
            if shape != (done,) and (name, shape) != ("validation_loss", (0,)):
                raise ValueError(f"history.{name} must have shape ({done},); got {shape}")
        checks.number("seconds", at["seconds"], 0.0)
        checks.boolean("stopped", epoch["stopped"])
        for name, state in saved.callbacks:
            if not isinstance(name, str) or not isinstance(state, dict):
                raise TypeError("callbacks must be names and dicts")
        return network, {
            "optimizer": optimizer,
            "objective": objective,
            "drop_rates": dropout and drop_rates(dropout[:-1], len(network.layer_sizes) - 2),
            "schedule": _schedule(options["schedule"], epoch["schedule"]),
            "averaging": averaging,
            "batch_size": checks.integer("batch_size", options["batch_size"], 1),
            "epochs": epochs,
            "shuffle": checks.boolean("shuffle", options["shuffle"]),
            "seed": optimizer.seed,
        }


def _check_arrays(tensors: dict[str, np.ndarray], network: Network) -> None:
    """ValueError for a part of the engine that doesn't fit the network, or isn't finite."""
    for name in ("parameters", "average", "statistics", *_STATE_PARTS):
        if name not in tensors:
            continue
        array = tensors[name]
        like = network.statistics if name == "statistics" else network.parameters
        if array.shape != like.shape or array.dtype != like.dtype:
            raise ValueError(
                f"{name} must have shape {like.shape} and dtype {like.dtype}; "
                f"got {checks.describe(array)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")


def _objective(options: dict[str, Any], tensors: dict[str, np.ndarray], outputs: int) -> Objective:
    objective = dict(options)
    has_pos_weight = objective.pop("has_pos_weight")
    pos_weight = losses.pos_weight_array(tensors["pos_weight"] if has_pos_weight else None, outputs)
    checks.choice("loss", objective["loss"], kernels.loss_names())
    for name in ("label_sum", "masked"):
        checks.boolean(name, objective[name])
    for name in ("smoothing", "average_rate"):
        checks.number(name, objective[name], 0.0, 1.0)
    for name in ("focus", "l1", "l2", "clip_norm", "max_norm"):
        checks.number(name, objective[name], 0.0)
    return Objective(**objective, pos_weight=pos_weight)


def _optimizer(
    options: dict[str, Any],
    epoch: dict[str, Any],
    at: dict[str, Any],
    tensors: dict[str, np.ndarray],
) -> optimizers.Optimizer:
    kind = optimizers.BY_NAME[options["optimizer"]["name"]]
    optimizer = kind(**epoch["hyper"])
    optimizer.step = checks.integer("step", at["step"], 0)
    optimizer.epoch = checks.integer("epoch", epoch["optimizer_epoch"], 0, 2**32 - 1)
    optimizer.seed = checks.integer("seed", options["seed"], 0, 2**64 - 1)
    names = optimizer.state_names()
    optimizer.state = {
        name: tensors[part].copy() for part, name in zip(_STATE_PARTS, names, strict=False)
    }
    return optimizer


def _schedule(arguments: Any, state: Any) -> schedules.Schedule | None:
    if arguments is None:
        return None
    arguments = dict(arguments)
    kind = schedules.BY_NAME[arguments.pop("name")]
    inner = {name: _schedule(v, state[name]) for name, v in arguments.items() if name == "after"}
    schedule = kind(**(arguments | inner))
    rest = {name: value for name, value in state.items() if name not in inner}
    if not rest.keys() <= schedule.__dict__.keys():
        raise ValueError(f"schedule must have no {sorted(rest.keys() - schedule.__dict__.keys())}")
    for name, value in rest.items():
        if value is not None and not isinstance(value, (int, float)):
            raise TypeError(f"schedule.{name} must be a number; got {checks.describe(value)}")
    schedule.__dict__.update(rest)
    return schedule


def _averaging(
    arguments: Any, tensors: dict[str, np.ndarray], at: dict[str, Any]
) -> averaging_.Averaging | None:
    if arguments is None:
        return None
    arguments = dict(arguments)
    averaging: averaging_.Averaging = _AVERAGES[arguments.pop("name")](**arguments)
    averaging.count = checks.integer("averaged", at["averaged"], 0)
    averaging.raw = tensors["parameters"].copy()
    held = tensors["average" if averaging.count else "parameters"]
    averaging.average = held.copy()
    return averaging

"""What runs beside a fit: the state that callbacks see, and callbacks ready for use.

A callback is an object with any of ``on_fit_begin(state)``, ``on_progress(state)``,
``on_epoch_end(state)`` and ``on_fit_end(state)``, or a bare callable, which is ``on_epoch_end``.
``on_progress`` is called within epochs: after each window of a dataset, and some times a second
in long epochs in memory. It tells of the time; the network is that of the last whole epoch then.
Returning True from
``on_epoch_end`` stops the fit once the other callbacks were called. ``on_fit_end`` is called
whether the fit is through, was stopped or ends with an exception, Ctrl-C too.

A callback that keeps something from epoch to epoch may have ``checkpoint_state()``, a dict of its
numbers, strings, lists and arrays, and ``on_fit_resume(state, saved)``, which a resumed fit calls
with that dict in the place of ``on_fit_begin``. What it gives is written until the next epoch is
over, so arrays that are changed in place are to be copied. The others just see the epochs that
are still to come.

The objects here hold one fit at a time and begin anew with the next. Where they number epochs
in files they count over all fits of the optimizer, as ``state.total_epoch`` does.
"""

from __future__ import annotations

import errno
import math
import numbers
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks

if TYPE_CHECKING:
    from bcenet.history import History
    from bcenet.network import Network
    from bcenet.optimizers import Optimizer

_HOOKS = ("on_fit_begin", "on_progress", "on_epoch_end", "on_fit_end")


class State:
    """A fit as its callbacks see it.

    Attributes:
        network: holds the parameters of the last whole epoch; optimizer: its state after it.
        history: the losses so far. epoch: epochs done in this fit, of ``epochs``.
        total_epoch: epochs done in all fits of the optimizer.
        loss, validation_loss: of this epoch; None before the first, or without validation data.
        penalty: what L1 and L2 add to the loss. learning_rate: of the epoch's last step, the
        schedule's factor in it. Both None before the first epoch.
        seconds: since the fit began.
        rows: of an epoch; None where they are not known before. rows_done: those that steps were
        taken on in the epoch that is running.
    """

    def __init__(
        self, network: Network, optimizer: Optimizer, history: History, epochs: int
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.history = history
        self.epochs = epochs
        self.epoch = 0
        self.loss: float | None = None
        self.validation_loss: float | None = None
        self.penalty: float | None = None
        self.learning_rate: float | None = None
        self.seconds = 0.0
        self.rows: int | None = None
        self.rows_done = 0

    @property
    def total_epoch(self) -> int:
        """Epochs over all fits of the optimizer; L-BFGS carries none from fit to fit."""
        return getattr(self.optimizer, "epoch", self.epoch)


class Callbacks:
    """The callbacks of one fit, checked."""

    def __init__(self, callbacks: Any) -> None:
        if callable(callbacks) or any(hasattr(callbacks, hook) for hook in _HOOKS):
            callbacks = (callbacks,)
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list; got {checks.describe(callbacks)}")
        self._callbacks = list(callbacks)
        for callback in self._callbacks:
            if isinstance(callback, type):
                raise TypeError(
                    f"callbacks must be objects, as {callback.__name__}(...); got the class"
                )
            if not callable(callback) and not any(hasattr(callback, hook) for hook in _HOOKS):
                raise TypeError(
                    f"callbacks must be callables or objects with any of {', '.join(_HOOKS)}; "
                    f"got {checks.describe(callback)}"
                )

    def append(self, callback: Any) -> None:
        self._callbacks.append(callback)

    @property
    def show_progress(self) -> bool:
        """Whether one of them sees to it that progress is shown, or that none is."""
        return any(getattr(callback, "shows_progress", False) for callback in self._callbacks)

    def has(self, hook: str) -> bool:
        return any(hasattr(callback, hook) for callback in self._callbacks)

    def begin(self, state: State, saved: list[tuple[str, dict[str, Any]]] | None) -> None:
        """Call the first hook; with what a checkpoint ``saved`` where a fit is resumed."""
        if saved is None:
            self.call("on_fit_begin", state)
            return
        rest = iter(saved)
        for callback in self._callbacks:
            if _keeps_state(callback):
                callback.on_fit_resume(state, next(rest)[1])
            elif hasattr(callback, "on_fit_begin"):
                callback.on_fit_begin(state)

    def states(self) -> list[tuple[str, dict[str, Any]]]:
        """(class, state) of each callback that keeps one, for a checkpoint."""
        return [
            (type(callback).__name__, callback.checkpoint_state())
            for callback in self._callbacks
            if _keeps_state(callback)
        ]

    def check_resumed(self, saved: list[tuple[str, dict[str, Any]]]) -> None:
        """ValueError unless those that keep a state are the ones that saved theirs."""
        there = [name for name, _ in saved]
        here = [type(callback).__name__ for callback in self._callbacks if _keeps_state(callback)]
        if here != there:
            raise ValueError(
                "callbacks must be those of the checkpoint's fit, in their order: "
                f"{_listed(there)}; got {_listed(here)}"
            )

    def call(self, hook: str, state: State) -> bool:
        """Call a hook of every callback that has it; whether one asked to stop."""
        stop = False
        for callback in self._callbacks:
            method = getattr(callback, hook, None)
            if method is None and hook == "on_epoch_end" and callable(callback):
                method = callback
            if method is not None:
                answer = method(state)
                stop = stop or (isinstance(answer, (bool, np.bool_)) and bool(answer))
        return stop


def _keeps_state(callback: Any) -> bool:
    return hasattr(callback, "checkpoint_state")


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none that keeps a state"


class ProgressBar:
    """A bar on standard error: rows, rows per second, time left, losses, memory; needs tqdm.

    Time left is for all epochs, if none of them is the last by a callback's wish. Memory is what
    the process holds itself (`memory_in_use`).

    `bcenet.fit` shows one by itself where standard error is a terminal and tqdm is installed,
    unless a callback has a true attribute ``shows_progress``, as this one has.
    """

    shows_progress = True

    def on_fit_begin(self, state: State) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("the progress bar needs tqdm: pip install 'bcenet[cli]'") from error
        self._step = state.rows or 1  # of an epoch
        self._losses = ""
        self._bar = tqdm(
            total=state.epochs * self._step,
            initial=state.epoch * self._step,
            unit=" rows" if state.rows else "epoch",
            unit_scale=state.rows is not None,
            file=sys.stderr,
        )

    def on_progress(self, state: State) -> None:
        self._show(state, min(state.rows_done, self._step))

    def on_epoch_end(self, state: State) -> None:
        self._losses = describe_losses(state) + ", "
        self._show(state, 0)

    def _show(self, state: State, done: int) -> None:
        running = min(state.epoch + 1, state.epochs)
        self._bar.set_description_str(f"epoch {running}/{state.epochs}", refresh=False)
        self._bar.set_postfix_str(f"{self._losses}{memory_in_use():.0f} MiB", refresh=False)
        self._bar.update(state.epoch * self._step + done - self._bar.n)

    def on_fit_end(self, state: State) -> None:
        self._bar.close()


def memory_in_use() -> float:
    """MiB of memory of the process's own; where the system doesn't tell, the most it ever had."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 1024)


def describe_losses(state: State) -> str:
    """The losses of an epoch in a few words."""
    text = f"loss {state.loss:.5f}"
    if state.validation_loss is not None:
        text += f", validation {state.validation_loss:.5f}"
    return text


def shows_progress() -> bool:
    """Whether standard error is a terminal and tqdm is there."""
    import importlib.util

    return (
        sys.stderr is not None
        and sys.stderr.isatty()
        and importlib.util.find_spec("tqdm") is not None
    )


class _Monitor:
    """Which epoch is the best so far, by a number that falls or rises.

    Attributes:
        best: the number; best_epoch: its epoch, from 1. None before the first epoch.
    """

    def __init__(
        self, monitor: str | Callable[[State], float], mode: str, min_delta: float = 0.0
    ) -> None:
        if not callable(monitor) and monitor not in ("validation_loss", "loss"):
            raise ValueError(
                "monitor must be 'validation_loss', 'loss' or a callable; "
                f"got {checks.describe(monitor)}"
            )
        self.monitor = monitor
        self.mode = checks.choice("mode", mode, ("min", "max"))
        self.min_delta = checks.number("min_delta", min_delta, 0.0)
        self._begin()

    def _begin(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None

    def on_fit_begin(self, state: State) -> None:
        self._begin()

    def _settings(self) -> dict[str, Any]:
        monitor = "callable" if callable(self.monitor) else self.monitor
        return {"monitor": monitor, "mode": self.mode, "min_delta": self.min_delta}

    def checkpoint_state(self) -> dict[str, Any]:
        return {"settings": self._settings(), "best": self.best, "best_epoch": self.best_epoch}

    def on_fit_resume(self, state: State, saved: dict[str, Any]) -> None:
        for name, value in self._settings().items():
            there = saved["settings"].get(name)
            if there != value:
                raise ValueError(
                    f"{type(self).__name__} must have {name}={there!r}, as in the checkpoint's "
                    f"fit; got {value!r}"
                )
        self.on_fit_begin(state)
        self.best, self.best_epoch = saved["best"], saved["best_epoch"]

    def _value(self, state: State) -> float:
        if not callable(self.monitor):
            value = getattr(state, self.monitor)
            if value is None:
                raise ValueError(
                    "monitor must be 'loss' or a callable in a fit without validation_data; "
                    f"got {self.monitor!r}"
                )
            return value
        value = self.monitor(state)
        if not isinstance(value, numbers.Real):
            raise TypeError(f"monitor must return a number; got {checks.describe(value)}")
        return float(value)

    def _improved(self, state: State) -> bool:
        """Whether this epoch is the best so far; it is then remembered."""
        value = self._value(state)
        if self.best is not None and not math.isnan(self.best):
            gain = self.best - value if self.mode == "min" else value - self.best
            if not gain > self.min_delta:  # nor is NaN a gain
                return False
        self.best, self.best_epoch = value, state.epoch
        return True


class EarlyStopping(_Monitor):
    """Stops the fit once the best epoch lies ``patience`` epochs back.

    The network keeps the weights of the last epoch: see `BestWeights`.

    Arguments:
        monitor: "validation_loss", "loss", or a callable that takes the `State` and returns a
            number, such as a metric on rows of one's own.
        patience: at least 1. mode: "min" where smaller is better, else "max".
        min_delta: an epoch is better only by more than that.

    Attributes:
        best, best_epoch: the value and the epoch (from 1) of the best epoch.
        stopped_epoch: the epoch after which it stopped the fit, or None.

    Raises: ValueError after the first epoch if there is no validation loss to monitor.

    Example:
        >>> import bcenet, numpy as np
        >>> from bcenet.callbacks import EarlyStopping
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> stop = EarlyStopping(monitor="loss", patience=2, min_delta=0.05)
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, *data, epochs=50, callbacks=[stop], random_state=0)
        >>> stop.best_epoch, stop.stopped_epoch, len(history.loss)
        (1, 3, 3)
    """

    def __init__(
        self,
        monitor: str | Callable[[State], float] = "validation_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "min",
    ) -> None:
        self.patience = checks.integer("patience", patience, 1)
        super().__init__(monitor, mode, min_delta)

    def _begin(self) -> None:
        super()._begin()
        self.stopped_epoch: int | None = None

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"patience": self.patience}

    def checkpoint_state(self) -> dict[str, Any]:
        return super().checkpoint_state() | {"stopped_epoch": self.stopped_epoch}

    def on_fit_resume(self, state: State, saved: dict[str, Any]) -> None:
        super().on_fit_resume(state, saved)
        self.stopped_epoch = saved["stopped_epoch"]

    def on_epoch_end(self, state: State) -> bool:
        if self._improved(state) or state.epoch - (self.best_epoch or 0) < self.patience:
            return False
        self.stopped_epoch = state.epoch
        return True


class BestWeights(_Monitor):
    """Gives the network the weights of its best epoch at the end of the fit.

    However the fit ends: after all epochs, stopped, or with an exception, Ctrl-C too. Callbacks
    that stand before this one still see the last weights in ``on_fit_end``. The optimizer's
    state stays that of the last epoch.

    Arguments:
        monitor, mode: as `EarlyStopping` takes them.

    Attributes:
        best, best_epoch: the value and the epoch (from 1) of the best epoch; the first of equals.

    Raises: ValueError after the first epoch if there is no validation loss to monitor.

    Example:
        >>> import bcenet, numpy as np
        >>> from bcenet.callbacks import BestWeights
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> best = BestWeights()
        >>> history = bcenet.fit(net, *data, validation_data=data, callbacks=[best])
        >>> best.best == min(history.validation_loss)
        True
        >>> round(float(net.loss_gradient(*data)[0]), 6) == round(best.best, 6)
        True
    """

    def __init__(
        self, monitor: str | Callable[[State], float] = "validation_loss", mode: str = "min"
    ) -> None:
        super().__init__(monitor, mode)

    def _begin(self) -> None:
        super()._begin()
        self._kept: list[np.ndarray] = []

    def checkpoint_state(self) -> dict[str, Any]:
        kept = {f"kept.{i}": array for i, array in enumerate(self._kept)}
        return super().checkpoint_state() | kept

    def on_fit_resume(self, state: State, saved: dict[str, Any]) -> None:
        super().on_fit_resume(state, saved)
        if self.best_epoch is not None:
            self._kept = [saved[f"kept.{i}"] for i in range(len(_arrays(state.network)))]

    def on_epoch_end(self, state: State) -> None:
        if self._improved(state):
            self._kept = [array.copy() for array in _arrays(state.network)]

    def on_fit_end(self, state: State) -> None:
        if self._kept:
            for array, kept in zip(_arrays(state.network), self._kept, strict=True):
                array[...] = kept
            self._kept = []


def _arrays(network: Network) -> list[np.ndarray]:
    """The arrays that a fit changes."""
    return [network.parameters, network.statistics]


class Checkpoint(_Monitor):
    """Saves the network to a model file after every epoch, or every few.

    Each file is written beside its place and renamed, so it is whole at any time; `bcenet.load`
    reads it.

    Arguments:
        path: of the file; its folder must exist. ``{epoch}`` in it becomes the epoch's number,
            which gives a file a time; else each replaces the one before.
        every: epochs from one time to the next.
        best: at these times, save only if the monitored value is the best so far.
        monitor, mode: as `EarlyStopping` takes them, for ``best``.

    Raises: FileNotFoundError before the first epoch if the folder is missing; OSError if a file
    can't be written.

    Example:
        >>> import bcenet, numpy as np, os, tempfile
        >>> from bcenet.callbacks import Checkpoint
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> folder = tempfile.TemporaryDirectory()
        >>> save = Checkpoint(os.path.join(folder.name, "net-{epoch}.bcenet"), every=2)
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, *data, epochs=5, callbacks=[save], random_state=0)
        >>> sorted(os.listdir(folder.name))
        ['net-2.bcenet', 'net-4.bcenet']
        >>> bcenet.load(os.path.join(folder.name, "net-4.bcenet"))
        Network([1, 1], dtype='float32')
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        best: bool = False,
        monitor: str | Callable[[State], float] = "validation_loss",
        mode: str = "min",
    ) -> None:
        self.path = _path("path", path)
        self.every = checks.integer("every", every, 1)
        self.only_best = checks.boolean("best", best)
        super().__init__(monitor, mode)

    def on_fit_begin(self, state: State) -> None:
        super().on_fit_begin(state)
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"every": self.every, "best": self.only_best}

    def on_epoch_end(self, state: State) -> None:
        epoch = state.total_epoch
        if epoch % self.every == 0 and (not self.only_best or self._improved(state)):
            state.network.save(self.path.replace("{epoch}", str(epoch)))


class LearningRateLogger:
    """Keeps the learning rate of each epoch's last step.

    Attributes:
        learning_rates: one an epoch of the latest fit, the schedule's factor in it.

    Example:
        >>> import bcenet, numpy as np
        >>> from bcenet.callbacks import LearningRateLogger
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> log = LearningRateLogger()
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, *data, epochs=3, learning_rate=0.1, callbacks=[log])
        >>> log.learning_rates
        [0.1, 0.1, 0.1]
    """

    def __init__(self) -> None:
        self.learning_rates: list[float | None] = []

    def on_fit_begin(self, state: State) -> None:
        self.learning_rates = []

    def checkpoint_state(self) -> dict[str, Any]:
        return {"learning_rates": np.array(self.learning_rates, np.float64)}

    def on_fit_resume(self, state: State, saved: dict[str, Any]) -> None:
        self.learning_rates = saved["learning_rates"].tolist()

    def on_epoch_end(self, state: State) -> None:
        self.learning_rates.append(state.learning_rate)


# What the logs write of a state, in this order, where it is there.
_LOGGED = ("loss", "validation_loss", "penalty", "learning_rate")


class CSVLog:
    """Writes a line an epoch to a CSV file.

    The columns are epoch, loss, validation_loss (empty without validation data), penalty,
    learning_rate and seconds; numbers read back as they were. A line is in the file, whole,
    when its epoch is over; the file is not kept open. A fit that is resumed goes on with its log,
    and takes off the lines of epochs after its checkpoint.

    Arguments:
        path: of the file. append: add to a log that is there, instead of replacing it.

    Raises: OSError if the file can't be written; ValueError if the one to add to is no such log.

    Example:
        >>> import bcenet, numpy as np, os, tempfile
        >>> from bcenet.callbacks import CSVLog
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = os.path.join(folder.name, "log.csv")
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, *data, epochs=2, callbacks=[CSVLog(path)])
        >>> log = np.genfromtxt(path, delimiter=",", names=True)
        >>> log["epoch"].tolist(), log["loss"].tolist() == history.loss
        ([1.0, 2.0], True)
        >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = _path("path", path)
        self.append = checks.boolean("append", append)

    def on_fit_begin(self, state: State) -> None:
        header = ",".join(("epoch", *_LOGGED, "seconds")) + "\n"
        if self.append and os.path.exists(self.path) and os.path.getsize(self.path):
            with open(self.path, "rb") as file:
                if file.readline() != header.encode():
                    raise ValueError(
                        f"path must name a log of this kind to append to; got {self.path!r}"
                    )
        else:
            self._write(header, "wb")

    def checkpoint_state(self) -> dict[str, Any]:
        return {"size": os.path.getsize(self.path)}

    def on_fit_resume(self, state: State, saved: dict[str, Any]) -> None:
        with open(self.path, "rb+") as file:
            if os.fstat(file.fileno()).st_size < saved["size"]:
                raise ValueError(
                    "path must name the log of the checkpoint's fit, which has at least "
                    f"{saved['size']} bytes; got {self.path!r}"
                )
            file.truncate(saved["size"])

    def on_epoch_end(self, state: State) -> None:
        values = [getattr(state, name) for name in _LOGGED]
        # float: a NumPy number's repr names its type.
        cells = ["" if value is None else repr(float(value)) for value in values]
        cells = [str(state.total_epoch), *cells, repr(state.seconds)]
        self._write(",".join(cells) + "\n", "ab")

    def _write(self, line: str, mode: str) -> None:
        """Write a line, or nothing of it."""
        rest = line.encode()
        with open(self.path, mode, buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:  # a full disk, which may have taken a part
                with suppress(OSError):
                    file.truncate(size)
                raise


class TensorBoard:
    """Writes the losses and the learning rate as TensorBoard's scalars; needs tensorboard.

    The scalars are loss, validation_loss, penalty and learning_rate. Every fit has an event
    file of its own; an epoch is in it when it is over, and the file is not kept open.

    Arguments:
        folder: made if it is missing. ``tensorboard --logdir FOLDER`` shows it.

    Raises: ImportError before the first epoch without the extra ``tensorboard``; OSError if
    the file can't be written.

    Example:
        >>> import bcenet, numpy as np, os, tempfile
        >>> from bcenet.callbacks import TensorBoard
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, *data, epochs=2, callbacks=[TensorBoard(folder.name)])
        >>> [name[:20] for name in os.listdir(folder.name)]
        ['events.out.tfevents.']
        >>> folder.cleanup()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = _path("folder", folder)

    def on_fit_begin(self, state: State) -> None:
        _tensorboard()
        os.makedirs(self.folder, exist_ok=True)
        self._file = os.path.join(self.folder, f"events.out.tfevents.{time.time_ns()}")
        self._write("xb", file_version="brain.Event:2")

    def on_epoch_end(self, state: State) -> None:
        values = [(name, getattr(state, name)) for name in _LOGGED]
        scalars = [{"tag": name, "simple_value": v} for name, v in values if v is not None]
        self._write("ab", step=state.total_epoch, summary={"value": scalars})

    def _write(self, mode: str, **event: Any) -> None:
        event_of, writer = _tensorboard()
        with open(self._file, mode) as file:
            writer(file).write(event_of(wall_time=time.time(), **event).SerializeToString())


def _tensorboard() -> tuple[Any, Any]:
    """(Event, RecordWriter).

    TensorBoard's own EventFileWriter needs a thread, and a child forked beside it hangs.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard needs tensorboard: pip install 'bcenet[tensorboard]'"
        ) from error
    return Event, RecordWriter


class TimeLimit:
    """Stops the fit after the epoch in which its time ran out.

    Arguments:
        seconds: above 0, from the beginning of the fit.

    Attributes:
        stopped_epoch: the epoch after which it stopped the fit, or None.

    Example:
        >>> import bcenet, numpy as np
        >>> from bcenet.callbacks import TimeLimit
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> data = (X, X[:, 0] > 0)
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, *data, epochs=10**6, callbacks=[TimeLimit(0.05)])
        >>> len(history.loss) < 10**6
        True
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = checks.number("seconds", seconds, 0.0, open_minimum=True)
        self.stopped_epoch: int | None = None

    def on_fit_begin(self, state: State) -> None:
        self.stopped_epoch = None

    def on_epoch_end(self, state: State) -> bool:
        if state.seconds < self.seconds:
            return False
        self.stopped_epoch = state.epoch
        return True


def _path(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path; got {checks.describe(value)}")
    return os.fspath(value)

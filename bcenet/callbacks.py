"""What runs beside a fit: the state that callbacks see, and the progress bar.

A callback is an object with any of ``on_fit_begin(state)``, ``on_epoch_end(state)`` and
``on_fit_end(state)``, or a bare callable, which is ``on_epoch_end``. Returning True from
``on_epoch_end`` stops the fit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks

if TYPE_CHECKING:
    from bcenet.history import History
    from bcenet.network import Network
    from bcenet.optimizers import Optimizer

_HOOKS = ("on_fit_begin", "on_epoch_end", "on_fit_end")


class State:
    """A fit as its callbacks see it.

    Attributes:
        network: holds the parameters of the last whole epoch; optimizer: its state after it.
        history: the losses so far. epoch: epochs done in this fit, of ``epochs``.
        loss, validation_loss: of this epoch; None before the first, or without validation data.
        seconds: since the fit began.
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
        self.seconds = 0.0


class Callbacks:
    """The callbacks of one fit, checked."""

    def __init__(self, callbacks: Any) -> None:
        if callable(callbacks) or any(hasattr(callbacks, hook) for hook in _HOOKS):
            callbacks = (callbacks,)
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list; got {checks.describe(callbacks)}")
        self._callbacks = list(callbacks)
        for callback in self._callbacks:
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


class ProgressBar:
    """A bar of epochs on standard error, with the losses; needs tqdm.

    `bcenet.fit` shows one by itself where standard error is a terminal and tqdm is installed,
    unless a callback has a true attribute ``shows_progress``, as this one has.
    """

    shows_progress = True

    def on_fit_begin(self, state: State) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("the progress bar needs tqdm: pip install 'bcenet[cli]'") from error
        self._bar = tqdm(total=state.epochs, unit="epoch", file=sys.stderr)

    def on_epoch_end(self, state: State) -> None:
        self._bar.set_postfix_str(describe_losses(state), refresh=False)
        self._bar.update()

    def on_fit_end(self, state: State) -> None:
        self._bar.close()


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

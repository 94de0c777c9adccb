"""Ctrl-C and SIGTERM: both unwind the stack, so that every temporary file is removed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_arrived: int | None = None
_deferring = False


@contextmanager
def caught() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt, and remember which it was.

    A signal that the caller ignores, or handles in a way of its own, is left to it.
    """
    global _arrived, _deferring
    _arrived, _deferring = None, False
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    taken = {number: f for number, f in defaults.items() if signal.getsignal(number) is f}
    try:
        for number in taken:
            signal.signal(number, _interrupt)
    except ValueError:  # not the main thread, to which signals belong
        taken = {}
    try:
        yield
    finally:
        for number, default in taken.items():
            signal.signal(number, default)


def status() -> int | None:
    """The exit status that shells give to a command that the signal ended; None without one."""
    return None if _arrived is None else 128 + _arrived


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal take effect at the end of the block.

    For imports of libraries that drop or mistake an exception raised in their midst.
    """
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    check()


def check() -> None:
    """Raise KeyboardInterrupt if a signal arrived, in case the first one was dropped."""
    if _arrived is not None:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: Any) -> None:
    global _arrived
    _arrived = number
    if not _deferring:
        raise KeyboardInterrupt

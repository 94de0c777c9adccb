"""Progress on standard error: a bar where it is a terminal and tqdm is there, else lines."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from bcenet.callbacks import describe_losses, memory_in_use, shows_progress

if TYPE_CHECKING:
    from bcenet.callbacks import State

_BETWEEN_LINES = 10.0  # seconds


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Lines:
    """A callback that prints a line an epoch, and one every ten seconds within it."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._begun: tuple[int, float] | None = None

    def on_fit_begin(self, state: State) -> None:
        self._begun = state.epoch, state.seconds
        self._last = time.monotonic()

    def on_progress(self, state: State) -> None:
        now = time.monotonic()
        if state.rows and now - self._last >= _BETWEEN_LINES:
            self._last = now
            part = min(state.rows_done / state.rows, 1.0)
            log(
                f"epoch {state.epoch + 1}/{state.epochs}: {part:.0%} of the rows{self._pace(state)}"
            )

    def on_epoch_end(self, state: State) -> None:
        self._last = time.monotonic()
        log(f"epoch {state.epoch}/{state.epochs}: {describe_losses(state)}{self._pace(state)}")

    def _pace(self, state: State) -> str:
        """Rows per second, time left for all epochs, and memory; nothing in short fits."""
        epoch, seconds = self._begun or (0, 0.0)
        spent = state.seconds - seconds
        if not state.rows or spent < 1.0:
            return ""
        done = (state.epoch - epoch) * state.rows + state.rows_done
        rate = done / spent
        left = ((state.epochs - epoch) * state.rows - done) / rate
        return f" ({pace(rate, left)})"


def pace(rate: float, left: float) -> str:
    """Rows per second, time left, and the memory of the process.

    >>> pace(1234567.0, 3725.0).rpartition(",")[0]
    '1.23 million rows/s, at most 1:02:05 left'
    """
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    speed = f"{rate / 1e6:.2f} million" if rate >= 1e6 else f"{rate:,.0f}"
    return f"{speed} rows/s, at most {clock} left, {memory_in_use():.0f} MiB"


class Reading:
    """Progress of a pass over the data before training; a context."""

    def __init__(self, rows: int, quiet: bool) -> None:
        self._rows, self._done = rows, 0
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> Reading:
        self._begun = self._last = time.monotonic()
        if not self._quiet and shows_progress():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._rows, unit=" rows", unit_scale=True, desc="reading", file=sys.stderr
            )
        return self

    def add(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{memory_in_use():.0f} MiB", refresh=False)
            self._bar.update(rows)
        elif not self._quiet and now - self._last >= _BETWEEN_LINES:
            self._last = now
            rate = self._done / (now - self._begun)
            left = (self._rows - self._done) / rate
            log(f"reading: {self._done / self._rows:.0%} of the rows ({pace(rate, left)})")

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

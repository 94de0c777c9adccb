"""How many threads a call uses: from the work, the affinity mask and the CPU quota."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

from bcenet import checks

# Multiply-adds of a step that make one more thread pay: about 10 us of work, against the
# opening and closing of two phases, about 1 us.
WORK_PER_THREAD = 600_000
# The same of a call that starts its threads for itself: about 50 us.
WORK_PER_STARTED_THREAD = 5_000_000
MAX_THREADS = 256


def _read(path: str) -> str:
    with open(path) as file:  # pathlib would cost 3 ms of import
        return file.read()


@functools.cache
def _quota() -> float:
    """CPUs that the control group may use at once; infinity without a limit."""
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int(_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
        return math.inf if limit < 0 else limit / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def available() -> int:
    """CPUs that this process may use: its affinity mask, held to the quota of its group."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, math.floor(_quota()) if _quota() < math.inf else count))


def limit() -> int:
    """``BCENET_NUM_THREADS`` if it is set, else the CPUs available."""
    text = os.environ.get("BCENET_NUM_THREADS")
    if not text:
        return available()
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ValueError(f"BCENET_NUM_THREADS must be an integer of at least 1; got {text!r}")
    return value


def choose_for_steps(n_threads: Any, step: float, whole: float) -> int:
    """Threads for a fit of steps of ``step`` multiply-adds, ``whole`` in all: those that pay in a
    step, and whose start pays in the fit."""
    count = choose(n_threads, step, WORK_PER_THREAD)
    return min(count, choose(None, whole)) if n_threads is None else count


def choose(n_threads: Any, work: float, per_thread: int = WORK_PER_STARTED_THREAD) -> int:
    """Threads for calls of ``work`` multiply-adds: as asked for, or as many as pay."""
    if n_threads is None:
        count = min(limit(), int(work // per_thread) + 1)
    else:
        try:
            count = checks.integer("n_threads", n_threads, 1)
        except TypeError as error:  # one kind of error for whatever is no number of threads
            raise ValueError(str(error)) from None
    return min(count, MAX_THREADS)

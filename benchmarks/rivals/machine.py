"""What the measurements ran on."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import bcenet._dispatch
from bcenet import threads
from benchmarks.rivals.libraries import Library


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    name = names.get("model name", platform.machine())
    if "model" in names:
        name += f" (family {names.get('cpu family')}, model {names['model']})"
    return name


def _caches() -> list[str]:
    """ "L2 1024K" and so on, of the first CPU."""
    caches = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size")
            )
        except OSError:
            continue
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        caches.append(f"L{level}{letter} {size}")
    return caches


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError, AttributeError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}"


def describe(libraries: Iterable[Library]) -> dict[str, Any]:
    """The machine, and the versions of these libraries."""
    distributions = {name for library in libraries for name in library.distributions}
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": _model(),
        "cpus": threads.available(),
        "caches": _caches(),
        "instruction_set": bcenet._dispatch.native.INSTRUCTION_SET,
        "system": _system(),
        "python": platform.python_version(),
        "blas": f"{blas['name']} {blas['version']}",
        "versions": {
            name: importlib.metadata.version(name) for name in sorted({*distributions, "numpy"})
        },
    }

"""Picks the native module for this processor: one is built for each instruction set.

``native`` is the module in use. The environment variable ``BCENET_ISA`` names another one:
``baseline``, ``v3`` or ``v4`` (x86-64-v2, -v3 and -v4); on other processors there is only
``baseline``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bcenet._base import SUPPORTED

# From the plainest to the fastest.
_NAMES = ("baseline", "v3", "v4")


def available() -> list[str]:
    """The instruction sets that were built and that this processor has, plainest first."""
    import importlib.util

    return [
        name
        for name in _NAMES
        if SUPPORTED[name] and importlib.util.find_spec(f"bcenet._native_{name}") is not None
    ]


def load(name: str | None = None) -> Any:
    """The native module for an instruction set; the best one for None."""
    if name is not None and (name not in _NAMES or name not in available()):
        raise ImportError(
            f"BCENET_ISA must be one of {', '.join(available())} on this machine; got {name!r}"
        )
    if name is None:
        # The fastest first, so that the usual import looks for one file only.
        for best in reversed(_NAMES):
            if SUPPORTED[best]:
                with contextlib.suppress(ModuleNotFoundError):
                    return importlib.import_module(f"bcenet._native_{best}")
        raise ImportError("this processor lacks x86-64-v2 (SSE4.2, POPCNT), which bcenet needs")
    return importlib.import_module(f"bcenet._native_{name}")


if TYPE_CHECKING:
    from bcenet import _native as native
else:
    native = load(os.environ.get("BCENET_ISA") or None)


@contextlib.contextmanager
def use(name: str) -> Iterator[str]:
    """Run a block on another instruction set: for tests and benchmarks, in one thread."""
    global native
    before = native
    native = load(name)
    try:
        yield name
    finally:
        native = before

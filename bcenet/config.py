"""The version, and what this build runs on."""

from __future__ import annotations

import os
from typing import Any

from bcenet import _dispatch, threads

__version__ = "0.1.0"


def show_config() -> dict[str, Any]:
    """Print and return the version, the instruction sets, the threads and the build's flags.

    Returns: a dict with the keys version, instruction_set (in use), instruction_sets
    (available), threads (that a call may use) and build_flags.

    Example:
        >>> import bcenet
        >>> config = bcenet.show_config()  # doctest: +ELLIPSIS
        version: ...
        >>> config["instruction_set"] in config["instruction_sets"]
        True
    """
    config = {
        "version": __version__,
        "instruction_set": _dispatch.native.INSTRUCTION_SET,
        "instruction_sets": _dispatch.available(),
        "threads": threads.limit(),
        "build_flags": _dispatch.native.FLAGS,
    }
    for name, value in config.items():
        print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    return config


def get_include() -> str:
    """The folder of the C header that the kernels of ``bcenet.cimports`` include.

    For a Cython project that cimports them: ``Extension(..., include_dirs=[get_include()])``.
    docs/cython.md says which compiler flags matter.

    Returns: an absolute path.

    Example:
        >>> import os
        >>> import bcenet
        >>> os.path.exists(os.path.join(bcenet.get_include(), "bcenet_math.h"))
        True
    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "cimports")

"""Tables as the command names them in its messages: the file, then what is wrong in it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from bcenet.cli import signals
from bcenet.data import read_table
from bcenet.tabular import TabularEncoder


def source_name(data: str) -> str:
    """What messages call the table at ``data``."""
    return "<standard input>" if data == "-" else data


def read(data: str, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """`bcenet.data.read_table`, open to an interrupt before and after pyarrow's own work."""
    prepare_pyarrow()
    return read_table(data, columns=columns)


def prepare_pyarrow() -> None:
    """Import pyarrow, if it is there, and keep its hands off the signals."""
    with signals.deferred(), suppress(ImportError):  # read_table says what is missing
        import pyarrow.csv
        import pyarrow.parquet

        # The command handles signals itself; a second handler, in a thread, is one too many.
        pyarrow.enable_signal_handlers(False)


def require_columns(
    option: str, names: Sequence[str], table: Mapping[str, Any], source: str
) -> None:
    """ValueError if the table lacks a column that the option names."""
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            listed = ", ".join([*table][:10]) + (", ..." if len(table) > 10 else "")
            hint = f" (did you mean {near[0]!r}?)" if near else f"; it has {listed}"
            raise ValueError(f"{option}: {source} has no column {name!r}{hint}")


def encode(encoder: TabularEncoder, table: Mapping[str, np.ndarray], source: str) -> Any:
    """`TabularEncoder.transform`, whose errors then name the file too."""
    try:
        return encoder.transform(table)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

"""Where in an Arrow IPC file the columns of its record batches lie, so that rows can be read alone.

pyarrow reads a record batch whole and does not say where a column's values are in the file. But it
makes a batch out of what a file object gives it, without a copy, and tells the addresses of its
buffers. So it gets the messages, which are small, and in the place of the values a map of zeros of
the same size, which nobody touches: the addresses within the map are the places in the file.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from bcenet.records import Record

# Reads of fewer bytes give what is in the file: messages, and batches not worth the trouble.
_SMALL_BYTES = 1 << 20
_MAGIC_BYTES = 8  # before the first message; from there on, a file is a stream with a footer


class Batch(Record):
    """A record batch in a file.

    Attributes: rows. size: its bytes, 0 if they are few. buffers: for each column the places of its
    bits of validity (None: all are valid) and of its values; None where it can't be read by rows.
    """

    rows: int
    size: int
    buffers: list[tuple[int | None, int] | None]


class _Messages:
    """A file object whose large reads give zeros."""

    closed = False

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(self._descriptor).st_size
        self._zeros = memoryview(
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        )
        self._at = _MAGIC_BYTES
        self.body = (0, 0)  # offset and bytes of the last large read
        self.address = np.frombuffer(self._zeros, np.uint8).ctypes.data

    def read(self, size: int) -> Any:
        at = self._at
        self._at += size
        if size < _SMALL_BYTES:
            return os.pread(self._descriptor, size, at)
        self.body = at, size
        return self._zeros[:size]

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
            self.closed = True


def find(path: str, schema: Any, count: int) -> list[Batch] | None:
    """The ``count`` record batches of a file; None where this way does not tell.

    That is so where they are compressed, as pyarrow must see the values then, and where the file
    is no stream with a footer, as those of polars. Where pyarrow changes the order of the bytes, a
    column has no place.
    """
    import pyarrow

    messages = _Messages(path)
    batches = []
    try:
        stream = pyarrow.ipc.open_stream(pyarrow.PythonFile(messages, mode="r"))
        if not stream.schema.equals(schema):
            return None
        for _ in range(count):
            messages.body = 0, 0
            batch = stream.read_next_batch()
            batch.validate()  # that buffers hold as many values as there are rows
            places = [_places(column, messages) for column in batch.columns]
            batches.append(Batch(batch.num_rows, messages.body[1], places))
    except (pyarrow.ArrowException, OSError, StopIteration):
        return None
    finally:
        messages.close()
    return batches


def _places(column: Any, messages: _Messages) -> tuple[int | None, int] | None:
    import pyarrow

    if not pyarrow.types.is_primitive(column.type):
        return None
    start, size = messages.body
    places = []
    for buffer in column.buffers():
        place = None if buffer is None else buffer.address - messages.address
        if place is not None and not 0 <= place <= size - buffer.size:
            return None
        places.append(None if place is None else start + place)
    validity, values = places
    return None if values is None else (validity, values)


def read_rows(
    descriptor: int, batch: Batch, fields: list[tuple[int, Any]], start: int, stop: int
) -> list[Any]:
    """Rows of some columns as pyarrow arrays; ``start`` is a multiple of 8.

    Arguments: fields: the columns' places and types.

    Raises: EOFError where the file ends before.
    """
    import pyarrow

    def read(place: int | None, bits: int) -> Any:
        """Values of some bits each from the place of the first row's on."""
        if place is None:
            return None
        size = ((stop - start) * bits + 7) // 8
        data = os.pread(descriptor, size, place + start * bits // 8)
        if len(data) < size:
            raise EOFError("it is cut off")
        return pyarrow.py_buffer(data)

    arrays = []
    for column, kind in fields:
        validity, values = batch.buffers[column] or (None, None)
        buffers = [read(validity, 1), read(values, kind.bit_width)]
        arrays.append(pyarrow.Array.from_buffers(kind, stop - start, buffers))
    return arrays

"""Bytes of files that are read from marks on, gzipped or not."""

from __future__ import annotations

import os
import zlib
from typing import Any

from bcenet.errors import DataFormatError

_READ_BYTES = 1 << 16


class PlainBytes:
    """The bytes of a file as they are. Its marks are offsets."""

    most_marks = None

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._at = 0

    def fileno(self) -> int:
        return self._descriptor

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        read = os.pread(self._descriptor, size, self._at)
        self._at += len(read)
        while 0 < len(read) < size:
            more = os.pread(self._descriptor, size - len(read), self._at)
            if not more:
                break
            self._at += len(more)
            read += more
        return read

    def mark(self, rest: bytes) -> Any:
        """The place of the bytes ``rest``, which were read last."""
        return self._at - len(rest)

    def back_to(self, mark: Any) -> bytes:
        """Go back to a mark; what lies between it and what is read next."""
        self._at = mark
        return b""

    def close(self) -> None:
        os.close(self._descriptor)


class GzipBytes:
    """The bytes in a gzip file, of one or several members.

    A mark holds a copy of the decompressor, whose memory is the 32 KiB of text before it: reading
    goes on from there as it did the first time. So there must not be many of them.
    """

    most_marks = 256

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = PlainBytes(path)
        self._inflate: Any = None  # None between two members
        self._packed = b""  # read, but not yet unpacked

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        """The next bytes of text; fewer only at the end.

        Raises: DataFormatError where the file is cut off or damaged.
        """
        parts = []
        while size and (self._inflate is not None or self._begin_member()):
            self._packed = self._packed or self._file.read(_READ_BYTES)
            try:
                part = self._inflate.decompress(self._packed, size)
            except zlib.error as error:
                raise DataFormatError(f"{self._path}: not a whole gzip file: {error}") from error
            if self._inflate.eof:
                self._packed = self._inflate.unused_data
                self._inflate = None
            else:
                if not (part or self._packed):
                    raise DataFormatError(f"{self._path}: not a whole gzip file: it is cut off")
                self._packed = self._inflate.unconsumed_tail
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _begin_member(self) -> bool:
        """Whether another member follows, behind zeros that may fill up the file."""
        packed = self._packed.lstrip(b"\0")
        while not packed:
            read = self._file.read(_READ_BYTES)
            if not read:
                return False
            packed = read.lstrip(b"\0")
        self._packed = packed
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        return True

    def mark(self, rest: bytes) -> Any:
        inflate = None if self._inflate is None else self._inflate.copy()
        return inflate, self._file.mark(self._packed), rest

    def back_to(self, mark: Any) -> bytes:
        inflate, at, rest = mark
        self._inflate = None if inflate is None else inflate.copy()
        self._packed = self._file.back_to(at)
        return rest

    def close(self) -> None:
        self._file.close()


def open_bytes(path: str) -> PlainBytes | GzipBytes:
    """The bytes of a file, unpacked where it begins as gzip files do, or is named like one."""
    plain = PlainBytes(path)
    if plain.read(2) != b"\x1f\x8b" and not path.lower().endswith(".gz"):
        plain.back_to(0)
        return plain
    plain.close()
    return GzipBytes(path)

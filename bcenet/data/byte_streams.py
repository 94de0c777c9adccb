"""Bytes of files that are read from marks on, gzipped or not."""

from __future__ import annotations

import os
import zlib
from typing import Any

from bcenet.errors import DataFormatError

_PACKED_BYTES = 1 << 16


class PlainBytes:
    """The bytes of a file as they are. Its marks are offsets."""

    most_marks: int | None = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self._at = 0

    def fileno(self) -> int:
        return self._descriptor

    def read(self, out: memoryview) -> int:
        """The next bytes into ``out``; their number, which is smaller only at the end."""
        done = 0
        while done < len(out):
            count = os.preadv(self._descriptor, [out[done:]], self._at)
            if count == 0:
                break
            self._at += count
            done += count
        return done

    def mark(self, rest: bytes) -> Any:
        """The place of the bytes ``rest``, which were read last."""
        return self._at - len(rest)

    def back_to(self, mark: Any) -> bytes:
        """Go back to a mark; what lies between it and what is read next."""
        self._at = mark
        return b""

    def close(self) -> None:
        os.close(self._descriptor)


class GzipBytes(PlainBytes):
    """The bytes in a gzip file, of one or several members.

    A mark holds a copy of the decompressor, whose memory is the 32 KiB of text before it: reading
    goes on from there as it did the first time. So there must not be many of them.
    """

    most_marks = 256

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._inflate: Any = None  # None between two members
        self._packed = b""  # read, but not yet unpacked

    def read(self, out: memoryview) -> int:
        """The next bytes of text into ``out``; their number, which is smaller only at the end.

        Raises: DataFormatError where the file is cut off or damaged.
        """
        done = 0
        while done < len(out) and (self._inflate is not None or self._begin_member()):
            packed = self._packed or self._read_packed()
            try:
                part = self._inflate.decompress(packed, len(out) - done)
            except zlib.error as error:
                raise DataFormatError(f"{self.path}: not a whole gzip file: {error}") from error
            if self._inflate.eof:
                self._packed = self._inflate.unused_data
                self._inflate = None
            elif part or packed:
                self._packed = self._inflate.unconsumed_tail
            else:
                raise DataFormatError(f"{self.path}: not a whole gzip file: it is cut off")
            out[done : done + len(part)] = part
            done += len(part)
        return done

    def _read_packed(self) -> bytes:
        packed = os.pread(self._descriptor, _PACKED_BYTES, self._at)
        self._at += len(packed)
        return packed

    def _begin_member(self) -> bool:
        """Whether another member follows, behind zeros that may fill up the file."""
        packed = self._packed.lstrip(b"\0")
        while not packed:
            read = self._read_packed()
            if not read:
                return False
            packed = read.lstrip(b"\0")
        self._packed = packed
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        return True

    def mark(self, rest: bytes) -> Any:
        inflate = None if self._inflate is None else self._inflate.copy()
        return inflate, self._at - len(self._packed), rest

    def back_to(self, mark: Any) -> bytes:
        inflate, self._at, rest = mark
        self._inflate = None if inflate is None else inflate.copy()
        self._packed = b""
        return rest


def open_bytes(path: str) -> PlainBytes:
    """The bytes of a file, unpacked where it begins as gzip files do, or is named like one."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b" or path.lower().endswith(".gz")
    return GzipBytes(path) if packed else PlainBytes(path)

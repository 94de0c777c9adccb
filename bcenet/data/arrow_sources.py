"""Parquet, Arrow IPC and CSV files, and folders of them, read by pyarrow part by part."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from bcenet.data.arrays import coded_arrow_column
from bcenet.data.files import csv_cells, csv_numbers, csv_part, csv_records
from bcenet.data.sources import Choice, Reader, Source, Stamp, copy_columns, is_numeric, refuse_text
from bcenet.errors import DataFormatError

# Bytes of a CSV file that are parsed at once, and rows that a Parquet file gives at once.
_CSV_BYTES = 1 << 20
_PARQUET_ROWS = 65_536


def require_pyarrow() -> None:
    try:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "reading CSV, Parquet and Arrow files needs pyarrow: pip install 'bcenet[arrow]'"
        ) from error


class _File:
    """One file of a source: its path, its stamp, and the rows of each of its units."""

    units: list[int]

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamp = Stamp(path)

    @contextmanager
    def errors(self, kind: str) -> Iterator[None]:
        """What pyarrow finds wrong: a file that changed, or one that is not what it should be."""
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError, EOFError) as error:
            self.stamp.check()
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataFormatError(f"{self.path}: not a readable {kind} file: {what}") from error

    def open(self, names: list[str]) -> Any:
        """A handle with ``close``."""
        raise NotImplementedError

    def parts(self, handle: Any, unit: int, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """The columns of a unit, part by part."""
        raise NotImplementedError

    def cells(
        self, handle: Any, unit: int, names: list[str], numeric: Collection[str], missing: Any
    ) -> Iterator[tuple[dict[str, Any], Callable[[int], str]]]:
        """The columns of a unit part by part, texts as `Coded`, and what to call a row's place.

        Columns of text that are ``numeric`` may come as float64, NaN where one of the texts
        ``missing`` stands. The places are right until the next part.
        """
        raise NotImplementedError


class _ArrowFile(_File):
    """A file with a schema."""

    kind: str
    schema: Any

    @property
    def names(self) -> list[str]:
        return self.schema.names

    def batches(self, handle: Any, unit: int, names: list[str]) -> Iterator[Any]:
        """The record batches of a unit."""
        with self.errors(self.kind):
            for batch in self._batches(handle, unit, names):
                batch.validate()
                self.stamp.check()
                yield batch

    def _batches(self, handle: Any, unit: int, names: list[str]) -> Iterable[Any]:
        raise NotImplementedError

    def parts(self, handle: Any, unit: int, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        for batch in self.batches(handle, unit, names):
            yield {name: self._column(name, batch.column(name)) for name in names}

    def cells(
        self, handle: Any, unit: int, names: list[str], numeric: Collection[str], missing: Any
    ) -> Iterator[tuple[dict[str, Any], Callable[[int], str]]]:
        row = sum(self.units[:unit])
        for batch in self.batches(handle, unit, names):
            columns = {name: coded_arrow_column(batch.column(name)) for name in names}
            yield columns, partial(self._place, row)
            row += batch.num_rows

    def _place(self, first: int, row: int) -> str:
        return f"{self.path}, row {first + row} (from 0)"

    def _column(self, name: str, column: Any) -> np.ndarray:
        import pyarrow

        if column.null_count and not pyarrow.types.is_floating(column.type):
            raise DataFormatError(f"{self.path}: column {name!r} has a missing value")
        return column.to_numpy(zero_copy_only=False)


class _ParquetFile(_ArrowFile):
    kind = "Parquet"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        with self.errors(self.kind):
            handle = self.open([])
            try:
                self.schema = handle.schema_arrow
                meta = handle.metadata
                self.units = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            finally:
                handle.close()

    def open(self, names: list[str]) -> Any:
        import pyarrow
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(
            pyarrow.OSFile(self.path), page_checksum_verification=True, buffer_size=1 << 20
        )

    def _batches(self, handle: Any, unit: int, names: list[str]) -> Iterable[Any]:
        return handle.iter_batches(
            batch_size=_PARQUET_ROWS, row_groups=[unit], columns=names, use_threads=False
        )


class _IpcFile(_ArrowFile):
    kind = "Arrow IPC"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        with self.errors(self.kind):
            handle = self.open([])
            self.schema = handle.reader.schema
            handle.close()
            handle = self.open(self.schema.names[:1])
            try:
                self.units = [
                    handle.reader.get_batch(i).num_rows
                    for i in range(handle.reader.num_record_batches)
                ]
            finally:
                handle.close()

    def open(self, names: list[str]) -> Any:
        return _IpcHandle(self, names)

    def _batches(self, handle: Any, unit: int, names: list[str]) -> Iterable[Any]:
        return map(handle.reader.get_batch, [unit])


class _IpcHandle:
    """Reads of the file, not a memory map of it: see `bcenet.data.sources.NpyFile`."""

    def __init__(self, file: _IpcFile, names: list[str]) -> None:
        import pyarrow

        with file.errors(file.kind):
            self._file = pyarrow.OSFile(file.path)
            places = [file.schema.get_field_index(name) for name in names]
            options = pyarrow.ipc.IpcReadOptions(use_threads=False, included_fields=places or None)
            self.reader = pyarrow.ipc.open_file(self._file, options=options)

    def close(self) -> None:
        self._file.close()


class _CsvFile(_File):
    """A CSV file, split at line ends into parts of about a MiB, which are its units.

    The first pass over the file finds them, and checks the whole of it; later ones read any
    of them.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.units = []
        self._places: list[tuple[int, int, int]] = []  # offset, bytes, first line
        self.header = b""
        with open(path, "rb") as file:
            if file.peek(2)[:2] == b"\x1f\x8b":
                raise DataFormatError(
                    f"{path}: a compressed CSV file has no parts that can be read apart; unpack it"
                )
            at, line, rest = 0, 1, b""
            if file.peek(3)[:3] == codecs.BOM_UTF8:
                at = len(file.read(3))
            while True:
                read = file.read(_CSV_BYTES)
                data = rest + read
                end = _last_line_end(data) if read else len(data)
                if end:
                    at, line = self._add(data[:end], at, line)
                rest = data[end:]
                if not read:
                    break
        if not self.units:
            raise DataFormatError(f"{path}: no rows below the columns' names")

    def _add(self, data: bytes, at: int, line: int) -> tuple[int, int]:
        """Check a part and note where it lies; the offset and the line after it."""
        if not data.strip(b"\r\n"):
            return at + len(data), line + data.count(b"\n")
        if not self.header:
            layout = csv_part(self.path, data)
            self.names = layout.names
            self.header = data[: layout.below]
            at, line = at + layout.below, line + layout.header_lines
            data = data[layout.below :]
            if not data:
                return at, line
        layout = self._layout(data, line)
        self.units.append(len(layout.starts) - 1)
        self._places.append((at, len(data), line))
        return at + len(data), line + len(layout.line_ends) - layout.header_lines

    def _layout(self, data: bytes, line: int) -> Any:
        layout = csv_part(self.path, self.header + data, line)
        layout.check_records()
        return layout

    def open(self, names: list[str]) -> Any:
        file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        self.stamp.check(file.fileno())
        return file

    def parts(self, handle: Any, unit: int, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        columns = csv_records(self._read(handle, unit), self.names, names)
        if columns is None:
            columns = csv_numbers(self.layout(handle, unit), names)
        if len(columns[names[0]]) != self.units[unit]:
            raise DataFormatError(f"{self.path}: other rows than when it was opened")
        yield columns

    def cells(
        self, handle: Any, unit: int, names: list[str], numeric: Collection[str], missing: Any
    ) -> Iterator[tuple[dict[str, Any], Callable[[int], str]]]:
        rows = 0
        for data, line in self._parts(handle, unit):
            columns = csv_cells(data, self.names, names, numeric, missing)
            if columns is None:  # texts that the encoder may understand, or name
                columns = csv_cells(data, self.names, names, (), missing)
            if columns is None:
                raise DataFormatError(f"{self.path}: not readable as CSV")
            rows += len(columns[names[0]])
            yield columns, partial(self._place, data, line)
        if rows != self.units[unit]:
            raise DataFormatError(f"{self.path}: other rows than when it was opened")

    def _place(self, data: Any, line: int, row: int) -> str:
        layout = self._layout(data, line)
        return f"{self.path}, line {layout.line(layout.starts[1 + row])}"

    def _parts(self, handle: Any, unit: int) -> Iterator[tuple[bytes, int]]:
        """The bytes of a unit's parts, and their first lines."""
        yield self._read(handle, unit), self._places[unit][2]

    def layout(self, handle: Any, unit: int) -> Any:
        """The header and the records of a unit, as they stand."""
        return self._layout(self._read(handle, unit), self._places[unit][2])

    def _read(self, handle: Any, unit: int) -> bytes:
        at, size, _ = self._places[unit]
        data = bytearray(size)
        count = os.preadv(handle.fileno(), [data], at)
        self.stamp.check(handle.fileno())
        if count < size:
            raise DataFormatError(f"{self.path}: cut off")
        return bytes(data)


def _last_line_end(data: bytes) -> int:
    """Where the last whole record of the bytes ends: after an LF outside quotes; 0 without."""
    end = data.rfind(b"\n") + 1
    while end and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end


KINDS = {
    ".parquet": _ParquetFile,
    ".pq": _ParquetFile,
    ".arrow": _IpcFile,
    ".feather": _IpcFile,
    ".ipc": _IpcFile,
    ".csv": _CsvFile,
}


class FilesSource(Source):
    """Files of one kind and the same columns: row groups, record batches or parts are units."""

    def __init__(self, paths: list[str], target: Any, columns: Any, weight: Any) -> None:
        self._files = open_files(paths)
        first = self._files[0]
        self.name = first.path
        has_types = isinstance(first, _ArrowFile)
        names = first.names
        choice = self._choice = Choice(first.path, names, target, columns, weight)
        for file in self._files:
            _check_columns(file.path, file.names, first.path, names, choice, columns is None)
            if has_types:
                self._check_types(file, first)
        self.columns, self.labels = choice.columns, choice.labels
        if has_types:
            dtypes = {
                name: np.dtype(first.schema.field(name).type.to_pandas_dtype())
                for name in choice.all
            }
        else:
            dtypes = dict.fromkeys(choice.all, np.dtype(np.float64))
        self.x_dtype = np.result_type(*(dtypes[name] for name in choice.columns))
        self.y_dtype = np.result_type(*(dtypes[name] for name in choice.targets))
        self.weight_dtype = None if weight is None else dtypes[weight]
        self._places, self.units = places_of(self._files)

    def _check_types(self, file: Any, first: Any) -> None:
        import pyarrow

        for name in self._choice.all:
            kind, wanted = file.schema.field(name).type, first.schema.field(name).type
            types = pyarrow.types
            if not (
                types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            ) or not is_numeric(np.dtype(kind.to_pandas_dtype())):
                refuse_text(file.path, name, kind)
            if kind != wanted:
                raise DataFormatError(
                    f"{file.path}: column {name!r} is {kind}; in {first.path} it is {wanted}"
                )

    def open(self) -> Reader:
        return _FilesReader(self._places, self._choice)

    def where(self, unit: int) -> tuple[str, int]:
        file, _, row = self._places[unit]
        return file.path, row


def open_files(paths: list[str]) -> list[Any]:
    """The files, which must be of one kind."""
    require_pyarrow()
    kinds = {KINDS[os.path.splitext(path)[1].lower()] for path in paths}
    if len(kinds) > 1:
        raise ValueError(f"the files must be of one kind; got {', '.join(paths[:4])}")
    kind = kinds.pop()
    return [kind(path) for path in paths]


def places_of(files: list[Any]) -> tuple[list[tuple[Any, int, int]], list[int]]:
    """(file, unit in it, its first row in it) of each unit that has rows, and their numbers."""
    places, units = [], []
    for file in files:
        row = 0
        for unit, count in enumerate(file.units):
            if count:
                places.append((file, unit, row))
                units.append(count)
            row += count
    if not units:
        raise DataFormatError(f"{files[0].path}: the table has no rows")
    return places, units


def _check_columns(
    path: str, found: list[str], first: str, names: list[str], choice: Choice, all_columns: bool
) -> None:
    absent = [name for name in choice.all if name not in found]
    if absent:
        raise DataFormatError(f"{path}: no column named {absent[0]!r}, which {first} has")
    added = [name for name in found if name not in names]
    if all_columns and added:
        raise DataFormatError(f"{path}: a column named {added[0]!r}, which {first} has not")


class _FilesReader(Reader):
    def __init__(self, places: list[Any], choice: Choice) -> None:
        self._places, self._choice = places, choice
        self._file: Any = None
        self._handle: Any = None
        self._names: list[str] = []

    def begin(self, unit: int) -> None:
        self._unit = unit
        self._parts: Any = None
        self._table: Any = None
        self._at = self._length = 0

    def _start(self, names: list[str]) -> None:
        file, place, _ = self._places[self._unit]
        if file is not self._file or names != self._names:
            self.close()
            file.stamp.check()
            self._handle = file.open(names)
            self._file, self._names = file, names
        self._parts = file.parts(self._handle, place, names)

    def fill(self, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None) -> int:
        choice = self._choice
        if self._parts is None:
            columns = [] if X is None else choice.columns
            weights = [] if weight is None else [choice.weight]
            self._start([*columns, *choice.targets, *weights])
        done = 0
        while done < len(y):
            if self._at == self._length:
                self._table = next(self._parts, None)
                if self._table is None:
                    raise DataFormatError(f"{self._file.path}: fewer rows than it says it has")
                self._at, self._length = 0, len(self._table[choice.targets[0]])
            count = min(len(y) - done, self._length - self._at)
            rows = slice(done, done + count)
            copy_columns(
                self._table,
                choice,
                self._at,
                None if X is None else X[rows],
                y[rows],
                None if weight is None else weight[rows],
            )
            self._at += count
            done += count
        self._file.stamp.check()
        return done

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = self._file = None

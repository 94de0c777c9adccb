"""Parquet, Arrow IPC and CSV files, and folders of them, read by pyarrow part by part."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from bcenet.data import ipc_layout
from bcenet.data.arrays import coded_arrow_column
from bcenet.data.byte_streams import PlainBytes, open_bytes
from bcenet.data.files import csv_cells, csv_numbers, csv_part, csv_records
from bcenet.data.sources import (
    Choice,
    Reader,
    Source,
    Stamp,
    copy_columns,
    is_numeric,
    refuse_text,
    suffix_of,
)
from bcenet.errors import DataChangedError, DataFormatError

# Bytes of a CSV file that are parsed at once, or looked at for its header.
_CSV_BYTES = 1 << 20
_HEADER_BYTES = 1 << 12
# Rows that Parquet files and large record batches give at once, or fewer where they are wide.
_ROWS = 65_536
_ROWS_BYTES = 1 << 26
# From this size on an Arrow IPC file is asked for the places of its values; this much of a record
# batch is read whole where they can't be told.
_IPC_LOOK_BYTES = 1 << 26
_IPC_WHOLE_BYTES = 1 << 30


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
        except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
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


def rows_at_once(columns: int) -> int:
    """How many rows of 8-byte columns are read at once: a multiple of 8."""
    return min(_ROWS, max(4096, _ROWS_BYTES // (8 * max(1, columns)) // 8 * 8))


class _ArrowFile(_File):
    """A file with a schema.

    Attributes: keys: columns that are not in the file, but in the names of its folders, each with
    the value of all its rows. The schema has them too.
    """

    kind: str
    schema: Any
    keys: dict[str, Any]

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.keys = {}

    def add_keys(self, keys: dict[str, Any]) -> None:
        import pyarrow

        for name, value in keys.items():
            if name in self.schema.names:
                raise DataFormatError(
                    f"{self.path}: column {name!r} is in the file and in the names of its folders"
                )
            self.schema = self.schema.append(pyarrow.field(name, value.type))
        self.keys = keys

    def _own(self, names: list[str]) -> list[str]:
        """The columns that must be read: those of the names that are in the file, or any."""
        own = [name for name in names if name not in self.keys]
        return own or self.schema.names[: len(self.schema) - len(self.keys)][:1]

    def open(self, names: list[str]) -> Any:
        with self.errors(self.kind):
            return self._open(self._own(names))

    def _open(self, names: list[str]) -> Any:
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        return self.schema.names

    def batches(self, handle: Any, unit: int, names: list[str]) -> Iterator[Any]:
        """The record batches of a unit, of these columns."""
        rows = 0
        with self.errors(self.kind):
            for batch in self._batches(handle, unit, self._own(names)):
                batch.validate()
                self.stamp.check()
                rows += batch.num_rows
                if rows > self.units[unit]:
                    raise DataFormatError(f"{self.path}: more rows than it says it has")
                yield self._with_keys(batch, names) if self.keys else batch

    def _with_keys(self, batch: Any, names: list[str]) -> Any:
        import pyarrow

        arrays = [
            pyarrow.repeat(self.keys[name], batch.num_rows)
            if name in self.keys
            else batch.column(name)
            for name in names
        ]
        return pyarrow.RecordBatch.from_arrays(
            arrays, schema=pyarrow.schema([self.schema.field(name) for name in names])
        )

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
            handle = self._open([])
            try:
                self.schema = handle.schema_arrow
                meta = handle.metadata
                self.units = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            finally:
                handle.close()
        if sum(self.units) != meta.num_rows:
            raise DataFormatError(
                f"{path}: not a readable Parquet file: {meta.num_rows} rows, but {sum(self.units)} "
                "in its row groups"
            )

    def _open(self, names: list[str]) -> Any:
        import pyarrow
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(
            pyarrow.OSFile(self.path), page_checksum_verification=True, buffer_size=1 << 20
        )

    def _batches(self, handle: Any, unit: int, names: list[str]) -> Iterable[Any]:
        return handle.iter_batches(
            batch_size=rows_at_once(len(names)), row_groups=[unit], columns=names, use_threads=False
        )


class _IpcFile(_ArrowFile):
    kind = "Arrow IPC"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._layout: list[ipc_layout.Batch] | None = None
        with self.errors(self.kind):
            handle = self._open([])
            self.schema = handle.reader.schema
            count = handle.reader.num_record_batches
            handle.close()
            names = self.schema.names
            size = os.path.getsize(path)
            if size > _IPC_LOOK_BYTES:
                self._layout = ipc_layout.find(path, self.schema, count)
            if self._layout is not None:
                self.units = [batch.rows for batch in self._layout]
                return
            self._check_size(size // max(1, count), "on average")
            handle = self._open(names[:1])
            try:
                self.units = [handle.reader.get_batch(i).num_rows for i in range(count)]
            finally:
                handle.close()

    def _open(self, names: list[str]) -> Any:
        return _IpcHandle(self.path, [self.schema.get_field_index(name) for name in names])

    def _batches(self, handle: Any, unit: int, names: list[str]) -> Iterable[Any]:
        step = rows_at_once(len(names))
        if self._layout is not None and self.units[unit] > step:
            layout = self._layout[unit]
            places = [self.schema.get_field_index(name) for name in names]
            if all(place >= 0 and layout.buffers[place] is not None for place in places):
                return self._slices(handle, layout, places, step)
            self._check_size(layout.size, "in its batches")
        return map(handle.reader.get_batch, [unit])

    def _slices(self, handle: Any, layout: Any, places: list[int], step: int) -> Iterable[Any]:
        """The rows of a record batch that need not be read whole."""
        import pyarrow

        fields = [self.schema.field(place) for place in places]
        kinds = [(place, field.type) for place, field in zip(places, fields, strict=True)]
        for start in range(0, layout.rows, step):
            stop = min(start + step, layout.rows)
            arrays = ipc_layout.read_rows(handle.descriptor, layout, kinds, start, stop)
            yield pyarrow.RecordBatch.from_arrays(arrays, schema=pyarrow.schema(fields))

    def _check_size(self, size: int, where: str) -> None:
        if size > _IPC_WHOLE_BYTES:
            raise DataFormatError(
                f"{self.path}: {size / 2**30:.1f} GiB {where} is too much for a record batch that "
                "must be read whole, as it is compressed, holds texts or was written by polars: "
                "write the file with batches of fewer rows (max_chunksize=65536 in pyarrow)"
            )


class _IpcHandle:
    """Reads of the file, not a memory map of it: see `bcenet.data.sources.NpyFile`."""

    def __init__(self, path: str, columns: list[int]) -> None:
        import pyarrow

        self._file = pyarrow.OSFile(path)
        options = pyarrow.ipc.IpcReadOptions(use_threads=False, included_fields=columns or None)
        self.reader = pyarrow.ipc.open_file(self._file, options=options)
        self.descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        self._file.close()
        os.close(self.descriptor)


class _CsvFile(_File):
    """A CSV file, gzipped or not, whose units are parts of about a MiB.

    The first pass over the file marks where they begin, and checks the whole of it; later ones
    begin at any mark. Where there may not be many marks, a unit has several parts.
    """

    header = b""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.units = []
        self._places: list[tuple[Any, int, int]] = []  # mark, first line, parts
        self._span = 1
        records = self.open([])
        try:
            self._find(records)
        except DataFormatError:
            self.stamp.check()
            raise
        finally:
            records.close()
        if not any(self.units):
            raise DataFormatError(f"{path}: no rows below the columns' names")

    def _find(self, records: _Records) -> None:
        """The header, and the marks of the units."""
        line = 1
        while not self.header:
            data: Any = records.next(min(_HEADER_BYTES, _CSV_BYTES))
            if not data:
                raise DataFormatError(f"{self.path}: the file is empty")
            if not _is_blank(data):
                layout = csv_part(self.path, bytes(data))
                self.names, self.header = layout.names, layout.data[: layout.below]
                records.put_back(data[layout.below :])
                data = self.header
            line += _line_ends(data)
        while True:
            mark = records.mark()
            data = records.next(_CSV_BYTES)
            if not data:
                return
            if _is_blank(data):
                self._note(mark, line, 0, records.most_marks)
                line += _line_ends(data)
            else:
                layout = self._layout(data, line)
                self._note(mark, line, len(layout.starts) - 1, records.most_marks)
                line += len(layout.line_ends) - layout.header_lines

    def _note(self, mark: Any, line: int, rows: int, most: int | None) -> None:
        """Begin a unit, or add a part to the last one."""
        if self.units and self._places[-1][2] < self._span:
            mark, line, parts = self._places[-1]
            self._places[-1] = mark, line, parts + 1
            self.units[-1] += rows
            return
        if len(self.units) == most:
            self.units = [sum(pair) for pair in zip(*[iter(self.units)] * 2, strict=True)]
            self._places = [(mark, line, 2 * parts) for mark, line, parts in self._places[::2]]
            self._span *= 2
        self.units.append(rows)
        self._places.append((mark, line, 1))

    def _layout(self, data: memoryview, line: int) -> Any:
        layout = csv_part(self.path, self.header + data, line)
        layout.check_records()
        return layout

    def open(self, names: list[str]) -> Any:
        stream = open_bytes(self.path)
        try:
            self.stamp.check(stream.fileno())
        except DataChangedError:
            stream.close()
            raise
        return _Records(stream)

    def parts(self, handle: Any, unit: int, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        rows = 0
        for data, line in self._parts(handle, unit):
            columns = csv_records(data, self.names, names)
            if columns is None:
                columns = csv_numbers(self._layout(data, line), names)
            rows += len(columns[names[0]])
            yield columns
        if rows != self.units[unit]:
            raise DataFormatError(f"{self.path}: other rows than when it was opened")

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

    def layouts(self, handle: Any, unit: int) -> Iterator[Any]:
        """The header and the records of a unit as they stand, part by part."""
        for data, line in self._parts(handle, unit):
            yield self._layout(data, line)

    def _parts(self, records: _Records, unit: int) -> Iterator[tuple[memoryview, int]]:
        """The bytes of a unit's parts, and their first lines."""
        mark, line, parts = self._places[unit]
        records.back_to(mark)
        for part in range(parts):
            try:
                data = records.next(_CSV_BYTES)
            finally:  # what is wrong in a file that changed is that it changed
                self.stamp.check(records.fileno())
            if not _is_blank(data):
                yield data, line
            if part + 1 < parts:
                line += _line_ends(data)


class _Records:
    """Whole records of a CSV file, one part after another, in a buffer that is used again."""

    def __init__(self, stream: PlainBytes) -> None:
        self._stream = stream
        self._buffer = bytearray(_CSV_BYTES)
        begin = bytearray(len(codecs.BOM_UTF8))
        count = stream.read(memoryview(begin))
        self._rest = bytes(begin[:count]).removeprefix(codecs.BOM_UTF8)  # before what comes next
        self.most_marks = stream.most_marks
        self.fileno, self.close = stream.fileno, stream.close

    def next(self, step: int) -> memoryview:
        """The next whole records, until the next call; none at the end of the file.

        They are those of ``step`` bytes or, where these hold none, of a multiple: so the same when
        reading begins here again. The end of the file ends the last record.
        """
        data, size = self._buffer, len(self._rest)
        data[:size] = self._rest
        while True:
            wanted = step - size % step
            if size + wanted > len(data):
                data = self._buffer = data[:size] + bytes(wanted)
            view = memoryview(data)
            read = self._stream.read(view[size : size + wanted])
            size += read
            ended = read < wanted
            end = size if ended else _last_line_end(data, size)
            if end or ended:
                self._rest = bytes(view[end:size])
                return view[:end]

    def put_back(self, data: memoryview) -> None:
        self._rest = bytes(data) + self._rest

    def mark(self) -> Any:
        return self._stream.mark(self._rest)

    def back_to(self, mark: Any) -> None:
        self._rest = self._stream.back_to(mark)


def _last_line_end(data: bytearray, size: int) -> int:
    """Where the last whole record of ``size`` bytes ends: after an LF outside quotes; 0 without."""
    end = data.rfind(b"\n", 0, size) + 1
    while end and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    return end


def _is_blank(data: memoryview) -> bool:
    return not data or (data[0] in b"\r\n" and not bytes(data).strip(b"\r\n"))


def _line_ends(data: Any) -> int:
    """How many line ends: LF, and CR without one."""
    octets = np.frombuffer(data, np.uint8)
    feeds, returns = octets == 10, octets == 13
    pairs = np.count_nonzero(returns[:-1] & feeds[1:])
    return int(np.count_nonzero(feeds) + np.count_nonzero(returns) - pairs)


KINDS = {
    ".parquet": _ParquetFile,
    ".pq": _ParquetFile,
    ".arrow": _IpcFile,
    ".feather": _IpcFile,
    ".ipc": _IpcFile,
    ".csv": _CsvFile,
    ".csv.gz": _CsvFile,
}


def open_files(paths: list[str], folder: str | None = None) -> list[Any]:
    """The files at the paths, all of one kind.

    Of Parquet and Arrow files in a folder whose names under it say ``key=value``, as Hive, Spark
    and pandas write them, the keys are columns.
    """
    require_pyarrow()
    kinds = {KINDS[suffix_of(path)] for path in paths}
    if len(kinds) > 1:
        raise ValueError(f"the files must be of one kind; got {', '.join(paths[:4])}")
    kind = kinds.pop()
    if folder is not None and issubclass(kind, _ArrowFile):
        below = {os.path.dirname(os.path.relpath(path, folder)) for path in paths}
        if any("=" in name for path in below for name in path.split(os.sep)):
            return open_fragments(_hive(paths, folder, kind))
    return [kind(path) for path in paths]


def _hive(paths: list[str], folder: str, kind: Any) -> Any:
    import pyarrow
    import pyarrow.dataset

    form = "parquet" if kind is _ParquetFile else "ipc"
    try:
        return pyarrow.dataset.dataset(
            paths, format=form, partitioning="hive", partition_base_dir=folder
        )
    except (pyarrow.ArrowException, OSError) as error:
        what = str(error).splitlines()[0]
        raise DataFormatError(f"{folder}: not a folder of {kind.kind} files: {what}") from error


def open_fragments(dataset: Any) -> list[Any]:
    """The files of a pyarrow dataset, with the keys of its partitions.

    Raises: ValueError where rows or columns would be read otherwise than the dataset does.
    """
    require_pyarrow()
    import pyarrow
    import pyarrow.dataset

    try:
        fragments = list(dataset.get_fragments())
    except ValueError as error:
        raise ValueError(f"source must be a pyarrow dataset as it was opened; {error}") from None
    kinds = {
        pyarrow.dataset.ParquetFileFormat: _ParquetFile,
        pyarrow.dataset.IpcFileFormat: _IpcFile,
    }
    found = []
    for fragment in fragments:
        kind = kinds.get(type(getattr(fragment, "format", None)))
        if kind is None or fragment.filesystem.type_name != "local" or fragment.buffer is not None:
            raise ValueError(
                "source must be a pyarrow dataset of Parquet or Arrow IPC files on the local file "
                "system (of others, give batches: an object that takes them from to_batches "
                f"anew at each pass); got {fragment!r}"
            )
        file = kind(fragment.path)
        if kind is _ParquetFile and fragment.num_row_groups != len(file.units):
            raise ValueError(
                f"source must be a pyarrow dataset of whole files; got {fragment.num_row_groups} "
                f"of the {len(file.units)} row groups of {fragment.path}"
            )
        values = pyarrow.dataset.get_partition_keys(fragment.partition_expression)
        found.append((file, values))
    names = {name for _, values in found for name in values}
    keys = [field for field in dataset.schema if field.name in names]
    for file, values in found:
        file.add_keys({field.name: _key(values.get(field.name), field.type) for field in keys})
    if not found:
        raise DataFormatError("the dataset has no files")
    return [file for file, _ in found]


def _key(value: Any, kind: Any) -> Any:
    import pyarrow

    is_dictionary = pyarrow.types.is_dictionary(kind)
    return pyarrow.scalar(value, kind.value_type if is_dictionary else kind)


class FilesSource(Source):
    """Files of one kind and the same columns: row groups, record batches or parts are units.

    Arguments: schema: of the dataset that the files belong to; the first file's if None.
    """

    def __init__(
        self, files: list[Any], target: Any, columns: Any, weight: Any, schema: Any = None
    ) -> None:
        self._files = files
        first = files[0]
        self.name = first.path
        has_types = isinstance(first, _ArrowFile)
        names = first.names
        like = first.path
        if schema is not None:
            names, like = schema.names, "the dataset"
        elif has_types:
            schema = first.schema
        choice = self._choice = Choice(like, names, target, columns, weight)
        all_columns = columns is None and like == first.path
        for file in self._files:
            _check_columns(file.path, file.names, like, names, choice, all_columns)
            if has_types:
                self._check_types(file, schema, like)
        self.columns, self.labels = choice.columns, choice.labels
        if has_types:
            dtypes = {
                name: np.dtype(schema.field(name).type.to_pandas_dtype()) for name in choice.all
            }
        else:
            dtypes = dict.fromkeys(choice.all, np.dtype(np.float64))
        self.x_dtype = np.result_type(*(dtypes[name] for name in choice.columns))
        self.y_dtype = np.result_type(*(dtypes[name] for name in choice.targets))
        self.weight_dtype = None if weight is None else dtypes[weight]
        self._places, self.units = places_of(self._files)

    def _check_types(self, file: Any, schema: Any, like: str) -> None:
        import pyarrow

        for name in self._choice.all:
            kind, wanted = file.schema.field(name).type, schema.field(name).type
            types = pyarrow.types
            if not (
                types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
            ) or not is_numeric(np.dtype(kind.to_pandas_dtype())):
                refuse_text(file.path, name, kind)
            if kind != wanted:
                raise DataFormatError(
                    f"{file.path}: column {name!r} is {kind}; in {like} it is {wanted}"
                )

    def open(self) -> Reader:
        return _FilesReader(self._places, self._choice)

    def where(self, unit: int) -> tuple[str, int]:
        file, _, row = self._places[unit]
        return file.path, row


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
    path: str, found: list[str], like: str, names: list[str], choice: Choice, all_columns: bool
) -> None:
    for name in choice.all:
        if found.count(name) != 1:
            how_many = "more than one column" if name in found else "no column"
            raise DataFormatError(f"{path}: {how_many} named {name!r}, of which {like} has one")
    added = [name for name in found if name not in names]
    if all_columns and added:
        raise DataFormatError(f"{path}: a column named {added[0]!r}, which {like} has not")


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

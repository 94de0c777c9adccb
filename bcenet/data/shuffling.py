"""Rewriting files once in random order, in bounded memory."""

from __future__ import annotations

import itertools
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.atomic_file import write_file
from bcenet.data.dataset import paths_of, random_bits, window_order
from bcenet.data.sources import NpyFile, suffix_of
from bcenet.errors import DataFormatError

# Rows of a bucket on average, and bytes that are read before they are dealt out.
_BUCKET_ROWS = 65_536
_CHUNK_BYTES = 1 << 26


def shuffle(source: str | os.PathLike[str], out: str | os.PathLike[str], *, seed: int = 0) -> int:
    """Write the rows of a file, or of a folder's files, in random order into one file.

    Rows are dealt at random into buckets of about 65536 rows, temporary files beside ``out``;
    then each is shuffled and written. Every order of the rows is equally likely, and it is a
    function of the seed and the number of rows: X.npy and y.npy that are shuffled one by one
    still belong together. Memory holds a bucket and 64 MiB of rows at most; the disk needs room
    for the rows twice.

    Arguments:
        source: .npy (of any shape), CSV (also .csv.gz), Parquet or Arrow IPC; a folder's files
            are taken one after another. Columns may hold anything.
        out: a name with the same ending, or .arrow and .parquet for each other, or .csv and
            .csv.gz; replaced at the end, or left as it was. Row groups and record batches have
            65536 rows.
        seed: from 0 to 2^64 - 1.

    Returns: the number of rows.

    Raises: ValueError, DataFormatError, DataChangedError and OSError, naming the file.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> from bcenet.data import shuffle
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(folder + "/y.npy", np.arange(5))
        ...     rows = shuffle(folder + "/y.npy", folder + "/z.npy", seed=1)
        ...     rows, sorted(np.load(folder + "/z.npy").tolist())
        (5, [0, 1, 2, 3, 4])
    """
    seed = checks.integer("seed", seed, 0, 2**64 - 1)
    paths = paths_of(os.fspath(source))
    target = os.fspath(out)
    form = _form(paths, os.fspath(source), target)
    if any(os.path.exists(target) and os.path.samefile(path, target) for path in paths):
        raise ValueError(f"out must not be a file that is read; got {target!r}")
    folder = os.path.dirname(os.path.realpath(target))
    with tempfile.TemporaryDirectory(prefix=".bcenet-", dir=folder) as spill:
        buckets = max(1, -(-form.rows // _BUCKET_ROWS))
        counts = np.zeros(buckets, np.int64)
        position = 0
        for chunk, count in form.chunks():
            positions = np.arange(position, position + count, dtype=np.uint64)
            top = random_bits(positions, seed) >> np.uint64(32)
            bucket = (top * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)
            order = np.argsort(bucket, kind="stable")
            edges = np.searchsorted(bucket[order], np.arange(buckets + 1))
            for number in np.flatnonzero(np.diff(edges)).tolist():
                rows = order[edges[number] : edges[number + 1]]
                with open(os.path.join(spill, str(number)), "ab") as file:
                    form.spill(file, chunk, rows)
                counts[number] += len(rows)
            position += count

        def in_order() -> Iterator[Any]:
            for number in np.flatnonzero(counts).tolist():
                path = os.path.join(spill, str(number))
                rows = window_order(seed, 0, number, int(counts[number]))
                yield form.gather(path, rows)
                os.unlink(path)

        write_file(target, form.write(in_order()))
    return position


def _form(paths: list[str], folder: str, target: str) -> Any:
    suffixes = {suffix_of(path) for path in paths}
    suffix = suffix_of(target)
    kinds = {_FORMS[ending] for ending in suffixes}
    if len(kinds) > 1 or _FORMS.get(suffix) not in kinds:
        raise ValueError(
            f"out must end as the files that are read do, {', '.join(sorted(suffixes))}; "
            f"got {target!r}"
        )
    return kinds.pop()(paths, folder, suffix)


class _Rows:
    """Rows of one array in a .npy file, as bytes."""

    def __init__(self, paths: list[str], folder: str, suffix: str) -> None:
        if len(paths) > 1:
            raise ValueError("source must be one .npy file; got a folder of them")
        self._file = NpyFile(paths[0])
        self.rows = self._file.shape[0] if self._file.shape else 0
        if self.rows == 0:
            raise DataFormatError(f"{paths[0]}: the array has no rows")
        self._row = (*self._file.shape[1:],)

    def chunks(self) -> Iterator[tuple[Any, int]]:
        size = max(1, int(np.prod(self._row)) * self._file.dtype.itemsize)
        step = max(1, _CHUNK_BYTES // size)
        reader = self._file.open()
        try:
            for start in range(0, self.rows, step):
                chunk = np.empty((min(step, self.rows - start), *self._row), self._file.dtype)
                reader.read(start, chunk)
                yield chunk, len(chunk)
        finally:
            reader.close()

    def spill(self, file: Any, chunk: np.ndarray, rows: np.ndarray) -> None:
        file.write(chunk[rows].tobytes())

    def gather(self, path: str, order: np.ndarray) -> np.ndarray:
        return np.fromfile(path, self._file.dtype).reshape(-1, *self._row)[order]

    def write(self, parts: Iterable[np.ndarray]) -> Iterator[bytes]:
        import io

        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {
                "shape": self._file.shape,
                "fortran_order": False,
                "descr": np.lib.format.dtype_to_descr(self._file.dtype),
            },
        )
        yield header.getvalue()
        for part in parts:
            yield part.tobytes()


class _Files:
    """Files that pyarrow reads, of one kind."""

    def __init__(self, paths: list[str], folder: str, suffix: str) -> None:
        from bcenet.data import arrow_sources

        self._suffix = suffix
        self._files = arrow_sources.open_files(paths, folder)
        self.rows = sum(sum(file.units) for file in self._files)
        if self.rows == 0:
            raise DataFormatError(f"{paths[0]}: the table has no rows")

    def _units(self, names: list[str]) -> Iterator[tuple[Any, Any, int]]:
        for file in self._files:
            handle = file.open(names)
            try:
                for unit in range(len(file.units)):
                    yield file, handle, unit
                file.stamp.check()
            finally:
                handle.close()


class _Records(_Files):
    """Records of CSV files, as they stand."""

    def __init__(self, paths: list[str], folder: str, suffix: str) -> None:
        super().__init__(paths, folder, suffix)
        first = self._files[0]
        for file in self._files:
            if file.names != first.names:
                raise DataFormatError(f"{file.path}: other columns than in {first.path}")
        self._header = first.header.strip(b"\r\n") + b"\n"

    def chunks(self) -> Iterator[tuple[Any, int]]:
        held: list[bytes] = []
        size = 0
        for file, handle, unit in self._units([]):
            for layout in file.layouts(handle, unit):
                edges = zip(layout.starts[1:].tolist(), layout.ends[1:].tolist(), strict=True)
                held += [layout.data[start:end] for start, end in edges]
                size += len(layout.data)
                if size >= _CHUNK_BYTES:
                    yield held, len(held)
                    held, size = [], 0
        if held:
            yield held, len(held)

    def spill(self, file: Any, chunk: list[bytes], rows: np.ndarray) -> None:
        for row in rows.tolist():
            file.write(chunk[row] + b"\n")

    def gather(self, path: str, order: np.ndarray) -> bytes:
        from bcenet.data.files import csv_part

        with open(path, "rb") as file:
            data = self._header + file.read()
        layout = csv_part(path, data)
        starts, ends = layout.starts[1:].tolist(), layout.ends[1:].tolist()
        return b"".join(data[starts[row] : ends[row]] + b"\n" for row in order.tolist())

    def write(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        text = itertools.chain([self._header], parts)
        if self._suffix != ".csv.gz":
            yield from text
            return
        packing = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        yield from map(packing.compress, text)
        yield packing.flush()


class _Batches(_Files):
    """Record batches of Arrow IPC and Parquet files."""

    def __init__(self, paths: list[str], folder: str, suffix: str) -> None:
        super().__init__(paths, folder, suffix)
        first = self._files[0]
        for file in self._files:
            if not file.schema.equals(first.schema):
                raise DataFormatError(f"{file.path}: other columns or types than in {first.path}")
        self._schema = first.schema

    def chunks(self) -> Iterator[tuple[Any, int]]:
        held: list[Any] = []
        size = 0
        for file, handle, unit in self._units(self._schema.names):
            for batch in file.batches(handle, unit, self._schema.names):
                held.append(batch)
                size += batch.nbytes
                if size >= _CHUNK_BYTES:
                    yield self._together(held)
                    held, size = [], 0
        if held:
            yield self._together(held)

    def _together(self, batches: list[Any]) -> tuple[Any, int]:
        import pyarrow

        table = pyarrow.Table.from_batches(batches, self._schema)
        return table, table.num_rows

    def spill(self, file: Any, chunk: Any, rows: np.ndarray) -> None:
        import pyarrow

        with pyarrow.ipc.new_stream(file, self._schema) as writer:
            writer.write_table(chunk.take(rows).combine_chunks())

    def gather(self, path: str, order: np.ndarray) -> Any:
        import pyarrow

        tables = []
        with pyarrow.OSFile(path) as file:
            while file.tell() < file.size():
                with pyarrow.ipc.open_stream(file) as reader:
                    tables.append(reader.read_all())
        return pyarrow.concat_tables(tables).take(order).combine_chunks()

    def write(self, parts: Iterable[Any]) -> Iterator[bytes]:
        import pyarrow
        import pyarrow.parquet

        sink = _Sink()
        if self._suffix in (".parquet", ".pq"):
            writer = pyarrow.parquet.ParquetWriter(sink, self._schema, write_page_checksum=True)
            options = {"row_group_size": _BUCKET_ROWS}
        else:
            writer = pyarrow.ipc.new_file(sink, self._schema)
            options = {"max_chunksize": _BUCKET_ROWS}
        with writer:
            for table in parts:
                writer.write_table(table, **options)
                yield from sink.take()
        yield from sink.take()


class _Sink:
    """A file that is written to, whose content is taken away part by part."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._length += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[bytes]:
        parts, self._parts = self._parts, []
        return parts


_FORMS: dict[str, Any] = {
    ".npy": _Rows,
    ".csv": _Records,
    ".csv.gz": _Records,
    ".parquet": _Batches,
    ".pq": _Batches,
    ".arrow": _Batches,
    ".feather": _Batches,
    ".ipc": _Batches,
}

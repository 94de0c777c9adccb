"""Where rows come from, part by part: arrays, .npy files, frames and batches of one's own.

A source says what its rows are and gives readers; a reader begins a unit (a part of the rows that
can be read without the others) and fills arrays with its rows, from its first to its last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.data.arrays import as_table
from bcenet.errors import DataChangedError, DataFormatError

BLOCK_ROWS = 4096
"""Rows of a unit, where the data have no parts of their own."""


class Source:
    """What all sources have.

    Attributes:
        name: what messages call it. columns: names of X's columns. x_dtype, y_dtype, weight_dtype:
        as they are read; the last is None without weights. labels: () for y of shape (n,), (k,)
        for (n, k). units: rows of each unit, or None where the rows come in one sequence of
        unknown length. classes: (negative, positive) where y is made of labels. finite: whether X
        needs no check of its numbers.
    """

    name: str
    columns: list[str]
    x_dtype: np.dtype
    y_dtype: np.dtype
    weight_dtype: np.dtype | None
    labels: tuple[int, ...]
    units: list[int] | None
    classes: tuple[Any, Any] | None = None
    finite = False

    def open(self) -> Reader:
        raise NotImplementedError

    def where(self, unit: int) -> tuple[str, int]:
        """What messages call the place of a unit, and the number of its first row there."""
        raise NotImplementedError


class Reader:
    """Reads a source; for one thread at a time."""

    def begin(self, unit: int) -> None:
        """The next `fill` starts with the unit's first row."""
        raise NotImplementedError

    def fill(self, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None) -> int:
        """The next len(y) rows of the unit, without their columns if X is None; their number.

        Fewer than asked for only at the end of a sequence of unknown length.
        """
        raise NotImplementedError

    def end(self) -> None:
        """All rows were read: DataChangedError if there are more."""

    def close(self) -> None:
        """Let go of files."""


# --- files


class Stamp:
    """What shows that a file is the one that was opened first: identity, size, time of change."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._taken = self._of(os.stat(path))

    @staticmethod
    def _of(status: os.stat_result) -> tuple[int, ...]:
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def check(self, descriptor: int | None = None) -> None:
        """DataChangedError if the file, or the one at its path, is another one by now."""
        try:
            status = os.stat(self.path) if descriptor is None else os.fstat(descriptor)
        except FileNotFoundError:
            raise DataChangedError(f"{self.path}: the file went away while it was used") from None
        now = self._of(status)
        if now != self._taken:
            size = self._taken[2]
            how = "" if now[2] == size else f" (from {size} to {now[2]} bytes)"
            raise DataChangedError(f"{self.path}: the file changed while it was used{how}")


class NpyFile:
    """An array in a .npy file, read through reads of the file.

    A memory map of a file that shrinks ends the process by SIGBUS; a read that gets too little
    is an error like any other.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamp = Stamp(path)
        with open(path, "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                self.shape, self._by_columns, self.dtype = read_header(file)
            except (ValueError, KeyError) as error:
                raise DataFormatError(f"{path}: not a readable .npy file: {error}") from None
            self._offset = file.tell()
            size = os.fstat(file.fileno()).st_size
        wanted = self._offset + int(np.prod(self.shape)) * self.dtype.itemsize
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
            raise DataFormatError(f"{path}: must hold real numbers; got dtype {self.dtype}")
        if size < wanted:
            raise DataFormatError(f"{path}: cut off: {size} bytes of {wanted}")
        self._by_columns = self._by_columns and len(self.shape) > 1

    def open(self) -> _NpyReader:
        return _NpyReader(self)


class _NpyReader:
    def __init__(self, file: NpyFile) -> None:
        self._file = file
        self._descriptor = os.open(file.path, os.O_RDONLY)
        try:
            file.stamp.check(self._descriptor)
        except DataChangedError:
            self.close()
            raise

    def read(self, start: int, out: np.ndarray) -> None:
        """Rows from ``start`` on into ``out``, C-contiguous and of the file's dtype."""
        file = self._file
        if not file._by_columns:
            self._read(start * (out.nbytes // len(out)), out)
        else:
            columns = np.empty(out.shape[::-1], out.dtype)
            for j, column in enumerate(columns):
                self._read((j * file.shape[0] + start) * out.itemsize, column)
            out[...] = columns.T
        file.stamp.check(self._descriptor)

    def _read(self, offset: int, out: np.ndarray) -> None:
        rest = out.reshape(-1).view(np.uint8).data
        offset += self._file._offset
        while rest:
            count = os.preadv(self._descriptor, [rest], offset)
            if count == 0:
                self._file.stamp.check(self._descriptor)
                raise DataChangedError(f"{self._file.path}: the file ends before its last row")
            rest, offset = rest[count:], offset + count

    def close(self) -> None:
        os.close(self._descriptor)


class _Array:
    """An array in memory, read as a file is."""

    path = None

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def open(self) -> _Array:
        return self

    def read(self, start: int, out: np.ndarray) -> None:
        out[...] = self._array[start : start + len(out)]

    def close(self) -> None:
        pass


# --- arrays and .npy files


class ArraySource(Source):
    """X of shape (n, inputs), y and weights: arrays or paths of .npy files.

    Where y is a column of X, ``target`` is its place.
    """

    def __init__(self, X: Any, y: Any, weight: Any = None, target: int | None = None) -> None:
        self._parts: list[Any] = [
            None if part is None else _part(name, part)
            for name, part in (("X", X), ("y", y), ("weight", weight))
        ]
        x, y_part, w = self._parts
        self.name = next((part.path for part in self._parts if part is not None and part.path), "X")
        if len(x.shape) != 2:
            raise ValueError(f"X must have shape (n, inputs); got {x.shape}")
        rows, width = x.shape
        self._target = target
        self._others: Any = slice(None)
        if target is not None:
            target = self._target = checks.integer("target", target, -width, width - 1) % width
            self._others = _all_but(target, width)
            self.labels, self.y_dtype = (), x.dtype
        else:
            if len(y_part.shape) not in (1, 2) or y_part.shape[0] != rows:
                raise ValueError(f"y must have shape ({rows},) or ({rows}, k); got {y_part.shape}")
            self.labels, self.y_dtype = y_part.shape[1:], y_part.dtype
        if w is not None and w.shape != (rows,):
            raise ValueError(f"weight must have shape ({rows},); got {w.shape}")
        self.columns = [f"x{i}" for i in range(width) if i != target]
        self.x_dtype = x.dtype
        self.weight_dtype = None if w is None else w.dtype
        self.units = units_of(rows)

    def open(self) -> Reader:
        return _ArrayReader(self)

    def where(self, unit: int) -> tuple[str, int]:
        return self.name, unit * BLOCK_ROWS


class _ArrayReader(Reader):
    def __init__(self, source: ArraySource) -> None:
        self._source = source
        self._at = 0
        self._open: list[Any] = []
        try:
            for part in source._parts:
                self._open.append(None if part is None else part.open())
        except BaseException:
            self.close()
            raise

    def begin(self, unit: int) -> None:
        self._at = unit * BLOCK_ROWS

    def fill(self, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None) -> int:
        x_part, y_part, weight_part = self._open
        if y_part is None:
            whole = np.empty((len(y), len(self._source.columns) + 1), y.dtype)
            x_part.read(self._at, whole)
            y[...] = whole[:, self._source._target]
            if X is not None:
                X[...] = whole[:, self._source._others]
        else:
            if X is not None:
                x_part.read(self._at, X)
            y_part.read(self._at, y)
        if weight is not None:
            weight_part.read(self._at, weight)
        self._at += len(y)
        return len(y)

    def close(self) -> None:
        for part in self._open:
            if part is not None:
                part.close()


def _part(name: str, value: Any) -> Any:
    if is_path(value):
        return NpyFile(os.fspath(value))
    return _Array(checks.real_array(name, value))


def _all_but(place: int, width: int) -> Any:
    """The other columns: as a slice where they lie side by side, which copies faster."""
    if place == 0:
        return slice(1, None)
    return slice(width - 1) if place == width - 1 else [i for i in range(width) if i != place]


def units_of(rows: int) -> list[int]:
    """Units of BLOCK_ROWS rows, the last one shorter."""
    return [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]


def is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def suffix_of(path: str) -> str:
    """What a file's name says of its format: its ending in lower case, two of them for .csv.gz."""
    root, suffix = os.path.splitext(path.lower())
    return ".csv.gz" if suffix == ".gz" and root.endswith(".csv") else suffix


# --- tables


class Choice:
    """The columns of a table that are the target, the weight and X.

    Arguments:
        names: of all columns. target: a name, or a sequence of them for several labels.
    """

    def __init__(self, source: str, names: Sequence[str], target: Any, columns: Any, weight: Any):
        self.labels: tuple[int, ...]
        if isinstance(target, str):
            self.targets, self.labels = [target], ()
        elif (
            isinstance(target, (list, tuple)) and target and all(isinstance(t, str) for t in target)
        ):
            self.targets, self.labels = list(target), (len(target),)
        else:
            raise TypeError(
                f"target must name a column of {source}, or several; got {checks.describe(target)}"
            )
        self.weight = weight
        if weight is not None and not isinstance(weight, str):
            raise TypeError(f"weight must name a column; got {checks.describe(weight)}")
        apart = [*self.targets, *([] if weight is None else [weight])]
        if columns is None:
            self.columns = [name for name in names if name not in apart]
        elif isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
            raise TypeError(f"columns must be a sequence of names; got {checks.describe(columns)}")
        else:
            self.columns = list(columns)
        for name in [*apart, *self.columns]:
            if list(names).count(name) != 1:
                known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise ValueError(f"{source} has no column {name!r} of its own; it has {known}")
        both = set(apart) & set(self.columns)
        if not self.columns or both:
            raise ValueError(f"columns must be some, and not the target or the weight; got {both}")
        self.all = [*self.columns, *apart]


def is_numeric(dtype: np.dtype) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def refuse_text(source: str, name: str, what: Any) -> None:
    raise ValueError(
        f"{source}: column {name!r} must hold numbers; got {what} (choose others by columns=, "
        "or encode the table by bcenet.tabular)"
    )


class TableSource(Source):
    """Columns in memory: whatever `bcenet.data.as_table` takes."""

    def __init__(self, table: Any, target: Any, columns: Any, weight: Any) -> None:
        self.name = "the table"
        self._table = as_table(table)
        choice = Choice(self.name, list(self._table), target, columns, weight)
        for name in choice.all:
            if not is_numeric(self._table[name].dtype):
                refuse_text(self.name, name, self._table[name].dtype)
        self._choice = choice
        self.columns, self.labels = choice.columns, choice.labels
        self.x_dtype = np.result_type(*(self._table[name].dtype for name in choice.columns))
        self.y_dtype = np.result_type(*(self._table[name].dtype for name in choice.targets))
        self.weight_dtype = None if weight is None else self._table[weight].dtype
        self.units = units_of(len(self._table[choice.columns[0]]))

    def open(self) -> Reader:
        return _TableReader(self._table, self._choice)

    def where(self, unit: int) -> tuple[str, int]:
        return self.name, unit * BLOCK_ROWS


class _TableReader(Reader):
    def __init__(self, table: dict[str, np.ndarray], choice: Choice) -> None:
        self._table, self._choice = table, choice
        self._at = 0

    def begin(self, unit: int) -> None:
        self._at = unit * BLOCK_ROWS

    def fill(self, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None) -> int:
        copy_columns(self._table, self._choice, self._at, X, y, weight)
        self._at += len(y)
        return len(y)


def copy_columns(
    table: Mapping[str, np.ndarray],
    choice: Choice,
    start: int,
    X: np.ndarray | None,
    y: np.ndarray,
    weight: np.ndarray | None,
) -> None:
    """Rows of the columns from ``start`` on, as many as y has."""
    rows = slice(start, start + len(y))
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one; checks come later
        if X is not None:
            for place, name in enumerate(choice.columns):
                X[:, place] = table[name][rows]
        for place, name in enumerate(choice.targets):
            (y[:, place] if choice.labels else y)[...] = table[name][rows]
        if weight is not None:
            weight[...] = table[choice.weight][rows]


# --- batches


class BatchSource(Source):
    """A re-iterable of (X, y) or (X, y, sample_weight): each pass must give the same rows."""

    units = None

    def __init__(self, batches: Iterable[Any]) -> None:
        self.name = "the batches"
        self._batches = batches
        first = next(iter(self), None)
        if first is None:
            raise ValueError("the batches must be at least one; got none")
        X, y, weight = first
        self.x_dtype, self.y_dtype = X.dtype, y.dtype
        self.weight_dtype = None if weight is None else weight.dtype
        self.labels = y.shape[1:]
        self.columns = [f"x{i}" for i in range(X.shape[1])]
        self._kinds = [_kind(array) for array in first]

    def __iter__(self):
        """The batches, checked, as (X, y, weight or None)."""
        iterator = iter(self._batches)
        if iterator is self._batches:
            raise TypeError(
                "batches must start anew at each pass: a list, or an object with __iter__; "
                f"got {checks.describe(self._batches)}, which can be read only once"
            )
        kinds = getattr(self, "_kinds", None)
        for number, batch in enumerate(iterator):
            checked = _check_batch(number, batch)
            found = [_kind(array) for array in checked]
            if kinds is not None and found != kinds:
                raise ValueError(
                    "batches must have the dtypes and columns of the first one; "
                    f"batch {number} differs"
                )
            yield checked

    def open(self) -> Reader:
        return _BatchReader(self)

    def where(self, unit: int) -> tuple[str, int]:
        return self.name, 0


class _BatchReader(Reader):
    def __init__(self, source: BatchSource) -> None:
        self._source = source

    def begin(self, unit: int) -> None:
        self._iterator = iter(self._source)
        self._batch: tuple[Any, ...] = (None, (), None)
        self._at = 0

    def fill(self, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None) -> int:
        done = 0
        while done < len(y):
            if self._at == len(self._batch[1]):
                batch = next(self._iterator, None)
                if batch is None:
                    break
                self._batch, self._at = batch, 0
            count = min(len(y) - done, len(self._batch[1]) - self._at)
            for out, array in zip((X, y, weight), self._batch, strict=True):
                if out is not None:
                    out[done : done + count] = array[self._at : self._at + count]
            self._at += count
            done += count
        return done

    def end(self) -> None:
        if self._at < len(self._batch[1]) or any(len(y) for _, y, _ in self._iterator):
            raise DataChangedError(f"{self._source.name}: more rows than in the pass before")


def _kind(array: np.ndarray | None) -> Any:
    return None if array is None else (array.dtype, array.shape[1:])


def _check_batch(number: int, batch: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise ValueError(
            f"batch {number} must be (X, y) or (X, y, sample_weight); got {checks.describe(batch)}"
        )
    X, y = (checks.real_array(f"batch {number} {n}", a) for n, a in zip("Xy", batch, strict=False))
    if X.ndim != 2 or y.ndim not in (1, 2) or len(X) != len(y):
        raise ValueError(
            f"batch {number} must hold X of shape (n, inputs) and y of shape (n,) or (n, k); "
            f"got {X.shape} and {y.shape}"
        )
    weight = checks.real_array(f"batch {number} sample_weight", batch[2]) if batch[2:] else None
    if weight is not None and weight.shape != y.shape[:1]:
        raise ValueError(
            f"batch {number} sample_weight must have shape ({len(y)},); got {weight.shape}"
        )
    return X, y, weight

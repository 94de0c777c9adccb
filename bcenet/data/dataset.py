"""Datasets: rows that `bcenet.fit` reads window by window, in an order that is a function of the
seed and the epoch."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bcenet import checks, kernels
from bcenet import rows as rows_
from bcenet.data.sources import (
    BLOCK_ROWS,
    ArraySource,
    BatchSource,
    Reader,
    Source,
    TableSource,
    is_path,
    suffix_of,
)
from bcenet.errors import DataChangedError, DataFormatError
from bcenet.records import Record

WINDOW_ROWS = 32 * BLOCK_ROWS
# Windows of wide rows hold fewer of them: this many bytes of X at most.
_WINDOW_BYTES = 1 << 27
# Units of which a fingerprint takes the first rows.
_SAMPLED_UNITS = 32


def open_dataset(
    source: Any,
    *,
    target: Any = None,
    columns: Any = None,
    weight: Any = None,
    encoder: Any = None,
    classes: Any = None,
    window_rows: int | None = None,
) -> Dataset:
    """A dataset that `bcenet.fit` trains on without holding it in memory.

    Numbers only, unless an encoder takes texts and missing values. Files are read by reads, not
    by memory maps, and must stay as they are while the dataset is used.

    Arguments:
        source: one of
            - a .npy file or an array (n, columns), of which ``target`` is a column's place (from
              0, or from -1 for the last) or the targets themselves: a .npy file or an array;
            - a tuple (X, y) or (X, y, weight) of .npy files or arrays, without a ``target``;
            - a Parquet, Arrow IPC (.arrow, .feather, .ipc) or CSV file (.csv, .csv.gz), a folder
              of them (with the folders in it, sorted by name), or a list of files; folders named
              ``key=value`` in one of Parquet or Arrow files make columns;
            - a pyarrow dataset of local Parquet or Arrow IPC files;
            - a pandas or polars frame, a pyarrow Table, a mapping of names to columns;
            - beside an encoder, what `read_blocks` gave: the files are then not checked again;
            - a re-iterable of batches (X, y) or (X, y, sample_weight), without a ``target``: a
              list, or an object whose ``__iter__`` starts anew with the same rows every time.
        target: of a table, the name of the column of 0 and 1 (or probabilities), or a list of
            names for several outputs.
        columns: of a table, the names of X's columns in order; all but target and weight if None.
        weight: sample weights: the name of a table's column, or a .npy file or an array (n,).
        encoder: a fitted `bcenet.tabular.TabularEncoder`, which makes X of a table's columns as
            they are read. The target is then one column with two labels, of text or numbers.
        classes: (negative, positive): the labels beside an encoder. None finds them in a pass
            over the target; positive is 1, True, "yes", "true" or "positive", else the second in
            sorted order.
        window_rows: rows that are shuffled among each other and held in memory, twice; None
            takes 131072, or fewer where those would take more than 128 MiB of X. Never chosen
            from the memory that the machine has, so that the weights are the same everywhere.

    Returns: a `Dataset`.

    Raises: ValueError and TypeError naming the argument; DataFormatError naming the file and the
    column; OSError; ImportError without pyarrow where it is needed.

    Example:
        >>> import bcenet, numpy as np
        >>> X = np.arange(8.0).reshape(8, 1) / 8
        >>> dataset = bcenet.data.open_dataset((X, (X[:, 0] > 0.5).astype(int)))
        >>> dataset
        Dataset(X, 8 rows, 1 columns)
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, dataset, epochs=3, random_state=0)
        >>> len(history.loss)
        3
    """
    if encoder is None:
        if classes is not None:
            raise ValueError("classes must be None without an encoder")
        opened = _source(source, target, columns, weight)
    else:
        if columns is not None:
            raise ValueError("columns must be None beside an encoder, which has its own")
        from bcenet.data.encoded import EncodedSource
        from bcenet.data.tables import open_tables

        opened = EncodedSource(open_tables(source), target, encoder, classes, weight)
    if window_rows is None:
        row = max(1, len(opened.columns) * opened.x_dtype.itemsize)
        fitting = _WINDOW_BYTES // row // BLOCK_ROWS * BLOCK_ROWS
        window_rows = max(BLOCK_ROWS, min(WINDOW_ROWS, fitting))
    return Dataset(opened, checks.integer("window_rows", window_rows, 1))


def _source(source: Any, target: Any, columns: Any, weight: Any) -> Source:
    if isinstance(source, tuple):
        if target is not None or weight is not None or len(source) not in (2, 3):
            raise ValueError(
                "a tuple must be (X, y) or (X, y, weight), without target= or weight=; "
                f"got {len(source)} parts"
            )
        return _arrays(source[0], columns, *source[1:])
    folder = None
    if is_path(source):
        folder = os.fspath(source)
        paths = paths_of(folder)
    elif isinstance(source, list) and source and all(map(is_path, source)):
        paths = [os.fspath(path) for path in source]
    elif isinstance(source, np.ndarray) and source.dtype.names is None:
        return _with_target(source, target, columns, weight)
    elif isinstance(source, (Mapping, np.ndarray)) or hasattr(source, "columns"):
        return TableSource(source, target, columns, weight)
    elif hasattr(source, "get_fragments"):
        from bcenet.data.arrow_sources import FilesSource, open_fragments

        return FilesSource(open_fragments(source), target, columns, weight, source.schema)
    elif hasattr(source, "__iter__") and not isinstance(source, (str, bytes)):
        if target is not None or weight is not None or columns is not None:
            raise ValueError(
                "batches bring their own y and weight: give no target, weight, columns"
            )
        return BatchSource(source)
    else:
        raise TypeError(
            "source must be a path, an array, a tuple (X, y), a frame, a mapping of columns or "
            f"a re-iterable of batches; got {checks.describe(source)}"
        )
    if suffix_of(paths[0]) == ".npy":
        if len(paths) > 1:
            raise ValueError("source must be one .npy file; several hold no dataset together")
        return _with_target(paths[0], target, columns, weight)
    from bcenet.data.arrow_sources import FilesSource, open_files

    return FilesSource(open_files(paths, folder), target, columns, weight)


def _with_target(X: Any, target: Any, columns: Any, weight: Any) -> Source:
    if target is None:
        raise TypeError("target must be the place of a column, a .npy file or an array; got None")
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        if columns is not None:
            raise ValueError("columns must be None for an array")
        return ArraySource(X, None, weight, int(target))
    return _arrays(X, columns, target, weight)


def _arrays(X: Any, columns: Any, y: Any, weight: Any = None) -> Source:
    if columns is not None:
        raise ValueError("columns must be None for an array")
    return ArraySource(X, y, weight)


_SUFFIXES = (".npy", ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".csv", ".csv.gz")


def paths_of(path: str) -> list[str]:
    """A file's path, or those of all data files in a folder, sorted."""
    listed = ", ".join(_SUFFIXES)
    if not os.path.isdir(path):
        if suffix_of(path) not in _SUFFIXES:
            os.stat(path)  # a missing file is told first
            raise ValueError(f"source must end in {listed}; got {path!r}")
        return [path]
    found = []
    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            raise DataFormatError(f"{folder}: a link to a folder that is read too")
        seen.add(place)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [
            os.path.join(folder, name)
            for name in files
            if not _is_hidden(name) and suffix_of(name) in _SUFFIXES
        ]
    if not found:
        raise DataFormatError(f"{path}: the folder holds no file ending in {listed}")
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def is_in_dataset(folder: str, path: str) -> bool:
    """Whether a file at the path, if there is one, is among those of a folder's dataset."""
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    parts = relative.split(os.sep)
    return suffix_of(path) in _SUFFIXES and not any(map(_is_hidden, parts))


class Summary(Record):
    """What one pass over the targets finds.

    Attributes: n: rows. labels: label elements, NaN left out. positive: their sum. weight: the
    weights' sum. drift: by how much the mean of the targets goes up and down from one window of an
    epoch to the next, beyond chance: an estimated standard deviation. lowest, highest: means of
    the targets in parts of the file of about 4096 rows.
    """

    n: int
    labels: int
    positive: float
    weight: float
    drift: float
    lowest: float
    highest: float


class Dataset(rows_.Stream):
    """Rows in files, arrays or batches: made by `open_dataset`, taken by `bcenet.fit` as X.

    Attributes: columns: the names of X's columns. window_rows: see `open_dataset`.
    classes: (negative, positive), the labels of a target beside an encoder; None without one.
    """

    def __init__(
        self, source: Source, window_rows: int, parts: tuple[tuple[int, int, bool], ...] = ()
    ) -> None:
        self._source = source
        self.columns = source.columns
        self.classes = source.classes
        self.window_rows = window_rows
        self._parts = parts  # (seed, bound, below): the rows whose hash is below it, or is not
        self._summaries: dict[Any, Summary] = {}
        self._digests: dict[str, str] = {}  # of y and weight, by the last pass over them
        self._lengths = source.units  # of the units; found by a pass where it is None

    def __repr__(self) -> str:
        rows = "?" if self.n is None else self.n
        return f"Dataset({self._source.name}, {rows} rows, {len(self.columns)} columns)"

    @property
    def n(self) -> int | None:
        """The number of rows; None where only a pass over them can tell."""
        if self._summaries:
            return next(iter(self._summaries.values())).n
        if self._lengths is None or self._parts:
            return None
        return sum(self._lengths)

    @property
    def window_size(self) -> int:
        """Rows of every window of an epoch but the last; known after a `scan`."""
        return min(self.window_rows, self.n or 0)

    @property
    def labels(self) -> tuple[int, ...]:
        """() for y of shape (n,), (k,) for (n, k)."""
        return self._source.labels

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(the rest, a part): each row is in the part with this probability.

        A row's fate is a hash of its position and the seed (the finishing steps of SplitMix64:
        Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014), so it is
        the same in every epoch and on every machine.

        Arguments:
            fraction: of the part, above 0 and below 1. seed: from 0 to 2^64 - 1.

        Example:
            >>> import bcenet, numpy as np
            >>> X, y = np.zeros((1000, 2)), np.arange(1000) % 2
            >>> train, held_out = bcenet.data.open_dataset((X, y)).split(0.1)
            >>> train.scan().n, held_out.scan().n
            (898, 102)
        """
        drawn = _drawn(fraction, seed)
        rest, part = (
            Dataset(self._source, self.window_rows, (*self._parts, (*drawn, below)))
            for below in (False, True)
        )
        rest._lengths = part._lengths = self._lengths
        return rest, part

    def _chosen(self, start: int, count: int) -> np.ndarray | None:
        """Which of the rows from a position on belong to the dataset; None for all of them."""
        if not self._parts:
            return None
        positions = np.arange(start, start + count, dtype=np.uint64)
        chosen = np.ones(count, bool)
        for seed, bound, below in self._parts:
            chosen &= (random_bits(positions, seed) < np.uint64(bound)) == below
        return chosen

    def _units(self) -> range:
        """The source's units as they lie; one, where its rows come in one sequence."""
        return range(1 if self._lengths is None else len(self._lengths))

    def order(self, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
        """The positions of the rows in the order in which an epoch (from 0) takes them.

        The units of the source (blocks of 4096 rows, row groups, record batches, parts of a CSV
        file) in the order of `bcenet.training.row_order`; of their rows, windows of
        ``window_rows``; the rows of each window in an order of its own. Batches are cut from the
        whole sequence. Batches of one's own come in one sequence, whose windows are shuffled.

        Returns: int64 (n,), which takes 8 bytes a row: for tests and small sets.

        Raises: ValueError or TypeError for a seed or an epoch out of range.
        """
        seed = checks.integer("seed", seed, 0, 2**64 - 1)
        epoch = checks.integer("epoch", epoch, 0, 2**32 - 1)
        if self._lengths is None:
            self.scan()
        lengths = self._lengths or []
        starts = np.concatenate([[0], np.cumsum(lengths)])
        taken = []
        for unit in _unit_order(len(lengths), seed, epoch, shuffle):
            positions = np.arange(starts[unit], starts[unit + 1])
            chosen = self._chosen(int(starts[unit]), len(positions))
            taken.append(positions if chosen is None else positions[chosen])
        rows = np.concatenate(taken)
        if shuffle:
            for number, first in enumerate(range(0, len(rows), self.window_rows)):
                window = rows[first : first + self.window_rows]
                window[:] = window[window_order(seed, epoch, number, len(window))]
        return rows

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[np.ndarray, ...]]:
        """(X, y) or (X, y, weight) of up to ``rows`` rows, one after another, as they lie.

        Example:
            >>> import bcenet, numpy as np
            >>> dataset = bcenet.data.open_dataset((np.zeros((5, 2)), np.array([0, 1, 1, 0, 1])))
            >>> [y.tolist() for X, y in dataset.blocks(3)]
            [[0, 1, 1], [0, 1]]
        """
        rows = checks.integer("rows", rows, 1)
        reader = self._source.open()
        try:
            walk = _Walk(self, reader, self._units())
            while True:
                window = Window(self, rows, 0)
                count = walk.fill(window, None)
                if count:
                    arrays = (window.X[:count], window.y[:count])
                    yield arrays if window.weight is None else (*arrays, window.weight[:count])
                if count < rows:
                    return
        finally:
            reader.close()

    def windows(self, dtype: Any, missing: bool, **options: Any) -> WindowReader:
        """Windows of epochs, read in another thread, which begins at the first `next`."""
        return WindowReader(self, dtype=np.dtype(dtype), missing=missing, **options)

    def scan(self, dtype: Any = "float32", missing: bool = False) -> Summary:
        """Read the targets (and weights) once, check them, and say what they are.

        `bcenet.fit` does this before it trains; the result is kept.

        Arguments: dtype: of the network. missing: whether NaN is welcome in y.

        Raises: ValueError for a value that is not in [0, 1] or a weight below 0; DataChangedError.
        """
        dtype = np.dtype(dtype)
        key = dtype.name, missing
        if key not in self._summaries:
            self._summaries[key] = self._scan(_Check(dtype, missing))
        return self._summaries[key]

    def _scan(self, check: _Check) -> Summary:
        reader = self._source.open()
        sums, counts, rows = [], [], []
        weight = 0.0
        digests = {"y": hashlib.sha256(), "weight": hashlib.sha256()}
        try:
            walk = _Walk(self, reader, self._units(), with_x=False)
            window = Window(self, BLOCK_ROWS, 0, with_x=False)
            while True:
                count = walk.fill(window, check)
                if count:
                    y = window.y[:count]
                    _update(digests["y"], y)
                    if window.weight is not None:
                        _update(digests["weight"], window.weight[:count])
                    known = ~np.isnan(y) if y.dtype.kind == "f" else np.ones(y.shape, bool)
                    sums.append(float(y.sum(dtype=np.float64, where=known)))
                    counts.append(int(np.count_nonzero(known)))
                    rows.append(count)
                    weight += (
                        count
                        if window.weight is None
                        else float(window.weight[:count].sum(dtype=np.float64))
                    )
                if count < BLOCK_ROWS:
                    break
        finally:
            reader.close()
        if not rows:
            what = "a split of " * bool(self._parts) + self._source.name
            raise ValueError(f"{what} must have at least one row; got 0")
        if self._lengths is None:
            self._lengths = [walk.position]
        self._digests = {name: total.hexdigest() for name, total in digests.items()}
        return self._summary(np.array(sums), np.array(counts), sum(rows), weight)

    def fingerprint(self) -> dict[str, Any]:
        """What `bcenet.resume` tells this dataset from others by; the same wherever its files lie.

        Rows of X that were changed where none is sampled, and nothing else, go unnoticed.

        Returns: a dict of JSON's types: "rows" their number; "columns", "units": SHA-256 of the
        columns' names and of the units' lengths; "dtypes" of X, y and weight; "window_rows";
        "split": (seed, bound, below) of each; "y", "weight": SHA-256 of all of them (in a
        `scan`); "X": that of the first 4096 rows of 32 units that lie evenly from the first to
        the last, or of all units where they are fewer.

        Raises: as `scan` does.

        Example:
            >>> import bcenet, numpy as np
            >>> X, y = np.zeros((5, 2)), np.array([0, 1, 1, 0, 1])
            >>> before = bcenet.data.open_dataset((X, y)).fingerprint()
            >>> X[4, 1] = 1.0
            >>> after = bcenet.data.open_dataset((X, y)).fingerprint()
            >>> [name for name in before if before[name] != after[name]]
            ['X']
        """
        if not self._digests:
            self.scan()
        source, lengths = self._source, self._lengths or []
        names = hashlib.sha256()
        for name in self.columns:
            names.update(name.encode() + b"\0")
        units = hashlib.sha256(np.array(lengths, "<i8").data)
        dtypes = (source.x_dtype, source.y_dtype, source.weight_dtype)
        return {
            "rows": self.n,
            "columns": names.hexdigest(),
            "dtypes": [None if dtype is None else dtype.name for dtype in dtypes],
            "units": units.hexdigest(),
            "window_rows": self.window_rows,
            "split": [list(part) for part in self._parts],
            **self._digests,
            "X": self._sampled(lengths),
        }

    def _sampled(self, lengths: list[int]) -> str:
        """SHA-256 of rows of X from several places."""
        total = hashlib.sha256()
        reader = self._source.open()
        try:
            places = np.linspace(0, len(lengths) - 1, min(len(lengths), _SAMPLED_UNITS))
            for unit in places.astype(int).tolist():
                rows = Window(self, min(lengths[unit], BLOCK_ROWS), 0)
                reader.begin(unit)
                reader.fill(rows.X, rows.y, rows.weight)
                _update(total, rows.X)
        finally:
            reader.close()
        return total.hexdigest()

    def _summary(self, sums: np.ndarray, counts: np.ndarray, n: int, weight: float) -> Summary:
        labels, positive = int(counts.sum()), float(sums.sum())
        drift = lowest = highest = 0.0
        if labels:
            mean = positive / labels
            held = counts > 0
            means = sums[held] / counts[held]
            lowest, highest = float(means.min()), float(means.max())
            # Variance of the means between parts, less what chance alone gives.
            between = float(counts[held] @ (means - mean) ** 2) / labels
            chance = mean * (1 - mean) * len(means) / labels
            spread = max(0.0, between - chance) ** 0.5
            # A window averages the units in it, which come in random order.
            together = 1.0
            if self._lengths:
                together = max(1.0, self.window_rows * len(self._lengths) / sum(self._lengths))
            drift = 0.0 if n <= self.window_rows else spread / together**0.5
        return Summary(n, labels, positive, weight, drift, lowest, highest)


def _drawn(fraction: float, seed: int) -> tuple[int, int]:
    """(seed, bound): rows with random bits below the bound are in the part."""
    share = checks.number("fraction", fraction, 0.0, 1.0, open_minimum=True, open_maximum=True)
    return checks.integer("seed", seed, 0, 2**64 - 1), int(share * 2.0**64)


def in_part(start: int, count: int, fraction: float, seed: int) -> np.ndarray:
    """Which rows from a position on are in the part of `Dataset.split`: bool (count,)."""
    seed, bound = _drawn(fraction, seed)
    positions = np.arange(start, start + count, dtype=np.uint64)
    return random_bits(positions, seed) < np.uint64(bound)


def _update(total: Any, array: np.ndarray) -> None:
    total.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)


def random_bits(positions: np.ndarray, seed: int) -> np.ndarray:
    """64 random bits a position: SplitMix64 from a state that the seed chooses."""
    start = _mixed(seed)
    z = positions * np.uint64(_GOLDEN) + np.uint64(start)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(z: int) -> int:
    z = (z + _GOLDEN) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def window_order(seed: int, epoch: int, number: int, rows: int) -> np.ndarray:
    """The order of the rows of a window of an epoch, both from 0: a permutation."""
    # Not the seed of the other windows, nor that of the units' order.
    window_seed = _mixed((seed + (number + 1) * _GOLDEN) % 2**64)
    return kernels.row_order(window_seed, epoch, rows)


def _unit_order(count: int, seed: int, epoch: int, shuffle: bool) -> Iterable[int]:
    return kernels.row_order(seed, epoch, count).tolist() if shuffle else range(count)


class _Check:
    """The checks of values that `bcenet.rows.check` makes, of rows that come block by block."""

    def __init__(self, dtype: np.dtype, missing: bool) -> None:
        self._dtype = dtype
        self._kind = "in [0, 1], or NaN" if missing else "in [0, 1]"

    def __call__(
        self, where: str, row: int, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None
    ) -> None:
        if X is not None:
            kernels.check_values(f"{where}: X", X, self._dtype, "finite", row)
        kernels.check_values(f"{where}: y", y, self._dtype, self._kind, row)
        if weight is not None:
            kernels.check_values(
                f"{where}: weight", weight, self._dtype, "finite and not negative", row
            )


class Window:
    """Buffers for rows, behind room for those that the window before left over.

    Attributes: X, y, weight: the buffers. room: rows in front. rows: rows behind it. order: of
    those rows, None as they lie. last: whether the epoch ends with it.
    """

    def __init__(self, dataset: Dataset, rows: int, room: int, with_x: bool = True) -> None:
        source = dataset._source
        self.room = room
        self.capacity = rows
        size = room + rows
        self.X: Any = np.empty((size, len(source.columns)), source.x_dtype) if with_x else None
        self.y = np.empty((size, *source.labels), source.y_dtype)
        weighted = source.weight_dtype is not None
        self.weight = np.empty(size, source.weight_dtype) if weighted else None
        self.rows = 0
        self.order: np.ndarray | None = None
        self.last = False

    def part(self, rows: Any) -> list[Any]:
        return [None if a is None else a[rows] for a in (self.X, self.y, self.weight)]


class _Stopped(Exception):
    """The reading thread is to end."""


class _Walk:
    """One pass over the dataset's rows, unit by unit."""

    def __init__(
        self, dataset: Dataset, reader: Reader, units: Iterable[int], with_x: bool = True
    ) -> None:
        self._dataset = dataset
        self._reader = reader
        self._units = iter(units)
        self._lengths = dataset._lengths
        self._scratch: Window | None = None
        if dataset._parts:
            self._scratch = Window(dataset, BLOCK_ROWS, 0, with_x)
        self._left = 0  # rows of the unit still to come
        self._starts = np.cumsum([0, *(self._lengths or [])])
        self.position = 0
        self.ended = False

    def fill(
        self, window: Window, check: _Check | None, stop: threading.Event | None = None
    ) -> int:
        """Rows into the window until it is full or there are no more; their number."""
        filled = 0
        while filled < window.capacity and not self.ended:
            if stop is not None and stop.is_set():
                raise _Stopped
            if self._left == 0 and not self._next_unit():
                break
            filled += self._take(window, window.room + filled, window.capacity - filled, check)
        return filled

    def skip(self, rows: int, stop: threading.Event) -> None:
        """Pass over the next rows: whole units unread, and of the last one what must be read."""
        while rows and (self._left or self._next_unit()):
            held = self._held()
            if held > rows:
                break
            self._left, rows = 0, rows - held
        while rows and not self.ended:
            rows -= self.fill(Window(self._dataset, min(rows, BLOCK_ROWS), 0), None, stop)

    def _held(self) -> int:
        """Rows of the unit, of those still to come, that belong to the dataset."""
        held = 0
        for start in range(0, self._left, WINDOW_ROWS):
            count = min(WINDOW_ROWS, self._left - start)
            chosen = self._dataset._chosen(self.position + start, count)
            held += count if chosen is None else int(np.count_nonzero(chosen))
        return held

    def _next_unit(self) -> bool:
        unit = next(self._units, None)
        if unit is None:
            self.ended = True
            return False
        self._reader.begin(unit)
        self._where, self._row = self._dataset._source.where(unit)
        if self._lengths is None:
            self._left = 1 << 62
        else:
            self._left = self._lengths[unit]
            self.position = int(self._starts[unit])
        return True

    def _take(self, window: Window, at: int, room: int, check: _Check | None) -> int:
        asked = min(self._left, room, BLOCK_ROWS)
        scratch = self._scratch
        if scratch is None:
            target = window.part(slice(at, at + asked))
        else:
            target = scratch.part(slice(asked))
        found = self._reader.fill(*target)
        if found < asked:
            if self._lengths is not None:
                name = self._dataset._source.name
                raise DataChangedError(f"{name}: fewer rows than in the pass before")
            self.ended = True
            target = [None if a is None else a[:found] for a in target]
        chosen = self._dataset._chosen(self.position, found)
        kept = found
        if chosen is not None:
            places = np.flatnonzero(chosen)
            kept = len(places)
            for out, array in zip(window.part(slice(at, at + kept)), target, strict=True):
                if out is not None:
                    np.take(array, places, axis=0, out=out, mode="clip")
        if check is not None and found:
            X, *others = target
            check(self._where, self._row, None if self._dataset._source.finite else X, *others)
        self._row += found
        self.position += found
        self._left -= found
        return kept


class WindowReader:
    """Windows of epoch after epoch, read by a thread of its own while the last one is used.

    Arguments:
        room: rows in front of each window. epochs: their numbers, from 0. skipped: windows of
            the first of them that are left out. at_work: called with 1 before a window is read,
            with 0 after it.

    ``close`` ends the thread; call it in a ``finally``.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        room: int,
        dtype: np.dtype,
        missing: bool,
        seed: int,
        epochs: range,
        shuffle: bool,
        skipped: int = 0,
        at_work: Callable[[int], None] | None = None,
    ) -> None:
        self._dataset = dataset
        self._check = _Check(dtype, missing)
        self._rows = dataset.scan(dtype, missing).n
        self._seed, self._epochs, self._shuffle = seed, epochs, shuffle
        self._skipped = skipped
        self._at_work = at_work if at_work is not None else lambda threads: None
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(2):
            self._free.put(Window(dataset, dataset.window_size, room))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="bcenet reader", daemon=True)

    def next(self) -> Window:
        """The next window; what the thread raised."""
        if self._thread.ident is None:
            self._thread.start()
        window = self._ready.get()
        if isinstance(window, BaseException):
            raise window
        return window

    def release(self, window: Window) -> None:
        """The window may be filled again."""
        self._free.put(window)

    def close(self) -> None:
        """End the thread, and wait for its end: at most until it has read a block."""
        self._stop.set()
        self._free.put(None)
        while self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt:  # first the thread ends: it must not outlive the fit
                self._thread.join()
                raise

    def _work(self) -> None:
        try:
            reader = self._dataset._source.open()
            try:
                for epoch in self._epochs:
                    skipped = self._skipped if epoch == self._epochs.start else 0
                    self._read_epoch(reader, epoch, skipped)
            finally:
                reader.close()
        except _Stopped:
            pass
        except BaseException as error:
            self._ready.put(error)

    def _read_epoch(self, reader: Reader, epoch: int, number: int) -> None:
        """The windows of an epoch from one on."""
        dataset = self._dataset
        units = _unit_order(len(dataset._lengths or []), self._seed, epoch, self._shuffle)
        walk = _Walk(dataset, reader, units)
        skipped = number * dataset.window_size
        walk.skip(skipped, self._stop)
        left = self._rows - skipped
        while left:
            window = self._free.get()
            if window is None:
                raise _Stopped
            self._at_work(1)
            try:
                window.rows = walk.fill(window, self._check, self._stop)
            finally:
                self._at_work(0)
            if window.rows == 0:
                raise DataChangedError(f"{dataset._source.name}: fewer rows than before")
            left -= window.rows
            window.last = left == 0
            window.order = (
                window_order(self._seed, epoch, number, window.rows) if self._shuffle else None
            )
            if window.last:
                reader.end()
            self._ready.put(window)
            number += 1

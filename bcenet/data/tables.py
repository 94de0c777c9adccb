"""Tables of numbers and texts that come part by part: files, and columns in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from bcenet.data.arrays import as_columns
from bcenet.data.sources import BLOCK_ROWS, is_path, suffix_of, units_of
from bcenet.errors import DataFormatError

Part = tuple[dict[str, Any], Callable[[int], str]]  # columns, and what to call a row's place


class Tables:
    """What tables that come part by part have.

    Attributes: name: what messages call it. names: of the columns. units: rows of each part that
    can be read without the others.
    """

    name: str
    names: list[str]
    units: list[int]

    @property
    def rows(self) -> int:
        return sum(self.units)

    def require(self, names: Collection[str]) -> None:
        """ValueError unless each is the name of one column."""
        for name in names:
            if self.names.count(name) != 1:
                known = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
                raise ValueError(f"{self.name} has no column {name!r} of its own; it has {known}")

    def where(self, unit: int) -> tuple[str, int]:
        """As `Source.where`."""
        raise NotImplementedError

    def open(self, names: list[str], numeric: Collection[str] = (), missing: Any = ()) -> Any:
        """An object with ``parts(unit)``, which gives Parts, and ``close()``.

        Columns of text that are ``numeric`` may come as float64, NaN where one of the texts
        ``missing`` stands.
        """
        raise NotImplementedError


class FileTables(Tables):
    """Files of one kind with the same columns.

    Arguments: schema: of the dataset that the files belong to; the first file's if None.
    """

    def __init__(self, files: list[Any], schema: Any = None) -> None:
        from bcenet.data.arrow_sources import places_of

        self._files = files
        self.name = self._like = files[0].path
        self._schema = getattr(files[0], "schema", None)
        self.names = list(files[0].names)
        if schema is not None:
            self._schema, self.names, self._like = schema, list(schema.names), "the dataset"
        self._places, self.units = places_of(files)

    def check(self, names: list[str]) -> None:
        """DataFormatError unless all files have these columns, of the same types."""
        for file in self._files:
            for name in names:
                if name not in file.names:
                    raise DataFormatError(
                        f"{file.path}: no column named {name!r}, which {self._like} has"
                    )
                if self._schema is not None:
                    _check_type(file, self._schema, self._like, name)

    def where(self, unit: int) -> tuple[str, int]:
        file, _, row = self._places[unit]
        return file.path, row

    def open(self, names: list[str], numeric: Collection[str] = (), missing: Any = ()) -> Any:
        self.check(names)
        return _FileParts(self._places, names, numeric, missing)


def _check_type(file: Any, schema: Any, like: str, name: str) -> None:
    from pyarrow import types

    kind, wanted = (
        field.type.value_type if types.is_dictionary(field.type) else field.type
        for field in (file.schema.field(name), schema.field(name))
    )
    if kind != wanted:
        raise DataFormatError(f"{file.path}: column {name!r} is {kind}; in {like} it is {wanted}")
    if types.is_nested(kind) or "binary" in str(kind):
        raise DataFormatError(f"{file.path}: column {name!r} must hold numbers or text; got {kind}")


class _FileParts:
    def __init__(
        self, places: list[Any], names: list[str], numeric: Collection[str], missing: Any
    ) -> None:
        self._places = places
        self._options = names, numeric, missing
        self._file: Any = None
        self._handle: Any = None

    def parts(self, unit: int) -> Iterator[Part]:
        file, place, _ = self._places[unit]
        if file is not self._file:
            self.close()
            file.stamp.check()
            self._handle = file.open(self._options[0])
            self._file = file
        for part in file.cells(self._handle, place, *self._options):
            file.stamp.check()
            yield part

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = self._file = None


class MemoryTables(Tables):
    """Columns in memory: whatever `bcenet.data.as_table` takes."""

    def __init__(self, table: Any) -> None:
        self._columns = as_columns(table)
        self.name, self.names = "the table", list(self._columns)
        self.units = units_of(len(self._columns[self.names[0]]) if self.names else 0)

    def where(self, unit: int) -> tuple[str, int]:
        return self.name, unit * BLOCK_ROWS

    def open(self, names: list[str], numeric: Collection[str] = (), missing: Any = ()) -> Any:
        return _MemoryParts({name: self._columns[name] for name in names}, self.name)


class _MemoryParts:
    def __init__(self, columns: dict[str, Any], name: str) -> None:
        self._columns, self._name = columns, name

    def parts(self, unit: int) -> Iterator[Part]:
        start = unit * BLOCK_ROWS
        rows = slice(start, start + BLOCK_ROWS)
        yield (
            {name: column[rows] for name, column in self._columns.items()},
            lambda row: f"{self._name}, row {start + row} (from 0)",
        )

    def close(self) -> None:
        pass


def open_tables(source: Any) -> Tables:
    """A file's path, a folder's, a list of files, `Blocks`, or columns in memory."""
    if isinstance(source, Blocks):
        return source.tables
    from bcenet.data.arrow_sources import open_files, open_fragments
    from bcenet.data.dataset import paths_of

    folder = None
    if is_path(source):
        folder = os.fspath(source)
        paths = paths_of(folder)
    elif isinstance(source, list) and source and all(map(is_path, source)):
        paths = [os.fspath(path) for path in source]
    elif hasattr(source, "get_fragments"):
        return FileTables(open_fragments(source), source.schema)
    else:
        return MemoryTables(source)
    if any(suffix_of(path) == ".npy" for path in paths):
        raise ValueError(f"a table must have columns with names; got {paths[0]!r}")
    return FileTables(open_files(paths, folder))


class Blocks:
    """The blocks of a table, from the first to the last, each time anew: see `read_blocks`.

    Attributes: columns: their names. rows: of all blocks together.
    """

    def __init__(self, tables: Tables, columns: list[str]) -> None:
        self.tables = tables
        self.columns, self.rows = columns, tables.rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for columns, _ in self.parts():
            yield columns

    def parts(self) -> Iterator[Part]:
        """The blocks, and what messages call the place of a row in each."""
        reader = self.tables.open(self.columns)
        try:
            for unit in range(len(self.tables.units)):
                yield from reader.parts(unit)
        finally:
            reader.close()

    def place(self, row: int) -> str:
        """What messages call the place of a row, from 0 in all blocks together."""
        for columns, where in self.parts():
            count = len(columns[self.columns[0]])
            if row < count:
                return where(row)
            row -= count
        raise ValueError(f"row must be below {self.rows}; got {row}")


def read_blocks(
    source: Any, *, columns: Sequence[str] | None = None, drop: Sequence[str] = ()
) -> Blocks:
    """The rows of a table in files, block by block: what `TabularEncoder.fit_blocks` takes.

    Arguments:
        source: a CSV, Parquet or Arrow IPC file, a folder of them or a list, as `open_dataset`
            takes them; or a table in memory.
        columns: names of the columns; all but those to ``drop`` if None.

    Returns: a `Blocks`, which can be iterated again and again. A block is a dict of columns:
    arrays of numbers (of some 10,000 to 65,536 rows), or `bcenet.data.values.Coded` texts, which
    ``numpy.asarray`` makes an array of objects. The columns of a CSV file are texts.

    Raises: ValueError and TypeError naming the argument, DataFormatError naming the file and the
    column; ImportError without pyarrow; when iterated also DataChangedError and OSError.

    >>> import numpy as np
    >>> table = {"age": [39, 50], "sex": ["F", "M"], "income": [0, 1]}
    >>> blocks = read_blocks(table, drop=["income"])
    >>> for block in blocks:
    ...     print(block["age"], np.asarray(block["sex"]))
    [39 50] ['F' 'M']
    """
    for argument, names in (("columns", columns), ("drop", drop)):
        if isinstance(names, str):
            raise TypeError(f"{argument} must be a sequence of names; got {names!r}")
    tables = open_tables(source)
    tables.require(drop)
    chosen = [name for name in tables.names if name not in drop]
    if columns is not None:
        chosen = list(columns)
    tables.require(chosen)
    if not chosen:
        raise ValueError("columns must be some; got none")
    return Blocks(tables, chosen)

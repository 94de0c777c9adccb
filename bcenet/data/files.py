"""Tables in files: CSV (also gzipped) and Parquet, read whole and refused when not whole.

A CSV file is checked against RFC 4180 before pyarrow parses it, because pyarrow passes open
quotes, text after a closing quote and NUL bytes in silence, and because a message can then name
the file, the line and the column.
"""

from __future__ import annotations

import codecs
import gzip
import os
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bcenet.data.arrays import arrow_column, arrow_texts
from bcenet.data.values import MISSING_VALUES, Coded, parse_numbers
from bcenet.errors import DataFormatError

_COMMA, _QUOTE, _LF, _CR = (ord(c) for c in ',"\n\r')


def read_table(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Read a CSV or Parquet file into named columns; every row is read, or an error raised.

    CSV: UTF-8 (a byte order mark is dropped), values separated by commas, quoted with ``"`` as in
    RFC 4180, the first line naming the columns, gzipped or not. Empty lines are skipped. Every
    column comes as text, without surrounding blanks; no text is taken for a missing value here.
    A column of numbers must be finite: ``1e400`` is refused.

    Parquet: numeric columns keep their type (with nulls: float64 and NaN), texts have None for
    null, dates and times become text.

    Args:
        path: file name; names that end in .parquet or .pq, and files that begin as Parquet files
            do, are read as Parquet, all others as CSV. "-" reads CSV from standard input.
        columns: the columns to return, in this order; all of them if None.

    Returns:
        A dict from column names to arrays of shape (n,): object arrays of str (None for null), or
        numeric arrays from Parquet.

    Raises:
        DataFormatError: the file is not such a table, is cut off or damaged, has no rows, or
            lacks a column; the message names the file and, as far as known, line and column.
        OSError: the file cannot be read.
        ImportError: pyarrow is not installed.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "people.csv"
    >>> _ = path.write_text("age, sex\\n39, Male\\n50, ?\\n")
    >>> read_table(path)
    {'age': array(['39', '50'], dtype=object), 'sex': array(['Male', '?'], dtype=object)}
    >>> folder.cleanup()
    """
    _require_pyarrow()
    if isinstance(columns, str):
        raise TypeError(f"columns must be a sequence of names; got {columns!r}")
    wanted = None if columns is None else list(columns)
    if os.fspath(path) == "-":
        return _read_csv("<standard input>", sys.stdin.buffer.read(), wanted)
    path = Path(path)
    with path.open("rb") as file:
        is_parquet = path.suffix in (".parquet", ".pq") or file.peek(4)[:4] == b"PAR1"
        if not is_parquet:
            return _read_csv(str(path), file.read(), wanted)
    return _read_parquet(path, wanted)


def _require_pyarrow() -> None:
    try:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "reading CSV and Parquet files needs pyarrow: pip install 'bcenet[cli]'"
        ) from error


def _select(source: str, names: Sequence[str], wanted: list[str] | None) -> list[str]:
    """The names to read, once they are known to be unique, not empty, and all there."""
    for place, name in enumerate(names, start=1):
        if not name:
            raise DataFormatError(f"{source}: column {place} of {len(names)} has no name")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataFormatError(
            f"{source}: {repeated[0]!r} names more than one column "
            "(does the file begin with the columns' names?)"
        )
    if wanted is None:
        return list(names)
    absent = [name for name in wanted if name not in names]
    if absent:
        raise DataFormatError(f"{source}: no column named {', '.join(map(repr, absent))}")
    return wanted


# --- Parquet


def _read_parquet(path: Path, wanted: list[str] | None) -> dict[str, np.ndarray]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            names = _select(str(path), file.schema_arrow.names, wanted)
            table = file.read(columns=names, use_threads=False)
            table.validate(full=True)
            columns = {name: arrow_column(table.column(name)) for name in names}
    except DataFormatError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataFormatError(f"{path}: not a readable Parquet file: {what}") from error
    if table.num_rows == 0:
        raise DataFormatError(f"{path}: the table has no rows")
    return columns


# --- CSV


class _Layout:
    """Where the lines, records and fields of CSV bytes begin and end.

    A comma or a line end counts outside quotes only. A doubled quote inside a quoted value closes
    and reopens it at once, so whether a byte is quoted is the parity of the quotes up to it.

    Attributes (intp arrays of byte offsets):
        line_ends: every line end, quoted or not; of a CR LF, the LF.
        commas: the commas that separate fields.
        starts, ends: the first byte of each record and the one after its last; no empty lines.
        empty_lines: where the empty lines begin.
        names: the column names, from the first record.
    """

    def __init__(self, source: str, data: bytes, first_line: int | None = None) -> None:
        """``first_line`` is that of the first byte below the header, where lines are left out."""
        self.source = source
        self.data = data
        octets = np.frombuffer(data, dtype=np.uint8)
        special = octets == _COMMA  # NumPy vectorises comparisons, not look-ups
        for byte in (_QUOTE, _LF, _CR):
            special |= octets == byte
        at = np.flatnonzero(special)
        kind = octets[at]
        self._touches = np.diff(at) == 1  # (specials - 1,): the next byte is special too
        before_lf = np.append(self._touches & (kind[1:] == _LF), False)
        is_line_end = (kind == _LF) | ((kind == _CR) & ~before_lf)
        self.line_ends = at[is_line_end]
        is_quote = kind == _QUOTE
        self._quotes = np.flatnonzero(is_quote)
        separates = kind == _COMMA
        if len(self._quotes):
            unquoted = np.cumsum(is_quote) % 2 == 0
            separates &= unquoted
            is_line_end &= unquoted
        self.commas = at[separates]
        self._at = at
        ends = at[is_line_end]
        starts = np.concatenate([[0], ends + 1])
        ends = np.append(ends, len(octets))
        ends -= (starts < ends) & (ends < len(octets)) & (octets[ends - 1] == _CR)
        empty = starts == ends
        self.starts, self.ends = starts[~empty], ends[~empty]
        self.empty_lines = starts[:-1][empty[:-1]]
        self.names = self._header()
        #: Where the bytes below the header begin, and the line ends up to there.
        self.below = int(self.starts[1]) if len(self.starts) > 1 else len(data)
        self.header_lines = int(np.searchsorted(self.line_ends, self.below))
        self._left_out = 0 if first_line is None else first_line - self.header_lines - 1

    def _header(self) -> list[str]:
        commas = self.commas[: np.searchsorted(self.commas, self.ends[0])]
        edges = [self.starts[0] - 1, *commas, self.ends[0]]
        names = []
        for left, right in pairwise(edges):
            name = self.data[left + 1 : right].decode("utf-8", errors="replace")
            if name.startswith('"'):
                name = name[1:-1].replace('""', '"')
            names.append(name.strip())
        return names

    def place(self, offset: int) -> str:
        """The file, the line (from 1) and, below the header, the column of a byte."""
        text = f"{self.source}, line {self.line(offset)}"
        record = int(np.searchsorted(self.starts, offset, side="right")) - 1
        if record > 0:
            before = np.searchsorted(self.commas, [self.starts[record], offset])
            field = int(before[1] - before[0])
            if field < len(self.names):
                text += f", column {self.names[field]!r}"
        return text

    def line(self, offset: int) -> int:
        skipped = self._left_out if offset >= self.below else 0
        return int(np.searchsorted(self.line_ends, offset)) + 1 + skipped

    def check_bytes(self) -> None:
        """Refuse NUL bytes and what is not UTF-8."""
        nul = self.data.find(b"\0")
        if nul >= 0:
            raise DataFormatError(f"{self.place(nul)}: a NUL byte; a CSV file must be UTF-8 text")
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataFormatError(
                f"{self.place(error.start)}: not UTF-8 text (byte 0x{self.data[error.start]:02x})"
            ) from None

    def check_quotes(self) -> None:
        """A quote must begin a value, end it, or be doubled inside it; the last must close.

        Beside an opening quote, only a comma, a line end or a closing quote (which it doubles) can
        be special to the left; so too for a closing quote to the right. Touching is enough.
        """
        if not len(self._quotes):
            return
        at, quotes = self._at, self._quotes
        touches_before = np.concatenate([[at[0] == 0], self._touches])[quotes]
        touches_after = np.append(self._touches, at[-1] == len(self.data) - 1)[quotes]
        opens = np.arange(len(quotes)) % 2 == 0
        misplaced = np.flatnonzero(np.where(opens, ~touches_before, ~touches_after))
        # The quotes that begin a value: opening, and not the second of a doubled one.
        doubles = np.append(False, np.diff(at[quotes]) == 1)
        begins = at[quotes[opens & ~doubles]]
        if len(misplaced):
            bad = at[quotes[misplaced[0]]]
            if opens[misplaced[0]]:
                raise DataFormatError(
                    f"{self.place(bad)}: a quote inside a value that does not begin with one"
                )
            begin = begins[np.searchsorted(begins, bad) - 1]
            raise DataFormatError(
                f"{self.place(bad)}: text after the quote that ends a value "
                f"(begun on line {self.line(begin)})"
            )
        if len(quotes) % 2:
            raise DataFormatError(f"{self.place(begins[-1])}: a quote that is never closed")

    def check_records(self) -> None:
        """Every record has as many values as the first has names, and there are some."""
        width = len(self.names)
        counts = np.searchsorted(self.commas, self.ends) - np.searchsorted(self.commas, self.starts)
        ragged = np.flatnonzero(counts + 1 != width)
        if len(ragged):
            raise DataFormatError(
                f"{self.source}, line {self.line(self.starts[ragged[0]])}: "
                f"{counts[ragged[0]] + 1} values where the first line names {width} columns"
            )
        if len(self.starts) == 1:
            raise DataFormatError(f"{self.source}: no rows below the columns' names")
        if width == 1 and len(self.empty_lines):
            raise DataFormatError(
                f"{self.source}, line {self.line(self.empty_lines[0])}: an empty line, which may "
                'be a missing value of the only column or nothing; write "" for a missing value'
            )


def _read_csv(source: str, data: bytes, wanted: list[str] | None) -> dict[str, np.ndarray]:
    layout = _Layout(source, _text_bytes(source, data))
    layout.check_bytes()
    layout.check_quotes()
    _check_header(layout)
    names = _select(source, layout.names, wanted)
    layout.check_records()
    return _csv_texts(layout, names)


def _csv_texts(layout: _Layout, names: list[str]) -> dict[str, np.ndarray]:
    """The columns of a checked layout as texts."""
    import pyarrow

    try:
        table = _parse_csv(layout, names, pyarrow.string(), strings_can_be_null=False)
    except pyarrow.ArrowException as error:
        raise DataFormatError(f"{layout.source}: not readable as CSV: {error}") from error
    return {
        name: _csv_column(layout, name, column)
        for name, column in zip(names, table.columns, strict=True)
    }


def _parse_csv(layout: _Layout, names: list[str], kind: Any, **options: Any) -> Any:
    """A pyarrow table of the named columns, all of one type; as many rows as the layout has."""
    table = _parse_records(
        memoryview(layout.data)[layout.starts[0] :],
        layout.names,
        names,
        [kind] * len(names),
        header=True,
        longest=int((layout.ends - layout.starts).max()),
        **options,
    )
    if table.num_rows != len(layout.starts) - 1:
        raise DataFormatError(
            f"{layout.source}: {len(layout.starts) - 1} rows in the file "
            f"but {table.num_rows} parsed"
        )
    return table


def _parse_records(
    data: Any,
    all_names: list[str],
    names: list[str],
    kinds: list[Any],
    *,
    header: bool,
    longest: int,
    **options: Any,
) -> Any:
    import pyarrow
    from pyarrow import csv

    places = [str(all_names.index(name)) for name in names]
    return csv.read_csv(
        pyarrow.py_buffer(data),
        csv.ReadOptions(
            use_threads=False,  # a pool of a thread a core would outlive the call
            column_names=[str(i) for i in range(len(all_names))],
            skip_rows_after_names=int(header),  # it may have several lines
            block_size=max(1 << 20, 2 * longest),  # a block must hold a whole record
        ),
        csv.ParseOptions(newlines_in_values=True),
        csv.ConvertOptions(
            include_columns=places,
            column_types=dict(zip(places, kinds, strict=True)),
            **options,
        ),
    )


def csv_part(source: str, data: bytes, first_line: int | None = None) -> _Layout:
    """The layout of a header and some whole records, checked but for their number of values.

    ``first_line`` is the line of the first record in its file, None right below the header.
    """
    layout = _Layout(source, data, first_line)
    layout.check_bytes()
    layout.check_quotes()
    if first_line is None:
        _check_header(layout)
        _select(source, layout.names, None)
    return layout


def csv_records(data: Any, all_names: list[str], names: list[str]) -> dict[str, np.ndarray] | None:
    """Columns of checked records without a header as float64, NaN where a value is missing.

    None where a text is no number as it stands: `csv_numbers` knows more.
    """
    return csv_cells(data, all_names, names, names, MISSING_VALUES)


def csv_cells(
    data: Any,
    all_names: list[str],
    names: list[str],
    numeric: Collection[str],
    missing_values: Sequence[str],
) -> dict[str, Any] | None:
    """Columns of checked records without a header: numeric ones as float64, texts as `Coded`.

    Numbers are NaN where one of the ``missing_values`` stands; texts are as they stand but for
    surrounding blanks. None where a text in a numeric column is no number as it stands.
    """
    import pyarrow

    kinds = [pyarrow.float64() if name in numeric else pyarrow.string() for name in names]
    try:
        table = _parse_records(
            data,
            all_names,
            names,
            kinds,
            header=False,
            longest=len(data),
            null_values=list(missing_values),
        )
    except pyarrow.ArrowException:  # a text, or blanks around a missing value
        return None
    return {
        name: arrow_column(column) if name in numeric else _stripped(column)
        for name, column in zip(names, table.columns, strict=True)
    }


def _stripped(column: Any) -> Coded:
    texts, codes = arrow_texts(column)
    return Coded([text.strip() for text in texts], codes)


def csv_numbers(layout: _Layout, names: list[str]) -> dict[str, np.ndarray]:
    """The same of a checked layout, whose texts may be anything.

    Raises: DataFormatError for a text that is no number, with its line and column.
    """
    columns = _csv_texts(layout, names)
    return {name: _numbers(layout, name, column) for name, column in columns.items()}


def _numbers(layout: _Layout, name: str, texts: np.ndarray) -> np.ndarray:
    values = np.full(len(texts), np.nan)
    for row, text in enumerate(texts.tolist()):
        if text not in MISSING_VALUES:
            number = parse_numbers([text])
            if number is None:
                raise DataFormatError(
                    f"{layout.source}, line {layout.line(layout.starts[1 + row])}, "
                    f"column {name!r}: {text!r} is not a number"
                )
            values[row] = number[0]
    return values


def _text_bytes(source: str, data: bytes) -> bytes:
    """The bytes of the text itself: unzipped, without a byte order mark, not empty."""
    if source.endswith(".gz") or data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataFormatError(f"{source}: not a whole gzip file: {error}") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data.strip(b"\r\n"):
        raise DataFormatError(f"{source}: the file is empty")
    return data


def _check_header(layout: _Layout) -> None:
    """Refuse a first line that is surely a row, or that separates names by something else."""
    where = f"{layout.source}, line {layout.line(layout.starts[0])}"
    if len(layout.names) == 1 and any(c in layout.names[0] for c in ";\t|"):
        raise DataFormatError(
            f"{where}: columns must be separated by commas; got {layout.names[0]!r}"
        )
    values = parse_numbers(layout.names)
    if values is None:
        return
    before, after = values[:-1], values[1:]
    # Wavelengths, years and plain counting are names that are numbers, too, but in order.
    if not (before < after).all() and not (before > after).all():
        raise DataFormatError(
            f"{where}: the first line must name the columns; got numbers: "
            + ", ".join(layout.names[:4])
        )


def _csv_column(layout: _Layout, name: str, column: Any) -> np.ndarray:
    """The texts of a column, stripped; refuses an infinity among nothing but numbers."""
    texts, codes = arrow_texts(column)
    texts = [text.strip() for text in texts]
    present = [text for text in texts if text not in MISSING_VALUES]
    values = parse_numbers(present)
    if values is not None and np.isinf(values).any():
        text = present[int(np.flatnonzero(np.isinf(values))[0])]
        row = int(np.flatnonzero(codes == texts.index(text))[0])
        line = layout.line(layout.starts[1 + row])
        raise DataFormatError(
            f"{layout.source}, line {line}, column {name!r}: {text!r} is not a finite number"
        )
    distinct = np.empty(len(texts), dtype=object)
    distinct[:] = texts
    return distinct[codes]

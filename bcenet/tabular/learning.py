"""What an encoder learns from the rows of its columns, block by block, in one pass.

Nothing here depends on how the rows are cut into blocks: what is dropped to bound the memory is
dropped after whole pieces of the stream, at rows that are multiples of ``PIECE_ROWS``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from bcenet.data.values import parse_numbers
from bcenet.tabular.categorical import CategoricalColumn, default_min_frequency
from bcenet.tabular.cells import infinity, is_typed, no_number, parsed_numbers, texts_of
from bcenet.tabular.numeric import LIMIT, NumericColumn, default_n_bins
from bcenet.tabular.quantiles import QuantileSketch

PIECE_ROWS = 1 << 16
EXACT_ROWS = 1 << 20
"""Rows up to which every count and quantile is exact, whatever the columns hold."""
MOST_TEXTS = 1 << 21
"""Different texts that are counted at a time, over all columns; long ones count for several."""

# A column of numbers that has had more different ones by row EXACT_ROWS is taken for numeric as
# far as counting goes: its texts are counted again only once it holds one that is no number.
_MANY_NUMBERS = 1 << 14
_LONG = 64  # characters for which a text counts as one
_SMALL = 1 << 14  # characters of texts that more are put to

# A column of texts in which so large a part are numbers, of so many values, looks like a mistake.
_MOSTLY = 0.95
_MANY = 20

_NUMBERS_BEGIN = frozenset("0123456789+-.iInN")


class Learner:
    """Learns the columns of an encoder from blocks of rows.

    Arguments:
        numeric, categorical, hashed: names of columns whose type is settled. Of hashed ones
            nothing is learnt.
        missing_values: texts that stand for a missing value.
    """

    def __init__(
        self,
        numeric: Set[str],
        categorical: Set[str],
        hashed: Set[str],
        missing_values: Set[str],
    ) -> None:
        self._numeric, self._categorical, self._hashed = numeric, categorical, hashed
        self._missing_values = missing_values
        self._names: list[str] | None = None
        self._columns: list[_Column] = []
        self.rows = 0
        self.learnt = 0

    def add(self, columns: Mapping[str, Any], chosen: np.ndarray | None = None) -> None:
        """Rows of all columns: arrays or `Coded`, under the same names in every block.

        Of the rows that are not ``chosen`` (bool, (n,)) only this is learnt: a column with a text
        among them is no column of numbers.

        Raises: ValueError for a text in a column that is settled as numeric, a column that is not
        there or was not there before; TypeError for a cell that is neither number nor text.
        """
        n_rows = len(next(iter(columns.values()))) if columns else 0
        if self._names is None:
            self._names = self._begin(columns)
        names = self._names
        for name in [*names, *columns]:
            if name not in columns or name not in names:
                what = "lacks" if name not in columns else "has, as the first has not,"
                raise ValueError(f"a block of the table {what} the column {name!r}")
        start = 0
        while start < n_rows:
            stop = min(n_rows, start + PIECE_ROWS - self.rows % PIECE_ROWS)
            its = None if chosen is None else chosen[start:stop]
            for column in self._columns:
                column.add(columns[column.name][start:stop], its, self.rows)
            self.rows += stop - start
            self.learnt += stop - start if its is None else int(np.count_nonzero(its))
            start = stop
            if self.rows % PIECE_ROWS == 0:
                self._drop()

    def _begin(self, columns: Mapping[str, Any]) -> list[str]:
        named = self._numeric | self._categorical | self._hashed
        absent = [name for name in sorted(named) if name not in columns]
        if absent:
            raise ValueError(
                "table must have every column named in numeric, categorical or hashed; missing: "
                + ", ".join(map(repr, absent))
            )
        for name in columns:
            kind = "categorical" if name in self._categorical else None
            kind = "numeric" if name in self._numeric else kind
            if name not in self._hashed:
                self._columns.append(_Column(name, kind, self._missing_values))
        return list(columns)

    def _drop(self) -> None:
        """Keep no more than memory allows, after a whole piece."""
        if self.rows >= EXACT_ROWS:
            for column in self._columns:
                column.settle()
        if sum(column.size for column in self._columns) > MOST_TEXTS:
            for column in self._columns:
                column.prune(MOST_TEXTS // len(self._columns))

    def finish(
        self,
        numeric_encoding: str,
        n_bins: int | None,
        min_frequency: int | None,
        max_categories: int,
        stacklevel: int,
    ) -> tuple[list[NumericColumn | CategoricalColumn], list[str]]:
        """(columns, names of the constant ones), from the options of the encoder.

        Raises: ValueError where no row was chosen, a numeric column holds an infinity, or all
        columns are constant. Warns of columns that hold nearly nothing but numbers.
        """
        if not self.learnt:
            raise ValueError("table must have at least one column and one row to fit")
        min_frequency = min_frequency or default_min_frequency(self.learnt)
        for column in self._columns:
            if column.is_numeric:
                column.refuse_infinity()
            else:
                column.warn_of_numbers(stacklevel + 1)
        n_numeric = sum(column.is_numeric for column in self._columns)
        fitted: list[NumericColumn | CategoricalColumn] = []
        dropped = []
        for column in self._columns:
            found: NumericColumn | CategoricalColumn | None
            if column.is_numeric:
                bins = n_bins or default_n_bins(column.sketch.count, n_numeric)
                found = NumericColumn.fit(
                    column.name, column.sketch, column.missing, numeric_encoding, bins
                )
            else:
                found = CategoricalColumn.fit(
                    column.name,
                    column.counts,
                    column.missing,
                    column.incomplete,
                    min_frequency,
                    max_categories,
                )
            if found is None:
                dropped.append(column.name)
            else:
                fitted.append(found)
        if not fitted and not self._hashed:
            raise ValueError("table must have a column that is not constant; got none")
        return fitted, dropped


class _Column:
    """What is learnt of a column.

    Until it holds a word (a text that is no number) it may be numeric or categorical: its numbers
    go to the sketch, and their texts are kept as they came, to be counted if a word comes.

    Attributes:
        sketch: of the numbers. counts: rows of each text, once they are counted.
        incomplete: whether texts were seen that are not in ``counts``.
    """

    def __init__(self, name: str, kind: str | None, missing_values: Set[str]) -> None:
        self.name = name
        self._kind = kind
        self._missing_values = missing_values
        self.sketch = QuantileSketch()
        self.counts: dict[str, int] = {}
        self.incomplete = False
        # A NaN in a text is a number that is missing, and a text like any other.
        self._nan = self._missing = False
        self._has_words = kind == "categorical"
        self._counting = self._has_words
        # (the texts, or where they can be made from numbers those or their dtype; rows of each text
        # or None; numbers), one a piece.
        self._pending: list[tuple[Any, np.ndarray | None, int]] = []
        self._infinite: ValueError | None = None
        self._first_word: tuple[str, int] | None = None
        self._n_words = self._n_numbers = 0  # rows, where the kind is not settled
        self._numbers_lost = False

    @property
    def is_numeric(self) -> bool:
        return not self._has_words

    @property
    def missing(self) -> bool:
        """Whether a value was missing in a chosen row."""
        return self._nan if self.is_numeric else self._missing

    @property
    def size(self) -> int:
        """How many texts are counted; long ones count for several."""
        return len(self.counts) + sum(map(len, self.counts)) // _LONG

    def add(self, column: Any, chosen: np.ndarray | None, row: int) -> None:
        """The next rows, of which the first has the number ``row``."""
        if not self._has_words:
            values = parsed_numbers(self.name, column, self._missing_values, row)
            if values is not None:
                self._add_numbers(values, column, chosen, row)
            elif self._kind == "numeric":
                raise no_number(self.name, column, self._missing_values, row)
            else:
                self._has_words = True
                if not self._counting:
                    self._start_counting()
        if self._counting:
            self._count(column, chosen, row)

    def _add_numbers(
        self, values: np.ndarray, column: Any, chosen: np.ndarray | None, row: int
    ) -> None:
        if self._infinite is None and np.isinf(values).any():
            self._infinite = infinity(self.name, column, values, row)
        self._n_numbers += int(np.count_nonzero(~np.isnan(values)))
        taken = values if chosen is None else values[chosen]
        present = taken[~np.isnan(taken)]
        absent = len(present) < len(taken)
        self._nan = self._nan or absent
        if is_typed(column):
            self._missing = self._missing or absent
        self.sketch.update(np.clip(present, -LIMIT, LIMIT))
        if self._kind is None and not self._counting:
            self._keep(column if chosen is None else column[chosen], taken, len(present))

    def _keep(self, column: Any, values: np.ndarray, count: int) -> None:
        """Keep the texts of numbers, uncounted and compactly, for `_start_counting`."""
        what: Any
        counts = None
        if not is_typed(column):
            cells = column.tolist() if isinstance(column, np.ndarray) else None
            if cells is None or not set(map(type, cells)) <= {str, type(None)}:
                cells, codes = texts_of(self.name, column, self._missing_values)
                counts = np.bincount(codes, minlength=len(cells)).astype(np.int32)
            what = "\0".join([cell or "" for cell in cells])
        else:  # the numbers themselves are in the sketch, but for infinite ones
            there = not (self._numbers_lost or np.isinf(values).any())
            what = column.dtype if there else column.copy()
        if self._pending:  # small blocks are put together
            last, its, so_far = self._pending[-1]
            if isinstance(what, np.dtype) and isinstance(last, np.dtype) and what == last:
                self._pending[-1] = what, None, so_far + count
                return
            texts = isinstance(what, str) and isinstance(last, str) and len(last) < _SMALL
            if texts and (counts is None) == (its is None):
                both = None if counts is None else np.concatenate([its, counts])
                self._pending[-1] = f"{last}\0{what}", both, so_far + count
                return
        self._pending.append((what, counts, count))

    def _start_counting(self) -> None:
        """Count the texts of the numbers so far; those to come are counted as they come."""
        values = np.empty(0)
        if self._pending and not self._numbers_lost:
            values = self.sketch.in_order()
        start = 0
        for what, counts, count in self._pending:
            if isinstance(what, str):
                cells = [cell.strip() or None for cell in what.split("\0")]
                texts = [None if cell in self._missing_values else cell for cell in cells]
                self._tally(texts, [1] * len(texts) if counts is None else counts.tolist())
            else:
                if isinstance(what, np.dtype):
                    what = values[start : start + count].astype(what)
                texts, codes = texts_of(self.name, what, self._missing_values)
                self._tally(texts, np.bincount(codes, minlength=len(texts)).tolist())
            start += count
        self._pending = []
        self._counting = True

    def _count(self, column: Any, chosen: np.ndarray | None, row: int) -> None:
        """Count the texts of a piece."""
        if is_typed(column):
            taken, rows = np.unique(
                column if chosen is None else column[chosen], return_counts=True
            )
            self._tally(texts_of(self.name, taken, self._missing_values)[0], rows.tolist())
            if self._has_words and self._kind is None:
                self._n_numbers += int(np.count_nonzero(column == column))
            return
        texts, codes = texts_of(self.name, column, self._missing_values, row)
        seen = np.bincount(codes, minlength=len(texts)).tolist()
        if chosen is None:
            self._tally(texts, seen)
        else:
            self._tally(texts, np.bincount(codes[chosen], minlength=len(texts)).tolist())
        if self._has_words and self._kind is None:
            self._look_for_words(texts, codes, seen, row)

    def _tally(self, texts: Sequence[str | None], rows: list[int]) -> None:
        counts = self.counts
        for text, count in zip(texts, rows, strict=True):
            if count and text is not None:
                counts[text] = counts.get(text, 0) + count
            elif count:
                self._missing = True

    def _look_for_words(
        self, texts: list[str | None], codes: np.ndarray, seen: list[int], row: int
    ) -> None:
        word = None
        for place, text in enumerate(texts):
            if text is None or not seen[place]:
                continue
            if text[:1] in _NUMBERS_BEGIN and parse_numbers([text]) is not None:
                self._n_numbers += seen[place]
            else:
                self._n_words += seen[place]
                word = place if word is None else word
        if word is not None and self._first_word is None:
            self._first_word = str(texts[word]), row + int(np.argmax(codes == word))

    def settle(self) -> None:
        """From EXACT_ROWS on: count the numbers of a column of few, and not those of many."""
        if self._kind is not None or self._has_words:
            return
        many = self._numbers_lost or len(self.counts) > _MANY_NUMBERS
        if not (many or self._counting):
            many = len(np.unique(self.sketch.in_order())) > _MANY_NUMBERS
            if not many:
                self._start_counting()
        if many:
            self._missing = self._missing or self._nan
            self.counts, self._pending = {}, []
            self._counting, self._numbers_lost, self.incomplete = False, True, True

    def prune(self, most: int) -> None:
        """Keep at most so many texts, of the highest counts; each may then be too low.

        Misra and Gries 1982, "Finding repeated elements", as summaries are merged by Agarwal et
        al. 2012, "Mergeable summaries": the count of the first text that is not kept is taken
        from all of them. Among n rows that adds up to at most n / most.
        """
        sizes = {text: 1 + len(text) // _LONG for text in self.counts}
        if sum(sizes.values()) <= most:
            return
        ranked = sorted(self.counts, key=lambda text: (-self.counts[text], text))
        kept = int(np.searchsorted(np.cumsum([sizes[text] for text in ranked]), most, "right"))
        lost = self.counts[ranked[kept]]
        self.counts = {t: self.counts[t] - lost for t in ranked[:kept] if self.counts[t] > lost}
        self.incomplete = True

    def refuse_infinity(self) -> None:
        if self._infinite is not None:
            raise self._infinite

    def warn_of_numbers(self, stacklevel: int) -> None:
        """Warn where nearly all values are numbers, and not all."""
        if self._first_word is None or self._n_words > (1 - _MOSTLY) * (
            self._n_words + self._n_numbers
        ):
            return
        numbers = [text for text in self.counts if parse_numbers([text]) is not None]
        if len(numbers) < _MANY and not self.incomplete:
            return
        text, row = self._first_word
        warnings.warn(
            f"column {self.name!r} holds numbers in {self._n_numbers} rows and text in "
            f"{self._n_words} (the first: {text!r} in row {row}, from 0), so "
            "it is taken for categorical; name it in numeric or categorical to settle that, or "
            "add the text to missing_values",
            UserWarning,
            stacklevel=stacklevel,
        )

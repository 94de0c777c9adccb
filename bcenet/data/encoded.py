"""Datasets of numbers and texts: an encoder makes X of the columns as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.data.labels import choose_labels, distinct_labels, to_targets
from bcenet.data.sources import Reader, Source
from bcenet.data.tables import Tables
from bcenet.errors import CellError, DataFormatError


class EncodedSource(Source):
    """Tables whose columns are encoded into X, and whose target has two labels.

    Attributes: classes: (negative, positive).
    """

    classes: tuple[Any, Any]
    finite = True

    def __init__(
        self, tables: Tables, target: Any, encoder: Any, classes: Any, weight: Any
    ) -> None:
        if not isinstance(target, str):
            raise TypeError(
                f"target must name a column beside an encoder; got {checks.describe(target)}"
            )
        if weight is not None and not isinstance(weight, str):
            raise TypeError(f"weight must name a column; got {checks.describe(weight)}")
        for name in ("columns", "numeric_columns", "prepare", "encode"):
            if not hasattr(encoder, name):
                raise TypeError(f"encoder must be a TabularEncoder; got {checks.describe(encoder)}")
        if encoder.hashed_columns:
            raise ValueError(
                "encoder must not hash columns, for a dataset's X is dense; "
                f"it hashes {encoder.hashed_columns[0]!r}"
            )
        self.tables, self._encoder = tables, encoder
        self.target, self.weight = target, weight
        needed = list(encoder.columns)
        named: list[tuple[str, str | None]] = [("target", target), ("weight", weight)]
        for what, its in named:
            if its in needed:
                raise ValueError(f"{what} must not be a column of the encoder; got {its!r}")
        apart = [target] if weight is None else [target, weight]
        tables.require([*needed, *apart])
        self.name = tables.name
        self.columns = encoder.feature_names_out
        self.x_dtype = self.y_dtype = np.dtype(np.float32)
        self.weight_dtype = None if weight is None else np.dtype(np.float64)
        self.labels = ()
        self.units = tables.units
        self.classes = self._find_classes() if classes is None else _check_classes(classes)

    def _find_classes(self) -> tuple[Any, Any]:
        """From one pass over the target."""
        found: dict[Any, None] = {}
        reader = self.tables.open([self.target])
        try:
            for unit in range(len(self.tables.units)):
                for columns, place in reader.parts(unit):
                    with located(place):
                        found |= dict.fromkeys(
                            distinct_labels(self.target, columns[self.target])[0]
                        )
                    if len(found) > 2:
                        choose_labels(found, None, self.target)
        finally:
            reader.close()
        return choose_labels(found, None, self.target)

    def open(self) -> Reader:
        return _EncodedReader(self)

    def where(self, unit: int) -> tuple[str, int]:
        return self.tables.where(unit)


def _check_classes(classes: Any) -> tuple[Any, Any]:
    if not isinstance(classes, (tuple, list)) or len(classes) != 2 or classes[0] == classes[1]:
        raise ValueError(
            "classes must be (negative, positive), two different labels; "
            f"got {checks.describe(classes)}"
        )
    return tuple(classes)


@contextmanager
def located(place: Callable[[int], str]) -> Iterator[None]:
    """Tell the place of a bad cell: its file and line, or row."""
    try:
        yield
    except CellError as error:
        where = place(error.row)
        raise DataFormatError(f"{where}, column {error.column!r}: {error.what}") from None


class _EncodedReader(Reader):
    """Prepares the columns part by part, and encodes as many rows as are asked for."""

    def __init__(self, source: EncodedSource) -> None:
        self._source = source
        self._encoder = source._encoder
        self._reader: Any = None
        self._names: list[str] = []

    def begin(self, unit: int) -> None:
        self._unit = unit
        self._parts: Any = None
        self._part: Any = None
        self._at = self._length = 0

    def _start(self, names: list[str]) -> None:
        if names != self._names:
            self.close()
            encoder, tables = self._encoder, self._source.tables
            # The weight is read as the encoder's numbers are.
            numeric = {*encoder.numeric_columns, self._source.weight}
            self._reader = tables.open(names, numeric, encoder.missing_values)
            self._names = names
        self._parts = self._reader.parts(self._unit)

    def _next_part(self, with_x: bool) -> None:
        source = self._source
        part = next(self._parts, None)
        if part is None:
            raise DataFormatError(f"{source.name}: fewer rows than it says it has")
        columns, place = part
        with located(place):
            y = to_targets(source.target, columns[source.target], source.classes)
            X = self._encoder.prepare(columns) if with_x else []
            weight = None
            if source.weight is not None:
                weight = self._encoder.numbers(source.weight, columns[source.weight])
                if np.isnan(weight).any():
                    row = int(np.argmax(np.isnan(weight)))
                    raise CellError(source.weight, row, "the weight must not be missing")
        self._part = X, y, weight
        self._at, self._length = 0, len(y)

    def fill(self, X: np.ndarray | None, y: np.ndarray, weight: np.ndarray | None) -> int:
        source = self._source
        if self._parts is None:
            columns = [] if X is None else list(self._encoder.columns)
            weights = [] if source.weight is None else [source.weight]
            self._start([*columns, source.target, *weights])
        done = 0
        while done < len(y):
            if self._at == self._length:
                self._next_part(X is not None)
                continue
            count = min(len(y) - done, self._length - self._at)
            rows, its = slice(done, done + count), slice(self._at, self._at + count)
            values, targets, weights = self._part
            if X is not None:
                self._encoder.encode([column[its] for column in values], X[rows])
            y[rows] = targets[its]
            if weight is not None:
                weight[rows] = weights[its]
            self._at += count
            done += count
        return done

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader, self._names = None, []

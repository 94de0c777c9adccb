"""The encoder of tables: which column is what, fitted once, applied to any later table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from bcenet import checks
from bcenet.data.arrays import as_columns
from bcenet.data.values import MISSING_VALUES
from bcenet.tabular.categorical import CategoricalColumn
from bcenet.tabular.cells import numbers_of, texts_of
from bcenet.tabular.hashing import append_hashed, scipy_sparse
from bcenet.tabular.learning import Learner
from bcenet.tabular.numeric import ENCODINGS, NumericColumn
from bcenet.tabular.state import check_keys, check_texts, columns_from_state, columns_to_state

_STATE_VERSION = 2


class TabularEncoder:
    """Turns the columns of a table into the float32 features that a network takes.

    A column is numeric if all its values present are numbers, else categorical. Constant columns
    are dropped. Numeric columns are scaled robustly (``u / sqrt(1 + (u/3)^2)`` with
    ``u = (x - median) / (third quartile - first quartile)``, or half the range where the quartiles
    coincide), or encoded piecewise linearly over quantile bins, or both. A missing number counts as
    the median, with an indicator beside it if there were missing ones in the rows of ``fit``.
    Categories are one-hot, with one feature for all rare and unknown ones if there were rare ones
    in the rows of ``fit`` (without, an unknown category has no 1), and one for missing values if
    there were any.

    Columns of very many values (ids, zip codes, URLs) can be hashed: the value's hash chooses one
    of ``n_hashed_features`` features that all such columns share, and there the row has a 1 (or 2,
    where two of its columns meet). Nothing is learned of these columns, so unknown values are like
    known ones; a missing value counts as one. See `bcenet.tabular.hashing.places_of`.

    Args:
        numeric: columns that are numeric, whatever they look like.
        categorical: columns that are categorical, such as codes written as numbers.
        numeric_encoding: "scaled", "bins" or "both".
        n_bins: most bins of a numeric column; None for the cube root of its number of values, at
            most 64, and at most 1024 for all columns together.
        min_frequency: rows of ``fit`` below which a category is rare; None for one row in a
            hundred, at most 10.
        max_categories: most categories of a column that have a feature of their own.
        missing_values: texts that stand for a missing value.
        hashed: columns to hash. The features are then a sparse array; that needs SciPy, the extra
            ``sparse``.
        n_hashed_features: of all hashed columns together, at most 2^30. Two values share one with
            probability 1 / n_hashed_features.

    Attributes (of a fitted encoder):
        columns: the names of the columns it needs, in order.
        numeric_columns, categorical_columns, hashed_columns: the same, by type; hashed ones come
            last.
        dropped_columns: names of the columns that were constant.
        feature_names_out: one name for each feature.
        n_features_out: their number.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of its bounds.

    >>> table = {"age": ["39", "50", "?", "28"], "sex": ["F", "M", "M", "F"]}
    >>> encoder = TabularEncoder(numeric_encoding="scaled").fit(table)
    >>> encoder.feature_names_out
    ['age', 'age is missing', 'sex=F', 'sex=M']
    >>> encoder.transform({"sex": ["M"], "age": [39]})
    array([[0., 0., 0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        *,
        numeric: Sequence[str] = (),
        categorical: Sequence[str] = (),
        numeric_encoding: str = "both",
        n_bins: int | None = None,
        min_frequency: int | None = None,
        max_categories: int = 64,
        missing_values: Sequence[str] = MISSING_VALUES,
        hashed: Sequence[str] = (),
        n_hashed_features: int = 2**18,
    ) -> None:
        self.numeric = _names("numeric", numeric)
        self.categorical = _names("categorical", categorical)
        self.hashed = _names("hashed", hashed)
        for one, other in combinations(("numeric", "categorical", "hashed"), 2):
            both = sorted(set(getattr(self, one)) & set(getattr(self, other)))
            if both:
                raise ValueError(
                    f"{one} and {other} must not share a column; both name {both[0]!r}"
                )
        if len(set(self.hashed)) < len(self.hashed):
            raise ValueError(f"hashed must name each column once; got {list(self.hashed)}")
        self.n_hashed_features = checks.integer("n_hashed_features", n_hashed_features, 1, 2**30)
        self.numeric_encoding = checks.choice("numeric_encoding", numeric_encoding, ENCODINGS)
        self.n_bins = None if n_bins is None else checks.integer("n_bins", n_bins, 1, 4096)
        self.min_frequency = (
            None if min_frequency is None else checks.integer("min_frequency", min_frequency, 1)
        )
        self.max_categories = checks.integer("max_categories", max_categories, 1)
        self.missing_values = _names("missing_values", missing_values)
        self.dropped_columns: tuple[str, ...] = ()
        self._columns: tuple[NumericColumn | CategoricalColumn, ...] | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self._options().items())
        return f"TabularEncoder({options})"

    def fit(self, table: Any) -> TabularEncoder:
        """Learn types, medians, quantiles and categories from the rows of ``table``.

        Args:
            table: what ``bcenet.data.as_table`` takes, of n > 0 rows, without the target. What is
                said of memory and exactness beyond 2^20 rows in `fit_blocks` holds here too.

        Returns:
            The encoder itself.

        Raises:
            ValueError: no rows, a column named in ``numeric``, ``categorical`` or ``hashed`` is
                not there, a numeric column holds a text or an infinity, or all columns are
                constant.
            TypeError: a cell is neither number nor text.
            ImportError: columns are to be hashed, and SciPy is not installed.
        """
        return self._fit([table])

    def fit_blocks(self, blocks: Iterable[Any]) -> TabularEncoder:
        """Learn from the rows of a table that comes in blocks, in one pass and bounded memory.

        The encoder is the one that `fit` gives on all rows at once, bit for bit, however they are
        cut into blocks, as long as a column has one type in all of them:

        - Whether a column is numeric is exact for any number of rows.
        - Medians and quantiles are exact up to 2^20 numbers of a column. Beyond, ranks are off by
          less than 1.1e-4 of their number up to 2^30 of them: see `QuantileSketch`.
        - Counts of categories are exact up to 2^20 rows, as long as all columns together hold at
          most 2^21 different texts (where one counts for one more for each 64 characters). Beyond,
          of each column only the most frequent are counted on, and counts may be too low, by at
          most n c / 2^21 in n rows of c columns.
        - A column whose first text that is no number comes after 2^20 rows, among which it had
          more than 2^14 different numbers, is categorical and its numbers so far count as rare.

        Args:
            blocks: tables as `fit` takes them, with the same columns; an iterator is enough.

        Returns, Raises: as `fit`. The rows of messages are those of all blocks together.

        >>> encoder = TabularEncoder(numeric_encoding="scaled")
        >>> blocks = ({"x": [i], "c": ["ab"[i % 2]]} for i in range(5))
        >>> encoder.fit_blocks(blocks).feature_names_out
        ['x', 'c=a', 'c=b']
        """
        return self._fit(blocks)

    def _fit(self, blocks: Iterable[Any]) -> TabularEncoder:
        learner = self.learner()
        for table in blocks:
            learner.add(as_columns(table))
        return self.take(learner, stacklevel=4)

    def learner(self) -> Learner:
        """What learns the columns of this encoder from blocks of rows, for `take`."""
        if self.hashed:
            scipy_sparse()
        return Learner(
            frozenset(self.numeric),
            frozenset(self.categorical),
            frozenset(self.hashed),
            frozenset(self.missing_values),
        )

    def take(self, learner: Learner, stacklevel: int = 2) -> TabularEncoder:
        """Be fitted to what was learnt; raises and warns as `fit`."""
        fitted, dropped = learner.finish(
            self.numeric_encoding,
            self.n_bins,
            self.min_frequency,
            self.max_categories,
            stacklevel + 1,
        )
        self._columns, self.dropped_columns = tuple(fitted), tuple(dropped)
        return self

    def transform(self, table: Any) -> Any:
        """The features of the rows of ``table``.

        Args:
            table: what ``bcenet.data.as_table`` takes; the fitted columns in any order, and any
                others, which are not looked at.

        Returns:
            float32 array of shape (n, n_features_out). Where columns are hashed it is SciPy's
            ``csr_array``, which holds what is not 0, in the order of the columns in each row.

        Raises:
            ValueError: the encoder is not fitted, a column is not there, a numeric column holds
                a text or an infinity, or a hashed one floats of 2^53 or more; the message names
                column, row and value.
            TypeError: a cell is neither number nor text.
            ImportError: columns are hashed, and SciPy is not installed.

        >>> table = {"age": [20, 30, 40], "user": ["ann", "bob", None]}
        >>> encoder = TabularEncoder(hashed=["user"], n_hashed_features=4, numeric_encoding="bins")
        >>> encoder.fit_transform(table).toarray()
        array([[0. , 1. , 0. , 0. , 0. ],
               [0.5, 0. , 0. , 1. , 0. ],
               [1. , 0. , 0. , 0. , 1. ]], dtype=float32)
        """
        columns = as_columns(table)
        _require("that the encoder needs", self.columns, columns)
        n_rows = len(columns[self.columns[0]])
        width = sum(column.n_features for column in self._fitted())
        features = np.empty((n_rows, width), dtype=np.float32)
        self.encode(self.prepare(columns), features)
        if not self.hashed:
            return features
        hashed = {name: columns[name] for name in self.hashed}
        return append_hashed(
            features, hashed, self.n_hashed_features, frozenset(self.missing_values)
        )

    def prepare(self, columns: Mapping[str, Any]) -> list[np.ndarray]:
        """What `encode` takes: an array (n,) a column, float64 numbers or places of categories.

        Hashed columns are left out. ``columns`` are arrays as `bcenet.data.as_table` gives them,
        or `Coded`. Raises: as `transform`; a `CellError` where it names a row.
        """
        missing_values = frozenset(self.missing_values)
        values = []
        for column in self._fitted():
            cells = columns[column.name]
            if isinstance(column, NumericColumn):
                values.append(numbers_of(column.name, cells, missing_values))
            else:
                values.append(column.places(*texts_of(column.name, cells, missing_values)))
        return values

    def numbers(self, name: str, column: Any) -> np.ndarray:
        """Any column as finite float64 numbers, NaN where missing; raises as `prepare`."""
        return numbers_of(name, column, frozenset(self.missing_values))

    def encode(self, values: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Write the features of prepared rows to ``out``, float32 (n, features).

        ``out`` has a column for each feature but those of hashed columns.
        """
        start = 0
        for column, its in zip(self._fitted(), values, strict=True):
            stop = start + column.n_features
            column.encode(its, out[:, start:stop])
            start = stop

    def fit_transform(self, table: Any) -> Any:
        """``fit(table).transform(table)``; the same arguments, result and errors."""
        columns = as_columns(table)
        return self._fit([columns]).transform(columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*(column.name for column in self._fitted()), *self.hashed)

    @property
    def numeric_columns(self) -> tuple[str, ...]:
        return tuple(c.name for c in self._fitted() if isinstance(c, NumericColumn))

    @property
    def categorical_columns(self) -> tuple[str, ...]:
        return tuple(c.name for c in self._fitted() if isinstance(c, CategoricalColumn))

    @property
    def hashed_columns(self) -> tuple[str, ...]:
        self._fitted()
        return self.hashed

    @property
    def feature_names_out(self) -> list[str]:
        names = [name for column in self._fitted() for name in column.feature_names]
        return names + [f"hashed[{place}]" for place in range(self._n_hashed)]

    @property
    def n_features_out(self) -> int:
        return sum(column.n_features for column in self._fitted()) + self._n_hashed

    @property
    def _n_hashed(self) -> int:
        return self.n_hashed_features if self.hashed else 0

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All that ``transform`` needs, as a JSON-able dict and named float64 and int64 arrays.

        Raises:
            ValueError: the encoder is not fitted.

        >>> encoder = TabularEncoder().fit({"x": [1.0, 2.0, 4.0]})
        >>> config, arrays = encoder.state()
        >>> sorted(arrays)
        ['center', 'edges', 'n_edges', 'scale']
        >>> twin = TabularEncoder.from_state(config, arrays)
        >>> bool((twin.transform({"x": [3.0]}) == encoder.transform({"x": [3.0]})).all())
        True
        """
        entries, arrays = columns_to_state(self._fitted())
        config = {
            "version": _STATE_VERSION,
            "options": self._options(),
            "columns": entries,
            "dropped_columns": list(self.dropped_columns),
        }
        return config, arrays

    @classmethod
    def from_state(
        cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> TabularEncoder:
        """The fitted encoder that ``state`` described; both parts may come from anywhere.

        Raises:
            ValueError: anything is not exactly as ``state`` would have written it.
        """
        check_keys("config", config, {"version", "options", "columns", "dropped_columns"})
        if type(config["version"]) is not int or config["version"] != _STATE_VERSION:
            raise ValueError(
                f"config['version'] must be {_STATE_VERSION}; "
                f"got {checks.describe(config['version'])}"
            )
        options = config["options"]
        check_keys("config['options']", options, set(cls()._options()))
        try:
            encoder = cls(**options)
        except TypeError as error:
            raise ValueError(f"config['options']: {error}") from None
        if encoder._options() != dict(options):
            raise ValueError("config['options'] must be as state() writes them")
        encoder._columns = columns_from_state(config["columns"], arrays)
        if not encoder.columns:
            raise ValueError("config must hold a column; got none")
        encoder.dropped_columns = check_texts(
            "config['dropped_columns']", config["dropped_columns"]
        )
        names = [*encoder.columns, *encoder.dropped_columns]
        if len(set(names)) < len(names):
            raise ValueError("config must name each column once")
        return encoder

    def _options(self) -> dict[str, Any]:
        return {
            "numeric": list(self.numeric),
            "categorical": list(self.categorical),
            "numeric_encoding": self.numeric_encoding,
            "n_bins": self.n_bins,
            "min_frequency": self.min_frequency,
            "max_categories": self.max_categories,
            "missing_values": list(self.missing_values),
            "hashed": list(self.hashed),
            "n_hashed_features": self.n_hashed_features,
        }

    def _fitted(self) -> tuple[NumericColumn | CategoricalColumn, ...]:
        if self._columns is None:
            raise ValueError("this TabularEncoder must be fitted first; call fit with a table")
        return self._columns


def _names(argument: str, names: Any) -> tuple[str, ...]:
    """Texts as a tuple; a single text is refused, for it is a sequence of letters."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{argument} must be a sequence of text; got {checks.describe(names)}")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} must hold text; got {checks.describe(name)}")
    return names


def _require(which: str, names: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
    absent = [name for name in names if name not in columns]
    if absent:
        raise ValueError(
            f"table must have every column {which}; missing: {', '.join(map(repr, absent))}"
        )

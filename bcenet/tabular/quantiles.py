"""Quantiles of a stream in one pass: exact while it is short, within a stated error beyond."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks

_MOST_PENDING = 1000  # arrays; of a value each they would take far more room than their values


class QuantileSketch:
    """Quantiles of all values given so far, in bounded memory.

    Up to ``exact`` values all are kept and the quantiles are exact. Beyond, the stream is cut into
    blocks of ``block`` values. A sorted block of level 0 stands for its values; two blocks of
    level h are merged and every second value is kept, which makes a block of level h + 1, whose
    values stand for ``2**(h + 1)`` values each (Munro and Paterson 1980; Manku, Rajagopalan and
    Lindsay 1998). Even and odd places are kept in turn, so nothing is random.

    Error: keeping every second value of two blocks of level h moves the rank of any number by at
    most ``2**h``, and among n values that happens at most ``n / (block * 2**(h + 1))`` times. So
    ranks are off by at most ``n * H / (2 * block)``, with ``H = ceil(log2(n / block))`` levels:
    with the default block a fraction of 5e-5 at 2**22 values and 1.1e-4 at 2**30. The smallest and
    the largest value are always exact. Memory: ``exact`` values, then ``block * (H + 2)``.

    The answers depend on the values and their order alone, never on how the calls of ``update``
    cut the stream.

    Args:
        exact: how many values are kept before any is dropped.
        block: values in a block, even, at most ``exact``.

    Raises:
        TypeError, ValueError: an argument is no integer, or out of its bounds.

    >>> sketch = QuantileSketch()
    >>> sketch.update([3.0, 1.0])
    >>> sketch.update([2.0, 10.0])
    >>> sketch.quantile([0.0, 0.5, 1.0])
    array([ 1. ,  2.5, 10. ])
    """

    def __init__(self, exact: int = 2**20, block: int = 2**16) -> None:
        self._exact = checks.integer("exact", exact, 2)
        self._block = checks.integer("block", block, 2, self._exact)
        if self._block % 2:
            raise ValueError(f"block must be even; got {block}")
        self.count = 0
        self._pending: list[np.ndarray] = []  # values in no block yet, in the stream's order
        self._n_pending = 0
        self._levels: list[np.ndarray | None] = []  # at most one sorted block a level
        self._offsets: list[int] = []  # 0 or 1: the places the next merge of a level keeps
        self._minimum = np.inf
        self._maximum = -np.inf
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def update(self, values: Any) -> None:
        """Add values.

        Args:
            values: finite numbers of shape (n,), converted to float64.

        Raises:
            ValueError: the values are not 1-D, or one is NaN or infinite.
        """
        values = np.asarray(values, dtype=np.float64) + 0.0  # a copy, without negative zeros
        if values.ndim != 1:
            raise ValueError(f"values must be 1-D; got {checks.describe(values)}")
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"values must be finite; got {values[place]} in row {place}")
        if not len(values):
            return
        self._minimum = min(self._minimum, values.min())
        self._maximum = max(self._maximum, values.max())
        self._add(values, len(values))

    def merge(self, other: QuantileSketch) -> None:
        """Add all values of another sketch of the same ``exact`` and ``block``, left unchanged.

        The error bound holds for the values of both. The result depends on the order of merges.

        Raises:
            ValueError: the sketches differ in ``exact`` or ``block``.
        """
        if (other._exact, other._block) != (self._exact, self._block):
            raise ValueError(
                f"other must have exact={self._exact} and block={self._block}; "
                f"got exact={other._exact} and block={other._block}"
            )
        self._minimum = min(self._minimum, other._minimum)
        self._maximum = max(self._maximum, other._maximum)
        for level, block in enumerate(other._levels):
            if block is not None:
                self._insert(block, level)
        self._add(np.concatenate([np.empty(0), *other._pending]), other.count)

    def quantile(self, q: Any) -> np.ndarray:
        """The quantiles at ``q``, interpolated linearly between neighbours as ``numpy.quantile``.

        The value at q is at place ``q * (count - 1)`` of the sorted values, from 0.

        Args:
            q: numbers in [0, 1], any shape.

        Returns:
            float64 array of the shape of ``q``.

        Raises:
            ValueError: no value was added, or a q is outside [0, 1].
        """
        q = np.asarray(q, dtype=np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"q must be in [0, 1]; got {checks.describe(q)}")
        if not self.count:
            raise ValueError("a quantile needs at least one value; none was added")
        place = q * (self.count - 1)
        below = np.floor(place)
        low = self.values_at(below.astype(np.int64))
        high = self.values_at(np.ceil(place).astype(np.int64))
        # Halves, for high - low may overflow; equal neighbours give themselves exactly.
        step = (high / 2 - low / 2) * (place - below)
        return np.clip(low + step + step, low, high)

    def values_at(self, places: Any) -> np.ndarray:
        """The values at places of the sorted stream, from 0 to ``count - 1``: never in between.

        Args:
            places: integers, any shape.

        Returns:
            float64 array of the shape of ``places``.

        Raises:
            ValueError: a place is not an integer in [0, count).
        """
        places = np.asarray(places)
        if places.dtype.kind not in "iu" or not ((places >= 0) & (places < self.count)).all():
            raise ValueError(
                f"places must be integers in [0, {self.count}); got {checks.describe(places)}"
            )
        values, ranks = self._sorted_values()
        return values[np.searchsorted(ranks, places, side="right")]

    def in_order(self) -> np.ndarray:
        """All values in the order in which they came, negative zeros as 0.

        Raises:
            ValueError: there were more than ``exact``, so that not all are kept.

        >>> sketch = QuantileSketch()
        >>> sketch.update([3.0, 1.0])
        >>> sketch.in_order()
        array([3., 1.])
        """
        if self.count > self._exact:
            raise ValueError(f"at most {self._exact} values are kept; got {self.count}")
        return np.concatenate([np.empty(0), *self._pending])

    def _add(self, values: np.ndarray, count: int) -> None:
        """Append ``values`` to the pending ones; ``count`` is by how much the stream grows."""
        self._sorted = None
        self._pending.append(values)
        self._n_pending += len(values)
        self.count += count
        if self.count <= self._exact or self._n_pending < self._block:
            if len(self._pending) > _MOST_PENDING:
                self._pending = [np.concatenate(self._pending)]
            return
        pending = np.concatenate(self._pending)
        whole = len(pending) - len(pending) % self._block
        for start in range(0, whole, self._block):
            self._insert(np.sort(pending[start : start + self._block]), 0)
        self._pending = [pending[whole:].copy()]
        self._n_pending -= whole

    def _insert(self, block: np.ndarray, level: int) -> None:
        """Put a sorted block in its level; two of a level become one of the next."""
        while len(self._levels) <= level:
            self._levels.append(None)
            self._offsets.append(0)
        resident = self._levels[level]
        if resident is None:
            self._levels[level] = block
            return
        self._levels[level] = None
        merged = np.sort(np.concatenate([resident, block]))
        kept = merged[self._offsets[level] :: 2].copy()
        self._offsets[level] = 1 - self._offsets[level]
        self._insert(kept, level + 1)

    def _sorted_values(self) -> tuple[np.ndarray, np.ndarray]:
        """The kept values in order, and how many values of the stream they stand for so far.

        The last of the ranks is ``count``; the outermost values are the exact extremes.
        """
        if self._sorted is None:
            parts = [np.sort(np.concatenate(self._pending))]
            weights = [np.ones(len(parts[0]), dtype=np.int64)]
            for level, block in enumerate(self._levels):
                if block is not None:
                    parts.append(block)
                    weights.append(np.full(len(block), 1 << level, dtype=np.int64))
            values = np.concatenate(parts)
            order = np.argsort(values, kind="stable")
            values = values[order]
            values[0], values[-1] = self._minimum, self._maximum
            self._sorted = values, np.cumsum(np.concatenate(weights)[order])
        return self._sorted

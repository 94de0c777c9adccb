"""Numeric columns: robust scaling, and piecewise-linear encoding over quantile bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcenet.tabular.quantiles import QuantileSketch

ENCODINGS = ("scaled", "bins", "both")

LIMIT = 1e300  # larger numbers count as this, so that no difference of two overflows

_GRID = 4096  # places of the sorted values that the edges are chosen from
_FAR = 1e9  # |u| from which u / sqrt(1 + (u/3)^2) is 3 to the last digit
_ROWS = 1024  # rows whose bins are filled at a time, in cache


@dataclass(frozen=True, eq=False)
class NumericColumn:
    """What is known of a numeric column, and how features are computed from it.

    Features, in this order: the scaled value, one for each bin, the indicator of missing values.

    Attributes:
        name: the column's name.
        center: the median; it also takes the place of missing values.
        scale: the divisor of the scaled value; 0 where there is no such feature.
        edges: the bins' edges, strictly increasing, of shape (bins + 1,); empty without bins.
        missing: whether there is an indicator.
    """

    name: str
    center: float
    scale: float
    edges: np.ndarray
    missing: bool

    @classmethod
    def fit(
        cls, name: str, sketch: QuantileSketch, missing: bool, encoding: str, n_bins: int
    ) -> NumericColumn | None:
        """Learn from the numbers of a training column; None if it is constant.

        The scale is the distance of the quartiles or, where they coincide, half the range, as in
        Holzmueller, Grinsztajn and Steinwart 2024, "Better by Default: Strong Pre-Tuned MLPs and
        Boosted Trees on Tabular Data". The bins hold equal numbers of training rows as far as
        ties permit: see ``bin_edges``.
        """
        if not sketch.count:
            return None
        low, first, center, third, high = sketch.quantile([0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
        scale, edges = 0.0, np.empty(0)
        if low < high:
            if encoding != "bins":
                # The last form is for a range of one subnormal number, whose half is 0.
                scale = (third - first) or (high - low) / 2 or high - low
            if encoding != "scaled":
                edges = bin_edges(sketch, n_bins)
            if encoding == "both" and len(edges) == 2:
                edges = np.empty(0)  # a single bin says what the scaled value says
        elif not missing:
            return None
        return cls(name, center, scale, edges, missing)

    @property
    def n_bins(self) -> int:
        return max(len(self.edges) - 1, 0)

    @property
    def n_features(self) -> int:
        return (self.scale > 0) + self.n_bins + self.missing

    @property
    def feature_names(self) -> list[str]:
        names = [self.name] if self.scale else []
        names += [f"{self.name}[{place}]" for place in range(self.n_bins)]
        return names + ([f"{self.name} is missing"] if self.missing else [])

    def encode(self, values: np.ndarray, out: np.ndarray) -> None:
        """Write the features of ``values``, (n,) with NaN where missing, to ``out``, (n, features).

        Scaled: ``u = (x - center) / scale``, then ``u / sqrt(1 + (u/3)^2)``, which is u near 0
        and stays within (-3, 3). Bin t: ``(x - edges[t]) / (edges[t+1] - edges[t])`` cut to
        [0, 1]; the source leaves the outer bins uncut.
        """
        absent = np.isnan(values)
        x = np.where(absent, self.center, np.clip(values, -LIMIT, LIMIT))
        place = 0
        with np.errstate(over="ignore", under="ignore"):
            if self.scale:
                u = np.clip((x - self.center) / self.scale, -_FAR, _FAR)
                out[:, 0] = u / np.sqrt(1.0 + (u / 3.0) ** 2)
                place = 1
            if self.n_bins:
                self._encode_bins(x, out[:, place : place + self.n_bins])
        if self.missing:
            out[:, -1] = absent

    def _encode_bins(self, x: np.ndarray, out: np.ndarray) -> None:
        """In each row: 1 in the bins below that of x, a fraction in its own, 0 in those above."""
        own = np.searchsorted(self.edges[1:-1], x, side="right")
        left, right = self.edges[own], self.edges[own + 1]
        fraction = np.clip((x - left) / (right - left), 0.0, 1.0)
        # A row of this for each bin is copied faster than it is made.
        below = np.tri(self.n_bins, self.n_bins, -1, dtype=np.float32)
        buffer = np.empty((min(len(x), _ROWS), self.n_bins), np.float32)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            block = buffer[: len(own[rows])]
            np.take(below, own[rows], axis=0, out=block, mode="clip")  # which buffers nothing
            block[np.arange(len(block)), own[rows]] = fraction[rows]
            out[rows] = block


def default_n_bins(n_values: int, n_columns: int) -> int:
    """Bins of a column of ``n_values`` numbers beside ``n_columns - 1`` other numeric ones.

    The cube root of the number of values, which measured best from 300 to 30,000 rows; at most
    64, and at most 1024 for all columns together, so that wide tables stay narrow enough.

    >>> default_n_bins(300, 7), default_n_bins(32561, 6), default_n_bins(32561, 100)
    (7, 32, 10)
    """
    return max(1, min(round(n_values ** (1 / 3)), 64, 1024 // n_columns))


def bin_edges(sketch: QuantileSketch, n_bins: int) -> np.ndarray:
    """At most ``n_bins + 1`` increasing edges, from the smallest value to the largest.

    Quantile bins (Gorishniy, Rubachev and Babenko 2022, "On Embeddings for Numerical Features in
    Tabular Deep Learning"), with one change: a value so frequent that it would fill a bin takes one
    edge, and the other edges divide the rest evenly. Plain quantiles spend most edges on such a
    value, and a column that is 0 in nine rows of ten is left with hardly any.

    >>> sketch = QuantileSketch()
    >>> sketch.update([0.0] * 90 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    >>> bin_edges(sketch, 4)
    array([0., 2., 4., 6., 8.])
    """
    places = np.linspace(0, sketch.count - 1, min(sketch.count, _GRID + 1))
    grid = sketch.values_at(np.round(places).astype(np.int64))
    values, counts = np.unique(grid, return_counts=True)
    if len(values) <= n_bins + 1:
        return values
    own = np.zeros(len(values), dtype=bool)
    own[[0, -1]] = True
    room = n_bins - 1
    while room > 0:
        frequent = ~own & (counts > counts[~own].sum() / (room + 1))
        if not frequent.any():
            break
        own |= frequent
        room = n_bins + 1 - int(own.sum())
    edges = values[own]
    rest = np.repeat(values[~own], counts[~own])
    if room > 0:
        evenly = np.arange(1, room + 1) * (len(rest) + 1) / (room + 1) - 1
        edges = np.concatenate([edges, rest[np.round(evenly).astype(np.int64)]])
    return np.unique(edges)

"""Categorical columns: one place a category, one for rare and unknown ones, one for missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CategoricalColumn:
    """The categories of a column; each row has a 1 in one of its features, or none.

    Features, in this order: one for each category, ``<other>``, ``<missing>``.

    Attributes:
        name: the column's name.
        categories: the texts with a feature of their own, sorted.
        other: whether rare categories share a feature, which unknown ones get too. Without it
            they have no 1 at all: a feature that is 0 in every training row would keep the random
            weights that it began with.
        missing: whether missing values have a feature; without it they count as unknown.
    """

    name: str
    categories: tuple[str, ...]
    other: bool
    missing: bool

    @classmethod
    def fit(
        cls,
        name: str,
        counts: Mapping[str, int],
        missing: bool,
        incomplete: bool,
        min_frequency: int,
        max_categories: int,
    ) -> CategoricalColumn | None:
        """Learn from how many training rows hold each text.

        ``missing`` tells whether values were missing, ``incomplete`` whether there were texts
        that are not counted. None if only one feature would be left, which were 1 in every row.
        """
        frequent = [text for text, count in counts.items() if count >= min_frequency]
        kept = sorted(frequent, key=lambda text: (-counts[text], text))[:max_categories]
        other = incomplete or len(kept) < len(counts)
        if len(kept) + other + missing < 2:
            return None
        return cls(name, tuple(sorted(kept)), other, missing)

    @property
    def n_features(self) -> int:
        return len(self.categories) + self.other + self.missing

    @property
    def feature_names(self) -> list[str]:
        names = [f"{self.name}={text}" for text in self.categories]
        names += [f"{self.name}=<other>"] if self.other else []
        return names + ([f"{self.name}=<missing>"] if self.missing else [])

    def places(self, texts: list[str | None], codes: np.ndarray) -> np.ndarray:
        """The feature of each row ``texts[codes[i]]`` that is 1, or -1 for none: int32 (n,)."""
        places: dict[str | None, int] = {text: i for i, text in enumerate(self.categories)}
        unknown = len(self.categories) if self.other else -1
        if self.missing:
            places[None] = len(self.categories) + self.other
        return np.array([places.get(text, unknown) for text in texts], dtype=np.int32)[codes]

    def encode(self, places: np.ndarray, out: np.ndarray) -> None:
        """Write the features of rows with these ``places`` to ``out``, (n, features)."""
        out[...] = 0.0
        rows = np.flatnonzero(places >= 0)
        out[rows, places[rows]] = 1.0


def default_min_frequency(n_rows: int) -> int:
    """Rows below which a category is rare: one in a hundred, from 1 to 10.

    >>> default_min_frequency(50), default_min_frequency(300), default_min_frequency(32561)
    (1, 3, 10)
    """
    return max(1, min(10, n_rows // 100))

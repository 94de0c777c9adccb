"""The shape of a network, and the flat layout of its parameters in one array.

W1, b1, W2, b2, …, then gain and shift of each normalised layer, then the factors of X's columns.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bcenet.records import Record


class Shape(Record):
    """What decides how many parameters a network has, and what is computed with them.

    Attributes:
        layer_sizes: inputs, hidden widths, outputs. activations: one a layer, the last "sigmoid".
        normalization: None, "batch" or "layer", one a layer; the last is None.
        feature_scale: whether every column of X has a learned factor.
    """

    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]
    normalization: tuple[str | None, ...]
    feature_scale: bool

    @property
    def normed(self) -> list[int]:
        """The widths of the normalised layers."""
        sizes = self.layer_sizes[1:]
        return [n for n, kind in zip(sizes, self.normalization, strict=True) if kind is not None]

    @property
    def is_plain(self) -> bool:
        """Whether the parameters are weights and intercepts alone."""
        return not self.feature_scale and not self.normed

    def count(self) -> int:
        """How many parameters there are."""
        count = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(self.layer_sizes))
        return count + 2 * sum(self.normed) + self.feature_scale * self.layer_sizes[0]

    def statistics_count(self) -> int:
        """How many running means and variances there are."""
        kinds = zip(self.layer_sizes[1:], self.normalization, strict=True)
        return 2 * sum(n for n, kind in kinds if kind == "batch")

    def split(self, flat: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Views of a flat array: ([W (fan_in, fan_out)], [b (fan_out,)])."""
        coefs, intercepts = [], []
        start = 0
        for fan_in, fan_out in pairwise(self.layer_sizes):
            middle = start + fan_in * fan_out
            coefs.append(flat[start:middle].reshape(fan_in, fan_out))
            intercepts.append(flat[middle : middle + fan_out])
            start = middle + fan_out
        return coefs, intercepts

    def split_norms(self, flat: np.ndarray) -> tuple[list[np.ndarray], np.ndarray | None]:
        """More views: ([gain and shift (2, width) of each normalised layer], factors or None)."""
        scaled = self.feature_scale * self.layer_sizes[0]
        end = flat.size - scaled
        start = end - 2 * sum(self.normed)
        norms = _pairs(flat[start:end], self.normed)
        return norms, flat[end:] if self.feature_scale else None

    def split_statistics(self, flat: np.ndarray) -> list[np.ndarray]:
        """Views of the running mean and variance, (2, width), of each batch-normalised layer."""
        kinds = zip(self.layer_sizes[1:], self.normalization, strict=True)
        return _pairs(flat, [n for n, kind in kinds if kind == "batch"])

    def config(self) -> dict[str, Any]:
        """The same as JSON, of the hidden layers where the last has no choice."""
        return {
            "layer_sizes": list(self.layer_sizes),
            "activations": list(self.activations[:-1]),
            "normalization": list(self.normalization[:-1]),
            "feature_scale": self.feature_scale,
        }


def _pairs(flat: np.ndarray, widths: list[int]) -> list[np.ndarray]:
    views, start = [], 0
    for width in widths:
        views.append(flat[start : start + 2 * width].reshape(2, width))
        start += 2 * width
    return views

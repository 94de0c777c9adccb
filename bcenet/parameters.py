"""The flat layout of a network's parameters: W1, b1, W2, b2, … in one array."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def count(layer_sizes: tuple[int, ...]) -> int:
    """How many parameters a network has."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(layer_sizes))


def split(
    flat: np.ndarray, layer_sizes: tuple[int, ...]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Views of a flat array W1, b1, W2, b2, …: ([W (fan_in, fan_out)], [b (fan_out,)])."""
    coefs, intercepts = [], []
    start = 0
    for fan_in, fan_out in pairwise(layer_sizes):
        middle = start + fan_in * fan_out
        coefs.append(flat[start:middle].reshape(fan_in, fan_out))
        intercepts.append(flat[middle : middle + fan_out])
        start = middle + fan_out
    return coefs, intercepts

"""The rows that a fit or an evaluation works on, checked once before anything native runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import kernels, losses, sparse
from bcenet.records import Record

if TYPE_CHECKING:
    from bcenet.network import Network

Sources = tuple[Any, Any, Any, Any]  # X, y, weight, offset as the kernels read them


class Rows(Record):
    """X (n, inputs), an array or CSR; y (n,) or (n, k); weight like y or (n,) or None; offset like
    y or None."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None
    offset: np.ndarray | None

    @property
    def n(self) -> int:
        return self.X.shape[0]

    def part(self, chosen: Any) -> Rows:
        """Some of the rows: a slice or positions."""
        return Rows(*(None if array is None else array[chosen] for array in self.arrays()))

    def most_entries(self, rows: int) -> int:
        return most_entries(self.X, rows)

    def sources(self) -> Sources:
        x, y, weight, offset = self.arrays()
        return (
            kernels.source(x),
            kernels.source(y),
            kernels.optional_source(weight),
            kernels.optional_source(offset),
        )

    def arrays(self) -> tuple[Any, Any, Any, Any]:
        return self.X, self.y, self.weight, self.offset


def most_entries(X: Any, rows: int) -> int:
    """The most entries of a batch of so many rows where X is sparse; -1 where it is not."""
    return sparse.most_entries(X, rows) if sparse.is_sparse(X) else -1


class Stream:
    """Rows that come window by window: what `bcenet.data.Dataset` is to `bcenet.fit`."""

    def windows(self, dtype: Any, missing: bool, **options: Any) -> Any:
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What tells these rows from others, as JSON."""
        raise NotImplementedError

    def most_entries(self, rows: int) -> int:
        """As of dense `Rows`."""
        return -1


def check(
    network: Network,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    offset: Any = None,
    *,
    missing: bool = False,
    prefix: str = "",
) -> Rows:
    """Rows for a network; errors call the arguments by ``prefix`` and their names.

    With ``missing`` NaN targets are welcome. Raises: ValueError or TypeError.
    """
    array = network.check_rows(X, f"{prefix}X")
    count = array.shape[0]
    if count == 0:
        raise ValueError(f"{prefix}X must have at least one row; got 0")
    targets = network.check_targets(y, count, f"{prefix}y", missing=missing)
    weight = check_weight(sample_weight, targets, network.dtype, f"{prefix}sample_weight")
    if missing and not _holds_labels(targets, weight, network.dtype):
        raise ValueError(f"{prefix}y must hold labels that weigh something; all such are missing")
    return Rows(array, targets, weight, network.check_offset(offset, count, f"{prefix}offset"))


def _holds_labels(targets: np.ndarray, weight: np.ndarray | None, dtype: np.dtype) -> bool:
    """Whether a target is there, not NaN, whose weight is not 0 in a dtype."""
    known = ~np.isnan(targets)
    if weight is not None:
        weighs = weight.astype(dtype) > 0
        known &= weighs if weight.ndim == targets.ndim else weighs[:, np.newaxis]
    return bool(known.any())


def check_weight(
    sample_weight: Any, targets: np.ndarray, dtype: np.dtype, name: str = "sample_weight"
) -> np.ndarray | None:
    """Weights of shape (n,) or the targets' shape, finite, not negative, not all 0; or None."""
    if sample_weight is None:
        return None
    weight = losses.check_sample_weight(sample_weight, targets.shape)
    if losses.sum_weights(weight, dtype, name) == 0:
        raise ValueError(f"{name} must not be 0 everywhere")
    return weight

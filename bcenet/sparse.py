"""Sparse X: compressed rows (CSR), as SciPy's matrices and arrays hold them.

What is 0 is left out of the sums over columns, and nothing else changes: the results have the bits
of the same rows made dense.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks, kernels


def is_sparse(X: Any) -> bool:
    """Whether X is a sparse matrix or array, of any format; SciPy need not be imported."""
    return not isinstance(X, np.ndarray) and hasattr(X, "tocsr") and hasattr(X, "shape")


def check(name: str, X: Any) -> Any:
    """X as CSR whose columns rise in each row, with real numbers; copied only where it must be.

    Raises: TypeError for a dtype that is not real; ValueError for indices that are no matrix.
    """
    matrix = X.tocsr()
    checks.real_array(name, matrix.data)
    bad = _first_unsorted(matrix)
    if bad >= 0:  # unsorted, or the same place twice: added up, as SciPy means it
        matrix = matrix.copy()
        matrix.sum_duplicates()
        bad = _first_unsorted(matrix)
    if bad != -1:
        where = f"row {bad}" if bad >= 0 else "indptr"
        raise ValueError(
            f"{name} must be a sparse matrix whose indices fit its shape; {where} does not"
        )
    return matrix


def check_finite(name: str, X: Any, dtype: np.dtype) -> None:
    """ValueError for the first entry that is not finite in a dtype, with its row and column."""
    index = kernels.first_bad(X.data, dtype, "finite")
    if index >= 0:
        row = int(np.searchsorted(X.indptr, index, side="right")) - 1
        column = int(X.indices[index])
        raise ValueError(
            f"{name} must be finite; got {X.data[index].item()!r} at row {row}, column {column}"
        )


def most_entries(X: Any, rows: int) -> int:
    """The most entries that a batch of so many rows, whichever they are, can have."""
    lengths = np.diff(X.indptr)
    if rows < lengths.size:
        lengths = np.partition(lengths, lengths.size - rows)[lengths.size - rows :]
    most = int(lengths.sum(dtype=np.int64))
    if most > np.iinfo(np.int32).max:
        raise ValueError(f"a batch of X must have at most 2^31 - 1 entries; got {most}")
    return most


def dense(X: Any, dtype: np.dtype) -> np.ndarray:
    """X as a C-contiguous array of a dtype, whether it is sparse or not."""
    return np.array(X.toarray() if is_sparse(X) else X, dtype, order="C")


def _first_unsorted(matrix: Any) -> int:
    return kernels.first_unsorted(matrix, matrix.shape[1])

"""Hashed columns: a fixed number of features for any number of distinct values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from bcenet.tabular.cells import texts_of

# Whole numbers up to here have a float64 of their own.
_EXACT = np.float64(2**53)


def scipy_sparse() -> Any:
    """The module `scipy.sparse`; ImportError naming the extra without it."""
    try:
        from scipy import sparse
    except ImportError as error:
        raise ImportError("hashed columns need SciPy: pip install 'bcenet[sparse]'") from error
    return sparse


def places_of(name: str, texts: Sequence[str | None], n_features: int) -> np.ndarray:
    """The features that the values of a column have.

    The place is h modulo ``n_features``, h being the 8 bytes of BLAKE2b, little-endian, of the
    UTF-8 text "length:name=value", where the length is that of the name in characters; a missing
    value is the text without "=value". So it is a function of the arguments alone, on every
    machine.

    Source: Weinberger, Dasgupta, Langford, Smola and Attenberg 2009, "Feature Hashing for Large
    Scale Multitask Learning", but for their random signs: `docs/design/tabular.md` says why.

    Args:
        name: the column's name: equal values of different columns have different hashes.
        texts: values, None where missing.
        n_features: how many there are, at most 2^30.

    Returns:
        int32 places in [0, n_features), of shape (len(texts),).

    >>> places_of("zip", ["10115", "10117", None], 1000)
    array([964, 167, 620], dtype=int32)
    """
    prefix = hashlib.blake2b(_bytes(f"{len(name)}:{name}"), digest_size=8)
    digests = []
    for text in texts:
        digest = prefix.copy()
        if text is not None:
            digest.update(_bytes(f"={text}"))
        digests.append(digest.digest())
    hashes = np.frombuffer(b"".join(digests), "<u8")
    return (hashes % np.uint64(n_features)).astype(np.int32)


def append_hashed(
    features: np.ndarray,
    columns: Mapping[str, Any],
    n_features: int,
    missing_values: Set[str],
) -> Any:
    """Dense features followed by the shared features of hashed columns, as a sparse array.

    Each hashed cell adds 1 to the feature of its value; what is 0 is left out.

    Args:
        features: float32 of shape (n, d).
        columns: the hashed ones by name, of n cells each.
        n_features: of the hashed columns together.
        missing_values: texts that stand for a missing value.

    Returns:
        float32 CSR array of shape (n, d + n_features), its columns rising in each row.

    Raises:
        TypeError: a cell is neither number nor text.
        ValueError: a column of floats holds whole numbers that float64 cannot tell apart.
        ImportError: SciPy is not installed.
    """
    sparse = scipy_sparse()
    shape = len(features), len(columns)
    places = np.empty(shape, np.int32)
    for i, (name, cells) in enumerate(columns.items()):
        _check_exact(name, cells)
        texts, codes = texts_of(name, cells, missing_values)
        places[:, i] = places_of(name, texts, n_features)[codes]
    starts = _starts(np.full(shape[0], shape[1]))
    ones = np.ones(places.size, np.float32)
    hashed = sparse.csr_array((ones, places.ravel(), starts), shape=(shape[0], n_features))
    hashed.sum_duplicates()  # which sorts them too
    return sparse.hstack([_without_zeros(sparse, features), hashed], format="csr")


def _without_zeros(sparse: Any, dense: np.ndarray) -> Any:
    """``sparse.csr_array(dense)``, in a fifth of its time and without its int64 coordinates."""
    there = dense != 0
    columns = np.broadcast_to(np.arange(dense.shape[1], dtype=np.int32), dense.shape)
    starts = _starts(np.count_nonzero(there, axis=1))
    return sparse.csr_array((dense[there], columns[there], starts), shape=dense.shape)


def _starts(counts: np.ndarray) -> np.ndarray:
    """Where rows of so many entries begin, and the last one ends; int32 if that is enough."""
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return starts.astype(np.int32) if starts[-1] <= np.iinfo(np.int32).max else starts


def _check_exact(name: str, column: Any) -> None:
    """ValueError for numbers whose last digits a float has lost.

    Whole numbers become floats where a value beside them is missing, so a large one would be
    another value in one table than in the next.
    """
    if not isinstance(column, np.ndarray) or column.dtype.kind != "f":
        return
    large = np.abs(column) >= _EXACT
    if large.any():
        row = int(np.argmax(large))
        raise ValueError(
            f"column {name!r}, row {row} (from 0): must be below 2^53 in a hashed column of "
            "floats, which do not tell larger whole numbers apart (give them as text); "
            f"got {column[row].item()!r}"
        )


def _bytes(text: str) -> bytes:
    """UTF-8, of lone surrogates too: different texts have different bytes."""
    return text.encode("utf-8", "surrogatepass")

"""What ``bcenet train`` learns from and measures on, in memory or in a stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bcenet.data import Dataset
    from bcenet.tabular import TabularEncoder

# Measures hold a few numbers a row; of more rows than this, about so many are taken at random.
MOST_MEASURED = 1 << 22


@dataclass(frozen=True)
class Data:
    """Rows to train on and rows held out.

    Attributes:
        labels: (negative, positive). encoder: fitted to the training rows.
        training: what `bcenet.fit` takes: (X, y), or (a dataset,).
        held_out: (X, y), a dataset, or None where no rows are held out.
        rows, held_out_rows: their numbers. positive, held_out_positive: how many are positive.
    """

    labels: tuple[Any, Any]
    encoder: TabularEncoder
    training: tuple[Any, ...]
    held_out: Any
    rows: int
    held_out_rows: int
    positive: int
    held_out_positive: int

    def measured(self, seed: int) -> Iterable[tuple[Any, ...]]:
        """Blocks (X, y) of the rows to measure on."""
        rows = self.rows if self.held_out is None else self.held_out_rows
        data = self.training if self.held_out is None else self.held_out
        if isinstance(data, tuple) and len(data) == 2:
            return [data]
        dataset = data[0] if isinstance(data, tuple) else data
        # Another seed than that of the split, whose bits have chosen these rows.
        return measured_blocks(dataset, rows, seed ^ 1)


def measured_blocks(dataset: Dataset, rows: int, seed: int) -> Iterable[tuple[Any, ...]]:
    """Blocks (X, y) of a dataset's rows, or of about MOST_MEASURED of them."""
    if rows > MOST_MEASURED:
        dataset = dataset.split(MOST_MEASURED / rows, seed)[1]
    return dataset.blocks()

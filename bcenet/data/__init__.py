"""Tables and datasets: ``as_table`` and ``read_table`` hold all rows, ``open_dataset`` a window."""

from bcenet.data.arrays import as_table
from bcenet.data.dataset import Dataset, open_dataset
from bcenet.data.files import read_table
from bcenet.data.shuffling import shuffle

__all__ = ["Dataset", "as_table", "open_dataset", "read_table", "shuffle"]

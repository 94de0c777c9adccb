"""Tables and datasets: ``as_table`` and ``read_table`` hold all rows, ``read_blocks`` and
``open_dataset`` a part of them."""

from bcenet.data.arrays import as_table
from bcenet.data.dataset import Dataset, open_dataset
from bcenet.data.files import read_table
from bcenet.data.shuffling import shuffle
from bcenet.data.tables import read_blocks

__all__ = ["Dataset", "as_table", "open_dataset", "read_blocks", "read_table", "shuffle"]

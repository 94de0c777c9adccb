"""Tables: from objects in memory (``as_table``) and from files (``read_table``)."""

from bcenet.data.arrays import as_table
from bcenet.data.files import read_table

__all__ = ["as_table", "read_table"]

"""Benchmarks against pure NumPy: tile by tile, kernel by kernel, and whole epochs.

`bcenet bench` prints them as a table; ``benchmarks/`` runs the same cases under
pytest-benchmark.
"""

from bcenet.bench.cases import CASES, Case, measure

__all__ = ["CASES", "Case", "measure"]

"""The roof: NumPy's float32 matrix product, which is the BLAS library's sgemm."""

from __future__ import annotations

import time

import numpy as np

SIZES = (512, 1024, 2048)


class Roof:
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.factors = [
            tuple(rng.standard_normal((size, size), np.float32) for _ in range(3)) for size in SIZES
        ]

    def run(self) -> list[float]:
        """Floating-point operations a second of a product of each size."""
        rates = []
        for size, (a, b, out) in zip(SIZES, self.factors, strict=True):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            rates.append(2.0 * size**3 / (time.perf_counter() - start))
        return rates

"""Every case of bcenet.bench: bcenet on each instruction set of the machine, and NumPy."""

import numpy as np
import pytest

import bcenet._dispatch
from bcenet.bench import CASES

SIDES = [*bcenet._dispatch.available(), "numpy"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(benchmark, case, dtype, side):
    benchmark.group = f"{case.group}: {case.name}, {dtype}"
    if side == "numpy":
        benchmark(case.build(np.dtype(dtype), 1)[1])
    else:
        with bcenet._dispatch.use(side):
            benchmark(case.build(np.dtype(dtype), 1)[0])

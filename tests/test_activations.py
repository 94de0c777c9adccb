"""The activations' kernels, element by element, and the matrix product of the engine."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from helpers import needs_long_double, ulp_errors

import bcenet._dispatch
from bcenet import kernels

DTYPES = [np.float32, np.float64]

# Units in the last place of a; in GELU's lower tail e^(-z^2 / 2) multiplies the error of z^2.
ULP_LIMITS = dict.fromkeys(ref.ACTIVATIONS, 2.5) | {"gelu": 32.0}
SLOPE_LIMIT = 2.5  # rounding units; absolute below a slope of 1, where terms cancel


def test_every_activation_has_a_twin():
    assert set(kernels.activation_names()) == set(ref.ACTIVATIONS)


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation_and_slope_against_the_twin(isa, name, dtype):
    rng = np.random.default_rng(0)
    binades = np.exp2(rng.uniform(-60, 6, 20_000)) * rng.choice([-1, 1], 20_000)
    z = np.concatenate([np.linspace(-40, 40, 40_001), binades]).astype(dtype)
    a, slope = kernels.activate(name, z)
    exact_a, exact_slope = ref.ACTIVATIONS[name](z.astype(np.longdouble))
    assert a.dtype == slope.dtype == dtype
    errors = ulp_errors(a, exact_a)
    assert errors.max() <= ULP_LIMITS[name], f"a at {z[errors.argmax()]!r}"
    errors = np.abs(slope - exact_slope) / np.maximum(1, np.abs(exact_slope))
    assert errors.max() <= SLOPE_LIMIT * np.finfo(dtype).eps, f"slope at {z[errors.argmax()]!r}"


INFINITE = {  # name -> a and slope at -inf and at inf
    "identity": (-np.inf, np.inf, 1, 1),
    "relu": (0, np.inf, 0, 1),
    "leaky_relu": (-np.inf, np.inf, 0.01, 1),
    "elu": (-1, np.inf, 0, 1),
    "selu": (-1.7580993408473768, np.inf, 0, 1.0507009873554805),
    "gelu": (0, np.inf, 0, 1),
    "silu": (0, np.inf, 0, 1),
    "tanh": (-1, 1, 0, 0),
    "sigmoid": (0, 1, 0, 0),
    "softplus": (0, np.inf, 0, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INFINITE)
def test_limits_at_infinity_and_nan(isa, name, dtype):
    a, slope = kernels.activate(name, np.array([-np.inf, np.inf, np.nan], dtype))
    assert np.array_equal([*a[:2], *slope[:2]], np.array(INFINITE[name], dtype))
    assert np.isnan(a[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_every_lane_gives_the_same_bits(isa, name, dtype):
    z = np.random.default_rng(0).normal(scale=4, size=131).astype(dtype)
    a, slope = kernels.activate(name, z)
    for i in range(len(z)):
        alone = kernels.activate(name, z[i : i + 1])
        assert (alone[0][0], alone[1][0]) == (a[i], slope[i])


# -------------------------------------------------------------------------------- product

SHAPES = [(1, 1, 1), (5, 3, 2), (7, 1, 64), (12, 64, 64), (13, 65, 17), (200, 28, 33), (6, 300, 1)]


def product_operands(shape, dtype):
    rng = np.random.default_rng(0)
    rows, depth, columns = shape
    return rng.normal(size=(rows, depth)).astype(dtype), rng.normal(size=(depth, columns)).astype(
        dtype
    )


@needs_long_double
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_product_against_long_double(isa, shape, dtype, transpose):
    a, b = product_operands(shape, dtype)
    got = kernels.product(a.T.copy() if transpose else a, b, transpose_a=transpose)
    wide = a.astype(np.longdouble), b.astype(np.longdouble)
    # One rounding a term: at most depth units of the sum of the terms' sizes.
    bound = shape[1] * np.finfo(dtype).eps * (np.abs(wide[0]) @ np.abs(wide[1]))
    assert (np.abs(got - wide[0] @ wide[1]) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_product_is_one_chain_an_element(isa, shape, dtype):
    # An element's bits depend on its row and column alone, not on its place in a tile.
    a, b = product_operands(shape, dtype)
    whole = kernels.product(a, b)
    for i in range(0, shape[0], 3):
        assert np.array_equal(kernels.product(a[i : i + 1], b)[0], whole[i])
    for j in range(0, shape[2], 5):
        column = np.ascontiguousarray(b[:, j : j + 1])
        assert np.array_equal(kernels.product(a, column)[:, 0], whole[:, j])


@pytest.mark.skipif(
    not {"v3", "v4"} <= set(bcenet._dispatch.available()),
    reason="compares AVX2 with AVX-512 and needs a processor with both",
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_product_has_the_same_bits_on_v3_and_v4(shape, dtype):
    a, b = product_operands(shape, dtype)
    results = []
    for name in ("v3", "v4"):
        with bcenet._dispatch.use(name):
            results.append(kernels.product(a, b))
    assert np.array_equal(*results)

"""The fused kernels: digits (N1, N2), layouts (I1, I2), options, and bad input."""

from __future__ import annotations

import functools
import warnings

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import reference as ref
from helpers import (
    LAYOUTS,
    exact_gradient,
    exact_loss,
    exact_parts,
    mp,
    needs_long_double,
    relative_to_largest,
    ulp_error,
    ulp_errors,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bcenet
import bcenet._dispatch
import bcenet.kernels

FUNCTIONS = {
    "bce_loss": bcenet.bce_loss,
    "bce_gradient": bcenet.bce_gradient,
    "bce_loss_gradient": bcenet.bce_loss_gradient,
}
DTYPES = [np.float32, np.float64]

# Largest errors, in units in the last place; the soft gradient is a difference and has an
# absolute limit.
LIMITS = {
    np.float64: {"sigmoid": 1.5, "loss": 2.0, "gradient": 2.0, "soft gradient": 1.5 * 2.0**-53},
    np.float32: {"sigmoid": 2.5, "loss": 2.5, "gradient": 2.5, "soft gradient": 2.0 * 2.0**-24},
}


def both(logits, targets, **options):
    """(loss, gradient) per element, after checking that the three functions agree bitwise."""
    options = {"reduction": "none", **options}
    loss, gradient = bcenet.bce_loss_gradient(logits, targets, **options)
    assert np.array_equal(loss, bcenet.bce_loss(logits, targets, **options), equal_nan=True)
    assert np.array_equal(gradient, bcenet.bce_gradient(logits, targets, **options), equal_nan=True)
    return loss, gradient


# --------------------------------------------------------------------- N1: against mpmath


@functools.cache
def chosen_logits(dtype):
    """Both signs of: subnormals, edges of exp and of rounding, every binade, the largest."""
    info = np.finfo(dtype)
    edges = [
        0.0, info.smallest_subnormal, 3 * float(info.smallest_subnormal), info.tiny / 8, info.tiny,
        1e-300, 1e-30, 1e-8, 2.0**-54, 2.0**-53, 2.0**-25, 2.0**-24, 0.25, 0.5, 0.6931471805599453,
        1.0, 16.6355, 16.6356, 16.7, 17.33, 36.04, 36.7368, 36.74, 37.0, 40.0, 87.3, 88.72, 88.73,
        103.9, 103.98, 104.0, 708.39, 708.4, 709.0, 709.78, 709.79, 744.44, 745.0, 745.13, 745.14,
        746.0, 1e4, 1e30, info.max, np.inf,
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    binades = np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp, 600))
    middle = np.concatenate([rng.uniform(0, 3, 300), rng.uniform(0, 40, 400)])
    far = rng.uniform(40, 760, 300)
    with np.errstate(over="ignore"):
        logits = np.concatenate([edges, binades, middle, far]).astype(dtype)
    return np.concatenate([logits, -logits])


@pytest.mark.parametrize("dtype", DTYPES)
def test_n1_sigmoid_against_mpmath(isa, dtype):
    logits = chosen_logits(dtype)
    got = bcenet.sigmoid(logits)
    assert got.dtype == dtype
    errors = [
        ulp_error(p, exact_parts(z)[0], dtype)
        for p, z in zip(got.tolist(), logits.tolist(), strict=True)
    ]
    worst = int(np.argmax(errors))
    assert errors[worst] <= LIMITS[dtype]["sigmoid"], f"at {logits[worst]!r}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.5, 0.9, 0.1, 1 - 2.0**-24, 1e-20, 1e-310])
def test_n1_loss_and_gradient_against_mpmath(isa, dtype, target):
    logits = chosen_logits(dtype)
    target = float(dtype(target))
    hard = target in (0.0, 1.0)
    loss, gradient = both(logits, np.full_like(logits, target))
    assert loss.dtype == gradient.dtype == dtype
    assert not np.signbit(loss).any()
    for z, got_loss, got_gradient in zip(
        logits.tolist(), loss.tolist(), gradient.tolist(), strict=True
    ):
        error = ulp_error(got_loss, exact_loss(z, target), dtype)
        assert error <= LIMITS[dtype]["loss"], f"loss at {z!r}"
        exact = exact_gradient(z, target)
        if hard:
            assert ulp_error(got_gradient, exact, dtype) <= LIMITS[dtype]["gradient"], f"at {z!r}"
        else:
            assert abs(got_gradient - exact) <= LIMITS[dtype]["soft gradient"], f"at {z!r}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_n1_nan_only_from_nan(isa, dtype):
    logits = np.array([np.nan, 1.0, np.inf, -np.inf, np.nan, -1.0, 0.0], dtype)
    expected = np.isnan(logits)
    assert np.array_equal(np.isnan(bcenet.sigmoid(logits)), expected)
    for target in (0.0, 0.5, 1.0):
        loss, gradient = both(logits, np.full_like(logits, target))
        assert np.array_equal(np.isnan(loss), expected)
        assert np.array_equal(np.isnan(gradient), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_lane_gives_the_same_bits(isa, dtype):
    # A logit's results may not depend on its place in the array or on the array's length.
    logits = chosen_logits(dtype)[::7]
    targets = np.resize(np.array([0, 1, 0.3], dtype), logits.shape)
    loss, gradient = both(logits, targets)
    p = bcenet.sigmoid(logits)
    for i in range(len(logits)):
        alone = slice(i, i + 1)
        loss_alone, gradient_alone = both(logits[alone], targets[alone])
        assert (loss_alone, gradient_alone) == (loss[alone], gradient[alone])
        assert bcenet.sigmoid(logits[alone]) == p[alone]


# ----------------------------------------------------------------------- N1: the focal loss


def focal_limit(gamma):
    """In units in the last place, for loss and gradient of hard targets, of both dtypes.

    Measured over 700,000 logits: 3.1 for gamma up to 2, and 5.1 for 5. A power of a probability has
    gamma times the error of its logarithm.
    """
    return 4.0 if gamma <= 2 else 6.0


@functools.cache
def exact_focal(z, t, gamma, w=1.0):
    """(loss, gradient) of one logit to 80 digits: the limits where z is infinite."""
    p, q, tail = exact_parts(z)
    above = mp.inf if z == np.inf else tail + max(mp.mpf(z), 0) if z > -np.inf else mp.mpf(0)
    below = mp.inf if z == -np.inf else tail + max(-mp.mpf(z), 0) if z < np.inf else mp.mpf(0)
    negative = (1 - mp.mpf(t)) * p**gamma if p else mp.mpf(0)
    positive = mp.mpf(w) * mp.mpf(t) * q**gamma if q else mp.mpf(0)
    loss, gradient = mp.mpf(0), mp.mpf(0)
    if negative:
        loss += negative * above
        gradient += negative * (gamma * (q * above if q else 0) + p)
    if positive:
        loss += positive * below
        gradient -= positive * (gamma * (p * below if p else 0) + q)
    return loss, gradient


def focal(z, t, gamma, w=1.0):
    z = np.ascontiguousarray(z)
    return bcenet.kernels.loss("focal", z, np.full_like(z, t), np.full_like(z, w), gamma)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.5, 0.9])
def test_n1_focal_loss_and_gradient_against_mpmath(isa, dtype, gamma, target):
    logits = chosen_logits(dtype)[::3]
    target = float(dtype(target))
    loss, gradient = focal(logits, target, gamma)
    assert loss.dtype == gradient.dtype == dtype
    assert not np.signbit(loss).any()
    unit = 2.0**-53 if dtype == np.float64 else 2.0**-24
    for z, got_loss, got_gradient in zip(
        logits.tolist(), loss.tolist(), gradient.tolist(), strict=True
    ):
        exact_loss, exact = exact_focal(z, target, gamma)
        assert ulp_error(got_loss, exact_loss, dtype) <= focal_limit(gamma), f"loss at {z!r}"
        if target in (0.0, 1.0):
            assert ulp_error(got_gradient, exact, dtype) <= focal_limit(gamma), f"at {z!r}"
        else:  # a difference, of up to 1.2
            limit = focal_limit(gamma) * unit
            assert abs(got_gradient - exact) <= limit, f"gradient at {z!r}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_n1_focal_loss_at_the_limits(isa, dtype, gamma):
    logits = np.array([np.inf, -np.inf, np.nan], dtype)
    assert np.array_equal(focal(logits, 0.0, gamma), [[np.inf, 0, np.nan], [1, 0, np.nan]],
                          equal_nan=True)  # fmt: skip
    assert np.array_equal(focal(logits, 1.0, gamma, 2.0), [[0, np.inf, np.nan], [0, -2, np.nan]],
                          equal_nan=True)  # fmt: skip
    assert np.array_equal(focal(logits, 1.0, gamma, 0.0)[0][:2], [0, 0])


@needs_long_double
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_n2_focal_grid(isa, gamma):
    rng = np.random.default_rng(0)
    z = np.concatenate([np.linspace(-760, 760, 20_001), rng.uniform(-40, 40, 20_000)])
    for dtype, wide in ((np.float64, np.longdouble), (np.float32, np.float64)):
        logits = z.astype(dtype)
        for target in (0.0, 1.0):
            exact = ref.LOSSES["focal"](
                logits.astype(wide), np.full(z.shape, target, wide), gamma=gamma
            )
            for got, expected in zip(focal(logits, target, gamma), exact, strict=True):
                assert ulp_errors(got, expected).max() <= focal_limit(gamma)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_focal_gradient_against_finite_differences(isa, gamma, target):
    z, h = np.linspace(-9, 9, 181), 1e-4
    losses = [focal(z + step, target, gamma, 2.5)[0] for step in (h, -h, 2 * h, -2 * h)]
    differences = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h)
    assert relative_to_largest(focal(z, target, gamma, 2.5)[1], differences) < 1e-10


@pytest.mark.parametrize("dtype", DTYPES)
def test_focal_of_every_lane_gives_the_same_bits(isa, dtype):
    logits = chosen_logits(dtype)[::7]
    loss, gradient = focal(logits, 0.3, 2.0)
    for i in range(len(logits)):
        alone = focal(logits[i : i + 1].copy(), 0.3, 2.0)
        assert (alone[0][0], alone[1][0]) == (loss[i], gradient[i])


def test_n1_focal_bits_of_avx2_and_avx512():
    if not {"v3", "v4"} <= set(bcenet._dispatch.available()):
        pytest.skip("compares AVX2 with AVX-512 and needs a processor with both")
    for dtype in DTYPES:
        results = []
        for name in ("v3", "v4"):
            with bcenet._dispatch.use(name):
                results.append(np.array(focal(chosen_logits(dtype), 0.3, 1.7)).tobytes())
        assert results[0] == results[1]


def test_focal_is_bce_times_a_power_of_the_error():
    z = np.linspace(-5, 5, 21)
    loss, _ = bcenet.bce_loss_gradient(z, np.ones(21), reduction="none")
    assert focal(z, 1.0, 2.0)[0] == pytest.approx(bcenet.sigmoid(-z) ** 2 * loss, rel=1e-14)


# --------------------------------------------------------------------------- N2: the grid


def wide_results(logits, targets):
    """sigmoid, loss and gradient of long double (or float64 for float32) logits."""
    p = ref.sigmoid(logits)
    loss, gradient = ref.LOSSES["bce"](logits, targets)
    return p, loss, gradient


def check_grid(logits, wide):
    dtype = logits.dtype.type
    for target in (0.0, 1.0):
        p, loss, gradient = wide_results(logits.astype(wide), np.full(logits.shape, target, wide))
        got_loss, got_gradient = both(logits, np.full_like(logits, target))
        assert ulp_errors(got_loss, loss).max() <= LIMITS[dtype]["loss"]
        assert ulp_errors(got_gradient, gradient).max() <= LIMITS[dtype]["gradient"]
    assert ulp_errors(bcenet.sigmoid(logits), p).max() <= LIMITS[dtype]["sigmoid"]
    soft = np.random.default_rng(1).random(logits.shape).astype(dtype)
    _, loss, gradient = wide_results(logits.astype(wide), soft.astype(wide))
    got_loss, got_gradient = both(logits, soft)
    assert ulp_errors(got_loss, loss).max() <= LIMITS[dtype]["loss"]
    finite = np.isfinite(logits)
    difference = np.abs(got_gradient[finite].astype(wide) - gradient[finite])
    assert difference.max() <= LIMITS[dtype]["soft gradient"]


@needs_long_double
@pytest.mark.parametrize("part", range(4))
def test_n2_grid_float64(isa, part):
    # 4 x 250,000 logits: an even grid to beyond the underflow of e^-z, and every binade.
    rng = np.random.default_rng(part)
    grid = np.linspace(-760, 760, 500_000)[part::4]
    near = rng.uniform(-40, 40, 100_000)
    binades = np.exp2(rng.uniform(-1074, 11, 25_000)) * rng.choice([-1, 1], 25_000)
    check_grid(np.concatenate([grid, near, binades]), np.longdouble)


def test_n2_grid_float32(isa):
    bits = np.arange(0, 2**32, 4_093, dtype=np.uint64).astype(np.uint32)  # 1,049,344 of all
    logits = bits.view(np.float32)
    check_grid(logits[~np.isnan(logits)], np.float64)


@pytest.mark.slow
def test_n2_dense_grid_float32(isa):
    bits = np.arange(0, 2**32, 127, dtype=np.uint64).astype(np.uint32)  # 33,818,641 of all
    for part in np.array_split(bits, 32):
        logits = part.view(np.float32)
        check_grid(logits[~np.isnan(logits)], np.float64)


# -------------------------------------------------------------------------------- options

OPTIONS = {
    "plain": {},
    "rows weighted": {"sample_weight": "rows"},
    "elements weighted": {"sample_weight": "elements"},
    "positives weighted": {"pos_weight": 3.5},
    "positives weighted by column": {"pos_weight": "columns"},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"sample_weight": "rows", "pos_weight": "columns", "label_smoothing": 0.25},
}


def option_arrays(options, shape, dtype):
    """`options` with the words rows, elements and columns replaced by arrays."""
    rng = np.random.default_rng(5)
    arrays = {
        "rows": rng.random(shape[0]).astype(dtype),
        "elements": rng.random(shape).astype(dtype),
        "columns": (rng.random(shape[-1]) * 4).astype(dtype),
    }
    arrays["rows"][::5] = 0
    return {
        name: arrays[value] if isinstance(value, str) else value for name, value in options.items()
    }


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_options_against_the_twin(isa, dtype, case, reduction):
    rng = np.random.default_rng(3)
    shape = (4_099, 3)
    logits = rng.normal(scale=6, size=shape).astype(dtype)
    targets = rng.choice([0, 1, 0.25], size=shape).astype(dtype)
    options = option_arrays(OPTIONS[case], shape, dtype)
    loss, gradient = both(logits, targets, reduction=reduction, **options)
    expected_loss, expected_gradient = ref.reduced_loss(
        logits.astype(np.longdouble),
        targets.astype(np.longdouble),
        reduction=reduction,
        **options,
    )
    assert gradient.shape == shape
    assert gradient.dtype == dtype
    eps = float(np.finfo(dtype).eps)
    # All terms of the loss have one sign, so its relative error is a few roundings. With
    # label smoothing e the target is rounded too, which 1 - target >= e / 2 feels.
    smoothing = options.get("label_smoothing", 0)
    limit = 4 * eps + (eps / smoothing if smoothing else 0)
    scale = np.where(expected_loss == 0, 1, expected_loss)
    assert (np.abs(loss - expected_loss) / scale).max() <= limit
    assert relative_to_largest(gradient, expected_gradient) <= 3 * eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_divides_by_the_weights(isa, dtype):
    logits = np.array([0.0, 0.0, 3.0], dtype)
    weight = np.array([1, 3, 0], dtype)
    targets = np.array([0, 1, 1], dtype)
    loss, gradient = bcenet.bce_loss_gradient(logits, targets, sample_weight=weight)
    assert loss == pytest.approx(np.log(2), rel=1e-7)
    assert gradient.tolist() == [0.125, -0.375, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-40, 40])
def test_mean_does_not_depend_on_the_weights_scale(isa, exponent, dtype):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=1_003).astype(dtype)
    targets = rng.random(1_003).astype(dtype)
    weight = rng.random(1_003).astype(dtype)
    expected = bcenet.bce_loss_gradient(logits, targets, sample_weight=weight)
    scaled = np.ldexp(weight, exponent)
    got = bcenet.bce_loss_gradient(logits, targets, sample_weight=scaled)
    assert got[0] == expected[0]
    assert np.array_equal(got[1], expected[1])


@pytest.mark.parametrize("logit", [-np.inf, np.inf])
def test_zero_weight_times_infinite_loss_is_zero(isa, logit):
    logits = np.array([logit, 0.0])
    targets = np.array([float(logit < 0), 0.0])
    assert bcenet.bce_loss(logits, targets, reduction="none")[0] == np.inf
    for options in ({"sample_weight": [0.0, 1.0]}, {"sample_weight": [0, 2]}):
        loss, gradient = both(logits, targets, **options)
        assert loss[0] == gradient[0] == 0
        assert bcenet.bce_loss(logits, targets, **options) == pytest.approx(np.log(2), rel=1e-15)


def test_pos_weight_zero_drops_the_positives(isa):
    loss, gradient = both(np.array([-np.inf, 5.0]), np.array([1.0, 1.0]), pos_weight=0.0)
    assert loss.tolist() == [0.0, 0.0]
    assert gradient.tolist() == [0.0, 0.0]


def test_sign_and_size_far_out():
    # pytorch 2221: a sign slip, and inf at -100.
    assert bcenet.bce_loss(np.array([-100.0]), np.array([1.0])) == 100.0
    assert bcenet.bce_gradient(np.array([-100.0]), np.array([1.0]))[0] == -1.0
    # sklearn 28046: NaN at -1e3.
    assert bcenet.bce_loss(np.array([-1e3]), np.array([0.0])) == 0.0
    assert bcenet.bce_gradient(np.array([37.0]), np.array([1.0]))[0] == pytest.approx(
        -8.533047625744066e-17, rel=1e-15
    )


# --------------------------------------------------------------------- shapes and layouts


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (4, 3), (2, 3, 5), (1, 70_001)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_shape(shape, dtype):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=shape).astype(dtype)
    targets = rng.integers(0, 2, size=shape)
    loss, gradient = bcenet.bce_loss_gradient(logits, targets, reduction="none")
    assert np.shape(loss) == np.shape(gradient) == shape
    flat_loss, flat_gradient = bcenet.bce_loss_gradient(
        np.ravel(logits), np.ravel(targets), reduction="none"
    )
    assert np.array_equal(np.ravel(loss), flat_loss)
    assert np.array_equal(np.ravel(gradient), flat_gradient)
    assert np.shape(bcenet.sigmoid(logits)) == shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_into_out(isa, dtype):
    logits = np.linspace(-9, 9, 1_001, dtype=dtype)
    out = np.empty_like(logits)
    assert bcenet.sigmoid(logits, out=out) is out
    assert np.array_equal(out, bcenet.sigmoid(logits))
    in_place = logits.copy()
    bcenet.sigmoid(in_place, out=in_place)
    assert np.array_equal(in_place, out)
    wide = np.empty(2 * logits.size, dtype)[::2]
    assert np.array_equal(bcenet.sigmoid(logits, out=wide), out)


@pytest.mark.parametrize("targets_dtype", [bool, np.int8, np.uint8, np.int64, np.float16])
def test_targets_of_any_real_dtype(isa, targets_dtype):
    logits = np.linspace(-9, 9, 101)
    targets = np.resize([0, 1, 1], 101)
    expected = bcenet.bce_loss_gradient(logits, targets.astype(float), reduction="none")
    got = bcenet.bce_loss_gradient(logits, targets.astype(targets_dtype), reduction="none")
    assert np.array_equal(got, expected)


def test_lists_are_welcome():
    assert bcenet.bce_loss([0.0, 0.0], [0, 1]) == pytest.approx(np.log(2), rel=1e-15)
    assert bcenet.sigmoid([0.0]).tolist() == [0.5]


@st.composite
def arrays_and_views(draw, dtype):
    """(logits, targets, weights), each a view of one shape in a layout of its own."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = (
        rng.normal(scale=10, size=shape).astype(dtype),
        rng.random(shape).astype(dtype),
        rng.random(shape).astype(dtype),
    )
    basic = draw(hnp.basic_indices(shape, min_dims=1))
    views = []
    for value in values:
        value = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](value)
        if draw(st.booleans()):  # stride 0 along the first axis
            value = np.broadcast_to(value[:1], shape)
        view = value[basic]
        views.append(view.T if len(set(view.shape)) == 1 and draw(st.booleans()) else view)
    return views


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_i1_any_layout_gives_the_bits_of_a_copy(isa, dtype, data):
    logits, targets, weights = data.draw(arrays_and_views(dtype))
    copies = [np.array(a, dtype=dtype, order="C") for a in (logits, targets, weights)]
    reduction = data.draw(st.sampled_from(["none", "sum", "mean"] if logits.size else ["sum"]))
    options = {"reduction": reduction, "label_smoothing": 0.1}
    got = bcenet.bce_loss_gradient(logits, targets, sample_weight=weights, **options)
    expected = bcenet.bce_loss_gradient(copies[0], copies[1], sample_weight=copies[2], **options)
    assert np.array_equal(got[0], expected[0], equal_nan=True)
    assert np.array_equal(got[1], expected[1], equal_nan=True)
    assert np.array_equal(bcenet.sigmoid(logits), bcenet.sigmoid(copies[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_i1_input_is_not_written_to(layout, dtype):
    logits = LAYOUTS[layout](np.linspace(-3, 3, 60, dtype=dtype).reshape(12, 5))
    targets = LAYOUTS[layout](np.resize(np.array([0, 1], dtype), (12, 5)))
    before = logits.copy(), targets.copy()
    bcenet.bce_loss_gradient(logits, targets)
    bcenet.sigmoid(logits)
    assert np.array_equal(logits, before[0])
    assert np.array_equal(targets, before[1])


def anonymous_memory():
    """Memory of this process that is no file's, in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def test_i2_broadcast_views_are_not_expanded():
    logits = np.broadcast_to(np.linspace(-4, 4, 1_000), (20_000, 1_000))
    targets = np.broadcast_to(np.resize([0.0, 1.0], 1_000), logits.shape)
    row = bcenet.bce_loss(logits[0], targets[0], reduction="sum")
    before = anonymous_memory()
    total = bcenet.bce_loss(logits, targets, reduction="sum")
    assert anonymous_memory() - before < 16 << 20
    assert total == pytest.approx(20_000 * row, rel=1e-13)


@pytest.mark.slow
def test_i2_more_than_2_to_the_31_elements(tmp_path):
    # A sparse file whose last element alone is 1: a 32-bit index would not reach it.
    n = 2**31 + 5
    targets = np.memmap(tmp_path / "targets", dtype=bool, mode="w+", shape=(n,))
    targets[-1] = True
    logits = np.broadcast_to(np.float32(40), (n,))
    before = anonymous_memory()
    total = bcenet.bce_loss(logits, targets, reduction="sum")
    assert anonymous_memory() - before < 64 << 20
    assert total == 40.0 * (n - 1)  # the last one adds e^-40


# ------------------------------------------------------------------------------ bad input

GOOD = {"logits": np.zeros((4, 3)), "targets": np.zeros((4, 3))}

# what is changed -> the error and what its message must contain
BAD = {
    "targets above 1": ({"targets": np.full((4, 3), 1.5)}, ValueError, r"targets.*\[0, 1\].*1\.5"),
    "targets below 0": ({"targets": np.full((4, 3), -1)}, ValueError, r"targets.*\[0, 1\].*-1"),
    "targets NaN": ({"targets": np.full((4, 3), np.nan)}, ValueError, r"targets.*nan"),
    "targets' shape": ({"targets": np.zeros(4)}, ValueError, r"targets.*\(4, 3\).*\(4,\)"),
    "(n,) against (n, 1)": (
        {"logits": np.zeros(4), "targets": np.zeros((4, 1))},
        ValueError,
        r"targets.*\(4,\).*\(4, 1\)",
    ),
    "(n, 1) against (n,)": (
        {"logits": np.zeros((4, 1)), "targets": np.zeros(4)},
        ValueError,
        r"targets.*\(4, 1\).*\(4,\)",
    ),
    "complex logits": ({"logits": np.zeros((4, 3), complex)}, TypeError, r"logits.*complex"),
    "object logits": ({"logits": np.zeros((4, 3), object)}, TypeError, r"logits.*object"),
    "text logits": ({"logits": np.full((4, 3), "a")}, TypeError, r"logits"),
    "object targets": ({"targets": np.zeros((4, 3), object)}, TypeError, r"targets.*object"),
    "complex targets": ({"targets": np.zeros((4, 3), complex)}, TypeError, r"targets.*complex"),
    "negative weights": ({"sample_weight": [1, 1, -1, 1]}, ValueError, r"sample_weight.*-1"),
    "NaN weights": ({"sample_weight": [1, 1, np.nan, 1]}, ValueError, r"sample_weight.*nan"),
    "infinite weights": ({"sample_weight": [1, 1, np.inf, 1]}, ValueError, r"sample_weight.*inf"),
    "weights' shape": ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight.*\(4,.*\(3,\)"),
    "weights (n, 1)": (
        {"sample_weight": np.ones((4, 1))},
        ValueError,
        r"sample_weight.*\(4,.*\(4, 1\)",
    ),
    "no weight at all": ({"sample_weight": np.zeros(4)}, ValueError, r"sample_weight"),
    "weights beyond a sum": ({"sample_weight": np.full(4, 1e308)}, ValueError, r"sample_weight"),
    "negative pos_weight": ({"pos_weight": -2.0}, ValueError, r"pos_weight.*-2"),
    "NaN pos_weight": ({"pos_weight": np.nan}, ValueError, r"pos_weight.*nan"),
    "pos_weight's shape": ({"pos_weight": np.ones(4)}, ValueError, r"pos_weight.*3.*\(4,\)"),
    "text pos_weight": ({"pos_weight": "balanced"}, TypeError, r"pos_weight.*real numbers"),
    "smoothing above 1": ({"label_smoothing": 1.5}, ValueError, r"label_smoothing.*1\.5"),
    "negative smoothing": ({"label_smoothing": -0.1}, ValueError, r"label_smoothing.*-0\.1"),
    "unknown reduction": ({"reduction": "maen"}, ValueError, r"reduction.*'maen'.*'mean'"),
    "reduction None": ({"reduction": None}, ValueError, r"reduction.*'none'.*None"),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("case", BAD)
def test_bad_input(function, case):
    changes, error, message = BAD[case]
    with pytest.raises(error, match=message):
        FUNCTIONS[function](**{**GOOD, **changes})


def test_bad_input_is_not_a_warning_first():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bcenet.bce_loss(np.array([np.inf, -np.inf, 1e308, 0.0]), np.array([0, 1, 0, 1.0]))
        bcenet.sigmoid(np.array([np.inf, -np.inf, np.nan]))


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty(4), ValueError),
        (np.empty(3, np.float32), (TypeError, ValueError)),
        (np.broadcast_to(np.zeros(1), (3,)), ValueError),
        ([0, 0, 0], TypeError),
    ],
)
def test_sigmoid_bad_out(out, error):
    with pytest.raises(error, match="out"):
        bcenet.sigmoid(np.zeros(3), out=out)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_input(shape):
    empty = np.zeros(shape)
    assert bcenet.sigmoid(empty).shape == shape
    loss, gradient = both(empty, empty)
    assert loss.shape == gradient.shape == shape
    assert bcenet.bce_loss(empty, empty, reduction="sum") == 0
    with pytest.raises(ValueError, match="logits"):
        bcenet.bce_loss(empty, empty)

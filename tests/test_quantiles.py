"""Quantiles in one pass: exact up to a number of values, within the stated error beyond."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcenet.tabular import QuantileSketch

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
Q = np.array([0.0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1.0])


def sketch_of(values, exact=2**20, block=2**16, cuts=()):
    """A sketch fed with ``values`` in the pieces between the cuts."""
    sketch = QuantileSketch(exact, block)
    for piece in np.split(np.asarray(values, dtype=np.float64), cuts):
        sketch.update(piece)
    return sketch


def error_bound(count, block):
    """The bound that the docstring states, in ranks."""
    return count * math.ceil(math.log2(count / block)) / (2 * block)


def rank_errors(sketch, values):
    """How far, in ranks, the sketch's value at each place is from the values at that place."""
    values = np.sort(values)
    places = np.unique(np.linspace(0, len(values) - 1, 2001).astype(np.int64))
    answers = sketch.values_at(places)
    first = np.searchsorted(values, answers, side="left")
    last = np.searchsorted(values, answers, side="right") - 1
    return np.maximum(0, np.maximum(first - places, places - last))


@given(st.lists(NUMBERS, min_size=1, max_size=200), st.lists(st.floats(0, 1), max_size=5))
def test_short_streams_give_exact_quantiles(values, q):
    q = [0.0, 0.5, 1.0, *q]
    ours = sketch_of(values).quantile(q)
    ordered = np.sort(values)
    for one, answer in zip(q, ours, strict=True):
        place = one * (len(values) - 1)
        below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
        assert below <= answer <= above
        size = max(abs(above), abs(below))
        if size < 1e300:  # where NumPy's own difference of the two doesn't overflow
            expected = np.quantile(values, one)
            assert answer == pytest.approx(expected, rel=1e-14, abs=1e-14 * size)


def test_exact_at_two_to_the_twenty_and_not_random():
    rng = np.random.default_rng(0)
    values = rng.normal(size=2**20)
    sketch = sketch_of(values, cuts=[1, 5000, 700_000])
    assert sketch.count == 2**20
    places = rng.integers(0, 2**20, 1000)
    assert np.array_equal(sketch.values_at(places), np.sort(values)[places])
    assert np.allclose(sketch.quantile(Q), np.quantile(values, Q), rtol=1e-15, atol=0)


@given(
    st.integers(1, 1000),
    st.lists(st.integers(0, 1000), max_size=8).map(sorted),
    st.integers(0, 2**32),
)
def test_answers_do_not_depend_on_the_cutting(count, cuts, seed):
    """Bitwise, within the exact range (64 values) and far beyond."""
    values = np.random.default_rng(seed).normal(size=count).round(2)
    whole = sketch_of(values, exact=64, block=16)
    cut = sketch_of(values, exact=64, block=16, cuts=cuts)
    places = np.arange(count)
    assert whole.values_at(places).tobytes() == cut.values_at(places).tobytes()
    assert whole.quantile(Q).tobytes() == cut.quantile(Q).tobytes()


def test_cutting_does_not_matter_past_two_to_the_twenty():
    values = np.random.default_rng(1).lognormal(size=2**20 + 200_000)
    whole = sketch_of(values)
    cut = sketch_of(values, cuts=[3, 2**16 - 1, 2**20 - 1, 2**20, 2**20 + 1, 2**20 + 70_001])
    assert whole.quantile(np.linspace(0, 1, 999)).tobytes() == (
        cut.quantile(np.linspace(0, 1, 999)).tobytes()
    )
    assert rank_errors(whole, values).max() <= error_bound(len(values), 2**16)


ORDERS = {
    "random": lambda v, rng: rng.permutation(v),
    "rising": lambda v, rng: v,
    "falling": lambda v, rng: v[::-1],
    "from both ends": lambda v, rng: np.where(np.arange(len(v)) % 2, v, v[::-1]),
    "in blocks": lambda v, rng: v.reshape(-1, 100)[rng.permutation(len(v) // 100)].ravel(),
    "tied": lambda v, rng: rng.permutation(v // 1000),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [2_000, 100_000])
def test_error_past_the_exact_range_is_within_the_bound(order, count):
    values = ORDERS[order](np.arange(count, dtype=np.float64), np.random.default_rng(2))
    sketch = sketch_of(values, exact=1024, block=256)
    errors = rank_errors(sketch, values)
    assert errors.max() <= error_bound(count, 256)
    assert sketch.quantile(0.0) == values.min()
    assert sketch.quantile(1.0) == values.max()


def test_memory_past_the_exact_range_is_bounded():
    sketch = sketch_of(np.random.default_rng(3).normal(size=300_000), exact=1024, block=256)
    kept = sketch._sorted_values()[0]
    levels = math.ceil(math.log2(300_000 / 256))
    assert len(kept) <= 256 * (levels + 2)


@pytest.mark.parametrize("sizes", [(10, 20), (1500, 10), (10, 1500), (5000, 7001), (600, 700)])
def test_merged_sketches_hold_all_values_within_the_bound(sizes):
    rng = np.random.default_rng(4)
    parts = [rng.normal(size=size) for size in sizes]
    merged, other = (sketch_of(part, exact=1024, block=256) for part in parts)
    before = other.quantile(Q).tobytes()
    merged.merge(other)
    values = np.concatenate(parts)
    assert merged.count == len(values)
    errors = rank_errors(merged, values)
    assert errors.max() <= (0 if len(values) <= 1024 else error_bound(len(values), 256))
    assert merged.quantile([0.0, 1.0]).tolist() == [values.min(), values.max()]
    assert other.quantile(Q).tobytes() == before
    merged.update(rng.normal(size=5000))
    assert other.quantile(Q).tobytes() == before


def test_input_is_copied_and_negative_zero_is_zero():
    values = np.array([-0.0, 1.0])
    sketch = QuantileSketch()
    sketch.update(values)
    values[:] = 7.0
    assert sketch.quantile([0.0, 1.0]).tobytes() == np.array([0.0, 1.0]).tobytes()


def test_extremes_do_not_overflow():
    big = float(np.finfo(np.float64).max)
    answers = sketch_of([-big, big]).quantile([0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    assert answers == pytest.approx([-big, -big / 2, 0.0, big / 2, big], rel=1e-15)


def test_quantile_keeps_the_shape_of_q():
    sketch = sketch_of([1.0, 2.0, 3.0])
    assert sketch.quantile(0.5).shape == ()
    assert sketch.quantile(np.full((2, 3), 0.5)).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: QuantileSketch(exact=1), ValueError, "exact must be at least 2; got 1"),
        (lambda: QuantileSketch(exact=10, block=12), ValueError, "block must be .* at most 10"),
        (lambda: QuantileSketch(exact=10, block=3), ValueError, "block must be even; got 3"),
        (lambda: QuantileSketch(exact=2.0), TypeError, "exact must be an integer"),
        (lambda: sketch_of([1.0]).update([[1.0]]), ValueError, r"1-D; .* shape \(1, 1\)"),
        (lambda: sketch_of([1.0]).update([1.0, math.inf]), ValueError, "got inf in row 1"),
        (lambda: sketch_of([1.0]).update([math.nan]), ValueError, "got nan in row 0"),
        (lambda: sketch_of([1.0]).quantile(1.1), ValueError, r"q must be in \[0, 1\]"),
        (lambda: sketch_of([1.0]).quantile(math.nan), ValueError, r"q must be in \[0, 1\]"),
        (lambda: QuantileSketch().quantile(0.5), ValueError, "none was added"),
        (lambda: sketch_of([1.0]).values_at(1), ValueError, r"places must be integers in \[0, 1\)"),
        (lambda: sketch_of([1.0]).values_at(0.0), ValueError, "places must be integers"),
        (
            lambda: sketch_of([1.0]).merge(QuantileSketch(exact=64, block=16)),
            ValueError,
            "got exact=64 and block=16",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()

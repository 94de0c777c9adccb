"""bcenet.schedules: against other forms of their formulas, scikit-learn's bookkeeping and optax."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from helpers import problem
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

import bcenet
from bcenet import schedules

HORIZON, ROWS = 6, 50

# Each twin gives the factor of a step: (step from 0 over all epochs, steps of an epoch, horizon
# in epochs, rows). Cosines are written as squared sines, by the half-angle formula.


def _part(step, batches, horizon):
    return min(step / (batches * horizon), 1.0)


def _constant(step, batches, horizon, rows):
    return 1.0


def _inverse_scaling(power):
    return lambda step, batches, horizon, rows: (1 + step // batches * rows) ** -power


def _cosine(final):
    def twin(step, batches, horizon, rows):
        return 1 - (1 - final) * math.sin(math.pi / 2 * _part(step, batches, horizon)) ** 2

    return twin


def _one_cycle(start, final, rise):
    def twin(step, batches, horizon, rows):
        x = _part(step, batches, horizon)
        if x < rise:
            return start + (1 - start) * math.sin(math.pi / 2 * x / rise) ** 2
        return 1 - (1 - final) * math.sin(math.pi / 2 * (x - rise) / (1 - rise)) ** 2

    return twin


def _coslog4(step, batches, horizon, rows):
    return math.sin(math.pi * math.log2(1 + 15 * _part(step, batches, horizon))) ** 2


def _warm_up(epochs, after):
    def twin(step, batches, horizon, rows):
        steps = epochs * batches
        if step < steps:
            return min((step + 1) / steps, 1.0)
        return after(step - steps, batches, horizon - epochs, rows)

    return twin


# row -> (name, options of the object, twin); the first row of a name has its defaults
TWINS = {
    "constant": ("constant", {}, _constant),
    "inverse-scaling": ("inverse-scaling", {}, _inverse_scaling(0.5)),
    "inverse-scaling, other power": ("inverse-scaling", {"power": 0.3}, _inverse_scaling(0.3)),
    "adaptive": ("adaptive", {}, _constant),  # its end_epoch has tests of its own
    "cosine": ("cosine", {}, _cosine(0.0)),
    "cosine, final": ("cosine", {"final": 0.1}, _cosine(0.1)),
    "one-cycle": ("one-cycle", {}, _one_cycle(0.04, 4e-6, 0.3)),
    "one-cycle, others": (
        "one-cycle",
        {"start": 0.5, "final": 0.2, "rise": 0.75},
        _one_cycle(0.5, 0.2, 0.75),
    ),
    "coslog4": ("coslog4", {}, _coslog4),
    "warm-up": ("warm-up", {}, _warm_up(1.0, _constant)),
    "warm-up, fraction": ("warm-up", {"epochs": 0.5}, _warm_up(0.5, _constant)),
    "warm-up, cosine": ("warm-up", {"epochs": 2, "after": "cosine"}, _warm_up(2, _cosine(0.0))),
    "warm-up, inverse scaling": (
        "warm-up",
        {"after": "inverse-scaling"},
        _warm_up(1, _inverse_scaling(0.5)),
    ),
    "warm-up, warm-up": (
        "warm-up",
        {"after": schedules.WarmUp(2, "coslog4")},
        _warm_up(1, _warm_up(2, _coslog4)),
    ),
}


def make(row):
    name, options, _ = TWINS[row]
    return pickle.loads(pickle.dumps(schedules.BY_NAME[name](**options)))


def run(schedule, epochs, batches=4, rows=ROWS, *, epoch=0, loss=0.5):
    """The factors of a fit's steps, as `bcenet.fit` asks for them, the loss being the same."""
    schedule.begin(epochs, rows, epoch)
    factors = []
    for e in range(epoch, epoch + epochs):
        factors.append(schedule.factors(e, batches))
        schedule.end_epoch(loss, 0.1)
    return np.concatenate(factors)


def test_every_schedule_has_a_twin():
    assert {name for name, _, _ in TWINS.values()} == set(schedules.BY_NAME)


@pytest.mark.parametrize("row", TWINS)
@given(
    horizon=st.integers(4, 40),
    batches=st.integers(1, 60),
    epoch=st.integers(0, 50),
    rows=st.integers(1, 10**9),
)
def test_factors_of_the_twin(row, horizon, batches, epoch, rows):
    if "fraction" in row:
        batches *= 2  # where the warm-up ends within a step, rounding may decide
    schedule, twin = make(row), TWINS[row][2]
    schedule.begin(horizon, rows)
    factors = schedule.factors(epoch, batches)
    assert factors.dtype == np.float64
    assert factors.shape == (batches,)
    steps = range(epoch * batches, (epoch + 1) * batches)
    expected = np.array([twin(step, batches, horizon, rows) for step in steps])
    # A few roundings of numbers up to 1; the largest argument of a cosine is 8 pi, with an
    # error of 4e-15 that the slope 1/2 passes on.
    assert np.abs(factors - expected).max() <= 1e-14
    assert factors.min() >= 0
    assert factors.max() <= 1


@pytest.mark.parametrize("name", schedules.BY_NAME)
def test_a_name_makes_a_fresh_one_with_the_defaults(name):
    first, second = schedules.resolve(name), schedules.resolve(name)
    assert type(first) is schedules.BY_NAME[name]
    assert first is not second
    assert np.array_equal(run(first, HORIZON), run(make(name), HORIZON))


def test_resolve():
    assert type(schedules.resolve(None)) is schedules.Constant
    mine = schedules.Cosine()
    assert schedules.resolve(mine) is mine
    assert schedules.WarmUp(2, mine).after is mine
    assert bcenet.schedules is schedules


def test_the_ends_are_exact():
    end = HORIZON * 4
    cosine = run(schedules.Cosine(HORIZON, final=0.1), HORIZON + 2)
    assert cosine[0] == 1.0
    assert set(cosine[end:].tolist()) == {0.1}
    cycle = run(schedules.OneCycle(HORIZON, rise=0.5), HORIZON + 2)
    assert cycle[0] == 1 / 25
    assert cycle[end // 2] == 1.0
    assert set(cycle[end:].tolist()) == {1e-4 / 25}
    waves = run(schedules.CosLog4(HORIZON), HORIZON + 2)
    assert waves[0] == 0.0
    assert waves[end:].max() <= 1e-30
    warm = run(schedules.WarmUp(2), HORIZON)
    assert warm[:8].tolist() == [k / 8 for k in range(1, 9)]
    assert set(warm[8:].tolist()) == {1.0}


# ------------------------------------------------------------------- clocks and continued fits


@pytest.mark.parametrize("row", TWINS)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_k_and_k_epochs_equal_2k(row, k):
    """Also through a pickle; the loss never falls, so that the adaptive one divides."""
    name, options, _ = TWINS[row]
    if name in ("cosine", "one-cycle", "coslog4"):
        options = {**options, "epochs": 2 * k}
    elif "after" in options:
        options = {**options, "after": schedules.Cosine(2 * k)}
    elif name == "adaptive":
        options = {"patience": 1}
    whole, parts = (schedules.BY_NAME[name](**options) for _ in range(2))
    expected = run(whole, 2 * k)
    first = run(parts, k)
    parts = pickle.loads(pickle.dumps(parts))
    second = run(parts, k, epoch=k)
    assert np.array_equal(np.concatenate([first, second]), expected)
    if name == "adaptive" and k > 1:
        assert len(set(expected)) > 1


@pytest.mark.parametrize("row", TWINS)
def test_a_second_fit_keeps_the_first_horizon(row):
    schedule, twin = make(row), TWINS[row][2]
    run(schedule, HORIZON)
    factors = run(schedule, 2, epoch=HORIZON)
    steps = range(4 * HORIZON, 4 * HORIZON + 8)
    expected = [twin(step, 4, HORIZON, ROWS) for step in steps]
    assert np.abs(factors - expected).max() <= 1e-14


@pytest.mark.parametrize("row", TWINS)
def test_the_clock_starts_with_the_first_fit(row):
    """An optimizer that has trained before does not find a fresh schedule at its end."""
    assert np.array_equal(run(make(row), HORIZON, epoch=9), run(make(row), HORIZON))


@pytest.mark.parametrize("row", TWINS)
def test_reset(row):
    schedule = make(row)
    run(schedule, HORIZON + 9)  # long enough for the adaptive one to divide
    run(schedule, HORIZON, rows=7, epoch=HORIZON + 9)
    schedule.reset()
    assert np.array_equal(run(schedule, HORIZON), run(make(row), HORIZON))


@pytest.mark.parametrize("row", [row for row in TWINS if row != "adaptive"])  # which has no clock
def test_an_optimizer_that_was_reset_starts_the_clock_again(row):
    schedule = make(row)
    first = run(schedule, HORIZON, epoch=5)
    run(schedule, 2, rows=7, epoch=5 + HORIZON)
    assert np.array_equal(run(schedule, HORIZON, epoch=0), first)


def test_a_warm_up_leaves_the_other_s_state_alone():
    adaptive = schedules.Adaptive(patience=0)
    run(adaptive, 3)
    assert adaptive.divisions == 2
    warm = schedules.WarmUp(1, adaptive)
    assert adaptive.divisions == 2
    warm.reset()
    assert adaptive.divisions == 0


def test_rows_that_change_after_a_warm_up():
    schedule = schedules.WarmUp(1, schedules.InverseScaling(power=1))
    assert run(schedule, 3, batches=1, rows=100).tolist() == [1, 1, 1 / 101]
    assert run(schedule, 2, batches=1, rows=50, epoch=3).tolist() == [1 / 201, 1 / 251]


def test_a_schedule_of_ones_own():
    class Halving(schedules.Schedule):
        def at(self, t, width):
            return 0.5 ** np.floor(t)

    assert run(Halving(), 3, batches=2).tolist() == [1, 1, 0.5, 0.5, 0.25, 0.25]
    warm = run(schedules.WarmUp(1, Halving()), 3, batches=2)
    assert warm.tolist() == [0.5, 1, 1, 1, 0.5, 0.5]


# ------------------------------------------------------------------------------- scikit-learn


def test_inverse_scaling_of_partial_fit():
    """Chunks of different sizes: the rates that MLPClassifier steps with."""
    X, y = problem(200)
    theirs = MLPClassifier(
        (3,), solver="sgd", learning_rate="invscaling", learning_rate_init=0.1, power_t=0.4
    )
    schedule = schedules.InverseScaling(power=0.4)
    for epoch, rows in enumerate([30, 50, 120, 1, 50]):
        rate = 0.1 if epoch == 0 else theirs._optimizer.learning_rate
        theirs.partial_fit(X[:rows], y[:rows], classes=[0, 1])
        schedule.begin(1, rows, epoch)
        factors = schedule.factors(epoch, 3)
        assert len(set(factors)) == 1
        assert math.isclose(0.1 * factors[0], rate, rel_tol=1e-15)


def replay(schedule, losses, learning_rate):
    """(rates of the epochs, number of the epoch that stopped or None)"""
    rates = []
    schedule.begin(len(losses), ROWS)
    for epoch, loss in enumerate(losses):
        rates.append(learning_rate * schedule.factors(epoch, 1).item())
        if schedule.end_epoch(loss, learning_rate):
            return rates, epoch
    return rates, None


@given(
    losses=st.lists(st.sampled_from([0.5, 0.4999, 0.49985, 0.4, 0.3, math.inf]), max_size=60),
    # From 5^k 1e-6 it depends on the rounding of the divisions whether the minimum is met.
    learning_rate=st.sampled_from([1e-1, 2e-6, 5e-6, 2.5e-5, 1.25e-4, 3.125e-3, 1.5625e-2]),
    patience=st.integers(1, 4),
    tol=st.sampled_from([0.0, 1e-4, 0.05]),
)
def test_adaptive_counts_as_scikit_learn(losses, learning_rate, patience, tol):
    theirs = MLPClassifier(n_iter_no_change=patience, tol=tol)
    theirs.best_loss_, theirs.loss_curve_, theirs._no_improvement_count = np.inf, [], 0
    optimizer = SGDOptimizer([], learning_rate, "adaptive")
    expected, stopped = [], None
    for epoch, loss in enumerate(losses):
        expected.append(optimizer.learning_rate)
        theirs.loss_curve_.append(loss)
        theirs._update_no_improvement_count(False, None, None, None)
        if theirs._no_improvement_count > patience:
            if optimizer.trigger_stopping("", False):
                stopped = epoch
                break
            theirs._no_improvement_count = 0
    schedule = schedules.Adaptive(patience=patience, tol=tol)
    rates, ended = replay(schedule, losses, learning_rate)
    assert ended == stopped
    # A product instead of a row of divisions.
    assert np.allclose(rates, expected, rtol=1e-15, atol=0)
    assert schedule.best == theirs.best_loss_
    if stopped is None:
        assert schedule.count == theirs._no_improvement_count


def test_adaptive_at_the_minimum():
    """A rate that is the minimum ends the fit, by the bits of scikit-learn's divisions."""
    ended = []
    for k in range(12):
        optimizer = SGDOptimizer([], 5**k * 1e-6, "adaptive")
        epochs = 1
        while not optimizer.trigger_stopping("", False):
            epochs += 1
        _, stopped = replay(schedules.Adaptive(patience=0), [1.0] * 20, 5**k * 1e-6)
        assert stopped == epochs
        ended.append(epochs - k)
    assert set(ended) == {1, 2}  # rounding decides


def test_adaptive_of_a_whole_fit():
    X, y = problem(200)
    theirs = MLPClassifier(
        (5,), solver="sgd", learning_rate="adaptive", learning_rate_init=0.5, tol=1e-2,
        n_iter_no_change=2, max_iter=1000, random_state=0,
    ).fit(X, y)  # fmt: skip
    schedule = schedules.Adaptive(patience=2, tol=1e-2)
    rates, stopped = replay(schedule, theirs.loss_curve_, 0.5)
    assert 10 < theirs.n_iter_ < 1000
    assert stopped == theirs.n_iter_ - 1
    assert math.isclose(rates[-1], theirs._optimizer.learning_rate, rel_tol=1e-15)
    assert rates[-1] <= 1e-6 < rates[0]


def test_adaptive_within_a_warm_up():
    schedule = schedules.WarmUp(2, schedules.Adaptive(patience=0, divisor=2))
    assert run(schedule, 5, batches=1).tolist() == [0.5, 1.0, 0.5, 0.25, 0.125]


# -------------------------------------------------------------------------------------- optax


@pytest.fixture(scope="module")
def optax():
    import jax

    jax.config.update("jax_enable_x64", True)
    import optax

    return optax


STEPS = 100  # of ten epochs
OPTAX = {
    "cosine": (
        schedules.Cosine(),
        lambda optax: optax.cosine_decay_schedule(1.0, STEPS),
    ),
    "cosine, final": (
        schedules.Cosine(final=0.2),
        lambda optax: optax.cosine_decay_schedule(1.0, STEPS, alpha=0.2),
    ),
    "one-cycle": (
        schedules.OneCycle(),
        lambda optax: optax.cosine_onecycle_schedule(STEPS, 1.0),
    ),
    "one-cycle, others": (
        schedules.OneCycle(start=0.1, final=0.05, rise=0.4),
        lambda optax: optax.cosine_onecycle_schedule(STEPS, 1.0, 0.4, 10.0, 2.0),
    ),
    "warm-up": (
        schedules.WarmUp(2),
        lambda optax: optax.linear_schedule(1 / 20, 1.0, 19),
    ),
    "warm-up, cosine": (
        schedules.WarmUp(2, "cosine"),
        lambda optax: optax.join_schedules(
            [optax.linear_schedule(1 / 20, 1.0, 19), optax.cosine_decay_schedule(1.0, 80)], [20]
        ),
    ),
}


@pytest.mark.parity
@pytest.mark.parametrize("row", OPTAX)
def test_factors_of_optax(optax, row):
    schedule, theirs = OPTAX[row]
    theirs = theirs(optax)
    factors = run(schedule, 10, batches=10)
    factors = np.concatenate([factors, run(schedule, 2, batches=10, epoch=10)])
    expected = np.array([float(theirs(step)) for step in range(STEPS + 20)])
    assert np.abs(factors - expected).max() <= 1e-14


# ---------------------------------------------------------------------------------- bad input

BAD = {
    "power": (schedules.InverseScaling, {"power": -0.5}, ValueError, r"power.*at least 0.*-0\.5"),
    "divisor": (schedules.Adaptive, {"divisor": 1}, ValueError, r"divisor.*above 1.*1\.0"),
    "patience": (schedules.Adaptive, {"patience": -1}, ValueError, r"patience.*-1"),
    "patience's type": (schedules.Adaptive, {"patience": 2.5}, TypeError, r"patience.*2\.5"),
    "tol": (schedules.Adaptive, {"tol": -1e-4}, ValueError, r"tol.*-0\.0001"),
    "minimum": (schedules.Adaptive, {"minimum": math.nan}, ValueError, r"minimum.*nan"),
    "cosine's epochs": (schedules.Cosine, {"epochs": 0}, ValueError, r"epochs.*at least 1.*0"),
    "epochs' type": (schedules.CosLog4, {"epochs": 1.5}, TypeError, r"epochs.*integer.*1\.5"),
    "cosine's final": (schedules.Cosine, {"final": 1.5}, ValueError, r"final.*at most 1.*1\.5"),
    "start": (schedules.OneCycle, {"start": 0}, ValueError, r"start.*above 0.*0\.0"),
    "one-cycle's final": (schedules.OneCycle, {"final": -1}, ValueError, r"final.*-1"),
    "rise": (schedules.OneCycle, {"rise": 1}, ValueError, r"rise.*below 1.*1\.0"),
    "warm-up's epochs": (schedules.WarmUp, {"epochs": 0}, ValueError, r"epochs.*above 0.*0\.0"),
    "after": (schedules.WarmUp, {"after": "cosin"}, ValueError, r"after.*'cosin'.*'cosine'"),
    "after's type": (schedules.WarmUp, {"after": 3}, TypeError, r"after.*'cosine'.*3"),
    "name": (schedules.resolve, {"schedule": "cos"}, ValueError, r"schedule.*'cosine'.*'cos'"),
    "type": (schedules.resolve, {"schedule": 3}, TypeError, r"schedule.*'one-cycle'.*3"),
    "class": (
        schedules.resolve,
        {"schedule": schedules.Cosine},
        TypeError,
        r"schedule.*Cosine\(\).*class",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    function, arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        function(**arguments)


def test_factors_that_depend_on_the_first_fit():
    with pytest.raises(ValueError, match=r"epochs.*first fit.*Cosine\(epochs=None, final=0\.0\)"):
        schedules.Cosine().factors(0, 2)
    with pytest.raises(ValueError, match=r"rows.*begin"):
        schedules.InverseScaling().factors(0, 2)


def test_a_warm_up_that_leaves_nothing():
    with pytest.raises(ValueError, match=r"epochs of WarmUp.*fit \(2\).*Cosine.*got 2"):
        schedules.WarmUp(2, "cosine").begin(2, ROWS)
    schedules.WarmUp(2, schedules.Cosine(8)).begin(2, ROWS)
    schedules.WarmUp(2).begin(1, ROWS)


def test_repr_shows_the_arguments():
    used = schedules.OneCycle(rise=0.5)
    run(used, 3)
    assert repr(used) == "OneCycle(epochs=None, start=0.04, final=4e-06, rise=0.5)"
    assert repr(schedules.WarmUp(2, "adaptive")) == (
        "WarmUp(epochs=2.0, after=Adaptive(divisor=5.0, patience=10, tol=0.0001, minimum=1e-06))"
    )

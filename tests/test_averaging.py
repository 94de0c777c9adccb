"""Averages of the parameters: their formulas, what the network holds, and going on with them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_network, problem, relative_to_largest

import bcenet

DTYPES = {"float32": 1e-5, "float64": 1e-13}


def trajectory(net, X, y, steps, **options):
    """The parameters after each step: fits of one epoch of one batch."""
    optimizer, seen = bcenet.Adam(0.01), []
    for _ in range(steps):
        bcenet.fit(
            net, X, y, optimizer=optimizer, epochs=1, batch_size=len(X), shuffle=False, **options
        )
        seen.append(net.parameters.astype(float))
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_ema_of_every_step(isa, decay, dtype):
    X, y = problem(60, dtype=dtype)
    expected = None
    for w in trajectory(make_network(dtype=dtype), X, y, 7):
        expected = w if expected is None else decay * expected + (1 - decay) * w
    net, average = make_network(dtype=dtype), bcenet.EMA(decay)
    bcenet.fit(net, X, y, optimizer=bcenet.Adam(0.01), epochs=7, shuffle=False, averaging=average)
    assert relative_to_largest(net.parameters, expected) <= DTYPES[dtype]
    assert np.array_equal(net.parameters, average.average)
    assert np.array_equal(average.raw, w.astype(dtype))
    assert average.count == 7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("start", "first"), [(0.0, 1), (0.5, 4), (0.75, 5), (0.99, 6)])
def test_swa_of_the_last_epochs(start, first, dtype):
    X, y = problem(60, dtype=dtype)
    ws = trajectory(make_network(dtype=dtype), X, y, 6)
    net, average = make_network(dtype=dtype), bcenet.SWA(start)
    seen = []
    bcenet.fit(
        net, X, y, optimizer=bcenet.Adam(0.01), epochs=6, shuffle=False, averaging=average,
        callbacks=[lambda state: seen.append(state.network.parameters.astype(float))],
    )  # fmt: skip
    assert average.count == 7 - first
    assert np.array_equal(average.raw, ws[-1].astype(dtype))
    for epoch, (got, w) in enumerate(zip(seen, ws, strict=True), 1):
        expected = np.mean(ws[first - 1 : epoch], axis=0) if epoch >= first else w
        assert relative_to_largest(got, expected) <= DTYPES[dtype]


def test_the_average_is_what_is_validated():
    X, y = problem(203)
    X_val, y_val = problem(57, seed=3)
    net = make_network()
    losses = []

    def measure(state):
        losses.append(float(bcenet.bce_loss(net.decision_function(X_val), y_val)))

    history = bcenet.fit(
        net, X, y, epochs=3, batch_size=40, validation_data=(X_val, y_val),
        averaging=bcenet.EMA(0.9), callbacks=[measure],
    )  # fmt: skip
    assert history.validation_loss == pytest.approx(losses, rel=1e-14)


def test_the_loss_is_that_of_the_parameters_in_training():
    X, y = problem(203)
    nets = [make_network(), make_network()]
    histories = [
        bcenet.fit(net, X, y, epochs=3, batch_size=40, random_state=0, averaging=averaging)
        for net, averaging in zip(nets, (None, bcenet.EMA(0.9)), strict=True)
    ]
    assert histories[0].loss == histories[1].loss
    assert not np.array_equal(nets[0].parameters, nets[1].parameters)


@pytest.mark.parametrize("kind", [bcenet.EMA, bcenet.SWA])
def test_a_network_changed_in_between_starts_anew(kind):
    X, y = problem(203)
    options = {"epochs": 2, "batch_size": 40, "random_state": 0}
    net, average = make_network(), kind(0.5)
    bcenet.fit(net, X, y, averaging=average, **options)
    net.parameters[:] = make_network().parameters
    fresh, again = make_network(), kind(0.5)
    bcenet.fit(net, X, y, averaging=average, **options)
    bcenet.fit(fresh, X, y, averaging=again, **options)
    assert np.array_equal(net.parameters, fresh.parameters)
    assert average.count == again.count


def test_an_object_goes_to_another_network():
    X, y = problem(203)
    average = bcenet.EMA(0.5)
    bcenet.fit(make_network((7, 3, 1)), X, y, epochs=1, averaging=average)
    nets = [make_network(), make_network()]
    for net, averaging in zip(nets, (average, bcenet.EMA(0.5)), strict=True):
        bcenet.fit(net, X, y, epochs=1, averaging=averaging, random_state=0)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_skipped_batches_are_not_averaged():
    X, y = problem(120)
    weight = np.ones(120)
    weight[40:80] = 0
    average = bcenet.EMA(0.5)
    bcenet.fit(
        make_network(), X, y, epochs=2, batch_size=40, sample_weight=weight, shuffle=False,
        averaging=average,
    )  # fmt: skip
    assert average.count == 4


def test_repr():
    assert repr(bcenet.EMA(0.9)) == "EMA(decay=0.9)"
    average = bcenet.SWA(0.5)
    X, y = problem(30)
    bcenet.fit(make_network(), X, y, epochs=2, averaging=average)
    assert repr(average) == "SWA(start=0.5)"


def test_an_average_of_another_dtype_begins_anew():
    X, y = problem()
    average = bcenet.EMA(0.9)
    net = make_network((7, 1), dtype="float32")
    bcenet.fit(net, X, y, epochs=1, averaging=average)
    wide = net.astype("float64")
    bcenet.fit(wide, X, y, epochs=1, averaging=average)
    assert average.raw.dtype == average.average.dtype == np.float64

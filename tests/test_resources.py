"""Memory and time: nothing leaks (L1), a fit needs little beyond its data, and subnormal numbers
cost no more than others (N6)."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from helpers import make_network, problem

import bcenet
from bcenet import threads
from bcenet.errors import ModelFormatError, NonFiniteError

MIB = 2**20

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="reads the process's memory from Linux' /proc/self"
)


def in_fresh_process(function, *arguments):
    """The function's result, from a new interpreter whose memory no other test has touched."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def resident():
    """Bytes of memory that the process has in place."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# ------------------------------------------------------------------------------- L1: leaks


def fits():
    """Tiny fits of the kinds that allocate differently, one after the other."""
    X, y = problem(50, 4, dtype="float32")
    weight = np.ones(50)
    kinds = [
        {},
        {"n_threads": 2},
        {"sample_weight": weight, "validation_data": (X, y)},
        {"optimizer": bcenet.SGD(0.01, momentum=0.9), "callbacks": [lambda state: None]},
    ]
    for options in itertools.cycle(kinds):
        net = make_network((4, 3, 1), dtype="float32")
        bcenet.fit(net, X, y, epochs=2, batch_size=20, **options)
        yield


def predictions():
    """Predictions for one row and for many, by two networks, on one thread and on two."""
    X, _ = problem(50, 4, dtype="float32")
    nets = [make_network((4, 3, 1), dtype=dtype) for dtype in ("float32", "float64")]
    for i in itertools.count():
        nets[i % 2].predict_proba(X[: 1 + i % 50], n_threads=1 + (i % 100 == 0))
        yield


def failing_calls():
    """Calls that end in an error: before, in and after the native code."""
    X, y = problem(50, 4, dtype="float32")
    net = make_network((4, 3, 1), dtype="float32")
    with_nan = X.copy()
    with_nan[30, 2] = np.nan

    def interrupted(state):
        raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "broken.bcenet")
        with open(path, "wb") as file:
            file.write(bytes(range(256)) * 16)
        calls = [
            (NonFiniteError, lambda: bcenet.fit(net, X * np.float32(1e38), y, n_threads=2)),
            (KeyboardInterrupt, lambda: bcenet.fit(net, X, y, callbacks=[interrupted])),
            (ValueError, lambda: bcenet.fit(net, with_nan, y)),
            (ValueError, lambda: bcenet.fit(net, X, y + 1)),
            (ValueError, lambda: bcenet.fit(net, X, y, optimizer="adams")),
            (ValueError, lambda: net.predict_proba(X[:, :3])),
            (TypeError, lambda: net.predict_proba("X")),
            (ValueError, lambda: bcenet.bce_loss_gradient(X, X)),
            (ModelFormatError, lambda: bcenet.load(path)),
        ]
        for error, call in itertools.cycle(calls):
            with pytest.raises(error):
                call()
            yield


def growth(calls, count):
    """Bytes that ``count`` calls add to the process, by a line through 40 samples."""
    calls = calls()
    for _ in range(500):  # fills the caches of the interpreter and of the allocators
        next(calls)
    sizes = []
    for _ in range(40):
        for _ in range(count // 40):
            next(calls)
        sizes.append(resident())
    calls.close()
    return np.polyfit(np.linspace(0, 1, 40), sizes, 1)[0]


CALLS = {fits: 10_000, predictions: 100_000, failing_calls: 10_000}


@needs_linux
@pytest.mark.parametrize("fraction", [0.1, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("calls", CALLS, ids=lambda calls: calls.__name__)
def test_l1_memory_does_not_grow(calls, fraction):
    assert in_fresh_process(growth, calls, int(CALLS[calls] * fraction)) <= MIB


# ---------------------------------------------------------------------- memory beside the data


def fill(X, y):
    """Values for every row, block by block: no second array of X's size is ever made.

    Every page of X is written, so that the data is in memory before the fit, as a user's is.
    """
    block = np.random.default_rng(0).standard_normal((10_000, X.shape[1]), dtype=np.float32)
    for start in range(0, len(X), len(block)):
        X[start : start + len(block)] = block
        y[start : start + len(block)] = block[:, 0] > 0


def memory_of_a_fit(rows):
    """Bytes that an epoch on 28-64-32-1 has at most in place, beyond what was there before."""
    X, y = np.empty((rows, 28), np.float32), np.empty(rows, np.float32)
    fill(X, y)
    net = bcenet.Network([28, 64, 32, 1], random_state=0)
    bcenet.fit(bcenet.Network([28, 1]), X[:1000], y[:1000], epochs=1)  # what it imports stays
    before = resident()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew from what is in place now
    bcenet.fit(net, X, y, epochs=1)
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    return peak * 1024 - before


@needs_linux
@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="this kernel cannot reset a process's peak memory",
)
@pytest.mark.parametrize("rows", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_memory_of_a_fit_beside_the_data(rows):
    # 4 bytes a row for the order of the rows, and an allowance for the engine: for 10^7 rows this
    # is 43 MB. Where the order takes 8 bytes a row, or anything is copied, it is not enough.
    assert in_fresh_process(memory_of_a_fit, rows) <= 4 * rows + 3_000_000


# ------------------------------------------------------------------------ N6: subnormal numbers

SUBNORMAL = np.float32(1e-40)  # 17 of the 24 bits of a float32 are left


def all_subnormal(*arrays):
    return all(((a != 0) & (np.abs(a) < np.finfo(np.float32).tiny)).all() for a in arrays)


# Each case makes a fit that meets subnormal numbers, or the same fit without them: the network,
# X, y, the optimizer, and a function that tells whether the numbers are subnormal indeed.


def weights(subnormal):
    """All weights are scaled down, and with them every sum and every activation."""
    X, y = problem(20_000, 28, dtype="float32")
    net = make_network((28, 64, 32, 1), dtype="float32")
    if subnormal:
        net.parameters *= SUBNORMAL
    return net, X, y, bcenet.SGD(1e-41), lambda: all_subnormal(net.parameters)


def activations(subnormal):
    """X is scaled down, and with it all that is computed of it: there are no intercepts."""
    X, y = problem(20_000, 28, dtype="float32")
    net = make_network((28, 64, 32, 1), dtype="float32")
    for b in net.intercepts:
        b[:] = 0
    if subnormal:
        X *= SUBNORMAL

    def check():
        hidden = [layer.a for layer in net.trace(X[:500], y[:500]).layers[:-1]]
        return all((a > 0).mean() > 0.2 and all_subnormal(a[a > 0]) for a in hidden)

    return net, X, y, bcenet.SGD(1e-41), check


def moments(subnormal):
    """Adam's moments of units that are never active: each step multiplies them by beta, until
    rounding holds them at a few units of the smallest number."""
    X, y = problem(20_000, 28, dtype="float32")
    net = make_network((28, 64, 32, 1), dtype="float32")
    net.intercepts[0][:] = -100
    optimizer = bcenet.Adam()
    bcenet.fit(net, X[:500], y[:500], optimizer=optimizer, epochs=1)
    of_inactive = [moments[: 28 * 64] for moments in optimizer.state.values()]
    for array in of_inactive:
        array[:] = SUBNORMAL if subnormal else 0
    return net, X, y, optimizer, lambda: all_subnormal(*of_inactive)


@pytest.mark.slow
@pytest.mark.parametrize("case", [weights, activations, moments])
def test_n6_subnormal_numbers_do_not_slow_a_fit_down(isa, case):
    ratios = []
    for _ in range(3):  # other programs may disturb a try
        runs = [case(False), case(True)]
        times = ([], [])
        for _ in range(15):
            for (net, X, y, optimizer, _), kept in zip(runs, times, strict=True):
                begun = time.perf_counter()
                bcenet.fit(net, X, y, optimizer=optimizer, epochs=2, n_threads=1, random_state=0)
                kept.append(time.perf_counter() - begun)
        assert [check() for *_, check in runs] == [False, True]
        ratios.append(statistics.median(times[1]) / statistics.median(times[0]))
        if ratios[-1] <= 1.5:
            break
    assert min(ratios) <= 1.5


# -------------------------------------------------------------------------- numbers of threads


@pytest.mark.parametrize("count", [0, -1])
def test_fit_refuses_a_thread_count_below_1(count):
    X, y = problem(20)
    with pytest.raises(ValueError, match=f"n_threads.*{count}"):
        bcenet.fit(make_network(), X, y, n_threads=count)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_fit_checks_bcenet_num_threads(monkeypatch, text):
    monkeypatch.setenv("BCENET_NUM_THREADS", text)
    X, y = problem(20)
    with pytest.raises(ValueError, match=f"BCENET_NUM_THREADS.*'{text}'"):
        bcenet.fit(make_network(), X, y)


def test_the_environment_limits_the_threads_that_are_chosen(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 8)
    monkeypatch.delenv("BCENET_NUM_THREADS", raising=False)
    work = 5 * threads.WORK_PER_THREAD
    assert threads.choose(None, work, threads.WORK_PER_THREAD) == 6
    assert threads.choose(None, 1e15) == 8
    assert threads.choose(None, 1000) == 1
    monkeypatch.setenv("BCENET_NUM_THREADS", "2")
    assert threads.choose(None, work, threads.WORK_PER_THREAD) == 2
    assert threads.choose(7, work) == 7  # what is asked for explicitly holds
    assert threads.choose_for_steps(None, work, 1e15) == 2
    assert threads.choose_for_steps(None, work, work) == 1  # one step: no thread pays its start
    assert threads.choose_for_steps(7, work, work) == 7

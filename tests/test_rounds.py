"""Rounds over parts of the rows, in one process: what Dask and MPI share."""

import hashlib
import itertools
import pickle

import numpy as np
import pytest

import bcenet
from bcenet import kernels, rounds
from bcenet import rows as rows_
from bcenet.objective import Objective
from bcenet.training import choose_stage


class Here:
    """A cluster that is this process; pickling stands for what is sent."""

    def __init__(self, network, parts):
        self.parts = [rounds.Part(i, rows_.check(network, *part)) for i, part in enumerate(parts)]
        self.calls = 0

    def each(self, task, argument):
        self.calls += 1
        sent = pickle.dumps(argument)
        return [task(part, pickle.loads(sent)) for part in self.parts]

    def merged(self, task, argument):
        return rounds.merge_all(*self.each(task, argument))


DEFAULTS = {
    "mode": "local",
    "optimizer": "adam",
    "learning_rate": None,
    "batch_size": None,
    "epochs": 3,
    "local_steps": None,
    "outer_learning_rate": 1.0,
    "outer_momentum": 0.0,
    "validation_data": None,
    "callbacks": (),
    "shuffle": True,
    "n_threads": 1,
    "random_state": 5,
    "schedule": None,
    "dropout": 0.0,
}


def fit(network, parts, **options):
    return rounds.fit(network, lambda _: Here(network, parts), **{**DEFAULTS, **options})


def make(rows=230, outputs=1, seed=0, inputs=5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, inputs)).astype(np.float32)
    y = (X[:, :outputs] * X[:, 1 : outputs + 1] + rng.normal(size=(rows, outputs)) > 0) * 1.0
    return X, y[:, 0] if outputs == 1 else y


def cut(X, y, *ends):
    edges = [0, *ends, len(X)]
    return [(X[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]


# ---- one part is an ordinary fit -------------------------------------------------------------


@pytest.mark.parametrize("local_steps", [None, 1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": bcenet.SGD, "args": (0.1, 0.9), "schedule": "cosine"},
        {"optimizer": bcenet.AMSGrad, "args": (0.01,), "clip_norm": 0.5, "l2": 0.1},
        {"dropout": 0.25, "max_norm": 0.8, "l1": 0.01},
        {"outputs": 2, "label_reduction": "sum", "pos_weight": 2.0, "loss": "focal"},
        {"normalization": "batch", "feature_scale": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_one_part_is_fit_bit_for_bit(options, local_steps):
    """Averages of one are exact: float64 holds a float32 times a weight, and gives it back."""
    options = dict(options)
    shape = {k: options.pop(k) for k in ("normalization", "feature_scale") if k in options}
    outputs, args = options.pop("outputs", 1), options.pop("args", None)
    X, y = make(outputs=outputs)
    results = []
    for one in (True, False):
        network = bcenet.Network([5, 16, outputs], random_state=1, **shape)
        kind = options.get("optimizer")
        given = {**options, **({} if args is None else {"optimizer": kind(*args)})}
        if one:
            history = fit(network, [(X, y)], local_steps=local_steps, batch_size=32, **given)
        else:
            seed = rounds._seed_of(5, 0)
            history = bcenet.fit(network, X, y, random_state=seed, batch_size=32, epochs=3, **given)
        results.append((network, history))
    (a, history_a), (b, history_b) = results
    assert np.array_equal(a.parameters, b.parameters)
    assert np.array_equal(a.statistics, b.statistics)
    # Sums over rounds are added in another order than those over an epoch.
    np.testing.assert_allclose(history_a.loss, history_b.loss, rtol=1e-12)
    np.testing.assert_allclose(history_a.penalty, history_b.penalty, rtol=1e-12)


def test_the_defaults_of_one_part_are_fit():
    """Momentum is 1 - 1 / sqrt(1), whatever a round is."""
    X, y = make(rows=2000)
    ours, theirs = (bcenet.Network([5, 16, 1], random_state=1) for _ in range(2))
    options = {"batch_size": 4, "epochs": 2}
    fit(ours, [(X, y)], local_steps="auto", outer_momentum=None, **options)
    bcenet.fit(theirs, X, y, random_state=rounds._seed_of(5, 0), **options)
    assert np.array_equal(ours.parameters, theirs.parameters)


@pytest.mark.parametrize(
    ("optimizer", "momentum"), [("adam", 1 - (0.2**1.5 + 2 * 0.4**1.5)), ("sgd", 0.0)]
)
def test_the_defaults_of_several_parts(optimizer, momentum):
    """Parts of 20, 40 and 40 of 100 rows a step; 400 // 3 steps a round."""
    X, y = make(rows=2000)
    auto, given = (bcenet.Network([5, 16, 1], random_state=1) for _ in range(2))
    parts, options = cut(X, y, 400, 1200), {"batch_size": 10, "optimizer": optimizer}
    fit(auto, parts, local_steps="auto", outer_momentum=None, **options)
    fit(given, parts, local_steps=133, outer_momentum=momentum, **options)
    assert np.array_equal(auto.parameters, given.parameters)


@pytest.mark.parametrize("parts", [2, 8, 16])
def test_the_defaults_learn_what_one_machine_does(parts):
    """Small sets, on which a round is an epoch or two."""
    X, y = make(rows=3000)
    X_test, y_test = make(rows=3000, seed=1)
    losses = []
    for cuts in ([], np.linspace(0, 3000, parts + 1).astype(int)[1:-1]):
        network = bcenet.Network([5, 32, 1], random_state=1)
        fit(
            network,
            cut(X, y, *cuts),
            epochs=20,
            learning_rate=0.005,
            local_steps="auto",
            outer_momentum=None,
        )
        losses.append(network.loss_gradient(X_test, y_test)[0])
    alone, together = losses
    # Measured: within 0.0008 of 0.576, from 0.897.
    assert together == pytest.approx(alone, abs=0.003)


def test_k_epochs_and_then_k_are_2k():
    parts = cut(*make(), 70, 150)
    once, twice = (bcenet.Network([5, 8, 1], random_state=1) for _ in range(2))
    fit(once, parts, epochs=4, optimizer=bcenet.Adam(), local_steps=2, batch_size=16)
    optimizer = bcenet.Adam()
    for _ in range(2):
        fit(twice, parts, epochs=2, optimizer=optimizer, local_steps=2, batch_size=16)
    assert np.array_equal(once.parameters, twice.parameters)
    assert optimizer.epoch == 4


# ---- several parts -----------------------------------------------------------------------------


def test_local_rounds_against_a_twin():
    """The average by the rows' weight and the outer step, from fits of the parts alone."""
    X, y = make(rows=200)
    weight = np.linspace(0.5, 2.0, 200)
    # Of 50 rows a step the parts have 20 and 30, and the same shares of the penalty.
    parts = [(X[:80], y[:80], weight[:80]), (X[80:], y[80:], weight[80:])]
    network = bcenet.Network([5, 8, 1], dtype="float64", random_state=1)
    start = network.parameters.copy()
    rate, momentum = 0.7, 0.6

    fit(
        network,
        parts,
        epochs=3,
        batch_size=50,
        l2=0.5,
        optimizer="sgd",
        learning_rate=0.2,
        shuffle=False,
        outer_learning_rate=rate,
        outer_momentum=momentum,
    )

    w, m = start, np.zeros_like(start)
    for _ in range(3):
        after = []
        for X_p, y_p, weight_p in parts:
            one = bcenet.Network([5, 8, 1], dtype="float64", random_state=1)
            one.parameters[:] = w
            bcenet.fit(
                one,
                X_p,
                y_p,
                sample_weight=weight_p,
                epochs=1,
                batch_size=len(X_p) // 4,
                l2=0.5 * len(X_p) / 200,
                optimizer="sgd",
                learning_rate=0.2,
                shuffle=False,
            )
            after.append(one.parameters)
        average = np.average(after, axis=0, weights=[weight[:80].sum(), weight[80:].sum()])
        d = w - average
        m = momentum * m + d
        w = w - rate * (d + momentum * m)
    np.testing.assert_allclose(network.parameters, w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 46])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": bcenet.Adam, "args": (0.02,), "l1": 0.05, "l2": 0.2},
        {"optimizer": bcenet.SGD, "args": (0.5, 0.9), "clip_norm": 0.1, "schedule": "cosine"},
        {"optimizer": bcenet.Lion, "args": (0.01,), "max_norm": 0.5, "feature_scale": True},
        {"optimizer": bcenet.AdamW, "args": (0.02,), "normalization": "layer", "outputs": 3},
    ],
    ids=["penalties", "clip", "max_norm", "layer"],
)
def test_exact_rounds_are_fit_with_that_batch(options, batch_size):
    """Batches of 46 of 230 rows are cut alike where there is one part; more parts add in another
    order, which float64 shows in its last digits."""
    options = dict(options)
    shape = {k: options.pop(k) for k in ("normalization", "feature_scale") if k in options}
    outputs, kind, args = options.pop("outputs", 1), options.pop("optimizer"), options.pop("args")
    X, y = make(outputs=outputs)
    layers = [5, 16, outputs]
    parts = cut(X, y, 60, 61, 170) if batch_size is None else [(X, y)]
    ours, theirs = (
        bcenet.Network(layers, dtype="float64", random_state=1, **shape) for _ in range(2)
    )
    one = fit(
        ours,
        parts,
        mode="exact",
        batch_size=batch_size,
        optimizer=kind(*args),
        epochs=6,
        shuffle=False,
        **options,
    )
    other = bcenet.fit(
        theirs,
        X,
        y,
        batch_size=batch_size or 230,
        optimizer=kind(*args),
        epochs=6,
        shuffle=False,
        **options,
    )
    # Lion moves by the sign, so only a gradient of 0 could tell the two apart by a whole step.
    np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-10)
    np.testing.assert_allclose(one.penalty, other.penalty, rtol=1e-9, atol=1e-15)


def test_lbfgs_over_parts():
    X, y = make()
    ours, theirs = (bcenet.Network([5, 1], dtype="float64", random_state=1) for _ in range(2))
    one = fit(
        ours, cut(X, y, 100, 120), mode="exact", optimizer=bcenet.LBFGS(1e-9), epochs=50, l2=0.5
    )
    bcenet.fit(theirs, X, y, optimizer=bcenet.LBFGS(1e-9), epochs=50, l2=0.5)
    np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=1e-6, atol=1e-8)
    assert one.loss[-1] < one.loss[0]


def test_a_large_batch_takes_every_row_once():
    """With a rate of 0 the weights stand, and the epoch's loss is that of all rows."""
    X, y = make()
    network = bcenet.Network([5, 8, 1], dtype="float64", random_state=1)
    parts = cut(X, y, 3, 100)
    history = fit(network, parts, mode="exact", batch_size=17, learning_rate=0.0, epochs=1)
    expected = network.loss_gradient(X, y)[0]
    assert history.loss[0] == pytest.approx(expected, rel=1e-12)


def test_parts_smaller_than_the_rounds():
    X, y = make()
    network = bcenet.Network([5, 8, 1], random_state=1)
    history = fit(network, cut(X, y, 3, 8), batch_size=4, local_steps=2)
    assert history.loss[-1] < history.loss[0]


def test_the_tree_is_fixed():
    """Eight at a time gives the bits of all at once."""
    rng = np.random.default_rng(0)
    leaves = [
        rounds.Sums(x, x, x, 1, [rng.normal(size=3) * 10.0 ** rng.integers(-8, 8)], None)
        for x in rng.normal(size=21)
    ]
    whole = rounds.merge_all(*leaves)
    by_eight = rounds.merge_all(*(rounds.merge_all(*leaves[i : i + 8]) for i in (0, 8, 16)))
    assert np.array_equal(whole.values[0], by_eight.values[0])
    assert (whole.loss, whole.weight) == (by_eight.loss, by_eight.weight)
    ((a, b), c) = [leaf.loss for leaf in leaves[:2]], leaves[2].loss
    assert rounds.merge_all(*leaves[:3]).loss == (a + b) + c


def test_the_digest_is_the_same_on_wide_vectors(isa):
    """x86-64-v3 and -v4 agree, so a cluster may have both."""
    network = bcenet.Network([5, 16, 1], random_state=1)
    fit(network, cut(*make(), 70), local_steps=2, batch_size=16, outer_momentum=0.5)
    digest = hashlib.sha256(network.parameters).hexdigest()
    with bcenet._dispatch.use(bcenet._dispatch.available()[-1]):
        other = bcenet.Network([5, 16, 1], random_state=1)
        fit(other, cut(*make(), 70), local_steps=2, batch_size=16, outer_momentum=0.5)
    same = digest == hashlib.sha256(other.parameters).hexdigest()
    assert same == (isa != "baseline" or isa == bcenet._dispatch.available()[-1])


# ---- the engine's update -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        bcenet.SGD(0.1, 0.9, True, 0.01),
        bcenet.Adam(0.1),
        bcenet.AdamW(0.1),
        bcenet.AMSGrad(0.1),
        bcenet.RMSprop(0.1),
        bcenet.Lion(0.1),
    ],
    ids=lambda o: type(o).__name__,
)
@pytest.mark.parametrize("bounds", [{}, {"clip_norm": 0.01, "max_norm": 0.5}], ids=["", "bounds"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_is_the_end_of_a_step(optimizer, bounds, dtype, isa):
    X, y = make(rows=64)
    network = bcenet.Network(
        [5, 9, 1], normalization="layer", feature_scale=True, dtype=dtype, random_state=1
    )
    objective = Objective.of(1, **bounds)
    optimizer.reset()
    optimizer.begin(network.parameters)
    engines = [
        kernels.Engine(
            network.shape,
            network.dtype,
            64,
            1,
            hyper=optimizer.native_hyper(),
            objective=objective.native(),
        )
        for _ in range(2)
    ]
    gradient = np.empty_like(network.parameters)
    for engine in engines:
        engine.load("parameters", network.parameters)
    whole, apart = engines
    sources = rows_.check(network, X, y).sources()
    for _ in range(3):
        passed = apart.train(sources, 64, range(1), stage="gradient")
        apart.store("gradient", gradient)
        apart.load("gradient", gradient)
        assert apart.update(0.5) == passed.status == "done"
        rates = np.array([0.5])
        stage = choose_stage(network, objective)
        whole.train(sources, 64, range(1), rates=rates, stage=stage)
    for part in ("parameters", "first", "second", "third")[: 1 + len(optimizer.state)]:
        a, b = np.empty_like(gradient), np.empty_like(gradient)
        whole.store(part, a)
        apart.store(part, b)
        assert np.array_equal(a, b)
    assert whole.steps == apart.steps == 3


def test_an_update_that_overflows(isa):
    network = bcenet.Network([2, 1], random_state=1)
    engine = kernels.Engine(
        network.shape,
        network.dtype,
        1,
        1,
        hyper=bcenet.SGD(1e30).native_hyper(),
        objective=Objective.of(1).native(),
    )
    engine.load("parameters", network.parameters)
    engine.load("gradient", np.full_like(network.parameters, 1e30))
    assert engine.update() == "bad parameters"


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "fast"}, ValueError, "mode must be one of 'local', 'exact'"),
        ({"local_steps": 0}, ValueError, "local_steps must be at least 1; got 0"),
        ({"local_steps": "all"}, ValueError, "local_steps must be one of 'auto'; got 'all'"),
        ({"outer_momentum": 1.0}, ValueError, "outer_momentum must be finite.*below 1"),
        ({"outer_learning_rate": 0.0}, ValueError, "outer_learning_rate must be .* above 0"),
        ({"n_threads": None}, TypeError, "n_threads must be an integer; got None"),
        ({"optimizer": "lbfgs"}, ValueError, "mode must be 'exact' with optimizer 'lbfgs'"),
        ({"mode": "exact", "dropout": 0.5}, ValueError, "dropout must be 0 with mode 'exact'"),
        (
            {"mode": "exact", "optimizer": "lbfgs", "batch_size": 10},
            ValueError,
            "batch_size must be None with optimizer 'lbfgs'; got 10",
        ),
    ],
)
def test_bad_options(options, error, message):
    network = bcenet.Network([5, 4, 1], random_state=1)
    before = network.parameters.copy()
    with pytest.raises(error, match=message):
        fit(network, cut(*make(), 100), **options)
    assert np.array_equal(network.parameters, before)


def test_batch_statistics_need_local_steps():
    network = bcenet.Network([5, 4, 1], normalization="batch")
    with pytest.raises(ValueError, match="mode must be 'local' for a network with norm"):
        fit(network, cut(*make(), 100), mode="exact")


def test_one_class():
    X, y = make()
    with pytest.raises(ValueError, match="y must hold both classes; got only 0"):
        fit(bcenet.Network([5, 4, 1]), cut(X, np.zeros_like(y), 100))


@pytest.mark.parametrize("mode", ["local", "exact"])
def test_non_finite(mode):
    """The weights before the bad round are kept, and the part is named."""
    X, y = make()
    seen = []
    network = bcenet.Network([5, 4, 1], random_state=1)
    with pytest.raises(bcenet.NonFiniteError, match="the network holds the weights before"):
        fit(
            network,
            cut(X, y, 100),
            mode=mode,
            optimizer=bcenet.SGD(1e20),
            epochs=50,
            callbacks=lambda state: seen.append(state.network.parameters.copy()) and None,
        )
    assert np.isfinite(network.parameters).all()
    assert not seen or np.array_equal(network.parameters, seen[-1])


def test_another_build_is_refused():
    here = rounds.build()
    rounds.check_build(here, dict(here), "worker 1")
    with pytest.raises(RuntimeError, match=r"worker 1 must run the same bcenet .*it runs 9\.9"):
        rounds.check_build(here, {**here, "bcenet": "9.9"}, "worker 1")


@pytest.mark.parametrize("mode", ["local", "exact"])
def test_a_task_refuses_another_build(mode, monkeypatch):
    """A worker that joins in mid-fit is found by its first task."""
    asked = []

    class Newer(Here):
        def each(self, task, argument):
            if task is not rounds.measure and not asked:
                asked.append(task)
                monkeypatch.setattr(rounds, "__version__", "9.9")
            return super().each(task, argument)

    network = bcenet.Network([5, 4, 1], random_state=1)
    before = network.parameters.copy()
    with pytest.raises(RuntimeError, match=r"the worker of part 0 must run the same bcenet"):
        rounds.fit(
            network, lambda _: Newer(network, cut(*make(), 100)), **{**DEFAULTS, "mode": mode}
        )
    assert np.array_equal(network.parameters, before)

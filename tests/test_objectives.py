"""What a fit makes small and the bounds it keeps: every option of `bcenet.fit` against the twin,
k + k epochs, divergence (N4), Ctrl-C (S1), dropout's numbers, base logits, and bad input."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import reference as ref
from helpers import (
    LAYOUTS,
    digest,
    fit_twin,
    make_network,
    problem,
    relative_to_largest,
)
from test_training import fit_steps, interrupted_at_line, interrupted_fit

import bcenet
import bcenet._dispatch
import bcenet.kernels
import bcenet.optimizers
import bcenet.training

LIMIT = {"float32": 1e-4, "float64": 1e-10}  # of the largest parameter
DTYPES = list(LIMIT)


def test_every_registry_has_its_twin(isa):
    native = bcenet._dispatch.native
    assert set(native.LOSSES) == set(ref.LOSSES)
    assert set(native.ACTIVATIONS) == set(ref.ACTIVATIONS)
    assert set(native.NORMALIZATIONS) == set(ref.NORMALIZATIONS)
    assert {options["loss"] for options in OPTIONS.values() if "loss" in options} >= (
        set(ref.LOSSES) - {"bce"}
    )


# ------------------------------------------------------------------------ against the twin

# Words stand for arrays that `arrays` makes; a class is called for a fresh object.
OPTIONS = {
    "focal": {"loss": "focal"},
    "focal, another gamma": {"loss": bcenet.FocalLoss(0.7), "pos_weight": 3.0},
    "sums of labels": {"label_reduction": "sum"},
    "missing labels": {"missing_labels": "ignore"},
    "offset a row": {"offset": "rows"},
    "offset a logit": {"offset": "logits"},
    "schedule": {"schedule": "one-cycle"},
    "clipped": {"clip_norm": 0.1},
    "clipped never": {"clip_norm": 1e6},
    "l1": {"l1": 0.7},
    "l2": {"l2": 0.7},
    "max norm": {"max_norm": 0.8},
    "dropout": {"dropout": 0.3},
    "dropout a layer": {"dropout": [0.5, 0.0]},
    "EMA": {"averaging": lambda: bcenet.EMA(0.9)},
    "EMA of nothing": {"averaging": lambda: bcenet.EMA(0.0)},
    "SWA": {"averaging": lambda: bcenet.SWA(0.3)},
    "EMA of held weights": {"averaging": lambda: bcenet.EMA(0.9), "max_norm": 0.8},
    "focal, missing, weighted": {
        "loss": "focal", "missing_labels": "ignore", "sample_weight": "weights",
        "label_reduction": "sum", "l2": 0.5,
    },
    "bounds": {"clip_norm": 0.1, "max_norm": 0.8, "l1": 0.1, "l2": 0.4, "dropout": 0.2},
    "all": {
        "loss": bcenet.FocalLoss(1.5), "label_reduction": "sum", "missing_labels": "ignore",
        "offset": "logits", "schedule": "cosine", "clip_norm": 0.3, "dropout": [0.2, 0.4],
        "l1": 0.1, "l2": 0.3, "max_norm": 1.5, "averaging": lambda: bcenet.EMA(0.8),
        "pos_weight": 2.5, "label_smoothing": 0.1, "sample_weight": "gaps",
    },
}  # fmt: skip


def arrays(case, n, outputs, dtype):
    """(X, y, options) of a row of OPTIONS."""
    X, y = problem(n, outputs=outputs, soft=True, dtype=dtype)
    rng = np.random.default_rng(6)
    gaps = rng.random(n)
    gaps[: n // 5] = gaps[n // 2 : n // 2 + 45] = 0
    values = {
        "rows": rng.normal(size=n),
        "logits": rng.normal(size=y.shape),
        "weights": rng.random(y.shape),
        "gaps": gaps,
    }
    options = {}
    for name, value in OPTIONS[case].items():
        if isinstance(value, str) and value in values:
            value = values[value].astype(dtype)
        options[name] = value() if callable(value) else value
    if options.get("missing_labels") == "ignore":
        y[rng.random(y.shape) < 0.2] = np.nan
        y[40:80] = np.nan  # a whole batch
    return X, y, options


def check_against_the_twin(net, X, y, optimizer, limit, *, seed=3, **options):
    expected, history = fit_twin(net, X, y, optimizer, seed=seed, **copy.deepcopy(options))
    got = bcenet.fit(net, X, y, optimizer=optimizer, random_state=seed, **options)
    assert relative_to_largest(net.parameters, expected) <= limit
    assert relative_to_largest(net.statistics, history["statistics"]) <= limit
    for name in ("loss", "penalty", "validation_loss"):
        assert np.allclose(getattr(got, name), history[name], rtol=limit, atol=0), name
    return history


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("case", OPTIONS)
def test_fit_against_the_twin(isa, case, outputs, dtype):
    net = make_network((7, 18, 9, outputs), "tanh", dtype)
    X, y, options = arrays(case, 203, outputs, dtype)
    validation = (*problem(57, outputs=outputs, seed=9, dtype=dtype),)
    # The rate is large enough to leave max_norm's ball and to wake what is small.
    check_against_the_twin(
        net, X, y, bcenet.SGD(0.1, momentum=0.9), LIMIT[dtype], epochs=4, batch_size=40,
        validation_data=validation, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer_sizes", "n", "batch_size"),
    [
        ((7, 1), 203, 40),
        ((7, 3, 2, 1), 97, 7),
        ((7, 65, 4, 130, 2), 99, 40),
        ((7, 1, 6, 5), 50, 1),
        ((7, 6, 3, 1), 2_503, 2_500),  # more rows in a batch than one chain of a sum holds
    ],
)
@pytest.mark.parametrize("case", ["bounds", "all"])
@pytest.mark.parametrize("feature_scale", [False, True])
def test_fit_of_any_shape_against_the_twin(isa, case, layer_sizes, n, batch_size, feature_scale):
    net = make_network(layer_sizes, "silu", "float64", feature_scale=feature_scale)
    X, y, options = arrays(case, n, layer_sizes[-1], "float64")
    hidden = len(layer_sizes) - 2
    options["dropout"] = [0.2, 0.0, 0.4][:hidden]
    optimizer = bcenet.Adam(
        0.01, rate_factors={"coefs": 0.5, "intercepts": 0.1, "scale": 6.0, "norms": 2.0}
    )
    check_against_the_twin(
        net, X, y, optimizer, LIMIT["float64"], epochs=2, batch_size=batch_size, **options
    )


def test_history_is_the_loss_and_the_penalty():
    net = make_network((7, 6, 1))
    X, y = problem(60)
    norms = [np.abs(w).sum() for w in net.coefs], [(w * w).sum() for w in net.coefs]
    loss, _ = net.loss_gradient(X, y)
    history = bcenet.fit(net, X, y, epochs=1, l1=0.5, l2=3.0)
    assert history.loss == pytest.approx([loss], rel=1e-14)
    expected = (0.5 * sum(norms[0]) + 1.5 * sum(norms[1])) / 60
    assert history.penalty == pytest.approx([expected], rel=1e-14)


def test_validation_with_weights_and_offset():
    net = make_network((7, 6, 3))
    X, y = problem(60, outputs=3)
    X_val, y_val = problem(31, outputs=3, seed=2)
    weight, offset = np.random.default_rng(0).random((2, 31))
    history = bcenet.fit(
        net, X, y, epochs=1, l2=2.0, label_reduction="sum", label_smoothing=0.3,
        validation_data=(X_val, y_val, weight, offset),
    )  # fmt: skip
    logits = net.decision_function(X_val, offset=offset)
    expected = 3 * bcenet.bce_loss(logits, y_val, sample_weight=weight)
    assert history.validation_loss == pytest.approx([float(expected)], rel=1e-14)


def test_a_missing_label_is_a_label_without_weight():
    X, y = problem(203, outputs=3)
    weight = np.where(np.random.default_rng(0).random(y.shape) < 0.3, 0.0, 1.0)
    nets = [make_network((7, 18, 3)) for _ in range(2)]
    bcenet.fit(nets[0], X, y, sample_weight=weight, batch_size=40, epochs=2, random_state=0)
    bcenet.fit(
        nets[1], X, np.where(weight == 0, np.nan, y), missing_labels="ignore", batch_size=40,
        epochs=2, random_state=0,
    )  # fmt: skip
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_max_norm_holds_every_unit():
    net = make_network((7, 65, 3, 1), "relu", "float32")
    X, y = problem(203, dtype="float32")
    norms = []

    def measure(state):
        norms.extend(np.sqrt((w.astype(float) ** 2).sum(axis=0)).max() for w in net.coefs)

    bcenet.fit(net, X, y, optimizer=bcenet.SGD(1.0), max_norm=0.5, epochs=5, callbacks=[measure])
    assert max(norms) <= 0.5 * (1 + 1e-6)  # a float32 rounding of each weight
    assert max(norms) > 0.499


# ---------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_dropped_units_are_the_twins(isa, dtype, n_threads):
    # Weights of 0 and intercepts of 1 make every hidden unit 1 / (1 - rate) or 0.
    width, rate, seed, epoch = 203, 20_000, 2**40 + 3, 77
    shape = bcenet.Network([2, width, width], dtype=dtype, activation="identity").shape
    network = bcenet.Network([2, width, width], dtype=dtype, activation="identity")
    network.parameters[:] = 0
    network.intercepts[0][:] = 1
    network.coefs[1][...] = np.eye(width)
    engine = bcenet.kernels.Engine(shape, network.dtype, 50, n_threads, drop_rates=[rate, 0])
    engine.load("parameters", network.parameters)
    out = np.empty((50, width), dtype)
    status = engine.logits(bcenet.kernels.source(np.zeros((50, 2))), out, seed=seed, epoch=epoch)
    assert status == "done"
    dropped = ref.dropped(rate, seed, epoch, np.arange(50), 0, width)
    assert np.array_equal(out == 0, dropped)
    kept = np.array(65536 / (65536 - rate), dtype)
    assert (out[~dropped] == kept).all()


def test_dropped_units_have_their_rate():
    rows = np.arange(2_000)
    for rate in (1, 6_554, 32_768, 60_000):
        drops = ref.dropped(rate, 5, 0, rows, 1, 200)
        # 400,000 draws: within 5 standard errors, of all, and of each row and unit (7 of them).
        p = rate / 65536
        assert abs(drops.mean() - p) < 5 * np.sqrt(p * (1 - p) / drops.size)
        for axis in (0, 1):
            error = np.sqrt(p * (1 - p) / drops.shape[axis])
            assert np.abs(drops.mean(axis) - p).max() < 7 * error + 2 / drops.shape[axis]
    one = ref.dropped(32_768, 5, 0, rows, 0, 200)
    others = [(5, 1, rows, 0), (6, 0, rows, 0), (5, 0, rows + 2**32, 0), (5, 0, rows, 1)]
    for keys in others:  # half of them differ
        assert abs((one != ref.dropped(32_768, *keys, 200)).mean() - 0.5) < 0.005


def test_a_row_is_dropped_as_itself_wherever_it_comes():
    # Of one batch, the order of the rows changes nothing but the order of sums.
    X, y = problem(150)
    nets = [make_network((7, 33, 9, 1), "tanh") for _ in range(2)]
    for net, shuffle in zip(nets, (True, False), strict=True):
        bcenet.fit(net, X, y, epochs=3, dropout=0.4, shuffle=shuffle, random_state=1)
    assert relative_to_largest(nets[0].parameters, nets[1].parameters) < 1e-12
    assert not np.array_equal(nets[0].parameters, make_network((7, 33, 9, 1), "tanh").parameters)


def test_dropout_is_for_training_alone():
    X, y = problem(150)
    net = make_network((7, 33, 1))
    history = bcenet.fit(net, X, y, epochs=2, dropout=0.5, validation_data=(X, y))
    expected = float(bcenet.bce_loss(net.decision_function(X), y))
    assert history.validation_loss[-1] == pytest.approx(expected, rel=1e-14)
    assert net.loss_gradient(X, y)[0] == pytest.approx(expected, rel=1e-14)


# ------------------------------------------------------------------------------ base logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_predictions_with_base_logits(isa, outputs, dtype):
    net = make_network((7, 18, outputs), "relu", dtype)
    X, _ = problem(211, dtype=dtype)
    plain = net.decision_function(X)
    offset = np.random.default_rng(0).normal(size=plain.shape).astype(dtype)
    expected = plain + offset
    for change in [lambda array: array, *LAYOUTS.values()]:
        for n_threads in (1, 3, None):
            got = net.decision_function(X, n_threads, offset=change(offset))
            assert np.array_equal(got, expected)
    probabilities = net.predict_proba(X, offset=offset)
    assert np.array_equal(probabilities, bcenet.sigmoid(expected))
    assert np.array_equal(net.decision_function(X[5:9], offset=offset[5:9]), expected[5:9])
    rows = np.arange(211, dtype=np.int16) % 7
    wide = rows.astype(dtype).reshape((211,) + (1,) * (outputs > 1))
    for change in [lambda array: array, *LAYOUTS.values()]:
        assert np.array_equal(net.decision_function(X, offset=change(rows)), plain + wide)


# ------------------------------------------------------------------- k + k epochs equal 2 k

RESUMED = {
    **{case: (options, {}) for case, options in OPTIONS.items()},
    "SWA": ({"averaging": lambda: bcenet.SWA(0.0)}, {}),
    "schedule": ({"schedule": lambda: bcenet.schedules.OneCycle(epochs=6)}, {}),
    "schedule by losses": ({"schedule": lambda: bcenet.schedules.Adaptive(patience=1)}, {}),
    "batch norm": ({}, {"normalization": "batch"}),
    "layer norm": ({}, {"normalization": "layer"}),
    "feature scale": ({}, {"feature_scale": True}),
    "together": (
        {**OPTIONS["all"], "schedule": lambda: bcenet.schedules.Cosine(epochs=6)},
        {"normalization": ["batch", "layer"], "feature_scale": True},
    ),
}
RESUMED["all"] = ({**OPTIONS["all"], "schedule": lambda: bcenet.schedules.CosLog4(6)}, {})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", RESUMED)
def test_k_and_k_epochs_equal_2k_with_a_pickle_between(case, dtype):
    options, network = RESUMED[case]
    results = []
    for parts in ([6], [2, 4], [3, 3]):
        net = make_network((7, 18, 9, 2), "relu", dtype, **network)
        OPTIONS["now"] = options
        X, y, given = arrays("now", 203, 2, dtype)
        del OPTIONS["now"]
        optimizer, losses = bcenet.AMSGrad(0.01), []
        for epochs in parts:
            pickled = pickle.dumps((net, optimizer, given))
            net, optimizer, given = pickle.loads(pickled)
            history = bcenet.fit(
                net, X, y, optimizer=optimizer, epochs=epochs, batch_size=40,
                random_state=4 if optimizer.seed is None else None, **given,
            )  # fmt: skip
            losses += [*zip(history.loss, history.penalty, strict=True)]
        averaging = given.get("averaging")
        results.append(
            [losses, net.parameters, net.statistics, *optimizer.state.values()]
            + ([] if averaging is None else [averaging.raw, averaging.average, averaging.count])
        )
    for other in results[1:]:
        assert all(map(np.array_equal, other, results[0]))


# ------------------------------------------------------------------------ N4: divergence


class Falling(bcenet.schedules.Schedule):
    """A factor that depends on the number of the step alone."""

    def at(self, t, width):
        return 1 / (1 + np.round(t / width))


DIVERGING = {
    "focal": ({"loss": "focal"}, {}),
    "schedule": ({"schedule": Falling}, {}),
    "clipped": ({"clip_norm": 0.5}, {}),
    "penalties": ({"l1": 0.1, "l2": 0.5}, {}),
    "dropout": ({"dropout": 0.3}, {}),
    "EMA": ({"averaging": lambda: bcenet.EMA(0.5)}, {}),
    "SWA": ({"averaging": lambda: bcenet.SWA(0.0)}, {}),
    "batch norm": ({}, {"normalization": "batch"}),
    "layer norm": ({}, {"normalization": "layer"}),
    "feature scale": ({}, {"feature_scale": True}),
    "together": (
        {"schedule": Falling, "clip_norm": 0.5, "dropout": 0.3, "l2": 0.1,
         "averaging": lambda: bcenet.EMA(0.5)},
        {"normalization": ["batch", "layer"], "feature_scale": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("case", DIVERGING)
def test_n4_divergence_keeps_all_before_the_bad_step(case, n_threads, dtype):
    options, network = DIVERGING[case]
    X, y = problem(400, dtype=dtype)

    def fit(rows):
        net = make_network((7, 6, 5, 1), "relu", dtype, **network)
        # Every step multiplies the weights by about -largest^0.2.
        growth = float(np.finfo(dtype).max) ** 0.2
        optimizer = bcenet.SGD(1.0, momentum=0.5, weight_decay=growth)
        given = {name: v() if callable(v) else v for name, v in options.items()}
        error = None
        if rows:
            try:
                bcenet.fit(
                    net, X[:rows], y[:rows], optimizer=optimizer, batch_size=20, epochs=1,
                    shuffle=False, random_state=2, n_threads=n_threads, **given,
                )  # fmt: skip
            except bcenet.NonFiniteError as caught:
                error = caught
        averaging = given.get("averaging")
        parts = [net.parameters, net.statistics, optimizer.state.get("momentum")]
        if averaging is not None:
            parts += [averaging.raw, averaging.average]
        return error, parts, optimizer.step

    error, parts, step = fit(400)
    assert error is not None
    assert error.epoch == 1
    assert error.batch == step > 1
    assert 0 <= error.layer <= 2
    for part in parts:
        assert np.isfinite(part).all()
    nothing, expected, steps = fit(20 * step)
    assert nothing is None
    assert steps == step
    if case == "SWA":  # the whole fit takes its epoch into the mean; the other never finished one
        expected = [expected[3], *expected[1:4], expected[3]]
    assert all(map(np.array_equal, parts, expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ref.LOSSES)
@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_n4_a_loss_of_nan_or_infinity_stops_the_fit(isa, loss, logit, dtype):
    # Two hidden units overflow; their difference is NaN.
    net = make_network((1, 2, 1), "identity", dtype)
    net.parameters[:] = 0
    net.coefs[0][...] = float(np.finfo(dtype).max)
    net.coefs[1][...] = [[1], [-1 if np.isnan(logit) else 1]]
    before = net.parameters.copy()
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(net, np.full((4, 1), 10.0), [0, 0, 0, 1], loss=loss)
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 0, 0)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer_sizes", [(7, 6, 1), (7, 3, 2)])
def test_n4_a_norm_that_overflows_is_no_norm_to_hold(isa, layer_sizes, dtype):
    # Squares are summed in float64: float32 weights overflow by themselves first.
    growth = 1e200 if dtype == "float64" else 1e38
    X, y = problem(60, outputs=layer_sizes[-1], dtype=dtype)
    net, twin = (make_network(layer_sizes, "tanh", dtype) for _ in range(2))
    optimizer = bcenet.SGD(1.0, weight_decay=growth)
    for held in (net, twin):
        held.coefs[0][...] *= 1e-3
        held.coefs[1][...] *= 10
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(net, X, y, optimizer=optimizer, max_norm=100.0, averaging=bcenet.EMA(0.5),
                   epochs=30)  # fmt: skip
    assert (caught.value.epoch, caught.value.batch) == (1, 0)
    assert np.array_equal(net.parameters, twin.parameters)


def test_n4_a_gradient_whose_squares_overflow_is_not_clipped_to_nothing(isa):
    X, y = problem(40)
    net = make_network((7, 1), dtype="float64")
    net.parameters[:] = 0  # so that the logits are 0, whatever X
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(net, X * 1e170, y, clip_norm=1.0)
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 0, 0)
    assert not net.parameters.any()


# ------------------------------------------------------------------------------ S1: Ctrl-C


@pytest.mark.parametrize("n_threads", [1, 2])
def test_s1_ctrl_c_leaves_the_last_whole_step(n_threads):
    X, y = problem(5_003, 28, dtype="float32")
    sizes = (28, 64, 33, 1)

    def parts():
        net = make_network(sizes, "relu", "float32", normalization="batch", feature_scale=True)
        return net, bcenet.AMSGrad(), bcenet.EMA(0.99)

    moments = np.random.default_rng(n_threads).uniform(0, 0.05, 6)
    for delay in moments:
        net, optimizer, average = parts()
        options = {"clip_norm": 0.5, "max_norm": 1.0, "l2": 0.1}
        latency = interrupted_fit(
            net, X, y, optimizer, delay, random_state=1, batch_size=200, n_threads=n_threads,
            averaging=average, **options,
        )  # fmt: skip
        assert latency < 1
        twin, fresh, mean = parts()
        if optimizer.step:
            fit_steps(
                twin, X, y, fresh, optimizer.step, batch_size=200, seed=1, averaging=mean, **options
            )
            assert np.array_equal(average.raw, mean.raw)
        assert np.array_equal(net.parameters, twin.parameters)
        assert np.array_equal(net.statistics, twin.statistics)
        for value, expected in zip(optimizer.state.values(), fresh.state.values(), strict=False):
            assert np.array_equal(value, expected)


def test_s1_ctrl_c_between_any_two_lines():
    # The average, the statistics and the optimizer hold one and the same step.
    X, y = problem(64)
    options = {"batch_size": 64, "random_state": 1, "schedule": "constant", "clip_norm": 0.5}

    def fresh():
        net = make_network((7, 6, 1), normalization="batch", feature_scale=True)
        return net, bcenet.AMSGrad(), bcenet.EMA(0.5)

    def parts(net, optimizer, average):
        return [net.parameters, net.statistics, *optimizer.state.values(), average.raw,
                average.average, average.count]  # fmt: skip

    after = {}
    for steps in (1, 2):
        net, optimizer, average = fresh()
        bcenet.fit(net, X, y, optimizer=optimizer, averaging=average, epochs=steps, **options)
        after[steps] = parts(net, optimizer, average)
    wrong = {}
    for k in itertools.count(1):
        net, optimizer, average = fresh()
        where = interrupted_at_line(k, net, X, y, optimizer, averaging=average, epochs=2, **options)
        if where is None:
            break
        found = parts(net, optimizer, average)
        if optimizer.step:
            same = len(found) == 8 and all(map(np.array_equal, found, after[optimizer.step]))
        else:
            start = fresh()[0]
            same = all(map(np.array_equal, found, [start.parameters, start.statistics]))
        if not same:
            wrong[where] = optimizer.step
        bcenet.fit(net, X, y, optimizer=optimizer, averaging=average, epochs=1, **options)
    assert k > 100
    assert wrong == {}


def test_dropout_of_each_layer_in_an_array():
    X, y = problem(40)
    rates = [[0.5, 0.0], (0.5, 0.0), np.array([0.5, 0.0])]
    nets = [make_network((7, 6, 5, 1)) for _ in rates]
    for net, dropout in zip(nets, rates, strict=True):
        bcenet.fit(net, X, y, epochs=2, dropout=dropout, random_state=0)
    assert len({digest(net.parameters) for net in nets}) == 1


def test_weights_that_vanish_in_float32_beside_missing_labels():
    net = make_network((3, 1), dtype="float32")
    with pytest.raises(ValueError, match="y must hold labels that weigh something"):
        bcenet.fit(
            net, np.eye(3), [np.nan, 0, 1], sample_weight=[1, 1e-50, 1e-50],
            missing_labels="ignore",
        )  # fmt: skip


# ----------------------------------------------------------------------- init_output_bias


@pytest.mark.parametrize("dtype", DTYPES)
def test_init_output_bias_is_the_log_odds(dtype):
    rng = np.random.default_rng(0)
    y = (rng.random((300, 3)) < [0.02, 0.5, 0.9]).astype(float)
    y[:3] = [[1, 0, 1], [0, 1, 0], [0.25, 0.5, 0.75]]
    net = make_network((4, 6, 3), dtype=dtype)
    before = net.parameters.copy()
    rows, elements = rng.random(300), rng.random((300, 3))
    missing = np.where(rng.random((300, 3)) < 0.2, np.nan, y)
    pos_weight = [1.0, 3.0, 0.5]
    for labels, weight, pos in [
        (y, None, None), (y, rows, 2.5), (y, elements, pos_weight), (missing, rows, pos_weight),
    ]:  # fmt: skip
        net.init_output_bias(labels, sample_weight=weight, pos_weight=pos)
        for k in range(3):
            there = ~np.isnan(labels[:, k])
            w = np.ones(300) if weight is None else weight if weight.ndim == 1 else weight[:, k]
            t, w = labels[there, k], w[there]
            factor = 1.0 if pos is None else np.broadcast_to(pos, 3)[k]
            expected = np.log(factor * (w @ t) / (w @ (1 - t)))
            assert net.intercepts[-1][k] == pytest.approx(
                expected, rel=4 * float(np.finfo(dtype).eps), abs=1e-7
            )
    assert np.array_equal(net.parameters[:-3], before[:-3])


def test_init_output_bias_is_where_the_loss_of_no_features_is_least():
    net = bcenet.Network([3, 1], dtype="float64", initializer="zeros")
    y = np.resize([0, 0, 0, 1], 40)
    weight = np.random.default_rng(0).random(40)
    net.init_output_bias(y, sample_weight=weight, pos_weight=2.0)
    _, gradient = net.loss_gradient(np.zeros((40, 3)), y, sample_weight=weight, pos_weight=2.0)
    assert abs(gradient.intercepts[0][0]) < 1e-16


BAD_BIAS = {
    "one class": ({"y": np.zeros(4)}, r"y must hold both classes"),
    "the other class": ({"y": np.ones(4)}, r"y must hold both classes"),
    "all missing": ({"y": np.full(4, np.nan)}, r"y must hold both classes"),
    "above 1": ({"y": [0, 1, 2, 0]}, r"y must be in \[0, 1\].*2"),
    "shape": ({"y": np.zeros((4, 1))}, r"y must have shape \(4,\); got \(4, 1\)"),
    "a number": ({"y": 1}, r"y must have shape \(1,\); got \(\)"),
    "weights": ({"sample_weight": [1, -1, 1, 1]}, r"sample_weight must be.*-1"),
    "weights' length": ({"sample_weight": [1, 1]}, r"sample_weight.*4"),
    "weights of one class": ({"sample_weight": [1, 0, 1, 1]}, r"y must hold both classes"),
    "pos_weight": ({"pos_weight": -1}, r"pos_weight must be.*-1"),
    "pos_weight of 0": ({"pos_weight": 0}, r"pos_weight must be above 0; got 0"),
}


@pytest.mark.parametrize("case", BAD_BIAS)
def test_bad_input_of_init_output_bias(case):
    changes, message = BAD_BIAS[case]
    net = make_network((2, 1))
    before = net.parameters.copy()
    arguments = {"y": [0, 1, 0, 0], **changes}
    with pytest.raises(ValueError, match=message):
        net.init_output_bias(**arguments)
    assert np.array_equal(net.parameters, before)


# ------------------------------------------------------------------------------ bad input


class Text(bcenet.schedules.Schedule):
    def at(self, t, width):
        return ["fast"] * len(t)


class Short(bcenet.schedules.Schedule):
    def at(self, t, width):
        return np.ones(len(t) + 1)


class Negative(bcenet.schedules.Schedule):
    def at(self, t, width):
        return np.full(len(t), -0.5)


class Whole(bcenet.schedules.Schedule):
    def at(self, t, width):
        return [1] * len(t)


def test_a_schedule_of_ones_own_may_return_any_numbers():
    X, y = problem(60)
    nets = [make_network(), make_network()]
    bcenet.fit(nets[0], X, y, epochs=2, random_state=0, schedule=Whole())
    bcenet.fit(nets[1], X, y, epochs=2, random_state=0)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


MISSING = np.resize([0, 1, np.nan], 30)
ONLY_MISSING = np.where(np.isnan(MISSING), 1.0, 0.0)
BAD = {
    "loss": ({"loss": "bec"}, ValueError, r"loss must be one of 'bce', 'focal'; got 'bec'"),
    "loss's type": ({"loss": 2}, TypeError, r"loss must be .*FocalLoss.*; got 2"),
    "loss's class": ({"loss": bcenet.FocalLoss}, TypeError, r"loss must be .*got"),
    "label_reduction": ({"label_reduction": "max"}, ValueError, r"label_reduction must.*'max'"),
    "missing_labels": ({"missing_labels": "drop"}, ValueError, r"missing_labels must.*'drop'"),
    "labels missing": ({"y": MISSING}, ValueError, r"y must be in \[0, 1\]; got nan at row 2"),
    "all labels missing": (
        {"y": MISSING * np.nan, "missing_labels": "ignore"}, ValueError, r"y must hold labels",
    ),
    "weights of missing labels": (
        {"y": MISSING, "missing_labels": "ignore", "sample_weight": ONLY_MISSING}, ValueError,
        r"y must hold labels",
    ),
    "validation labels missing": (
        {"validation_data": (np.zeros((30, 7)), MISSING * np.nan), "missing_labels": "ignore"},
        ValueError, r"validation_data y must hold labels",
    ),
    "offset's length": ({"offset": np.zeros(29)}, ValueError, r"offset must.*\(30,\).*\(29,\)"),
    "offset (n, 1)": ({"offset": np.zeros((30, 1))}, ValueError, r"offset must.*\(30, 1\)"),
    "offset a number": ({"offset": 0.5}, ValueError, r"offset must have shape \(30,\); got \(\)"),
    "offset NaN": ({"offset": np.full(30, np.nan)}, ValueError, r"offset must be finite.*row 0"),
    "offset text": ({"offset": ["a"] * 30}, TypeError, r"offset must hold real numbers"),
    "validation offset": (
        {"validation_data": (np.zeros((30, 7)), np.ones(30), None, np.zeros(3))}, ValueError,
        r"validation_data offset must.*\(30,\).*\(3,\)",
    ),
    "schedule": ({"schedule": "cosin"}, ValueError, r"schedule must.*'cosin'.*'cosine'"),
    "schedule's type": ({"schedule": 3}, TypeError, r"schedule must.*got 3"),
    "schedule of text": ({"schedule": Text()}, TypeError, r"schedule\.factors\(\) must hold real"),
    "schedule too long": ({"schedule": Short()}, ValueError, r"schedule\.factors\(\).*\(1,\).*2"),
    "schedule below 0": ({"schedule": Negative()}, ValueError, r"schedule\.factors\(\).*-0\.5"),
    "clip_norm": ({"clip_norm": 0}, ValueError, r"clip_norm must be.*above 0; got 0"),
    "clip_norm text": ({"clip_norm": "x"}, TypeError, r"clip_norm must be a number; got 'x'"),
    "dropout of 1": ({"dropout": 1.0}, ValueError, r"dropout must be.*below 1; got 1\.0"),
    "dropout below 0": ({"dropout": -0.1}, ValueError, r"dropout must be.*got -0\.1"),
    "dropout's length": ({"dropout": [0.1]}, ValueError, r"dropout must be.*\(2\); got 1"),
    "dropout text": ({"dropout": "x"}, TypeError, r"dropout must be a number; got 'x'"),
    "l1": ({"l1": -1}, ValueError, r"l1 must be.*at least 0; got -1"),
    "l2": ({"l2": np.nan}, ValueError, r"l2 must be finite.*got nan"),
    "max_norm": ({"max_norm": 0.0}, ValueError, r"max_norm must be.*above 0; got 0"),
    "averaging": ({"averaging": "ema"}, TypeError, r"averaging must be.*EMA.*got 'ema'"),
    "averaging's class": ({"averaging": bcenet.EMA}, TypeError, r"averaging must be.*EMA"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    changes, error, message = BAD[case]
    net = make_network()
    before = net.parameters.copy()
    arguments = {"X": np.zeros((30, 7)), "y": np.resize([0, 1], 30), **changes}
    with pytest.raises(error, match=message):
        bcenet.fit(net, arguments.pop("X"), arguments.pop("y"), **arguments)
    assert np.array_equal(net.parameters, before)
    bcenet.fit(net, np.zeros((30, 7)), np.resize([0, 1], 30), epochs=1)


BAD_OBJECTS = {
    "gamma": (lambda: bcenet.FocalLoss(0), ValueError, r"gamma must be.*above 0; got 0"),
    "decay": (lambda: bcenet.EMA(1.0), ValueError, r"decay must be.*below 1; got 1"),
    "start": (lambda: bcenet.SWA(-0.5), ValueError, r"start must be.*at least 0.*-0\.5"),
    "group": (
        lambda: bcenet.Adam(rate_factors={"coef": 1}), ValueError, r"rate_factors.*'coef'.*'coefs'",
    ),
    "factor": (
        lambda: bcenet.SGD(rate_factors={"norms": -1}), ValueError, r"rate_factors\['norms'\].*-1",
    ),
    "factors": (lambda: bcenet.Lion(rate_factors=2), TypeError, r"rate_factors must be a dict"),
    "rate_inside": (lambda: bcenet.SGD(rate_inside=1), TypeError, r"rate_inside must be True or"),
    "Lion's beta": (lambda: bcenet.Lion(beta_2=1.0), ValueError, r"beta_2.*below 1; got 1"),
    "AMSGrad's decay": (
        lambda: bcenet.AMSGrad(weight_decay=-1), ValueError, r"weight_decay.*-1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects(case):
    make, error, message = BAD_OBJECTS[case]
    with pytest.raises(error, match=message):
        make()


def test_predictions_refuse_other_offsets():
    net = make_network((7, 6, 3))
    X = np.zeros((5, 7))
    for offset, message in [
        (np.zeros(4), r"offset must have shape \(5,\) or \(5, 3\); got \(4,\)"),
        (np.zeros((5, 1)), r"offset must have shape.*got \(5, 1\)"),
        (np.full((5, 3), np.inf), r"offset must be finite; got inf at row 0, column 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            net.predict_proba(X, offset=offset)


def test_every_argument_of_fit_is_in_a_table():
    # A new option of fit must be added to the twin, to the resumed fits and to the bad input.
    # (`lazy` has its twin and its refusals in test_sparse.py.)
    import inspect

    names = {
        name
        for name, parameter in inspect.signature(bcenet.fit).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    older = set(
        itertools.takewhile(lambda name: name != "loss", inspect.signature(bcenet.fit).parameters)
    )
    older |= {"checkpoint", "checkpoint_every"}  # these have tests/test_checkpoint.py
    used = set().union(*OPTIONS.values())
    refused = set().union(*(changes for changes, _, _ in BAD.values()))
    assert names - older - {"lazy"} <= used
    assert names - older - {"lazy"} <= refused

"""Batch and layer normalisation, and factors of X's columns: fits, predictions and gradients
against the twin, the same bits, copies and files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import reference as ref
from helpers import (
    digest,
    fit_twin,
    make_network,
    needs_long_double,
    problem,
    relative_to_largest,
    twin_layers,
    twin_prediction,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bcenet

LIMIT = {"float32": 1e-4, "float64": 1e-10}  # of the largest parameter
DTYPES = list(LIMIT)

# row -> layer sizes, what the network has
NETWORKS = {
    "batch": ((7, 18, 9, 1), {"normalization": "batch"}),
    "layer": ((7, 18, 9, 1), {"normalization": "layer"}),
    "batch, narrow": ((7, 3, 1, 4, 2), {"normalization": "batch"}),
    "layer, narrow": ((7, 4, 3, 4, 2), {"normalization": "layer"}),
    "batch, panels": ((7, 65, 130, 3), {"normalization": "batch"}),
    "layer, panels": ((7, 65, 130, 3), {"normalization": "layer"}),
    "some": ((7, 18, 33, 9, 1), {"normalization": ["batch", None, "layer"]}),
    "last hidden": ((7, 18, 9, 1), {"normalization": [None, "batch"]}),
    "scale": ((7, 18, 9, 1), {"feature_scale": True}),
    "scale, narrow": ((7, 3, 5, 1), {"feature_scale": True}),
    "scale, panels": ((70, 65, 2), {"feature_scale": True}),
    "scale, no hidden layer": ((70, 1), {"feature_scale": True}),
    "all": ((70, 33, 3, 9, 2), {"normalization": ["batch", "layer", "batch"],
                                 "feature_scale": True}),
}  # fmt: skip


def make(case, activation="tanh", dtype="float64"):
    sizes, options = NETWORKS[case]
    return make_network(sizes, activation, dtype, **options)


def problem_for(net, n=203, **options):
    return problem(n, net.layer_sizes[0], net.layer_sizes[-1], dtype=net.dtype, **options)


# ------------------------------------------------------------------------ against the twin


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("case", NETWORKS)
def test_fit_against_the_twin(isa, case, activation, dtype):
    net = make(case, activation, dtype)
    X, y = problem_for(net)
    validation = problem_for(net, 31, seed=9)
    optimizer = bcenet.SGD(0.03, momentum=0.9, rate_factors={"norms": 0.5, "scale": 2.0})
    options = {"epochs": 3, "batch_size": 40, "validation_data": validation, "l2": 0.3}
    expected, history = fit_twin(net, X, y, optimizer, **options)
    got = bcenet.fit(net, X, y, optimizer=optimizer, shuffle=False, **options)
    # A kink of relu that only one of the two crosses would show: there is none here.
    assert relative_to_largest(net.parameters, expected) <= LIMIT[dtype]
    assert relative_to_largest(net.statistics, history["statistics"]) <= LIMIT[dtype]
    for name in ("loss", "penalty", "validation_loss"):
        assert np.allclose(getattr(got, name), history[name], rtol=LIMIT[dtype], atol=0), name


OPTIMIZERS = {
    "adam": bcenet.Adam(0.01),
    "amsgrad": bcenet.AMSGrad(0.01, weight_decay=0.1),
    "rmsprop": bcenet.RMSprop(0.003),
    "lion": bcenet.Lion(0.001, weight_decay=0.1),
}


@pytest.mark.parametrize("row", OPTIMIZERS)
@pytest.mark.parametrize("case", NETWORKS)
def test_fit_with_every_state_against_the_twin(case, row):
    net = make(case)
    X, y = problem_for(net)
    optimizer = copy.deepcopy(OPTIMIZERS[row])
    # Before a batch normalisation an intercept has no effect, so its gradient is rounding alone,
    # which these rules would enlarge.
    optimizer.rate_factors = {"intercepts": 0.0, "norms": 0.5, "scale": 3.0}
    options = {"epochs": 2, "batch_size": 40, "clip_norm": 0.5, "max_norm": 2.0}
    expected, history = fit_twin(net, X, y, optimizer, seed=2, **options)
    bcenet.fit(net, X, y, optimizer=optimizer, random_state=2, **options)
    assert relative_to_largest(net.parameters, expected) <= LIMIT["float64"]
    assert relative_to_largest(net.statistics, history["statistics"]) <= LIMIT["float64"]


@pytest.mark.parametrize(("n", "batch_size"), [(13, 1), (13, 2), (203, 202)])
@pytest.mark.parametrize("case", NETWORKS)
def test_batches_of_a_row_against_the_twin(isa, case, n, batch_size):
    # The last batch has one row: its variance is 0, and biased and unbiased are the same. Few
    # steps of two rows: x is then -1 or 1, and from step to step an error grows tenfold.
    net = make(case)
    X, y = problem_for(net, n)
    optimizer = bcenet.SGD(0.01)
    expected, history = fit_twin(net, X, y, optimizer, epochs=1, batch_size=batch_size)
    bcenet.fit(
        net, X, y, optimizer=optimizer, epochs=1, batch_size=batch_size, shuffle=False, n_threads=2
    )
    assert relative_to_largest(net.parameters, expected) <= LIMIT["float64"]
    assert relative_to_largest(net.statistics, history["statistics"]) <= LIMIT["float64"]


def test_statistics_of_one_step():
    net = bcenet.Network([3, 2, 1], dtype="float64", normalization="batch", random_state=0)
    assert net.statistics.tolist() == [0, 0, 1, 1]
    X, y = problem(40, 3)
    z = X @ net.coefs[0] + net.intercepts[0]
    bcenet.fit(net, X, y, epochs=1)
    expected = np.concatenate([0.1 * z.mean(0), 0.9 + 0.1 * z.var(0, ddof=1)])
    assert relative_to_largest(net.statistics, expected) < 1e-15


def test_statistics_stay_where_a_batch_weighs_nothing():
    net = make("batch")
    X, y = problem_for(net)
    weight = np.ones(203)
    weight[40:80] = 0
    expected, history = fit_twin(
        net, X, y, bcenet.SGD(0.03), epochs=2, batch_size=40, sample_weight=weight
    )
    bcenet.fit(
        net, X, y, optimizer=bcenet.SGD(0.03), epochs=2, batch_size=40, sample_weight=weight,
        shuffle=False,
    )  # fmt: skip
    assert relative_to_largest(net.parameters, expected) <= LIMIT["float64"]
    assert relative_to_largest(net.statistics, history["statistics"]) <= LIMIT["float64"]


# ----------------------------------------------------------------------------- predictions


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NETWORKS)
def test_prediction_against_the_twin(isa, case, dtype):
    net = make(case, "gelu", dtype)
    X, _ = problem_for(net)
    wide = X.astype(np.longdouble)
    last = ref.forward(twin_layers(net), net.activations, wide, **twin_prediction(net))[-1]
    limit = {"float32": 1e-5, "float64": 1e-13}[dtype]
    logits, probabilities = net.decision_function(X), net.predict_proba(X)
    assert relative_to_largest(logits.reshape(last.z.shape), last.z) <= limit
    assert relative_to_largest(probabilities.reshape(last.a.shape), last.a) <= limit


PREDICTORS = {(case, dtype): make(case, "relu", dtype) for case in NETWORKS for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_d3_prediction_of_a_row_is_the_same_in_any_batch(isa, dtype, data):
    net = PREDICTORS[data.draw(st.sampled_from(list(NETWORKS))), dtype]
    n = data.draw(st.integers(1, 400))
    X, _ = problem_for(net, n)
    rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=80))
    together = net.decision_function(X)
    threads = data.draw(st.sampled_from([1, 2, 3, 7]))
    assert np.array_equal(net.decision_function(X[rows], n_threads=threads), together[rows])
    one = rows[0]
    assert np.array_equal(net.decision_function(X[one : one + 1]), together[one : one + 1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("case", NETWORKS)
def test_copies_are_equal_and_independent(case, copied):
    net = make(case)
    X, y = problem_for(net)
    other = copied(net)
    assert other.config() == net.config()
    assert repr(other) == repr(net)
    before = digest(net.parameters), digest(net.statistics)
    assert np.array_equal(other.predict_proba(X), net.predict_proba(X))
    bcenet.fit(other, X, y, epochs=1)
    for gain_and_shift in other.norms:
        assert np.shares_memory(gain_and_shift, other.parameters)
    assert other.scale is None or np.shares_memory(other.scale, other.parameters)
    assert (digest(net.parameters), digest(net.statistics)) == before
    bcenet.fit(net, X, y, epochs=1, random_state=0)
    again = copied(net)
    bcenet.fit(net, X, y, epochs=1, random_state=0)
    bcenet.fit(again, X, y, epochs=1, random_state=0)
    assert np.array_equal(again.parameters, net.parameters)
    assert np.array_equal(again.statistics, net.statistics)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NETWORKS)
def test_a_file_brings_all_of_it_back(case, dtype, tmp_path):
    net = make(case, "relu", dtype)
    X, y = problem_for(net)
    bcenet.fit(net, X, y, epochs=1)
    net.save(tmp_path / "net.bcenet")
    other = bcenet.load(tmp_path / "net.bcenet")
    assert other.config() == net.config()
    for name in ("parameters", "statistics"):
        assert digest(getattr(other, name)) == digest(getattr(net, name))
    assert np.array_equal(other.predict_proba(X), net.predict_proba(X))


def test_layout_of_the_parameters():
    net = make("all")
    sizes = net.layer_sizes
    net.parameters[:] = np.arange(net.parameters.size)
    parts = twin_layers(net, float)
    for i, (W, b) in enumerate(parts[: len(sizes) - 1]):
        assert np.array_equal(net.coefs[i], W)
        assert np.array_equal(net.intercepts[i], b)
    for i, (gain, shift) in enumerate(parts[len(sizes) - 1 : -1]):
        assert np.array_equal(net.norms[i], [gain, shift])
    assert np.array_equal(net.scale, parts[-1][0])
    net.scale[0] = -7
    net.norms[2][1, 3] = -8
    assert {-7, -8} <= set(net.parameters)


def test_a_fresh_network_normalises_plainly():
    net = bcenet.Network([7, 6, 1], normalization="batch", feature_scale=True, random_state=0)
    plain = bcenet.Network([7, 6, 1], random_state=0)
    assert np.array_equal(net.coefs[0], plain.coefs[0])
    assert (net.norms[0] == [[1], [0]]).all()
    assert (net.scale == 1).all()
    X, _ = problem(20)
    # Running mean 0 and variance 1: z / sqrt(1 + 1e-5).
    assert net.decision_function(X) == pytest.approx(
        plain.decision_function(X) / np.sqrt(1 + 1e-5), rel=1e-5
    )


BAD = {
    "name": ({"normalization": "Batch"}, ValueError, r"normalization must.*'Batch'.*'batch'"),
    "number": ({"normalization": 3}, ValueError, r"normalization must.*got 3"),
    "length": ({"normalization": ["batch"]}, ValueError, r"normalization must.*\(2\); got 1"),
    "name in a list": ({"normalization": ["batch", "x"]}, ValueError, r"normalization must.*'x'"),
    "scale": ({"feature_scale": 1}, TypeError, r"feature_scale must be True or False; got 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        bcenet.Network([7, 6, 5, 1], **options)


# ------------------------------------------------------------------------------- gradients

GRADIENT_LIMIT = {"float32": 2e-5, "float64": 1e-12}  # of the largest entry of each part


def twin_gradient(net, X, y, **options):
    wide = X.astype(np.longdouble), y.astype(np.longdouble)
    return ref.backward(twin_layers(net), net.activations, *wide, **twin_prediction(net), **options)


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("case", NETWORKS)
def test_loss_gradient_against_long_double(isa, case, activation, dtype):
    net = make(case, activation, dtype)
    X, y = problem_for(net, soft=True)
    weight = np.random.default_rng(0).random(203).astype(dtype)
    loss, gradient = net.loss_gradient(X, y, sample_weight=weight, pos_weight=2.5)
    exact_loss, _, exact = twin_gradient(net, X, y, sample_weight=weight, pos_weight=2.5)
    assert abs(loss - exact_loss) <= GRADIENT_LIMIT[dtype] * abs(exact_loss)
    got = ref.unflatten(
        gradient.flat, net.layer_sizes, net.shape.normalization, net.shape.feature_scale
    )
    for part, exact_part in zip(got, exact, strict=True):
        for values, expected in zip(part, exact_part, strict=True):
            assert relative_to_largest(values, expected) <= GRADIENT_LIMIT[dtype]
    assert [g.shape for g in gradient.norms] == [g.shape for g in net.norms]
    if net.scale is not None:
        assert np.array_equal(gradient.scale, got[-1][0])


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NETWORKS)
def test_row_gradients_against_long_double(isa, case, dtype):
    net = make(case, "tanh", dtype)
    X, y = problem_for(net, 23)
    weight = np.random.default_rng(0).random(23).astype(dtype)
    weight[4] = 0
    rows = net.row_gradients(X, y)
    assert rows.shape == (23, net.parameters.size)
    assert rows.dtype == net.dtype
    for i in range(0, 23, 4):
        exact = ref.flatten(twin_gradient(net, X[i : i + 1], y[i : i + 1])[2])
        assert relative_to_largest(rows[i], exact) <= GRADIENT_LIMIT[dtype]
        alone = net.row_gradients(X[i : i + 1], y[i : i + 1])
        assert np.array_equal(alone[0], rows[i])
    mean = net.loss_gradient(X, y)[1].flat
    assert relative_to_largest(rows.mean(0, dtype=float), mean) <= GRADIENT_LIMIT[dtype]
    weighted = net.row_gradients(X, y, sample_weight=weight)
    assert np.array_equal(weighted, rows * weight[:, np.newaxis])
    mean = net.loss_gradient(X, y, sample_weight=weight)[1].flat
    total = weighted.sum(0, dtype=float) / weight.sum(dtype=float)
    assert relative_to_largest(total, mean) <= GRADIENT_LIMIT[dtype]


@pytest.mark.parametrize("case", NETWORKS)
def test_loss_gradient_against_finite_differences(case):
    net = make(case)
    X, y = problem_for(net, 60, soft=True)
    gradient = net.loss_gradient(X, y)[1].flat
    start = net.parameters.copy()
    chosen = np.unique(np.linspace(0, start.size - 1, 60).astype(int))
    chosen = np.union1d(chosen, np.arange(start.size - 40, start.size))  # gains and factors
    differences = []
    h = 1e-5
    for i in chosen:
        losses = []
        for step in (h, -h, 2 * h, -2 * h):
            net.parameters[i] = start[i] + step
            losses.append(net.loss_gradient(X, y)[0])
            net.parameters[i] = start[i]
        differences.append((8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h))
    assert relative_to_largest(differences, gradient[chosen]) <= 1e-6


@needs_long_double
@pytest.mark.parametrize("case", ["batch", "layer", "all"])
def test_loss_gradient_of_more_rows_than_a_part(case):
    net = make(case)
    X, y = problem_for(net, 9_001)
    weight = np.random.default_rng(0).random(9_001)
    weight[4_096:8_192] = 0  # a whole part
    for w in (None, weight):
        loss, gradient = net.loss_gradient(X, y, sample_weight=w)
        exact_loss, _, exact = twin_gradient(net, X, y, sample_weight=w)
        assert abs(loss - exact_loss) <= 1e-13 * exact_loss
        assert relative_to_largest(gradient.flat, ref.flatten(exact)) <= 1e-12


@needs_long_double
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NETWORKS)
def test_trace_against_the_twin(isa, case, dtype):
    net = make(case, "tanh", dtype)
    X, y = problem_for(net, 37)
    trace = net.trace(X, y)
    passes = ref.forward(
        twin_layers(net), net.activations, X.astype(np.longdouble), **twin_prediction(net)
    )
    _, dzs, gradients = twin_gradient(net, X, y)
    k = net.layer_sizes[-1]
    for i, layer in enumerate(trace.layers):
        dw, db = gradients[i]
        here = passes[i]
        expected = {"z": here.z, "y": here.y, "a": here.a, "dz": dzs[i], "dw": k * dw, "db": k * db}
        if i < len(passes) - 1:
            expected["da"] = dzs[i + 1] @ twin_layers(net)[i + 1][0].T
        for name, value in expected.items():
            got = getattr(layer, name)
            assert relative_to_largest(got, value) <= GRADIENT_LIMIT[dtype], (i, name)


@pytest.mark.parametrize("case", NETWORKS)
def test_check_gradient_passes(case):
    net = make(case)
    X, y = problem_for(net, 40)
    assert bcenet.check_gradient(net, X, y).passed

"""Networks: initial values, prediction against the twin, the same bits (D3), bad input (I3)."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

import numpy as np
import pytest
import reference as ref
from helpers import (
    LAYOUTS,
    make_network,
    needs_long_double,
    problem,
    relative_to_largest,
    twin_layers,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bcenet

DTYPES = ["float32", "float64"]
THREADS = [1, 2, 3, 4, 7, 8, 16]

# ---------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer_sizes", [(7, 1), (7, 6, 1), [7, 6, 5, 3]])
def test_coefs_and_intercepts_are_views_of_parameters(layer_sizes, dtype):
    net = bcenet.Network(layer_sizes, dtype=dtype, random_state=0)
    assert net.layer_sizes == tuple(layer_sizes)
    assert net.dtype == np.dtype(dtype) == net.parameters.dtype
    assert net.parameters.ndim == 1
    assert net.parameters.flags.c_contiguous
    net.parameters[:] = np.arange(net.parameters.size)
    expected = ref.unflatten(np.arange(net.parameters.size, dtype=dtype), layer_sizes)
    assert len(net.coefs) == len(net.intercepts) == len(layer_sizes) - 1
    for W, b, (twin_W, twin_b) in zip(net.coefs, net.intercepts, expected, strict=True):
        assert np.shares_memory(W, net.parameters)
        assert np.shares_memory(b, net.parameters)
        assert np.array_equal(W, twin_W)
        assert np.array_equal(b, twin_b)
    net.coefs[-1][0, 0] = -7
    assert -7 in net.parameters


def test_activations():
    assert bcenet.Network([4, 3, 2, 1]).activations == ("relu", "relu", "sigmoid")
    net = bcenet.Network([4, 3, 2, 1], activation=["tanh", "gelu"])
    assert net.activations == ("tanh", "gelu", "sigmoid")
    assert bcenet.Network([4, 1]).activations == ("sigmoid",)


# initializer -> variance from (fan_in, fan_out)
INITIALIZERS = {
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("rule", INITIALIZERS)
def test_initializers(rule, distribution, dtype):
    net = bcenet.Network(
        [300, 200, 150, 4], dtype=dtype, initializer=f"{rule}_{distribution}", random_state=3
    )
    for W in net.coefs[:2]:
        variance = INITIALIZERS[rule](*W.shape)
        values = W.astype(float).ravel()
        # 30,000 values and more: both are within 4 standard errors of what they should be.
        error = 4 / np.sqrt(values.size)
        assert abs(values.mean()) < error * np.sqrt(variance)
        kurtosis = {"uniform": 1.8, "normal": 3.0}[distribution]
        assert abs(values.var() / variance - 1) < error * np.sqrt(kurtosis - 1)
        assert np.mean(values**4) / variance**2 == pytest.approx(kurtosis, rel=0.06)
        if distribution == "uniform":
            assert np.abs(values).max() <= np.sqrt(3 * variance) * (1 + 1e-6)
        assert np.unique(values).size > 0.99 * values.size
    assert net.coefs[-1].all()
    assert not any(b.any() for b in net.intercepts)


def test_zeros_are_for_the_last_layer_alone():
    net = bcenet.Network([5, 4, 1], initializer=["he_normal", "zeros"])
    assert net.coefs[0].all()
    assert not net.coefs[1].any()
    assert not bcenet.Network([5, 1], initializer="zeros").parameters.any()
    for initializer in ("zeros", ["zeros", "he_normal"]):
        with pytest.raises(ValueError, match=r"initializer.*zeros.*hidden"):
            bcenet.Network([5, 4, 1], initializer=initializer)


@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_auto_initializer_fits_the_activation(activation):
    # Klambauer et al. (selu), He et al. (kinds of relu), Glorot and Bengio (the rest).
    rule = {"selu": "lecun", "tanh": "glorot", "sigmoid": "glorot", "identity": "glorot",
            "softplus": "glorot"}.get(activation, "he")  # fmt: skip
    net = bcenet.Network([300, 200, 1], activation=activation, random_state=0)
    assert net.coefs[0].var() / INITIALIZERS[rule](300, 200) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_state_decides_the_parameters(dtype):
    def parameters(seed):
        return bcenet.Network([9, 8, 1], dtype=dtype, random_state=seed).parameters

    assert np.array_equal(parameters(5), parameters(5))
    assert not np.array_equal(parameters(5), parameters(6))
    assert not np.array_equal(parameters(None), parameters(None))


# ----------------------------------------------------------------------------- prediction


@needs_long_double
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_prediction_against_the_twin(isa, activation, dtype, outputs):
    net = make_network((7, 33, 18, outputs), activation, dtype)
    X, _ = problem(257, outputs=outputs, dtype=dtype)
    last = ref.forward(twin_layers(net), net.activations, X.astype(np.longdouble))[-1]
    z, p = last.z, last.a
    if outputs == 1:
        z, p = z[:, 0], p[:, 0]
    limit = {"float32": 1e-5, "float64": 1e-13}[dtype]
    logits = net.decision_function(X)
    probabilities = net.predict_proba(X)
    assert logits.dtype == probabilities.dtype == np.dtype(dtype)
    assert logits.shape == probabilities.shape == z.shape
    assert relative_to_largest(logits, z) <= limit
    assert relative_to_largest(probabilities, p) <= limit
    assert np.array_equal(probabilities, bcenet.sigmoid(logits))


@pytest.mark.parametrize(
    "layer_sizes",
    [(1, 1), (1, 1, 1), (3, 65, 1), (65, 3, 2), (130, 70, 67, 33), (5, 4, 4, 4, 4, 1), (700, 8, 1)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_prediction_of_any_shape(isa, layer_sizes, dtype):
    net = make_network(layer_sizes, "tanh", dtype)
    X, _ = problem(131, layer_sizes[0], dtype=dtype)
    z = ref.forward(twin_layers(net, float), net.activations, X.astype(float))[-1].z
    got = net.decision_function(X).reshape(z.shape)
    assert relative_to_largest(got, z) <= {"float32": 1e-5, "float64": 1e-13}[dtype]


PREDICTORS = {
    (dtype, sizes): make_network(sizes, activation, dtype)
    for dtype in DTYPES
    for sizes, activation in [((7, 1), "relu"), ((7, 33, 18, 1), "gelu"), ((7, 70, 5), "silu")]
}


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_d3_prediction_of_a_row_is_the_same_in_any_batch(isa, dtype, data):
    net = PREDICTORS[dtype, data.draw(st.sampled_from([key[1] for key in PREDICTORS]))]
    n = data.draw(st.integers(1, 700))
    X, _ = problem(n, seed=data.draw(st.integers(0, 9)), dtype=dtype)
    rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=80))
    together = net.decision_function(X)
    threads = data.draw(st.sampled_from(THREADS))
    assert np.array_equal(net.decision_function(X[rows], n_threads=threads), together[rows])
    start = data.draw(st.integers(0, n - 1))
    assert np.array_equal(net.decision_function(X[start:]), together[start:])


# On one thread a few rows take a path of their own; with two they go through the engine.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layer_sizes", [(1, 1), (5, 3), (28, 64, 32, 1), (9, 2, 1), (17, 4, 20, 5), (64, 100, 7, 4)]
)
def test_d3_few_rows_have_the_bits_of_many(isa, layer_sizes, dtype):
    hidden = ["tanh", "relu", "gelu", "sigmoid"][: len(layer_sizes) - 2]
    net = bcenet.Network(layer_sizes, hidden, dtype=dtype, random_state=1)
    net.parameters += 0.1  # intercepts too
    X = problem(40, layer_sizes[0], dtype=dtype)[0]
    for rows in (X[:1], X[:7], X, X[::-3], np.asfortranarray(X), X.astype("f4"), X.astype("f8")):
        for method in (net.decision_function, net.predict_proba):
            few, engine = method(rows, n_threads=1), method(rows, n_threads=2)
            assert few.dtype == engine.dtype
            assert few.tobytes() == engine.tobytes()


def test_d3_few_rows_do_not_read_what_they_cannot():
    net = bcenet.Network([3, 1], random_state=0)
    X = np.arange(6).reshape(2, 3)
    floats = X.astype(np.float32)
    expected = net.decision_function(floats, n_threads=2)
    for rows in (X, floats.astype(">f4"), floats.astype("f2"), X.tolist(), floats[:0].tolist()):
        if len(rows) == 0:
            with pytest.raises(ValueError, match="X must have shape"):
                net.decision_function(rows)
        else:
            assert np.array_equal(net.decision_function(rows), expected)
    floats[1, 2] = np.inf
    with pytest.raises(ValueError, match="row 1, column 2"):
        net.decision_function(floats)


@pytest.mark.parametrize("dtype", DTYPES)
def test_d1_prediction_for_any_thread_count(isa, dtype):
    net = PREDICTORS[dtype, (7, 33, 18, 1)]
    X, _ = problem(20_011, dtype=dtype)
    expected = net.predict_proba(X, n_threads=1)
    for n_threads in [*THREADS[1:], None]:
        assert np.array_equal(net.predict_proba(X, n_threads=n_threads), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_i1_prediction_from_any_layout(isa, dtype):
    net = PREDICTORS[dtype, (7, 70, 5)]
    X, _ = problem(5_003, dtype=dtype)
    expected = net.decision_function(X)
    for layout in LAYOUTS.values():
        assert np.array_equal(net.decision_function(layout(X)), expected)
    one_row = np.broadcast_to(X[0], X.shape)
    assert np.array_equal(net.decision_function(one_row), np.repeat(expected[:1], len(X), axis=0))


@pytest.mark.parametrize("X_dtype", [bool, np.int8, np.uint16, np.int64, "f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_prediction_from_any_dtype(isa, X_dtype, dtype):
    net = PREDICTORS[dtype, (7, 33, 18, 1)]
    X = np.random.default_rng(0).integers(0, 2 if X_dtype is bool else 100, (2_111, 7)) * 0.77
    X = X.astype(X_dtype)
    assert np.array_equal(net.decision_function(X), net.decision_function(X.astype(dtype)))


def test_prediction_from_a_list():
    net = PREDICTORS["float64", (7, 1)]
    X, _ = problem(5)
    assert np.array_equal(net.predict_proba(X.tolist()), net.predict_proba(X))


def test_prediction_from_a_memory_map(tmp_path):
    net = PREDICTORS["float32", (7, 33, 18, 1)]
    X, _ = problem(3_001, dtype="float64")
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert np.array_equal(net.decision_function(mapped), net.decision_function(X))


@pytest.mark.slow
def test_i2_prediction_of_more_than_2_to_the_31_values():
    net = make_network((2_048, 1), dtype="float32")
    X = np.broadcast_to(np.linspace(-1, 1, 2_048, dtype="float32"), (2**20 + 5, 2_048))
    p = net.predict_proba(X)
    assert p.shape == (2**20 + 5,)
    assert (p == net.predict_proba(X[:1])[0]).all()


# ---------------------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_are_equal_and_independent(copied, dtype):
    net = make_network((7, 6, 5, 2), ["gelu", "tanh"], dtype)
    before = net.parameters.copy()
    X, y = problem(outputs=2, dtype=dtype)
    other = copied(net)
    assert other.config() == net.config()
    assert np.array_equal(other.predict_proba(X), net.predict_proba(X))
    assert np.shares_memory(other.coefs[0], other.parameters)
    bcenet.fit(other, X, y, epochs=1)
    other.coefs[0][0, 0] = 99
    assert np.array_equal(net.parameters, before)
    assert 99 in other.parameters


def test_config_round_trip():
    net = bcenet.Network(
        [7, 6, 5, 2],
        ["gelu", "tanh"],
        normalization=["batch", None],
        feature_scale=True,
        dtype="float64",
    )
    assert net.config() == {
        "layer_sizes": [7, 6, 5, 2],
        "activations": ["gelu", "tanh"],
        "normalization": ["batch", None],
        "feature_scale": True,
        "dtype": "float64",
    }
    net.statistics[:] = np.arange(12)
    other = bcenet.Network.from_config(net.config(), net.parameters, net.statistics)
    assert np.array_equal(other.parameters, net.parameters)
    assert np.array_equal(other.statistics, net.statistics)
    assert other.config() == net.config()


BAD_CONFIGS = {
    "a layer less": {"layer_sizes": [7, 6, 5]},
    "a layer more": {"layer_sizes": [7, 6, 5, 2, 1]},
    "text as sizes": {"layer_sizes": "7652"},
    "a negative size": {"layer_sizes": [7, 6, -5, 2]},
    "a size as float": {"layer_sizes": [7, 6.0, 5, 2]},
    "sizes past 2^64": {"layer_sizes": [2**62, 2**62, 5, 2]},
    "an activation less": {"activations": ["gelu"]},
    "an unknown activation": {"activations": ["gelu", "nonsense"]},
    "another dtype": {"dtype": "float32"},
    "an unknown dtype": {"dtype": "int8"},
    "a list as dtype": {"dtype": ["float64"]},
    "a surplus key": {"surplus": 1},
    "an unknown normalization": {"normalization": ["batch", "nonsense"]},
    "a normalization less": {"normalization": ["batch"]},
    "a number as feature_scale": {"feature_scale": 1},
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_from_config_refuses(case):
    net = make_network((7, 6, 5, 2), ["gelu", "tanh"], "float64")
    with pytest.raises((TypeError, ValueError)):
        bcenet.Network.from_config({**net.config(), **BAD_CONFIGS[case]}, net.parameters)


def test_from_config_needs_every_key_and_flat_parameters():
    net = make_network((7, 6, 5, 2), ["gelu", "tanh"], "float64")
    for missing in net.config():
        config = {name: value for name, value in net.config().items() if name != missing}
        with pytest.raises(ValueError, match="config"):
            bcenet.Network.from_config(config, net.parameters)
    for parameters in (net.parameters[:-1], net.parameters.reshape(1, -1)):
        with pytest.raises(ValueError, match="parameters"):
            bcenet.Network.from_config(net.config(), parameters)
    with pytest.raises(ValueError, match="statistics"):
        bcenet.Network.from_config(net.config(), net.parameters, np.zeros(4))


# -------------------------------------------------------------------------------- threads


def run_together(count, work):
    """Run work(i) in `count` threads at once and raise what any of them raised."""
    barrier, errors = threading.Barrier(count), []

    def body(i):
        barrier.wait()
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("rounds", [50, pytest.param(10_000, marks=pytest.mark.slow)])
def test_t1_threads_predicting_with_one_network(rounds):
    net = PREDICTORS["float32", (7, 33, 18, 1)]
    X, _ = problem(64, dtype="float32")
    expected = net.predict_proba(X)

    def predict(i):
        for _ in range(rounds):
            assert np.array_equal(net.predict_proba(X[i:], n_threads=1 + i % 2), expected[i:])

    run_together(16, predict)


# ------------------------------------------------------------------------- I3: bad input

BAD_NETWORKS = {
    "one size": ({"layer_sizes": [5]}, ValueError, r"layer_sizes.*\[5\]"),
    "no size": ({"layer_sizes": []}, ValueError, r"layer_sizes"),
    "zero": ({"layer_sizes": [5, 0, 1]}, ValueError, r"layer_sizes.*0"),
    "negative": ({"layer_sizes": [5, -3, 1]}, ValueError, r"layer_sizes.*-3"),
    "fraction": ({"layer_sizes": [5, 2.5, 1]}, TypeError, r"layer_sizes.*2\.5"),
    "text": ({"layer_sizes": "5,1"}, TypeError, r"layer_sizes.*5,1"),
    "number": ({"layer_sizes": 5}, TypeError, r"layer_sizes.*5"),
    "beyond 64 bits": (
        {"layer_sizes": [2**40, 2**40, 1]},
        (ValueError, MemoryError),
        r"layer_sizes",
    ),
    "beyond memory": (
        {"layer_sizes": [2**30, 2**30, 1]},
        (ValueError, MemoryError),
        r"layer_sizes",
    ),
    "beyond an integer": (
        {"layer_sizes": [2**70, 1]},
        (ValueError, MemoryError),
        r"layer_sizes",
    ),
    "activation": ({"activation": "rleu"}, ValueError, r"activation.*'rleu'.*'relu'"),
    "activation count": ({"activation": ["relu", "tanh"]}, ValueError, r"activation.*1.*2"),
    "activation type": ({"activation": 3}, (TypeError, ValueError), r"activation.*3"),
    "dtype": ({"dtype": "float16"}, ValueError, r"dtype.*float16"),
    "initializer": ({"initializer": "he"}, ValueError, r"initializer.*'he'"),
    "random_state": ({"random_state": -1}, ValueError, r"random_state.*-1"),
    "random_state type": ({"random_state": "a"}, TypeError, r"random_state.*'a'"),
}


@pytest.mark.parametrize("case", BAD_NETWORKS)
def test_i3_bad_networks(case):
    changes, error, message = BAD_NETWORKS[case]
    with pytest.raises(error, match=message):
        bcenet.Network(**{"layer_sizes": [5, 4, 1], **changes})


def with_value(value, dtype=float):
    X = np.zeros((300, 7), dtype)
    X[211, 3] = value
    return X


BAD_X = {
    "NaN": (with_value(np.nan), ValueError, r"X.*(nan|NaN).*row 211.*column 3"),
    "inf": (with_value(np.inf), ValueError, r"X.*inf.*row 211.*column 3"),
    "-inf": (with_value(-np.inf), ValueError, r"X.*-inf.*row 211.*column 3"),
    "NaN, Fortran order": (
        np.asfortranarray(with_value(np.nan)),
        ValueError,
        r"X.*(nan|NaN).*row 211.*column 3",
    ),
    "NaN, float32": (with_value(np.nan, "f4"), ValueError, r"X.*row 211.*column 3"),
    "too large for float32": (with_value(1e39), ValueError, r"X.*1e\+?39.*row 211.*column 3"),
    "features": (np.zeros((5, 6)), ValueError, r"X.*7.*\(5, 6\)"),
    "one row as (features,)": (np.zeros(7), ValueError, r"X.*\(7,\)"),
    "three dimensions": (np.zeros((5, 7, 1)), ValueError, r"X.*\(5, 7, 1\)"),
    "objects": (np.zeros((5, 7), object), TypeError, r"X.*object"),
    "text": (np.full((5, 7), "1"), TypeError, r"X.*<U1"),
    "complex": (np.zeros((5, 7), complex), TypeError, r"X.*complex"),
    "dates": (np.zeros((5, 7), "M8[s]"), TypeError, r"X.*datetime"),
    "ragged": ([[1, 2], [3]], (TypeError, ValueError), r"X"),
    "None": (None, TypeError, r"X"),
}


@pytest.mark.parametrize("method", ["decision_function", "predict_proba"])
@pytest.mark.parametrize("case", BAD_X)
def test_i3_bad_rows(method, case):
    X, error, message = BAD_X[case]
    net = PREDICTORS["float32", (7, 33, 18, 1)]
    with pytest.raises(error, match=message):
        getattr(net, method)(X)


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "2", True])
def test_i3_bad_thread_counts(n_threads):
    X, _ = problem(5, dtype="float32")
    with pytest.raises(ValueError, match="n_threads must be a"):
        PREDICTORS["float32", (7, 1)].predict_proba(X, n_threads=n_threads)


def test_no_rows():
    for outputs, shape in ((1, (0,)), (5, (0, 5))):
        net = make_network((7, 6, outputs))
        assert net.predict_proba(np.zeros((0, 7))).shape == shape

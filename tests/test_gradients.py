"""Gradients (N3): loss_gradient and trace against the twin."""

from __future__ import annotations

import json
import math

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

import bcenet

LIMIT = {"float32": 1e-5, "float64": 1e-12}  # of the largest entry of each layer
DTYPES = list(LIMIT)
N = 203


def options_for(case, outputs, dtype, n=N):
    rng = np.random.default_rng(4)
    rows = rng.random(n).astype(dtype)
    rows[::7] = 0
    y_shape = (n,) if outputs == 1 else (n, outputs)
    return {
        "plain": {},
        "rows weighted": {"sample_weight": rows},
        "elements weighted": {"sample_weight": rng.random(y_shape).astype(dtype)},
        "positives weighted": {"pos_weight": 3.5},
        "columns weighted": {"pos_weight": (rng.random(outputs) * 4).astype(dtype)},
        "smoothed": {"label_smoothing": 0.25},
        "all": {"sample_weight": rows, "pos_weight": 0.5, "label_smoothing": 0.125},
    }[case]


CASES = ["plain", "rows weighted", "elements weighted", "positives weighted", "columns weighted",
         "smoothed", "all"]  # fmt: skip


def check_against_twin(net, X, y, options, limit):
    loss, gradient = net.loss_gradient(X, y, **options)
    twin_loss, _, twin = ref.backward(
        twin_layers(net), net.activations, X.astype(np.longdouble), y.astype(np.longdouble),
        **options,
    )  # fmt: skip
    assert abs(loss - twin_loss) <= limit * abs(twin_loss)
    for layer, (dw, db) in enumerate(twin):
        assert gradient.coefs[layer].dtype == gradient.intercepts[layer].dtype == net.dtype
        assert gradient.coefs[layer].shape == dw.shape
        assert relative_to_largest(gradient.coefs[layer], dw) <= limit
        assert relative_to_largest(gradient.intercepts[layer], db) <= limit
    layers = zip(gradient.coefs, gradient.intercepts, strict=True)
    assert np.array_equal(gradient.flat, ref.flatten(layers))


@needs_long_double
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_n3_every_layer_against_long_double(activation, dtype, outputs, case):
    net = make_network((7, 18, 9, outputs), activation, dtype)
    X, y = problem(N, outputs=outputs, soft=case == "plain", dtype=dtype)
    check_against_twin(net, X, y, options_for(case, outputs, dtype), LIMIT[dtype])


@needs_long_double
@pytest.mark.parametrize(
    "layer_sizes",
    [(7, 1), (1, 1, 1), (7, 65, 1), (65, 3, 2), (30, 70, 67, 33), (5, 4, 4, 4, 4, 1)],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 1_025, 2_500])
def test_n3_any_shape(isa, layer_sizes, dtype, n):
    net = make_network(layer_sizes, "silu", dtype)
    X, y = problem(n, layer_sizes[0], layer_sizes[-1], dtype=dtype)
    check_against_twin(net, X, y, {}, LIMIT[dtype])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_n3_against_finite_differences_of_our_own_loss(activation, case):
    net = make_network((7, 6, 5, 2), activation, "float64")
    X, y = problem(N, outputs=2, soft=True)
    options = options_for(case, 2, "float64")
    gradient = net.loss_gradient(X, y, **options)[1].flat
    differences = np.empty_like(gradient)
    h = 1e-5
    start = net.parameters.copy()
    for i in range(start.size):
        losses = []
        for step in (h, -h, 2 * h, -2 * h):
            net.parameters[i] = start[i] + step
            losses.append(net.loss_gradient(X, y, **options)[0])
            net.parameters[i] = start[i]
        # fourth order: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h
        differences[i] = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h)
    assert relative_to_largest(differences, gradient) <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_is_that_of_the_fused_kernel(isa, dtype):
    net = make_network((7, 6, 5, 3), dtype=dtype)
    X, y = problem(N, outputs=3, dtype=dtype)
    options = options_for("all", 3, dtype)
    expected = bcenet.bce_loss(net.decision_function(X), y, **options)
    loss, _ = net.loss_gradient(X, y, **options)
    assert loss == pytest.approx(float(expected), rel=float(2 * np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", DTYPES)
def test_i1_gradient_from_any_layout(isa, dtype):
    net = make_network((7, 18, 9, 2), dtype=dtype)
    X, y = problem(2_100, outputs=2, dtype=dtype)
    expected = net.loss_gradient(X, y)[1].flat
    for layout in LAYOUTS.values():
        assert np.array_equal(net.loss_gradient(layout(X), layout(y))[1].flat, expected)
    assert np.array_equal(net.loss_gradient(X, y.astype(bool))[1].flat, expected)


def test_gradient_with_rows_without_weight_ignores_them():
    net = make_network((7, 6, 5, 1))
    X, y = problem(N)
    weight = np.ones(N)
    weight[50:] = 0
    loss, gradient = net.loss_gradient(X, y, sample_weight=weight)
    expected_loss, expected = net.loss_gradient(X[:50], y[:50])
    assert loss == pytest.approx(expected_loss, rel=1e-14)
    assert relative_to_largest(gradient.flat, expected.flat) <= 1e-14


# ---------------------------------------------------------------------------------- trace


@needs_long_double
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_trace_against_the_twin(activation, dtype, outputs):
    net = make_network((7, 18, 9, outputs), activation, dtype)
    X, y = problem(N, outputs=outputs, dtype=dtype)
    trace = net.trace(X, y)
    layers = twin_layers(net)
    wide_X, wide_y = X.astype(np.longdouble), y.astype(np.longdouble)
    passes = ref.forward(layers, net.activations, wide_X)
    _, dzs, gradients = ref.backward(layers, net.activations, wide_X, wide_y)
    assert len(trace.layers) == len(layers)
    for i, layer in enumerate(trace.layers):
        dw, db = (outputs * part for part in gradients[i])  # means over rows, not labels
        expected = {"z": passes[i].z, "a": passes[i].a, "dz": dzs[i], "dw": dw, "db": db}
        if i < len(layers) - 1:
            expected["da"] = dzs[i + 1] @ layers[i + 1][0].T
        for name, value in expected.items():
            got = getattr(layer, name)
            assert relative_to_largest(got.reshape(value.shape), value) <= LIMIT[dtype], (i, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_trace_holds_the_bits_of_prediction_and_gradient(isa, dtype):
    net = make_network((7, 18, 9, 1), dtype=dtype)
    X, y = problem(N, dtype=dtype)
    trace = net.trace(X, y)
    gradient = net.loss_gradient(X, y)[1]
    assert np.array_equal(trace.layers[-1].z.ravel(), net.decision_function(X))
    assert np.array_equal(trace.layers[-1].a.ravel(), net.predict_proba(X))
    for i, layer in enumerate(trace.layers):
        assert relative_to_largest(layer.dw, gradient.coefs[i]) <= LIMIT[dtype]
        assert relative_to_largest(layer.db, gradient.intercepts[i]) <= LIMIT[dtype]
    hard = bcenet.bce_gradient(trace.layers[-1].z.ravel(), y, reduction="none")
    assert np.array_equal(trace.layers[-1].dz.ravel(), hard)


def test_a_trace_as_a_table_and_as_json():
    net = make_network((7, 6, 5, 2))
    net.coefs[-1][0, 0] = np.nan
    X, y = problem(30, outputs=2)
    trace = net.trace(X, y)
    lines = str(trace).splitlines()
    assert lines[1].split() == ["layer", "units", "z", "y", "a", "da", "dz", "dw", "db"]
    for index, layer in enumerate(trace.layers):
        number, units, *largest = lines[2 + index].split()
        assert (int(number), int(units)) == (index, layer.z.shape[1])
        expected = [np.abs(values).max() for values in layer.__dict__.values()]
        np.testing.assert_allclose([float(text) for text in largest], expected, rtol=1e-3)
    assert lines[8].split()[:3] == ["0", "0", "nan"]
    assert lines[-1] == "  ... and 40 more"
    content = json.loads(json.dumps(trace.as_dict(), allow_nan=False))
    assert content["layers"][0]["z"] == trace.layers[0].z.tolist()
    assert content["layers"][2]["z"][3] == ["nan", trace.layers[2].z[3, 1]]


# ------------------------------------------------------------------------------ bad input

BAD = {
    "y (n, 1)": ({"y": np.zeros((30, 1))}, ValueError, r"y.*\(30,\).*\(30, 1\)"),
    "y too short": ({"y": np.zeros(29)}, ValueError, r"y.*30.*29"),
    "y above 1": ({"y": np.full(30, 2)}, ValueError, r"y.*\[0, 1\].*2"),
    "y NaN": ({"y": np.full(30, np.nan)}, ValueError, r"y.*nan"),
    "y objects": ({"y": np.zeros(30, object)}, TypeError, r"y.*object"),
    "y text": ({"y": np.full(30, "yes")}, TypeError, r"y.*"),
    "X features": ({"X": np.zeros((30, 6))}, ValueError, r"X.*7.*\(30, 6\)"),
    "X NaN": ({"X": np.full((30, 7), np.nan)}, ValueError, r"X.*row 0.*column 0"),
    "no rows": ({"X": np.zeros((0, 7)), "y": np.zeros(0)}, ValueError, r"X.*row"),
    "weights": ({"sample_weight": -np.ones(30)}, ValueError, r"sample_weight.*-1"),
    "weights' length": ({"sample_weight": np.ones(29)}, ValueError, r"sample_weight.*29"),
    "no weight at all": ({"sample_weight": np.zeros(30)}, ValueError, r"sample_weight"),
    "weights beyond a sum": ({"sample_weight": np.full(30, 1e308)}, ValueError, r"sample_weight"),
    "pos_weight": ({"pos_weight": [1, 2]}, ValueError, r"pos_weight"),
    "smoothing": ({"label_smoothing": 2}, ValueError, r"label_smoothing.*2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    changes, error, message = BAD[case]
    net = make_network((7, 6, 5, 1))
    arguments = {"X": np.zeros((30, 7)), "y": np.zeros(30), **changes}
    with pytest.raises(error, match=message):
        net.loss_gradient(**arguments)
    if set(changes) <= {"X", "y"}:
        with pytest.raises(error, match=message):
            net.trace(**arguments)
        with pytest.raises(error, match=message):
            bcenet.check_gradient(net, **arguments)


def test_a_trace_of_logits_at_which_a_probability_is_rounded_to_0_warns_of_nothing():
    net = bcenet.Network([1, 1], dtype="float64")
    net.parameters[:] = [1.0, 0.0]
    layer = net.trace([[800.0], [-800.0], [800.0]], [1, 0, 0]).layers[0]
    assert layer.da.ravel().tolist() == [-1.0, 1.0, math.inf]
    assert layer.dz.ravel().tolist() == [0.0, 0.0, 1.0]

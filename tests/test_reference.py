"""The twin itself: against finite differences, mpmath, known answers and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference as ref
from helpers import mp, needs_long_double, problem, relative_to_largest
from sklearn.neural_network import MLPClassifier

from bcenet.bench.numpy_twin import NumpyTwin

LAYER_SIZES = (7, 6, 5, 2)


def parameters_of(layer_sizes, dtype=np.float64, seed=1):
    """Flat random parameters, large enough to reach every part of an activation."""
    count = sum(a * b + b for a, b in itertools.pairwise(layer_sizes))
    return (np.random.default_rng(seed).normal(size=count) * 0.7).astype(dtype)


# ----------------------------------------------------------------------------- activations

EXACT_ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: max(z, mp.mpf(0)),
    "leaky_relu": lambda z: z if z > 0 else mp.mpf("0.01") * z,
    "elu": lambda z: z if z > 0 else mp.expm1(z),
    "selu": lambda z: (
        mp.mpf("1.0507009873554804934193349852946")
        * (z if z > 0 else mp.mpf("1.6732632423543772848170429916717") * mp.expm1(z))
    ),
    "gelu": lambda z: z * mp.ncdf(z),
    "silu": lambda z: z / (1 + mp.exp(-z)),
    "tanh": mp.tanh,
    "sigmoid": lambda z: 1 / (1 + mp.exp(-z)),
    "softplus": lambda z: mp.log1p(mp.exp(z)),
}


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_activation_and_derivative_against_mpmath(name, dtype):
    z = np.concatenate([np.linspace(-12, 12, 97), [-0.0, 1e-9, -1e-9]]).astype(dtype)
    a, derivative = ref.ACTIVATIONS[name](z)
    assert a.dtype == derivative.dtype == dtype
    exact = EXACT_ACTIVATIONS[name]
    # A long double is read through its two halves, the upper and the lower.
    points = [mp.mpf(float(v)) + mp.mpf(float(v - dtype(float(v)))) for v in z]
    expected_a = [exact(point) for point in points]
    expected_d = [mp.diff(exact, point) if point else None for point in points]
    eps = float(np.finfo(dtype).eps) + 1e-16  # the expectation is read as float64
    for i, point in enumerate(points):
        scale = max(1, abs(point))
        assert abs(float(a[i] - dtype(float(expected_a[i])))) <= 4 * eps * scale
        if point:
            assert abs(float(derivative[i]) - float(expected_d[i])) <= 4 * eps * scale


@needs_long_double
def test_normal_distribution_holds_its_digits_into_the_tail():
    z = np.linspace(-30, 9, 400).astype(np.longdouble)
    for value, point in zip(ref.normal_cdf(z), z, strict=True):
        expected = mp.ncdf(mp.mpf(float(point)))
        high = float(value)
        exact = mp.mpf(high) + mp.mpf(float(value - np.longdouble(high)))
        assert abs(exact / expected - 1) < 1e-15


# ---------------------------------------------------------------- loss and backpropagation


@pytest.mark.parametrize("pos_weight", [1.0, 3.5])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_loss_is_the_textbook_formula(pos_weight, label_smoothing):
    z = np.linspace(-8, 8, 33)
    t = np.resize([0.0, 1.0, 0.3], 33)
    loss, dz = ref.LOSSES["bce"](z, t, pos_weight=pos_weight, label_smoothing=label_smoothing)
    for i in range(33):
        soft = mp.mpf(t[i]) * (1 - mp.mpf(label_smoothing)) + mp.mpf(label_smoothing) / 2

        def textbook(logit, soft=soft):
            p = 1 / (1 + mp.exp(-logit))
            return -(pos_weight * soft * mp.log(p) + (1 - soft) * mp.log(1 - p))

        assert abs(loss[i] - textbook(mp.mpf(z[i]))) < 1e-14 * abs(textbook(mp.mpf(z[i])))
        assert abs(dz[i] - mp.diff(textbook, mp.mpf(z[i]))) < 4e-16 * pos_weight


@pytest.mark.parametrize(
    ("z", "t", "pos_weight", "loss", "dz"),
    [
        (np.inf, 1.0, 1.0, 0.0, 0.0),
        (np.inf, 0.0, 1.0, np.inf, 1.0),
        (-np.inf, 1.0, 2.0, np.inf, -2.0),
        (-np.inf, 0.0, 1.0, 0.0, 0.0),
        (-np.inf, 1.0, 0.0, 0.0, 0.0),
        (np.inf, 0.5, 1.0, np.inf, 0.5),
    ],
)
def test_loss_at_infinite_logits_is_the_limit(z, t, pos_weight, loss, dz):
    got = ref.LOSSES["bce"](np.array([z]), np.array([t]), pos_weight=pos_weight)
    assert got[0] == loss
    assert got[1] == dz


@needs_long_double
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
@pytest.mark.parametrize("weighted", [None, "rows", "elements"])
def test_backward_against_finite_differences(activation, weighted):
    X, y = problem(n=11, outputs=2, soft=True, dtype=np.longdouble)
    rng = np.random.default_rng(2)
    options = {
        None: {},
        "rows": {"sample_weight": rng.random(11), "pos_weight": [0.5, 3.0]},
        "elements": {"sample_weight": rng.random((11, 2)), "label_smoothing": 0.1},
    }[weighted]
    activations = [activation, activation, "sigmoid"]
    w = parameters_of(LAYER_SIZES, np.longdouble)

    def loss_at(parameters):
        return ref.backward(ref.unflatten(parameters, LAYER_SIZES), activations, X, y, **options)[0]

    gradient = ref.flatten(
        ref.backward(ref.unflatten(w, LAYER_SIZES), activations, X, y, **options)[2]
    )
    h = np.longdouble(1e-6)
    differences = np.empty_like(w)
    for i in range(w.size):
        up, down = w.copy(), w.copy()
        up[i] += h
        down[i] -= h
        differences[i] = (loss_at(up) - loss_at(down)) / (2 * h)
    assert relative_to_largest(differences, gradient) < 1e-10


# ------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("sgd", {}), ("sgd", {"momentum": 0.9}), ("adam", {})],
)
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-4), ("float64", 1e-12)])
def test_the_rival_of_the_benchmarks(optimizer, options, activation, outputs, dtype, limit):
    sizes = (7, 6, 5, outputs)
    X, y = problem(83, outputs=outputs, dtype=dtype)
    start = parameters_of(sizes, dtype)
    order = [ref.row_order(2, epoch, 83) for epoch in range(3)]
    expected, history = ref.fit(
        start.astype(float), sizes, [activation, activation, "sigmoid"], X, y,
        order=order, optimizer=optimizer, batch_size=20,
        optimizer_options={"learning_rate": 0.02, **options},
    )  # fmt: skip
    rival = NumpyTwin(
        sizes, start, activation=activation, optimizer=optimizer, learning_rate=0.02,
        batch_size=20, **options,
    )  # fmt: skip
    losses = [rival.epoch(X, y, rows) for rows in order]
    assert rival.parameters.dtype == dtype
    assert relative_to_largest(rival.parameters, expected) <= limit
    assert losses == pytest.approx(history["loss"], rel=limit)


@pytest.mark.parametrize(
    ("optimizer", "options", "theirs"),
    [
        ("sgd", {}, {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False}),
        ("adam", {"epsilon_inside": True}, {"solver": "adam"}),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_fit_against_scikit_learn(optimizer, options, theirs, activation):
    X, y = problem(n=83)
    rival = MLPClassifier(
        (6, 5), activation=activation, batch_size=20, learning_rate_init=0.05, alpha=0.0,
        shuffle=False, max_iter=4, random_state=0, n_iter_no_change=100, **theirs,
    )  # fmt: skip
    rival.partial_fit(X, y, classes=[0, 1])  # makes the parameters that both start from
    start = [part.copy() for part in rival.coefs_ + rival.intercepts_]
    layers = list(zip(start[:3], start[3:], strict=True))
    del rival._optimizer  # the next call makes a fresh one
    order = [np.arange(83)] * 4
    for _ in order:
        rival.partial_fit(X, y)
    w, history = ref.fit(
        ref.flatten(layers), (7, 6, 5, 1), [activation, activation, "sigmoid"], X, y,
        order=order, optimizer=optimizer, batch_size=20,
        optimizer_options={"learning_rate": 0.05, **options},
    )  # fmt: skip
    expected = ref.flatten(list(zip(rival.coefs_, rival.intercepts_, strict=True)))
    assert relative_to_largest(w, expected) < 1e-12
    assert history["loss"][-1] == pytest.approx(rival.loss_, rel=1e-12)


def test_batches_without_weight_are_skipped():
    X, y = problem(n=60)
    weight = np.ones(60)
    weight[20:40] = 0
    activations = ["relu", "relu", "sigmoid"]
    sizes = (7, 6, 5, 1)
    common = {"optimizer": "adam", "batch_size": 20}
    w = parameters_of(sizes)
    skipped, history = ref.fit(
        w, sizes, activations, X, y, order=[np.arange(60)], sample_weight=weight, **common
    )
    left_out = np.r_[0:20, 40:60]
    expected, expected_history = ref.fit(w, sizes, activations, X, y, order=[left_out], **common)
    assert np.array_equal(skipped, expected)
    assert history["loss"] == expected_history["loss"]


# ------------------------------------------------------------------------------ row order


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that come with Random123
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    counter, key, expected = (
        tuple(int(word, 16) for word in text.split()) for text in (counter, key, expected)
    )
    assert ref.philox4x32(counter, key) == expected


def test_row_order_is_an_even_shuffle():
    # Every row is as likely in every place: chi-squared with 25 cells, 16 of them free.
    counts = np.zeros((5, 5))
    for seed in range(4000):
        counts[np.arange(5), ref.row_order(seed, 0, 5)] += 1
    assert (counts.sum(axis=0) == 4000).all()
    assert ((counts - 800) ** 2 / 800).sum() < 39.3  # 99.9 % of even shuffles are below
    assert not np.array_equal(ref.row_order(0, 0, 50), ref.row_order(0, 1, 50))

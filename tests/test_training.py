"""bcenet.fit: against the twin, the same bits (D1, D2), divergence (N4), forks and threads
(T2, T3), Ctrl-C (S1), callbacks, optimizer state and bad input."""

from __future__ import annotations

import ctypes
import inspect
import itertools
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time

import helpers
import numpy as np
import pytest
import reference as ref
from helpers import LAYOUTS, digest, make_network, problem, relative_to_largest

import bcenet
import bcenet._dispatch
import bcenet.optimizers
import bcenet.training

LIMIT = {"float32": 1e-4, "float64": 1e-10}  # of the largest parameter
DTYPES = list(LIMIT)
THREADS = [1, 2, 3, 4, 7, 8, 16]

# row -> the name, the options of the object, the learning rate
OPTIMIZERS = {
    "sgd": ("sgd", {}, 0.1),
    "momentum": ("sgd", {"momentum": 0.9}, 0.02),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}, 0.02),
    "decay": ("sgd", {"momentum": 0.5, "weight_decay": 0.1}, 0.05),
    "rate inside": ("sgd", {"momentum": 0.9, "rate_inside": True, "weight_decay": 0.1}, 0.02),
    "rate inside, nesterov": (
        "sgd", {"momentum": 0.9, "nesterov": True, "rate_inside": True}, 0.02,
    ),
    "adam": ("adam", {}, 0.01),
    "adam, other rates": ("adam", {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-4}, 0.01),
    "adam, epsilon inside": ("adam", {"epsilon": 1e-3, "epsilon_inside": True}, 0.01),
    "adamw": ("adamw", {}, 0.01),
    "adamw, decay": ("adamw", {"weight_decay": 0.3}, 0.01),
    "adam, rates of groups": ("adam", {"rate_factors": {"coefs": 0.5, "intercepts": 3.0}}, 0.01),
    "decay, rates of groups": (
        "sgd", {"weight_decay": 0.1, "rate_factors": {"coefs": 2.0, "intercepts": 0.0}}, 0.05,
    ),
    "amsgrad": ("amsgrad", {"beta_2": 0.6}, 0.01),
    "amsgrad, decay": ("amsgrad", {"weight_decay": 0.3, "epsilon_inside": True}, 0.01),
    "rmsprop": ("rmsprop", {}, 0.003),
    "rmsprop, other rates": ("rmsprop", {"rho": 0.7, "epsilon": 1e-4}, 0.01),
    "lion": ("lion", {}, 0.001),
    "lion, decay": ("lion", {"beta_1": 0.8, "beta_2": 0.95, "weight_decay": 0.3}, 0.003),
}  # fmt: skip
CLASSES = {
    "sgd": bcenet.SGD,
    "adam": bcenet.Adam,
    "adamw": bcenet.AdamW,
    "amsgrad": bcenet.AMSGrad,
    "rmsprop": bcenet.RMSprop,
    "lion": bcenet.Lion,
}


def make_optimizer(row):
    name, options, learning_rate = OPTIMIZERS[row]
    return CLASSES[name](learning_rate=learning_rate, **options)


def fit_twin(net, X, y, row, **options):
    """(parameters, history) of the twin, in float64."""
    return helpers.fit_twin(net, X, y, make_optimizer(row), **options)


# ------------------------------------------------------------------------ against the twin


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", OPTIMIZERS)
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_fit_against_the_twin(activation, row, dtype):
    net = make_network((7, 18, 9, 1), activation, dtype)
    X, y = problem(203, dtype=dtype)
    expected, history = fit_twin(net, X, y, row, epochs=3, batch_size=40)
    got = bcenet.fit(
        net, X, y, optimizer=make_optimizer(row), batch_size=40, epochs=3, shuffle=False
    )
    assert relative_to_largest(net.parameters, expected) <= LIMIT[dtype]
    assert np.allclose(got.loss, history["loss"], rtol=LIMIT[dtype], atol=0)
    assert got.validation_loss == []


OPTIONS = {
    "rows weighted": {"sample_weight": "rows"},
    "elements weighted": {"sample_weight": "elements"},
    "batches without weight": {"sample_weight": "gaps"},
    "positives weighted": {"pos_weight": 3.5},
    "columns weighted": {"pos_weight": "columns"},
    "smoothed": {"label_smoothing": 0.2},
    "all": {"sample_weight": "rows", "pos_weight": "columns", "label_smoothing": 0.1},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("case", OPTIONS)
def test_fit_with_loss_options_against_the_twin(isa, case, outputs, dtype):
    net = make_network((7, 18, 9, outputs), "tanh", dtype)
    X, y = problem(203, outputs=outputs, soft=True, dtype=dtype)
    rng = np.random.default_rng(6)
    gaps = rng.random(203)
    gaps[:40] = gaps[120:160] = 0
    arrays = {
        "rows": rng.random(203),
        "elements": rng.random(y.shape),
        "gaps": gaps,
        "columns": rng.random(outputs) * 3,
    }
    options = {
        name: arrays[value].astype(dtype) if isinstance(value, str) else value
        for name, value in OPTIONS[case].items()
    }
    validation = problem(57, outputs=outputs, seed=9, dtype=dtype)
    expected, history = fit_twin(
        net, X, y, "adam", epochs=3, batch_size=40, validation_data=validation, **options
    )
    got = bcenet.fit(
        net, X, y, optimizer=make_optimizer("adam"), batch_size=40, epochs=3, shuffle=False,
        validation_data=validation, **options,
    )  # fmt: skip
    assert relative_to_largest(net.parameters, expected) <= LIMIT[dtype]
    assert np.allclose(got.loss, history["loss"], rtol=LIMIT[dtype], atol=0)
    expected_losses = history["validation_loss"]
    assert np.allclose(got.validation_loss, expected_losses, rtol=LIMIT[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layer_sizes", "n", "batch_size"),
    [
        ((7, 1), 203, 40),  # logistic regression
        ((1, 1, 1), 11, 3),
        ((7, 65, 33, 2), 301, 64),
        ((40, 3, 70, 1), 99, 7),
        ((7, 8, 8, 8, 8, 8, 1), 203, 50),
        ((7, 6, 1), 5_003, 2_500),  # more rows in a batch than one chain of a sum holds
        ((7, 6, 1), 50, 10**9),  # capped at the rows
        ((7, 6, 1), 50, 1),
        ((7, 6, 1), 1, 200),
    ],
)
def test_fit_of_any_shape_against_the_twin(isa, layer_sizes, n, batch_size, dtype):
    net = make_network(layer_sizes, "silu", dtype)
    X, y = problem(n, layer_sizes[0], layer_sizes[-1], soft=True, dtype=dtype)
    expected, history = fit_twin(net, X, y, "nesterov", epochs=2, batch_size=batch_size)
    got = bcenet.fit(
        net, X, y, optimizer=make_optimizer("nesterov"), batch_size=batch_size, epochs=2,
        shuffle=False,
    )  # fmt: skip
    assert relative_to_largest(net.parameters, expected) <= LIMIT[dtype]
    assert np.allclose(got.loss, history["loss"], rtol=LIMIT[dtype], atol=0)


def test_every_optimizer_has_a_twin(isa):
    # L-BFGS is SciPy's; AdamW has Adam's native rule.
    assert set(bcenet.optimizers.BY_NAME) - {"lbfgs"} == set(ref.OPTIMIZERS) == set(CLASSES)
    assert {options[0] for options in OPTIMIZERS.values()} == set(ref.OPTIMIZERS)
    rules = {kind._rule for kind in CLASSES.values()}
    assert set(bcenet._dispatch.native.RULES) == rules
    assert set(bcenet._dispatch.native.GROUP_CODES) == set(ref.GROUPS)


@pytest.mark.parametrize("name", ref.OPTIMIZERS)
def test_default_rates_are_the_twins(name):
    net = make_network()
    X, y = problem()
    expected, _ = ref.fit(
        net.parameters.copy(), net.layer_sizes, net.activations, X, y,
        order=[np.arange(len(X))] * 2, optimizer=name, batch_size=40,
    )  # fmt: skip
    by_object = make_network()
    bcenet.fit(by_object, X, y, optimizer=CLASSES[name](), batch_size=40, epochs=2, shuffle=False)
    bcenet.fit(net, X, y, optimizer=name, batch_size=40, epochs=2, shuffle=False)
    assert relative_to_largest(net.parameters, expected) <= LIMIT["float64"]
    assert np.array_equal(net.parameters, by_object.parameters)


def test_learning_rate_beside_a_name():
    X, y = problem()
    by_name, by_object = make_network(), make_network()
    bcenet.fit(by_name, X, y, optimizer="sgd", learning_rate=0.3, shuffle=False)
    bcenet.fit(by_object, X, y, optimizer=bcenet.SGD(learning_rate=0.3), shuffle=False)
    assert np.array_equal(by_name.parameters, by_object.parameters)
    with pytest.raises(ValueError, match="learning_rate"):
        bcenet.fit(by_object, X, y, optimizer=bcenet.SGD(), learning_rate=0.3)


def test_validation_loss_is_that_of_the_published_parameters():
    net = make_network()
    X, y = problem(203)
    validation = problem(71, seed=5)
    seen = []

    def record(state):
        seen.append(float(bcenet.bce_loss(state.network.decision_function(validation[0]),
                                          validation[1])))  # fmt: skip

    history = bcenet.fit(
        net, X, y, epochs=4, validation_data=validation, callbacks=[record], random_state=0
    )
    assert history.validation_loss == pytest.approx(seen, rel=1e-14)
    plain = make_network()
    bcenet.fit(plain, X, y, epochs=4, random_state=0)
    assert np.array_equal(net.parameters, plain.parameters)


def test_validation_weights():
    net = make_network()
    X, y = problem(203)
    X_val, y_val = problem(71, seed=5)
    weight = np.random.default_rng(0).random(71)
    history = bcenet.fit(net, X, y, epochs=1, validation_data=(X_val, y_val, weight))
    expected = bcenet.bce_loss(net.decision_function(X_val), y_val, sample_weight=weight)
    assert history.validation_loss == pytest.approx([float(expected)], rel=1e-14)


def test_lbfgs_counts_the_penalty_once():
    """At its minimum the derivative of loss and penalty is 0."""
    X, y = problem(200, soft=True)
    net = bcenet.Network([7, 1], dtype="float64", random_state=0)
    history = bcenet.fit(net, X, y, optimizer=bcenet.LBFGS(1e-7), epochs=500, l2=3.0)
    loss, gradient = net.loss_gradient(X, y)
    assert np.abs(gradient.coefs[0] + 3.0 / 200 * net.coefs[0]).max() < 1e-7
    assert abs(gradient.intercepts[0].item()) < 1e-7
    assert history.loss[-1] == pytest.approx(loss, rel=1e-12)
    assert history.penalty[-1] == pytest.approx(np.sum(net.coefs[0] ** 2) * 1.5 / 200, rel=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_a_part_of_the_data_may_hold_one_class(label):
    net, (X, _) = make_network(), problem(50)
    with pytest.raises(ValueError, match=f"y must hold both classes; got only {label}"):
        bcenet.fit(net, X, np.full(50, label))
    before = bcenet.bce_loss(net.decision_function(X), np.full(50, label))
    history = bcenet.fit(net, X, np.full(50, label), optimizer=bcenet.Adam(), epochs=5)
    assert history.loss[-1] < before


def test_a_momentum_that_begins_in_a_callback_is_refused():
    net, (X, y) = make_network(), problem()

    def change(state):
        state.optimizer.momentum = 0.9

    with pytest.raises(ValueError, match="optimizer must keep 0 values of state"):
        bcenet.fit(net, X, y, optimizer=bcenet.SGD(0.1), callbacks=[change])


def test_a_refused_schedule_leaves_the_optimizer_as_it_was():
    net, (X, y) = make_network(), problem()
    optimizer = bcenet.Adam()
    with pytest.raises(ValueError, match="epochs of WarmUp must be below"):
        bcenet.fit(
            net, X, y, optimizer=optimizer, epochs=1,
            schedule=bcenet.schedules.WarmUp(3, after="cosine"),
        )  # fmt: skip
    assert optimizer.seed is None
    assert optimizer.state == {}


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_choices_a_layer_in_any_sequence(kind):
    net = bcenet.Network(
        [3, 4, 5, 1], kind(["tanh", "relu"]), normalization=kind(["batch", "layer"])
    )
    assert repr(net) == (
        "Network([3, 4, 5, 1], activation=['tanh', 'relu'], "
        "normalization=['batch', 'layer'], dtype='float32')"
    )


@pytest.mark.parametrize("sizes", [[4, 600, 600, 300], [3000, 2, 500], [2, 2, 1000]])
def test_wide_layers_and_many_outputs(sizes):
    # Blocks of rows are smallest, and what a row of the loss needs is largest.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(150, sizes[0])), rng.integers(2, size=(150, sizes[-1]))
    nets = [bcenet.Network(sizes, dtype="float64", random_state=0) for _ in range(2)]
    losses = [
        bcenet.fit(net, X, y, epochs=2, validation_data=(X, y), n_threads=n, random_state=0)
        for net, n in zip(nets, (1, 3), strict=True)
    ]
    assert losses[0].loss == losses[1].loss
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    for net, history in zip(nets, losses, strict=True):
        expected = float(bcenet.bce_loss(net.decision_function(X), y))
        assert history.validation_loss[-1] == pytest.approx(expected, rel=1e-13)
        assert net.loss_gradient(X, y)[0] == pytest.approx(expected, rel=1e-13)


# ------------------------------------------------------------------------------- row order


@pytest.mark.parametrize("seed", [0, 1, 12_345, 2**32 + 7, 2**64 - 1])
@pytest.mark.parametrize("n", [1, 2, 3, 100, 1_003])
def test_row_order_is_the_twins(seed, n):
    for epoch in (0, 1, 77):
        order = bcenet.training.row_order(seed, epoch, n)
        assert np.array_equal(order, ref.row_order(seed, epoch, n))


def test_shuffled_fit_sees_the_rows_in_that_order():
    net = make_network()
    X, y = problem(203)
    expected, history = fit_twin(net, X, y, "adam", epochs=3, batch_size=40, seed=11)
    got = bcenet.fit(
        net, X, y, optimizer=make_optimizer("adam"), batch_size=40, epochs=3, random_state=11
    )
    assert relative_to_largest(net.parameters, expected) <= LIMIT["float64"]
    assert got.loss == pytest.approx(history["loss"], rel=1e-10)


def test_random_state_decides_the_order():
    X, y = problem(203)

    def parameters(random_state):
        net = make_network()
        bcenet.fit(net, X, y, batch_size=40, epochs=2, random_state=random_state)
        return net.parameters

    assert np.array_equal(parameters(3), parameters(3))
    assert not np.array_equal(parameters(3), parameters(4))
    assert not np.array_equal(parameters(None), parameters(None))


# ------------------------------------------------------------------------- optimizer state


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", OPTIMIZERS)
def test_an_object_carries_its_state(row, dtype, shuffle):
    X, y = problem(203, dtype=dtype)
    options = {"batch_size": 40, "shuffle": shuffle}
    whole, parts = make_network(dtype=dtype), make_network(dtype=dtype)
    optimizer = make_optimizer(row)
    history = bcenet.fit(whole, X, y, optimizer=optimizer, epochs=6, random_state=2, **options)
    assert (optimizer.epoch, optimizer.step) == (6, 36)

    optimizer = make_optimizer(row)
    first = bcenet.fit(parts, X, y, optimizer=optimizer, epochs=2, random_state=2, **options)
    assert (optimizer.epoch, optimizer.step) == (2, 12)
    second = bcenet.fit(parts, X, y, optimizer=optimizer, epochs=4, **options)
    assert np.array_equal(parts.parameters, whole.parameters)
    assert first.loss + second.loss == history.loss
    for value in optimizer.state.values():
        assert value.shape == parts.parameters.shape


def test_a_name_makes_a_fresh_optimizer():
    X, y = problem(203)
    twice = make_network()
    start = twice.parameters.copy()
    bcenet.fit(twice, X, y, epochs=1, random_state=2)
    once = twice.parameters.copy()
    twice.parameters[:] = start
    bcenet.fit(twice, X, y, epochs=1, random_state=2)
    assert np.array_equal(twice.parameters, once)


def test_state_of_adam_is_laid_out_as_the_parameters():
    net = make_network()
    X, y = problem(60)
    gradient = net.loss_gradient(X, y)[1].flat
    optimizer = bcenet.Adam()
    bcenet.fit(net, X, y, optimizer=optimizer, epochs=1, shuffle=False)
    values = list(optimizer.state.values())
    assert len(values) == 2
    assert relative_to_largest(values[0], 0.1 * gradient) <= 1e-12
    assert relative_to_largest(values[1], 0.001 * gradient**2) <= 1e-12


def test_a_rate_changed_between_epochs_holds_from_then_on():
    X, y = problem()
    changed, parts = make_network(), make_network()

    def slower(state):
        state.optimizer.learning_rate = 0.01

    options = {"epochs": 2, "shuffle": False}
    bcenet.fit(changed, X, y, optimizer=bcenet.SGD(0.1), callbacks=[slower], **options)
    for rate in (0.1, 0.01):
        bcenet.fit(parts, X, y, optimizer=bcenet.SGD(rate), epochs=1, shuffle=False)
    assert np.array_equal(changed.parameters, parts.parameters)


def test_an_object_of_another_network_is_refused():
    X, y = problem()
    optimizer = bcenet.Adam()
    bcenet.fit(make_network(), X, y, optimizer=optimizer, epochs=1)
    with pytest.raises(ValueError, match="optimizer"):
        bcenet.fit(make_network((7, 3, 1)), X, y, optimizer=optimizer, epochs=1)


# ------------------------------------------------------------------------ D1, D2: same bits

# layer sizes, activation, optimizer, dtype, rows, batch size, fit's options
SAME_BITS = {
    "the published workload": ((28, 64, 32, 1), "relu", "adam", "float32", 1_003, 200, {}),
    "wide": ((30, 130, 70, 3), "gelu", "adamw, decay", "float32", 607, 128, {}),
    "float64": ((9, 33, 1), "tanh", "nesterov", "float64", 1_003, 100, {}),
    "long sums": ((9, 20, 1), "selu", "rmsprop", "float32", 9_001, 4_500, {}),
    "narrow": ((3, 2, 2, 1), "elu", "momentum", "float64", 301, 7, {}),
    "no hidden layer": ((50, 1), "relu", "adam", "float32", 2_003, 333, {}),
    "weighted": (
        (9, 33, 17, 2), "softplus", "adam", "float32", 1_003, 200,
        {"pos_weight": 2.5, "label_smoothing": 0.1, "sample_weight": True},
    ),
    "all else": ((9, 16, 1), "silu", "decay", "float32", 500, 64, {}),
    "amsgrad": ((9, 33, 1), "tanh", "amsgrad, decay", "float32", 403, 100, {}),
    "lion": ((9, 33, 3), "relu", "lion, decay", "float32", 403, 100, {}),
    "rates of groups": ((9, 33, 1), "relu", "adam, rates of groups", "float64", 403, 200, {}),
    "focal": ((9, 33, 2), "relu", "rate inside", "float32", 403, 100, {"loss": "focal"}),
    "penalties": ((9, 3, 70, 5), "gelu", "adam", "float32", 403, 100, {"l1": 0.1, "l2": 0.3}),
    "clipped": ((30, 130, 70, 3), "relu", "adam", "float32", 403, 100, {"clip_norm": 0.2}),
    "held": ((30, 130, 3, 1), "relu", "momentum", "float64", 403, 100, {"max_norm": 1.0}),
    "dropout": ((9, 65, 3, 1), "relu", "adam", "float32", 403, 200, {"dropout": [0.3, 0.2]}),
    "moving average": (
        (9, 65, 1), "relu", "adam", "float32", 403, 200, {"averaging": lambda: bcenet.EMA(0.9)},
    ),
    "mean of epochs": (
        (9, 65, 1), "relu", "adam", "float64", 403, 200, {"averaging": lambda: bcenet.SWA(0.0)},
    ),
    "labels missing": (
        (9, 17, 3), "relu", "adam", "float32", 403, 100,
        {"missing_labels": "ignore", "label_reduction": "sum", "offset": True},
    ),
    "batch norm": (
        (9, 33, 3, 65, 2), "relu", "adam", "float32", 403, 200, {},
        {"normalization": "batch"},
    ),
    "layer norm": (
        (9, 33, 3, 65, 1), "tanh", "adam", "float64", 403, 200, {"schedule": "cosine"},
        {"normalization": "layer"},
    ),
    "factors of columns": (
        (70, 65, 1), "relu", "adam", "float32", 403, 200, {"l2": 0.5}, {"feature_scale": True},
    ),
    "factors of columns, narrow": (
        (70, 2), "relu", "adam", "float64", 403, 200, {"l1": 0.5}, {"feature_scale": True},
    ),
    "together": (
        (30, 130, 3, 65, 2), "silu", "amsgrad, decay", "float32", 403, 100,
        {
            "loss": bcenet.FocalLoss(1.5), "label_reduction": "sum", "missing_labels": "ignore",
            "offset": True, "schedule": "one-cycle", "clip_norm": 0.5, "dropout": [0.2, 0, 0.4],
            "l1": 0.1, "l2": 0.3, "max_norm": 1.5, "averaging": lambda: bcenet.EMA(0.9),
            "pos_weight": 2.5, "label_smoothing": 0.1, "sample_weight": True,
        },
        {"normalization": ["batch", "layer", "batch"], "feature_scale": True},
    ),
}  # fmt: skip


def fitted_digest(case, *, n_threads=None, change=lambda X, y: (X, y), fit=bcenet.fit):
    layer_sizes, activation, row, dtype, n, batch_size, options, *network = SAME_BITS[case]
    net = make_network(layer_sizes, activation, dtype, **(network[0] if network else {}))
    X, y = problem(n, layer_sizes[0], layer_sizes[-1], dtype=dtype)
    options = {name: v() if callable(v) else v for name, v in options.items()}
    if options.get("sample_weight"):
        options["sample_weight"] = np.random.default_rng(0).random(n).astype(dtype)
    if options.get("offset"):
        options["offset"] = np.random.default_rng(1).normal(size=y.shape).astype(dtype)
    if options.get("missing_labels"):
        y[::5] = np.nan
    X, y = change(X, y)
    history = fit(
        net, X, y, optimizer=make_optimizer(row), batch_size=batch_size, epochs=2,
        n_threads=n_threads, random_state=4, **options,
    )  # fmt: skip
    return digest(np.concatenate([net.parameters, net.statistics])), history.loss, history.penalty


@pytest.mark.parametrize("case", SAME_BITS)
def test_d1_one_digest_for_all_thread_counts(isa, case):
    expected = fitted_digest(case, n_threads=1)
    for n_threads in [*THREADS[1:], None]:
        assert fitted_digest(case, n_threads=n_threads) == expected


def staged_fit(*arguments, **options):
    """`bcenet.fit` with the whole gradient in memory before the first update."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(bcenet.fit).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return bcenet.training._fit(*arguments, **{**defaults, **options}, stage="staged")


@pytest.mark.parametrize("case", SAME_BITS)
def test_d1_one_digest_for_the_plain_and_the_staged_step(isa, case):
    expected = fitted_digest(case)
    for n_threads in (1, 2, 5):
        assert fitted_digest(case, n_threads=n_threads, fit=staged_fit) == expected


@pytest.mark.skipif(
    not {"v3", "v4"} <= set(bcenet._dispatch.available()),
    reason="compares AVX2 with AVX-512 and needs a processor with both",
)
@pytest.mark.parametrize("case", SAME_BITS)
def test_d2_one_digest_for_v3_and_v4(case):
    digests = []
    for name in ("v3", "v4"):
        with bcenet._dispatch.use(name):
            digests.append(fitted_digest(case, n_threads=2))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["the published workload", "wide", "float64", "together"])
def test_d2_one_digest_for_all_layouts(case, layout):
    change = LAYOUTS[layout]
    expected = fitted_digest(case)
    assert fitted_digest(case, change=lambda X, y: (change(X), y)) == expected
    # xgboost 3841, LightGBM 1205: strided labels.
    assert fitted_digest(case, change=lambda X, y: (X, change(y))) == expected


@pytest.mark.parametrize("X_dtype", [">f4", "f8", ">f8"])
@pytest.mark.parametrize("y_dtype", ["f4", bool, "i1", ">i8"])
def test_d2_one_digest_for_all_dtypes(X_dtype, y_dtype):
    # xgboost 12433: byte-swapped input was misread.
    case = "the published workload"
    got = fitted_digest(case, change=lambda X, y: (X.astype(X_dtype), y.astype(y_dtype)))
    assert got == fitted_digest(case)


def test_d2_one_digest_for_a_memory_map(tmp_path):
    def change(X, y):
        np.save(tmp_path / "X.npy", np.asfortranarray(X))
        np.save(tmp_path / "y.npy", y)
        return (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "Xy")

    assert fitted_digest("wide", change=change) == fitted_digest("wide")


def test_input_is_not_written_to():
    X, y = problem(203)
    before = X.copy(), y.copy()
    X.flags.writeable = y.flags.writeable = False
    bcenet.fit(make_network(), X, y, epochs=1)
    assert np.array_equal(X, before[0])
    assert np.array_equal(y, before[1])


# ------------------------------------------------------------------------------- callbacks


def test_callbacks_are_called_in_turn():
    calls = []

    class Recorder:
        def on_fit_begin(self, state):
            calls.append(("begin", state.epoch, state.epochs))

        def on_epoch_end(self, state):
            assert state.network is net
            assert state.history.loss[-1] == state.loss
            assert state.validation_loss == state.history.validation_loss[-1]
            assert state.seconds > 0
            calls.append(("epoch", state.epoch, state.loss))

        def on_fit_end(self, state):
            calls.append(("end", state.epoch, state.loss))

    class OnlyTheEnd:
        def on_fit_end(self, state):
            calls.append(("second end", state.epoch, state.loss))

    net = make_network()
    X, y = problem()
    history = bcenet.fit(
        net, X, y, epochs=2, validation_data=(X, y), callbacks=[Recorder(), OnlyTheEnd()]
    )
    assert calls == [
        ("begin", 0, 2),
        ("epoch", 1, history.loss[0]),
        ("epoch", 2, history.loss[1]),
        ("end", 2, history.loss[1]),
        ("second end", 2, history.loss[1]),
    ]


def test_a_bare_callable_is_called_after_each_epoch():
    seen = []
    net = make_network()
    X, y = problem()
    history = bcenet.fit(
        net, X, y, epochs=3,
        callbacks=[lambda state: seen.append((state.epoch, state.loss, state.validation_loss))],
    )  # fmt: skip
    assert seen == [(epoch, history.loss[epoch - 1], None) for epoch in (1, 2, 3)]


@pytest.mark.parametrize("returned", [True, np.True_])
def test_true_stops(returned):
    X, y = problem()
    stopped, whole = make_network(), make_network()
    ends = []

    class Stop:
        def on_epoch_end(self, state):
            return returned if state.epoch == 2 else None

        def on_fit_end(self, state):
            ends.append(state.epoch)

    history = bcenet.fit(stopped, X, y, epochs=9, callbacks=[Stop()], random_state=0)
    assert len(history.loss) == 2
    assert ends == [2]
    bcenet.fit(whole, X, y, epochs=2, random_state=0)
    assert np.array_equal(stopped.parameters, whole.parameters)


def test_an_error_in_a_callback_comes_through():
    net, twin = make_network(), make_network()
    X, y = problem()

    def fail(state):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        bcenet.fit(net, X, y, epochs=3, callbacks=[fail], random_state=0)
    bcenet.fit(twin, X, y, epochs=1, random_state=0)
    assert np.array_equal(net.parameters, twin.parameters)
    bcenet.fit(net, X, y, epochs=1)


def test_parameters_are_published_at_the_end_of_an_epoch():
    net = make_network()
    X, y = problem()
    published = [digest(net.parameters)]
    bcenet.fit(net, X, y, epochs=3, callbacks=[lambda s: published.append(digest(net.parameters))])
    assert len(set(published)) == 4
    assert published[-1] == digest(net.parameters)


# ------------------------------------------------------------------------------ N4: overflow


def diverging(kind, activation, row, dtype):
    """(network, X, y, optimizer, layer) of a fit that soon leaves the finite numbers.

    A number as `kind` is the layer whose logits overflow in the first batch; "rate" is a
    learning rate with which a later batch overflows.
    """
    net = make_network((7, 6, 5, 1), activation, dtype)
    X, y = problem(203, dtype=dtype)
    name, options, _ = OPTIMIZERS[row]
    largest = float(np.finfo(dtype).max)
    if kind == "rate":
        return net, X, y, CLASSES[name](learning_rate=largest**0.45, **options), None
    X = np.abs(X) + 1
    for layer in range(kind):  # every activation is at least 0.7 in front of that layer
        net.coefs[layer][...] = 1 / net.coefs[layer].shape[0]
        net.intercepts[layer][...] = 1
    net.coefs[kind][...] = largest / 2
    net.intercepts[kind][...] = 0
    return net, X, y, CLASSES[name](**options), kind


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_n4_overflow_in_the_first_batch_names_the_layer(isa, activation, kind, dtype):
    net, X, y, optimizer, layer = diverging(kind, activation, "adam", dtype)
    before = net.parameters.copy()
    if activation in ("tanh", "sigmoid") and layer < 2:
        # A bounded activation turns the infinity into 1: nothing diverges.
        history = bcenet.fit(net, X, y, optimizer=optimizer, batch_size=40, epochs=3)
        assert np.isfinite(history.loss).all()
        assert np.isfinite(net.parameters).all()
        return
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(net, X, y, optimizer=optimizer, batch_size=40, epochs=3)
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 0, layer)
    for word in ("epoch 1", "batch 0", f"layer {layer}"):
        assert word in str(caught.value)
    assert np.array_equal(net.parameters, before)


def good_steps_of_the_twin(net, X, y, row, learning_rate, batch_size):
    """How many batches the twin, in the network's own dtype, runs before a bad one."""
    name, options, _ = OPTIMIZERS[row]
    options = {**options, "learning_rate": learning_rate}
    factors = options.pop("rate_factors", None)
    batches = np.split(np.arange(len(X)), range(batch_size, len(X), batch_size))
    with np.errstate(all="ignore"):
        for steps in range(1, len(batches) + 1):
            w, history = ref.fit(
                net.parameters, net.layer_sizes, net.activations, X, y, order=batches[:steps],
                batch_size=batch_size, optimizer=name, optimizer_options=options,
                rate_factors=factors,
            )  # fmt: skip
            if not np.isfinite([*w, history["loss"][-1]]).all():
                return steps - 1
    return None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "softplus"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_n4_divergence_keeps_the_weights_before_the_bad_step(activation, row, dtype, n_threads):
    net, X, y, optimizer, _ = diverging("rate", activation, row, dtype)
    start = net.parameters.copy()
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(
            net, X, y, optimizer=optimizer, batch_size=20, shuffle=False, n_threads=n_threads
        )
    assert np.isfinite(net.parameters).all()
    error = caught.value
    again = make_network((7, 6, 5, 1), activation, dtype)
    assert np.array_equal(again.parameters, start)
    assert error.epoch == 1
    assert error.batch == good_steps_of_the_twin(again, X, y, row, optimizer.learning_rate, 20)
    # The same weights come from a fit of only the good batches.
    rows = slice(0, error.batch * 20)
    if error.batch:
        bcenet.fit(
            again, X[rows], y[rows], optimizer=diverging("rate", activation, row, dtype)[3],
            batch_size=20, epochs=1, shuffle=False,
        )  # fmt: skip
    assert np.array_equal(net.parameters, again.parameters)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "tanh"])
@pytest.mark.parametrize("growth", [3, 10, 50])
def test_n4_divergence_in_a_later_epoch(activation, growth, dtype):
    # Weight decay of 1 + growth turns W into -growth W at every step.
    def optimizer():
        return bcenet.SGD(learning_rate=1.0, momentum=0.5, weight_decay=1.0 + growth)

    X, y = problem(203, dtype=dtype)
    net = make_network((7, 6, 5, 1), activation, dtype)
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(net, X, y, optimizer=optimizer(), batch_size=40, epochs=200, random_state=8)
    again = make_network((7, 6, 5, 1), activation, dtype)
    steps = (caught.value.epoch - 1) * 6 + caught.value.batch
    assert steps > 3
    fit_steps(again, X, y, optimizer(), steps, batch_size=40, seed=8)
    assert np.isfinite(net.parameters).all()
    assert np.array_equal(net.parameters, again.parameters)
    if dtype == "float64":  # one more step is bad for the twin too
        order = itertools.chain.from_iterable(
            np.split(ref.row_order(8, epoch, 203), range(40, 203, 40)) for epoch in range(200)
        )
        start = make_network((7, 6, 5, 1), activation, dtype).parameters
        options = {"learning_rate": 1.0, "momentum": 0.5, "weight_decay": 1.0 + growth}
        with np.errstate(all="ignore"):
            w, history = ref.fit(
                start, net.layer_sizes, net.activations, X, y, batch_size=40,
                order=list(itertools.islice(order, steps + 1)), optimizer_options=options,
            )  # fmt: skip
        assert not np.isfinite([*w, history["loss"][-1]]).all()
        # A batch's sum of losses may overflow a step before one of them does.
        assert np.isfinite(history["loss"][:-2]).all()


def test_n4_the_network_can_be_used_after_divergence():
    net, X, y, optimizer, _ = diverging("rate", "relu", "sgd", "float32")
    with pytest.raises(bcenet.NonFiniteError):
        bcenet.fit(net, X, y, optimizer=optimizer)
    net.parameters[:] = make_network((7, 6, 5, 1), "relu", "float32").parameters
    assert np.isfinite(bcenet.fit(net, X, y, epochs=2).loss).all()


# ------------------------------------------------------------------ N5: floating-point state

x86_64_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="reads MXCSR out of glibc's fenv_t for x86-64",
)


def floating_point_controls():
    """(x87 control word, MXCSR without its sticky exception flags) of this thread."""
    environment = (ctypes.c_uint16 * 16)()
    assert ctypes.CDLL("libm.so.6").fegetenv(environment) == 0
    mxcsr = environment[14] | environment[15] << 16
    return environment[0], mxcsr & ~0x3F


@x86_64_linux
@pytest.mark.parametrize("n_threads", [1, 4])
def test_n5_fit_leaves_the_floating_point_state(isa, n_threads):
    before = floating_point_controls()
    assert before[1] & 0x1F80 == 0x1F80  # all exceptions masked, so this is MXCSR
    during = []
    net = make_network(dtype="float32")
    X, y = problem(203, dtype="float32")
    bcenet.fit(
        net, X, y, n_threads=n_threads,
        callbacks=[lambda state: during.append(floating_point_controls())],
    )  # fmt: skip
    net.predict_proba(X, n_threads=n_threads)
    assert set(during) == {before}
    assert floating_point_controls() == before
    assert np.float64(5e-324) * np.float64(1) == 5e-324  # nothing flushes subnormals


@x86_64_linux
def test_n5_import_leaves_the_floating_point_state():
    code = (
        "import ctypes\n"
        "def state():\n"
        "    e = (ctypes.c_uint16 * 16)()\n"
        "    ctypes.CDLL('libm.so.6').fegetenv(e)\n"
        "    return e[0], (e[14] | e[15] << 16) & ~0x3F\n"
        "before = state()\n"
        "import bcenet\n"
        "assert state() == before, (before, state())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ------------------------------------------------------------------------ T2, T3: threads


def threads_alive():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("n_threads", [1, 2, 8, None])
def test_t3_no_thread_is_alive_after_fit(n_threads):
    X, y = problem(2_003)
    before = threads_alive()
    bcenet.fit(make_network(), X, y, n_threads=n_threads, epochs=2)
    make_network().predict_proba(X, n_threads=n_threads)
    assert threads_alive() == before


def wait_for_child(pid, seconds):
    """The child's exit code; a child that hangs is killed and fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the child hung for {seconds} s")


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_t3_a_child_forked_between_epochs_goes_on():
    """It has no threads but its own, and starts others."""
    X, y = problem(400, 7)

    def train(fork):
        net = make_network((7, 5, 1))
        children = []

        def callback(state):
            if fork and state.epoch == 2:
                children.append(os.fork())

        bcenet.fit(
            net, X, y, batch_size=50, epochs=4, n_threads=3, callbacks=callback, random_state=0
        )
        return net, children

    expected = digest(train(False)[0].parameters)
    net, children = train(True)
    same = digest(net.parameters) == expected
    if children == [0]:
        os._exit(0 if same else 1)
    assert same
    assert wait_for_child(children[0], 10) == 0


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_t3_fit_fork_fit_in_the_child(rounds):
    X, y = problem(403)

    def fit(seed):
        net = make_network()
        bcenet.fit(net, X, y, n_threads=2, epochs=2, random_state=seed)
        return digest(net.parameters)

    for seed in range(rounds):
        expected = fit(seed)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if fit(seed) == expected else 3)
        assert wait_for_child(pid, 10) == 0
        assert fit(seed) == expected


@pytest.mark.parametrize("rounds", [10, pytest.param(1_000, marks=pytest.mark.slow)])
def test_t2_two_fits_of_one_network(rounds):
    X, y = problem(403)
    one, two = make_network(), make_network()
    bcenet.fit(one, X, y, epochs=3, random_state=0)
    two.parameters[:] = one.parameters
    bcenet.fit(two, X, y, epochs=3, random_state=0)
    for _ in range(rounds):
        net = make_network()
        barrier, refused = threading.Barrier(2), []

        def work(net=net, barrier=barrier, refused=refused):
            barrier.wait()
            try:
                bcenet.fit(net, X, y, epochs=3, random_state=0)
            except RuntimeError as error:
                refused.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) <= 1
        expected = one if refused else two
        assert np.array_equal(net.parameters, expected.parameters)


def test_t2_a_fit_inside_a_callback_of_its_own_is_refused():
    X, y = problem()
    net, other = make_network(), make_network()
    optimizer = bcenet.Adam()
    with pytest.raises(RuntimeError, match="network"):
        bcenet.fit(net, X, y, callbacks=[lambda state: bcenet.fit(net, X, y)])
    with pytest.raises(RuntimeError, match="optimizer"):
        bcenet.fit(
            net, X, y, optimizer=optimizer,
            callbacks=[lambda state: bcenet.fit(other, X, y, optimizer=optimizer)],
        )  # fmt: skip
    bcenet.fit(net, X, y, optimizer=optimizer, callbacks=[lambda state: bcenet.fit(other, X, y)])


def test_t2_prediction_during_a_fit_sees_whole_epochs():
    X, y = problem(2_003, 28)
    net = make_network((28, 64, 32, 1))
    rows = X[:50]
    allowed, seen = [net.predict_proba(rows).tobytes()], []
    finished = threading.Event()

    def work():
        # A prediction of a copy, made while the fit is between two epochs.
        bcenet.fit(
            net, X, y, epochs=60, n_threads=2, random_state=0,
            callbacks=[lambda state: allowed.append(net.predict_proba(rows).tobytes())],
        )  # fmt: skip
        finished.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not finished.is_set():
        seen.append(net.predict_proba(rows).tobytes())
    thread.join()
    assert len(set(allowed)) == 61
    assert set(seen) <= set(allowed)
    assert len(set(seen)) > 2


# ----------------------------------------------------------------------------- S1: Ctrl-C


def interrupted_fit(net, X, y, optimizer, delay, **options):
    """Fit until a SIGINT after `delay` seconds; returns the seconds from it to the return."""
    sent, ended = [], threading.Event()

    def interrupt():
        if not ended.wait(delay):
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        bcenet.fit(net, X, y, optimizer=optimizer, epochs=10**6, **options)
    except KeyboardInterrupt:
        latency = time.monotonic() - sent[0]
    finally:
        ended.set()
        thread.join()
    return latency


def fit_steps(net, X, y, optimizer, steps, *, batch_size, seed, **options):
    """Exactly so many steps, in the order of a shuffled fit with this seed."""
    for epoch in itertools.count():
        rows = bcenet.training.row_order(seed, epoch, len(X))[: steps * batch_size]
        bcenet.fit(
            net, X[rows], y[rows], optimizer=optimizer, batch_size=batch_size, epochs=1,
            shuffle=False, **options,
        )  # fmt: skip
        steps -= -(-len(rows) // batch_size)
        if steps == 0:
            return


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_s1_ctrl_c_leaves_a_usable_network(rounds, n_threads):
    X, y = problem(5_003, 28, dtype="float32")
    options = {"batch_size": 200, "n_threads": n_threads}
    moments = random.Random(n_threads)
    latencies = []
    for _ in range(rounds):
        net = make_network((28, 64, 32, 1), dtype="float32")
        optimizer = bcenet.Adam()
        threads = threads_alive()
        latencies.append(
            interrupted_fit(
                net, X, y, optimizer, moments.uniform(0, 0.05), random_state=1, **options
            )
        )
        assert threads_alive() == threads
        assert np.isfinite(net.parameters).all()
        fewer = make_network((28, 64, 32, 1), dtype="float32")
        if optimizer.step:
            fit_steps(fewer, X, y, bcenet.Adam(), optimizer.step, batch_size=200, seed=1)
        assert np.array_equal(net.parameters, fewer.parameters)
        bcenet.fit(net, X, y, epochs=1, **options)
    assert max(latencies) < 1
    assert sorted(latencies)[int(0.99 * (rounds - 1))] < 0.1


def interrupted_at_line(k, net, X, y, optimizer, **options):
    """Fit with a KeyboardInterrupt in front of the k-th line of bcenet's Python code.

    Returns where that was, or None if the fit ended before.
    """
    package = os.path.dirname(bcenet.__file__)
    lines, where = itertools.count(1), []

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line" and next(lines) == k:
            where.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        bcenet.fit(net, X, y, optimizer=optimizer, **options)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return where[0] if where else None


def test_s1_ctrl_c_between_any_two_lines():
    # Network and optimizer hold one and the same step, and neither stays locked.
    X, y = problem(64)
    options = {"epochs": 2, "batch_size": 64, "random_state": 1}
    after = {}
    for steps in range(3):
        net, optimizer = make_network(), bcenet.Adam()
        if steps:
            bcenet.fit(net, X, y, optimizer=optimizer, **{**options, "epochs": steps})
        after[steps] = [net.parameters, *optimizer.state.values()]
    wrong = {}
    for k in itertools.count(1):
        net, optimizer = make_network(), bcenet.Adam()
        where = interrupted_at_line(k, net, X, y, optimizer, **options)
        if where is None:
            break
        found = [net.parameters, *optimizer.state.values()]
        expected = after[optimizer.step]
        if not all(map(np.array_equal, found, expected)):
            wrong[where] = f"the parts of step {optimizer.step} are not of one step"
        try:
            bcenet.fit(net, X, y, optimizer=optimizer, **options)
        except RuntimeError as error:
            wrong[where] = str(error)
    assert k > 100
    assert wrong == {}


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGINT])
def test_s1_a_handler_that_returns_does_not_stop_a_fit(signum):
    X, y = problem(5_003, 28, dtype="float32")
    undisturbed, net = (make_network((28, 64, 32, 1), dtype="float32") for _ in range(2))
    bcenet.fit(undisturbed, X, y, epochs=100, random_state=0)
    calls = []
    before = signal.signal(signum, lambda *_: calls.append(time.monotonic()))
    try:
        thread = threading.Timer(0.02, os.kill, (os.getpid(), signum))
        thread.start()
        bcenet.fit(net, X, y, epochs=100, random_state=0)
        thread.join()
    finally:
        signal.signal(signum, before)
    assert len(calls) == 1
    assert np.array_equal(net.parameters, undisturbed.parameters)


@pytest.mark.slow
def test_s1_ctrl_c_in_large_steps():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8_192, 2_048)).astype("float32")
    y = rng.integers(0, 2, 8_192)
    net = bcenet.Network([2_048, 2_048, 2_048, 1], random_state=0)
    latencies = [
        interrupted_fit(net, X, y, bcenet.Adam(), delay, batch_size=8_192)
        for delay in rng.uniform(0.2, 3, 20)
    ]
    assert np.isfinite(net.parameters).all()
    # One parameter phase, which is finished: two of a step's five products, on one thread at worst.
    begun = time.monotonic()
    bcenet.fit(net, X, y, batch_size=8_192, epochs=1, n_threads=1)
    phase = (time.monotonic() - begun) * 2 / 5
    assert max(latencies) < max(1, phase)


# ------------------------------------------------------------------------------ bad input

ONES = np.ones(30)
BAD = {
    "X features": ({"X": np.zeros((30, 6))}, ValueError, r"X.*7.*\(30, 6\)"),
    "X NaN": ({"X": np.where(np.arange(210) == 31, np.nan, 0).reshape(30, 7)}, ValueError,
              r"X.*(nan|NaN).*row 4.*column 3"),
    "X inf": ({"X": np.where(np.arange(210) == 31, np.inf, 0).reshape(30, 7)}, ValueError,
              r"X.*inf.*row 4.*column 3"),
    "X objects": ({"X": np.zeros((30, 7), object)}, TypeError, r"X.*object"),
    "no rows": ({"X": np.zeros((0, 7)), "y": np.zeros(0)}, ValueError, r"X.*row"),
    "y (n, 1)": ({"y": np.ones((30, 1))}, ValueError, r"y.*\(30,\).*\(30, 1\)"),
    "y's length": ({"y": np.ones(29)}, ValueError, r"y.*30.*29"),
    "y above 1": ({"y": ONES * 2}, ValueError, r"y.*\[0, 1\].*2"),
    "y below 0": ({"y": -ONES}, ValueError, r"y.*\[0, 1\].*-1"),
    "y NaN": ({"y": ONES * np.nan}, ValueError, r"y.*nan"),
    "y text": ({"y": np.full(30, "yes")}, TypeError, r"y.*"),
    "one class only": ({"y": ONES}, ValueError, r"y.*class"),
    "weights below 0": ({"sample_weight": -ONES}, ValueError, r"sample_weight.*-1"),
    "weights NaN": ({"sample_weight": ONES * np.nan}, ValueError, r"sample_weight.*nan"),
    "weights' length": ({"sample_weight": np.ones(29)}, ValueError, r"sample_weight.*29"),
    "weights (n, 1)": ({"sample_weight": np.ones((30, 1))}, ValueError,
                       r"sample_weight.*\(30, 1\)"),
    "no weight at all": ({"sample_weight": np.zeros(30)}, ValueError, r"sample_weight"),
    "pos_weight": ({"pos_weight": -1}, ValueError, r"pos_weight.*-1"),
    "pos_weight's shape": ({"pos_weight": [1, 2]}, ValueError, r"pos_weight.*\(2,\)"),
    "label_smoothing": ({"label_smoothing": 1.1}, ValueError, r"label_smoothing.*1\.1"),
    "optimizer": ({"optimizer": "adma"}, ValueError, r"optimizer.*'adma'.*'adam'"),
    "optimizer's type": ({"optimizer": 3}, (TypeError, ValueError), r"optimizer.*3"),
    "optimizer's class": ({"optimizer": bcenet.Adam}, (TypeError, ValueError), r"optimizer"),
    "learning_rate": ({"learning_rate": -0.1}, ValueError, r"learning_rate.*-0\.1"),
    "learning_rate NaN": ({"learning_rate": np.nan}, ValueError, r"learning_rate.*nan"),
    "learning_rate text": ({"learning_rate": "fast"}, TypeError, r"learning_rate.*fast"),
    "batch_size": ({"batch_size": 0}, ValueError, r"batch_size.*0"),
    "batch_size text": ({"batch_size": "auto"}, TypeError, r"batch_size.*auto"),
    "batch_size fraction": ({"batch_size": 2.5}, TypeError, r"batch_size.*2\.5"),
    "epochs": ({"epochs": 0}, ValueError, r"epochs.*0"),
    "epochs fraction": ({"epochs": 1.5}, TypeError, r"epochs.*1\.5"),
    "n_threads": ({"n_threads": 0}, ValueError, r"n_threads.*0"),
    "shuffle": ({"shuffle": "yes"}, TypeError, r"shuffle.*yes"),
    "random_state": ({"random_state": -1}, ValueError, r"random_state.*-1"),
    "callbacks": ({"callbacks": [3]}, TypeError, r"callbacks.*3"),
    "validation_data": ({"validation_data": 3}, (TypeError, ValueError), r"validation_data"),
    "validation X": ({"validation_data": (np.zeros((9, 6)), np.ones(9))}, ValueError,
                     r"validation_data.*7.*\(9, 6\)"),
    "validation y": ({"validation_data": (np.zeros((9, 7)), np.ones((9, 1)))}, ValueError,
                     r"validation_data.*\(9, 1\)"),
    "validation NaN": ({"validation_data": (np.full((9, 7), np.nan), np.ones(9))}, ValueError,
                       r"validation_data.*row 0.*column 0"),
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


def test_something_else_than_a_network():
    with pytest.raises(TypeError, match=r"net.*Network.*'net'"):
        bcenet.fit("net", np.zeros((30, 7)), np.resize([0, 1], 30))


BAD_OPTIMIZERS = {
    "rate": (bcenet.SGD, {"learning_rate": -1}, r"learning_rate.*-1"),
    "momentum": (bcenet.SGD, {"momentum": 1.5}, r"momentum.*1\.5"),
    "negative momentum": (bcenet.SGD, {"momentum": -0.1}, r"momentum.*-0\.1"),
    "nesterov without momentum": (bcenet.SGD, {"nesterov": True}, r"momentum.*nesterov"),
    "decay": (bcenet.SGD, {"weight_decay": -1}, r"weight_decay.*-1"),
    "beta_1": (bcenet.Adam, {"beta_1": 1.0}, r"beta_1.*1"),
    "beta_2": (bcenet.Adam, {"beta_2": -0.5}, r"beta_2.*-0\.5"),
    "epsilon": (bcenet.Adam, {"epsilon": -1e-8}, r"epsilon.*-1e-08"),
    "AdamW's decay": (bcenet.AdamW, {"weight_decay": np.inf}, r"weight_decay.*inf"),
    "rho": (bcenet.RMSprop, {"rho": 1.0}, r"rho.*1"),
}


@pytest.mark.parametrize("case", BAD_OPTIMIZERS)
def test_bad_optimizers(case):
    optimizer, options, message = BAD_OPTIMIZERS[case]
    with pytest.raises(ValueError, match=message):
        optimizer(**options)

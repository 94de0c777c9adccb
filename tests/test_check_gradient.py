"""check_gradient: right gradients pass, wrong ones fail, and every planted mistake is named."""

from __future__ import annotations

import importlib.util
import json
import pathlib

import numpy as np
import pytest
import reference as ref
from helpers import make_network, problem
from planted import VARIANTS, backward, places

import bcenet
from bcenet.gradient_check import MISTAKES
from bcenet.network import Network

DTYPES = ["float32", "float64"]


def rows_of(net, n=40, seed=3):
    return problem(n, net.layer_sizes[0], net.layer_sizes[-1], seed=seed)


def as_columns(gradients):
    """What np.dot(W, A) with samples in columns gives: dW (fan_out, fan_in), db (fan_out, 1)."""
    return [
        (dw.T, np.reshape(db, (-1, 1)) if np.ndim(db) == 1 else np.transpose(db))
        for dw, db in gradients
    ]


def differ(one, other):
    """The layers of two gradients that are not the same to 1e-5 of the largest entry."""
    return [
        index
        for index, pairs in enumerate(zip(one, other, strict=True))
        if not all(
            np.shape(a) == np.shape(b) and np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1e-5)
            for a, b in zip(*pairs, strict=True)
        )
    ]


# -------------------------------------------------------------------------- right gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_ours_is_right(activation, outputs, dtype):
    net = make_network((7, 6, 5, outputs), activation, dtype)
    before = net.parameters.copy()
    X, y = problem(60, outputs=outputs, dtype=dtype)
    report = bcenet.check_gradient(net, X, y)
    assert report.passed
    assert [layer.index for layer in report.layers] == [0, 1, 2]
    assert all(layer.passed and layer.mistake is None for layer in report.layers)
    # The complex step has no error of its own.
    limit = 1e-5 if dtype == "float32" else 1e-13
    assert max(layer.max_relative_error for layer in report.layers) <= limit
    assert [layer.size for layer in report.layers] == [48, 35, 6 * outputs]
    assert all(layer.checked + layer.skipped == layer.size for layer in report.layers)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gains_shifts_and_factors_are_checked_too(activation, normalization):
    net = make_network(
        (5, 6, 4, 2), activation, normalization=normalization, feature_scale=True
    )  # fmt: skip
    X, y = rows_of(net)
    assert bcenet.check_gradient(net, X, y).passed
    for part, layer, name in [("norms", 0, "dgain"), ("scale", 0, "dscale"), ("norms", 1, "dgain")]:
        gradient = net.loss_gradient(X, y)[1]
        arrays = gradient.scale if part == "scale" else gradient.norms[layer][0]
        arrays[2] += 0.01
        report = bcenet.check_gradient(net, X, y, gradient)
        assert [each.passed for each in report.layers].index(False) == layer
        assert report.layers[layer].where == f"{name}[2]"
    # A list of (dW, db) has no gains; a mistake in it is found through the normalisations.
    gradient = net.loss_gradient(X, y)[1]
    pairs = list(zip(gradient.coefs, gradient.intercepts, strict=True))
    assert bcenet.check_gradient(net, X, y, pairs).passed
    pairs[1] = (-pairs[1][0], -pairs[1][1])
    report = bcenet.check_gradient(net, X, y, pairs)
    assert [layer.mistake for layer in report.layers] == [None, "sign", None]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_weights_of_the_loss(activation, outputs):
    net = make_network((4, 5, outputs), activation)
    X, y = rows_of(net)
    rng = np.random.default_rng(0)
    for weight in (rng.random(40), rng.random(y.shape)):
        options = {"sample_weight": weight, "pos_weight": 2.5, "label_smoothing": 0.1}
        gradient = net.loss_gradient(X, y, **options)[1]
        assert bcenet.check_gradient(net, X, y, **options).passed
        assert bcenet.check_gradient(net, X, y, gradient, **options).passed
        assert not bcenet.check_gradient(net, X, y, gradient).passed
        summed = [
            (weight.sum() * dw, weight.sum() * db)
            for dw, db in zip(gradient.coefs, gradient.intercepts, strict=True)
        ]
        if weight.shape == y.shape:
            report = bcenet.check_gradient(net, X, y, summed, **options)
            assert {layer.mistake for layer in report.layers} == {"missing-batch-mean"}


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_columns_of_any_size(activation, scale):
    net = make_network((4, 6, 5, 1), activation)
    X, y = rows_of(net)
    net.coefs[0][:] /= scale
    assert bcenet.check_gradient(net, X * scale, y).passed
    gradient = backward(net, X * scale, y)
    assert bcenet.check_gradient(net, X * scale, y, gradient).passed


@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_a_gradient_that_vanishes(activation):
    """Behind small weights nothing is lost: no difference of losses is taken."""
    net = make_network((4, 6, 5, 1), activation)
    X, y = rows_of(net)
    for weights in net.coefs[1:]:
        weights *= 1e-5
    right = backward(net, X, y)
    assert 0 < np.abs(right[0][0]).max() < 1e-9
    assert bcenet.check_gradient(net, X, y, right).passed
    right[0][0][1, 2] *= 1 + 1e-4
    report = bcenet.check_gradient(net, X, y, right)
    assert [layer.passed for layer in report.layers] == [right[0][0][1, 2] == 0, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_that_is_next_to_nothing(dtype):
    """At a minimum what is left of the sums is their rounding."""
    net = bcenet.Network([3, 1], dtype=dtype, random_state=0)
    net.parameters[:] = 0
    X, y = rows_of(net, 200)
    rows = np.column_stack((X, np.ones(200)))
    for _ in range(10):  # Newton's method
        p = net.predict_proba(X).astype(float)
        curvature = (rows * (p * (1 - p))[:, np.newaxis]).T @ rows
        net.parameters[:] -= np.linalg.solve(curvature, rows.T @ (p - y)).astype(dtype)
    assert np.abs(net.loss_gradient(X, y)[1].flat).max() < 1e-6
    assert bcenet.check_gradient(net, X, y).passed
    # p - y where every p rounds to its label.
    net.coefs[0][:] = [[60], [0], [0]]
    sure = X[np.abs(X[:, 0]) > 0.7]
    labels = (sure[:, 0] > 0).astype(dtype)
    assert bcenet.check_gradient(net, sure, labels, backward(net, sure, labels)).passed


@pytest.mark.parametrize("y", [np.zeros(30), np.ones(30), np.full(30, 0.25)])
def test_labels_of_one_kind(y):
    net = make_network((4, 5, 1))
    X = rows_of(net, 30)[0]
    assert bcenet.check_gradient(net, X, y).passed
    assert bcenet.check_gradient(net, X[:1], y[:1]).passed
    flipped = [(-dw, -db) for dw, db in backward(net, X, y)]
    assert bcenet.check_gradient(net, X, y, flipped).layers[1].mistake == "sign"


class TestTorch:
    pytestmark = pytest.mark.parity

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("outputs", [1, 3])
    @pytest.mark.parametrize("name", ["ReLU", "Tanh", "SiLU", "GELU"])
    def test_autograd_is_right(self, name, outputs, dtype):
        import torch

        kind = getattr(torch, dtype)
        layers = [torch.nn.Linear(5, 8), getattr(torch.nn, name)(), torch.nn.Linear(8, 8)]
        layers += [getattr(torch.nn, name)(), torch.nn.Linear(8, outputs)]
        torch.manual_seed(0)
        model = torch.nn.Sequential(*layers).to(kind)
        net = bcenet.Network([5, 8, 8, outputs], name.lower(), dtype=dtype)
        linear = model[::2]
        for index, layer in enumerate(linear):
            torch.nn.init.normal_(layer.weight, std=0.5)
            net.coefs[index][:] = layer.weight.detach().numpy().T
            net.intercepts[index][:] = layer.bias.detach().numpy()
        X, y = rows_of(net)
        targets = torch.tensor(y, dtype=kind).reshape(-1, outputs)
        loss = torch.nn.BCEWithLogitsLoss()(model(torch.tensor(X, dtype=kind)), targets)
        loss.backward()
        pairs = [(layer.weight.grad, layer.bias.grad) for layer in linear]
        report = bcenet.check_gradient(net, X, y, pairs)
        assert report.passed
        assert report.orientation == "columns"
        assert {layer.mistake for layer in report.layers} == {None}
        with torch.no_grad():
            pairs[1] = (pairs[1][0].T, pairs[1][1])
        report = bcenet.check_gradient(net, X, y, pairs)
        assert [layer.mistake for layer in report.layers] == [None, "transposed-weights", None]


# -------------------------------------------------------------------------- planted mistakes

ARCHITECTURES = {
    "3-5-1 relu": ((3, 5, 1), "relu"),
    "4-4-4-1 tanh": ((4, 4, 4, 1), "tanh"),
    "6-8-5-3 leaky_relu": ((6, 8, 5, 3), "leaky_relu"),
    "5-5-5-5-2 silu, sigmoid, elu": ((5, 5, 5, 5, 2), ("silu", "sigmoid", "elu")),
    "3-6-6-4 relu": ((3, 6, 6, 4), "relu"),
    "4-7-7-7-1 gelu": ((4, 7, 7, 7, 1), "gelu"),
}
PLANTED = [
    pytest.param(
        sizes, activation, mistake, variant, place, id=f"{mistake}, {variant}, {name}, {place}"
    )
    for name, (sizes, activation) in ARCHITECTURES.items()
    for mistake, variants in VARIANTS.items()
    for variant in variants
    for place in places(Network(sizes, activation), mistake, variant)
]


@pytest.mark.parametrize("mistake", VARIANTS)
def test_every_mistake_is_planted_in_three_architectures(mistake):
    assert len({case.values[0] for case in PLANTED if case.values[2] == mistake}) >= 3


def centre(net, X):
    """Logits of both signs, so that a mask taken from them is one."""
    logits = net.decision_function(X).reshape(len(X), -1)
    net.intercepts[-1][:] -= np.median(logits, axis=0)


def expected_name(net, mistake, variant, layer):
    """Relu's mask once more is relu's mask: then what is missing is the layer's own."""
    repeated = variant == "next layer's" and net.activations[layer + 1] in ("relu", "identity")
    return "missing-activation-derivative" if repeated else mistake


@pytest.mark.parametrize(("sizes", "activation", "mistake", "variant", "place"), PLANTED)
def test_a_planted_mistake_is_named(sizes, activation, mistake, variant, place):
    net = make_network(sizes, activation, seed=5)
    X, y = rows_of(net)
    centre(net, X)
    wrong = backward(net, X, y, mistake, variant, *place)
    touched = differ(wrong, backward(net, X, y))
    assert touched
    name = expected_name(net, mistake, variant, place[0])
    for given, orientation, declared in [
        (wrong, "rows", "rows"),
        (as_columns(wrong), "columns", "auto"),
    ]:
        report = bcenet.check_gradient(net, X, y, given, declared)
        assert not report.passed
        assert report.orientation == orientation
        for layer in report.layers:
            assert layer.passed == (layer.index not in touched)
            assert layer.mistake == (name if layer.index in touched else None)
            assert layer.passed or layer.index <= layer.origin <= max(touched)
        assert report.layers[max(touched)].origin == max(touched)
        assert f"{name}: " in str(report)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_by_hand_are_right(name):
    net = make_network(*ARCHITECTURES[name])
    X, y = rows_of(net)
    gradients = backward(net, X, y)
    for given in (gradients, as_columns(gradients), [(dw.T, db) for dw, db in gradients]):
        report = bcenet.check_gradient(net, X, y, given)
        assert report.passed
        assert {layer.mistake for layer in report.layers} == {None}


def random_problem(rng):
    """A network of any shape and activations, with rows."""
    depth, width = rng.integers(1, 5), int(rng.integers(2, 8))
    sizes = [int(rng.choice([width, rng.integers(2, 8)])) for _ in range(depth)]
    sizes.append(int(rng.choice([1, 1, 2, 3, width])))
    names = list(rng.choice(list(ref.ACTIVATIONS), depth - 1))
    same = str(rng.choice(["relu", "tanh", "leaky_relu", "sigmoid"]))
    net = bcenet.Network(sizes, same if rng.random() < 0.5 else names, dtype="float64")
    net.parameters[:] = rng.normal(scale=0.7, size=net.parameters.size)
    n = int(rng.integers(2, 60))
    return net, *rows_of(net, n, int(rng.integers(10**6)))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [None, *VARIANTS])
def test_no_false_name_in_random_networks(mistake):
    """250 networks a mistake: it is named, or another that gives the same numbers, or none."""
    named = unnamed = 0
    for seed in range(250):
        rng = np.random.default_rng(seed)
        found = []
        while not found:
            net, X, y = random_problem(rng)
            found = [
                (variant, place)
                for variant in VARIANTS.get(mistake, [None])
                for place in ([(0, 0)] if mistake is None else places(net, mistake, variant))
            ]
        variant, place = found[rng.integers(len(found))]
        wrong = backward(net, X, y, mistake, variant, *place, rate=10 ** rng.uniform(-3, 0.5))
        touched = differ(wrong, backward(net, X, y))
        columns = bool(rng.integers(2))
        given = as_columns(wrong) if columns else wrong
        report = bcenet.check_gradient(net, X, y, given, "columns" if columns else "rows")
        for layer in report.layers:
            assert layer.index not in touched or not layer.passed
        names = {layer.mistake for layer in report.layers if not layer.passed}
        if names - {mistake}:
            same = set()
            if names == {"missing-activation-derivative"}:
                same = {
                    i for i in range(len(wrong) - 1)
                    if not differ(wrong, backward(net, X, y, *names, "one hidden", i))
                }  # fmt: skip
            assert same or names <= {mistake, "unknown"}, (seed, variant, place, str(report))
        named += bool(touched) and names == {mistake}
        unnamed += "unknown" in names
    if mistake is not None:
        # Of relus some are off for all rows: what they make 0 has many explanations, and none.
        assert named >= 220
        assert unnamed <= 12


# what is planted -> how many layers from the last one it touches, and a part of the explanation
ONE_OF_TWO = {
    "sign": lambda g: [(-dw, -db) for dw, db in g],
    "missing-batch-mean": lambda g: [(40 * dw, 40 * db) for dw, db in g],
}


@pytest.mark.parametrize("first", ["output-sigmoid-derivative-twice", "updated-weights"])
@pytest.mark.parametrize("second", ONE_OF_TWO)
def test_two_mistakes_at_once(first, second):
    """A factor of everything beside another mistake: one is named, both are told."""
    net = make_network((4, 6, 5, 1), "tanh")
    X, y = rows_of(net)
    wrong = ONE_OF_TWO[second](backward(net, X, y, first, VARIANTS[first][0]))
    if first == "updated-weights":  # by what the user computed
        wrong = ONE_OF_TWO[second](
            backward(
                net,
                X,
                y,
                first,
                "sgd",
                rate=0.1 * wrong[2][0][0, 0] / backward(net, X, y)[2][0][0, 0],
            )
        )
    report = bcenet.check_gradient(net, X, y, wrong)
    names = [layer.mistake for layer in report.layers]
    assert names[:2] == [first, first] or first == "updated-weights"
    assert set(names) <= {first, second}
    words = {"sign": "opposite sign", "missing-batch-mean": "40 times too large"}
    assert all(words[second] in layer.explanation for layer in report.layers)


def test_different_mistakes_in_different_layers():
    net = make_network((4, 6, 6, 6, 1), "tanh")
    X, y = rows_of(net)
    wrong = backward(net, X, y, "transposed-weights", "one", 1)
    wrong[3] = (wrong[3][0], 40 * wrong[3][1])
    wrong[0] = (wrong[0][0], np.full(6, wrong[0][1].sum()))
    report = bcenet.check_gradient(net, X, y, wrong)
    names = ["bias-axis", "transposed-weights", None, "missing-batch-mean"]
    assert [layer.mistake for layer in report.layers] == names
    assert [layer.origin for layer in report.layers] == [0, 1, None, 3]


# a change to one layer that no mistake explains -> what is said of it
UNKNOWN = {
    "a factor": (lambda dw, db: (1.5 * dw, 1.5 * db), "1.5 times the right one in every entry"),
    "zeros": (lambda dw, db: (0 * dw, 0 * db), "dW is 0 everywhere"),
    "one entry": (lambda dw, db: (dw + 0.1 * (np.indices(dw.shape).sum(0) == 0), db),
                  "wrong in 1 of 30 entries, all of unit 0"),
    "noise": (lambda dw, db: (dw + np.cos(np.arange(30)).reshape(6, 5), db + 0.5),
              "wrong in 30 of 30"),
}  # fmt: skip


@pytest.mark.parametrize("layer_index", [1])
@pytest.mark.parametrize("case", UNKNOWN)
def test_what_no_mistake_gives_is_unknown(case, layer_index):
    net = make_network((4, 6, 5, 2), "tanh")
    X, y = rows_of(net)
    change, text = UNKNOWN[case]
    wrong = backward(net, X, y)
    wrong[layer_index] = change(*wrong[layer_index])
    report = bcenet.check_gradient(net, X, y, wrong)
    assert [layer.mistake for layer in report.layers] == [None, "unknown", None]
    assert text in report.layers[layer_index].explanation


def test_a_derivative_of_another_activation_is_told():
    net = make_network((4, 6, 1), "tanh")
    X, y = rows_of(net)
    net_relu_slope = backward(net, X, y)
    z = X @ net.coefs[0] + net.intercepts[0]
    a = np.tanh(z)
    dz = ((net.predict_proba(X) - y) / 40)[:, np.newaxis]
    for slope, text in [(1 - z * z, "1 - z^2"), (1 - np.tanh(a) ** 2, "taken at a, not at z")]:
        delta = (dz @ net.coefs[1].T) * slope
        wrong = [(X.T @ delta, delta.sum(0)), net_relu_slope[1]]
        layer = bcenet.check_gradient(net, X, y, wrong).layers[0]
        assert layer.mistake == "unknown"
        assert text in layer.explanation


@pytest.mark.parametrize("rate", [1e-4, 0.01, 1.0, 30.0])
def test_the_step_size_of_an_early_update_is_found(rate):
    net = make_network((4, 6, 5, 1), "tanh")
    X, y = rows_of(net)
    report = bcenet.check_gradient(net, X, y, backward(net, X, y, "updated-weights", rate=rate))
    assert [layer.mistake for layer in report.layers] == ["updated-weights"] * 2 + [None]
    assert f"by {rate:.6g} times" in report.layers[1].explanation


@pytest.mark.parametrize("mistake", VARIANTS)
def test_single_precision(mistake):
    """A gradient computed in float32 is compared, and its mistake found, to what that allows."""
    net = make_network((5, 8, 8, 8, 1), "tanh", "float32")
    X, y = problem(50, 5, dtype="float32")
    exact = net.astype("float64")
    assert bcenet.check_gradient(net, X, y, backward(net, X, y)).passed
    variant = VARIANTS[mistake][0]
    place = places(net, mistake, variant)[0]
    wrong = backward(net, X, y, mistake, variant, *place)
    assert wrong[0][0].dtype == np.float32
    report = bcenet.check_gradient(net, X, y, wrong)
    touched = differ(backward(exact, X, y, mistake, variant, *place), backward(exact, X, y))
    names = [mistake if index in touched else None for index in range(4)]
    assert [layer.mistake for layer in report.layers] == names


def test_a_mistake_too_small_to_see_in_one_layer_is_found_in_the_next():
    """The deltas of float32 gradients are off by 9e-5 and less, and then by ten times as much."""
    found = []
    for seed in range(20):
        net = make_network((3, 6, 6, 6, 1), "tanh", seed=seed)
        X, y = rows_of(net)
        wrong = backward(net, X, y, "updated-weights", rate=1.5e-3)
        report = bcenet.check_gradient(
            net, X, y, [(np.float32(a), np.float32(b)) for a, b in wrong]
        )
        names = [layer.mistake for layer in report.layers]
        assert set(names) <= {None, "updated-weights"}
        found.append(report.layers[2].passed and not report.passed)
    assert any(found)


@pytest.mark.parametrize("mistake", [None, *VARIANTS])
def test_a_network_in_single_precision_and_gradients_in_double(mistake):
    """They may have been computed from its float32 numbers, or in double all the way."""
    net = make_network((5, 8, 8, 8, 1), "tanh", "float32")
    X, y = problem(50, 5, dtype="float32")
    exact = net.astype("float64")
    variant = mistake and VARIANTS[mistake][0]
    place = (0, 0) if mistake is None else places(net, mistake, variant)[0]
    right = backward(exact, X, y)
    touched = differ(backward(exact, X, y, mistake, variant, *place), right)
    for computed_in in (net, exact):
        wrong = backward(computed_in, X, y, mistake, variant, *place)
        given = [(np.float64(dw), np.float64(db)) for dw, db in wrong]
        report = bcenet.check_gradient(net, X, y, given)
        names = [mistake if index in touched else None for index in range(4)]
        assert [layer.mistake for layer in report.layers] == names
    # A small mistake in double is no rounding.
    small = backward(exact, X, y, "updated-weights", rate=1e-4)
    report = bcenet.check_gradient(net, X, y, small)
    assert 1e-6 < report.layers[2].max_relative_error < 1e-4
    assert [layer.mistake for layer in report.layers] == ["updated-weights"] * 3 + [None]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_as_they_are_made(name, seed):
    """float32, biases of 0, and a row of 0; p - y is then float64 of float32 numbers."""
    net = bcenet.Network(*ARCHITECTURES[name], random_state=seed)
    X, y = rows_of(net, 64, seed)
    X[3] = 0
    if seed % 2:
        X, y = X.astype(np.float32), y.astype(int)
    for mistake, variants in VARIANTS.items():
        for variant in variants:
            for place in places(net, mistake, variant)[:1]:
                wrong = backward(net, X, y, mistake, variant, *place, rate=0.05)
                report = bcenet.check_gradient(net, X, y, wrong)
                names = {layer.mistake for layer in report.layers} - {None}
                allowed = {mistake, expected_name(net, mistake, variant, place[0])}
                if mistake == "relu-mask":  # one that is on or off everywhere
                    allowed |= {"missing-activation-derivative", "unknown"}
                assert names, (variant, place)
                assert names <= allowed, (variant, place, str(report))
    assert bcenet.check_gradient(net, X, y, backward(net, X, y)).passed


# -------------------------------------------------------------------- orientation and shapes


@pytest.mark.parametrize("columns", [False, True])
def test_square_layers_alone(columns):
    """Nothing but the numbers says how they lie: the reading that makes more of them right."""
    net = make_network((4, 4, 4), "tanh")
    X, y = rows_of(net)
    turn = (lambda g: [(dw.T, db) for dw, db in g]) if columns else (lambda g: g)
    orientation = "columns" if columns else "rows"
    for mistake in (None, "output-sigmoid-derivative-twice", "missing-batch-mean", "sign"):
        wrong = backward(net, X, y, mistake, mistake and VARIANTS[mistake][0])
        report = bcenet.check_gradient(net, X, y, turn(wrong))
        assert report.orientation == orientation
        assert {layer.mistake for layer in report.layers} == {mistake}
    # A bias of (4, 1) says it at once, and then dW is wrong.
    right = backward(net, X, y)
    report = bcenet.check_gradient(net, X, y, [(dw, db[:, np.newaxis]) for dw, db in right])
    assert {layer.mistake for layer in report.layers} == {"transposed-weights"}
    assert report.orientation == "columns"


def test_entries_are_named_as_they_were_given():
    net = make_network((4, 6, 3), "tanh")
    X, y = rows_of(net)
    for change, at, rows, columns in [
        (0, (2, 5), "dW[2, 5]", "dW[5, 2]"),
        (1, (4,), "db[4]", "db[4, 0]"),
    ]:
        wrong = backward(net, X, y)
        wrong[0][change][at] += 10
        report = bcenet.check_gradient(net, X, y, wrong)
        assert report.layers[0].where == rows
        assert report.layers[0].given == pytest.approx(report.layers[0].expected + 10, rel=1e-12)
        assert bcenet.check_gradient(net, X, y, as_columns(wrong)).layers[0].where == columns


def shapes(*pairs):
    return [(np.zeros(dw), np.zeros(db)) for dw, db in pairs]


# of a network (4, 6, 3, 1) and 7 rows
BAD_GRADIENTS = {
    "no list": (5, {}, TypeError, r"gradients must be a list of \(dW, db\).*\(3\); got 5"),
    "too few": (shapes(((4, 6), 6)), {}, ValueError, r"one a layer \(3\); got 1"),
    "no pair": ([1, 2, 3], {}, ValueError, r"gradients\[0\] must be \(dW, db\); got 1"),
    "text": ([("a", "b")] * 3, {}, TypeError, r"gradients\[0\] must hold real numbers"),
    "ragged": ([([[1], [1, 2]], [1])] * 3, {}, ValueError, r"gradients\[0\].*rectangular"),
    "rows": (
        shapes(((4, 6), 6), ((6, 4), 3), ((3, 1), 1)), {}, ValueError,
        r"gradients\[1\].*\(6, 3\) \(orientation 'rows', as gradients\[0\] is\); got \(6, 4\)",
    ),
    "columns": (
        shapes(((6, 4), (6, 1)), ((3, 5), (3, 1)), ((1, 3), (1, 1))), {}, ValueError,
        r"gradients\[1\].*\(3, 6\) \(orientation 'columns', as gradients\[0\] is\); got \(3, 5\)",
    ),
    "neither": (
        shapes(((2, 2), 6), ((6, 4), 3), ((3, 2), 1)), {}, ValueError,
        r"gradients\[0\].*\(4, 6\) \(orientation 'rows'\) or \(6, 4\) \('columns'\); got \(2, 2\)",
    ),
    "both": (
        shapes(((4, 6), 6), ((3, 6), 3), ((3, 1), 1)), {}, ValueError,
        r"one orientation; gradients\[0\].*'rows', gradients\[1\].*'columns'",
    ),
    "not as declared": (
        shapes(((6, 4), 6), ((3, 6), 3), ((1, 3), 1)), {"orientation": "rows"}, ValueError,
        r"gradients\[0\].*\(4, 6\) \(orientation 'rows'\); got \(6, 4\).*its shape in 'columns'",
    ),
    "flat dW": (
        shapes(((4, 6), 6), ((6, 3), 3), (3, 1)), {}, ValueError,
        r"gradients\[2\].*\(3, 1\).*\(3,\)",
    ),
    "db": (
        shapes(((4, 6), 6), ((6, 3), 2), ((3, 1), 1)), {}, ValueError,
        r"gradients\[1\].*db of shape \(3,\) or \(1, 3\) \(orientation 'rows'\); got \(2,\)",
    ),
    "orientation": (
        shapes(((4, 6), 6), ((6, 3), 3), ((3, 1), 1)), {"orientation": "cols"}, ValueError,
        r"orientation must be one of 'auto', 'rows', 'columns'; got 'cols'",
    ),
    "parameters": (None, {"parameters": []}, ValueError, r"parameters must be left out"),
    "smoothing": (None, {"label_smoothing": 2}, ValueError, r"label_smoothing.*2"),
    "weights": (None, {"sample_weight": np.ones(6)}, ValueError, r"sample_weight.*7.*6"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_GRADIENTS)
def test_bad_gradients(case):
    gradients, options, error, message = BAD_GRADIENTS[case]
    net = make_network((4, 6, 3, 1), "tanh")
    X, y = rows_of(net, 7)
    with pytest.raises(error, match=message):
        bcenet.check_gradient(net, X, y, gradients, **options)


BAD_ROWS = {
    "y (n, 1)": ({"y": np.zeros((30, 1))}, r"y.*\(30,\).*\(30, 1\)"),
    "y above 1": ({"y": np.full(30, 2)}, r"y.*\[0, 1\].*2"),
    "X columns": ({"X": np.zeros((30, 6))}, r"X.*7.*\(30, 6\)"),
    "X NaN": ({"X": np.full((30, 7), np.nan)}, r"X.*row 0.*column 0"),
    "no rows": ({"X": np.zeros((0, 7)), "y": np.zeros(0)}, r"X.*row"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case):
    changes, message = BAD_ROWS[case]
    arguments = {"X": np.zeros((30, 7)), "y": np.zeros(30), **changes}
    with pytest.raises(ValueError, match=message):
        bcenet.check_gradient(make_network((7, 6, 5, 1)), **arguments)


def test_no_network():
    with pytest.raises(TypeError, match=r"network must be a bcenet.Network or a function.*got 3"):
        bcenet.check_gradient(3, np.zeros((2, 2)), np.zeros(2))


# ------------------------------------------------------------- kinks, samples, not finite


KINKED = ["relu", "leaky_relu", "selu"]


def at_kink(activation, n=20):
    """A network whose first z are all 0 in row 7, its rows, and what its db gains there for a unit
    of the derivative taken at 0, which bcenet's own gradient takes for that below 0."""
    net = make_network((3, 5, 1), activation)
    X, y = rows_of(net, n)
    net.intercepts[0][:] = 0
    X[7] = 0  # z = 0 in all units: db depends on the side, dW does not
    delta = (net.predict_proba(X) - y)[7] / n * net.coefs[1][:, 0]
    below, above = ref.ACTIVATIONS[activation](np.array([-1e-300, 1e-300]))[1]
    return net, X, y, delta * (above - below)


@pytest.mark.parametrize("activation", KINKED)
def test_at_a_kink_either_derivative_is_right(activation):
    net, X, y, jump = at_kink(activation)
    for part, passed in [(0, True), (0.5, True), (1, True), (-0.1, False), (1.1, False)]:
        given = backward(net, X, y)
        given[0] = (given[0][0], given[0][1] + part * jump)
        report = bcenet.check_gradient(net, X, y, given)
        assert report.passed == passed
        assert [(layer.checked, layer.skipped) for layer in report.layers] == [(15, 5), (6, 0)]
        assert "the entries skipped lie at a kink" in str(report)
    X[7] = 1
    assert bcenet.check_gradient(net, X, y).layers[0].skipped == 0


@pytest.mark.parametrize("activation", KINKED)
@pytest.mark.parametrize("part", [0, 1])
def test_a_mistake_is_found_where_all_biases_lie_at_a_kink(part, activation):
    net, X, y, jump = at_kink(activation)
    right = backward(net, X, y)
    db = right[0][1] + part * jump
    for mistake, wrong in [
        ("sign", -db),
        ("missing-batch-mean", 20 * db),
        ("bias-axis", np.full(5, db.sum())),
        ("unknown", db + 0.1),
    ]:
        report = bcenet.check_gradient(net, X, y, [(right[0][0], wrong), right[1]])
        assert [layer.mistake for layer in report.layers] == [mistake, None]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_unit_within_the_rounding_of_a_kink(dtype):
    net = make_network((3, 5, 4, 1), "relu")
    X, y = rows_of(net, 20)
    before = np.maximum(X[4] @ net.coefs[0] + net.intercepts[0], 0)
    net.intercepts[1][2] = 1e-7 - before @ net.coefs[1][:, 2]
    right = [(dw.astype(dtype), db.astype(dtype)) for dw, db in backward(net, X, y)]
    net.intercepts[1][2] -= 2e-7  # what float32 can't tell from the former
    moved = [(dw.astype(dtype), db.astype(dtype)) for dw, db in backward(net, X, y)]
    assert differ(moved, right) == [0, 1]
    report = bcenet.check_gradient(net, X, y, right)
    assert report.passed == (dtype == "float32")
    # db of that unit, and dW[:, 2] from the units that are on in that row; and what is before.
    skipped = [layer.skipped for layer in report.layers]
    if dtype == "float32":
        assert 1 <= skipped[1] <= 1 + (before > 0).sum()
        assert 0 < skipped[0] < 20
    else:
        assert skipped == [0, 0, 0]
    assert bcenet.check_gradient(net, X, y, moved).passed


def test_large_layers_are_sampled_and_the_worst_entry_found():
    net = make_network((300, 40, 1), "tanh")
    X, y = rows_of(net, 30)
    right = backward(net, X, y)
    report = bcenet.check_gradient(net, X, y, right)
    assert report.passed
    assert report.layers[0].size == 300 * 40 + 40
    assert 200 <= report.layers[0].checked <= 240
    assert report.as_dict() == bcenet.check_gradient(net, X, y, right).as_dict()  # the same sample
    for entry in [(0, 0), (171, 23), (299, 39)]:
        wrong = [(right[0][0].copy(), right[0][1]), right[1]]
        wrong[0][0][entry] *= 1.5
        layer = bcenet.check_gradient(net, X, y, wrong).layers[0]
        assert layer.where == f"dW[{entry[0]}, {entry[1]}]"
        assert layer.mistake == "unknown"
    report = bcenet.check_gradient(net, X, y, [(-right[0][0], right[0][1]), right[1]])
    assert [layer.mistake for layer in report.layers] == ["sign", None]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gradients_that_are_not_finite(value):
    net = make_network((4, 6, 6, 1), "relu")
    X, y = rows_of(net)
    for part, name in [(0, "dW[0, 3]"), (1, "db[3]")]:
        wrong = backward(net, X, y, "sign", "one layer", 0)
        wrong[1][part][(0, 3)[part:]] = value
        report = bcenet.check_gradient(net, X, y, wrong)
        assert [layer.mistake for layer in report.layers] == ["sign", "unknown", None]
        assert report.layers[1].where == name
        assert report.layers[1].max_relative_error == np.inf
        assert f"{name} is {value}" in str(report)
        assert "not finite" in str(report)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layer", [0, 1])
def test_networks_that_are_not_finite(layer, value):
    net = make_network((4, 6, 1), "relu")
    X, y = rows_of(net)
    right = backward(net, X, y)
    net.coefs[layer][1] = value
    for given in (None, right):
        report = bcenet.check_gradient(net, X, y, given)
        assert not report.passed
        assert {each.mistake for each in report.layers if not each.passed} == {"unknown"}
        assert "not finite" in str(report)


# -------------------------------------------------------------------------------- functions


def column_loss(names, reduce=np.mean):
    """A loss with np.dot(W, A) and samples in columns."""

    def loss(parameters, X, Y):
        A = X
        for (W, b), name in zip(parameters, names, strict=True):
            Z = np.dot(W, A) + b
            A = ref.ACTIVATIONS[name](Z)[0]
        return reduce(-(Y * np.log(A) + (1 - Y) * np.log(1 - A)))

    return loss


def as_parameters(net, columns):
    pairs = zip(net.coefs, net.intercepts, strict=True)
    if columns:
        return [(W.T.copy(), b[:, np.newaxis].copy()) for W, b in pairs]
    return [(W.copy(), b.copy()) for W, b in pairs]


@pytest.mark.parametrize("mistake", [None, *VARIANTS])
@pytest.mark.parametrize("name", ["3-5-1 relu", "4-4-4-1 tanh", "3-6-6-4 relu"])
def test_a_function_in_columns(name, mistake):
    sizes, activation = ARCHITECTURES[name]
    net = make_network(sizes, activation, seed=5)
    X, y = rows_of(net)
    centre(net, X)
    f = column_loss(net.activations)
    parameters = as_parameters(net, columns=True)
    before = [(W.copy(), b.copy()) for W, b in parameters]
    for variant in VARIANTS.get(mistake, [None]):
        for place in [(0, 0)] if mistake is None else places(net, mistake, variant)[:1]:
            wrong = backward(net, X, y, mistake, variant, *place)
            touched = differ(wrong, backward(net, X, y))
            expected = mistake and expected_name(net, mistake, variant, place[0])
            report = bcenet.check_gradient(
                f, X.T, y.reshape(40, -1).T, as_columns(wrong), parameters=parameters
            )
            names = [expected if i in touched else None for i in range(len(wrong))]
            assert [layer.mistake for layer in report.layers] == names, variant
            assert report.orientation == "columns"
    for pair, kept in zip(parameters, before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(pair, kept, strict=True))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum of labels", "sum"])
def test_a_function_s_own_mean_is_what_counts(reduction, outputs):
    """The gradient is that of the function's loss, whatever it divides by."""
    net = make_network((4, 5, outputs), "silu")
    X, y = rows_of(net)
    terms = 40 * outputs
    factor = {"mean": 1, "sum of labels": outputs, "sum": terms}[reduction]
    f = column_loss(net.activations, lambda losses: losses.sum() * factor / terms)
    gradients = [(factor * dw, factor * db) for dw, db in backward(net, X, y)]
    targets = y.reshape(40, outputs).T
    arguments = {"parameters": as_parameters(net, columns=True)}
    assert bcenet.check_gradient(f, X.T, targets, as_columns(gradients), **arguments).passed
    if reduction != "sum":
        summed = as_columns([(terms * dw, terms * db) for dw, db in backward(net, X, y)])
        report = bcenet.check_gradient(f, X.T, targets, summed, **arguments)
        assert {layer.mistake for layer in report.layers} == {"missing-batch-mean"}


def square_loss(parameters, X, y):
    """No cross-entropy, and a skip of the hidden layer: bcenet knows no such network."""
    (W, b), (V, c), (U, d) = parameters
    a = np.maximum(X @ W + b, 0)
    h = np.maximum(a @ V + c, 0)
    error = ((h + a) @ U + d)[:, 0] - y
    dz = 2 * error[:, np.newaxis] / len(y)
    dh = dz @ U.T * (h > 0)
    da = (dz @ U.T + dh @ V.T) * (a > 0)
    gradients = [(X.T @ da, da.sum(0)), (a.T @ dh, dh.sum(0)), ((h + a).T @ dz, dz.sum(0))]
    return np.mean(error**2), gradients


@pytest.mark.parametrize("scale", [1, 1e4])
def test_a_function_of_another_kind_with_its_own_gradients(scale):
    net = make_network((4, 5, 5, 1))
    X, y = rows_of(net)
    X = X * scale
    parameters = as_parameters(net, columns=False)
    parameters[0][0][:] /= scale
    assert bcenet.check_gradient(square_loss, X, y, parameters=parameters).passed
    right = square_loss(parameters, X, y)[1]
    for change, name in [
        (lambda dw, db: (-dw, -db), "sign"),
        (lambda dw, db: (40 * dw, db), "missing-batch-mean"),
        (lambda dw, db: (dw.T, db), "transposed-weights"),
        (lambda dw, db: (dw, db + db.max()), "unknown"),
    ]:
        wrong = [right[0], change(*right[1]), right[2]]
        report = bcenet.check_gradient(square_loss, X, y, wrong, parameters=parameters)
        assert [layer.mistake for layer in report.layers] == [None, name, None]


def test_a_function_of_one_flat_array():
    net = make_network((4, 6, 1), "tanh")
    X, y = rows_of(net)
    exact = net.astype("float64")

    def loss(flat, X, y):
        exact.parameters[:] = flat
        value, gradient = exact.loss_gradient(X, y)
        flat[:] = 0  # what it is given is its own
        return value, gradient.flat

    report = bcenet.check_gradient(loss, X, y, parameters=net.parameters)
    assert report.passed
    assert (report.orientation, len(report.layers), report.layers[0].size) == ("flat", 1, 37)
    gradient = net.loss_gradient(X, y)[1].flat
    gradient[11] += 1
    report = bcenet.check_gradient(loss, X, y, gradient, parameters=net.parameters)
    assert report.layers[0].where == "gradients[11]"
    assert report.layers[0].mistake == "unknown"
    report = bcenet.check_gradient(
        loss, X, y, -net.loss_gradient(X, y)[1].flat, parameters=net.parameters
    )
    assert report.layers[0].mistake == "sign"


@pytest.mark.parametrize("at", [0.0, 1e-9, 1e-6, 2e-6, 3e-6, 5e-6, -4e-6])
def test_kinks_of_a_function_are_skipped(at):
    """A kink of |w - at| near w = 0, and none in the rest."""

    def loss(flat, X, y):
        return np.abs(flat[0] - at) + flat[1] ** 2 + np.sin(flat[2])

    point = np.array([0.0, 2.0, 1.0])
    for side in (-1, 1):
        gradient = np.array([side, 4.0, np.cos(1.0)])
        report = bcenet.check_gradient(loss, None, None, gradient, parameters=point)
        # Either the kink is skipped, or a shorter step has seen which side it is on.
        assert report.passed or side == np.sign(at)
        assert report.layers[0].checked + report.layers[0].skipped == 3
        assert report.layers[0].checked >= 2
    if at == 0:
        assert report.layers[0].skipped == 1


W_B = [(np.ones((2, 1)), np.zeros(1))]
BAD_FUNCTIONS = {
    "no parameters": (lambda p, X, y: 0.0, None, None, {}, "parameters must be given"),
    "no gradients": (lambda p, X, y: 0.0, W_B, None, {}, "gradients must be given with a function"),
    "no pairs": (lambda p, X, y: 0.0, [1], None, {}, r"parameters\[0\] must be \(W, b\)"),
    "none": (lambda p, X, y: 0.0, [], None, {}, r"at least one \(W, b\)"),
    "a matrix": (lambda p, X, y: 0.0, np.ones((2, 2)), None, {}, "one array of one dimension"),
    "odd bias": (lambda p, X, y: 0.0, [(np.ones((2, 1)), np.ones(3))], None, {},
                 r"got shapes.*\(3,\)"),
    "NaN": (lambda p, X, y: np.nan, W_B, W_B, {}, "loss must be finite at the parameters; got nan"),
    "several": (lambda p, X, y: np.zeros(3), W_B, W_B, {}, r"loss must be one number.*\(3,\)"),
    "float32": (lambda p, X, y: np.float32(1), W_B, W_B, {}, "must be computed in float64"),
    "shape": (lambda p, X, y: 0.0, W_B, [(np.ones((1, 2)), np.ones(1))], {},
              r"gradients\[0\].*W's shape \(2, 1\); got \(1, 2\), its transpose"),
    "flat shape": (lambda p, X, y: 0.0, np.ones(3), np.ones(2), {}, r"parameters' shape \(3,\)"),
    "weights": (lambda p, X, y: 0.0, W_B, W_B, {"pos_weight": 2.0}, "must be left out"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FUNCTIONS)
def test_bad_functions(case):
    function, parameters, gradients, options, message = BAD_FUNCTIONS[case]
    with pytest.raises(ValueError, match=message):
        bcenet.check_gradient(
            function, np.zeros((3, 2)), np.zeros(3), gradients, parameters=parameters, **options
        )


# ------------------------------------------------------------------------------- the report


def test_the_report_is_a_table_and_json():
    net = make_network((3, 5, 1), "tanh")
    X, y = rows_of(net)
    wrong = backward(net, X, y, "output-sigmoid-derivative-twice", "output")
    report = bcenet.check_gradient(net, X, y, as_columns(wrong))
    text = str(report)
    assert all(len(line) <= 105 for line in text.splitlines())
    assert text.startswith("The gradient is not right in layers 0 and 1.\nlayer  verdict  error")
    words = " ".join(text.split())
    assert "multiplied by p (1 - p) once more than it should be" in words
    assert "Layer 0, output-sigmoid-derivative-twice: it follows from the delta of layer 1" in words
    assert "docs/check-gradient.md" in text
    values = json.loads(json.dumps(report.as_dict()))
    assert values["passed"] is False
    assert values["orientation"] == "columns"
    assert [layer["mistake"] for layer in values["layers"]] == [report.layers[0].mistake] * 2
    assert values["layers"][0]["where"] == report.layers[0].where
    text = str(bcenet.check_gradient(net, X, y))
    assert text.startswith("The gradient is right in every layer.\n")


def test_every_mistake_is_described():
    page = pathlib.Path(__file__).parent.parent / "docs" / "check-gradient.md"
    if not page.exists():
        pytest.skip("the sources are not here")
    text = page.read_text(encoding="utf-8")
    assert all(f"### `{mistake}`" in text for mistake in MISTAKES)
    assert set(MISTAKES) == {*VARIANTS, "unknown"}


def test_the_example_finds_each_mistake(capsys):
    path = pathlib.Path(__file__).parent.parent / "examples" / "find_the_mistake.py"
    if not path.exists():
        pytest.skip("the sources are not here")
    spec = importlib.util.spec_from_file_location("find_the_mistake", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.check().passed
    for mistake in example.MISTAKES:
        report = example.check(mistake)
        wrong = [layer for layer in report.layers if not layer.passed]
        assert wrong
        assert {layer.mistake for layer in wrong} == {mistake}
    assert set(example.MISTAKES) == set(VARIANTS)
    example.main([])
    printed = capsys.readouterr().out
    assert printed.count("---- planted: ") == 9
    assert printed.count("The gradient is right in every layer.") == 1

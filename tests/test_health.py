"""bcenet.TrainingHealth: its numbers against NumPy's, and ill networks named with their layers."""

from __future__ import annotations

import copy
import json
import math
import pickle
import sys

import numpy as np
import pytest
import scipy.sparse
from helpers import make_network, problem, relative_to_largest
from scipy.special import expit
from sklearn.base import clone

import bcenet
from bcenet.sklearn import BCENetClassifier

X, Y = problem(300, features=6)

# g and g' of the activations that the networks here have.
ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (expit, lambda z: expit(z) * expit(-z)),
}


def backward(net, X, y):
    """(z, dz, dW, db) a layer, of the loss of a network with one output, in NumPy."""
    names = net.activations
    a, zs, activated = X, [], [X]
    for W, b, name in zip(net.coefs, net.intercepts, names, strict=True):
        zs.append(a @ W + b)
        a = ACTIVATIONS[name][0](zs[-1])
        activated.append(a)
    dz = a - np.reshape(y, (-1, 1))
    layers = []
    for index in reversed(range(len(names))):
        layers.append((zs[index], dz, activated[index].T @ dz / len(X), dz.mean(0)))
        if index > 0:
            dz = (dz @ net.coefs[index].T) * ACTIVATIONS[names[index - 1]][1](zs[index - 1])
    return layers[::-1]


def fit(net, *given, epochs=3, **options):
    options = {"learning_rate": 0.01, "batch_size": 50, "random_state": 0, **options}
    return bcenet.fit(net, X, Y, epochs=epochs, callbacks=given, **options)


def found(health):
    return [(finding.kind, finding.layer) for finding in health.findings]


# ---------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_the_numbers_are_numpys(activation):
    net = make_network((6, 8, 5, 1), activation)
    seen = []

    def look(state):
        seen.append(copy.deepcopy(state.network))

    class AtBegin:
        def on_fit_begin(self, state):
            look(state)

    health = bcenet.TrainingHealth(X, Y)
    fit(net, AtBegin(), look, health)
    assert health.epochs == [0, 1, 2, 3]
    for row, network in enumerate(seen):
        layers = backward(network, X, Y)
        norms = [math.sqrt((dW**2).sum() + (db**2).sum()) for _, _, dW, db in layers]
        deltas = [math.sqrt((dz**2).sum(1).mean()) for _, dz, _, _ in layers]
        assert health.gradient_norms[row] == pytest.approx(norms, rel=1e-12)
        assert health.flow[row] == pytest.approx(np.divide(deltas, deltas[-1]), rel=1e-12)
        hidden = [ACTIVATIONS[activation][1](z) for z, *_ in layers[:-1]]
        if activation == "relu":
            assert health.dead[row].tolist() == [np.mean((g == 0).all(0)) for g in hidden]
            assert not health.saturated.any()
        else:
            largest = 0.25 if activation == "sigmoid" else 1
            flat = [np.mean((g < 0.05 * largest).mean(0) >= 0.95) for g in hidden]
            assert health.saturated[row].tolist() == flat
            assert not health.dead.any()
    assert np.isnan(health.update_ratios[0]).all()
    for row in (1, 2, 3):
        ratios = [
            np.linalg.norm(now - before) / np.linalg.norm(before)
            for now, before in zip(seen[row].coefs, seen[row - 1].coefs, strict=True)
        ]
        assert health.update_ratios[row] == pytest.approx(ratios, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_gradient_norms_are_those_of_loss_gradient(outputs):
    X, y = problem(80, features=5, outputs=outputs)
    net = make_network((5, 7, outputs), "silu", normalization="layer", feature_scale=True)
    _, gradient = net.loss_gradient(X, y)
    health = bcenet.TrainingHealth(X, y)
    bcenet.fit(net, X, y, epochs=1, callbacks=health)
    # The first layer's weights act on scaled columns: dW is by the product of both.
    own = math.hypot(np.linalg.norm(gradient.coefs[1]), np.linalg.norm(gradient.intercepts[1]))
    assert health.gradient_norms[0, 1] == pytest.approx(own, rel=1e-12)


def test_a_sample_is_drawn_once_and_copied():
    health = bcenet.TrainingHealth(X, Y, rows=40, random_state=3)
    same = bcenet.TrainingHealth(X, Y, rows=40, random_state=3)
    other = bcenet.TrainingHealth(X, Y, rows=40, random_state=4)
    for each in (health, same, other):
        fit(make_network((6, 4, 1)), each)
    assert np.array_equal(health.flow, same.flow)
    assert not np.array_equal(health.flow, other.flow)
    chosen = np.sort(np.random.default_rng(3).choice(300, 40, replace=False))
    given = bcenet.TrainingHealth(X[chosen], Y[chosen])
    data = X.copy()
    copied = bcenet.TrainingHealth(data, Y, rows=40, random_state=3)
    data[:] = 0
    for each in (given, copied):
        fit(make_network((6, 4, 1)), each)
        assert np.array_equal(each.gradient_norms, health.gradient_norms)


def test_sparse_rows_and_float32():
    sparse = scipy.sparse.csr_array(X * (np.abs(X) > 1))
    healths = [bcenet.TrainingHealth(rows, Y) for rows in (sparse, sparse.toarray())]
    for health in healths:
        fit(make_network((6, 4, 1)), health)
    assert np.array_equal(healths[0].flow, healths[1].flow)
    single, double = (
        bcenet.TrainingHealth(X.astype(dtype), Y) for dtype in (np.float32, np.float64)
    )
    fit(make_network((6, 4, 1), dtype="float32"), single, epochs=1)
    fit(make_network((6, 4, 1), dtype="float64"), double, epochs=1)
    # Before training the weights differ by rounding alone: a few hundred rows of 2^-24.
    assert relative_to_largest(single.gradient_norms[0], double.gradient_norms[0]) < 1e-5


def test_wide_sparse_samples_stay_small():
    wide = scipy.sparse.random_array((50, 2**20), density=1e-5, rng=0, format="csr")
    y = np.arange(50) % 2
    health = bcenet.TrainingHealth(wide, y)
    assert health._X.shape == (16, 2**20)


# --------------------------------------------------------------------------------- findings


def test_healthy_networks_have_no_finding():
    for activation in ("relu", "tanh", "silu", "gelu", "selu"):
        for sizes in ((6, 1), (6, 16, 8, 1), (6, *[16] * 8, 1)):
            net = bcenet.Network(sizes, activation, random_state=0)
            health = bcenet.TrainingHealth(X, Y)
            fit(net, health, epochs=10)
            assert found(health) == []


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_of_dead_relus(layer):
    net = make_network((6, 10, 10, 10, 1))
    net.intercepts[layer][:6] = -1e3
    health = bcenet.TrainingHealth(X, Y)
    fit(net, health)
    assert found(health) == [("dead", layer)]
    assert health.findings[0].value == health.dead[0, layer] == 0.6
    assert (health.findings[0].first_epoch, health.findings[0].last_epoch) == (0, 3)
    # All of them: nothing goes through, and that is named too.
    net.intercepts[layer][:] = -1e3
    fit(net, health)
    assert found(health)[0] == ("vanishing", layer)
    assert ("dead", layer) in found(health)
    assert not health.flow[:, : layer + 1].any()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_saturated_layer(activation, layer):
    net = make_network((6, 10, 10, 1), activation)
    net.intercepts[layer][:6] = 8.0  # the slopes are about 3e-4 and 5e-7
    net.coefs[layer] *= 0.1
    health = bcenet.TrainingHealth(X, Y)
    fit(net, health, epochs=1)
    assert found(health) == [("saturated", layer)]
    assert health.saturated[0, layer] == 0.6


def test_vanishing_gradients():
    net = bcenet.Network([6, *[16] * 8, 1], "sigmoid", dtype="float64", random_state=0)
    before = copy.deepcopy(net)
    health = bcenet.TrainingHealth(X, Y)
    fit(net, health)
    deltas = [math.sqrt((dz**2).sum()) for _, dz, _, _ in backward(before, X, Y)]
    small = [layer for layer, delta in enumerate(deltas) if delta < 1e-3 * deltas[-1]]
    assert small == list(range(max(small) + 1))
    first = health.findings[0]
    assert (first.kind, first.layer, first.first_epoch) == ("vanishing", max(small), 0)
    assert first.value == pytest.approx(deltas[max(small)] / deltas[-1], rel=1e-9)
    assert f"{first.value:.2g}" in str(first)
    # It is a limit that can be chosen.
    lenient = bcenet.TrainingHealth(X, Y, vanishing=0.0)
    fit(before, lenient)
    assert found(lenient) == []


def test_exploding_gradients():
    net = make_network((6, 16, 16, 16, 16, 1))
    for weights in net.coefs[2:4]:
        weights *= 100
    deltas = [math.sqrt((dz**2).sum()) for _, dz, _, _ in backward(net, X, Y)]
    large = [layer for layer, delta in enumerate(deltas) if delta > 1e3 * deltas[-1]]
    assert large == [0, 1]
    health = bcenet.TrainingHealth(X, Y)
    fit(net, health, epochs=1, learning_rate=1e-6)
    assert found(health) == [("exploding", 1)]
    assert health.findings[0].value == pytest.approx(deltas[1] / deltas[-1], rel=1e-9)


def test_a_fit_that_leaves_the_finite_numbers():
    net = make_network((6, 16, 16, 1), dtype="float32")
    health = bcenet.TrainingHealth(X, Y)
    with pytest.raises(bcenet.NonFiniteError):
        fit(net, health, optimizer="sgd", learning_rate=1e30, epochs=5)
    assert found(health)[0][0] == "exploding"
    assert health.findings[0].first_epoch == health.epochs[-1] == 1
    # An exception of another kind says nothing about the numbers.
    health = bcenet.TrainingHealth(X, Y)
    with pytest.raises(ZeroDivisionError):
        fit(make_network((6, 4, 1)), health, lambda state: 1 / 0)
    assert health.epochs == [0, 1]
    assert found(health) == []


def test_batch_normalisation_is_looked_at_when_its_statistics_have_moved():
    rows = 100 * X + 50
    health = bcenet.TrainingHealth(rows, Y)
    net = bcenet.Network([6, 16, 16, 1], "tanh", normalization="batch", random_state=0)
    bcenet.fit(net, rows, Y, epochs=10, batch_size=50, callbacks=health, random_state=0)
    assert health.epochs == list(range(1, 11))
    assert np.isfinite(health.update_ratios).all()
    assert found(health) == []


def test_nothing_is_divided_by_zero():
    # An initial last layer of zeros: nothing flows back at first, and its ratio is unknown.
    net = bcenet.Network([6, 8, 1], initializer=["he_normal", "zeros"], random_state=0)
    health = bcenet.TrainingHealth(X, Y)
    fit(net, health, epochs=2)
    assert health.flow[0].tolist() == [0, 1]
    assert math.isinf(health.update_ratios[1, 1])
    assert math.isfinite(health.update_ratios[2, 1])
    # dz of the last layer is 0 everywhere: nothing can be said.
    net = make_network((6, 4, 1), dtype="float32")
    net.intercepts[-1][:] = -1e30
    health = bcenet.TrainingHealth(X, np.zeros(300))
    fit(net, health, epochs=1)
    assert np.isnan(health.flow).all()
    assert found(health) == []


# ---------------------------------------------------------------------------------- as a callback


def test_it_changes_nothing():
    nets = make_network((6, 8, 1)), make_network((6, 8, 1))
    fit(nets[0], bcenet.TrainingHealth(X, Y))
    fit(nets[1])
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_it_begins_anew_with_the_next_fit():
    health = bcenet.TrainingHealth(X, Y)
    net = bcenet.Network([6, *[16] * 8, 1], "sigmoid", random_state=0)
    fit(net, health)
    fit(make_network((6, 8, 1)), health, epochs=1)
    assert health.epochs == [0, 1]
    assert found(health) == []
    assert health.flow.shape == (2, 2)


@pytest.mark.parametrize("every", [None, 7])
def test_a_resumed_fit_goes_on_with_it(every, tmp_path):
    def deep():
        return bcenet.Network([6, *[8] * 8, 1], "sigmoid", random_state=0)

    class Stop:
        def on_epoch_end(self, state):
            if state.epoch == 3:
                raise KeyboardInterrupt

    whole = bcenet.TrainingHealth(X, Y, rows=100)
    fit(deep(), whole, epochs=6)
    part = bcenet.TrainingHealth(X, Y, rows=100)
    path = tmp_path / "run.bcenet"
    with pytest.raises(KeyboardInterrupt):
        fit(deep(), part, Stop(), epochs=6, checkpoint=path, checkpoint_every=every)
    resumed = bcenet.TrainingHealth(X, Y, rows=100)
    bcenet.resume(path, X, Y, callbacks=[resumed])
    assert json.dumps(resumed.as_dict()) == json.dumps(whole.as_dict())
    assert resumed.epochs == [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"TrainingHealth must have vanishing=0.001.*got 0.1"):
        bcenet.resume(path, X, Y, callbacks=[bcenet.TrainingHealth(X, Y, rows=100, vanishing=0.1)])
    with pytest.raises(ValueError, match="TrainingHealth must have sample="):
        bcenet.resume(path, X, Y, callbacks=[bcenet.TrainingHealth(X + 1, Y, rows=100)])


def test_in_the_estimator():
    health = bcenet.TrainingHealth(X, Y)
    classifier = BCENetClassifier((8,), callbacks=[health], max_iter=4, tol=0, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        classifier.fit(X, Y)
    assert health.epochs == [0, 1, 2, 3, 4]
    loss_gradient = classifier.network_.loss_gradient(X, Y)[1]
    last = math.hypot(
        np.linalg.norm(loss_gradient.coefs[-1]), np.linalg.norm(loss_gradient.intercepts[-1])
    )
    assert health.gradient_norms[-1, -1] == pytest.approx(last, rel=1e-9)
    assert clone(classifier).callbacks[0] is not health


def test_with_a_dataset():
    dataset = bcenet.data.open_dataset((X, Y))
    health = bcenet.TrainingHealth(*next(iter(dataset.blocks())))
    net = make_network((6, 8, 1))
    bcenet.fit(net, dataset, epochs=2, callbacks=health, random_state=0)
    assert health.epochs == [0, 1, 2]
    _, gradient = net.loss_gradient(X, Y)
    last = math.hypot(*(np.linalg.norm(g[-1]) for g in (gradient.coefs, gradient.intercepts)))
    assert health.gradient_norms[-1, -1] == pytest.approx(last, rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "lbfgs", "learning_rate": None},
        {"averaging": bcenet.EMA(0.9)},
        {"dropout": 0.3, "l2": 0.1, "clip_norm": 1.0, "pos_weight": 3.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_it_sees_are_the_weights_that_predict(options):
    health = bcenet.TrainingHealth(X, Y)
    net = make_network((6, 8, 1))
    before = [weights.copy() for weights in net.coefs]
    fit(net, health, epochs=1, **options)
    _, gradient = net.loss_gradient(X, Y)
    last = math.hypot(*(np.linalg.norm(g[-1]) for g in (gradient.coefs, gradient.intercepts)))
    assert health.gradient_norms[-1, -1] == pytest.approx(last, rel=1e-9)
    change = np.linalg.norm(net.coefs[0] - before[0]) / np.linalg.norm(before[0])
    assert health.update_ratios[1, 0] == pytest.approx(change, rel=1e-12)


def test_pickling():
    health = bcenet.TrainingHealth(X, Y)
    fit(make_network((6, 8, 1)), health)
    assert pickle.loads(pickle.dumps(health)).as_dict() == health.as_dict()


# ------------------------------------------------------------------------------------- showing


def test_as_dict_and_text():
    health = bcenet.TrainingHealth(X, Y)
    assert str(health) == "nothing was measured yet"
    net = bcenet.Network([6, *[16] * 8, 1], "sigmoid", random_state=0)
    fit(net, health, epochs=2)
    shown = json.loads(json.dumps(health.as_dict(), allow_nan=False))
    assert shown["epochs"] == [0, 1, 2]
    assert shown["update_ratios"][0] == [None] * 9
    assert shown["flow"] == health.flow.tolist()
    assert shown["findings"][0]["kind"] == "vanishing"
    lines = str(health).splitlines()
    assert lines[0] == "after epoch 2"
    assert lines[2].split()[:2] == ["0", "sigmoid"]
    assert float(lines[2].split()[3]) == float(f"{health.flow[-1, 0]:.2g}")
    assert lines[11].startswith("layer 3, vanishing, epoch")


def test_the_plot_holds_the_numbers(tmp_path):
    health = bcenet.TrainingHealth(X, Y)
    with pytest.raises(ValueError, match="plot needs a fit"):
        health.plot()
    fit(make_network((6, 8, 5, 1), "tanh"), health)
    figure = health.plot()
    panels = figure.axes
    shown = [health.gradient_norms, health.flow, health.update_ratios]
    for panel, values in zip(panels, shown, strict=False):
        for layer in range(3):
            line = panel.lines[layer]
            assert list(line.get_xdata()) == health.epochs
            assert np.array_equal(line.get_ydata(), values[:, layer], equal_nan=True)
    assert len(panels[3].lines) == 4
    figure.savefig(tmp_path / "health.png")
    assert (tmp_path / "health.png").stat().st_size > 10_000


def test_without_matplotlib(monkeypatch):
    health = bcenet.TrainingHealth(X, Y)
    fit(make_network((6, 4, 1)), health, epochs=1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"bcenet\[plot\]"):
        health.plot()


# --------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, Y), {"rows": 0}, ValueError, "rows must be at least 1; got 0"),
        ((X, Y), {"vanishing": 2}, ValueError, "vanishing must be .* at most 1; got 2"),
        ((X, Y), {"exploding": 0.5}, ValueError, "exploding must be .* at least 1; got 0.5"),
        ((X, Y), {"dead": "all"}, TypeError, "dead must be a number; got 'all'"),
        ((X, Y), {"random_state": None}, TypeError, "random_state must be an integer; got None"),
        ((X[0], Y), {}, ValueError, "X must have two dimensions; got shape"),
        ((X, Y[:3]), {}, ValueError, "y must have 300 rows, as X; got shape"),
        ((X, list("abc")), {}, TypeError, "y must hold real numbers"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        bcenet.TrainingHealth(*arguments, **options)


def test_a_sample_that_does_not_fit_the_network():
    net = make_network((6, 4, 1))
    before = net.parameters.copy()
    for sample, message in [
        ((X[:, :5], Y), r"X must have shape \(n, 6\)"),
        ((X, np.c_[Y, Y]), r"y must have shape \(300,\)"),
        ((X, np.where(Y, np.nan, 0)), "y must be in"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(net, bcenet.TrainingHealth(*sample))
    assert np.array_equal(net.parameters, before)

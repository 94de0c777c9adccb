"""L-BFGS: against scikit-learn's optimum, stopping, what it refuses, and interrupts."""

from __future__ import annotations

import builtins
import signal
import sys
import warnings

import numpy as np
import pytest
from helpers import make_network, problem, relative_to_largest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

import bcenet


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
def test_logistic_regression_against_scikit_learn(isa, C, weighted):
    X, y = problem(5_003 if C == 1 else 203)
    weight = np.random.default_rng(0).random(len(y)) if weighted else None
    rival = LogisticRegression(solver="lbfgs", C=C, tol=1e-10, max_iter=10_000)
    rival.fit(X, y, sample_weight=weight)
    net = bcenet.Network([7, 1], dtype="float64", initializer="zeros")
    history = bcenet.fit(
        net, X, y, optimizer=bcenet.LBFGS(tol=1e-10), epochs=1_000, l2=1 / C, sample_weight=weight
    )
    # Both minimise sum(w l) + |W|^2 / (2 C); the flat bottom leaves half the digits of the loss.
    assert relative_to_largest(net.coefs[0][:, 0], rival.coef_[0]) < 1e-6
    assert abs(net.intercepts[0][0] - rival.intercept_[0]) < 1e-6
    total = 1 if weight is None else weight.sum() / len(y)
    loss = bcenet.bce_loss(rival.decision_function(X), y, sample_weight=weight)
    penalty = (rival.coef_**2).sum() / (2 * C) / (len(y) * total)
    assert history.loss[-1] + history.penalty[-1] == pytest.approx(loss + penalty, rel=1e-10)
    assert (np.diff(np.add(history.loss, history.penalty)) <= 0).all()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("activation", ["tanh", "identity"])  # relu's kinks part the two ways
def test_mlp_against_scikit_learn(outputs, activation):
    X, y = problem(150, outputs=outputs)
    rival = MLPClassifier(
        (6,), activation=activation, solver="lbfgs", alpha=5.0, max_iter=1, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        rival.fit(X, y)  # makes the start, after one iteration
        net = bcenet.Network([7, 6, outputs], activation, dtype="float64")
        for own, theirs in zip(net.coefs + net.intercepts, rival.coefs_ + rival.intercepts_,
                               strict=True):  # fmt: skip
            own[...] = theirs
        rival.set_params(warm_start=True, max_iter=2_000, tol=1e-9).fit(X, y)
    history = bcenet.fit(
        net, X, y, optimizer=bcenet.LBFGS(tol=1e-7), epochs=2_000, l2=5.0, label_reduction="sum"
    )
    losses = np.add(history.loss, history.penalty)
    assert (np.diff(losses) <= 0).all()
    assert losses[-1] == pytest.approx(rival.loss_, rel=1e-5)
    own, theirs = net.predict_proba(X), rival.predict_proba(X)
    assert relative_to_largest(own, theirs[:, 1] if outputs == 1 else theirs) < 2e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", [{}, {"normalization": "layer", "feature_scale": True}])
def test_the_loss_falls(isa, dtype, network):
    X, y = problem(403, outputs=2, dtype=dtype)
    net = make_network((7, 18, 2), "relu", dtype, **network)
    start = net.loss_gradient(X, y)[0]
    history = bcenet.fit(net, X, y, optimizer="lbfgs", epochs=30)
    assert history.loss[0] < start
    assert history.loss[-1] < 0.7 * start
    assert history.loss[-1] == pytest.approx(net.loss_gradient(X, y)[0], rel=1e-6)
    assert len(history.loss) <= 30


def test_every_option_of_the_loss_is_in_the_minimum():
    # At the minimum the gradient of all of it vanishes, by finite differences of its own history.
    X, y = problem(203, outputs=2, soft=True)
    rng = np.random.default_rng(0)
    y[rng.random(y.shape) < 0.2] = np.nan
    weight, offset = rng.random(203), rng.normal(size=203)
    options = {
        "sample_weight": weight, "offset": offset, "pos_weight": [2.0, 0.5], "l2": 3.0,
        "missing_labels": "ignore", "label_reduction": "sum", "label_smoothing": 0.1,
    }  # fmt: skip
    net = bcenet.Network([7, 2], dtype="float64", random_state=0)
    history = bcenet.fit(net, X, y, optimizer=bcenet.LBFGS(tol=1e-9), epochs=500, **options)
    known = ~np.isnan(y)
    element = known * weight[:, np.newaxis]

    def objective():
        loss = bcenet.bce_loss(
            net.decision_function(X, offset=offset), np.nan_to_num(y), sample_weight=element,
            pos_weight=[2.0, 0.5], label_smoothing=0.1,
        )  # fmt: skip
        return 2 * float(loss) + 1.5 * (net.coefs[0] ** 2).sum() / (element.sum() / 2)

    least = objective()
    assert history.loss[-1] + history.penalty[-1] == pytest.approx(least, rel=1e-12)
    for i in range(net.parameters.size):
        for step in (1e-4, -1e-4):
            net.parameters[i] += step
            assert objective() > least
            net.parameters[i] -= step


def test_one_digest_for_thread_counts():
    X, y = problem(9_001)
    results = []
    for n_threads in (1, 2, 3, 7):
        net = make_network()
        history = bcenet.fit(net, X, y, optimizer="lbfgs", epochs=4, n_threads=n_threads)
        results.append((net.parameters.tobytes(), history.loss))
    assert results.count(results[0]) == 4


def test_callbacks_stop_it():
    X, y = problem(203)
    net, twin = make_network(), make_network()
    seen = []

    def stop(state):
        seen.append((state.epoch, state.loss, net.parameters.copy()))
        assert state.learning_rate is None
        return state.epoch == 3

    history = bcenet.fit(net, X, y, optimizer="lbfgs", epochs=50, callbacks=[stop],
                         validation_data=(X, y))  # fmt: skip
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3]
    assert history.loss == [loss for _, loss, _ in seen]
    assert history.validation_loss == pytest.approx(history.loss, rel=1e-12)
    bcenet.fit(twin, X, y, optimizer="lbfgs", epochs=3)
    assert np.array_equal(net.parameters, twin.parameters)
    assert np.array_equal(net.parameters, seen[-1][2])


def test_tolerance_and_evaluations_stop_it():
    X, y = problem(203)
    few = bcenet.fit(make_network(), X, y, optimizer=bcenet.LBFGS(tol=1e-2), epochs=500)
    many = bcenet.fit(make_network(), X, y, optimizer=bcenet.LBFGS(tol=1e-4), epochs=500)
    assert len(few.loss) < len(many.loss)
    short = bcenet.fit(make_network(), X, y, optimizer=bcenet.LBFGS(max_evaluations=5), epochs=500)
    assert len(short.loss) <= 5


def test_ctrl_c_leaves_the_last_iteration():
    X, y = problem(203)
    net, seen = make_network(), []

    def interrupt(state):
        seen.append(net.parameters.copy())
        if state.epoch == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(net, X, y, optimizer="lbfgs", epochs=50, callbacks=[interrupt])
    assert len(seen) == 4
    assert np.array_equal(net.parameters, seen[-1])
    bcenet.fit(net, X, y, optimizer="lbfgs", epochs=1)  # nothing stays locked


def test_ctrl_c_within_an_evaluation(monkeypatch):
    X, y = problem(203)
    net, seen = make_network(), []
    from bcenet.gradients import GradientPass

    call, calls = GradientPass.__call__, []

    def interrupted(self, parameters):
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return call(self, parameters)

    monkeypatch.setattr(GradientPass, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(net, X, y, optimizer="lbfgs", epochs=50,
                   callbacks=[lambda state: seen.append(net.parameters.copy())])  # fmt: skip
    assert seen
    assert np.array_equal(net.parameters, seen[-1])


@pytest.mark.parametrize("scale", [1e307, 1e200])
def test_n4_no_iteration_that_overflows_is_kept(scale):
    X, y = problem(60)
    net = make_network((7, 4, 1))
    seen = [net.parameters.copy()]
    try:
        bcenet.fit(
            net, X * scale, y, optimizer="lbfgs", epochs=20,
            callbacks=[lambda state: seen.append(net.parameters.copy())],
        )  # fmt: skip
    except bcenet.NonFiniteError as error:
        assert (error.epoch, error.batch) == (len(seen), 0)
        assert "loss is not finite" in str(error)
    assert np.isfinite(net.parameters).all()
    assert np.array_equal(net.parameters, seen[-1])


def test_n4_a_loss_that_is_not_finite_at_the_start():
    X, y = problem(60)
    net = make_network((7, 1))
    net.coefs[0][...] = 1e308
    before = net.parameters.copy()
    with pytest.raises(bcenet.NonFiniteError, match="before the first iteration") as caught:
        bcenet.fit(net, np.abs(X) + 1, y, optimizer="lbfgs")
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 0, 0)
    assert np.array_equal(net.parameters, before)


def test_without_scipy(monkeypatch):
    X, y = problem(60)
    net = make_network()
    before = net.parameters.copy()
    imported = builtins.__import__

    def refuse(name, *rest, **named):
        if name.startswith("scipy"):
            raise ImportError("No module named 'scipy'")
        return imported(name, *rest, **named)

    for name in [name for name in sys.modules if name.startswith("scipy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"optimizer 'lbfgs' needs SciPy.*bcenet\[lbfgs\]"):
        bcenet.fit(net, X, y, optimizer="lbfgs")
    monkeypatch.undo()
    assert np.array_equal(net.parameters, before)


REFUSED = {
    "schedule": ({"schedule": "cosine"}, r"schedule must not be given with optimizer 'lbfgs'"),
    "averaging": ({"averaging": bcenet.EMA()}, r"averaging must not be given"),
    "clip_norm": ({"clip_norm": 1.0}, r"clip_norm must not be given"),
    "max_norm": ({"max_norm": 1.0}, r"max_norm must not be given"),
    "dropout": ({"dropout": 0.5}, r"dropout must not be given"),
    "learning_rate": ({"learning_rate": 0.1}, r"learning_rate must be None.*0\.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_options(case):
    options, message = REFUSED[case]
    X, y = problem(60)
    net = make_network()
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=message):
        bcenet.fit(net, X, y, optimizer="lbfgs", **options)
    assert np.array_equal(net.parameters, before)


def test_batch_normalisation_is_refused():
    X, y = problem(60)
    with pytest.raises(ValueError, match=r"normalization 'batch' must not be given"):
        bcenet.fit(make_network(normalization="batch"), X, y, optimizer="lbfgs")


BAD = {
    "tol": ({"tol": -1}, ValueError, r"tol must be.*-1"),
    "memory": ({"memory": 0}, ValueError, r"memory must be at least 1; got 0"),
    "memory's type": ({"memory": 2.5}, TypeError, r"memory must be an integer; got 2\.5"),
    "evaluations": ({"max_evaluations": 0}, ValueError, r"max_evaluations must be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        bcenet.LBFGS(**options)


def test_callbacks_that_number_epochs(tmp_path):
    from bcenet.callbacks import Checkpoint, CSVLog

    X, y = problem()
    net = make_network((7, 1))
    callbacks = [CSVLog(tmp_path / "log.csv"), Checkpoint(tmp_path / "{epoch}.bcenet")]
    history = bcenet.fit(net, X, y, optimizer="lbfgs", epochs=3, callbacks=callbacks)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]
    assert [float(line.split(",")[1]) for line in lines[1:]] == history.loss
    assert np.array_equal(bcenet.load(tmp_path / "3.bcenet").parameters, net.parameters)

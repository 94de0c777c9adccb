"""bcenet.Trainer: the same bits as `bcenet.fit`, losses of one's own, errors and threads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from helpers import digest, make_network, problem, relative_to_largest

import bcenet

OPTIONS = {
    "plain": {},
    "penalties": {"l1": 0.02, "l2": 0.3},
    "clipped": {"clip_norm": 0.1, "max_norm": 1.5},
    "focal": {"loss": "focal", "pos_weight": 2.0, "label_smoothing": 0.1},
    "labels summed": {"label_reduction": "sum"},
}
NETWORKS = {
    "plain": {},
    "batch": {"normalization": "batch"},
    "layer": {"normalization": "layer", "feature_scale": True},
}


def network(kind="plain", outputs=1, dtype="float64"):
    return bcenet.Network(
        [7, 18, 9, outputs], "tanh", dtype=dtype, random_state=3, **NETWORKS[kind]
    )


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_steps_over_the_batches_are_a_fit(case, kind, outputs):
    X, y = problem(103, outputs=outputs)
    weight = np.random.default_rng(5).random(103)
    expected, net = network(kind, outputs), network(kind, outputs)
    theirs, ours = bcenet.Adam(0.01), bcenet.Adam(0.01)
    history = bcenet.fit(
        expected, X, y, optimizer=theirs, batch_size=40, epochs=2, sample_weight=weight,
        shuffle=False, **OPTIONS[case],
    )  # fmt: skip
    losses = []
    with bcenet.Trainer(net, ours, **OPTIONS[case]) as trainer:
        for _ in range(2):
            for start in (0, 40, 80):
                chosen = slice(start, start + 40)
                losses.append(trainer.step(X[chosen], y[chosen], sample_weight=weight[chosen]))
    assert digest(net.parameters) == digest(expected.parameters)
    assert digest(net.statistics) == digest(expected.statistics)
    assert ours.step == theirs.step == 6
    for name, array in theirs.state.items():
        assert digest(ours.state[name]) == digest(array)
    weights = [weight[:40].sum(), weight[40:80].sum(), weight[80:].sum()]
    if case == "labels summed":  # the mean over batches by their rows, as scikit-learn's
        weights = [40, 40, 23]
    for epoch in range(2):
        mean = np.average(losses[3 * epoch : 3 * epoch + 3], weights=weights)
        assert mean == pytest.approx(history.loss[epoch], rel=1e-13)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_gradient_of_ones_own_is_that_of_the_built_in_loss(kind, outputs, dropout):
    X, y = problem(50, outputs=outputs, soft=True)
    expected, net = network(kind, outputs), network(kind, outputs)
    options = {"dropout": dropout, "random_state": 11}
    with (
        bcenet.Trainer(expected, bcenet.SGD(0.5), **options) as theirs,
        bcenet.Trainer(net, bcenet.SGD(0.5), **options) as ours,
    ):
        for _ in range(4):
            logits = ours.logits(X)
            loss = theirs.step(X, y)
            assert bcenet.bce_loss(logits, y) == pytest.approx(loss, rel=1e-13)
            ours.step_gradient(X, bcenet.bce_gradient(logits, y))
    assert relative_to_largest(net.parameters, expected.parameters) <= 1e-13
    assert relative_to_largest(net.statistics, expected.statistics) <= 1e-13


def test_logits_of_training_are_not_those_of_predictions():
    X, _ = problem(40)
    trainer = bcenet.Trainer(network("batch"), dropout=0.5, random_state=0)
    first, second = trainer.logits(X), trainer.logits(X)
    assert np.array_equal(first, second)
    assert not np.allclose(first, trainer.network.decision_function(X))
    trainer.step_gradient(X, np.zeros(40))  # another step drops others
    assert not np.array_equal(trainer.logits(X), first)
    trainer.close()


def test_the_network_is_brought_up_to_date_when_it_is_looked_at():
    X, y = problem(30)
    net = network()
    before = net.parameters.copy()
    trainer = bcenet.Trainer(net, bcenet.AMSGrad(0.1))
    trainer.step(X, y)
    assert np.array_equal(net.parameters, before)
    assert trainer.network is net
    assert not np.array_equal(net.parameters, before)
    assert trainer.optimizer.step == 1
    assert all(array.any() for array in trainer.optimizer.state.values())
    trainer.close()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_momentum_that_begins_or_ends_is_refused(dtype):
    X, y = problem(20)
    for momentum in (0.0, 0.9):
        net = network(dtype=dtype)
        trainer = bcenet.Trainer(net, bcenet.SGD(0.1, momentum=momentum))
        trainer.step(X, y)
        trainer.optimizer.momentum = 0.9 - momentum
        with pytest.raises(ValueError, match="optimizer must keep"):
            trainer.step(X, y)
        trainer.close()


def test_any_hyperparameter_may_change_between_steps():
    X, y = problem(20)
    expected, net = network(), network()
    theirs, ours = (bcenet.SGD(0.1, momentum=0.9) for _ in range(2))
    bcenet.fit(expected, X, y, optimizer=theirs, epochs=1, shuffle=False)
    theirs.momentum = 0.5
    bcenet.fit(expected, X, y, optimizer=theirs, epochs=1, shuffle=False)
    with bcenet.Trainer(net, ours) as trainer:
        trainer.step(X, y)
        trainer.optimizer.momentum = 0.5
        trainer.step(X, y)
    assert digest(net.parameters) == digest(expected.parameters)


def test_after_close_it_goes_on_from_the_network_as_it_is():
    X, y = problem(20)
    net = network()
    optimizer = bcenet.Adam()
    with bcenet.Trainer(net, optimizer) as trainer:
        trainer.step(X, y)
    bcenet.fit(net, X, y, optimizer=optimizer, epochs=5)
    kept = net.parameters.copy()
    optimizer.learning_rate = 0.0
    trainer.step(X, y)
    assert trainer.optimizer.step == 7
    assert digest(trainer.network.parameters) == digest(kept)
    trainer.close()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("missing", ["error", "ignore"])
def test_penalties_beside_a_gradient_of_ones_own_are_divided_by_the_rows(missing, reduction):
    X, y = problem(20, outputs=2)
    net = network(outputs=2)
    before = net.parameters.copy()
    options = {"missing_labels": missing, "label_reduction": reduction, "l2": 0.5}
    with bcenet.Trainer(net, bcenet.SGD(1.0), **options) as trainer:
        trainer.optimizer.learning_rate = 0.0
        trainer.step(X, y, sample_weight=np.full(20, 1e-3))
        trainer.optimizer.learning_rate = 1.0
        trainer.step_gradient(X, np.zeros((20, 2)))
    assert trainer.optimizer.step == 2
    for coefs, earlier in zip(net.coefs, net.shape.split(before)[0], strict=True):
        assert relative_to_largest(coefs, earlier * (1 - 0.5 / 20)) <= 1e-15


def test_growing_batches_and_an_optimizer_that_goes_on():
    X, y = problem(90)
    expected, net = network(), network()
    parts = [slice(0, 10), slice(10, 40), slice(40, 90), slice(0, 5)]
    with bcenet.Trainer(expected, bcenet.RMSprop(0.01)) as trainer:
        trainer.logits(X)  # room for all rows from the start
        for part in parts:
            trainer.step(X[part], y[part])
    optimizer = bcenet.RMSprop(0.01)
    for part in parts:
        with bcenet.Trainer(net, optimizer, n_threads=2) as trainer:
            trainer.step(X[part], y[part])
        optimizer = pickle.loads(pickle.dumps(optimizer))
    assert digest(net.parameters) == digest(expected.parameters)


def test_a_rate_changed_between_steps():
    X, y = problem(30)
    net = network()
    optimizer = bcenet.SGD(0.1)
    with bcenet.Trainer(net, optimizer) as trainer:
        trainer.optimizer.learning_rate = 0.0
        before = net.parameters.copy()
        trainer.step(X, y)
        assert np.array_equal(trainer.network.parameters, before)


def test_offset_and_missing_labels():
    X, y = problem(30, outputs=3)
    y[::4, 1] = np.nan
    offset = np.random.default_rng(0).normal(size=(30, 3))
    net = network(outputs=3)
    logits = net.decision_function(X, offset=offset)
    known = ~np.isnan(y)
    with bcenet.Trainer(net, missing_labels="ignore") as trainer:
        loss = trainer.step(X, y, offset=offset)
    assert loss == pytest.approx(bcenet.bce_loss(logits[known], y[known]), rel=1e-13)


def test_a_batch_of_one_class_and_one_without_weight():
    X, y = problem(10)
    net = network()
    with bcenet.Trainer(net) as trainer:
        assert trainer.step(X[:1], [1]) > 0
        with pytest.raises(ValueError, match="sample_weight must not be 0 everywhere"):
            trainer.step(X, y, sample_weight=np.zeros(10))


def test_n4_an_overflowing_step_leaves_the_last_sync():
    X, y = problem(20)
    net = network()
    trainer = bcenet.Trainer(net, bcenet.SGD(1e200, momentum=0.9))
    trainer.step_gradient(X, np.full(20, 1e-210))
    kept = trainer.network.parameters.copy()
    trainer.step_gradient(X, np.full(20, 1e-210))
    with pytest.raises(bcenet.NonFiniteError, match="step 3") as caught:
        trainer.step_gradient(X, np.full(20, 1e200))
    assert (caught.value.epoch, caught.value.batch, caught.value.layer) == (1, 2, 2)
    assert np.array_equal(trainer.network.parameters, kept)
    assert trainer.optimizer.step == 1
    trainer.step(X, y)  # goes on
    trainer.close()


def test_n4_a_loss_that_is_not_finite_takes_no_step():
    X, y = problem(20)
    net = make_network((7, 6, 5, 1), "relu")
    net.coefs[0][...] = 1e200
    kept = net.parameters.copy()
    trainer = bcenet.Trainer(net)
    with pytest.raises(bcenet.NonFiniteError, match="step 1: the loss is not finite") as caught:
        trainer.step(X * 1e200, y)
    assert caught.value.layer == 0
    assert np.array_equal(trainer.network.parameters, kept)
    assert trainer.optimizer.step == 0
    trainer.close()


def test_t2_two_threads_with_one_trainer():
    X, y = problem(5000, features=7)
    net = network()
    trainer = bcenet.Trainer(net)
    refused, taken = [], []

    def work():
        for _ in range(50):
            try:
                trainer.step(X, y)
                taken.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) + len(taken) == 200
    assert trainer.optimizer.step == len(taken) > 0
    assert set(refused) <= {
        f"this {name} is being fitted by another thread or call"
        for name in ("trainer", "network", "optimizer")
    }
    assert np.isfinite(net.parameters).all()


def test_a_fit_of_its_network_is_refused_during_a_step():
    X, y = problem(10)
    net = network()
    trainer = bcenet.Trainer(net)

    def callback(state):
        trainer.step(X, y)

    with pytest.raises(RuntimeError, match="network is being fitted"):
        bcenet.fit(net, X, y, epochs=1, callbacks=[callback])


BAD = {
    "a shape": (lambda t, X: t.step_gradient(X, np.zeros(3)), "dlogits must have shape"),
    "two dimensions": (lambda t, X: t.step_gradient(X, np.zeros((20, 1))), "dlogits must have"),
    "not finite": (lambda t, X: t.step_gradient(X, np.full(20, np.inf)), "dlogits must be finite"),
    "no rows": (lambda t, X: t.step_gradient(X[:0], np.zeros(0)), "dlogits must have shape"),
    "no rows of logits": (lambda t, X: t.logits(X[:0]), "X must have at least one row"),
    "columns": (lambda t, X: t.logits(X[:, 1:]), r"X must have shape \(n, 7\)"),
    "targets": (lambda t, X: t.step(X, np.full(20, 2)), r"y must be in \[0, 1\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, message = BAD[case]
    X, _ = problem(20)
    net = network()
    before = net.parameters.copy()
    with bcenet.Trainer(net) as trainer, pytest.raises(ValueError, match=message):
        call(trainer, X)
    assert np.array_equal(net.parameters, before)


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"network must be a bcenet.Network; got 3"):
        bcenet.Trainer(3)
    with pytest.raises(ValueError, match="optimizer must take steps"):
        bcenet.Trainer(network(), "lbfgs")
    with pytest.raises(ValueError, match=r"dropout must be finite, at least 0, below 1; got 1\.0"):
        bcenet.Trainer(network(), dropout=1)
    optimizer = bcenet.Adam()
    bcenet.fit(make_network((7, 1)), *problem(), optimizer=optimizer, epochs=1)
    with pytest.raises(ValueError, match="optimizer must be fresh or carry state"):
        bcenet.Trainer(network(), optimizer)

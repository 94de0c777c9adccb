"""Sparse X: the bits of the same rows made dense, in every call that takes rows; bad matrices."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import reference as ref
from helpers import digest, make_network, relative_to_largest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import bcenet
import bcenet.sparse

SHAPES = [(50, 1), (50, 3), (50, 6, 1), (37, 70, 33, 2), (203, 130, 1), (9, 5)]
OPTIONS = {
    "plain": ({}, {}),
    "layer": ({"normalization": "layer"}, {"l1": 0.01, "l2": 0.1, "dropout": 0.2}),
    "batch, scaled": (
        {"normalization": "batch", "feature_scale": True},
        {"clip_norm": 0.5, "max_norm": 1.0, "averaging": lambda: bcenet.EMA(0.9)},
    ),
}


def rows(n, columns, outputs=1, dtype="float64", *, density=0.1, seed=0):
    """(X, y): one column is full, one is empty, as are some rows."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n, columns)) < density, rng.normal(size=(n, columns)), 0)
    X[:, 3] = rng.normal(size=n)
    X[:, 5] = 0
    X[::17] = 0
    y = (rng.random((n, outputs)) < 0.5).astype(dtype)
    return X.astype(dtype), y[:, 0] if outputs == 1 else y


def results(net, X, y, n_threads=1, **options):
    """A digest of everything that follows from a fit."""
    options = {name: value() if callable(value) else value for name, value in options.items()}
    history = bcenet.fit(
        net, X, y, epochs=3, batch_size=250, random_state=5, n_threads=n_threads,
        validation_data=(X[:100], y[:100]), **options,
    )  # fmt: skip
    _, gradient = net.loss_gradient(X, y)
    arrays = [net.parameters, net.statistics, net.predict_proba(X), gradient.flat]
    return [digest(array) for array in arrays], history.loss, history.validation_loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("layer_sizes", SHAPES)
def test_fits_have_the_bits_of_dense_rows(isa, layer_sizes, case, dtype):
    made, options = OPTIONS[case]
    X, y = rows(603, layer_sizes[0], layer_sizes[-1], dtype)

    def fitted(X, n_threads=1):
        net = make_network(layer_sizes, "relu", dtype, **made)
        return results(net, X, y, n_threads, **options)

    expected = fitted(X)
    for n_threads in (1, 2, 3):
        assert fitted(sparse.csr_array(X), n_threads) == expected


FORMATS = {
    "csr_matrix": sparse.csr_matrix,
    "csc_array": sparse.csc_array,
    "coo_matrix": sparse.coo_matrix,
    "64-bit indices": lambda X: _with_indices(X, np.int64),
    "other byte order": lambda X: _with_data(X, ">f8"),
    "float16": lambda X: _with_data(X, "f2"),
    "zeros stored": lambda X: _with_zeros(X),
    "unsorted": lambda X: _reversed(X),
    "twice the same place": lambda X: _halves(X),
}


def _with_indices(X, dtype):
    matrix = sparse.csr_array(X)
    matrix.indices, matrix.indptr = matrix.indices.astype(dtype), matrix.indptr.astype(dtype)
    return matrix


def _with_data(X, dtype):
    matrix = sparse.csr_array(X)
    matrix.data = matrix.data.astype(dtype)
    return matrix


def _with_zeros(X):
    matrix = sparse.csr_array(np.where(X == 0, 7, X))
    matrix.data[matrix.data == 7] = 0
    return matrix


def _reversed(X):
    matrix = sparse.csr_array(X)
    for first, last in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        matrix.indices[first:last] = matrix.indices[first:last][::-1].copy()
        matrix.data[first:last] = matrix.data[first:last][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def _halves(X):
    half = sparse.coo_array(X / 2)
    row, column = half.coords
    coords = (np.concatenate([row, row]), np.concatenate([column, column]))
    return sparse.coo_array((np.concatenate([half.data, half.data]), coords), X.shape)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name):
    X, y = rows(90, 12)
    if name == "float16":
        X = X.astype("f2").astype(float)
    matrix = FORMATS[name](X)
    stored = matrix.data.copy()
    expected, net = make_network((12, 5, 1)), make_network((12, 5, 1))
    bcenet.fit(expected, X, y, epochs=2, random_state=0)
    bcenet.fit(net, matrix, y, epochs=2, random_state=0)
    assert digest(net.parameters) == digest(expected.parameters)
    assert np.array_equal(matrix.data, stored)  # not written to


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 30),
    columns=st.integers(6, 90),
    outputs=st.integers(1, 6),
    density=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_predictions_of_any_shape(n, columns, outputs, density, seed):
    X, _ = rows(n, columns, outputs, density=density, seed=seed)
    net = make_network((columns, 9, outputs), "tanh")
    offset = np.random.default_rng(seed).normal(size=net.rows_shape(n))
    expected = net.decision_function(X, offset=offset)
    assert digest(net.decision_function(sparse.csr_matrix(X), offset=offset)) == digest(expected)


@pytest.mark.parametrize("layer_sizes", [(12, 1), (12, 7, 2)])
def test_other_calls(layer_sizes):
    X, y = rows(40, 12, layer_sizes[-1])
    S = sparse.csr_array(X)
    net = make_network(layer_sizes)
    assert digest(net.row_gradients(S, y)) == digest(net.row_gradients(X, y))
    for ours, theirs in zip(net.trace(S, y).layers, net.trace(X, y).layers, strict=True):
        assert digest(ours.dw) == digest(theirs.dw)
    assert bcenet.check_gradient(net, S, y).passed
    other = make_network(layer_sizes)
    with bcenet.Trainer(net) as trainer, bcenet.Trainer(other) as dense:
        for part in (slice(0, 5), slice(5, 35), slice(35, 40)):  # the engine grows
            assert trainer.step(S[part], y[part]) == dense.step(X[part], y[part])
        trainer.step(X, y)  # dense rows, and sparse again
        dense.step(X, y)
        assert np.array_equal(trainer.logits(S), dense.logits(X))
        trainer.step_gradient(S, np.ones(net.rows_shape(40)))
        dense.step_gradient(X, np.ones(net.rows_shape(40)))
    assert digest(net.parameters) == digest(other.parameters)


def test_lbfgs():
    X, y = rows(200, 12)
    expected, net = make_network((12, 1)), make_network((12, 1))
    theirs = bcenet.fit(expected, X, y, optimizer="lbfgs", l2=1.0, epochs=30)
    ours = bcenet.fit(net, sparse.csr_array(X), y, optimizer="lbfgs", l2=1.0, epochs=30)
    assert ours.loss == theirs.loss
    assert digest(net.parameters) == digest(expected.parameters)


@pytest.mark.parametrize("lazy", [False, True])
def test_resumed_fits(lazy, tmp_path):
    X, y = rows(200, 30)
    S, path = sparse.csr_array(X), tmp_path / "c.bcenet"

    def stop(state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    options = {"batch_size": 20, "epochs": 5, "random_state": 1, "lazy": lazy}
    expected, net = make_network((30, 5, 1)), make_network((30, 5, 1))
    bcenet.fit(expected, S, y, **options)
    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(net, S, y, checkpoint=path, checkpoint_every=7, callbacks=[stop], **options)
    for other in (X, sparse.csr_array(2 * X), S[::-1]):
        with pytest.raises(ValueError, match="X must hold the values of the checkpoint's fit"):
            bcenet.resume(path, other, y)
    assert digest(bcenet.resume(path, S, y).network.parameters) == digest(expected.parameters)


def test_n4_divergence_names_the_layer():
    X, y = rows(40, 12)
    net = make_network((12, 6, 1), "relu")
    before = net.parameters.copy()
    with pytest.raises(bcenet.NonFiniteError) as caught:
        bcenet.fit(net, sparse.csr_array(X * 1e300), y * 1.0, optimizer=bcenet.SGD(1e300))
    assert caught.value.epoch == 1
    if caught.value.batch == 0:
        assert np.array_equal(net.parameters, before)


def test_memory_is_that_of_the_entries_and_the_network():
    # Dense, these rows would take 4 GB, and a batch of them 400 MB.
    code = """
import resource, numpy as np, bcenet
from scipy import sparse
X = sparse.random_array((2000, 2**19), density=1e-4, rng=np.random.default_rng(0)).tocsr()
y = np.resize([0, 1], 2000)
net = bcenet.Network([2**19, 1], dtype="float32", random_state=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bcenet.fit(net, X, y, epochs=1)
net.predict_proba(X)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KB


def _broken(**changes):
    X, _ = rows(20, 12)
    matrix = sparse.csr_array(X)
    for name, change in changes.items():
        change(getattr(matrix, name))
    return matrix


def _set(index, value):
    def change(array):
        array[index] = value

    return change


NO_MATRIX = (ValueError, "X must be a sparse matrix whose indices fit its shape")
BAD = {
    "NaN": (lambda: _broken(data=_set(4, np.nan)), ValueError, "X must be finite; got nan at row"),
    "infinity": (lambda: _broken(data=_set(-1, -np.inf)), ValueError, "got -inf at row 19"),
    "columns": (lambda: sparse.csr_array(np.ones((20, 11))), ValueError, "X must have shape"),
    "complex": (lambda: sparse.csr_array(np.ones((20, 12)) * 1j), TypeError, "X must hold real"),
    "a column outside": (lambda: _broken(indices=_set(-1, 12)), *NO_MATRIX),
    "a column below 0": (lambda: _broken(indices=_set(0, -1)), *NO_MATRIX),
    "indptr": (lambda: _broken(indptr=_set(3, 10**6)), *NO_MATRIX),
    "indptr falls": (lambda: _broken(indptr=_set(4, 0)), *NO_MATRIX),
    "no rows": (lambda: sparse.csr_array((0, 12)), ValueError, "X must have at least one row"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_matrices(case):
    make, error, message = BAD[case]
    net = make_network((12, 5, 1))
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        bcenet.fit(net, make(), np.resize([0, 1], 20))
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize("case", ["NaN", "infinity", "a column outside", "indptr"])
def test_bad_matrices_in_predictions(case):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make_network((12, 5, 1)).predict_proba(make())


def test_most_entries_bounds_every_batch():
    X, _ = rows(50, 12)
    matrix = sparse.csr_array(X)
    lengths = sorted(np.diff(matrix.indptr))
    for n in (1, 7, 50, 99):
        assert bcenet.sparse.most_entries(matrix, n) == sum(lengths[-n:])


# ------------------------------------------------------------------------------ lazy steps

OPTIMIZERS = {
    "sgd": {"weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adamw": {"weight_decay": 0.3},
    "amsgrad": {},
    "rmsprop": {},
    "lion": {"weight_decay": 0.1},
}
KINDS = {
    "sgd": bcenet.SGD,
    "nesterov": bcenet.SGD,
    "adamw": bcenet.AdamW,
    "amsgrad": bcenet.AMSGrad,
    "rmsprop": bcenet.RMSprop,
    "lion": bcenet.Lion,
}


def lazy_twin(net, X, y, name, batch_size, epochs, *, l1, l2):
    """The parameters after lazy steps: rows of W1 whose column the batch lacks are put back."""
    w = net.parameters.astype(float)
    parts = ref.unflatten(w, net.layer_sizes)
    decays = ref.by_group(parts, len(parts), {"intercepts": 0})
    first = parts[0][0].size
    state, step = {}, 0
    for _ in range(epochs):
        for start in range(0, len(X), batch_size):
            batch = slice(start, start + batch_size)
            _, _, gradients = ref.backward(parts, net.activations, X[batch], y[batch])
            g = ref.flatten(gradients)
            g += decays * (l1 * np.sign(w) + l2 * w) / y[batch].size
            absent = ~X[batch].any(axis=0)
            kept = {name: array.copy() for name, array in {"": w, **state}.items()}
            step += 1
            rule = "sgd" if name == "nesterov" else name
            options = {"learning_rate": 0.01, **OPTIMIZERS[name]}
            ref.OPTIMIZERS[rule](w, g, state, step, decays, **options)
            for key, array in {"": w, **state}.items():
                rows = array[:first].reshape(net.layer_sizes[0], -1)
                before = kept.get(key, np.zeros_like(w))
                rows[absent] = before[:first].reshape(rows.shape)[absent]
    return w


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layer_sizes", [(50, 1), (50, 3), (37, 70, 2), (203, 130, 1)])
def test_lazy_steps_against_the_twin(isa, layer_sizes, name, dtype):
    X, y = rows(203, layer_sizes[0], layer_sizes[-1], dtype, density=0.02)
    X = np.round(X, 1).astype(dtype)  # the same numbers in both dtypes, some of them 0
    net = make_network(layer_sizes, "tanh", dtype)
    expected = lazy_twin(net, X, y, name, 20, 3, l1=0.01, l2=0.1)
    kept = net.parameters.copy()
    bcenet.fit(
        net, sparse.csr_array(X), y, optimizer=KINDS[name](0.01, **OPTIMIZERS[name]), lazy=True,
        batch_size=20, epochs=3, shuffle=False, l1=0.01, l2=0.1,
    )  # fmt: skip
    limit = 1e-11 if dtype == "float64" else 2e-3 if name == "lion" else 1e-4
    assert relative_to_largest(net.parameters, expected) <= limit
    empty = ~X.any(axis=0)
    assert empty.any()
    assert np.array_equal(net.coefs[0][empty], net.shape.split(kept)[0][0][empty])


@pytest.mark.parametrize("layer_sizes", [(50, 1), (50, 3), (37, 70, 33, 2)])
def test_lazy_steps_have_the_same_bits_for_all_threads(layer_sizes):
    X, y = rows(603, layer_sizes[0], layer_sizes[-1], "float32")
    S = sparse.csr_array(X)
    digests = set()
    for n_threads in (1, 2, 3, 8):
        net = make_network(layer_sizes, "relu", "float32")
        bcenet.fit(net, S, y, lazy=True, epochs=3, random_state=0, n_threads=n_threads)
        digests.add(digest(net.parameters))
    net, optimizer = make_network(layer_sizes, "relu", "float32"), bcenet.Adam()
    for _ in range(3):
        bcenet.fit(net, S, y, optimizer=optimizer, lazy=True, epochs=1, random_state=0)
    assert digests == {digest(net.parameters)}


@pytest.mark.parametrize("layer_sizes", [(20, 1), (20, 9, 2)])
def test_lazy_steps_are_the_others_where_every_batch_has_every_column(isa, layer_sizes):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(190, 20)), rows(190, 20, layer_sizes[-1])[1]
    nets = [make_network(layer_sizes) for _ in range(2)]
    for net, lazy in zip(nets, (True, False), strict=True):
        bcenet.fit(net, sparse.csr_array(X), y, lazy=lazy, epochs=2, l2=0.1, random_state=0)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)


REFUSED = {
    "a dense X": {},
    "optimizer 'lbfgs'": {"optimizer": "lbfgs"},
    "averaging": {"averaging": bcenet.EMA()},
    "clip_norm, max_norm or feature_scale": {"clip_norm": 1.0},
}


@pytest.mark.parametrize("what", REFUSED)
def test_lazy_is_refused(what):
    X, y = rows(20, 12)
    S = X if what == "a dense X" else sparse.csr_array(X)
    with pytest.raises(ValueError, match=f"lazy must be False with {what}; got True"):
        bcenet.fit(make_network((12, 1)), S, y, lazy=True, **REFUSED[what])
    with pytest.raises(TypeError, match="lazy must be True or False; got 1"):
        bcenet.fit(make_network((12, 1)), S, y, lazy=1)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layer_sizes", [(50, 1), (50, 3), (37, 70, 2)])
def test_lazy_steps_of_a_trainer_are_those_of_a_fit(layer_sizes, name):
    X, y = rows(203, layer_sizes[0], layer_sizes[-1], density=0.02)
    S, weight = sparse.csr_array(X), np.random.default_rng(1).random(203)
    theirs, ours = (KINDS[name](0.01, **OPTIMIZERS[name]) for _ in range(2))
    expected, net = make_network(layer_sizes), make_network(layer_sizes)
    options = {"lazy": True, "l1": 0.01, "l2": 0.1, "label_smoothing": 0.1}
    bcenet.fit(
        expected, S, y, optimizer=theirs, batch_size=20, epochs=3, shuffle=False,
        sample_weight=weight, **options,
    )  # fmt: skip
    with bcenet.Trainer(net, ours, n_threads=2, **options) as trainer:
        for start in [*range(0, 203, 20)] * 3:
            part = slice(start, start + 20)
            trainer.step(S[part], y[part], sample_weight=weight[part])
    assert digest(net.parameters) == digest(expected.parameters)
    assert ours.step == theirs.step == 33
    for key, array in theirs.state.items():
        assert digest(ours.state[key]) == digest(array)


def test_lazy_steps_with_a_gradient_of_ones_own():
    X, y = rows(60, 50, 3, density=0.02)
    S = sparse.csr_array(X)
    expected, net = make_network((50, 3)), make_network((50, 3))
    before = net.parameters.copy()
    with (
        bcenet.Trainer(expected, bcenet.Adam(0.1), lazy=True) as theirs,
        bcenet.Trainer(net, bcenet.Adam(0.1), lazy=True) as ours,
    ):
        for part in (slice(0, 10), slice(10, 60), slice(0, 10)):  # the engine grows in between
            logits = ours.logits(S[part])
            theirs.step(S[part], y[part])
            ours.step_gradient(S[part], bcenet.bce_gradient(logits, y[part]))
    # Adam divides a gradient by its size, so its rounding counts in full where it is near 0.
    assert relative_to_largest(net.parameters, expected.parameters) <= 1e-12
    absent = ~X.any(axis=0)
    assert np.array_equal(net.coefs[0][absent], net.shape.split(before)[0][0][absent])


def test_lazy_is_refused_by_a_trainer():
    X, y = rows(20, 12)
    message = "lazy must be False with clip_norm, max_norm or feature_scale; got True"
    for options in ({"clip_norm": 1.0}, {"max_norm": 1.0}):
        with pytest.raises(ValueError, match=message):
            bcenet.Trainer(make_network((12, 1)), lazy=True, **options)
    with pytest.raises(ValueError, match=message):
        bcenet.Trainer(make_network((12, 1), feature_scale=True), lazy=True)
    with pytest.raises(TypeError, match="lazy must be True or False; got None"):
        bcenet.Trainer(make_network((12, 1)), lazy=None)
    net = make_network((12, 1))
    before = net.parameters.copy()
    with bcenet.Trainer(net, lazy=True) as trainer:
        for call in (
            lambda: trainer.step(X, y),
            lambda: trainer.step_gradient(X, np.ones(20)),
            lambda: trainer.logits(X),
        ):
            with pytest.raises(ValueError, match="lazy must be False with a dense X; got True"):
                call()
    assert np.array_equal(net.parameters, before)

"""The same numbers as PyTorch, JAX and optax: `make test-parity`, with the extra of that name.

The imports stand in fixtures, so that collecting the tests needs none of the three.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from helpers import make_network, problem, relative_to_largest

import bcenet

pytestmark = pytest.mark.parity

EPOCHS, BATCH_SIZE, N = 20, 40, 200  # 100 steps
ORDER = [ref.row_order(3, epoch, N) for epoch in range(EPOCHS)]


@pytest.fixture(scope="module")
def torch():
    import torch

    return torch


@pytest.fixture(scope="module")
def jax():
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


@pytest.fixture(scope="module")
def optax(jax):
    import optax

    return optax


# ----------------------------------------------------------------------- loss and gradient

LOSS_OPTIONS = {
    "plain": {},
    "pos_weight": {"pos_weight": 3.5},
    "pos_weight by column": {"pos_weight": "columns"},
    "weights": {"sample_weight": "elements"},
    "both": {"pos_weight": "columns", "sample_weight": "elements"},
}


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("case", LOSS_OPTIONS)
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("float64", 1e-14)])
def test_loss_and_gradient_of_torch(torch, case, reduction, dtype, limit):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=5, size=(501, 3)).astype(dtype)
    targets = rng.choice([0, 1, 0.3], (501, 3)).astype(dtype)
    arrays = {"columns": rng.random(3).astype(dtype) * 3, "elements": rng.random((501, 3))}
    arrays["elements"] = arrays["elements"].astype(dtype)
    options = {
        name: arrays[value] if isinstance(value, str) else value
        for name, value in LOSS_OPTIONS[case].items()
    }
    loss, gradient = bcenet.bce_loss_gradient(logits, targets, reduction=reduction, **options)

    theirs = torch.nn.BCEWithLogitsLoss(
        weight=torch.tensor(options["sample_weight"]) if "sample_weight" in options else None,
        pos_weight=torch.tensor(options["pos_weight"], dtype=getattr(torch, dtype))
        if "pos_weight" in options
        else None,
        reduction="none" if reduction == "none" else "sum",
    )
    z = torch.tensor(logits, requires_grad=True)
    value = theirs(z, torch.tensor(targets))
    if reduction == "mean":  # PyTorch's own mean divides by the count, not by the weights
        value = value / options.get("sample_weight", np.ones((501, 3))).sum(dtype=float)
    value.sum().backward()
    assert relative_to_largest(loss, value.detach().numpy()) <= limit
    assert relative_to_largest(gradient, z.grad.numpy()) <= limit


def test_loss_and_gradient_of_optax(jax, optax):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=5, size=1_001)
    targets = rng.choice([0, 1, 0.3], 1_001)
    loss, gradient = bcenet.bce_loss_gradient(logits, targets)

    def mean(z):
        return optax.sigmoid_binary_cross_entropy(z, targets).mean()

    expected, expected_gradient = jax.value_and_grad(mean)(jax.numpy.asarray(logits))
    assert loss == pytest.approx(float(expected), rel=1e-14)
    assert relative_to_largest(gradient, expected_gradient) <= 1e-14


def test_label_smoothing_of_optax(optax):
    targets = np.resize([0.0, 1.0], 100)
    logits = np.linspace(-8, 8, 100)
    smooth = targets * (1 - 0.2) + 0.1  # Keras' definition
    expected = optax.sigmoid_binary_cross_entropy(logits, smooth)
    got = bcenet.bce_loss(logits, targets, label_smoothing=0.2, reduction="none")
    assert relative_to_largest(got, expected) <= 1e-14


# ----------------------------------------------------------------------------- activations


def torch_activation(torch, name):
    functional = torch.nn.functional
    return {
        "identity": lambda z: z,
        "relu": torch.relu,
        "leaky_relu": lambda z: functional.leaky_relu(z, 0.01),
        "elu": functional.elu,
        "selu": functional.selu,
        "gelu": lambda z: functional.gelu(z, approximate="none"),
        "silu": functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softplus": lambda z: functional.softplus(z, threshold=50),
    }[name]


def jax_activation(jax, name):
    return {
        "identity": lambda z: z,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "tanh": jax.numpy.tanh,
    }.get(name) or getattr(jax.nn, name)


@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_network_gradient_of_jax(jax, optax, activation):
    net = make_network((7, 18, 9, 2), activation)
    X, y = problem(N, outputs=2, soft=True)
    function = jax_activation(jax, activation)

    def mean_loss(parameters):
        *hidden, (last_W, last_b) = ref.unflatten(parameters, net.layer_sizes)
        a = X
        for W, b in hidden:
            a = function(a @ W + b)
        return optax.sigmoid_binary_cross_entropy(a @ last_W + last_b, y).mean()

    parameters = jax.numpy.asarray(net.parameters)
    expected, expected_gradient = jax.value_and_grad(mean_loss)(parameters)
    loss, gradient = net.loss_gradient(X, y)
    assert loss == pytest.approx(float(expected), rel=1e-13)
    assert relative_to_largest(gradient.flat, expected_gradient) <= 1e-12


# ------------------------------------------------------------------------ whole small fits


def fit_torch(torch, net, X, y, activation, make_optimizer, pos_weight=None):
    """The network's parameters after 100 steps of PyTorch from the same start and order."""
    layers = [
        (torch.tensor(W.copy(), requires_grad=True), torch.tensor(b.copy(), requires_grad=True))
        for W, b in zip(net.coefs, net.intercepts, strict=True)
    ]
    coefs, intercepts = (list(part) for part in zip(*layers, strict=True))
    optimizer = make_optimizer(torch.optim, coefs, intercepts)
    criterion = torch.nn.BCEWithLogitsLoss(
        pos_weight=None if pos_weight is None else torch.tensor(pos_weight)
    )
    function = torch_activation(torch, activation)
    X, y = torch.tensor(X), torch.tensor(y)
    for order in ORDER:
        for rows in np.split(order, range(BATCH_SIZE, N, BATCH_SIZE)):
            a = X[rows]
            for W, b in layers[:-1]:
                a = function(a @ W + b)
            W, b = layers[-1]
            optimizer.zero_grad()
            criterion((a @ W + b)[:, 0], y[rows]).backward()
            optimizer.step()
    return ref.flatten([(W.detach().numpy(), b.detach().numpy()) for W, b in layers])


def fit_ours(net, X, y, optimizer, **options):
    bcenet.fit(
        net, X, y, optimizer=optimizer, batch_size=BATCH_SIZE, epochs=EPOCHS, random_state=3,
        **options,
    )  # fmt: skip
    return net.parameters


@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_fit_of_torch_for_every_activation(torch, activation):
    X, y = problem(N)
    net = make_network((7, 18, 9, 1), activation)
    expected = fit_torch(
        torch, net, X, y, activation, lambda optim, W, b: optim.Adam(W + b, lr=0.01),
        pos_weight=2.5,
    )  # fmt: skip
    got = fit_ours(net, X, y, bcenet.Adam(learning_rate=0.01), pos_weight=2.5)
    assert relative_to_largest(got, expected) <= 1e-10


TORCH_OPTIMIZERS = {
    "sgd": (
        bcenet.SGD(learning_rate=0.1),
        lambda optim, W, b: optim.SGD(W + b, lr=0.1),
    ),
    "momentum": (
        bcenet.SGD(learning_rate=0.05, momentum=0.9),
        lambda optim, W, b: optim.SGD(W + b, lr=0.05, momentum=0.9),
    ),
    "nesterov": (
        bcenet.SGD(learning_rate=0.05, momentum=0.8, nesterov=True),
        lambda optim, W, b: optim.SGD(W + b, lr=0.05, momentum=0.8, nesterov=True),
    ),
    "adam": (bcenet.Adam(), lambda optim, W, b: optim.Adam(W + b)),
    "adam, other rates": (
        bcenet.Adam(learning_rate=0.02, beta_1=0.7, beta_2=0.95, epsilon=1e-3),
        lambda optim, W, b: optim.Adam(W + b, lr=0.02, betas=(0.7, 0.95), eps=1e-3),
    ),
    "adamw": (
        bcenet.AdamW(learning_rate=0.01, weight_decay=0.3),
        lambda optim, W, b: optim.AdamW(
            [{"params": W, "weight_decay": 0.3}, {"params": b, "weight_decay": 0.0}], lr=0.01
        ),
    ),
    "rmsprop": (
        bcenet.RMSprop(learning_rate=0.003),
        lambda optim, W, b: optim.RMSprop(W + b, lr=0.003, alpha=0.9, eps=1e-8),
    ),
    "rmsprop, other rates": (
        bcenet.RMSprop(learning_rate=0.003, rho=0.5, epsilon=1e-3),
        lambda optim, W, b: optim.RMSprop(W + b, lr=0.003, alpha=0.5, eps=1e-3),
    ),
}


@pytest.mark.parametrize("case", TORCH_OPTIMIZERS)
def test_fit_of_torch_for_every_optimizer(torch, case):
    ours, theirs = TORCH_OPTIMIZERS[case]
    X, y = problem(N)
    net = make_network((7, 18, 9, 1), "tanh")
    expected = fit_torch(torch, net, X, y, "tanh", theirs)
    assert relative_to_largest(fit_ours(net, X, y, ours), expected) <= 1e-10


OPTAX_OPTIMIZERS = {
    "sgd": (
        bcenet.SGD(learning_rate=0.1),
        lambda optax, mask: optax.sgd(0.1),
    ),
    "nesterov": (
        bcenet.SGD(learning_rate=0.05, momentum=0.8, nesterov=True),
        lambda optax, mask: optax.sgd(0.05, momentum=0.8, nesterov=True),
    ),
    "adam": (
        bcenet.Adam(learning_rate=0.01),
        lambda optax, mask: optax.adam(0.01),
    ),
    "adamw": (
        bcenet.AdamW(learning_rate=0.01, weight_decay=0.3),
        lambda optax, mask: optax.adamw(0.01, weight_decay=0.3, mask=mask),
    ),
    "rmsprop": (
        bcenet.RMSprop(learning_rate=0.003),
        lambda optax, mask: optax.rmsprop(0.003, decay=0.9, eps=1e-8, eps_in_sqrt=False),
    ),
}


@pytest.mark.parametrize("case", OPTAX_OPTIMIZERS)
def test_fit_of_optax(jax, optax, case):
    ours, theirs = OPTAX_OPTIMIZERS[case]
    X, y = problem(N)
    net = make_network((7, 18, 9, 1), "tanh")
    layers = [(jax.numpy.asarray(W), jax.numpy.asarray(b))
              for W, b in ref.unflatten(net.parameters.copy(), net.layer_sizes)]  # fmt: skip
    optimizer = theirs(optax, [(True, False)] * len(layers))
    state = optimizer.init(layers)

    def mean_loss(layers, X, y):
        *hidden, (last_W, last_b) = layers
        a = X
        for W, b in hidden:
            a = jax.numpy.tanh(a @ W + b)
        return optax.sigmoid_binary_cross_entropy((a @ last_W + last_b)[:, 0], y).mean()

    @jax.jit
    def step(layers, state, X, y):
        updates, state = optimizer.update(jax.grad(mean_loss)(layers, X, y), state, layers)
        return optax.apply_updates(layers, updates), state

    for order in ORDER:
        for rows in np.split(order, range(BATCH_SIZE, N, BATCH_SIZE)):
            layers, state = step(layers, state, X[rows], y[rows])
    expected = ref.flatten([(np.asarray(W), np.asarray(b)) for W, b in layers])
    assert relative_to_largest(fit_ours(net, X, y, ours), expected) <= 1e-10

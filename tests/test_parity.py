"""The same numbers as PyTorch, JAX and optax: `make test-parity`, with the extra of that name.

The imports stand in fixtures, so that collecting the tests needs none of the three.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import reference as ref
from helpers import make_network, problem, relative_to_largest

import bcenet
from bcenet import schedules

pytestmark = pytest.mark.parity

EPOCHS, BATCH_SIZE, N = 20, 40, 190  # 100 steps
ORDER = [ref.row_order(3, epoch, N) for epoch in range(EPOCHS)]


@pytest.fixture(scope="module")
def torch():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its steps are too small for more
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def jax():
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # to compile takes longer than to run
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
# Each runs 100 steps from the same start with the same rows, in float64; the last batch of an epoch
# is short. The limit is 1e-12 of the largest parameter: a step's rounding errors are about 1e-16,
# and these fits multiply them by less than 1e3. A convention that differs, be it only where an
# epsilon stands, shows at 1e-9 or more.

LIMIT = 1e-12
LAYERS = (7, 18, 9)


def start(outputs=1, *, layers=LAYERS, dtype="float64", activation="tanh", **options):
    """A network with the same random parameters, but for rounding, in either dtype."""
    net = bcenet.Network((*layers, outputs), activation, dtype=dtype, **options)
    net.parameters[:] = np.random.default_rng(1).normal(scale=0.5, size=net.parameters.size)
    return net


def batches():
    """The rows of every batch, epoch by epoch."""
    for order in ORDER:
        yield np.split(order, range(BATCH_SIZE, N, BATCH_SIZE))


def fit_ours(net, X, y, optimizer, **options):
    """The network's parameters after the fit; the optimizer, one of a table, stays fresh."""
    bcenet.fit(
        net, X, y, optimizer=copy.deepcopy(optimizer), batch_size=BATCH_SIZE, epochs=EPOCHS,
        random_state=3, **options,
    )  # fmt: skip
    return net.parameters


# ---------------------------------------------------------------------------------- PyTorch


def torch_twin(torch, net):
    """The network out of PyTorch's own modules."""
    dtype = getattr(torch, net.dtype.name)
    kinds = {
        None: lambda width: torch.nn.Identity(),
        "batch": lambda width: torch.nn.BatchNorm1d(width, dtype=dtype),
        "layer": lambda width: torch.nn.LayerNorm(width, dtype=dtype),
    }
    functions = [torch_activation(torch, name) for name in net.activations[:-1]]

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linears = torch.nn.ModuleList(
                torch.nn.Linear(*sizes, dtype=dtype)
                for sizes in itertools.pairwise(net.layer_sizes)
            )
            self.norms = torch.nn.ModuleList(
                kinds[kind](width)
                for kind, width in zip(
                    net.shape.normalization[:-1], net.layer_sizes[1:-1], strict=True
                )
            )
            scale = torch.ones(net.layer_sizes[0], dtype=dtype)
            self.scale = None if net.scale is None else torch.nn.Parameter(scale)
            arrays = [*itertools.chain(*zip(net.coefs, net.intercepts, strict=True))]
            arrays += [row for norm in net.norms for row in norm]
            arrays += [] if net.scale is None else [net.scale]
            with torch.no_grad():
                for parameter, array in zip(self.ordered(), arrays, strict=True):
                    parameter.copy_(torch.tensor(array.copy()))

        def groups(self):
            """The parameters by the names of bcenet's groups."""
            norms = [part for norm in self.norms for part in norm.parameters()]
            return {
                "coefs": [linear.weight for linear in self.linears],
                "intercepts": [linear.bias for linear in self.linears],
                "norms": norms,
                "scale": [] if self.scale is None else [self.scale],
            }

        def ordered(self):
            """Views of the parameters in the order of Network.parameters."""
            groups = self.groups()
            coefs = [weight.T for weight in groups["coefs"]]
            layers = itertools.chain(*zip(coefs, groups["intercepts"], strict=True))
            return [*layers, *groups["norms"], *groups["scale"]]

        def flat(self):
            return np.concatenate([part.detach().numpy().ravel() for part in self.ordered()])

        def statistics(self):
            kept = [
                [norm.running_mean, norm.running_var]
                for norm in self.norms
                if isinstance(norm, torch.nn.BatchNorm1d)
            ]
            return np.array([*itertools.chain(*itertools.chain(*kept))])

        def forward(self, a):
            a = a if self.scale is None else a * self.scale
            for linear, norm, function in zip(self.linears, self.norms, functions, strict=False):
                a = function(norm(linear(a)))
            return self.linears[-1](a)

    return Twin()


def torch_optimizer(torch, twin, kind, weight_decay=0.0, rate_factors=None, **options):
    """One of PyTorch's, with weight decay of the weights alone, and a rate for each group."""
    groups = {name: part for name, part in twin.groups().items() if part}
    optimizer = getattr(torch.optim, kind)(
        [
            {"params": part, "weight_decay": weight_decay if name == "coefs" else 0.0}
            for name, part in groups.items()
        ],
        **options,
    )
    for name, group in zip(groups, optimizer.param_groups, strict=True):
        group["lr"] *= (rate_factors or {}).get(name, 1.0)
    return optimizer


def torch_loss(torch, z, y, rows, twin):
    """PyTorch's mean loss of a batch; the rows' numbers and the network are for the others."""
    return torch.nn.BCEWithLogitsLoss()(z, y)


def pos_weight(value):
    def loss(torch, z, y, rows, twin):
        return torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(value, dtype=z.dtype))(z, y)

    return loss


def torch_losses(torch, z, y):
    return torch.nn.BCEWithLogitsLoss(reduction="none")(z, y)


def fit_torch(
    torch, net, X, y, optimizer, loss=torch_loss, *, clip_norm=None, max_norm=None, schedule=None,
    average=None,
):  # fmt: skip
    """(network, average of networks or None) after 100 steps of PyTorch.

    Arguments:
        optimizer: keywords of `torch_optimizer`. loss: called as `torch_loss`.
        schedule: makes one of torch.optim.lr_scheduler from the optimizer.
        average: "step", "epoch" (those of the second half), with the function that averages.
    """
    twin = torch_twin(torch, net)
    optimizer = torch_optimizer(torch, twin, **optimizer)
    schedule = None if schedule is None else schedule(torch.optim.lr_scheduler, optimizer)
    swa = torch.optim.swa_utils
    averaged = None
    if average is not None:
        averaged = swa.AveragedModel(twin, multi_avg_fn=average[1](swa))
    X, y = torch.tensor(X), torch.tensor(y)
    for epoch, parts in enumerate(batches()):
        for rows in parts:
            optimizer.zero_grad()
            z = twin(X[rows])
            loss(torch, z[:, 0] if y.ndim == 1 else z, y[rows], rows, twin).backward()
            if clip_norm is not None:
                gradients = [part.grad for part in twin.parameters()]
                # clip_grad_norm_ in two halves: it would add 1e-6 to the norm.
                norm = torch.nn.utils.get_total_norm(gradients)
                torch.nn.utils.clip_grads_with_norm_(twin.parameters(), clip_norm, norm - 1e-6)
            optimizer.step()
            if max_norm is not None:
                with torch.no_grad():  # torch.renorm would add 1e-7 to the norm
                    for weight in twin.groups()["coefs"]:
                        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
                        weight.mul_((max_norm / norm).clamp(max=1))
            if schedule is not None:
                schedule.step()
            if average is not None and average[0] == "step":
                averaged.update_parameters(twin)
        if average is not None and average[0] == "epoch" and epoch >= EPOCHS // 2:
            averaged.update_parameters(twin)
    return twin, averaged


# A batch normalisation takes away the intercepts before it: their gradient is rounding error,
# about 1e-17, which Adam divides by its epsilon, 1e-8, and multiplies by 100 steps of 0.01. They
# move the running means, so that predictions follow late; the limit is ten times that.
IDLE_LIMIT = 1e-8


def without_idle(net, flat):
    """Flat parameters with 0 for the intercepts that a batch normalisation takes away."""
    flat = flat.copy()
    _, intercepts = net.shape.split(flat)
    for values, kind in zip(intercepts, net.shape.normalization, strict=True):
        if kind == "batch":
            values[:] = 0
    return flat


def assert_as_torch(torch, net, twin, X, limit=LIMIT):
    """Parameters, running statistics and predictions of the fitted networks."""
    trained, expected = (without_idle(net, flat) for flat in (net.parameters, twin.flat()))
    assert relative_to_largest(trained, expected) <= LIMIT
    assert relative_to_largest(net.parameters, twin.flat()) <= limit
    assert relative_to_largest(net.statistics, twin.statistics()) <= limit
    twin.eval()
    with torch.no_grad():
        logits = twin(torch.tensor(X)).numpy()
    ours = net.decision_function(X)
    assert relative_to_largest(ours, logits.reshape(ours.shape)) <= limit


@pytest.mark.parametrize("activation", ref.ACTIVATIONS)
def test_fit_of_torch_for_every_activation(torch, activation):
    X, y = problem(N)
    net = start(activation=activation)
    twin, _ = fit_torch(torch, net, X, y, {"kind": "Adam", "lr": 0.01}, pos_weight(2.5))
    fit_ours(net, X, y, bcenet.Adam(learning_rate=0.01), pos_weight=2.5)
    assert_as_torch(torch, net, twin, X)


# AMSGrad's short memory makes its largest v differ from v within 100 steps.
TORCH_OPTIMIZERS = {
    "sgd": (bcenet.SGD(learning_rate=0.1), {"kind": "SGD", "lr": 0.1}),
    "momentum": (
        bcenet.SGD(learning_rate=0.05, momentum=0.9),
        {"kind": "SGD", "lr": 0.05, "momentum": 0.9},
    ),
    "nesterov": (
        bcenet.SGD(learning_rate=0.05, momentum=0.8, nesterov=True),
        {"kind": "SGD", "lr": 0.05, "momentum": 0.8, "nesterov": True},
    ),
    "adam": (bcenet.Adam(), {"kind": "Adam"}),
    "adam, other rates": (
        bcenet.Adam(learning_rate=0.02, beta_1=0.7, beta_2=0.95, epsilon=1e-3),
        {"kind": "Adam", "lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3},
    ),
    "adamw": (
        bcenet.AdamW(learning_rate=0.01, weight_decay=0.3),
        {"kind": "AdamW", "lr": 0.01, "weight_decay": 0.3},
    ),
    "amsgrad": (
        bcenet.AMSGrad(learning_rate=0.01, beta_2=0.8),
        {"kind": "Adam", "amsgrad": True, "lr": 0.01, "betas": (0.9, 0.8)},
    ),
    "amsgrad with decay": (
        bcenet.AMSGrad(learning_rate=0.01, beta_2=0.8, weight_decay=0.3),
        {"kind": "AdamW", "amsgrad": True, "lr": 0.01, "betas": (0.9, 0.8), "weight_decay": 0.3},
    ),
    "rmsprop": (
        bcenet.RMSprop(learning_rate=0.003),
        {"kind": "RMSprop", "lr": 0.003, "alpha": 0.9, "eps": 1e-8},
    ),
    "rmsprop, other rates": (
        bcenet.RMSprop(learning_rate=0.003, rho=0.5, epsilon=1e-3),
        {"kind": "RMSprop", "lr": 0.003, "alpha": 0.5, "eps": 1e-3},
    ),
}


@pytest.mark.parametrize("case", TORCH_OPTIMIZERS)
def test_fit_of_torch_for_every_optimizer(torch, case):
    ours, theirs = TORCH_OPTIMIZERS[case]
    X, y = problem(N)
    net = start()
    twin, _ = fit_torch(torch, net, X, y, theirs, pos_weight(2.5))
    fit_ours(net, X, y, ours, pos_weight=2.5)
    assert_as_torch(torch, net, twin, X)


def test_optimizers_of_the_tables_differ():
    """Within 100 steps of this problem, so that none can stand for another."""
    X, y = problem(N)
    rules = [ours for ours, _ in TORCH_OPTIMIZERS.values()]
    rules += [
        bcenet.Adam(learning_rate=0.01),
        bcenet.Adam(learning_rate=0.01, beta_2=0.8),  # what AMSGrad would be without its maximum
        bcenet.Lion(learning_rate=0.002),
        bcenet.Lion(learning_rate=0.002, weight_decay=3.0),
    ]
    ends = [fit_ours(start(), X, y, rule) for rule in rules]
    for one, other in itertools.combinations(ends, 2):
        assert relative_to_largest(one, other) > 1e-3


# ------------------------------------------------------------- the options of a fit, PyTorch

K = 3  # labels
MOMENTUM = (bcenet.SGD(0.05, momentum=0.9), {"kind": "SGD", "lr": 0.05, "momentum": 0.9})
ADAMW, AMSGRAD = TORCH_OPTIMIZERS["adamw"], TORCH_OPTIMIZERS["amsgrad with decay"]
_rng = np.random.default_rng(5)
ROW_WEIGHTS = _rng.random(N)
WEIGHTS = _rng.random((N, K)) * (_rng.random((N, K)) > 0.2)
OFFSET = _rng.normal(size=(N, K))
MISSING = _rng.random((N, K)) < 0.3


def soft_targets(torch, z, y, rows, twin):
    return torch_loss(torch, z, y * (1 - 0.3) + 0.15, rows, twin)


def weighted(weights):
    def loss(torch, z, y, rows, twin):
        weight = torch.tensor(weights[rows])
        weight = weight if weight.ndim == z.ndim else weight[:, None].expand_as(z)
        return (weight * torch_losses(torch, z, y)).sum() / weight.sum()

    return loss


def not_missing(torch, z, y, rows, twin):
    return torch_loss(torch, z[~y.isnan()], y[~y.isnan()], rows, twin)


def label_sum(torch, z, y, rows, twin):
    return torch_losses(torch, z, y).sum(dim=1).mean()


def with_offset(offset, loss_of=torch_loss):
    def loss(torch, z, y, rows, twin):
        return loss_of(torch, z + torch.tensor(offset[rows]), y, rows, twin)

    return loss


def focal(gamma, alpha=None):
    """The formula of torchvision.ops.sigmoid_focal_loss; autograd differentiates it.

    Its alpha weighs both classes; a pos_weight of alpha / (1 - alpha) is the same over 1 - alpha.
    """

    def loss(torch, z, y, rows, twin):
        p = torch.sigmoid(z)
        right = p * y + (1 - p) * (1 - y)
        losses = torch_losses(torch, z, y) * (1 - right) ** gamma
        if alpha is not None:
            losses = losses * (alpha * y + (1 - alpha) * (1 - y)) / (1 - alpha)
        return losses.mean()

    return loss


def penalized(l1, l2, loss=torch_loss, divisor=len):
    """The penalties on the weights, over what the loss of the batch is divided by."""

    def total(torch, z, y, rows, twin):
        coefs = twin.groups()["coefs"]
        penalty = sum(l1 * W.abs().sum() + l2 / 2 * (W * W).sum() for W in coefs)
        return loss(torch, z, y, rows, twin) + penalty / divisor(rows)

    return total


def cosine(scheduler, optimizer):
    return scheduler.CosineAnnealingLR(optimizer, T_max=100)


def cosine_to_a_tenth(scheduler, optimizer):
    return scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.1 * MOMENTUM[1]["lr"])


def warm_up(scheduler, optimizer):
    return scheduler.LinearLR(optimizer, start_factor=1 / 30, total_iters=29)


def warm_up_then_cosine(scheduler, optimizer):
    parts = [warm_up(scheduler, optimizer), scheduler.CosineAnnealingLR(optimizer, T_max=70)]
    return scheduler.SequentialLR(optimizer, parts, milestones=[30])


EMA = "step", lambda swa: swa.get_ema_multi_avg_fn(0.9)


def swa_rule(swa):
    """PyTorch's, with a number for the count: 1 over its tensor would be a float32."""
    rule = swa.get_swa_multi_avg_fn()
    return lambda averaged, parameters, count: rule(averaged, parameters, int(count))


SWA = "epoch", swa_rule


def case(options, hooks=None, *, rule=MOMENTUM, limit=LIMIT, **network):
    """What bcenet.fit takes, what fit_torch does, with which optimizers and which network.

    The bounds that both take as a number go to both.
    """
    same = {name: options[name] for name in ("clip_norm", "max_norm") if name in options}
    return options, {**(hooks or {}), **same}, rule, limit, network


RATES = {"coefs": 0.5, "intercepts": 0.1, "norms": 2.0, "scale": 6.0}
GROUPED_MOMENTUM, GROUPED_ADAMW = (
    (
        type(ours)(**{**ours.hyper(), "rate_factors": RATES}),
        {**theirs, "rate_factors": RATES},
    )
    for ours, theirs in (MOMENTUM, ADAMW)
)
ALL_GROUPS = {"normalization": "layer", "feature_scale": True}
ROWS_LOSS = weighted(ROW_WEIGHTS)
MANY = (
    {
        "label_reduction": "sum", "offset": OFFSET, "l1": 0.1, "l2": 2.0, "clip_norm": 0.5,
        "max_norm": 0.7, "schedule": schedules.WarmUp(6, "cosine"),
    },
    {
        "loss": penalized(0.1, 2.0, with_offset(OFFSET, label_sum)),
        "schedule": warm_up_then_cosine,
    },
)  # fmt: skip

TORCH_OPTIONS = {
    "pos_weight": case({"pos_weight": 2.5}, {"loss": pos_weight(2.5)}),
    "pos_weight of labels": case(
        {"pos_weight": [0.5, 1.0, 4.0]}, {"loss": pos_weight([0.5, 1.0, 4.0])}, outputs=K
    ),
    "label smoothing": case({"label_smoothing": 0.3}, {"loss": soft_targets}),
    "weights of rows": case({"sample_weight": ROW_WEIGHTS}, {"loss": ROWS_LOSS}),
    "weights of rows, labels": case(
        {"sample_weight": ROW_WEIGHTS}, {"loss": ROWS_LOSS}, outputs=K
    ),
    "weights of labels": case({"sample_weight": WEIGHTS}, {"loss": weighted(WEIGHTS)}, outputs=K),
    "label mean": case({}, outputs=K),
    "label sum": case({"label_reduction": "sum"}, {"loss": label_sum}, outputs=K),
    "missing labels": case({"missing_labels": "ignore"}, {"loss": not_missing}, outputs=K),
    "missing labels, label sum": case(
        {"missing_labels": "ignore", "label_reduction": "sum"},
        {"loss": lambda *batch: K * not_missing(*batch)}, outputs=K,
    ),
    "offset": case({"offset": OFFSET}, {"loss": with_offset(OFFSET)}, outputs=K),
    "offset of rows": case(
        {"offset": OFFSET[:, 0]}, {"loss": with_offset(OFFSET[:, :1])}, outputs=K
    ),
    "focal": case({"loss": "focal"}, {"loss": focal(2)}),
    "focal, pos_weight": case(
        {"loss": bcenet.FocalLoss(1.5), "pos_weight": 3.0}, {"loss": focal(1.5, alpha=0.75)}
    ),
    "l2": case({"l2": 2.0}, {"loss": penalized(0, 2.0)}),
    "l1": case({"l1": 0.2}, {"loss": penalized(0.2, 0)}),
    "l1, l2, weights of rows": case(
        {"l1": 0.1, "l2": 0.7, "sample_weight": ROW_WEIGHTS},
        {"loss": penalized(0.1, 0.7, ROWS_LOSS, lambda rows: ROW_WEIGHTS[rows].sum())},
    ),
    "l2, label mean": case(
        {"l2": 6.0}, {"loss": penalized(0, 6.0, divisor=lambda rows: K * len(rows))}, outputs=K
    ),
    "l2, label sum": case(
        {"l2": 2.0, "label_reduction": "sum"}, {"loss": penalized(0, 2.0, label_sum)}, outputs=K
    ),
    "l1, l2, feature scale": case(
        {"l1": 0.1, "l2": 2.0}, {"loss": penalized(0.1, 2.0)}, feature_scale=True
    ),
    "clip_norm": case({"clip_norm": 0.1}),
    "clip_norm, all groups": case({"clip_norm": 0.1}, **ALL_GROUPS),
    "max_norm": case({"max_norm": 1.0}),
    "max_norm, labels": case({"max_norm": 1.0}, outputs=K),
    "max_norm, feature scale": case({"max_norm": 1.0}, feature_scale=True),
    "batch": case({}, normalization="batch"),
    "batch, adamw": case(
        {"pos_weight": 2.5}, {"loss": pos_weight(2.5)}, normalization="batch", rule=ADAMW,
        limit=IDLE_LIMIT,
    ),
    "batch, amsgrad": case(
        {"pos_weight": 2.5}, {"loss": pos_weight(2.5)}, normalization="batch", rule=AMSGRAD,
        limit=IDLE_LIMIT,
    ),
    "batch, weights of rows": case(
        {"sample_weight": ROW_WEIGHTS}, {"loss": ROWS_LOSS}, normalization="batch"
    ),
    "layer": case({}, normalization="layer"),
    "layer, adamw": case({}, normalization="layer", rule=ADAMW),
    "batch and layer": case({}, normalization=["batch", "layer"]),
    "none and layer": case({}, normalization=[None, "layer"]),
    "feature scale": case({}, feature_scale=True),
    "feature scale, adamw": case({}, feature_scale=True, rule=ADAMW),
    "rate factors": case({}, rule=GROUPED_MOMENTUM, **ALL_GROUPS),
    "rate factors, adamw, cosine": case(
        {"schedule": "cosine"}, {"schedule": cosine}, rule=GROUPED_ADAMW, **ALL_GROUPS
    ),
    "cosine": case({"schedule": "cosine"}, {"schedule": cosine}),
    "cosine to a tenth": case(
        {"schedule": schedules.Cosine(final=0.1)}, {"schedule": cosine_to_a_tenth}
    ),
    "cosine, adamw": case({"schedule": "cosine"}, {"schedule": cosine}, rule=ADAMW),
    "warm-up": case({"schedule": schedules.WarmUp(6)}, {"schedule": warm_up}),
    "warm-up, cosine": case(
        {"schedule": schedules.WarmUp(6, "cosine")}, {"schedule": warm_up_then_cosine}
    ),
    "ema": case({"averaging": bcenet.EMA(0.9)}, {"average": EMA}),
    "ema, batch": case({"averaging": bcenet.EMA(0.9)}, {"average": EMA}, normalization="batch"),
    "ema, clip_norm, all groups": case(
        {"averaging": bcenet.EMA(0.9), "clip_norm": 0.1}, {"average": EMA}, **ALL_GROUPS
    ),
    "ema, max_norm": case({"averaging": bcenet.EMA(0.9), "max_norm": 1.0}, {"average": EMA}),
    "swa": case({"averaging": bcenet.SWA(0.5)}, {"average": SWA}),
    "swa, batch": case({"averaging": bcenet.SWA(0.5)}, {"average": SWA}, normalization="batch"),
    "swa, max_norm": case({"averaging": bcenet.SWA(0.5), "max_norm": 1.0}, {"average": SWA}),
    "ema, max_norm, all groups": case(
        {"averaging": bcenet.EMA(0.9), "max_norm": 1.0}, {"average": EMA}, outputs=K, **ALL_GROUPS
    ),
    "many at once": case(
        *MANY, outputs=K, normalization=["batch", "layer"], feature_scale=True, limit=IDLE_LIMIT,
        rule=GROUPED_ADAMW,
    ),
    "many at once, wide": case(  # several tiles a matrix
        *MANY, outputs=K, normalization=["layer", None], feature_scale=True, rule=GROUPED_ADAMW,
        layers=(7, 300, 140),
    ),
    "many at once, no hidden layer": case(
        *MANY, outputs=K, feature_scale=True, rule=GROUPED_ADAMW, layers=(7,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH_OPTIONS)
def test_fit_of_torch_for_every_option(torch, name):
    options, hooks, (ours, theirs), limit, network = copy.deepcopy(TORCH_OPTIONS[name])
    X, y = problem(N, outputs=network.get("outputs", 1))
    if "missing_labels" in options:
        y[MISSING] = np.nan
    net, other = start(**network), start(**network)
    twin, average = fit_torch(torch, net, X, y, theirs, **hooks)
    fit_ours(net, X, y, ours, **options)
    if average is None:
        assert_as_torch(torch, net, twin, X, limit)
    else:
        assert_as_torch(torch, net, average.module, X, limit)
        assert relative_to_largest(options["averaging"].raw, twin.flat()) <= limit
    if options:  # they were at work
        without = fit_ours(other, X, np.nan_to_num(y), ours)
        assert relative_to_largest(without, net.parameters) > 1e-3


FLOAT32 = ["pos_weight", "batch", "layer, adamw", "feature scale, adamw", "focal", "clip_norm"]


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_fit_of_torch(torch, name):
    """As near to PyTorch's float64 fit as PyTorch's float32 fit is, or half as near by chance."""
    options, hooks, (ours, theirs), _, network = copy.deepcopy(TORCH_OPTIONS[name])
    X, y = problem(N, dtype=np.float32)
    net = start(dtype="float32", **network)
    exact, _ = fit_torch(
        torch, net.astype("float64"), X.astype(float), y.astype(float), theirs, **hooks
    )
    single, _ = fit_torch(torch, net, X, y, theirs, **hooks)
    fit_ours(net, X, y, ours, **options)
    rounding = relative_to_largest(single.flat(), exact.flat())
    assert relative_to_largest(net.parameters, exact.flat()) <= 2 * rounding


# ------------------------------------------------------------------------------------ optax


def optax_steps(schedule):
    """A schedule that counts in float64: optax would divide its int32 steps in float32."""
    return lambda count: schedule(count.astype(float))


def fit_optax(jax, optax, net, X, y, make_optimizer, loss):
    """The network's parameters after 100 steps of optax."""
    layers = [(jax.numpy.asarray(W), jax.numpy.asarray(b))
              for W, b in ref.unflatten(net.parameters.copy(), net.layer_sizes)]  # fmt: skip
    weights = [(True, False)] * len(layers)
    optimizer = make_optimizer(jax.numpy, optax, weights)
    state = optimizer.init(layers)

    def mean_loss(layers, X, y):
        *hidden, (last_W, last_b) = layers
        a = X
        for W, b in hidden:
            a = jax.numpy.tanh(a @ W + b)
        return loss(optax, (a @ last_W + last_b)[:, 0], y).mean()

    @jax.jit
    def step(layers, state, X, y):
        updates, state = optimizer.update(jax.grad(mean_loss)(layers, X, y), state, layers)
        return optax.apply_updates(layers, updates), state

    for parts in batches():
        for rows in parts:
            layers, state = step(layers, state, X[rows], y[rows])
    return ref.flatten([(np.asarray(W), np.asarray(b)) for W, b in layers])


def optax_loss(optax, z, y):
    return optax.sigmoid_binary_cross_entropy(z, y)


def optax_case(ours, theirs, options=None, loss=optax_loss):
    return ours, theirs, options or {}, loss


def scheduled(schedule, make):
    """SGD with momentum at 0.05 times a schedule of optax, make(jax.numpy, optax)."""
    return optax_case(
        MOMENTUM[0],
        lambda jnp, optax, mask: optax.sgd(
            optax_steps(lambda count: 0.05 * make(jnp, optax)(count)), momentum=0.9
        ),
        {"schedule": schedule},
    )


OPTAX_FITS = {
    "sgd": optax_case(bcenet.SGD(learning_rate=0.1), lambda jnp, optax, mask: optax.sgd(0.1)),
    "nesterov": optax_case(
        bcenet.SGD(learning_rate=0.05, momentum=0.8, nesterov=True),
        lambda jnp, optax, mask: optax.sgd(0.05, momentum=0.8, nesterov=True),
    ),
    "nesterov with decay": optax_case(
        bcenet.SGD(learning_rate=0.05, momentum=0.8, nesterov=True, weight_decay=0.3),
        lambda jnp, optax, mask: optax.chain(
            optax.trace(0.8, nesterov=True),
            optax.add_decayed_weights(0.3, mask),
            optax.scale_by_learning_rate(0.05),
        ),
    ),
    "adam": optax_case(bcenet.Adam(learning_rate=0.01), lambda jnp, optax, mask: optax.adam(0.01)),
    "adamw": optax_case(
        bcenet.AdamW(learning_rate=0.01, weight_decay=0.3),
        lambda jnp, optax, mask: optax.adamw(0.01, weight_decay=0.3, mask=mask),
    ),
    # optax takes the largest of the corrected v; bcenet, as PyTorch, corrects the largest v. Here
    # optax corrects none, and the correction stands in its rate.
    "amsgrad": optax_case(
        bcenet.AMSGrad(learning_rate=0.01, beta_2=0.8, epsilon_inside=True),
        lambda jnp, optax, mask: optax.chain(
            optax.scale_by_amsgrad(b2=0.8, bias_correction_nu=False),
            optax.scale_by_learning_rate(
                optax_steps(lambda count: 0.01 * jnp.sqrt(1 - 0.8 ** (count + 1)))
            ),
        ),
    ),
    "rmsprop": optax_case(
        bcenet.RMSprop(learning_rate=0.003),
        lambda jnp, optax, mask: optax.rmsprop(0.003, decay=0.9, eps=1e-8, eps_in_sqrt=False),
    ),
    "lion": optax_case(
        bcenet.Lion(learning_rate=0.002),
        lambda jnp, optax, mask: optax.lion(0.002, weight_decay=0.0),
    ),
    "lion with decay": optax_case(
        bcenet.Lion(learning_rate=0.002, beta_1=0.8, beta_2=0.95, weight_decay=3.0),
        lambda jnp, optax, mask: optax.lion(0.002, b1=0.8, b2=0.95, weight_decay=3.0, mask=mask),
    ),
    "lion, cosine": optax_case(
        bcenet.Lion(learning_rate=0.005, weight_decay=3.0),
        lambda jnp, optax, mask: optax.lion(
            optax_steps(optax.cosine_decay_schedule(0.005, 100)), weight_decay=3.0, mask=mask
        ),
        {"schedule": "cosine"},
    ),
    "rate inside, cosine": optax_case(
        bcenet.SGD(0.05, momentum=0.8, nesterov=True, rate_inside=True),
        lambda jnp, optax, mask: optax.chain(
            optax.scale_by_learning_rate(optax_steps(optax.cosine_decay_schedule(0.05, 100))),
            optax.trace(0.8, nesterov=True),
        ),
        {"schedule": "cosine"},
    ),
    "cosine": scheduled("cosine", lambda jnp, optax: optax.cosine_decay_schedule(1.0, 100)),
    "cosine, shorter": scheduled(
        schedules.Cosine(epochs=12, final=0.1),
        lambda jnp, optax: optax.cosine_decay_schedule(1.0, 60, alpha=0.1),
    ),
    # PyTorch's OneCycleLR turns and ends a step earlier, so that its last step has the last rate.
    "one-cycle": scheduled(
        "one-cycle", lambda jnp, optax: optax.cosine_onecycle_schedule(100, 1.0)
    ),
    "one-cycle, other numbers": scheduled(
        schedules.OneCycle(epochs=16, start=0.1, final=0.02, rise=0.5),
        lambda jnp, optax: optax.cosine_onecycle_schedule(
            80, 1.0, pct_start=0.5, div_factor=10.0, final_div_factor=5.0
        ),
    ),
    "warm-up": scheduled(
        schedules.WarmUp(6), lambda jnp, optax: optax.linear_schedule(1 / 30, 1.0, 29)
    ),
    # optax's own warm-up ends a step later: its first factor is that of step 0.
    "warm-up, cosine": scheduled(
        schedules.WarmUp(6, "cosine"),
        lambda jnp, optax: optax.join_schedules(
            [optax.linear_schedule(1 / 30, 1.0, 29), optax.cosine_decay_schedule(1.0, 70)], [30]
        ),
    ),
    "coslog4": scheduled(  # the formula of its paper
        "coslog4",
        lambda jnp, optax: (
            lambda count: 0.5 * (1 - jnp.cos(2 * jnp.pi * jnp.log2(1 + 15 * count / 100)))
        ),
    ),
    "inverse scaling": scheduled(  # scikit-learn's formula: rows seen when the epoch began
        "inverse-scaling",
        lambda jnp, optax: lambda count: (1 + N * (count // 5)) ** -0.5,
    ),
    "clip_norm": optax_case(
        MOMENTUM[0],
        lambda jnp, optax, mask: optax.chain(
            optax.clip_by_global_norm(0.1), optax.sgd(0.05, momentum=0.9)
        ),
        {"clip_norm": 0.1},
    ),
    "focal": optax_case(
        MOMENTUM[0],
        lambda jnp, optax, mask: optax.sgd(0.05, momentum=0.9),
        {"loss": "focal"},
        lambda optax, z, y: optax.sigmoid_focal_loss(z, y),
    ),
}


@pytest.mark.parametrize("case", OPTAX_FITS)
def test_fit_of_optax(jax, optax, case):
    ours, theirs, options, loss = copy.deepcopy(OPTAX_FITS[case])
    X, y = problem(N)
    net = start()
    expected = fit_optax(jax, optax, net, X, y, theirs, loss)
    assert relative_to_largest(fit_ours(net, X, y, ours, **options), expected) <= LIMIT

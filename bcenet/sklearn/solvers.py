"""What updates the weights: the optimizer, its learning rate, and the weights it starts from."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from bcenet import checks, kernels, optimizers, schedules
from bcenet.network import Network

_DECAYS = ("adamw", "amsgrad", "lion", "sgd")

# scikit-learn's own learning rates, which change between epochs, and bcenet's, within them.
RATES = ("constant", "invscaling", "adaptive")
SCHEDULES = ("cosine", "one-cycle", "warm-up", "coslog4")


def activation_names() -> set[str]:
    """bcenet's activations, and scikit-learn's name of the sigmoid."""
    return {*kernels.activation_names(), "logistic"}


def layers(estimator: Any, features: int, outputs: int) -> dict[str, Any]:
    """The network that the parameters ask for, as `bcenet.Network.config` describes it.

    Raises: ValueError for a width below 1, or another number of activations; TypeError for a
    width that is no integer.
    """
    sizes = estimator.hidden_layer_sizes
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    sizes = [checks.integer("hidden_layer_sizes", size, 1) for size in sizes]
    names = estimator.hidden_activations
    names = [estimator.activation] * len(sizes) if names is None else list(names)
    if len(names) != len(sizes):
        raise ValueError(
            f"hidden_activations must be None or one a hidden layer ({len(sizes)}); "
            f"got {len(names)}"
        )
    known = sorted(activation_names())
    names = [checks.choice("hidden_activations", name, known) for name in names]
    kinds = _listed(estimator.normalization)
    return {
        "layer_sizes": [features, *sizes, outputs],
        "activations": ["sigmoid" if name == "logistic" else name for name in names],
        "normalization": kinds if isinstance(kinds, list) else [kinds] * len(sizes),
        "feature_scale": bool(estimator.feature_scale),
    }


def network(layers: dict[str, Any], dtype: Any) -> Network:
    """A network of these layers, whose weights mean nothing yet."""
    return Network(
        layers["layer_sizes"],
        layers["activations"],
        normalization=layers["normalization"],
        feature_scale=layers["feature_scale"],
        dtype=dtype,
        random_state=0,
    )


def draw(network: Network, activation: str, rng: np.random.RandomState) -> None:
    """Draw all weights as MLPClassifier does: the same numbers from the same state.

    Uniform within sqrt(6 / (fan_in + fan_out)), intercepts too, a layer after the other; sqrt(2
    / ...) for a sigmoid layer, and for the outputs after one. Source: Glorot and Bengio 2010.

    Arguments:
        activation: stands for the last hidden layer's where there is none.
    """
    hidden = network.activations[:-1] or (activation,)
    names = [*network.activations[:-1], hidden[-1]]
    for coef, intercept, name in zip(network.coefs, network.intercepts, names, strict=True):
        bound = math.sqrt((2.0 if name in ("sigmoid", "logistic") else 6.0) / sum(coef.shape))
        coef[...] = rng.uniform(-bound, bound, coef.shape)
        intercept[...] = rng.uniform(-bound, bound, intercept.shape)


def set_weights(network: Network, name: str, given: Any) -> None:
    """Copy ``coefs_init`` or ``intercepts_init`` into a network.

    Raises: ValueError for another number of layers, another shape, or numbers that are not
    finite.
    """
    targets = network.coefs if name == "coefs_init" else network.intercepts
    given = [checks.real_array(f"{name}[{i}]", array) for i, array in enumerate(given)]
    shapes = [array.shape for array in given]
    wanted = [array.shape for array in targets]
    if shapes != wanted:
        raise ValueError(f"{name} must hold arrays of shapes {wanted}; got {shapes}")
    for i, (target, array) in enumerate(zip(targets, given, strict=True)):
        kernels.check_values(f"{name}[{i}]", array, network.dtype, "finite")
        target[...] = array


def is_lbfgs(estimator: Any) -> bool:
    """Whether the solver takes all rows at once, and carries nothing from fit to fit."""
    return estimator.solver == "lbfgs" or isinstance(estimator.solver, optimizers.LBFGS)


def optimizer(estimator: Any) -> Any:
    """A fresh optimizer from the estimator's parameters."""
    solver, rate = estimator.solver, float(estimator.learning_rate_init)
    if not isinstance(solver, str):
        if estimator.weight_decay:
            raise ValueError(
                "weight_decay must be None or 0 with an optimizer object, which has its own; "
                f"got {estimator.weight_decay}"
            )
        made = copy.deepcopy(solver)
        if isinstance(made, optimizers.Optimizer):
            made.reset()
        return made
    decay = {}
    if estimator.weight_decay is not None and solver in _DECAYS:
        decay = {"weight_decay": float(estimator.weight_decay)}
    elif estimator.weight_decay:
        raise ValueError(
            f"weight_decay must be None or 0 with solver={solver!r}, which has no decoupled "
            f"decay ({', '.join(_DECAYS)} have); got {estimator.weight_decay}"
        )
    if solver == "lbfgs":
        return optimizers.LBFGS(float(estimator.tol), max_evaluations=int(estimator.max_fun))
    kind = optimizers.BY_NAME[solver]
    if solver == "sgd":
        momentum = float(estimator.momentum)
        nesterov = bool(estimator.nesterovs_momentum) and momentum > 0
        return kind(rate, momentum, nesterov, rate_inside=True, **decay)
    if solver in ("adam", "adamw", "amsgrad"):
        betas = (float(estimator.beta_1), float(estimator.beta_2))
        return kind(rate, *betas, float(estimator.epsilon), True, **decay)
    if solver == "rmsprop":
        return kind(rate, epsilon=float(estimator.epsilon))
    return kind(rate, **decay)


def continued(before: Any, given: dict[str, Any], fresh: optimizers.Optimizer) -> Any:
    """The optimizer of a fit that goes on from another: its state, and what has changed since.

    Arguments:
        before: as the last fit left it, or None. given: the hyperparameters it was made with;
            its learning rate may have changed since. fresh: made from the parameters as they are
            now.
    """
    if not isinstance(before, optimizers.Optimizer):
        return fresh
    same = type(before) is type(fresh)
    if same and fresh.hyper() == given:
        return before
    fresh.epoch, fresh.seed = before.epoch, before.seed
    if same and fresh.state_names() == before.state_names():
        fresh.step, fresh.state = before.step, before.state
    return fresh


def schedule(estimator: Any, rows: int, epoch: int) -> schedules.Schedule | None:
    """A fresh schedule, its clock at ``epoch``; None for scikit-learn's own learning rates.

    Its horizon, if it has none of its own, is max_iter epochs, also for `partial_fit`.
    """
    rate = estimator.learning_rate
    if isinstance(rate, schedules.Schedule):
        made = copy.deepcopy(rate)
        made.reset()
    elif rate in RATES:
        return None
    else:
        made = schedules.resolve(rate, "learning_rate")
    made.begin(estimator.max_iter, rows, epoch)
    return made


def fit_options(estimator: Any) -> dict[str, Any]:
    """The options of `bcenet.fit` that are parameters of the estimator."""
    return {
        "loss": estimator.loss,
        "pos_weight": estimator.pos_weight_,
        "label_smoothing": estimator.label_smoothing,
        "label_reduction": "sum",
        "missing_labels": estimator.missing_labels,
        "l2": estimator.alpha,
        "l1": estimator.l1,
        "dropout": _listed(estimator.dropout),
        "max_norm": estimator.max_norm,
        "clip_norm": estimator.clip_norm,
        "lazy": bool(estimator.lazy),
        "shuffle": bool(estimator.shuffle),
        "n_threads": estimator.n_threads,
    }


def _listed(value: Any) -> Any:
    """An array-like as a list; a single value as it is."""
    return value if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)

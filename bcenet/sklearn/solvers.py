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


def hidden_activations(estimator: Any, hidden: int) -> list[str]:
    """bcenet's names of the activations, one a hidden layer."""
    given = estimator.hidden_activations
    names = [estimator.activation] * hidden if given is None else list(given)
    if len(names) != hidden:
        raise ValueError(
            f"hidden_activations must be None or one a hidden layer ({hidden}); got {len(names)}"
        )
    for name in names:
        checks.choice("hidden_activations", name, sorted(activation_names()))
    return ["sigmoid" if name == "logistic" else name for name in names]


def draw(network: Network, logistic: bool, rng: np.random.RandomState) -> None:
    """Draw all weights as MLPClassifier does: the same numbers from the same state.

    Uniform within sqrt(6 / (fan_in + fan_out)), intercepts too, a layer after the other; sqrt(2
    / ...) for a sigmoid layer, and for the outputs after one. Source: Glorot and Bengio 2010.

    Arguments:
        logistic: whether the outputs follow a sigmoid layer.
    """
    sigmoid = [name == "sigmoid" for name in network.activations[:-1]]
    for coef, intercept, narrow in zip(
        network.coefs, network.intercepts, [*sigmoid, logistic], strict=True
    ):
        bound = math.sqrt((2.0 if narrow else 6.0) / sum(coef.shape))
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


def layer_sizes(estimator: Any, features: int, outputs: int) -> list[int]:
    """Inputs, hidden widths, outputs.

    Raises: ValueError for a width below 1, TypeError for one that is no integer.
    """
    hidden = estimator.hidden_layer_sizes
    hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
    if np.any(np.array(hidden) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
    return [features, *(checks.integer("hidden_layer_sizes", size, 1) for size in hidden), outputs]


def layer_options(estimator: Any) -> dict[str, Any]:
    """The options of `bcenet.Network` beside its sizes and activations."""
    return {
        "normalization": _listed(estimator.normalization),
        "feature_scale": bool(estimator.feature_scale),
    }


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
        "shuffle": bool(estimator.shuffle),
        "n_threads": estimator.n_threads,
    }


def _listed(value: Any) -> Any:
    """An array-like as a list; a single value as it is."""
    return value if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)

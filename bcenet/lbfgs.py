"""L-BFGS over all rows: SciPy's minimiser on the flat parameters, with the engine's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet.errors import NonFiniteError
from bcenet.gradients import GradientPass

if TYPE_CHECKING:
    from bcenet.network import Network
    from bcenet.objective import Objective
    from bcenet.parameters import Shape
    from bcenet.rows import Rows


class Penalty:
    """(l1 |W| + l2 |W|^2 / 2) / weight of flat parameters, in float64; intercepts are free."""

    def __init__(self, shape: Shape, objective: Objective, weight: float) -> None:
        chosen = np.zeros(shape.count())
        for coefs in shape.split(chosen)[0]:
            coefs[...] = 1
        self._l1 = chosen * (objective.l1 / weight)
        self._l2 = chosen * (objective.l2 / weight)

    def __call__(self, w: np.ndarray) -> float:
        return float(self._l1 @ np.abs(w) + self._l2 @ (w * w) / 2)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return self._l1 * np.sign(w) + self._l2 * w


def divisor(network: Network, rows: Rows, objective: Objective) -> float:
    """What the sum of all losses is divided by, but for its labels."""
    labels = network.layer_sizes[-1]
    weight = np.ones(rows.n) if rows.weight is None else rows.weight.astype(np.float64)
    if weight.ndim < rows.y.ndim:
        weight = weight[:, np.newaxis]
    weight = np.broadcast_to(weight, rows.y.shape)
    if objective.masked:
        weight = np.where(np.isnan(rows.y), 0.0, weight)
    return float(weight.sum()) / (labels if objective.label_sum else 1)


def minimize(
    network: Network, rows: Rows, plan: Any, after: Callable[[float, float], bool]
) -> None:
    """Train a network in place; ``after(loss, penalty)`` follows every iteration, True stops.

    Raises: as `minimize_with`.
    """
    objective = plan.objective
    gradient_pass = GradientPass(network, rows, objective.unpenalized(), plan.n_threads)
    try:
        minimize_with(gradient_pass, network, divisor(network, rows, objective), plan, after)
    finally:
        gradient_pass.close()


def minimize_with(
    gradient_pass: Any,
    network: Network,
    weight: float,
    plan: Any,
    after: Callable[[float, float], bool],
) -> None:
    """`minimize`, with a `GradientPass` or what is called and publishes like one.

    Arguments:
        weight: `divisor` of the rows.

    Raises: ImportError without SciPy; ValueError for options that L-BFGS has no place for;
    NonFiniteError where the loss is not finite at the start, or an iteration overflows.
    """
    try:
        from scipy.optimize import minimize as scipy_minimize
    except ImportError as error:
        raise ImportError("optimizer 'lbfgs' needs SciPy: pip install 'bcenet[lbfgs]'") from error
    _refuse(network, plan)
    penalty = Penalty(network.shape, plan.objective, weight)

    def evaluate(w: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = gradient_pass(w.astype(network.dtype))
        if not (math.isfinite(loss) and np.isfinite(gradient).all()):
            return math.inf, np.zeros_like(w)  # the line search takes a shorter step
        return loss + penalty(w), gradient + penalty.gradient(w)

    iterations = 0

    def non_finite(when: str) -> NonFiniteError:
        return NonFiniteError(
            f"the loss is not finite {when} (scale the columns of X, or start from smaller "
            "weights)",
            epoch=iterations + 1,
            batch=0,
            layer=len(network.layer_sizes) - 2,
        )

    def iterated(intermediate_result: Any) -> None:
        nonlocal iterations
        w = intermediate_result.x
        if not (math.isfinite(intermediate_result.fun) and np.isfinite(w).all()):
            raise non_finite(f"in iteration {iterations + 1}")  # SciPy's own sums overflowed
        iterations += 1
        gradient_pass.publish(w.astype(network.dtype), network.parameters)
        held = penalty(w)
        if after(float(intermediate_result.fun) - held, held):
            raise StopIteration

    start = network.parameters.astype(np.float64)
    if not math.isfinite(evaluate(start)[0]):
        raise non_finite("before the first iteration")
    scipy_minimize(
        evaluate,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=iterated,
        options={
            "maxiter": plan.epochs,
            "maxfun": plan.optimizer.max_evaluations,
            "maxcor": plan.optimizer.memory,
            "gtol": plan.optimizer.tol,
            "ftol": 64 * np.finfo(np.float64).eps,
        },
    )


def _refuse(network: Network, plan: Any) -> None:
    """A ValueError for what has no meaning over all rows at once."""
    given = {
        "schedule": plan.schedule is not None,
        "averaging": plan.averaging is not None,
        "clip_norm": plan.objective.clip_norm > 0,
        "max_norm": plan.objective.max_norm > 0,
        "dropout": plan.drop_rates is not None,
        "normalization 'batch'": "batch" in network.shape.normalization,
    }
    for name, there in given.items():
        if there:
            raise ValueError(f"{name} must not be given with optimizer 'lbfgs'")

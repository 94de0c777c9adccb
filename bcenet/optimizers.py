"""Optimizers: what they are called with, and the state that they carry from fit to fit.

The update rules themselves are in src_cython/optimizers.pxd.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks, kernels

_CARRIED = ("step", "epoch", "seed", "state")  # from fit to fit; all else is hyperparameters


class Optimizer:
    """What all optimizers share: counters, state and the shuffling seed.

    An object keeps them from one `bcenet.fit` to the next, so k epochs and then k more equal
    2 k epochs, bit for bit.

    Every optimizer takes ``rate_factors``, a dict with a factor of the learning rate for any of
    the groups "coefs", "intercepts", "norms" (gain and shift of a normalisation) and "scale" (the
    factors of X's columns); 1 where none is given.

    Attributes:
        learning_rate: may be changed between epochs, as in a callback.
        step: steps taken; epoch: epochs finished; seed: of the shuffling and of dropout, None
            before a fit.
        state: name -> flat array laid out as ``Network.parameters``; empty before a fit.
    """

    _rule = ""
    _state_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: float, rate_factors: dict[str, float] | None) -> None:
        self.learning_rate = checks.number("learning_rate", learning_rate, 0.0)
        self.rate_factors = _rate_factors(rate_factors)
        self.reset()

    def reset(self) -> None:
        """Forget all state, as for another network."""
        self.step = 0
        self.epoch = 0
        self.seed: int | None = None
        self.state: dict[str, np.ndarray] = {}
        self._in_use = kernels.exclusive("optimizer")

    def hyper(self) -> dict[str, Any]:
        """The hyperparameters, under their names."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in _CARRIED and not name.startswith("_")
        }

    def native_hyper(self) -> dict[str, Any]:
        """The hyperparameters as the native engine takes them."""
        return {"rule": kernels.rule_code(self._rule), **self.hyper()}

    def begin(self, parameters: np.ndarray) -> None:
        """Make the state for a network, or check that what is there belongs to its sizes."""
        names = self.state_names()
        if self.state:
            for name, array in self.state.items():
                if array.shape != parameters.shape or array.dtype != parameters.dtype:
                    raise ValueError(
                        f"optimizer must be fresh or carry state for {parameters.size} "
                        f"parameters of {parameters.dtype}; its {name!r} has {array.size} of "
                        f"{array.dtype} (optimizer.reset() makes it fresh)"
                    )
        elif self.step and names:
            raise ValueError("optimizer.state must hold its arrays once steps were taken")
        else:
            self.state = {name: np.zeros_like(parameters) for name in names}

    def state_names(self) -> tuple[str, ...]:
        return self._state_names

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_in_use"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._in_use = kernels.exclusive("optimizer")

    def __repr__(self) -> str:
        hyper = self.hyper()
        if not hyper["rate_factors"]:
            del hyper["rate_factors"]
        arguments = ", ".join(f"{name}={value!r}" for name, value in hyper.items())
        return f"{type(self).__name__}({arguments})"


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's look-ahead.

    m = momentum m + g; W -= learning_rate m, or learning_rate (g + momentum m) with
    ``nesterov``; before it W -= learning_rate weight_decay W, intercepts untouched. With
    ``rate_inside`` the velocity holds the rate, m = momentum m + learning_rate g and W -= m, as in
    scikit-learn: it differs where the rate changes.

    Sources: Polyak 1964; Nesterov 1983, in the form of Sutskever et al. 2013.

    Example:
        >>> import bcenet
        >>> bcenet.SGD(0.1, momentum=0.9).momentum
        0.9
    """

    _rule = "sgd"

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        rate_inside: bool = False,
        *,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(learning_rate, rate_factors)
        self.momentum = checks.number("momentum", momentum, 0.0, 1.0, open_maximum=True)
        self.nesterov = checks.boolean("nesterov", nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum must be above 0 with nesterov=True; got 0.0")
        self.weight_decay = checks.number("weight_decay", weight_decay, 0.0)
        self.rate_inside = checks.boolean("rate_inside", rate_inside)

    def state_names(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()


class Adam(Optimizer):
    """Adam: m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    W -= learning_rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).

    With ``epsilon_inside`` epsilon is added to sqrt(v) before the bias correction, as
    scikit-learn and Keras do.

    Source: Kingma and Ba 2015.

    Example:
        >>> import bcenet
        >>> bcenet.Adam().learning_rate
        0.001
    """

    _rule = "adam"
    _state_names: tuple[str, ...] = ("first_moment", "second_moment")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        epsilon_inside: bool = False,
        *,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(learning_rate, rate_factors)
        self.beta_1 = _beta("beta_1", beta_1)
        self.beta_2 = _beta("beta_2", beta_2)
        self.epsilon = _epsilon(epsilon)
        self.epsilon_inside = checks.boolean("epsilon_inside", epsilon_inside)


class AdamW(Adam):
    """Adam with decoupled weight decay: W -= learning_rate weight_decay W before each step,
    intercepts untouched.

    Source: Loshchilov and Hutter 2019.

    Example:
        >>> import bcenet
        >>> bcenet.AdamW(0.002).weight_decay
        0.01
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        epsilon_inside: bool = False,
        weight_decay: float = 0.01,
        *,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, epsilon_inside, rate_factors=rate_factors
        )
        self.weight_decay = checks.number("weight_decay", weight_decay, 0.0)


class AMSGrad(AdamW):
    """AdamW with the largest v so far in the place of v, so that a step's size never grows
    because an old gradient was forgotten; no weight decay unless it is asked for.

    The largest v is taken before the bias correction, as PyTorch does.

    Source: Reddi, Kale and Kumar, "On the convergence of Adam and beyond", ICLR 2018.

    Example:
        >>> import bcenet
        >>> bcenet.AMSGrad(0.01).weight_decay
        0.0
    """

    _rule = "amsgrad"
    _state_names = ("first_moment", "second_moment", "largest_second_moment")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        epsilon_inside: bool = False,
        weight_decay: float = 0.0,
        *,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            epsilon_inside,
            weight_decay,
            rate_factors=rate_factors,
        )


class RMSprop(Optimizer):
    """RMSprop: v = rho v + (1 - rho) g^2; W -= learning_rate g / (sqrt(v) + epsilon).

    Source: Tieleman and Hinton 2012 (lecture 6.5 of their course).

    Example:
        >>> import bcenet
        >>> bcenet.RMSprop(rho=0.99).rho
        0.99
    """

    _rule = "rmsprop"
    _state_names = ("second_moment",)

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-8,
        *,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(learning_rate, rate_factors)
        self.rho = checks.number("rho", rho, 0.0, 1.0, open_maximum=True)
        self.epsilon = _epsilon(epsilon)


class Lion(Optimizer):
    """Lion: W -= learning_rate sign(b1 m + (1 - b1) g), then m = b2 m + (1 - b2) g; before it
    W -= learning_rate weight_decay W, intercepts untouched.

    Every step moves every weight by the rate, so it wants a rate 3 to 10 times smaller than
    Adam's, and as much more weight decay.

    Source: Chen et al., "Symbolic discovery of optimization algorithms", 2023.

    Example:
        >>> import bcenet
        >>> bcenet.Lion().learning_rate
        0.0001
    """

    _rule = "lion"
    _state_names = ("momentum",)

    def __init__(
        self,
        learning_rate: float = 0.0001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        weight_decay: float = 0.0,
        *,
        rate_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(learning_rate, rate_factors)
        self.beta_1 = _beta("beta_1", beta_1)
        self.beta_2 = _beta("beta_2", beta_2)
        self.weight_decay = checks.number("weight_decay", weight_decay, 0.0)


class LBFGS:
    """L-BFGS over all rows at once, SciPy's: for small data and logistic regression.

    Each of the epochs that `bcenet.fit` is asked for is at most one iteration, with as many
    evaluations of loss and gradient as its line search needs; ``batch_size`` does not apply, and
    what has no meaning over all rows at once (a schedule, averages, clipping, max-norm, dropout,
    batch normalisation) is refused. It stops by itself where the gradient's largest entry is at
    most ``tol``. Nothing is carried from one fit to the next.

    Arguments:
        tol: not negative. memory: gradients that the approximation of the Hessian remembers.
        max_evaluations: of loss and gradient, in one fit.

    Source: Liu and Nocedal, "On the limited memory BFGS method", 1989. Needs SciPy, the extra
    ``lbfgs``.

    Example:
        >>> import bcenet
        >>> bcenet.LBFGS(tol=1e-6)
        LBFGS(tol=1e-06, memory=10, max_evaluations=15000)
    """

    def __init__(self, tol: float = 1e-4, memory: int = 10, max_evaluations: int = 15000) -> None:
        self.tol = checks.number("tol", tol, 0.0)
        self.memory = checks.integer("memory", memory, 1)
        self.max_evaluations = checks.integer("max_evaluations", max_evaluations, 1)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"LBFGS({arguments})"


def _beta(name: str, value: Any) -> float:
    return checks.number(name, value, 0.0, 1.0, open_maximum=True)


def _rate_factors(value: Any) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(
            f'rate_factors must be a dict such as {{"intercepts": 0.1}}; '
            f"got {checks.describe(value)}"
        )
    return {
        checks.choice("rate_factors", group, kernels.group_names()): checks.number(
            f"rate_factors[{group!r}]", factor, 0.0
        )
        for group, factor in value.items()
    }


def _epsilon(value: Any) -> float:
    # Below float32's smallest normal number it could round to 0, and 0 / 0 follow.
    smallest = float(np.finfo(np.float32).tiny)
    return checks.number("epsilon", value, smallest)


BY_NAME = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "amsgrad": AMSGrad,
    "rmsprop": RMSprop,
    "lion": Lion,
    "lbfgs": LBFGS,
}


def resolve(optimizer: Any, learning_rate: Any) -> Optimizer | LBFGS:
    """An optimizer from a name (a fresh one) or an object (with its own learning rate)."""
    if isinstance(optimizer, (Optimizer, LBFGS)):
        if learning_rate is not None:
            raise ValueError(
                "learning_rate must be None beside an optimizer object, which has its own; "
                f"got {checks.describe(learning_rate)}"
            )
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, (Optimizer, LBFGS)):
        raise TypeError(
            f"optimizer must be a name or an object, as {optimizer.__name__}(); got the class"
        )
    if not isinstance(optimizer, str):
        raise TypeError(
            f"optimizer must be one of {', '.join(map(repr, BY_NAME))} or an object such as "
            f"bcenet.Adam(); got {checks.describe(optimizer)}"
        )
    kind = BY_NAME[checks.choice("optimizer", optimizer, BY_NAME)]
    if learning_rate is None:
        return kind()
    if kind is LBFGS:
        given = checks.describe(learning_rate)
        raise ValueError(f"learning_rate must be None with optimizer 'lbfgs'; got {given}")
    return kind(learning_rate)

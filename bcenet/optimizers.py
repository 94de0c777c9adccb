"""Optimizers: what they are called with, and the state that they carry from fit to fit.

The update rules themselves are in src_cython/optimizers.pxd.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks, kernels


class Optimizer:
    """What all optimizers share: counters, state and the shuffling seed.

    An object keeps them from one `bcenet.fit` to the next, so k epochs and then k more equal
    2 k epochs, bit for bit.

    Attributes:
        step: steps taken; epoch: epochs finished; seed: of the shuffling, None before a fit.
        state: name -> flat array laid out as ``Network.parameters``; empty before a fit.
    """

    _rule = ""
    _state_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = checks.number("learning_rate", learning_rate, 0.0)
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
            if name not in ("step", "epoch", "seed", "state") and not name.startswith("_")
        }

    def native_hyper(self) -> dict[str, Any]:
        """The hyperparameters as the native engine takes them."""
        return {"rule": self._rule, **self.hyper()}

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
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.hyper().items())
        return f"{type(self).__name__}({arguments})"


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's look-ahead.

    m = momentum m + g; W -= learning_rate m, or learning_rate (g + momentum m) with
    ``nesterov``; before it W -= learning_rate weight_decay W, intercepts untouched.

    Sources: Polyak 1964; Nesterov 1983, in the form of Sutskever et al. 2013.

    Example:
        >>> import bcenet
        >>> bcenet.SGD(0.1, momentum=0.9)
        SGD(learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.0)
    """

    _rule = "sgd"

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = checks.number("momentum", momentum, 0.0, 1.0, open_maximum=True)
        self.nesterov = checks.boolean("nesterov", nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum must be above 0 with nesterov=True; got 0.0")
        self.weight_decay = checks.number("weight_decay", weight_decay, 0.0)

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
    _state_names = ("first_moment", "second_moment")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        epsilon_inside: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.beta_1 = checks.number("beta_1", beta_1, 0.0, 1.0, open_maximum=True)
        self.beta_2 = checks.number("beta_2", beta_2, 0.0, 1.0, open_maximum=True)
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
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, epsilon_inside)
        self.weight_decay = checks.number("weight_decay", weight_decay, 0.0)


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
        self, learning_rate: float = 0.001, rho: float = 0.9, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.rho = checks.number("rho", rho, 0.0, 1.0, open_maximum=True)
        self.epsilon = _epsilon(epsilon)


def _epsilon(value: Any) -> float:
    # Below float32's smallest normal number it could round to 0, and 0 / 0 follow.
    smallest = float(np.finfo(np.float32).tiny)
    return checks.number("epsilon", value, smallest)


BY_NAME = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def resolve(optimizer: Any, learning_rate: Any) -> Optimizer:
    """An optimizer from a name (a fresh one) or an object (with its own learning rate)."""
    if isinstance(optimizer, Optimizer):
        if learning_rate is not None:
            raise ValueError(
                "learning_rate must be None beside an optimizer object, which has its own; "
                f"got {checks.describe(learning_rate)}"
            )
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a name or an object, as {optimizer.__name__}(); got the class"
        )
    if not isinstance(optimizer, str):
        raise TypeError(
            f"optimizer must be one of {', '.join(map(repr, BY_NAME))} or an object such as "
            f"bcenet.Adam(); got {checks.describe(optimizer)}"
        )
    kind = BY_NAME[checks.choice("optimizer", optimizer, BY_NAME)]
    return kind() if learning_rate is None else kind(learning_rate)

"""Schedules: a factor on the optimizer's learning rate for each step of a fit.

``bcenet.fit(..., schedule="cosine")`` makes a fresh schedule from a name; an object such as
``bcenet.schedules.Cosine(epochs=40)`` keeps its clock and its counters from fit to fit, so k
epochs and then k more equal 2 k epochs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bcenet import checks


class Schedule:
    """What all schedules share: a clock in epochs, which starts with the schedule's first fit.

    Step i (from 0) of an epoch of n steps is at t = e + i / n, e being the epochs since the
    clock's start. A schedule of one's own is a subclass with `at`.

    Attributes:
        began: the optimizer's epochs when the clock started; None before the first fit.
    """

    _arguments: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the clock, the horizon and all counters, as for another network."""
        self.began: int | None = None

    def begin(self, epochs: int, rows: int, epoch: int = 0) -> None:
        """Called at the start of a fit.

        Arguments:
            epochs: of this fit; the horizon of a schedule that was made without one and has
                none from an earlier fit.
            rows: of an epoch. epoch: those that the optimizer has behind it.

        Raises: ValueError where the fit is too short for the schedule.
        """
        self.began = epoch if self.began is None else min(self.began, epoch)
        self.prepare(epochs, rows, epoch - self.began)

    def factors(self, epoch: int, batches: int) -> np.ndarray:
        """The factors of an epoch's steps.

        Arguments:
            epoch: from 0, counted over all fits of the optimizer. batches: steps of the epoch.

        Returns: float64 (batches,).

        Raises: ValueError before the first fit, if the schedule depends on that fit.

        Example:
            >>> from bcenet.schedules import Cosine
            >>> Cosine(epochs=2).factors(1, 4).round(3).tolist()
            [0.5, 0.309, 0.146, 0.038]
        """
        return self.at(epoch - (self.began or 0) + np.arange(batches) / batches, 1.0 / batches)

    def end_epoch(self, loss: float, learning_rate: float) -> bool:
        """Called after each epoch; True stops the fit.

        Arguments:
            loss: of the validation data or, without any, of the epoch, penalty included.
            learning_rate: the optimizer's, which the factors multiply.
        """
        return False

    def prepare(self, epochs: float, rows: int, t: float) -> None:
        """Take what `at` needs from a fit of so many epochs and rows that begins at t."""

    def at(self, t: np.ndarray, width: float) -> np.ndarray:
        """The factors at positions t (float64), whose steps are ``width`` epochs wide."""
        raise NotImplementedError

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._arguments)
        return f"{type(self).__name__}({arguments})"


class Constant(Schedule):
    """The factor 1.

    Example:
        >>> from bcenet.schedules import Constant
        >>> Constant().factors(3, 2).tolist()
        [1.0, 1.0]
    """

    def at(self, t: np.ndarray, width: float) -> np.ndarray:
        return np.ones_like(t)


class InverseScaling(Schedule):
    """1 / (1 + s)^power, s being the rows seen when the last whole epoch ended.

    The same within an epoch, and 1 in the first: scikit-learn's "invscaling", also where fits
    of one object differ in their rows, as the chunks of a stream do.

    Example:
        >>> from bcenet.schedules import InverseScaling
        >>> schedule = InverseScaling()
        >>> schedule.begin(epochs=10, rows=99)
        >>> schedule.factors(0, 2).tolist(), schedule.factors(1, 2).tolist()
        ([1.0, 1.0], [0.1, 0.1])
    """

    _arguments = ("power",)

    def __init__(self, power: float = 0.5) -> None:
        self.power = checks.number("power", power, 0.0)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.rows: int | None = None
        self.seen = 0  # rows of the first `counted` epochs
        self.counted = 0

    def prepare(self, epochs: float, rows: int, t: float) -> None:
        whole = max(math.floor(t), 0)
        if self.rows is None or whole < self.counted:
            self.seen = whole * rows
        else:
            self.seen += (whole - self.counted) * self.rows
        self.counted, self.rows = whole, rows

    def at(self, t: np.ndarray, width: float) -> np.ndarray:
        if self.rows is None:
            raise ValueError("rows must be given first, by begin(epochs, rows); got none")
        seen = self.seen + (np.floor(t) - self.counted) * self.rows
        return 1.0 / (1.0 + seen) ** self.power


class Adaptive(Schedule):
    """The rate is divided once the loss no longer falls, and the fit ends with a tiny rate.

    An epoch whose loss is above best - tol counts, any other sets the count to 0. Once it
    exceeds ``patience`` the rate is divided by ``divisor`` and the count starts again, or the
    fit stops if the rate is ``minimum`` or less already: scikit-learn's "adaptive". The loss is
    that of the validation data or, without any, of the epoch, penalty included.

    Attributes:
        best: the smallest loss so far. count: epochs without progress. divisions: so far.
        factor: divisor^-divisions.

    Example:
        >>> from bcenet.schedules import Adaptive
        >>> schedule = Adaptive(patience=1)
        >>> [schedule.end_epoch(0.5, learning_rate=0.1) for epoch in range(3)]
        [False, False, False]
        >>> schedule.factor
        0.2
    """

    _arguments = ("divisor", "patience", "tol", "minimum")

    def __init__(
        self,
        divisor: float = 5.0,
        patience: int = 10,
        tol: float = 1e-4,
        minimum: float = 1e-6,
    ) -> None:
        self.divisor = checks.number("divisor", divisor, 1.0, open_minimum=True)
        self.patience = checks.integer("patience", patience, 0)
        self.tol = checks.number("tol", tol, 0.0)
        self.minimum = checks.number("minimum", minimum, 0.0)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.best = math.inf
        self.count = 0
        self.divisions = 0

    def _divided(self, value: float) -> float:
        # One division after the other, as scikit-learn does: the comparison with the minimum
        # then has its bits.
        for _ in range(self.divisions):
            value /= self.divisor
        return value

    @property
    def factor(self) -> float:
        return self._divided(1.0)

    def at(self, t: np.ndarray, width: float) -> np.ndarray:
        return np.full_like(t, self.factor)

    def end_epoch(self, loss: float, learning_rate: float) -> bool:
        self.count = self.count + 1 if loss > self.best - self.tol else 0
        if loss < self.best:
            self.best = loss
        if self.count <= self.patience:
            return False
        if self._divided(learning_rate) <= self.minimum:
            return True
        self.divisions += 1
        self.count = 0
        return False


class _OverHorizon(Schedule):
    """A curve over a horizon of epochs, which stays at its last value from there on.

    Attributes:
        horizon: in epochs; None if not given and not yet fixed by a fit.
    """

    def __init__(self, epochs: int | None) -> None:
        self.epochs = None if epochs is None else checks.integer("epochs", epochs, 1)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.horizon: float | None = self.epochs

    def prepare(self, epochs: float, rows: int, t: float) -> None:
        if self.horizon is None:
            self.horizon = epochs

    def at(self, t: np.ndarray, width: float) -> np.ndarray:
        if self.horizon is None:
            raise ValueError(f"epochs must be given before the first fit; got {self!r}")
        return self.curve(np.minimum(t / self.horizon, 1.0))

    def curve(self, x: np.ndarray) -> np.ndarray:
        """The factors at parts x in [0, 1] of the horizon."""
        raise NotImplementedError


def _half_cosine(begin: float, end: float, x: np.ndarray) -> np.ndarray:
    """From ``begin`` at x = 0 to ``end`` at x = 1, level and exact at both."""
    part = (1.0 + np.cos(np.pi * x)) / 2.0
    return part * begin + (1.0 - part) * end


class Cosine(_OverHorizon):
    """Half a cosine from 1 down to ``final`` over the horizon:
    final + (1 - final) (1 + cos(pi t / horizon)) / 2, and ``final`` after it.

    Arguments:
        epochs: the horizon; None takes the epochs of the first fit.
        final: in [0, 1].

    Source: Loshchilov and Hutter 2017, without restarts.

    Example:
        >>> from bcenet.schedules import Cosine
        >>> schedule = Cosine(epochs=2, final=0.1)
        >>> [schedule.factors(epoch, 1).item() for epoch in range(4)]
        [1.0, 0.55, 0.1, 0.1]
    """

    _arguments = ("epochs", "final")

    def __init__(self, epochs: int | None = None, final: float = 0.0) -> None:
        super().__init__(epochs)
        self.final = checks.number("final", final, 0.0, 1.0)

    def curve(self, x: np.ndarray) -> np.ndarray:
        return _half_cosine(1.0, self.final, x)


class OneCycle(_OverHorizon):
    """Half a cosine up from ``start`` to 1 over the part ``rise`` of the horizon, and
    half a cosine down to ``final`` over the rest, where it stays.

    The optimizer's learning rate is the peak. Momentum is left alone.

    Arguments:
        epochs: the horizon; None takes the epochs of the first fit.
        start: above 0, at most 1. final: in [0, 1]. rise: between 0 and 1.

    Source: Smith and Topin 2018, with cosines for their straight lines.

    Example:
        >>> from bcenet.schedules import OneCycle
        >>> schedule = OneCycle(epochs=4, rise=0.5, start=0.5, final=0.0)
        >>> [round(schedule.factors(epoch, 1).item(), 3) for epoch in range(5)]
        [0.5, 0.75, 1.0, 0.5, 0.0]
    """

    _arguments = ("epochs", "start", "final", "rise")

    def __init__(
        self,
        epochs: int | None = None,
        start: float = 1 / 25,
        final: float = 1e-4 / 25,
        rise: float = 0.3,
    ) -> None:
        super().__init__(epochs)
        self.start = checks.number("start", start, 0.0, 1.0, open_minimum=True)
        self.final = checks.number("final", final, 0.0, 1.0)
        self.rise = checks.number("rise", rise, 0.0, 1.0, open_minimum=True, open_maximum=True)

    def curve(self, x: np.ndarray) -> np.ndarray:
        up = _half_cosine(self.start, 1.0, x / self.rise)
        down = _half_cosine(1.0, self.final, (x - self.rise) / (1.0 - self.rise))
        return np.where(x < self.rise, up, down)


class CosLog4(_OverHorizon):
    """Four cosine waves, each twice as long as the one before:
    (1 - cos(2 pi log2(1 + 15 t / horizon))) / 2, and 0 after the horizon.

    The first step of a fit has the factor 0.

    Arguments:
        epochs: the horizon; None takes the epochs of the first fit.

    Source: Holzmüller, Grinsztajn and Steinwart, "Better by Default: Strong Pre-Tuned MLPs and
    Boosted Trees on Tabular Data", 2024 (RealMLP).

    Example:
        >>> from bcenet.schedules import CosLog4
        >>> CosLog4(epochs=15).factors(0, 4).round(3).tolist()
        [0.0, 0.718, 0.93, 0.324]
    """

    _arguments = ("epochs",)

    def __init__(self, epochs: int | None = None) -> None:
        super().__init__(epochs)

    def curve(self, x: np.ndarray) -> np.ndarray:
        return (1.0 - np.cos(2.0 * np.pi * np.log2(1.0 + 15.0 * x))) / 2.0


class WarmUp(Schedule):
    """A straight line up to 1 over the first ``epochs``, then another schedule.

    The k-th step of n in the warm-up has the factor k / n: the first one already moves, the
    last one has the whole rate. The other schedule's clock starts where the warm-up ends; if it
    was made without a horizon, its horizon is what is left of the first fit.

    Arguments:
        epochs: above 0; need not be whole.
        after: a name or a schedule.

    Example:
        >>> from bcenet.schedules import Cosine, WarmUp
        >>> WarmUp(0.5, after=Cosine(epochs=1)).factors(0, 8).round(3).tolist()
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.962, 0.854, 0.691]
    """

    _arguments = ("epochs", "after")

    def __init__(self, epochs: float = 1.0, after: str | Schedule = "constant") -> None:
        self.epochs = checks.number("epochs", epochs, 0.0, open_minimum=True)
        self.after = resolve(after, "after")
        super().reset()  # not the other's state

    def reset(self) -> None:
        super().reset()
        self.after.reset()

    def prepare(self, epochs: float, rows: int, t: float) -> None:
        left = epochs - self.epochs
        if left <= 0 and isinstance(self.after, _OverHorizon) and self.after.horizon is None:
            raise ValueError(
                f"epochs of WarmUp must be below those of the fit ({epochs:g}), which are the "
                f"horizon of {self.after!r}; got {self.epochs:g}"
            )
        self.after.prepare(left, rows, t - self.epochs)

    def at(self, t: np.ndarray, width: float) -> np.ndarray:
        rising = np.minimum((t + width) / self.epochs, 1.0)
        after = self.after.at(np.maximum(t - self.epochs, 0.0), width)
        return np.where(t < self.epochs, rising, after)

    def end_epoch(self, loss: float, learning_rate: float) -> bool:
        return self.after.end_epoch(loss, learning_rate)


BY_NAME = {
    "constant": Constant,
    "inverse-scaling": InverseScaling,
    "adaptive": Adaptive,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "warm-up": WarmUp,
    "coslog4": CosLog4,
}


def resolve(schedule: Any, name: str = "schedule") -> Schedule:
    """A schedule from None (constant), a name (a fresh one) or an object (that one).

    Raises: ValueError or TypeError naming the argument ``name``.

    Example:
        >>> from bcenet.schedules import resolve
        >>> resolve("cosine")
        Cosine(epochs=None, final=0.0)
    """
    if schedule is None:
        return Constant()
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, type) and issubclass(schedule, Schedule):
        raise TypeError(
            f"{name} must be a name or an object, as {schedule.__name__}(); got the class"
        )
    if not isinstance(schedule, str):
        raise TypeError(
            f"{name} must be one of {', '.join(map(repr, BY_NAME))} or an object such as "
            f"bcenet.schedules.Cosine(); got {checks.describe(schedule)}"
        )
    return BY_NAME[checks.choice(name, schedule, BY_NAME)]()

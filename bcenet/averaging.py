"""Averages of a network's parameters over training, for ``bcenet.fit(..., averaging=...)``.

While a fit averages, the network holds the average (that is what is validated, seen by the
callbacks and kept), and the object holds the parameters that are trained, ``raw``. Another fit with
the same object goes on from those, unless the network was changed in between. Running statistics
of a batch normalisation are the trained network's: they are not averaged.
"""

from __future__ import annotations

import numpy as np

from bcenet import checks


class Averaging:
    """What EMA and SWA share.

    Attributes:
        raw: the parameters in training, flat; average: their average, flat; None before a fit.
        count: steps (EMA) or epochs (SWA) in the average.
    """

    rate = 0.0  # a step's part in the average; 0 where epochs are averaged

    def __init__(self) -> None:
        self.raw: np.ndarray | None = None
        self.average: np.ndarray | None = None
        self.count = 0

    def begin(self, parameters: np.ndarray) -> None:
        """Take up a network's parameters; go on with what is there if it made them."""
        average = self.average
        if (
            average is None
            or average.dtype != parameters.dtype
            or not np.array_equal(average, parameters)
        ):
            self.raw, self.average, self.count = parameters.copy(), parameters.copy(), 0

    def averages_epoch(self, epoch: int, epochs: int) -> bool:
        """Whether epoch ``epoch`` (from 1) of ``epochs`` is taken into the average as a whole."""
        raise NotImplementedError

    def arguments(self) -> dict[str, float]:
        """What it was made with."""
        carried = ("raw", "average", "count")
        return {name: value for name, value in self.__dict__.items() if name not in carried}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())
        return f"{type(self).__name__}({arguments})"


class EMA(Averaging):
    """An exponential moving average of the parameters after every step.

    average = parameters after the first step, then decay average + (1 - decay) parameters.

    Arguments:
        decay: in [0, 1); 0.999 looks back over about 1000 steps.

    Source: Polyak and Juditsky 1992, with the weights of Tarvainen and Valpola 2017.

    Example:
        >>> import bcenet
        >>> bcenet.EMA(0.99)
        EMA(decay=0.99)
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = checks.number("decay", decay, 0.0, 1.0, open_maximum=True)

    @property
    def rate(self) -> float:  # type: ignore[override]
        return 1 - self.decay

    def averages_epoch(self, epoch: int, epochs: int) -> bool:
        return False


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the parameters after each of the last epochs.

    Until then the network holds the trained parameters. A constant or slowly falling rate suits it.

    Arguments:
        start: the first epoch of a fit that is taken, as a part of its epochs, in [0, 1).

    Source: Izmailov et al., "Averaging weights leads to wider optima and better generalization",
    UAI 2018.

    Example:
        >>> import bcenet
        >>> bcenet.SWA(0.5)
        SWA(start=0.5)
    """

    def __init__(self, start: float = 0.75) -> None:
        super().__init__()
        self.start = checks.number("start", start, 0.0, 1.0, open_maximum=True)

    def averages_epoch(self, epoch: int, epochs: int) -> bool:
        return epoch > self.start * epochs


def check(averaging: object) -> Averaging | None:
    """An EMA, an SWA or None."""
    if averaging is None or isinstance(averaging, Averaging):
        return averaging
    raise TypeError(
        f"averaging must be None, a bcenet.EMA() or a bcenet.SWA(); "
        f"got {checks.describe(averaging)}"
    )

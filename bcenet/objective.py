"""What a fit makes small: the loss and its options, penalties, and bounds on a step."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks, kernels, losses
from bcenet.records import Record

DROP_PARTS = 65536  # of which a dropout rate is a whole number


class Objective(Record):
    """Checked options of a fit, as the engine takes them; `of` makes one.

    Attributes:
        loss: a key of the native table of losses; focus: the focal loss's gamma, else 0.
        pos_weight: (outputs,) float64, or None. smoothing: of the labels.
        label_sum: whether a row's loss is the sum over its labels. masked: whether NaN targets
            are left out. lazy: whether a step leaves the weights of columns alone that its sparse
            rows lack. l1, l2: penalties. clip_norm, max_norm: bounds, 0 for none.
        average_rate: a step's part in the moving average of the parameters, 0 for none.
    """

    loss: str
    focus: float
    pos_weight: np.ndarray | None
    smoothing: float
    label_sum: bool
    masked: bool
    lazy: bool
    l1: float
    l2: float
    clip_norm: float
    max_norm: float
    average_rate: float

    @classmethod
    def of(
        cls,
        outputs: int,
        *,
        loss: Any = "bce",
        pos_weight: Any = None,
        label_smoothing: Any = 0.0,
        label_reduction: Any = "mean",
        missing_labels: Any = "error",
        lazy: Any = False,
        l1: Any = 0.0,
        l2: Any = 0.0,
        clip_norm: Any = None,
        max_norm: Any = None,
        average_rate: float = 0.0,
    ) -> Objective:
        """Check the options, as `bcenet.fit` documents them, for a number of outputs."""
        name, focus = losses.resolve(loss)
        return cls(
            loss=name,
            focus=focus,
            pos_weight=losses.pos_weight_array(pos_weight, outputs),
            smoothing=checks.number("label_smoothing", label_smoothing, 0.0, 1.0),
            label_sum=checks.choice("label_reduction", label_reduction, ("mean", "sum")) == "sum",
            masked=checks.choice("missing_labels", missing_labels, ("error", "ignore")) == "ignore",
            lazy=checks.boolean("lazy", lazy),
            l1=checks.number("l1", l1, 0.0),
            l2=checks.number("l2", l2, 0.0),
            clip_norm=_bound("clip_norm", clip_norm),
            max_norm=_bound("max_norm", max_norm),
            average_rate=average_rate,
        )

    def unsmoothed(self) -> Objective:
        """The same with the targets as they are: what a validation loss is measured with."""
        return type(self)(**{**self.__dict__, "smoothing": 0.0})

    def unpenalized(self) -> Objective:
        """The same without penalties: for a loss to which they are added elsewhere."""
        return self.penalized(0.0)

    def penalized(self, factor: float) -> Objective:
        """The same with the penalties times a factor: for part of the rows that they are for."""
        return type(self)(**{**self.__dict__, "l1": self.l1 * factor, "l2": self.l2 * factor})

    def native(self) -> dict[str, Any]:
        return {**self.__dict__, "loss": kernels.loss_code(self.loss)}

    @property
    def needs_whole_gradient(self) -> bool:
        return self.clip_norm > 0 or self.max_norm > 0


def _bound(name: str, value: Any) -> float:
    return 0.0 if value is None else checks.number(name, value, 0.0, open_minimum=True)


def drop_rates(dropout: Any, hidden: int) -> list[int] | None:
    """Rates a layer in parts of 65536, or None for none; the last layer drops nothing.

    Raises: ValueError or TypeError for anything but a number in [0, 1) or one a hidden layer.
    """
    several = isinstance(dropout, (list, tuple)) or getattr(dropout, "ndim", 0) > 0
    values = list(dropout) if several else [dropout] * max(hidden, 1)
    if several and len(values) != hidden:
        raise ValueError(
            f"dropout must be a number or one a hidden layer ({hidden}); got {len(values)}"
        )
    rates = [
        round(checks.number("dropout", value, 0.0, 1.0, open_maximum=True) * DROP_PARTS)
        for value in values
    ]
    rates = [min(rate, DROP_PARTS - 1) for rate in rates]
    return [*rates[:hidden], 0] if any(rates[:hidden]) else None

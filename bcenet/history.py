"""What a fit measured."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """One value an epoch.

    Attributes:
        loss: the weighted mean over the epoch's rows, each as it was seen, before the step of
            its batch; without penalties.
        validation_loss: after the epoch, on the validation data; empty without any.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)

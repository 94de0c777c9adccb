"""What a fit measured."""

from __future__ import annotations


class History:
    """One value an epoch.

    Attributes:
        loss: the weighted mean over the epoch's rows, each as it was seen, before the step of
            its batch; without penalties. With ``label_reduction="sum"`` the mean over the
            batches' losses, each counted by its rows, as scikit-learn has it.
        penalty: the epoch's penalties, divided as ``loss`` is: loss + penalty is what was made
            small.
        validation_loss: after the epoch, on the validation data; empty without any.
    """

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.penalty: list[float] = []
        self.validation_loss: list[float] = []

    def __repr__(self) -> str:
        return f"History(loss={self.loss}, validation_loss={self.validation_loss})"

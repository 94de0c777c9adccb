"""scikit-learn's own callbacks, where the installed version has them (1.9 and later)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""


class Hooks:
    """The hooks of scikit-learn's callbacks around a fit and around each of its epochs.

    Arguments:
        estimator: the one that is being fitted. epochs: the most there can be.
    """

    def __init__(self, estimator: Any, epochs: int) -> None:
        self._estimator = estimator
        self._context = None
        self._epoch: Any = None
        self._data: dict[str, Any] = {}
        self._attributes: Callable[[], dict[str, Any]] = dict
        if hasattr(estimator, "_init_callback_context"):
            context = estimator._init_callback_context(max_subtasks=epochs)
            if getattr(estimator, "_skl_callbacks", None):
                self._context = context

    def begin(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        attributes: Callable[[], dict[str, Any]],
    ) -> None:
        """The fit begins: what its callbacks may see, and the attributes of a fitted copy."""
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._data = {"X": X, "y": y, "metadata": metadata}
        self._attributes = attributes
        if self._context is not None:
            self._context.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def begin_epoch(self) -> None:
        if self._context is not None:
            self._epoch = self._context.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(
                estimator=self._estimator,
                **self._data,
                reconstruction_attributes=self._attributes,
            )

    def end_epoch(self) -> bool:
        """Whether a callback asks to stop."""
        if self._epoch is None:
            return False
        epoch, self._epoch = self._epoch, None
        return self._end(epoch)

    def end(self) -> None:
        if self._epoch is not None:  # begun, and then something else stopped the fit
            self._epoch.call_on_fit_task_end(estimator=self._estimator)
        if self._context is not None:
            self._end(self._context)

    def _end(self, context: Any) -> bool:
        return context.call_on_fit_task_end(
            estimator=self._estimator, **self._data, reconstruction_attributes=self._attributes
        )

"""Training kernels for feed-forward networks with sigmoid outputs and binary cross-entropy."""

from __future__ import annotations

from typing import Any

from bcenet.averaging import EMA, SWA
from bcenet.callbacks import ProgressBar
from bcenet.config import __version__, get_include, show_config
from bcenet.errors import DataChangedError, DataFormatError, ModelFormatError, NonFiniteError
from bcenet.history import History
from bcenet.losses import FocalLoss, bce_gradient, bce_loss, bce_loss_gradient, sigmoid
from bcenet.network import Network
from bcenet.optimizers import LBFGS, SGD, Adam, AdamW, AMSGrad, Lion, RMSprop
from bcenet.training import fit

__all__ = [
    "EMA",
    "LBFGS",
    "SGD",
    "SWA",
    "AMSGrad",
    "Adam",
    "AdamW",
    "DataChangedError",
    "DataFormatError",
    "FocalLoss",
    "History",
    "Lion",
    "Model",
    "ModelFormatError",
    "Network",
    "NonFiniteError",
    "ProgressBar",
    "RMSprop",
    "Trainer",
    "TrainingHealth",
    "__version__",
    "bce_gradient",
    "bce_loss",
    "bce_loss_gradient",
    "calibration",
    "check_gradient",
    "data",
    "explain_last_layer",
    "fit",
    "get_include",
    "load",
    "load_model",
    "metrics",
    "resume",
    "schedules",
    "show_config",
    "sigmoid",
    "tabular",
]

# Imported when first used: they are not needed to train, and import time counts.
_LATER = {
    "Model": ("bcenet.model", "Model"),
    "Trainer": ("bcenet.trainer", "Trainer"),
    "TrainingHealth": ("bcenet.health", "TrainingHealth"),
    "calibration": ("bcenet.calibration", None),
    "check_gradient": ("bcenet.gradient_check", "check_gradient"),
    "data": ("bcenet.data", None),
    "explain_last_layer": ("bcenet.explain", "explain_last_layer"),
    "load": ("bcenet.model", "load_network"),
    "load_model": ("bcenet.model", "load_model"),
    "metrics": ("bcenet.metrics", None),
    "resume": ("bcenet.resuming", "resume"),
    "schedules": ("bcenet.schedules", None),
    "tabular": ("bcenet.tabular", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'bcenet' has no attribute {name!r}")
    import importlib

    module, attribute = _LATER[name]
    value = importlib.import_module(module)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

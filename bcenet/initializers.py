"""Starting weights of a layer: Glorot, He and LeCun, uniform and normal, and zeros."""

from __future__ import annotations

import math

import numpy as np

from bcenet import checks

# name -> (distribution, variance as a function of fan_in and fan_out)
_VARIANCES = {
    "glorot_uniform": ("uniform", lambda fan_in, fan_out: 2.0 / (fan_in + fan_out)),
    "glorot_normal": ("normal", lambda fan_in, fan_out: 2.0 / (fan_in + fan_out)),
    "he_uniform": ("uniform", lambda fan_in, fan_out: 2.0 / fan_in),
    "he_normal": ("normal", lambda fan_in, fan_out: 2.0 / fan_in),
    "lecun_uniform": ("uniform", lambda fan_in, fan_out: 1.0 / fan_in),
    "lecun_normal": ("normal", lambda fan_in, fan_out: 1.0 / fan_in),
    "zeros": ("zeros", lambda fan_in, fan_out: 0.0),
}

NAMES = ("auto", *_VARIANCES)

# "auto": the variance that keeps the signal's scale through the activation of the layer.
_AUTO = {
    "relu": "he_uniform",
    "leaky_relu": "he_uniform",
    "elu": "he_uniform",
    "gelu": "he_uniform",
    "silu": "he_uniform",
    "selu": "lecun_normal",
}


def resolve(initializer: object, activations: tuple[str, ...]) -> list[str]:
    """One initializer's name a layer, from a name or a list of names.

    Raises: ValueError for an unknown name, a list of another length, or zeros in a hidden layer
    (its units would stay alike for ever).
    """
    if isinstance(initializer, str):
        names = [checks.choice("initializer", initializer, NAMES)] * len(activations)
    elif isinstance(initializer, (list, tuple)):
        if len(initializer) != len(activations):
            raise ValueError(
                f"initializer must be a name or one a layer ({len(activations)}); "
                f"got {len(initializer)}"
            )
        names = [checks.choice("initializer", name, NAMES) for name in initializer]
    else:
        raise TypeError(
            f"initializer must be a name or a list of names; got {checks.describe(initializer)}"
        )
    if "zeros" in names[:-1]:
        raise ValueError("initializer must not be 'zeros' in a hidden layer, only in the last")
    return [
        _AUTO.get(activation, "glorot_uniform") if name == "auto" else name
        for name, activation in zip(names, activations, strict=True)
    ]


def fill(weights: np.ndarray, name: str, rng: np.random.Generator) -> None:
    """Draw the weights (fan_in, fan_out) of one layer.

    Uniform on [-sqrt(3 v), sqrt(3 v)] or normal with variance v: Glorot and Bengio 2010
    v = 2 / (fan_in + fan_out), He et al. 2015 v = 2 / fan_in, LeCun et al. 1998 v = 1 / fan_in.
    """
    kind, variance = _VARIANCES[name]
    scale = math.sqrt(variance(*weights.shape))
    if kind == "zeros":
        weights[...] = 0
    elif kind == "uniform":
        weights[...] = (2.0 * rng.random(weights.shape) - 1.0) * (math.sqrt(3.0) * scale)
    else:
        weights[...] = rng.standard_normal(weights.shape) * scale

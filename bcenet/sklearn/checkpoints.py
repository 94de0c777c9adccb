"""What a checkpoint of an estimator's fit holds beside that of `bcenet.fit`."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checkpoint, model_file

# Parameters that change nothing that a fit learns.
_FREE = ("callbacks", "n_threads", "verbose", "warm_start")


def read(path: Any, estimator: Any) -> checkpoint.Saved:
    """A checkpoint of an estimator's fit, whose first callback is a `Monitor`.

    Raises: ValueError where its fit was no estimator's, or had other parameters; and as
    `bcenet.checkpoint.read` does.
    """
    saved = checkpoint.read(path)
    with model_file.content_of(saved.path):
        name, state = (*saved.callbacks, ("", {}))[0]
    if name != "Monitor":
        raise ValueError(
            f"checkpoint must be of a fit of {type(estimator).__name__}; "
            f"{saved.path} is of another fit"
        )
    with model_file.content_of(saved.path):
        before = dict(state["parameters"])
    now = parameters(estimator)
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{name} must be {before.get(name)!r}, as in the checkpoint's fit; "
                f"got {now.get(name)!r}"
            )
    return saved


def parameters(estimator: Any) -> dict[str, Any]:
    """The parameters that decide what a fit learns, as JSON that is the same in any process."""
    given = estimator.get_params(deep=False)
    return {name: _plain(value) for name, value in given.items() if name not in _FREE}


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(part) for key, part in value.items()}
    text = getattr(value, "__qualname__", None) or repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def state_of(rng: np.random.RandomState | None) -> dict[str, Any]:
    """The state of a generator, as a callback may keep it.

    Raises: ValueError for one that isn't NumPy's plain RandomState.
    """
    if rng is None:
        return {"split": None}
    state = rng.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise ValueError(
            "random_state must have the bit generator MT19937 with checkpoint; "
            f"got {state['bit_generator']}"
        )
    inner = state["state"]
    return {
        "split": [int(inner["pos"]), int(state["has_gauss"]), float(state["gauss"])],
        "split_key": inner["key"].astype(np.int64),
    }


def generator_of(state: dict[str, Any]) -> np.random.RandomState | None:
    """The generator whose `state_of` was kept."""
    if state["split"] is None:
        return None
    rng = np.random.RandomState()
    rng.set_state(("MT19937", state["split_key"].astype(np.uint32), *state["split"]))
    return rng

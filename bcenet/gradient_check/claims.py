"""The gradients that a user gives: their shapes, the orientation they are in, their rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcenet import checks
from bcenet.gradient_check.mistakes import Given
from bcenet.records import Record

MOST, WORST = 200, 20  # entries compared of a large array, of which so many look worst
# What a right entry may be off by, of the largest of its array, by the bytes of its dtype.
_TOLERANCE = {2: 5e-2, 4: 1e-4, 8: 1e-6}

Pairs = list[tuple[np.ndarray, np.ndarray]]


class Claims(Record):
    """A gradient to check.

    Attributes:
        layers: arrays by name, float64, dW (fan_in, fan_out) and db flat, of another size
            where it is the sum over a wrong axis.
        shapes: as the arrays came. orientation: that they came in.
        eps: their rounding unit. tolerance: what an entry may be off by.
    """

    layers: list[dict[str, np.ndarray]]
    shapes: list[dict[str, tuple[int, ...]]]
    orientation: str
    eps: float
    tolerance: float

    def rounded_as(self, dtype: Any) -> Claims:
        """The same, as if it had been computed in a dtype."""
        dtype = np.dtype(dtype)
        eps, tolerance = float(np.finfo(dtype).eps), _TOLERANCE[dtype.itemsize]
        return Claims(self.layers, self.shapes, self.orientation, eps, tolerance)

    @classmethod
    def of(cls, layers: list[dict[str, np.ndarray]], orientation: str) -> Claims:
        """From arrays of an orientation."""
        kinds = [array.dtype for layer in layers for array in layer.values()]
        floats = [kind for kind in kinds if kind.kind == "f"]
        coarsest = min(floats, key=lambda kind: kind.itemsize, default=np.dtype(np.float64))
        turned = []
        for layer in layers:
            wide = {name: array.astype(np.float64) for name, array in layer.items()}
            wide["dW"] = wide["dW"].T if orientation == "columns" else wide["dW"]
            wide["db"] = wide["db"].reshape(-1)
            if wide["db"].size == 1:  # one number for all units: what an update makes of it
                wide["db"] = np.repeat(wide["db"], wide["dW"].shape[1])
            turned.append(wide)
        shapes = [{name: array.shape for name, array in layer.items()} for layer in layers]
        return cls(turned, shapes, orientation, 0.0, 0.0).rounded_as(coarsest)

    def given(self) -> list[Given]:
        return [Given(layer["dW"], layer["db"]) for layer in self.layers]

    def label(self, index: int, name: str, entry: int) -> str:
        """An entry of an array in rows, as the user would write it."""
        shape = self.shapes[index][name]
        if self.orientation == "flat":
            return f"gradients[{entry}]"
        if np.prod(shape) == 1:
            entry = 0
        if name == "dW" and self.orientation == "columns":
            place = np.unravel_index(entry, shape[::-1])[::-1]
        else:
            place = np.unravel_index(entry, shape)
        return f"{name}[{', '.join(str(int(i)) for i in place)}]" if shape else name


def pairs_of(gradients: Any, count: int) -> Pairs:
    """One (dW, db) a layer, as arrays.

    Raises: ValueError or TypeError for anything else.
    """
    wanted = f"gradients must be a list of (dW, db), one a layer ({count})"
    if not isinstance(gradients, (list, tuple)):
        raise TypeError(f"{wanted}; got {checks.describe(gradients)}")
    if len(gradients) != count:
        raise ValueError(f"{wanted}; got {len(gradients)}")
    pairs = []
    for index, pair in enumerate(gradients):
        name = f"gradients[{index}]"
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"{name} must be (dW, db); got {checks.describe(pair)}")
        pairs.append((checks.real_array(name, pair[0]), checks.real_array(name, pair[1])))
    return pairs


def check_bias(index: int, db: np.ndarray, fan_out: int, n: int, orientation: str) -> None:
    """ValueError for a db whose shape is neither right nor that of a sum over a wrong axis."""
    size = db.size
    if size in (fan_out, 1, n) and db.shape in ((), (size,), (size, 1), (1, size)):
        return
    if db.shape in ((n, fan_out), (fan_out, n)):  # over none
        return
    flat, upright = (
        f"({fan_out},)",
        f"({fan_out}, 1)" if orientation == "columns" else f"(1, {fan_out})",
    )
    raise ValueError(
        f"gradients[{index}] must have a db of shape {flat} or {upright} (orientation "
        f"{orientation!r}); got {db.shape}"
    )


def orientation_of(pairs: Pairs, shapes: list[tuple[int, ...]], orientation: str) -> str | None:
    """ "rows" or "columns" for weights of (fan_in, fan_out), or None where every layer is square
    and no db says which.

    Raises: ValueError for a dW of another shape, which says what was recognised by what.
    """
    reason = ""
    if orientation == "auto":
        first: dict[str, int] = {}  # the first layer that fits an orientation alone
        for index, ((dw, _), shape) in enumerate(zip(pairs, shapes, strict=True)):
            if shape[0] != shape[1] and dw.shape in (shape, shape[::-1]):
                first.setdefault("rows" if dw.shape == shape else "columns", index)
        if len(first) == 2:
            raise ValueError(
                f"gradients must be of one orientation; gradients[{first['rows']}] has a dW of "
                f"(fan_in, fan_out), 'rows', gradients[{first['columns']}] one of (fan_out, "
                "fan_in), 'columns'"
            )
        if first:
            ((orientation, index),) = first.items()
            reason = f", as gradients[{index}] is"
    for index, ((dw, _), shape) in enumerate(zip(pairs, shapes, strict=True)):
        wanted = {"rows": [shape], "columns": [shape[::-1]]}.get(orientation, [shape, shape[::-1]])
        if dw.shape in wanted:
            continue
        if orientation == "auto":
            text = f"{shape} (orientation 'rows') or {shape[::-1]} ('columns')"
        else:
            text = f"{wanted[0]} (orientation {orientation!r}{reason})"
        other = "rows" if orientation == "columns" else "columns"
        hint = f", which is its shape in {other!r}" if dw.shape == wanted[0][::-1] else ""
        raise ValueError(f"gradients[{index}] must have a dW of shape {text}; got {dw.shape}{hint}")
    if orientation != "auto":
        return orientation
    for (_, db), (_, fan_out) in zip(pairs, shapes, strict=True):
        if db.ndim == 2 and db.size == fan_out > 1:
            return "columns" if db.shape[1] == 1 else "rows"
    return None


def choose(errors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Entries to compare of an array: all, or a sample over all rows and columns, with those of
    the largest errors that are to be expected."""
    size = errors.size
    if size <= MOST:
        return np.arange(size)
    worst = np.argsort(np.nan_to_num(np.abs(errors.reshape(-1)), nan=np.inf))[-WORST:]
    places = [
        np.concatenate([rng.permutation(length) for _ in range(-(-MOST // length))])[:MOST]
        for length in errors.shape
    ]
    sample = np.ravel_multi_index(tuple(places), errors.shape)
    return np.unique(np.concatenate((sample[: MOST - WORST], worst)))

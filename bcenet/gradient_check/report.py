"""What a gradient check found, and how it is written."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from bcenet.gradient_check.claims import Claims
from bcenet.gradient_check.mistakes import Finding
from bcenet.records import Record

_PAGE = "docs/check-gradient.md"
_RIGHT = "The gradient is right in every layer."


def _layers(indices: list[int]) -> str:
    *first, last = map(str, indices)
    return f"Layers {', '.join(first)} and {last}" if first else f"Layer {last}"


class LayerCheck(Record):
    """One layer of a gradient check.

    Attributes:
        index: from 0. passed: whether the largest error is within the tolerance.
        max_relative_error: |given - difference| over the largest entry of the array (dW or db),
            or over what rounding leaves of it where it is next to 0; infinite for a NaN.
        mistake: None, or one of `MISTAKES` where the gradient is wrong.
        origin: the layer where that mistake was made: this one, or one behind it; None.
        explanation: what was done, in words; "" where the layer is right.
        where: the entry with the largest error, "dW[2, 0]"; given: its value; expected: what the
            difference says. None where there is no such number.
        size: entries of the layer, of which checked: compared; skipped: not, or no closer than
            the two derivatives at a kink, such as a ReLU's, are to each other.
    """

    index: int
    passed: bool
    max_relative_error: float
    mistake: str | None
    origin: int | None
    explanation: str
    where: str | None
    given: float | None
    expected: float | None
    size: int
    checked: int
    skipped: int


class GradientCheck(Record):
    """What `check_gradient` found; its ``str`` is a table and an explanation of what is wrong.

    Attributes:
        passed: whether every layer did. layers: a LayerCheck each.
        orientation: "rows" or "columns", as the gradients were read; "flat" for a flat array.
    """

    passed: bool
    layers: list[LayerCheck]
    orientation: str

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, strings, numbers and None."""
        return {**self.__dict__, "layers": [dict(layer.__dict__) for layer in self.layers]}

    def __str__(self) -> str:
        kinks = any(layer.skipped for layer in self.layers)
        head = ["layer", "verdict", "error", "at", "given", "should be", "compared"]
        table = [[*head, *["skipped"] * kinks, "mistake"]]
        for layer in self.layers:
            verdict = "right" if layer.passed else "WRONG" if layer.where else "-"
            table.append(
                [
                    str(layer.index),
                    verdict,
                    f"{layer.max_relative_error:.1e}",
                    layer.where or "-",
                    "-" if layer.given is None else f"{layer.given:.6g}",
                    "-" if layer.expected is None else f"{layer.expected:.6g}",
                    f"{layer.checked} of {layer.size}",
                    *[str(layer.skipped)] * kinks,
                    layer.mistake or "",
                ]
            )
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            self._verdict(),
            *(
                "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
                for row in table
            ),
            *textwrap.wrap(self._legend(), 100),
        ]
        told: dict[tuple[str | None, str], list[int]] = {}
        for layer in reversed(self.layers):  # as backpropagation meets them
            if not layer.passed:
                told.setdefault((layer.mistake, layer.explanation), []).append(layer.index)
        for (mistake, text), layers in told.items():
            text = f"{_layers(layers)}, {mistake}: {text}."
            lines += textwrap.wrap(text, 100, subsequent_indent="    ")
        if told:
            lines.append(f"{_PAGE} describes each mistake.")
        return "\n".join(lines)

    def _verdict(self) -> str:
        wrong = [layer.index for layer in self.layers if not layer.passed]
        return f"The gradient is not right in {_layers(wrong).lower()}." if wrong else _RIGHT

    def _legend(self) -> str:
        text = "Errors are parts of the largest entry of dW or db"
        if self.orientation == "columns":
            text += "; dW is (fan_out, fan_in)"
        if any(layer.skipped for layer in self.layers):
            text += "; the entries skipped lie at a kink"
        return text + "."


class Findings:
    """The comparisons of one layer, of which the worst is kept."""

    def __init__(self, claims: Claims, index: int) -> None:
        self._claims, self._index = claims, index
        self._size = self._checked = self._skipped = 0
        self._error = -1.0  # nothing compared yet
        self._worst: tuple[str | None, float | None, float | None] = (None, None, None)
        self._odd = ""

    def compare(
        self,
        name: str,
        entries: np.ndarray,
        expected: np.ndarray,
        play: np.ndarray,
        floor: float,
    ) -> None:
        """Entries of an array. The errors are relative to the largest expected, or to a floor where
        that is next to nothing. ``play``, (2, entries), is the least and the most that kinks may
        add, infinite where an entry can't be compared."""
        claim = self._claims.layers[self._index][name].reshape(-1)
        self._size += claim.size
        known = np.isfinite(play).all(0)
        self._skipped += int((~known).sum())
        if not known.any():
            return
        entries, expected, play = entries[known], expected[known], play[:, known]
        given = claim[entries]
        scale = np.abs(expected).max() + floor
        at_kink = int((play[1] - play[0] > self._claims.tolerance * scale).sum())
        self._skipped += at_kink
        self._checked += entries.size - at_kink
        excess = given - expected
        errors = np.abs(excess - np.clip(excess, *play))
        if not np.isfinite(expected).all():
            self._odd = "the network's own numbers are not finite, or the function's loss is not"
        relative = np.where(errors == 0, 0.0, errors / scale)
        relative[~np.isfinite(relative)] = np.inf
        worst = int(relative.argmax())
        label = self._claims.label(self._index, name, entries[worst])
        self._note(float(relative[worst]), label, given[worst], expected[worst])

    def is_refused(self, name: str, size: int) -> bool:
        """Whether an array can't be compared: it is of another size, or not finite."""
        claims, index = self._claims, self._index
        flat = claims.layers[index][name].reshape(-1)
        bad = np.flatnonzero(~np.isfinite(flat))
        if flat.size != size:
            came = claims.shapes[index][name]
            self._odd = f"{name} has shape {came}, and no known mistake gives its numbers"
            self._note(np.inf, name, None, None)
        elif bad.size:
            label = claims.label(index, name, bad[0])
            count = f"{bad.size} of {size} entries are not finite"
            self._odd = f"{label} is {flat[bad[0]]}, and {count}"
            self._note(np.inf, label, flat[bad[0]], None)
        else:
            return False
        self._size += size
        return True

    def _note(self, error: float, where: str, given: Any, expected: Any) -> None:
        if error > self._error:
            one, other = (None if value is None else float(value) for value in (given, expected))
            self._error, self._worst = error, (where, one, other)

    @property
    def passed(self) -> bool:
        return 0 <= self._error <= self._claims.tolerance

    def layer(self, finding: Finding | None) -> LayerCheck:
        """The layer's report, with what explains it."""
        passed = self.passed
        if self._error < 0:
            self._odd = "no entry could be compared, because all lie at a kink"
        if not passed and (finding is None or finding.mistake == "unknown") and self._odd:
            finding = Finding("unknown", self._index, self._odd, 1)
        return LayerCheck(
            self._index,
            passed,
            max(self._error, 0.0),
            None if finding is None else finding.mistake,
            None if finding is None else finding.origin,
            "" if finding is None else finding.text,
            *self._worst,
            self._size,
            self._checked,
            self._skipped,
        )

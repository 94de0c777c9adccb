"""What the command prints: aligned tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bcenet.model import Model

_MEASURES = {
    "roc_auc": "AUC",
    "average_precision": "average precision",
    "log_loss": "log-loss",
    "brier_score": "Brier score",
    "expected_calibration_error": "calibration error",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
}


def measure(
    model: Model, blocks: Iterable[tuple[Any, ...]], n_threads: int | None = None
) -> dict[str, Any]:
    """`bcenet.metrics.binary_report` of the model's network on blocks (X, y) of rows.

    The log-loss is computed from the logits, so it is finite and exact where a probability is
    rounded to 0 or 1.
    """
    import numpy as np

    from bcenet.losses import bce_loss
    from bcenet.metrics import binary_report

    parts = []
    for X, y in blocks:
        probability = model.network.predict_proba(X, n_threads)
        parts.append((probability, model.network.decision_function(X, n_threads), y))
    probability, logits, y = map(np.concatenate, zip(*parts, strict=True))
    measures = binary_report(y, probability, model.threshold)
    return measures | {"log_loss": float(bce_loss(logits.astype("float64"), y))}


def print_measures(measures: dict[str, Any], labels: tuple[Any, Any], kind: str) -> None:
    """The measures and the confusion matrix, beside those of the constant prediction."""
    base = measures["base_rate"]
    rate = 100 * measures["positive_rate"]
    write(f"{measures['rows']:,} {kind}, {rate:.1f} % {labels[1]}\n\n")
    rows = [["", "network", "base rate"]]
    for key, name in _MEASURES.items():
        rows.append([name, *(_number(part[key]) for part in (measures, base))])
    print_table(rows)
    write(f"\nconfusion matrix at threshold {measures['threshold']:g}\n\n")
    names = [str(label) for label in labels]
    rows = [["true \\ predicted", *names, f"base rate: {names[0]}", names[1]]]
    for i, name in enumerate(names):
        counts = [*measures["confusion_matrix"][i], *base["confusion_matrix"][i]]
        rows.append([name, *(f"{count:,}" for count in counts)])
    print_table(rows)


def named_labels(labels: tuple[Any, Any]) -> dict[str, Any]:
    """The labels as they stand in JSON output."""
    return {"negative": labels[0], "positive": labels[1]}


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    write(json.dumps(content, allow_nan=False) + "\n")


def print_table(
    rows: Sequence[Sequence[str]], align: Callable[[str, int], str] = str.rjust
) -> None:
    """Rows of text in columns: the first to the left, the others as ``align`` puts them.

    >>> print_table([["", "network", "base rate"], ["AUC", "0.9123", "0.5000"]])
         network  base rate
    AUC   0.9123     0.5000
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [align(text, width) for text, width in zip(others, widths[1:], strict=True)]
        write("  ".join(cells).rstrip() + "\n")


def write(text: str) -> None:
    """Write to standard output, all of it or an OSError.

    Where Python is told not to buffer (``PYTHONUNBUFFERED``), ``print`` drops what a full disk or
    a closed pipe leaves of a long text without an error.
    """
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # replaced by a text stream in memory
        sys.stdout.write(text)
        return
    rest = memoryview(text.encode(errors="backslashreplace"))
    while rest:
        rest = rest[buffer.write(rest) :]


def _number(value: float | None) -> str:
    """A measure with four decimals; a dash where it is not defined, as AUC with one label."""
    return "-" if value is None else f"{value:.4f}"

"""BCENetClassifier beside MLPClassifier: whole fits, and single calls of partial_fit.

    python -m benchmarks.classifier [--rounds N]

The same parameters, 10 epochs, one interleaved run; medians. It needs the extra `sklearn`.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from bcenet.cli import arguments
from bcenet.sklearn import BCENetClassifier
from benchmarks.rivals.options import Parser

# rows, columns, hidden layers
PROBLEMS = [
    (20_000, 28, (64, 32)),
    (20_000, 28, (100,)),
    (2_000, 20, (100,)),
    (1_000, 10, (16,)),
]
KINDS = (BCENetClassifier, MLPClassifier)


def seconds(function) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def rows_of(rows: int, columns: int, dtype: str):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, columns))
    return X.astype(dtype), (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)


def report(what: str, times: list[tuple[float, ...]]) -> None:
    ours, theirs = 1e3 * np.median(times, axis=0)
    print(f"| {what} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} |", flush=True)


def main() -> None:
    parser = Parser(prog="python -m benchmarks.classifier", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=arguments.integer(1), default=9, metavar="N", help="(default: 9)"
    )
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| | BCENetClassifier, ms | MLPClassifier, ms | times as fast |")
    print("|---|---:|---:|---:|")
    for rows, columns, hidden in PROBLEMS:
        for dtype in ("float64", "float32"):
            X, y = rows_of(rows, columns, dtype)
            made = [kind(hidden, max_iter=10, random_state=0) for kind in KINDS]
            times = [
                tuple(seconds(lambda one=one, X=X, y=y: one.fit(X, y)) for one in made)
                for _ in range(rounds)
            ]
            sizes = "-".join(map(str, (columns, *hidden, 1)))
            report(f"{sizes}, {rows:,} rows, {dtype}", times)
    X, y = rows_of(200, 28, "float64")
    made = [kind((64, 32), random_state=0).partial_fit(X, y, classes=[0, 1]) for kind in KINDS]
    times = [
        tuple(seconds(lambda one=one: one.partial_fit(X, y)) for one in made)
        for _ in range(20 * rounds)
    ]
    report("28-64-32-1, partial_fit of 200 rows, float64", times)


if __name__ == "__main__":
    main()

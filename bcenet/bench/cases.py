"""What is timed: pairs of callables that do the same work, bcenet's and NumPy's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bcenet import kernels, losses, training
from bcenet.bench.numpy_twin import NumpyTwin
from bcenet.network import Network
from bcenet.optimizers import Adam

Pair = tuple[Callable[[], Any], Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        group: "tile", "kernel" or "epoch". name: what is done.
        work: of one run, in ``unit``: multiply-adds x 2 ("flop"), elements, or rows.
        build: (dtype, threads) -> (bcenet's callable, NumPy's callable).
    """

    group: str
    name: str
    work: float
    unit: str
    build: Callable[[np.dtype, int], Pair]


def _values(shape: Any, dtype: np.dtype, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(dtype)


# ---- tiles: a block of rows times a panel of columns, both in cache -----------------------------

_ROWS, _DEPTH = 96, 256


def _tile(columns: int, transpose: bool) -> Case:
    def build(dtype: np.dtype, threads: int) -> Pair:
        a = _values((_DEPTH, _ROWS) if transpose else (_ROWS, _DEPTH), dtype)
        b = _values((_DEPTH, columns), dtype)
        out = np.empty((_ROWS, columns), dtype)
        left = a.T if transpose else a
        return (
            lambda: kernels.product_into(out, a, b, transpose_a=transpose),
            lambda: np.matmul(left, b, out=out),
        )

    name = f"{'A^T B' if transpose else 'A B'}, {_ROWS} x {_DEPTH} x {columns}"
    return Case("tile", name, 2.0 * _ROWS * _DEPTH * columns, "flop", build)


# ---- kernels: elementwise, the NumPy forms as accurate as NumPy makes them ----------------------

_ELEMENTS = 100_000


def _numpy_sigmoid(z: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def _numpy_bce(z: np.ndarray, t: np.ndarray) -> tuple[Any, np.ndarray]:
    e = np.exp(-np.abs(z))
    loss = np.log1p(e) + np.maximum(z, 0) - t * z
    return loss.mean(), (np.where(z < 0, e, 1) / (1 + e) - t) / z.size


def _numpy_relu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(z, 0), (z > 0).astype(z.dtype)


def _numpy_tanh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = np.tanh(z)
    return a, 1 - a * a


def _numpy_logistic(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = _numpy_sigmoid(z)
    return a, a * (1 - a)


def _numpy_silu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = _numpy_sigmoid(z)
    return z * p, p * (1 + z * (1 - p))


def _numpy_softplus(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0), _numpy_sigmoid(z)


def _numpy_elu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = np.expm1(np.minimum(z, 0))
    return np.where(z > 0, z, below), np.where(z > 0, 1, below + 1)


def _elementwise(name: str, ours: Callable[..., Any], numpy: Callable[..., Any], n: int) -> Case:
    def build(dtype: np.dtype, threads: int) -> Pair:
        z = _values(_ELEMENTS, dtype, 4.0)
        arguments = (z, (z > 1).astype(dtype))[:n]
        return lambda: ours(*arguments), lambda: numpy(*arguments)

    return Case("kernel", name, _ELEMENTS, "elements", build)


def _activation(name: str, numpy: Callable[[np.ndarray], Any]) -> Case:
    return _elementwise(f"{name} and slope", lambda z: kernels.activate(name, z), numpy, 1)


# ---- epochs -------------------------------------------------------------------------------------

_EPOCH_ROWS = 20_000


def _epoch(layer_sizes: list[int], batch_size: int) -> Case:
    def build(dtype: np.dtype, threads: int) -> Pair:
        X = _values((_EPOCH_ROWS, layer_sizes[0]), dtype)
        y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(dtype)
        network = Network(layer_sizes, dtype=dtype, random_state=0)
        twin = NumpyTwin(layer_sizes, network.parameters.copy(), batch_size=batch_size)
        optimizer = Adam()

        def ours() -> None:
            training.fit(
                network,
                X,
                y,
                optimizer=optimizer,
                epochs=1,
                batch_size=batch_size,
                n_threads=threads,
                random_state=0,
            )

        def numpy() -> None:
            twin.epoch(X, y, np.random.default_rng(0).permutation(len(X)))

        return ours, numpy

    name = f"{'-'.join(map(str, layer_sizes))}, batch {batch_size}, Adam"
    return Case("epoch", name, _EPOCH_ROWS, "rows", build)


CASES = [
    *(_tile(columns, transpose) for transpose in (False, True) for columns in (8, 16, 32, 48, 64)),
    _elementwise("sigmoid", losses.sigmoid, _numpy_sigmoid, 1),
    _elementwise("BCE and gradient", losses.bce_loss_gradient, _numpy_bce, 2),
    _activation("relu", _numpy_relu),
    _activation("tanh", _numpy_tanh),
    _activation("sigmoid", _numpy_logistic),
    _activation("silu", _numpy_silu),
    _activation("softplus", _numpy_softplus),
    _activation("elu", _numpy_elu),
    _epoch([28, 1], 256),
    _epoch([28, 64, 32, 1], 200),
    _epoch([28, 64, 32, 1], 32),
    _epoch([28, 100, 1], 200),
]


def measure(pair: Pair, seconds: float) -> tuple[float, float]:
    """Median seconds of a run of each callable, run in turn, for about ``seconds`` in all."""
    repeats = [_repeats(run) for run in pair]
    times: tuple[list[float], list[float]] = ([], [])
    begun = time.perf_counter()
    while len(times[0]) < 5 or time.perf_counter() - begun < seconds:
        for run, count, kept in zip(pair, repeats, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                run()
            kept.append((time.perf_counter() - start) / count)
    return statistics.median(times[0]), statistics.median(times[1])


def _repeats(run: Callable[[], Any]) -> int:
    """Runs that take about 2 ms together: long against the clock, short against the noise."""
    run()
    start = time.perf_counter()
    run()
    return max(1, int(0.002 / max(time.perf_counter() - start, 1e-7)))


def rows(seconds: float, threads: int, dtypes: list[str]) -> Iterator[dict[str, Any]]:
    """One dict a case and dtype: group, name, dtype, and the medians of both, in seconds."""
    for case in CASES:
        for name in dtypes:
            ours, numpy = measure(case.build(np.dtype(name), threads), seconds)
            yield {
                "group": case.group,
                "name": case.name,
                "dtype": name,
                "bcenet_seconds": ours,
                "numpy_seconds": numpy,
                "ratio": numpy / ours,
                "rate": case.work / ours,
                "unit": f"{case.unit}/s",
            }

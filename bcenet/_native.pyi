"""What every native module holds: src_cython/module.pxi, built as _native_baseline, …"""

from typing import Any

import numpy as np

INSTRUCTION_SET: str
FLAGS: str
ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]
RULES: dict[str, int]
GROUP_CODES: dict[str, int]
NORMALIZATIONS: dict[str | None, int]
STAGES: dict[str, int]
STATUSES: dict[int, str]
CHECKS: dict[str, int]
PARTS: dict[str, int]

class Source:
    def __init__(self, array: np.ndarray) -> None: ...

class SparseSource:
    rows: int
    def __init__(self, values: np.ndarray, columns: np.ndarray, starts: np.ndarray) -> None: ...

def find_unsorted(matrix: SparseSource, width: int) -> int: ...

class Engine:
    steps: int
    averaged: int
    progress: tuple[int, int, float, float, float] | None
    def __init__(
        self,
        layer_sizes: tuple[int, ...],
        activation_codes: tuple[int, ...],
        norm_codes: tuple[int, ...],
        scaled: bool,
        item_size: int,
        capacity: int,
        threads: int,
        hyper: dict[str, Any] | None = None,
        objective: dict[str, Any] | None = None,
        drop_rates: list[int] | None = None,
        batch_statistics: bool = False,
        averages: bool = False,
        entries: int = -1,
    ) -> None: ...
    def configure(self, hyper: dict[str, Any]) -> None: ...
    def average(self) -> None: ...
    def load(self, which: int, flat: np.ndarray) -> None: ...
    def store(self, which: int, flat: np.ndarray) -> None: ...
    def publish(
        self, parts: list[tuple[int, np.ndarray]], counters: list[tuple[Any, str, int]]
    ) -> None: ...
    def train(
        self,
        x: Source | SparseSource,
        y: Source,
        weight: Source | None,
        offset: Source | None,
        order: np.ndarray | None,
        rates: np.ndarray | None,
        batch_size: int,
        first_batch: int,
        last_batch: int,
        stage: int,
        threads: int,
        seed: int | None = None,
        epoch: int = 0,
        derivatives: bool = False,
        sums: tuple[float, float, float] | None = None,
        sequence: int = -1,
    ) -> tuple[int, int, float, float, float, int]: ...
    def gradients(
        self,
        x: Source | SparseSource,
        y: Source,
        weight: Source | None,
        offset: Source | None,
        batch_size: int,
        out: np.ndarray,
        threads: int,
    ) -> int: ...
    def update(self, rate: float = 1) -> int: ...
    def logits(
        self,
        x: Source | SparseSource,
        out: np.ndarray,
        threads: int,
        seed: int | None = None,
        epoch: int = 0,
    ) -> int: ...
    def rest(self, count: int) -> None: ...
    def close(self) -> None: ...
    def take_pending(self) -> BaseException | None: ...
    def predict(
        self,
        x: Source | SparseSource,
        offset: Source | None,
        out: np.ndarray,
        probabilities: bool,
        threads: int,
    ) -> str: ...
    def evaluate(
        self,
        x: Source | SparseSource,
        y: Source,
        weight: Source | None,
        offset: Source | None,
        threads: int,
    ) -> tuple[float, float]: ...

def few_outputs(
    X: Any,
    parameters: np.ndarray,
    layer_sizes: tuple[int, ...],
    codes: tuple[int, ...],
    probabilities: bool,
) -> np.ndarray | None: ...
def apply_sigmoid(logits: Source, out: np.ndarray) -> None: ...
def apply_bce(
    logits: Source,
    targets: Source,
    weight: Source | None,
    pos_weight: Source | None,
    smoothing: float,
    divisor: float,
    item_size: int,
    loss: np.ndarray | None,
    gradient: np.ndarray | None,
) -> tuple[float, int]: ...
def find_bad(values: Source, item_size: int, check: int) -> tuple[int, float]: ...
def apply_activation(kind: int, a: np.ndarray, slope: np.ndarray) -> None: ...
def apply_loss(
    kind: int,
    loss: np.ndarray,
    dz: np.ndarray,
    z: np.ndarray,
    t: np.ndarray,
    w: np.ndarray,
    focus: float,
) -> None: ...
def apply_product(
    c: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    rows: int,
    depth: int,
    columns: int,
    transpose_a: bool,
) -> None: ...
def fill_order(order: np.ndarray, seed: int, epoch: int) -> None: ...

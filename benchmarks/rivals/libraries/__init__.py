"""The libraries, an adapter each: how an expert user of it would write the fastest sensible form.

An adapter has ``Trainer(training, threads)``, ``Predictor(prediction, threads)``, or both. A
trainer has ``prepare(epochs)``, which goes back to the starting weights and is not timed, and
``run()``, which is timed, trains those epochs and returns the mean loss of each. A predictor has
``run()``, which returns the probabilities.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field

# What the thread pools under the libraries read, once, when they are loaded.
_POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BCENET_NUM_THREADS",
)


@dataclass(frozen=True)
class Library:
    """One column of the results.

    Attributes:
        title: of the column. adapter: the module here, and the name of its class's prefix.
        needs: modules that must be installed; distributions: whose versions are reported.
        training, prediction: what it takes part in.
        reference: whose losses it must have.
        one_thread: environment that holds it to one thread, beside the pools' own.
    """

    title: str
    adapter: str
    needs: tuple[str, ...]
    distributions: tuple[str, ...]
    training: bool = True
    prediction: bool = False
    prefix: str = ""
    reference: str = "bcenet"
    one_thread: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The modules it needs that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def environment(self, threads: int) -> dict[str, str]:
        """The environment of a process that runs it on so many threads."""
        environment = os.environ | dict.fromkeys(_POOLS, str(threads))
        return environment | (self.one_thread if threads == 1 else {})


OURS = "bcenet"
ROOF = "sgemm"
LIBRARIES = {
    OURS: Library("bcenet", "bcenet", ("bcenet",), ("bcenet",), prediction=True),
    "numpy": Library("NumPy", "numpy", ("numpy",), ("numpy",)),
    "sklearn": Library(
        "scikit-learn",
        "sklearn",
        ("sklearn",),
        ("scikit-learn",),
        reference="bcenet-epsilon-inside",
    ),
    "torch": Library("PyTorch eager", "torch", ("torch",), ("torch",)),
    "torch-compiled": Library(
        "PyTorch compiled", "torch", ("torch",), ("torch",), prefix="Compiled"
    ),
    "jax": Library(
        "JAX",
        "jax",
        ("jax", "jaxlib"),
        ("jax", "jaxlib"),
        one_thread={"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    ),
    "onnxruntime": Library(
        "ONNX Runtime",
        "onnxruntime",
        ("onnxruntime", "onnx"),
        ("onnxruntime",),
        training=False,
        prediction=True,
    ),
    "onnxruntime-tuned": Library(
        "ONNX Runtime, tuned",
        "onnxruntime",
        ("onnxruntime", "onnx"),
        ("onnxruntime",),
        training=False,
        prediction=True,
        prefix="Tuned",
    ),
}

# Processes like theirs that are no columns: the roof, and a reference.
_OTHERS = {
    ROOF: Library("sgemm", ROOF, ("numpy",), (), training=False),
    "bcenet-epsilon-inside": Library(
        "bcenet", "bcenet", ("bcenet",), ("bcenet",), prefix="EpsilonInside"
    ),
}


def library(name: str) -> Library:
    """The library of that name, or the roof or a reference."""
    return _OTHERS[name] if name in _OTHERS else LIBRARIES[name]

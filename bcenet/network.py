"""A feed-forward network with sigmoid outputs: its sizes, its parameters and its outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, gradients, initializers, kernels, threads
from bcenet import parameters as parameters_

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def _layer_sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(
            f"layer_sizes must be a list like [30, 64, 32, 1]; got {checks.describe(value)}"
        )
    sizes = tuple(checks.integer("layer_sizes", size, 1) for size in value)
    if len(sizes) < 2:
        raise ValueError(
            f"layer_sizes must hold the number of inputs and of outputs; got {list(sizes)}"
        )
    return sizes


def _activations(value: Any, hidden: int) -> tuple[str, ...]:
    known = kernels.activation_names()
    if isinstance(value, str):
        return (checks.choice("activation", value, known),) * hidden
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"activation must be a name or a list of names; got {checks.describe(value)}"
        )
    if len(value) != hidden:
        raise ValueError(
            f"activation must be a name or one a hidden layer ({hidden}); got {len(value)}"
        )
    return tuple(checks.choice("activation", name, known) for name in value)


def generator(random_state: Any) -> np.random.Generator:
    """A NumPy generator from None, a seed or a generator."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if random_state is None:
        return np.random.default_rng()
    return np.random.default_rng(checks.integer("random_state", random_state, 0, 2**64 - 1))


class Network:
    """A feed-forward network: z_l = a_{l-1} W_l + b_l, a_l = g_l(z_l), p = s(z_L).

    Arguments:
        layer_sizes: inputs, hidden widths, outputs: ``[30, 64, 32, 1]``. ``[30, 1]`` is
            logistic regression.
        activation: of the hidden layers, a name or one a layer: identity, relu, leaky_relu
            (slope 0.01), elu, selu, gelu (exact), silu, tanh, sigmoid, softplus. The outputs
            are always sigmoids.
        dtype: "float32" or "float64": of the parameters, and of all computing.
        initializer: "auto" fits the activation (He for the relu family, LeCun for selu, Glorot
            otherwise and for the outputs); glorot_uniform, glorot_normal, he_uniform,
            he_normal, lecun_uniform, lecun_normal; or a list with one a layer, where the last
            may be "zeros". Intercepts start at 0.
        random_state: a seed, a NumPy generator, or None for other weights each time.

    Attributes:
        parameters: all parameters in one C-contiguous array: W1, b1, W2, b2, …
        coefs, intercepts: lists of views into it, (fan_in, fan_out) and (fan_out,).

    Raises: ValueError or TypeError naming the argument; MemoryError for sizes beyond memory.

    Example:
        >>> import bcenet, numpy as np
        >>> net = bcenet.Network([3, 4, 1], activation="tanh", random_state=0)
        >>> [w.shape for w in net.coefs], net.parameters.shape
        ([(3, 4), (4, 1)], (21,))
        >>> net.predict_proba(np.zeros((2, 3))).tolist()
        [0.5, 0.5]
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activation: str | Sequence[str] = "relu",
        *,
        dtype: Any = "float32",
        initializer: str | Sequence[str] = "auto",
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self._set_shape(layer_sizes, activation, dtype)
        names = initializers.resolve(initializer, self.activations)
        rng = generator(random_state)
        for weights, name in zip(self.coefs, names, strict=True):
            initializers.fill(weights, name, rng)

    def _set_shape(self, layer_sizes: Any, activation: Any, dtype: Any) -> None:
        self.layer_sizes = _layer_sizes(layer_sizes)
        self.activations = (*_activations(activation, len(self.layer_sizes) - 2), "sigmoid")
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            self.dtype = np.dtype(object)
        if self.dtype not in (np.float32, np.float64) or not self.dtype.isnative:
            raise ValueError(f"dtype must be 'float32' or 'float64'; got {checks.describe(dtype)}")
        count = parameters_.count(self.layer_sizes)
        try:
            if count * self.dtype.itemsize >= 2**47:
                raise MemoryError
            self.parameters = np.zeros(count, self.dtype)
        except (MemoryError, ValueError):
            size = count * self.dtype.itemsize / 2**30
            raise MemoryError(
                f"layer_sizes {list(self.layer_sizes)} need {size:.3g} GiB of parameters, "
                "more than there is"
            ) from None
        self._make_views()

    def _make_views(self) -> None:
        self.coefs, self.intercepts = parameters_.split(self.parameters, self.layer_sizes)
        self._codes = kernels.activation_codes(self.activations)
        self._fitting = kernels.exclusive("network")

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("coefs", "intercepts", "_codes", "_fitting"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_views()

    def __repr__(self) -> str:
        hidden = self.activations[:-1]
        shown = repr(hidden[0]) if len(set(hidden)) == 1 else repr(list(hidden))
        activation = f", activation={shown}" if hidden else ""
        return f"Network({list(self.layer_sizes)}{activation}, dtype={self.dtype.name!r})"

    def config(self) -> dict[str, Any]:
        """What makes a network of this shape again, as JSON: see `from_config`."""
        return {
            "layer_sizes": list(self.layer_sizes),
            "activations": list(self.activations[:-1]),
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], parameters: np.ndarray) -> Network:
        """A network from `config` and its flat parameters.

        Raises: ValueError or TypeError for a configuration or parameters that don't fit.
        """
        if set(config) != {"layer_sizes", "activations", "dtype"}:
            raise ValueError(
                "config must have the keys layer_sizes, activations and dtype; "
                f"got {sorted(map(str, config))}"
            )
        for name in ("layer_sizes", "activations"):
            if not isinstance(config[name], list):
                raise TypeError(f"{name} must be a list; got {checks.describe(config[name])}")
        sizes = _layer_sizes(config["layer_sizes"])
        count = parameters_.count(sizes)
        if parameters.shape != (count,) or parameters.dtype.name != config["dtype"]:
            raise ValueError(
                f"parameters must have shape ({count},) and dtype {config['dtype']}; "
                f"got {checks.describe(parameters)}"
            )
        network = cls.__new__(cls)
        network._set_shape(sizes, config["activations"], config["dtype"])
        network.parameters[:] = parameters
        return network

    # ---- data -----------------------------------------------------------------------------

    def check_rows(self, X: Any, name: str = "X") -> np.ndarray:
        """X as (n, inputs) of real, finite numbers, not copied; or an error that says where."""
        array = self._check_shape(X, name)
        kernels.check_values(name, array, self.dtype, "finite")
        return array

    def _check_shape(self, X: Any, name: str) -> np.ndarray:
        array = checks.real_array(name, X)
        inputs = self.layer_sizes[0]
        if array.ndim != 2 or array.shape[1] != inputs:
            hint = f"; reshape one row with {name}.reshape(1, -1)" if array.ndim == 1 else ""
            raise ValueError(f"{name} must have shape (n, {inputs}); got {array.shape}{hint}")
        return array

    def check_targets(self, y: Any, rows: int, name: str = "y") -> np.ndarray:
        """y as (rows,) for one output or (rows, outputs), in [0, 1], not copied."""
        array = checks.real_array(name, y)
        outputs = self.layer_sizes[-1]
        wanted = (rows,) if outputs == 1 else (rows, outputs)
        if array.shape != wanted:
            hint = ""
            if outputs == 1 and array.ndim == 2:
                hint = f"; one output takes one dimension: {name}.ravel()"
            raise ValueError(f"{name} must have shape {wanted}; got {array.shape}{hint}")
        kernels.check_values(name, array, self.dtype, "in [0, 1]")
        return array

    # ---- outputs --------------------------------------------------------------------------

    def _work(self, rows: int) -> int:
        """Multiply-adds of a forward pass."""
        return rows * sum(i * o for i, o in pairwise(self.layer_sizes))

    def _outputs(self, X: Any, n_threads: Any, probabilities: bool) -> np.ndarray:
        if n_threads is None or (type(n_threads) is int and n_threads == 1):
            few = kernels.few_outputs(
                X, self.parameters, self.layer_sizes, self._codes, probabilities
            )
            if few is not None:
                return few
        array = self._check_shape(X, "X")
        count = threads.choose(n_threads, self._work(array.shape[0]))
        engine = kernels.Engine(self.layer_sizes, self.activations, self.dtype, 0, count)
        engine.load("parameters", self.parameters)
        out = np.empty((array.shape[0], self.layer_sizes[-1]), self.dtype)
        if engine.predict(kernels.source(array), out, probabilities=probabilities) != "done":
            kernels.check_values("X", array, self.dtype, "finite")  # raises, and says where
        return out[:, 0] if self.layer_sizes[-1] == 1 else out

    def decision_function(self, X: ArrayLike, n_threads: int | None = None) -> np.ndarray:
        """The logits z_L of rows: (n,) for one output, (n, k) for k.

        Arguments:
            X: (n, inputs), finite, any real dtype, strides and byte order; read block by block.
            n_threads: None chooses from the work. The result is the same for any number, and
                a row's result is the same whatever rows it comes with.

        Raises: ValueError for another shape, or a NaN or infinity (with its row and column).

        Example:
            >>> import bcenet
            >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
            >>> net.parameters[:] = [1.0, -2.0, 0.5]
            >>> net.decision_function([[3.0, 1.0], [0.0, 0.0]]).tolist()
            [1.5, 0.5]
        """
        return self._outputs(X, n_threads, False)

    def predict_proba(self, X: ArrayLike, n_threads: int | None = None) -> np.ndarray:
        """P(y = 1) = s(z_L) of rows, the same shape as the logits; see `decision_function`.

        Example:
            >>> import bcenet
            >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
            >>> net.parameters[:] = [1.0, -2.0, 0.5]
            >>> net.predict_proba([[0.0, 0.25], [800.0, 0.0]]).tolist()
            [0.5, 1.0]
        """
        return self._outputs(X, n_threads, True)

    # ---- gradients ------------------------------------------------------------------------

    def loss_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[float, gradients.Gradient]:
        """(mean loss, its gradient by every parameter); see `bcenet.gradients.loss_gradient`."""
        return gradients.loss_gradient(
            self,
            X,
            y,
            sample_weight=sample_weight,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
        )

    def trace(self, X: ArrayLike, y: ArrayLike) -> gradients.Trace:
        """Every number of a forward and a backward pass; see `bcenet.gradients.trace`."""
        return gradients.trace(self, X, y)

    # ---- files ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to one file, replaced atomically; `bcenet.load` reads it.

        Raises: OSError if it can't be written; an older file is then as it was.
        """
        from bcenet.model import save_network

        save_network(path, self)

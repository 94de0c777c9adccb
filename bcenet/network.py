"""A feed-forward network with sigmoid outputs: its sizes, its parameters and its outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, gradients, initializers, kernels, losses, sparse, threads
from bcenet import rows as rows_
from bcenet.parameters import Shape

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
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError(
            f"activation must be a name or a list of names; got {checks.describe(value)}"
        )
    if len(value) != hidden:
        raise ValueError(
            f"activation must be a name or one a hidden layer ({hidden}); got {len(value)}"
        )
    return tuple(str(checks.choice("activation", name, known)) for name in value)


def _normalization(value: Any, hidden: int) -> tuple[str | None, ...]:
    known = [name for name in kernels.normalizations() if name is not None]
    one = None if isinstance(value, (list, tuple, np.ndarray)) else value
    values = [one] * hidden if one is value else list(value)
    if len(values) != hidden:
        raise ValueError(
            f"normalization must be None, a name or one a hidden layer ({hidden}); "
            f"got {len(values)}"
        )
    for name in (one, *values):
        if name is not None:
            checks.choice("normalization", name, known)
    return (*(None if name is None else str(name) for name in values), None)


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
        normalization: of a hidden layer's z before its activation, None, "batch" or "layer", or
            one a layer: y = gain (z - mean) / sqrt(variance + 1e-5) + shift, with mean and
            variance of each column over the batch (Ioffe and Szegedy 2015; predictions take
            running ones, which move a tenth of the way at every step) or of each row over its
            columns (Ba et al. 2016).
        feature_scale: whether every column of X has a learned factor, 1 at first: it lets the
            optimizer weigh whole columns (the scaling layer of Holzmueller et al. 2024).
        dtype: "float32" or "float64": of the parameters, and of all computing.
        initializer: "auto" fits the activation (He for the relu family, LeCun for selu, Glorot
            otherwise and for the outputs); glorot_uniform, glorot_normal, he_uniform,
            he_normal, lecun_uniform, lecun_normal; or a list with one a layer, where the last
            may be "zeros". Intercepts start at 0.
        random_state: a seed, a NumPy generator, or None for other weights each time.

    Attributes:
        parameters: all parameters in one C-contiguous array: W1, b1, W2, b2, …, then gain and
            shift of each normalised layer, then the factors of X's columns.
        coefs, intercepts: lists of views into it, (fan_in, fan_out) and (fan_out,).
        norms: views too, gain and shift, (2, width), of each normalised layer.
        scale: a view, (inputs,), or None without ``feature_scale``.
        statistics: running mean and variance of each batch-normalised layer, in one array.

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
        normalization: str | Sequence[str | None] | None = None,
        feature_scale: bool = False,
        dtype: Any = "float32",
        initializer: str | Sequence[str] = "auto",
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self._set_shape(layer_sizes, activation, normalization, feature_scale, dtype)
        names = initializers.resolve(initializer, self.activations)
        rng = generator(random_state)
        for weights, name in zip(self.coefs, names, strict=True):
            initializers.fill(weights, name, rng)

    def _set_shape(
        self, layer_sizes: Any, activation: Any, normalization: Any, feature_scale: Any, dtype: Any
    ) -> None:
        sizes = _layer_sizes(layer_sizes)
        hidden = len(sizes) - 2
        self.shape = Shape(
            layer_sizes=sizes,
            activations=(*_activations(activation, hidden), "sigmoid"),
            normalization=_normalization(normalization, hidden),
            feature_scale=checks.boolean("feature_scale", feature_scale),
        )
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            self.dtype = np.dtype(object)
        if self.dtype not in (np.float32, np.float64) or not self.dtype.isnative:
            raise ValueError(f"dtype must be 'float32' or 'float64'; got {checks.describe(dtype)}")
        count = self.shape.count()
        try:
            if count * self.dtype.itemsize >= 2**47:
                raise MemoryError
            self.parameters = np.zeros(count, self.dtype)
        except (MemoryError, ValueError):
            size = count * self.dtype.itemsize / 2**30
            raise MemoryError(
                f"layer_sizes {list(sizes)} need {size:.3g} GiB of parameters, more than there is"
            ) from None
        self.statistics = np.zeros(self.shape.statistics_count(), self.dtype)
        self._make_views()
        for gain_and_shift in self.norms:
            gain_and_shift[0] = 1
        for mean_and_variance in self.shape.split_statistics(self.statistics):
            mean_and_variance[1] = 1
        if self.scale is not None:
            self.scale[:] = 1

    def _make_views(self) -> None:
        self.coefs, self.intercepts = self.shape.split(self.parameters)
        self.norms, self.scale = self.shape.split_norms(self.parameters)
        self._codes = kernels.activation_codes(self.activations) if self.shape.is_plain else None
        self._fitting = kernels.exclusive("network")

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        return self.shape.layer_sizes

    @property
    def activations(self) -> tuple[str, ...]:
        """One a layer; the last is "sigmoid"."""
        return self.shape.activations

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("coefs", "intercepts", "norms", "scale", "_codes", "_fitting"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_views()

    def __repr__(self) -> str:
        text = f"Network({list(self.layer_sizes)}"
        for name, values in [
            ("activation", self.activations[:-1]),
            ("normalization", self.shape.normalization[:-1]),
        ]:
            if any(values):
                same = len(set(values)) == 1
                text += f", {name}={(values[0] if same else list(values))!r}"
        scale = ", feature_scale=True" if self.shape.feature_scale else ""
        return f"{text}{scale}, dtype={self.dtype.name!r})"

    def config(self) -> dict[str, Any]:
        """What makes a network of this shape again, as JSON: see `from_config`."""
        return {**self.shape.config(), "dtype": self.dtype.name}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], parameters: np.ndarray, statistics: np.ndarray | None = None
    ) -> Network:
        """A network from `config`, its flat parameters and its running statistics, if any.

        Raises: ValueError or TypeError for a configuration or arrays that don't fit.
        """
        wanted = {"layer_sizes", "activations", "normalization", "feature_scale", "dtype"}
        if set(config) != wanted:
            raise ValueError(
                f"config must have the keys {', '.join(sorted(wanted))}; "
                f"got {sorted(map(str, config))}"
            )
        for name in ("layer_sizes", "activations", "normalization"):
            if not isinstance(config[name], list):
                raise TypeError(f"{name} must be a list; got {checks.describe(config[name])}")
        sizes = _layer_sizes(config["layer_sizes"])
        shape = Shape(
            sizes,
            (*_activations(config["activations"], len(sizes) - 2), "sigmoid"),
            _normalization(config["normalization"], len(sizes) - 2),
            checks.boolean("feature_scale", config["feature_scale"]),
        )
        if statistics is None:
            statistics = np.zeros(0, parameters.dtype)
        for name, array, count in [
            ("parameters", parameters, shape.count()),
            ("statistics", statistics, shape.statistics_count()),
        ]:
            if array.shape != (count,) or array.dtype.name != config["dtype"]:
                raise ValueError(
                    f"{name} must have shape ({count},) and dtype {config['dtype']}; "
                    f"got {checks.describe(array)}"
                )
        for mean_and_variance in shape.split_statistics(statistics):
            if np.any(mean_and_variance[1] < 0):
                raise ValueError("statistics must hold no variance below 0")
        network = cls.__new__(cls)
        network._set_shape(
            sizes,
            config["activations"],
            config["normalization"],
            config["feature_scale"],
            config["dtype"],
        )
        network.parameters[:] = parameters
        network.statistics[:] = statistics
        return network

    def astype(self, dtype: Any) -> Network:
        """A copy with another dtype."""
        kind = np.dtype(dtype)
        return self.from_config(
            {**self.config(), "dtype": kind.name},
            self.parameters.astype(kind),
            self.statistics.astype(kind),
        )

    def init_output_bias(
        self,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        pos_weight: ArrayLike | None = None,
    ) -> None:
        """Start the last intercepts at the log-odds of the base rate: b = log(w n1 / n0).

        n1 and n0 are the (weighted) sums of y and of 1 - y, w is the ``pos_weight``. Training
        then begins where it would otherwise get to first (Lin et al. 2017, section 3.3). NaN
        labels are left out.

        Arguments: as for `bcenet.fit`.

        Raises: ValueError as `bcenet.fit` does, or where a label has one class only or its
        ``pos_weight`` is 0: its log-odds are infinite.

        Example:
            >>> import bcenet
            >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
            >>> net.init_output_bias([0, 0, 0, 1])
            >>> net.intercepts[-1].round(6).tolist()
            [-1.098612]
        """
        targets = checks.real_array("y", y)
        targets = self.check_targets(targets, targets.shape[0] if targets.ndim else 1, missing=True)
        weight = rows_.check_weight(sample_weight, targets, self.dtype)
        pos = losses.pos_weight_array(pos_weight, self.layer_sizes[-1])
        if pos is not None and not np.all(pos > 0):
            raise ValueError(f"pos_weight must be above 0; got {checks.describe(pos_weight)}")
        labels = targets.astype(np.float64).reshape(len(targets), -1)  # (n, k)
        weights = np.ones_like(labels)
        if weight is not None:
            weights *= weight.reshape(len(labels), -1)
        weights[np.isnan(labels)] = 0
        positive = np.sum(weights * np.nan_to_num(labels), axis=0)
        negative = np.sum(weights * (1 - np.nan_to_num(labels)), axis=0)
        if not (np.all(positive > 0) and np.all(negative > 0)):
            raise ValueError("y must hold both classes of every label; one has none of the other")
        self.intercepts[-1][:] = np.log(positive / negative * (1.0 if pos is None else pos))

    # ---- data -----------------------------------------------------------------------------

    def check_rows(self, X: Any, name: str = "X") -> Any:
        """X as (n, inputs) of real, finite numbers, not copied; or an error that says where.

        An array, or a CSR matrix where X is sparse.
        """
        array = self._check_shape(X, name)
        self._check_finite(array, name)
        return array

    def _check_finite(self, array: Any, name: str) -> None:
        if sparse.is_sparse(array):
            sparse.check_finite(name, array, self.dtype)
        else:
            kernels.check_values(name, array, self.dtype, "finite")

    def _check_shape(self, X: Any, name: str) -> Any:
        array = sparse.check(name, X) if sparse.is_sparse(X) else checks.real_array(name, X)
        inputs = self.layer_sizes[0]
        if array.ndim != 2 or array.shape[1] != inputs:
            hint = f"; reshape one row with {name}.reshape(1, -1)" if array.ndim == 1 else ""
            raise ValueError(f"{name} must have shape (n, {inputs}); got {array.shape}{hint}")
        return array

    def check_targets(
        self, y: Any, rows: int, name: str = "y", *, missing: bool = False
    ) -> np.ndarray:
        """y as (rows,) for one output or (rows, outputs), in [0, 1], not copied.

        With ``missing`` NaN is welcome too.
        """
        array = checks.real_array(name, y)
        wanted = self.rows_shape(rows)
        if array.shape != wanted:
            hint = ""
            if self.layer_sizes[-1] == 1 and array.ndim == 2:
                hint = f"; one output takes one dimension: {name}.ravel()"
            raise ValueError(f"{name} must have shape {wanted}; got {array.shape}{hint}")
        kind = "in [0, 1], or NaN" if missing else "in [0, 1]"
        kernels.check_values(name, array, self.dtype, kind)
        return array

    def rows_shape(self, rows: int) -> tuple[int, ...]:
        """The shape of targets, logits and offsets of rows."""
        outputs = self.layer_sizes[-1]
        return (rows,) if outputs == 1 else (rows, outputs)

    def check_offset(self, offset: Any, rows: int, name: str = "offset") -> np.ndarray | None:
        """Base logits of rows, of the logits' shape or (rows,), as the former; or None."""
        if offset is None:
            return None
        array = checks.real_array(name, offset)
        wanted = self.rows_shape(rows)
        if array.shape != wanted and array.shape != (rows,):
            either = f"{(rows,)} or {wanted}" if len(wanted) > 1 else f"{wanted}"
            raise ValueError(f"{name} must have shape {either}; got {array.shape}")
        kernels.check_values(name, array, self.dtype, "finite")
        if array.shape != wanted:
            array = np.broadcast_to(array[:, np.newaxis], wanted)
        return array

    # ---- outputs --------------------------------------------------------------------------

    def _work(self, rows: int, entries: int = -1) -> int:
        """Multiply-adds of a forward pass over rows, which have so many entries if sparse."""
        first, *others = (i * o for i, o in pairwise(self.layer_sizes))
        if entries >= 0:
            return entries * self.layer_sizes[1] + rows * sum(others)
        return rows * (first + sum(others))

    def _step_work(self, rows: int, entries: int, lazy: bool) -> int:
        """Multiply-adds of a training step; those of its updates count where X is sparse."""
        updates = self.parameters.size if entries >= 0 and not lazy else 0
        return 3 * self._work(rows, entries) + updates

    def _outputs(self, X: Any, n_threads: Any, offset: Any, probabilities: bool) -> np.ndarray:
        if (
            offset is None
            and self._codes is not None
            and (n_threads is None or (type(n_threads) is int and n_threads == 1))
        ):
            few = kernels.few_outputs(
                X, self.parameters, self.layer_sizes, self._codes, probabilities
            )
            if few is not None:
                return few
        array = self._check_shape(X, "X")
        base = self.check_offset(offset, array.shape[0])
        is_sparse = sparse.is_sparse(array)
        entries = array.nnz if is_sparse else -1
        count = threads.choose(n_threads, self._work(array.shape[0], entries))
        engine = gradients.inference_engine(self, count, is_sparse=is_sparse)
        out = np.empty((array.shape[0], self.layer_sizes[-1]), self.dtype)
        bases = kernels.optional_source(base)
        if engine.predict(kernels.source(array), bases, out, probabilities=probabilities) != "done":
            self._check_finite(array, "X")  # raises, and says where
        return out[:, 0] if self.layer_sizes[-1] == 1 else out

    def decision_function(
        self, X: ArrayLike, n_threads: int | None = None, offset: ArrayLike | None = None
    ) -> np.ndarray:
        """The logits z_L of rows: (n,) for one output, (n, k) for k.

        Arguments:
            X: (n, inputs), finite, any real dtype, strides and byte order; read block by block.
                Or a sparse matrix or array of SciPy's.
            n_threads: None chooses from the work. The result is the same for any number, and
                a row's result is the same whatever rows it comes with.
            offset: added to the logits, of their shape or (n,); finite.

        Raises: ValueError for another shape, or a NaN or infinity (with its row and column).

        Example:
            >>> import bcenet
            >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
            >>> net.parameters[:] = [1.0, -2.0, 0.5]
            >>> net.decision_function([[3.0, 1.0], [0.0, 0.0]]).tolist()
            [1.5, 0.5]
            >>> net.decision_function([[3.0, 1.0], [0.0, 0.0]], offset=[1.0, -1.0]).tolist()
            [2.5, -0.5]
        """
        return self._outputs(X, n_threads, offset, False)

    def predict_proba(
        self, X: ArrayLike, n_threads: int | None = None, offset: ArrayLike | None = None
    ) -> np.ndarray:
        """P(y = 1) = s(z_L) of rows, the same shape as the logits; see `decision_function`.

        Example:
            >>> import bcenet
            >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
            >>> net.parameters[:] = [1.0, -2.0, 0.5]
            >>> net.predict_proba([[0.0, 0.25], [800.0, 0.0]]).tolist()
            [0.5, 1.0]
        """
        return self._outputs(X, n_threads, offset, True)

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

    def row_gradients(
        self, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        """Each row's own gradient by every parameter; see `bcenet.gradients.row_gradients`."""
        return gradients.row_gradients(self, X, y, sample_weight=sample_weight)

    def trace(self, X: ArrayLike, y: ArrayLike) -> gradients.Trace:
        """Every number of a forward and a backward pass; see `bcenet.gradients.trace`.

        ``print`` shows it as a table, ``as_dict()`` gives it for JSON.
        """
        return gradients.trace(self, X, y)

    # ---- files ----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to one file, replaced atomically; `bcenet.load` reads it.

        Raises: OSError if it can't be written; an older file is then as it was.
        """
        from bcenet.model import save_network

        save_network(path, self)

"""Training step by step, for loops and losses of one's own, at the engine's speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, gradients, kernels, optimizers, threads
from bcenet import rows as rows_
from bcenet.errors import NonFiniteError
from bcenet.network import Network
from bcenet.objective import Objective, drop_rates
from bcenet.training import check_lazy, choose_stage, seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

    from bcenet.losses import FocalLoss


class Trainer:
    """The training engine, one step a call.

    It trains a private copy. ``trainer.network`` and ``trainer.optimizer`` bring the objects up
    to date when they are looked at (as does ``trainer.sync()``), so a step itself copies nothing;
    what is changed in the network meanwhile is lost, but for changes after ``close``. Steps over
    the batches of an epoch give the same bits as `bcenet.fit` with the same options, but for what
    dropout drops: its random numbers belong to a step and a row of the batch, in a fit to an epoch
    and a row of X. A trainer belongs to one thread at a time; it is a context manager, and
    ``close`` ends its threads.

    Arguments:
        network: trained in place, at each ``sync``. optimizer, learning_rate, loss, pos_weight,
        label_smoothing, label_reduction, missing_labels, dropout, l1, l2, clip_norm, max_norm,
        lazy, n_threads, random_state: as for `bcenet.fit`; any optimizer but "lbfgs". With
        ``lazy`` every batch must be sparse.

    Raises: ValueError and TypeError naming the argument.

    Example:
        >>> import bcenet, numpy as np
        >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> with bcenet.Trainer(net, "adam", learning_rate=0.1) as trainer:
        ...     losses = [trainer.step(X, y) for _ in range(200)]
        >>> losses[-1] < 0.2, trainer.optimizer.step
        (True, 200)
    """

    def __init__(
        self,
        network: Network,
        optimizer: str | optimizers.Optimizer = "adam",
        *,
        learning_rate: float | None = None,
        loss: str | FocalLoss = "bce",
        pos_weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        label_reduction: str = "mean",
        missing_labels: str = "error",
        dropout: float | Sequence[float] = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        max_norm: float | None = None,
        lazy: bool = False,
        n_threads: int | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(f"network must be a bcenet.Network; got {checks.describe(network)}")
        resolved = optimizers.resolve(optimizer, learning_rate)
        if isinstance(resolved, optimizers.LBFGS):
            raise ValueError("optimizer must take steps, which 'lbfgs' does not; use bcenet.fit")
        self._objective = Objective.of(
            network.layer_sizes[-1],
            loss=loss,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            label_reduction=label_reduction,
            missing_labels=missing_labels,
            l1=l1,
            l2=l2,
            clip_norm=clip_norm,
            max_norm=max_norm,
            lazy=lazy,
        )
        self._drop_rates = drop_rates(dropout, len(network.layer_sizes) - 2)
        self._network = network
        self._optimizer = resolved
        self._n_threads = n_threads
        self._stage = choose_stage(network, self._objective)
        self._check_lazy()
        self._labels = network.layer_sizes[-1] if self._objective.label_sum else 1
        threads.choose(n_threads, 1)
        resolved.begin(network.parameters)
        resolved.seed = seed_of(random_state, resolved)
        # Parts of the engine, and where `sync` copies them.
        self._held = [
            ("parameters", network.parameters),
            ("statistics", network.statistics),
            *zip(("first", "second", "third"), resolved.state.values(), strict=False),
        ]
        self._engine: kernels.Engine | None = None
        self._capacity, self._entries = 0, -1
        self._configured: dict[str, Any] = {}  # hyperparameters in the engine
        self._held_by_call = [
            kernels.exclusive("trainer"),
            network._fitting,
            resolved._in_use,
        ]
        self._steps = resolved.step
        self._behind = False

    # ---- steps ----------------------------------------------------------------------------

    def step(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> float:
        """One step on a batch; its mean loss before the step, without penalties.

        Arguments: as for `bcenet.fit`; all of X is one batch, and both classes need not be there.

        Raises: ValueError as `bcenet.fit` does; NonFiniteError where the loss is not finite (no
        step was taken) or the step overflows (the network then holds the weights of the last
        ``sync``).
        """
        rows = rows_.check(
            self._network, X, y, sample_weight, offset, missing=self._objective.masked
        )
        self._check_lazy(rows.X)
        passed = self._exclusively(lambda: self._step(rows.X, rows.sources(), False))
        if passed.status == "bad loss":
            raise self._non_finite("the loss is not finite", rows.X)
        return passed.loss / passed.weight * self._labels

    def step_gradient(self, X: ArrayLike, dlogits: ArrayLike) -> None:
        """One step with a gradient of one's own: the derivatives of a loss by the logits of X.

        The gradient is sum over rows of dlogits_i dz_i / d(parameters): nothing is divided, so a
        mean is already in ``dlogits``, as in PyTorch's ``logits.grad``. Penalties are divided by
        the number of rows. `logits` gives the logits that this step will see.

        Arguments:
            X: (n, inputs). dlogits: (n,) for one output or (n, k) for k; finite.

        Raises: ValueError for other shapes or numbers that are not finite; NonFiniteError where
        the step overflows, as for `step`.

        Example:
            >>> import bcenet, numpy as np
            >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
            >>> net = bcenet.Network([1, 1], random_state=0)
            >>> with bcenet.Trainer(net, bcenet.SGD(1.0)) as trainer:
            ...     for _ in range(100):  # squared error of probabilities, instead of BCE
            ...         p = bcenet.sigmoid(trainer.logits(X))
            ...         trainer.step_gradient(X, 2 * (p - y) * p * (1 - p) / len(y))
            >>> bool(np.mean((trainer.network.predict_proba(X) - y) ** 2) < 0.1)
            True
        """
        array = self._network.check_rows(X)
        self._check_lazy(array)
        derivatives = checks.real_array("dlogits", dlogits)
        wanted = self._network.rows_shape(array.shape[0])
        if array.shape[0] == 0 or derivatives.shape != wanted:
            raise ValueError(f"dlogits must have shape {wanted}; got {derivatives.shape}")
        kernels.check_values("dlogits", derivatives, self._network.dtype, "finite")
        sources = (kernels.source(array), kernels.source(derivatives), None, None)
        self._exclusively(lambda: self._step(array, sources, True))

    def logits(self, X: ArrayLike) -> np.ndarray:
        """The logits of X as the next step on X will compute them.

        They are those of training: dropout as in that step, batch statistics for a batch
        normalisation. `trainer.network.decision_function` gives those of predictions.

        Returns: (n,) for one output or (n, k) for k, in the network's dtype.

        Raises: ValueError for another shape, or a NaN or infinity in X.
        """
        array = self._network.check_rows(X)
        self._check_lazy(array)
        if array.shape[0] == 0:
            raise ValueError("X must have at least one row; got 0")
        return self._exclusively(lambda: self._logits(array))

    def _check_lazy(self, X: Any = None) -> None:
        if self._objective.lazy:
            check_lazy(self._stage, X)

    def _exclusively(self, function: Callable[[], Any]) -> Any:
        """Call a function while no other thread uses the trainer, network or optimizer."""
        return kernels.exclusively(self._held_by_call, function)

    def _logits(self, array: Any) -> np.ndarray:
        engine = self._engine_for(array)
        out = np.empty(self._network.rows_shape(array.shape[0]), self._network.dtype)
        engine.logits(kernels.source(array), out, seed=self._drop_seed(), epoch=self._steps)
        self._raise_pending(engine)
        return out

    def _step(self, X: Any, sources: rows_.Sources, derivatives: bool) -> kernels.Pass:
        engine = self._engine_for(X)
        hyper = self._optimizer.native_hyper()
        if hyper != self._configured:
            engine.configure(hyper)
            self._configured = hyper
        passed = engine.train(
            sources,
            X.shape[0],
            range(1),
            stage=self._stage,
            seed=self._drop_seed(),
            epoch=self._steps,
            derivatives=derivatives,
        )
        if passed.status == "bad parameters":
            error = self._non_finite("the step overflowed the parameters or the optimizer's state")
            self._load(engine)
            raise error
        self._steps = engine.steps
        self._behind = True
        self._raise_pending(engine)
        return passed

    def _drop_seed(self) -> int | None:
        return None if self._drop_rates is None else self._optimizer.seed

    def _raise_pending(self, engine: kernels.Engine) -> None:
        pending = engine.take_pending()
        if pending is not None:
            raise pending

    def _non_finite(self, what: str, X: np.ndarray | None = None) -> NonFiniteError:
        layer = len(self._network.layer_sizes) - 2
        if X is not None:
            layer = gradients.first_bad_layer(self.network, X)
        message = f"training left the finite numbers in step {self._steps + 1}: {what}"
        return NonFiniteError(message, epoch=1, batch=self._steps, layer=layer)

    # ---- the engine -----------------------------------------------------------------------

    def _engine_for(self, X: Any) -> kernels.Engine:
        """The engine, made anew where a batch is larger than all before, or the first sparse one
        after dense ones."""
        rows, entries = X.shape[0], rows_.most_entries(X, X.shape[0])
        same = (entries < 0) == (self._entries < 0)
        if (
            self._engine is not None
            and same
            and rows <= self._capacity
            and entries <= self._entries
        ):
            return self._engine
        capacity, most = self._capacity, self._entries
        self._close()
        if same:
            rows, entries = max(rows, capacity), max(entries, most)
        work = self._network._step_work(rows, entries, self._objective.lazy)
        hyper = self._optimizer.native_hyper()
        engine = kernels.Engine(
            self._network.shape,
            self._network.dtype,
            rows,
            threads.choose(self._n_threads, work, threads.WORK_PER_THREAD),
            hyper=hyper,
            objective=self._objective.native(),
            drop_rates=self._drop_rates,
            batch_statistics=True,
            entries=entries,
        )
        self._load(engine)
        self._engine, self._capacity, self._entries = engine, rows, entries
        self._configured = hyper
        return engine

    def _load(self, engine: kernels.Engine) -> None:
        for part, array in self._held:
            engine.load(part, array)
        engine.steps = self._steps = self._optimizer.step

    @property
    def network(self) -> Network:
        """The network, up to date."""
        self.sync()
        return self._network

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer, its state up to date. Its hyperparameters may be changed."""
        self.sync()
        return self._optimizer

    def sync(self) -> None:
        """Copy parameters and optimizer state to the network and the optimizer, if they are
        behind."""
        self._exclusively(self._sync)

    def _sync(self) -> None:
        if self._behind and self._engine is not None:
            self._engine.publish(self._held, [(self._optimizer, "step", self._engine.steps)])
            self._behind = False

    def close(self) -> None:
        """Bring the network up to date and end the threads; the next step starts them again, from
        the network and the optimizer as they are then."""
        self._exclusively(self._close)

    def _close(self) -> None:
        self._sync()
        if self._engine is not None:
            self._engine.close()
        self._engine, self._capacity, self._entries = None, 0, -1

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

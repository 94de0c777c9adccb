"""`fit` over a Dask cluster, and lazy predictions."""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures as futures_
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import distributed
import numpy as np

from bcenet import checks, rounds
from bcenet import rows as rows_
from bcenet.dask import collections

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bcenet.history import History
    from bcenet.losses import FocalLoss
    from bcenet.network import Network
    from bcenet.objective import Objective
    from bcenet.optimizers import Optimizer

# Seconds without any worker's heartbeat, or without a scheduler, after which a fit gives up.
PATIENCE = 28.0
# Seconds without a heartbeat after which a worker counts as frozen. Its heart beats every 0.5 s on
# a small cluster, unless its event loop imports modules, or a task holds the GIL.
SILENCE = 10.0
# Sums that a task adds; a power of 2, so that their tree is a part of the whole one.
_FAN_IN = 8


def fit(
    client: distributed.Client,
    network: Network,
    X: Any,
    y: Any,
    *,
    mode: str = "local",
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    epochs: int = 10,
    local_steps: int | str | None = "auto",
    outer_learning_rate: float = 1.0,
    outer_momentum: float | None = None,
    sample_weight: Any = None,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    validation_data: tuple[Any, ...] | None = None,
    callbacks: Any = (),
    shuffle: bool = True,
    n_threads: int = 1,
    random_state: int | np.random.Generator | None = None,
    loss: str | FocalLoss = "bce",
    label_reduction: str = "mean",
    missing_labels: str = "error",
    schedule: Any = None,
    clip_norm: float | None = None,
    dropout: float | Sequence[float] = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    max_norm: float | None = None,
) -> History:
    """Train a network in place on rows that a Dask cluster holds, and return its losses.

    The work goes in rounds: one task a partition, and a sum in a fixed tree. The weights depend on
    how the rows are cut into partitions, and on nothing else of the cluster: not on the number of
    workers, nor on which did what, nor on workers that are lost on the way, whose tasks Dask runs
    again. The network and the optimizer are brought up to date after every round.

    mode="local": in a round every partition takes ``local_steps`` steps of its own from the same
    weights, each on its share of ``batch_size`` rows. Then weights and the optimizer's moments are
    averaged by the rows' weight, and with d = W - average: m = outer_momentum m + d,
    W -= outer_learning_rate (d + outer_momentum m). Options that suit
    `bcenet.fit` suit this too.

    mode="exact": a round is one step of the optimizer with the gradient over ``batch_size`` rows,
    taken from all partitions in proportion; over all rows with None. The numbers are those of
    `bcenet.fit` with such batches but for the order of the additions.

    Arguments:
        client: of the cluster; needs to outlive the fit.
        network: a bcenet.Network, trained in place.
        X: a Dask array (n, inputs), or a Dask DataFrame, all of whose columns but those named by y
            and sample_weight are inputs, in their order. Its partitions must hold rows, and be
            kept or computed alike again.
        y: a Dask array (n,) for one output or (n, k) for k; for a DataFrame a column's name, or
            k of them.
        mode: "local" or "exact". batch_size: of a step over all partitions, in proportion to their
            rows; None is 200 in the local mode, all rows in the exact.
        epochs: passes over all rows. An epoch has as many rounds as it takes.
        local_steps: "auto" is 400 divided by the partitions, None all of an epoch.
        outer_momentum: None is 0 for SGD, else 1 - 1 / sqrt(P) for P partitions of one size.
        sample_weight: a Dask array (n,) or like y; for a DataFrame a column's name.
        validation_data: as for `bcenet.fit`, in memory, measured here after every epoch.
        shuffle: each partition takes its rows in an order of its own in every epoch; rows never
            change partitions, so a set sorted by label wants to be shuffled before.
        n_threads: of a task. Dask runs as many tasks at once as its workers have threads.
        random_state: seed of the shuffling and of dropout.
        optimizer: as for `bcenet.fit`; "lbfgs" in the exact mode over all rows only.
        dropout, a normalization "batch" of the network: in the local mode only.
        learning_rate, pos_weight, label_smoothing, callbacks, loss, label_reduction,
        missing_labels, schedule, clip_norm, l1, l2, max_norm: as for `bcenet.fit`.

    Returns: a History with one loss (and validation loss) an epoch.

    Raises: ValueError and TypeError naming the argument, and the partition for bad rows;
    RuntimeError where a worker runs another version of bcenet, where Dask has given up on a task,
    or where no worker or scheduler is there for 28 s; NonFiniteError as `bcenet.fit`: the network
    then holds the weights before that round.

    Sources: Stich, "Local SGD converges fast and communicates little", ICLR 2019; Douillard et
    al., "DiLoCo", 2023.

    Example:
        >>> import bcenet, bcenet.dask, numpy as np
        >>> import dask.array as da
        >>> from distributed import Client
        >>> X = da.from_array(np.array([[0.0], [3.0], [1.0], [2.0]]), chunks=(2, 1))
        >>> y = da.from_array(np.array([0, 1, 0, 1]), chunks=2)
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> with Client(processes=False, dashboard_address=":0") as client:
        ...     history = bcenet.dask.fit(client, net, X, y, learning_rate=0.1, epochs=100)
        >>> history.loss[-1] < 0.3
        True
    """

    def cluster(objective: Objective) -> Cluster:
        made = Cluster(client)
        made.take(network, collections.split(X, y, sample_weight), objective.masked)
        return made

    return rounds.fit(
        network,
        cluster,
        mode=mode,
        optimizer=optimizer,
        learning_rate=learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        local_steps=local_steps,
        outer_learning_rate=outer_learning_rate,
        outer_momentum=outer_momentum,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        validation_data=validation_data,
        callbacks=callbacks,
        shuffle=shuffle,
        n_threads=n_threads,
        random_state=random_state,
        loss=loss,
        label_reduction=label_reduction,
        missing_labels=missing_labels,
        schedule=schedule,
        clip_norm=clip_norm,
        dropout=dropout,
        l1=l1,
        l2=l2,
        max_norm=max_norm,
    )


# ---- the cluster -------------------------------------------------------------------------------


class Cluster:
    """A Dask cluster as `rounds.fit` works with one: `rounds.Cluster`.

    Raises: RuntimeError where no worker comes, or one runs another bcenet.
    """

    def __init__(self, client: Any) -> None:
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise TypeError(
                "client must be a distributed.Client that is not asynchronous; "
                f"got {checks.describe(client)}"
            )
        self._client = client
        self._token = uuid.uuid4().hex[:8]
        self._calls = 0
        self._parts: list[Any] = []
        self._check_workers()

    def _check_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise RuntimeError(
                f"client must have at least one worker; there is none after {PATIENCE:g} s"
            ) from error
        here = rounds.build()
        # `eval`, so that a worker whose bcenet is too old to have this module can answer.
        for worker, version in self._ask(eval, "__import__('bcenet').__version__").items():
            if isinstance(version, Exception):
                raise RuntimeError(f"worker {worker} must have bcenet {here['bcenet']}: {version}")
            rounds.check_build({"bcenet": here["bcenet"]}, {"bcenet": version}, f"worker {worker}")
        for worker, build in self._ask(_build).items():
            rounds.check_build(here, build, f"worker {worker}")

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Each worker's answer, or the exception it raised, but for workers that are lost now."""
        begun = time.monotonic()
        while True:
            try:
                answers = self._finish(self._client.run, function, *arguments, on_error="return")
            except (OSError, KeyError):  # of Dask, for a worker lost before it was asked
                if time.monotonic() - begun > PATIENCE:
                    raise
                time.sleep(0.1)
                continue
            return {w: a for w, a in answers.items() if not isinstance(a, (OSError, KeyError))}

    def take(self, network: Network, blocks: list[collections.Block], missing: bool) -> None:
        """Let the workers read and check the rows, and keep them."""
        like = dask.delayed(network, pure=False)
        read = dask.delayed(read_part, pure=False)
        parts = [
            read(block, index, like, missing, dask_key_name=f"bcenet-rows-{self._token}-{index}")
            for index, block in enumerate(blocks)
        ]
        self._parts = self._client.compute(parts)

    def compute(self, collection: Any) -> Any:
        """A collection's value."""
        return self._results([self._client.compute(collection)])[0]

    def each(self, task: Callable[[rounds.Part, Any], Any], argument: Any) -> list[Any]:
        return self._results(self._submit(task, argument))

    def merged(self, task: Callable[[rounds.Part, Any], rounds.Sums], argument: Any) -> rounds.Sums:
        futures = self._submit(task, argument)
        key = self._key("sum")
        level = 0
        while len(futures) > 1:  # the same tree as merge_all of all
            futures = [
                self._client.submit(
                    rounds.merge_all, *futures[i : i + _FAN_IN], key=f"{key}-{level}-{i}"
                )
                for i in range(0, len(futures), _FAN_IN)
            ]
            level += 1
        return self._results(futures)[0]

    def _key(self, name: str) -> str:
        """What the dashboard calls the tasks: their kind, the fit and the round."""
        return f"bcenet-{name}-{self._token}-{self._calls}"

    def _submit(self, task: Callable[[rounds.Part, Any], Any], argument: Any) -> list[Any]:
        """A task a part. The argument is a task too, so that Dask can make it again."""
        self._calls += 1
        # The graph holds the weights of a large network, on purpose.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            held = self._client.submit(_same, argument, key=self._key("state"))
        key = self._key(task.__name__.replace("_", "-"))
        return [
            self._client.submit(task, part, held, key=f"{key}-{index}")
            for index, part in enumerate(self._parts)
        ]

    def _results(self, futures: list[Any]) -> list[Any]:
        """Wait, as long as someone is at work; what the tasks raise is raised here."""
        try:
            results = self._finish(self._client.gather, futures, replace=True, errors="skip")
            for future in futures:  # of several errors the first part's
                if future.status in ("error", "cancelled"):
                    future.result()
            return results
        except futures_.CancelledError as error:
            raise RuntimeError(_LOST) from error
        except distributed.scheduler.KilledWorker as error:
            raise RuntimeError(
                f"Dask has given up on a task whose workers were lost again and again: {error}"
            ) from error

    def _finish(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        replace: bool = False,
        **options: Any,
    ) -> Any:
        """The result of a client's method; whether to replace workers that are frozen meanwhile.

        Raises: RuntimeError where that may not be, or where nobody else is at work.
        """

        async def call() -> Any:
            return await function(*arguments, **options)

        loop: Any = self._client.loop
        called = asyncio.run_coroutine_threadsafe(call(), loop.asyncio_loop)
        heartbeats = _Heartbeats()
        try:
            while not futures_.wait([called], 1.0).done:
                workers = self._scheduler("identity").get("workers", {})
                frozen = heartbeats.missing(workers, SILENCE if replace else 0.8 * PATIENCE)
                if frozen and not replace:
                    raise RuntimeError(f"client must have workers that answer; {_silent(frozen)}")
                if frozen:
                    self._replace(frozen)
            return called.result()
        finally:
            called.cancel()

    def _scheduler(self, what: str, **options: Any) -> dict[str, Any]:
        """A scheduler's answer, or {} where it is gone."""
        if self._client.status != "running":
            return {}
        ask = getattr(self._client.scheduler, what)
        try:
            return self._client.sync(ask, callback_timeout=PATIENCE, **options)
        except (OSError, TimeoutError):
            return {}

    def _replace(self, frozen: list[str]) -> None:
        """Let Dask kill workers that don't answer, if they have tasks to do or hold data.

        A worker with a nanny is started again, another is left out. It is what Dask does itself
        after its `worker-ttl`, of five minutes.
        """
        tasks, data = (self._scheduler(what, workers=frozen) for what in ("processing", "has_what"))
        busy = [worker for worker in frozen if tasks.get(worker) or data.get(worker)]
        if busy:
            warnings.warn(
                f"{_silent(busy)}; what it had is computed again elsewhere",
                RuntimeWarning,
                stacklevel=2,
            )
            self._scheduler(
                "restart_workers",
                workers=busy,
                timeout=PATIENCE / 2,  # of killing it: a nanny takes 4 s
                wait_for_workers=False,
                on_error="return",
                stimulus_id=f"bcenet-{self._token}-frozen",
            )


class _Heartbeats:
    """How long workers have been silent, while this process looked."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float]] = {}
        self._looked = self._alive = time.monotonic()
        self._missing: set[str] = set()

    def missing(self, workers: dict[str, Any], patience: float) -> list[str]:
        """Workers without a heartbeat for so many seconds, from what the scheduler says of all.

        Raises: RuntimeError where none had one for too long.
        """
        now = time.monotonic()
        # A machine that was suspended, or a scheduler that was, has heard of nobody meanwhile.
        passed = min(now - self._looked, 2.0)
        self._looked = now
        heard = {}
        for worker, state in workers.items():
            beat, silent = self._heard.get(worker, (None, 0.0))
            last = state["last_seen"]
            heard[worker] = (last, silent + passed if beat == last else 0.0)
        self._heard = heard
        # Beyond 200 workers the heart beats every n / 200 + 1 s.
        patience = max(patience, len(workers) / 40)
        missing = [worker for worker, (_, silent) in heard.items() if silent > patience]
        self._missing.update(missing)
        if heard:
            self._alive = max(self._alive, now - min(silent for _, silent in heard.values()))
        if now - self._alive > PATIENCE:
            raise RuntimeError(
                "the Dask cluster must have a scheduler and at least one worker; there was none "
                f"for {PATIENCE:g} s"
                + (f", and {_silent(sorted(self._missing))}" if self._missing else "")
            )
        return missing


def _silent(workers: Iterable[str]) -> str:
    return f"no heartbeat comes from worker {', '.join(workers)}"


def _build() -> dict[str, str]:
    """`rounds.build`, here, so that workers import now what their tasks need."""
    return rounds.build()


_LOST = (
    "the Dask cluster has lost rows, or its scheduler, during the fit; give it collections that "
    "can be computed again, which scattered data can't be"
)


def _same(argument: Any) -> Any:
    return argument


def read_part(block: collections.Block, index: int, network: Network, missing: bool) -> rounds.Part:
    """A partition's rows, checked: what every round works on."""
    X, y, weight = collections.arrays(block, network.dtype)
    if X.shape[0] == 0:
        raise ValueError(
            "X must have at least one row in every partition; "
            f"partition {index} has none (drop it, or repartition)"
        )
    rows = rows_.check(network, X, y, weight, missing=missing, prefix=f"partition {index}: ")
    return rounds.Part(index, rows)


# ---- predictions -------------------------------------------------------------------------------


def predict_proba(network: Network, X: Any) -> da.Array:
    """P(y = 1) of rows, as `bcenet.Network.predict_proba` says it: lazy.

    Arguments:
        X: a Dask array (n, inputs), or a Dask DataFrame of the inputs alone.

    Returns: a Dask array in the network's dtype, (n,) for one output or (n, k) for k, with X's
    chunks of rows.

    Raises: TypeError or ValueError for another X; bad rows are found when it is computed.

    Example:
        >>> import bcenet, bcenet.dask
        >>> import dask.array as da
        >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
        >>> bcenet.dask.predict_proba(net, da.zeros((4, 2), chunks=(2, 2))).compute().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    return outputs(network, X, _probabilities, network.layer_sizes[-1], network.dtype)


def decision_function(network: Network, X: Any) -> da.Array:
    """The logits of rows; arguments, result and errors as `predict_proba`.

    Example:
        >>> import bcenet, bcenet.dask
        >>> import dask.array as da
        >>> net = bcenet.Network([2, 1], dtype="float64", random_state=0)
        >>> bcenet.dask.decision_function(net, da.zeros((4, 2), chunks=(2, 2))).compute().tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    return outputs(network, X, _logits, network.layer_sizes[-1], network.dtype)


def _probabilities(X: np.ndarray, network: Network) -> np.ndarray:
    return network.predict_proba(np.asarray(X), n_threads=1)


def _logits(X: np.ndarray, network: Network) -> np.ndarray:
    return network.decision_function(np.asarray(X), n_threads=1)


def outputs(
    network: Any, X: Any, function: Callable[..., Any], columns: int, dtype: Any
) -> da.Array:
    """function(block, network) of X's blocks of rows, with one result a row or ``columns``."""
    array = collections.rows_of(X)
    if columns == 1:
        return da.map_blocks(
            function, array, network, drop_axis=1, dtype=dtype, meta=np.empty(0, dtype)
        )
    return da.map_blocks(
        function,
        array,
        network,
        chunks=(array.chunks[0], (columns,)),
        dtype=dtype,
        meta=np.empty((0, columns), dtype),
    )

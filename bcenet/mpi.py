"""Training over the processes of MPI: ``pip install 'bcenet[mpi]'``, which needs an MPI library.

Every process of the communicator calls `fit` with the same arguments, as in ``mpirun -n 4 python
train.py``. The rows are cut into a fixed number of shards, whatever the number of processes; their
sums are gathered and added in a fixed tree, not reduced by MPI, whose order follows the number of
processes. So 1, 2 and 4 processes give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, rounds
from bcenet import rows as rows_

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bcenet.history import History
    from bcenet.losses import FocalLoss
    from bcenet.network import Network
    from bcenet.optimizers import Optimizer

__all__ = ["fit"]


def fit(
    network: Network,
    X: Any,
    y: Any,
    *,
    shards: int = 16,
    comm: Any = None,
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
    """Train a network in place, on every process of a communicator, and return its losses.

    Rounds, modes and their bits are those of `bcenet.dask.fit`, a shard being a partition. The
    first process leads: its network, optimizer and options count, it alone calls the callbacks and
    measures ``validation_data``. In the end every process has the trained network.

    Arguments:
        network: with the same layers on every process; the first one's weights count.
        X: (n, inputs), all rows, on every process; a process reads the rows of its shards alone,
            so a memory map (``numpy.load(path, mmap_mode="r")``) of a shared file is best.
        y: (n,) for one output or (n, k) for k. sample_weight: (n,) or y's shape.
        shards: parts of the rows, of equal size to within a row, at most n. The weights depend on
            their number; it must be at least that of the processes for all to have work.
        comm: a communicator of mpi4py; None is ``MPI.COMM_WORLD``.
        others: as for `bcenet.dask.fit`.

    Returns: a History, the same on every process.

    Raises: on every process what the first or any shard raised: ValueError and TypeError naming
    the argument, and the shard for bad rows; RuntimeError where a process runs another bcenet;
    NonFiniteError as `bcenet.fit`.

    Example:
        >>> import bcenet, bcenet.mpi
        >>> class Alone:  # a communicator of one process; MPI's own does the same
        ...     def Get_rank(self): return 0
        ...     def Get_size(self): return 1
        ...     def bcast(self, message): return message
        ...     def gather(self, answer): return [answer]
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> X, y = [[0.0], [3.0], [1.0], [2.0]], [0, 1, 0, 1]
        >>> history = bcenet.mpi.fit(
        ...     net, X, y, shards=2, comm=Alone(), learning_rate=0.1, epochs=100
        ... )
        >>> history.loss[-1] < 0.3
        True
    """
    if comm is None:
        comm = _world()
    here = _Shards(comm, network, (X, y, sample_weight), missing_labels == "ignore", shards)
    if comm.Get_rank() > 0:
        return here.serve()

    def lead() -> History:
        return rounds.fit(
            network,
            lambda _: here,
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

    return here.lead(lead)


def _world() -> Any:
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError("bcenet.mpi needs mpi4py: pip install 'bcenet[mpi]'") from error
    return MPI.COMM_WORLD


class _Shards:
    """The shards of one process, and how it works with the others: `rounds.Cluster`.

    The first process sends a task and its argument, all do it for their shards, and it gathers
    what came of it, or what was raised. Its last message says how the fit ended.
    """

    def __init__(
        self, comm: Any, network: Network, data: tuple[Any, ...], missing: bool, shards: Any
    ) -> None:
        self._comm = comm
        self._network = network
        self._data = data
        self._missing = missing
        self._count = shards
        self._parts: list[rounds.Part] | None = None

    # ---- the first process ----------------------------------------------------------------

    def lead(self, train: Callable[[], History]) -> History:
        """Train, and tell the others how it ended, whatever happens."""
        try:
            history = train()
        except BaseException as error:
            self._comm.bcast((None, error))
            raise
        self._comm.bcast((None, (history, self._network.parameters, self._network.statistics)))
        return history

    def each(self, task: Callable[[rounds.Part, Any], Any], argument: Any) -> list[Any]:
        message = (task, (rounds.build(), argument))
        self._comm.bcast(message)
        results: dict[int, Any] = {}
        for answer in self._comm.gather(self._work(*message)):
            if isinstance(answer, Exception):
                raise answer
            results.update(answer)
        return [results[index] for index in sorted(results)]

    def merged(self, task: Callable[[rounds.Part, Any], rounds.Sums], argument: Any) -> rounds.Sums:
        return rounds.merge_all(*self.each(task, argument))

    # ---- every process --------------------------------------------------------------------

    def serve(self) -> History:
        """Do what the first process asks for, until the fit has ended."""
        while True:
            task, content = self._comm.bcast(None)
            if task is not None:
                self._comm.gather(self._work(task, content))
            elif isinstance(content, BaseException):
                raise content
            else:
                history, parameters, statistics = content
                self._network.parameters[:] = parameters
                self._network.statistics[:] = statistics
                return history

    def _work(self, task: Callable[..., Any], content: Any) -> dict[int, Any] | Exception:
        """A task's results by shard, or what it raised: the others must hear of it."""
        build, argument = content
        try:
            rounds.check_build(build, rounds.build(), f"process {self._comm.Get_rank()}")
            if self._parts is None:
                self._parts = self._read()
            return {part.index: task(part, argument) for part in self._parts}
        except Exception as error:
            return error

    def _read(self) -> list[rounds.Part]:
        """The shards of this process: neighbours, for they lie together in a file."""
        X, y = (checks.real_array(name, a) for name, a in zip("Xy", self._data[:2], strict=True))
        weight = self._data[2]
        if weight is not None:
            weight = checks.real_array("sample_weight", weight)
        n = X.shape[0] if X.ndim else 0
        count = checks.integer("shards", self._count, 1, max(n, 1))
        rank, size = self._comm.Get_rank(), self._comm.Get_size()
        for name, array in (("y", y), ("sample_weight", weight)):
            if array is not None and array.shape[:1] != X.shape[:1]:
                raise ValueError(f"{name} must have {n} rows, as X; got shape {array.shape}")
        parts = []
        for index in range(count * rank // size, count * (rank + 1) // size):
            chosen = slice(n * index // count, n * (index + 1) // count)
            rows = rows_.check(
                self._network,
                X[chosen],
                y[chosen],
                None if weight is None else weight[chosen],
                missing=self._missing,
                prefix=f"shard {index}: ",
            )
            parts.append(rounds.Part(index, rows))
        return parts

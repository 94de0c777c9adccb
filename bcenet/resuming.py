"""Going on with a fit from its checkpoint, to the bits of one that was never stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bcenet import callbacks as callbacks_
from bcenet import checkpoint as checkpoint_
from bcenet import kernels, runs, training
from bcenet import rows as rows_
from bcenet.records import Record

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from bcenet import averaging as averaging_
    from bcenet import optimizers
    from bcenet.checkpoint import Saved
    from bcenet.history import History
    from bcenet.network import Network


class Resumed(Record):
    """What `resume` gives: all that the interrupted fit was given or would have changed.

    Attributes:
        network: trained to the end. history: of the whole fit. optimizer, schedule, averaging:
            objects for a fit that goes on from there; the latter two may be None.
    """

    network: Network
    history: History
    optimizer: optimizers.Optimizer
    schedule: Any
    averaging: averaging_.Averaging | None


def resume(
    path: str | os.PathLike[str],
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    validation_data: tuple[Any, ...] | None = None,
    callbacks: Any = (),
    checkpoint_every: int | None = None,
    n_threads: int | None = None,
) -> Resumed:
    """Go on with a fit from its checkpoint to its end: the bits are those of one never stopped.

    All options of the fit are in the checkpoint; the data are not, and must be the same again.
    Checkpoints are written as before, to ``path``. A fit that was at its end is not trained
    further.

    Arguments:
        path: what was the fit's ``checkpoint``. In a folder the newest whole one is taken; a
            warning tells of a newer one that is damaged.
        X, y, sample_weight, offset, validation_data: as in the fit, in any layout. A
            `bcenet.data.Dataset` may have moved, but has the same rows, units and window; what
            is compared says ``bcenet.data.Dataset.fingerprint``.
        callbacks: as in the fit: those with a state of their own (`bcenet.callbacks`) go on
            with it, the others see the epochs that are left.
        checkpoint_every: None for the fit's.
        n_threads: as `fit` takes it; the bits don't depend on it.

    Returns: a `Resumed` with ``network``, ``history``, ``optimizer``, ``schedule`` and
    ``averaging``.

    Raises: ValueError saying what differs, for other data or callbacks; ModelFormatError for a
    file that is damaged or was written by another version; FileNotFoundError where there is none;
    and what `fit` raises while it trains.

    Example:
        >>> import bcenet, numpy as np, os, tempfile
        >>> X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
        >>> y = X[:, 0] > 0
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = os.path.join(folder.name, "run.bcenet")
        >>> def out_of_time(state):
        ...     if state.epoch == 3:
        ...         raise KeyboardInterrupt
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> try:
        ...     bcenet.fit(net, X, y, checkpoint=path, callbacks=out_of_time, random_state=0)
        ... except KeyboardInterrupt:
        ...     resumed = bcenet.resume(path, X, y)
        >>> len(resumed.history.loss)
        10
        >>> net = bcenet.Network([1, 1], random_state=0)
        >>> history = bcenet.fit(net, X, y, random_state=0)
        >>> resumed.history.loss == history.loss
        True
        >>> folder.cleanup()
    """
    resumed, train = prepare(
        checkpoint_.read(path),
        X,
        y,
        sample_weight=sample_weight,
        offset=offset,
        validation_data=validation_data,
        callbacks=callbacks,
        checkpoint_every=checkpoint_every,
        n_threads=n_threads,
    )
    train()
    return resumed


def resume_same(
    path: Any,
    network: Network,
    X: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    offset: Any = None,
    validation_data: Any = None,
    callbacks: Any = (),
    checkpoint_every: Any = None,
    n_threads: Any = None,
    **options: Any,
) -> Resumed:
    """`resume` of a fit that had the given network's shape and ``options``, or a ValueError.

    The options are `training._plan`'s; the network isn't changed.
    """
    plan = training._plan(network, n_threads=n_threads, **options)
    saved = checkpoint_.read(path)
    checkpoint_.check_same(saved, "configuration", checkpoint_.configuration(network, plan))
    resumed, train = prepare(
        saved,
        X,
        y,
        sample_weight=sample_weight,
        offset=offset,
        validation_data=validation_data,
        callbacks=callbacks,
        checkpoint_every=checkpoint_every,
        n_threads=n_threads,
    )
    train()
    return resumed


def prepare(
    saved: Saved,
    X: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    offset: Any = None,
    validation_data: Any = None,
    callbacks: Any = (),
    checkpoint_every: Any = None,
    n_threads: Any = None,
) -> tuple[Resumed, Callable[[], None]]:
    """(what the fit has come to, the function that goes on with it, in place)."""
    network, fields = checkpoint_.restore(saved)
    stage = training.choose_stage(network, fields["objective"])
    plan = training.Plan(**fields, n_threads=n_threads, stage=stage)
    hooks = callbacks_.Callbacks(callbacks)
    hooks.check_resumed(saved.callbacks)
    masked = plan.objective.masked
    rows: Any
    if isinstance(X, rows_.Stream):
        apart = (y, sample_weight, offset)
        rows = training._check_dataset(network, X, masked, False, apart)
    else:
        rows = rows_.check(network, X, y, sample_weight, offset, missing=masked)
    validation = training._check_validation(network, validation_data, masked)
    data = training._fingerprints(rows, validation)
    checkpoint_.check_same(saved, "data", data)
    if callbacks_.shows_progress() and not hooks.show_progress:
        hooks.append(callbacks_.ProgressBar())
    every = saved.config["every"] if checkpoint_every is None else checkpoint_every
    writer = checkpoint_.Writer(checkpoint_.home(saved.path), every)
    writer.prepare(saved.config["configuration"], data, resumed=True)
    course = training._Course(network, plan, hooks, validation, saved)
    course.state.rows = rows.n

    def go_on() -> None:
        kind = runs.StreamRun if isinstance(rows, rows_.Stream) else runs.Run
        training._train(kind(network, rows, plan, saved), course, writer)

    def train() -> None:
        held = [network._fitting, plan.optimizer._in_use]
        kernels.exclusively(held, lambda: course.run(go_on))

    return Resumed(network, course.history, plan.optimizer, plan.schedule, plan.averaging), train

"""Training in rounds over parts of the rows that lie elsewhere: what Dask and MPI share.

A round is one pure task a part, a function of the part and of the request alone, and a sum of what
they return in a tree whose shape depends on the number of parts alone. So the trained network
depends on how the rows are cut into parts, and not on who worked on which, or how often.

Two kinds of rounds:
    exact   A part gives the sum of its gradients; the optimizer takes its step here, with the
            gradient over all parts. Numbers are those of `bcenet.fit` with as large a batch, but
            for the order of additions.
    local   A part takes steps of its own from the same weights, the ordinary engine on its share
            of each mini-batch. Weights, running statistics and the optimizer's moments are then
            averaged, by the weight of the rows, and an outer step with momentum goes towards the
            average: with d = W - average, m = momentum m + d, W -= rate (d + momentum m).

A local step sees b / P of the b rows that a step of one machine sees, so its gradient has P times
the variance, which the average over P parts takes away again. Steps by the gradient alone (SGD) get
as far as one machine's. Optimizers that divide by the gradient's size, in which the noise prevails,
get 1 / sqrt(P) as far, and momentum m goes 1 / (1 - m) times as far in the long run: hence the
default m = 1 - 1 / sqrt(P). What is left is that parts drift apart within a round, by their noise:
more so for more parts, and for more steps, hence the default of 400 / P steps.

Sources: Stich, "Local SGD converges fast and communicates little", ICLR 2019; the outer step:
Douillard et al., "DiLoCo: distributed low-communication training of language models", 2023.
"""

from __future__ import annotations

import functools
import math
import platform
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bcenet import _dispatch, checks, kernels, lbfgs, optimizers, runs, training
from bcenet import callbacks as callbacks_
from bcenet import rows as rows_
from bcenet.config import __version__
from bcenet.errors import NonFiniteError
from bcenet.gradients import GradientPass
from bcenet.network import Network
from bcenet.objective import Objective
from bcenet.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from bcenet.history import History

MODES = ("local", "exact")
_LOCAL_BATCH = 200
_LOCAL_STEPS = 400  # of a round, divided among the parts


# ---- what is sent ------------------------------------------------------------------------------


class Part(Record):
    """Some of the rows, checked, and their place among the parts, from 0."""

    index: int
    rows: rows_.Rows


class Size(Record):
    """What a part holds: rows, the divisor of its losses, and the sum and number of its labels."""

    rows: int
    weight: float
    positive: float
    labels: int


class Request(Record):
    """A round, as its tasks need it.

    Attributes:
        build: `build` of who asks. network, optimizer: the state to start from; the optimizer is
            None where a gradient is all that is wanted.
        batch_size: rows of a local step over all parts, of which there are ``rows``.
        epoch: of the optimizer; round: of ``rounds`` in the epoch. rates: factors of the learning
            rate for an epoch of the part with the most batches, or None.
    """

    build: dict[str, str]
    network: Network
    optimizer: optimizers.Optimizer | None
    objective: Objective
    drop_rates: list[int] | None
    stage: str
    batch_size: int
    rows: int
    seed: int
    shuffle: bool
    n_threads: int
    epoch: int
    round: int
    rounds: int
    rates: np.ndarray | None


class Sums(Record):
    """What a part, or several, bring to a round.

    Attributes:
        loss, weight, penalty: sums over the rows. steps: the most that a part took.
        values: float64 arrays, each weighted by the rows; empty where no row weighs anything.
        bad: (part, batch, layer) of the first that left the finite numbers, or None.
    """

    loss: float
    weight: float
    penalty: float
    steps: int
    values: list[np.ndarray]
    bad: tuple[int, int, int] | None


def merge(a: Sums, b: Sums) -> Sums:
    """The sum of two, a being the one of earlier parts."""
    values = [x + y for x, y in zip(a.values, b.values, strict=False)]
    return Sums(
        loss=a.loss + b.loss,
        weight=a.weight + b.weight,
        penalty=a.penalty + b.penalty,
        steps=max(a.steps, b.steps),
        values=values or a.values or b.values,
        bad=a.bad or b.bad,
    )


def merge_all(*sums: Sums) -> Sums:
    """The sum of several: neighbours are added, and then their sums, until one is left."""
    leaves = list(sums)
    while len(leaves) > 1:
        pairs = [merge(*leaves[i : i + 2]) for i in range(0, len(leaves) - 1, 2)]
        leaves = pairs + leaves[len(pairs) * 2 :]
    return leaves[0]


class Cluster(Protocol):
    """Who works on the parts: `bcenet.dask` or `bcenet.mpi`."""

    def each(self, task: Callable[[Part, Any], Any], argument: Any) -> list[Any]:
        """task(part, argument) of every part, in their order."""

    def merged(self, task: Callable[[Part, Any], Sums], argument: Any) -> Sums:
        """`merge_all` of task(part, argument) of every part, in their order."""


# ---- what runs where the rows are --------------------------------------------------------------


def build() -> dict[str, str]:
    """What must be the same everywhere for the bits to be."""
    name = _dispatch.native.INSTRUCTION_SET
    fused = name != "baseline"
    return {
        "bcenet": __version__,
        "instruction set": f"{platform.machine()} {'v3 or v4' if fused else name}",
    }


def check_build(here: dict[str, str], there: dict[str, str], who: str) -> None:
    """RuntimeError where a process runs another bcenet, or computes other bits."""
    for what, value in here.items():
        if there.get(what) != value:
            raise RuntimeError(
                f"{who} must run the same {what} as the process that called fit, {value}; "
                f"it runs {there.get(what, 'none')}"
            )


def measure(part: Part, argument: tuple[Network, Objective]) -> Size:
    """The size of a part."""
    network, objective = argument
    y = part.rows.y
    masked = objective.masked and y.dtype.kind == "f"
    return Size(
        rows=part.rows.n,
        weight=lbfgs.divisor(network, part.rows, objective),
        positive=float(np.nansum(y, dtype=np.float64)) if masked else float(y.sum(dtype=float)),
        labels=int(np.count_nonzero(~np.isnan(y))) if masked else y.size,
    )


def gradient(part: Part, request: Request) -> Sums:
    """The sum of the gradients over a part's rows of this round."""
    check_build(request.build, build(), f"the worker of part {part.index}")
    first, last = _share(part.rows.n, request)
    if first == last:
        return Sums(0.0, 0.0, 0.0, 0, [], None)
    rows = part.rows
    if last - first < rows.n:
        order = _order_of(part, request)
        rows = rows.part(slice(first, last) if order is None else order[first:last])
    objective = request.objective.unpenalized()
    gradient_pass = GradientPass(request.network, rows, objective, request.n_threads)
    try:
        loss, weight, total = gradient_pass.sums(request.network.parameters)
    finally:
        gradient_pass.close()
    bad = None
    if not (math.isfinite(loss) and np.isfinite(total).all()):
        bad = (part.index, 0, len(request.network.layer_sizes) - 2)
    return Sums(loss, weight, 0.0, 1, [total], bad)


def local_steps(part: Part, request: Request) -> Sums:
    """Steps on a part's mini-batches of this round; the state after them, times their weight."""
    check_build(request.build, build(), f"the worker of part {part.index}")
    network, optimizer, rows = request.network, request.optimizer, part.rows
    assert optimizer is not None
    size = _share_of_batch(rows.n, request.rows, request.batch_size)
    batches = math.ceil(rows.n / size)
    first, last = _share(batches, request)
    if first == last:
        return Sums(0.0, 0.0, 0.0, 0, [], None)
    rates = request.rates
    if rates is not None:  # a part with fewer batches goes through them in the same time
        rates = rates[np.arange(last) * len(rates) // batches]
    engine = kernels.Engine(
        network.shape,
        network.dtype,
        size,
        request.n_threads,
        hyper=optimizer.native_hyper(),
        objective=request.objective.penalized(
            size / min(request.batch_size, request.rows)
        ).native(),
        drop_rates=request.drop_rates,
        batch_statistics=True,
    )
    held = _state(network, optimizer)
    for name, array in held:
        engine.load(name, array)
    engine.steps = optimizer.step
    try:
        passed = engine.train(
            rows.sources(),
            size,
            range(first, last),
            order=_order_of(part, request),
            rates=rates,
            stage=request.stage,
            seed=None if request.drop_rates is None else _seed_of(request.seed, part.index),
            epoch=request.epoch,
        )
    finally:
        engine.close()
    pending = engine.take_pending()
    if pending is not None:
        raise pending
    if passed.status != "done":
        layer = len(network.layer_sizes) - 2 if passed.layer < 0 else passed.layer
        return Sums(0.0, 0.0, 0.0, 0, [], (part.index, passed.batch, layer))
    values = []
    for name, array in held:
        after = np.empty_like(array)
        engine.store(name, after)
        values.append(after.astype(np.float64) * passed.weight)
    steps = engine.steps - optimizer.step
    return Sums(passed.loss, passed.weight, passed.penalty, steps, values, None)


def _state(network: Network, optimizer: optimizers.Optimizer) -> list[tuple[str, np.ndarray]]:
    """Parts of the engine, and the arrays that hold them between rounds."""
    moments = zip(("first", "second", "third"), optimizer.state.values(), strict=False)
    return [("parameters", network.parameters), ("statistics", network.statistics), *moments]


def _share_of_batch(rows: int, of: int, batch_size: int) -> int:
    """A part's rows of a batch over all parts: so that all go through their rows in as many."""
    return -(-rows * min(batch_size, of) // of)


def _share(count: int, request: Request) -> tuple[int, int]:
    """The part of an epoch that falls into a round: all parts end the epoch together."""
    i, of = request.round, request.rounds
    return count * i // of, count * (i + 1) // of


def _order_of(part: Part, request: Request) -> np.ndarray | None:
    if not request.shuffle:
        return None
    return _order(_seed_of(request.seed, part.index), request.epoch, part.rows.n)


def _seed_of(seed: int, index: int) -> int:
    """The seed of a part: of its shuffling and its dropout."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


@functools.lru_cache(maxsize=16)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    """`training.row_order`, kept for the rounds of an epoch; not to be written to."""
    return kernels.row_order(seed, epoch, n)


# ---- what runs where fit was called ------------------------------------------------------------


def fit(
    network: Any,
    cluster: Callable[[Objective], Cluster],
    *,
    mode: Any,
    batch_size: Any,
    local_steps: Any,
    outer_learning_rate: Any,
    outer_momentum: Any,
    validation_data: Any,
    callbacks: Any,
    **options: Any,
) -> History:
    """Train a network over a cluster, made once the options are checked.

    Arguments: as `bcenet.dask.fit` documents them.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bcenet.Network; got {checks.describe(network)}")
    mode = checks.choice("mode", mode, MODES)
    if batch_size is not None:
        batch_size = checks.integer("batch_size", batch_size, 1)
    if isinstance(local_steps, str):
        checks.choice("local_steps", local_steps, ("auto",))
    elif local_steps is not None:
        local_steps = checks.integer("local_steps", local_steps, 1)
    if outer_momentum is not None:
        outer_momentum = checks.number(
            "outer_momentum", outer_momentum, 0.0, 1.0, open_maximum=True
        )
    outer = _Outer(
        checks.number("outer_learning_rate", outer_learning_rate, 0.0, open_minimum=True),
        outer_momentum,
    )
    checks.integer("n_threads", options["n_threads"], 1)
    local_batch = _LOCAL_BATCH if batch_size is None else batch_size
    plan = training._plan(network, averaging=None, batch_size=local_batch, **options)
    _check_mode(mode, network, plan, batch_size)
    hooks = callbacks_.Callbacks(callbacks)
    masked = plan.objective.masked
    validation = training._check_validation(network, validation_data, masked)
    if callbacks_.shows_progress() and not hooks.show_progress:
        hooks.append(callbacks_.ProgressBar())
    course = training._Course(network, plan, hooks, validation)
    held = [network._fitting]
    if isinstance(plan.optimizer, optimizers.Optimizer):
        held.append(plan.optimizer._in_use)

    def train() -> None:
        workers = cluster(plan.objective)
        sizes = workers.each(measure, (network, plan.objective))
        if not isinstance(options["optimizer"], optimizers.Optimizer):
            _check_classes(sizes)
        run = _Run(network, plan, workers, sizes, mode, batch_size, local_steps, outer)
        course.run(lambda: run.train(course))

    kernels.exclusively(held, train)
    return course.history


def _check_mode(mode: str, network: Network, plan: training.Plan, batch_size: Any) -> None:
    if mode == "local":
        if isinstance(plan.optimizer, optimizers.LBFGS):
            raise ValueError("mode must be 'exact' with optimizer 'lbfgs'; got 'local'")
        return
    if plan.drop_rates is not None:
        raise ValueError("dropout must be 0 with mode 'exact'")
    if "batch" in network.shape.normalization:
        raise ValueError("mode must be 'local' for a network with normalization 'batch'")
    if isinstance(plan.optimizer, optimizers.LBFGS) and batch_size is not None:
        raise ValueError(f"batch_size must be None with optimizer 'lbfgs'; got {batch_size}")


def _check_classes(sizes: list[Size]) -> None:
    positive = sum(size.positive for size in sizes)
    if positive in (0.0, float(sum(size.labels for size in sizes))):
        raise ValueError(f"y must hold both classes; got only {int(positive > 0)}")


def _momentum(sizes: list[Size]) -> float:
    """1 - 1 / sqrt(P) for P equal parts: a part of a share f of the rows gets sqrt(f) as far."""
    rows = sum(size.rows for size in sizes)
    return 1.0 - math.fsum((size.rows / rows) ** 1.5 for size in sizes)


class _Outer(Record):
    """The outer step's rate and momentum, None for that which suits the parts."""

    rate: float
    momentum: float | None


class _Run:
    """One fit: the state between rounds, which the network and the optimizer hold."""

    def __init__(
        self,
        network: Network,
        plan: training.Plan,
        cluster: Cluster,
        sizes: list[Size],
        mode: str,
        batch_size: int | None,
        local_steps: int | str | None,
        outer: _Outer,
    ) -> None:
        self._network, self._plan, self._cluster = network, plan, cluster
        self._rows = sum(size.rows for size in sizes)
        self._weight = sum(size.weight for size in sizes)
        self._labels = network.layer_sizes[-1] if plan.objective.label_sum else 1
        self._exact = mode == "exact"
        self._factors = 1  # of the learning rate, in an epoch
        if self._exact:
            self._rounds = 1 if batch_size is None else math.ceil(self._rows / batch_size)
            self._factors = self._rounds
        else:
            shares = [_share_of_batch(s.rows, self._rows, plan.batch_size) for s in sizes]
            longest = max(math.ceil(s.rows / n) for s, n in zip(sizes, shares, strict=True))
            if local_steps == "auto":
                local_steps = max(_LOCAL_STEPS // len(sizes), 1)
            self._rounds = 1 if local_steps is None else math.ceil(longest / int(local_steps))
            self._factors = longest
        self._outer_rate, momentum = outer.rate, outer.momentum
        if momentum is None:
            momentum = 0.0 if isinstance(plan.optimizer, optimizers.SGD) else _momentum(sizes)
        self._outer_momentum = momentum
        self._direction = np.zeros(network.parameters.size)  # of the outer step
        self._penalty = lbfgs.Penalty(network.shape, plan.objective, 1.0)

    def train(self, course: Any) -> None:
        """Epoch after epoch, or L-BFGS."""
        plan, optimizer = self._plan, self._plan.optimizer
        if isinstance(optimizer, optimizers.LBFGS):
            gradient_pass = _ClusterPass(self, self._network)
            lbfgs.minimize_with(
                gradient_pass, self._network, self._weight, plan, course.after_epoch
            )
            return
        optimizer.begin(self._network.parameters)
        optimizer.seed = plan.seed
        if plan.schedule is not None:
            plan.schedule.begin(plan.epochs, self._rows, optimizer.epoch)
        self._engine = kernels.Engine(
            self._network.shape,
            self._network.dtype,
            1,
            1,
            hyper=optimizer.native_hyper(),
            objective=plan.objective.native(),
        )
        try:
            for _ in range(plan.epochs):
                if course.after_epoch(*self._epoch()):
                    break
        finally:
            self._engine.close()

    def request(self, network: Network, number: int = 0, rates: Any = None) -> Request:
        """A round of the epoch, from the parameters of a network."""
        plan = self._plan
        has_state = isinstance(plan.optimizer, optimizers.Optimizer)
        return Request(
            build=build(),
            network=network,
            optimizer=plan.optimizer if has_state and not self._exact else None,
            objective=plan.objective,
            drop_rates=plan.drop_rates,
            stage=plan.stage,
            batch_size=plan.batch_size,
            rows=self._rows,
            seed=plan.seed,
            shuffle=plan.shuffle,
            n_threads=plan.n_threads,
            epoch=plan.optimizer.epoch if has_state else 0,
            round=number,
            rounds=self._rounds,
            rates=rates,
        )

    def gradient(self, network: Network) -> Sums:
        """The sums over all rows, for L-BFGS."""
        return self._cluster.merged(gradient, self.request(network))

    def _epoch(self) -> tuple[float, float, float]:
        """The rounds of an epoch: its mean loss and penalty, and the last learning rate."""
        optimizer, schedule = self._plan.optimizer, self._plan.schedule
        self._engine.configure(optimizer.native_hyper())
        rates = None
        if schedule is not None:
            rates = runs.rates_of(schedule, optimizer.epoch, self._factors)
        loss = weight = penalty = 0.0
        for number in range(self._rounds):
            request = self.request(self._network, number, rates)
            if self._exact:
                sums = self._cluster.merged(gradient, request)
            else:
                sums = self._cluster.merged(local_steps, request)
            if sums.bad is not None:
                raise self._non_finite("the loss or a step is not finite", *sums.bad)
            loss, weight = loss + sums.loss, weight + sums.weight
            if sums.weight > 0:
                last = number == self._rounds - 1
                if self._exact:
                    rate = 1.0 if rates is None else float(rates[number])
                    penalty += self._optimizer_step(sums, rate, last)
                else:
                    penalty += sums.penalty
                    self._outer_step(sums, last)
            elif number == self._rounds - 1:
                optimizer.epoch += 1
        learning_rate = optimizer.learning_rate * (1.0 if rates is None else float(rates[-1]))
        return loss / weight * self._labels, penalty / weight * self._labels, learning_rate

    def _optimizer_step(self, sums: Sums, rate: float, ends_epoch: bool) -> float:
        """A step with the gradient over all parts; the penalty before it."""
        network, optimizer = self._network, self._plan.optimizer
        w = network.parameters.astype(np.float64)
        total = (sums.values[0] + self._penalty.gradient(w)) / (sums.weight / self._labels)
        for name, array in _state(network, optimizer):
            self._engine.load(name, array)
        self._engine.load("gradient", total.astype(network.dtype))
        self._engine.steps = optimizer.step
        if self._engine.update(rate) != "done":
            raise self._non_finite("the step overflowed", None, 0, 0)
        self._publish(self._engine.steps, ends_epoch)
        return self._penalty(w)

    def _outer_step(self, sums: Sums, ends_epoch: bool) -> None:
        """From the weights before the round towards the average of those after it."""
        network, optimizer = self._network, self._plan.optimizer
        rate, momentum = self._outer_rate, self._outer_momentum
        held = _state(network, optimizer)
        averages = [values / sums.weight for values in sums.values]
        difference = network.parameters - averages[0]
        direction = momentum * self._direction + difference
        averages[0] += (1 - rate) * difference - rate * momentum * direction
        for (name, array), average in zip(held, averages, strict=True):
            values = average.astype(array.dtype)
            if not np.isfinite(values).all():
                raise self._non_finite("the outer step overflowed", None, 0, 0)
            self._engine.load(name, values)
        self._direction = direction
        self._publish(optimizer.step + sums.steps, ends_epoch)

    def _publish(self, steps: int, ends_epoch: bool) -> None:
        """Network and optimizer after a round, all at once."""
        optimizer = self._plan.optimizer
        counters = [(optimizer, "step", steps), (optimizer, "epoch", optimizer.epoch + ends_epoch)]
        self._engine.publish(_state(self._network, optimizer), counters)

    def _non_finite(self, what: str, part: int | None, batch: int, layer: int) -> NonFiniteError:
        epoch = self._plan.optimizer.epoch + 1
        where = "" if part is None else f", part {part}, batch {batch}"
        return NonFiniteError(
            f"training left the finite numbers in epoch {epoch}{where}: {what}; the network holds "
            "the weights before this round (try a smaller learning_rate, or scale the columns "
            "of X)",
            epoch=epoch,
            batch=batch,
            layer=layer,
        )


class _ClusterPass:
    """`gradients.GradientPass` over all parts."""

    def __init__(self, run: _Run, network: Network) -> None:
        self._run = run
        self._at = Network.from_config(network.config(), network.parameters, network.statistics)
        self._labels = run._labels
        self._engine = kernels.Engine(network.shape, network.dtype, 0, 1)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        self._at.parameters[:] = parameters
        sums = self._run.gradient(self._at)
        if sums.bad is not None:
            return np.nan, np.full(parameters.size, np.nan)
        divisor = sums.weight / self._labels
        return sums.loss / divisor, sums.values[0] / divisor

    def publish(self, parameters: np.ndarray, to: np.ndarray) -> None:
        """Copy parameters to where others read them, in one call: never a mixture."""
        self._engine.load("parameters", parameters)
        self._engine.publish([("parameters", to)], [])

"""The epochs of one fit: an engine, the rows it takes, and what it publishes after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bcenet import checks, gradients, kernels, threads
from bcenet.errors import NonFiniteError
from bcenet.network import Network
from bcenet.rows import Rows

if TYPE_CHECKING:
    from bcenet.checkpoint import Saved, Writer
    from bcenet.training import Plan

Sums = tuple[float, float, float]  # of loss, weight and penalty, over batches of an epoch
BEGINNING: tuple[int, Sums] = (0, (0.0, 0.0, 0.0))

# In which a thread ends the item that it has begun, in seconds.
_END_OF_ITEM = 1e-4
_BETWEEN_CALLS = 0.1  # seconds, about, from telling of progress to the next time


class Run:
    """The engine of one fit, and what it publishes to the network, optimizer and averages."""

    def __init__(self, network: Network, rows: Any, plan: Plan, saved: Saved | None = None) -> None:
        self.network = network
        self.plan = plan
        self.rows = rows
        optimizer, averaging = plan.optimizer, plan.averaging
        if plan.schedule is not None and saved is None:
            plan.schedule.begin(plan.epochs, rows.n, optimizer.epoch)
        optimizer.begin(network.parameters)
        optimizer.seed = plan.seed
        self._batch_size = min(plan.batch_size, rows.n)
        self.batches = math.ceil(rows.n / self._batch_size)
        entries = rows.most_entries(self._batch_size)
        step = network._step_work(self._batch_size, entries, plan.objective.lazy)
        whole = step * self.batches * plan.epochs
        self.engine = kernels.Engine(
            network.shape,
            network.dtype,
            self._batch_size,
            threads.choose_for_steps(plan.n_threads, step, whole),
            hyper=optimizer.native_hyper(),
            objective=plan.objective.native(),
            drop_rates=plan.drop_rates,
            batch_statistics=True,
            averages=averaging is not None,
            entries=entries,
        )
        self.learning_rate = optimizer.learning_rate
        self.tell: Callable[[int], None] | None = None  # called with rows that steps were taken on
        self._piece = 64  # batches from one call of it to the next
        # What the engine holds, and where it is published to.
        states = list(zip(("first", "second", "third"), optimizer.state.values(), strict=False))
        self._held = [("statistics", network.statistics), *states]
        if averaging is None:
            self._held.append(("parameters", network.parameters))
        else:
            averaging.begin(network.parameters)
            self._held += [("parameters", averaging.raw), ("average", averaging.average)]
        # Where a bad epoch is replayed from: the same as last published, and the batches of the
        # epoch that were done then, with their sums.
        self._kept = [(part, array.copy()) for part, array in self._held]
        self._kept_at: tuple[int, Sums] = BEGINNING
        if saved is not None:
            self._take_up(saved)
        self._restore()

    def _take_up(self, saved: Saved) -> None:
        from bcenet.model_file import content_of

        with content_of(saved.path):
            for part, array in self._kept:
                array[...] = saved.tensors[part]
            at = saved.config["at"]
            batch = checks.integer("batch", at["batch"], 0, self.batches)
            loss, weight, penalty = (checks.number("sums", value) for value in at["sums"])
            self._kept_at = batch, (loss, weight, penalty)

    def _restore(self) -> None:
        for part, array in self._kept:
            self.engine.load(part, array)
        self.engine.steps = self.plan.optimizer.step
        if self.plan.averaging is not None:
            self.engine.averaged = self.plan.averaging.count
        batch, sums = self._kept_at
        self.engine.progress = (self.plan.optimizer.epoch, batch, *sums)

    def parts(self) -> dict[str, np.ndarray]:
        """What the engine holds now."""
        result = {part: np.empty_like(array) for part, array in self._kept}
        for part, array in result.items():
            self.engine.store(part, array)
        return result

    def _publish(self, epoch: int) -> None:
        """Copy all out of the engine at once, and count the epochs of the optimizer."""
        averaging = self.plan.averaging
        parts = self._kept + self._held
        counters = [
            (self.plan.optimizer, "step", self.engine.steps),
            (self.plan.optimizer, "epoch", epoch),
        ]
        if averaging is not None:
            averaged = self.engine.averaged
            counters.append((averaging, "count", averaged))
            parts.append(("average" if averaged else "parameters", self.network.parameters))
            if not averaged:
                parts.append(("parameters", averaging.average))
        self.engine.publish(parts, counters)
        self._kept_at = BEGINNING

    def done_in(self, epoch: int) -> tuple[int, Sums]:
        """Batches of an epoch of the optimizer that the engine has done, and their sums.

        They are in step with what the engine holds whenever an exception comes from a signal;
        after a bad step there are -1.
        """
        progress = self.engine.progress
        if progress is None or progress[0] != epoch:
            return BEGINNING
        return self._batch_of(progress), progress[2:]

    def _batch_of(self, progress: Any) -> int:
        """The batch of the epoch that the engine's progress means."""
        return progress[1]

    def publish_last_step(self) -> None:
        """Publish the steps of an epoch that was left, if there are any."""
        if self.done_in(self.plan.optimizer.epoch)[0] > 0:
            self._publish(self.plan.optimizer.epoch)

    def take_into_average(self, number: int) -> None:
        """Take an epoch whose steps are done into an average of epochs, unless that is done."""
        averaging, engine = self.plan.averaging, self.engine
        if averaging is None or not averaging.averages_epoch(number, self.plan.epochs):
            return
        in_checkpoint = self._kept_at[0] == self.batches
        published = engine.progress is None or engine.progress[0] != self.plan.optimizer.epoch
        if not in_checkpoint and not published and engine.averaged == averaging.count:
            engine.average()

    def close(self) -> None:
        """End the threads."""
        self.engine.close()

    def _train(
        self,
        rows: Rows,
        batches: range,
        sums: Sums,
        *,
        order: np.ndarray | None,
        rates: np.ndarray | None,
        sequence: int = -1,
    ) -> kernels.Pass:
        plan = self.plan
        while True:
            stop = batches.stop
            if self.tell is not None:
                stop = min(stop, batches.start + self._piece)
            begun = time.monotonic()
            passed = self.engine.train(
                rows.sources(),
                self._batch_size,
                range(batches.start, stop),
                sums=sums,
                order=order,
                rates=None if rates is None else rates[:stop],
                stage=plan.stage,
                seed=None if plan.drop_rates is None else plan.seed,
                epoch=plan.optimizer.epoch,
                sequence=sequence,
            )
            if self.tell is not None and passed.status == "done":
                count = stop - batches.start
                if count == self._piece and time.monotonic() - begun < _BETWEEN_CALLS:
                    self._piece *= 2
                self.tell(count * self._batch_size)
            if passed.status != "done" or stop == batches.stop:
                return passed
            batches, sums = range(stop, batches.stop), passed.sums

    def _begin_epoch(self) -> np.ndarray | None:
        """The factors of the learning rate, one a batch."""
        optimizer, schedule = self.plan.optimizer, self.plan.schedule
        rates = None
        self.learning_rate = optimizer.learning_rate
        if schedule is not None:
            rates = rates_of(schedule, optimizer.epoch, self.batches)
            self.learning_rate *= float(rates[-1])
        self.engine.configure(optimizer.native_hyper())
        return rates

    def _end_epoch(self, number: int, done: bool) -> None:
        """Publish; of a whole epoch, its average too."""
        if done:
            self.take_into_average(number)
        self._publish(self.plan.optimizer.epoch + done)

    def _means(self, sums: Sums) -> tuple[float, float]:
        """The mean loss and penalty of an epoch."""
        loss, weight, penalty = sums
        labels = self.network.layer_sizes[-1] if self.plan.objective.label_sum else 1
        return loss / weight * labels, penalty / weight * labels

    def epoch(self, number: int, writer: Writer | None) -> tuple[float, float]:
        """One epoch: its mean loss and penalty. Publishes, also before it raises."""
        plan = self.plan
        order = None
        if plan.shuffle:
            order = kernels.row_order(plan.seed, plan.optimizer.epoch, self.rows.n)
        options: dict[str, Any] = {"order": order, "rates": self._begin_epoch()}
        first, sums = self._kept_at
        all_batches = range(first, self.batches)
        passed, done, pending = self._steps(self.rows, 0, all_batches, sums, writer, **options)
        bad = passed.status != "done"
        self._end_epoch(number, done == self.batches and not bad)
        if pending is not None:
            raise pending
        if bad:
            self._raise_non_finite(passed, done, self.rows, order)
        return self._means(passed.sums)

    def _steps(
        self,
        rows: Rows,
        before: int,
        batches: range,
        sums: Sums,
        writer: Writer | None,
        **options: Any,
    ) -> tuple[kernels.Pass, int, BaseException | None]:
        """Some of an epoch's batches, with a checkpoint wherever one is due.

        Arguments:
            rows: begin with those of the batch ``before``. batches: of the epoch.
            sums: of the batches before them.

        Returns: (the last pass, the epoch's batches done, a signal's exception or None).
        """
        first, at = batches.start, sums
        while True:
            due = self.batches if writer is None else writer.next_stop(first)
            stop = min(due, batches.stop)
            passed = self._train(rows, range(first - before, stop - before), at, **options)
            pending = self.engine.take_pending()
            if pending is not None or passed.status != "done":
                break
            first, at = stop, passed.sums
            if writer is not None and stop == due < self.batches:
                writer.write()
            if stop == batches.stop:
                break
        if passed.status == "bad parameters":
            # The step is done; the state before it comes from where it was last kept.
            self._restore()
            replayed = range(batches.start - before, passed.batch)
            self._train(rows, replayed, sums, **options)
            pending = pending or self.engine.take_pending()
        done = stop if passed.status == "done" else before + passed.batch
        return passed, done, pending

    def _raise_non_finite(
        self, passed: kernels.Pass, batch: int, rows: Rows, order: np.ndarray | None
    ) -> None:
        """The error of a bad pass over rows; ``batch`` is the bad one's number in the epoch."""
        first = passed.batch * self._batch_size
        chosen: Any = slice(first, first + self._batch_size)
        if order is not None:
            chosen = order[chosen]
        what = "the step overflowed the parameters, the statistics or the optimizer's state"
        layer = passed.layer
        if passed.status == "bad loss":
            layer = gradients.first_bad_layer(self._trained(), rows.X[chosen])
            what = "the loss is not finite"
        epoch = self.plan.optimizer.epoch + 1
        raise NonFiniteError(
            f"training left the finite numbers in epoch {epoch}, batch {batch}, layer {layer}: "
            f"{what}; the network holds the weights before this step "
            "(try a smaller learning_rate, or scale the columns of X)",
            epoch=epoch,
            batch=batch,
            layer=layer,
        )

    def _trained(self) -> Network:
        """The network with the parameters that are trained, where it holds their average."""
        averaging = self.plan.averaging
        if averaging is None or averaging.raw is None:
            return self.network
        return Network.from_config(self.network.config(), averaging.raw, self.network.statistics)


class StreamRun(Run):
    """A run over a dataset: a pass of the engine for each of its windows.

    Batches are cut from the whole sequence of an epoch's rows, as if they lay in memory in its
    order: what a window leaves over is put in front of the next one.
    """

    def __init__(self, network: Network, rows: Any, plan: Plan, saved: Saved | None = None) -> None:
        self._counts: tuple[int, int] | None = None
        # (the epoch's batches before the window, the engine's progress when it began, the
        # epoch's batches done then): one tuple, which a signal sees as a whole.
        self._window: tuple[int, Any, int] = (0, None, 0)
        super().__init__(network, rows, plan, saved)
        first = plan.optimizer.epoch
        done = 0 if saved is None else saved.config["epoch"]["done"]
        over = self._kept_at[0] == self.batches  # all steps of the epoch are done
        self._reader = rows.windows(
            network.dtype,
            plan.objective.masked,
            room=self._batch_size - 1,
            seed=plan.seed,
            epochs=range(first + over, first + plan.epochs - done),
            skipped=0 if over else self._windows_done(),
            shuffle=plan.shuffle,
            at_work=self._leave_room if self.engine.threads >= threads.available() else None,
        )

    def _leave_room(self, count: int) -> None:
        """Where all processors train, one is left to the reader while it reads.

        A step waits for a thread that has no processor for as long as it has none, so that the
        other threads would do nothing either: 0.64 of memory's rate on two processors.
        """
        self.engine.rest(count)
        if count:
            time.sleep(_END_OF_ITEM)

    def _windows_done(self) -> int:
        """Windows of the epoch before that of the first row of the next batch."""
        return self._kept_at[0] * self._batch_size // self.rows.window_size

    def close(self) -> None:
        """End the threads: the engine's and the reader's."""
        try:
            super().close()
        finally:
            self._reader.close()

    def _batch_of(self, progress: Any) -> int:
        """Its batches are counted from the window's beginning, once there were steps in it."""
        before, progress_then, done_then = self._window
        if progress is progress_then:
            return done_then
        return -1 if progress[1] < 0 else before + progress[1]

    def _begin_window(self, before: int, done: int, sums: Sums) -> None:
        """Note where the epoch is, and keep what `_restore` goes back to."""
        self._window = before, self.engine.progress, done
        for part, array in self._kept:
            self.engine.store(part, array)
        self._kept_at = done - before, sums
        self._counts = self.engine.steps, self.engine.averaged

    def _restore(self) -> None:
        super()._restore()
        if self._counts is not None:
            self.engine.steps, self.engine.averaged = self._counts

    def epoch(self, number: int, writer: Writer | None) -> tuple[float, float]:
        """One epoch: its mean loss and penalty. Publishes, also before it raises."""
        size = self._batch_size
        done, sums = self._kept_at
        # A batch that began in a window which is left out is done; its rows are only room.
        before, room = divmod(self._windows_done() * self.rows.window_size, size)
        left: Any = None  # rows of the window before
        bad = False
        pending: BaseException | None = None
        try:
            rates = self._begin_epoch()
            while done < self.batches and not bad and pending is None:
                window = self._reader.next()
                if left is None:
                    left = window.part(slice(window.room - room, window.room))
                rows, order = self._with_left(window, left)
                count = -(-rows.n // size) if window.last else rows.n // size
                self._begin_window(before, done, sums)
                its_rates = None if rates is None else rates[before : before + count]
                options = {"order": order, "rates": its_rates, "sequence": before * size}
                batches = range(done, before + count)
                passed, done, pending = self._steps(rows, before, batches, sums, writer, **options)
                bad = passed.status != "done"
                sums = passed.sums
                before += count
                rest: Any = slice(count * size, None)
                if order is not None:
                    rest = order[rest]
                left = [None if array is None else array[rest].copy() for array in rows.arrays()]
                if not bad:
                    self._reader.release(window)
        except BaseException:
            self._end_epoch(number, False)
            raise
        self._end_epoch(number, done == self.batches and not bad)
        if pending is not None:
            raise pending
        if bad:
            self._raise_non_finite(passed, done, rows, order)
        return self._means(sums)

    def _with_left(self, window: Any, left: list[Any]) -> tuple[Rows, np.ndarray | None]:
        """A window's rows behind those left over, and the order of them all."""
        count = len(left[0])
        arrays = window.part(slice(window.room - count, window.room + window.rows))
        order = window.order
        if count:
            for array, before in zip(arrays, left, strict=False):
                if array is not None:
                    array[:count] = before
            if order is not None:
                order = np.concatenate([np.arange(count, dtype=order.dtype), order + count])
        return Rows(*arrays, None), order


def rates_of(schedule: Any, epoch: int, batches: int) -> np.ndarray:
    """The factors of an epoch's steps, as the engine reads them; a schedule may be the user's."""
    rates = checks.real_array("schedule.factors()", schedule.factors(epoch, batches))
    if rates.shape != (batches,):
        raise ValueError(f"schedule.factors() must have shape ({batches},); got {rates.shape}")
    rates = np.ascontiguousarray(rates, np.float64)
    kernels.check_values("schedule.factors()", rates, rates.dtype, "finite and not negative")
    return rates

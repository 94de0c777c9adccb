"""Checkpoints: a resumed fit has the bits of one that was never stopped."""

from __future__ import annotations

import copy
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    digest,
    interrupted_before_lines,
    kill_and_go_on,
    make_network,
    outcome,
    outcome_of_objects,
    problem,
)

import bcenet
from bcenet import checkpoint, model_file, schedules
from bcenet.callbacks import (
    BestWeights,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    LearningRateLogger,
    TimeLimit,
)
from bcenet.cli import main

X, Y = problem(53)
HELD_OUT = problem(20, seed=1)


def options(**changed):
    """Of a fit of 3 epochs of 6 steps; objects are made anew, because a fit changes them."""
    plain = {
        "optimizer": "adam",
        "batch_size": 10,
        "epochs": 3,
        "random_state": 3,
        "validation_data": HELD_OUT,
    }
    return copy.deepcopy(plain | changed)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.bcenet")


def interrupt_at(epoch):
    def callback(state):
        if state.epoch == epoch:
            raise KeyboardInterrupt

    return callback


def interrupted(path, network=None, *, epoch=2, callbacks=(), **changed):
    """A fit that Ctrl-C ends while the callbacks of an epoch are called."""
    network = make_network() if network is None else network
    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(
            network,
            X,
            Y,
            checkpoint=path,
            callbacks=[*callbacks, interrupt_at(epoch)],
            **options(**changed),
        )


# ------------------------------------------------------------------------- the same bits

FITS = {
    "sgd": {"optimizer": bcenet.SGD(0.1)},
    "momentum": {"optimizer": bcenet.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)},
    "adam": {"optimizer": bcenet.Adam(0.01, rate_factors={"intercepts": 0.5})},
    "adamw": {"optimizer": bcenet.AdamW(0.01)},
    "amsgrad": {"optimizer": bcenet.AMSGrad(0.01)},
    "rmsprop": {"optimizer": bcenet.RMSprop(0.01)},
    "lion": {"optimizer": bcenet.Lion(0.001)},
    "dropout": {"dropout": [0.3, 0.1]},
    "EMA": {"averaging": bcenet.EMA(0.9)},
    "SWA": {"averaging": bcenet.SWA(0.3)},
    "penalties and bounds": {"l1": 0.1, "l2": 0.2, "clip_norm": 0.1, "max_norm": 1.0},
    "focal": {"loss": "focal", "pos_weight": 2.0, "label_smoothing": 0.1},
    "as they lie": {"shuffle": False, "label_reduction": "sum"},
    **{name: {"schedule": name} for name in schedules.BY_NAME},
    "warm-up, then cosine": {"schedule": schedules.WarmUp(1.5, after="cosine")},
    "adaptive, divided": {"schedule": schedules.Adaptive(patience=0, tol=10.0), "epochs": 4},
}
assert {fit["optimizer"]._rule for fit in FITS.values() if "optimizer" in fit} >= set(
    bcenet.kernels.rule_names()
)


def check_resume_at_every_step(every_checkpoint, path, network, changed, X=X, y=Y):
    """Run a fit with a checkpoint a step, and go on from each of them."""
    callbacks = [BestWeights(), EarlyStopping(patience=50), LearningRateLogger()]
    changed = {"optimizer": bcenet.Adam(0.01)} | changed
    plain = options(**changed)
    expected = network.astype(network.dtype)
    history = bcenet.fit(expected, X, y, callbacks=callbacks, **plain)
    wanted = outcome(expected, history)
    wanted += outcome_of_objects(plain["optimizer"], plain.get("averaging"))
    wanted += [callbacks[0].best, callbacks[0].best_epoch, callbacks[2].learning_rates]

    history = bcenet.fit(
        network,
        X,
        y,
        callbacks=[BestWeights(), EarlyStopping(patience=50), LearningRateLogger()],
        checkpoint=path,
        checkpoint_every=1,
        **options(**changed),
    )
    assert outcome(network, history) == wanted[:5]
    steps = -(-len(X) // plain["batch_size"]) * len(history.loss)
    assert len(every_checkpoint) == steps
    for content in every_checkpoint[:]:
        with open(path, "wb") as file:
            file.write(content)
        callbacks = [BestWeights(), EarlyStopping(patience=50), LearningRateLogger()]
        resumed = bcenet.resume(
            path,
            X,
            y,
            validation_data=plain["validation_data"],
            callbacks=callbacks,
            checkpoint_every=10**6,
        )
        assert [
            *outcome(resumed.network, resumed.history),
            *outcome_of_objects(resumed.optimizer, resumed.averaging),
            callbacks[0].best,
            callbacks[0].best_epoch,
            callbacks[2].learning_rates,
        ] == wanted
        assert repr(resumed.optimizer) == repr(plain["optimizer"])
        assert repr(resumed.schedule) == repr(
            None if resumed.schedule is None else schedules.resolve(plain["schedule"])
        )


@pytest.mark.parametrize("name", FITS)
def test_d4_resumed_at_any_step_equals_uninterrupted(every_checkpoint, path, name):
    check_resume_at_every_step(every_checkpoint, path, make_network(), FITS[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_d4_normalised_networks(every_checkpoint, path, dtype):
    network = make_network(
        (7, 6, 5, 1), dtype=dtype, normalization=["batch", "layer"], feature_scale=True
    )
    changed = {"dropout": 0.2, "averaging": bcenet.EMA(0.9)}
    check_resume_at_every_step(every_checkpoint, path, network, changed)


def test_d4_labels_weights_and_offsets(tmp_path):
    """Three labels, some of them missing, some rows that weigh nothing, and a part's offset."""
    X, y = problem(53, outputs=3)
    y[::5, 1] = np.nan
    rng = np.random.default_rng(0)
    weight = rng.uniform(size=53)
    order = bcenet.training.row_order(3, 0, 53)
    weight[order[10:20]] = 0  # the whole second batch: its step is skipped
    given = {"sample_weight": weight, "offset": rng.normal(size=(53, 3))}
    changed = {
        "missing_labels": "ignore",
        "pos_weight": [1.0, 2.0, 3.0],
        "validation_data": (X[:20], y[:20], weight[:20] + 1, given["offset"][:20]),
    }
    expected = make_network((7, 5, 3))
    wanted = outcome(expected, bcenet.fit(expected, X, y, **given, **options(**changed)))
    for batch in range(1, 18):
        path = str(tmp_path / f"{batch}.bcenet")
        network = make_network((7, 5, 3))
        count = [0]
        real = checkpoint.Writer.write

        def write(writer, real=real, count=count, batch=batch):
            real(writer)
            count[0] += 1
            if count[0] == batch:
                raise SystemExit

        place = {"checkpoint": path, "checkpoint_every": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint.Writer, "write", write)
            with pytest.raises(SystemExit):
                bcenet.fit(network, X, y, **place, **given, **options(**changed))
        resumed = bcenet.resume(path, X, y, **given, validation_data=changed["validation_data"])
        assert outcome(resumed.network, resumed.history) == wanted


def test_d4_an_optimizer_and_a_schedule_with_a_past(path):
    """Checkpoints of a second fit with the same objects; and a third one after it."""
    network = make_network()
    objects = {"optimizer": bcenet.AdamW(0.01), "schedule": schedules.Cosine(epochs=9)}
    bcenet.fit(network, X, Y, **(options() | objects))
    again, theirs = network.astype("float64"), copy.deepcopy(objects)
    bcenet.fit(network, X, Y, **(options() | objects))
    history = bcenet.fit(network, X, Y, **(options() | objects))

    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(
            again,
            X,
            Y,
            checkpoint=path,
            callbacks=interrupt_at(1),
            **(options() | theirs | {"random_state": None}),
        )
    second = bcenet.resume(path, X, Y, validation_data=HELD_OUT)
    theirs = {"optimizer": second.optimizer, "schedule": second.schedule}
    third = bcenet.fit(second.network, X, Y, **(options() | theirs))
    assert outcome(second.network, third) == outcome(network, history)


@pytest.mark.parametrize("every", [1, 2, 5, 6, 7, 100, None])
def test_the_cadence_changes_no_bit(every_checkpoint, path, every):
    expected, network = make_network(), make_network()
    wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
    history = bcenet.fit(network, X, Y, checkpoint=path, checkpoint_every=every, **options())
    assert outcome(network, history) == wanted
    steps = 18
    assert len(every_checkpoint) == -(-steps // (every or 6))  # the last one at the end


def test_d1_resumed_with_other_threads(path):
    expected = make_network()
    wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
    for first, second in [(1, 3), (4, 1), (2, 8)]:
        interrupted(path, n_threads=first)
        resumed = bcenet.resume(path, X, Y, validation_data=HELD_OUT, n_threads=second)
        assert outcome(resumed.network, resumed.history) == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_d2_the_data_may_lie_otherwise(path, layout):
    expected = make_network()
    wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
    interrupted(path)
    other = [LAYOUTS[layout](array) for array in (X, Y)]
    resumed = bcenet.resume(path, *other, validation_data=HELD_OUT)
    assert outcome(resumed.network, resumed.history) == wanted


def test_d2_begun_on_one_instruction_set_and_ended_on_another(path):
    fused = [name for name in bcenet._dispatch.available() if name != "baseline"]
    if len(fused) < 2:
        pytest.skip("needs a processor with both x86-64-v3 and x86-64-v4")
    expected = make_network()
    wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
    for first, second in (fused, fused[::-1]):
        with bcenet._dispatch.use(first):
            interrupted(path)
        with bcenet._dispatch.use(second):
            resumed = bcenet.resume(path, X, Y, validation_data=HELD_OUT)
        assert outcome(resumed.network, resumed.history) == wanted


def test_the_fingerprint_is_that_of_the_values_in_c_order():
    """An array of several blocks, the last one short; and one whose rows are longer than one."""
    rng = np.random.default_rng(0)
    for shape in [(300_001, 1), (3, 200_000)]:
        array = rng.normal(size=shape)
        wanted = hashlib.sha256(array.astype("<f8").tobytes()).hexdigest()
        for layout in ("fortran", "strided", "byte-swapped"):
            found = checkpoint._fingerprint(LAYOUTS[layout](array))
            assert found == {"shape": list(shape), "dtype": "float64", "sha256": wanted}


# ------------------------------------------------------------------------ interrupted fits


def interrupt_at_every_line(path, first, step):
    """What came of fits that were interrupted before line ``first`` and every so many more."""
    changed = {"averaging": bcenet.SWA(0.3), "schedule": "adaptive", "n_threads": 1}
    expected = make_network()
    wanted = outcome(
        expected, bcenet.fit(expected, X, Y, callbacks=BestWeights(), **options(**changed))
    )

    def fit():
        given = {"callbacks": BestWeights(), "checkpoint": path, "checkpoint_every": 4}
        bcenet.fit(make_network(), X, Y, **given, **options(**changed))

    def resume():
        given = {"validation_data": HELD_OUT, "callbacks": BestWeights(), "n_threads": 1}
        resumed = bcenet.resume(path, X, Y, **given)
        return outcome(resumed.network, resumed.history)

    return interrupted_before_lines(range(first, 10**6, step), path, fit, resume, wanted)


# Between the epochs; inside, a step that is a multiple of 4; and after an epoch's last step.
PLACES = {(0, 0), (0, 4), (0, 6), (1, 0), (1, 2), (1, 6), (2, 0), (2, 4), (2, 6), (3, 0)}


def test_s2_an_interrupt_before_any_line_leaves_a_checkpoint_to_go_on_from(path):
    assert interrupt_at_every_line(path, 1, 23) == PLACES


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 24))
def test_s2_an_interrupt_before_every_line(path, first):
    assert interrupt_at_every_line(path, first, 23) == PLACES


def test_s2_an_interrupt_inside_the_engine(path):
    """A signal while a step is computed: the last whole step is written, and published."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 50))
    y = (X[:, 0] > 0).astype(float)
    given = {"batch_size": 1000, "epochs": 3, "random_state": 0, "n_threads": 1}
    expected = bcenet.Network([50, 300, 300, 1], random_state=0)
    wanted = outcome(expected, bcenet.fit(expected, X, y, **given))
    places = set()
    for delay in (0.02, 0.05, 0.09, 0.14):
        network = bcenet.Network([50, 300, 300, 1], random_state=0)

        def begin_the_clock(state, delay=delay):
            signal.setitimer(signal.ITIMER_REAL, delay)

        class Begin:
            on_fit_begin = staticmethod(begin_the_clock)

        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            bcenet.fit(
                network,
                X,
                y,
                checkpoint=path,
                checkpoint_every=10**6,
                callbacks=Begin(),
                **given,
            )
        except KeyboardInterrupt:
            saved = checkpoint.read(path)
            places.add((saved.config["epoch"]["done"], saved.config["at"]["batch"]))
            assert digest(saved.tensors["parameters"]) == digest(network.parameters)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resumed = bcenet.resume(path, X, y)
        assert outcome(resumed.network, resumed.history) == wanted
    assert places  # where they are depends on the machine


def test_what_ends_a_process_writes_and_other_exceptions_do_not(path):
    def end(state):
        raise SystemExit(3)

    def fail(state):
        raise RuntimeError("a mistake")

    for callback, error in [(end, SystemExit), (fail, RuntimeError)]:
        with pytest.raises(error):
            bcenet.fit(make_network(), X, Y, checkpoint=path, callbacks=callback, **options())
        assert os.path.exists(path) == (error is SystemExit)
        if error is SystemExit:
            os.unlink(path)


@pytest.mark.parametrize("every", [1, 4])
def test_divergence_is_the_same_error_with_the_same_weights(every, path):
    """Step 0 has the rate 0, step 1 overflows: found after a checkpoint, replayed from it."""
    bad = {
        "optimizer": bcenet.SGD(1e308, weight_decay=1e10),
        "schedule": schedules.CosLog4(epochs=3),
    }
    found = []
    for place in (None, path):
        network = make_network()
        given = {} if place is None else {"checkpoint": place, "checkpoint_every": every}
        with pytest.raises(bcenet.NonFiniteError) as caught:
            bcenet.fit(network, X, Y, **given, **options(**bad))
        found.append((str(caught.value), digest(network.parameters)))
        assert (caught.value.epoch, caught.value.batch) == (1, 1)
    assert os.path.exists(path) == (every == 1)
    if every == 1:
        assert checkpoint.read(path).config["at"]["batch"] == 1
        with pytest.raises(bcenet.NonFiniteError) as caught:
            bcenet.resume(path, X, Y, validation_data=HELD_OUT)
        found.append((str(caught.value), found[0][1]))
    assert len(set(found)) == 1


# ------------------------------------------------------------------------------ callbacks


def test_early_stopping_counts_on_and_a_stopped_fit_stays_so(every_checkpoint, path):
    def callbacks():
        return [EarlyStopping(monitor, patience=2, min_delta=0.3), BestWeights(monitor)]

    monitor = "loss"
    expected, network = make_network(), make_network()
    wanted = outcome(
        expected, bcenet.fit(expected, X, Y, callbacks=callbacks(), **options(epochs=30))
    )
    assert 2 < len(json.loads(wanted[2])) < 30
    bcenet.fit(network, X, Y, callbacks=callbacks(), checkpoint=path, **options(epochs=30))
    for content in every_checkpoint[:]:
        with open(path, "wb") as file:
            file.write(content)
        given = callbacks()
        resumed = bcenet.resume(path, X, Y, validation_data=HELD_OUT, callbacks=given)
        assert outcome(resumed.network, resumed.history) == wanted
        assert given[0].stopped_epoch == len(resumed.history.loss)


def test_a_best_checkpoint_callback_remembers_the_best(path, tmp_path):
    values = iter([3.0, 1.0, 2.0, 0.5])
    files = str(tmp_path / "best-{epoch}.bcenet")
    monitor = lambda state: next(values)  # noqa: E731
    save = Checkpoint(files, best=True, monitor=monitor)
    interrupted(path, epoch=3, callbacks=[save], epochs=4, checkpoint_every=6)
    values = iter([2.0, 0.5])  # the third epoch is measured again
    again = Checkpoint(files, best=True, monitor=lambda state: next(values))
    bcenet.resume(path, X, Y, validation_data=HELD_OUT, callbacks=again)
    assert sorted(name for name in os.listdir(tmp_path) if "best" in name) == [
        f"best-{epoch}.bcenet" for epoch in (1, 2, 4)
    ]


def test_a_csv_log_goes_on(path, tmp_path):
    def rows(name):
        with open(tmp_path / name) as file:
            return [{**row, "seconds": ""} for row in csv.DictReader(file)]

    bcenet.fit(make_network(), X, Y, callbacks=CSVLog(tmp_path / "whole.csv"), **options(epochs=5))
    interrupted(path, epoch=3, callbacks=[CSVLog(tmp_path / "parts.csv")], epochs=5)
    assert len(rows("parts.csv")) == 3
    log = CSVLog(tmp_path / "parts.csv")
    bcenet.resume(path, X, Y, validation_data=HELD_OUT, callbacks=log)
    assert rows("parts.csv") == rows("whole.csv")

    interrupted(path, epoch=3, callbacks=[log], epochs=5)
    log.path = str(tmp_path / "other.csv")
    with open(log.path, "w") as file:
        file.write("epoch\n")
    with pytest.raises(ValueError, match="path must name the log of the checkpoint's fit"):
        bcenet.resume(path, X, Y, validation_data=HELD_OUT, callbacks=log)


def test_callbacks_of_ones_own(path):
    class Mean:
        """Keeps an array, and what JSON has no word for."""

        def on_fit_begin(self, state):
            self.sum, self.lowest, self.seen = np.zeros(3), float("inf"), []

        def on_fit_resume(self, state, saved):
            assert state.epoch == 2
            assert state.loss == state.history.loss[-1]
            self.sum, self.lowest = saved["sum"].copy(), saved["lowest"]
            self.seen = list(saved["seen"])

        def checkpoint_state(self):
            return {"sum": self.sum.copy(), "lowest": self.lowest, "seen": self.seen}

        def on_epoch_end(self, state):
            self.sum += state.loss
            self.seen.append(np.float64(state.loss))

    whole, first, second = Mean(), Mean(), Mean()
    bcenet.fit(make_network(), X, Y, callbacks=whole, **options())
    epochs = []
    interrupted(path, epoch=3, callbacks=[first])
    bcenet.resume(
        path,
        X,
        Y,
        validation_data=HELD_OUT,
        callbacks=[lambda state: epochs.append(state.epoch), second],
    )
    assert epochs == [3]
    assert second.sum.tolist() == whole.sum.tolist()
    assert (second.lowest, second.seen) == (float("inf"), whole.seen)

    class Unfit(Mean):
        def checkpoint_state(self):
            return {"what": object()}

    with pytest.raises(TypeError, match=r"Unfit\.checkpoint_state\(\)\['what'\] must consist of"):
        bcenet.fit(make_network(), X, Y, callbacks=Unfit(), checkpoint=path, **options())


def test_time_goes_on(path):
    seconds = []
    interrupted(path, epoch=3, callbacks=[lambda state: time.sleep(0.02)])
    bcenet.resume(
        path,
        X,
        Y,
        validation_data=HELD_OUT,
        callbacks=[lambda state: seconds.append(state.seconds)],
    )
    assert seconds[0] >= 0.02
    interrupted(path, epoch=2, callbacks=[lambda state: time.sleep(0.02)], epochs=1000)
    limit = TimeLimit(0.02)
    resumed = bcenet.resume(path, X, Y, validation_data=HELD_OUT, callbacks=limit)
    assert limit.stopped_epoch == len(resumed.history.loss) == 2


# -------------------------------------------------------------------------- files, folders


def test_a_folder_keeps_the_last_two(tmp_path):
    folder = tmp_path / "new" / "run"
    interrupted(f"{folder}{os.sep}", checkpoint_every=4)
    assert sorted(os.listdir(folder)) == [
        "checkpoint-000001-000000002.bcenet",
        "checkpoint-000001-000000006.bcenet",
    ]
    expected = make_network()
    wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
    for name in ["", *sorted(os.listdir(folder))]:
        there = tmp_path / "copy"
        shutil.copytree(folder, there)
        (there / ".bcenet-0123456789abcdef.tmp").write_bytes(b"left by a killed process")
        resumed = bcenet.resume(there / name, X, Y, validation_data=HELD_OUT)
        assert outcome(resumed.network, resumed.history) == wanted
        assert sorted(os.listdir(there)) == [
            "checkpoint-000002-000000004.bcenet",
            "checkpoint-000003-000000000.bcenet",
        ]
        shutil.rmtree(there)
    with pytest.raises(ValueError, match="checkpoint must be a folder without checkpoints"):
        bcenet.fit(make_network(), X, Y, checkpoint=folder, **options())


def test_a_new_fit_replaces_the_file_of_an_old_one_at_once(path):
    """Killed in its first epoch, it must not be taken for the old one, which was over."""
    bcenet.fit(make_network(), X, Y, checkpoint=path, **options())
    network = make_network(seed=2)
    interrupted(path, network.astype("float64"), epoch=1, optimizer="sgd", checkpoint_every=100)
    saved = checkpoint.read(path)
    assert (saved.config["epoch"]["done"], saved.config["at"]["batch"]) == (0, 6)

    class Killed(BaseException):
        pass

    def kill(state):
        raise Killed

    with pytest.raises(Killed):
        bcenet.fit(
            network.astype("float64"), X, Y, checkpoint=path, callbacks=kill, **options(epochs=9)
        )
    saved = checkpoint.read(path)
    assert (saved.config["epoch"]["done"], saved.config["at"]["batch"]) == (0, 0)
    assert digest(saved.tensors["parameters"]) == digest(network.parameters)


def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path):
    interrupted(f"{tmp_path}{os.sep}", checkpoint_every=4)
    older, newer = sorted(tmp_path.iterdir())
    newer.write_bytes(newer.read_bytes()[:-1])
    expected = make_network()
    wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
    with pytest.warns(UserWarning, match=f"{newer.name}: .*; going on from .*{older.name}"):
        assert checkpoint.read(tmp_path).path == str(older)
    with pytest.warns(UserWarning, match="going on from"):
        resumed = bcenet.resume(tmp_path, X, Y, validation_data=HELD_OUT)
    assert outcome(resumed.network, resumed.history) == wanted
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with pytest.raises(bcenet.ModelFormatError, match="checkpoint-000003-000000000"):
        bcenet.resume(tmp_path, X, Y)


def test_c3_a_disk_that_is_full_leaves_the_checkpoint_before(path, monkeypatch):
    """Each system call of the third checkpoint fails in its turn."""
    for name in ("write", "fsync", "replace", "open"):
        real, calls = getattr(os, name), []
        with monkeypatch.context() as patch:
            per_file = []

            def counted(*arguments, real=real, calls=calls, per_file=per_file, **named):
                calls.append(arguments)
                if len(calls) == 2 * (per_file or [10**6])[0] + 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*arguments, **named)

            patch.setattr(os, name, counted)
            model_file.write(path, {"a": X}, {"kind": "network", "config": {}})
            per_file.append(len(calls))
            calls.clear()
            os.unlink(path)
            with pytest.raises(OSError, match="No space left") as caught:
                bcenet.fit(make_network(), X, Y, checkpoint=path, **options())
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
        assert checkpoint.read(path).config["epoch"]["done"] == 2
        expected = make_network()
        wanted = outcome(expected, bcenet.fit(expected, X, Y, **options()))
        resumed = bcenet.resume(path, X, Y, validation_data=HELD_OUT)
        assert outcome(resumed.network, resumed.history) == wanted


def test_an_interrupt_is_told_even_if_its_checkpoint_can_not_be_written(path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def interrupt(state):
        monkeypatch.setattr(os, "write", full)
        raise KeyboardInterrupt

    with (
        pytest.warns(UserWarning, match="the last checkpoint was not written: .*No space left"),
        pytest.raises(KeyboardInterrupt),
    ):
        bcenet.fit(make_network(), X, Y, checkpoint=path, callbacks=interrupt, **options())
    assert os.listdir(os.path.dirname(path)) == []


# ---------------------------------------------------------------------------- kill -9 (C1)

_KILLED = """
import sys
import bcenet
from test_checkpoint import KILLED_FIT, X, Y, HELD_OUT, make_network, options
from bcenet.callbacks import BestWeights
from helpers import Begun, checkpoints_in, digest

folder = sys.argv[1]
callbacks = [BestWeights(), Begun()]
if checkpoints_in(folder):
    network = bcenet.resume(
        folder, X, Y, validation_data=HELD_OUT, callbacks=callbacks
    ).network
else:
    network = make_network()
    bcenet.fit(network, X, Y, callbacks=callbacks, checkpoint=folder + "/",
               checkpoint_every=1, **options(**KILLED_FIT))
print(digest(network.parameters))
"""
KILLED_FIT = {"epochs": 40, "dropout": 0.1, "schedule": "cosine"}


def kill(folder, kills, seed):
    network = make_network()
    bcenet.fit(network, X, Y, callbacks=BestWeights(), **options(**KILLED_FIT))

    def resume(there):
        given = {"validation_data": HELD_OUT, "callbacks": BestWeights()}
        resumed = bcenet.resume(there, X, Y, checkpoint_every=10**6, **given)
        return digest(resumed.network.parameters)

    kill_and_go_on(_KILLED, folder, kills, seed, resume, digest(network.parameters))


def test_c1_a_killed_fit_goes_on(tmp_path):
    kill(tmp_path / "run", 10, seed=0)


@pytest.mark.slow
def test_c1_500_kills(tmp_path):
    kill(tmp_path / "run", 500, seed=1)


# ------------------------------------------------------------------------ what differs (C6)


def changed_copy(array, value=0.5):
    array = array.copy()
    array[-1] = value
    return array


WEIGHT = np.linspace(0.5, 1.5, len(X))
REFUSED = {
    "X's last value": ({"X": changed_copy(X)}, "X must hold the values of the checkpoint's fit"),
    "y's last value": ({"y": changed_copy(Y)}, "y must hold the values of the checkpoint's fit"),
    "fewer rows": (
        {"X": X[:-1], "y": Y[:-1], "sample_weight": WEIGHT[:-1]},
        r"X must have the shape of the checkpoint's fit, \(53, 7\); got \(52, 7\)",
    ),
    "X's dtype": (
        {"X": X.astype("float32")},
        "X must have the dtype of the checkpoint's fit, float64; got float32",
    ),
    "more columns": ({"X": np.hstack([X, X])}, r"X must have shape \(n, 7\); got \(53, 14\)"),
    "no weights": ({"sample_weight": None}, "sample_weight must be given, as in the checkpoint"),
    "other weights": (
        {"sample_weight": changed_copy(WEIGHT)},
        "sample_weight must hold the values",
    ),
    "offset": ({"offset": WEIGHT}, "offset must be None, as in the checkpoint's fit"),
    "no validation": ({"validation_data": None}, "validation_data must be given, as in"),
    "other validation": (
        {"validation_data": (HELD_OUT[0], changed_copy(HELD_OUT[1]))},
        r"validation_data\.y must hold the values",
    ),
    "weighted validation": (
        {"validation_data": (*HELD_OUT, HELD_OUT[1] + 1)},
        r"validation_data\.sample_weight must be None",
    ),
    "no callbacks": (
        {"callbacks": ()},
        "callbacks must be those of the checkpoint's fit, in their order: EarlyStopping, "
        "BestWeights; got none",
    ),
    "callbacks in another order": (
        {"callbacks": [BestWeights(), EarlyStopping()]},
        "got BestWeights, EarlyStopping",
    ),
    "a callback's option": (
        {"callbacks": [EarlyStopping(patience=3), BestWeights()]},
        "EarlyStopping must have patience=10, as in the checkpoint's fit; got 3",
    ),
    "what a callback monitors": (
        {"callbacks": [EarlyStopping(), BestWeights("loss")]},
        "BestWeights must have monitor='validation_loss'",
    ),
}


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("checkpoint") / "run.bcenet")
    callbacks = [EarlyStopping(), BestWeights()]
    interrupted(path, callbacks=callbacks, sample_weight=WEIGHT, averaging=bcenet.EMA(0.9))
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_c6_other_data_or_callbacks_are_refused(checkpointed, name):
    changed, message = REFUSED[name]
    given = {
        "X": X,
        "y": Y,
        "sample_weight": WEIGHT,
        "validation_data": HELD_OUT,
        "callbacks": [EarlyStopping(), BestWeights()],
    }
    before = Path(checkpointed).read_bytes()
    with pytest.raises(ValueError, match=message):
        bcenet.resume(checkpointed, **(given | changed))
    assert Path(checkpointed).read_bytes() == before


def test_c6_another_version_is_refused(checkpointed, monkeypatch):
    monkeypatch.setattr(checkpoint, "__version__", "9.9")
    with pytest.raises(
        bcenet.ModelFormatError, match=f"written by bcenet {bcenet.__version__}, and this is 9.9"
    ):
        bcenet.resume(checkpointed, X, Y)


def test_c5_damaged_files_and_other_files_are_refused(checkpointed, tmp_path):
    with open(checkpointed, "rb") as file:
        content = file.read()
    path = tmp_path / "bad.bcenet"
    for position in range(0, len(content), 97):
        path.write_bytes(content[:position])
        with pytest.raises(bcenet.ModelFormatError):
            bcenet.resume(path, X, Y)
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(bcenet.ModelFormatError):
            bcenet.resume(path, X, Y)
    make_network().save(path)
    with pytest.raises(bcenet.ModelFormatError, match="holds a 'network', not a 'checkpoint'"):
        bcenet.resume(path, X, Y)
    with pytest.raises(bcenet.ModelFormatError, match=r"holds a 'checkpoint'.*bcenet\.resume"):
        bcenet.load(checkpointed)
    for absent in (tmp_path / "absent", tmp_path):
        path.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            bcenet.resume(absent, X, Y)


def put(*keys, value):
    def change(tensors, config):
        part = config
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


def put_tensor(name, value):
    def change(tensors, config):
        tensors[name] = value(tensors[name])

    return change


NONSENSE = {
    "no such optimizer": put("configuration", "optimizer", "name", value="os.system"),
    "no such loss": put("configuration", "objective", "loss", value="absent"),
    "a negative rate": put("epoch", "hyper", "learning_rate", value=-1.0),
    "an unknown hyperparameter": put("epoch", "hyper", "power", value=1.0),
    "steps below 0": put("at", "step", value=-1),
    "a step too far": put("at", "batch", value=7),
    "a text for a batch": put("at", "batch", value="1"),
    "sums of two": put("at", "sums", value=[1.0, 1.0]),
    "more epochs than asked": put("epoch", "done", value=4),
    "a smoothing above 1": put("configuration", "objective", "smoothing", value=7.0),
    "other sizes": put("configuration", "network", "layer_sizes", value=[7, 6, 6, 1]),
    "an average of texts": put("configuration", "averaging", "decay", value="0.9"),
    "an unknown schedule": put("configuration", "schedule", value={"name": "absent"}),
    "a dropout rate of 2": put("configuration", "dropout", value=[2.0, 0.0, 0.0]),
    "a dropout rate too many": put("configuration", "dropout", value=[0.5] * 4),
    "a seed too large": put("configuration", "seed", value=2**64),
    "an unknown part": put("more", value=1),
    "callbacks without names": put("epoch", "callbacks", value=[{"state": {}}]),
    "a text for a truth": put("epoch", "stopped", value="no"),
    "L-BFGS": put("configuration", "optimizer", "name", value="lbfgs"),
    "no counters": put("epoch", value={}),
    "NaN parameters": put_tensor("parameters", lambda a: a * np.nan),
    "a short state": put_tensor("first", lambda a: a[:-1].copy()),
    "another dtype": put_tensor("second", lambda a: a.astype("float32")),
    "a long average": put_tensor("average", lambda a: np.append(a, 0.0)),
    "a history in columns": put_tensor("history.loss", lambda a: a[:, np.newaxis].copy()),
    "a history too long": put_tensor("history.loss", lambda a: np.append(a, 1.0)),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_m1_nonsense_with_a_right_digest_is_refused(checkpointed, tmp_path, name):
    tensors, metadata = model_file.read(checkpointed)
    NONSENSE[name](tensors, metadata["config"])
    path = tmp_path / "bad.bcenet"
    model_file.write(path, tensors, metadata)
    with pytest.raises(bcenet.ModelFormatError, match=re.escape(str(path))):
        bcenet.resume(
            path,
            X,
            Y,
            sample_weight=WEIGHT,
            validation_data=HELD_OUT,
            callbacks=[EarlyStopping(), BestWeights()],
        )


def test_bad_arguments(path, tmp_path):
    class Mine(bcenet.SGD):
        pass

    class Own(schedules.Constant):
        pass

    def fit(**given):
        bcenet.fit(make_network(), X, Y, **(options() | {"checkpoint": path} | given))

    for given, error, message in [
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path; got 3"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1; got 0"),
        ({"checkpoint_every": 1.5}, TypeError, "checkpoint_every must be an integer; got 1.5"),
        (
            {"checkpoint": None, "checkpoint_every": 1},
            ValueError,
            "checkpoint_every must be None without checkpoint; got 1",
        ),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must not be L-BFGS with checkpoint"),
        ({"optimizer": Mine()}, ValueError, "optimizer must be one of bcenet's own with check"),
        ({"schedule": Own()}, ValueError, "schedule must be one of bcenet's own with check"),
        ({"checkpoint": tmp_path / "no" / "file"}, FileNotFoundError, "No such file"),
    ]:
        with pytest.raises(error, match=message):
            fit(**given)
    with pytest.raises(TypeError, match="path must be a path; got None"):
        bcenet.resume(None, X, Y)
    assert os.listdir(tmp_path) == []


def test_import_brings_no_checkpoints():
    code = "import sys, bcenet; print('bcenet.checkpoint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ----------------------------------------------------------------------------- the command


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["size", "colour", "answer"])
    for _ in range(400):
        size, red = rng.normal(), rng.random() < 0.5
        answer = rng.random() < 1 / (1 + np.exp(-2 * size - red))
        lines.writerow([f"{size:.4f}", "red" if red else "blue", "yes" if answer else "no"])
    path = tmp_path / "data.csv"
    path.write_text(text.getvalue())
    return str(path)


# Their lines are far more than two pipes hold, so a command that is to be stopped twice can't be
# through before its lines are read, however busy the machine is.
EPOCHS = 6000


def train_arguments(table, model, *more):
    most = str(EPOCHS)
    given = ["--target", "answer", "--model", str(model), "--epochs", most, "--patience", most]
    return ["train", table, *given, "--dropout", "0.1", "--schedule", "cosine", *map(str, more)]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_s2_a_signal_leaves_a_checkpoint_and_resume_the_same_model(
    table, tmp_path, capsys, number, status
):
    assert main(train_arguments(table, tmp_path / "whole.bcenet", "--quiet")) == 0
    folder, model = tmp_path / "run", tmp_path / "parts.bcenet"
    place = ["--checkpoint", folder, "--checkpoint-every", 10**6]
    for _ in range(2):  # a resumed training can be stopped too
        command = [sys.executable, "-m", "bcenet", *train_arguments(table, model, *place)]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            lines = (line for line in process.stderr if line.startswith("epoch "))
            for _ in range(3):
                next(lines)
            process.send_signal(number)
            assert "Traceback" not in process.stderr.read()
        assert process.returncode == status
        assert not model.exists()
        saved = checkpoint.read(folder)
        assert 2 <= saved.config["epoch"]["done"] < EPOCHS
        place = ["--resume", folder]
    capsys.readouterr()
    assert main(train_arguments(table, model, "--resume", folder)) == 0
    assert "epoch 3/" not in capsys.readouterr().err
    assert model.read_bytes() == (tmp_path / "whole.bcenet").read_bytes()
    model.unlink()  # killed before it was written: nothing is trained again
    assert main(train_arguments(table, model, "--resume", folder, "--threads", 2)) == 0
    assert f"epoch {EPOCHS}/" not in capsys.readouterr().err
    assert model.read_bytes() == (tmp_path / "whole.bcenet").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(table, folder of checkpoints) of a short training."""
    tmp_path = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in rng.normal(size=(100, 2))]
    table = tmp_path / "data.csv"
    table.write_text("\n".join(["a,b,c", *rows]))
    folder = tmp_path / "run"
    arguments = ["train", table, "--target", "c", "--epochs", 2, "--checkpoint", folder, "--quiet"]
    assert main([str(argument) for argument in arguments]) == 0
    return table, folder


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seed", 1], "seed was 0 there and is 1"),
        (["--epochs", 3], "epochs was 2 there and is 3"),
        (
            ["--hidden", "8"],
            r"network\.layer_sizes was \[\d+, 64, 32, 1\] there and is \[\d+, 8, 1\]",
        ),
        (["--activation", "relu"], r"network\.activations was "),
        (["--dtype", "float64"], r"network\.dtype was 'float32' there and is 'float64'"),
        (["--optimizer", "lion"], r"optimizer\.name was 'adamw' there and is 'lion'"),
        (["--learning-rate", 1], r"optimizer\.learning_rate was 0\.001 there and is 1\.0"),
        (["--schedule", "cosine"], "schedule was None there and is "),
        (["--dropout", 0.5], r"dropout was None there and is \[0\.5, 0\.5, 0\.0\]"),
        (["--batch-size", 7], "batch_size was 32 there and is 7"),
        (["--patience", 3], "EarlyStopping must have patience=10"),
        (["--validation", 0.3], "X must have the shape of the checkpoint's fit"),
        (["--validation", 0], r"network\.layer_sizes was \["),
        (["--drop", "a"], r"network\.layer_sizes was \["),
        (
            ["--positive", "0"],
            "X must hold the values of the checkpoint's fit",
        ),  # other rows held out
    ],
)
def test_c6_the_command_refuses_other_options(trained, capsys, given, message):
    table, folder = trained
    base = ["train", table, "--target", "c", "--epochs", 2, "--resume", folder, "--quiet"]
    assert main([str(argument) for argument in base + given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bcenet: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_mistakes_on_the_command_line(trained, tmp_path, capsys):
    table, folder = trained
    base = ["train", table, "--target", "c", "--quiet"]
    for given, message in [
        (["--checkpoint", folder], "checkpoint must be a folder without checkpoints of another"),
        (["--checkpoint", folder, "--resume", folder], "not allowed with argument"),
        (["--checkpoint-every", 3], "--checkpoint-every needs --checkpoint or --resume"),
        (["--resume", tmp_path / "absent"], "absent: No such file or directory"),
        (["--resume", tmp_path], "no checkpoint in this folder"),
    ]:
        assert main([str(argument) for argument in base + given]) == 2
        assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []

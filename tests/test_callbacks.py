"""bcenet.callbacks: what each one does in real fits, held against fits without it."""

from __future__ import annotations

import csv
import math
import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import digest, make_network, problem
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import bcenet
from bcenet import callbacks, runs
from bcenet.callbacks import (
    BestWeights,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    LearningRateLogger,
    TensorBoard,
    TimeLimit,
)

X, Y = problem(60)
HELD_OUT = problem(40, seed=1)  # of another rule, so that its loss soon rises


def fit(*given, epochs, net=None, optimizer=None, validation_data=HELD_OUT):
    """(network, history) of a fit that always takes the same steps."""
    net = net or make_network()
    history = bcenet.fit(
        net, X, Y, optimizer=optimizer or bcenet.SGD(0.05, momentum=0.5), batch_size=20,
        epochs=epochs, validation_data=validation_data, callbacks=given, random_state=0,
    )  # fmt: skip
    return net, history


def parameters_after(epochs):
    return fit(epochs=epochs)[0].parameters


def scripted(values):
    """A monitor that has these values, epoch after epoch."""
    return lambda state: values[state.epoch - 1]


# ------------------------------------------------------------------------------ early stopping

# values -> (best epoch, epoch that stopped) with patience 2
STOPS = {
    "falls": ([5, 4, 3, 2, 1], {}, (5, None)),
    "rises": ([1, 2, 3, 4, 5], {}, (1, 3)),
    "rises, max": ([1, 2, 3, 4, 5], {"mode": "max"}, (5, None)),
    "falls, max": ([5, 4, 3, 2, 1], {"mode": "max"}, (1, 3)),
    "equal": ([1, 1, 1, 1, 1], {}, (1, 3)),
    "better in time": ([3, 4, 2, 4, 1], {}, (5, None)),
    "too little": ([3, 2.5, 2, 2, 2], {"min_delta": 1}, (1, 3)),
    "little by little": ([3, 2.5, 1.9, 1.5, 1], {"min_delta": 1}, (3, 5)),
    "patience 1": ([3, 2, 2, 1, 1], {"patience": 1}, (2, 3)),
    "NaN first": ([math.nan, 3, 4, 2, 5], {}, (4, None)),
    "NaN later": ([3, math.nan, math.nan, 1, 1], {}, (1, 3)),
    "infinite first": ([math.inf, math.inf, 3, 4, 5], {}, (3, 5)),
    "NumPy's numbers": (list(np.float32([1, 2, 3, 4, 5])), {}, (1, 3)),
}


@pytest.mark.parametrize("case", STOPS)
def test_early_stopping(case):
    values, options, (best, stopped) = STOPS[case]
    stop = EarlyStopping(scripted(values), **{"patience": 2, **options})
    net, history = fit(stop, epochs=5)
    assert (stop.best_epoch, stop.stopped_epoch) == (best, stopped)
    assert stop.best == values[best - 1]
    assert type(stop.best) is float
    assert len(history.loss) == (stopped or 5)
    assert np.array_equal(net.parameters, parameters_after(stopped or 5))


@given(
    values=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    patience=st.integers(1, 5),
    mode=st.sampled_from(["min", "max"]),
)
def test_early_stopping_by_looking_back(values, patience, mode):
    """The first epoch that, with the patience - 1 before it, has nothing new to show."""
    sign = 1 if mode == "min" else -1
    signed = [sign * value for value in values]
    stops = [
        epoch
        for epoch in range(patience + 1, len(values) + 1)
        if min(signed[epoch - patience : epoch]) >= min(signed[: epoch - patience])
    ]
    expected = stops[0] if stops else None
    stop = EarlyStopping(scripted(values), patience=patience, mode=mode)
    _, history = fit(stop, epochs=len(values), validation_data=None)
    assert stop.stopped_epoch == expected
    seen = signed[: len(history.loss)]
    assert len(seen) == (expected or len(values))
    assert stop.best_epoch == 1 + seen.index(min(seen))
    assert stop.best == sign * min(seen)


@pytest.mark.parametrize(("monitor", "min_delta"), [("loss", 0.01), ("validation_loss", 0.002)])
def test_early_stopping_on_a_loss(monitor, min_delta):
    _, whole = fit(epochs=40)
    losses = getattr(whole, monitor)
    stop = EarlyStopping(monitor, patience=3, min_delta=min_delta)
    _, history = fit(stop, epochs=40)
    best = 1
    for epoch, loss in enumerate(losses, 1):
        if loss < losses[best - 1] - min_delta:
            best = epoch
        if epoch == best + 3:
            break
    assert 1 < best < 37
    assert (stop.best_epoch, stop.best, stop.stopped_epoch) == (best, losses[best - 1], best + 3)
    assert getattr(history, monitor) == losses[: best + 3]


def test_a_callback_begins_anew_with_the_next_fit():
    stop = EarlyStopping(scripted([1, 2, 3, 4]), patience=2)
    fit(stop, epochs=4)
    assert stop.stopped_epoch == 3
    stop.monitor = scripted([9, 8])
    fit(stop, epochs=2)
    assert (stop.best, stop.best_epoch, stop.stopped_epoch) == (8, 2, None)


@pytest.mark.parametrize(
    "callback", [EarlyStopping(), BestWeights(), Checkpoint("net.bcenet", best=True)]
)
def test_no_validation_loss_to_monitor(callback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"monitor.*'loss'.*validation_data.*'validation_loss'"):
        fit(callback, epochs=3, validation_data=None)
    assert os.listdir(tmp_path) == []


def test_a_monitor_that_returns_no_number():
    with pytest.raises(TypeError, match=r"monitor.*number.*'good'"):
        fit(EarlyStopping(lambda state: "good"), epochs=2)


# -------------------------------------------------------------------------------- best weights


@pytest.mark.parametrize("stopped", [False, True])
def test_best_weights_are_those_of_a_fit_that_ends_there(stopped):
    best = BestWeights()
    net, history = fit(best, *[EarlyStopping(patience=4)] * stopped, epochs=40)
    losses = history.validation_loss
    assert len(losses) == (best.best_epoch + 4 if stopped else 40)
    assert best.best_epoch == 1 + int(np.argmin(losses)) < len(losses)
    assert best.best == min(losses)
    assert np.array_equal(net.parameters, parameters_after(best.best_epoch))


def test_best_weights_by_a_metric():
    def auc(state):
        logits = state.network.decision_function(HELD_OUT[0])
        return bcenet.metrics.roc_auc_score(HELD_OUT[1], logits)

    best = BestWeights(auc, mode="max")
    net, _ = fit(best, epochs=12)
    scores = []
    for epochs in range(1, 13):
        twin, _ = fit(epochs=epochs)
        scores.append(roc_auc_score(HELD_OUT[1], twin.decision_function(HELD_OUT[0])))
    assert best.best_epoch == 1 + int(np.argmax(scores))
    assert best.best == pytest.approx(max(scores), abs=1e-12)
    assert np.array_equal(net.parameters, parameters_after(best.best_epoch))


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_best_weights_after_an_exception(error):
    def fail(state):
        if state.epoch == 4:
            raise error

    net = make_network()
    with pytest.raises(error):
        fit(BestWeights(scripted([3, 1, 2, 0])), fail, epochs=9, net=net)
    # It stands before the one that fails, so it has seen epoch 4.
    assert np.array_equal(net.parameters, parameters_after(4))
    net = make_network()
    with pytest.raises(error):
        fit(fail, BestWeights(scripted([3, 1, 2, 0])), epochs=9, net=net)
    assert np.array_equal(net.parameters, parameters_after(2))


def test_best_weights_after_divergence():
    """What was best before the weights left the finite numbers."""

    def explode(state):
        if state.epoch == 5:
            state.optimizer.learning_rate = 1e300

    net = make_network()
    with pytest.raises(bcenet.NonFiniteError):
        fit(explode, BestWeights("loss"), epochs=9, net=net)
    assert np.array_equal(net.parameters, parameters_after(5))


def test_best_weights_of_a_fit_without_an_epoch():
    net = make_network()
    before = net.parameters.copy()
    rows = X.copy()
    rows[0] = 1e308
    with pytest.raises(bcenet.NonFiniteError):
        bcenet.fit(net, rows, Y, shuffle=False, callbacks=[BestWeights("loss")])
    assert np.array_equal(net.parameters, before)


def test_best_weights_bring_their_statistics():
    def trained(epochs, *callbacks):
        net = bcenet.Network([7, 6, 1], normalization="batch", dtype="float64", random_state=0)
        X, y = problem()
        bcenet.fit(net, X, y, epochs=epochs, callbacks=callbacks, random_state=0)
        return net

    best = trained(3, BestWeights(scripted([3, 1, 2])))
    second = trained(2)
    assert np.array_equal(best.parameters, second.parameters)
    assert np.array_equal(best.statistics, second.statistics)
    assert not np.array_equal(best.statistics, trained(3).statistics)


# --------------------------------------------------------------------------------- checkpoints


def saved(folder):
    return {name: bcenet.load(folder / name).parameters for name in os.listdir(folder)}


def test_checkpoint_of_every_epoch(tmp_path):
    fit(Checkpoint(tmp_path / "{epoch}.bcenet"), epochs=3)
    files = saved(tmp_path)
    assert sorted(files) == ["1.bcenet", "2.bcenet", "3.bcenet"]
    for epoch in (1, 2, 3):
        assert np.array_equal(files[f"{epoch}.bcenet"], parameters_after(epoch))


def test_checkpoint_in_one_file(tmp_path):
    path = tmp_path / "net{0}.bcenet"  # braces of other kinds stay
    seen = []

    def look(state):
        seen.append(bcenet.load(path).parameters)

    fit(Checkpoint(str(path), every=2), lambda s: look(s) if s.epoch > 1 else None, epochs=5)
    assert os.listdir(tmp_path) == ["net{0}.bcenet"]
    for parameters, epoch in zip(seen, (2, 2, 4, 4), strict=True):
        assert np.array_equal(parameters, parameters_after(epoch))


@pytest.mark.parametrize(
    ("every", "epochs"), [(1, [1, 3, 6]), (2, [2, 4, 6]), (3, [3, 6])], ids=["1", "2", "3"]
)
def test_checkpoint_of_the_best(tmp_path, every, epochs):
    values = [5, 6, 3, 4, 3, 1, 2]
    path = tmp_path / "{epoch}"
    fit(Checkpoint(path, every=every, best=True, monitor=scripted(values)), epochs=7)
    assert sorted(os.listdir(tmp_path)) == [str(epoch) for epoch in epochs]
    assert np.array_equal(saved(tmp_path)["6"], parameters_after(6))


def test_checkpoints_of_a_second_fit_replace_none(tmp_path):
    net, optimizer = make_network(), bcenet.SGD(0.05, momentum=0.5)
    checkpoint = Checkpoint(tmp_path / "{epoch}", every=2)
    for _ in range(2):
        fit(checkpoint, epochs=3, net=net, optimizer=optimizer)
    files = saved(tmp_path)
    assert sorted(files) == ["2", "4", "6"]
    assert np.array_equal(files["6"], parameters_after(6))


def test_checkpoint_without_its_folder(tmp_path):
    net = make_network()
    before = net.parameters.copy()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit(Checkpoint(tmp_path / "nowhere" / "net"), epochs=3, net=net)
    assert np.array_equal(net.parameters, before)


# ---------------------------------------------------------------------------------------- logs


def halve(state):
    state.optimizer.learning_rate /= 2


def test_learning_rate_logger():
    log = LearningRateLogger()
    fit(log, halve, epochs=3, optimizer=bcenet.SGD(0.4))
    assert log.learning_rates == [0.4, 0.2, 0.1]
    fit(log, epochs=2, optimizer=bcenet.SGD(0.3))
    assert log.learning_rates == [0.3, 0.3]


HEADER = ["epoch", "loss", "validation_loss", "penalty", "learning_rate", "seconds"]


def read_csv(path):
    text = pathlib.Path(path).read_bytes().decode()
    assert text.endswith("\n")
    header, *lines = csv.reader(text.splitlines())
    assert header == HEADER
    return [dict(zip(HEADER, line, strict=True)) for line in lines]


def test_csv_log(tmp_path):
    path = tmp_path / "log.csv"
    seconds = []

    def look(state):
        lines = read_csv(path)
        assert [int(line["epoch"]) for line in lines] == list(range(1, state.epoch + 1))
        seconds.append(state.seconds)

    _, history = fit(CSVLog(path), look, halve, epochs=3, optimizer=bcenet.SGD(0.4))
    lines = read_csv(path)
    assert [float(line["loss"]) for line in lines] == history.loss
    assert [float(line["validation_loss"]) for line in lines] == history.validation_loss
    assert [float(line["learning_rate"]) for line in lines] == [0.4, 0.2, 0.1]
    assert [float(line["penalty"]) for line in lines] == [0.0, 0.0, 0.0]
    assert [float(line["seconds"]) for line in lines] == seconds


def test_csv_log_without_validation_data_and_with_numpy_s_numbers(tmp_path):
    def numpy_s(state):
        state.learning_rate = np.float64(0.1)

    fit(numpy_s, CSVLog(tmp_path / "log.csv"), epochs=2, validation_data=None)
    lines = read_csv(tmp_path / "log.csv")
    assert [line["validation_loss"] for line in lines] == ["", ""]
    assert [line["learning_rate"] for line in lines] == ["0.1", "0.1"]


@pytest.mark.parametrize("append", [False, True])
def test_csv_logs_of_two_fits(tmp_path, append):
    path = tmp_path / "log.csv"
    net, optimizer = make_network(), bcenet.SGD(0.05)
    log = CSVLog(path, append=append)
    losses = []
    for _ in range(2):
        losses += fit(log, epochs=2, net=net, optimizer=optimizer)[1].loss
    lines = read_csv(path)
    epochs = [1, 2, 3, 4] if append else [3, 4]
    assert [int(line["epoch"]) for line in lines] == epochs
    assert [float(line["loss"]) for line in lines] == losses[-len(epochs) :]


def test_csv_log_appends_to_nothing_else(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(ValueError, match=r"path.*append.*log\.csv"):
        fit(CSVLog(path, append=True), epochs=2)
    assert path.read_text() == "epoch,loss\n1,0.5\n"
    path.write_text("")
    fit(CSVLog(path, append=True), epochs=2)
    assert len(read_csv(path)) == 2


FULL_DISK = """
import resource, sys, numpy as np, bcenet
from bcenet.callbacks import CSVLog
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
X = np.linspace(-1.0, 1.0, 20).reshape(-1, 1)
try:
    bcenet.fit(bcenet.Network([1, 1]), X, X[:, 0] > 0, epochs=50, callbacks=[CSVLog(sys.argv[1])])
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_csv_log_holds_whole_lines_when_no_more_can_be_written(tmp_path):
    path = tmp_path / "log.csv"
    command = [sys.executable, "-c", FULL_DISK, path]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "File too large\n"
    lines = read_csv(path)
    assert 1 <= len(lines) < 10
    assert [int(line["epoch"]) for line in lines] == list(range(1, len(lines) + 1))
    assert 300 - 110 < path.stat().st_size <= 300  # the next line did not fit


def test_tensorboard(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra `tensorboard`",
    )
    folder = tmp_path / "runs" / "first"
    net, optimizer = make_network(), bcenet.SGD(0.4)
    log = TensorBoard(folder)

    def read():
        events = reader.EventAccumulator(str(folder)).Reload()
        return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}

    def look(state):  # an epoch is in the file when it is over
        assert [event.step for event in read()["loss"]] == list(range(1, state.epoch + 1))

    _, first = fit(log, look, halve, epochs=3, net=net, optimizer=optimizer)
    _, second = fit(log, epochs=2, net=net, optimizer=optimizer)
    assert len(os.listdir(folder)) == 2
    expected = {
        "loss": first.loss + second.loss,
        "validation_loss": first.validation_loss + second.validation_loss,
        "learning_rate": [0.4, 0.2, 0.1, 0.05, 0.05],
        "penalty": [0.0] * 5,
    }
    scalars = read()
    assert scalars.keys() == expected.keys()
    for tag, values in expected.items():
        assert [event.step for event in scalars[tag]] == [1, 2, 3, 4, 5]
        assert [event.value for event in scalars[tag]] == np.float32(values).tolist()


def test_tensorboard_without_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    net = make_network()
    before = net.parameters.copy()
    with pytest.raises(ImportError, match=r"pip install 'bcenet\[tensorboard\]'"):
        fit(TensorBoard(tmp_path / "runs"), epochs=2, net=net)
    assert np.array_equal(net.parameters, before)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------- time limit


@pytest.mark.parametrize(("seconds", "epochs"), [(1e-9, 1), (20, 2), (20.5, 3), (1e9, 5)])
def test_time_limit(seconds, epochs):
    def clock(state):
        state.seconds = 10.0 * state.epoch

    limit = TimeLimit(seconds)
    net, history = fit(clock, limit, epochs=5)
    assert len(history.loss) == epochs
    assert limit.stopped_epoch == (None if seconds == 1e9 else epochs)
    assert np.array_equal(net.parameters, parameters_after(epochs))


def test_time_limit_by_the_clock():
    limit = TimeLimit(0.05)
    seconds = []
    _, history = fit(limit, lambda state: seconds.append(state.seconds), epochs=10**6)
    assert limit.stopped_epoch == len(history.loss) == len(seconds)
    assert seconds[-1] >= 0.05
    assert all(second < 0.05 for second in seconds[:-1])


# --------------------------------------------------------------------------------------- all


def test_none_changes_the_training(tmp_path):
    net, history = fit(
        EarlyStopping(patience=50), Checkpoint(tmp_path / "net"), LearningRateLogger(),
        CSVLog(tmp_path / "log"), TensorBoard(tmp_path), TimeLimit(1e9), epochs=5,
    )  # fmt: skip
    plain, plain_history = fit(epochs=5)
    assert np.array_equal(net.parameters, plain.parameters)
    assert history.loss == plain_history.loss


def test_callbacks_survive_a_pickle(tmp_path):
    given = [
        EarlyStopping(), BestWeights(), Checkpoint(tmp_path / "net"), LearningRateLogger(),
        CSVLog(tmp_path / "log"), TensorBoard(tmp_path), TimeLimit(5),
    ]  # fmt: skip
    fit(*given, epochs=3)
    again = pickle.loads(pickle.dumps(given))
    assert [vars(callback) for callback in again] == [vars(callback) for callback in given]
    fit(*again, epochs=3)
    assert again[3].learning_rates == given[3].learning_rates


BAD = {
    "monitor": (EarlyStopping, {"monitor": "val_loss"}, ValueError, r"monitor.*'loss'.*val_loss"),
    "monitor's type": (BestWeights, {"monitor": 3}, ValueError, r"monitor.*callable.*3"),
    "mode": (EarlyStopping, {"mode": "auto"}, ValueError, r"mode.*'min', 'max'.*'auto'"),
    "patience": (EarlyStopping, {"patience": 0}, ValueError, r"patience.*at least 1.*0"),
    "min_delta": (EarlyStopping, {"min_delta": -1}, ValueError, r"min_delta.*at least 0.*-1"),
    "best's mode": (BestWeights, {"mode": "least"}, ValueError, r"mode.*'least'"),
    "checkpoint's path": (Checkpoint, {"path": 3}, TypeError, r"path must be a path.*3"),
    "every": (Checkpoint, {"path": "a", "every": 0}, ValueError, r"every.*at least 1.*0"),
    "best": (Checkpoint, {"path": "a", "best": 1}, TypeError, r"best.*True or False.*1"),
    "log's path": (CSVLog, {"path": None}, TypeError, r"path must be a path.*None"),
    "append": (CSVLog, {"path": "a", "append": "yes"}, TypeError, r"append.*'yes'"),
    "folder": (TensorBoard, {"folder": b"runs"}, TypeError, r"folder must be a path.*b'runs'"),
    "seconds": (TimeLimit, {"seconds": 0}, ValueError, r"seconds.*above 0.*0\.0"),
    "seconds' type": (TimeLimit, {"seconds": "1 h"}, TypeError, r"seconds.*number.*'1 h'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    kind, arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize("given", [EarlyStopping, [EarlyStopping]])
def test_a_class_instead_of_an_object(given):
    with pytest.raises(TypeError, match=r"callbacks.*EarlyStopping\(\.\.\.\).*class"):
        callbacks.Callbacks(given)


# ------------------------------------------------------------------------------------- progress


class Followed:
    """Notes (epoch, rows done) within epochs."""

    def __init__(self, stop_at=None):
        self.seen = []
        self.stop_at = stop_at

    def on_progress(self, state):
        self.seen.append((state.epoch, state.rows_done))
        if self.seen[-1] == self.stop_at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("streamed", [False, True])
def test_progress_within_epochs_changes_no_bit(streamed, monkeypatch):
    monkeypatch.setattr(runs, "_BETWEEN_CALLS", 0.0)
    X, y = problem(1000, 5)
    data = (bcenet.data.open_dataset((X, y), window_rows=300),) if streamed else (X, y)
    options = {"batch_size": 7, "epochs": 2, "random_state": 1, "dropout": 0.2}
    options["schedule"] = "cosine"
    nets = [bcenet.Network([5, 4, 1], random_state=0) for _ in range(2)]
    followed = Followed()
    bcenet.fit(nets[0], *data, **options)
    bcenet.fit(nets[1], *data, callbacks=followed, **options)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    # 143 batches an epoch: 64 at a time in memory, those of a window in a stream.
    steps = [294, 595, 896, 1001] if streamed else [448, 896, 1001]
    assert followed.seen == [(epoch, rows) for epoch in (0, 1) for rows in steps]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_interrupt_between_two_parts_of_an_epoch_keeps_the_steps(streamed, monkeypatch):
    monkeypatch.setattr(runs, "_BETWEEN_CALLS", 0.0)
    X, y = problem(1000, 5)
    data = (bcenet.data.open_dataset((X, y), window_rows=300),) if streamed else (X, y)
    adam = bcenet.Adam()
    net = bcenet.Network([5, 4, 1], random_state=0)
    before = net.parameters.copy()
    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(
            net, *data, batch_size=7, optimizer=adam, random_state=1,
            callbacks=Followed((0, 294 if streamed else 448)),
        )  # fmt: skip
    assert (adam.step, adam.epoch) == (42 if streamed else 64, 0)
    assert not np.array_equal(net.parameters, before)


def test_the_progress_bar_counts_rows(monkeypatch, capsys):
    monkeypatch.setattr(runs, "_BETWEEN_CALLS", 0.0)
    X, y = problem(1000, 5)
    net = bcenet.Network([5, 1], random_state=0)
    bcenet.fit(net, X, y, batch_size=7, epochs=3, callbacks=bcenet.ProgressBar())
    shown = capsys.readouterr().err
    assert re.search(r"epoch 3/3: 100%.*3\.00k/3\.00k.*rows/s, loss 0\.\d+, \d+ MiB", shown)
    bcenet.fit(net, X, y, optimizer="lbfgs", epochs=2, callbacks=bcenet.ProgressBar())
    assert "epoch 2/2: 100%" in capsys.readouterr().err


def test_memory_in_use_follows_what_the_process_holds():
    before = callbacks.memory_in_use()
    held = np.ones(2**23)  # 64 MiB
    assert 60 < callbacks.memory_in_use() - before < 80
    del held

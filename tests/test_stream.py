"""bcenet.fit on datasets: the bits of a fit in memory, and what may go wrong while it reads."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import digest, make_network, problem

import bcenet
from bcenet import callbacks
from bcenet.data import open_dataset

ROWS, INPUTS = 9001, 6  # two blocks of 4096 rows and a short one


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def rows_of(outputs=1):
    X, y = problem(ROWS, INPUTS, outputs=outputs, dtype="float32")
    return X, y, np.random.default_rng(5).random(ROWS)


def network(outputs=1, **options):
    return bcenet.Network([INPUTS, 9, outputs], "tanh", random_state=3, **options)


def in_memory(net, dataset, X, y, weight=None, *, optimizer, epochs, seed=7, **options):
    """Fits of one epoch each, on the rows in the order that the dataset tells."""
    losses = []
    for _ in range(epochs):
        order = dataset.order(seed, optimizer.epoch)
        history = bcenet.fit(
            net,
            X[order],
            y[order],
            sample_weight=None if weight is None else weight[order],
            optimizer=optimizer,
            epochs=1,
            shuffle=False,
            random_state=seed,
            **options,
        )
        losses += history.loss
    return losses


CASES = {
    "plain": {},
    "a multiple of the window": {"batch_size": 250},
    "larger than the window": {"batch_size": 4000},
    "one batch": {"batch_size": 20_000},
    "penalties": {"l1": 0.02, "l2": 0.3, "clip_norm": 0.1, "max_norm": 1.5},
    "labels summed": {"label_reduction": "sum", "l2": 0.1},
    "dropout": {"dropout": 0.25},
    "focal": {"loss": "focal", "pos_weight": 2.0, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_as_in_memory(case, outputs, threads):
    X, y, weight = rows_of(outputs)
    dataset = open_dataset((X, y, weight), window_rows=1000)
    options = {"batch_size": 333, **CASES[case]}
    expected, net = network(outputs), network(outputs)
    theirs, ours = bcenet.Adam(0.01), bcenet.Adam(0.01)
    losses = in_memory(expected, dataset, X, y, weight, optimizer=theirs, epochs=2, **options)
    history = bcenet.fit(
        net, dataset, optimizer=ours, epochs=2, random_state=7, n_threads=threads, **options
    )
    assert digest(net.parameters) == digest(expected.parameters)
    assert (ours.step, ours.epoch) == (theirs.step, theirs.epoch)
    for name, array in theirs.state.items():
        assert digest(ours.state[name]) == digest(array)
    # Sums over windows are added in another order, in float64.
    assert history.loss == pytest.approx(losses, rel=1e-13)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_the_same_bits_with_statistics_and_averages(normalization):
    X, y, _ = rows_of()
    dataset = open_dataset((X, y), window_rows=700)
    nets = [network(normalization=normalization) for _ in range(2)]
    averages = [bcenet.EMA(0.9), bcenet.EMA(0.9)]
    options = {"batch_size": 64}
    in_memory(
        nets[0], dataset, X, y, optimizer=bcenet.Adam(0.01), epochs=2, averaging=averages[0],
        **options,
    )  # fmt: skip
    bcenet.fit(
        nets[1], dataset, optimizer=bcenet.Adam(0.01), epochs=2, averaging=averages[1],
        random_state=7, **options,
    )  # fmt: skip
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    assert digest(nets[0].statistics) == digest(nets[1].statistics)


def test_in_the_order_of_the_file_it_is_the_plain_fit():
    X, y, weight = rows_of()
    dataset = open_dataset((X, y, weight), window_rows=1500)
    nets = [network(), network()]
    options = {"shuffle": False, "batch_size": 200, "epochs": 3, "schedule": "cosine"}
    one = bcenet.fit(nets[0], X, y, sample_weight=weight, **options)
    two = bcenet.fit(nets[1], dataset, **options)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    assert two.loss == pytest.approx(one.loss, rel=1e-13)  # sums in another order


@pytest.mark.parametrize("n_threads", [2, 3, 4])
def test_a_thread_that_leaves_its_processor_to_the_reader_changes_nothing(n_threads, monkeypatch):
    monkeypatch.setattr(bcenet.threads, "available", lambda: 1)
    counts = []

    class Engine(bcenet.kernels.Engine):
        def rest(self, count):
            counts.append(count)
            super().rest(count)

    monkeypatch.setattr(bcenet.kernels, "Engine", Engine)
    X, y, _ = rows_of()
    dataset = open_dataset((X, y), window_rows=500)
    nets = [network(), network()]
    bcenet.fit(nets[0], dataset, epochs=20, random_state=7, n_threads=1, batch_size=333)
    assert counts
    bcenet.fit(nets[1], dataset, epochs=20, random_state=7, n_threads=n_threads, batch_size=333)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    assert counts[::2] == [1] * (len(counts) // 2)
    assert counts[1::2] == [0] * (len(counts) // 2)


def test_epochs_in_one_call_or_more_are_the_same():
    X, y, _ = rows_of()
    dataset = open_dataset((X, y), window_rows=1000)
    nets = [network(), network()]
    bcenet.fit(nets[0], dataset, epochs=4, random_state=1, dropout=0.25, optimizer=bcenet.Adam())
    optimizer = bcenet.Adam()
    for _ in range(2):
        bcenet.fit(nets[1], dataset, epochs=2, random_state=1, dropout=0.25, optimizer=optimizer)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)


def test_a_part_held_out():
    X, y, weight = rows_of()
    train, held_out = open_dataset((X, y, weight), window_rows=1000).split(0.2, seed=3)
    nets = [network(), network()]
    options = {"epochs": 3, "random_state": 7}
    history = bcenet.fit(nets[0], train, validation_data=held_out, **options)
    chosen = np.sort(held_out.order(0, 0))
    part = (X[chosen], y[chosen], weight[chosen])
    again = bcenet.fit(nets[1], train, validation_data=part, **options)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    assert history.validation_loss == pytest.approx(again.validation_loss, rel=1e-13)
    expected = bcenet.bce_loss(nets[0].decision_function(part[0]), part[1], sample_weight=part[2])
    # A mean of 1800 float32 losses, each off by less than 1e-6 of it.
    assert history.validation_loss[-1] == pytest.approx(expected, rel=1e-6)


def test_missing_labels_are_ignored_in_both():
    X, y, _ = rows_of(3)
    y = y.astype(np.float32)
    y[np.random.default_rng(0).random(y.shape) < 0.3] = np.nan
    dataset = open_dataset((X, y), window_rows=1000)
    nets = [network(3), network(3)]
    in_memory(nets[0], dataset, X, y, optimizer=bcenet.Adam(), epochs=1, missing_labels="ignore")
    bcenet.fit(
        nets[1], dataset, optimizer=bcenet.Adam(), epochs=1, missing_labels="ignore",
        random_state=7,
    )  # fmt: skip
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    with pytest.raises(ValueError, match=r"y must be in \[0, 1\]; got nan"):
        bcenet.fit(network(3), dataset)


def test_stopping_ends_the_reading():
    X, y, _ = rows_of()
    net = network()
    history = bcenet.fit(
        net, open_dataset((X, y), window_rows=500), epochs=1000, callbacks=[lambda state: True]
    )
    assert len(history.loss) == 1


@pytest.mark.parametrize("bad", ["loss", "step"])
def test_non_finite_numbers_leave_the_last_good_step(bad):
    """The batch is counted over the windows, and the weights are those before it."""
    X, y, _ = rows_of()
    y = y.astype(np.float32)
    dataset = open_dataset((X, y), window_rows=1000)
    row = dataset.order(7, 0)[4321]  # in batch 14, in the fifth window
    y[row] = 0.5  # whatever the logit, the gradient is half of X
    nets = [bcenet.Network([INPUTS, 1], random_state=0) for _ in range(2)]
    if bad == "loss":
        X[row] = 3e38
        for net in nets:
            net.parameters[:] = 10.0  # a logit of 1.8e40
    else:
        X[row] = 1e38  # a finite loss, but the gradient's square is infinite in Adam's state
    options = {"batch_size": 300, "random_state": 7, "epochs": 1}
    optimizers = [bcenet.Adam(1e-4) for _ in nets]
    with pytest.raises(bcenet.NonFiniteError, match="epoch 1, batch 14, layer 0") as caught:
        bcenet.fit(nets[0], dataset, optimizer=optimizers[0], **options)
    assert (caught.value.epoch, caught.value.batch) == (1, 14)
    assert ("loss is not finite" in str(caught.value)) == (bad == "loss")
    before = dataset.order(7, 0)[: 14 * 300]
    bcenet.fit(nets[1], X[before], y[before], optimizer=optimizers[1], shuffle=False, **options)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)
    assert optimizers[0].step == optimizers[1].step == 14


# ------------------------------------------------------------------------------ bad input


def test_datasets_that_do_not_fit_the_call():
    X, y, _ = rows_of()
    dataset = open_dataset((X, y))
    for arguments, words in [
        ({"y": y}, "y, sample_weight and offset must be None"),
        ({"sample_weight": y}, "y, sample_weight and offset must be None"),
        ({"optimizer": "lbfgs"}, "optimizer 'lbfgs' must not be given with a dataset"),
        ({"lazy": True}, "lazy must not be given with a dataset"),
        ({"validation_data": open_dataset((X[:, 1:], y))}, "must have 6 columns; .* has 5"),
    ]:
        with pytest.raises(ValueError, match=words):
            bcenet.fit(network(), dataset, **arguments)
    with pytest.raises(ValueError, match="X must have 6 columns; the dataset has 5"):
        bcenet.fit(network(), open_dataset((X[:, 1:], y)))
    with pytest.raises(ValueError, match="y must have shape"):
        bcenet.fit(network(3), dataset)
    with pytest.raises(ValueError, match="y must hold both classes; got only 1"):
        bcenet.fit(network(), open_dataset((X, np.ones(ROWS))))
    with pytest.raises(ValueError, match="y must hold labels that weigh something"):
        bcenet.fit(network(), open_dataset((X, y, np.zeros(ROWS))))
    with pytest.raises(ValueError, match="at least one row"):
        bcenet.fit(network(), open_dataset((X[:0], y[:0])))


@pytest.mark.parametrize("place", ["X", "y", "weight"])
def test_a_bad_value_is_named(place, tmp_path):
    X, y, weight = rows_of()
    y = y.astype(np.float64)
    if place == "X":
        X[8765, 4] = np.nan
    else:
        (y if place == "y" else weight)[8765] = -1.0
    for name, array in (("X", X), ("y", y), ("w", weight)):
        np.save(tmp_path / f"{name}.npy", array)
    dataset = open_dataset(tuple(tmp_path / f"{name}.npy" for name in "Xyw"), window_rows=1000)
    net = network()
    with pytest.raises(ValueError, match=rf"X\.npy: {place} must be .* at row 8765"):
        bcenet.fit(net, dataset)


class Failing:
    """Batches that raise, or give other rows, in a later pass."""

    def __init__(self, what):
        self.passes, self._what = 0, what

    def __iter__(self):
        X, y, _ = rows_of()
        self.passes += 1
        for start in range(0, ROWS, 500):
            if self.passes > 3 and start == 5000:
                if self._what == "fewer":
                    return
                if self._what == "raises":
                    raise ZeroDivisionError("of the reader")
            yield X[start : start + 500], y[start : start + 500]
        if self.passes > 3 and self._what == "more":
            yield X[:1], y[:1]


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("raises", ZeroDivisionError, "of the reader"),
        ("fewer", bcenet.DataChangedError, "fewer rows"),
        ("more", bcenet.DataChangedError, "more rows"),
    ],
)
def test_what_a_reader_raises_ends_the_fit(what, error, words):
    """Pass 1 looks at the first batch, pass 2 reads the targets, pass 4 is the second epoch."""
    batches = Failing(what)
    net, optimizer = network(), bcenet.Adam()
    with pytest.raises(error, match=words):
        bcenet.fit(
            net, open_dataset(batches, window_rows=1000), epochs=9, optimizer=optimizer,
            batch_size=500, random_state=0,
        )  # fmt: skip
    assert optimizer.epoch == 1
    assert 19 <= optimizer.step <= 19 + 18  # the second epoch's steps up to the failing window
    assert np.isfinite(net.parameters).all()
    bcenet.fit(net, *rows_of()[:2], optimizer=optimizer)  # all is let go of


# ------------------------------------------------------------------------ order of labels


def test_sorted_labels_are_told_of_with_their_drift():
    rng = np.random.default_rng(0)
    n = 40 * 4096
    y = np.sort(rng.random(n) < 0.3)
    X = rng.normal(size=(n, 1)).astype(np.float32)
    dataset = open_dataset((X, y), window_rows=4 * 4096)
    found = dataset.scan()
    # Windows of four of the forty blocks: the means of 2000 epochs' windows.
    blocks = y.reshape(40, 4096).mean(axis=1)
    means = [blocks[rng.permutation(40)].reshape(10, 4).mean(axis=1) for _ in range(2000)]
    assert found.drift == pytest.approx(np.std(means), rel=0.08)  # which draw without repeating
    assert (found.lowest, found.highest) == (0.0, 1.0)
    net = bcenet.Network([1, 1])
    with pytest.warns(UserWarning, match=r"not in random order: .* differ by about 0\.2"):
        bcenet.fit(net, dataset, epochs=1)
    # In random order, or where one window takes them all, there is nothing to tell.
    bcenet.fit(net, open_dataset((X, rng.permutation(y)), window_rows=4 * 4096), epochs=1)
    bcenet.fit(net, open_dataset((X, y), window_rows=n), epochs=1)
    assert open_dataset((X, rng.permutation(y)), window_rows=4 * 4096).scan().drift < 0.01


# -------------------------------------------------------------------- files that change


def write(kind, path):
    X, y, _ = rows_of()
    table = pa.table({f"x{i}": X[:, i] for i in range(INPUTS)} | {"y": y})
    if kind == "npy":
        np.save(path, np.column_stack([X, y]).astype(np.float32))
        return {"target": -1}
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=500)
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=500)
    else:
        with pa.output_stream(path) as file:  # packs what is named .gz
            pa.csv.write_csv(table, file)
    return {"target": "y"}


def truncate_during_fits(folder, rounds, seed=0):
    """I6: the file is cut at a random moment and place; every fit says so."""
    rng = np.random.default_rng(seed)
    kinds = ["npy", "parquet", "arrow", "csv", "csv.gz"]
    for number in range(rounds):
        kind = kinds[number % 5]
        path = pathlib.Path(folder) / f"{number}.{kind}"
        dataset = open_dataset(path, **write(kind, path), window_rows=1000)
        size = int(rng.integers(0, path.stat().st_size))
        timer = threading.Timer(rng.uniform(0, 0.05), os.truncate, (path, size))
        net = network()
        timer.start()
        try:
            bcenet.fit(net, dataset, epochs=1_000_000, batch_size=100)
        except bcenet.DataChangedError as error:
            assert str(path) in str(error)
        else:
            raise AssertionError("the fit ended")
        finally:
            timer.join()
        assert np.isfinite(net.parameters).all()
        assert threading.active_count() == 1
        path.unlink()
    print("rounds", rounds)


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_i6_a_file_cut_while_a_fit_reads_it(rounds, tmp_path):
    code = f"import test_stream; test_stream.truncate_during_fits({str(tmp_path)!r}, {rounds})"
    result = run(code)
    assert result.returncode == 0, result.stderr  # and not by SIGBUS
    assert result.stdout.splitlines()[-1] == f"rounds {rounds}"


def run(code, **options):
    """Another interpreter in the folder of the tests."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )


# ------------------------------------------------------------------------------ interrupts


class Slow:
    """Batches that take their time, so that an interrupt finds the fit waiting for them."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        X, y, _ = rows_of()
        self.passes += 1
        for start in range(0, ROWS, 500):
            if self.passes > 2:
                time.sleep(0.02)
            yield X[start : start + 500], y[start : start + 500]


@pytest.mark.parametrize("kind", ["waiting", "training"])
@pytest.mark.parametrize("delay", [0.05, 0.15])
def test_ctrl_c_leaves_the_last_whole_step(kind, delay):
    X, y, _ = rows_of()
    dataset = open_dataset(Slow() if kind == "waiting" else (X, y), window_rows=500)
    dataset.scan()
    net, optimizer = network(), bcenet.Adam(0.01)
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(
            net, dataset, optimizer=optimizer, epochs=1_000_000, batch_size=100, random_state=7
        )
    timer.join()
    again, replayed = network(), bcenet.Adam(0.01)
    if optimizer.epoch:
        in_memory(again, dataset, X, y, optimizer=replayed, epochs=optimizer.epoch, batch_size=100)
    rest = optimizer.step - replayed.step
    if rest:
        order = dataset.order(7, optimizer.epoch)[: rest * 100]
        bcenet.fit(
            again, X[order], y[order], optimizer=replayed, epochs=1, shuffle=False, batch_size=100
        )
    assert optimizer.step == replayed.step
    assert digest(net.parameters) == digest(again.parameters)
    bcenet.fit(net, X, y, optimizer=optimizer, epochs=1)  # the network is let go of


# ---------------------------------------------------------------------------------- memory

MEMORY = """
import resource, sys, numpy as np, bcenet
path = sys.argv[1]
size = 200 * 2**20
array = np.lib.format.open_memmap(path, "w+", np.float32, (size // 116, 29))
rng = np.random.default_rng(0)
for start in range(0, len(array), 100_000):
    part = array[start : start + 100_000]
    part[...] = rng.random(part.shape, np.float32)
    part[:, 0] = part[:, 0] > 0.5
array.flush()
del array, part
import threading, gc
gc.collect()
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status")
                if line.startswith("RssAnon")) / 1024
before = held()
dataset = bcenet.data.open_dataset(path, target=0)
most = []
bcenet.fit(bcenet.Network([28, 8, 1]), dataset, epochs=2, callbacks=[lambda s: most.append(held())])
print(max(most) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc/self")
def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "t.npy"
    try:
        result = subprocess.run(
            [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)
    assert result.returncode == 0, result.stderr
    # Two windows of 131072 rows of 28 float32 and their targets take 29 MiB; the file has 200.
    assert float(result.stdout) < 45


def test_the_best_weights_of_a_validated_fit():
    X, y, _ = rows_of()
    train, held_out = open_dataset((X, y), window_rows=1000).split(0.2)
    hooks = [callbacks.BestWeights(), callbacks.EarlyStopping(patience=2)]
    net = network()
    history = bcenet.fit(
        net, train, validation_data=held_out, epochs=200, learning_rate=0.05, callbacks=hooks,
        random_state=0,
    )  # fmt: skip
    assert len(history.loss) < 200
    best = min(history.validation_loss)
    chosen = np.sort(held_out.order(0, 0))
    # A mean of 1800 float32 losses, each off by less than 1e-6 of it.
    assert bcenet.bce_loss(net.decision_function(X[chosen]), y[chosen]) == pytest.approx(
        best, rel=1e-6
    )


def test_make_network_is_streamed_in_float64():
    """A float64 network reads float32 windows as it reads float32 rows in memory."""
    X, y, _ = rows_of()
    dataset = open_dataset((X, y), window_rows=1000)
    nets = [make_network((INPUTS, 4, 1)) for _ in range(2)]
    in_memory(nets[0], dataset, X, y, optimizer=bcenet.SGD(0.1), epochs=1)
    bcenet.fit(nets[1], dataset, optimizer=bcenet.SGD(0.1), epochs=1, random_state=7)
    assert digest(nets[0].parameters) == digest(nets[1].parameters)


def test_a_split_without_rows_says_so():
    data = bcenet.data.open_dataset((np.ones((3, 1)), np.array([0, 1, 0])))
    part = data.split(0.01)[1]
    with pytest.raises(ValueError, match=r"^a split of X must have at least one row; got 0$"):
        part.scan()

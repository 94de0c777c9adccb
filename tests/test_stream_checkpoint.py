"""Checkpoints of fits on datasets: resumed equals uninterrupted, wherever the rows come from."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import threading

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from helpers import (
    digest,
    interrupted_before_lines,
    kill_and_go_on,
    outcome,
    outcome_of_objects,
    problem,
)

import bcenet
from bcenet import checkpoint, model_file
from bcenet.callbacks import BestWeights, EarlyStopping
from bcenet.data import open_dataset
from bcenet.resuming import resume_same

ROWS, INPUTS = 9001, 6  # two blocks of 4096 rows and a short one


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.bcenet")


def rows_of(outputs=1):
    X, y = problem(ROWS, INPUTS, outputs=outputs, dtype="float32")
    return X, y, np.random.default_rng(5).random(ROWS)


def make_network(**given):
    return bcenet.Network([INPUTS, 9, 1], "tanh", random_state=3, **given)


class Batches:
    """Some rows, batch by batch; of other lengths than those of the fit."""

    def __init__(self, X, y, weight):
        self._arrays = X, y, weight

    def __iter__(self):
        for start in range(0, ROWS, 777):
            yield tuple(array[start : start + 777] for array in self._arrays)


def open_source(kind, folder, **given):
    """A dataset of the same rows, with weights, from a source of a kind."""
    X, y, weight = rows_of()
    names = {f"x{i}": X[:, i] for i in range(INPUTS)} | {"y": y, "w": weight}
    given = {"window_rows": 1000} | given
    if kind == "arrays":
        return open_dataset((X, y, weight), **given)
    if kind == "batches":
        return open_dataset(Batches(X, y, weight), **given)
    if kind == "table":
        return open_dataset(names, target="y", weight="w", **given)
    if kind == "npy":
        for name, array in (("X", np.column_stack([X, y])), ("w", weight)):
            np.save(folder / f"{name}.npy", array)
        return open_dataset(folder / "X.npy", target=-1, weight=folder / "w.npy", **given)
    table = pa.table(names)
    place = folder / "rows"
    place.mkdir(exist_ok=True)
    for number, part in enumerate((table[:5001], table[5001:])):
        file = place / f"{number}.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(part, file, row_group_size=700)
        elif kind == "arrow":
            with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
                writer.write_table(part, max_chunksize=700)
        else:
            pyarrow.csv.write_csv(part, file)
    return open_dataset(place, target="y", weight="w", **given)


KINDS = ["arrays", "npy", "table", "parquet", "arrow", "csv", "batches"]


def options(**changed):
    """Of a fit of 2 epochs; objects are made anew, because a fit changes them."""
    plain = {"optimizer": bcenet.Adam(0.01), "batch_size": 333, "epochs": 2, "random_state": 7}
    return copy.deepcopy(plain | changed)


def check_resume(every_checkpoint, path, dataset, validation, changed, each=1):
    """Run a fit with a checkpoint a step, and go on from every ``each`` of them."""
    plain, best = options(**changed), BestWeights()
    expected = make_network()
    history = bcenet.fit(expected, dataset, validation_data=validation, callbacks=best, **plain)
    wanted = [best.best, best.best_epoch, *outcome(expected, history)]
    wanted += outcome_of_objects(plain["optimizer"], plain.get("averaging"))

    given = {"checkpoint": path, "checkpoint_every": 1, "callbacks": BestWeights()}
    bcenet.fit(make_network(), dataset, validation_data=validation, **given, **options(**changed))
    steps = -(-dataset.n // min(plain["batch_size"], dataset.n)) * plain["epochs"]
    assert len(every_checkpoint) == steps
    chosen = [*range(0, steps, each), steps - 1]
    for content in [every_checkpoint[place] for place in chosen]:
        with open(path, "wb") as file:
            file.write(content)
        best = BestWeights()
        resumed = bcenet.resume(
            path, dataset, validation_data=validation, callbacks=best, checkpoint_every=10**6
        )
        assert [
            best.best,
            best.best_epoch,
            *outcome(resumed.network, resumed.history),
            *outcome_of_objects(resumed.optimizer, resumed.averaging),
        ] == wanted


FITS = {
    "plain": {},
    "a multiple of the window": {"batch_size": 250},
    "larger than the window": {"batch_size": 2500},
    "one batch": {"batch_size": 20_000, "epochs": 4},
    "dropout": {"dropout": 0.3},
    "EMA and clipping": {"averaging": bcenet.EMA(0.9), "clip_norm": 0.1, "l2": 0.3},
    "SWA": {"averaging": bcenet.SWA(0.3)},
    "schedule": {"schedule": "cosine"},
    "adaptive": {"schedule": "adaptive"},
    "as they lie": {"shuffle": False, "dropout": 0.1},
}


@pytest.mark.parametrize("name", FITS)
def test_d4_resumed_at_any_step_equals_uninterrupted(every_checkpoint, path, tmp_path, name):
    train, held_out = open_source("arrays", tmp_path).split(0.2, seed=1)
    check_resume(every_checkpoint, path, train, held_out, FITS[name])


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_d4_of_every_source(every_checkpoint, path, tmp_path, kind, parts):
    train = held_out = open_source(kind, tmp_path)
    if parts:
        train, held_out = train.split(0.3)
    check_resume(every_checkpoint, path, train, held_out, {"dropout": 0.2}, each=5)


def test_d4_validated_on_rows_in_memory(every_checkpoint, path, tmp_path):
    validation = problem(100, INPUTS, seed=1)
    check_resume(every_checkpoint, path, open_source("parquet", tmp_path), validation, {}, each=7)


def test_d1_resumed_with_other_threads_and_from_another_place(path, tmp_path):
    dataset = open_source("parquet", tmp_path)
    expected = make_network()
    wanted = outcome(expected, bcenet.fit(expected, dataset, **options()))

    def interrupt(state):
        raise KeyboardInterrupt

    for first, second in [(1, 3), (2, 1)]:
        given = {"checkpoint": path, "callbacks": interrupt, "n_threads": first}
        with pytest.raises(KeyboardInterrupt):
            bcenet.fit(make_network(), dataset, **given, **options())
        shutil.copytree(tmp_path / "rows", tmp_path / f"moved {first}")
        moved = open_dataset(tmp_path / f"moved {first}", target="y", weight="w", window_rows=1000)
        resumed = bcenet.resume(path, moved, n_threads=second)
        assert outcome(resumed.network, resumed.history) == wanted


@pytest.mark.parametrize("every", [1, 4, 27, 28, 29, None])
def test_the_cadence_changes_no_bit(every_checkpoint, path, tmp_path, every):
    """Also where a checkpoint is due at the very end of a window: 250 rows, 4 to a window."""
    for size in (250, 333):
        every_checkpoint.clear()
        dataset = open_source("arrays", tmp_path)
        expected, network = make_network(), make_network()
        wanted = outcome(expected, bcenet.fit(expected, dataset, **options(batch_size=size)))
        history = bcenet.fit(
            network, dataset, checkpoint=path, checkpoint_every=every, **options(batch_size=size)
        )
        assert outcome(network, history) == wanted
        steps = -(-ROWS // size) * 2
        begun = size != 250  # the file of the fit before is replaced first
        assert len(every_checkpoint) == -(-steps // (every or steps // 2)) + begun


# ----------------------------------------------------------------- the place in an epoch


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_begins_at_a_window_gives_what_one_from_the_start_does(
    tmp_path, kind, parts, shuffle
):
    dataset = open_source(kind, tmp_path)
    if parts:
        dataset = dataset.split(0.6)[1].split(0.1)[0]

    def windows(skipped):
        reader = dataset.windows(
            "float32", False, room=3, seed=5, epochs=range(1, 3), shuffle=shuffle, skipped=skipped
        )
        try:
            lasts, found = 0, []
            while lasts < 2:
                window = reader.next()
                arrays = window.part(slice(window.room, window.room + window.rows))
                order = None if window.order is None else digest(window.order)
                found.append((*map(digest, arrays), order, window.last))
                lasts += window.last
                reader.release(window)
            return found
        finally:
            reader.close()

    whole = windows(0)
    count = -(-dataset.n // 1000)
    assert len(whole) == 2 * count
    for skipped in range(count):
        assert windows(skipped) == whole[skipped:]


def test_units_before_the_place_are_not_read(tmp_path):
    dataset = open_source("arrays", tmp_path)
    dataset.scan()
    part = dataset._source._parts[0]
    real, read = part.read, []
    part.read = lambda start, out: (read.append(start // 4096), real(start, out))
    given = {"room": 0, "seed": 7, "epochs": range(1), "shuffle": False}
    for skipped, blocks in [(0, {0, 1, 2}), (4, {0, 1, 2}), (5, {1, 2}), (8, {1, 2}), (9, {2})]:
        read.clear()
        reader = dataset.windows("float32", False, skipped=skipped, **given)
        try:
            last = False
            while not last:
                window = reader.next()
                last = window.last
                reader.release(window)
        finally:
            reader.close()
        assert set(read) == blocks


# ------------------------------------------------------------------------ interrupted fits


def interrupt_at_every_line(path, first, step):
    X, y, weight = (array[:700] for array in rows_of())
    dataset = open_dataset((X, y, weight), window_rows=300)
    dataset.scan()
    # Sizes that leave rows over from one window to the next.
    changed = {"averaging": bcenet.SWA(0.3), "schedule": "adaptive", "n_threads": 1}
    changed |= {"batch_size": 110, "optimizer": "adam"}
    expected = make_network()
    callbacks = BestWeights("loss")
    wanted = outcome(
        expected, bcenet.fit(expected, dataset, callbacks=callbacks, **options(**changed))
    )

    def fit():
        given = {"callbacks": BestWeights("loss"), "checkpoint": path, "checkpoint_every": 3}
        bcenet.fit(make_network(), dataset, **given, **options(**changed))

    def resume():
        resumed = bcenet.resume(path, dataset, callbacks=BestWeights("loss"), n_threads=1)
        return outcome(resumed.network, resumed.history)

    return interrupted_before_lines(range(first, 10**6, step), path, fit, resume, wanted)


# Between the epochs; after the steps of each window (2, 5, 7); and where one is due.
PLACES = {(0, batch) for batch in (0, 2, 3, 5, 6, 7)} | {(1, batch) for batch in (0, 2, 5, 7)}
PLACES |= {(2, 0)}


def test_s2_an_interrupt_before_any_line_leaves_a_checkpoint_to_go_on_from(path):
    found = interrupt_at_every_line(path, 1, 37)
    assert found <= PLACES
    assert {(0, 0), (0, 2), (0, 5), (1, 0), (1, 2), (1, 5), (2, 0)} <= found


@pytest.mark.slow
def test_s2_an_interrupt_before_every_line(path):
    assert interrupt_at_every_line(path, 1, 1) == PLACES


def test_s2_ctrl_c_while_a_window_is_read(path):
    """The fit waits for the reader when the signal comes; the last whole step is written."""
    X, y, weight = rows_of()

    class Slow(Batches):
        passes = 0

        def __iter__(self):
            self.passes += 1
            for number, batch in enumerate(super().__iter__()):
                if self.passes == 5 and number == 9:  # first batch, scan, X's sample, epoch 1
                    os.kill(os.getpid(), signal.SIGINT)
                    threading.Event().wait(0.2)
                yield batch

    batches = Slow(X, y, weight)
    network = make_network()
    with pytest.raises(KeyboardInterrupt):
        bcenet.fit(
            network,
            open_dataset(batches, window_rows=1000),
            checkpoint=path,
            checkpoint_every=10**6,
            **options(),
        )
    saved = checkpoint.read(path)
    assert saved.config["epoch"]["done"] == 1
    assert 0 < saved.config["at"]["batch"] < 28
    assert digest(saved.tensors["parameters"]) == digest(network.parameters)
    expected = make_network()
    dataset = open_dataset(Batches(X, y, weight), window_rows=1000)
    wanted = outcome(expected, bcenet.fit(expected, dataset, **options()))
    resumed = bcenet.resume(path, dataset)
    assert outcome(resumed.network, resumed.history) == wanted


def test_s2_an_interrupt_inside_the_engine(path):
    """A signal while a step of a window is computed: the last whole step is written."""
    X, y = problem(6000, 50)
    dataset = open_dataset((X, y), window_rows=2500)
    given = {"batch_size": 1000, "epochs": 3, "random_state": 0, "n_threads": 1}
    expected = bcenet.Network([50, 300, 300, 1], random_state=0)
    wanted = outcome(expected, bcenet.fit(expected, dataset, **given))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = 0
    try:
        for delay in (0.02, 0.04, 0.06, 0.09, 0.12, 0.16):

            class Begin:
                def on_fit_begin(self, state, delay=delay):
                    signal.setitimer(signal.ITIMER_REAL, delay)

            network = bcenet.Network([50, 300, 300, 1], random_state=0)
            place = {"checkpoint": path, "checkpoint_every": 10**6, "callbacks": Begin()}
            try:
                bcenet.fit(network, dataset, **place, **given)
            except KeyboardInterrupt:
                if not os.path.exists(path):  # it had not begun to train
                    continue
                interrupted += 1
                saved = checkpoint.read(path)
                assert digest(saved.tensors["parameters"]) == digest(network.parameters)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            resumed = bcenet.resume(path, dataset)
            assert outcome(resumed.network, resumed.history) == wanted
            os.unlink(path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted  # where they are depends on the machine


@pytest.mark.parametrize("every", [1, 1000])
def test_divergence_is_the_same_error_with_the_same_weights(path, every):
    """A step that overflows in the fifth window: found after a checkpoint, replayed from it."""
    X, y, _ = rows_of()
    y = y.astype(np.float32)
    dataset = open_dataset((X, y), window_rows=1000)
    row = dataset.order(7, 0)[4321]
    X[row], y[row] = 1e38, 0.5
    given = {"batch_size": 300, "random_state": 7, "epochs": 1}
    found = []
    for place in ({}, {"checkpoint": path, "checkpoint_every": every}):
        network = bcenet.Network([INPUTS, 1], random_state=0)
        with pytest.raises(bcenet.NonFiniteError, match="epoch 1, batch 14, layer 0") as caught:
            bcenet.fit(network, dataset, optimizer=bcenet.Adam(1e-4), **place, **given)
        found.append((str(caught.value), digest(network.parameters)))
    assert os.path.exists(path) == (every == 1)
    if every == 1:
        saved = checkpoint.read(path)
        assert saved.config["at"]["batch"] == 14
        assert digest(saved.tensors["parameters"]) == found[0][1]
        with pytest.raises(bcenet.NonFiniteError) as caught:
            bcenet.resume(path, dataset)
        found.append((str(caught.value), found[0][1]))
    assert len(set(found)) == 1


# ---------------------------------------------------------------------------- kill -9 (C1)

_KILLED = """
import pathlib, sys
import bcenet
from test_stream_checkpoint import KILLED_FIT, killed_data, make_network, options
from bcenet.callbacks import BestWeights
from helpers import Begun, checkpoints_in, digest

folder = sys.argv[1]
train, held_out = killed_data(pathlib.Path(folder).parent)
given = {"validation_data": held_out, "callbacks": [BestWeights(), Begun()]}
if checkpoints_in(folder):
    network = bcenet.resume(folder, train, **given).network
else:
    network = make_network()
    bcenet.fit(network, train, checkpoint=folder + "/", checkpoint_every=1, **given,
               **options(**KILLED_FIT))
print(digest(network.parameters))
"""
KILLED_FIT = {"epochs": 4, "dropout": 0.1, "schedule": "cosine"}


def killed_data(folder):
    dataset = open_dataset(folder / "rows", target="y", weight="w", window_rows=1000)
    return dataset.split(0.2)


def kill(folder, kills, seed):
    open_source("parquet", folder)
    train, held_out = killed_data(folder)
    network = make_network()
    given = {"validation_data": held_out}
    bcenet.fit(network, train, callbacks=BestWeights(), **given, **options(**KILLED_FIT))

    def resume(there):
        resumed = bcenet.resume(
            there, train, callbacks=BestWeights(), checkpoint_every=10**6, **given
        )
        return digest(resumed.network.parameters)

    kill_and_go_on(_KILLED, folder / "run", kills, seed, resume, digest(network.parameters))


def test_c1_a_killed_fit_goes_on(tmp_path):
    kill(tmp_path, 5, seed=0)


@pytest.mark.slow
def test_c1_500_kills(tmp_path):
    kill(tmp_path, 500, seed=1)


# ------------------------------------------------------------------------ what differs (C6)


def of_arrays(change=None, **given):
    """The dataset of the checkpoint, with its arrays changed in place."""
    arrays = [array.copy() for array in rows_of()]
    if change is not None:
        change(*arrays)
    return open_dataset(tuple(arrays), **({"window_rows": 1000} | given))


def put(place, row):
    def change(*arrays):
        arrays[place][row] = 0.25

    return change


def split(dataset, *arguments):
    return dataset.split(*arguments)[0]


X, Y, WEIGHT = rows_of()
OTHER = {
    "y": (of_arrays(put(1, 5000)), "X must be a dataset with the y of the checkpoint's fit; other"),
    "weight": (of_arrays(put(2, 5000)), "with the weight of the checkpoint's fit; others came"),
    "X's first row": (of_arrays(put(0, 0)), "with the X of the checkpoint's fit; others came"),
    "X's last row": (of_arrays(put(0, -1)), "with the X of the checkpoint's fit; others came"),
    "one row less": (
        open_dataset((X[:-1], Y[:-1], WEIGHT[:-1]), window_rows=1000),
        "with the number of rows of the checkpoint's fit, 9001; got 9000",
    ),
    "no weights": (
        open_dataset((X, Y), window_rows=1000),
        "with the dtypes of X, y and weight of the checkpoint's fit, "
        "('float32', 'float32', 'float64'); got ('float32', 'float32', None)",
    ),
    "another dtype": (
        open_dataset((X.astype("float64"), Y, WEIGHT), window_rows=1000),
        "got ('float64', 'float32', 'float64')",
    ),
    "other names": (
        open_dataset(
            {f"a{i}": X[:, i] for i in range(INPUTS)} | {"y": Y, "w": WEIGHT},
            target="y",
            weight="w",
            window_rows=1000,
        ),
        "with the columns of the checkpoint's fit",
    ),
    "other units": (
        open_dataset(Batches(X, Y, WEIGHT), window_rows=1000),
        "with the row groups, record batches or other units of the checkpoint's fit",
    ),
    "another window": (
        of_arrays(window_rows=1001),
        "with the window_rows of the checkpoint's fit, 1000; got 1001",
    ),
    "a split": (split(of_arrays(), 1e-9), "with the split of the checkpoint's fit, (); got"),
    "rows in memory": ((X, Y), "X must be a dataset, as in the checkpoint's fit"),
}


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("checkpoint") / "run.bcenet")
    validation = split(of_arrays(), 0.9)
    bcenet.fit(
        make_network(), of_arrays(), validation_data=validation, checkpoint=path, **options()
    )
    return path


@pytest.mark.parametrize("name", OTHER)
def test_c6_other_data_are_refused(checkpointed, name):
    other, message = OTHER[name]
    given = other if isinstance(other, tuple) else (other,)
    with pytest.raises(ValueError, match=re.escape(message)):
        bcenet.resume(checkpointed, *given, validation_data=split(of_arrays(), 0.9))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (split(of_arrays(), 0.9, 1), "validation_data must be a dataset with the number of rows"),
        (split(of_arrays(put(0, 0)), 0.9), "validation_data must be a dataset with the X of the"),
        ((X, Y), "validation_data must be a dataset, as in the checkpoint's fit"),
        (None, "validation_data must be given, as in the checkpoint's fit"),
    ],
    ids=["another split", "other rows", "rows in memory", "none"],
)
def test_c6_other_validation_data_are_refused(checkpointed, validation, message):
    with pytest.raises(ValueError, match=message):
        bcenet.resume(checkpointed, of_arrays(), validation_data=validation)


def test_c6_a_dataset_in_the_place_of_rows_in_memory_is_refused(path):
    bcenet.fit(make_network(), X, Y, validation_data=(X, Y), checkpoint=path, **options())
    with pytest.raises(ValueError, match="X must be rows in memory, as in the checkpoint's fit"):
        bcenet.resume(path, of_arrays(), validation_data=(X, Y))
    with pytest.raises(ValueError, match="validation_data must be rows in memory"):
        bcenet.resume(path, X, Y, validation_data=of_arrays())
    with pytest.raises(ValueError, match="y, sample_weight and offset must be None beside"):
        bcenet.resume(path, of_arrays(), Y)
    with pytest.raises(TypeError, match="y must"):
        bcenet.resume(path, X)


def test_c6_other_callbacks_are_refused_too(checkpointed):
    with pytest.raises(ValueError, match="callbacks must be those of the checkpoint's fit"):
        bcenet.resume(
            checkpointed,
            of_arrays(),
            validation_data=split(of_arrays(), 0.9),
            callbacks=EarlyStopping(),
        )


def test_c6_other_options_are_refused_where_they_are_given_again(path):
    """`resume_same`, which the command uses, knows them."""
    network, given = make_network(), options() | {"learning_rate": None, "schedule": None}
    given |= {"dropout": 0.0, "averaging": None, "shuffle": True, "checkpoint_every": 5}
    history = bcenet.fit(make_network(), of_arrays(), checkpoint=path, **options())
    resumed = resume_same(path, network, of_arrays(), **given)
    assert resumed.history.loss == history.loss
    for changed, message in [
        ({"epochs": 3}, "epochs was 2 there and is 3"),
        ({"batch_size": 7}, "batch_size was 333 there and is 7"),
        ({"random_state": 8}, "seed was 7 there and is 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            resume_same(path, network, of_arrays(), **(given | changed))


def test_the_fingerprint_samples_units_from_the_first_to_the_last():
    """Of 50 units, 32 evenly spaced: a change in the first rows of any of these is seen."""
    X = np.zeros((49 * 4096 + 5, 1), np.float32)
    y = np.arange(len(X)) % 2
    before = open_dataset((X, y)).fingerprint()
    assert before["rows"] == len(X)
    seen = []
    for unit in range(50):
        X[4096 * unit + 4] = 1
        found = open_dataset((X, y)).fingerprint()
        seen.append(found["X"] != before["X"])
        assert {**found, "X": before["X"]} == before
        X[4096 * unit + 4] = 0
    assert np.flatnonzero(seen).tolist() == np.linspace(0, 49, 32).astype(int).tolist()


def test_m1_nonsense_with_a_right_digest_is_refused(checkpointed, tmp_path):
    def change(part, key, value):
        return lambda config: config[part].__setitem__(key, value)

    for number, mutate in enumerate(
        [
            change("at", "batch", 29),
            change("at", "batch", -1),
            change("at", "sums", [1.0]),
            change("epoch", "done", 3),
        ]
    ):
        tensors, metadata = model_file.read(checkpointed)
        mutate(metadata["config"])
        bad = tmp_path / f"{number}.bcenet"
        model_file.write(bad, tensors, metadata)
        with pytest.raises(bcenet.ModelFormatError, match=re.escape(str(bad))):
            bcenet.resume(bad, of_arrays(), validation_data=split(of_arrays(), 0.9))

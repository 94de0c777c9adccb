"""Training over a Dask cluster of processes, and what happens where it breaks."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import relative_to_largest

import bcenet

dask = pytest.importorskip("dask", reason="the extra `dask` is not installed")
import dask.array as da  # noqa: E402
import dask.dataframe as dd  # noqa: E402
import distributed  # noqa: E402
import pandas as pd  # noqa: E402
from sklearn.base import clone  # noqa: E402

import bcenet.dask  # noqa: E402
from bcenet.dask import fitting  # noqa: E402

pytestmark = [
    # Closing a cluster of processes leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # Dask calls pandas with an argument that pandas 3.1 is about to drop.
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
]

OPTIONS = {
    "local": {"mode": "local", "local_steps": 3, "batch_size": 32, "schedule": "cosine"},
    "exact": {"mode": "exact", "batch_size": 200, "clip_norm": 1.0, "l2": 0.01},
    "lbfgs": {"mode": "exact", "optimizer": "lbfgs"},
}


def cluster(workers, **options):
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=50,
        **options,
    )


@pytest.fixture(scope="module")
def client():
    with cluster(1) as made, distributed.Client(made) as client:
        yield client


@pytest.fixture(scope="module")
def here():
    """A client whose workers are threads of this process: for what needs no other."""
    with distributed.Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as client:
        yield client


def make(rows=900):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 6)).astype(np.float32)
    return X, (X[:, 0] * X[:, 1] + rng.normal(size=rows) > 0).astype(np.uint8)


def arrays(chunks=(100, 300, 200, 250, 50)):
    X, y = make()
    return da.from_array(X, chunks=(chunks, (4, 2))), da.from_array(y, chunks=90)


def fit(client, X, y, **options):
    network = bcenet.Network([6, 16, 1], random_state=1)
    options = {"epochs": 3, "random_state": 0, **options}
    history = bcenet.dask.fit(client, network, X, y, **options)
    return hashlib.sha256(network.parameters).hexdigest(), network, history


# ---- the same bits -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digests(here):
    return {name: fit(here, *arrays(), **options)[0] for name, options in OPTIONS.items()}


def test_one_digest_for_1_2_and_4_workers(digests, client):
    """The fixture's are of two threads; what the workers are, and how many, does not enter."""
    assert len(set(digests.values())) == 3
    for workers in (1, 2, 4):
        client.cluster.scale(workers)
        client.wait_for_workers(workers, timeout=30)
        assert len(client.nthreads()) == workers
        for name, options in OPTIONS.items():
            assert fit(client, *arrays(), **options)[0] == digests[name]


def test_a_worker_killed_in_mid_fit(digests):
    """Its partitions are read again, by its successor or by the other worker."""
    with cluster(2) as made, distributed.Client(made) as client:
        victims = list(client.run(os.getpid).values())
        for name, victim in zip(("local", "exact"), victims, strict=True):

            def kill(state, victim=victim):
                if state.epoch == 1:
                    os.kill(victim, signal.SIGKILL)

            begun = time.monotonic()
            assert fit(client, *arrays(), callbacks=kill, **OPTIONS[name])[0] == digests[name]
            assert time.monotonic() - begun < 30


@pytest.mark.slow
def test_20_kills_at_random_moments():
    """While rows are read, in a round, or between two: the digest, or an error within 30 s."""
    rng = np.random.default_rng(0)
    options = {**OPTIONS["local"], "epochs": 4, "local_steps": 1}
    expected, length, outcomes = None, 0.0, []
    for number in range(21):  # the first one says what is expected
        with cluster(2) as made, distributed.Client(made) as client:
            fit(client, *arrays(), **{**options, "epochs": 1})  # imports
            victim = list(client.run(os.getpid).values())[rng.integers(2)]
            timer = threading.Timer(rng.uniform(0, length), os.kill, (victim, signal.SIGKILL))
            begun = time.monotonic()
            if number:
                timer.start()
            try:
                outcome = fit(client, *arrays(), **options)[0]
            except RuntimeError as error:
                outcome = str(error)
            passed = time.monotonic() - begun
            if number:
                timer.join()
                outcomes.append(outcome)
                assert passed < length + 30
            else:
                expected, length = outcome, passed
    errors = [outcome for outcome in outcomes if outcome != expected]
    assert all("Dask" in error or "worker" in error for error in errors), errors
    assert len(errors) <= 2, errors


def test_partitions_decide_and_chunks_of_columns_do_not(here, digests):
    X, y = arrays()
    assert fit(here, X.rechunk({1: 6}), y, **OPTIONS["local"])[0] == digests["local"]
    other = fit(here, *arrays((450, 450)), **OPTIONS["local"])[0]
    assert other != digests["local"]


def test_it_learns_what_one_machine_does(here):
    """Full batches: the numbers of bcenet.fit but for the order of the additions."""
    X, y = make()
    one, network = (bcenet.Network([6, 16, 1], dtype="float64", random_state=1) for _ in range(2))
    options = {"epochs": 20, "learning_rate": 0.02}
    theirs = bcenet.fit(one, X, y, batch_size=900, shuffle=False, **options)
    ours = bcenet.dask.fit(here, network, *arrays(), mode="exact", random_state=0, **options)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-12)
    assert relative_to_largest(network.parameters, one.parameters) <= 1e-11


# ---- collections -------------------------------------------------------------------------------


def test_a_frame_from_parquet(here, tmp_path):
    X, y = make()
    weight = np.linspace(0.5, 1.5, 900)
    names = [f"x{i}" for i in range(6)]
    table = pd.DataFrame(X, columns=names)
    table.insert(2, "label", y)
    table["w"] = weight
    dd.from_pandas(table, npartitions=3).to_parquet(tmp_path / "table", engine="pyarrow")
    frame = dd.read_parquet(tmp_path / "table")
    a = fit(here, frame, "label", sample_weight="w", **OPTIONS["local"])[0]
    chunks = tuple(len(part) for part in frame.partitions)
    b = fit(
        here,
        da.from_array(X, chunks=(chunks, 6)),
        da.from_array(y, chunks=(chunks,)),
        sample_weight=da.from_array(weight, chunks=(chunks,)),
        **OPTIONS["local"],
    )
    assert a == b[0]
    predicted = bcenet.dask.predict_proba(b[1], frame[names]).compute()
    assert np.array_equal(predicted, b[1].predict_proba(X))


def test_unknown_chunks(here):
    """A filtered array does not know its chunks."""
    X, y = make()
    kept = X[:, 2] > -0.5
    lazy = da.from_array(X, chunks=(300, 6))
    rows = lazy[lazy[:, 2] > -0.5]
    labels = da.from_array(y, chunks=300)[lazy[:, 2] > -0.5]
    chunks = tuple(int(kept[i : i + 300].sum()) for i in (0, 300, 600))
    known = da.from_array(X[kept], chunks=(chunks, 6)), da.from_array(y[kept], chunks=(chunks,))
    a, network, _ = fit(here, rows, labels, **OPTIONS["exact"])
    assert a == fit(here, *known, **OPTIONS["exact"])[0]
    proba = bcenet.dask.predict_proba(network, rows).compute()
    assert np.array_equal(proba, network.predict_proba(X[kept]))


@pytest.mark.parametrize("outputs", [1, 3])
def test_predictions_are_the_networks(here, outputs):
    X, _ = arrays()
    network = bcenet.Network([6, 5, outputs], random_state=0)
    for lazy, direct in (
        (bcenet.dask.predict_proba(network, X), network.predict_proba(make()[0])),
        (bcenet.dask.decision_function(network, X), network.decision_function(make()[0])),
    ):
        assert (lazy.shape, lazy.dtype) == (direct.shape, direct.dtype)
        assert np.array_equal(lazy.compute(), direct)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_the_classifier(here, kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4)).astype(np.float32)
    labels = {
        "binary": np.where(X[:, 0] > 0, "yes", "no"),
        "multiclass": np.array(["a", "b", "c"])[(X[:, 0] > 0) + 1 * (X[:, 1] > 0)],
        "multilabel": (X[:, :3] > 0).astype(int),
    }[kind]
    chunks = 150 if labels.ndim == 1 else (150, 3)
    lazy, y = da.from_array(X, chunks=(150, 4)), da.from_array(labels, chunks=chunks)
    classifier = bcenet.dask.DaskBCENetClassifier(
        (16,), learning_rate_init=0.02, batch_size=50, max_iter=20, random_state=0
    )
    with here.as_current():
        first = clone(classifier).fit(lazy, y)
        assert classifier.fit(lazy, y) is classifier
    assert np.array_equal(first.network_.parameters, classifier.network_.parameters)
    assert (
        classifier.classes_.tolist()
        == {
            "binary": ["no", "yes"],
            "multiclass": ["a", "b", "c"],
            "multilabel": [0, 1, 2],
        }[kind]
    )
    predicted, proba = classifier.predict(lazy).compute(), classifier.predict_proba(lazy).compute()
    assert predicted.shape == labels.shape
    assert np.mean(predicted == labels) > 0.85
    assert proba.shape == (600, len(classifier.classes_))
    if kind == "multilabel":
        assert np.array_equal(predicted, proba > 0.5)
    else:
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        assert np.array_equal(predicted, classifier.classes_[proba.argmax(axis=1)])
    right = predicted == labels
    score = classifier.score(lazy, y)
    assert score == pytest.approx(np.mean(right if right.ndim == 1 else right.all(axis=1)))
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict(lazy).compute(), predicted)


def test_the_classifier_on_a_frame(here):
    X, _ = make(300)
    table = pd.DataFrame(X, columns=[f"x{i}" for i in range(6)])
    table["kind"] = np.where(X[:, 0] > 0, "up", "down")
    frame = dd.from_pandas(table, npartitions=3)
    classifier = bcenet.dask.DaskBCENetClassifier(
        (8,), learning_rate_init=0.05, batch_size=20, max_iter=20, random_state=0
    )
    with here.as_current():
        classifier.fit(frame, "kind")
    predicted = classifier.predict(frame.drop(columns="kind")).compute()
    assert np.mean(predicted == table["kind"]) > 0.95


# ---- what is refused, and what breaks --------------------------------------------------------


def test_bad_rows_are_named_by_their_partition(here):
    X, y = make()
    X[450, 3] = np.nan
    lazy = da.from_array(X, chunks=(300, 6))
    with pytest.raises(ValueError, match=r"partition 1: X must be finite; got nan at row 150, col"):
        fit(here, lazy, da.from_array(y, chunks=300))
    X, _ = make()
    lazy = da.from_array(X, chunks=(300, 6))
    with pytest.raises(ValueError, match=r"partition 2: y must be in \[0, 1\]; got 7"):
        fit(here, lazy, da.from_array(np.where(np.arange(900) == 800, 7, y), chunks=300))


def test_an_empty_partition(here):
    table = pd.DataFrame(make()[0], columns=[f"x{i}" for i in range(6)])
    table["y"] = make()[1]
    frame = dd.from_pandas(table.assign(part=np.arange(900) // 300), npartitions=3)
    frame = frame[frame.part != 1].drop(columns="part")
    with pytest.raises(ValueError, match="partition 1 has none"):
        fit(here, frame, "y")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X, y: (X, y[:500]), ValueError, "y must have 900 rows, as X; got 500"),
        (lambda X, y: (X, make()[1]), TypeError, "y must be a Dask array"),
        (lambda X, y: (make()[0], y), TypeError, "X must be a Dask array or a Dask DataFrame"),
        (lambda X, y: (X[:, 0], y), ValueError, "X must have two dimensions"),
        (lambda X, y: (X[:, :3], y), ValueError, r"partition 0: X must have shape \(n, 6\)"),
        (lambda X, y: (X, da.zeros_like(y)), ValueError, "y must hold both classes; got only 0"),
    ],
)
def test_bad_collections(here, change, error, message):
    with pytest.raises(error, match=message):
        fit(here, *change(*arrays()))


def test_bad_frames(here):
    table = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "t": [0, 1]})
    frame = dd.from_pandas(table, npartitions=1)
    with pytest.raises(ValueError, match="y must name a column of the DataFrame; got 'z'"):
        fit(here, frame, "z")
    with pytest.raises(TypeError, match="column 'b' must hold real numbers; got dtype"):
        fit(here, frame, "t")


def test_the_client_is_checked():
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client"):
        fit(None, *arrays())


def test_a_worker_with_another_version(client):
    """Found before the rows are read; and by a task, if the worker comes later."""
    worker = next(iter(client.nthreads()))
    other = "setattr(__import__('bcenet'), '__version__', '0.0.9')"
    client.run(eval, other, workers=[worker])
    try:
        with pytest.raises(RuntimeError, match=r"worker tcp.* must run the same bcenet .*0\.0\.9"):
            fit(client, *arrays())
    finally:
        client.run(eval, other.replace("0.0.9", bcenet.__version__), workers=[worker])
    assert fit(client, *arrays(), epochs=1)


def test_a_cluster_without_workers(monkeypatch):
    monkeypatch.setattr(fitting, "PATIENCE", 1.0)
    with cluster(0) as made, distributed.Client(made) as client:
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match="client must have at least one worker"):
            fit(client, *arrays())
        assert time.monotonic() - begun < 15


def test_a_cluster_that_loses_its_workers(monkeypatch):
    """No nanny starts another: an error, and not a hang."""
    with cluster(1) as made, distributed.Client(made) as client:

        def retire(state):
            monkeypatch.setattr(fitting, "PATIENCE", 2.0)
            made.scale(0)

        with pytest.raises(RuntimeError, match="must have a scheduler and at least one worker"):
            fit(client, *arrays(), callbacks=retire, **OPTIONS["local"])


def frozen(client, number):
    """A callback that stops a worker's process in the second epoch, and does not kill it."""
    victim = list(client.run(os.getpid).values())[number]

    def stop(state):
        if state.epoch == 1:
            os.kill(victim, signal.SIGSTOP)

    return stop


def test_a_worker_frozen_in_mid_fit(digests):
    """It sends no heartbeats: Dask kills it, and the work goes on as if it had died."""
    with cluster(2) as made, distributed.Client(made) as client:
        stop = frozen(client, 1)
        begun = time.monotonic()
        with pytest.warns(RuntimeWarning, match="no heartbeat comes from worker tcp"):
            digest = fit(client, *arrays(), callbacks=stop, **OPTIONS["local"])[0]
        assert digest == digests["local"]
        assert time.monotonic() - begun < 30


def test_a_frozen_worker_that_nothing_starts_again(monkeypatch):
    """Without a nanny it is left out; if it was the last one, the error names it."""
    with cluster(0) as made, distributed.Client(made) as client:
        program = [sys.executable, "-m", "distributed.cli.dask_worker", made.scheduler_address]
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
        worker = subprocess.Popen([*program, *options], stderr=subprocess.DEVNULL)
        try:
            client.wait_for_workers(1, timeout=60)
            (name,) = client.nthreads()
            stop = frozen(client, 0)

            def stop_soon(state):
                monkeypatch.setattr(fitting, "SILENCE", 3.0)
                monkeypatch.setattr(fitting, "PATIENCE", 6.0)
                stop(state)

            with (
                pytest.warns(RuntimeWarning, match="computed again elsewhere"),
                pytest.raises(RuntimeError, match=f"none for 6 s, and no heartbeat .* {name}"),
            ):
                fit(client, *arrays(), callbacks=stop_soon, **OPTIONS["local"])
            with pytest.raises(RuntimeError, match="client must have at least one worker"):
                fit(client, *arrays())
        finally:
            worker.kill()
            worker.wait()


def test_a_worker_frozen_before_the_fit(monkeypatch):
    monkeypatch.setattr(fitting, "PATIENCE", 5.0)
    with cluster(1) as made, distributed.Client(made) as client:
        (victim,) = client.run(os.getpid).values()
        os.kill(victim, signal.SIGSTOP)
        with pytest.raises(RuntimeError, match="client must have workers that answer; no heart"):
            fit(client, *arrays())


def test_a_slow_worker_is_not_a_frozen_one(here, digests, monkeypatch):
    """It computes for longer than a worker may be silent, and its heart beats."""
    monkeypatch.setattr(fitting, "SILENCE", 1.0)
    X, y = arrays()

    def wait(block):
        time.sleep(3.0)
        return block

    slow = X.rechunk({1: 6}).map_blocks(wait, dtype=X.dtype, meta=np.empty((0, 6), X.dtype))
    assert fit(here, slow, y, **OPTIONS["local"])[0] == digests["local"]


def test_rows_that_cannot_be_read_again(monkeypatch):
    """Scattered rows are gone with their worker."""
    X, y = make()
    with cluster(1) as made, distributed.Client(made) as client:
        rows = da.from_delayed(dask.delayed(client.scatter(X)), X.shape, X.dtype)

        def kill(state):
            monkeypatch.setattr(fitting, "PATIENCE", 5.0)
            for pid in client.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(RuntimeError, match="Dask cluster"):
            fit(client, rows, da.from_array(y, chunks=900), callbacks=kill)


def test_a_fit_may_be_interrupted(here):
    """Ctrl-C: the network holds the weights of the last whole round."""
    X, y = arrays()
    seen = []

    def note(state):
        seen.append(state.network.parameters.copy())
        if state.epoch == 3:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    network = bcenet.Network([6, 16, 1], random_state=1)
    with pytest.raises(KeyboardInterrupt):
        bcenet.dask.fit(
            here, network, X, y, epochs=100000, local_steps=None, callbacks=note, random_state=0
        )
    assert len(seen) >= 3
    again = bcenet.Network([6, 16, 1], random_state=1)
    bcenet.dask.fit(
        here, again, X, y, epochs=len(seen) + 1, local_steps=None, random_state=0,
        callbacks=lambda state: state.epoch == len(seen) + 1
        or np.array_equal(state.network.parameters, network.parameters),
    )  # fmt: skip
    assert np.array_equal(again.parameters, network.parameters)

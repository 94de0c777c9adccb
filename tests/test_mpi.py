"""Training over MPI: one digest for any number of processes, and errors that reach all of them."""

import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import bcenet
import bcenet.mpi

PROGRAM = """
import hashlib, sys
import numpy as np
from mpi4py import MPI
import bcenet, bcenet.mpi

rank = MPI.COMM_WORLD.Get_rank()
X, y = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2], mmap_mode="r")
lines = []
for options in ({"local_steps": 3}, {"mode": "exact", "batch_size": 100}):
    network = bcenet.Network([5, 8, 1], random_state=rank)
    history = bcenet.mpi.fit(
        network, X, y, shards=5, epochs=2, batch_size=options.pop("batch_size", 20),
        random_state=0, **options
    )
    lines.append(hashlib.sha256(network.parameters).hexdigest() + f" {history.loss[-1]!r}")
try:
    bcenet.mpi.fit(network, np.where(X == X[450, 0], np.nan, X), y, shards=5)
except ValueError as error:
    lines.append(str(error))
with open(f"{sys.argv[3]}-{rank}", "w") as file:
    file.write("\\n".join(lines))
"""


def make(rows=500):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 5))
    return X, X[:, 0] * X[:, 1] + rng.normal(size=rows) > 0


class Threads:
    """A communicator whose processes are threads: mpi4py's interface, as far as it is used."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=30)
        self.sent = [None] * size

    def rank(self, number):
        whole = self

        class Rank:
            def Get_rank(self):
                return number

            def Get_size(self):
                return whole.size

            def bcast(self, message):
                return self._exchange(message)[0]

            def gather(self, message):
                return self._exchange(message) if number == 0 else self._exchange(message) and None

            def _exchange(self, message):
                whole.sent[number] = message
                whole.barrier.wait()
                messages = list(whole.sent)
                whole.barrier.wait()
                return messages

        return Rank()


def run(size, X, y, **options):
    """What each of the processes got: a digest, or the exception."""
    comm, results = Threads(size), [None] * size

    def process(number):
        network = bcenet.Network([5, 8, 1], random_state=number)
        try:
            bcenet.mpi.fit(
                network, X, y, comm=comm.rank(number), **{"random_state": 0, "epochs": 2} | options
            )
            results[number] = hashlib.sha256(network.parameters).hexdigest()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=process, args=(i,)) for i in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize(
    "options", [{"local_steps": 2, "batch_size": 16}, {"mode": "exact", "batch_size": 60}]
)
def test_one_digest_for_any_number_of_processes(options):
    X, y = make()
    digests = [run(size, X, y, shards=6, **options) for size in (1, 2, 4, 7)]
    assert len({digest for results in digests for digest in results}) == 1
    assert isinstance(digests[0][0], str)
    assert run(1, X, y, shards=5, **options) != digests[0]


def test_weights_and_errors_reach_every_process():
    X, y = make()
    weight = np.ones(500)
    weight[:250] = 0.1
    assert run(3, X, y, sample_weight=weight)[2] != run(3, X, y)[2]
    X[450, 2] = np.nan
    for options, message in (
        ({"shards": 10}, "shard 9: X must be finite; got nan at row 0, column 2"),
        ({"shards": 501}, "shards must be at least 1 and at most 500; got 501"),
        ({"mode": "some"}, "mode must be one of 'local', 'exact'; got 'some'"),
        ({"sample_weight": weight[:9]}, "sample_weight must have 500 rows, as X; got shape (9,)"),
    ):
        errors = run(3, X, y, **options)
        assert [str(error) for error in errors] == [message] * 3


def test_mpi4py_with_1_2_and_4_processes(tmp_path):
    if importlib.util.find_spec("mpi4py") is None or shutil.which("mpirun") is None:
        pytest.skip("mpi4py or mpirun is not installed")
    X, y = make()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "program.py").write_text(PROGRAM)
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env["PYTHONPATH"] = str(pathlib.Path(bcenet.__file__).parent.parent)
    env["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    results = set()
    for size in (1, 2, 4):
        out = tmp_path / f"out{size}"
        arguments = [tmp_path / "program.py", tmp_path / "X.npy", tmp_path / "y.npy", out]
        command = ["mpirun", "-n", str(size), sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        results |= {pathlib.Path(f"{out}-{rank}").read_text() for rank in range(size)}
    assert len(results) == 1
    assert "shard 4: X must be finite; got nan at row 50, column 0" in results.pop()

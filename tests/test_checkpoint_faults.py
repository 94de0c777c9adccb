"""Checkpoints while the system fails: the old ones or the new ones, and a fit that goes on."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import digest, make_network, outcome, problem
from test_checkpoint import HELD_OUT, X, Y, options
from test_model_file import _SYSTEM_CALLS, environment, needs_strace, saving_process

import bcenet
from bcenet import model_file
from bcenet.data import open_dataset

STREAMED = problem(9001, 7, dtype="float32")
STREAM_OPTIONS = {"batch_size": 800, "epochs": 2, "random_state": 3}


class Killed(BaseException):
    """An end that writes no checkpoint, as `kill -9` would be."""


def fit(checkpoint, *, kill_after=None, **more):
    def kill(state):
        if state.epoch == kill_after:
            raise Killed

    network = make_network()
    history = bcenet.fit(network, X, Y, checkpoint=checkpoint, callbacks=kill, **options(**more))
    return outcome(network, history)


def resume(place, **more):
    resumed = bcenet.resume(place, X, Y, validation_data=HELD_OUT, **more)
    return outcome(resumed.network, resumed.history)


@pytest.fixture(scope="module")
def wanted():
    network = make_network()
    return outcome(network, bcenet.fit(network, X, Y, **options()))


@pytest.fixture
def folder(tmp_path):
    """Holds the checkpoints of two of three epochs."""
    place = tmp_path / "folder" / "run"
    with pytest.raises(Killed):
        fit(f"{place}{os.sep}", kill_after=3)
    assert sorted(os.listdir(place)) == OLD
    return place


OLD = ["checkpoint-000001-000000000.bcenet", "checkpoint-000002-000000000.bcenet"]
NEW = ["checkpoint-000002-000000000.bcenet", "checkpoint-000003-000000000.bcenet"]

# ------------------------------------------------------------- failing system calls (C2)

CALLS = _SYSTEM_CALLS | {
    "read": "read,pread64",
    "unlink": "?unlink,unlinkat",
    "list": "getdents64",
}
# What a resume, and in it a checkpoint, makes at least.
FEWEST = {
    "stat": 8,
    "open": 6,
    "write": 3,
    "fsync": 2,
    "close": 6,
    "rename": 1,
    "read": 3,
    "unlink": 1,
    "list": 3,
}
_RESUME_ON_REQUEST = """
import ctypes, socket, shutil, sys
from test_checkpoint_faults import resume
warm = sys.argv[1] + "-warm"
shutil.copytree(sys.argv[1], warm)
resume(warm, n_threads=1)  # imports all that there is to import
shutil.rmtree(warm)
any_tracer = ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
channel = socket.socket(fileno=int(sys.argv[2]))
channel.send(b"r")
while channel.recv(1):
    try:
        resume(sys.argv[1], n_threads=1)
        outcome = 0
    except OSError as error:
        outcome = error.errno
    channel.send(outcome.to_bytes(4, "little"))
"""


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EINTR"])
def test_c2_any_failing_system_call_leaves_checkpoints_to_go_on_from(folder, wanted, error):
    """Break the k-th call of each kind in a resume, for k = 1, 2, ... until there is no k-th."""
    old = {name: (folder / name).read_bytes() for name in OLD}
    broken = {}
    with saving_process(folder, _RESUME_ON_REQUEST) as go_on:
        for kind, calls in CALLS.items():
            for k in itertools.count(1):
                shutil.rmtree(folder)
                folder.mkdir()
                for name, content in old.items():
                    (folder / name).write_bytes(content)
                found, was_broken = go_on(f"inject={calls}:error={error}:when={k}")
                names = sorted(os.listdir(folder))
                both = sorted({*OLD, *NEW})
                assert names in ((OLD, both, NEW) if found else (NEW,)), (kind, k, found)
                for name in names:
                    model_file.read(folder / name)
                if not was_broken:
                    assert found == 0
                    break
                broken.setdefault(kind, set()).add(found)
                assert resume(folder, checkpoint_every=10**6) == wanted
            assert k > FEWEST[kind], (kind, k)
    number = getattr(errno, error)
    for kind in ("write", "fsync", "rename", "unlink"):
        again = error == "EINTR" and kind in ("write", "fsync")  # Python itself repeats these
        assert broken[kind] == {0 if again else number}


def test_c2_short_writes_are_continued(tmp_path, wanted, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1000]))
    with pytest.raises(Killed):
        fit(tmp_path / "run.bcenet", kill_after=3)
    assert resume(tmp_path / "run.bcenet") == wanted


# --------------------------------------------------------------------- a full disk (C3)


@pytest.mark.parametrize("limit", [0, 1, 100, 2000])
def test_c3_a_file_size_limit_is_an_error_and_the_old_ones_stay(folder, wanted, limit):
    before = {name: (folder / name).read_bytes() for name in OLD}
    code = (
        "import errno, os, resource, sys\n"
        "from test_checkpoint_faults import fit, resume\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))\n"
        "for go in (lambda: resume(sys.argv[1]), lambda: fit(sys.argv[1] + '-other/')):\n"
        "    try: go()\n"
        "    except OSError as error: print(error.errno == errno.EFBIG, error.filename)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(limit)],
        env=environment(),
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert done.stdout.splitlines() == [
        f"True {folder}{os.sep}{NEW[1]}",
        f"True {folder}-other{os.sep}{OLD[0]}",
    ]
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(f"{folder}-other") == []
    assert resume(folder) == wanted


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_c3_a_full_device_is_an_error_before_the_first_step():
    epochs = []
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        bcenet.fit(
            make_network(),
            X,
            Y,
            checkpoint="/dev/full",
            callbacks=lambda state: epochs.append(state.epoch),
            **options(),
        )
    assert epochs == []


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [1, 4, 11, 12, 13, 20])
def test_c3_a_streaming_fit_ends_with_the_error_and_goes_on_from_the_checkpoint_before(
    tmp_path, monkeypatch, name, number
):
    """The disk is full at the n-th checkpoint: of 12 steps an epoch in windows of 2000 rows."""
    path = str(tmp_path / "run.bcenet")
    dataset = open_dataset(STREAMED, window_rows=2000)
    expected = make_network(dtype="float32")
    wanted = outcome(expected, bcenet.fit(expected, dataset, **STREAM_OPTIONS))
    real_write, real, saves = model_file.write, getattr(os, name), []

    def write(*arguments):
        saves.append(arguments)
        real_write(*arguments)

    def fail(*arguments, **named):
        if len(saves) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **named)

    network = make_network(dtype="float32")
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "write", write)
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left") as caught:
            bcenet.fit(network, dataset, checkpoint=path, checkpoint_every=1, **STREAM_OPTIONS)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
    assert np.isfinite(network.parameters).all()
    if number == 1:
        assert os.listdir(tmp_path) == []
        return
    assert os.listdir(tmp_path) == ["run.bcenet"]
    resumed = bcenet.resume(path, dataset, checkpoint_every=10**6)
    assert outcome(resumed.network, resumed.history) == wanted
    assert digest(resumed.network.parameters) == wanted[0]

"""Model files: saved whole or not at all, and refused unless whole and unchanged."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from bcenet import model_file
from bcenet.atomic_file import write_file
from bcenet.errors import ModelFormatError

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([np.pi, -0.0, 5e-324]),
    "c": np.array([2**63 - 1, -(2**63)]),
    "d": np.array([0, 255], dtype=np.uint8),
    "empty": np.zeros((3, 0), dtype=np.float32),
    "scalar": np.array(7.0),
}
METADATA = {"kind": "network", "config": {"x": [1, 2.5, 'é "quoted" \n', None, True], "y": {}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "saved.bcenet"


@pytest.fixture
def saved(path):
    model_file.write(path, TENSORS, METADATA)
    return path


def refusal(path):
    """The reason for which reading is refused, without the file's name, which must lead it."""
    with pytest.raises(ModelFormatError) as caught:
        model_file.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def environment(**changes):
    """The environment of a child process that can import this file."""
    paths = [os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | changes


def run_python(script, *arguments, prefix=(), **variables):
    """What a Python process that runs ``script`` prints; it must succeed."""
    command = [*prefix, sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(**variables), check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout


# --- what comes back


def test_everything_comes_back_bit_for_bit(saved):
    tensors, metadata = model_file.read(saved)
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()
        assert not tensors[name].flags.writeable
    assert metadata["kind"] == METADATA["kind"]
    assert metadata["config"] == METADATA["config"]


def test_layout_and_byte_order_do_not_matter(path):
    array = np.arange(12.0).reshape(3, 4)
    variants = {
        "fortran": np.asfortranarray(array),
        "swapped": array.astype(">f8"),
        "reversed": array[::-1, ::-1],
        "broadcast": np.broadcast_to(np.float32(3), (2, 2)),
    }
    model_file.write(path, variants, METADATA)
    for name, array in model_file.read(path)[0].items():
        np.testing.assert_array_equal(array, variants[name])
        assert array.dtype.isnative


def test_the_same_content_gives_the_same_bytes_in_every_process(saved):
    script = (
        "import sys; from test_model_file import METADATA, TENSORS, model_file\n"
        "model_file.write(sys.argv[1], TENSORS, METADATA)"
    )
    for seed in "123":
        other = saved.with_name(f"other{seed}")
        run_python(script, other, PYTHONHASHSEED=seed)
        assert other.read_bytes() == saved.read_bytes()


def test_the_safetensors_library_reads_the_file(saved):
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(saved)
    assert tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert tensors[name].tobytes() == array.tobytes()
    with safetensors.safe_open(saved, framework="np") as file:
        assert file.metadata()["format"] == "bcenet"


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(path):
    for tensors, config, error in [
        ({"a": np.zeros(2, dtype=np.float16)}, {}, TypeError),
        ({"a": np.array([None])}, {}, TypeError),
        ({"a": np.zeros(2)}, {"x": float("nan")}, ValueError),
        ({"a": np.zeros(2)}, {"x": object()}, TypeError),
        ({"a": np.zeros(2)}, {"x": ["text"] * 200_000}, ValueError),
    ]:
        with pytest.raises(error):
            model_file.write(path, tensors, {"kind": "network", "config": config})
    assert os.listdir(path.parent) == []


# --- C5: damage


def test_c5_every_truncation_and_every_single_bit_flip_is_refused(path):
    model_file.write(path, {"a": np.arange(470.0)}, METADATA)
    content = path.read_bytes()
    assert 3800 <= len(content) <= 4200
    reasons = set()
    with open(path, "r+b", buffering=0) as file:
        for position, bit in itertools.product(range(len(content)), range(8)):
            os.pwrite(file.fileno(), bytes([content[position] ^ (1 << bit)]), position)
            reasons.add(refusal(path)[:20])
            os.pwrite(file.fileno(), content[position : position + 1], position)
        model_file.read(path)
        for length in reversed(range(len(content))):
            os.ftruncate(file.fileno(), length)
            refusal(path)
    assert len(reasons) > 5  # not all for one and the same trivial reason


def test_appended_bytes_are_refused(saved):
    with open(saved, "ab") as file:
        file.write(b"\0")
    assert "SHA-256" in refusal(saved)


# --- M1: files made to harm, all with a correct digest


def forge(path, tensors, data=b"", *, config="{}", raw=None, **metadata):
    """Write a file whose digest is right and whose header says anything."""
    values = {
        "format": "bcenet",
        "format_version": "1",
        "bcenet_version": "0",
        "kind": "network",
        "config": config,
        "sha256": "0" * 64,
    } | metadata
    header = raw or json.dumps({"__metadata__": values} | tensors, separators=(",", ":"))
    content = len(header).to_bytes(8, "little") + header.encode() + data
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b"0" * 64, digest.encode(), 1))


def entry(shape, first, last, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_a_forged_file_is_read_if_nothing_is_wrong_with_it(path):
    forge(path, {"a": entry([2], 0, 8), "b": entry([0, 3], 8, 8)}, b"\0" * 8)
    assert model_file.read(path)[0]["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        pytest.param({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12, id="overlap"),
        pytest.param({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8, id="same bytes"),
        pytest.param({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 12, id="hole"),
        pytest.param({"a": entry([1], 4, 8)}, 8, id="hole at the start"),
        pytest.param({"a": entry([1], 0, 4)}, 5, id="trailing byte"),
        pytest.param({}, 1, id="trailing byte, no tensors"),
        pytest.param({"a": entry([2**32, 2**32 + 1], 0, 4)}, 4, id="product past 2**64"),
        pytest.param({"a": entry([2**62 + 1], 0, 4)}, 4, id="bytes past 2**64"),
        pytest.param({"a": entry([10**30], 0, 4)}, 4, id="huge side"),
        pytest.param({"a": entry([0, 2**40, 2**40], 0, 0)}, 0, id="empty and huge"),
        pytest.param({"a": entry([1] * 65, 0, 4)}, 4, id="too many sides"),
        pytest.param({"a": entry([-1, -1], 0, 4)}, 4, id="negative sides"),
        pytest.param({"a": entry([True], 0, 4)}, 4, id="boolean side"),
        pytest.param({"a": entry([1.0], 0, 4)}, 4, id="float side"),
        pytest.param({"a": entry("1", 0, 4)}, 4, id="shape of text"),
        pytest.param({"a": entry([1], 0, 8)}, 8, id="too many bytes"),
        pytest.param({"a": entry([1], 0, 2**70)}, 4, id="past the end"),
        pytest.param({"a": entry([1], 4, 0)}, 4, id="backwards"),
        pytest.param({"a": entry([1], 0, 4, dtype="F16")}, 4, id="unknown type"),
        pytest.param({"a": entry([4], 0, 4, dtype="BOOL")}, 4, id="booleans"),
        pytest.param({"a": entry([1], 0, 4, dtype=["F32"])}, 4, id="type in a list"),
        pytest.param({"a": entry([1], 0, 4) | {"extra": 1}}, 4, id="extra name"),
        pytest.param({"a": {"dtype": "F32"}}, 4, id="no shape"),
        pytest.param({"a": None}, 4, id="null"),
        pytest.param({"a": [1, 2, 3]}, 4, id="list"),
    ],
)
def test_m1_tensors_that_do_not_cover_the_data_exactly(path, tensors, size):
    forge(path, tensors, b"\0" * size)
    assert "tensor" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": '{"x":1,"x":2}'}, "a name occurs twice"),
        ({"config": '{"x":NaN}'}, "NaN is not a finite number"),
        ({"config": '{"x":1e999}'}, "1e999 is not a finite number"),
        ({"config": "[" * 30_000}, "recursion"),
        ({"config": "[]"}, "must be a JSON object"),
        ({"config": "{"}, "not valid JSON"),
        ({"config": '{"x":' + "9" * 5000 + "}"}, "not valid JSON"),
        ({"format": "other"}, "not a bcenet model file"),
        ({"format_version": "2"}, "its format version is '2', this version of bcenet reads '1'"),
        ({"kind": 3}, "metadata"),
        ({"sha256": "x"}, "64 hexadecimal digits"),
        ({"sha256": "\ud800" * 64}, "64 hexadecimal digits"),
        ({"extra": "x"}, "metadata"),
    ],
)
def test_m1_metadata(path, changes, reason):
    forge(path, {}, **changes)
    assert reason in refusal(path)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"a":1,"a":1}', "a name occurs twice"),
        ('{"__metadata__":{"format":"bcenet","format":"bcenet"}}', "a name occurs twice"),
        ("[1]", "must be a JSON object"),
        ('{"__metadata__":[]}', "not a bcenet model file"),
        ('{"a":"é"}', "not ASCII"),
        ("nonsense", "not valid JSON"),
    ],
)
def test_m1_headers(path, raw, reason):
    forge(path, {}, raw=raw)
    assert reason in refusal(path)


def test_m1_other_formats(path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", pickle.dumps([1]))
    for content in (b"", b"1234567", archive.getvalue(), pickle.dumps({"a": 1}), b"age,sex\n1,2\n"):
        path.write_bytes(content)
        assert "not a bcenet model file, or cut short" in refusal(path)


@pytest.mark.parametrize("size", [100_000, 10_000_000])
@pytest.mark.parametrize("part", ["[]", "{}", '"ab"', "0.5", '{"a":0}', '"\\ud83d\\ude00"'])
def test_m1_memory_stays_below_twice_the_file(path, part, size):
    values = ",".join([part] * (size // (len(part) + 1)))
    forge(path, {}, config=f'{{"x":[{values}]}}', data=b"")
    tracemalloc.start()
    try:
        try:
            model_file.read(path)
        except ModelFormatError as error:
            assert "too long" in str(error)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 2 * path.stat().st_size + 2**24


def test_what_is_not_a_regular_file(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert refusal(fifo) == "not a regular file"
    with pytest.raises(IsADirectoryError):
        model_file.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        model_file.read(tmp_path / "absent")


# --- C2, C3, C4: saving


def listing(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_c4_permissions_follow_the_umask_of_a_new_file(path, umask):
    path.write_bytes(b"old")
    path.chmod(0o604)
    before = os.umask(umask)
    try:
        write_file(path, [b"new"])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_c4_a_symbolic_link_is_followed(tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to("real/file")
    for content in (b"created through a dangling link", b"replaced"):
        write_file(link, [content])
        assert link.is_symlink()
        assert (folder / "file").read_bytes() == content
        assert listing(folder) == ["file"]
        assert listing(tmp_path) == ["link", "real"]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    device = tmp_path / "null"
    device.symlink_to(os.devnull)
    write_file(device, [b"content"])
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    read, write = os.pipe()
    write_file(f"/dev/fd/{write}", [b"through ", b"a pipe"])
    os.close(write)
    assert os.read(read, 100) == b"through a pipe"
    os.close(read)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_c3_a_full_device_is_an_error():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'") as caught:
        model_file.write("/dev/full", TENSORS, METADATA)
    assert caught.value.errno == errno.ENOSPC
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("limit", [0, 1, 8, 100, 500])
def test_c3_a_file_size_limit_is_an_error_and_the_old_file_stays(saved, limit):
    old = saved.read_bytes()
    status = run_python(
        "import errno, resource, sys; from test_model_file import METADATA, TENSORS, model_file\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))\n"
        "try: model_file.write(sys.argv[1], TENSORS, METADATA | {'kind': 'model'})\n"
        "except OSError as error: print(error.errno == errno.EFBIG, error.filename)\n",
        saved,
        limit,
    )
    assert status == f"True {saved}\n"
    assert saved.read_bytes() == old
    assert listing(saved.parent) == [saved.name]


def test_c2_short_writes_are_continued(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    write_file(path, [b"0123456789" * 10, b"", b"end"])
    assert path.read_bytes() == b"0123456789" * 10 + b"end"


def test_c2_a_write_that_takes_nothing_is_an_error(path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(OSError, match="nothing was written"):
        write_file(path, [b"content"])
    assert listing(path.parent) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_in_the_middle_leaves_the_old_file(path, error):
    def content():
        yield b"first half"
        raise error

    path.write_bytes(b"old")
    with pytest.raises(error):
        write_file(path, content())
    assert path.read_bytes() == b"old"
    assert listing(path.parent) == [path.name]


def test_errors_name_the_path_that_was_given(tmp_path):
    absent = str(tmp_path / "absent" / "file")
    for name, kind in [(absent, FileNotFoundError), (str(tmp_path), IsADirectoryError)]:
        with pytest.raises(kind) as caught:
            write_file(name, [b""])
        assert caught.value.filename == name
    assert listing(tmp_path) == []


needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace, which watches and breaks system calls"
)


@needs_strace
def test_c4_write_then_fsync_then_rename_then_fsync_of_the_folder(saved):
    log = saved.parent.parent / "strace.log"
    calls = "?open,openat,write,fsync,?rename,renameat,?renameat2"
    script = (
        "import sys; from test_model_file import METADATA, TENSORS, model_file\n"
        "model_file.write(sys.argv[1], TENSORS, METADATA)"
    )
    traced = ["strace", "-y", "-e", f"trace={calls}", "-o", str(log)]
    run_python(script, saved, prefix=traced)
    folder = re.escape(str(saved.parent))
    temporary = rf"{folder}/\.bcenet-[0-9a-f]{{16}}\.tmp"
    pattern = [
        rf'open.*"{folder}", O_RDONLY.*O_DIRECTORY',
        rf'open.*"{temporary}", O_WRONLY\|O_CREAT\|O_EXCL\|O_CLOEXEC, 0666\)',
        rf"write\(\d+<{temporary}>",
        rf"write\(\d+<{temporary}>",
        rf"write\(\d+<{temporary}>",
        rf"fsync\(\d+<{temporary}>\) += 0",
        rf'rename.*"{temporary}".*"{folder}/saved\.bcenet".* = 0',
        rf"fsync\(\d+<{folder}>\) += 0",
    ]
    # what Python loads before and after does not concern the folder of the file
    lines = [line for line in log.read_text().splitlines() if str(saved.parent) in line]
    assert len(lines) == len(pattern)
    for line, expected in zip(lines, pattern, strict=True):
        assert re.match(expected, line), (expected, line)


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EINTR"])
def test_c2_any_failing_system_call_leaves_the_old_file_or_the_new(saved, error):
    """Break the k-th call of each kind in a save, for k = 1, 2, ... until there is no k-th."""
    old = saved.read_bytes()
    model_file.write(saved.parent.parent / "new", TENSORS, METADATA | {"kind": "model"})
    new = (saved.parent.parent / "new").read_bytes()
    broken = {}
    with saving_process(saved) as save:
        for kind, calls in _SYSTEM_CALLS.items():
            for k in itertools.count(1):
                saved.write_bytes(old)
                outcome, was_broken = save(f"inject={calls}:error={error}:when={k}")
                assert saved.read_bytes() in ((old, new) if outcome else (new,))
                assert listing(saved.parent) == [saved.name]
                if not was_broken:
                    assert outcome == 0
                    break
                broken.setdefault(kind, set()).add(outcome)
            assert k > _FEWEST_CALLS[kind]
    number = getattr(errno, error)
    # Python itself repeats these after EINTR.
    repeated = {"open", "write", "fsync"} if error == "EINTR" else set()
    assert broken == {kind: {0 if kind in repeated else number} for kind in _SYSTEM_CALLS}


_SYSTEM_CALLS = {  # those with "?" don't exist on every processor
    "stat": "?stat,?lstat,newfstatat,statx",
    "open": "?open,openat",
    "write": "write",
    "fsync": "fsync",
    "close": "close",
    "rename": "?rename,renameat,renameat2",
}
_FEWEST_CALLS = {"stat": 2, "open": 2, "write": 3, "fsync": 2, "close": 2, "rename": 1}

# The answer goes through a socket, whose system calls are not among those that are broken.
_SAVE_ON_REQUEST = """
import ctypes, socket, sys
from test_model_file import METADATA, TENSORS, model_file
model_file.write(sys.argv[1], TENSORS, METADATA)
any_tracer = ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
channel = socket.socket(fileno=int(sys.argv[2]))
channel.send(b"r")
while channel.recv(1):
    try:
        model_file.write(sys.argv[1], TENSORS, METADATA | {"kind": "model"})
        outcome = 0
    except OSError as error:
        assert error.filename == sys.argv[1]
        outcome = error.errno
    channel.send(outcome.to_bytes(4, "little"))
"""


@contextmanager
def saving_process(path, code=_SAVE_ON_REQUEST):
    """A process that saves to ``path`` on request, its system calls broken as strace is told.

    Gives a function from strace's expression to (the errno that the save raised or 0, whether a
    call was broken).
    """
    log = path.parent.parent / "strace.log"
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with (
        ours,
        theirs,
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment(),
        ) as child,
    ):

        def save(expression):
            command = ["strace", "-p", str(child.pid), "-e", expression, "-o", str(log)]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                attached = tracer.stderr.readline()
                if "attached" not in attached:
                    pytest.skip(f"strace may not attach to a process here: {attached}")
                ours.send(b"g")
                outcome = int.from_bytes(ours.recv(4), "little")
                tracer.send_signal(signal.SIGINT)
                tracer.communicate()
            return outcome, "(INJECTED)" in log.read_text()

        try:
            assert ours.recv(1) == b"r"
            yield save
        finally:
            child.kill()

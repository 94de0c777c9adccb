"""The package as it is installed: what it imports, links and says of itself."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest

import bcenet
import bcenet._dispatch

FOLDER = pathlib.Path(bcenet.__file__).parent
NATIVE = sorted(FOLDER.glob("_*.so"))


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_version_is_the_distribution_s():
    assert importlib.metadata.version("bcenet") == bcenet.__version__


def test_runtime_needs_numpy_and_safetensors_alone():
    required = importlib.metadata.requires("bcenet")
    plain = [line for line in required if "extra ==" not in line]
    assert sorted(re.match(r"[a-z]+", line)[0] for line in plain) == ["numpy", "safetensors"]


def test_import_brings_no_extra():
    code = (
        "import sys, numpy; before = set(sys.modules); import bcenet;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    new = set(python(code).stdout.split())
    assert new & {"pyarrow", "pandas", "tqdm", "sklearn", "torch", "safetensors"} == set()
    # Each of these would cost milliseconds.
    assert new & {"dataclasses", "pathlib", "difflib", "json", "logging", "asyncio"} == set()


def test_every_public_name_is_there():
    assert {name: getattr(bcenet, name, None) for name in bcenet.__all__ if name}.keys() == set(
        bcenet.__all__
    )
    assert all(getattr(bcenet, name) is not None for name in bcenet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bcenet.nothing


def test_show_config(capsys):
    config = bcenet.show_config()
    assert list(config) == [
        "version",
        "instruction_set",
        "instruction_sets",
        "threads",
        "build_flags",
    ]
    assert config["version"] == bcenet.__version__
    assert config["instruction_set"] in config["instruction_sets"]
    assert config["instruction_sets"] == bcenet._dispatch.available()
    assert config["threads"] >= 1
    assert "-ffp-contract=off" in config["build_flags"]
    assert "fast-math" not in config["build_flags"]
    assert "march=native" not in config["build_flags"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"version: {bcenet.__version__}\ninstruction_set: ")


@pytest.mark.parametrize("name", bcenet._dispatch.available())
def test_bcenet_isa_chooses(name):
    code = "import bcenet._dispatch as d; print(d.native.INSTRUCTION_SET)"
    assert python(code, BCENET_ISA=name).stdout == f"{name}\n"


def test_unknown_bcenet_isa_is_an_import_error_that_names_what_there_is():
    result = python("import bcenet", BCENET_ISA="v5")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    listed = ", ".join(bcenet._dispatch.available())
    assert last == f"ImportError: BCENET_ISA must be one of {listed} on this machine; got 'v5'"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_bad_bcenet_num_threads(text):
    code = "import bcenet; bcenet.Network([1, 1]).predict_proba([[0.0]])"
    result = python(code, BCENET_NUM_THREADS=text)
    last = result.stderr.splitlines()[-1]
    wanted = "BCENET_NUM_THREADS must be an integer of at least 1"
    assert last == f"ValueError: {wanted}; got {text!r}"


def test_bcenet_num_threads_limits():
    result = python("import bcenet; bcenet.show_config()", BCENET_NUM_THREADS="3")
    assert "threads: 3\n" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
@pytest.mark.parametrize("path", NATIVE, ids=lambda path: path.name.partition(".")[0])
def test_native_modules_are_stripped_and_need_no_openmp(path):
    content = path.read_bytes()
    assert content[:4] == b"\x7fELF"
    assert b".symtab" not in content
    assert b"libgomp" not in content
    assert b"libiomp" not in content


def test_native_modules_are_small():
    assert len(NATIVE) == 1 + len(bcenet._dispatch.available())
    assert sum(path.stat().st_size for path in NATIVE) < 5_000_000

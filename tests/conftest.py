"""Fixtures of all tests."""

from __future__ import annotations

import signal

import pytest

import bcenet._dispatch
from bcenet import model_file
from bcenet.cli import main

# A shell that starts the tests in the background makes them ignore SIGINT, and the tests of
# Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=bcenet._dispatch.available())
def isa(request):
    """Runs a test once with each instruction set that the processor has."""
    with bcenet._dispatch.use(request.param):
        yield request.param


@pytest.fixture
def run(capsys):
    """Runs the command; gives its standard output after checking status and errors."""

    def run(*arguments, status=0):
        returned = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert returned == status, printed.err
        run.err = printed.err
        return printed.out

    return run


@pytest.fixture
def refused(run):
    """Runs the command, which must end with status 2 and one line; gives that line's message."""

    def refused(*arguments):
        assert run(*arguments, status=2) == ""
        assert run.err.startswith("bcenet: error: ")
        assert run.err.count("\n") == 1
        return run.err.removeprefix("bcenet: error: ").strip()

    return refused


@pytest.fixture
def every_checkpoint(monkeypatch):
    """Keeps the bytes of every checkpoint that is written."""
    kept = []
    real = model_file.write

    def write(path, *content):
        real(path, *content)
        with open(path, "rb") as file:
            kept.append(file.read())

    monkeypatch.setattr(model_file, "write", write)
    return kept

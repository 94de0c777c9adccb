"""The ``bcenet`` command: one file a subcommand; here the parser, the errors and the signals.

Each subcommand's module has ``add_parser(commands)``, which needs argparse alone, and
``run(arguments)``, which imports what it works with. So ``bcenet --help`` reads no data library.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import bcenet
from bcenet import checks
from bcenet.cli import bench, evaluate, explain, info, predict, shuffle, signals, train

_COMMANDS = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "explain": explain,
    "info": info,
    "shuffle": shuffle,
    "bench": bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (by default the process's own) and return its exit status.

    Returns:
        0: done. 2: an error, told in one line on standard error. 130: interrupted. 141: the reader
        of standard output went away. 143: terminated. Output files are then whole or untouched.
    """
    # Text that the terminal cannot show is escaped rather than an error.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with signals.caught(), _plain_warnings():
        try:
            try:
                arguments = _parser().parse_args(argv)
            except SystemExit as stop:  # --help, --version, or an error that has been told
                sys.stdout.flush()
                return int(stop.code or 0)
            arguments.run(arguments)
            sys.stdout.flush()
            return signals.status() or 0
        except KeyboardInterrupt:
            return signals.status() or 130
        except BrokenPipeError:
            _give_up_stdout()
            return 141
        except Exception as error:
            _give_up_stdout()
            interrupted = signals.status()
            if interrupted is not None:  # the interrupt came out as another exception
                return interrupted
            if sys.flags.dev_mode:  # python -X dev -m bcenet: the whole traceback
                raise
            _print_note("error", _message(error))
            return 2


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning in one line, without the place in the source code."""

    def show(message: Warning | str, *rest: Any, **named: Any) -> None:
        _print_note("warning", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _give_up_stdout() -> None:
    """Drop what cannot be written to standard output; the interpreter would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())


def _message(error: Exception) -> str:
    """One line for the user; a kind of error that input should never cause names itself."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    known = (ValueError, TypeError, ArithmeticError, ImportError, OSError)
    return str(error) if isinstance(error, known) else f"{type(error).__name__}: {error}"


def _print_note(kind: str, message: str) -> None:
    with suppress(OSError):
        print(f"bcenet: {kind}:", "; ".join(message.splitlines()), file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest known option or command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Before argparse looks: it would first complain of what is missing, not of what is wrong.
        args = sys.argv[1:] if args is None else list(args)
        for argument in args:
            if argument == "--" or not self._is_checked(argument):
                break
        return super().parse_known_args(args, namespace)

    def _is_checked(self, argument: str) -> bool:
        """Refuse an unknown option or command; False where the rest is for a subcommand."""
        if not argument.startswith("-") or argument == "-" or argument[1] in ".0123456789":
            if self._subparsers is None:
                return True
            try:
                checks.choice("COMMAND", argument, _COMMANDS)
            except ValueError as error:
                self.error(str(error))
            return False
        known = list(self._option_string_actions)
        name = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            self.error(f"unknown option {name}" + (f" (did you mean {near[0]}?)" if near else ""))
        return True

    def error(self, message: str) -> NoReturn:
        _print_note("error", message)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bcenet",
        description="Train small neural networks on tables with a yes-or-no column, and use them.",
        epilog="bcenet COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"bcenet {bcenet.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in _COMMANDS.values():
        module.add_parser(commands).set_defaults(run=module.run)
    return parser

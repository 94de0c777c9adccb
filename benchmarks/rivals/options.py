"""What the commands of the benchmarks share."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from bcenet.cli import arguments


def several(convert: Any) -> Any:
    """A type for argparse: values separated by commas, each kept once."""
    return lambda text: list(dict.fromkeys(convert(part) for part in arguments.names(text)))


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line and status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")

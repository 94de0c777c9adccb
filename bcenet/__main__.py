"""``python -m bcenet`` is the ``bcenet`` command."""

import sys

from bcenet.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Make ``adult.csv.gz`` and ``adult-test.csv.gz`` from the two files of the census data set.

    python examples/make_adult.py adult.data adult.test [FOLDER]

The values stay as they are; a line with the columns' names is put on top, the blanks after the
commas go, and so does the full stop that ends every label of the test file. The time of day does
not enter the files. README.md beside this file names the source and its licence.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

COLUMNS = (
    "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,"
    "capital-gain,capital-loss,hours-per-week,native-country,income"
)


def table(path: Path) -> str:
    """The data lines of one of the original files as CSV with a header."""
    lines = [COLUMNS]
    for line in path.read_text(encoding="ascii").splitlines():
        values = [value.strip() for value in line.removesuffix(".").split(",")]
        if len(values) == len(COLUMNS.split(",")):  # others: an empty line, a remark on top
            lines.append(",".join(values))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="the original training file, adult.data")
    parser.add_argument("test", type=Path, help="the original test file, adult.test")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    options = parser.parse_args()
    for source, name in ((options.train, "adult.csv.gz"), (options.test, "adult-test.csv.gz")):
        content = table(source).encode()
        (options.folder / name).write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()

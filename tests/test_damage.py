"""I5: files with a flipped bit or a cut, each read in a process with a time limit.

A page of a Parquet file that was written with checksums, and the text of a gzip file, show every
flip. The data of an Arrow IPC file do not: it has no checksums.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import bcenet
from bcenet.data import arrow_sources, ipc_layout, open_dataset

ROWS = 24


def write(path, compression="snappy", dictionary=True, rows=ROWS):
    rng = np.random.default_rng(0)
    x = [None if i % 7 == 0 else float(v) for i, v in enumerate(rng.normal(size=rows))]
    table = pa.table(
        {
            "x": pa.array(x, pa.float32()),
            "k": rng.integers(-99, 99, rows, dtype=np.int8),
            "y": rng.integers(0, 2, rows, dtype=np.int8),
        }
    )
    if path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows // 2)
    else:
        pyarrow.parquet.write_table(
            table, path, row_group_size=rows // 2, write_page_checksum=True,
            compression=compression, use_dictionary=dictionary, store_schema=False,
        )  # fmt: skip


def read(path):
    blocks = open_dataset(path, target="y").blocks()
    return [np.concatenate(arrays) for arrays in zip(*blocks, strict=True)]


def outcome(path, expected):
    try:
        found = read(path)
    except ValueError as error:
        assert str(path) in str(error)
        return "error"
    same = [len(a) == len(b) and np.array_equal(a, b, equal_nan=True)
            for a, b in zip(found, expected, strict=True)]  # fmt: skip
    return "same" if all(same) else "other values"


def damage(path, step, **options):
    """The outcomes of every ``step``-th flip and cut of a file, to standard output."""
    path = pathlib.Path(path)
    write(path, **options)
    if "rows" in options:  # record batches that are read by rows
        arrow_sources._IPC_LOOK_BYTES, ipc_layout._SMALL_BYTES = 0, 2000
        arrow_sources._ROWS = 64
        step *= options["rows"] // ROWS
        assert open_dataset(path, target="y")._source._files[0]._layout is not None
    whole, expected = path.read_bytes(), read(path)
    flips: dict[str, list[int]] = collections.defaultdict(list)
    for bit in range(0, 8 * len(whole), step):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        flips[outcome(path, expected)].append(bit // 8)
    cuts = collections.Counter()
    for size in range(0, len(whole), step):
        path.write_bytes(whole[:size])
        cuts[outcome(path, expected)] += 1
    print(json.dumps({"flips": flips, "cuts": cuts, "bits": len(range(0, 8 * len(whole), step))}))


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t.parquet", {}),
        ("t.parquet", {"compression": "none", "dictionary": False}),
        ("t.parquet", {"compression": "zstd"}),
        ("t.arrow", {}),
        ("t.arrow", {"rows": 40 * ROWS}),
    ],
)
def test_i5_flipped_bits_and_cuts(tmp_path, name, options, step):
    code = f"import test_damage; test_damage.damage({str(tmp_path / name)!r}, {step}, **{options})"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr  # no crash, and no exception but ValueError
    found = json.loads(result.stdout)
    assert list(found["cuts"]) == ["error"]
    other = found["flips"].get("other values", [])
    if name == "t.parquet":
        assert other == []
        assert len(found["flips"]["error"]) > 0.3 * found["bits"]
    else:
        assert other  # in the buffers: documented, and no surprise


def test_shuffled_parquet_files_have_checksums(tmp_path):
    """Without them a flip in the numbers gives other numbers."""
    write(tmp_path / "a.parquet")
    bcenet.data.shuffle(tmp_path / "a.parquet", tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    with pyarrow.parquet.ParquetFile(tmp_path / "b.parquet") as file:
        chunk = file.metadata.row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    refused = 0
    for byte in range(start, start + chunk.total_compressed_size):
        data = bytearray(whole)
        data[byte] ^= 4
        (tmp_path / "b.parquet").write_bytes(data)
        try:
            read(tmp_path / "b.parquet")
        except bcenet.DataFormatError:
            refused += 1
    assert refused > 0.8 * chunk.total_compressed_size  # the rest: statistics in page headers

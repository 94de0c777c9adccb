"""Streaming fits beside a fit in memory, and the memory of one on a large file.

    python -m benchmarks.streaming [--rows N] [--rounds N] [--threads N] [--large GIB] [--csv]

28-64-32-1, batch 200, Adam, float32; rates are of the second of two epochs, medians of rounds in
which all sources take their turn. With --large, epochs on a .npy, an Arrow IPC and a Parquet file
of that size, each in a process held to 1 GiB by RLIMIT_DATA, in turn with epochs on --rows rows in
memory; one file at a time is written under --folder. With --csv, the stages from a CSV file to a
trained model: the census data of examples/, repeated to --rows rows. --rows is 2,000,000 if it is
not given, and 1,000,000 with --csv. It needs the extra `arrow`.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import multiprocessing
import os
import pathlib
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

import bcenet
from bcenet.cli import arguments
from bcenet.data import open_dataset, read_blocks
from bcenet.data.sources import BLOCK_ROWS
from bcenet.data.tables import Blocks
from bcenet.tabular import TabularEncoder
from benchmarks.rivals.options import Parser

COLUMNS = 28
ROW_GROUP = 65_536
IN_MEMORY = 200_000  # rows of the census data that are trained on in memory


def epoch_rate(threads: int | None, rows: int, *data, columns: int = COLUMNS) -> float:
    """Rows a second of the second epoch."""
    net = bcenet.Network([columns, 64, 32, 1], random_state=0)
    times: list[float] = []
    bcenet.fit(
        net,
        *data,
        epochs=2,
        n_threads=threads,
        random_state=0,
        callbacks=[lambda state: times.append(time.perf_counter())],
    )
    return rows / (times[1] - times[0])


def decoding_rate(path: str, rows: int, threads: bool) -> float:
    """Rows a second that pyarrow decodes, and nothing else."""
    begun = time.perf_counter()
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group, use_threads=threads)
    return rows / (time.perf_counter() - begun)


def examples(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] + rng.standard_normal(rows) > 0).astype(np.float32)
    return X, y


def table(X: np.ndarray, y: np.ndarray) -> pyarrow.Table:
    return pyarrow.table({f"x{i}": X[:, i] for i in range(COLUMNS)} | {"y": y})


def sources(folder: str, rows: int):
    """(name, arguments of fit) of each source of the same rows."""
    X, y = examples(rows, 0)
    np.save(f"{folder}/X.npy", X)
    np.save(f"{folder}/y.npy", y)
    for suffix in ("arrow", "parquet"):
        write_parts(f"{folder}/t.{suffix}", [(X, y)])
    opened = bcenet.data.open_dataset
    yield "in memory", (X, y)
    yield ".npy", (opened((f"{folder}/X.npy", f"{folder}/y.npy")),)
    yield "Arrow IPC", (opened(f"{folder}/t.arrow", target="y"),)
    yield "Parquet", (opened(f"{folder}/t.parquet", target="y"),)


def write_parts(path: str, parts) -> None:
    """An Arrow IPC or a Parquet file, in batches or groups of ROW_GROUP rows."""
    schema = table(*examples(1, 0)).schema
    with contextlib.ExitStack() as opened:
        if path.endswith(".parquet"):
            writer = opened.enter_context(pyarrow.parquet.ParquetWriter(path, schema))
            options = {"row_group_size": ROW_GROUP}
        else:
            file = opened.enter_context(pyarrow.OSFile(path, "wb"))
            writer = opened.enter_context(pyarrow.ipc.new_file(file, schema))
            options = {"max_chunksize": ROW_GROUP}
        for X, y in parts:
            writer.write_table(table(X, y), **options)


def compare(folder: str, options: argparse.Namespace) -> None:
    cases = dict(sources(folder, options.rows))
    rates: dict[str, list[float]] = {name: [] for name in cases}
    decoding = []
    for _ in range(options.rounds):
        for name, data in cases.items():
            rates[name].append(epoch_rate(options.threads, options.rows, *data))
        decoding.append(decoding_rate(f"{folder}/t.parquet", options.rows, True))
    middle = {name: float(np.median(found)) for name, found in rates.items()}
    print("| source | million rows/s | of memory's |")
    print("|---|---:|---:|")
    for name, rate in middle.items():
        print(f"| {name} | {rate / 1e6:.2f} | {rate / middle['in memory']:.2f} |")
    d, t = float(np.median(decoding)), middle["in memory"]
    print(f"\npyarrow alone decodes {d / 1e6:.2f} million rows/s; D T / (D + T) is "
          f"{d * t / (d + t) / 1e6:.2f}, of which Parquet reaches "
          f"{middle['Parquet'] / (d * t / (d + t)):.2f}")  # fmt: skip


def anonymous() -> float:
    """MiB of memory of the process's own."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def write_large(path: str, rows: int) -> None:
    """Rows that are drawn as they are written, in little memory."""
    parts = (
        examples(min(4 * ROW_GROUP, rows - start), start) for start in range(0, rows, 4 * ROW_GROUP)
    )
    if not path.endswith(".npy"):
        write_parts(path, parts)
        return
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS + 1)}
        np.lib.format.write_array_header_1_0(file, header)
        for X, y in parts:
            file.write(np.column_stack([X, y]).data)


def train_limited(path: str, target: str | int, threads: int | None) -> tuple[float, float, float]:
    """Seconds to read the targets, rows a second of an epoch, and the most memory in MiB."""
    resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
    peaks, ended = [anonymous()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peaks.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        dataset = bcenet.data.open_dataset(path, target=target)
        begun = time.perf_counter()
        rows = dataset.scan().n
        scanned = time.perf_counter()
        net = bcenet.Network([COLUMNS, 64, 32, 1], random_state=0)
        bcenet.fit(net, dataset, epochs=1, n_threads=threads, random_state=0)
        trained = time.perf_counter() - scanned
    finally:
        ended.set()
        watcher.join()
    return scanned - begun, rows / trained, max(peaks)


def train_large(folder: str, options: argparse.Namespace) -> None:
    rows = options.large * 2**30 // (4 * (COLUMNS + 1))
    few = examples(options.rows, 0)
    print(f"{options.rows} rows in memory and {rows} in each file; medians of {options.rounds}\n")
    print("| source | GiB | targets read, s | million rows/s | in memory | of memory's | "
          "peak RssAnon, MiB |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for suffix, target in (("npy", -1), ("arrow", "y"), ("parquet", "y")):
        path = f"{folder}/large.{suffix}"
        write_large(path, rows)
        os.sync()  # or the file would be written to the disk while it is read
        memory, decoding, limited = [], [], []
        for _ in range(options.rounds):
            memory.append(epoch_rate(options.threads, options.rows, *few))
            # A process of its own: pyarrow's allocator, once used, holds 1 GiB of addresses, which
            # count, and takes less where the limit comes first.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                limited.append(pool.apply(train_limited, (path, target, options.threads)))
            if suffix == "parquet":
                decoding.append(decoding_rate(path, rows, True))
        t = float(np.median(memory))
        read, rate, most = np.median(limited, axis=0).tolist()
        print(f"| .{suffix} | {os.path.getsize(path) / 2**30:.1f} | {read:.1f} | "
              f"{rate / 1e6:.2f} | {t / 1e6:.2f} | {rate / t:.2f} | {most:.0f} |",
              flush=True)  # fmt: skip
        if decoding:
            d = float(np.median(decoding))
            print(f"\npyarrow alone decodes {d / 1e6:.2f} million rows/s; D T / (D + T) is "
                  f"{d * t / (d + t) / 1e6:.2f}, of which the fit reaches "
                  f"{rate / (d * t / (d + t)):.2f}")  # fmt: skip
        os.unlink(path)


def write_census(path: str, rows: int) -> None:
    """The census data, over and over."""
    packed = pathlib.Path(__file__).parent.parent / "examples" / "adult.csv.gz"
    header, *lines = gzip.decompress(packed.read_bytes()).splitlines(keepends=True)
    with open(path, "wb") as file:
        file.write(header)
        for start in range(0, rows, len(lines)):
            file.writelines(lines[: rows - start])


def learn(blocks: Iterable[Any]) -> TabularEncoder:
    return TabularEncoder().fit_blocks(blocks)


def read_parts(tables: Any, names: list[str], encoder: TabularEncoder) -> list[dict[str, Any]]:
    """The columns as a dataset reads them, before they are encoded."""
    reader = tables.open(names, encoder.numeric_columns, encoder.missing_values)
    return [columns for unit in range(len(tables.units)) for columns, _ in reader.parts(unit)]


def encode_parts(encoder: TabularEncoder, parts: list[dict[str, Any]]) -> None:
    out = np.empty((BLOCK_ROWS, encoder.n_features_out), np.float32)
    for part in parts:
        values = encoder.prepare(part)
        for start in range(0, len(values[0]), BLOCK_ROWS):
            its = [column[start : start + BLOCK_ROWS] for column in values]
            encoder.encode(its, out[: len(its[0])])


def from_csv(folder: str, rows: int, rounds: int, threads: int | None) -> None:
    path, target = f"{folder}/census.csv", "income"
    write_census(path, rows)
    rates: dict[str, list[float]] = {}

    def measure(name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.perf_counter()
        result = run(*arguments)
        rates.setdefault(name, []).append(rows / (time.perf_counter() - begun))
        return result

    alone = pyarrow.csv.ReadOptions(use_threads=False)
    for _ in range(rounds):
        measure("pyarrow.csv alone, one thread", pyarrow.csv.read_csv, path, alone)
        blocks = measure("find and check the parts, once", read_blocks, path)
        inputs = [name for name in blocks.columns if name != target]
        encoder = measure("read and learn the encoder, once", learn, Blocks(blocks.tables, inputs))
        measure("learn the encoder alone", learn, list(Blocks(blocks.tables, inputs)))
        parts = measure("read alone", read_parts, blocks.tables, [*inputs, target], encoder)
        measure("encode alone", encode_parts, encoder, parts)
        del parts
        labels = ("<=50K", ">50K")
        dataset = open_dataset(blocks, target=target, encoder=encoder, classes=labels)
        in_memory = next(dataset.blocks(min(rows, IN_MEMORY)))
        for name, data in (("train alone", in_memory), ("an epoch", (dataset,))):
            count = rows if data[0] is dataset else len(in_memory[1])
            rate = epoch_rate(threads, count, *data, columns=encoder.n_features_out)
            rates.setdefault(name, []).append(rate)
        del in_memory
    print(f"{rows:,} rows, {os.path.getsize(path) / 2**20:.0f} MiB of CSV, "
          f"{encoder.n_features_out} features\n")  # fmt: skip
    print("| stage | million rows/s |")
    print("|---|---:|")
    middle = {name: float(np.median(found)) for name, found in rates.items()}
    for name, rate in middle.items():
        print(f"| {name} | {rate / 1e6:.2f} |")
    checked = 1 / (1 / middle["read alone"] + 1 / middle["find and check the parts, once"])
    print(f"\nreading with checks: {checked / 1e6:.2f} million rows/s; "
          f"encoding is {middle['encode alone'] / checked:.2f} times as fast")  # fmt: skip


def main() -> None:
    parser = Parser(prog="python -m benchmarks.streaming", description=__doc__.splitlines()[0])
    whole = arguments.integer(1)
    parser.add_argument("--rows", type=whole, metavar="N")
    parser.add_argument("--rounds", type=whole, default=5, metavar="N")
    parser.add_argument("--threads", type=whole, default=2, metavar="N")
    parser.add_argument("--large", type=whole, metavar="GIB")
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("--folder", help="where the files go for the while (default: the system's)")
    options = parser.parse_args()
    options.rows = options.rows or (1_000_000 if options.csv else 2_000_000)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.csv:
            from_csv(folder, options.rows, options.rounds, options.threads)
        elif options.large is None:
            compare(folder, options)
        else:
            train_large(folder, options)


if __name__ == "__main__":
    main()

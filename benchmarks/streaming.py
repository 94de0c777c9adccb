"""Streaming fits beside a fit in memory, and the memory of one on a large file.

    python -m benchmarks.streaming [--rows N] [--rounds N] [--threads N] [--large GIB]

28-64-32-1, batch 200, Adam, float32; rates are of the second of two epochs, medians of rounds in
which all sources take their turn. With --large, one epoch on a .npy file of that size, in a process
held to 1 GiB by RLIMIT_DATA. It needs the extra `arrow`, and writes beside itself under --folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time

import numpy as np
import pyarrow
import pyarrow.parquet

import bcenet
from bcenet.cli import arguments
from benchmarks.rivals.options import Parser

COLUMNS = 28
ROW_GROUP = 65_536


def epoch_rate(threads: int | None, rows: int, *data) -> float:
    """Rows a second of the second epoch."""
    net = bcenet.Network([COLUMNS, 64, 32, 1], random_state=0)
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


def sources(folder: str, rows: int):
    """(name, arguments of fit) of each source of the same rows."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] + rng.standard_normal(rows) > 0).astype(np.float32)
    np.save(f"{folder}/X.npy", X)
    np.save(f"{folder}/y.npy", y)
    table = pyarrow.table({f"x{i}": X[:, i] for i in range(COLUMNS)} | {"y": y})
    pyarrow.parquet.write_table(table, f"{folder}/t.parquet", row_group_size=ROW_GROUP)
    with (
        pyarrow.OSFile(f"{folder}/t.arrow", "wb") as file,
        pyarrow.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=ROW_GROUP)
    opened = bcenet.data.open_dataset
    yield "in memory", (X, y)
    yield ".npy", (opened((f"{folder}/X.npy", f"{folder}/y.npy")),)
    yield "Arrow IPC", (opened(f"{folder}/t.arrow", target="y"),)
    yield "Parquet", (opened(f"{folder}/t.parquet", target="y"),)


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


def train_large(folder: str, gibibytes: int, threads: int | None) -> None:
    path = f"{folder}/large.npy"
    rows = gibibytes * 2**30 // (4 * (COLUMNS + 1))
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, COLUMNS + 1)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, 200_000):
            size = min(200_000, rows - start)
            part = rng.standard_normal((size, COLUMNS + 1), dtype=np.float32)
            part[:, 0] = part[:, 1] + part[:, 2] * part[:, 3] > 0
            file.write(part.data)
    del part
    resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
    peaks, ended = [anonymous()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peaks.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        dataset = bcenet.data.open_dataset(path, target=0)
        begun = time.perf_counter()
        dataset.scan()
        scanned = time.perf_counter()
        net = bcenet.Network([COLUMNS, 64, 32, 1], random_state=0)
        bcenet.fit(net, dataset, epochs=1, n_threads=threads, random_state=0)
        trained = time.perf_counter() - scanned
    finally:
        ended.set()
        watcher.join()
    print(f"{os.path.getsize(path) / 2**30:.1f} GiB, {rows} rows: targets read in "
          f"{scanned - begun:.1f} s, an epoch at {rows / trained / 1e6:.2f} million rows/s, "
          f"peak RssAnon {max(peaks):.0f} MiB under RLIMIT_DATA of 1 GiB")  # fmt: skip


def main() -> None:
    parser = Parser(prog="python -m benchmarks.streaming", description=__doc__.splitlines()[0])
    whole = arguments.integer(1)
    parser.add_argument("--rows", type=whole, default=2_000_000, metavar="N")
    parser.add_argument("--rounds", type=whole, default=5, metavar="N")
    parser.add_argument("--threads", type=whole, default=2, metavar="N")
    parser.add_argument("--large", type=whole, metavar="GIB")
    parser.add_argument("--folder", help="where the files go for the while (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.large is None:
            compare(folder, options)
        else:
            train_large(folder, options.large, options.threads)


if __name__ == "__main__":
    main()

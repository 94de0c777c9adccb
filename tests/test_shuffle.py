"""bcenet.data.shuffle and `bcenet shuffle`: every row once, in an order of the seed."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import bcenet
from bcenet import cli
from bcenet.data import open_dataset, shuffle, shuffling

ROWS = 2503


@pytest.fixture(params=["one bucket", "many buckets"])
def buckets(request, monkeypatch):
    if request.param == "many buckets":
        monkeypatch.setattr(shuffling, "_BUCKET_ROWS", 100)
        monkeypatch.setattr(shuffling, "_CHUNK_BYTES", 5000)


def table():
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "row": np.arange(ROWS),
            "text": [f'the "{i}"\nth, row' for i in range(ROWS)],
            "gap": pa.array([None if i % 3 else i / 2 for i in range(ROWS)]),
            "y": rng.integers(0, 2, ROWS, dtype=np.int8),
        }
    )


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(rows, path, row_group_size=700)
    elif path.suffix in (".csv", ".gz"):
        with pa.output_stream(path) as file:  # packs what is named .gz
            pyarrow.csv.write_csv(rows, file)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=700)


def read(path):
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    if path.suffix in (".csv", ".gz"):
        return pyarrow.csv.read_csv(
            path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        )
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


@pytest.mark.usefixtures("buckets")
@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("csv", "csv"),
        ("csv.gz", "csv"),
        ("csv", "csv.gz"),
        ("parquet", "parquet"),
        ("arrow", "arrow"),
        ("parquet", "arrow"),
    ],
)
def test_every_row_once_and_whole(source, out, tmp_path):
    rows = table()
    path, target = tmp_path / f"a.{source}", tmp_path / f"b.{out}"
    write(path, rows)
    assert shuffle(path, target, seed=3) == ROWS
    found, before = read(target), read(path)
    assert found.schema == before.schema
    order = found.column("row").to_numpy()
    assert found.equals(before.take(order))
    np.testing.assert_array_equal(np.sort(order), np.arange(ROWS))
    # Neighbours are strangers: for a random order the mean distance is ROWS / 3.
    assert np.abs(np.diff(order)).mean() == pytest.approx(ROWS / 3, rel=0.1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({path.name, target.name})


@pytest.mark.usefixtures("buckets")
def test_the_order_is_of_the_seed_and_the_number_of_rows(tmp_path):
    X, y = np.arange(2.0 * ROWS).reshape(ROWS, 2), np.arange(ROWS, dtype=">i4")
    np.save(tmp_path / "X.npy", np.asfortranarray(X))
    np.save(tmp_path / "y.npy", y)
    write(tmp_path / "t.csv", table())
    write(tmp_path / "t.arrow", table())
    for name in ("X.npy", "y.npy", "t.csv", "t.arrow"):
        assert shuffle(tmp_path / name, tmp_path / f"s_{name}", seed=5) == ROWS
    order = np.load(tmp_path / "s_y.npy")
    assert order.dtype == y.dtype
    np.testing.assert_array_equal(np.load(tmp_path / "s_X.npy"), X[order])
    np.testing.assert_array_equal(read(tmp_path / "s_t.csv").column("row"), order)
    np.testing.assert_array_equal(read(tmp_path / "s_t.arrow").column("row"), order)
    shuffle(tmp_path / "y.npy", tmp_path / "other.npy", seed=6)
    assert not np.array_equal(np.load(tmp_path / "other.npy"), order)


def test_every_order_is_equally_likely(tmp_path, monkeypatch):
    """All 24 orders of 4 rows, in two buckets: chi squared over 1200 seeds."""
    monkeypatch.setattr(shuffling, "_BUCKET_ROWS", 2)
    monkeypatch.setattr(shuffling, "write_file", lambda path, chunks: written.append([*chunks]))
    np.save(tmp_path / "y.npy", np.arange(4, dtype=np.int8))
    written: list[list[bytes]] = []
    for seed in range(1200):
        shuffle(tmp_path / "y.npy", tmp_path / "z.npy", seed=seed)
    orders = [tuple(b"".join(chunks)[-4:]) for chunks in written]
    counts = np.array([orders.count(order) for order in itertools.permutations(range(4))])
    assert counts.sum() == 1200
    # 23 degrees of freedom: above 60 with a chance of 4e-5; the seeds are fixed.
    assert np.sum((counts - 50.0) ** 2 / 50) < 60


def test_a_folder_becomes_a_file(tmp_path):
    (tmp_path / "in").mkdir()
    rows = table()
    write(tmp_path / "in" / "1.csv", rows[:1000])
    write(tmp_path / "in" / "2.csv", rows[1000:])
    assert shuffle(tmp_path / "in", tmp_path / "out.csv") == ROWS
    found = read(tmp_path / "out.csv")
    np.testing.assert_array_equal(np.sort(found.column("row")), np.arange(ROWS))


def test_sorted_labels_are_mixed(tmp_path):
    y = np.arange(100_000) < 40_000
    np.save(tmp_path / "y.npy", y)
    shuffle(tmp_path / "y.npy", tmp_path / "z.npy")
    X = np.zeros((len(y), 1))
    before = open_dataset((X, tmp_path / "y.npy"), window_rows=8192)
    after = open_dataset((X, tmp_path / "z.npy"), window_rows=8192)
    assert before.scan().drift > 0.3
    assert after.scan().drift < 0.01


def test_bad_input_leaves_the_output_as_it_was(tmp_path):
    path, out = tmp_path / "t.csv", tmp_path / "out.csv"
    write(path, table())
    out.write_text("old")
    for source, target, error, words in [
        (path, tmp_path / "t.npy", ValueError, "out must end as"),
        (path, path, ValueError, "out must not be a file that is read"),
        (tmp_path / "none.csv", out, FileNotFoundError, "none.csv"),
        (path, tmp_path / "no" / "out.csv", FileNotFoundError, "no"),
    ]:
        with pytest.raises(error, match=words):
            shuffle(source, target)
    with pytest.raises(ValueError, match="seed must be"):
        shuffle(path, out, seed=-1)
    with open(path, "a") as file:
        file.write("1,2\n")
    with pytest.raises(bcenet.DataFormatError, match="2 values where"):
        shuffle(path, out)
    np.save(tmp_path / "y.npy", np.zeros(0))
    with pytest.raises(bcenet.DataFormatError, match="no rows"):
        shuffle(tmp_path / "y.npy", tmp_path / "z.npy")
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "t.csv", "y.npy"]


def test_a_file_that_changes_meanwhile(tmp_path, monkeypatch):
    path, out = tmp_path / "t.parquet", tmp_path / "out.parquet"
    write(path, table())
    monkeypatch.setattr(shuffling, "_CHUNK_BYTES", 5000)
    spill = shuffling._Batches.spill

    def cut(*arguments):
        os.truncate(path, 1000)
        spill(*arguments)

    monkeypatch.setattr(shuffling._Batches, "spill", cut)
    with pytest.raises(bcenet.DataChangedError, match=r"t\.parquet"):
        shuffle(path, out)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_the_command(tmp_path, capsys):
    path, out, again = tmp_path / "t.csv", tmp_path / "out.csv", tmp_path / "again.csv"
    write(path, table())
    assert cli.main(["shuffle", str(path), str(out), "--seed", "4"]) == 0
    assert capsys.readouterr().out == f"{out}: {ROWS} rows in random order\n"
    shuffle(path, again, seed=4)
    assert out.read_bytes() == again.read_bytes()
    assert cli.main(["shuffle", str(path), str(tmp_path / "t.npy")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bcenet: error: out must end as")
    assert error.count("\n") == 1

"""open_dataset with an encoder: text and missing values, window by window, with the same bits."""

from __future__ import annotations

import csv
import gzip
import os

import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from helpers import digest

import bcenet
from bcenet.data import arrow_sources, open_dataset, read_blocks, read_table
from bcenet.errors import DataChangedError, DataFormatError
from bcenet.tabular import TabularEncoder

ROWS = 9001


def columns_of(n=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).round(3)
    colour = rng.choice(["red", "blue", 'a "b", c', None], n)
    code = rng.integers(0, 300, n).astype(str).astype(object)
    code[rng.random(n) < 0.1] = "?"
    label = np.where(x + (colour == "red") + rng.normal(size=n) > 0.5, "yes", "no")
    return {
        "x": np.where(rng.random(n) < 0.05, np.nan, x),
        "colour": colour,
        "code": code,
        "flag": rng.random(n) < 0.3,
        "label": label.astype(object),
        "w": rng.random(n).round(2) + 0.5,
    }


@pytest.fixture(scope="module")
def columns():
    return columns_of()


def write_csv(path, columns, rows=slice(None)):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        cells = [["" if c is None or c != c else c for c in v[rows].tolist()]
                 for v in columns.values()]  # fmt: skip
        writer.writerows(zip(*cells, strict=True))
    return str(path)


def arrow_of(columns):
    return pa.table({name: pa.array(v, from_pandas=True) for name, v in columns.items()})


def write_ipc(path, table, rows):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def source_of(kind, folder, columns):
    table = arrow_of(columns)
    if kind == "csv":
        return write_csv(folder / "t.csv", columns)
    if kind == "csv folder":
        (folder / "parts").mkdir()
        for i, start in enumerate(range(0, ROWS, 4000)):
            write_csv(folder / "parts" / f"{i}.csv", columns, slice(start, start + 4000))
        return folder / "parts"
    if kind == "csv.gz":
        path = source_of("csv", folder, columns)
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write((folder / "t.csv").read_bytes())
        return f"{path}.gz"
    if kind in ("hive", "pyarrow dataset"):
        for key in ("a", "b"):
            (folder / "hive" / f"key={key}").mkdir(parents=True)
        pyarrow.parquet.write_table(table[:5000], folder / "hive" / "key=a" / "0.parquet")
        pyarrow.parquet.write_table(table[5000:], folder / "hive" / "key=b" / "0.parquet")
        if kind == "hive":
            return folder / "hive"
        return pyarrow.dataset.dataset(folder / "hive", partitioning="hive")
    if kind == "parquet":
        pyarrow.parquet.write_table(table, folder / "t.parquet", row_group_size=2500)
        return folder / "t.parquet"
    if kind == "parquet dictionaries":
        place = table.schema.get_field_index("colour")
        table = table.set_column(place, "colour", table["colour"].dictionary_encode())
        pyarrow.parquet.write_table(table, folder / "t.parquet", row_group_size=2500)
        return [folder / "t.parquet"]
    if kind == "arrow":
        return write_ipc(folder / "t.arrow", table, 1777)
    frames = {"pandas": table.to_pandas, "polars": lambda: polars.from_arrow(table)}
    return frames[kind]() if kind in frames else {"mapping": columns, "pyarrow": table}[kind]


KINDS = [
    "csv", "csv folder", "parquet", "parquet dictionaries", "arrow", "pandas", "polars", "mapping",
    "pyarrow", "csv.gz", "hive", "pyarrow dataset",
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several parts even in small files."""
    monkeypatch.setattr(arrow_sources, "_CSV_BYTES", 1 << 15)
    monkeypatch.setattr(arrow_sources, "rows_at_once", lambda columns: 1000)


def inputs_of(columns):
    return {name: v for name, v in columns.items() if name not in ("label", "w")}


def encoder_of(columns):
    """The flags in CSV files are texts."""
    return TabularEncoder(categorical=["flag"]).fit(inputs_of(columns))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_as_in_memory(kind, tmp_path, columns):
    source = source_of(kind, tmp_path, columns)
    inputs = inputs_of(columns)
    encoder = TabularEncoder().fit_blocks(read_blocks(source, columns=list(inputs)))
    if not kind.startswith("csv"):  # where flags are the texts True and False
        expected = TabularEncoder().fit(inputs)
        assert encoder.feature_names_out == expected.feature_names_out
        assert encoder.transform(inputs).tobytes() == expected.transform(inputs).tobytes()
    dataset = open_dataset(source, target="label", weight="w", encoder=encoder, window_rows=1000)
    assert dataset.classes == ("no", "yes")
    assert dataset.columns == encoder.feature_names_out
    X, y = encoder.transform(inputs), columns["label"] == "yes"
    blocks = [np.concatenate(part) for part in zip(*dataset.blocks(777), strict=True)]
    assert blocks[0].tobytes() == X.tobytes()
    assert np.array_equal(blocks[1], y)
    assert np.array_equal(blocks[2], columns["w"])
    nets = [bcenet.Network([encoder.n_features_out, 9, 1], random_state=3) for _ in range(2)]
    optimizers = [bcenet.Adam(0.01), bcenet.Adam(0.01)]
    bcenet.fit(nets[0], dataset, optimizer=optimizers[0], epochs=2, random_state=7)
    for epoch in range(2):
        rows = dataset.order(7, epoch)
        bcenet.fit(
            nets[1], X[rows], y[rows], sample_weight=columns["w"][rows], epochs=1, shuffle=False,
            optimizer=optimizers[1], random_state=7,
        )  # fmt: skip
    assert digest(nets[0].parameters) == digest(nets[1].parameters)


def test_a_split_and_its_validation(tmp_path, columns):
    source = source_of("csv", tmp_path, columns)
    encoder = encoder_of(columns)
    train, held_out = open_dataset(source, target="label", encoder=encoder).split(0.25, seed=5)
    net = bcenet.Network([encoder.n_features_out, 1], random_state=0)
    history = bcenet.fit(net, train, validation_data=held_out, epochs=2, random_state=0)
    X, y = (np.concatenate(part) for part in zip(*held_out.blocks(), strict=True))
    assert train.n + held_out.n == ROWS
    loss = bcenet.bce_loss(net.decision_function(X), y.astype(np.float32))
    assert history.validation_loss[-1] == pytest.approx(loss, rel=1e-6)  # float32


def test_blanks_and_quotes_in_csv_are_read_as_read_table_does(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('x, c ,y\n" 1", a,no\n?,"b, ""c"" ",yes \n 3 ,?, no\n1e2,,yes\n')
    table = read_table(path)
    inputs = {name: table[name] for name in ("x", "c")}
    blocks = list(read_blocks(path, drop=["y"]))
    assert {k: np.asarray(v).tolist() for k, v in blocks[0].items()} == {
        k: v.tolist() for k, v in inputs.items()
    }
    encoder = TabularEncoder().fit(inputs)
    ((X, y),) = open_dataset(path, target="y", encoder=encoder).blocks()
    assert X.tobytes() == encoder.transform(inputs).tobytes()
    assert y.tolist() == [0, 1, 0, 1]


def test_labels_are_numbers_or_given(tmp_path, columns):
    encoder = encoder_of(columns)
    numbers = columns | {"label": np.where(columns["label"] == "yes", 2, 7)}
    dataset = open_dataset(numbers, target="label", encoder=encoder)
    assert dataset.classes == (2, 7)
    given = open_dataset(numbers, target="label", encoder=encoder, classes=(7, "2"))
    one, other = ([block[1] for block in d.blocks()] for d in (dataset, given))
    assert np.array_equal(np.concatenate(one), 1 - np.concatenate(other))


def refusals(columns):
    """name: (changed cells of a row, message about it)."""
    return {
        "missing target": ({"label": None}, "the target must not be missing"),
        "other label": ({"label": "maybe"}, "must have two labels; got 3: 'maybe', 'no', 'yes'"),
        "text in numbers": ({"x": "big"}, "column 'x': must be a number; got 'big'"),
        "infinite": ({"x": "1e999"}, "column 'x': must be a finite number; got inf"),
        "missing weight": ({"w": None}, "column 'w': the weight must not be missing"),
    }


@pytest.mark.parametrize("case", refusals({}))
def test_a_bad_cell_is_named_by_file_and_line(case, tmp_path, columns):
    cells, message = refusals(columns)[case]
    changed = {name: v.astype(object) for name, v in columns.items()}
    for name, cell in cells.items():
        changed[name][7000] = cell
    source = write_csv(tmp_path / "t.csv", changed)
    encoder = encoder_of(columns)
    with pytest.raises(ValueError, match=r"must|missing") as caught:
        list(open_dataset(source, target="label", weight="w", encoder=encoder).blocks())
    assert message in str(caught.value)
    if "labels" not in message:
        assert str(caught.value).startswith(f"{source}, line 7002, column ")


def test_a_bad_cell_in_parquet_is_named_by_file_and_row(tmp_path, columns):
    encoder = encoder_of(columns)
    table = arrow_of(columns | {"label": np.where(np.arange(ROWS) == 6001, None, "no")})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2500)
    expected = f"{tmp_path / 't.parquet'}, row 6001 (from 0), column 'label': the target must"
    with pytest.raises(DataFormatError) as caught:
        open_dataset(tmp_path / "t.parquet", target="label", encoder=encoder)
    assert str(caught.value).startswith(expected)


def test_a_label_that_turns_up_later_is_named(tmp_path, columns):
    encoder = encoder_of(columns)
    source = write_csv(tmp_path / "t.csv", columns)
    dataset = open_dataset(source, target="label", encoder=encoder, classes=("no", "si"))
    first = columns["label"].tolist().index("yes")
    with pytest.raises(DataFormatError) as caught:
        dataset.scan()
    assert str(caught.value) == (
        f"{source}, line {first + 2}, column 'label': must be 'no' or 'si'; got 'yes'"
    )


def test_one_class_and_other_arguments_are_refused(columns):
    encoder = encoder_of(columns)
    one = columns | {"label": np.full(ROWS, "no", object)}
    hashing = TabularEncoder(hashed=["code"]).fit(inputs_of(columns))
    cases = [
        (one, {}, ValueError, "'label' must have two labels; got 1: 'no'"),
        (columns, {"target": ["label"]}, TypeError, "target must name a column beside an encoder"),
        (columns, {"target": "z"}, ValueError, "no column 'z' of its own"),
        (columns, {"target": "x"}, ValueError, "target must not be a column of the encoder"),
        (columns, {"weight": 1}, TypeError, "weight must name a column"),
        (columns, {"columns": ["x"]}, ValueError, "columns must be None beside an encoder"),
        (columns, {"classes": "ab"}, ValueError, "classes must be"),
        (columns, {"encoder": 3}, TypeError, "encoder must be a TabularEncoder; got 3"),
        (columns, {"encoder": hashing}, ValueError, "encoder must not hash columns, .* 'code'"),
        (columns, {"encoder": TabularEncoder()}, ValueError, "must be fitted first"),
        (columns, {"encoder": None, "classes": ("a", "b")}, ValueError, "without an encoder"),
        (np.zeros((3, 2)), {}, ValueError, "no column 'x' of its own"),
    ]
    for source, changed, error, message in cases:
        options = {"target": "label", "encoder": encoder} | changed
        with pytest.raises(error, match=message):
            open_dataset(source, **options)


def test_files_with_other_columns_or_types_are_named(tmp_path, columns):
    table = arrow_of(columns)
    encoder = encoder_of(columns)
    pyarrow.parquet.write_table(table, tmp_path / "1.parquet")
    cases = [
        (table.drop_columns(["colour"]), "no column named 'colour', which"),
        (table.set_column(2, "code", pa.array(range(ROWS))), "column 'code' is int64; in"),
    ]
    for other, message in cases:
        pyarrow.parquet.write_table(other, tmp_path / "2.parquet")
        with pytest.raises(DataFormatError, match=message) as caught:
            list(open_dataset(tmp_path, target="label", encoder=encoder).blocks())
        assert str(tmp_path / "2.parquet") in str(caught.value)
    nested = table.append_column("list", pa.array([[1]] * ROWS))
    pyarrow.parquet.write_table(nested, tmp_path / "3.parquet")
    with pytest.raises(DataFormatError, match="column 'list' must hold numbers or text; got list"):
        list(read_blocks(tmp_path / "3.parquet"))


def test_a_file_that_changes_is_noticed(tmp_path, columns):
    source = write_csv(tmp_path / "t.csv", columns)
    encoder = encoder_of(columns)
    dataset = open_dataset(source, target="label", encoder=encoder)
    os.truncate(source, os.path.getsize(source) - 1000)
    with pytest.raises(DataChangedError, match=r"t\.csv: the file changed"):
        list(dataset.blocks())


def test_blocks_can_be_read_again_and_tell_places(tmp_path, columns):
    source = write_csv(tmp_path / "t.csv", columns)
    blocks = read_blocks(source, columns=["code", "x"])
    assert blocks.columns == ["code", "x"]
    assert blocks.rows == ROWS
    for _ in range(2):
        parts = list(blocks)
        assert len(parts) > 3
        assert sum(len(part["x"]) for part in parts) == ROWS
    assert blocks.place(0) == f"{source}, line 2"
    assert blocks.place(ROWS - 1) == f"{source}, line {ROWS + 1}"
    with pytest.raises(ValueError, match="row must be below"):
        blocks.place(ROWS)
    for arguments, error in [({"columns": "x"}, TypeError), ({"columns": []}, ValueError)]:
        with pytest.raises(error, match="columns must be"):
            read_blocks(source, **arguments)
    with pytest.raises(ValueError, match="no column 'z' of its own"):
        read_blocks(source, drop=["z"])

"""bcenet train on data that is read in parts, and the progress that it shows."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from test_cli import make_rows, write_rows

import bcenet
from bcenet import metrics, runs
from bcenet.cli import main, progress, streaming, tables, training_data
from bcenet.data import arrow_sources, open_dataset, read_table
from bcenet.data.dataset import in_part
from bcenet.tabular import TabularEncoder

ROWS = 2000
TRAIN = ("train", "--target", "answer", "--epochs", "4", "--seed", "3", "--quiet")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several parts even in small files."""
    monkeypatch.setattr(arrow_sources, "_CSV_BYTES", 1 << 13)


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "data.csv", make_rows(rows=ROWS))


def bytes_of(path):
    with open(path, "rb") as file:
        return file.read()


def test_it_is_the_fit_of_a_dataset(run, data, tmp_path):
    """The encoder of the training rows, and the best epoch of a fit on windows of them."""
    out = tmp_path / "m.bcenet"
    result = json.loads(run(*TRAIN, data, "--stream", "--model", out, "--json"))
    model = bcenet.load_model(out)
    table = read_table(data)
    y = table.pop("answer") == "yes"
    held_out = in_part(0, ROWS, 0.2, 3)
    encoder = TabularEncoder().fit({name: cells[~held_out] for name, cells in table.items()})
    assert repr(model.encoder.state()) == repr(encoder.state())
    X = encoder.transform(table)
    train, validation = open_dataset(data, target="answer", encoder=encoder).split(0.2, 3)
    network = bcenet.Network([X.shape[1], 64, 32, 1], "silu", random_state=3)
    best = bcenet.callbacks.BestWeights()
    history = bcenet.fit(
        network, train, validation_data=validation, epochs=4, random_state=3,
        batch_size=np.count_nonzero(~held_out) // 40,
        optimizer=bcenet.AdamW(weight_decay=0.3), callbacks=[best],
    )  # fmt: skip
    assert result["history"] == {"loss": history.loss, "validation_loss": history.validation_loss}
    assert model.network.parameters.tobytes() == network.parameters.tobytes()
    assert model.labels == ("no", "yes")
    assert model.training["rows"] == np.count_nonzero(~held_out)
    assert model.training["held_out_rows"] == np.count_nonzero(held_out)
    assert model.training["best_epoch"] == best.best_epoch
    probability = network.predict_proba(X[held_out])
    measures = metrics.binary_report(y[held_out], probability)
    for name in ("roc_auc", "brier_score", "f1", "confusion_matrix", "rows"):
        assert result["measures"][name] == measures[name], name


def test_large_files_and_folders_are_read_in_parts_by_themselves(run, data, tmp_path, monkeypatch):
    def trained(*arguments):
        run(*TRAIN, *arguments, "--model", tmp_path / "m.bcenet")
        return bytes_of(tmp_path / "m.bcenet")

    forced = trained(data, "--stream")
    assert trained(data, "--stream", "--threads", "2") == forced
    assert trained(data) != forced
    monkeypatch.setattr(streaming, "LARGE_BYTES", 1000)
    assert trained(data) == forced
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "data.csv").rename(folder / "data.csv")
    monkeypatch.setattr(streaming, "LARGE_BYTES", 1 << 40)
    run(*TRAIN, folder)
    one, other = (bcenet.load_model(tmp_path / n).network for n in ("m.bcenet", "folder.bcenet"))
    assert one.parameters.tobytes() == other.parameters.tobytes()


def test_parquet_and_rows_of_another_file(run, data, tmp_path):
    table = read_table(data)
    other = write_rows(tmp_path / "other.csv", make_rows(rows=500, seed=1))
    columns = {name: table[name].tolist() for name in table}
    columns["size"] = table["size"].astype(float)
    columns["code"] = [None if code == "?" else int(code) for code in columns["code"]]
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=300)
    arguments = ["--stream", "--json", "--validation-data", other, "--model", tmp_path / "m.bcenet"]
    one = json.loads(run(*TRAIN, data, *arguments))
    two = json.loads(run(*TRAIN, tmp_path / "t.parquet", *arguments))
    assert one["training"]["rows"] == two["training"]["rows"] == ROWS
    assert one["measures"]["rows"] == two["measures"]["rows"] == 500
    # Other parts, so another order; the same rows.
    assert one["measures"]["roc_auc"] == pytest.approx(two["measures"]["roc_auc"], abs=0.02)


def test_the_threshold_and_rows_that_are_not_held_out(run, data, tmp_path):
    out = tmp_path / "m.bcenet"
    run(*TRAIN, data, "--stream", "--threshold", "f1", "--model", out)
    model = bcenet.load_model(out)
    table = read_table(data)
    y = table["answer"] == "yes"
    held_out = in_part(0, ROWS, 0.2, 3)
    probability = model.predict_proba(table)[held_out]
    expected = bcenet.calibration.choose_threshold(y[held_out], probability, metric="f1")
    assert model.threshold == expected
    result = json.loads(run(*TRAIN, data, "--stream", "--validation", "0", "--json"))
    assert result["measured_on"] == "training rows"
    assert result["measures"]["rows"] == ROWS


def test_of_very_many_rows_some_are_measured(run, data, monkeypatch):
    monkeypatch.setattr(training_data, "MOST_MEASURED", 100)
    result = json.loads(run(*TRAIN, data, "--stream", "--json"))
    assert result["training"]["held_out_rows"] > 350
    assert 70 <= result["measures"]["rows"] <= 130


@pytest.mark.parametrize(
    ("row", "column", "cell", "message"),
    [
        (
            1500,
            "answer",
            "?",
            "line 1502, column 'answer': the target must not be missing; got '?'",
        ),
        (1500, "size", "big", "line 1502, column 'size': must be a number; got 'big'"),
        (1500, "size", "1e999", "line 1502, column 'size': must be a finite number; got '1e999'"),
        (1500, "answer", "perhaps", "column 'answer' must have two labels; got 3: 'no', 'perhaps'"),
    ],
)
def test_a_bad_cell_is_named_by_its_line(refused, tmp_path, row, column, cell, message):
    lines = make_rows(rows=ROWS)
    lines[row + 1][lines[0].index(column)] = cell
    path = write_rows(tmp_path / "bad.csv", lines)
    assert message in refused(*TRAIN, path, "--stream", "--numeric", "size")
    assert not (tmp_path / "bad.bcenet").exists()


def test_what_cannot_be_streamed_is_refused(refused, data, tmp_path):
    one = write_rows(tmp_path / "one.csv", make_rows(rows=300, yes="no"))
    (tmp_path / "empty").mkdir()
    cases = [
        ((tmp_path / "empty",), "empty: the folder holds no file ending in"),
        ((data, "--stream", "--hashed", "code"), "--hashed is not for data"),
        (("-", "--stream", "--model", tmp_path / "m"), "--stream needs a file or a folder"),
        ((one, "--stream"), "column 'answer' must have two labels; got 1: 'no'"),
        ((data, "--stream", "--drop", "colur"), "has no column 'colur' (did you mean 'colour'?)"),
        (
            (data, "--stream", "--validation", "0", "--threshold", "f1"),
            "needs held-out rows of",
        ),
    ]
    for arguments, message in cases:
        assert message in refused(*TRAIN, *arguments)


@pytest.mark.parametrize("every", ["7", None])
def test_a_run_that_was_stopped_goes_on(run, data, tmp_path, every, monkeypatch):
    """Interrupted in its third epoch, between two windows."""
    monkeypatch.setattr("bcenet.data.dataset.WINDOW_ROWS", 300)
    monkeypatch.setattr("bcenet.data.dataset.BLOCK_ROWS", 100)
    whole, resumed, folder = (tmp_path / name for name in ("w.bcenet", "r.bcenet", "runs"))
    often = [] if every is None else ["--checkpoint-every", every]
    run(*TRAIN, data, "--stream", "--model", whole)
    count = itertools.count()
    real = runs.StreamRun._with_left

    def with_left(self, window, left):
        if next(count) == 15:  # six windows an epoch
            raise KeyboardInterrupt
        return real(self, window, left)

    with monkeypatch.context() as patch:
        patch.setattr(runs.StreamRun, "_with_left", with_left)
        command = [*TRAIN, data, "--stream", "--checkpoint", folder, *often, "--model", resumed]
        run(*command, status=130)
    assert not resumed.exists()
    run(*TRAIN, data, "--stream", "--resume", folder, "--model", resumed)
    assert bytes_of(resumed) == bytes_of(whole)


def test_large_data_are_predicted_and_evaluated_in_parts(run, data, tmp_path, monkeypatch):
    model = tmp_path / "m.bcenet"
    run(*TRAIN, data, "--model", model)

    def outputs():
        written = run("predict", model, data)
        run("predict", model, data, "-o", tmp_path / "p.csv.gz")
        with gzip.open(tmp_path / "p.csv.gz", "rt") as file:
            assert file.read() == written
        return written, json.loads(run("evaluate", model, data, "--json"))

    in_memory = outputs()
    monkeypatch.setattr(streaming, "LARGE_BYTES", 1000)
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 100)
    monkeypatch.setattr(tables, "read", None)  # the reader of whole tables
    assert outputs() == in_memory


def test_with_hashed_columns_a_large_file_is_read_whole(run, data, tmp_path, monkeypatch):
    model = tmp_path / "m.bcenet"
    command = [*TRAIN, data, "--hashed", "code", "--hashed-features", "64", "--model", model]

    def outputs():
        run(*command)
        evaluated = json.loads(run("evaluate", model, data, "--json"))
        return bytes_of(model), run("predict", model, data), evaluated

    in_memory = outputs()
    monkeypatch.setattr(streaming, "LARGE_BYTES", 1000)
    assert outputs() == in_memory


def test_bad_cells_of_large_data_are_named(run, refused, data, tmp_path, monkeypatch):
    model = tmp_path / "m.bcenet"
    run(*TRAIN, data, "--model", model)
    monkeypatch.setattr(streaming, "LARGE_BYTES", 1000)
    lines = make_rows(rows=ROWS)
    lines[1001][0], lines[1201][4] = "big", "maybe"
    path = write_rows(tmp_path / "bad.csv", lines)
    out = tmp_path / "p.csv"
    message = f"{path}, line 1002, column 'size': must be a number; got 'big'"
    assert refused("predict", model, path, "-o", out) == message
    assert not out.exists()
    lines[1001][0] = "1"
    path = write_rows(tmp_path / "bad.csv", lines)
    message = f"{path}, line 1202, column 'answer': must be 'no' or 'yes'; got 'maybe'"
    assert refused("evaluate", model, path) == message
    path = write_rows(tmp_path / "bad.csv", [line[:4] for line in lines])
    assert "the model's target" in refused("evaluate", model, path)


# ------------------------------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_that_moves_within_epochs(data, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    assert main(["train", data, "--target", "answer", "--stream", "--epochs", "2"]) == 0
    import sys

    shown = sys.stderr.getvalue()
    assert re.search(r"reading: +100%.*k rows/s, \d+ MiB", shown)
    assert re.search(r"epoch 2/2: 100%.*rows/s, loss 0\.\d+, validation 0\.\d+, \d+ MiB", shown)


def test_lines_tell_of_the_pace_within_epochs(data, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_BETWEEN_LINES", 0.0)
    # Seconds that pass between two looks at the clock.
    clock = itertools.count(0.0, 0.7)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert main(["train", data, "--target", "answer", "--stream", "--epochs", "2"]) == 0
    shown = capsys.readouterr().err
    pace = r"\(\d+(,\d+)? rows/s, at most (\d+:)?\d+:\d\d left, \d+ MiB\)$"
    assert re.search(r"^reading: \d+% of the rows " + pace, shown, re.MULTILINE)
    assert re.search(r"^epoch 2/2: \d+% of the rows " + pace, shown, re.MULTILINE)
    assert re.search(r"^epoch 2/2: loss .*, validation .* " + pace, shown, re.MULTILINE)

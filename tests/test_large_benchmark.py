"""The comparison on larger data: all but its measurements."""

import importlib
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
if not (ROOT / "benchmarks").exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(ROOT))  # at the end: the installed bcenet comes first

from benchmarks.large import __main__ as command  # noqa: E402
from benchmarks.large import problems, report  # noqa: E402
from benchmarks.large.libraries import FORMS  # noqa: E402

ROWS = 4096
MODULES = {"bcenet": "bcenet", "sklearn": "sklearn", "torch": "torch", "vw": "vowpalwabbit"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The files of both sets."""
    folder = tmp_path_factory.mktemp("data")
    for data in problems.BLOCKS:
        problems.make(data, [ROWS], ROWS, folder)
    return folder


def test_texts_have_distinct_words_by_zipf_s_law():
    columns, values, y = next(problems.word_blocks())
    assert columns.shape == values.shape == (65_536, 60)
    assert (np.diff(columns, axis=1) > 0).all()
    assert columns.min() >= 0
    assert columns.max() < 2**18
    assert np.linalg.norm(values, axis=1) == pytest.approx(1.0, rel=1e-6)
    assert 0.4 < y.mean() < 0.6
    # The rarer of two words has the larger value. A word that is drawn with a small probability p
    # is in a row with one of m p, m being the draws that 60 distinct words took: it halves from
    # the 1000th word to the 2000th. 20 words are in some 7000 and 3500 rows, so 4 deviations of
    # the ratio are 8 %.
    counts = np.sort(np.bincount(columns.ravel(), minlength=2**18))[::-1]
    share = counts[995:1015].sum() / counts[1995:2015].sum()
    assert share == pytest.approx(2.0, rel=0.08)


def test_the_rows_of_a_smaller_set_begin_a_larger_one(tmp_path):
    problems.make("collisions", [100, 300], 50, tmp_path)
    small, large = tmp_path / "collisions-100", tmp_path / "collisions-300"
    for name in ("X", "y"):
        first, second = (np.load(f / f"train-{name}.npy") for f in (small, large))
        assert first.dtype == np.float32
        assert np.array_equal(first, second[:100])
        held_out = [np.load(f / f"test-{name}.npy") for f in (small, large)]
        assert len(held_out[0]) == 50
        assert np.array_equal(*held_out)


@pytest.mark.parametrize(
    ("workload", "name"),
    [(workload, name) for workload, one in problems.WORKLOADS.items() for name in one.forms],
)
def test_every_form_has_a_rate_and_an_adapter(workload, name):
    form = FORMS[name]
    assert problems.WORKLOADS[workload].rates[form.method, form.batch] > 0
    assert importlib.util.find_spec(f"benchmarks.large.libraries.{form.adapter}") is not None


@pytest.mark.parametrize(
    ("workload", "name"),
    [
        ("linear", "bcenet-file-sgd-200"),
        ("linear", "sgd-float32"),
        ("linear", "torch-sgd-200"),
        ("linear", "vw"),
        ("nn", "mlp"),
        ("nn", "torch-adam-200"),
        ("words", "bcenet-sgd-200"),
        ("words", "torch-adam-200"),
        ("words", "sgd-float32"),
        ("words", "vw-sgd"),
        ("words-nn", "bcenet-adam-200"),
        ("words-nn", "torch-adam-200"),
    ],
)
def test_adapters_learn(workload, name, root):
    """What 20 epochs over few rows teach about themselves: the training rows are the test rows."""
    form = FORMS[name]
    pytest.importorskip(MODULES[form.adapter], reason=f"needs {MODULES[form.adapter]}")
    folder = root / f"{problems.WORKLOADS[workload].data}-{ROWS}"
    training = problems.Training(workload, form, str(folder), True)
    training.arrays = lambda part, read=training.arrays: read("train")
    module = importlib.import_module(f"benchmarks.large.libraries.{form.adapter}")
    task = getattr(module, form.prefix + "Trainer")(training, 1)
    task.prepare(20)
    task.run()
    from bcenet.metrics import roc_auc_score

    auc = roc_auc_score(training.y, task.test_scores())
    # A linear model of the collisions can't do much better than 0.6; 4096 texts are learned by
    # heart.
    assert auc > {"linear": 0.58, "nn": 0.7, "words": 0.95, "words-nn": 0.95}[workload]


def record(name, seconds, log_loss, threads=1):
    return {
        "library": name,
        "threads": threads,
        "dtype": "float32",
        "status": "ok",
        "detail": "",
        "seconds": seconds,
        "log_loss": log_loss,
        "auc": 0.7,
    }


def results(contenders):
    return {
        "date": "2026-01-01",
        "machine": {
            "processor": "P",
            "cpus": 2,
            "caches": [],
            "instruction_set": "v3",
            "system": "S",
            "python": "3",
            "blas": "B",
            "versions": {"numpy": "2"},
        },
        "settings": {"rounds": 3, "threads": [1, 2], "shuffled": True, "test_rows": 1000},
        "not_installed": ["torch"],
        "training": {"words": {"title": "T", "rows": 1_000_000, "contenders": contenders}},
    }


def test_who_is_compared_with_whom():
    contenders = [
        record("bcenet-sgd-200", 0.1, 0.60),
        record("bcenet-adam-200", 0.4, 0.50),
        record("bcenet-adam-200", 0.2, 0.50, 2),
        record("torch-sgd-200", 1.0, 0.60),
        record("torch-adam-200", 2.0, 0.50),
        record("vw", 0.5, 0.509),
        record("vw-sgd", 0.5, 0.591),
        record("sgd-float32", 0.5, 0.3),
        {**record("sgd-float64", 0.5, 0.3), "status": "failed", "detail": "E"},
    ]
    del contenders[-1]["seconds"]
    text = report.markdown(results(contenders))
    assert "| bcenet in memory, Adam | 200 | 5.00 (2) |  | 0.5000 | 0.7000 |" in text
    assert "| PyTorch with a DataLoader, SGD | 200 | 1.00 (1) | 10.0 | 0.6000 | 0.7000 |" in text
    assert "| PyTorch with a DataLoader, Adam | 200 | 0.50 (1) | 10.0 |" in text
    assert "| Vowpal Wabbit, adaptive | a row | 2.00 (1) | 2.50 |" in text
    assert "| Vowpal Wabbit --sgd | a row | 2.00 (1) | 5.00 |" in text
    assert "| SGDClassifier.partial_fit, float32 | a row | 2.00 (1) | - | 0.3000 |" in text
    assert "| words: T | 2.50 | - | 10.0 |" in text
    assert "- not installed: torch\n" in text
    assert "- words: sgd-float64, 1 thread(s): E\n" in text


def test_only_what_reads_files_is_compared_where_it_is_there():
    contenders = [
        record("bcenet-file-sgd-200", 0.2, 0.6),
        record("bcenet-sgd-200", 0.1, 0.6),
        record("vw-sgd", 1.0, 0.6),
    ]
    assert "| Vowpal Wabbit --sgd | a row | 1.00 (1) | 5.00 |" in report.markdown(
        results(contenders)
    )


def test_a_run(monkeypatch, tmp_path, capsys):
    # Where the workers find the benchmarks, but not the sources of bcenet.
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    words = ["--workloads", "linear", "--rivals", "sklearn,vw", "--threads", "1", "--quick"]
    written = tmp_path / "large.json"
    assert command.main([*words, "--folder", str(tmp_path), "--json", str(written)]) == 0
    said, progress = capsys.readouterr()
    absent = [] if importlib.util.find_spec("vowpalwabbit") else ["vw"]
    lines = [*(f"not installed: {name}" for name in absent), "making the data", "linear"]
    assert progress.splitlines() == lines
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["not_installed"] == absent
    (result,) = found["training"].values()
    assert result["rows"] == ROWS
    for one in result["contenders"]:
        assert (one["status"], one["detail"]) == ("ok", "")
        assert len(one["all_seconds"]) == 1
    assert "## linear: logistic regression, 28 columns, 4,096 rows" in said
    assert sorted(tmp_path.iterdir()) == [tmp_path / "benchmarks", written]

"""The comparison with other libraries: all but its measurements."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
if not (ROOT / "benchmarks").exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.append(str(ROOT))  # at the end: the installed bcenet comes first

from benchmarks.rivals import __main__ as command  # noqa: E402
from benchmarks.rivals import libraries, report, rounds  # noqa: E402
from benchmarks.rivals.problems import WORKLOADS, Training, Workload  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """Where `python -m benchmarks.rivals` works and the sources of bcenet are out of sight."""
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    return tmp_path


def test_useful_operations():
    # 2 * 200 * (3 * (28 * 64 + 64 * 32 + 32 * 1) - 28 * 64)
    assert WORKLOADS["tab"].useful_operations == 3_929_600
    assert WORKLOADS["lr"].useful_operations == 2 * 256 * 2 * 28


def test_a_training_is_the_same_each_time():
    first, second = (Training(Workload("w", (5, 4, 1), 8, 3), "float64") for _ in range(2))
    assert first.X.shape == (24, 5)
    assert first.X.tobytes() == second.X.tobytes()
    assert first.y.tobytes() == second.y.tobytes()
    assert first.parameters.tobytes() == second.parameters.tobytes()
    assert 0.2 < first.y_test.mean() < 0.8
    assert [sorted(order.tolist()) for order in first.orders(2)] == [list(range(24))] * 2


@pytest.mark.parametrize("name", ["numpy", "sklearn"])
@pytest.mark.parametrize("sizes", [(5, 4, 1), (5, 1)])
def test_adapters_agree(name, sizes):
    from benchmarks.rivals.worker import Session

    training = Training(Workload("w", sizes, 10, 20), "float64")
    losses = []
    for key in (libraries.LIBRARIES[name].reference, name):
        task = Session(key, 1)._make("Trainer", training)
        task.prepare(2)
        losses.append(task.run())
    if (name, sizes) == ("sklearn", (5, 1)):
        assert losses[1] == []  # compared by test AUC
    else:
        assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_a_disagreement_is_found():
    reference = {"losses": {"float32": [0.5, 0.4], "float64": [0.5, 0.4]}, "auc": 0.8}
    close = {"losses": {"float32": [0.5, 0.401], "float64": [0.5, 0.4]}}
    assert rounds.check_training(close, reference) == ""
    assert close["differences"] == pytest.approx({"float32": 0.0025, "float64": 0.0})
    for losses in ([0.5, 0.4 + 1e-9], [0.5, float("nan")]):
        far = {"losses": {"float32": [0.5, 0.4], "float64": losses}}
        assert rounds.check_training(far, reference).startswith("loss in float64 differs by ")
    for auc, wrong in ((0.796, ""), (0.79, "test AUC differs by 0.01, more than 0.005")):
        answer = {"losses": {"float32": [], "float64": []}, "auc": auc}
        assert rounds.check_training(answer, reference) == wrong


def test_the_roof_is_the_best_size_s_median():
    assert rounds.roof_rate([[1.0, 5.0, 3.0], [2.0, 1.0, 3.0], [9.0, 1.0, 3.0]]) == 3.0


def test_a_dead_worker_is_reported(monkeypatch, folder):
    monkeypatch.chdir(folder)
    contender = rounds.Contender("numpy", 1)
    said = []
    run = rounds.Run(1, said.append)
    try:
        worker = run._worker(*contender.key)
        worker._process.kill()
        worker._process.wait()
        run._workers[contender.key] = worker
        with pytest.raises(rounds.WorkerError, match="ended with status -9"):
            worker.ask("turn", repeats=1)
        # The next command has a new worker, whose errors are answers.
        assert run._ask(contender, "training", workload="none", dtype="float32") is None
    finally:
        run.close()
    assert (contender.status, contender.detail) == ("failed", "KeyError: 'none'")
    assert said == ["  numpy, 1 thread(s): failed: KeyError: 'none'"]


def contender(name, threads, seconds, dtype="float32"):
    timed = {} if seconds is None else {"seconds": seconds}
    status = "ok" if timed else "failed"
    return {
        "library": name,
        "threads": threads,
        "dtype": dtype,
        "status": status,
        "detail": "",
        **timed,
    }


def results():
    tab = {
        "layer_sizes": [28, 64, 32, 1],
        "batch": 200,
        "useful_operations": 3_929_600,
        "roof": {"1": 1e11, "2": 2e11},
        "contenders": [
            contender("bcenet", 1, 50e-6),
            contender("bcenet", 2, 40e-6),
            contender("bcenet", 1, 100e-6, "float64"),
            contender("bcenet", 2, 80e-6, "float64"),
            contender("torch", 1, 400e-6),
            contender("torch", 2, 500e-6),
            contender("jax", 1, None),
        ],
    }
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
        "settings": {
            "rounds": 3,
            "threads": [1, 2],
            "tolerances": {"float32": 1e-2, "float64": 1e-9, "auc": 0.005},
        },
        "not_installed": ["onnxruntime"],
        "training": {"tab": tab},
        "prediction": {},
    }


def test_tables():
    text = report.markdown(results())
    assert "| tab: 28-64-32-1, batch 200 | 40.0 (2) | 400 (1) |" in text
    assert "| tab | 10.0 |" in text
    assert "| tab | 50.0 | 100 | 79% | 40.0 | 200 | 49% | 1.25 | 0.50 | 0.50 |" in text
    assert "- not installed: onnxruntime\n" in text
    assert "- tab: jax, float32, 1 thread(s): failed: " in text
    assert "| JAX |" not in text


def test_what_is_not_installed_is_left_out(monkeypatch, folder, capsys):
    missing = libraries.Library("Absent", "absent", ("no_such_module",), ())
    monkeypatch.setitem(libraries.LIBRARIES, "numpy", missing)
    monkeypatch.chdir(folder)
    words = ["--workloads", "lr", "--rivals", "numpy", "--threads", "1", "--rounds", "1"]
    assert command.main([*words, "--output", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("not installed: numpy\nlr\n")
    written = json.loads((folder / "rivals.json").read_text(encoding="utf-8"))
    assert written["not_installed"] == ["numpy"]
    timed = [(one["dtype"], one["status"]) for one in written["training"]["lr"]["contenders"]]
    assert timed == [("float32", "ok"), ("float64", "ok")]
    assert "- not installed: numpy\n" in (folder / "rivals.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workloads", "tub"], "argument --workloads: must be one of .*; got 'tub'.*"),
        (["--rivals", ""], "argument --rivals: must be names separated by commas; got ''"),
        (["--threads", "0"], "argument --threads: must be an integer of at least 1; got '0'"),
        (["--rounds", "two"], "argument --rounds: must be an integer of at least 1; got 'two'"),
        (["--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(words, message, folder):
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.rivals", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert re.fullmatch(f"python -m benchmarks.rivals: error: {message}\n", result.stderr)

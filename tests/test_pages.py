"""The code of the README and of the pages in docs/ runs, and prints what its comments say."""

import pathlib
import re

import numpy as np
import pytest

import bcenet

ROOT = pathlib.Path(__file__).parent.parent
if not (ROOT / "README.md").exists():
    pytest.skip("the sources are not here", allow_module_level=True)

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if BLOCK.search(path.read_text(encoding="utf-8"))
]


def run(page, folder, monkeypatch, capsys):
    """The names that the page's blocks leave, one after another."""
    monkeypatch.chdir(folder)
    code = "\n".join(BLOCK.findall((ROOT / page).read_text(encoding="utf-8")))
    names = {}
    exec(compile(code, page, "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    expected = PRINTED.findall(code)
    assert [line for line in printed if line in expected] == expected
    return names


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, tmp_path, monkeypatch, capsys):
    run(page, tmp_path, monkeypatch, capsys)


def test_the_figures_of_the_readme(tmp_path, monkeypatch, capsys):
    names = run("README.md", tmp_path, monkeypatch, capsys)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    gradient = bcenet.bce_gradient(names["z"], names["y1"], reduction="sum").item()
    assert (names["p"] - names["y1"]).item() == 0.0
    assert repr(gradient) in text
    assert names["history"].loss[-1] < names["history"].loss[0]


def test_the_callbacks_of_the_training_page(tmp_path, monkeypatch, capsys):
    names = run("docs/training.md", tmp_path, monkeypatch, capsys)
    best, logits = names["best"], names["logits"]
    assert (tmp_path / "log.csv").read_text().count("\n") == best.best_epoch + 16
    auc = bcenet.metrics.roc_auc_score(names["y_held_out"], logits)
    assert auc == pytest.approx(best.best, abs=1e-12)
    loss = bcenet.bce_loss(logits, names["y_held_out"])
    assert bcenet.metrics.log_loss(names["y_held_out"], names["calibrated"]) < loss
    assert np.isfinite(names["threshold"])


def test_the_output_on_the_explain_page(tmp_path, monkeypatch, capsys):
    run("docs/explain.md", tmp_path, monkeypatch, capsys)
    text = (ROOT / "docs/explain.md").read_text(encoding="utf-8")
    code = BLOCK.findall(text)[0]
    exec(compile(code, "docs/explain.md", "exec"), {})
    printed = capsys.readouterr().out
    shown = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert len(shown) == 2
    assert all(part in printed for part in shown)
    assert (tmp_path / "explain.png").stat().st_size > 10_000


def test_the_report_of_the_page_on_gradient_checks(tmp_path, monkeypatch, capsys):
    names = run("docs/check-gradient.md", tmp_path, monkeypatch, capsys)
    report = bcenet.check_gradient(names["net"], names["X"], names["y"], names["mine"])
    text = (ROOT / "docs/check-gradient.md").read_text(encoding="utf-8")
    assert f"```text\n{report}\n```" in text

"""examples/gallery: every script draws, and shows what docs/gallery.md says of it."""

from __future__ import annotations

import importlib
import pathlib
import sys

import numpy as np
import pytest

import bcenet

ROOT = pathlib.Path(__file__).parent.parent
GALLERY = ROOT / "examples" / "gallery"
if not GALLERY.exists():
    pytest.skip("the sources are not here", allow_module_level=True)


@pytest.fixture
def script(monkeypatch):
    """The module of a script of the gallery; they import one another from their folder."""
    monkeypatch.syspath_prepend(str(GALLERY))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(GALLERY) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def check_pictures(folder, *names):
    """The pictures are there, and those of the page are small and of the same size."""
    from PIL import Image

    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for name in names:
        shown = ROOT / "docs" / "images" / "gallery" / name
        assert shown.stat().st_size < 60_000
        with Image.open(shown) as theirs, Image.open(folder / name) as ours:
            assert theirs.size == ours.size
            # The grey values of a picture that is not empty spread.
            assert np.asarray(ours.convert("L")).std() > 10


def test_decision_boundary(script, tmp_path):
    module = script("decision_boundary")
    net = module.draw(tmp_path)
    check_pictures(tmp_path, "decision-boundary.png")
    X, y = module.two_moons(4000, 0.15, np.random.default_rng(1))
    right = np.mean((net.predict_proba(X) > 0.5) == y)
    # Logistic regression gets 0.874 of them right.
    assert right > 0.95


def test_schedules(script, tmp_path):
    losses = script("schedules").draw(tmp_path)
    check_pictures(tmp_path, "schedules.png")
    assert {len(values) for values in losses.values()} == {30}
    last = {name: values[-1] for name, values in losses.items()}
    assert last.pop("constant") > max(last.values())


def test_three_paths(script, tmp_path):
    report = script("three_paths").draw(tmp_path)
    check_pictures(tmp_path, "three-paths.png")
    shown = {(row.logit, row.target): row.float64 for row in report.rows}
    assert np.isnan(shown[37.0, 1.0].chain.value)
    assert shown[37.0, 1.0].literal.value == 0
    assert shown[37.0, 1.0].fused.value == pytest.approx(-np.exp(-37.0), rel=1e-15)
    assert shown[-50.0, 1.0].chain.value == -1


def test_calibration(script, tmp_path):
    too_sure, tempered, stopped = script("calibration").draw(tmp_path)
    check_pictures(tmp_path, "calibration.png")
    assert stopped < tempered < np.log(2) < too_sure


def test_every_picture_has_its_script():
    shown = {path.name for path in (ROOT / "docs" / "images" / "gallery").iterdir()}
    scripts = "".join(path.read_text(encoding="utf-8") for path in GALLERY.glob("*.py"))
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for name in shown:
        assert name.removesuffix(".png") in scripts
        assert f"images/gallery/{name}" in page


def test_deep_sigmoids(script, tmp_path, capsys):
    healths = script("deep_sigmoids").draw(tmp_path, rows=2000, epochs=4)
    check_pictures(tmp_path, "deep-sigmoids.png", "deep-silu.png")
    assert {finding.kind for finding in healths["deep-sigmoids"].findings} == {"vanishing"}
    assert healths["deep-silu"].findings == []
    first, last = healths["deep-sigmoids"].flow[-1, [0, 6]]
    assert first < 1e-3 * last
    assert isinstance(healths["deep-silu"], bcenet.TrainingHealth)
    assert "layer 2, vanishing" in capsys.readouterr().out

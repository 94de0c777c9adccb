"""The installed .pxd files: examples/cython_project, built with them as a stranger would."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
from helpers import exact_gradient, exact_loss, exact_parts, ulp_error
from sklearn.ensemble import HistGradientBoostingClassifier

import bcenet
import bcenet._dispatch

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = ROOT / "examples" / "cython_project"
INSTALLED = pathlib.Path(bcenet.get_include())
DTYPES = [np.float32, np.float64]
POS_WEIGHT = 2.5

# Compiler flags, and bcenet's builds that must have the same bits: those with a fused multiply-add
# agree, those without it too.
BUILDS = {"": ["baseline"], "-march=x86-64-v3": ["v3", "v4"]}
AVAILABLE = bcenet._dispatch.available()

# Units in the last place, as in test_losses.py; the second derivative is the product of two
# sigmoids, each within 1 of them.
LIMITS = {np.float64: 2.0, np.float32: 2.5}
HESSIAN_LIMIT = 2.5

pytestmark = pytest.mark.skipif(not PROJECT.exists(), reason="the sources are not here")


def run(arguments, **environment):
    """Run Python, which finds bcenet where this process does, and fail with what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(INSTALLED.parent.parent), **environment}
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(
    scope="module",
    params=[flags for flags, names in BUILDS.items() if names[0] in AVAILABLE],
    ids=lambda flags: flags or "no -march",
)
def build(request, tmp_path_factory):
    """(folder with the compiled example, bcenet's builds whose bits it must have)."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(PROJECT, folder / "project")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    target = ["--target", folder / "installed"]
    run(["-m", "pip", "install", *options, *target, folder / "project"], CFLAGS=request.param)
    return folder / "installed", [name for name in BUILDS[request.param] if name in AVAILABLE]


CALL = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import boosted_stumps
with np.load(sys.argv[2]) as given:
    given = dict(given)
result = {}
for name in ("32", "64"):
    parts = boosted_stumps.loss_gradient_hessian(
        given["margins" + name], given["targets" + name], float(given["pos_weight"])
    )
    for part, value in zip(("loss", "gradient", "hessian"), parts, strict=True):
        result[part + name] = value
    y = given["y"].astype("f" + str(int(name) // 8))
    model = boosted_stumps.fit(given["bins"], y, rounds=60, learning_rate=0.3, l2=1.0)
    result["fit_loss" + name] = np.array(model.loss)
    result["fit_margins" + name] = model.margins(given["bins"])
np.savez(sys.argv[3], **result)
print("bcenet" in sys.modules)
"""


def logits(dtype):
    """Every magnitude, both signs, the limits and NaN; POS_WEIGHT times each does not overflow."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    edges = [0.0, info.smallest_subnormal, info.tiny, 16.7, 37.0, 88.73, 104.0, 709.79, 745.14]
    binades = np.exp2(rng.uniform(info.minexp - info.nmant, info.maxexp - 2, 100))
    z = np.concatenate([edges, binades, rng.uniform(0, 40, 100), [info.max / 4, np.inf, np.nan]])
    return np.concatenate([z, -z]).astype(dtype)


def table():
    """(bins, y): columns of bytes, and targets that some of them decide."""
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 40, size=(6, 2000), dtype=np.uint8)
    score = 0.1 * (bins[0] - 20.0) - 0.15 * np.abs(bins[1] - 20.0) + 2 * (bins[2] > 30)
    return bins, (score + rng.logistic(size=2000) > 0).astype(float)


@pytest.fixture(scope="module")
def results(build, tmp_path_factory):
    """What the example computes in a process of its own, where nothing imports bcenet."""
    folder = tmp_path_factory.mktemp("results")
    bins, y = table()
    given = {"bins": bins, "y": y, "pos_weight": POS_WEIGHT}
    for name, dtype in (("32", np.float32), ("64", np.float64)):
        z = logits(dtype)
        given["margins" + name] = np.concatenate([z, z, z])
        given["targets" + name] = np.repeat(np.array([0, 1, 0.3], dtype), len(z))
    np.savez(folder / "given.npz", **given)
    printed = run(["-c", CALL, build[0], folder / "given.npz", folder / "result.npz"])
    assert printed == "False\n"
    with np.load(folder / "result.npz") as result:
        return {**given, **result}


def part(results, name, dtype):
    return results[name + str(8 * np.dtype(dtype).itemsize)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_of_bcenet(build, results, dtype):
    margins, targets = part(results, "margins", dtype), part(results, "targets", dtype)
    for name in build[1]:
        with bcenet._dispatch.use(name):
            loss, gradient = bcenet.bce_loss_gradient(
                margins, targets, pos_weight=POS_WEIGHT, reduction="none"
            )
        assert part(results, "loss", dtype).dtype == dtype
        np.testing.assert_array_equal(part(results, "loss", dtype), loss)
        np.testing.assert_array_equal(part(results, "gradient", dtype), gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_digits_against_mpmath(results, dtype):
    # Targets 0 and 1; POS_WEIGHT has few bits, so the products below lose nothing.
    margins, targets = part(results, "margins", dtype), part(results, "targets", dtype)
    hard = ~np.isnan(margins) & ((targets == 0) | (targets == 1))
    assert hard.sum() > 800
    names = ("margins", "targets", "loss", "gradient", "hessian")
    rows = zip(*(part(results, name, dtype)[hard].tolist() for name in names), strict=True)
    for z, t, loss, gradient, hessian in rows:
        weight = POS_WEIGHT if t else 1.0
        positive, negative, _ = exact_parts(z)
        exact = weight * exact_loss(z, t)
        assert ulp_error(loss, exact, dtype) <= LIMITS[dtype], f"loss at {z!r}"
        exact = weight * exact_gradient(z, t)
        assert ulp_error(gradient, exact, dtype) <= LIMITS[dtype], f"gradient at {z!r}"
        exact = weight * positive * negative
        assert ulp_error(hessian, exact, dtype) <= HESSIAN_LIMIT, f"hessian at {z!r}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_against_scikit_learn(results, dtype):
    bins, y = results["bins"], results["y"]
    trees = HistGradientBoostingClassifier(
        max_iter=60,
        learning_rate=0.3,
        l2_regularization=1.0,
        max_leaf_nodes=2,
        min_samples_leaf=1,
        early_stopping=False,
    ).fit(bins.T, y)
    # scikit-learn keeps gradients in float32: 2^-24 of each, summed over rows and rounds.
    margins = part(results, "fit_margins", dtype)
    assert np.abs(margins - trees.decision_function(bins.T)).max() < 1e-6
    # The loss before each round falls, and a round later it is that of the margins.
    losses = part(results, "fit_loss", dtype)
    assert np.all(np.diff(losses) < 0)
    assert bcenet.bce_loss(margins, y) < losses[-1] < bcenet.bce_loss(margins, y) + 1e-3


def test_readme_code_runs(build):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    first, last = map(
        float, run(["-c", f"import sys; sys.path.insert(0, {str(build[0])!r})\n{block}"]).split()
    )
    assert last < 0.5 * first


def test_the_page_s_code_is_translated(tmp_path):
    text = (ROOT / "docs" / "cython.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```cython\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.pyx").write_text(block, encoding="utf-8")
    run(["-m", "cython", "-Werror", tmp_path / "mine.pyx"])
    assert '#include "bcenet_math.h"' in (tmp_path / "mine.c").read_text(encoding="utf-8")


def test_installed_is_what_is_public():
    names = sorted(path.name for path in INSTALLED.iterdir() if path.name != "__pycache__")
    assert names == [
        "__init__.py",
        "activations.pxd",
        "bcenet_math.h",
        "losses.pxd",
        "vecmath.pxd",
    ]


def test_documented_signatures_are_the_installed_ones():
    text = (ROOT / "docs" / "cython.md").read_text(encoding="utf-8")
    sections = re.findall(r"^\| `bcenet\.cimports\.(\w+)` \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert [name for name, _ in sections] == ["losses", "activations", "vecmath"]
    for name, rows in sections:
        source = (INSTALLED / f"{name}.pxd").read_text(encoding="utf-8")
        found = re.findall(r"^cdef inline ([^:]*?) noexcept nogil:$", source, re.MULTILINE)
        defined = {re.sub(r"\s+", " ", signature) for signature in found}
        documented = re.findall(r"^\| `(.*?)` \|", rows, re.MULTILINE)
        assert documented
        assert set(documented) <= defined


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_header_refuses_flags_that_lose_digits(tmp_path, flag):
    (tmp_path / "empty.c").write_text("#include <bcenet_math.h>\n", encoding="utf-8")
    compiler = shlex.split(sysconfig.get_config_var("CC"))

    def compiles(*flags):
        command = [*compiler, *flags, "-fsyntax-only", "-I", INSTALLED, tmp_path / "empty.c"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert compiles("-O3", "-ffp-contract=off").returncode == 0
    refused = compiles(flag)
    assert refused.returncode != 0
    assert "-ffast-math" in refused.stderr

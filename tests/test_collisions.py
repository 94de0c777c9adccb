"""examples/make_collisions.py: the physics-like set."""

import importlib.util
import pathlib

import numpy as np
import pytest

import bcenet

PATH = pathlib.Path(__file__).parent.parent / "examples" / "make_collisions.py"
if not PATH.exists():
    pytest.skip("the sources are not here", allow_module_level=True)

spec = importlib.util.spec_from_file_location("make_collisions", PATH)
collisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(collisions)


@pytest.fixture(scope="module")
def rows():
    return collisions.block(0, 0)


def test_a_smaller_set_begins_a_larger_one(tmp_path):
    small, large = tmp_path / "small.npy", tmp_path / "large.npy"
    collisions.main(["1000", str(small), "--seed", "3"])
    collisions.main(["70000", str(large), "--seed", "3"])  # more than a block
    X, y = np.load(large), np.load(tmp_path / "large-y.npy")
    assert X.shape == (70000, 28)
    assert X.dtype == np.float32
    assert y.shape == (70000,)
    assert np.array_equal(np.load(small), X[:1000])
    assert np.array_equal(np.load(tmp_path / "small-y.npy"), y[:1000])
    assert not np.array_equal(X[:4464], X[65536:])  # blocks differ
    assert not list(tmp_path.glob("*.unfinished"))


def test_parquet_holds_the_same_rows(tmp_path, rows):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow writes the Parquet files")
    X, y = rows
    collisions.main(["500", str(tmp_path / "one.parquet")])
    table = parquet.read_table(tmp_path / "one.parquet").to_pandas()
    assert list(table.columns) == [*collisions.COLUMNS, collisions.TARGET]
    assert np.array_equal(table[collisions.COLUMNS].to_numpy(), X[:500])
    assert np.array_equal(table[collisions.TARGET].to_numpy(), y[:500])

    collisions.main(["70000", str(tmp_path / "folder"), "--files", "2"])
    sizes = [parquet.read_metadata(p).num_rows for p in sorted((tmp_path / "folder").iterdir())]
    assert sizes == [65536, 4464]


def test_a_decay_conserves_energy_and_momentum():
    draws = collisions.Draws(0, 0)
    parent = collisions.produced(np.full(collisions.BLOCK_ROWS, 425.0), draws)
    one, two = collisions.decay(parent, 80.4, 325.0, draws)
    # Energies reach 10^4 GeV, of which float64 keeps 1e-12; a mass is the root of a difference
    # of their squares.
    np.testing.assert_allclose(one + two, parent, rtol=1e-10, atol=1e-7)
    np.testing.assert_allclose(collisions.mass(one), 80.4, rtol=1e-4)
    np.testing.assert_allclose(collisions.mass(two), 325.0, rtol=1e-5)


def test_derived_columns_follow_from_the_measured_ones(rows):
    """m_wwbb is the mass of all that was seen: computed here from the jets and the lepton."""
    X = rows[0].astype(np.float64)
    column = {name: X[:, i] for i, name in enumerate(collisions.COLUMNS)}
    tags = np.stack([column[f"jet{j}_b_tag"] for j in range(1, 5)], axis=1)
    pair = np.argsort(-tags, axis=1, kind="stable")[:, :2] + 1
    total = np.zeros((len(X), 4))
    for j in range(1, 5):
        pt, eta, phi = (column[f"jet{j}_{what}"] for what in ("pt", "eta", "phi"))
        chosen = np.any(pair == j, axis=1)[:, None]
        total += chosen * np.stack(
            [pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1
        )
    m_bb = np.sqrt(total[:, 0] ** 2 - np.sum(total[:, 1:] ** 2, axis=1))
    tied = np.sort(tags, axis=1)
    clear = tied[:, 1] < tied[:, 2]  # float32 does not say which of two equal tags came first
    # The columns are float32, and a small mass is a difference of large squares.
    np.testing.assert_allclose(column["m_bb"][clear], m_bb[clear], rtol=1e-3, atol=1e-3)


def test_it_is_neither_trivial_nor_linear():
    """A network finds what a linear model can't: measured 0.79 and 0.60."""
    blocks = [collisions.block(0, number) for number in range(3)]
    X = np.concatenate([X for X, y in blocks])
    y = np.concatenate([y for X, y in blocks])
    assert np.isfinite(X).all()
    assert abs(y.mean() - 0.53) < 0.005
    X = (X - X.mean(0)) / X.std(0)
    auc = []
    for hidden in ([], [64, 32]):
        network = bcenet.Network([28, *hidden, 1], random_state=0)
        bcenet.fit(network, X[:150000], y[:150000], epochs=4, random_state=0)
        logits = network.decision_function(X[150000:])
        auc.append(bcenet.metrics.roc_auc_score(y[150000:], logits))
    assert 0.55 < auc[0] < 0.65
    assert 0.74 < auc[1] < 0.83


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "x.npy"], "rows must be at least 1"),
        (["10", "x.csv"], "the path must end in .npy or .parquet"),
        (["10", "x", "--files", "2"], "--files must be from 1"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        collisions.main(arguments)
    assert message in capsys.readouterr().err

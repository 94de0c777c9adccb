"""Hashed columns of the encoder: against a dictionary a row, another hash program, and chance."""

import copy
import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import bcenet
from bcenet.tabular import TabularEncoder
from bcenet.tabular.hashing import places_of

MISSING = {"", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", None}


def place_of(name, cell, n_features):
    """The place of one cell, by the definition in the documentation."""
    if isinstance(cell, str):
        cell = cell.strip()
    elif isinstance(cell, float):
        cell = None if math.isnan(cell) else str(int(cell)) if cell == int(cell) else str(cell)
    elif cell is not None:
        cell = str(cell)
    text = f"{len(name)}:{name}" if cell in MISSING else f"{len(name)}:{name}={cell}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % n_features


def rows_of(matrix):
    """A sparse matrix as a dict a row; it must be canonical and hold no zeros."""
    assert isinstance(matrix, sparse.csr_array)
    assert matrix.dtype == np.float32
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    rows = []
    for first, last in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        places = matrix.indices[first:last].tolist()
        assert places == sorted(set(places))
        values = matrix.data[first:last].tolist()
        assert 0 not in values
        rows.append(dict(zip(places, values, strict=True)))
    return rows


def hasher(*names, **options):
    """An encoder of hashed columns alone, fitted to nothing in particular."""
    return TabularEncoder(hashed=names, **options).fit({name: ["a"] for name in names})


# ------------------------------------------------------------------------------- the hash itself

# printf '3:zip=10115' | b2sum -l 64
B2SUM = {
    ("zip", "10115"): "c4c869aa9324e407",
    ("zip", None): "a4a885670f736aa1",
    ("user", "Zoë"): "56fae3e91b92fcf9",
    ("", "x"): "ba596d6aeab77f54",
    ("id", 42): "2d6a81dfa45d4a4f",
    ("id", True): "03d4c9deca288536",
    ("städ", "a=b"): "6082a07a5c06e468",
}


@pytest.mark.parametrize(("name", "cell"), B2SUM)
def test_the_hash_is_that_of_another_program(name, cell):
    digest = int.from_bytes(bytes.fromhex(B2SUM[name, cell]), "little")
    for n_features in (2**18, 1000, 1, 2**30):
        X = hasher(name, n_hashed_features=n_features).transform({name: [cell]})
        assert rows_of(X) == [{digest % n_features: 1}]


def test_the_hash_does_not_depend_on_the_process():
    code = """
from bcenet.tabular.hashing import places_of
print(places_of("url", [f"/page/{i}" for i in range(50)], 2**18).tolist())
"""
    printed = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=environment,
        )  # fmt: skip
        printed.add(done.stdout)
    assert len(printed) == 1
    assert json.loads(printed.pop()) == [place_of("url", f"/page/{i}", 2**18) for i in range(50)]


TEXTS = {
    "counting": [str(i) for i in range(40_000)],
    "padded": [f"{i:08d}" for i in range(40_000)],
    "paths": [f"https://example.org/a/{i % 200}/{i // 200}" for i in range(40_000)],
}


@pytest.mark.parametrize("n_features", [2**16, 50_000])
@pytest.mark.parametrize("kind", TEXTS)
def test_values_meet_as_often_as_by_chance(kind, n_features):
    """Of m values in n places: pairs that meet are Poisson to a good approximation, with mean
    m (m - 1) / 2n; places that stay empty are n (1 - 1/n)^m on average, with a smaller variance
    than n e^(-m/n) (1 - e^(-m/n)). Six standard deviations, and the hash is fixed."""
    texts = TEXTS[kind]
    m = len(texts)
    counts = np.bincount(places_of("x", texts, n_features), minlength=n_features)
    assert counts.sum() == m
    pairs, expected = int((counts * (counts - 1) // 2).sum()), m * (m - 1) / (2 * n_features)
    assert abs(pairs - expected) < 6 * math.sqrt(expected)
    empty, chance = int((counts == 0).sum()), (1 - 1 / n_features) ** m
    assert abs(empty - n_features * chance) < 6 * math.sqrt(n_features * chance * (1 - chance))
    # Each part of the places has its share of the values.
    parts = np.bincount(places_of("x", texts, n_features) * 20 // n_features, minlength=20)
    deviation = math.sqrt(m * 0.05 * 0.95)
    assert np.abs(parts - m / 20).max() < 6 * deviation


def test_equal_values_of_two_columns_meet_as_often_as_others():
    texts = TEXTS["counting"]
    n_features = 1000
    same = places_of("x", texts, n_features) == places_of("y", texts, n_features)
    expected = len(texts) / n_features
    assert abs(int(same.sum()) - expected) < 6 * math.sqrt(expected)


def test_names_and_values_cannot_be_confused():
    """With 2^30 places eleven of these meet with a probability of 5e-8."""
    cells = [
        ("a", "b=c"), ("a=b", "c"), ("a", "=b"), ("a=", "b"), ("1:a", "b"), ("", "a"), ("", "=a"),
        ("a", None), ("a", "<missing>"), ("a=<missing>", None), ("b", None),
    ]  # fmt: skip
    places = [int(places_of(name, [text], 2**30)[0]) for name, text in cells]
    assert len(set(places)) == len(cells)


# ---------------------------------------------------------------------------------- the features

CELLS = st.one_of(
    st.none(),
    st.text(max_size=4),
    st.text(st.characters(categories=["Cs", "Zs", "Nd", "So"]), max_size=3),
    st.sampled_from(["1", "1.0", " 1", "1 ", "?", "NA", "True", "é", "e\u0301", "\x00", "a=b"]),
    st.integers(-(2**70), 2**70),
    st.floats(-1e15, 1e15),
    st.just(math.nan),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=12),
    names=st.lists(st.text(max_size=3), min_size=3, max_size=3, unique=True),
    n_features=st.integers(1, 40),
)
def test_rows_are_those_of_a_dictionary(rows, names, n_features):
    # As objects: a column of numbers alone would become one of a single type.
    columns = [np.fromiter((*cells, "text"), object) for cells in zip(*rows, strict=True)]
    table = dict(zip(names, columns, strict=True))
    X = hasher(*names, n_hashed_features=n_features).transform(table)
    assert X.shape == (len(rows) + 1, n_features)
    expected = [
        dict(Counter(place_of(name, column[i], n_features) for name, column in table.items()))
        for i in range(len(rows) + 1)
    ]
    assert rows_of(X) == expected


def test_the_same_value_from_any_source():
    encoder = hasher("id")
    expected = rows_of(encoder.transform({"id": ["1", "2", "3"]}))
    assert len({tuple(row) for row in expected}) == 3
    for column in (
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.uint8),
        np.array([1.0, 2.0, 3.0]),
        *(np.array([1, 2, 3], dtype) for dtype in ("f2", "f4", "g", "i1", "u8", ">i4")),
        [1, "2", 3.0],
        [" 1 ", "2", "3"],
        np.array(["1", "2", "3"]),
        pd.Series([1, 2, 3]),
        pd.Series(["1", "2", "3"], dtype="category"),
        pl.Series(["1", "2", "3"]),
        pa.array([1, 2, 3]),
        pa.array(["1", "2", "3"]).dictionary_encode(),
    ):
        assert rows_of(encoder.transform({"id": column})) == expected
    assert rows_of(encoder.transform({"id": [True, 2, "3"]}))[0] != expected[0]


@pytest.mark.parametrize("missing", ["?", "", " NA ", "NaN", None, math.nan])
def test_a_missing_value_is_a_value_of_its_own(missing):
    X = hasher("id", "other", n_hashed_features=2**20).transform(
        {"id": [missing, "a", "<missing>"], "other": ["b", missing, "b"]}
    )
    rows = rows_of(X)
    assert [set(row.values()) for row in rows] == [{1}, {1}, {1}]
    assert place_of("id", None, 2**20) in rows[0]
    assert place_of("other", None, 2**20) in rows[1]
    assert len(set().union(*rows)) == 5


def test_missing_values_can_be_named():
    encoder = TabularEncoder(hashed=["id"], missing_values=["-"]).fit({"id": ["a"]})
    rows = rows_of(encoder.transform({"id": ["-", "?", None]}))
    assert rows[0] == rows[2] == {place_of("id", None, 2**18): 1}
    assert rows[1] != rows[0]


def mixed(rows=500, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
        "user": rng.choice([*(f"user {i}" for i in range(300)), None], rows),
        "colour": rng.choice(["red", "green", "?"], rows),
        "zip": rng.integers(10_000, 99_999, rows),
    }


@pytest.mark.parametrize("encoding", ["scaled", "bins", "both"])
def test_the_other_columns_are_encoded_as_without(encoding):
    table = mixed()
    others = {name: table[name] for name in ("x", "colour")}
    dense = TabularEncoder(numeric_encoding=encoding).fit(others)
    encoder = TabularEncoder(
        numeric_encoding=encoding, hashed=["zip", "user"], n_hashed_features=777
    )
    X = encoder.fit_transform(table)
    width = dense.n_features_out
    assert encoder.n_features_out == X.shape[1] == width + 777
    assert X[:, :width].toarray().tobytes() == dense.transform(others).tobytes()
    hashed = {name: table[name] for name in ("zip", "user")}
    alone = hasher("zip", "user", n_hashed_features=777).transform(hashed)
    assert rows_of(X[:, width:]) == rows_of(alone)
    rows_of(X)
    assert encoder.columns == ("x", "colour", "zip", "user")
    assert encoder.numeric_columns == ("x",)
    assert encoder.categorical_columns == ("colour",)
    assert encoder.hashed_columns == ("zip", "user")
    assert encoder.dropped_columns == ()
    names = encoder.feature_names_out
    assert names[:width] == dense.feature_names_out
    assert names[width:] == [f"hashed[{i}]" for i in range(777)]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_are_hashed_one_by_one(data):
    """In any order, cut into any blocks, beside any others."""
    table = mixed(40)
    encoder = TabularEncoder(hashed=["zip", "user"], n_hashed_features=50).fit(table)
    whole = encoder.transform(table)
    order = np.array(data.draw(st.permutations(range(40))))
    cuts = sorted(data.draw(st.sets(st.integers(0, 40), max_size=4)))
    parts = [
        encoder.transform({name: column[rows] for name, column in table.items()})
        for rows in np.split(order, cuts)
    ]
    assert rows_of(sparse.vstack(parts, format="csr")) == rows_of(whole[order])


def test_no_rows():
    encoder = TabularEncoder(hashed=["zip", "user"]).fit(mixed())
    X = encoder.transform({name: [] for name in encoder.columns})
    assert X.shape == (0, encoder.n_features_out)
    assert rows_of(X) == []


def test_an_encoder_without_hashed_columns_gives_an_array():
    encoder = TabularEncoder(n_hashed_features=5).fit({"x": [1, 2, 3]})
    assert type(encoder.transform({"x": [1]})) is np.ndarray
    assert encoder.n_features_out == TabularEncoder().fit({"x": [1, 2, 3]}).n_features_out
    assert encoder.hashed_columns == ()


# ------------------------------------------------------------------------------ what is learned


def test_it_trains_as_one_feature_a_value_does():
    """Without collisions, and from weights 0, logistic regression must not tell the difference."""
    rng = np.random.default_rng(1)
    users = rng.integers(0, 200, 2000)
    y = rng.random(2000) < bcenet.sigmoid(2.0 * rng.normal(size=200))[users]
    table = {"person": np.array([f"u{i}" for i in users], object)}
    encoder = TabularEncoder(hashed=["person"], n_hashed_features=2**20)
    X = encoder.fit_transform(table)
    assert len(np.unique(X.indices)) == len(np.unique(users))
    one_hot = np.eye(200)[users]
    options = {"optimizer": "adam", "learning_rate": 0.1, "epochs": 5, "random_state": 0}
    nets = [
        bcenet.Network([size, 1], dtype="float64", initializer=["zeros"]) for size in (2**20, 200)
    ]
    bcenet.fit(nets[0], X, y, lazy=True, **options)
    bcenet.fit(nets[1], sparse.csr_array(one_hot), y, lazy=True, **options)
    hashed, exact = nets[0].predict_proba(X), nets[1].predict_proba(one_hot)
    np.testing.assert_allclose(hashed, exact, rtol=1e-12)
    assert bcenet.metrics.roc_auc_score(y, hashed) > 0.75


def test_a_model_from_a_table(tmp_path):
    table = mixed()
    encoder = TabularEncoder(hashed=["zip", "user"], n_hashed_features=64).fit(table)
    network = bcenet.Network([encoder.n_features_out, 5, 1], random_state=0)
    model = bcenet.Model(encoder, network, ("no", "yes"))
    model.save(tmp_path / "m.bcenet")
    again = bcenet.load_model(tmp_path / "m.bcenet")
    later = mixed(seed=1)
    probability = model.predict_proba(later)
    assert again.predict_proba(later).tobytes() == probability.tobytes()
    dense = network.predict_proba(encoder.transform(later).toarray())
    assert dense.tobytes() == probability.tobytes()
    assert set(model.predict(later)) <= {"no", "yes"}
    assert again.encoder.hashed_columns == ("zip", "user")


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TabularEncoder(hashed="zip"), TypeError, "hashed must be a sequence of text"),
        (lambda: TabularEncoder(hashed=[3]), TypeError, "hashed must hold text; got 3"),
        (
            lambda: TabularEncoder(hashed=["a", "b", "a"]),
            ValueError,
            r"hashed must name each column once; got \['a', 'b', 'a'\]",
        ),
        (
            lambda: TabularEncoder(hashed=["a"], numeric=["a"]),
            ValueError,
            "numeric and hashed must not share a column; both name 'a'",
        ),
        (
            lambda: TabularEncoder(hashed=["a"], categorical=["a"]),
            ValueError,
            "categorical and hashed must not share a column; both name 'a'",
        ),
        (
            lambda: TabularEncoder(n_hashed_features=0),
            ValueError,
            "n_hashed_features must be at least 1 and at most 1073741824; got 0",
        ),
        (
            lambda: TabularEncoder(n_hashed_features=2**30 + 1),
            ValueError,
            "n_hashed_features must be at least 1 and at most 1073741824; got 1073741825",
        ),
        (
            lambda: TabularEncoder(n_hashed_features=1e6),
            TypeError,
            "n_hashed_features must be an integer; got 1000000.0",
        ),
        (
            lambda: TabularEncoder(hashed=["zip"]).fit({"x": [1, 2]}),
            ValueError,
            "named in numeric, categorical or hashed; missing: 'zip'",
        ),
        (lambda: TabularEncoder(hashed=["a"]).fit({"a": []}), ValueError, "at least one column"),
        (lambda: TabularEncoder(hashed=["a"]).hashed_columns, ValueError, "must be fitted first"),
        (
            lambda: hasher("id", "b").transform({"id": [1]}),
            ValueError,
            "table must have every column that the encoder needs; missing: 'b'",
        ),
        (
            lambda: hasher("id").transform({"id": ["a", ["b"]]}),
            TypeError,
            r"column 'id', row 1 \(from 0\): must be a number or text; got list",
        ),
        (
            lambda: hasher("id").transform({"id": np.array(["2024"], "M8[Y]")}),
            TypeError,
            "column 'id' must hold numbers or text; got dtype datetime64",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_that_a_float_does_not_tell_apart_are_refused():
    """A missing value beside them makes whole numbers floats: 2^53 + 1 would become 2^53."""
    encoder = hasher("id")
    large = 2**53 + 1
    whole = rows_of(encoder.transform({"id": [large, 7, large - 1]}))
    assert whole == [{place_of("id", i, 2**18): 1} for i in (large, 7, large - 1)]
    assert rows_of(encoder.transform({"id": [str(large), None]}))[0] == whole[0]
    with pytest.raises(ValueError, match=r"column 'id', row 1 \(from 0\): must be below 2\^53"):
        encoder.transform({"id": [None, large]})
    for column in ([1.0, -(2.0**53)], [1.0, math.inf], pd.Series([7, large, None], dtype="Int64")):
        with pytest.raises(ValueError, match=r"row 1 .* \(give them as text\); got"):
            encoder.transform({"id": column})
    below = encoder.transform({"id": [2.0**53 - 1, 2.0**53 - 2]})
    assert rows_of(below) == [{place_of("id", 2**53 - k, 2**18): 1} for k in (1, 2)]


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    table = {"a": ["b", "c"]}
    assert TabularEncoder().fit_transform(table).shape == (2, 2)
    with pytest.raises(ImportError, match=r"hashed columns need SciPy: pip .*'bcenet\[sparse\]'"):
        TabularEncoder(hashed=["a"]).fit(table)


def test_the_import_brings_no_scipy():
    code = "import sys, bcenet.tabular; print([m for m in sys.modules if 'scipy' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("hashed", [["zip", "user"], ["user"], ["x", "user", "colour", "zip"]])
def test_state_round_trip(hashed):
    encoder = TabularEncoder(hashed=hashed, n_hashed_features=99).fit(mixed())
    config, arrays = encoder.state()
    assert json.loads(json.dumps(config)) == config
    twin = TabularEncoder.from_state(config, arrays)
    assert twin.state()[0] == config
    assert repr(twin) == repr(encoder)
    assert twin.columns == encoder.columns
    later = mixed(seed=1)
    assert rows_of(twin.transform(later)) == rows_of(encoder.transform(later))


def _option(name, value):
    return lambda config: config["options"].update({name: value})


BROKEN_STATES = {
    "of the version before": lambda config: config.update(version=1),
    "no hashed columns": lambda config: config["options"].pop("hashed"),
    "no number of features": lambda config: config["options"].pop("n_hashed_features"),
    "text": _option("hashed", "zip"),
    "numbers": _option("hashed", [1]),
    "an object": _option("hashed", {"zip": 1}),
    "null": _option("hashed", None),
    "twice": _option("hashed", ["zip", "zip"]),
    "numeric too": _option("numeric", ["zip"]),
    "a fitted column": _option("hashed", ["colour"]),
    "a dropped column": _option("hashed", ["constant"]),
    "features true": _option("n_hashed_features", True),
    "features a float": _option("n_hashed_features", 99.0),
    "features text": _option("n_hashed_features", "99"),
    "no features": _option("n_hashed_features", 0),
    "too many features": _option("n_hashed_features", 2**31),
}


@pytest.mark.parametrize("name", BROKEN_STATES)
def test_broken_states_are_refused(name):
    table = mixed() | {"constant": np.ones(500)}
    encoder = TabularEncoder(hashed=["zip", "user"], n_hashed_features=99).fit(table)
    config, arrays = encoder.state()
    config = copy.deepcopy(config)
    BROKEN_STATES[name](config)
    with pytest.raises(ValueError, match="must"):
        TabularEncoder.from_state(config, arrays)


def test_a_state_without_any_column_is_refused():
    config, arrays = hasher("a").state()
    assert config["columns"] == []
    config["options"]["hashed"] = []
    with pytest.raises(ValueError, match="must hold a column; got none"):
        TabularEncoder.from_state(config, arrays)

"""Columns to numbers: types, missing values, scaling, bins, categories, and the encoder's state."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcenet.tabular import QuantileSketch, TabularEncoder
from bcenet.tabular.numeric import bin_edges

COLOURS = ["red", "red", "blue", "blue", "green", "red"]


def encoder_of(table, **options):
    return TabularEncoder(**options).fit(table)


def features_of(encoder, table):
    """The features by name."""
    features = encoder.transform(table)
    assert features.dtype == np.float32
    names = encoder.feature_names_out
    assert features.shape == (len(next(iter(table.values()))), len(names))
    assert encoder.n_features_out == len(names)
    return dict(zip(names, features.T, strict=True))


# ------------------------------------------------------------------------------------- numeric


def test_scaled_by_median_and_quartiles():
    """Median 3, quartiles 2 and 4: u = (x - 3) / 2, then u / sqrt(1 + (u/3)^2)."""
    table = {"x": [1.0, 2.0, 3.0, 4.0, 103.0]}
    features = features_of(encoder_of(table, numeric_encoding="scaled"), table)
    u = np.array([-1.0, -0.5, 0.0, 0.5, 50.0])
    assert list(features) == ["x"]
    assert np.array_equal(features["x"], (u / np.sqrt(1 + (u / 3) ** 2)).astype(np.float32))
    assert features["x"][4] < 3


def test_scaled_by_half_the_range_where_the_quartiles_coincide():
    """Seven of eight zeros: u = (x - 0) / (10 / 2)."""
    table = {"x": [0.0] * 7 + [10.0]}
    features = features_of(encoder_of(table, numeric_encoding="scaled"), table)
    assert features["x"].tolist() == [0.0] * 7 + [np.float32(2 / math.sqrt(1 + 4 / 9))]


def test_bins_are_piecewise_linear():
    """Edges 0, 1, 2, 4: each feature rises from 0 to 1 within its own bin, and stays there."""
    table = {"x": [0.0, 1.0, 2.0, 4.0]}
    encoder = encoder_of(table, numeric_encoding="bins", n_bins=3)
    features = encoder.transform({"x": [-5.0, 0.0, 0.25, 1.0, 1.5, 3.0, 4.0, 9.0]})
    assert encoder.feature_names_out == ["x[0]", "x[1]", "x[2]"]
    assert features.tolist() == [
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.25, 0.0, 0.0],
        [1.0, 0.0, 0.0],
        [1.0, 0.5, 0.0],
        [1.0, 1.0, 0.5],
        [1.0, 1.0, 1.0],
        [1.0, 1.0, 1.0],
    ]


def test_bins_hold_equal_numbers_of_rows():
    values = np.random.default_rng(0).lognormal(size=10_000)
    encoder = encoder_of({"x": values}, numeric_encoding="bins", n_bins=20)
    edges = encoder.state()[1]["edges"]
    assert len(edges) == 21
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    counts = np.histogram(values, edges)[0]
    assert np.abs(counts - 500).max() <= 3


def test_a_frequent_value_takes_one_edge_and_the_rest_share_the_others():
    """Nine rows in ten are 0, as in the capital gains of a census."""
    rng = np.random.default_rng(1)
    values = np.concatenate([np.zeros(9000), rng.lognormal(8.0, 1.0, 1000)])
    encoder = encoder_of({"gain": rng.permutation(values)}, numeric_encoding="bins", n_bins=11)
    edges = encoder.state()[1]["edges"]
    assert len(edges) == 12
    assert edges[0] == 0.0
    counts = np.histogram(values[values > 0], edges[1:])[0]  # ten bins of the other rows
    assert abs(counts.sum() - 1000) <= 100
    assert counts.min() >= 70
    assert counts.max() <= 120


def test_few_distinct_values_are_the_edges():
    encoder = encoder_of({"x": [1, 2, 2, 2, 3, 5] * 50}, n_bins=8)
    assert encoder.state()[1]["edges"].tolist() == [1, 2, 3, 5]
    assert encoder.feature_names_out == ["x", "x[0]", "x[1]", "x[2]"]


def test_two_values_make_one_feature_in_both():
    """A single bin would only repeat the scaled value."""
    assert encoder_of({"x": [0, 1, 1]}).feature_names_out == ["x"]
    assert encoder_of({"x": [0, 1, 1]}, numeric_encoding="bins").feature_names_out == ["x[0]"]
    assert encoder_of({"x": [False, True]}).feature_names_out == ["x"]


def test_default_number_of_bins_grows_with_the_rows_and_is_bounded():
    rng = np.random.default_rng(2)
    for rows, columns, bins in [(300, 1, 7), (8000, 1, 20), (8000, 128, 8), (300, 600, 0)]:
        encoder = encoder_of({f"x{i}": rng.normal(size=rows) for i in range(columns)})
        assert encoder.n_features_out == columns * (1 + bins)


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 5e-324, 1e300]),
        min_size=2,
        max_size=60,
    ),
    st.integers(1, 12),
    st.lists(st.floats(allow_infinity=False), min_size=1, max_size=20),
)
def test_numeric_features_are_bounded_rising_and_exact_at_the_edges(train, n_bins, later):
    """For any numbers, up to the largest and down to the smallest: no NaN, no overflow."""
    if len(set(train)) == 1:
        train = [*train, 0.0 if train[0] else 1.0]
    try:
        encoder = encoder_of({"x": train}, n_bins=n_bins)
    except ValueError as error:  # numbers beyond 1e300 count as 1e300, so these may coincide
        assert "not constant" in str(error)
        assert min(train) >= 1e300 or max(train) <= -1e300
        return
    values = np.sort(np.array(later + train))
    features = encoder.transform({"x": values})
    assert np.isfinite(features).all()
    assert np.abs(features[:, 0]).max() <= 3
    present = features[~np.isnan(values)]
    assert (np.diff(present, axis=0) >= 0).all()
    bins = present[:, 1:]
    assert ((bins >= 0) & (bins <= 1)).all()
    edges = encoder.state()[1]["edges"]
    assert len(edges) <= n_bins + 1
    if len(edges):
        at_edges = encoder.transform({"x": edges})[:, 1:]
        assert np.array_equal(at_edges, np.tri(len(edges), len(edges) - 1, -1))


@given(st.lists(st.integers(0, 20), min_size=2, max_size=300), st.integers(1, 30))
def test_bin_edges_are_values_and_include_the_extremes(values, n_bins):
    sketch = QuantileSketch()
    sketch.update(np.array(values, dtype=float))
    edges = bin_edges(sketch, n_bins)
    assert set(edges) <= set(values)
    assert (edges[0], edges[-1]) == (min(values), max(values))
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= n_bins + 1
    if len(set(values)) <= n_bins + 1:
        assert len(edges) == len(set(values))


# ------------------------------------------------------------------------------------- missing


@pytest.mark.parametrize("missing", ["?", "", "NA", "NaN", "nan", "null", " ? ", None, math.nan])
def test_missing_number_counts_as_the_median_with_an_indicator(missing):
    encoder = encoder_of({"x": [1, 2, 3, 9, missing]}, numeric_encoding="both", n_bins=3)
    features = features_of(encoder, {"x": [missing, 2.5, 1]})
    assert list(features)[-1] == "x is missing"
    assert features["x is missing"].tolist() == [1, 0, 0]
    for name in list(features)[:-1]:
        assert features[name][0] == features[name][1], name
    assert features["x"][0] == 0


def test_no_indicator_without_missing_training_rows():
    encoder = encoder_of({"x": ["1", "2", "3", "4"]}, numeric_encoding="scaled")
    features = features_of(encoder, {"x": ["?", "4"]})
    assert list(features) == ["x"]
    assert features["x"][0] == 0


def test_missing_category_is_a_category_of_its_own():
    encoder = encoder_of({"job": ["a", "b", "?", None, "a"]})
    features = features_of(encoder, {"job": [None, "a", "NA", math.nan, "z"]})
    assert list(features) == ["job=a", "job=b", "job=<missing>"]
    assert features["job=<missing>"].tolist() == [1, 0, 1, 1, 0]
    without = features_of(encoder_of({"job": ["a", "b"]}), {"job": [None, "b"]})
    assert {name: column.tolist() for name, column in without.items()} == {
        "job=a": [0, 0],
        "job=b": [0, 1],
    }


def test_missing_values_can_be_named():
    table = {"x": ["1", "-", "3", "4", "7"], "job": ["?", "a", "?", "a", "-"]}
    encoder = encoder_of(table, missing_values=["-"], numeric_encoding="scaled")
    assert encoder.feature_names_out == ["x", "x is missing", "job=?", "job=a", "job=<missing>"]


# ---------------------------------------------------------------------------------- categories


def test_categories_are_one_hot():
    table = {"colour": COLOURS}
    features = features_of(encoder_of(table), table)
    assert list(features) == ["colour=blue", "colour=green", "colour=red"]
    for name, column in features.items():
        assert column.tolist() == [float(name.endswith(colour)) for colour in COLOURS]


def test_rare_and_unknown_categories_share_a_place():
    encoder = encoder_of({"colour": COLOURS}, min_frequency=2)
    features = features_of(encoder, {"colour": ["green", "purple", "red", None]})
    assert list(features) == ["colour=blue", "colour=red", "colour=<other>"]
    assert features["colour=<other>"].tolist() == [1, 1, 0, 1]
    assert features["colour=red"].tolist() == [0, 0, 1, 0]


def test_unknown_categories_have_no_place_when_none_was_rare():
    features = features_of(encoder_of({"colour": COLOURS}), {"colour": ["purple", "red"]})
    assert [column.tolist() for column in features.values()] == [[0, 0], [0, 0], [0, 1]]


def test_most_frequent_categories_are_kept():
    encoder = encoder_of({"c": list("aaabbbccd")}, max_categories=2, min_frequency=1)
    assert encoder.feature_names_out == ["c=a", "c=b", "c=<other>"]
    ties = encoder_of({"c": list("dcba")}, max_categories=2, min_frequency=1)
    assert ties.feature_names_out == ["c=a", "c=b", "c=<other>"]


def test_default_rarity_is_one_row_in_a_hundred_up_to_ten():
    for rows, kept in [(60, 1), (500, 5), (5000, 10)]:
        cells = ["often"] * (rows - 2 * kept + 1) + ["kept"] * kept + ["rare"] * (kept - 1)
        names = encoder_of({"c": cells}).feature_names_out
        assert names == ["c=kept", "c=often"] + (["c=<other>"] if kept > 1 else [])


def test_an_identifier_is_dropped():
    table = {"id": [f"row {i}" for i in range(1000)], "x": range(1000)}
    encoder = encoder_of(table, numeric_encoding="scaled")
    assert encoder.columns == ("x",)
    assert encoder.dropped_columns == ("id",)


def test_equal_categories_from_any_source():
    """Blanks, whole floats and integers: the same category as the text."""
    encoder = encoder_of({"code": ["1", "2", " 1", "3 "]}, categorical=["code"])
    assert encoder.feature_names_out == ["code=1", "code=2", "code=3"]
    expected = encoder.transform({"code": ["1", "2", "3"]})
    for column in (
        np.array([1, 2, 3]),
        np.array([1.0, 2.0, 3.0]),
        np.array([1, 2, 3], dtype=np.float32),
        [1, "2", 3.0],
        [" 1 ", "2", "3"],
        np.array(["1", "2", "3"]),
    ):
        assert np.array_equal(encoder.transform({"code": column}), expected)
    halves = encoder_of({"code": np.array([0.5, 0.1], np.float32)}, categorical=["code"])
    assert halves.feature_names_out == ["code=0.1", "code=0.5"]
    flags = encoder_of({"flag": ["True", "False"]})
    assert flags.transform({"flag": [True, False]}).tolist() == [[0, 1], [1, 0]]
    mixed = ["a", 1, True, 0, False, 1.0, np.True_]
    for order in (slice(None), slice(None, None, -1)):  # True equals 1, and is another category
        encoder = encoder_of({"flag": mixed[order]})
        assert encoder.feature_names_out == [f"flag={text}" for text in "01"] + [
            f"flag={text}" for text in ("False", "True", "a")
        ]
        places = encoder.transform({"flag": mixed[order]}).argmax(axis=1)
        assert places.tolist() == [4, 1, 3, 0, 2, 1, 3][order]


# --------------------------------------------------------------------------- types and columns


def test_types_are_inferred_and_overridden():
    table = {
        "number": [1, 2, 3, 4],
        "digits": ["1", "2", "?", "4"],
        "text": ["a", "b", "b", "a"],
        "mixed": ["1", "b", "2", "2"],
        "flag": [True, False, True, True],
        "under_score": ["1_0", "2_0", "1_0", "1_0"],
    }
    encoder = encoder_of(table)
    assert encoder.columns == tuple(table)
    assert encoder.numeric_columns == ("number", "digits", "flag")
    assert encoder.categorical_columns == ("text", "mixed", "under_score")
    forced = encoder_of(table, categorical=["number", "digits"], numeric=["flag"])
    assert forced.categorical_columns == ("number", "digits", "text", "mixed", "under_score")


def test_constant_columns_are_dropped():
    table = {
        "x": [1, 2, 3],
        "same number": [7, 7, 7],
        "same text": ["a", "a", "a"],
        "empty": [None, None, None],
        "same or missing": [7, None, 7],
        "text or missing": ["a", None, "a"],
    }
    encoder = encoder_of(table, numeric_encoding="scaled")
    assert encoder.dropped_columns == ("same number", "same text", "empty")
    features = features_of(encoder, {k: table[k] for k in encoder.columns})
    assert list(features) == [
        "x",
        "same or missing is missing",
        "text or missing=a",
        "text or missing=<missing>",
    ]
    assert features["same or missing is missing"].tolist() == [0, 1, 0]


def test_other_columns_and_their_order_do_not_matter():
    table = {"x": [1.0, 2.0, 4.0, 9.0], "colour": ["red", "blue", "red", "blue"]}
    encoder = encoder_of(table)
    expected = encoder.transform(table)
    shuffled = {"when": np.array(["2024"] * 4, "M8[Y]"), "colour": table["colour"], "x": table["x"]}
    assert np.array_equal(encoder.transform(shuffled), expected)
    assert encoder.transform({"x": [], "colour": []}).shape == (0, encoder.n_features_out)


def test_rows_are_encoded_one_by_one():
    """A row's features don't depend on the rows beside it; 10,000 rows cross the inner blocks."""
    rng = np.random.default_rng(3)
    table = {
        "x": np.where(rng.random(10_000) < 0.1, np.nan, rng.normal(size=10_000)),
        "c": rng.choice(["a", "b", None], 10_000),
    }
    encoder = encoder_of(table)
    whole = encoder.transform(table)
    rows = rng.permutation(10_000)[:777]
    part = encoder.transform({name: column[rows] for name, column in table.items()})
    assert part.tobytes() == whole[rows].tobytes()
    assert encoder.fit_transform(table).tobytes() == whole.tobytes()


def test_two_dimensional_arrays_and_data_frames():
    pandas = pytest.importorskip("pandas", reason="its DataFrames are under test")
    matrix = np.random.default_rng(4).normal(size=(50, 2))
    encoder = TabularEncoder().fit(matrix)
    assert encoder.columns == ("x0", "x1")
    frame = pandas.DataFrame(matrix, columns=["x0", "x1"])
    assert np.array_equal(encoder.transform(frame), encoder.transform(matrix))


def test_a_failed_fit_keeps_the_earlier_one():
    encoder = encoder_of({"x": [1, 2, 3]})
    with pytest.raises(ValueError, match="not constant"):
        encoder.fit({"y": [1, 1]})
    assert encoder.columns == ("x",)


def test_nearly_numeric_text_warns():
    cells = [str(i) for i in range(99)] + ["3O"]
    with pytest.warns(UserWarning, match=r"'x' holds numbers in 99 rows .* '3O' in row 99") as seen:
        encoder = TabularEncoder(min_frequency=1).fit({"x": cells})
    assert seen[0].filename == __file__
    assert encoder.categorical_columns == ("x",)
    encoder_of({"x": cells}, categorical=["x"], min_frequency=1)  # settled: no warning
    encoder_of({"x": cells}, missing_values=["3O"])


# ----------------------------------------------------------------------------------- bad input


def fitted():
    return encoder_of({"age": [20, 30, 40], "sex": ["F", "M", "F"]})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fitted().transform({"sex": ["M"]}),
            ValueError,
            "table must have every column that the encoder needs; missing: 'age'",
        ),
        (
            lambda: fitted().transform({"age": ["30", "31", "x31"], "sex": ["M"] * 3}),
            ValueError,
            r"column 'age', row 2 \(from 0\): must be a number; got 'x31'",
        ),
        (
            lambda: fitted().transform({"age": [30, "x", "y"], "sex": ["M"] * 3}),
            ValueError,
            r"column 'age', row 1 \(from 0\): must be a number; got 'x'",
        ),
        (
            lambda: fitted().transform({"age": [30.0, -math.inf], "sex": ["M"] * 2}),
            ValueError,
            r"column 'age', row 1 \(from 0\): must be a finite number; got -inf",
        ),
        (
            lambda: fitted().transform({"age": ["30", "?", "1e400"], "sex": ["M"] * 3}),
            ValueError,
            r"column 'age', row 2 \(from 0\): must be a finite number; got '1e400'",
        ),
        (
            lambda: fitted().transform({"age": [30], "sex": [b"M"]}),
            TypeError,
            r"column 'sex', row 0 \(from 0\): must be a number or text; got bytes",
        ),
        (
            lambda: fitted().transform({"age": [30, [31]], "sex": ["M", "M"]}),
            TypeError,
            r"column 'age', row 1 \(from 0\): must be a number or text; got list",
        ),
        (
            lambda: fitted().transform({"age": np.array(["2024"], "M8[Y]"), "sex": ["M"]}),
            TypeError,
            r"column 'age' must hold numbers or text; got dtype datetime64\[Y\]",
        ),
        (
            lambda: encoder_of({"age": ["20", "x"]}, numeric=["age"]),
            ValueError,
            r"column 'age', row 1 \(from 0\): must be a number; got 'x'",
        ),
        (
            lambda: encoder_of({"age": [20.0, math.inf]}),
            ValueError,
            r"column 'age', row 1 \(from 0\): must be a finite number; got inf",
        ),
        (
            lambda: encoder_of({"age": [1, 2]}, categorical=["sex"]),
            ValueError,
            "named in numeric, categorical or hashed; missing: 'sex'",
        ),
        (lambda: encoder_of({}), ValueError, "at least one column and one row"),
        (lambda: encoder_of({"x": []}), ValueError, "at least one column and one row"),
        (lambda: encoder_of({"x": [1, 1]}), ValueError, "not constant; got none"),
        (lambda: TabularEncoder().transform({"x": [1]}), ValueError, "must be fitted first"),
        (lambda: TabularEncoder().state(), ValueError, "must be fitted first"),
        (lambda: TabularEncoder(numeric="age"), TypeError, "numeric must be a sequence of text"),
        (lambda: TabularEncoder(categorical=[1]), TypeError, "categorical must hold text; got 1"),
        (
            lambda: TabularEncoder(numeric=["a"], categorical=["a"]),
            ValueError,
            "must not share a column; both name 'a'",
        ),
        (
            lambda: TabularEncoder(numeric_encoding="bin"),
            ValueError,
            r"numeric_encoding must be one of .* \(did you mean 'bins'\?\)",
        ),
        (lambda: TabularEncoder(n_bins=0), ValueError, "n_bins must be at least 1"),
        (lambda: TabularEncoder(min_frequency=0), ValueError, "min_frequency must be at least 1"),
        (lambda: TabularEncoder(max_categories=True), TypeError, "max_categories must be an int"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --------------------------------------------------------------------------------------- state


def mixed_table(rows=400, seed=5):
    rng = np.random.default_rng(seed)
    return {
        "x": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
        "skewed": rng.lognormal(size=rows) * (rng.random(rows) < 0.3),
        "colour": rng.choice(["red", "green", "blue", "?"], rows),
        "code": rng.integers(0, 200, rows).astype(str),
        "constant": np.ones(rows),
    }


@pytest.mark.parametrize("encoding", ["scaled", "bins", "both"])
def test_state_round_trip_is_bitwise(encoding):
    table = mixed_table()
    encoder = encoder_of(table, numeric_encoding=encoding, categorical=["code"])
    config, arrays = encoder.state()
    saved = json.loads(json.dumps(config))
    assert saved == config
    twin = TabularEncoder.from_state(saved, {k: a.copy() for k, a in arrays.items()})
    again, again_arrays = twin.state()
    assert again == config
    assert {k: (a.dtype, a.tobytes()) for k, a in again_arrays.items()} == {
        k: (a.dtype, a.tobytes()) for k, a in arrays.items()
    }
    later = mixed_table(seed=6)
    assert twin.transform(later).tobytes() == encoder.transform(later).tobytes()
    assert twin.feature_names_out == encoder.feature_names_out
    assert twin.dropped_columns == encoder.dropped_columns == ("constant",)
    assert repr(twin) == repr(encoder)


def test_state_of_categories_alone_and_numbers_alone():
    for table in ({"c": ["a", "b"]}, {"x": [1.0, 2.0, 3.0]}):
        encoder = encoder_of(table)
        twin = TabularEncoder.from_state(*encoder.state())
        assert twin.transform(table).tobytes() == encoder.transform(table).tobytes()


def config_with(*path, value=None, remove=False):
    """A change of one place of the config."""

    def change(config, arrays):
        place = config
        for key in path[:-1]:
            place = place[key]
        if remove:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


def array_with(name, value):
    """A change of one of the arrays: another array, or a function of it."""

    def change(config, arrays):
        arrays[name] = value(arrays[name]) if callable(value) else value

    return change


def put(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


# The columns of mixed_table: 0 x (missing), 1 skewed, 2 colour (missing), 3 code (other).
BROKEN_STATES = {
    "no version": config_with("version", remove=True),
    "unknown key": config_with("more", value=1),
    "later version": config_with("version", value=3),
    "version true": config_with("version", value=True),
    "version 1.0": config_with("version", value=1.0),
    "no options": config_with("options", value=None),
    "unknown option": config_with("options", "more", value=1),
    "option missing": config_with("options", "n_bins", remove=True),
    "bad option": config_with("options", "n_bins", value=-1),
    "option of another type": config_with("options", "numeric", value={"x": 1}),
    "option is text": config_with("options", "numeric", value="x"),
    "no columns": config_with("columns", value=[]),
    "columns an object": config_with("columns", value={"x": {}}),
    "column is text": config_with("columns", 0, value="x"),
    "unknown type": config_with("columns", 0, "type", value="text"),
    "unhashable type": config_with("columns", 0, "type", value=[]),
    "type changed": config_with("columns", 0, "type", value="categorical"),
    "column lacks": config_with("columns", 0, "missing", remove=True),
    "column has more": config_with("columns", 0, "other", value=True),
    "name is a number": config_with("columns", 0, "name", value=3),
    "name is there twice": config_with("columns", 0, "name", value="skewed"),
    "name is dropped too": config_with("columns", 0, "name", value="constant"),
    "missing is 1": config_with("columns", 0, "missing", value=1),
    "other is null": config_with("columns", 3, "other", value=None),
    "categories are text": config_with("columns", 2, "categories", value="abc"),
    "categories are numbers": config_with("columns", 2, "categories", value=[1, 2]),
    "categories repeat": config_with("columns", 2, "categories", value=["a", "a"]),
    "categories unsorted": config_with("columns", 2, "categories", value=["b", "a"]),
    "too few categories": config_with("columns", 3, "categories", value=[]),
    "dropped is text": config_with("dropped_columns", value="constant"),
    "dropped holds numbers": config_with("dropped_columns", value=[1]),
    "array missing": lambda config, arrays: arrays.pop("scale"),
    "array too many": array_with("more", np.zeros(2)),
    "a list": array_with("center", [0.0, 0.0]),
    "float32": array_with("center", np.zeros(2, np.float32)),
    "byte-swapped": array_with("center", lambda a: a.astype(">f8")),
    "2-D": array_with("center", np.zeros((2, 1))),
    "too short": array_with("center", np.zeros(1)),
    "too long": array_with("scale", np.ones(3)),
    "NaN center": array_with("center", put(0, np.nan)),
    "infinite center": array_with("center", put(0, np.inf)),
    "huge center": array_with("center", put(0, 1e308)),
    "negative scale": array_with("scale", put(0, -1.0)),
    "NaN scale": array_with("scale", put(0, np.nan)),
    "NaN edge": array_with("edges", put(1, np.nan)),
    "infinite edge": array_with("edges", put(0, -np.inf)),
    "equal edges": array_with("edges", lambda a: put(1, a[0])(a)),
    "falling edges": array_with("edges", lambda a: a[::-1].copy()),
    "edges missing": array_with("edges", lambda a: a[:-1]),
    "counts are floats": array_with("n_edges", lambda a: a.astype(float)),
    "count of one": array_with("n_edges", lambda a: np.array([1, a.sum() - 1])),
    "negative count": array_with("n_edges", lambda a: np.array([-2, a.sum() + 2])),
    "huge counts": array_with("n_edges", np.array([2**62, 2**62])),
    "counts wrap around": array_with("n_edges", lambda a: np.array([2**63 - 1, a.sum() + 1])),
    "config is a list": None,
}


@pytest.mark.parametrize("name", BROKEN_STATES)
def test_broken_states_are_refused(name):
    config, arrays = encoder_of(mixed_table(), categorical=["code"]).state()
    assert [c["name"] for c in config["columns"]] == ["x", "skewed", "colour", "code"]
    config = copy.deepcopy(config)
    if BROKEN_STATES[name] is None:
        config = [config]
    else:
        BROKEN_STATES[name](config, arrays)
    with pytest.raises(ValueError, match="must"):
        TabularEncoder.from_state(config, arrays)


def test_a_column_without_features_is_refused():
    config, arrays = encoder_of({"x": [1, 2]}).state()
    arrays["scale"] = np.zeros(1)
    with pytest.raises(ValueError, match="at least 1 features"):
        TabularEncoder.from_state(config, arrays)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@settings(max_examples=300)
@given(data=st.data())
def test_any_other_json_in_any_place_is_refused_or_harmless(data):
    """Replace one random node: ValueError, or an encoder whose own state says the same."""
    config, arrays = encoder_of({"x": [1.0, 2.0, 3.0], "c": ["a", "b", "b"]}).state()
    whole = {"root": config}
    place, key = whole, "root"
    while data.draw(st.booleans()) and isinstance(place[key], dict | list) and place[key]:
        place = place[key]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
    place[key] = data.draw(JSON)
    try:
        encoder = TabularEncoder.from_state(whole["root"], arrays)
    except ValueError:
        return
    assert encoder.state()[0] == whole["root"]
    encoder.transform({name: ["1"] for name in encoder.columns})

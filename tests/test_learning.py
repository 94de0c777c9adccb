"""TabularEncoder.fit_blocks: one pass over blocks gives what the whole table gives."""

from __future__ import annotations

import itertools
import json
import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcenet.errors import CellError
from bcenet.tabular import QuantileSketch, TabularEncoder, learning

NUMBERS = ["0", "1", "1.0", " 1", "-2.5", "1e3", "007", "NAN"]
MISSING = ["", "?", None, " NA "]
WORDS = ["a", "b ", "1_0", "x1", "é"]


def state_of(encoder):
    config, arrays = encoder.state()
    return json.dumps(config), {k: (a.dtype.str, a.tobytes()) for k, a in arrays.items()}


def cut(table, places):
    """Blocks of the table's rows between the places."""
    n = len(next(iter(table.values())))
    edges = sorted({0, n, *(place % (n + 1) for place in places)})
    for start, stop in itertools.pairwise(edges):
        yield {name: column[start:stop] for name, column in table.items()}


def outcome(fit):
    """The state, or the error."""
    try:
        return state_of(fit())
    except ValueError as error:
        return str(error)


def text_columns(n):
    cells = [
        st.sampled_from(NUMBERS + MISSING),
        st.sampled_from(NUMBERS + MISSING + WORDS),
        st.sampled_from([*WORDS, None]),
        st.integers(0, 50).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.one_of(st.integers(-3, 3), st.sampled_from([0.5, None, "2", "w"])),
    ]
    return st.sampled_from(cells).flatmap(lambda c: st.lists(c, min_size=n, max_size=n)).map(
        lambda cells: np.array([*cells, None], dtype=object)[:-1]
    )  # fmt: skip


@st.composite
def tables(draw):
    n = draw(st.integers(1, 60))
    table = {f"t{i}": draw(text_columns(n)) for i in range(draw(st.integers(1, 3)))}
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0, draw(st.sampled_from([2, 60])), n)
    typed = {
        "i": values,
        "f": np.where(rng.random(n) < 0.2, np.nan, values / 8),
        "f4": rng.normal(size=n).astype(np.float32),
        "b": values > 0,
    }
    return table | {name: typed[name] for name in draw(st.sets(st.sampled_from([*typed])))}


@pytest.mark.filterwarnings("ignore:column:UserWarning")
@settings(max_examples=300, deadline=None)
@given(tables(), st.lists(st.integers(0, 60), max_size=6), st.sampled_from([(), ("t0",)]))
def test_any_cuts_give_the_whole_table_s_encoder(table, places, categorical):
    make = lambda: TabularEncoder(categorical=categorical, min_frequency=1)  # noqa: E731
    whole = outcome(lambda: make().fit(table))
    assert outcome(lambda: make().fit_blocks(cut(table, places))) == whole
    if all(isinstance(cell, str | None) for column in table.values() for cell in column.tolist()):
        schema = pa.schema([(name, pa.string()) for name in table])
        arrow = [pa.table(block, schema) for block in cut(table, places)]
        assert outcome(lambda: make().fit_blocks(arrow)) == whole


@pytest.mark.filterwarnings("ignore:column:UserWarning")
@settings(max_examples=300, deadline=None)
@given(tables(), st.lists(st.integers(0, 60), max_size=6), st.sampled_from([12, 1000]))
def test_any_cuts_give_the_same_encoder_past_the_exact_rows(table, places, most):
    """With tiny limits: pieces of 4 rows, exact up to 8 of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "PIECE_ROWS", 4)
        patch.setattr(learning, "EXACT_ROWS", 8)
        patch.setattr(learning, "_MANY_NUMBERS", 3)
        patch.setattr(learning, "MOST_TEXTS", most)
        whole = outcome(lambda: TabularEncoder(min_frequency=1).fit(table))
        blocks = cut(table, places)
        assert outcome(lambda: TabularEncoder(min_frequency=1).fit_blocks(blocks)) == whole


# -------------------------------------------------------------------------------- what is learnt


def learn(blocks, **options):
    encoder = TabularEncoder(**options)
    learner = encoder.learner()
    for block in blocks:
        learner.add(block)
    return {column.name: column for column in learner._columns}


def test_counts_are_those_of_a_counter():
    rng = np.random.default_rng(0)
    cells = rng.choice([f"w{i}" for i in range(500)] + ["?", "7"], 5000).astype(object)
    found = learn(cut({"c": cells}, [1, 700, 3333]))["c"]
    assert found.counts == Counter(cell for cell in cells.tolist() if cell != "?")
    assert (found.missing, found.incomplete) == (True, False)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "float64", "bool", "text"])
def test_numbers_before_a_late_word_are_counted(dtype):
    """The word comes in the last row, in a block of another type."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 9, 3000) / (10 if dtype.startswith("float") else 1)
    if dtype == "text":
        values = values.astype(int).astype(str).astype(object)
    else:
        values = values.astype(dtype)
    expected = Counter(str(value).removesuffix(".0") for value in values)
    blocks = [{"x": values[:999]}, {"x": values[999:]}, {"x": np.array(["word"], object)}]
    encoder = TabularEncoder(min_frequency=1).fit_blocks(blocks)
    assert encoder.categorical_columns == ("x",)
    assert learn(blocks)["x"].counts == {**expected, "word": 1}


def test_quantiles_are_numpy_s():
    rng = np.random.default_rng(2)
    values = rng.lognormal(size=20_000)
    blocks = cut({"x": values.astype(str).astype(object)}, [3, 5000, 16_000])
    _, arrays = TabularEncoder(numeric_encoding="scaled").fit_blocks(blocks).state()
    first, median, third = np.quantile(values, [0.25, 0.5, 0.75])
    # Interpolated in halves, not as lerp: rounding apart, the same.
    assert arrays["center"][0] == pytest.approx(median, rel=1e-15)
    assert arrays["scale"][0] == pytest.approx(third - first, rel=1e-15)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=400), st.integers(2, 30))
def test_pruned_counts_are_too_low_by_the_stated_bound(codes, most):
    cells = np.array([f"w{code}" for code in codes], dtype=object)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "PIECE_ROWS", 16)
        patch.setattr(learning, "MOST_TEXTS", most)
        found = learn([{"c": cells}])["c"]
    true = Counter(cells.tolist())
    for text, count in true.items():
        assert 0 <= count - found.counts.get(text, 0) <= len(codes) / most
    assert found.incomplete or found.counts == true
    assert len(found.counts) <= most + 16  # those of the last, unfinished piece


def test_long_texts_count_for_several(monkeypatch):
    monkeypatch.setattr(learning, "PIECE_ROWS", 10)
    monkeypatch.setattr(learning, "MOST_TEXTS", 20)
    short = np.array([f"{i:04}x" for i in range(10)], dtype=object)
    assert len(learn([{"c": short}])["c"].counts) == 10
    long = np.array([f"{i:0640}x" for i in range(10)], dtype=object)
    assert len(learn([{"c": long}])["c"].counts) == 0  # ten of equal counts, of which one fits


def test_numbers_of_many_values_are_rare_once_a_word_comes_late(monkeypatch):
    monkeypatch.setattr(learning, "PIECE_ROWS", 8)
    monkeypatch.setattr(learning, "EXACT_ROWS", 16)
    monkeypatch.setattr(learning, "_MANY_NUMBERS", 10)
    many = [str(i) for i in range(16)]
    few = [str(i % 4) for i in range(16)]
    table = {"many": [*many, "word", "3", "3"], "few": [*few, "word", "3", "3"]}
    encoder = TabularEncoder(min_frequency=1).fit(table)
    assert encoder.feature_names_out == [
        "many=3", "many=word", "many=<other>",
        "few=0", "few=1", "few=2", "few=3", "few=word",
    ]  # fmt: skip
    assert learn([{k: np.array(v, object) for k, v in table.items()}])["few"].counts["3"] == 6


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(learning, "MOST_TEXTS", 1 << 10)
    monkeypatch.setattr(learning, "PIECE_ROWS", 1 << 11)
    monkeypatch.setattr(learning, "EXACT_ROWS", 1 << 13)
    monkeypatch.setattr(learning, "QuantileSketch", lambda: QuantileSketch(1 << 13, 1 << 10))

    def blocks(rows):
        for start in range(0, rows, 1 << 12):
            ids = np.arange(start, start + (1 << 12))
            yield {"id": (ids.astype(str).astype(object) + "x"), "x": ids / 7}

    def peak(rows):
        tracemalloc.start()
        try:
            TabularEncoder().fit_blocks(blocks(rows))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1 << 17) < 1.2 * peak(1 << 15)


def test_blocks_of_a_row_take_no_more_memory():
    """Of 20,000 blocks of a row: 8 bytes a number, and the texts twice."""

    def blocks():
        for i in range(20_000):
            yield {"x": np.array([i / 7]), "t": np.array([str(i)], dtype=object)}

    tracemalloc.start()
    try:
        encoder = TabularEncoder()
        learner = encoder.learner()
        for block in blocks():
            learner.add(block)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 20_000 * 60
    encoder.take(learner)
    assert encoder.numeric_columns == ("x", "t")


def test_types_are_those_of_all_rows_and_the_rest_that_of_the_chosen():
    rng = np.random.default_rng(3)
    n = 500
    table = {
        "x": rng.normal(size=n),
        "code": np.where(np.arange(n) == 77, "word", rng.integers(0, 5, n).astype(str)),
        "c": rng.choice(["a", "b", "c"], n),
    }
    table = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in table.items()}
    chosen = rng.random(n) < 0.8
    chosen[77] = False
    encoder = TabularEncoder()
    learner = encoder.learner()
    for start in range(0, n, 99):
        rows = slice(start, start + 99)
        learner.add({name: column[rows] for name, column in table.items()}, chosen[rows])
    encoder.take(learner)
    some = {name: column[chosen] for name, column in table.items()}
    expected = TabularEncoder(categorical=["code"]).fit(some)
    assert encoder.transform(table).tobytes() == expected.transform(table).tobytes()
    assert encoder.feature_names_out == expected.feature_names_out


@pytest.mark.parametrize("others", [True, False])
def test_of_hashed_columns_nothing_is_learnt(others):
    rng = np.random.default_rng(6)
    table = {"id": np.array([f"u{i}" for i in rng.integers(0, 99, 200)], dtype=object)}
    if others:
        table["x"] = rng.normal(size=200)
    options = {"hashed": ["id"], "n_hashed_features": 50}
    whole = TabularEncoder(**options).fit(table)
    encoder = TabularEncoder(**options).fit_blocks(cut(table, [3, 120]))
    assert state_of(encoder) == state_of(whole)
    assert encoder.columns == ("x", "id")[not others :]
    found = TabularEncoder(**options)
    learner = found.learner()
    learner.add(table)
    assert [column.name for column in learner._columns] == (["x"] if others else [])


def test_frames_in_chunks():
    rng = np.random.default_rng(4)
    frame = pandas.DataFrame({
        "x": rng.normal(size=300), "c": rng.choice(["a", "b", None], 300), "i": range(300)
    })  # fmt: skip
    whole = state_of(TabularEncoder().fit(frame))
    chunks = [frame[i : i + 70] for i in range(0, 300, 70)]
    assert state_of(TabularEncoder().fit_blocks(chunks)) == whole
    assert state_of(TabularEncoder().fit_blocks(map(polars.from_pandas, chunks))) == whole
    batches = pa.Table.from_pandas(frame).to_batches(max_chunksize=41)
    assert state_of(TabularEncoder().fit_blocks(batches)) == whole


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "at least one column and one row"),
        ([{"x": []}], "at least one column and one row"),
        ([{"x": [1, 2]}, {"y": [1]}], "a block of the table lacks the column 'x'"),
        ([{"x": [1, 2]}, {"x": [1], "y": [1]}], "has, as the first has not, the column 'y'"),
        ([{"z": [1, 2]}], "named in numeric, categorical or hashed; missing: 'x'"),
        ([{"x": [1, 2]}, {"x": ["3", "b"]}], r"column 'x', row 3 \(from 0\): must be a number"),
        ([{"x": [1, 2]}, {"x": ["3", "inf"]}], r"column 'x', row 3 \(from 0\): must be a finite"),
    ],
)
def test_bad_blocks_are_named(blocks, message):
    with pytest.raises(ValueError, match=message):
        TabularEncoder(numeric=["x"]).fit_blocks(blocks)


def test_a_cell_of_another_kind_is_named_by_its_row_in_the_stream():
    with pytest.raises(TypeError, match=r"column 'x', row 3 \(from 0\): must be a number or text"):
        TabularEncoder().fit_blocks([{"x": ["a", "b"]}, {"x": ["c", b"d"]}])


def test_the_error_of_a_cell_survives_pickling():
    with pytest.raises(CellError) as caught:
        TabularEncoder(numeric=["x"]).fit({"x": ["1", "b"]})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.column, again.row) == (str(caught.value), "x", 1)

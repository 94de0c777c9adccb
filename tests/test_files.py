"""Reading tables: rows in the file are rows in the table, or an error says where it is wrong."""

import csv
import datetime
import decimal
import gzip
import io
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcenet.data import as_table, read_table
from bcenet.errors import DataFormatError

pyarrow = pytest.importorskip("pyarrow", reason="files are read with pyarrow (extra `cli`)")
parquet = pytest.importorskip("pyarrow.parquet", reason="files are read with pyarrow")


@pytest.fixture
def write(tmp_path):
    """Writes bytes or text to a file and returns its path."""

    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def lists(table):
    return {name: column.tolist() for name, column in table.items()}


# ------------------------------------------------------------------------------- CSV, accepted


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,x\n2,y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("a,b\n1,x\n2,y", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("a,b\r\n1,x\r\n2,y\r\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("a,b\r1,x\r2,y\r", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("a , b\n1, x y \n", {"a": ["1"], "b": ["x y"]}),
        ("a,b\n,?\n", {"a": [""], "b": ["?"]}),
        ("\n\na,b\n\n1,2\n\r\n\n3,4\n\n", {"a": ["1", "3"], "b": ["2", "4"]}),
        ('a,b\n"1,5","x ""y"""\n', {"a": ["1,5"], "b": ['x "y"']}),
        ('"a,\nb",c\n"1\r\n2",3\n', {"a,\nb": ["1\r\n2"], "c": ["3"]}),
        ('a\n""\n', {"a": [""]}),
        ("a\nü\u2009\n", {"a": ["ü"]}),
        ("\ufeffa,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
        ("a,b\n\ufeff1,2\n", {"a": ["\ufeff1"], "b": ["2"]}),
        ("a,b\n1,true\n2,false\n", {"a": ["1", "2"], "b": ["true", "false"]}),
        ("a,b\n00501,2020-01-01\n", {"a": ["00501"], "b": ["2020-01-01"]}),
        ("a,b\n1e400,\nx,1e400\n", {"a": ["1e400", "x"], "b": ["", "1e400"]}),
        ("400,402.5,405\n1,2,3\n", {"400": ["1"], "402.5": ["2"], "405": ["3"]}),
    ],
)
def test_csv_is_read_as_text(write, content, expected):
    if "1e400" in content:  # "x" makes the first column text; the second is refused
        expected = {"a": expected["a"]}
    table = read_table(write(content), columns=list(expected))
    assert lists(table) == expected
    assert all(column.dtype == object for column in table.values())


def test_census_style_file(write):
    content = "age, workclass, income\n39, State-gov, <=50K\n50, ?, >50K\n\n"
    assert lists(read_table(write(content))) == {
        "age": ["39", "50"],
        "workclass": ["State-gov", "?"],
        "income": ["<=50K", ">50K"],
    }


def test_gzip_and_standard_input(write, monkeypatch):
    content = b"a,b\n1,x\n2,y\n"
    plain = lists(read_table(write(content)))
    assert lists(read_table(write(gzip.compress(content), "data.csv.gz"))) == plain
    assert lists(read_table(write(gzip.compress(content), "data"))) == plain
    for piped in (content, gzip.compress(content)):
        stream = io.TextIOWrapper(io.BytesIO(piped))
        monkeypatch.setattr(sys, "stdin", stream)
        assert lists(read_table("-")) == plain


def test_columns_selects_and_orders(write):
    path = write("a,b,c\n1,2,3\n")
    assert list(read_table(path, columns=["c", "a"])) == ["c", "a"]
    assert lists(read_table(str(path), columns=("b",))) == {"b": ["2"]}


def test_large_values_and_many_lines(write):
    """Records longer than pyarrow's block, quoted line ends across its blocks."""
    long = "x" * 3_000_000
    assert read_table(write(f"a,b\n{long},1\n2,3\n"))["a"].tolist() == [long, "2"]
    rows = [[str(i), f"line {i}\nnext, {i % 7}"] for i in range(100_000)]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["i", "text"], *rows])
    table = read_table(write(buffer.getvalue()))
    assert table["i"].tolist() == [row[0] for row in rows]
    assert table["text"].tolist() == [row[1] for row in rows]
    empty = "\n" * 3_000_000
    assert lists(read_table(write(f"a,b\n1,2{empty}3,4\n"))) == {"a": ["1", "3"], "b": ["2", "4"]}


# -------------------------------------------------------------------------------- CSV, refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty"),
        (b"\n\r\n", ": the file is empty"),
        (b"a,b\n", ": no rows below the columns' names"),
        (b"a,b\n\n\n", ": no rows below the columns' names"),
        (b"a,a\n1,2\n", ": 'a' names more than one column"),
        (b"a, a\n1,2\n", ": 'a' names more than one column"),
        (b"a,,c\n1,2,3\n", ": column 2 of 3 has no name"),
        (b"a,b\n1\n", ", line 2: 1 values where the first line names 2 columns"),
        (b"a,b\n1,2\n\n1,2,\n", ", line 4: 3 values where the first line names 2 columns"),
        (b'a,b\n"1\n",2\n3\n', ", line 4: 1 values where"),
        (b"a,b\n1,2\n1,\0\n", ", line 3, column 'b': a NUL byte"),
        (b"a,b\n1,2\n\xe9,2\n", ", line 3, column 'a': not UTF-8 text (byte 0xe9)"),
        (b"a,\xe9\n1,2\n", ", line 1: not UTF-8 text (byte 0xe9)"),
        ("a,b\n1,2\n".encode("utf-16"), ", line 1: a NUL byte"),
        (b'a,b\n1,"2\n3,4\n', ", line 2, column 'b': a quote that is never closed"),
        (b'a,b\n1,"""2\n3,4\n', ", line 2, column 'b': a quote that is never closed"),
        (b'a,b\n"1,2\n3,"4"\n', ", line 3, column 'a': text after the quote that ends a value"),
        (b'a,b\n"1"x,2\n', "(begun on line 2)"),
        (b'a,b\n1,2"\n', ", line 2, column 'b': a quote inside a value that does not begin"),
        (b'a,b\n1, "2"\n', ", line 2, column 'b': a quote inside a value that does not begin"),
        (b"a\n1\n\n2\n", ", line 3: an empty line"),
        (b"a;b\n1;2\n", ", line 1: columns must be separated by commas; got 'a;b'"),
        (b"3.6,8.7,-2.8\n4.5,8.2,-2.4\n", ", line 1: the first line must name the columns"),
        (b"a,b\n1,2\n\n3,1e400\n", ", line 4, column 'b': '1e400' is not a finite number"),
        (b"a,b\n1,-1e999\n3,\n", ", line 2, column 'b': '-1e999' is not a finite number"),
        (b"a,b\n1,?\n3, inf\n", ", line 3, column 'b': 'inf' is not a finite number"),
    ],
)
def test_malformed_csv_names_file_line_and_column(write, content, message):
    path = write(content)
    with pytest.raises(DataFormatError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}{message}" if message[0] != "(" else str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_malformed_standard_input_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1\n")))
    with pytest.raises(DataFormatError, match=r"^<standard input>, line 2: 1 values"):
        read_table("-")


def test_gzip_cut_off_anywhere_or_damaged_is_refused(write):
    whole = gzip.compress(b"a,b\n" + b"1,2\n3,4\n" * 20, mtime=0)
    for length in range(len(whole)):
        with pytest.raises(DataFormatError):
            read_table(write(whole[:length], "data.csv.gz"))
    for byte in range(10, len(whole)):  # the bytes before are the header, some of them unused
        damaged = bytearray(whole)
        damaged[byte] ^= 1
        with pytest.raises(DataFormatError, match=r"data\.csv\.gz: not a whole gzip file"):
            read_table(write(bytes(damaged), "data.csv.gz"))


def test_missing_files_columns_and_pyarrow(write, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match=r"absent\.parquet"):
        read_table(tmp_path / "absent.parquet")
    with pytest.raises(IsADirectoryError):
        read_table(tmp_path)
    path = write("a,b\n1,2\n")
    with pytest.raises(DataFormatError, match=r"data\.csv: no column named 'c', 'd'"):
        read_table(path, columns=["a", "c", "d"])
    with pytest.raises(TypeError, match="columns must be a sequence of names; got 'ab'"):
        read_table(path, columns="ab")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'bcenet\[cli\]'"):
        read_table(path)


# ------------------------------------------------------------------------------------ CSV, fuzz

TOKENS = st.sampled_from(
    [",", ",", "\n", "\n", '"', '""', "\r", "\r\n", " ", "a", "1", "1e400", "é", "?", "x y", "-"]
)
BROKEN = st.sampled_from([b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b'"', b"\n", b","])


@st.composite
def csv_bytes(draw):
    """Texts of CSV's own characters, or a well-formed table; both sometimes damaged."""
    if draw(st.booleans()):
        data = "".join(draw(st.lists(TOKENS, max_size=40))).encode()
    else:
        width = draw(st.integers(1, 4))
        cell = st.text(st.sampled_from('ab1, "\n\ré?'), max_size=4)
        row = st.lists(cell, min_size=width, max_size=width)
        rows = draw(st.lists(row, max_size=6))
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
        writer.writerows([[f"c{i}" for i in range(width)], *rows])
        data = buffer.getvalue().encode()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(BROKEN) + data[place + draw(st.integers(0, 1)) :]
    return data


def check_read_or_refused(path, data):
    """Either a DataFormatError, or exactly the cells that Python's strict csv module reads."""
    path.write_bytes(data)
    try:
        table = read_table(path)
    except DataFormatError as error:
        assert str(error).startswith(str(path))
        return
    text = data.decode("utf-8-sig")
    records = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    cells = [[cell.strip() for cell in row] for row in records]
    assert list(table) == cells[0]
    assert [list(row) for row in zip(*table.values(), strict=True)] == cells[1:]


FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(FUZZ, max_examples=400)
@given(data=csv_bytes())
def test_fuzzed_csv_is_read_whole_or_refused(tmp_path_factory, data):
    check_read_or_refused(tmp_path_factory.getbasetemp() / "fuzz.csv", data)


@pytest.mark.slow
@settings(FUZZ, max_examples=100_000)
@given(data=csv_bytes())
def test_fuzzed_csv_is_read_whole_or_refused_100_000_times(tmp_path_factory, data):
    check_read_or_refused(tmp_path_factory.getbasetemp() / "fuzz.csv", data)


# ------------------------------------------------------------------------------------- Parquet


def test_parquet_keeps_types_and_marks_nulls(tmp_path):
    path = tmp_path / "data.parquet"
    day = datetime.date(2024, 2, 29)
    table = pyarrow.table(
        {
            "int": pyarrow.array([1, 2], pyarrow.int32()),
            "int null": [1, None],
            "float": [0.5, None],
            "bool": [True, False],
            "bool null": [True, None],
            "text": ["x", None],
            "large": pyarrow.array(["x", "y"], pyarrow.large_string()),
            "dictionary": pyarrow.array(["x", None]).dictionary_encode(),
            "decimal": [decimal.Decimal("1.25"), None],
            "date": [day, None],
            "null": pyarrow.nulls(2),
        }
    )
    parquet.write_table(table, path)
    columns = read_table(path)
    assert list(columns) == table.column_names
    assert columns["int"].dtype == np.int32
    assert columns["bool"].dtype == np.bool_
    for name, numbers in {
        "int": [1, 2],
        "int null": [1, np.nan],
        "float": [0.5, np.nan],
        "bool": [1, 0],
        "bool null": [1, np.nan],
        "decimal": [1.25, np.nan],
    }.items():
        assert columns[name].dtype != object, name
        assert np.array_equal(columns[name].astype(float), numbers, equal_nan=True), name
    assert columns["text"].tolist() == ["x", None]
    assert columns["large"].tolist() == ["x", "y"]
    assert columns["dictionary"].tolist() == ["x", None]
    assert columns["date"].tolist() == ["2024-02-29", None]
    assert columns["null"].tolist() == [None, None]
    assert list(read_table(path, columns=["text", "int"])) == ["text", "int"]
    with pytest.raises(DataFormatError, match=r"data\.parquet: no column named 'age'"):
        read_table(path, columns=["age"])


def test_parquet_row_groups_join_and_contents_decide(tmp_path):
    path = tmp_path / "no suffix"
    table = pyarrow.table({"n": np.arange(1000), "t": [str(i % 17) for i in range(1000)]})
    parquet.write_table(table, path, row_group_size=64)
    columns = read_table(path)
    assert columns["n"].tolist() == list(range(1000))
    assert columns["t"].tolist() == [str(i % 17) for i in range(1000)]


def test_parquet_without_rows_or_not_parquet_is_refused(tmp_path, write):
    path = tmp_path / "empty.parquet"
    parquet.write_table(pyarrow.table({"n": pyarrow.array([], pyarrow.int64())}), path)
    with pytest.raises(DataFormatError, match=r"empty\.parquet: the table has no rows"):
        read_table(path)
    for content in (b"", b"PAR1", b"a,b\n1,2\n"):
        with pytest.raises(DataFormatError, match=r"x\.parquet: not a readable Parquet file"):
            read_table(write(content, "x.parquet"))


def test_damaged_parquet_is_read_right_or_refused(tmp_path):
    """Cut off anywhere: refused. A flipped bit of the data: its page's checksum tells."""
    path = tmp_path / "data.parquet"
    rng = np.random.default_rng(0)
    table = pyarrow.table({"n": rng.normal(size=50), "t": [str(i % 7) for i in range(50)]})
    parquet.write_table(table, path, write_page_checksum=True)
    whole = path.read_bytes()
    expected = lists(read_table(path))
    for length in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:length])
        with pytest.raises(DataFormatError):
            read_table(path)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for place in rng.integers(4, footer, 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        try:
            assert lists(read_table(path)) == expected
        except DataFormatError:
            refused += 1
    assert refused > 250


# ----------------------------------------------------------------------------------- in memory


def test_as_table_takes_every_common_form():
    expected = {"n": [1.0, 2.0], "t": ["x", "y"]}
    structured = np.array([(1.0, "x"), (2.0, "y")], dtype=[("n", "f8"), ("t", "U1")])
    for obj in (
        expected,
        {"n": np.array([1.0, 2.0]), "t": np.array(["x", "y"])},
        {"n": (1.0, 2.0), "t": np.array(["x", "y"], dtype=object)},
        structured,
        pyarrow.table(expected),
        pyarrow.RecordBatch.from_pydict(expected),
    ):
        table = as_table(obj)
        assert lists(table) == expected
        assert table["n"].dtype == np.float64
        assert table["t"].dtype == object
    matrix = as_table(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert lists(matrix) == {"x0": [0.0, 3.0], "x1": [1.0, 4.0], "x2": [2.0, 5.0]}
    assert matrix["x1"].dtype == np.float32


def test_as_table_keeps_numbers_and_missing_values_apart_from_text():
    table = as_table(
        {
            "int": [1, 2, 3],
            "none": [1, None, 3],
            "mixed": [1, "a", None],
            "bool": [True, False, True],
            "huge": [2**70, 0, 1],
            "masked": np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False]),
            "empty": [None, None, None],
        }
    )
    assert table["int"].dtype == np.int64
    assert np.array_equal(table["none"], [1, np.nan, 3], equal_nan=True)
    assert table["mixed"].tolist() == [1, "a", None]
    assert table["bool"].dtype == np.bool_
    assert table["huge"].tolist() == [2.0**70, 0.0, 1.0]
    assert np.array_equal(table["masked"], [1, np.nan, 3], equal_nan=True)
    assert table["empty"].tolist() == [None, None, None]


def test_as_table_takes_pandas():
    pandas = pytest.importorskip("pandas", reason="its DataFrames are under test")
    frame = pandas.DataFrame(
        {
            "int": [1, 2],
            "nullable": pandas.array([1, None], dtype="Int64"),
            "flag": pandas.array([True, None], dtype="boolean"),
            "full": pandas.array([1, 2], dtype="Int8"),
            "text": ["x", None],
            "string": pandas.array(["x", None], dtype="string"),
            "category": pandas.Categorical(["x", None]),
            "arrow": pandas.Series(["x", None], dtype=pandas.ArrowDtype(pyarrow.string())),
            "arrow int": pandas.Series([1, None], dtype=pandas.ArrowDtype(pyarrow.int64())),
            "object": pandas.Series([1.5, pandas.NA], dtype=object),
        }
    )
    frame.index = [7, 3]
    table = as_table(frame)
    assert table["int"].dtype == np.int64
    assert table["full"].dtype == np.int8
    for name in ("nullable", "flag", "arrow int"):
        assert np.array_equal(table[name], [1, np.nan], equal_nan=True), name
    assert np.array_equal(table["object"], [1.5, np.nan], equal_nan=True)
    for name in ("text", "string", "category", "arrow"):
        assert table[name].tolist() == ["x", None], name


@pytest.mark.parametrize(
    ("obj", "error", "message"),
    [
        ([[1, 2]], TypeError, "a table must be a mapping .*; got"),
        (np.zeros(3), TypeError, r"a table must be .* shape \(3,\)"),
        ({"a": [1], "b": [1, 2]}, ValueError, "'a' has 1 rows and 'b' has 2"),
        ({1: [1]}, TypeError, "a column's name must be text; got 1"),
        ({"a": 3}, TypeError, "column 'a' must be a 1-D sequence; got 3"),
        ({"a": "xyz"}, TypeError, "column 'a' must be a 1-D sequence; got 'xyz'"),
        ({"a": np.zeros((2, 1))}, ValueError, r"column 'a' must be 1-D; .* \(2, 1\)"),
    ],
)
def test_as_table_names_what_is_wrong(obj, error, message):
    with pytest.raises(error, match=message):
        as_table(obj)


def test_as_table_refuses_two_columns_of_one_name():
    table = pyarrow.table([[1], [2]], names=["a", "a"])
    with pytest.raises(ValueError, match="different names; got 'a' twice"):
        as_table(table)

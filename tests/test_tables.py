from __future__ import annotations

import datetime
import decimal
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from tutelage.data.sources.rows import plain
from tutelage.data.sources.source import read_rows


def rows_of(path, content: bytes):
    """The rows of a file with this content."""
    path.write_bytes(content)
    return read_rows(str(path))


def test_csv_cells_are_text_over_lines_and_empty_ones_are_left_out(tmp_path):
    long = "x" * 200_000
    text = f'question, answer,note\n"two\nlines, ""quoted""",007,\n{long},5\n,,\nshort,6,n\n'
    rows = rows_of(tmp_path / "a.csv", text.encode())
    assert [row.value for row in rows] == [
        {"question": 'two\nlines, "quoted"', "answer": "007"},
        {"question": long, "answer": "5"},
        {"question": "short", "answer": "6", "note": "n"},
    ]
    assert [row.source.rpartition(":")[2] for row in rows] == ["2", "4", "6"]


def test_a_csv_row_with_too_many_cells_is_a_problem_with_its_line(tmp_path):
    rows = rows_of(tmp_path / "a.csv", b"\n\nq,a\n1,2\n3,4,5\n6,7,\n")
    assert [row.value for row in rows if not row.problem] == [{"q": "1", "a": "2"}, {"q": "6", "a": "7"}]
    assert rows[1].source.endswith("a.csv:5") and "3 cells under 2 columns" in rows[1].problem


def test_a_csv_divided_by_semicolons_or_tabs_is_read(tmp_path):
    for mark in (";", "\t"):
        [row] = rows_of(tmp_path / "a.csv", f"q{mark}a\n1,5{mark}2\n".encode())
        assert row.value == {"q": "1,5", "a": "2"}


def test_values_that_json_does_not_have_become_what_they_mean(tmp_path):
    day = datetime.date(2026, 11, 28)
    table = pyarrow.table(
        {
            "decimal": pyarrow.array([decimal.Decimal("0.10")], pyarrow.decimal128(5, 2)),
            "integer": pyarrow.array([decimal.Decimal("12345678901234567890123")], pyarrow.decimal128(38, 0)),
            "date": [day],
            "at": [datetime.datetime(2026, 11, 28, 3, 4, 5)],
            "nano": pyarrow.array([1_700_000_000_123_456_789], pyarrow.timestamp("ns")),
            "time": [datetime.time(3, 4)],
            "bytes": ["5 €".encode()],
            "map": pyarrow.array([[("a", day)]], pyarrow.map_(pyarrow.string(), pyarrow.date32())),
            "no map": pyarrow.array([[]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "nested": [[{"role": "user", "on": [day]}]],
            "half": pyarrow.array([1.5], pyarrow.float16()),
            "word": pyarrow.array(["x"]).dictionary_encode(),
            "json": pyarrow.array(['{"a": [1]}'], pyarrow.json_()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    [read] = read_rows(str(tmp_path / "a.parquet"))
    assert read.value == {
        "decimal": "0.10", "integer": 12345678901234567890123, "date": "2026-11-28", "at": "2026-11-28T03:04:05",
        "nano": "2023-11-14T22:13:20.123456789", "time": "03:04:00", "bytes": "5 €", "map": {"a": "2026-11-28"}, "no map": {},
        "nested": [{"role": "user", "on": ["2026-11-28"]}], "half": 1.5, "word": "x", "json": {"a": [1]},
    }  # fmt: skip
    assert json.loads(json.dumps(read.value, ensure_ascii=False, allow_nan=True)) == read.value and type(read.value["half"]) is float


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pyarrow.array([b"a", b"\xff", b"c"]), "column 'x' holds bytes that are no UTF-8 text"),
        (pyarrow.array([{"image": b"a"}, {"image": b"\xff"}, {"image": b"c"}]), r"column 'x\.image' holds bytes"),
        (pyarrow.array([0, 10**13, 0], pyarrow.timestamp("s")), "column 'x' cannot be read"),
        (
            pyarrow.array([[], [("a", 1), ("a", 2)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "column 'x' has the key 'a' twice",
        ),
    ],
)
def test_a_value_that_nothing_is_made_of_is_its_rows_problem(tmp_path, column, problem):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p", "q", "r"], "x": column}), tmp_path / "a.parquet")
    rows = read_rows(str(tmp_path / "a.parquet"))
    assert [bool(row.problem) for row in rows] == [False, True, False]
    assert re.search(problem, rows[1].problem)


def test_numpy_values_become_numbers_and_lists():
    import numpy
    import pandas

    made = plain(
        {
            "a": numpy.float32(0.5), "b": numpy.int64(3), "c": numpy.array([[1, 2]]), "d": numpy.bool_(True), "e": numpy.str_("x"),
            "f": numpy.array(["2026-11-28"], "datetime64[D]"), "g": pandas.NaT, "h": numpy.array([{"i": decimal.Decimal(7)}]),
        },
        "",
    )  # fmt: skip
    assert made == {"a": 0.5, "b": 3, "c": [[1, 2]], "d": True, "e": "x", "f": ["2026-11-28"], "g": None, "h": [{"i": 7}]}
    assert json.loads(json.dumps(made)) == made

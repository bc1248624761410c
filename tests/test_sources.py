from __future__ import annotations

import json

import pytest

from tutelage.data.sources import read_rows
from tutelage.errors import InputError

ROWS = [{"prompt": f"p{index}", "response": "r"} for index in range(3)]


def test_jsonl_json_and_parquet_hold_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    (tmp_path / "c.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.json", "c.json", "d.parquet"):
        assert [row.value for row in read_rows(str(tmp_path / name))] == ROWS
    assert read_rows(str(tmp_path / "a.jsonl"))[1].source.endswith("a.jsonl:2")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, ROWS)).encode())
    assert [row.value for row in read_rows(str(tmp_path / "a.jsonl"))] == ROWS


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "{", "7"])
def test_an_unreadable_line_is_that_lines_problem(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n" + json.dumps(ROWS[1]))
    rows = read_rows(str(tmp_path / "a.jsonl"))
    assert [bool(row.problem) for row in rows] == [False, True, False] and rows[1].source.endswith(":2")


def test_a_directory_is_its_shards_in_order(tmp_path):
    for name, row in zip(("part-1.jsonl", "part-0.jsonl"), ROWS):
        (tmp_path / name).write_text(json.dumps(row))
    (tmp_path / "README.md").write_text("not data")
    assert [row.value["prompt"] for row in read_rows(str(tmp_path))] == ["p1", "p0"]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", b"\n\n", "empty"),
        ("a.jsonl", b"\xff\xfe", "UTF-8"),
        ("a.json", b"{oops", "not a valid json"),
        ("a.json", b'{"a": [], "b": []}', "one list"),
        ("a.json", b"7", "expected a list of rows"),
        ("a.parquet", b"PAR0", "parquet"),
        ("a.csv", b"x", "unknown kind of file"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}.*{what}"):
        read_rows(str(tmp_path / name))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="file in this directory"):
        read_rows(str(tmp_path))
    with pytest.raises(InputError, match="neither a file nor a directory here"):
        read_rows("nobody/no-such-dataset")


def test_a_hub_name_is_loaded_by_datasets(monkeypatch):
    import datasets

    seen = {}

    def fake(name, config, split, revision):
        seen.update(name=name, config=config, split=split, revision=revision)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    rows = read_rows("openai/gsm8k", "test", "main")
    assert seen == {"name": "openai/gsm8k", "config": "main", "split": "test", "revision": None}
    read_rows("openai/gsm8k@e53f048", "test", "main")
    assert seen == {"name": "openai/gsm8k", "config": "main", "split": "test", "revision": "e53f048"}
    assert [row.value for row in rows] == ROWS and rows[0].source == "openai/gsm8k/test:1"

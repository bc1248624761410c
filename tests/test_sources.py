from __future__ import annotations

import gzip
import json
import os
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from tutelage.data.sources.source import fingerprint, iter_rows, read_rows
from tutelage.errors import InputError

ROWS = [{"prompt": f"p{index}", "response": "r"} for index in range(3)]
LINES = "\n".join(map(json.dumps, ROWS)).encode()
TABLE = pyarrow.Table.from_pylist(ROWS)


def written(path, content: bytes) -> str:
    """The path of a file with this content, packed as its suffix says."""
    if path.suffix == ".gz":
        content = gzip.compress(content)
    path.write_bytes(content)
    if path.suffix == ".zst":
        with path.open("wb") as file, pyarrow.CompressedOutputStream(pyarrow.PythonFile(file), "zstd") as stream:
            stream.write(content)
    return str(path)


def content_of(kind: str) -> bytes:
    """`ROWS` as a file of a kind."""
    if kind in ("jsonl", "ndjson"):
        return LINES
    if kind == "json":
        return json.dumps(ROWS).encode()
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        return "\n".join([f"prompt{mark}response", *(mark.join(row.values()) for row in ROWS)]).encode()
    sink = pyarrow.BufferOutputStream()
    if kind == "parquet":
        pyarrow.parquet.write_table(TABLE, sink)
    else:
        with (pyarrow.ipc.new_stream if kind == "arrow stream" else pyarrow.ipc.new_file)(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    return sink.getvalue().to_pybytes()


def values(name) -> list[dict]:
    return [row.value for row in read_rows(str(name))]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "arrow stream"])
def test_every_kind_of_file_holds_the_same_rows(tmp_path, kind, packed):
    name = written(tmp_path / f"a.{kind.split()[0]}{packed}", content_of(kind))
    rows = read_rows(name)
    assert [row.value for row in rows] == ROWS and not any(row.problem for row in rows)
    mark = {"jsonl": ":2", "ndjson": ":2", "csv": ":3", "tsv": ":3"}.get(kind, ":row 2")
    assert rows[1].source == name + mark


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.json", "jsonl"),
        ("a.jsonl", "json"),
        ("a.csv", "jsonl"),
        ("a.tsv", "json"),
        ("a.parquet", "jsonl"),
        ("a.arrow", "parquet"),
        ("a.jsonl", "parquet"),
        ("a.parquet", "arrow"),
    ],
)
def test_the_content_decides_what_a_file_is(tmp_path, name, kind):
    assert values(written(tmp_path / name, content_of(kind))) == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("content", [ROWS, {"version": [1], "data": ROWS}, {"version": 1, "data": ROWS}])
def test_json_over_many_lines_is_read_by_any_name(tmp_path, name, content):
    if "version" in content and isinstance(content["version"], list):
        with pytest.raises(InputError, match=r"holds the lists version, data: write the list of 'version', or of whichever"):
            values(written(tmp_path / name, json.dumps(content, indent=1).encode()))
    else:
        assert values(written(tmp_path / name, json.dumps(content, indent=1).encode())) == ROWS


def test_objects_over_many_lines_one_after_the_other_are_rows(tmp_path):
    for name in ("a.jsonl", "a.json"):
        assert values(written(tmp_path / name, "\n".join(json.dumps(row, indent=1) for row in ROWS).encode())) == ROWS


def test_a_first_row_of_megabytes_is_a_line_as_the_others_are(tmp_path):
    content = json.dumps({"text": "x" * 3_000_000}).encode() + b"\n{oops\n" + LINES
    for name in ("a.jsonl", "a.json"):
        assert [bool(row.problem) for row in read_rows(written(tmp_path / name, content))] == [False, True, False, False, False]


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "p", "solution": "s"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"problem": "p", "answers": ["5", "five"]},
        {"prompt": {"role": "user", "content": "q"}, "meta": {}},
    ],
)
def test_a_json_object_without_a_list_of_rows_is_a_row(tmp_path, row):
    for indent in (None, 1):
        assert values(written(tmp_path / "a.json", json.dumps(row, indent=indent).encode())) == [row]


def test_packed_files_with_plain_names_are_unpacked_and_plain_ones_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(LINES))
    (tmp_path / "b.jsonl.gz").write_bytes(LINES)
    assert values(tmp_path / "a.jsonl") == values(tmp_path / "b.jsonl.gz") == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_byte_order_marks_line_ends_and_empty_lines_do_not_matter(tmp_path, kind, end):
    content = end + content_of(kind).decode().replace("\n", end) + end
    assert values(written(tmp_path / f"a.{kind}", b"\xef\xbb\xbf" + content.encode())) == ROWS


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"{", b"7", b'{"a": "\xe9"}'])
def test_an_unreadable_line_is_that_lines_problem(tmp_path, line):
    lines = LINES.split(b"\n")
    for index in range(3):
        rows = read_rows(written(tmp_path / "a.jsonl", b"\n".join([*lines[:index], line, *lines[index:]])))
        assert [bool(row.problem) for row in rows] == [at == index for at in range(4)]
        assert rows[index].source.endswith(f":{index + 1}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (content_of("csv"), r"looks like a table with the columns prompt, response: rename it to \.csv"),
        (content_of("tsv"), r"rename it to \.tsv"),
        ("\n".join(str(row) for row in ROWS * 4).encode(), "json.dumps"),
        (b"<html>\n<body>\n", "web page"),
        (b"".join(json.dumps(json.dumps(row)).encode() + b"\n" for row in ROWS), "write the object itself"),
        (b'{"a": 1},\n' * 12, "ends in a comma"),
        (b'["q", "a"]\n' * 12, "write each row as an object with keys"),
        (b"Once upon a time.\n" * 20, "the first 10 lines are no rows"),
        (b"PK\x03\x04", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (LINES.decode().encode("utf-16"), "save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_that_is_no_json_is_told_what_it_looks_like(tmp_path, name, content, what):
    with pytest.raises(InputError, match=rf"{name}.*{what}"):
        values(written(tmp_path / name, content))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", b"\n\n", "empty"),
        ("a.csv", b"a,b\n", "empty"),
        ("a.jsonl", b"", "empty"),
        ("a.json", b"[]", "empty"),
        ("a.json", b"{oops", "not valid JSON.*line 1 column 2"),
        ("a.json", b'[{"a": 1},\n {"a": 2},\n {"a" 3}]', "not valid JSON.*line 3 column 7"),
        ("a.jsonl", b"".join(b'{"a": %d\n' % index for index in range(12)), "the first 10 lines are no rows"),
        ("a.json", b'[{"a": 1}\n', "not valid JSON: the text ends too early"),
        ("a.json", b'{"a": [], "b": []}', "one list.*lists a, b"),
        ("a.json", b'{"prompt": {"0": "p", "1": "q"}, "response": {"0": "r", "1": "s"}}', 'orient="records"'),
        ("a.json", b'{"0": {"prompt": "p"}, "1": {"prompt": "q"}}', 'orient="records"'),
        ("a.json", b"7", "expected a list of rows"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.parquet", b"PAR0", "parquet"),
        ("a.txt", LINES, r"unknown kind of file '\.txt'; its content looks like JSON: rename it to \.jsonl"),
        ("a.txt", b"x", "unknown kind of file.*known are .jsonl"),
        ("a.jsonl.xz", b"\xfd7zXZ\x00", "packed by xz"),
        ("a.csv", "prompt\nä".encode("latin-1"), "save the file as UTF-8"),
        ("a.csv", b"12,7.5\n1,2\n", "first row must name the columns, but '12'"),
        ("a.csv", b"a,b,a\n1,2,3\n", "the column 'a' twice"),
        ("a.csv", b'a,b\n1,2\n"x,2\n3,4\n', ":3: .*double quotes"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, name, content, what):
    with pytest.raises(InputError, match=rf"{name}.*{what}"):
        values(written(tmp_path / name, content))


def test_a_packed_file_that_is_cut_short_or_damaged_is_told(tmp_path):
    content = os.urandom(100_000).hex().encode()
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        written(tmp_path / name, b"\n".join([LINES, b'{"a": "' + content + b'"}']))
        full = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(full[:-200])
        with pytest.raises(InputError, match=f"{name}.* cut short"):
            values(tmp_path / name)
    damaged = bytearray(gzip.compress(content, 9))
    damaged[50_000:50_040] = bytes(40)
    (tmp_path / "a.jsonl.gz").write_bytes(damaged)
    with pytest.raises(InputError, match="a.jsonl.gz.*(damaged|CRC)"):
        values(tmp_path / "a.jsonl.gz")


# ---- in a stream


@pytest.mark.parametrize("kind", ["jsonl", "json", "wrapped", "csv", "parquet", "arrow", "jsonl.gz"])
def test_memory_does_not_grow_with_the_rows_of_a_file(tmp_path, kind):
    rows = [{"prompt": f"p{index}", "response": "r" * 3_000} for index in range(8_000)]
    table = pyarrow.Table.from_pylist(rows)
    name = tmp_path / f"a.{'json' if kind == 'wrapped' else kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, name)
    elif kind == "arrow":
        with pyarrow.ipc.new_file(name, table.schema) as writer:
            writer.write_table(table, 500)
    elif kind == "csv":
        name.write_text("prompt,response\n" + "".join(f"{row['prompt']},{row['response']}\n" for row in rows))
    elif kind.startswith("jsonl"):
        written(name, "\n".join(map(json.dumps, rows)).encode())
    else:
        name.write_text(json.dumps(rows if kind == "json" else {"version": 1, "data": rows, "end": 2}))
    tracemalloc.start()
    count = sum(len(row.value["response"]) == 3_000 for row in iter_rows(str(name)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8_000 and peak < 12_000_000


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    rows = iter_rows(str(tmp_path))
    assert [next(rows).value for _ in ROWS] == ROWS
    with pytest.raises(InputError, match="b.parquet"):
        next(rows)


def test_rows_larger_than_a_block_and_numbers_at_its_edge_are_read(tmp_path):
    rows = [{"n": index, "text": "x" * (700_000 + index)} for index in range(5)]
    assert values(written(tmp_path / "a.json", json.dumps(rows).encode())) == rows
    numbers = [{"n": 10**15 + index} for index in range(120_000)]
    assert values(written(tmp_path / "a.json", json.dumps(numbers).encode())) == numbers


# ---- elsewhere than in files


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rows(str(tmp_path / "none.jsonl.gz"))
    with pytest.raises(InputError, match="neither a file nor a directory here"):
        read_rows("nobody/no-such-dataset")


def test_a_hub_name_is_loaded_by_datasets(monkeypatch):
    import datasets

    seen = {}

    def fake(name, config, split, revision):
        seen.update(name=name, config=config, split=split, revision=revision)
        return datasets.Dataset.from_list([*ROWS, {"prompt": "p", "response": None}])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    rows = read_rows("openai/gsm8k", "test", "main")
    assert seen == {"name": "openai/gsm8k", "config": "main", "split": "test", "revision": None}
    before = fingerprint("openai/gsm8k", "test", "main")
    assert fingerprint("openai/gsm8k@e53f048", "test", "main") != before
    assert seen == {"name": "openai/gsm8k", "config": "main", "split": "test", "revision": "e53f048"}
    assert [row.value for row in rows[:3]] == ROWS and rows[0].source == "openai/gsm8k/test:1"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("Unknown split \"dev\". Should be one of ['train', 'test'].", "'train', 'test'.*data.train_split"),
        ("Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']\nExample of usage:\n\t`x`",
         "'main', 'socratic'.*data.hub_config"),
        ("BuilderConfig 'm' not found. Available: ['main', 'socratic']", "'socratic'.*data.hub_config"),
    ],
)  # fmt: skip
def test_a_hub_name_says_its_splits_and_configurations(monkeypatch, error, said):
    import datasets

    def fake(*_, **__):
        raise ValueError(error)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    with pytest.raises(InputError, match=f"openai/gsm8k.*{said}"):
        read_rows("openai/gsm8k", "dev")

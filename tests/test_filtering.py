"""`tutelage filter`: files in, files out."""

from __future__ import annotations

import json
import sqlite3
import weakref
from pathlib import Path

import pytest

from tutelage.cli.entry import main
from tutelage.cli.filter import filter_file
from tutelage.config import DataConfig
from tutelage.data import arithmetic, filter, sources
from tutelage.errors import InputError, RunError
from tutelage.grading import equality
from tutelage.grading.serving import cache
from tutelage.runs.files import to_lines


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_filter_writes_kept_rows_every_fate_and_a_random_control(data_file, tmp_path, capsys):
    """The control is a subset of as many rows, drawn by `data.seed`; nothing is written over."""
    out = tmp_path / "kept.jsonl"
    command = ["filter", str(data_file), "--control", "random", "--out"]
    assert main([*command, str(out)]) == 0
    rows, control = lines_of(data_file), lines_of(tmp_path / "kept.control.jsonl")
    assert lines_of(out) == [row for row in rows if not row["planted_error"]]
    fates = lines_of(tmp_path / "kept.ledger.jsonl")
    assert [fate["fate"] == "wrong answer" for fate in fates] == [row["planted_error"] for row in rows]
    printed = capsys.readouterr().out
    assert "wrong answer" in printed and "(reference " in printed and "kept.control.jsonl (42 rows drawn at random)" in printed
    assert len(control) == len(lines_of(out)) == 42
    assert [row for row in rows if row in control] == control  # rows of the file, each once, in its order
    assert any(row["planted_error"] for row in control)
    assert main([*command, str(out)]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "kept2.jsonl"), "--data.seed", "1"]) == 0
    assert lines_of(tmp_path / "kept2.control.jsonl") != control


def test_the_control_leaves_malformed_rows_out(data_file, tmp_path):
    with data_file.open("a") as file:
        file.write('{"messages": []}\n' * 40)
    filter_file(str(data_file), tmp_path / "kept.jsonl", DataConfig(on_bad_row="skip"), control="random")
    assert all(row["messages"] for row in lines_of(tmp_path / "kept.control.jsonl"))
    fates = lines_of(tmp_path / "kept.ledger.jsonl")
    assert [fate["fate"] for fate in fates[48:]] == ["malformed"] * 40 and fates[48]["source"].endswith(":49")


def test_workers_start_while_the_rows_are_read(data_file, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tutelage.grading.start_workers", asked.append)
    filter_file(str(data_file), tmp_path / "kept.jsonl")
    assert asked == [48]


def test_a_malformed_row_stops_before_anything_is_graded(data_file, tmp_path, monkeypatch):
    with data_file.open("a") as file:
        file.write("{\n")
    monkeypatch.setattr(filter, "judge", lambda *_: pytest.fail("graded"))
    with pytest.raises(InputError, match=r"train.jsonl:49: not valid JSON"):
        filter_file(str(data_file), tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == [data_file]


def test_nothing_kept_writes_nothing(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(
        to_lines({"prompt": "p", "response": "<think> </think> <answer> 1 </answer>", "reference": "2"} for _ in range(3))
    )
    with pytest.raises(InputError, match=r"nothing survives the filter \(3 wrong answer\)"):
        filter_file(str(path), tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def graded(monkeypatch) -> list:
    """The pairs that are graded from here on."""
    pairs: list = []
    cheap = equality._cheap
    monkeypatch.setattr(equality, "_cheap", lambda *pair: pairs.append(pair) or cheap(*pair))
    return pairs


def test_a_second_run_grades_nothing_and_a_changed_grader_grades_again(data_file, tmp_path, monkeypatch, graded):
    """Files of any name have ledgers of their own."""
    filter_file(str(data_file), tmp_path / "kept.v1")
    assert graded
    graded.clear()
    filter_file(str(data_file), tmp_path / "kept.v2")
    assert graded == [] and lines_of(tmp_path / "kept.v2") == lines_of(tmp_path / "kept.v1")
    assert (tmp_path / "kept.v1.ledger.jsonl").is_file() and (tmp_path / "kept.v2.ledger.jsonl").is_file()
    monkeypatch.setattr(cache, "grader_version", lambda: "another")
    filter_file(str(data_file), tmp_path / "third.jsonl")
    assert graded


def test_the_version_of_the_grader_is_that_of_its_code(tmp_path, monkeypatch):
    version = cache.grader_version()
    (tmp_path / "equality.py").write_text("changed")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    cache.grader_version.cache_clear()
    assert cache.grader_version() != version
    cache.grader_version.cache_clear()


def test_interrupted_filtering_goes_on_from_the_verdicts_it_has(tmp_path, monkeypatch, graded):
    path = tmp_path / "train.jsonl"
    path.write_text(to_lines(arithmetic.rows("train", 60)))
    monkeypatch.setattr(filter, "GRADED_AT_ONCE", 20)
    judge, chunks = filter.judge, []

    def interrupted(examples, *rest):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(len(examples))
        return judge(examples, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        patch.setattr(filter, "judge", interrupted)
        filter_file(str(path), tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == [path]
    graded.clear()
    assert filter_file(str(path), tmp_path / "kept.jsonl") == 53
    assert 0 < len(graded) <= 20


def test_verdicts_that_hang_on_the_clock_are_not_kept(tmp_path):
    from tutelage.grading import OUT_OF_TIME

    verdicts = cache.VerdictCache(tmp_path)
    by_clock, by_limit = equality.Verdict(None, "limit", f"{OUT_OF_TIME} after 4 s"), equality.Verdict(None, "limit", "a tower")
    by_text = equality.Verdict(False, "text", "the words differ")
    verdicts.keep({("1", "a"): by_clock, ("1", "b"): by_limit, ("1", "\ud800"): by_text})
    assert verdicts.find([("1", "a"), ("1", "b"), ("1", "\ud800")]) == {("1", "b"): by_limit, ("1", "\ud800"): by_text}
    verdicts.close()


def test_a_cache_that_breaks_is_said_once_and_filtering_goes_on(data_file, tmp_path, monkeypatch, capsys):
    """When it is opened, and in the middle."""
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(filter, "cache_directory", lambda: tmp_path / "file" / "below")
        assert filter_file(str(data_file), tmp_path / "kept.jsonl") == 42
    assert "verdicts are not kept for the next time" in capsys.readouterr().out

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(cache.VerdictCache, "keep", full)
    assert filter_file(str(data_file), tmp_path / "kept2.jsonl") == 42
    assert capsys.readouterr().out.count("verdicts are not kept from here on: database or disk is full") == 1


def test_rows_stream_through_and_are_not_gathered(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    row = arithmetic.rows("train", 1)[0]
    path.write_text(to_lines(row for _ in range(1000)))
    monkeypatch.setattr(filter, "GRADED_AT_ONCE", 25)
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def counted(*arguments):
        nonlocal most
        for index, made in enumerate(sources.iter_rows(*arguments)):
            alive.add(made)
            if index % 10 == 0:
                most = max(most, len(alive))
            yield made

    monkeypatch.setattr(sources.Row, "__hash__", object.__hash__)
    monkeypatch.setattr("tutelage.data.iter_rows", counted)
    assert filter_file(str(path), tmp_path / "kept.jsonl", control="random") == 1000
    assert 0 < most <= 300, "the first 200, from which it is decided how all are read, and those at hand"


def test_parquet_rows_are_filtered(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(arithmetic.rows("train", 48)), path)
    assert filter_file(str(path), tmp_path / "kept.jsonl") == 42


def test_a_control_that_cannot_be_written_leaves_nothing_behind(data_file, tmp_path, monkeypatch):
    def in_its_way(*_):
        (tmp_path / "kept.control.jsonl").mkdir()
        return []

    monkeypatch.setattr("tutelage.data.draw_rows", in_its_way)
    with pytest.raises(RunError, match="kept.control.jsonl: cannot be written"):
        filter_file(str(data_file), tmp_path / "kept.jsonl", control="random")
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl", "kept.control.jsonl"}

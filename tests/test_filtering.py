"""`tutelage filter`: files in, files out."""

from __future__ import annotations

import gc
import json
import sqlite3
import weakref

import pytest

from tutelage.cli.entry import filtering, main
from tutelage.cli.filtering import filter_file
from tutelage.data import arithmetic, sources
from tutelage.data import rows as data
from tutelage.errors import InputError, RunError
from tutelage.grading import cache, equality
from tutelage.runs.files import to_lines


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_filter_writes_the_kept_rows_and_every_fate(data_file, tmp_path, capsys):
    out = tmp_path / "kept.jsonl"
    assert main(["filter", str(data_file), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    assert [json.loads(line) for line in out.read_text().splitlines()] == [row for row in rows if not row["planted_error"]]
    fates = [json.loads(line) for line in (tmp_path / "kept.ledger.jsonl").read_text().splitlines()]
    assert [fate["fate"] == "wrong answer" for fate in fates] == [row["planted_error"] for row in rows]
    printed = capsys.readouterr().out
    assert "wrong answer" in printed and "(reference " in printed
    assert main(["filter", str(data_file), "--out", str(out)]) == 2
    assert "is not overwritten" in capsys.readouterr().err


def test_the_control_is_a_random_subset_of_the_same_size(data_file, tmp_path, capsys):
    out = tmp_path / "kept.jsonl"
    assert main(["filter", str(data_file), "--out", str(out), "--control", "random"]) == 0
    rows, control = lines_of(data_file), lines_of(tmp_path / "kept.control.jsonl")
    assert len(control) == len(lines_of(out)) == 42
    assert [row for row in rows if row in control] == control  # rows of the file, each once, in its order
    assert any(row["planted_error"] for row in control)
    assert "kept.control.jsonl (42 rows drawn at random)" in capsys.readouterr().out
    assert (
        main(["filter", str(data_file), "--out", str(tmp_path / "kept2.jsonl"), "--control", "random", "--data.seed", "1"]) == 0
    )
    assert lines_of(tmp_path / "kept2.control.jsonl") != control


def test_the_control_leaves_malformed_rows_out(data_file, tmp_path):
    with data_file.open("a") as file:
        file.write('{"messages": []}\n' * 40)
    config = filtering.DataConfig(on_bad_row="skip")
    filter_file(str(data_file), tmp_path / "kept.jsonl", config, control="random")
    assert all(row["messages"] for row in lines_of(tmp_path / "kept.control.jsonl"))
    fates = lines_of(tmp_path / "kept.ledger.jsonl")
    assert [fate["fate"] for fate in fates[48:]] == ["malformed"] * 40 and fates[48]["source"].endswith(":49")


def test_a_malformed_row_stops_before_anything_is_graded(data_file, tmp_path, monkeypatch):
    with data_file.open("a") as file:
        file.write("{\n")
    monkeypatch.setattr(filtering, "judge", lambda *_: pytest.fail("graded"))
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


def test_a_second_run_grades_nothing_and_a_changed_grader_grades_again(data_file, tmp_path, monkeypatch):
    graded = []
    cheap = equality._cheap
    monkeypatch.setattr(equality, "_cheap", lambda *pair: graded.append(pair) or cheap(*pair))
    for name in ("first", "second"):
        filter_file(str(data_file), tmp_path / f"{name}.jsonl")
        if name == "first":
            assert graded
            graded.clear()
    assert graded == [] and lines_of(tmp_path / "second.jsonl") == lines_of(tmp_path / "first.jsonl")
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


def test_interrupted_filtering_goes_on_from_the_verdicts_it_has(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    path.write_text(to_lines(arithmetic.rows("train", 60)))
    monkeypatch.setattr("tutelage.data.rows.GRADED_AT_ONCE", 20)
    judge, chunks = filtering.judge, []

    def interrupted(examples, *rest):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(len(examples))
        return judge(examples, *rest)

    monkeypatch.setattr(filtering, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        filter_file(str(path), tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(filtering, "judge", judge)
    graded = []
    cheap = equality._cheap
    monkeypatch.setattr(equality, "_cheap", lambda *pair: graded.append(pair) or cheap(*pair))
    assert filter_file(str(path), tmp_path / "kept.jsonl") == 53
    assert 0 < len(graded) <= 20


def test_verdicts_that_hang_on_the_clock_are_not_kept(tmp_path):
    from tutelage.grading.pool import OUT_OF_TIME

    verdicts = cache.VerdictCache(tmp_path)
    by_clock, by_limit = equality.Verdict(None, "limit", f"{OUT_OF_TIME} after 4 s"), equality.Verdict(None, "limit", "a tower")
    verdicts.keep(
        {("1", "a"): by_clock, ("1", "b"): by_limit, ("1", "\ud800"): equality.Verdict(False, "text", "the words differ")}
    )
    assert verdicts.find([("1", "a"), ("1", "b"), ("1", "\ud800")]) == {
        ("1", "b"): by_limit,
        ("1", "\ud800"): equality.Verdict(False, "text", "the words differ"),
    }
    verdicts.close()


def test_a_cache_that_cannot_be_kept_is_said_and_filtering_goes_on(data_file, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(data, "cache_directory", lambda: tmp_path / "file" / "below")
    assert filter_file(str(data_file), tmp_path / "kept.jsonl") == 42
    assert "verdicts are not kept for the next time" in capsys.readouterr().out


def test_rows_stream_through_and_are_not_gathered(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl"
    row = arithmetic.rows("train", 1)[0]
    path.write_text(to_lines(row for _ in range(600)))
    monkeypatch.setattr("tutelage.data.rows.GRADED_AT_ONCE", 50)
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def counted(*arguments):
        nonlocal most
        for number, made in enumerate(sources.iter_rows(*arguments)):
            alive.add(made)
            if number % 100 == 0:
                gc.collect()
                most = max(most, len(alive))
            yield made

    monkeypatch.setattr(sources.Row, "__hash__", object.__hash__)
    monkeypatch.setattr(filtering, "iter_rows", counted)
    assert filter_file(str(path), tmp_path / "kept.jsonl", control="random") == 600
    assert 0 < most <= 150


def test_parquet_rows_are_filtered(tmp_path):
    import datasets

    path = tmp_path / "train.parquet"
    datasets.Dataset.from_list(arithmetic.rows("train", 48)).to_parquet(str(path))
    assert filter_file(str(path), tmp_path / "kept.jsonl") == 42


def test_a_cache_that_breaks_in_the_middle_is_said_once_and_filtering_goes_on(data_file, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(cache.VerdictCache, "keep", full)
    assert filter_file(str(data_file), tmp_path / "kept.jsonl") == 42
    assert capsys.readouterr().out.count("verdicts are not kept from here on: database or disk is full") == 1


def test_a_control_that_cannot_be_written_leaves_nothing_behind(data_file, tmp_path):
    (tmp_path / ".kept.control.jsonl.tmp").mkdir()
    with pytest.raises(RunError, match="kept.control.jsonl: cannot be written"):
        filter_file(str(data_file), tmp_path / "kept.jsonl", control="random")
    assert {path.name for path in tmp_path.iterdir()} == {"train.jsonl", ".kept.control.jsonl.tmp"}


def test_outputs_of_any_name_have_ledgers_of_their_own(data_file, tmp_path):
    for name in ("kept.v1", "kept.v2"):
        filter_file(str(data_file), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        "train.jsonl",
        "kept.v1",
        "kept.v1.ledger.jsonl",
        "kept.v2",
        "kept.v2.ledger.jsonl",
    }

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from lines import read_lines
from pages import line, record

from tutelage.config import parse_config
from tutelage.data import Template
from tutelage.errors import InputError, RunError, first_line
from tutelage.runs.environment import describe_environment
from tutelage.runs.files import append_lines, write_text
from tutelage.runs.log import RunLog, SilentRunLog, open_run
from tutelage.runs.reading import Reading

RESPONSE = {key: value for key, value in record(1, 0, True, "é").items() if key != "step"}


def config_of(directory, **train):
    return parse_config({"run": {"dir": str(directory)}, "train": train})


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_run_directory_in_use_is_refused(tmp_path):
    with open_run(config_of(tmp_path / "run")):
        with pytest.raises(InputError, match="in use by another process"), open_run(config_of(tmp_path / "run")):
            pass
        assert (tmp_path / "run").exists()
    with open_run(config_of(tmp_path / "run")):
        pass
    assert not (tmp_path / "run").exists()  # nothing was begun there


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"not empty and not a run \(thesis\.txt\)"), open_run(config_of(tmp_path)):
        pass
    with pytest.raises(InputError, match="cannot be written"), open_run(config_of(tmp_path / "thesis.txt" / "run")):
        pass


def test_lines_survive_a_torn_end_and_are_dropped_after_a_step(tmp_path):
    with open_run(config_of(tmp_path)) as log:
        for step in (1, 2, 3):
            log.metrics(**line("train", step))
            log.generations(step, [RESPONSE])
            if step < 3:  # the third evaluation was not finished
                log.metrics(**line("eval", step))
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "st')
        with (tmp_path / "generations.jsonl").open("ab") as file:
            file.write(b'{"step": 3, "response": "\xc3')  # in the middle of a character
        assert [line["step"] for line in log.reading().lines] == [1, 1, 2, 2, 3]
        log.forget_after(3)
        assert [line["step"] for line in log.reading().lines] == [1, 1, 2, 2, 3]
        assert [line["step"] for line in read_lines(tmp_path / "generations.jsonl")] == [1, 2]
        log.forget_after(1)
        assert [line["step"] for line in log.reading().lines] == [1, 1]
        assert read_lines(tmp_path / "generations.jsonl") == [{"step": 1, **RESPONSE}]
        assert log.reading().evaluated == [1] and [line["step"] for line in log.reading().steps] == [1]


def test_two_threads_write_each_line_once(tmp_path):
    """Training and an evaluation that comes in log at the same time."""
    log, lines = RunLog(tmp_path), 2000

    def write(first):
        for step in range(first, 2 * lines, 2):
            log.metrics(step=step)
            if step % 20 < 2:
                log.generations(step, [{"response": "x" * 20_000}])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(line["step"] for line in read_lines(tmp_path / "metrics.jsonl")) == list(range(2 * lines))
    assert sorted(line["step"] for line in read_lines(tmp_path / "generations.jsonl")) == sorted(
        step for step in range(2 * lines) if step % 20 < 2
    )


def test_a_rank_that_does_not_lead_reads_and_writes_nothing(tmp_path):
    RunLog(tmp_path).metrics(**line("eval", 2))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    log = SilentRunLog(tmp_path)
    log.metrics(kind="eval", step=3)
    log.generations(3, [{}])
    log.begin(config_of(tmp_path), Template(), {"unread": []}, [])
    log.forget_after(0)
    log.set_aside()
    log.finish({})
    log.close()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert log.reading().evaluated == [2] and not log.leads and RunLog(tmp_path).leads


def test_a_line_that_a_full_disk_refused_is_written_later(tmp_path, monkeypatch):
    log = RunLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written: No space left on device"):
            log.metrics(**line("train", 1))
    log.metrics(**line("train", 2))
    assert [line["step"] for line in log.reading().lines] == [1, 2]


def test_half_a_character_in_a_row_is_written_as_json_writes_it(tmp_path):
    append_lines(tmp_path / "a.jsonl", [{"a": "\ud83d"}])
    assert read_lines(tmp_path / "a.jsonl") == [{"a": "\ud83d"}]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match="No space left"):
        write_text(tmp_path / "a.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_ends_where_it_was_torn_and_costs_no_other(tmp_path):
    path = tmp_path / "a.jsonl"
    append_lines(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": 2, "b"')
    append_lines(path, [{"a": 3}])
    assert read_lines(path) == [{"a": 1}, {"a": 3}]


def test_the_environment_is_told_where_the_system_says_less(monkeypatch):
    """As on a Mac, or where no page count is known."""

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    def read_text(path, *arguments, **options):
        return full() if str(path) == "/proc/cpuinfo" else original(path, *arguments, **options)

    known = describe_environment()
    assert known["machine"]["memory_gb"] > 0 and known["packages"]["torch"] and known["command"] == sys.argv
    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    original = Path.read_text
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr("subprocess.run", full)
    less = describe_environment()
    assert less["machine"]["memory_gb"] is None and less["git"] is None and less["packages"] == known["packages"]
    monkeypatch.delattr(os, "sysconf")
    assert describe_environment()["machine"]["memory_gb"] is None


def test_what_evaluations_cost_is_the_time_that_training_stood_still(tmp_path):
    """The share is of steps and standing still together; of failed and lost evaluations, too, and of runs that stopped between."""

    def parts(weights, waiting, entropies, grading):
        return {"weights": weights, "waiting": waiting, "entropies": entropies, "grading": grading}

    lines = [line("train", 1, seconds=10.0), line("train", 2, seconds=5.0)]
    lines += [line("eval", 0, seconds=50.0, training_seconds=0.0, stood_still_seconds={}, adopted_from="b")]
    lines += [line("eval", 1, seconds=9.0, training_seconds=2.0, stood_still_seconds=parts(1.0, 0.0, 0.75, 0.25))]
    lines += [line("eval_failed", 2, training_seconds=0.5, stood_still_seconds=parts(0.5, 0.0, 0.0, 0.0))]
    lines += [line("eval_lost", 2, training_seconds=1.5, stood_still_seconds=parts(0.5, 1.0, 0.0, 0.0))]
    lines += [line("eval_skipped", 2)]
    lines += [line("eval", 3, seconds=7.0, training_seconds=0.0, stood_still_seconds=parts(0.0, 0.0, 0.0, 0.0))]
    append_lines(tmp_path / "metrics.jsonl", lines)
    assert Reading(tmp_path).evaluation_cost == {
        "training_seconds": 15.0, "evaluation_seconds": 4.0, "share": 0.2105, "stood_still_seconds": parts(2.0, 1.0, 0.75, 0.25),
        "after_training_seconds": 7.0,
    }  # fmt: skip
    assert Reading(tmp_path).wall_seconds == 15.0 + 4.0 + 7.0


def test_what_evaluations_cost_is_known_of_runs_begun_before_it_was_logged(tmp_path):
    lines = [line("train", 1, seconds=15.0)]
    lines += [line("eval", 1, seconds=4.0)]  # of a run begun before the time of training was logged
    lines += [line("eval", 2, seconds=9.0, training_seconds=0.5)]
    lines += [line("eval_failed", 3, training_seconds=0.5), line("eval_lost", 4)]
    append_lines(tmp_path / "metrics.jsonl", lines)
    cost = Reading(tmp_path).evaluation_cost
    assert (cost["training_seconds"], cost["evaluation_seconds"], cost["share"]) == (15.0, 5.0, 0.25)
    assert cost["stood_still_seconds"] == {"weights": 0.0, "waiting": 0.0, "entropies": 0.0, "grading": 0.0, "unknown": 5.0}
    (tmp_path / "empty").mkdir()
    assert Reading(tmp_path / "empty").evaluation_cost["share"] is None


def test_an_error_is_told_by_its_first_line():
    assert first_line(OSError("no route\nand more")) == "no route" and first_line(ValueError("\n")) == "ValueError"

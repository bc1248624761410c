from __future__ import annotations

import subprocess
import sys

import pytest

from tutelage.config import parse_config
from tutelage.errors import InputError, RunError
from tutelage.runs.files import append_lines, read_lines
from tutelage.runs.log import open_run


def config_of(directory, **train):
    return parse_config({"run": {"dir": str(directory)}, "train": train})


def test_a_run_directory_in_use_is_refused(tmp_path):
    holder = (
        "import sys; from tutelage.config import parse_config; from tutelage.runs.log import open_run\n"
        f"with open_run(parse_config({{'run': {{'dir': {str(tmp_path / 'run')!r}}}}})):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="in use by another process"), open_run(config_of(tmp_path / "run")):
            pass
        process.stdin.close()
    with open_run(config_of(tmp_path / "run")):
        pass


def test_a_directory_where_nothing_was_begun_is_left_as_it_was(tmp_path):
    with open_run(config_of(tmp_path / "run")):
        pass
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"not empty and not a run \(thesis\.txt\)"), open_run(config_of(tmp_path)):
        pass


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), open_run(config_of(tmp_path / "file" / "run")):
        pass


def test_lines_survive_a_torn_end_and_are_dropped_after_a_step(tmp_path):
    with open_run(config_of(tmp_path)) as log:
        for step in (1, 2, 3):
            log.metrics(kind="train", step=step, loss=1.0)
            log.generations(step, [{"response": "é"}])
            if step < 3:  # the third evaluation was not finished
                log.metrics(kind="eval", step=step, loss=0.0)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "st')
        with (tmp_path / "generations.jsonl").open("ab") as file:
            file.write(b'{"step": 3, "response": "\xc3')  # in the middle of a character
        assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 1, 2, 2, 3]
        log.forget_after(3)
        assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 1, 2, 2, 3]
        assert [line["step"] for line in read_lines(tmp_path / "generations.jsonl")] == [1, 2]
        log.forget_after(1)
        assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 1]
        assert read_lines(tmp_path / "generations.jsonl") == [{"step": 1, "response": "é"}]
        assert log.has_evaluation(1) and not log.has_evaluation(2)


def test_a_full_disk_is_one_clear_error():
    from pathlib import Path

    with pytest.raises(RunError, match="/dev/full: cannot be written: No space left on device"):
        append_lines(Path("/dev/full"), [{"a": 1}])


def test_half_a_character_in_a_row_is_written_as_json_writes_it(tmp_path):
    append_lines(tmp_path / "a.jsonl", [{"a": "\ud83d"}])
    assert read_lines(tmp_path / "a.jsonl") == [{"a": "\ud83d"}]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    from pathlib import Path

    from tutelage.runs.files import write_text

    def full(*_):
        raise OSError(28, "No space left on device")

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

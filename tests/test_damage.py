"""A damaged or missing file of a run is told, by its name, with what follows; it is never a traceback, and never silence."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from lines import read_lines
from pages import make_run, make_sweep

from tutelage.cli.entry import main
from tutelage.config import load_config, replaced
from tutelage.data import Template
from tutelage.errors import InputError, RunError
from tutelage.report import page as report
from tutelage.runs import verdicts
from tutelage.runs.compare import compare_runs
from tutelage.runs.files import to_lines
from tutelage.runs.log import RunLog, kept_template, open_run
from tutelage.runs.reading import Reading
from tutelage.runs.records import gaps, read_records
from tutelage.training import loop as train
from tutelage.training import taken
from tutelage.training.arrange import recorded

VALUES = {
    "an empty list": b"[]\n", "null": b"null\n", "a number": b"123\n", "an empty table": b"{}\n", "a list": b"[1]\n",
    "brackets": b"[" * 200_000 + b"\n", "no text": b"\x80\xff\x00\n", "digits": b"1" * 5000 + b"\n", "a text": b'"{}"\n',
}  # fmt: skip
"""What stands in the place of a table, or of a line."""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_middle_line(line: bytes):
    def change(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join([*lines[: len(lines) // 2], line, *lines[len(lines) // 2 + 1 :]])

    return change


def without_end(content: bytes) -> bytes:
    return content[:-9]


OF_TABLES = {name: lambda content, value=value: value for name, value in VALUES.items()} | {
    "cut": cut, "emptied": lambda content: b"", "removed": lambda content: None,
}  # fmt: skip
OF_LINES = {f"a line of {name}": with_middle_line(value) for name, value in VALUES.items()} | {
    "a torn end": without_end, "cut": cut, "emptied": lambda content: b"", "removed": lambda content: None,
}  # fmt: skip


def damaged(directory: Path, name: str, damage) -> None:
    """Damage a file of a directory; None removes it."""
    changed = damage((directory / name).read_bytes())
    (directory / name).unlink()
    if changed is not None:
        (directory / name).write_bytes(changed)


def cases(tables: tuple[str, ...], lines: tuple[str, ...]) -> list:
    pairs = [(name, how) for name in tables for how in OF_TABLES] + [(name, how) for name in lines for how in OF_LINES]
    return [pytest.param(name, (OF_TABLES | OF_LINES)[how], id=f"{name}: {how}") for name, how in pairs]


def what_it_says(act, capsys) -> tuple[str, bool]:
    """(all that an act tells, whether it came to its end); whatever it raises is an error that a person is meant to read."""
    capsys.readouterr()
    try:
        act()
        told, ended = "", True
    except (InputError, RunError) as error:
        told, ended = str(error), False
    said = capsys.readouterr()
    return "".join(f"{told} {said.out} {said.err}".split()), ended  # lines are broken to the width of the terminal


@pytest.fixture(scope="module")
def stopped(tiny_model, tmp_path_factory):
    """A run that was interrupted after its third step, with all that going on with it asks for."""
    home = tmp_path_factory.mktemp("stopped")
    settings = {
        "model.id": tiny_model, "model.device": "cpu", "model.precision": "fp32", "data.train": "arithmetic", "data.prompt": "plain",
        "data.size": 16, "train.batch_size": 2, "train.grad_accum": 1, "train.num_steps": 5, "eval.every": 2, "eval.examples": 2,
        "eval.full": False, "eval.max_new_tokens": 4, "eval.backend": "native", "run.dir": str(home / "run"), "run.save_every": 1,
    }  # fmt: skip
    config = replaced(load_config(), settings)
    with pytest.MonkeyPatch.context() as patch:
        original, calls = taken.update_weights, []

        def update(*arguments, **options):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return original(*arguments, **options)

        patch.setattr(taken, "update_weights", update)
        with contextlib.suppress(KeyboardInterrupt):
            train.fine_tune(config)
    assert [line["step"] for line in Reading(home / "run").steps] == [1, 2, 3] and not Reading(home / "run").faults
    return SimpleNamespace(config=config, directory=home / "run", data=Reading(home / "run").table("data.json"))


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of the run, to be damaged; `go_on` reads and writes all that a run that goes on does before its next step."""
    directory = Path(shutil.copytree(stopped.directory, tmp_path / "run"))
    config = replaced(stopped.config, {"run.dir": str(directory)})

    def go_on(allowed: tuple[str, ...] = ()) -> None:
        template = kept_template(config) or Template.from_json((stopped.directory / "template.json").read_text())
        with open_run(config, allowed) as log:
            train.same_model(config, directory, allowed)
            fates = [SimpleNamespace(**line) for line in read_lines(stopped.directory / "ledger.jsonl")]
            log.begin(config, template, stopped.data, fates, train_identity(config))
            recorded(directory / "plan.json")
            log.forget_after(3)

    return SimpleNamespace(directory=directory, config=config, go_on=go_on)


def train_identity(config):
    from tutelage.model import identity_of

    return identity_of(config.model.id)


def test_an_undamaged_run_goes_on_and_says_nothing(run, capsys):
    before = {name: (run.directory / name).read_bytes() for name in ("metrics.jsonl", "generations.jsonl", "identity.json")}
    assert what_it_says(run.go_on, capsys) == ("", True)
    assert {name: (run.directory / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("name", "damage"),
    cases(
        ("plan.json", "data.json", "environment.json", "identity.json", "template.json", "prompt.txt", "config.toml"),
        ("metrics.jsonl", "generations.jsonl", "ledger.jsonl"),
    ),
)
def test_a_run_that_goes_on_names_each_damaged_file(run, capsys, name, damage):
    damaged(run.directory, name, damage)
    told, ended = what_it_says(run.go_on, capsys)
    assert name in told
    if ended and name not in ("template.json", "identity.json"):
        faults = Reading(run.directory).faults  # the page still tells of it
        assert any(name in fault for fault in faults)
        assert what_it_says(run.go_on, capsys)[1] and Reading(run.directory).faults == faults
    elif not ended:
        assert name in ("data.json", "identity.json", "config.toml")


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000, "{a=" * 2000])
def test_a_configuration_of_numbers_and_brackets_without_end_is_one_message(run, capsys, value):
    (run.directory / "config.toml").write_text(f"[train]\nlr = {value}\n")
    told, ended = what_it_says(run.go_on, capsys)
    assert not ended and "config.toml:cannotbereadasTOML" in told


@pytest.mark.parametrize(("name", "damage"), cases(("data.json",), ()))
def test_rows_that_nothing_can_compare_are_allowed_by_name(run, capsys, name, damage):
    damaged(run.directory, name, damage)
    told, ended = what_it_says(run.go_on, capsys)
    assert not ended and "--allowdata.train" in told
    run.go_on(("data.train",))
    assert Reading(run.directory).table("data.json")["sha256"] and what_it_says(run.go_on, capsys)[1]


def test_damaged_lines_are_kept_beside_and_steps_that_are_lost_are_named(run, capsys):
    path = run.directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    second = next(index for index, line in enumerate(lines) if '"kind": "train", "step": 2' in line)
    path.write_text("".join([*lines[:second], "12 garbage\n", *lines[second + 1 :]]))
    damaged_file = path.read_bytes()
    told, _ = what_it_says(run.go_on, capsys)
    assert f"metrics.jsonl,line{second + 1}:noJSON" in told and "lacksstep2:" in told
    assert (run.directory / "metrics.damaged-1.jsonl").read_bytes() == damaged_file
    faults = Reading(run.directory).faults
    assert f"metrics.jsonl, line {second + 1}: no JSON: extra data (character 4); the line is left out." in faults
    assert any("lacks step 2:" in fault for fault in faults)
    run.go_on()
    assert Reading(run.directory).faults == faults and not (run.directory / "metrics.damaged-2.jsonl").exists()


@pytest.mark.slow
def test_a_run_with_damaged_files_ends_with_the_same_weights(stopped, run, tmp_path, capsys):
    other = Path(shutil.copytree(stopped.directory, tmp_path / "other"))
    train.fine_tune(replaced(stopped.config, {"run.dir": str(other)}))
    for name in ("metrics.jsonl", "generations.jsonl", "plan.json", "environment.json", "prompt.txt", "template.json"):
        damaged(run.directory, name, cut)
    train.fine_tune(run.config)
    weights = [(directory / "model" / "model.safetensors").read_bytes() for directory in (other, run.directory)]
    assert weights[0] == weights[1]
    page = (run.directory / "report.html").read_text()
    assert "plan.json is damaged" in page and "metrics.jsonl lacks" in page and "environment.json is damaged" in page


# ── pages and comparisons ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def finished(tmp_path):
    return make_run(tmp_path / "finished")


@pytest.mark.parametrize(
    ("name", "damage"),
    cases(("data.json", "environment.json", "prompt.txt", "config.toml"), ("metrics.jsonl", "generations.jsonl", "ledger.jsonl")),
)
def test_a_page_names_each_damaged_file(finished, capsys, monkeypatch, name, damage):
    monkeypatch.setattr(report, "_plotly", lambda: "")
    damaged(finished, name, damage)
    told, ended = what_it_says(lambda: report.write(finished), capsys)
    assert name in told or (name == "config.toml" and "noconfig.toml" in told)
    assert ended == (name != "config.toml") and (not ended or f"<li>{name}" in (finished / "report.html").read_text())


@pytest.mark.parametrize("damage", [pytest.param(damage, id=how) for how, damage in OF_TABLES.items() if how != "removed"])
def test_a_damaged_result_is_made_up_for_by_what_is_logged(finished, capsys, monkeypatch, damage):
    monkeypatch.setattr(report, "_plotly", lambda: "")
    last = Reading(finished).last
    damaged(finished, "result.json", damage)
    told, ended = what_it_says(lambda: report.write(finished), capsys)
    assert ended and "result.jsonisdamaged" in told and Reading(finished).last == last


def test_evaluations_that_the_metrics_lost_are_those_of_the_result(finished, monkeypatch):
    monkeypatch.setattr(report, "_plotly", lambda: "")
    evaluations = Reading(finished).evaluations
    (finished / "result.json").write_text(json.dumps({"steps": 20, "evaluations": evaluations}))
    (finished / "metrics.jsonl").unlink()
    assert Reading(finished).evaluations == evaluations and Reading(finished).last == evaluations[-1]
    page = report.write(finished).read_text()
    assert "trained for 20 steps" in page and "metrics.jsonl lacks steps 1–20" in page


@pytest.mark.parametrize(("name", "damage"), cases(("prompt.txt", "config.toml"), ("metrics.jsonl", "generations.jsonl")))
def test_a_comparison_names_each_damaged_file(finished, tmp_path, capsys, name, damage):
    other = make_run(tmp_path / "other")
    damaged(finished, name, damage)
    told, _ = what_it_says(lambda: compare_runs(str(finished), str(other)), capsys)
    assert name in told or "noevaluationisloggedthere" in told


@pytest.fixture
def evaluated(finished):
    """A directory of `tutelage eval`."""
    reading = Reading(finished)
    summary = {key: value for key, value in reading.evaluations[-1].items() if key not in ("kind", "step")}
    (finished / "summary.json").write_text(json.dumps({"model": "m", "data": "d", "backend": "native", "certificates": [], **summary}))
    (finished / "generations.jsonl").write_text(to_lines(line for line in reading.responses.lines if line["step"] == 20))
    records = [{key: value for key, value in line.items() if key != "step"} for line in read_lines(finished / "generations.jsonl")]
    (finished / "generations.jsonl").write_text(to_lines(records))
    (finished / "config.toml").rename(finished / "settings.toml")
    for name in ("metrics.jsonl", "data.json", "ledger.jsonl", "result.json"):
        (finished / name).unlink()
    return finished


@pytest.mark.parametrize(("name", "damage"), cases(("summary.json", "environment.json", "prompt.txt", "settings.toml"), ("generations.jsonl",)))
def test_the_page_of_an_evaluation_names_each_damaged_file(evaluated, capsys, monkeypatch, name, damage):
    monkeypatch.setattr(report, "_plotly", lambda: "")
    damaged(evaluated, name, damage)
    told, ended = what_it_says(lambda: report.write(evaluated), capsys)
    assert name in told and ended == (name != "summary.json")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_plotly", lambda: "")
        return make_sweep(tmp_path_factory.mktemp("sweep") / "sweep")


@pytest.mark.parametrize(
    ("name", "damage"),
    cases(("sweep.json", "config.toml", "trials/raw-8-seed42/result.json"), ("trials/raw-8-seed42/metrics.jsonl", "baseline/abc/generations.jsonl")),
)
def test_the_page_of_a_sweep_names_each_damaged_file(sweep, tmp_path, capsys, monkeypatch, name, damage):
    monkeypatch.setattr(report, "_plotly", lambda: "")
    directory = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    damaged(directory, name, damage)
    told, ended = what_it_says(lambda: (report.write(directory), verdicts.show(directory)), capsys)
    unfinished = name.endswith("result.json") and not (directory / name).exists()
    assert Path(name).name in told or unfinished
    assert ended or "/" not in name


# ── random damage ─────────────────────────────────────────────────────────────────────────────────────────────────────


def at_random(draw: random.Random, content: bytes) -> bytes | None:
    """A file flipped, cut, filled, doubled, with lines exchanged or left out, with one value changed for another; None: removed."""
    at, to = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    lines = content.splitlines(keepends=True) or [b""]
    kind = draw.randrange(9)
    if kind == 0 and content:
        flipped = bytearray(content)
        flipped[min(at, len(content) - 1)] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + bytes(to - at) + content[to:]
    if kind == 3:
        return content[:at] + content[to:]
    if kind == 4:
        draw.shuffle(lines)
        return b"".join(lines)
    if kind == 5:
        return b"".join([*lines, draw.choice([*VALUES.values(), *lines])])
    if kind == 6:
        return None
    values = [b"null", b"-1", b"[]", b"{}", b'"x"', b"1e400", b"NaN", b"true", b"99999999999999999999", b"0.5"]
    pieces = content.split(b": ")
    index = draw.randrange(len(pieces))
    rest = pieces[index].partition(b",")
    pieces[index] = draw.choice(values) + rest[1] + rest[2] if rest[1] else draw.choice(values)
    return b": ".join(pieces)


@pytest.mark.parametrize("seed", range(24))
def test_random_damage_never_ends_in_anything_but_a_message(run, finished, capsys, monkeypatch, seed):
    monkeypatch.setattr(report, "_plotly", lambda: "")
    draw = random.Random(seed)
    other = make_run(finished.parent / "other")
    for directory in (run.directory, finished):
        names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != ".lock")
        for name in draw.sample(names, draw.randint(1, 2)):
            damaged(directory, name, lambda content: at_random(draw, content))
    for act in (
        lambda: report.write(run.directory), run.go_on, lambda: report.write(run.directory), lambda: report.write(finished),
        lambda: compare_runs(str(finished), str(other)),
    ):  # fmt: skip
        what_it_says(act, capsys)
    assert main(["report", str(finished), "--out", str(finished / "x.html")]) in (0, 1, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


# ── the parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_gaps_are_said_in_stretches():
    assert gaps([1, 2, 5, 7], 9) == "3–4, 6, 8–9" and gaps([1, 2], 2) == "" and gaps([], 3) == "1–3"
    assert gaps([2, 4, 6, 8, 10], 10) == "1, 3, 5 and 2 more stretches"
    assert gaps([5], 10**15) == "1–4, 6–1000000000000000"


def test_a_torn_last_line_is_no_fault_and_another_one_is(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n{"a')
    found = read_records(tmp_path / "a.jsonl", lambda value: "")
    assert found.lines == [{"a": 1}, {"a": 3}] and list(found.faults) == [2]
    (tmp_path / "b.jsonl").mkdir()
    os.mkfifo(tmp_path / "c.jsonl")  # who opens it waits for a writer
    for name in ("b.jsonl", "c.jsonl"):
        with pytest.raises(RunError, match="cannot be read: it is a directory, a pipe or a device, not a file"):
            read_records(tmp_path / name, lambda value: "")


def test_a_line_that_is_there_twice_counts_once_and_the_order_of_lines_does_not_matter(finished):
    path, reading = finished / "metrics.jsonl", Reading(finished)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*reversed(lines), lines[3]]))
    again = Reading(finished)
    assert again.steps == reading.steps and again.evaluations == reading.evaluations and again.last_step == reading.last_step
    assert again.faults == [f"metrics.jsonl, line {len(lines) + 1}: step 3 is logged a second time; the line is left out."]
    path.write_text("".join(lines))
    records = (finished / "generations.jsonl").read_text().splitlines(keepends=True)
    (finished / "generations.jsonl").write_text("".join([*records, records[-1]]))
    assert Reading(finished).faults == [
        "generations.jsonl holds 9 responses of step 20, where 8 were logged: comparisons count some twice."
    ]


def test_a_prompt_with_one_other_character_is_that_of_the_kept_template(run):
    path = run.directory / "prompt.txt"
    template = path.read_text()
    path.write_text(template.replace("Question", "question"))
    assert Reading(run.directory).template == template
    assert any("prompt.txt is not the text of template.json" in fault for fault in Reading(run.directory).faults)


def test_a_log_without_a_run_reads_as_nothing(tmp_path):
    assert RunLog(tmp_path).reading().lines == [] and RunLog(tmp_path).reading().evaluations == []

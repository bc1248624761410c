"""`tutelage init`: what it guesses from the data, and the configuration it writes."""

from __future__ import annotations

import itertools
import json
import tomllib

import pytest

from tutelage import init
from tutelage.cli import main
from tutelage.config import describe, load_config
from tutelage.prepare import prepare

SOLVED = {"q": "What is 2 + 2?", "meta": {"solution": "<think> two and two </think> <answer> 4 </answer>", "final_answer": "4"}}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_known_shapes_need_no_columns_and_the_configuration_trains(tmp_path, data_file, tiny_model, tokenizer):
    out = tmp_path / "config.toml"
    assert main(["init", "--model", tiny_model, "--train", str(data_file), "--dir", str(tmp_path / "run"), "--out", str(out)]) == 0
    config = load_config(out)
    assert config.model.id == tiny_model and not config.data.columns and config.data.filter
    assert len(prepare(config, tokenizer).train) > 30


def test_columns_of_other_names_are_guessed_also_within_a_row(tmp_path, tokenizer):
    rows = [{"question": SOLVED["q"], "info": SOLVED["meta"]}] * 20
    out = init.init(tmp_path / "c.toml", {"model": "smollm2", "train": write(tmp_path / "a.jsonl", rows), "dir": "runs/x"})
    config = load_config(out)
    assert config.data.columns == {"prompt": "question", "response": "info.solution", "reference": "info.final_answer"}
    assert prepare(config, tokenizer).train[0].response_ids


def test_rows_without_references_are_not_filtered_and_malformed_ones_are_named(tmp_path, capsys):
    rows = [{"prompt": "a", "response": "b"}] * 30 + [{"prompt": "a"}]
    config = load_config(init.init(tmp_path / "c.toml", {"model": "m", "train": write(tmp_path / "a.jsonl", rows), "dir": "d"}))
    assert not config.data.filter and config.data.on_bad_row == "skip"
    said = " ".join(capsys.readouterr().out.split())
    assert "30 rows have no reference answer" in said and "1 of the first 31 rows are malformed" in said


def test_every_line_has_its_meaning_above_it_and_only_known_settings_are_written(tmp_path):
    out = init.init(tmp_path / "c.toml", {"model": "smollm2", "train": "arithmetic", "dir": "runs/x"})
    lines = out.read_text().splitlines()
    known = {(section, key) for section, key, *_ in describe()}
    for section, values in tomllib.loads(out.read_text()).items():
        assert all((section, key) in known for key in values)
    for before, line in itertools.pairwise(lines):
        if " = " in line and not line.startswith("#"):
            assert before.startswith("# ")


def test_three_questions_are_asked_on_a_terminal(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "")
    out = init.init(tmp_path / "c.toml", dict.fromkeys(init.QUESTIONS))
    assert len(asked) == 3 and load_config(out).model.id == "smollm2"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "there is no terminal to ask on: give --model"),
        (["--model", "m", "--train", "/nowhere.jsonl", "--dir", "d"], "no such file"),
        (["--model", "m", "--train", "{odd}", "--dir", "d"], r"none of the keys ['x'] look like a prompt and a response"),
        (["--model", "m", "--train", "arithmetic", "--dir", "d", "--out", "{odd}"], "exists and is not overwritten"),
        (["--train.lr", "1"], "takes no settings"),
    ],
)
def test_bad_input_is_one_error(tmp_path, capsys, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    odd = write(tmp_path / "odd.jsonl", [{"x": 1}] * 3)
    assert main(["init", *[argument.replace("{odd}", odd) for argument in arguments]]) == 2
    assert what in capsys.readouterr().err

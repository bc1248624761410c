from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.cli import main
from tutelage.cli.eval import as_validation
from tutelage.config import DataConfig, known_keys

HEAVY = ("torch", "transformers", "datasets", "vllm", "sympy", "pyarrow", "numpy")


def test_help_lists_the_commands_and_imports_nothing_heavy():
    code = f"import sys; sys.argv = ['tutelage', '--help']\ntry:\n    from tutelage.cli import main; main()\nfinally:\n    print([m for m in {HEAVY} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.strip().endswith("[]")
    for command in ("demo", "train", "eval", "filter", "ask", "grade"):
        assert f"\n    {command}" in printed


def test_train_help_shows_every_setting(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for key in known_keys():
        assert f"--{key}  (" in printed


def test_version_and_no_command(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("tutelage 0.")
    assert main([]) == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["train", "--train.learning_rate", "1"], "--train.learning_rate: unknown key train.learning_rate: in Tutelage: train.lr"),
        (["train", "--train.num_epoch", "1"], "--train.num_epoch: unknown key train.num_epoch: did you mean train.num_epochs?"),
        (["train", "--train.lr", "-1"], "tutelage: --train.lr: must be above 0"),
        (["train", "nothing.toml"], "config file not found"),
        (["train", "--train.batch_size", "-4"], "train.batch_size"),
        (["train", "--train.lr", "x"], "train.lr"),
        (["train", "--model.id", "./nothing"], "no model there"),
        (["train", "--model.device", "cuda:9"], "is not there"),
        (["filter", "nothing.jsonl", "--out", "x.jsonl"], "no such file"),
        (["eval", "./nothing", "data.jsonl"], "no model there"),
        (["ask", "./nothing", "hi"], "no model there"),
        (["ask", "nobody/nothing", " "], "the question is empty"),
        (["eval", "smollm2", "arithmetic", "--eval.backend", "vllm", "--eval.device", "cuda:9"], "is not"),
        (["grade", " ", "4"], "reference answer is empty"),
        (["grade", "4", "4", "--extra.option", "1"], "takes no settings"),
        (["sweep", "--sizes", "some"], "neither a number of rows nor"),
        (["sweep", "--data", "raw, clean"], "there are raw, filtered, control"),
        (["sweep", "--vary", "train.speed=1,2"], "no such setting"),
        (["sweep", "--train.speed", "1"], "unknown key train.speed"),
        (["sweep", "--where", "moon"], 'write "local", "ray"'),
        (["report", "nothing"], "no such directory"),
        (["compare", "nothing", "nothing"], "no such directory"),
        (["train", "--run.tracking", '["tensorboard", "tensorboard"]'], "more than once"),
    ],
)
def test_bad_input_is_one_message_without_a_traceback_and_exit_code_2(arguments, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("tutelage: ") and what in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_grade_prints_the_verdict_and_the_layer(capsys):
    assert main(["grade", "1/2", "0.5"]) == 0
    assert capsys.readouterr().out == "equal  (layer: exact)\n"
    main(["grade", "1/2", "0.6"])
    assert capsys.readouterr().out == "not equal  (layer: exact; 0.6 is not 1/2)\n"
    main(["grade", r"\sqrt{8}", "2√2"])
    main(["grade", "[1,2)", "[1,2]"])
    main(["grade", "4", "9^{9^{9^{9}}}"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["equal  (layer: algebra)", "not equal  (layer: structure; not equal)"]
    assert printed[2].startswith("undecided  (layer: limit; ")


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [
        (["c.toml", "--launch", "2", "--allow", "train.lr", "--json"], ["c.toml", "--allow", "train.lr", "--json"]),
        (["--launch=2", "--train.lr", "-1", "c.toml"], ["c.toml", "--train.lr", "-1"]),
        (["--run.name", "--launch", "c.toml", "--launch", "2"], ["c.toml", "--run.name", "--launch"]),
    ],
)
def test_ranks_get_the_command_without_the_option_that_launches_them(words, passed_on, monkeypatch, capsys):
    monkeypatch.setattr("tutelage.machines.launch", lambda ranks, given: 10 * ranks * (given == ["train", *passed_on]))
    assert main(["train", *words]) == 20
    assert capsys.readouterr().out == ""  # under --json the ranks speak, not what launches them


def test_json_is_one_document_that_the_first_rank_prints(monkeypatch, capsys):
    assert main(["grade", "1/2", "0.5", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"equal": True, "layer": "exact", "why": ""} and printed.err.startswith("equal")
    monkeypatch.setenv("RANK", "1")
    assert main(["grade", "1/2", "0.5", "--json"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_one_run_is_trained_graded_asked_compared_reported_and_exported(tiny_model, data_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "c.toml"
    config.write_text(
        f'[model]\nid = "{tiny_model}"\nprecision = "fp32"\n[data]\ntrain = "{data_file}"\nprompt = "plain"\n'
        "[eval]\nexamples = 4\nmax_new_tokens = 6\nbackend = 'native'\n"
    )
    assert main(["train", str(config), "--train.num_steps", "2", "--run.dir", "run"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "What became of each row",
        "max_length is",
        "⟦<think>",
        "<|end|>⟧",
        "Before and after (5 validation problems",
        "step 0: accuracy",
        "run/model",
    ):
        assert part in printed
    assert main(["train", str(config), "--train.num_steps", "2", "--run.dir", "run"]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert main(["eval", "run", str(data_file), "--out", "graded"]) == 0
    assert "run on " in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "graded" / "generations.jsonl").read_text().splitlines()]
    assert len(records) == 4 and records[0]["prompt"].startswith("Question: ")
    assert json.loads((tmp_path / "graded" / "summary.json").read_text())["examples"] == 4
    assert main(["ask", "run", "Ava has 3 pens?"]) == 0
    assert "cut off after 6 tokens" in capsys.readouterr().out
    assert main(["compare", "run@0", "run", "--json"]) == 0
    assert sum(json.loads(capsys.readouterr().out)["questions"].values()) == 5
    (tmp_path / "run" / "report.html").unlink()
    assert main(["report", "run", "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["page"]).stat().st_size > 100_000
    assert main(["export", "run", "--json"]) == 0
    assert (Path(json.loads(capsys.readouterr().out)["directory"]) / "model.safetensors").is_file()
    assert main(["export", "run"]) == 2
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "split", "where"),
    [
        ({}, "test", None),
        ({"train": "solutions", "train_split": "train", "where": "checked"}, "test", None),
        ({"train": "solutions", "validation_split": "dev"}, "dev", None),
        ({"train": "solutions", "validation": "problems", "validation_split": "dev"}, "dev", None),
        ({"train": "solutions", "validation": {"path": "problems", "split": "hard", "where": "open"}}, "hard", "open"),
    ],
)
def test_data_to_evaluate_on_are_read_as_validation_data_are(settings, split, where):
    """Not the split that is trained on, nor that of the built-in task, which is the default of data.train."""
    source = as_validation(DataConfig(**settings))
    assert (source.split, source.where) == (split, where)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["trian"], "did you mean train?"),
        (["train", "--learning-rate", "1"], "in Tutelage: train.lr"),
        (["train", "--lr=1"], "did you mean --train.lr?"),
        (["train", "--load_in_4bit", "1"], "in Tutelage: model.quantize"),
        (["completion", "tcsh"], "'fish'"),
    ],
)
def test_a_word_from_elsewhere_is_answered_with_the_one_of_here(arguments, what, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and what in capsys.readouterr().err


def test_each_name_of_another_tool_leads_to_one_setting_there_is():
    from tutelage.config.aliases import ALIASES, ELSEWHERE, MIND

    names = [name for of_one in ALIASES.values() for name in of_one.split()]
    assert set(ALIASES) <= set(known_keys()) and set(MIND) <= set(ALIASES)
    assert len(set(names)) == len(names) and not set(names) & set(ELSEWHERE)

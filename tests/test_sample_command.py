"""`tutelage sample`: which problems are asked, and what the command says."""

from __future__ import annotations

import json
import shutil

import pytest
from lines import read_lines
from scripted import Scripted, right

from tutelage.cli import main
from tutelage.config import parse_config, to_toml
from tutelage.data import arithmetic
from tutelage.errors import InputError
from tutelage.evaluation import problems_to_sample
from tutelage.model import load_tokenizer
from tutelage.runs import to_lines


@pytest.fixture
def problem_file(tmp_path):
    """30 problems of the built-in task, without solutions; one has no answer."""
    rows = [
        {
            "problem": row["messages"][0]["content"],
            "answer": "" if index == 29 else row["messages"][0]["info"]["reference_answer"],
        }
        for index, row in enumerate(arithmetic.rows("train", 30))
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text(to_lines(rows), encoding="utf-8")
    return path


@pytest.fixture
def trained(tiny_model, data_file, tmp_path, make_config):
    """What a run leaves that is of interest here: its configuration, its template, its model."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(tiny_model, run / "model")
    config = make_config(run__dir=str(run))
    (run / "config.toml").write_text(to_toml(config), encoding="utf-8")
    from tutelage.data import template_of

    (run / "prompt.txt").write_text(template_of("plain", load_tokenizer(tiny_model), {}).text, encoding="utf-8")
    return run, config


def test_a_file_that_is_excluded_is_not_asked(make_config, problem_file, tmp_path, capsys):
    rows = read_lines(problem_file)
    same = [{"problem": rows[3]["problem"].upper() + " ", "answer": "none"}, {"problem": rows[5]["problem"], "answer": ""}]
    (tmp_path / "test.jsonl").write_text(to_lines(same), encoding="utf-8")
    (tmp_path / "other.jsonl").write_text(to_lines([{"problem": rows[7]["problem"], "answer": 1}]), encoding="utf-8")
    config = make_config(data__validation=None)
    found, fates = problems_to_sample(str(problem_file), config, [str(tmp_path / "test.jsonl"), str(tmp_path / "other.jsonl")])
    assert sorted(each.source.rpartition(":")[2] for each in found) == sorted(str(n + 1) for n in range(29) if n not in (3, 5, 7))
    assert {(fate.source.rpartition(":")[2], fate.fate) for fate in fates} == {
        ("30", "no reference"), ("4", "overlap"), ("6", "overlap"), ("8", "overlap"),
    }  # fmt: skip
    assert (
        "3 of 29 problems overlap with those that are validated on or excluded, and are not asked; the first:"
        in capsys.readouterr().out
    )


def test_what_a_run_was_validated_on_is_not_asked(trained, problem_file, data_file):
    """Held out of the training rows, or named; `data.overlap` = "keep" asks them all the same."""
    from tutelage.data import read_pool

    _, config = trained
    tokenizer = load_tokenizer(config.model.id)
    held = {each.prompt for each in read_pool(config, tokenizer).problems} | {
        each.prompt for each in read_pool(config.model_copy(update={"eval": config.eval.model_copy(update={"full": True})}), tokenizer).problems
    }  # fmt: skip
    everything, _ = problems_to_sample(str(problem_file), config)
    found, fates = problems_to_sample(str(problem_file), config, run=config)
    assert len(everything) == 29 and {each.prompt for each in everything} & held
    assert not {each.prompt for each in found} & held
    assert len(found) + sum(fate.fate == "overlap" for fate in fates) == 29
    keep = config.model_copy(update={"data": config.data.model_copy(update={"overlap": "keep"})})
    assert len(problems_to_sample(str(problem_file), keep, run=config)[0]) == 29
    named = config.model_copy(update={"data": config.data.model_copy(update={"validation": str(problem_file)})})
    with pytest.raises(InputError, match="every problem overlaps with one that is excluded"):
        problems_to_sample(str(problem_file), config, run=named)
    with pytest.raises(InputError, match="every problem overlaps with one that is excluded"):
        problems_to_sample(str(problem_file), named)


def test_a_run_whose_rows_are_gone_says_what_to_do(trained, problem_file, data_file):
    _, config = trained
    data_file.unlink()
    with pytest.raises(InputError, match=r"cannot be read, so nothing says which problems to leave out: .*--data.overlap keep"):
        problems_to_sample(str(problem_file), config, run=config)


def test_the_command_samples_and_its_rows_can_be_trained_on(trained, problem_file, tmp_path, monkeypatch, capsys):
    run, config = trained
    answers = {row["problem"]: row["answer"] for row in read_lines(problem_file)}
    seen, script = [], Scripted(None)

    def generating(model, tokenizer, sampling):
        seen.append(sampling)
        return Scripted.generating(script, model, tokenizer, sampling)

    monkeypatch.setattr("tutelage.evaluation.engine.native.generating", generating)
    asked, _ = problems_to_sample(str(problem_file), config, run=config)
    script.say = lambda index, sample: right(asked[index].reference, f"Way {sample}.") if sample else right("x")
    out = tmp_path / "own" / "traces.jsonl"
    command = [
        "sample",
        str(run),
        str(problem_file),
        "--out",
        str(out),
        "--samples",
        "3",
        "--keep",
        "2",
        "--favour-hard",
        "--json",
    ]
    capsys.readouterr()
    assert main([*command, "--backend", "native"]) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert seen[0].temperature == 1.0 and seen[0].samples == 3
    assert summary["fates"] == {"wrong": len(asked), "right": 2 * len(asked)} and summary["kept"] == len(asked)
    assert summary["left_out"]["no reference"] == 1 and summary["left_out"]["overlap"] == 29 - len(asked) > 0
    assert "What became of each response" in printed.err and f"{len(asked)} rows are in {out}" in printed.err
    assert main(command) == 0 and json.loads(capsys.readouterr().out) == summary
    from tutelage.data.chosen import prepare

    rows = prepare(
        parse_config({"data": {"train": str(out), "prompt": "plain", "test_size": 0}}), load_tokenizer(config.model.id)
    )
    assert rows.rows == len(asked) and {row["reference_answer"] for row in read_lines(out)} <= set(answers.values())


def test_a_temperature_that_is_given_counts(trained, problem_file, tmp_path, capsys):
    run, _ = trained
    assert main(["sample", str(run), str(problem_file), "--out", str(tmp_path / "t.jsonl"), "--eval.temperature", "0"]) == 2
    assert "8 samples at eval.temperature = 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "0"], "--keep"),
        (["--keep", "some"], "--keep"),
        (["--samples", "0"], "--samples"),
        (["--choose", "best"], "--choose"),
    ],
)  # fmt: skip
def test_arguments_that_mean_nothing_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["sample", "m", "p", "--out", "o.jsonl", *arguments])
    assert message in capsys.readouterr().err


def test_the_help_says_the_temperature(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "at temperature 1.0 unless --eval.temperature says otherwise" in " ".join(capsys.readouterr().out.split())


CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
    "{% endif %}"
)


def test_rows_of_a_chat_template_train_with_the_ids_that_were_asked(tiny_model, make_config, problem_file, tmp_path, monkeypatch):
    """The prompt that the template has written is recognised, and not written again."""
    from transformers import AutoTokenizer

    from tutelage.data.chosen import prepare
    from tutelage.evaluation import Wanted, prompt_ids, sample_problems
    from tutelage.model import tokenizer_of

    chatty = tmp_path / "chatty"
    shutil.copytree(tiny_model, chatty)
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(chatty)
    config = make_config(
        model__id=str(chatty), data__prompt="chat", data__test_size=0, eval__temperature=1.0, eval__reward="question_only"
    )
    asked, _ = problems_to_sample(str(problem_file), config)
    assert asked[0].prompt.startswith("<|user|>") and asked[0].prompt.endswith("<|assistant|>\n")
    script = Scripted(lambda index, sample: f"Way {sample}.\nSo \\boxed{{{asked[index].reference}}}")
    monkeypatch.setattr("tutelage.evaluation.engine.native.generating", script.generating)
    out = tmp_path / "traces.jsonl"
    assert sample_problems(asked, config, out, Wanted(2))["fates"] == {"right": 2 * len(asked)}
    tokenizer = tokenizer_of(config)
    trained = prepare(
        config.model_copy(update={"data": config.data.model_copy(update={"train": str(out), "max_length": 400})}), tokenizer
    )
    ids = prompt_ids(tokenizer, asked)
    said = [(tuple(ids[line["problem"]]), tuple(line["token_ids"])) for line in read_lines(tmp_path / "traces.samples.jsonl")]
    assert sorted((row.prompt_ids, row.response_ids) for row in trained.train) == sorted(said)

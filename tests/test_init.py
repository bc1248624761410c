"""`tutelage init`: what it guesses from the data, and the configuration it writes."""

from __future__ import annotations

import itertools
import json
import tomllib

import pytest

from tutelage.cli import init, main
from tutelage.config import describe, load_config
from tutelage.data import prepare
from tutelage.errors import InputError

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
    rows = [{"question": f"{n}: {SOLVED['q']}", "info": SOLVED["meta"]} for n in range(20)]
    out = init.init(tmp_path / "c.toml", {"model": "smollm2", "train": write(tmp_path / "a.jsonl", rows), "dir": "runs/x"})
    config = load_config(out)
    assert config.data.columns == {"prompt": "question", "response": "info.solution", "reference": "info.final_answer"}
    assert prepare(config, tokenizer).train[0].response_ids


def test_rows_without_references_are_not_filtered_and_malformed_ones_are_named(tmp_path, capsys):
    solved = {"prompt": "a", "response": "<think> b </think> <answer> 4 </answer>"}
    rows = [{**solved, "reference": "4"}] * 27 + [solved] * 3 + [{"prompt": "a"}]
    config = load_config(init.init(tmp_path / "c.toml", {"model": "m", "train": write(tmp_path / "a.jsonl", rows), "dir": "d"}))
    assert config.data.filter and config.data.on_bad_row == "skip"
    said = " ".join(capsys.readouterr().out.split())
    assert "3 rows have no reference answer" in said and "1 of the first 31 rows are malformed" in said


def test_rows_without_any_reference_want_problems_to_validate_on(tmp_path):
    train = write(tmp_path / "a.jsonl", [{"prompt": "a", "response": "b"}] * 9)
    answers = {"model": "m", "train": train, "dir": "d"}
    with pytest.raises(InputError, match="give --validation with problems that have"):
        init.init(tmp_path / "c.toml", answers)
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "a"}])
    with pytest.raises(InputError, match="reference is missing|prompt|reference"):
        init.init(tmp_path / "c.toml", answers, bad)
    good = write(tmp_path / "good.jsonl", [{"prompt": "a", "reference": "4"}])
    assert not load_config(init.init(tmp_path / "c.toml", answers, good)).data.filter


def test_the_grader_is_the_one_that_finds_answers_in_the_responses(tmp_path, tokenizer, capsys):
    def made(name, response):
        rows = [{"prompt": f"{n}?", "response": response, "answer": "4"} for n in range(20)]
        out = tmp_path / f"{name}.toml"
        return load_config(init.init(out, {"model": "m", "train": write(tmp_path / f"{name}.jsonl", rows), "dir": "d"}))

    boxed = made("boxed", "So it is \\\\boxed{4}.".replace("\\\\", "\\"))
    assert boxed.eval.reward == "question_only" and boxed.data.prompt == "question_only" and boxed.data.filter
    assert len(prepare(boxed, tokenizer).train) > 10
    plain = made("plain", "So it is 4.")
    assert not plain.data.filter and "neither <think>" in " ".join(capsys.readouterr().out.split())


def test_a_column_that_may_be_half_of_the_prompt_is_a_question(tmp_path):
    rows = [{"instruction": "Translate", "input": "Guten Tag", "output": "<think> x </think> <answer> y </answer>", "answer": "y"}] * 9
    with pytest.raises(InputError, match="input may belong to the prompt") as asked:
        init.init(tmp_path / "c.toml", {"model": "m", "train": write(tmp_path / "a.jsonl", rows), "dir": "d"})
    both = 'columns = { prompt = "{instruction}\\n\\n{input}", response = "output", reference = "answer" }'
    without = 'columns = { prompt = "instruction", response = "output", reference = "answer" }'
    assert both in str(asked.value) and without in str(asked.value)


@pytest.mark.parametrize(
    ("model", "prompt", "reward"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", "chat", "question_only"),
        ("google/gemma-3-1b-it", "chat", "question_only"),
        ("smollm2", "chat", "question_only"),
        ("Qwen/Qwen2.5-Math-1.5B", "question_only", "question_only"),
        ("meta-llama/Llama-3.2-1B", "question_only", "question_only"),
    ],
)
def test_an_instruct_model_with_boxed_rows_takes_its_chat_template(tmp_path, model, prompt, reward):
    rows = [{"prompt": f"{n}?", "response": "So it is \\boxed{4}.", "answer": "4"} for n in range(9)]
    config = load_config(init.init(tmp_path / "c.toml", {"model": model, "train": write(tmp_path / "a.jsonl", rows), "dir": "d"}))
    assert (config.data.prompt, config.eval.reward) == (prompt, reward)


def test_a_model_directory_is_an_instruct_model_if_it_has_a_chat_template(tmp_path):
    base, chats, named = tmp_path / "a", tmp_path / "b", tmp_path / "b-base"
    for directory in (base, chats, named):
        directory.mkdir()
    (chats / "chat_template.jinja").write_text("x")
    (named / "chat_template.jinja").write_text("x")
    (base / "tokenizer_config.json").write_text("{}")
    assert [init.is_instruct(str(each)) for each in (base, chats, named)] == [False, True, False]


def test_tagged_rows_keep_their_tags_on_every_model_and_conversations_are_chats(tmp_path):
    def made(name, row):
        answers = {"model": "some-instruct", "train": write(tmp_path / f"{name}.jsonl", [row] * 9), "dir": "d"}
        return load_config(init.init(tmp_path / f"{name}.toml", answers))

    tagged = made("tagged", {"prompt": "a", "response": "<think> b </think> <answer> 4 </answer>", "answer": 4})
    assert (tagged.data.prompt, tagged.eval.reward) == ("r1_zero", "r1_zero")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "reasoning_content": "b", "content": "\\boxed{4}"}]
    chat = made("chat", {"messages": turns, "answer": 4})
    assert (chat.data.prompt, chat.eval.reward) == ("chat", "question_only")


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
        (["--model", "m", "--train", "{odd}", "--dir", "d"], "keys ['x'] are of no known shape"),
        (["--model", "m", "--train", "arithmetic", "--dir", "d", "--out", "{odd}"], "exists and is not overwritten"),
        (["--train.lr", "1"], "takes no settings"),
    ],
)
def test_bad_input_is_one_error(tmp_path, capsys, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    odd = write(tmp_path / "odd.jsonl", [{"x": 1}] * 3)
    assert main(["init", *[argument.replace("{odd}", odd) for argument in arguments]]) == 2
    assert what in capsys.readouterr().err

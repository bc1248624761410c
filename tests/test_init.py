"""`tutelage init`: what it guesses from the data, and the configuration it writes."""

from __future__ import annotations

import itertools
import json
import tomllib

import pytest

from tutelage.cli import first_config, init, main
from tutelage.config import describe, load_config
from tutelage.data import prepare
from tutelage.errors import InputError

BOXED = {"question": "What is 2 + 2?", "solution": "Two and two is \\boxed{4}."}

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
    with pytest.raises(InputError, match=r"give --validation(.|\n)*no row of .* has a reference answer"):
        init.init(tmp_path / "c.toml", answers)
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "a"}])
    with pytest.raises(InputError, match="prompt|reference"):
        init.init(tmp_path / "c.toml", answers | {"validation": bad})
    good = write(tmp_path / "good.jsonl", [{"prompt": "a", "reference": "4"}])
    assert not load_config(init.init(tmp_path / "c.toml", answers | {"validation": good})).data.filter


def test_the_grader_is_the_one_that_finds_answers_in_the_responses(tmp_path, tokenizer, capsys):
    def made(name, response):
        rows = [{"prompt": f"{n}?", "response": response, "answer": "4"} for n in range(20)]
        out = tmp_path / f"{name}.toml"
        return load_config(init.init(out, {"model": "m", "train": write(tmp_path / f"{name}.jsonl", rows), "dir": "d"}))

    boxed = made("boxed", "So it is \\boxed{4}.")
    assert boxed.eval.reward == "question_only" and boxed.data.prompt == "question_only" and boxed.data.filter
    assert len(prepare(boxed, tokenizer).train) > 10
    plain = made("plain", "So it is 4.")
    assert plain.data.columns["response"] == "{response}\n\n\\boxed{{{answer}}}" and "written behind each" in capsys.readouterr().out
    assert prepare(plain, tokenizer).ledger.counts()["kept"] > 10


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
    assert [first_config.is_instruct(str(each)) for each in (base, chats, named)] == [False, True, False]


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


@pytest.fixture
def typed(monkeypatch):
    """Answers on a terminal, one after the other; behind the last one, Ctrl-C. Returns the list of what was asked."""

    def answering(*answers):
        asked, left = [], list(answers)

        def answer(question):
            asked.append(question.split()[0].strip(":"))
            if not left:
                raise KeyboardInterrupt
            return left.pop(0)

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", answer)
        return asked

    return answering


def test_three_questions_are_asked_on_a_terminal(tmp_path, typed):
    asked = typed("", "", "")
    out = init.init(tmp_path / "c.toml", dict.fromkeys(init.QUESTIONS))
    assert asked == ["model", "train", "dir"] and load_config(out).model.id == "smollm2"


def test_a_wrong_answer_is_asked_again_and_no_answer_is_lost(tmp_path, typed, capsys):
    train = write(tmp_path / "a.jsonl", [{"prompt": f"{n}?", "response": "It is 4."} for n in range(9)])
    good = write(tmp_path / "v.jsonl", [{"problem": f"{n}?", "answer": "4"} for n in range(9)])
    asked = typed("/nowhere", "m", "/nowhere.jsonl", train, train, good, "d")
    config = load_config(init.init(tmp_path / "c.toml", {}))
    assert asked == ["model", "model", "train", "train", "validation", "validation", "dir"]
    assert (config.model.id, config.data.train, config.data.validation, config.run.dir) == ("m", train, good, "d")
    typed("m", train)
    with pytest.raises(KeyboardInterrupt):
        init.init(tmp_path / "d.toml", {})
    assert f"To go on from here: tutelage init --model m --train {train}" in capsys.readouterr().out


def test_columns_of_unknown_names_are_asked_with_what_they_probably_hold(tmp_path, typed, tokenizer):
    rows = [{"nr": n, "frage": f"{n}: Was ist das?", "weg": "Das ist lang und breit erzählt, also \\boxed{7}.", "zahl": 7} for n in range(9)]
    train = write(tmp_path / "a.jsonl", rows)
    valid = write(tmp_path / "v.jsonl", [{"aufgabe": f"{n} und {n}?", "zahl": n} for n in range(9)])
    typed("", "", "", "", "", "d")
    config = load_config(init.init(tmp_path / "c.toml", {"model": "m", "train": train, "validation": valid}))
    assert config.data.columns == {"prompt": "frage", "response": "weg", "reference": "zahl"}
    assert config.data.validation.columns == {"prompt": "aufgabe", "reference": "zahl"}
    assert prepare(config, tokenizer).ledger.counts()["kept"] == 9


def test_columns_that_can_be_meant_in_several_ways_are_a_choice(tmp_path, typed, capsys):
    thought = "I think about it for a long time, in many words that say little."
    rows = [{"question": f"{n}?", "reasoning": thought, "solution": "So \\boxed{4}.", "answer": "4"} for n in range(9)]
    train = write(tmp_path / "a.jsonl", rows)
    flags = {"model": "m", "train": train, "dir": "d"}
    with pytest.raises(InputError, match=r"--data.columns '\{ prompt = \"question\", response = \"<think>") as asked:
        init.init(tmp_path / "c.toml", flags)
    said = str(asked.value).splitlines()[-1].strip().removeprefix("--data.columns ").strip("'")
    first = load_config(init.init(tmp_path / "c.toml", flags, ["--data.columns", said])).data.columns
    assert first["response"].startswith("<think>\n{reasoning}")
    typed("7", "3")
    config = load_config(init.init(tmp_path / "d.toml", flags))
    assert config.data.columns["response"] == "solution" and "  1  reasoning, then solution: {" in capsys.readouterr().out


def test_problems_may_have_other_columns_than_the_training_rows(tmp_path, tokenizer):
    named = ["--data.columns.prompt", "a", "--data.columns.response", "b", "--data.columns.reference", "c"]
    train = write(tmp_path / "a.jsonl", [{"a": f"{n}?", "b": "So \\boxed{4}.", "c": "4"} for n in range(9)])
    flags = {"model": "m", "train": train, "dir": "d"}

    def made(name, row, *more):
        flags["validation"] = write(tmp_path / f"{name}.jsonl", [row] * 5)
        return load_config(init.init(tmp_path / f"{name}.toml", flags, [*named, *more])).data.validation

    assert made("known", {"question": "x", "answer": "4"}).columns == {"prompt": "question", "reference": "answer"}
    assert made("same", {"a": "x", "c": "4"}) == flags["validation"]
    with pytest.raises(InputError, match=r"--data.validation.columns.prompt frage --data.validation.columns.reference zahl"):
        made("odd", {"frage": "x und y?", "zahl": 4})
    more = "--data.validation.columns.prompt", "frage", "--data.validation.columns.reference", "zahl"
    validation = made("odd", {"frage": "x und y?", "zahl": 4}, *more)
    assert (validation.path, validation.columns) == (flags["validation"], {"prompt": "frage", "reference": "zahl"})


def test_the_box_of_a_solution_is_its_reference_and_what_was_seen_is_said(tmp_path, tokenizer, capsys):
    train = write(tmp_path / "a.jsonl", [{**BOXED, "question": f"{n}?"} for n in range(300)])
    config = load_config(init.init(tmp_path / "c.toml", {"model": "smollm2", "train": train, "dir": "d"}))
    said = capsys.readouterr().out
    assert f"{train}: 300 rows, 300 with a reference answer; prompt = question, response = solution" in said
    assert "reference = \\boxed{} in solution" in said and (config.data.prompt, config.data.filter) == ("chat", True)
    commands = [line.split("#")[0].strip() for line in said.splitlines() if line.startswith("  tutelage ")]
    assert commands == [f"tutelage {name} {tmp_path / 'c.toml'}" for name in ("plan", "check", "train")]


def test_a_second_run_changes_the_file_and_keeps_what_others_wrote(tmp_path, capsys):
    out, flags = tmp_path / "c.toml", {"model": "Qwen/Qwen2.5-1.5B", "dir": "d"}
    train = write(tmp_path / "a.jsonl", [{**BOXED, "question": f"{n}?"} for n in range(9)])
    init.init(out, flags | {"train": train})
    text = out.read_text().replace("lr = 2e-05", "lr = 7e-06  # mine").replace("[run]", "[run]\n# a note of mine\nseed = 3")
    out.write_text(text.replace("seed = 3\n", ""))
    init.init(out, {}, ["--train.num_epochs", "5"])
    before = load_config(out)
    assert (before.train.num_epochs, before.train.lr, before.data.train) == (5, 7e-06, train)
    other = write(tmp_path / "b.jsonl", [{"prompt": "a", "response": "<think> b </think> <answer> 4 </answer>", "answer": 4}] * 9)
    init.init(out, {"train": other, "model": "smollm2"})
    after, text = load_config(out), out.read_text()
    assert (after.data.train, after.data.prompt, after.eval.reward, after.train.batch_size) == (other, "r1_zero", "r1_zero", 8)
    assert (after.train.num_epochs, after.train.lr) == (5, 7e-06) and "lr = 7e-06  # mine" in text and "# a note of mine" in text
    assert text.count("# The data: ") == 1 and other in next(line for line in text.splitlines() if "# The data: " in line)
    capsys.readouterr()
    init.init(out, {})
    assert "nothing to change" in capsys.readouterr().out and out.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "there is no terminal to ask on: give --model, --train and --dir"),
        (["--model", "m", "--train", "/nowhere.jsonl", "--dir", "d"], "no such file"),
        (["--model", "m", "--train", "{odd}", "--dir", "d"], "its columns x have no names that are known"),
        (["--model", "m", "--train", "arithmetic", "--dir", "d", "--out", "{odd}"], "is there and is no configuration"),
        (["--train.lrr", "1"], "unknown key train.lrr"),
    ],
)
def test_bad_input_is_one_error(tmp_path, capsys, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    odd = write(tmp_path / "odd.jsonl", [{"x": 1}] * 3)
    assert main(["init", *[argument.replace("{odd}", odd) for argument in arguments]]) == 2
    assert what in capsys.readouterr().err

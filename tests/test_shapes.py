from __future__ import annotations

import json
import sys

import pytest
from shaped import alone

from tutelage import build_text_pairs
from tutelage.cli.entry import main
from tutelage.config import parse_config
from tutelage.data.shapes.own import read_by
from tutelage.data.shapes.parsed import BadRow, Purpose
from tutelage.data.shapes.reader import reader_of
from tutelage.errors import InputError

MESSAGES = {
    "messages": [
        {"role": "user", "content": "What is 2 + 2?", "info": {"reference_answer": "4"}},
        {"role": "assistant", "content": "<think> 2 + 2 = 4 </think> <answer> 4 </answer>"},
    ]
}
GSM8K = {
    "question": "How many?",
    "answer": "He has 48/2 = <<48/2=24>>24 clips.\nSo 48+24 = <<48+24=72>>1,072.\n#### 1,072",
}
MATH = {"problem": "Find $x$.", "solution": "We get $x = \\boxed{\\frac{1}{2}}$.", "level": "Level 1"}


def test_text_pairs_of_a_message_row():
    expected = {"prompt": "What is 2 + 2?", "response": MESSAGES["messages"][1]["content"], "reference": "4"}
    assert build_text_pairs(MESSAGES) == expected


@pytest.mark.parametrize(
    "place",
    [
        lambda row: row["messages"][1].update(info={"reference_answer": "5"}),
        lambda row: row["messages"][0].update(info={"ground_truth": "5"}),
        lambda row: row.update(reference_answer="5"),
        lambda row: row.update(info={"answer": "5"}),
    ],
)
def test_the_reference_has_fallbacks(place):
    row = json.loads(json.dumps(MESSAGES))
    row["messages"][0]["info"] = {}
    place(row)
    assert build_text_pairs(row)["reference"] == "5"


def test_gsm8k_rows_lose_their_calculator_marks():
    pair = alone(GSM8K)
    assert pair["reference"] == "1072"
    assert pair["response"] == "<think> He has 48/2 = 24 clips.\nSo 48+24 = 1,072. </think> <answer> 1,072 </answer>"


def test_math_rows_take_the_boxed_answer():
    pair = alone(MATH)
    assert pair["reference"] == "\\frac{1}{2}"
    assert pair["response"].endswith("</think> <answer> \\frac{1}{2} </answer>")


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({"problem": "p", "solution": "2 + 5 = 7", "answer": "5"}, "2 + 5 = 7"),
        ({"problem": "p", "solution": "so \\boxed{7}", "answer": "5"}, "<think> so \\boxed{7} </think> <answer> 7 </answer>"),
    ],
)
def test_a_reference_is_never_written_into_a_response(row, response):
    pair = alone(row)
    assert (pair["response"], pair["reference"]) == (response, "5")


@pytest.mark.parametrize("solution", ["", " ", None, float("nan")])
def test_a_problem_needs_no_work_and_a_row_to_train_on_does(solution):
    row = {"problem": "p", "solution": solution, "answer": "5"}
    assert alone(row, problems=True)["reference"] == "5"
    with pytest.raises(BadRow, match="solution is null|response is empty"):
        alone(row)


def test_prompt_response_rows_and_numbers_as_references():
    found = alone({"prompt": "p", "response": "r", "reference": 4})
    assert (found["prompt"], found["response"], found["reference"]) == ("p", "r", "4")


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"problem": "p", "solution": "so \\boxed 5$", "answer": None}, "5"),
        ({"problem": "p", "solution": "so \\boxed{2} or \\boxed{3}", "answer": None}, "2, 3"),
        ({"problem": "p", "solution": "so \\boxed{7}", "answer": 0}, "0"),
        ({"problem": "p", "answer": 204}, "204"),
        ({"prompt": "p", "reference": 0}, "0"),
    ],
)
def test_problems_with_a_reference_of_any_form(row, reference):
    assert alone(row, problems=True)["reference"] == reference


def test_a_column_mapping_reaches_into_the_row():
    row = {"q": "p", "out": {"text": "r"}, "meta": {"gold": 3}}
    columns = {"prompt": "q", "response": "out.text", "reference": "meta.gold"}
    found = alone(row, columns)
    assert (found["prompt"], found["response"], found["reference"]) == ("p", "r", "3")
    with pytest.raises(BadRow, match=r"'out\.body'.*not in this row"):
        alone(row, {**columns, "response": "out.body"})


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"foo": 1}, "no known shape"),
        ({"messages": "hello"}, "messages is not a list"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\] has no role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no user turn"),
        ({"messages": [MESSAGES["messages"][0], MESSAGES["messages"][0]]}, "response is empty or missing"),
        ({"messages": [MESSAGES["messages"][0]]}, "response is empty or missing"),
        ({"prompt": "p", "response": ["r"]}, "response is list, not text"),
        ({"prompt": " ", "response": "r"}, "prompt is empty"),
        ({"problem": "p", "solution": "42"}, "a problem without its work"),
        ({"question": "q", "answer": None}, "answer is null"),
        ({"problem": "p", "solution": ["x"], "answer": "5"}, "solution is list, not text"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"messages\[0\] has no role"),
        ({"prompt": "p \ud83d", "response": "r"}, "half of a surrogate pair"),
        ({"question": "q", "answer": "5"}, "a problem without its work"),
    ],
)
def test_a_malformed_row_says_which_key(row, what):
    with pytest.raises(BadRow, match=what):
        alone(row)


# ── the seam: a function of the user's own, by data.shape ──

MINE = """
def parse(row):
    if "skip" in row:
        raise ValueError(f"this row is a draft of {row['skip']}")
    question, _, gold = row.pop("item").partition(" => ")
    found = {"prompt": question, "reference": gold}
    return found | ({"response": f"<think> so </think> <answer> {row['says']} </answer>"} if "says" in row else {})

constant = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A directory with ``my_shape.py``, rows of that shape for training, and problems, which have no response."""
    (tmp_path / "my_shape.py").write_text(MINE)
    rows = [{"item": f"{n} + 1? => {n + 1}", "says": n + 1 + (n == 3)} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "problems.jsonl").write_text('{"item": "5 + 5? => 10"}\n{"item": "6 + 6? => 12"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_shape", raising=False)
    return rows


@pytest.mark.slow
def test_a_function_reads_rows_to_filter_to_train_on_and_to_evaluate(mine, tiny_model, tmp_path):
    assert main(["filter", "rows.jsonl", "--out", "kept.jsonl", "--data.shape", "my_shape:parse"]) == 0
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert kept == [row for row in mine if row["item"] != "3 + 1? => 4"]  # as they were, although the function takes them apart
    settings = [
        f"--model.id={tiny_model}", "--model.device=cpu", "--data.shape=my_shape:parse", "--eval.max_new_tokens=4", "--eval.backend=native",
    ]  # fmt: skip
    train = ["--data.train=rows.jsonl", "--data.validation=problems.jsonl", "--data.prompt=plain", "--train.num_steps=1", "--run.dir=run"]
    assert main(["train", *settings, *train, "--eval.before=false"]) == 0
    fates = [json.loads(line)["fate"] for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert fates == ["kept"] * 3 + ["wrong answer"] + ["kept"] * 8
    assert main(["eval", "run", "problems.jsonl", "--out", "answers", "--eval.max_new_tokens=4"]) == 0  # by the run's own function
    asked = [json.loads(line) for line in (tmp_path / "answers" / "generations.jsonl").read_text().splitlines()]
    assert sorted(record["ground_truth"] for record in asked) == ["10", "12"]


def test_a_row_that_a_function_refuses_is_named_with_file_and_line(mine, tmp_path, capsys):
    command = ["filter", "rows.jsonl", "--out", "kept.jsonl", "--data.shape", "my_shape:parse"]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"skip": "mine"}\n{"thing": 1}\n')
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "rows.jsonl:13: this row is a draft of mine (and 1 more malformed rows); mend the row" in told
    assert main([*command, "--data.on_bad_row", "skip"]) == 0
    assert "data.shape raises KeyError: 'item'" in (tmp_path / "kept.ledger.jsonl").read_text()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"shape": "my_shape"}, 'write "auto", or a function of yours as "module:function"'),
        ({"shape": "my_shape:parse", "columns": {"prompt": "q"}}, "both say how rows are read"),
        ({"shape": "my_shape:nothing"}, "the module my_shape has no nothing"),
        ({"shape": "no_such_shape:parse"}, "cannot be imported"),
        ({"shape": "my_shape:constant"}, "this is int, not a function of a row"),
    ],
)
def test_a_shape_that_is_none_is_refused(mine, settings, what):
    with pytest.raises(InputError, match=what):
        reader_of(parse_config({"data": settings}).data.read_as_training("rows"), [])


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (["p"], "data.shape returns list, and should return a dict of prompt, response, reference"),
        ({"prompt": "p", "answer": "r"}, r"data.shape returns the keys \['answer', 'prompt'\]"),
        ({"prompt": "p"}, "response is empty or missing"),
        ({"prompt": "p", "response": ["r"]}, "response is list, not text"),
    ],
)
def test_what_a_function_returns_is_checked_as_any_row(returned, what):
    with pytest.raises(BadRow, match=what):
        read_by(lambda row: returned, {}, Purpose())

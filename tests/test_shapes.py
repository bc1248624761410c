from __future__ import annotations

import json

import pytest

from tutelage import build_text_pairs
from tutelage.data.shapes import BadRow, parse_row

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
    pair = parse_row(GSM8K)
    assert pair["reference"] == "1072"
    assert pair["response"] == "<think> He has 48/2 = 24 clips.\nSo 48+24 = 1,072. </think> <answer> 1,072 </answer>"


def test_math_rows_take_the_boxed_answer():
    pair = parse_row(MATH)
    assert pair["reference"] == "\\frac{1}{2}"
    assert pair["response"].endswith("</think> <answer> \\frac{1}{2} </answer>")


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({"problem": "p", "solution": "2 + 5 = 7", "answer": "5"}, "2 + 5 = 7"),
        ({"problem": "p", "solution": "so \\boxed{7}", "answer": "5"}, "<think> so \\boxed{7} </think> <answer> 7 </answer>"),
        ({"problem": "p", "solution": "", "answer": "5"}, ""),
        ({"problem": "p", "solution": float("nan"), "answer": "5"}, ""),
    ],
)
def test_a_reference_is_never_written_into_a_response(row, response):
    pair = parse_row(row, needs_response=False)
    assert (pair["response"], pair["reference"]) == (response, "5")


def test_prompt_response_rows_and_numbers_as_references():
    assert parse_row({"prompt": "p", "response": "r", "reference": 4}) == {
        "prompt": "p",
        "response": "r",
        "reference": "4",
    }


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
    assert parse_row(row, needs_response=False)["reference"] == reference


def test_a_column_mapping_reaches_into_the_row():
    row = {"q": "p", "out": {"text": "r"}, "meta": {"gold": 3}}
    columns = {"prompt": "q", "response": "out.text", "reference": "meta.gold"}
    assert parse_row(row, columns) == {"prompt": "p", "response": "r", "reference": "3"}
    with pytest.raises(BadRow, match=r"'out\.body'.*not in this row"):
        parse_row(row, {**columns, "response": "out.body"})


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"foo": 1}, "no known shape"),
        ({"messages": "hello"}, "messages is not a list"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\] has no role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no user turn"),
        ({"messages": [MESSAGES["messages"][0], MESSAGES["messages"][0]]}, "more than one user turn"),
        ({"messages": [MESSAGES["messages"][0]]}, "response is empty or missing"),
        ({"prompt": "p", "response": ["r"]}, "response is list, not text"),
        ({"prompt": " ", "response": "r"}, "prompt is empty"),
        ({"prompt": "p", "response": "r", "reference": " "}, "reference is empty"),
        ({"problem": "p", "solution": "no box"}, "boxed"),
        ({"question": "q", "answer": None}, "answer is null"),
        ({"problem": "p", "solution": ["x"], "answer": "5"}, "solution is list, not text"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"messages\[0\] has no role"),
        ({"prompt": "p \ud83d", "response": "r"}, "half of a surrogate pair"),
        ({"prompt": "p", "response": "r", "reference": ""}, "reference is empty"),
    ],
)
def test_a_malformed_row_says_which_key(row, what):
    with pytest.raises(BadRow, match=what):
        parse_row(row)

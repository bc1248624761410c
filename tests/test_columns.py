"""`data.columns` and `data.where`: paths into a row, texts over several columns, a row of each item."""

from __future__ import annotations

import re

import pytest
from shaped import QUESTIONS, S1, WORK, asked, chat, question, read, reader, two

from tutelage.errors import InputError


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("messages[-1].content", "b"),
        ("generations[0]", "x"),
        ("a.b", "literal"),
        ("meta.c.d", "deep"),
        ("the key", "spaced"),
        ("{generations[1]}: {a.b}", "y: literal"),
        ("\\boxed{{{answer}}}", "\\boxed{5}"),
        ("\\frac{1}{2} {answer}", "\\frac{1}{2} 5"),
        ("<think>\n{the key}\n</think>\n{answer}", "<think>\nspaced\n</think>\n5"),
    ],
)
def test_columns_are_paths_or_texts_with_paths(path, value):
    row = {
        "messages": [{"content": "a"}, {"content": "b"}], "generations": ["x", "y"], "a.b": "literal", "a": {"b": "inner"},
        "meta": {"c.d": "deep"}, "the key": "spaced", "answer": 5, "q": "p",
    }  # fmt: skip
    assert read([row], columns={"prompt": "q", "response": path})[0].response == value


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"response": "meta.d"}, r"column 'meta.d' \(from data.columns\) is not in this row; the keys there are \['c'\]"),
        ({"response": "{q} {missing}"}, r"'missing'.*is not in this row; its keys are \['empty', 'list', 'meta', 'q', 'short'\]"),
        ({"response": "list[7]"}, "wants item 7 of a list of 2"),
        ({"response": "q[0]"}, "wants an item of a list, but finds str"),
        ({"response": "<think>{empty}</think>{q}"}, "empty is empty, and"),
        ({"prompt": "list[*]", "response": "short[*]"}, "have 1 and 2 items"),
        ({"response": "meta"}, "response is dict, not text"),
    ],
)
def test_a_column_that_cannot_be_read_says_which(columns, what):
    row = {"q": "p", "meta": {"c": 1}, "list": ["a", "b"], "short": ["a"], "empty": None}
    assert re.search(what, read([row], columns={"prompt": "q"} | columns)[0].fault)


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"prompt": "q", "response": "\\boxed{answer}"}, r"write {{answer}} for the text, {{{answer}}} for the column in braces"),
        ({"prompt": "q", "response": "a[*].b[*]"}, r"\[\*\] may stand once"),
        ({"prompt": " "}, "data.columns.prompt is empty"),
        ({"prompt": "{1} {}"}, "no column stands in its braces"),
    ],
)
def test_columns_that_can_be_meant_in_two_ways_are_refused(columns, what):
    with pytest.raises(InputError, match=re.escape(what) if "write" in what else what):
        reader([{"q": "p", "answer": 5}], columns=columns)


def test_a_column_of_each_item_makes_a_row_of_each():
    row = {"problem": "p", "generations": ["a", "b", None], "models": ["x", "y", "z"], "answer": "5", "ok": [True, False, True]}
    columns = {"prompt": "problem", "response": "{models[*]}: {generations[*]}", "reference": "answer"}
    parsed = read([row], columns=columns, where="ok[*]")
    assert [each.source for each in parsed] == ["f.jsonl:1[0]", "f.jsonl:1[1]", "f.jsonl:1[2]"]
    assert [each.response for each in parsed] == ["x: a", "", ""] and [each.reference for each in parsed] == ["5", "", ""]
    assert [each.left_out for each in parsed] == ["", 'data.where = "ok[*]"', ""]
    assert [bool(each.fault) for each in parsed] == [False, False, True] and "generations[*] is empty" in parsed[2].fault
    assert read([row], columns=columns | {"response": "generations[*]"})[2].fault == "response is empty or missing"
    assert "has no items" in read([row | {"generations": []}], columns={"prompt": "problem", "response": "generations[*]"})[0].fault


@pytest.mark.parametrize(
    ("value", "kept"),
    [(True, True), ("true", True), ("True", True), (1, True), ("1", True), (0.5, True), (False, False), ("", False), ("0", False), (None, False),
     (float("nan"), False), ("False", False)],
)  # fmt: skip
def test_where_keeps_rows_for_which_it_is_true(value, kept):
    parsed = read([{"prompt": "p", "response": "r", "verdict": {"ok": value}}], where="verdict.ok")[0]
    assert (parsed.left_out == "", parsed.fault) == (kept, "") and "verdict" not in parsed.unread


def test_where_that_cannot_be_told_is_a_fault_or_an_error():
    rows = [{"prompt": "p", "response": "r", "verdict": "maybe"}, {"prompt": "p", "response": "r"}]
    assert [bool(parsed.fault) for parsed in read(rows, where="verdict")] == [True, False]
    assert read(rows, where="verdict")[1].left_out
    assert "no such column" in asked(rows, where="verdikt")
    assert "selects items of a list, but no data.columns" in asked(rows, where="verdict[*]")


def test_columns_that_leave_out_a_field_take_it_by_its_name():
    parsed = read(S1, columns={"response": "deepseek_attempt", "reference": "solution"})[0]
    assert (parsed.prompt, parsed.response, parsed.reference) == (QUESTIONS[0], WORK + "y", "128")
    assert "gemini_attempt" in parsed.unread and "question" not in parsed.unread


def test_columns_without_a_response_leave_the_question_which_work_is_meant():
    assert "data.columns names no response, and gemini_attempt" in asked(S1, columns={"prompt": "question"})
    rows = two(q=question, solution=WORK, answer="5")
    assert [(parsed.response, parsed.reference) for parsed in read(rows, columns={"prompt": "q"})] == [(WORK, "5")] * 2


def test_a_column_of_messages_is_a_conversation_also_where_columns_name_it():
    turns = [*chat(0), *chat(1)]
    assert len(read([{"talk": turns}], columns={"prompt": "talk"})[0].messages) == 4
    assert read([{"talk": turns[:1], "said": WORK}], columns={"prompt": "talk", "response": "said"})[0].response == WORK

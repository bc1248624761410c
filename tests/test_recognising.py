"""Rows of public shapes: each is read as it was meant, or is a question that shows the lines to write."""

from __future__ import annotations

import json
import pickle
import re
import sys
import time
import tomllib

import pytest

from tutelage.config import Source
from tutelage.data import Parsed, Reader, Row, reader_of
from tutelage.data.messages import turns_of
from tutelage.data.names import kind_of
from tutelage.data.own import Watched
from tutelage.data.parsed import BadRow
from tutelage.data.works import split_final
from tutelage.errors import InputError

QUESTIONS = ("What is the sum of two and three, if each counts once?", "How many primes are there between ten and thirty?")
WORK = "We write the calculation out, step by step, until nothing is left to show."
THOUGHT = "Okay, let me think. First I try one thing, then another one; wait, no. " * 3


def reader(rows: list[dict], problems: bool = False, reward: str = "r1_zero", setting: str = "data", **how) -> Reader:
    head = [Row(f"f.jsonl:{index}", row) for index, row in enumerate(rows, 1)]
    return reader_of(Source(path="f.jsonl", **how), head, problems, reward, setting)


def read(rows: list[dict], problems: bool = False, reward: str = "r1_zero", **how) -> list[Parsed]:
    made = reader(rows, problems, reward, **how)
    return [parsed for index, row in enumerate(rows, 1) for parsed in made.read(Row(f"f.jsonl:{index}", row))]


def asked(rows: list[dict], problems: bool = False, reward: str = "r1_zero", **how) -> str:
    with pytest.raises(InputError) as refused:
        reader(rows, problems, reward, **how)
    return str(refused.value)


def two(**columns) -> list[dict]:
    """Two rows; a function is called with the index of its row."""
    return [{name: value(index) if callable(value) else value for name, value in columns.items()} for index in (0, 1)]


def question(index: int) -> str:
    return QUESTIONS[index]


def chat(index: int, answer: str = WORK) -> list[dict]:
    return [{"role": "user", "content": QUESTIONS[index]}, {"role": "assistant", "content": answer}]


BOXED = WORK + " \\boxed{5}"
TAGGED = f"<think> {BOXED} </think> <answer> 5 </answer>"
THINKING = f"<think>{THOUGHT}</think>So \\boxed{{5}}"

READ = {
    "LIMO": (two(question=question, solution=BOXED, answer="5"), TAGGED, "5"),
    "question, response, answer": (two(question=question, response=BOXED, answer=5), TAGGED, "5"),
    "problem, response, answer": (two(problem=question, response=THINKING, answer="5"), THINKING, "5"),
    "reasoning": (two(question=question, reasoning=WORK, answer="5"), f"<think> {WORK} </think> <answer> 5 </answer>", "5"),
    "CoT by another name": (two(Question=question, Complex_CoT=WORK, answer="5"), f"<think> {WORK} </think> <answer> 5 </answer>", "5"),
    "OpenMathReasoning": (
        two(expected_answer="5", problem_type="x", problem_source="aops", generation_model="R1", pass_rate_72b_tir="0.9",
            problem=question, generated_solution=THINKING, inference_mode="cot", used_in_kaggle=True), THINKING, "5",
    ),
    "NuminaMath 1.5": (
        two(problem=question, solution=BOXED, answer="5", problem_type="Algebra", question_type="math-word-problem",
            problem_is_valid="Yes", solution_is_valid="Yes", source="olympiads", synthetic=False), TAGGED, "5",
    ),
    "NuminaMath-CoT": (
        two(source="cn_k12", problem=question, solution=BOXED, messages=lambda index: chat(index, BOXED)), TAGGED, "5",
    ),
    "MATH": (two(problem=question, solution=BOXED, level="Level 1", type="Algebra"), TAGGED, "5"),
    "the same box twice": (
        two(problem=question, solution="It is \\boxed{5}. So \\boxed{5}."),
        "<think> It is \\boxed{5}. So \\boxed{5}. </think> <answer> 5 </answer>", "5",
    ),
    "DeepScaleR": (two(problem=question, answer="-\\frac{2}{3}", solution=BOXED), TAGGED, "-\\frac{2}{3}"),
    "GSM8K": (
        two(question=question, answer="48/2 = <<48/2=24>>24.\n#### 1,072"), "<think> 48/2 = 24. </think> <answer> 1,072 </answer>", "1072",
    ),
    "an answer with a work and its final": (two(question=question, answer=BOXED, final_answer="5"), TAGGED, "5"),
    "MetaMathQA": (
        two(type="GSM", query=question, original_question="Once more, in other words: how many are two and three together?",
            response=f"{WORK}\n#### 110\nThe answer is: 110"), f"<think> {WORK} </think> <answer> 110 </answer>", "110",
    ),
    "Alpaca without inputs": (two(instruction=question, input="", output=WORK), WORK, ""),
    "TRL": (two(prompt=lambda index: chat(index)[:1], completion=lambda index: chat(index)[1:]), WORK, ""),
    "TRL in text": (two(prompt=question, completion=BOXED, answer="5"), BOXED, "5"),
    "no_robots": (two(prompt=question, prompt_id="a", messages=chat, category="x"), WORK, ""),
    "ShareGPT": (
        two(id="a", conversations=lambda index: [{"from": "human", "value": QUESTIONS[index]}, {"from": "gpt", "value": WORK}]), WORK, "",
    ),
    "messages in columns": (
        two(messages=lambda index: {"role": ["user", "assistant"], "content": [QUESTIONS[index], WORK]}, answer=5), WORK, "5",
    ),
    "parts": (
        two(messages=lambda index: [{"role": "user", "content": [{"type": "text", "text": QUESTIONS[index]}]}, *chat(index)[1:]]), WORK, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_public_shapes_are_read_as_they_are_meant(name):
    rows, response, reference = READ[name]
    for index, parsed in enumerate(read(rows)):
        assert (parsed.fault, parsed.prompt, parsed.response, parsed.reference) == ("", QUESTIONS[index], response, reference)
        assert parsed.messages == () and parsed.source == f"f.jsonl:{index + 1}"


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({"question": "q", "reasoning": WORK, "answer": "5"}, f"<think>\n{WORK}\n</think>\n\n\\boxed{{5}}"),
        ({"question": "q", "answer": "48/2 = <<48/2=24>>24.\n#### (2, 2)"}, "48/2 = 24.\n\n\\boxed{(2, 2)}"),
        ({"problem": "q", "solution": BOXED}, BOXED),
        ({"problem": "q", "solution": f"<think> {WORK} </think> <answer> 5 </answer>"}, f"<think> {WORK} </think> <answer> 5 </answer>"),
    ],
)
def test_a_response_shows_its_answer_as_the_grader_wants_it(row, response):
    assert read([row], reward="question_only")[0].response == response


OPEN_R1 = two(
    problem=question, solution=WORK + " $5$", answer="5", problem_type="x", source="olympiads", uuid=lambda index: f"a{index}",
    is_reasoning_complete=[True, True], generations=[THINKING, THINKING + "!"], correctness_math_verify=[True, False],
    correctness_llama=None, correctness_count=1, messages=lambda index: chat(index, THINKING),
)  # fmt: skip
S1 = two(
    solution="128", question=question, cot_type="math", source_type="AI-MO", metadata='{"a": "a longer text, of where this row is from"}',
    gemini_thinking_trajectory=THOUGHT, gemini_attempt=WORK, deepseek_thinking_trajectory=THOUGHT + "x", deepseek_attempt=WORK + "y",
    gemini_grade="Yes", gemini_grade_reason=WORK, deepseek_grade="Yes",
)  # fmt: skip
JOINED = r"<think>\n{%s}\n</think>\n<answer>\n{%s}\n</answer>"
ASKED = {
    "s1K-1.1": (S1, ['response = "deepseek_attempt"', JOINED % ("deepseek_thinking_trajectory", "deepseek_attempt")]),
    "s1K": (
        two(solution=WORK, question=question, cot_type="math", thinking_trajectories=[THOUGHT], attempt=BOXED),
        [JOINED % ("thinking_trajectories[0]", "attempt"), 'response = "solution"'],
    ),
    "OpenR1-Math": (
        OPEN_R1,
        ['response = "generations[*]"', 'where = "correctness_math_verify[*]"', 'response = "messages[-1].content"', '"solution"'],
    ),
    "generations alone": (
        two(problem=question, answer="5", generations=[THINKING, WORK]), ['response = "generations[*]"', 'response = "generations[0]"'],
    ),
    "OpenThoughts' metadata": (
        two(problem=question, deepseek_reasoning=THOUGHT, deepseek_solution=WORK, ground_truth_solution="5", domain="math"),
        [JOINED % ("deepseek_reasoning", "deepseek_solution"), 'response = "deepseek_solution"'],
    ),
    "medical-o1": (two(Question=question, Complex_CoT=THOUGHT, Response=WORK), [JOINED % ("Complex_CoT", "Response"), '"Response"']),
    "a thought beside messages": (two(messages=chat, reasoning=THOUGHT), [JOINED % ("reasoning", "messages[1].content")]),
    "a long text beside a short response": (two(question=question, response="5", notes_of_it=THOUGHT), ['"notes_of_it"', '"response"']),
    "messages that say something else": (
        two(problem=question, solution=BOXED, messages=lambda index: chat(index, THINKING)), ['"messages[-1].content"', '"solution"'],
    ),
    "Alpaca": (two(instruction=question, input=lambda index: "x = 5" * index, output=WORK), [r"{instruction}\n\n{input}", '"instruction"']),
    "Dolly": (
        two(instruction=question, context=lambda index: "Some passage." * index, response=WORK, category="qa"),
        [r"{context}\n\n{instruction}", 'prompt = "instruction"'],
    ),
    "a system's text": (two(system="Be brief.", question=question, response=WORK), [r"{system}\n\n{question}", '"question"']),
    "a context by its content": (
        two(question=question, tale=lambda index: f"Once upon a time there lived {index} kings in a castle by the sea.", response=WORK),
        [r"{tale}\n\n{question}", 'prompt = "question"'],
    ),
    "an instruction beside a question": (
        two(instruction="Answer in French.", question=question, response=WORK), [r"{instruction}\n\n{question}", 'prompt = "question"'],
    ),
    "AQuA": (two(question=question, options=["A) 1", "B) 2"], rationale=WORK, correct="A"), ['prompt = "question"']),
    "Orca-Math": (two(question=question, answer=lambda index: WORK + str(index)), ['response = "answer"']),
    "bare answers": (two(question=question, answer="5"), ["without its work", 'response = "answer"']),
    "problems": (two(prompt=lambda index: chat(index)[:1], reward_model={"ground_truth": "5"}), ["without its work"]),
    "a preference set": (
        two(prompt=question, chosen=chat, rejected=chat), ['columns = { prompt = "prompt", response = "chosen[-1].content" }'],
    ),
    "columns within a column": (
        two(question=question, info={"solution": WORK, "final_answer": "5"}),
        ['columns = { prompt = "question", response = "info.solution", reference = "info.final_answer" }'],
    ),
    "nothing known": ([{"x": 1}], ["keys ['x'] are of no known shape"]),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_can_be_meant_in_two_ways_is_a_question_with_lines_to_copy(name):
    rows, shown = ASKED[name]
    message = asked(rows)
    assert message.startswith("f.jsonl:1: ") and all(each in message for each in shown), message


@pytest.mark.parametrize("name", [name for name in ASKED if name not in ("problems", "nothing known")])
def test_the_lines_of_a_question_are_an_answer_to_it(name):
    rows = ASKED[name][0]
    for lines in re.findall(r"\[data\]\n(columns = .*(?:\nwhere = .*)?)", asked(rows)):
        how = tomllib.loads(lines)
        parsed = [each for each in read(rows, **how) if not each.left_out]
        assert parsed and not any(each.fault for each in parsed), (lines, parsed[0].fault)


def test_metadata_raises_no_question():
    about = {
        "id": "a long identifier of the row, with words in it", "source": "olympiads", "url": "https://example.org/a/page/of/it",
        "metadata": "a long text about the row, and where it is from", "scores": [0.1], "model_name": "a-model", "num_tokens": 7,
        "subject": "Algebra", "level": 5, "problem_type": "x", "difficulty_reason": WORK, "tags": ["a"], "reasoning": "on",
    }  # fmt: skip
    rows = [{"prompt": QUESTIONS[index], "response": WORK, "answer": "5", **about} for index in (0, 1)]
    assert set(read(rows)[0].unread) == set(about)


def test_a_context_that_the_prompt_holds_already_is_no_question():
    rows = two(prompt=lambda index: f"A passage. {QUESTIONS[index]} A) 1 B) 2", context="A passage.", options=["A) 1", "B) 2"], response=WORK)
    assert not any(parsed.fault for parsed in read(rows))


def test_a_context_that_only_a_later_row_holds_is_its_fault():
    made = reader(two(instruction=question, input="", output=WORK))
    assert "input holds something that nothing reads" in made.read(Row("f:9", {"instruction": "a", "input": "x", "output": "b"}))[0].fault


def test_problems_need_no_work_and_ask_for_context_alone():
    assert [parsed.reference for parsed in read(S1, problems=True)] == ["128", "128"]
    assert [parsed.reference for parsed in read(OPEN_R1, problems=True)] == ["5", "5"]
    message = asked(two(question=question, passage="A passage.", answer="5"), problems=True, setting="data.validation")
    assert 'path = "f.jsonl"\ncolumns = { prompt = "{passage}\\n\\n{question}", reference = "answer" }' in message
    dapo = two(data_source="dapo", prompt=lambda index: chat(index)[:1], reward_model={"ground_truth": "34", "style": "rule"}, ability="x")
    assert [(parsed.prompt, parsed.reference, parsed.response) for parsed in read(dapo, problems=True)] == [(q, "34", "") for q in QUESTIONS]


def test_problems_are_read_by_their_own_shape_where_they_lack_the_trainings_columns():
    omr = {"prompt": "problem", "response": "generated_solution", "reference": "expected_answer"}
    math500 = two(problem=question, solution=BOXED, answer="42", subject="Algebra", level=1, unique_id="t/2")
    assert [parsed.reference for parsed in read(math500, problems=True, columns=omr)] == ["42", "42"]
    message = asked([{"x": "a", "y": 5}], problems=True, columns=omr, setting="data.validation")
    assert "[data.validation]\npath = " in message and "expected_answer" in message and "['x', 'y']" in message


def test_a_row_without_a_reference_is_none_at_fault():
    rows = [{"prompt": "p", "response": "r", "answer": answer} for answer in ("5", "", None, " ", float("nan"))]
    assert [(parsed.reference, parsed.fault) for parsed in read(rows)] == [("5", ""), *[("", "")] * 4]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(5, "5"), (0.5, "0.5"), (["5", "five"], ("5", "five")), ("proof", ""), ("N/A", ""), ([], ""), (204, "204")],
)
def test_a_reference_is_what_the_grader_makes_of_the_value(answer, reference):
    assert read([{"prompt": "p", "response": "r", "answer": answer}])[0].reference == reference
    assert read([{"q": "p", "r": "r", "a": answer}], columns={"prompt": "q", "response": "r", "reference": "a"})[0].reference == reference


def test_a_reference_that_is_no_answer_is_a_fault():
    assert "list within a list" in read([{"prompt": "p", "response": "r", "answer": [["5"]]}])[0].fault


def test_a_row_whose_work_is_null_never_learns_its_answer():
    rows = [*two(question=question, solution=BOXED, answer="5"), {"question": "q", "solution": None, "answer": THINKING}]
    assert read(rows)[2].fault == "solution is null"


def test_rows_of_two_shapes_in_one_table_are_each_read_by_their_own():
    rows = [
        {"messages": chat(0), "prompt": None, "response": None},
        {"messages": None, "prompt": "p", "response": WORK},
    ]
    assert [(parsed.prompt, parsed.response, parsed.fault) for parsed in read(rows)] == [(QUESTIONS[0], WORK, ""), ("p", WORK, "")]


# ── conversations ──


def test_more_than_a_question_and_its_answer_is_kept_as_messages():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "5", "tool_call_id": "x"},
        {"role": "assistant", "content": "b", "reasoning": "c", "weight": 1},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e", "weight": 0},
    ]
    parsed = read([{"messages": turns, "tools": '[{"name": "f"}]'}])[0]
    assert [turn["role"] for turn in parsed.messages] == [turn["role"] for turn in turns] and parsed.tools == ({"name": "f"},)
    assert parsed.messages[2] == {"role": "assistant", "content": "", "tool_calls": turns[2]["tool_calls"]}
    assert parsed.messages[3] == {"role": "tool", "content": "5", "tool_call_id": "x"}
    assert parsed.messages[4] == {"role": "assistant", "content": "b", "reasoning_content": "c"}
    assert parsed.messages[6] == {"role": "assistant", "content": "e", "train": False}
    assert (parsed.prompt, parsed.response) == ("d", "e")
    problem = read([{"messages": turns, "answer": 5}], problems=True)[0]
    assert problem.messages[-1] == {"role": "user", "content": "d"} and problem.response == ""


def test_a_system_column_is_the_systems_turn_of_a_conversation():
    parsed = read(two(system="Be brief.", conversations=chat))[0]
    assert parsed.messages[0] == {"role": "system", "content": "Be brief."} and not parsed.unread
    assert read(two(system="", conversations=chat))[0].messages == ()


def test_an_empty_system_turn_is_left_out_and_an_open_question_is_named():
    turns = [{"role": "system", "content": ""}, *chat(0), {"role": "user", "content": "Thanks!"}]
    parsed = read([{"messages": turns}])[0]
    assert (parsed.response, parsed.messages, parsed.unread) == (WORK, (), ("messages[-1]",))


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], r"messages\[0\].content has a part of type 'image'"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\] has the role 'robot'"),
        ([{"role": "user", "content": ""}], r"messages\[0\].content is empty"),
        ([{"role": "assistant", "content": "x", "weight": 0.5}], r"messages\[0\].weight is 0.5, and should be 0 or 1"),
        ([{"role": "assistant", "content": "x", "train": "no"}], r"messages\[0\].train is 'no'"),
        ([{"role": "assistant", "content": "x", "train": True, "weight": 0}], "different things"),
        ([{"role": "assistant", "content": "x", "reasoning": "a", "thinking": "b"}], "several thoughts"),
        ([{"role": "assistant", "content": "<think>a</think>x", "reasoning": "b"}], "thought in its content and another"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content is empty"),
        (["x"], r"messages\[0\] is str, not a message"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(turns, what):
    with pytest.raises(BadRow, match=what):
        turns_of(turns, "messages")


def test_a_conversation_of_which_nothing_is_trained_is_a_fault():
    rows = [{"messages": [chat(0)[0], {**chat(0)[1], "train": False}]}, {"messages": chat(1)}]
    assert "no turn of messages is trained" in read(rows)[0].fault


@pytest.mark.parametrize(
    ("user", "assistant", "row", "reference"),
    [
        ({"info": {"reference_answer": ""}}, {"info": {"reference_answer": "5"}}, {"answer": "6"}, "5"),
        ({"info": {"reference_answer": None}}, {"reference": "5"}, {}, "5"),
        ({}, {"reference": "5"}, {"answer": "6"}, "6"),
        ({}, {}, {"reward_model": {"ground_truth": "5"}, "extra_info": {"answer": "6"}}, "5"),
        ({}, {}, {"extra_info": {"answer": "x\n#### 1,000"}}, "1000"),
        ({}, {"content": BOXED}, {}, "5"),
    ],
)
def test_the_reference_of_a_conversation_is_found_where_it_is(user, assistant, row, reference):
    turns = [chat(0)[0] | user, chat(0)[1] | assistant]
    assert read([{"messages": turns, **row}])[0].reference == reference


def test_fields_of_messages_that_nothing_reads_are_named():
    turns = [chat(0)[0] | {"timestamp": 7}, chat(0)[1] | {"annotations": [], "logprobs": [0.1]}]
    assert read([{"messages": turns, "id": 3}])[0].unread == ("messages[].timestamp", "messages[].logprobs", "id")


# ── data.columns and data.where ──


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
    assert [each.source for each in parsed] == ["f.jsonl:1[0]", "f.jsonl:1[1]", "f.jsonl:1[2]"] or "generations[*] is empty" in parsed[0].fault
    parsed = read([row | {"generations": ["a", "b", "c"]}], columns=columns, where="ok[*]")
    assert [each.response for each in parsed] == ["x: a", "", "z: c"]
    assert [each.left_out for each in parsed] == ["", 'data.where = "ok[*]"', ""]
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


# ── the rest ──


def test_a_text_behind_the_mark_is_no_part_of_the_answer():
    assert split_final("work\n#### 5\nThe answer is 5.") == ("work", "5", "5")
    assert split_final("#### Step 1\nadd\n#### Step 2\nadd again\nand so on") is None
    finals = ("1,234", "(2, 2)", "$1,234.50", "1, 2, 3", "(1,234)")
    read_so = [read([{"question": "q", "answer": f"w\n#### {final}\nThanks!"}])[0] for final in finals]
    assert [parsed.reference for parsed in read_so] == ["1234", "(2, 2)", "$1234.50", "1, 2, 3", "(1,234)"]
    assert [parsed.response for parsed in read_so] == [f"<think> w </think> <answer> {final} </answer>" for final in finals]


def test_names_say_what_columns_hold():
    works = ["deepseek_attempt", "model_output", "generated_solution", "Complex_CoT", "solution_1", "chainOfThought", "thinking_trajectories"]
    about = ["solution_model", "response_length", "cot_type", "num_generations", "problem_is_valid", "prompt_id", "answer_type"]
    assert {kind_of(name) for name in works} == {"work"} and {kind_of(name) for name in about} == {""}


def test_a_function_is_watched_for_the_columns_that_it_asks_for(tmp_path, monkeypatch):
    (tmp_path / "watched_shape.py").write_text("def one(row):\n    return {'prompt': row['q'], 'response': row.get('r')}\n"
                                               "def every(row):\n    return {'prompt': dict(**row)['q'], 'response': 'r'}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    rows = [{"q": "p", "r": "s", "system": "Be brief."}]
    assert read(rows, shape="watched_shape:one")[0].unread == ("system",)
    assert read(rows, shape="watched_shape:every")[0].unread == ()
    made = pickle.loads(pickle.dumps(reader(rows, shape="watched_shape:one")))
    assert made.read(Row("f:1", rows[0]))[0].response == "s"


@pytest.mark.parametrize("use", [dict, list, lambda row: row | {}, lambda row: {**row}, json.dumps, str, lambda row: row.copy()])
def test_uses_of_a_full_row_count_as_reading_all_of_it(use):
    row = Watched({"a": 1, "b": 2})
    use(row)
    assert row.all or row.asked == {"a", "b"}


def test_a_reader_travels_and_never_raises_for_a_bad_row():
    made = pickle.loads(pickle.dumps(reader(READ["LIMO"][0])))
    for value in ({}, {"question": 3}, {"question": [], "solution": {}}, {"solution": b"x", "question": "q"}, {"question": "q", "answer": {}}):
        assert made.read(Row("f:1", value))[0].fault
    assert made.read(Row("f:2", {}, "not valid JSON"))[0].fault == "not valid JSON"


def test_simple_rows_are_read_in_microseconds():
    rows = [{"prompt": "What is 2+3?", "response": TAGGED, "answer": "5"}] * 2000
    made = reader(rows[:200])
    wrapped = [Row("f:1", row) for row in rows]
    best = min(_seconds(made, wrapped) for _ in range(3))
    assert best / len(rows) < 60e-6  # 4 µs on an idle core


def _seconds(made: Reader, rows: list[Row]) -> float:
    start = time.perf_counter()
    for row in rows:
        made.read(row)
    return time.perf_counter() - start

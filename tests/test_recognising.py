"""Rows of public shapes: each is read as it was meant, or is a question that shows the lines to write."""

from __future__ import annotations

import json
import pickle
import re
import sys
import time
import tomllib

import pytest
from shaped import BOXED, QUESTIONS, S1, THOUGHT, WORK, asked, chat, question, read, reader, two

from tutelage.data import Row
from tutelage.data.shapes.names import kind_of
from tutelage.data.shapes.own import Watched
from tutelage.data.shapes.reader import Reader
from tutelage.data.shapes.works import split_final

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


def test_a_joined_response_has_the_form_that_the_grader_wants():
    message = asked(S1, reward="question_only")
    assert r'response = "<think>\n{deepseek_thinking_trajectory}\n</think>\n{deepseek_attempt}"' in message
    assert "wants eval.reward" not in message and "wants eval.reward" in asked(ASKED["s1K"][0])
    rows = two(question=question, thinking=THOUGHT, response="<answer> 5 </answer>", answer="5")
    assert r'response = "<think>\n{thinking}\n</think>\n{response}"' in asked(rows)


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


def test_problems_without_the_trainings_columns_have_a_shape_of_their_own():
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


def test_a_column_that_one_row_lacks_and_another_has_as_null_is_told_apart():
    made = reader(two(question=question, solution=BOXED, answer="5"))
    faults = [made.read(Row("f:9", row))[0].fault for row in ({"question": "q", "solution": None, "answer": 5}, {"question": "q", "answer": 5})]
    assert faults[0] == "solution is null" and "a problem without its work" in faults[1]


def test_rows_of_two_shapes_in_one_table_are_each_read_by_their_own():
    rows = [
        {"messages": chat(0), "prompt": None, "response": None},
        {"messages": None, "prompt": "p", "response": WORK},
    ]
    assert [(parsed.prompt, parsed.response, parsed.fault) for parsed in read(rows)] == [(QUESTIONS[0], WORK, ""), ("p", WORK, "")]


def test_a_text_behind_the_mark_is_no_part_of_the_answer():
    assert split_final("work\n#### 5\nThe answer is 5.") == ("work", "5", "5")
    assert split_final("#### Step 1\nadd\n#### Step 2\nadd again\nand so on") is None
    finals = ("1,234", "(2, 2)", "$1,234.50", "1, 2, 3", "(1,234)")
    read_so = [read([{"question": "q", "answer": f"w\n#### {final}\nThanks!"}])[0] for final in finals]
    assert [parsed.reference for parsed in read_so] == ["1234", "(2, 2)", "$1234.50", "1, 2, 3", "(1,234)"]
    assert [parsed.response for parsed in read_so] == [f"<think> w </think> <answer> {final} </answer>" for final in finals]


def test_names_say_what_columns_hold():
    works = ["deepseek_attempt", "model_output", "generated_solution", "Complex_CoT", "solution_1", "chainOfThought", "thinking_trajectories"]
    about = ["wrong_answer", "rejected_response", "model_name", "solution_model", "response_length", "cot_type", "num_generations", "problem_is_valid", "prompt_id", "answer_type"]
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

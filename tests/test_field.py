"""Rows as strangers bring them, through `prepare`: what is learnt, or the sentence that says what to write."""

from __future__ import annotations

import json
import sys

import pytest
from chat_templates import tokenizer_of

from tutelage.data import prepare
from tutelage.errors import InputError

QUESTIONS = ("What is 2 + 3?", "How many primes are below 30?", "Find x. Then double it.", "What is 7 choose 3?")
WORK = "We compute it with care, step by step, and find \\boxed{5}."
OPENED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def prepared(make_config, tokenizer, tmp_path):
    """A function of rows (one of a question each) and settings: (what is prepared, its tokenizer)."""

    def made(row, kind: str = "", **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row(question)) + "\n" for question in QUESTIONS))
        common = {"data__test_size": 0.5, "data__max_length": 512, "data__filter": False, "eval__reward": "question_only"}
        return prepare(make_config(**{"data__train": str(path)} | common | settings), tokenizer_of(kind) if kind else tokenizer)

    return made


def learnt(prepared) -> set[str]:
    return {prepared.train.example(index).response for index in range(len(prepared.train))}


def test_a_rendered_prompts_opened_thought_is_closed_before_a_response_without_one(prepared):
    found = prepared(lambda q: {"prompt": OPENED.format(q) + "<think>\n", "response": WORK, "answer": "5"}, "qwen3", data__prompt="none")
    assert learnt(found) == {"\n</think>\n\n" + WORK}


@pytest.mark.parametrize("end", ["</s>", "<|eot_id|>\n", "<|endoftext|>", "<end_of_turn>"])
def test_another_models_end_of_turn_is_not_learnt_as_text(prepared, end):
    assert learnt(prepared(lambda q: {"question": q, "response": WORK + end, "answer": "5"}, data__prompt="plain")) == {WORK}
    struck = WORK + " <s>4</s>"
    assert learnt(prepared(lambda q: {"question": q, "response": struck, "answer": "5"}, data__prompt="plain")) == {struck}


def test_a_template_of_another_model_is_named(prepared):
    found = prepared(lambda q: {"prompt": OPENED.format(q), "response": WORK, "answer": "5"}, data__prompt="plain")
    assert any("<|im_start|> is no token of this tokenizer" in note for note in found.notes)
    own = prepared(lambda q: {"prompt": OPENED.format(q), "response": WORK, "answer": "5"}, "qwen3", data__prompt="chat")
    assert not any("no token" in note for note in own.notes)


@pytest.mark.parametrize("end", ["\nAssistant: Let me solve this.\n<think>", "\n\nAssistant:"])
def test_a_prompt_in_words_that_begins_the_assistants_turn_is_not_wrapped_again(prepared, end):
    found = prepared(lambda q: {"prompt": f"User: {q}{end}", "response": f" T </think> {WORK}", "answer": "5"}, data__prompt="r1_zero")
    assert {found.train.example(index).prompt for index in (0, 1)} <= {f"User: {q}{end}" for q in QUESTIONS}


def test_a_thought_that_no_response_closes_is_told(prepared):
    found = prepared(lambda q: {"question": q, "response": WORK, "answer": "5"}, data__prompt="r1_zero")
    assert any("do not close the thought" in note for note in found.notes)
    closed = prepared(lambda q: {"question": q, "response": f"<think>\nT\n</think>\n\n{WORK}", "answer": "5"}, data__prompt="r1_zero")
    assert not any("do not close" in note for note in closed.notes)


def test_a_pair_is_written_as_the_template_writes_it_in_a_conversation(prepared):
    def pair(question: str) -> dict:
        return {"question": question, "response": WORK, "answer": "5"}

    assert learnt(prepared(pair, "mistral", data__prompt="chat")) == {" " + WORK}


@pytest.mark.parametrize("kind", ["mistral", "no-system"])
def test_a_system_turn_that_the_template_refuses_can_be_joined_by_the_line_that_is_told(prepared, kind):
    def row(question: str) -> dict:
        turns = (("system", "Be brief."), ("user", question), ("assistant", WORK))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    with pytest.raises(InputError, match="the system's text can be joined") as refused:
        prepared(row, kind, data__prompt="chat")
    columns = {"prompt": "{messages[0].content}\n\n{messages[1].content}", "response": "messages[2].content"}
    line = ", ".join(f"{field} = {json.dumps(text)}" for field, text in columns.items())
    assert f"data.columns = {{ {line} }}" in str(refused.value)
    found = prepared(row, kind, data__prompt="chat", data__columns=columns)
    assert all("Be brief.\n\n" in found.train.example(index).prompt for index in (0, 1))


def test_a_work_that_marks_no_answer_is_joined_with_it_by_the_line_that_is_told(prepared):
    def row(question: str) -> dict:
        return {"question": question, "solution": "We compute it with care, step by step, and find five.", "answer": "5"}

    with pytest.raises(InputError, match="it marks no answer") as refused:
        prepared(row, data__filter=True, eval__reward="r1_zero")
    told = "<think>\n{work}\n</think>\n<answer> {answer} </answer>"
    assert json.dumps(told) in str(refused.value)
    columns = {"prompt": "question", "response": told.replace("{work}", "{solution}"), "reference": "answer"}
    assert prepared(row, data__filter=True, eval__reward="r1_zero", data__columns=columns).ledger.counts()["kept"] == 2


def test_columns_that_may_hold_the_reference_are_named(prepared):
    with pytest.raises(InputError, match="name the column of the answers as reference in data.columns: nothing reads correct"):
        prepared(lambda q: {"problem": q, "rationale": WORK.replace("\\boxed{5}", "five"), "correct": "a"})


def test_a_text_alone_is_split_by_the_function_that_is_told(prepared, tmp_path, monkeypatch):
    def row(question: str) -> dict:
        return {"text": f"### Question: {question}\n### Answer: {WORK}"}

    with pytest.raises(InputError, match='data.shape = "shape:split"') as refused:
        prepared(row)
    (tmp_path / "shape.py").write_text(str(refused.value).partition("where you run:\n")[2])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shape", raising=False)
    with pytest.raises(InputError, match="no row has a reference answer"):
        prepared(row, data__shape="shape:split")

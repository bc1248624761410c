"""Rows of a shape, and how they are read, for the tests of shapes."""

from __future__ import annotations

import pytest

from tutelage.config import Source
from tutelage.data import Parsed, Row, reader_of
from tutelage.data.shapes.parsed import Purpose
from tutelage.data.shapes.reader import Reader
from tutelage.data.shapes.recognise import facts_of
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


def alone(row: dict, columns: dict[str, str] | None = None, problems: bool = False) -> dict:
    """The fields of a row that nothing is known of but the row itself; raises BadRow."""
    made = reader([row], problems, columns=columns) if columns else Reader(None, facts_of([row]), Purpose(problems))
    [found] = made.find(row)[1]
    return found


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
S1 = two(
    solution="128", question=question, cot_type="math", source_type="AI-MO", metadata='{"a": "a longer text, of where this row is from"}',
    gemini_thinking_trajectory=THOUGHT, gemini_attempt=WORK, deepseek_thinking_trajectory=THOUGHT + "x", deepseek_attempt=WORK + "y",
    gemini_grade="Yes", gemini_grade_reason=WORK, deepseek_grade="Yes",
)  # fmt: skip

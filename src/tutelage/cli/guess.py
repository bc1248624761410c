"""What `tutelage init` guesses from the first rows of the data: which columns hold what, which grader reads the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.data import BadRow, Row, parse_row
from tutelage.errors import InputError
from tutelage.grading import boxed_answer, tagged_answer
from tutelage.runs import flattened

NAMES = {
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input", "text"),
    "response": ("response", "solution", "completion", "generation", "generations", "output", "reasoning", "trace", "rationale"),
    "reference": (
        "reference", "reference_answer", "final_answer", "gold", "target", "expected_answer", "ground_truth", "label", "answer",
    ),
}  # fmt: skip
"""What people call their columns, the likeliest name first."""
ENOUGH = 0.9
"""A reading of the columns is taken if it finds a prompt and a response in this share of the rows."""
NO_ANSWERS = (
    "most responses have neither <think>…</think> <answer>…</answer> nor \\boxed{}, so nothing is filtered, and a model that learns"
    " them will not give answers that the grader finds"
)


@dataclass(frozen=True)
class Guess:
    """How rows are read: settings of [data], the grader, how many rows have a reference answer, and all that in words."""

    settings: dict[str, Any]
    reward: str
    references: int
    note: str


def guess(rows: list[Row]) -> Guess:
    """How these rows are read: in a known shape, or else by likely names of columns.

    Raises:
        InputError: neither gives most rows a prompt and a response.
    """
    problems: list[str] = []
    for columns in ({}, _likely_columns(rows[0])):
        if columns and not {"prompt", "response"} <= set(columns):
            continue
        pairs, problems = _read(rows, columns)
        if len(pairs) >= ENOUGH * len(rows):
            return _settle(rows, columns, pairs, problems)
    keys = sorted({key for row in rows for key in row.value})
    raise InputError(
        f"{rows[0].source}: nothing reads as a prompt and a response in rows with the keys {keys} ({problems[0]}); write data.columns"
        f" yourself ({', '.join(NAMES)})"
    )


def require_problems(rows: list[Row], columns: dict[str, str]) -> None:
    """Raises InputError if validation rows do not have a prompt and a reference, read as the training rows are."""
    asked = {field: name for field, name in columns.items() if field != "response"}
    _, problems = _read(rows, asked, needs_response=False)
    if problems:
        raise InputError(f"{problems[0]}; validation rows are read as the training rows are")


def _settle(rows: list[Row], columns: dict[str, str], pairs: list[dict[str, str]], problems: list[str]) -> Guess:
    """The settings for rows of which `pairs` could be read."""
    with_reference = sum(bool(pair["reference"]) for pair in pairs)
    reward = _grader(pairs)
    settings: dict[str, Any] = {"columns": columns} if columns else {}
    notes = [f"columns {', '.join(f'{field} = {name}' for field, name in columns.items())}" if columns else "known shape"]
    if problems:
        notes.append(f"{len(problems)} of the first {len(rows)} rows are malformed ({problems[0]}) and skipped")
    if with_reference == 0:
        notes.append("no row has a reference answer, so nothing is filtered")
    elif with_reference < len(pairs):
        notes.append(f"{len(pairs) - with_reference} rows have no reference answer, and are left out and counted")
    if columns and (unread := _unread_prompts(rows[0], columns)):
        notes.append(f"look at {', '.join(unread)}, which nothing reads: is it part of the prompt?")
    if reward is None:
        notes.append(NO_ANSWERS)
    if problems or 0 < with_reference < len(pairs):
        settings["on_bad_row"] = "skip"
    if reward is None or with_reference == 0:
        settings["filter"] = False
    return Guess(settings, reward or "r1_zero", with_reference, "; ".join(notes))


def _grader(pairs: list[dict[str, str]]) -> str | None:
    """The grader that finds an answer in most responses; None where neither does."""
    tagged = sum(tagged_answer(pair["response"]) is not None for pair in pairs)
    boxed = sum(boxed_answer(pair["response"]) is not None for pair in pairs)
    if max(tagged, boxed) < 0.5 * len(pairs):
        return None
    return "r1_zero" if tagged >= boxed else "question_only"


def _read(rows: list[Row], columns: dict[str, str], needs_response: bool = True) -> tuple[list[dict[str, str]], list[str]]:
    """The rows that can be read so, and what is wrong with each other row."""
    pairs, problems = [], []
    for row in rows:
        try:
            if row.problem:
                raise BadRow(row.problem)
            pairs.append(parse_row(row.value, columns or None, needs_response=needs_response))
        except BadRow as problem:
            problems.append(f"{row.source}: {problem}")
    return pairs, problems


def _likely_columns(row: Row) -> dict[str, str]:
    """Which column holds what, by its name; dots reach into a row."""
    by_name: dict[str, str] = {}
    for key in flattened(row.value, "."):
        by_name.setdefault(_last_name(key), key)
    # the likeliest name comes last, and stays
    return {field: by_name[name] for field, names in NAMES.items() for name in reversed(names) if name in by_name}


def _unread_prompts(row: Row, columns: dict[str, str]) -> list[str]:
    """Columns that have the name of a prompt, hold text, and are not read."""
    named = {key: value for key, value in flattened(row.value, ".").items() if _last_name(key) in NAMES["prompt"]}
    return [key for key, value in named.items() if isinstance(value, str) and value.strip() and key not in columns.values()]


def _last_name(key: str) -> str:
    return key.rpartition(".")[2].lower()

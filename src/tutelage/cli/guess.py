"""What `tutelage init` finds out from the first rows of the data: how they are read, and which grader reads their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.config import Source
from tutelage.data import Parsed, Row, likely_columns, reader_of
from tutelage.errors import InputError
from tutelage.grading import boxed_answer, tagged_answer

ENOUGH = 0.9
"""A way to read rows is taken if it reads this share of them."""
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


def guess(rows: Sequence[Row], train: str, instruct: bool = False) -> Guess:
    """How these rows are read, as training reads them; or with columns that they probably need.

    Args:
        train: their source, as `data.train`.
        instruct: the model answers chats: rows with boxes become chats, and are graded by the box.

    Raises:
        InputError: rows can be read in two ways, or most of them in none.
    """
    columns: dict[str, str] = {}
    try:
        read = _read(rows, train, columns)
    except InputError:
        columns = likely_columns([row.value for row in rows])
        if not any("." in columns.get(field, "") for field in ("prompt", "response")):
            raise
        read = _read(rows, train, columns)
    faults = [f"{each.source}: {each.fault}" for each in read["r1_zero"] if each.fault]
    if len(faults) > (1 - ENOUGH) * len(read["r1_zero"]):
        raise InputError(f"{faults[0]}; {len(faults)} of the first {len(rows)} rows cannot be read; mend them, or write data.columns")
    parsed = {reward: [each for each in found if not each.fault] for reward, found in read.items()}
    return _settle(columns, parsed, faults, len(rows), instruct)


def require_problems(rows: Sequence[Row], validation: str, columns: dict[Any, str]) -> None:
    """Raises InputError if validation rows do not have a prompt and a reference."""
    reader = reader_of(Source(path=validation, columns=columns), rows, problems=True, setting="data.validation")
    parsed = [each for row in rows for each in reader.read(row)]
    fault = next((f"{each.source}: {each.fault}" for each in parsed if each.fault), None)
    if fault is None and not any(each.reference for each in parsed):
        fault = f"{validation}: no row has a reference answer, so nothing can be graded; name its column in data.validation.columns"
    if fault is not None:
        raise InputError(fault)


def _read(rows: Sequence[Row], train: str, columns: dict[Any, str]) -> dict[str, list[Parsed]]:
    """What the rows say for each grader."""
    readers = {reward: reader_of(Source(path=train, columns=columns), rows, reward=reward) for reward in ("r1_zero", "question_only")}
    return {reward: [each for row in rows for each in reader.read(row)] for reward, reader in readers.items()}


def _settle(columns: dict[str, str], parsed: dict[str, list[Parsed]], faults: list[str], count: int, instruct: bool) -> Guess:
    """The settings for rows that say `parsed`."""
    rows = parsed["r1_zero"]
    with_reference = sum(bool(each.reference) for each in rows)
    reward = _grader(parsed, instruct)
    settings: dict[str, Any] = {"columns": columns} if columns else {}
    notes = [f"columns {', '.join(f'{field} = {name}' for field, name in columns.items())}" if columns else "known shape"]
    if faults:
        notes.append(f"{len(faults)} of the first {count} rows are malformed ({faults[0]}) and skipped")
    if with_reference == 0:
        notes.append("no row has a reference answer, so nothing is filtered")
    elif with_reference < len(rows):
        notes.append(f"{len(rows) - with_reference} rows have no reference answer, and are left out and counted")
    if unread := list(dict.fromkeys(name for each in rows for name in each.unread)):
        notes.append(f"nothing reads {', '.join(unread)}")
    if reward is None:
        notes.append(NO_ANSWERS)
    if faults:
        settings["on_bad_row"] = "skip"
    if reward is None or with_reference == 0:
        settings["filter"] = False
    chats = any(each.messages for each in rows)
    if chats:
        notes.append("the rows are conversations, so the tokenizer's chat template is used")
    settings["prompt"] = "chat" if chats or (instruct and reward == "question_only") else reward or "r1_zero"
    return Guess(settings, reward or "r1_zero", with_reference, "; ".join(notes))


def _grader(parsed: dict[str, list[Parsed]], instruct: bool) -> str | None:
    """The grader that finds an answer in most responses; None where neither does.

    A base model learns tags, also where responses get them only by the way that rows are read; an instruct model keeps its boxes.
    """
    tagged = _share(parsed["question_only" if instruct else "r1_zero"], tagged_answer)
    boxed = _share(parsed["question_only"], boxed_answer)
    if max(tagged, boxed) < 0.5:
        return None
    return "r1_zero" if tagged >= boxed else "question_only"


def _share(parsed: Sequence[Parsed], answer: Any) -> float:
    return sum(answer(each.response) is not None for each in parsed) / max(1, len(parsed))

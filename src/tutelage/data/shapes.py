"""The shapes that people's rows have: messages, prompt and response, GSM8K, MATH; any other by columns or by a function.

A shape is a function from a raw row to ``{"prompt", "response", "reference"}``. To add one, write the function and its line of
`_SHAPES`; a shape of the user's own is a function that `data.shape` names.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.config import DataConfig, load_plug_in
from tutelage.errors import InputError
from tutelage.grading import Reference, boxes

Shape = Callable[[dict[str, Any]], Mapping[str, Any]]


class BadRow(ValueError):
    """A row that is not of any known shape; the message names the key."""


@dataclass(frozen=True)
class Parsed:
    """What a row says, before any template.

    Attributes:
        source: the row, and "[k]" behind it where one of its items is meant.
        messages: the turns, where a row is a conversation that a prompt and a response alone do not tell: several turns, a system,
            developer or tool turn, tool calls, a thought in a field of its own. Each has `role` (system, developer, user, assistant
            or tool) and `content` (text), and may have `reasoning_content` (text), `tool_calls` (list), `name`, `tool_call_id` and,
            of an assistant's turn, `train` (bool; absent: true). The last turn of a problem is the user's.
        prompt, response: the texts of a row that is no such conversation; of one that is, those of its last two turns.
        tools: what the row offers to be called, as its chat template takes it.
        unread: columns that hold something and that nothing reads.
        fault: why the row cannot be used ("malformed"); "" if it can.
        left_out: why `data.where` leaves it out; "" if it does not.
    """

    source: str
    prompt: str = ""
    response: str = ""
    reference: Reference = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    unread: tuple[str, ...] = ()
    fault: str = ""
    left_out: str = ""


def shape_of(data: DataConfig) -> Mapping[Any, str] | Shape | None:
    """How a configuration's rows are read, as `parse_row` takes it.

    Raises:
        InputError: `data.shape` names no function.
    """
    if data.shape == "auto":
        return data.columns or None
    shape: Shape = load_plug_in("data.shape", data.shape)
    if not callable(shape):
        raise InputError(f'data.shape = "{data.shape}": this is {type(shape).__name__}, not a function of a row')
    return shape


def parse_row(row: dict[str, Any], shape: Mapping[Any, str] | Shape | None = None, needs_response: bool = True) -> dict[str, str]:
    """A raw row as ``{"prompt", "response", "reference"}``, all text, "" where there is none.

    Args:
        shape: which column holds which field, or a function of the row; None: the shape is recognised by the row's keys.
        needs_response: a training row needs a response; a problem needs a reference instead.

    Raises:
        BadRow: a key is missing, empty or not text.
    """
    if callable(shape):
        found = _by_function(row, shape)
    else:
        columns = {field: name for field, name in (shape or {}).items() if needs_response or field != "response"}
        found = _by_columns(row, columns) if columns else _by_keys(row)
    pair = {key: _as_text(value) for key, value in found.items()}
    for key, value in pair.items():
        if value is not None and not isinstance(value, str):
            raise BadRow(f"{key} is {type(value).__name__}, not text")
        if value is not None and re.search("[\ud800-\udfff]", value):
            raise BadRow(f"{key} holds half of a surrogate pair, which is no character")
    if pair["reference"] is not None and not pair["reference"].strip():
        raise BadRow("reference is empty: an empty answer would count as right")
    for key in ("prompt", "response") if needs_response else ("prompt", "reference"):
        if not (pair[key] or "").strip():
            raise BadRow(f"{key} is empty or missing")
    return {key: value or "" for key, value in pair.items()}


def _by_keys(row: dict[str, Any]) -> Mapping[str, Any]:
    for keys, shape in _SHAPES:
        if all(row.get(key) is not None for key in keys):
            return shape(row)
    raise BadRow(_unknown_shape(row))


def _by_columns(row: dict[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    return {field: _reach(row, columns[field]) if field in columns else row.get(field) for field in _FIELDS}


def _by_function(row: dict[str, Any], shape: Shape) -> Mapping[str, Any]:
    """What a function of the user's own makes of a row. Whatever it raises is that row's fault, as a missing key is."""
    try:
        found = shape(copy.deepcopy(row))  # what the filter keeps is the row as it was
    except ValueError as error:
        raise BadRow(str(error) or "data.shape refuses it") from None
    except Exception as error:
        raise BadRow(f"data.shape raises {type(error).__name__}: {error}") from None
    if not isinstance(found, Mapping) or not set(found) <= set(_FIELDS):
        what = f"the keys {sorted(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise BadRow(f"data.shape returns {what}, and should return a dict of {', '.join(_FIELDS)}")
    return {field: found.get(field) for field in _FIELDS}


def _as_text(value: Any) -> Any:
    """Numbers as they are written; NaN, which data frames write for nothing, as nothing."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _unknown_shape(row: dict[str, Any]) -> str:
    empty = sorted(key for keys, _ in _SHAPES for key in keys if key in row and row[key] is None)
    if empty:
        return f"{empty[0]} is null"
    shapes = "; ".join(" + ".join(keys) for keys, _ in _SHAPES)
    return (
        f"keys {sorted(row)} are of no known shape ({shapes}): name them in data.columns, or read them by a function (data.shape)"
    )


_FIELDS = ("prompt", "response", "reference")
_REFERENCE_KEYS = ("reference_answer", "reference", "ground_truth", "expected_answer", "answer")


def build_text_pairs(example: dict[str, Any]) -> dict[str, Any]:
    """The specification's pairs of a message row.

    Args:
        example: ``{"messages": [{"role": "user", "content", "info": {"reference_answer"}}, {"role": "assistant", "content"}]}``.

    Returns:
        ``{"prompt": user content, "response": assistant content, "reference": the reference answer}``, None where there is none.
        The reference is taken from the user's ``info``, else from the assistant's, else from the row.

    Raises:
        BadRow: a message is missing or malformed.
    """
    messages = example.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BadRow("messages is not a list")
    by_role: dict[str, dict[str, Any]] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"messages[{index}] has no role")
        if message["role"] in ("user", "assistant") and message["role"] in by_role:
            raise BadRow(f"messages has more than one {message['role']} turn; only single-turn rows are supported")
        by_role[message["role"]] = message
    if any(message["role"] == "system" and message.get("content") for message in messages):
        raise BadRow(
            "messages has a system turn, which would be lost: put its text into a prompt template (data.prompt) and leave the turn out"
        )
    user, assistant = by_role.get("user"), by_role.get("assistant", {})
    if user is None:
        raise BadRow("messages has no user turn")
    reference = _first_reference(user.get("info"), assistant.get("info"), user, example.get("info"), example)
    return {"prompt": user.get("content"), "response": assistant.get("content"), "reference": reference}


def _first_reference(*holders: Any) -> Any:
    found = (each[key] for each in holders if isinstance(each, dict) for key in _REFERENCE_KEYS if each.get(key) is not None)
    return next(found, None)


def _gsm8k(row: dict[str, Any]) -> dict[str, Any]:
    """GSM8K: the answer's last line is ``#### 72``; its calculator marks ``<<48/2=24>>`` are not for reading.

    An answer without the mark is a bare reference, or a response of its own if it has the tags.
    """
    work, mark, final = str(row["answer"]).rpartition("####")
    if not mark:
        reference = _first_reference({**row, "answer": None}) if "</answer>" in final else row["answer"]
        return {"prompt": row["question"], "response": row["answer"], "reference": reference}
    work = re.sub(r"<<[^<>]*>>", "", work).strip()
    return {
        "prompt": row["question"],
        "response": think_answer(work, final.strip()),
        "reference": final.strip().replace(",", ""),
    }


def _math(row: dict[str, Any]) -> dict[str, Any]:
    """MATH: the reference is the row's own answer if it has one, else what the solution has in ``\\boxed{}`` (several boxes: a list).

    The boxed answer, never the reference, becomes the answer block; a solution without one stays as it is.
    """
    solution = _as_text(row["solution"])
    if solution is not None and not isinstance(solution, str):
        raise BadRow(f"solution is {type(solution).__name__}, not text")
    boxed = ", ".join(content for _, _, content in boxes(solution or "")) or None
    reference = row["answer"] if row.get("answer") not in (None, "") else boxed
    if reference is None:
        raise BadRow("solution has no \\boxed{} and the row no answer")
    response = think_answer((solution or "").strip(), boxed) if boxed and "</think>" not in (solution or "") else solution
    return {"prompt": row["problem"], "response": response, "reference": reference}


def _prompt_response(row: dict[str, Any]) -> dict[str, Any]:
    """A problem has no response."""
    return {"prompt": row["prompt"], "response": row.get("response"), "reference": _first_reference(row)}


def _problem_reference(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["problem"], "response": None, "reference": row["answer"]}


_SHAPES: tuple[tuple[tuple[str, ...], Shape], ...] = (
    (("messages",), build_text_pairs),
    (("prompt", "response"), _prompt_response),
    (("problem", "solution"), _math),
    (("question", "answer"), _gsm8k),
    (("problem", "answer"), _problem_reference),
    (("prompt",), _prompt_response),
)
"""The keys that a shape is recognised by, and its function; the first that fits a row counts."""


def _reach(row: dict[str, Any], dotted: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise BadRow(f"column {dotted!r} (from data.columns) is not in this row; its keys are {sorted(row)}")
        value = value[part]
    return value


def think_answer(thought: str, answer: str) -> str:
    """The response form that the reward function expects."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"

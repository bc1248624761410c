"""What a row says, before any template: `Parsed`; and why it says nothing: `BadRow`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.grading import Reference


class BadRow(ValueError):
    """A row that cannot be read; the message names the key."""


@dataclass(frozen=True)
class Parsed:
    """What a row says, before any template.

    Attributes:
        source: the row, and "[k]" behind it where one of its items is meant.
        messages: the turns, where a row is a conversation that a prompt and a response alone do not tell: several turns, a system,
            developer or tool turn, tool calls, a thought in a field of its own. Each has `role` (system, developer, user, assistant
            or tool) and `content` (text), and may have `reasoning_content` (text), `tool_calls` (list), `name`, `tool_call_id` and,
            of an assistant's turn, `train` (bool; absent: true). The last turn of a problem is the user's, or a tool's.
        prompt, response: the texts of a row that is no such conversation; of one that is, those of its last user's turn and of its
            last turn.
        tools: what the row offers to be called, as its chat template takes it.
        weight: what the row counts in the loss.
        unread: columns that hold something and that nothing reads.
        fault: why the row cannot be used ("malformed"); "" if it can.
        left_out: why `data.where`, or a weight of 0, leaves it out; "" if neither does.
    """

    source: str
    prompt: str = ""
    response: str = ""
    reference: Reference = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    weight: float = 1.0
    unread: tuple[str, ...] = ()
    fault: str = ""
    left_out: str = ""


Found = dict[str, Any]
"""Fields of a `Parsed`, as a way to read rows finds them."""
FIELDS = ("prompt", "response", "reference")


@dataclass(frozen=True)
class Purpose:
    """What rows are read for: problems need no response; `reward` decides how a response shows its answer."""

    problems: bool = False
    reward: str = "r1_zero"


def holds(value: Any) -> bool:
    """Whether a value says anything: not null, not blank text, not NaN (which data frames write for null), no list of such."""
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return any(map(holds, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds, value))
    return value is not None and value == value


def said_in(found: Found) -> str:
    """The prompt and all turns that were found."""
    return "\n".join([found["prompt"], *(str(turn["content"]) for turn in found.get("messages", ()))])


def stands_in(value: Any, text: str) -> bool:
    """Whether all that a value says stands in a text already."""
    said = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return all(str(each).strip() in text for each in said)


def as_text(value: Any) -> Any:
    """Numbers as they are written, NaN as nothing, anything else as it is."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def text_of(value: Any, field: str) -> str:
    """A value as text, "" for null.

    Args:
        field: what the value is, for messages.

    Raises:
        BadRow: it is neither text nor a number, or holds half of a surrogate pair.
    """
    value = as_text(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{field} is {type(value).__name__}, not text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(f"{field} holds half of a surrogate pair, which is no character") from None
    return value


def unread(row: Mapping[str, Any], known: frozenset[str] | set[str]) -> tuple[str, ...]:
    """Columns that hold something and are not known."""
    return tuple(name for name, value in row.items() if name not in known and holds(value))

"""The turns of a row: messages as OpenAI, ShareGPT, TRL and others write them, in one form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tutelage.data.shapes.parsed import BadRow, as_text, holds, text_of

Turn = dict[str, Any]

ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
"""What people call a turn's role."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Fields in which a turn's thought stands apart from its content."""
READ = frozenset({"role", "from", "content", "value", "name", "tool_call_id", "tool_calls", "train", "weight", "info", *THOUGHTS})


def turns_of(value: Any, column: str) -> list[Turn]:
    """The turns of a list of messages, each as `Parsed.messages` says; a system turn that says nothing is left out.

    Raises:
        BadRow: it is no such list, or a message is malformed; the reason names the message.
    """
    turns = [_turn(message, f"{column}[{index}]") for index, message in enumerate(messages_in(value, column))]
    return [turn for turn in turns if turn["content"] or turn["role"] not in ("system", "developer")]


def messages_in(value: Any, column: str) -> Sequence[Any]:
    """The messages of a value: a list, its JSON text, or a table of columns as `datasets` writes it.

    Raises:
        BadRow: it is none of them.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json(value, column)
    if isinstance(value, Mapping) and value and all(isinstance(each, list) for each in value.values()):
        keys = list(value)
        return [dict(zip(keys, each, strict=True)) for each in zip(*value.values(), strict=False)]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow(f"{column} is not a list")
    return value


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages."""
    if isinstance(value, str) and value.startswith("[{"):
        return '"role"' in value[:200] or '"from"' in value[:200]
    if isinstance(value, Mapping):
        return bool({"role", "from"} & set(value)) and all(isinstance(each, list) for each in value.values())
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping) and bool({"role", "from"} & set(value[0]))


def tools_of(value: Any, column: str) -> tuple[Mapping[str, Any], ...]:
    """The tools that a row offers, a list of objects or its JSON text; none where it holds nothing.

    Raises:
        BadRow: it is none of them.
    """
    if isinstance(value, str) and value.strip():
        value = from_json(value, column)
    if not holds(value):
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRow(f"{column} is not a list of tools")
    return tuple(value)


def from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{column} is text that is not valid JSON ({error})") from None


def content_of(message: Mapping[str, Any], name: str) -> Any:
    """A message's content as it is, parts of text joined.

    Raises:
        BadRow: a part is no text.
    """
    content = message.get("content")
    return _content(content, name)[0] if isinstance(content, list | tuple) else content


def is_pair(turns: Sequence[Turn]) -> bool:
    """Whether turns are no more than a question and its answer."""
    return [turn["role"] for turn in turns] == ["user", "assistant"] and all(set(turn) == {"role", "content"} for turn in turns)


def unread_fields(messages: Iterable[Any], column: str) -> tuple[str, ...]:
    """Fields of messages that hold something and that nothing reads, as ``messages[].name``."""
    found: dict[str, None] = {}
    for message in messages:
        if isinstance(message, Mapping):
            for key, value in message.items():
                if key not in READ and holds(value):
                    found[f"{column}[].{key}"] = None
    return tuple(found)


def _turn(message: Any, path: str) -> Turn:
    if not isinstance(message, Mapping):
        raise BadRow(f"{path} is {type(message).__name__}, not a message")
    called = message.get("role") if message.get("role") is not None else message.get("from")
    if not isinstance(called, str):
        raise BadRow(f"{path} has no role")
    role = ROLES.get(called.strip().lower())
    if role is None:
        raise BadRow(f"{path} has the role {called!r}, which is none of {', '.join(sorted(set(ROLES.values())))}")
    raw = message.get("content") if message.get("content") is not None else message.get("value")
    content, thought = _content(raw, path)
    turn: Turn = {"role": role, "content": content}
    if role == "assistant":
        turn |= _of_assistant(message, content, thought, path)
    if not content and role in ("user", "assistant") and not turn.get("tool_calls") and not turn.get("reasoning_content"):
        raise BadRow(f"{path}.content is empty")
    for key in ("name", "tool_call_id"):
        if holds(message.get(key)):
            turn[key] = text_of(message[key], f"{path}.{key}")
    return turn


def _of_assistant(message: Mapping[str, Any], content: str, thought: str, path: str) -> Turn:
    """What only an assistant's turn has: its thought, its calls, whether it is learnt."""
    found: Turn = {}
    thoughts = [thought] if thought else []
    thoughts += [text_of(message[key], f"{path}.{key}") for key in THOUGHTS if holds(message.get(key))]
    thoughts = list(dict.fromkeys(each for each in thoughts if each.strip() not in content or not each.strip()))
    if len(thoughts) > 1:
        raise BadRow(f"{path} has several thoughts of its own that differ: leave one of {', '.join(THOUGHTS)}")
    if thoughts and "</think>" in content:
        raise BadRow(f"{path} has a thought in its content and another one in a field of its own: leave one of them")
    if thoughts:
        found["reasoning_content"] = thoughts[0]
    calls = message.get("tool_calls")
    if holds(calls):
        found["tool_calls"] = list(tools_of(calls, f"{path}.tool_calls"))
    if not _is_trained(message, path):
        found["train"] = False
    return found


def _is_trained(message: Mapping[str, Any], path: str) -> bool:
    said = {}
    for key in ("train", "weight"):
        value = message.get(key)
        if value is not None and value == value:
            if value not in (0, 1) or not isinstance(value, int | float):
                raise BadRow(f"{path}.{key} is {value!r}, and should be {'true or false' if key == 'train' else '0 or 1'}")
            said[key] = bool(value)
    if len(set(said.values())) > 1:
        raise BadRow(f"{path}: train and weight say different things")
    return all(said.values())


def _content(raw: Any, path: str) -> tuple[str, str]:
    """(text, thought) of a message's content, which may be a list of parts."""
    if not isinstance(raw, list | tuple):
        return text_of(raw, f"{path}.content" if raw is not None else path), ""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in raw:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        kind = kind or next((key for key in ("text", "thinking") if holds(part.get(key))), None)
        held = part.get(kind) if isinstance(part, Mapping) else part
        if kind not in ("text", "thinking", "reasoning") or not isinstance(as_text(held), str):
            raise BadRow(f"{path}.content has a part of type {kind!r}: only text is read")
        (texts if kind == "text" else thoughts).append(text_of(held, f"{path}.content"))
    return "".join(texts), "".join(thoughts)

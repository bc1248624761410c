"""Messages as a chat template gets them, and whether it shows them in full."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.data.shapes import BadRow
from tutelage.data.templates.marks import TAGS, pattern_of, plain, protect, protect_all, strip_end
from tutelage.data.templates.template import Template
from tutelage.data.templates.thoughts import split_thought

NO_SYSTEM = (
    "the system's text can be joined to the question instead, where rows have three turns:"
    ' data.columns = { prompt = "{messages[0].content}\\n\\n{messages[1].content}", response = "messages[2].content" }'
)


@dataclass(frozen=True)
class Said:
    """A message as the template gets it, all texts marked.

    Attributes:
        thought, block, rest: of an assistant's: its thought, the thought with its tags, and the text behind it.
    """

    message: dict[str, Any]
    thought: str = ""
    block: str = ""
    rest: str = ""

    def with_thought(self, thought: str, template: Template) -> dict[str, Any]:
        """The message with another thought, to see whether the template shows it."""
        if template.thought_key:
            return {**self.message, template.thought_key: thought}
        return {**self.message, "content": str(self.message["content"] or "").replace(self.block, f"<think>{thought}</think>", 1)}


def said_of(messages: Sequence[Mapping[str, Any]], template: Template, specials: tuple[str, ...]) -> list[Said]:
    """Messages as the template gets them: marked, thoughts under its own key, tool calls in one form."""
    roles = [each["role"] for each in messages]
    as_system = "developer" in roles and not template.knows_developer
    if as_system and "system" in roles:
        raise BadRow(
            "messages has a developer turn, which the chat template does not know, beside a system turn: keep one of them"
        )
    found = []
    for index, each in enumerate(messages):
        made = {key: str(each[key]) for key in ("role", "name", "tool_call_id") if each.get(key) is not None}
        try:
            if each["role"] == "assistant":
                found.append(_by_assistant(each, made, template, specials))
                continue
            made["content"] = protect(str(each.get("content") or ""), specials)
        except BadRow as error:
            raise BadRow(f"messages[{index}]: {error}") from None
        if each["role"] == "developer" and as_system:
            made["role"] = "system"
        found.append(Said(made))
    return found


def _by_assistant(message: Mapping[str, Any], made: dict[str, Any], template: Template, specials: tuple[str, ...]) -> Said:
    content = own_text(str(message.get("content") or ""), specials)
    field = protect(str(message.get("reasoning_content") or "").strip(), specials, TAGS)
    thought, block, rest = split_thought(content)
    if field and thought not in ("", field):
        raise BadRow("it has two thoughts, one in reasoning_content and another in content: keep one of them")
    if field and not thought:
        thought, block = field, f"<think>\n{field}\n</think>" + ("\n\n" if rest else "\n")
    if thought and template.thought_key:
        made |= {template.thought_key: thought, "content": rest}
    elif field and not template.keeps_thoughts:
        made["content"] = rest
    else:
        made["content"] = block + rest
    if message.get("tool_calls"):
        as_text, as_null = template.call_form
        made["content"] = made["content"] or (None if as_null else "")
        made["tool_calls"] = [protect_all(_as_call(each, as_text), specials, TAGS) for each in message["tool_calls"]]
    return Said(made, thought, block, rest)


def _as_call(call: Mapping[str, Any], as_text: bool) -> dict[str, Any]:
    """A tool call with its function inside, and the arguments as an object or as JSON text, as the template wants them."""
    function = dict(call.get("function") or call)
    if isinstance(function.get("arguments"), str):
        try:
            given = json.loads(function["arguments"])
        except ValueError:
            given = None
        if isinstance(given, dict) and not as_text:
            function["arguments"] = given
    elif as_text:
        function["arguments"] = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {**({"id": call["id"]} if call.get("id") else {}), "type": "function", "function": function}


def own_text(text: str, specials: tuple[str, ...]) -> str:
    """An assistant's text, marked, without the end of turn that the row itself writes."""
    text = strip_end(text, specials)
    pattern = pattern_of(specials, TAGS)
    if pattern and (found := pattern.match(text.lstrip())):
        raise BadRow(
            f"the response begins with {found[0]}, a token of a chat template's: give the turn as messages, its thought as"
            " reasoning_content"
        )
    return protect(text, specials, TAGS)


def check_written(response: str, said: Said) -> None:
    """Raises BadRow: the response lacks the thought, the text or a tool call of the row."""
    parts = {"thought": said.thought, "text": said.rest.strip()}
    for call in said.message.get("tool_calls", ()):
        function = call["function"]
        parts["tool call"] = str(function.get("name"))
        if isinstance(function.get("arguments"), dict):
            for key, value in function["arguments"].items():
                parts[f"argument {key!r} of a tool call"] = value if isinstance(value, str) else str(key)
    if said.thought and "tool call" in parts and parts["tool call"] in response.partition(said.thought)[0]:
        raise BadRow("the chat template writes the assistant's thought behind its tool call")
    for what, text in parts.items():
        if text not in response and json.dumps(text, ensure_ascii=False)[1:-1] not in response:
            raise BadRow(f"the chat template does not write the assistant's {what} in full")


def check_shown(messages: Sequence[dict[str, Any]], template: Template, tools: Sequence[Mapping[str, Any]]) -> None:
    """Raises BadRow: the chat template leaves a turn, a tool call or a tool out. Stand-ins for the texts tell."""
    shown, expected = [], {}
    for index, message in enumerate(messages):
        stand_in = dict(message)
        if message["role"] != "assistant" and message["content"].strip():
            expected[f"Turn{index}q7f3x"] = f"a {message['role']} turn"
            stand_in["content"] = f"Turn{index}q7f3x"
        if message.get("tool_calls"):
            expected[f"call{index}q7f3x"] = "a tool call"
            stand_in["tool_calls"] = [
                {**c, "function": {**c["function"], "name": f"call{index}q7f3x"}} for c in message["tool_calls"]
            ]
        shown.append(stand_in)
    if not shown and not tools:
        return
    try:
        text = template.render(shown, tools, generation=not shown or shown[-1]["role"] != "assistant")
    except BadRow as error:
        if messages and messages[0]["role"] == "system" and not template.knows_system:
            raise BadRow(f"{error}; {NO_SYSTEM}") from None
        raise
    for stand_in_text, what in expected.items():
        if stand_in_text not in text:
            raise BadRow(f"messages has {what}, which the chat template does not show")
    for tool in tools:
        name = str((tool.get("function") or tool).get("name"))
        if name not in text:
            raise BadRow(f"the row offers the tool {plain(name)}, which the chat template does not show")

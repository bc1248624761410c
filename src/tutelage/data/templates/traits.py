"""What a chat template does with turns of each kind, by what it shows of some that are made for that."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tutelage.data.templates.thoughts import without_empty_thought, without_thought

if TYPE_CHECKING:
    from tutelage.data.templates.template import Template

QUESTION, ANSWER, THOUGHT = "Questionq7f3x", "Answerq7f3x", "Thoughtq7f3x"
"""Texts that no template changes, and that no template holds: where one is shown, that of a row will be."""

ASKED = {"role": "user", "content": QUESTION}
ANSWERED = {"role": "assistant", "content": ANSWER}


def traits_of(template: Template) -> dict[str, Any]:
    """What a chat template does, by what it shows of turns that are made for that."""
    shown = template.shown
    keys = ("reasoning_content", "thinking", "reasoning")
    key = next((key for key in keys if THOUGHT in shown(ASKED, {**ANSWERED, key: THOUGHT})), "")
    return {
        "thought_key": key,
        "keeps_thoughts": THOUGHT in shown(ASKED, {**ANSWERED, "content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"}),
        "knows_developer": THOUGHT in shown({"role": "developer", "content": THOUGHT}, ASKED),
        "knows_system": THOUGHT in shown({"role": "system", "content": THOUGHT}, ASKED),
        "answers_directly": _answers_directly(template, key),
        "call_form": _call_form(template),
    }


def _answers_directly(template: Template, thought_key: str) -> bool:
    if not template.chat:
        return True
    prompt, shown = template.wrap(QUESTION), template.shown(ASKED, ANSWERED)
    rest = shown.removeprefix(without_thought(prompt))
    thinking = template.shown(ASKED, {**ANSWERED, thought_key: THOUGHT}) if thought_key else "<think>"
    bare = without_empty_thought(rest)
    return "<think>" in thinking and (rest if bare == rest else bare.lstrip()).startswith(ANSWER)


def _call_form(template: Template) -> tuple[bool, bool]:
    for as_text, as_null in itertools.product((False, True), repeat=2):
        function = {"name": ANSWER, "arguments": '{"key": "value"}' if as_text else {"key": "value"}}
        call = {"id": "call00001", "type": "function", "function": function}
        shown = template.shown(ASKED, {"role": "assistant", "content": None if as_null else "", "tool_calls": [call]})
        if ANSWER in shown and "{'key': 'value'}" not in shown:  # an object that is written as Python does, is not meant
            return as_text, as_null
    return False, False

"""From what a row says to the texts that are learnt: each assistant turn after the history as the template shows it then.

A chat template may strip earlier thoughts, open a thought in its generation prompt, or write channels. A turn's prompt is what the
template shows when the turn is generated, and its response what the template writes for the turn right then.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tutelage.data.shapes import BadRow, Parsed
from tutelage.data.templates.marks import MARK, TAGS, protect, protect_all
from tutelage.data.templates.rendered import check_begun, is_rendered
from tutelage.data.templates.said import Said, check_shown, check_written, own_text, said_of
from tutelage.data.templates.template import BARE, Template, thought_argument
from tutelage.data.templates.thoughts import (
    CLOSINGS,
    closes_thought,
    has_thought,
    opens_thought,
    seam,
    without_empty_thought,
    without_thought,
)
from tutelage.data.templates.traits import ANSWER, THOUGHT
from tutelage.errors import InputError


@dataclass(frozen=True)
class Turn:
    """What is learnt of one assistant turn, special tokens of content marked.

    Attributes:
        end: the token that ends this turn; "" for the run's own end token.
    """

    prompt: str
    response: str
    end: str = ""

    @property
    def is_marked(self) -> bool:
        return MARK in self.prompt or MARK in self.response


def write_turns(parsed: Parsed, template: Template, turns: Literal["last", "all"], specials: tuple[str, ...]) -> list[Turn]:
    """What a row teaches: one turn, or of a conversation each assistant turn that is trained.

    Args:
        turns: `data.turns`.
        specials: the tokenizer's special tokens (`special_tokens`).

    Raises:
        BadRow: the template cannot show the row in full, or no turn is trained.
        InputError: the template closes an empty thought before a response that has one.
    """
    if not parsed.messages:
        rendered = is_rendered(parsed.prompt, template, specials)
        if rendered or not asks_template(parsed, template):
            return [_write_pair(parsed.prompt, parsed.response, template, specials, rendered)]
        messages = [{"role": "user", "content": parsed.prompt.strip()}, {"role": "assistant", "content": parsed.response}]
        return _write_conversation(messages, (), template, turns, specials)
    if template.chat:
        return _write_conversation(parsed.messages, parsed.tools, template, turns, specials)
    prompt, answer = _alone(parsed)
    if not answer:
        raise BadRow("messages has no assistant turn")
    response = in_the_form_of(template.text, answer)
    return [_write_pair(prompt, response, template, specials, is_rendered(prompt, template, specials))]


def asks_template(parsed: Parsed, template: Template) -> bool:
    """Whether a row is written as a conversation, by the chat template: its prompt and response are not just joined."""
    if parsed.messages or not template.chat:
        return bool(template.chat)
    return not template.answers_directly or (opens_thought(template.text) and not _knows_thoughts(parsed.response))


def write_problem(parsed: Parsed, template: Template, specials: tuple[str, ...]) -> str:
    """The prompt of a validation problem. Of a conversation that ends in an assistant's turn: what stands before that turn."""
    if not parsed.messages or not template.chat:
        question = _alone(parsed)[0] if parsed.messages else parsed.prompt
        return _write_prompt(question, template, specials, is_rendered(question, template, specials))
    messages = list(parsed.messages)
    if messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise BadRow("messages has no user turn")
    history = [each.message for each in said_of(messages, template, specials)]
    check_shown(history, template, parsed.tools)
    return template.render(history, protect_all(parsed.tools, specials))


def _write_prompt(question: str, template: Template, specials: tuple[str, ...], rendered: bool) -> str:
    if rendered:
        check_begun(question)
        return protect(question, ())
    return template.wrap(protect(question, specials, TAGS if template.text == BARE else ()))


def _write_pair(question: str, response: str, template: Template, specials: tuple[str, ...], rendered: bool) -> Turn:
    """A question and a response, joined where the prompt opens a thought."""
    prompt, response = _write_prompt(question, template, specials, rendered), own_text(response, specials)
    if not response.strip():
        raise BadRow("the response is empty")
    if closes_thought(prompt):
        if has_thought(response):
            raise _closed(template, rendered)
        response = without_empty_thought(response)
    elif rendered and opens_thought(prompt) and not _knows_thoughts(response):
        return Turn(prompt, _after_no_thought(response))
    return Turn(prompt, seam(prompt, response))


def _knows_thoughts(response: str) -> bool:
    return has_thought(response) or any(closing in response for closing in CLOSINGS)


def _after_no_thought(response: str) -> str:
    """What follows an opened thought where the row has none: the end of an empty one, as templates write it."""
    return f"\n</think>\n\n{response}"


def _closed(template: Template, rendered: bool = False) -> ValueError:
    if rendered:
        return BadRow("the prompt closes its thought, and the response has one: take the end off the prompt")
    line = thought_argument(template)
    remedy = f"set {line}" if line else "give a template that does not as data.prompt"
    return InputError(
        f"the template closes an empty thought before the response, and the rows' responses have thoughts: {remedy}"
    )


def _alone(parsed: Parsed) -> tuple[str, Mapping[str, Any]]:
    """(the question, the assistant's message or an empty one) of a conversation that a text template can hold."""
    messages = parsed.messages
    others = [each["role"] for each in messages if each["role"] not in ("user", "assistant")]
    calls = any(each.get("tool_calls") for each in messages)
    roles = [each["role"] for each in messages]
    what = f"messages has {f'a {others[0]} turn' if others else 'a tool call' if calls else 'several turns'}"
    if parsed.tools:
        what = "the row offers tools"
    if others or calls or parsed.tools or roles not in (["user"], ["user", "assistant"]):
        raise BadRow(
            f'{what}: data.prompt = "chat" lets the tokenizer\'s chat template write it,'
            " or data.columns names the columns to be read as prompt and response"
        )
    return str(messages[0]["content"]), messages[1] if len(messages) > 1 else {}


def in_the_form_of(text: str, message: Mapping[str, Any]) -> str:
    """An assistant's message as the text template asks for it."""
    thought, content = message.get("reasoning_content") or "", str(message.get("content") or "")
    if not thought.strip() or "</think>" in content:
        return content
    if "<answer>" not in text:
        return f"<think>\n{thought.strip()}\n</think>\n\n{content}"
    return f"<think> {thought.strip()} </think> {content if '<answer>' in content else f'<answer> {content.strip()} </answer>'}"


def _write_conversation(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    template: Template,
    turns: str,
    specials: tuple[str, ...],
) -> list[Turn]:
    trained = [index for index, each in enumerate(messages) if each["role"] == "assistant" and each.get("train", True)]
    if not trained:
        raise BadRow("no assistant turn is trained: messages has none, or each says train = false")
    if trained[0] == 0:
        raise BadRow("messages begins with an assistant turn, which answers nothing: take it out, or give it train = false")
    said, tools = said_of(messages, template, specials), protect_all(tools, specials)
    check_shown([each.message for each in said[: trained[-1] + 1]], template, tools)
    written = []
    for index in trained if turns == "all" else trained[-1:]:
        history = [each.message for each in said[:index]]
        try:
            written.append(_write_turn(history, said[index], template, tools, specials))
        except BadRow as error:
            raise BadRow(f"messages[{index}]: {error}") from None
    return written


def _write_turn(
    history: list[dict[str, Any]], said: Said, template: Template, tools: Sequence[Mapping[str, Any]], specials: tuple[str, ...]
) -> Turn:
    """One assistant turn, as the template writes it right after its prompt."""
    prompt = template.render(history, tools)
    before = template.render(history, tools, generation=False)
    header = prompt.removeprefix(before)
    opening = header[len(without_thought(header)) :]
    core = prompt.removesuffix(opening)
    full = template.render([*history, said.message], tools, generation=False)
    if full.startswith(core):
        body = full.removeprefix(core)
    else:  # the template shows the history otherwise once the turn is there
        other = template.render([*history, {"role": "assistant", "content": ANSWER}], tools, generation=False)
        header = without_thought(header)
        start = full.rfind(header, 0, _common(full, other)) if header else -1
        if start < 0:
            raise BadRow("the chat template does not write the turn behind its own generation prompt")
        body = full[start + len(header) :]
    body, end = _cut_end(body, template.end, specials)
    if said.thought and closes_thought(opening):
        raise _closed(template)
    probe = [*history, said.with_thought(THOUGHT, template)]
    lacks = bool(said.thought) and THOUGHT not in template.render(probe, tools, generation=False)
    response = _after_opening(body, opening, said, lacks)
    check_written(response, said)
    return Turn(prompt, response, "" if end == template.end else end)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _cut_end(body: str, usual: str, specials: tuple[str, ...]) -> tuple[str, str]:
    """(an assistant's turn, the token that ends it or ""), from what a template writes until the end of the turn."""
    tokens = tuple(token for token in specials if token not in TAGS)
    rest, found = body.rstrip(), []
    while rest.endswith(tokens):
        token = max((each for each in tokens if rest.endswith(each)), key=len)
        rest = rest.removesuffix(token)
        found.append((rest, token))
        rest = rest.rstrip()
    if not found:
        return rest, usual
    return next((each for each in reversed(found) if each[1] == usual), found[0])


def _after_opening(body: str, opening: str, said: Said, lacks: bool) -> str:
    """The response: a turn's text without what the prompt writes of it, and with the thought that the template leaves out.

    Args:
        body: the turn as the template writes it behind the generation prompt without `opening`.
        opening: "", or how the generation prompt opens a thought, or closes an empty one.
        lacks: whether the turn has a thought that the template leaves out.
    """
    rest = without_empty_thought(body)
    if closes_thought(opening):
        return body.removeprefix(opening) if body.startswith(opening) else rest
    if lacks and opening and body.lstrip().startswith(CLOSINGS):  # the template writes the end of a thought that it leaves out
        return said.thought + opening.removeprefix(opening.rstrip()) + body.lstrip()
    if lacks:
        return seam(opening, said.block + rest.lstrip())
    if said.thought or not opening:
        return seam(opening, body)
    if body.startswith(opening) or body.lstrip().startswith(CLOSINGS):
        return body.removeprefix(opening)
    return _after_no_thought(rest.lstrip() if said.block else rest)

"""The thoughts of responses: where one begins and ends, and how a prompt and a response meet there."""

from __future__ import annotations

import re

_NAMES = ("think", "thinking", "thought", "reasoning", "seed:think")
OPENINGS = (*(f"<{name}>" for name in _NAMES), "[THINK]")
CLOSINGS = (*(f"</{name}>" for name in _NAMES), "[/THINK]")

_OPENING = "|".join(map(re.escape, OPENINGS))
_CLOSING = "|".join(map(re.escape, CLOSINGS))
_AT_END = re.compile(rf"(?:(?:{_OPENING})\s*)?(?:{_OPENING}|{_CLOSING})\s*\Z")
_EMPTY = re.compile(rf"\s*(?:{_OPENING})?\s*(?:{_CLOSING})\s*")
_FULL = re.compile(rf"\s*(?:(?:{_OPENING})(?P<thought>.*?)|(?P<bare>(?:(?!{_OPENING}).)*?))(?:{_CLOSING})\s*", re.DOTALL)


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends inside a thought, so that the response begins with the thought's text."""
    return prompt.rstrip().endswith(OPENINGS)


def closes_thought(prompt: str) -> bool:
    """Whether a prompt ends behind a thought, so that the response has none."""
    return prompt.rstrip().endswith(CLOSINGS)


def without_thought(prompt: str) -> str:
    """A prompt without the opening of a thought, or the empty thought, at its end."""
    return _AT_END.sub("", prompt)


def without_empty_thought(response: str) -> str:
    """A response without the empty thought, or the end of one, that it begins with."""
    return response[found.end() :] if (found := _EMPTY.match(response)) else response


def split_thought(text: str) -> tuple[str, str, str]:
    """(thought, its block as the text writes it, the rest) of an assistant's text.

    The block holds the tags and the space behind them. A text without a finished thought at its beginning is all rest.
    """
    if not any(closing in text for closing in CLOSINGS) or not (found := _FULL.match(text)):
        return "", "", text
    opened = found["thought"] is not None
    return (
        (found["thought"] if opened else found["bare"]).strip(),
        found[0] if opened else f"<think>{found[0]}",
        text[found.end() :],
    )


def has_thought(response: str) -> bool:
    """Whether a response begins with a thought that says something, finished or not."""
    thought, _, rest = split_thought(response)
    return bool(thought) or rest.lstrip().startswith(OPENINGS)


def seam(prompt: str, response: str) -> str:
    """The response as it follows the prompt: a thought that the prompt opens is not opened again, nor its space doubled.

    The text that both make together is the row's own, with the template's space behind the opening.
    """
    trimmed, begun = prompt.rstrip(), response.lstrip()
    if not trimmed.endswith(OPENINGS):
        return response
    space, opening = prompt[len(trimmed) :], max((each for each in OPENINGS if trimmed.endswith(each)), key=len)
    if begun.startswith(opening):
        rest = begun.removeprefix(opening)
        return rest[len(space) :] if rest.startswith(space) else rest.lstrip()
    return response.removeprefix(space)

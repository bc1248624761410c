"""Special tokens within texts: a mark tells those of content, which are text, from those that a template writes.

A mark is put inside each special token of a user's or an assistant's own text before a template sees it. In the rendered text
every special token without a mark is markup.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tutelage.data.shapes import BadRow
from tutelage.data.templates.thoughts import CLOSINGS, OPENINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ufdd0"
"""A noncharacter of Unicode: no text has it, no tokenizer changes it."""

TAGS = (*OPENINGS, *CLOSINGS, "<answer>", "</answer>", "<tool_call>", "</tool_call>")
"""What models write as tokens of their own: in an assistant's text they keep their ids."""


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The texts of a tokenizer's special tokens. One of a single character cannot hold a mark, and is left out."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted(token for token in {*added, *tokenizer.all_special_tokens} if len(token) > 1))


@functools.lru_cache(maxsize=16)
def pattern_of(specials: tuple[str, ...], keeps: tuple[str, ...] = ()) -> re.Pattern[str] | None:
    """What finds special tokens in a text, the longest first; None if there are none. Those of `keeps` are not found."""
    found = sorted(set(specials) - set(keeps), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, found))) if found else None


def protect(text: str, specials: tuple[str, ...], keeps: tuple[str, ...] = ()) -> str:
    """A text of content with a mark inside each special token, but for those of `keeps`.

    Raises:
        BadRow: the text holds the mark itself.
    """
    if MARK in text:
        raise BadRow("the text holds U+FDD0, which is no character and is used as a mark here: take it out of the row")
    pattern = pattern_of(specials, keeps)
    while pattern is not None and pattern.search(text):  # the rest of a marked token may be a special token of its own
        text = pattern.sub(lambda match: match[0][0] + MARK + match[0][1:], text)
    return text


def protect_all(value: Any, specials: tuple[str, ...], keeps: tuple[str, ...] = ()) -> Any:
    """A value as JSON has it, each text in it protected."""
    if isinstance(value, str):
        return protect(value, specials, keeps)
    if isinstance(value, dict):
        return {protect_all(key, specials, keeps): protect_all(each, specials, keeps) for key, each in value.items()}
    return [protect_all(each, specials, keeps) for each in value] if isinstance(value, list | tuple) else value


def plain(text: str) -> str:
    """A text without marks, to be shown."""
    return text.replace(MARK, "")


ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>",
    "<|eot|>", "<|END_OF_TURN_TOKEN|>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip
"""How models in use (of 2026) end a turn or a text."""


def strip_end(text: str, specials: Collection[str]) -> str:
    """An assistant's text without the special token at its very end: the row's own end of turn, for the end token is appended anyway.

    The end that another model's template writes goes, too: ``</s>`` where nothing opens it.
    """
    trimmed = text.rstrip()
    known = {*specials, *ENDS, *(() if "<s>" in text else ("</s>",))}
    ends = [token for token in known if token not in TAGS and trimmed.endswith(token)]
    return trimmed.removesuffix(max(ends, key=len)) if ends else text

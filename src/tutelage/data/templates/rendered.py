"""Prompts that hold a template already: they are recognised, and not wrapped again."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

from tutelage.data.shapes import BadRow
from tutelage.data.templates.marks import pattern_of
from tutelage.data.templates.template import BARE, Template, load_template
from tutelage.data.templates.thoughts import opens_thought

_LONG = 40
"""A template's beginning of so many characters is no question's own."""

_SHORT = 10
"""A template without a beginning is recognised by an end of so many characters."""

_START = (
    r"\s*(?:<s>|<bos>|\[gMASK\]<sop>|<\|(?:startoftext|endoftext|begin_of_text)\|>|<\uff5cbegin\u2581of\u2581sentence\uff5c>)*\s*"
)
_TURN = re.compile(
    _START
    + r"(?:<\|im_start\|>\s*[\w. -]{1,40}(?:\n|<\|im_sep\|>)|<\|im_(?:system|user)\|>"
    + r"|<\|(?:start_header_id|header_start)\|>\s*\w+\s*<\|(?:end_header_id|header_end)\|>"
    + r"|<(?:start_of_turn|\|turn)>\s*\w+\n|<\uff5c(?:System|User)\uff5c>|<\|(?:system|user)\|>"
    + r"|<\|start\|>\s*\w+\s*<\|message\|>|<\|start_of_role\|>\s*\w+\s*<\|end_of_role\|>"
    + r"|<\|START_OF_TURN_TOKEN\|>|\[INST\]|\[SYSTEM_PROMPT\]|<<SYS>>)"
)
"""How prompts begin that a chat template in use (of 2026) has written, whatever tokenizer reads them."""

_ASSISTANT = re.compile(r"\n\s*(?:### ?)?Assistant:\s*\Z")
"""How prompts in words end, where the assistant's turn begins."""

_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|eot|>", "<|END_OF_TURN_TOKEN|>")


def is_rendered(prompt: str, template: Template, specials: tuple[str, ...]) -> bool:
    """Whether a prompt holds a template already: this one, a shipped one, a chat template of any kind, or one in words.

    Args:
        specials: the tokenizer's special tokens. A prompt that begins and ends in different ones is a chat template's.
    """
    if _TURN.match(prompt) or opens_thought(prompt) or _ASSISTANT.search(prompt):
        return True
    if any(_holds(prompt, text) for text in (template.text, _loaded("r1_zero"))):
        return True
    pattern = pattern_of(specials)
    first = pattern.match(prompt.lstrip()) if pattern else None
    if pattern is None or first is None:
        return False
    last = [*pattern.finditer(prompt)][-1]
    # behind the last one stands a role, an opened thought or nothing
    return last[0] != first[0] and re.fullmatch(r"\s*\w{0,20}\s*(?:<\w+>)?\s*", prompt[last.end() :]) is not None


def check_begun(prompt: str) -> None:
    """Raises BadRow: a prompt that holds a chat template ends behind a turn, so that the assistant's has no beginning."""
    if _TURN.match(prompt) and (ends := [each for each in _ENDS if prompt.rstrip().endswith(each)]):
        raise BadRow(
            f"the prompt holds a chat template and ends in {ends[0]}: add the beginning of the assistant's turn, or take the template"
            " out of the prompt"
        )


def rendered_words(count: int, prompts: int, name: str) -> str:
    """The sentence that tells of prompts that were recognised; "" if none was.

    Args:
        name: `data.prompt`.
    """
    if not count:
        return ""
    which = "the prompt holds" if prompts == 1 else f"{count:,} of {prompts:,} prompts {'holds' if count == 1 else 'hold'}"
    return f'{which} a template already, and data.prompt = "{name}" is not put around {"it" if count == 1 else "them"} again'


def foreign_words(prompt: str, specials: tuple[str, ...], ids: Collection[str]) -> str:
    """The sentence that tells of a prompt whose markup is no token of the tokenizer; "" where all is.

    Args:
        ids: the texts of all tokens.
    """
    found = [each for each in dict.fromkeys(_TOKENS.findall(prompt)) if each not in ids and each not in specials]
    if not found:
        return ""
    return (
        f"the template in the prompts is of another model: {found[0]} is no token of this tokenizer, and is learnt as text; take the"
        ' template out of the rows, and data.prompt = "chat" writes this model\'s own'
    )


_TOKENS = re.compile(r"<\|[^<>|\s]*\|>|<\uff5c[^<>\uff5c]*\uff5c>|<(?:start|end)_of_turn>")
_loaded = functools.cache(load_template)


def _holds(prompt: str, text: str) -> bool:
    """Whether a prompt begins and ends as a template does; a long beginning is enough."""
    head, tail = (each.strip() for each in text.split(BARE))
    if not prompt.lstrip().startswith(head):
        return False
    if len(head) >= _LONG:
        return True
    return len(head if head else tail) >= (2 if head else _SHORT) and prompt.rstrip().endswith(tail)

"""Where a response ends."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.data.templates import ExceededError, chat_sources, guarded
from tutelage.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESPONSE = "someresponse"
"""What a chat template is shown as a response: no template changes a word of letters, and none writes this one."""


@dataclass(frozen=True)
class Stops:
    """Where a response ends: one object for labels, evaluation, generation_config and export."""

    end_token_id: int
    strings: tuple[str, ...] = ("</answer>",)

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> Stops:
        """Raises InputError for a tokenizer without an end token."""
        return Stops(int(tokenizer.convert_tokens_to_ids(end_token(tokenizer, False, None))))


def end_token(tokenizer: PreTrainedTokenizerBase, chat: bool, wanted: str | None) -> str:
    """The one token that ends a response: rows learn it, evaluation stops at it, the saved model holds it.

    Args:
        chat: whether the tokenizer's chat template makes the prompts. The end is then the end of turn that it writes after a response.
        wanted: `model.end_token`.

    Returns:
        `wanted`, else the end of turn, else the tokenizer's own end token.

    Raises:
        InputError: `wanted` is no special token of the tokenizer; there is no end token; or the chat template exceeds its limits.
    """
    if wanted is not None:
        return _special_token(tokenizer, wanted)
    turn = None
    if chat and any(chat_sources(tokenizer)):
        [turn] = guarded(_end_of_turn, [tokenizer], lambda each: str(each.name_or_path))
    end = turn or tokenizer.eos_token
    if end is None:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} has no end token, so the model could never learn to stop:"
            ' write model.end_token = "TOKEN", or set eos_token in its tokenizer_config.json'
        )
    return end


def _special_token(tokenizer: PreTrainedTokenizerBase, wanted: str) -> str:
    """The token as it was wanted. Text must not be able to say it: an ordinary token would end a response in its middle."""
    known = _special_tokens(tokenizer)
    if wanted in known:
        return wanted
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5) or known[:8]
    what = "an ordinary piece of text" if wanted in tokenizer.get_vocab() else "not one token"
    raise InputError(
        f'model.end_token = "{wanted}": it is {what} in the tokenizer of {tokenizer.name_or_path};'
        f" its special tokens {'near that' if near != known[:8] else 'include'}: {', '.join(near) or 'none'}"
    )


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the tokenizer never takes apart, but for runs of spaces and newlines, which text is full of."""
    return [token for token in tokenizer.added_tokens_encoder if token.strip()]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The first special token that the chat template writes after a response; None where it writes none, or cannot show one."""
    after = _after_response(tokenizer, str) or _after_response(tokenizer, _in_parts)
    found = [(at, -len(token), token) for token in _special_tokens(tokenizer) if (at := after.find(token)) >= 0]
    return min(found)[2] if found else None  # of two that begin at the same character, the longer one


def _after_response(tokenizer: PreTrainedTokenizerBase, content: Callable[[str], Any]) -> str:
    """What the chat template writes after a response; "" where it does not render, or does not show the response.

    Args:
        content: makes a turn's content of its text.
    """
    turns = [{"role": "user", "content": content("Hi")}, {"role": "assistant", "content": content(RESPONSE)}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
    except ExceededError:
        raise
    except Exception:  # a template is a program: whatever it raises, it writes no end of turn
        return ""
    return text.rpartition(RESPONSE)[2] if RESPONSE in text else ""


def _in_parts(text: str) -> list[dict[str, str]]:
    """A turn's content as templates of models that also see images want it."""
    return [{"type": "text", "text": text}]

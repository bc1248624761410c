"""Text to token ids, without torch: special tokens of content are text, those of a template are tokens."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.data.shapes import BadRow
from tutelage.data.templates.marks import MARK, pattern_of, plain, special_tokens
from tutelage.data.templates.words import Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKUP = "\ufdd1"
"""Stands before a special token of markup where its twin encodes it."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a prompt: the start token once if this tokenizer uses one, never an end token.

    Raises:
        BadRow: the text has a marked special token that this tokenizer cannot encode as text.
    """
    return encode_texts(tokenizer, [text], begin=True)[0]


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a response: no start token, no end token. Raises BadRow as `encode_prompt` does."""
    return encode_texts(tokenizer, [text])[0]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], begin: bool = False) -> list[list[int]]:
    """Ids of many texts at once.

    A text without a mark is encoded as the tokenizer does it. A marked special token is encoded as text, and all else as it is
    beside such text.

    Args:
        begin: the texts are prompts, which begin with the start token if this tokenizer uses one.

    Raises:
        BadRow: a text has a marked special token that this tokenizer cannot encode as text.
    """
    encoded = iter(_words_of(tokenizer, len(tokenizer)).encode([text for text in texts if MARK not in text]))
    ids: list[list[int]] = [_encode_marked(tokenizer, text) if MARK in text else list(next(encoded)) for text in texts]
    start = tokenizer.bos_token_id
    if begin and start is not None and tokenizer("").input_ids[:1] == [start]:
        return [each if each[:1] == [start] else [start, *each] for each in ids]
    return ids


@functools.lru_cache(maxsize=4)
def _words_of(tokenizer: PreTrainedTokenizerBase, size: int) -> Words:
    """What looks words up for a tokenizer of so many tokens."""
    return Words(tokenizer)


@dataclass(frozen=True)
class _Twin:
    """A tokenizer whose special tokens have other names, so that their own names are text to it.

    Encoding goes through the same steps, so ids beside a special token, and spaces at the start, are what they always are.

    Attributes:
        original: the original id of each token that is added to the twin's vocabulary.
        special: the original ids of special tokens; `names` finds them in a text.
    """

    encode: Callable[[str], list[int]]
    original: dict[int, int]
    special: frozenset[int]
    names: re.Pattern[str]


def _encode_marked(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text with marks, by the tokenizer's twin, and proven by their number and by decoding."""
    names = pattern_of(special_tokens(tokenizer)) or re.compile(r"\A\Z.")
    markup, both = Counter(names.findall(text)), Counter(names.findall(plain(text)))
    if tokenizer.is_fast:
        twin = _twin_of(tokenizer)
        found = twin.encode(twin.names.sub(lambda match: _MARKUP + match[0], text).replace(MARK, ""))
        ids = [twin.original.get(token, token) for token in found]
        decoded = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if sum(index in twin.special for index in ids) == markup.total() and Counter(names.findall(decoded)) == both:
            return ids
    raise BadRow(f"holds {' and '.join(both - markup)}, a special token, which this tokenizer cannot encode as text")


@functools.lru_cache(maxsize=4)
def _twin_of(tokenizer: PreTrainedTokenizerBase) -> _Twin:
    from tokenizers import Tokenizer

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["truncation"] = described["padding"] = None
    names = [token["content"] for token in described["added_tokens"] if token["special"]]
    for token in described["added_tokens"]:
        token["content"] = (_MARKUP if token["special"] else "") + token["content"]
    twin = Tokenizer.from_str(json.dumps(described))
    ids = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    return _Twin(
        encode=lambda text: list(twin.encode(text, add_special_tokens=False).ids),
        original={index: ids[token.content.removeprefix(_MARKUP)] for index, token in twin.get_added_tokens_decoder().items()},
        special=frozenset(ids[name] for name in names),
        names=re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))),
    )

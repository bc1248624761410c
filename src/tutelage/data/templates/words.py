"""Tokenizing a million texts: the words that a tokenizer cuts a text into are looked up, and encoded by it once each.

A byte-level BPE cuts a text into words by a regular expression and encodes each word by itself (Radford et al. 2019), so ids of words,
joined, are the ids of the text. That is done for texts of ASCII characters and tokenizers that cut by one expression, which Python's
`re` then cuts in the same way. All other texts go to the tokenizer. So does one in `PROOF`, and its ids must be the same.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import Any

PROOF = 64
"""One in so many texts is encoded by the tokenizer too."""
MOST_WORDS = 1 << 20
"""Words that are kept; then they are forgotten, and looked up anew."""
LOOKAHEAD = 64
"""Characters behind a word that do not change where it ends: more than any word of a template has."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ``ByteLevel`` cuts by."""
IN_ASCII = {"L": "A-Za-z", "N": "0-9", "Nd": "0-9", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": ""}
"""The ASCII characters of Unicode's categories."""
_OTHER = re.compile(r"[^\x20-\x7e\t\n\r]")


class Words:
    """The ids of texts, as `tokenizer` encodes them without adding special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, tuple[int, ...]] = {}
        self.seen = 0
        self.cut, self.added = _how_it_cuts(tokenizer)
        if self.cut is not None:
            self.backend = copy.deepcopy(tokenizer.backend_tokenizer)  # one that nobody lets truncate or pad
            self.backend.no_truncation()
            self.backend.no_padding()
            self.backend.encode_special_tokens = False

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text.

        Raises:
            AssertionError: words, joined, are not what the tokenizer says of a text; a bug of Tutelage.
        """
        if self.cut is None or not texts:
            return self._by_tokenizer(texts)
        shared, start = self._shared(texts)
        words = [self._words(text, start) for text in texts]
        others = iter(self._by_tokenizer([text[start:] for text, of_text in zip(texts, words, strict=True) if of_text is None]))
        found = [[*shared, *next(others)] if of_text is None else self._look_up(shared, of_text) for of_text in words]
        missing = [index for index, ids in enumerate(found) if ids is None]
        self._learn({word for index in missing for word in words[index] or ()})
        for index in missing:
            found[index] = self._look_up(shared, words[index] or [])
        complete = [ids for ids in found if ids is not None]
        self._prove(texts, complete)
        return complete

    def _look_up(self, shared: list[int], words: list[str]) -> list[int] | None:
        """The ids of words, behind those that are shared; None if one of them is not known."""
        try:
            return [*shared, *itertools.chain.from_iterable(map(self.known.__getitem__, words))]
        except KeyError:
            return None

    def _words(self, text: str, start: int) -> list[str] | None:
        """The words of a text from a character on; None if it is for the tokenizer."""
        assert self.cut is not None
        if _OTHER.search(text, start) or (self.added is not None and self.added.search(text, start)):
            return None
        return self.cut.findall(text, start)

    def _shared(self, texts: Sequence[str]) -> tuple[list[int], int]:
        """The ids of what all texts begin with, such as a prompt template, and its length in characters.

        It ends with a word that no text can change, for the text goes on in the same way for longer than the expression looks ahead.
        """
        assert self.cut is not None
        common = os.path.commonprefix([min(texts), max(texts)])  # noqa: RUF071
        ends = [found.end() for found in self.cut.finditer(common) if found.end() <= len(common) - LOOKAHEAD]
        if len(texts) == 1 or not ends or _OTHER.search(common):
            return [], 0
        # no added token may lie across the end
        borders = [found.span() for found in self.added.finditer(common)] if self.added is not None else []
        end = max((end for end in ends if not any(first < end < last for first, last in borders)), default=0)
        return self._by_tokenizer([common[:end]])[0], end

    def _learn(self, words: set[str]) -> None:
        if len(self.known) + len(words) > MOST_WORDS:
            self.known.clear()
        new = list(words - self.known.keys())
        self.known.update(zip(new, map(tuple, self._by_tokenizer(new)), strict=True))

    def _prove(self, texts: Sequence[str], found: Sequence[list[int]]) -> None:
        start = -self.seen % PROOF
        self.seen += len(texts)
        for text, ids, again in zip(texts[start::PROOF], found[start::PROOF], self._by_tokenizer(texts[start::PROOF]), strict=True):
            if ids != again:
                raise AssertionError(f"the ids of {text[:200]!r} are not those of its words; this is a bug of Tutelage")

    def _by_tokenizer(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        if self.cut is None:
            ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False).input_ids
            return ids
        return [found.ids for found in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _how_it_cuts(tokenizer: Any) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """(the expression that cuts an ASCII text into words, the one that finds added tokens); None, None if there is no such."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None, None
    made = json.loads(backend.to_str())
    steps = made["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    normalizer = made["normalizer"] or {}
    model = made["model"]
    plain = (
        model.get("type") == "BPE"
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and normalizer.get("type") in (None, "NFC", "NFKC", "NFD", "NFKD")
        and not any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in made["added_tokens"])
    )
    pattern = _pattern_of(steps) if plain else None
    if pattern is None:
        return None, None
    added = [re.escape(token["content"]) for token in made["added_tokens"]]
    return re.compile(pattern), re.compile("|".join(sorted(added, key=len, reverse=True))) if added else None


def _pattern_of(steps: Sequence[dict[str, Any]]) -> str | None:
    """The one expression that a pre-tokenizer cuts by, for Python's `re` on ASCII; None if it does anything else."""
    if [step.get("type") for step in steps] == ["ByteLevel"] and steps[0]["use_regex"]:
        pattern = GPT2
    elif [step.get("type") for step in steps] == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        split = steps[0]
        if split["behavior"] != "Isolated" or split["invert"] or "Regex" not in split["pattern"]:
            return None
        pattern = split["pattern"]["Regex"]
    else:
        return None
    return None if steps[-1]["add_prefix_space"] else _in_ascii(pattern)


def _in_ascii(pattern: str) -> str | None:
    """An expression with Unicode's categories spelt out; None if it has others than `IN_ASCII`, or groups that `findall` would return."""
    if re.search(r"(?<!\\)\((?!\?)", pattern):
        return None
    spelt, within = "", False
    for piece in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        if piece.startswith("\\p{"):
            characters = IN_ASCII.get(piece[3:-1])
            if characters is None or (not characters and not within):
                return None
            piece = characters if within else f"[{characters}]"
        elif piece == r"\s":
            piece = r" \t\n\r" if within else r"[ \t\n\r]"
        elif piece == r"\S":
            if within:
                return None
            piece = r"[^ \t\n\r]"
        elif piece in "[]":
            within = piece == "["
        spelt += piece
    try:
        re.compile(spelt)
    except re.error:
        return None
    return spelt

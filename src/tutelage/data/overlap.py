"""Which problems are the same, word for word or nearly, so that nothing is validated on that was trained on.

Two problems are equal if they are after `normalised`: case, spaces, punctuation at the end of words and LaTeX that only spaces or
delimits do not count; numbers do. A problem is nearly another one if more than half of its word 13-grams are in the other (13-grams:
Brown et al. 2020, appendix C). A problem of fewer than 13 words has none, and only equality counts.

What the questions of a file have in common is no part of a problem. A sentence or a line with which more than half of the first
questions of a file begin or end ("Put your answer in \\boxed{}.") is taken off the training and the validation problems alike, as
long as something stays. A sentence that only few questions of a file have, or that differs between them, stays.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

GRAM = 13
"""Words of an n-gram."""
SHARE = 0.5
"""A problem overlaps with another one if more than this share of its n-grams are in the other."""
EQUAL = "equal to the validation problem {}"
NEAR = "{:.0%} of its 13-grams are in the validation problem {}"

_LOOKS = re.compile(r"\\[()\[\],;:! ]|\$|~|\\(?:left|right|displaystyle|quad|qquad|text|mathrm)(?![a-z])")
"""LaTeX that changes how a formula looks, and not what it says."""
_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")
_LATEX = re.compile(r"[\\$~]")
_BETWEEN = re.compile(r"(?<=\w) (?=\w)")
_ENDS = ".,;:!?\"'`’‘“”…"
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MARKUP = re.compile(r"<\|[^<>|]*\|>|<｜[^<>｜]*｜>|\[/?INST\]|</?(?:s|bos|eos|start_of_turn|end_of_turn)>")
"""What chat templates write between turns."""
_ROLE = re.compile(r"\s*(?:system|user|assistant|model|developer|tool)\s*(?:\n|\Z)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*|(?i:(?<=\bquestion:)|(?<=\bproblem:)|(?<=\bq:)|(?<=\buser:)|(?<=\bhuman:))\s+")
COMMON = 0.5
"""A sentence is common if more than this share of a file's questions begin or end with it."""


def question_in(prompt: str, template: str = "{question}") -> str:
    """The question of a prompt that may hold its template already.

    Args:
        template: the text around ``{question}``.
    """
    before, _, after = template.partition("{question}")
    if before and prompt.startswith(before):
        prompt = prompt.removeprefix(before).removesuffix(after)
    parts = _MARKUP.split(prompt)
    if len(parts) == 1:
        return prompt
    # behind the last piece of markup the assistant's turn begins, perhaps with an opened thought
    said = [_ROLE.sub("", part, count=1) if _ROLE.match(part) else part for part in parts[:-1]]
    return "\n".join(part for part in said if part.strip())


def common_sentences(questions: Iterable[str]) -> frozenset[str]:
    """The sentences, normalised, that more than half of some questions begin or end with, whatever other common ones stand outside."""
    texts = [_SENTENCE_END.split(question.strip()) for question in dict.fromkeys(questions)]
    found: set[str] = set()
    for side in (0, -1):
        left = [list(map(normalised, sentences)) for sentences in texts]
        while True:
            counts = Counter(sentences[side] for sentences in left if len(sentences) > 1)
            most = {sentence for sentence, count in counts.items() if count > max(1, COMMON * len(texts))}
            if not most:
                break
            found |= most
            for sentences in left:
                if len(sentences) > 1 and sentences[side] in most:
                    del sentences[side]
    return frozenset(found)


def without_common(question: str, common: frozenset[str]) -> str:
    """The question without common sentences at its beginning and end; as it is where nothing else would stay."""
    if not common:
        return question
    sentences = _SENTENCE_END.split(question.strip())
    first, last = 0, len(sentences)
    while first < last and normalised(sentences[first]) in common:
        first += 1
    while first < last and normalised(sentences[last - 1]) in common:
        last -= 1
    return question if first == last or (first, last) == (0, len(sentences)) else "\n".join(sentences[first:last])


def normalised(question: str) -> str:
    """The question without what does not count."""
    text = question.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("−", "-")
    if _LATEX.search(text):
        text = _LOOKS.sub(" ", text)
    words = [word.strip(_ENDS) for word in text.split()]
    return _BETWEEN.sub("\0", " ".join(filter(None, words))).replace(" ", "").replace("\0", " ")


def key_of(text: str) -> int:
    """64 bits that equal texts share."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


class Validation:
    """The problems that are validated on, as training problems are compared with them: some 12 bytes an n-gram.

    Args:
        questions: (source, question) of each.
        common: sentences that are no part of a problem (`common_sentences`).
    """

    def __init__(self, questions: Iterable[tuple[str, str]], common: frozenset[str] = frozenset()) -> None:
        self.common = common
        self.sources: list[str] = []
        self.by_key: dict[int, int] = {}
        texts = []
        for index, (source, question) in enumerate(questions):
            self.sources.append(source)
            text = normalised(without_common(question, common))
            self.by_key.setdefault(key_of(text), index)
            texts.append(text)
        grams, owners = grams_of(texts)
        order = np.argsort(grams, kind="stable")
        self.grams, self.owners = grams[order], owners[order]

    def compared(self, question: str, text: str) -> str:
        """A question as the problems are compared with it. Args: text: the question, normalised."""
        bare = without_common(question, self.common)
        return text if bare is question else normalised(bare)

    def overlaps(self, texts: Sequence[str]) -> list[str]:
        """Which of the problems each of some questions (`compared`) is equal or near to, in words; "" if to none."""
        grams, of_text = grams_of(texts)
        starts, ends = (np.searchsorted(self.grams, grams, side) for side in ("left", "right"))
        hits: dict[int, list[int]] = {}
        for index in np.flatnonzero(ends > starts).tolist():
            hits.setdefault(int(of_text[index]), []).append(index)
        counts = np.bincount(of_text, minlength=len(texts))
        found = []
        for index, text in enumerate(texts):
            equal = self.by_key.get(key_of(text))
            if equal is not None:
                found.append(EQUAL.format(self.sources[equal]))
                continue
            shared = Counter(owner for hit in hits.get(index, ()) for owner in set(self.owners[starts[hit] : ends[hit]].tolist()))
            nearest, count = max(shared.items(), key=lambda item: item[1], default=(0, 0))
            near = count > SHARE * counts[index]
            found.append(NEAR.format(count / counts[index], self.sources[nearest]) if near else "")
        return found


def grams_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """64 bits of each word 13-gram of normalised questions, and the index of its question: (grams,) uint64 and uint32."""
    hashes = array("Q")
    lengths = []
    for text in texts:
        words = _WORD.findall(text)
        hashes.extend(map(_hash_of_word, words))
        lengths.append(len(words))
    count = np.array(lengths, dtype=np.int64)
    words_of = np.asarray(hashes, dtype=np.uint64)
    if len(words_of) < GRAM:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    grams = np.zeros(len(words_of) - GRAM + 1, np.uint64)
    for offset in range(GRAM):  # a polynomial of the words, whose order counts
        grams = grams * _BASE + words_of[offset : offset + len(grams)]
    owner = np.repeat(np.arange(len(texts), dtype=np.uint32), count)
    within = owner[: len(grams)] == owner[GRAM - 1 :]
    return grams[within], owner[: len(grams)][within]


@functools.lru_cache(maxsize=1 << 18)
def _hash_of_word(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))

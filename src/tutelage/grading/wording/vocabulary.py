"""What single words say: `vocabulary.txt` lists them, and this file reads it; number words are numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def _sections() -> dict[str, list[str]]:
    """The entries of each section of `vocabulary.txt`; in a list of words a line is one entry."""
    found: dict[str, list[str]] = {"": []}
    entries = found[""]
    for line in Path(__file__).with_name("vocabulary.txt").read_text(encoding="utf-8").splitlines():
        if (heading := re.match(r"\[([a-z ]+)\]  ", line)) is not None:
            entries = found.setdefault(heading[1], [])
        elif line:
            entries += line.split(" | ")
    return found


_SECTIONS = _sections()


def listed(section: str) -> frozenset[str]:
    """The words of a section."""
    return frozenset(" ".join(_SECTIONS[section]).split())


def replacements(section: str) -> dict[str, str]:
    """What replaces each word of a section, in the order of the file."""
    return {other: entry.split()[0] for entry in _SECTIONS[section] for other in entry.split()[1:]}


def explained(section: str) -> dict[str, str]:
    """What stands behind the first word of each entry of a section."""
    return {name: meaning for name, _, meaning in (entry.partition(" ") for entry in _SECTIONS[section])}


DOUBTS, CHANGES = listed("doubts"), listed("changes")
_WORDS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
LONGEST_NUMBER = 100
"""Characters of a number in words, at most."""
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SMALL = {word: one for one, word in enumerate(_ONES)} | _TENS
NUMBER_WORDS = tuple(_SMALL)
_SMALL |= {f"{word} {_ONES[one]}": ten + one for word, ten in _TENS.items() for one in range(1, 10)}


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without the month May."""
    return [word.casefold() for word in _WORDS.findall(text.replace("’", "'")) if word != "May"]


def doubted(words: Iterable[str]) -> bool:
    """One of the words denies a value, leaves it open, or is a number."""
    return any(word in DOUBTS or number_of(word) is not None for word in words)


def changed(words: Iterable[str]) -> bool:
    """One of the words makes a value another one, doubts it, or is a number."""
    return any(word in CHANGES or word in DOUBTS or number_of(word) is not None for word in words)


def number_of(text: str) -> int | None:
    """five → 5, twenty-five → 25, three hundred and four → 304; None for other words, or number words in no such order."""
    text = text.replace("-", " ")
    if " " not in text or text in _SMALL or len(text) > LONGEST_NUMBER:
        return _SMALL.get(text)
    for name, size in (("million", 10**6), ("thousand", 1000), ("hundred", 100)):
        above, found, below = text.partition(f" {name}")
        if found:
            factor, rest = number_of(above), number_of(below.strip().removeprefix("and ")) if below else 0
            return factor * size + rest if factor and rest is not None and rest < size else None
    return None

"""Units of measurement and of counting, and the nouns behind a number."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from tutelage.grading.wording.vocabulary import CHANGES, DOUBTS, listed, number_of, replacements

MULTIPLES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
"""Words behind a number that multiply it."""
_SHORT = replacements("units")
_EASTERN = replacements("eastern units")
_KNOWN = listed("more units") | _SHORT.keys() | set(_SHORT.values())
_SPOILS = (CHANGES | DOUBTS | listed("no units") | replacements("european parts").keys()) - _KNOWN
_PLURALS = listed("foreign plurals")
_SIGN = re.compile(r"\^\{?-?\d+\}?|[/.\-]|cdot")
_NAME = re.compile(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*|[$€£¥¢₹]")
_PARTS = re.compile(r"[^\W\d_]+|\^\{?-?\d+|[/$€£¥¢₹°]")
_NO_UNITS = frozenset({"unit", "of", "the", "a", "an", "th", "st", "nd", "rd", "exactly", "and", "ratio"})
"""Words in a unit that say nothing of it."""


def is_unit(words: list[str], trusted: bool) -> bool:
    """Whether words behind a number only say what is counted or measured.

    A unit that is known, or a plural noun, with nothing in it that changes the number ("5 more", "5 thirds", "5 out of 6"). In a
    reference (`trusted`) other nouns pass too.
    """
    names = [word.lower().strip(".,") for word in words if not _SIGN.fullmatch(word)]
    names = [part for name in names for part in re.split(r"[/\s]+", name) if part]
    if names[:1] in (["squared"], ["cubed"]) or any(map(_is_no_unit, names)):
        return False
    known = [len(name) < 2 or name in _KNOWN or name.rstrip("s") in _KNOWN for name in names]
    plural = any(name in _KNOWN | _PLURALS or (name.endswith("s") and len(name) > 3) for name in (names[0], names[-1]))
    return trusted or all(known) or plural


def _is_no_unit(name: str) -> bool:
    """No name, a word that changes or doubts the number, or another number (fifths, dozens)."""
    if _NAME.fullmatch(name) is None or name.endswith("ths"):
        return True
    return name in _SPOILS or name.rstrip("s") in MULTIPLES or number_of(name.removesuffix("s")) is not None


def is_known(name: str) -> bool:
    """The name of a unit, in full or short, singular or plural."""
    return len(name) > 1 and (name.lower() in _KNOWN or name.lower().rstrip("s") in _KNOWN)


@lru_cache(1_024)
def unit_of(words: str) -> str:
    """One spelling of a unit: cm, centimeter(s); m/s², m s^{-2}; what only counts ("units", "th grade") is no unit."""
    for eastern, short in _EASTERN.items() if not words.isascii() else ():
        words = words.replace(eastern, f" {short} ")
    powers: Counter[str] = Counter()
    sign, power, last = 1, 1, ""
    for written in _PARTS.findall(words):
        word = written if re.fullmatch("M[A-Za-z]V?", written) else written.lower()  # MW is not mW
        singular = word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
        word = _SHORT.get(singular, _SHORT.get(word, singular))
        if "/" in word and len(word) > 1:
            top, bottom = word.split("/")
            powers[top] += sign
            powers[bottom] -= sign
        elif word.startswith("^"):
            powers[last] *= int(word.strip("^{"))
        elif word in ("square", "cubic", "cu"):
            power = 2 if word == "square" else 3
        elif word == "/":
            sign = -1
        elif word not in _NO_UNITS and (word.isascii() or word in "€£¥¢₹°ω"):
            powers[word] += sign * power
            power, last = 1, word
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if name and power)

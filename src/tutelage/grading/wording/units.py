"""Units of measurement and of counting, and the nouns behind a number."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache

from tutelage.grading.wording.vocabulary import CHANGES, DOUBTS, explained, listed, number_of, replacements

MULTIPLES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
"""Words behind a number that multiply it."""
_SHORT = replacements("units")
_EASTERN = replacements("eastern units")
_SIZES = explained("sizes")
_SCALES = {"T": "1e12", "G": "1e9", "M": "1e6", "k": "1000", "d": "0.1", "c": "0.01", "m": "0.001", "μ": "1e-6", "n": "1e-9"}
_PREFIXES = dict(zip(("tera", "giga", "mega", "kilo", "deci", "centi", "milli", "micro", "nano"), _SCALES, strict=True))
_PREFIXED = re.compile("([TGMkKmμn]|[cd](?=[mgl]$))(A|N|(?i:[mgsljwvω]|pa|hz|ev|wh|cal|bar|mol)|(?<=[TGMkK])[bB])")
"""A short prefix before a short name: MW is not mW, nor kB kb."""
_LONG_PREFIXED = re.compile(f"({'|'.join(_PREFIXES)})(.+)")
_LARGEST_POWER = 12
"""A unit to a higher power is not converted."""
_KNOWN = listed("more units") | _SHORT.keys() | set(_SHORT.values())
_FOREIGN_PARTS = {word for word in replacements("european parts") if word.rstrip("s") not in _KNOWN}  # "quarts" are English, too
_SPOILS = (CHANGES | DOUBTS | listed("no units") | _FOREIGN_PARTS) - _KNOWN
_PLURALS = listed("foreign plurals")
_SIGN = re.compile(r"\^\{?-?\d+\}?|[/.\-]|cdot")
_OF_PARTS = re.compile("(?:i[èe]mes?|[ée]sim[ao]s?|ill(?:ions?|iards?|ones|ionen))$")
"""What an ordinal, a part or a large number ends like in French and Spanish."""
_NAME = re.compile(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*|[$€£¥¢₹]")
_PARTS = re.compile(r"[^\W\d_]+|\^\{?-?\d+|[/$€£¥¢₹°]")
_NO_UNITS = frozenset({"unit", "of", "the", "a", "an", "th", "st", "nd", "rd", "exactly", "and", "ratio"})
"""Words in a unit that say nothing of it."""


def is_unit(words: list[str], trusted: bool) -> bool:
    """Whether words behind a number only say what is counted or measured.

    A unit that is known, or a plural noun, with nothing in it that changes the number ("5 more", "5 thirds", "5 out of 6"). In a
    reference (`trusted`) other nouns pass too.
    """
    names = [word.strip(".,") for word in words if not _SIGN.fullmatch(word)]
    names = [part for name in names for part in re.split(r"[/\s]+", name) if part]
    if not names or names[0].lower() in ("squared", "cubed") or any(map(_is_no_unit, names)):
        return False
    known = [len(name) < 2 or is_known(name) for name in names]
    plural = any(name.lower() in _KNOWN | _PLURALS or (name.lower().endswith("s") and len(name) > 3) for name in (names[0], names[-1]))
    return trusted or all(known) or plural


def _is_no_unit(name: str) -> bool:
    """No name, a word that changes or doubts the number, or another number (fifths, dozens)."""
    name = name.lower()
    if _NAME.fullmatch(name) is None or (name.endswith("ths") and not is_known(name)):
        return True
    if name in _SPOILS or _OF_PARTS.search(name) is not None:
        return True
    return name.rstrip("s") in MULTIPLES or number_of(name.removesuffix("s")) is not None


def is_known(name: str) -> bool:
    """The name of a unit, in full or short, singular or plural."""
    word = name.lower()
    return len(name) > 1 and (word in _KNOWN or word.rstrip("s") in _KNOWN or _PREFIXED.fullmatch(_short(name)) is not None)


def _short(written: str) -> str:
    """The short name of a unit: Hours → h, KGs → kg, megawatts → Mw; other words in the singular."""
    word = written.lower()
    singular = word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
    for form in (written, word, singular):
        if known := _SHORT.get(form) or _prefixed(form):
            return known
    return singular


def _prefixed(name: str) -> str:
    """km for km, Km and kilometer; nothing where there is no prefix."""
    if (short := _PREFIXED.fullmatch(name)) is not None:
        return short[1].replace("K", "k") + (short[2] if short[2] in "ANbB" else short[2].lower())
    long = _LONG_PREFIXED.fullmatch(name)
    return _PREFIXES[long[1]] + _SHORT[long[2]] if long is not None and long[2] in _SHORT else ""


def _powers(words: str) -> Counter[str]:
    """{m: 1, s: -2} of m/s², m s^{-2} and meters per second squared; what only counts ("units", "th grade") is no unit."""
    for eastern, short in _EASTERN.items() if not words.isascii() else ():
        words = words.replace(eastern, f" {short} ")
    powers: Counter[str] = Counter()
    sign, power, last = 1, 1, ""
    for written in _PARTS.findall(words):
        word = _short(written)
        if word.startswith("^"):
            powers[last] *= int(word.strip("^{"))
        elif word in ("square", "cubic", "cu"):
            power = 2 if word == "square" else 3
        elif word == "/":
            sign = -1
        elif word not in _NO_UNITS and (word.isascii() or word[-1] in "€£¥¢₹°ω" or word[0] == "μ"):
            powers[word] += sign * power
            power, last = 1, word
    return powers


def _spelled(powers: Counter[str]) -> str:
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if name and power)


def unit_of(words: str) -> str:
    """One spelling of a unit: cm, centimeter(s); m/s², m s^{-2}."""
    return _spelled(_powers(words))


@lru_cache(1_024)
def measure(words: str) -> tuple[Fraction, str]:
    """How many base units a unit is, and one spelling of these: km/h is 5/18 of m s^-1; an unknown unit is one of itself."""
    powers = _powers(words)
    size, base, rest = Fraction(1), Counter[str](), list(powers.items())
    while rest:
        name, power = rest.pop()
        count, _, unit = _SIZES.get(name, "").partition(" ")
        if not unit and _PREFIXED.fullmatch(name) is not None and name[-1] not in "bB":
            count, unit = _SCALES[name[0]], name[1:]
        if unit and abs(power) <= _LARGEST_POWER:
            size *= Fraction(count) ** power
            rest += [(inner, times * power) for inner, times in _powers(unit).items()]
        else:
            base[name] += power
    return size, _spelled(base) or ("1" if powers else "")  # inches per foot

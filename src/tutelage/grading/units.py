"""Units of measurement and of counting, and the nouns behind a number."""

from __future__ import annotations

import re
from collections import Counter

from tutelage.grading.words import number_of

MULTIPLES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
"""Words behind a number that multiply it."""

_UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m", "decimeter": "dm",
    "decimetre": "dm", "kilometer": "km", "kilometre": "km", "micrometer": "μm", "nanometer": "nm", "inch": "in", "inche": "in",
    "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "milligram": "mg", "pound": "lb", "lbs": "lb",
    "ounce": "oz", "liter": "l", "litre": "l", "milliliter": "ml", "gallon": "gal", "second": "s", "sec": "s", "millisecond": "ms",
    "minute": "min", "mins": "min", "hour": "h", "hr": "h", "hrs": "h", "wk": "week", "yr": "year", "mph": "mi/h", "kph": "km/h",
    "kmh": "km/h", "joule": "j", "volt": "v", "watt": "w", "newton": "n", "pascal": "pa", "hertz": "hz", "radian": "rad", "ohm": "ω",
    "amp": "a", "ampere": "a", "kelvin": "k", "coulomb": "c", "mole": "mol", "dollar": "$", "usd": "$", "buck": "$", "cent": "¢",
    "€": "€", "euro": "€", "eur": "€", "£": "£", "gbp": "£", "yuan": "¥", "rmb": "¥", "cny": "¥", "rupee": "₹", "rs": "₹", "inr": "₹",
    "children": "child", "men": "man", "women": "woman", "mice": "mouse", "people": "person", "sq": "square", "squared": "^2",
    "cubed": "^3", "per": "/",
}  # fmt: skip
_KNOWN = {*_UNIT_NAMES, *_UNIT_NAMES.values()} | {
    "grade", "cup", "pint", "quart", "th", "st", "nd", "rd", "degree", "deg", "celsius", "fahrenheit", "am", "pm", "a.m", "p.m", "dm",
    "ton", "acre", "unit", "cu", "percent", "pt", "qt", "g", "c", "k", "f", "kpa", "atm", "bar", "erg", "dyne", "ev", "kev", "mev", "gev",
    "angstrom", "au", "pc", "kpc", "tesla", "gauss", "rpm", "bpm", "kw", "kwh", "kj", "mw", "kcal", "cal", "day", "week", "month", "year",
    "gb", "mb", "kb", "bit", "byte",
}  # fmt: skip
_NEVER = {
    "halves", "binary", "fails", "works", "holds", "remains", "rational", "integer", "real", "odd", "even", "prime", "positive",
    "negative", "thirds", "quarters", "fourths", "fifths", "sixths", "sevenths", "eighths", "ninths", "tenths", "hundredths",
    "thousandths", "more", "less", "fewer", "plus", "minus", "minuses",
    "pluses", "times", "over", "mod", "modulo", "factorial", "out", "below",
    "above", "not", "no", "or", "and", "nor", "wrong", "noon", "midnight", "base", "than", "except", "excluded", "if", "when",
    "where", "for", "false", "choose", "others", "rows", "columns", "versus", "vs", "approximately", "oops", "octal", "hex",
    "hexadecimal", "scores", "crores", "lakhs", "quadrillions", "googols", "factorials", "doubled", "halved", "tripled",
    "divides", "backwards", "spelled", "digits", "denominator", "letters",
}  # fmt: skip
"""Words that change the number, or say that it is not the answer."""


def is_unit(words: list[str], trusted: bool) -> bool:
    """Whether words behind a number only say what is counted or measured.

    A unit that is known, or a plural noun, with nothing in it that changes the number ("5 more", "5 thirds", "5 out of 6"). In a
    reference (`trusted`) other nouns pass too.
    """
    names = [word.lower().strip(".,") for word in words if not re.fullmatch(r"\^\{?-?\d+\}?|[/.\-]|cdot", word)]
    names = [part for name in names for part in re.split(r"[/\s]+", name) if part]
    if names[:1] in (["squared"], ["cubed"]) or any(
        not re.fullmatch(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*|[$€£¥¢₹]", name) or name in _NEVER for name in names
    ):
        return False
    if any(
        name.endswith("ths") or name.rstrip("s") in MULTIPLES or number_of(name.removesuffix("s")) is not None for name in names
    ):
        return False
    return trusted or all(len(name) < 2 or name in _KNOWN or name.rstrip("s") in _KNOWN for name in names) or any(
        name in _KNOWN or (name.endswith("s") and len(name) > 3) for name in (names[0], names[-1])
    )  # fmt: skip


def is_known(name: str) -> bool:
    """The name of a unit, in full or short, singular or plural."""
    return len(name) > 1 and (name.lower() in _KNOWN or name.lower().rstrip("s") in _KNOWN)


_NO_UNITS = frozenset({"unit", "of", "the", "a", "an", "th", "st", "nd", "rd", "exactly", "and", "ratio"})
_CHINESE = [
    ("美元", "$"), ("欧元", "€"), ("英镑", "£"), ("日元", "yen"), ("平方", "square "), ("立方", "cubic "), ("千米", "km"), ("公里", "km"),
    ("厘米", "cm"), ("毫米", "mm"), ("分米", "dm"), ("米", "m"), ("千克", "kg"), ("公斤", "kg"), ("克", "g"), ("毫升", "ml"), ("升", "l"),
    ("小时", "h"), ("分钟", "min"), ("秒", "s"), ("元", "¥"),
    ("角", "jiao"), ("分", "fen"), ("吨", "t"), ("克拉", "ct"),
]  # fmt: skip


def unit_of(words: str) -> str:
    """One spelling of a unit: cm, centimeter(s); m/s², m s^{-2}; what only counts ("units", "th grade") is no unit."""
    for chinese, short in _CHINESE if not words.isascii() else ():
        words = words.replace(chinese, f" {short} ")
    powers: Counter[str] = Counter()
    sign, power, last = 1, 1, ""
    for written in re.findall(r"[^\W\d_]+|\^\{?-?\d+|[/$€£¥¢₹°]", words):
        word = written if re.fullmatch("M[A-Za-z]V?", written) else written.lower()  # MW is not mW
        singular = word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
        word = _UNIT_NAMES.get(singular, _UNIT_NAMES.get(word, singular))
        if "/" in word and len(word) > 1:
            top, bottom = word.split("/")
            powers[top] += sign
            powers[bottom] -= sign
        elif word.startswith("^"):
            factor = int(word.strip("^{"))
            powers[last] *= factor
        elif word in ("square", "cubic", "cu"):
            power = 2 if word == "square" else 3
        elif word == "/":
            sign = -1
        elif word not in _NO_UNITS and (word.isascii() or word in "€£¥¢₹°ω"):
            powers[word] += sign * power
            power, last = 1, word
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if name and power)

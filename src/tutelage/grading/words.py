"""Words: answers that are words (names, the letter of a choice, number words, times of day), and units of measurement."""

from __future__ import annotations

import re

from tutelage.grading.format import TEXT_COMMANDS

_TEXT_COMMAND = re.compile(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}]*)\}}")
_MATHEMATICAL = {
    "pi", "sqrt", "sin", "cos", "tan", "log", "exp", "and", "theta", "alpha", "beta", "infinity", "inf", "cot", "sec", "csc",
}  # fmt: skip
_CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s*)?(?:\(([A-Ja-j])\)|([A-J])(?:[.:)](?=\s|$)|$)|([a-j])$)\s*(.*)"
)
_NO_TAIL = re.compile(r"\b(?:not?|or|and|nor|wrong|incorrect|false|none|wait|but)\b|(?<![A-Za-z\\])[A-J](?![A-Za-z])")
_BASED = re.compile(r"\(?([0-9A-F]+)\)?_\{?\w+\}?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def plain(text: str) -> str:
    """The text without the commands around words: \\text{Even} → Even."""
    text = re.sub(r"\s+", " ", _TEXT_COMMAND.sub(r"\1 ", text).replace("\\ ", " "))
    return text.strip().strip(".").strip()


def same_words(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are the same words; None when that is not for words to decide."""
    gold, answer = plain(gold), plain(answer)
    if gold == answer:
        return True
    if (based := _BASED.fullmatch(gold)) is not None and answer.upper() == based[1]:
        return True
    clocks = [_CLOCK.fullmatch(side) for side in (gold, answer)]
    if clocks[0] and clocks[1] and all(int(part or 0) < 60 for clock in clocks if clock for part in clock.groups()[1:3]):
        return _seconds(clocks[0]) == _seconds(clocks[1])
    choices = [_choice(side) for side in (gold, answer)]
    if choices[0] is not None and choices[1] is not None and not (choices[0][1] and choices[1][1]):
        return choices[0][0] == choices[1][0]
    kinds = [_is_words(side) for side in (gold, answer)]
    if not any(kinds):
        return None
    sides = [_canonical(side) if of_words else side for side, of_words in zip((gold, answer), kinds, strict=True)]
    if sides[0] == sides[1]:
        return True
    if all(kinds) and "order" not in f"{gold} {answer}":
        parts = [
            sorted(_canonical(part.strip()) for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", side) if part) for side in sides
        ]
        return parts[0] == parts[1]
    return False


def _canonical(words: str) -> str:
    """Without regard to case and articles; number words as numbers."""
    words = re.sub(r"^(?:the|a|an)\s+(?=\w)", "", words.casefold())
    number = number_of(words)
    return words if number is None else str(number)


def _is_words(text: str) -> bool:
    """Plain words, one of them of three letters or more and none of mathematics: "x" and "pi" stay mathematics."""
    words = re.split(r"[ ,]+", text)
    return all(re.fullmatch(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", word) for word in words) and any(
        (re.search(r"[^\W\d_]{3}", word) or word.casefold() == "no") and word.casefold() not in _MATHEMATICAL for word in words
    )


def _choice(text: str) -> tuple[str, str] | None:
    """(letter, text behind it) of (C), C, C. 12 or (C) 12; None where another letter or a "not" follows."""
    match = _CHOICE.fullmatch(text)
    if match is None or _NO_TAIL.search(match[4]):
        return None
    return (match[1] or match[2] or match[3]).upper(), match[4]


def _seconds(clock: re.Match[str]) -> int:
    hours, minutes, seconds = (int(part or 0) for part in clock.groups()[:3])
    if clock[4]:
        hours = hours % 12 + (12 if clock[4].lower() == "p" else 0)
    return (hours * 60 + minutes) * 60 + seconds


def number_of(text: str) -> int | None:
    """five → 5, twenty-five → 25, three hundred and four → 304; None for other words, or number words in no such order."""
    total = group = 0
    ceiling = 10**9  # of the next part of the group
    for word in re.split(r"[ -]+", text)[:20]:
        if word in _UNITS:
            value, room = _UNITS.index(word), 10 if _UNITS.index(word) < 10 else 100
        elif word in _TENS:
            value, room = 20 + 10 * _TENS.index(word), 100
        elif word == "hundred" and 0 < group < 100:
            group, ceiling = group * 100, 100
            continue
        elif word in ("thousand", "million") and group:
            total, group, ceiling = total + group * (1000 if word == "thousand" else 10**6), 0, 10**9
            continue
        elif word == "and" and group >= 100:
            continue
        else:
            return None
        if room > ceiling or ((group and not group % 100 and ceiling != 100) and ceiling < room):
            return None
        group, ceiling = group + value, 10 if room == 100 and value % 10 == 0 and value >= 20 else 0
    return total + group


# --- units

MULTIPLES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
"""Words behind a number that multiply it."""

_UNIT_NAMES = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m",
    "kilometer": "km", "kilometre": "km", "inch": "in", "inche": "in", "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi",
    "gram": "g", "kilogram": "kg", "pound": "lb", "ounce": "oz", "liter": "l", "litre": "l", "milliliter": "ml",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "dollar": "$", "usd": "$", "buck": "$", "cent": "¢",
    "sq": "square", "mph": "mi/h", "kph": "km/h", "kmh": "km/h", "joule": "j", "volt": "v", "watt": "w", "newton": "n",
    "pascal": "pa", "hertz": "hz", "gallon": "gal", "radian": "rad", "€": "€", "euro": "€", "eur": "€", "£": "£",
    "children": "child", "men": "man", "women": "woman", "mice": "mouse", "people": "person", "squared": "^2", "cubed": "^3",
    "per": "/",
}  # fmt: skip
_KNOWN = {*_UNIT_NAMES, *_UNIT_NAMES.values()} | {
    "grade", "cup", "pint", "quart", "th", "st", "nd", "rd", "degree", "deg", "am", "pm", "a.m", "p.m", "dm", "nm", "mg",
    "ton", "acre", "unit", "sq", "cu", "percent", "pt", "qt", "lbs", "g", "c", "k", "f", "rpm", "kw", "kwh", "kj", "mw",
}  # fmt: skip
_NEVER = {
    "halves", "fails", "works", "holds", "remains", "rational", "integer", "real", "odd", "even", "prime", "positive",
    "negative", "thirds", "quarters", "fourths", "fifths", "sixths", "sevenths", "eighths", "ninths", "tenths", "hundredths",
    "thousandths", "more", "less", "fewer", "plus", "minus", "minuses",
    "pluses", "times", "over", "mod", "modulo", "factorial", "out", "below",
    "above", "not", "no", "or", "and", "nor", "wrong", "noon", "midnight", "base", "than", "except", "excluded", "if", "when",
    "where", "for", "false", "choose", "others", "rows", "columns", "versus", "vs", "approximately",
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
        not re.fullmatch(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*|[$€£¥¢]", name) or name in _NEVER for name in names
    ):
        return False
    if any(
        name.endswith("ths") or name.rstrip("s") in MULTIPLES or number_of(name.removesuffix("s")) is not None for name in names
    ):
        return False
    return trusted or all(len(name) < 2 or name in _KNOWN or name.rstrip("s") in _KNOWN for name in names) or any(
        name in _KNOWN or (name.endswith("s") and len(name) > 3) for name in (names[0], names[-1])
    )  # fmt: skip


def unit_of(words: str) -> str:
    """One spelling of a unit: cm, centimeter(s); square cm and cm^2; what only counts ("units", "th grade") is no unit."""
    found = []
    for written in re.findall(r"[A-Za-z]+|\^?-?\d+|[/$€£¥¢°]", words):
        word = written if re.fullmatch("M[A-Za-z]", written) else written.lower()  # MW is not mW
        singular = word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
        found.append(_UNIT_NAMES.get(singular, _UNIT_NAMES.get(word, singular)))
    for power, name in (("^2", "square"), ("^3", "cubic")):
        if name in found:
            found = [word for word in found if word != name] + [power]
    found = [word for word in found if word not in ("unit", "of", "the", "a", "th", "st", "nd", "rd", "exactly", "about")]
    return "" if not [word for word in found if not word.startswith("^")] else "".join(found)

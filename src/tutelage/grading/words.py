"""Words: answers that are words (names, the letter of a choice, number words, times of day), and units of measurement."""

from __future__ import annotations

import re

from tutelage.grading.format import TEXT_COMMANDS

WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2}")
"""A word begins, and no command of LaTeX."""
_TEXT_COMMAND = re.compile(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}]*)\}}")
_MATHEMATICAL = {
    "pi", "sqrt", "sin", "cos", "tan", "log", "exp", "and", "theta", "alpha", "beta", "infinity", "inf", "cot", "sec", "csc",
}  # fmt: skip
_CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s*)?(?:\(([A-Ja-j])\)|([A-J])(?:[.:)](?=\s|$)|$)|([a-j])$)\s*(.*)"
)
_NO_TAIL = re.compile(
    r"\b(?:not?|or|and|nor|wrong|incorrect|false|wait|but|can|could|should|fails|never|maybe|trap|ruled|would|might|perhaps|out)\b"
    r"|(?:ed|ful|ly|n['’]t)\b|[^\x00-\u024f]|(?:^|(?<=[\s(]))[a-j](?:\)|$)|(?<![A-Za-z\\])[A-J](?![A-Za-z])"
)
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
    if clocks[0] and clocks[1] and all(
        int(clock[1]) <= 24 and int(clock[2]) < 60 and int(clock[3] or 0) < 60 for clock in clocks if clock
    ):
        return _seconds(clocks[0]) == _seconds(clocks[1])
    days = [_date(side) for side in (gold, answer)]
    if all(days):
        return days[0] == days[1]
    marked = [_marked(side) for side in (gold, answer)]
    if marked[0] and marked[1] and max(len(marked[0]), len(marked[1])) > 1:
        return marked[0] == marked[1]
    if any(re.fullmatch(r"(?:\(\d\)){2,}", side) and other.isdigit() for side, other in ((gold, answer), (answer, gold))):
        return False
    choices = [_choice(side) for side in (gold, answer)]
    if choices[0] is not None and choices[1] is not None and not (choices[0][1] and choices[1][1]):
        return choices[0][0] == choices[1][0]
    agreed = [_AGREED.match(side) for side in (gold, answer)]
    if agreed[0] and agreed[1]:
        return agreed[0][1].casefold() == agreed[1][1].casefold() and all(map(_is_plain_yes, (gold, answer)))
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


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?"
    r"|dec(?:ember)?)\.?"
)
_MONTH = f"(?P<month>{MONTH})"
_DAY = r"(?P<day>\d{1,2})\s*(?:st|nd|rd|th)?"
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+(?P<year>\d{{4}}))?", rf"{_MONTH}\s+{_DAY}(?:\s*,?\s+(?P<year>\d{{4}}))?",
        r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})",
    )
]  # fmt: skip


def _date(text: str) -> tuple[int, int, str | None] | None:
    """(month, day, year) of 15 January 2024, Jan 15th, 2024 and 2024-01-15."""
    match = next(filter(None, (date.fullmatch(text) for date in _DATES)), None)
    if match is None:
        return None
    month = match["month"]
    return int(month) if month.isdigit() else 1 + _MONTHS.index(month[:3].lower()), int(match["day"]), match["year"]


_MARKED = re.compile(r"(?:[A-J]{2,8}|(?:\(?[A-J]\)?[\s,;]*(?:and\s+|&\s*)?){2,8}|(?:\(\d{1,2}\)[\s,;]*(?:and\s+)?){2,9}|[A-J]|\([A-J]\))")


def _marked(text: str) -> set[str] | None:
    """The choices of ABD, A, B and D or (1)(3)."""
    if _MARKED.fullmatch(text) is None:
        return None
    found = re.findall(r"[A-J]|\d+", text.replace("and", ""))
    return set(found) if len(set(found)) == len(found) else None


_AGREED = re.compile(r"(yes|no|true|false)(?:[,;:!]\s*(?=\w)|\.\s+|\s+[—–-]+\s*|\s+(?=(?:it|they|this|that)\b)|[.!]?$)", re.IGNORECASE)
_SAYS_SO = re.compile(
    r"(?:(?:it|they|this|that|he|she|there|the [a-z]+)\b )?(?:is|are|does|do|can|will|has|have|holds|converges|exists|diverges)?"
    r"(?: not|n't|not)?"
    r"(?: (?:possible|true|false|correct|converge|diverge|exist|hold|so|continuous|be|indeed|always|a|an|the|prime|even|odd))*"
    r"(?: ?(?:because|since|as) (?P<why>.+))?"
)
_UNSURE = re.compile(
    r"\b(?:but|or|maybe|unless|if|yes|no|true|false|only|some|sometimes|except|provided|assuming|rarely|partly|hardly|guess|wrong|might|may"
    r"|perhaps|probably|when|iff|doubt|opposite|long)\b"
)


def _is_plain_yes(text: str) -> bool:
    """Yes, it is; No, it is not; and no "yes, but"."""
    agreed = _AGREED.match(text)
    if agreed is None:
        return False
    rest = text[agreed.end() :].strip(" .!").casefold()
    said = _SAYS_SO.fullmatch(re.sub(r"\s+", " ", rest))
    if said is None or _UNSURE.search(rest):
        return False
    spoken = rest[: said.start("why")] if said["why"] else rest
    denied = re.search(r"\bnot\b|n't|diverges|cannot", spoken) is not None
    if not spoken.removeprefix("because").strip() or agreed[1].casefold() in ("true", "false"):
        return True
    is_reason = bool(said["why"] and re.fullmatch(r"(?:because|since|as) ", spoken))
    return is_reason or denied is (agreed[1].casefold() == "no")


_SUBJECT = re.compile(
    r"^(?:the|this|it)(?: [a-z]+)? (?:is|are) |^the (?:series|integral|sequence|limit) (?=(?:con|di)verges$|does not exist$)"
)


def _canonical(words: str) -> str:
    """Without regard to case, articles and "it is"; number words as numbers."""
    words = _SUBJECT.sub("", words.casefold())
    words = re.sub(r"^(?:(?:it's|on|in|at|all)\s+)?(?:(?:the|a|an|all)\s+)?(?=\w)", "", words)
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
    if match is None or _NO_TAIL.search(match[4]) or (match[4].startswith("(") and text[match.start(4) - 1] != " "):
        return None
    return (match[1] or match[2] or match[3]).upper(), match[4]


def texts_of_choices(gold: str, answer: str) -> tuple[str, str] | None:
    """What is left to compare of (A) 7 and A. 7, or of (A) 7 and 7; None where there is no choice with a text, or not the same one."""
    choices = [_choice(plain(side)) for side in (gold, answer)]
    if choices[0] is not None and choices[1] is not None:
        return (choices[0][1], choices[1][1]) if choices[0][0] == choices[1][0] and choices[0][1] and choices[1][1] else None
    texts = tuple(choice[1] if choice is not None else side for choice, side in zip(choices, (gold, answer), strict=True))
    return (texts[0], texts[1]) if any(choice is not None and choice[1] for choice in choices) else None


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

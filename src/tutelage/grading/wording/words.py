"""Answers that are words: names, letters of choices, times of day, dates, yes and no."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from tutelage.grading.reading.lexer import FUNCTIONS, GREEK
from tutelage.grading.taking.format import TEXT_COMMANDS
from tutelage.grading.wording.units import is_unit
from tutelage.grading.wording.vocabulary import DOUBTS, listed, number_of, replacements, words_of

WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2}")
"""A word begins, and no command of LaTeX."""
MATHEMATICAL = FUNCTIONS | GREEK | replacements("same functions").keys() | {"sqrt", "infinity", "inf", "cis", "pi"}
"""What is mathematics, although it is written as a word."""
_MAY_BE_WORDS = re.compile(rf"{WORD.pattern}|[A-J:]|\(\w\)|\d-\d|^[a-j]$")
_TEXT_COMMAND = re.compile(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}]*)\}}")
_BASED = re.compile(r"\(?([0-9A-F]+)\)?_\{?\w+\}?")


@lru_cache(4_096)
def plain(text: str) -> str:
    """The text without the commands around words: \\text{Even} → Even."""
    if "\\" in text:
        text = _TEXT_COMMAND.sub(r"\1 ", text).replace("\\ ", " ")
    if text.startswith("\\{") and text.endswith("\\}") and "," in text and not re.search(r"[\d=|<>^_]", text):  # a set of words
        text = text[2:-2]
    return re.sub(r"\s+", " ", text).replace(" & ", " and ").strip().strip(".").strip()


def same_words(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are the same words; None when that is not for words to decide."""
    gold, answer = (_OF_FUNCTION.sub("", plain(side)) for side in (gold, answer))
    if gold == answer or ((based := _BASED.fullmatch(gold)) is not None and answer.upper() == based[1]):
        return True
    if _letters(gold) == _letters(answer) and _tight(gold) == _tight(answer):
        return True
    if gold != answer and _TIMES.sub("", gold) == _TIMES.sub("", answer):  # xyz and x · y · z
        return True
    if not (_MAY_BE_WORDS.search(gold) or _MAY_BE_WORDS.search(answer)):
        return None
    if (sizes := _same_size(gold, answer)) is not None:
        return sizes
    if (labels := _labelled(gold)) is not None and labels == _labelled(answer):
        return True
    when = _WHEN.sub("", gold), _WHEN.sub("", answer)
    readings: tuple[Callable[[str], object], ...] = (_seconds, _date, _marked, _agreed)
    in_an_order = gold.isalpha() and sorted(gold) != list(gold)  # CAB is a word, or an order
    for reading in readings[:2] + readings[3:] if in_an_order else readings:
        if (meant := reading(when[0])) is not None and (said := reading(when[1])) is not None:
            return meant == said
    if (choice := _choice(gold)) is not None and (other := _choice(answer)) is not None and not (choice[1] and other[1]):
        return choice[0] == other[0]
    of_words = _is_words(gold), _is_words(answer)
    if not any(of_words):
        return None
    said = [_canonical(side) if words else side.casefold() for side, words in zip((gold, answer), of_words, strict=True)]
    if said[0].replace(" ", "") == said[1].replace(" ", ""):  # north-west, northwest
        return True
    return all(of_words) and _enumerated(gold) == _enumerated(answer)


# ── times, dates, choices ─────────────────────────────────────────────────────────────────────────────────────────────

_WHEN = re.compile(r"^(?:it(?:'s| is| was) )?(?:(?:on|at) )?(?=\d|[A-Z])", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_NAMED_TIMES = {"noon": "12:00", "12 noon": "12:00", "midnight": "0:00", "12:00 noon": "12:00", "12:00 midnight": "0:00"}
_MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"
]  # fmt: skip
MONTH = rf"(?:sept|{'|'.join(f'{name[:3]}(?:{name[3:]})?' for name in _MONTHS)})\.?"
_DAY = r"(\d{1,2})\s*(?:st|nd|rd|th)?"
_DATE = re.compile(rf"(?:(?:the\s+)?{_DAY}\s+(?:of\s+)?({MONTH})|({MONTH})\s+{_DAY})(?:\s*,?\s+(\d{{4}}))?", re.IGNORECASE)
_YEAR_FIRST = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_MARKED = re.compile(
    r"(?:[A-J]{2,8}|(?:\(?[A-J]\)?[\s,;]*(?:and\s+|&\s*)?){2,8}|(?:\(\d{1,2}\)[\s,;]*(?:and\s+)?){2,9}|[A-J]|\([A-J]\)|\d+)"
)
_CHOICE = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s*)?(?:\(([A-Ja-j])\)|([A-J])(?:[.:)](?=\s|$)|$)|([a-j])$)\s*(.*)")
_OTHER_CHOICE = re.compile(r"(?:ed|ful|ly)\b|[^\x00-\u024f]|(?:^|(?<=[\s(]))[a-j](?:\)|$)|(?<![A-Za-z\\])[A-J](?![A-Za-z])")
_LAST_OF_LIST = re.compile(r"(?<=\d),?\s+and(?=\s+-?\d)")
_TAKES_BACK = listed("other choices")
_LINKS = listed("copulas") | {"the", "a", "an"}


def _seconds(text: str) -> int | None:
    """The time of day, from midnight."""
    clock = _CLOCK.fullmatch(_NAMED_TIMES.get(text.casefold(), text))
    hours, minutes, seconds = (int(part or 0) for part in clock.groups()[:3]) if clock is not None else (99, 0, 0)
    if clock is None or hours > 24 or minutes > 59 or seconds > 59:
        return None
    if clock[4]:
        hours = hours % 12 + (12 if clock[4].lower() == "p" else 0)
    return (hours * 60 + minutes) * 60 + seconds


def _date(text: str) -> tuple[int, int, str | None] | None:
    """(month, day, year) of 15 January 2024, Jan 15th, 2024 and 2024-01-15."""
    if (numbers := _YEAR_FIRST.fullmatch(text)) is not None:
        return int(numbers[2]), int(numbers[3]), numbers[1]
    if (match := _DATE.fullmatch(text)) is None:
        return None
    month = (match[2] or match[3])[:3].lower()
    return 1 + [name[:3] for name in _MONTHS].index(month), int(match[1] or match[4]), match[5]


def _marked(text: str) -> set[str] | None:
    """The choices of ABD, A, B and D or (1)(3); of a number itself."""
    if _MARKED.fullmatch(text) is None:
        return None
    found = re.findall(r"[A-J]|\d+", text.replace("and", ""))
    return set(found) if len(set(found)) == len(found) else None


_TIMES = re.compile(r"(?<=\b[a-z])(?:\s|\\cdot|\\times|\*)+(?=[a-z]\b)")
"""What stands between two letters that are multiplied."""


def _letters(text: str) -> str:
    return text.replace(" ", "").casefold()


def _tight(text: str) -> str:
    """Without the spaces beside brackets and marks; a word begins small."""
    text = re.sub(r"\s*([(),;:=<>\[\]])\s*", r"\1", text)
    return text[0].lower() + text[1:] if re.match("[A-Z][a-z]{2}", text) else text


_SIZE = re.compile(r"(\d+)\s*(by|x|\*|·|\\times|\\cdot)\s*(\d+)(?:\s+([a-z]+))?")


def _same_size(gold: str, answer: str) -> bool | None:
    """Whether two sizes (3 by 2, a 4 × 4 grid) are the same; None where no side says that it is a size."""
    sizes = [_SIZE.fullmatch(_ARTICLE.sub("", side)) for side in (gold, answer)]
    nouns = [size[4] for size in sizes if size is not None and size[4] and not is_unit([size[4]], False)]
    if None in sizes or not (nouns or any(size is not None and size[2] == "by" for size in sizes)):
        return False if nouns else None
    first, second = (size.groups() if size is not None else () for size in sizes)
    return (first[0], first[2]) == (second[0], second[2]) and len(set(nouns)) < 2


_VALUE = re.compile(r"[-+]?\s*[$€£]?\s*\d[\d.,/]*\s*%?")


FULL_NAMES = {"max": "maximum", "min": "minimum"}


def _labelled(text: str) -> dict[str, str] | None:
    """The value of each label in Tom: 12, Ann: 8 or 3 red, 4 blue, of two labels at least."""
    found: dict[str, str] = {}
    parts = re.split(r"[,;]\s+(?:and\s+)?|\s+and\s+", text)
    for part in parts if len(parts) > 1 else ():
        value = _VALUE.search(part)
        label = " ".join(FULL_NAMES.get(word, word) for word in words_of(part) if word not in _LINKS)
        rest = part.replace(value[0], "", 1).replace("=", "").strip(" :") if value is not None else ""
        if value is None or not re.fullmatch(r"[^\W\d_][^\d=<>\\^_()]*", rest) or len(label) < 3 or label in found:
            return None
        found[label] = value[0].strip().rstrip(",.")
    return found or None


@lru_cache(4_096)
def _choice(text: str) -> tuple[str, str] | None:
    """(letter, text behind it) of (C), C, C. 12 or (C) 12; None where another letter or a word of doubt follows."""
    match = _CHOICE.fullmatch(text)
    if match is None or (match[4].startswith("(") and text[match.start(4) - 1] != " "):
        return None
    if match[4] and (_OTHER_CHOICE.search(match[4]) or not _TAKES_BACK.isdisjoint(words_of(_LAST_OF_LIST.sub(",", match[4])))):
        return None
    return (match[1] or match[2] or match[3]).upper(), match[4]


def texts_of_choices(gold: str, answer: str) -> tuple[str, str] | None:
    """What is left to compare of (A) 7 and A. 7, or of (A) 7 and 7; None where there is no choice with a text, or not the same one."""
    choices = [_choice(plain(side)) for side in (gold, answer)]
    if choices[0] is not None and choices[1] is not None:
        return (choices[0][1], choices[1][1]) if choices[0][0] == choices[1][0] and choices[0][1] and choices[1][1] else None
    texts = tuple(choice[1] if choice is not None else side for choice, side in zip(choices, (gold, answer), strict=True))
    return (texts[0], texts[1]) if any(choice is not None and choice[1] for choice in choices) else None


# ── yes, no and other words ───────────────────────────────────────────────────────────────────────────────────────────

_AGREED = re.compile(r"(yes|no|true|false)(?:[,;:!]\s*(?=\w)|\.\s+|\s+[—–-]+\s*|\s+(?=(?:it|they|this|that)\b)|[.!]?$)", re.IGNORECASE)
_SAYS_SO = re.compile(
    r"(?:(?:it|they|this|that|he|she|there|the (?P<subject>[a-z]+))\b )?"
    r"(?:is|are|does|do|can|will|has|have|holds|converges|exists|diverges)?(?: not|n't|not)?"
    r"(?: (?:possible|true|false|correct|converge|diverge|exist|hold|so|continuous|be|indeed|always|a|an|the|prime|even|odd))*"
    r"(?: ?(?:because|since|as) (?P<why>.+))?"
)
_UNSURE = DOUBTS | listed("conditions")
_SUBJECT = re.compile(
    r"^(?:(?:the|this|that|it|they|these|those)(?: (?!not )[a-z]+){0,2}|there|[a-z]|[a-z]{4})"
    r" (?:is|are|was|were|will be|represents|falls on|describes) (?!not$)"
    r"|^(?:it|(?:the|this) (?:[a-z]+ )?(?:series|integral|sequence|limit|function)) (?=(?:con|di)verges\b|does not exist$)"
)
_OF_FUNCTION = re.compile(
    r"^(?:[a-z]\([a-z]\)|\([^()]{3,20}\)|[Tt]he \d+ ?(?:st|nd|rd|th) +[a-z]+) (?:is|falls on) (?:an? )?(?=[A-Za-z]{2})"
)
"""f(x) is even, (0, 0) is a saddle point, the 100th day falls on a Tuesday"""
_WINS = re.compile(
    r"(?<=[a-z]) (?:(?:will |can )?(?:always )?(?:wins?|won)(?: the [a-z]+)?"
    r"|is the (?:winner|[a-z]+ (?:with|who (?:has|had|is)) the (?:most|least|[a-z]{2,}est)(?: [a-z]+){0,2})|has (?:a|the) winning strategy"
    r"|(?:is|was|has|had|got|ran|sold|ate|made|[a-z]{2,}(?:ed|s)) the (?:most|least|[a-z]{2,}est)"
    r"(?: (?!but\b|except\b|and\b|or\b)[a-z]+){0,2})$"
)
_FILLERS = listed("fillers")
_VERGES = re.compile(r"(?:(\w+ly) )?(con|di)verg(?:es|ent|ing)(?: (\w+ly))?")
_ONLY_WORDS = re.compile(r"[^\W\d_]+(?:(?:['’-]|[ ,]+)[^\W\d_]+)*")
_ARTICLE = re.compile(r"^(?:(?:it's|on|in|at|all)\s+)?(?:(?:the|a|an|all)\s+)?(?=\w)")


def _agreed(text: str) -> str | None:
    """The yes of "Yes, it is", the no of "No, it is not"; the text itself of "Yes, but" and what else says more."""
    if (agreed := _AGREED.match(text)) is None:
        return None
    word = agreed[1].casefold()
    rest = text[agreed.end() :].strip(" .!").casefold()
    said = _SAYS_SO.fullmatch(rest)
    if said is None and word == "yes" and re.match("(?:the|it|they|these|this|we|both) ", rest) and _UNSURE.isdisjoint(words_of(rest)):
        return word
    if said is None or not _UNSURE.isdisjoint(words_of(" ".join(said.groups("")))):
        return text
    spoken = rest[: said.start("why")] if said["why"] else rest
    denied = re.search(r"\bnot\b|n't|diverges", spoken) is not None
    agrees = word in ("true", "false") or not re.sub("(?:because|since|as) $", "", spoken) or denied is (word == "no")
    return word if agrees else text


def _canonical(words: str) -> str:
    """Without regard to case, articles, "it is" and fillers (due east, skew lines); number words as numbers."""
    words = re.sub(r"^(?:by|using) (?:the )?[a-z ]+, | to each other$", "", words.casefold())
    words = _ARTICLE.sub("", _SUBJECT.sub("", _WINS.sub("", words)))
    if (number := number_of(words)) is not None:
        return str(number)
    words = _VERGES.sub(lambda found: f"{found[1] or found[3] or ''} {found[2]}vergent".strip(), words)
    kept = words.replace("-", " ").split()
    kept = [word for index, word in enumerate(kept) if word not in _FILLERS or len(kept) < 2] or kept
    return " ".join(kept)


def _enumerated(words: str) -> list[str]:
    parts = [_canonical(part.strip()) for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", words) if part]
    return sorted(part.removesuffix("s") for part in parts) if len(parts) > 1 else parts


def _is_words(text: str) -> bool:
    """Plain words, one of them of three letters or more and none of mathematics: "x" and "pi" stay mathematics."""
    return _ONLY_WORDS.fullmatch(text) is not None and any(
        (len(word) > 2 or word == "no") and word not in MATHEMATICAL and word != "and" for word in words_of(text)
    )

"""What stands beside a value and leaves it what it is: remarks, reasons, the items of a counted list, units within a calculation."""

from __future__ import annotations

import re
from fractions import Fraction

from tutelage.grading.wording.units import is_unit
from tutelage.grading.wording.vocabulary import DOUBTS, NUMBER_WORDS, changed, doubted, listed, number_of, words_of
from tutelage.grading.wording.words import WORD

_ANSWERS, _REASONS = listed("answers"), listed("reasons")
_COMMAND = re.compile(r"\\(?!text)[A-Za-z]+")
_RECKONING = frozenset({"value", "if", "actually", "rounding"})
_REMARK = re.compile(
    r"(?:[\s,;]|\\q?quad|\\text\s*\{)*"
    r"(?:(?P<bracket>\()(?:\\text\s*\{\s*)?|[\s,](?=since|because)|,\s*(?=as (?:required|desired|expected)\b"
    r"|which (?:is|are|satisfies)\b|not\b)"
    r"|,?\s+(?=(?:which is )?(?:attained|achieved|reached|with equality)\b))"
    r"(?P<kind>(?:which is )?(?:attained|achieved|reached|with equality)|as (?:required|desired|expected)|which (?:is|are|satisfies)"
    r"|since|because|the only|as|by|using|from|due|given|note|check(?:ed)?|verified|rounded"
    r"|simplified|in simplest|in lowest|answer|final|not|exactly|in total|see)\b(?P<said>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_WHERE = re.compile(r"(?:only )?(?:if and only if|if|iff|when|at|for|by)\b[^;?!]*")
_TRUE_OF_ALL = re.compile(
    r"(?:form|terms|answer|above|below|even|odd|prime|required|desired|expected"
    r"|the (?:original |given )?(?:equation|condition|inequality)|(?:the|our) (?:final )?(?:answer|result))?"
)
_AGAIN = re.compile(
    r"^(?P<first>.*[^\s(,])\s*\((?:\\text\{)?\s*(?:or|i\.?e\.?,?|that is,?|=|equivalently,?)\s*\}?(?P<second>.*[^\s])\)$"
)
_DECIMAL_AGAIN = re.compile(r"^(?P<first>.*[^\s(,*])\s+\((?P<second>-?\d*\.\d+|-?\d+(?:\.\d+)?\s*\\?%)\)$")
_THAT_IS = re.compile(r"^(?P<first>[^,]*[^\s,]),?\s+(?:i\.\s?e\.,?|that is,?|or equivalently,?)\s+(?P<second>[^,]+)$")
_WORDED = re.compile(
    r"(?:(?P<words>[A-Za-z -]+?)\s+\((?P<digits>\d+)\)|\$?(?P<first>\d+)\$?\s+\((?P<behind>[a-z -]+)\))(?P<counted>(?: [a-z]+)*)"
)
"""eight (8) apples, 8 (eight) apples"""
_COUNTED = re.compile(
    r"(?P<before>(?:[A-Z][a-z]+ (?:are|is|exist|exists|has|have) )?(?:exactly |only )?(?P<count>\d+|[A-Za-z]+)(?: [a-z]+){1,4})"
    r"(?: ?: | \((?:namely |i\.e\. )?|, namely,? )(?P<items>[^:]*?)\)?"
)
"""There are 2 solutions: x = 0 and x = 3"""
_NUMBER_WORD = rf"(?:{'|'.join(NUMBER_WORDS)}|hundred|thousand|million)"
_NUMBER_WORDS = re.compile(
    rf"(?<![\w-]){_NUMBER_WORD}(?:(?:[ -]| and ){_NUMBER_WORD})*(?!-?\w| (?:of|some|odd|score|gross)\b)", re.IGNORECASE
)
_ONE = re.compile(r"\b(?:is|are|has|have|only|exactly) $", re.IGNORECASE)
"""Behind these words, one is a number."""
_UNIT_IN_TERM = re.compile(r"(?<=\d) ?((?!x\b)[a-z]+)(?:/[a-z]+)?(?=[ )]*(?:[-+*/=)]|\\times|\\cdot|x\b|$))")
_REJECTED = re.compile(
    r"(?P<value>(?:[A-Za-z]\s*=\s*)?-?\d+(?:\.\d+|/[1-9]\d*)?)(?: only)?,?\s*(?:\(|\b(?:since|because|as) )"
    r"(?:the (?:other|extraneous) (?:root|solution|value),? ?)?(?:[A-Za-z]\s*=\s*)?(?P<other>-?\d+(?:/[1-9]\d*)?),? "
    r"(?:(?:is )?(?:extraneous|rejected|invalid|discarded)|(?:is|does)(?: not|n't) (?:valid|satisfy|work|check|in)"
    r"(?: (?:in|the|a|original|equation|domain|condition|constraint|problem|solution))*)\)?"
)
"""5 (-1 is extraneous)"""


def with_digits(text: str) -> str:
    """There are twenty-four ways → There are 24 ways, in a text that has no other number."""
    if not WORD.search(text) or re.search(r"[\d\\$=]", text):
        return text
    runs = [run for run in _NUMBER_WORDS.finditer(text) if run[0].casefold() != "one" or _ONE.search(text[: run.start()])]
    number = number_of(runs[0][0].casefold()) if len(runs) == 1 else None
    return text if number is None else f"{text[: runs[0].start()]}{number}{text[runs[0].end() :]}"


def without_units(text: str) -> str:
    """3 sprints x 60 m = 180 meters → 3 \\times 60 = 180 meters; 30% of 50 = 15 → 30% \\times 50 = 15."""
    worked, equals, result = text.rpartition("=")
    if not equals or not re.search(r"\d(?=[^\d=]+\d)[^\d=]*?(?:[-+*/]|\\times|\\cdot|\bx\b)|%", worked) or not re.search(r"\d", result):
        return text
    bare = _UNIT_IN_TERM.sub(lambda unit: "" if is_unit([unit[1]], False) or unit[1] in ("times", *"hmsgl") else unit[0], worked)
    return re.sub(r" x (?=\$?\d)|(?<=%) of ", r" \\times ", bare) + "=" + result


def without_items(text: str) -> str:
    """There are 2 real solutions: x = 0 and x = 3 → There are 2 real solutions."""
    counted = _COUNTED.fullmatch(text.strip(" ."))
    if counted is None:
        return text
    items = items_of(counted["items"])
    said = any(re.search(r"[^\W\d_]{2}", _COMMAND.sub("", item)) for item in items)  # oops, three
    count = int(counted["count"]) if counted["count"].isdigit() else number_of(counted["count"].casefold())
    return counted["before"].replace(counted["count"], str(count), 1) if count == len(items) and not said else text


def items_of(text: str) -> list[str]:
    """The items of "x = 0, (1, 2) and x = 3": what commas, semicolons and "and" outside of brackets separate."""
    items, depth = [""], 0
    for piece in re.split(r"(\s+and\s+|[,;()\[\]{}])", text):
        depth += (piece in ("(", "[", "{")) - (piece in (")", "]", "}"))
        if depth == 0 and piece.strip() in (",", ";", "and"):
            items.append("")
        else:
            items[-1] += piece
    return [item for item in items if item.strip(" $\\")]


def without_remark(text: str) -> str:
    """42 (since 6 · 7 = 42) → 42; 3/4 (or 0.75) → 3/4 = 0.75, so that both must be right."""
    text = re.sub(r"(?<=[\d$]) when (?:(?:it|[A-Za-z]) is )?divided by \$?\d+\$?\.?$", "", text)
    again = (_AGAIN.match(text) or _DECIMAL_AGAIN.match(text)) if text.endswith(")") else _THAT_IS.match(text)
    if again is not None and not re.search("[=<>]", again["first"] + again["second"]) and not words_of(_COMMAND.sub("", again["second"])):
        return f"{again['first']} = {again['second']}".replace("$", "")
    if (worded := _WORDED.fullmatch(text.strip())) is not None:
        digits, words = worded["digits"] or worded["first"], worded["words"] or worded["behind"]
        if number_of(words.casefold()) == int(digits):
            return digits + worded["counted"]
    rejected = _REJECTED.fullmatch(re.sub(r"[\s$]+", " ", text).strip())
    if rejected is not None and Fraction(rejected["other"]) != Fraction(re.sub(r"[A-Za-z]\s*=\s*", "", rejected["value"])):
        return rejected["value"]
    remark = _REMARK.search(text) if WORD.search(text) else None
    if remark is None or not re.search(r"[\d\w)}$]$", text[: remark.start()].rstrip(" \\")):
        return text
    value, kind, tail = text[: remark.start()], remark["kind"].casefold(), remark["said"].strip(" .{}$:()")
    if remark["bracket"] and not text.rstrip(" }").endswith(")"):
        return text
    if kind == "not":
        return value if re.fullmatch(r"-?\d+(?:[./]\d+)?|[A-J]", tail) and tail != value.strip(" $") else text
    if kind.endswith(("attained", "achieved", "reached", "equality")):
        words = words_of(_COMMAND.sub("", tail))
        return value if _WHERE.fullmatch(tail) and (_ANSWERS | DOUBTS).isdisjoint(words) and "but" not in words else text
    if kind == "the only":
        return value if re.fullmatch("(?:(?:real|valid|possible) )*(?:solution|root|value|one)", tail) else text
    if kind not in _REASONS:
        return value if _TRUE_OF_ALL.fullmatch(tail) else text
    of_words = re.match(r"\W*(?:option |choice )?(?:\(?[A-J]|yes|no|true|false)\b(?!\s*=)", value, re.IGNORECASE) is not None
    words = words_of(_COMMAND.sub("", tail))
    if doubted(words) or not _RECKONING.isdisjoint(words) or (not of_words and (changed(words) or not _ANSWERS.isdisjoint(words))):
        return text
    if of_words or not re.search(r"\d", tail):
        return value
    tail = tail.replace("\\text", " ").strip(" ,{}")
    says_more = re.search(r"[<>\\]ne\b|[<>]|[^\W\d_]{3}", re.sub(r"\\[a-z]+", "", tail))
    return f"{value.strip()} = {tail}" if "=" in tail and not says_more else text

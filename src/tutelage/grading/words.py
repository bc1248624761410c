"""Answers that are words: names, yes and no, the letter of a choice, number words, times of day."""

from __future__ import annotations

import re

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|hbox|mathrm|mathbf|mathit|emph|rm|bf)\s*\{([^{}]*)\}")
_MATHEMATICAL = {
    "pi", "sqrt", "sin", "cos", "tan", "log", "exp", "and", "theta", "alpha", "beta", "infinity", "inf", "cot", "sec", "csc",
}  # fmt: skip
_CHOICE = re.compile(r"(?:(?:option|choice|answer)\s*:?\s*)?(?:\(([A-J])\)|([A-J])(?:[.:)](?=\s|$)|$))\s*(.*)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def plain(text: str) -> str:
    """The text without the commands around words and without regard to case: \\text{Even} → even."""
    text = re.sub(r"\s+", " ", _TEXT_COMMAND.sub(r"\1 ", text).replace("\\ ", " "))
    return text.strip().strip(".").strip().casefold()


def same_words(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are the same words; None when neither is made of words."""
    gold, answer = plain(gold), plain(answer)
    if gold == answer:
        return True
    clocks = [_CLOCK.fullmatch(side) for side in (gold, answer)]
    if clocks[0] and clocks[1]:
        return _seconds(clocks[0]) == _seconds(clocks[1])
    letters = [_choice(side) for side in (gold, answer)]
    if letters[0] is not None and letters[1] is not None:
        return letters[0] == letters[1]
    kinds = [_is_words(side) for side in (gold, answer)]
    if not any(kinds):
        return None
    numbers = [number_of(side) if of_words else None for side, of_words in zip((gold, answer), kinds, strict=True)]
    if any(number is not None for number in numbers):
        sides = [str(number) if number is not None else side for number, side in zip(numbers, (gold, answer), strict=True)]
        return sides[0] == sides[1]
    return False


def _is_words(text: str) -> bool:
    """Plain words, one of them of three letters or more and none of mathematics: "x" and "pi" stay mathematics."""
    words = re.split(r"[ ,]+", text)
    return all(re.fullmatch(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", word) for word in words) and any(
        len(word) > 2 and word not in _MATHEMATICAL for word in words
    )


def _choice(text: str) -> str | None:
    """The letter of (C), C, C. or (C) with the choice's text behind it."""
    match = _CHOICE.fullmatch(text)
    return (match[1] or match[2]).casefold() if match else None


def _seconds(clock: re.Match[str]) -> int:
    hours, minutes, seconds = (int(part or 0) for part in clock.groups()[:3])
    if clock[4]:
        hours = hours % 12 + (12 if clock[4].lower() == "p" else 0)
    return (hours * 60 + minutes) * 60 + seconds


def number_of(text: str) -> int | None:
    """five → 5, twenty-five → 25, three hundred and four → 304; None for other words."""
    total = current = 0
    words = re.split(r"[ -]+", text)
    for word in words:
        if word in _UNITS:
            current += _UNITS.index(word)
        elif word in _TENS:
            current += 20 + 10 * _TENS.index(word)
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in ("thousand", "million"):
            total, current = total + (current or 1) * (1000 if word == "thousand" else 10**6), 0
        elif word != "and" or len(words) == 1:
            return None
    return total + current

"""What has a symbol, said in words: no solution, two thirds, all real numbers except 1, 3 to 4, k is an integer."""

from __future__ import annotations

import re
from collections.abc import Callable

from tutelage.grading.format import TEXT_COMMANDS
from tutelage.grading.vocabulary import number_of
from tutelage.grading.words import WORD

_SETS = r"(?:real\s+numbers?|reals|numbers?|values)"
_WORDED: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"(?:there (?:is|are|exists?) )?no (?:(?:real|integer|such|positive|valid|possible) )*(?:solutions?|roots?|values?)(?: exists?)?",
     r"\\emptyset"),
    (r"(?:the set of )?(?:all )?(?:real numbers|reals)(?: [a-z])?"
     r"(?: except(?: for)?| other than| excluding| but| not equal to)(?: [a-z] =)? (.+)",
     lambda match: rf"\mathbb{{R}} \setminus \{{{re.sub(' and | or ', ', ', match[1])}\}}"),
    (rf"(?:all )?(?:{_SETS} )?(?:[a-z] )?(?:(?:such that|with|where|satisfying|for which) )?([a-z] ?(?:[<>]|\\[lg]e |\\ne ).+)", r"\1"),
    (r"(?:all )?integers ([k-n] ?(?:[<>]|\\[lg]e |\\ne ).+)", r"\1"),
    (rf"(?:all )?{_SETS}(?: [a-z])? (greater|more|larger|less|smaller) than (or equal to )?(\S+)", lambda match: _compared("x", match)),
    (r"([a-z]) (?:is )?(greater|more|larger|less|smaller) than (or equal to )?(\S+)", lambda match: _compared(match[1], match)),
    (r"(?:all )?(?:real numbers? )?(?:non-?negative)(?: (?:real )?numbers?| reals)", r"[0, \\infty)"),
    (r"(?:all )?positive (?:real numbers?|reals)", r"(0, \\infty)"),
    (r"(?:all )?negative (?:real numbers?|reals)", r"(-\\infty, 0)"),
    (r"(?:all )?(?:the )?real numbers [a-z]|all real [a-z]", r"\\mathbb{R}"),
    (r"(\d+) out of (\d+)", r"\1/\2"),
    (r"([a-z]) is at least (\S+)", r"\1 \\ge \2"),
    (r"([a-z]) is at most (\S+)", r"\1 \\le \2"),
    (r"(?:from|between) (\S+) (?:to|and) (\S+?),? inclusive", r"[\1, \2]"),
    (r"(?:the )?(?:set of )?(?:all )?(?:the )?integers", r"\\mathbb{Z}"),
    (r"(?:the set of )?(?:all )?(?:the )?rational numbers", r"\\mathbb{Q}"),
    (r"(?:the )?(?:set of )(?:all )?(?:real numbers|reals)", r"\\mathbb{R}"),
    (r"(?:at )?(?:the )?(?:points? |origin )?(\(.+\))", r"\1"),
    (r"(?:the )?(?:ratio )?(\d+(?:\.\d+)?(?: to \d+(?:\.\d+)?)+)", lambda match: match[1].replace(" to ", ":")),
    (r"(\d+(?::\d+)+) ratio", r"\1"),
    (r"min(?:imum)?(?: value)? ?[:=] ?(\S+)|max(?:imum)?(?: value)? ?[:=] ?(\S+)", lambda match: match[1] or match[2]),
    (r"(?P<value>.*[\w})])[ ,]* \(?where (?P<name>[a-z]) is an? "
     r"(?P<kind>(?:real |arbitrary )?constant|(?:positive |nonnegative )?integer|real number|real)\)?",
     lambda match: _with_parameter(match)),
    (r"(?P<value>.*[\w})])[ ,]+for (?:any |every |all |each |some |an )?"
     r"(?P<kind>integers?|constants?|real numbers?|real|reals)(?: constants?)? (?P<name>[a-z])",
     lambda match: _with_parameter(match)),
    (r"(.*=.*[\w})])[ ,]+(?:for (?:all|any|every|each)|\\forall) "
     r"(?:real |positive |natural |integers? |numbers? )*[a-z](?: ?\\in ?\\mathbb ?\{?[A-Z]\}?)?", r"\1"),
]  # fmt: skip
_WORDED_COMPILED = [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _WORDED]


def _compared(name: str, match: re.Match[str]) -> str:
    *_, word, equal, value = match.groups()
    operator = ">" if word.casefold() in ("greater", "more", "larger") else "<"
    return f"{name} {({'>': chr(92) + 'ge', '<': chr(92) + 'le'}[operator]) if equal else operator} {value}"


def _with_parameter(match: re.Match[str]) -> str:
    """kπ, where k is an integer → kπ, k ∈ ℤ; that c is a constant says nothing more."""
    value = match["value"].rstrip(" ,")
    return value + (rf", {match['name']} \in \mathbb{{Z}}" if "integer" in match["kind"] else "")


_PHRASES = {
    "no solution": r"\emptyset", "no solutions": r"\emptyset", "there is no solution": r"\emptyset",
    "empty set": r"\emptyset",
    "the empty set": r"\emptyset", r"\{\}": r"\emptyset", r"\varnothing": r"\emptyset", "infinity": r"\infty",
    "negative infinity": r"-\infty",
    "minus infinity": r"-\infty",
    "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "the real numbers": r"\mathbb{R}",
    "none": r"\emptyset", "dne": "does not exist", "undefined": "does not exist",
}  # fmt: skip


def phrases(text: str) -> str:
    """What has a symbol, said in words: no solution → \\emptyset, two thirds → 2/3, all reals except 1 → \\mathbb{R} \\setminus \\{1\\}."""
    if len(text) > 200 or not WORD.search(text) or "\\begin" in text:
        return text
    plain = re.sub(r"\s+", " ", re.sub(rf"\\(?:{TEXT_COMMANDS})\s*\{{([^{{}}\\]*)\}}", r" \1 ", text)).strip()
    if (known := _PHRASES.get(plain.casefold())) is not None:
        return known
    for pattern, replacement in _WORDED_COMPILED:
        if (match := pattern.fullmatch(plain)) is not None:
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return _spoken_number(text) if len(text) < 80 and re.match(r"[A-Za-z]|\d+ and an? ", text) else text


_PARTS = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
_PART = re.compile(
    r"(?:(?P<full>[a-z\d -]+?) and )?(?P<top>[a-z -]+?|\d+)[ -](?P<part>hal(?:f|ves)|quarters?|fourths?|[a-z]+?(?:th|rd)s?)(?P<rest> .+)?"
)


def _spoken_number(text: str) -> str:
    """two thirds → 2/3, two and a half → 5/2, minus eight → -8, twenty-four ways → 24 ways; other words as they are."""
    words = re.sub(r"\s+", " ", text.strip().casefold())
    sign = "-" if (signed := re.match(r"(?:minus|negative) (?!.*(?:minus|negative))", words)) else ""
    words = words[signed.end() :] if signed else words
    if sign and re.fullmatch(r"[\d.,/]+", words):
        return sign + words
    words = re.sub(r"^half (?=an? )", "a half ", re.sub(r"^half$", "one half", words))
    if words.startswith("a half a dozen"):
        return sign + "6"
    if (part := _PART.fullmatch(words)) is not None:
        named = part["part"].replace("halves", "half").removesuffix("s").replace("fourth", "quarter")
        top, full = (1 if name in ("a", "an") else _integer(name) for name in (part["top"], part["full"] or "zero"))
        if named in _PARTS and top and full is not None and (top > 1) is (part["part"] not in ("half", named, "fourth")):
            below = _PARTS.index(named) + 2
            rest = re.sub("^ (?:of )?an? ", " ", part["rest"] or "")
            if not re.search(r"\b(?:of|and|or|times)\b", rest):
                return f"{sign}{full * below + top}/{below}{rest}"
    words = re.sub(r"^a (?=hundred|thousand|million|dozen)", "one ", words)
    known = words.split(" ")
    for count in range(len(known), max(0, len(known) - 3), -1):
        nouns = known[count:]
        value = number_of(" ".join(known[:count]))
        if value is not None and (not nouns or (len(nouns[-1]) > 3 and nouns[-1].endswith("s")) or nouns[0] == "dozen"):
            return f"{sign}{value}{''.join(f' {word}' for word in nouns)}"
    return text


def _integer(name: str) -> int | None:
    return int(name) if name.isdigit() else number_of(name)

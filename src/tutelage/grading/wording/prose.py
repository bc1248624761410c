"""Sentences around an answer, in several languages: the one value that they say.

A text is taken apart into words and mathematics. One piece of mathematics is the answer; two, or a word that changes, doubts or
denies a value, leave the text as it is: no reader reads it then, and it is wrong.
"""

from __future__ import annotations

import re
from itertools import dropwhile

from tutelage.grading.wording.remarks import with_digits, without_items, without_remark, without_units
from tutelage.grading.wording.units import MULTIPLES, is_known, is_unit
from tutelage.grading.wording.vocabulary import DOUBTS, changed, doubted, listed, words_of
from tutelage.grading.wording.words import FULL_NAMES, MATHEMATICAL, MONTH, WORD

_COPULAS, _ANSWERS, _GLUE = listed("copulas"), listed("answers"), listed("answers") | listed("copulas") | listed("glue")
_CLOSING = _GLUE | listed("closings")
_SHORT = {word for word in _GLUE | listed("verbs") | listed("behind") if len(word) > 1}
_CONJUNCTIONS, _PREPOSITIONS, _REASONS = listed("conjunctions"), listed("prepositions"), listed("reasons")
_FIGURES = frozenset({"triangle", "segment", "side", "angle", "point", "year", "rank", "dimension", "degree", "order"})
_LEADS_ON = _COPULAS | listed("between") | {""}
_FORMULA = "#"
"""What stands for mathematics in a subject."""
_SAYS_ALL = re.compile(
    r"(?:is|are|was|works|only)\b|an? (?:hour|day|week|month|year)$|[a-z]{3,} (?:are|were) (?:left|remaining)\b(?! (?:out|over|behind)\b)"
    r"|(?:[a-z]{3,} )?remain(?:s|ed)?$"
    r"|(?:[a-z]+ )?[a-z]{3,} (?:in (?:total|all)|altogether|to (?!the\b)[a-z]{3,} (?:them|it))\b"
)
_MUST = frozenset({"must", "should", "has", "to"})
_NEEDS = frozenset({"need", "needs", "needed"})
_CLAUSES = frozenset({"when", "that", "which", "who"})
"""What stands before a copula that says nothing of the answer."""
_OBJECTS = listed("objects")
_EXTREMES = frozenset({"maximum", "minimum", "max", "min", "mean", "median", "average"})
"""What says which value of several it is: the mean is not the median."""
_CALLED = frozenset({"is", "are", "was", "which", "as"})
_RELATION = re.compile(r"[=<>]|\\[lg]e|\\in")
_SUPPOSES = frozenset({"suppose", "supposing", "assume", "assuming"})
_CLAIMED = _GLUE | {"valid", "possible", "possibility", "unique", "smallest", "largest", "integer", "root", "works", "value"}
_ONLY = (["works"], ["only"], ["suffices"])
_VERB = re.compile("[a-z]{3,}(?:ed|[^s]s)|can|will|must")
_LEAVES_OPEN = (listed("prepositions") | listed("other prepositions")) - {"at"}
_OF_ALL = tuple(
    phrase.split()
    for phrase in ("total of", "profit of", "average of", "started with", "starts with", "up with", "calls for", "come to", "comes to")
)
LONGEST_SUBJECT = 12
"""Words of a subject, or of a phrase behind a value."""
_BEHIND, _ADJECTIVES = listed("behind"), listed("adjectives")
_VERBS, _QUANTITIES, _DETERMINERS = listed("verbs"), listed("quantities"), listed("determiners")
_LEADING_CLAUSE = re.compile(r"^(?:\w+ing|after|by|in|from|so|thus|hence|therefore|finally|now|then|first)\b[^,]*,\s*", re.IGNORECASE)
_IS = re.compile(r"(\$?)(?<![A-Za-z\\])([A-Za-z])\1\s+(?:equals|is equal to|is)\s+\1(?=-?[\d\\])")
_OF = re.compile(
    r"(?:(?P<counted>[a-z]{3,}s) )?of (?!them\b|it\b|which\b)"
    r"(?:(?!or\b|and\b|sum\b|difference\b|quotient\b|value\b)[a-z]+(?:[ .]+|$)){1,6}$"
)
"""60% of the students, 5 cups of flour"""
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|hbox|emph)\s*\{([^{}$\\]*)\}")
_QUAD = re.compile(r"\\q?quad(?![a-z])")
_DISPLAY = re.compile(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\$])|\n+")
_CONCLUDES = re.compile(r"(?:so|thus|hence|therefore|finally|in total|altogether|then)\b|.*\b(?:answer|total)\b", re.IGNORECASE)
_HENCE = re.compile(
    r"[,;]\s+(?:and\s+)?(?:hence|so|thus|therefore|giving|which\s+gives|we\s+get)\b,?\s+(?:that\s+)?"
    r"|,\s+(?=the\s+(?:final\s+)?answer\s+is\b)", re.IGNORECASE,
)  # fmt: skip
_COMMAND = re.compile(r"\\(?!text)[A-Za-z]+")
_UNIT = re.compile(r"[^\W\d_]+(?:[ /-](?:per|square|cubic|and)\s[^\W\d_]+|/[^\W\d_]+|\^\d)*")
_PARTLY = re.compile(r"\b(?:one|some|any|each|part) of\b", re.IGNORECASE)
_PIECE = re.compile(
    r"(?P<formula>\$[^$]+\$|\\\((?:.+?)\\\))|(?P<rate>(?<=[\d }])(?:[a-z]{1,3}/[a-z]{1,3})(?![A-Za-z])(?:\^\{?-?\d\}?)?)"
    r"|(?P<word>(?<![\\A-Za-z_^{])[^\W\d_]+(?:['’-][^\W\d_]+)*(?:(?<=s)['’](?=\s))?\.?(?![\w(^]))|(?P<space>\s+)|(?P<other>\\[A-Za-z]+|.)",
    re.DOTALL,
)
_NO_PROSE = re.compile(
    rf"\bthe\s+\d+\s*(?:\\text\{{)?(?:st|nd|rd|th)\b|^\(?[A-J][.):]\s|\b{MONTH}\s+\d|\d(?:st|nd|rd|th)?\s+(?:of\s+)?{MONTH}(?![a-z])"
    r"|(?<!\\)\b(?:mod|gcd|lcm|mid|floor|ceiling|sqrt|step|part|page|chapter|option|choice)\b", re.IGNORECASE,
)  # fmt: skip
"""Choices and dates are read elsewhere; the other words make something of the number behind them."""
LONGEST = 1_500
"""Characters of a text that is read as sentences."""


def said(text: str) -> str:
    """The value that a text of sentences says; the text itself where it has no words, or says none or several."""
    spelled = with_digits(text)
    value = _said(spelled)
    return text if value == spelled else value


def _on_a_line_of_its_own(shown: re.Match[str]) -> str:
    formula = (shown[1] or shown[2]).strip(" .,\n")
    return f"\n$ {formula} $\n"


def _said(text: str) -> str:
    if "\\begin" in text or len(text) > LONGEST or re.search("[\u4e00-\u9fff]", text):
        return text
    if text.rstrip().endswith("?") or not ("(" in text or WORD.search(text)):
        return text
    text = without_remark(without_items(without_units(_QUAD.sub(" ", text))))
    if _NO_PROSE.search(text) or not any(len(word) > 3 or word in _SHORT for word in words_of(_COMMAND.sub(" ", text))):
        return text
    if len(_IS.findall(text)) > 1:
        text = _IS.sub(r"\1\2 = ", text)  # a is 2 and b is 3
    plain = _DISPLAY.sub(_on_a_line_of_its_own, _TEXT.sub(r" \1 ", text)).replace("**", " ")
    sentences = [part.strip() for part in _SENTENCE_END.split(plain) if part.strip(" .")]
    valued = [index for index, sentence in enumerate(sentences) if re.search(r"[\d$\\=]", sentence)]
    others = (sentence for index, sentence in enumerate(sentences) if index not in valued)
    if not valued or any(doubted(words_of(sentence.removeprefix("Let "))) for sentence in others):
        return text
    last = sentences[valued[-1]]
    if not all(_CLOSING.issuperset(words_of(sentence)) for sentence in sentences[valued[-1] + 1 :]):
        return text
    if len(valued) > 1 and not (_CONCLUDES.match(last) or _DISPLAY.search(text)):
        return text
    *reasons, conclusion = _HENCE.split(last)
    supposed = not _SUPPOSES.isdisjoint(words_of(" ".join(sentences[: valued[-1]])))
    doubts = DOUBTS.intersection(words_of(" ".join(reasons)))
    none = doubts == {"no"} and re.search(r"\b(?:is|equals)\s+0$", conclusion.strip(" .$").replace("$", ""))
    if supposed or (doubts and not none):  # there are no such numbers, so the count is 0
        return text
    return _value(conclusion, len(sentences) > 1 or bool(reasons)) or text


# ── one sentence: subject, copula, value, what it counts ──────────────────────────────────────────────────────────────


def _pieces(sentence: str) -> list[tuple[str, str]]:
    """(kind, text) in order, of kinds "words" and "mathematics"."""
    found: list[tuple[str, str]] = []
    for match in _PIECE.finditer(sentence):
        text, before, behind = match[0], found[-1][0] if found else "", sentence[match.end() :]
        kind = "mathematics"
        if match["space"]:
            kind = before or "words"
        elif match["formula"]:
            text = " " + text.strip("$").removeprefix("\\(").removesuffix("\\)").strip() + " "
        elif match["word"]:
            kind = "words" if _is_word(text, before, behind) else kind
        elif text in ":=" and before == "words":
            kind, text = "words", f" {text} "
        elif text in ",;.!?" and (before != "mathematics" or not behind.strip(" .") or re.match(r"\s*[^\W\d_]{2,}(?!\s*=)", behind)):
            kind = "words"
        if before == kind:
            found[-1] = kind, found[-1][1] + text
        else:
            found.append((kind, text))
    return [(kind, text.strip()) for kind, text in found if text.strip(" .,")]


def _is_word(text: str, before: str, behind: str) -> bool:
    """A word, and no function, letter, differential, segment AB, nor an "and" between two values."""
    bare = text.rstrip(".").casefold()
    if bare in ("and", "or") and before == "mathematics":
        return re.match(r"\s*(?:[\d$\\(+-]|[A-Za-z]\s*=)", behind) is None
    if len(bare) == 1 and bare.isascii():  # "a" and "I" where a word follows
        return text in "aAI" and re.match(r"\s(?:[^\W\d_]{2}|\d)" if before == "words" else r"\s[^\W\d_]{2}", behind) is not None
    points = text.isupper() and len(bare) < 5
    return not (bare in MATHEMATICAL or points or re.fullmatch("d[xyztruvs]", text))


def _value(sentence: str, many: bool) -> str | None:
    """The one value of a sentence: subject, copula, value and what it counts, or words that lead to a value."""
    pieces = _pieces(sentence)
    if len(pieces) > 2 and pieces[-3][0] == "mathematics" and re.fullmatch("[a-z]", pieces[-1][1]):  # 42 possible values of n
        phrase = pieces[-2][1]
        if re.search(r"\b(?:of|for|in)$", phrase) and not changed(words_of(phrase)):
            pieces[-2:] = [("words", f"{phrase} {pieces[-1][1]}")]
    last = max((index for index, (kind, _) in enumerate(pieces) if kind == "mathematics"), default=None)
    if last is None or len(pieces) == 1:
        return pieces[0][1] if last is not None and many else None
    value, behind = pieces[last][1], " ".join(text for _, text in pieces[last + 1 :])
    lead = " ".join(text.replace("May", "").casefold() if kind == "words" else _FORMULA for kind, text in pieces[:last]).split()
    if not DOUBTS.isdisjoint(words_of(" ".join((*lead, behind)))):
        return None
    copulas = [at for at, word in enumerate(lead) if at and word.strip(",") in _COPULAS]
    copula = copulas[0] if copulas else None
    names_answer = _FORMULA not in lead and _GLUE.issuperset(words_of(" ".join(lead)))  # final answer: the answer is 5
    if copulas and (names_answer or (lead[0] in _DETERMINERS and not _CLAUSES.isdisjoint(lead[:copula]))):
        copula = copulas[-1]  # the remainder when N is divided by 9 is 4
    part = None if lead else _OF.match(behind)
    if part is not None and (part["counted"] or re.search(r"%|/|\\frac", value)) and _harmless(words_of(behind)):
        return f"{value} {part['counted'] or ''}".strip()
    if copula is not None and lead[copula] == "=" and lead[copula - 2] == _FORMULA and is_known(lead[copula - 1]):
        return None  # 60 minutes = 1 hour is a chain
    if copula is None:
        spoken = " ".join(lead)
        if not _NEEDS.isdisjoint(lead):
            behind = re.sub("^more (?=to [a-z])", "", behind)
        leads = _is_lead(spoken) and (_GLUE.issuperset(words_of(spoken)) or not re.search("[<>]", value))
        leads = (leads or _names(lead, value)) if lead else _SAYS_ALL.match(behind) is not None
        return _counted(value, behind) if leads and _FORMULA not in lead else None
    subject, between = " ".join(lead[:copula]), {word.strip(",:") for word in lead[copula + 1 :]}
    if not (is_subject(subject, lead[copula] == ":") and between <= _LEADS_ON) or ("there" in lead and re.search("[<>]", value)):
        return None
    if "and" in subject.split()[1:] and re.search(r"\band\b|,", value):  # the mean and the variance are 6 and 4
        return None
    if lead[copula] == "=" and not _QUANTITIES.isdisjoint(lead[:copula]):  # median = 4 is not mean = 4
        return None
    counted = _counted(value, behind)
    if counted is not None and (extreme := extreme_of(subject)) and not _RELATION.search(value):
        return f"{extreme} = {counted}"
    named = next((word for word in reversed(lead[:copula]) if word not in _MUST), "") == _FORMULA
    of_letter = named and re.fullmatch(r"[A-Za-z]|(?:\\overline\{)?[A-Z]{2}\}?", pieces[last - 2][1])
    if counted is None or not of_letter or _RELATION.search(value):
        return counted
    return f"{pieces[last - 2][1]} = {counted}"  # x must be 5


def _names(lead: list[str], value: str) -> bool:
    """the symmetric group S_3, the point (2, 3): a noun before a formula that is no number."""
    noun = len(lead) > 1 and lead[0] == "the" and _OBJECTS.issuperset(lead[1:])
    return noun and not re.match(r"[-\d.]", value)


def _counted(value: str, behind: str) -> str | None:
    """The value with its unit, if the words behind it leave it what it is."""
    words = words_of(behind)
    if value == "1" and words and not changed(words) and not words[0].endswith("th") and _harmless([*words[:-1], f"{words[-1]}s"]):
        return value
    if words and words[0] in _CALLED and _CLAIMED.issuperset(words[1:]):
        return value
    unit = _UNIT.match(behind)
    if unit is None or not (is_known(words[0]) or words[0] in MULTIPLES) or behind.startswith("in "):
        return value if _harmless(words) else None
    rest = words_of(behind[unit.end() :])
    named = unit[0] if unit[0].isascii() else f"\\text{{ {unit[0]}}}"
    return f"{value} {named}" if _harmless(rest) or _harmless(["units", *rest]) else None


def extreme_of(subject: str) -> str:
    """The mean of "the mean", the maximum of "the max value": said with the value, since the mean is not the median."""
    words = words_of(subject)
    found = _EXTREMES.intersection(words)
    return FULL_NAMES.get(*found, *found) if len(found) == 1 and (_GLUE | found | {"value", "possible"}).issuperset(words) else ""


def is_subject(spoken: str, labelled: bool = False) -> bool:
    """Whether words before a copula, none of them a doubt, name the answer itself, or are a noun phrase that says nothing of it."""
    words = words_of(_LEADING_CLAUSE.sub("", spoken.strip()))
    if _PARTLY.search(spoken):
        return False
    if _GLUE.issuperset(words) or (labelled and (_GLUE | _QUANTITIES).issuperset(words)):
        return True
    words = list(dropwhile(_CONJUNCTIONS.__contains__, words))
    if labelled and len(words) < 4 and len(words[0]) > 3:  # Period: 2\\pi
        return not changed(words)
    if labelled or not _ANSWERS.isdisjoint(words) or len(words) >= LONGEST_SUBJECT:
        return False
    return words[0] in _DETERMINERS or words[0].endswith("'s") or len(words) < 4


def _is_lead(lead: str) -> bool:
    """The words before a value without a copula: of the closed vocabulary, or a subject with a verb of having."""
    words = words_of(_LEADING_CLAUSE.sub("", lead))
    verbs = (at for at, word in enumerate(words) if word in _VERBS or (at and _VERB.fullmatch(word) and word not in _LEAVES_OPEN))
    verb = next(verbs, None)
    if words and words[-1] in _FIGURES and (_GLUE | _QUANTITIES).issuperset(words[:-1]):
        return True
    of_quantity = len(words) > 1 and words[-1] == "of" and words[-2] in _QUANTITIES - _EXTREMES  # has a radius of 5
    if of_quantity and {"a", "an", "the", "at", "with"}.issuperset(words[:-2]):  # at a speed of 5
        return True
    if _GLUE.issuperset(words):
        return verb is None or _ANSWERS.isdisjoint(words)
    if verb is None or verb > 4 or changed(words) or not _ANSWERS.isdisjoint(words):
        return False
    objects = [word for word in words[verb + 1 :] if word not in _GLUE | _VERBS | {"at"}]
    return len(objects) < 2 and (words[-1] not in _LEAVES_OPEN or of_quantity or words[-2:] in _OF_ALL)  # it takes Carla 60 minutes


def _harmless(words: list[str]) -> bool:
    """Words behind a value that only say what it counts: a plural noun, and a phrase behind that."""
    if words[:1] == ["more"] and len(words) > 1 and words[1] not in _BEHIND | _PREPOSITIONS:  # 24 more days; not $18 more every day
        words = words[1:]
    if not _ANSWERS.isdisjoint(words) or changed(words):
        return False
    words = list(dropwhile(_ADJECTIVES.__contains__, words))
    while len(words) > 2 and words[-1] in _BEHIND:  # video games now
        words.pop()
    if words in _ONLY or not (words := list(dropwhile(_BEHIND.__contains__, words))):
        return True
    if words[0] in _PREPOSITIONS and len(words) < LONGEST_SUBJECT:
        return True
    if len(words) == 2 and is_unit(words[1:], False) and len(words[0]) > 2 and not words[0].endswith("s"):  # purple flowers
        return True
    if not is_unit(words[:1], False):
        return False
    return _BEHIND.issuperset(words[1:]) or (words[1] in _PREPOSITIONS | {"were", "are", "and"} and len(words) < LONGEST_SUBJECT)

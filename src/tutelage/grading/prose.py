"""Sentences around an answer, in several languages: the one value that they say.

A text is taken apart into words and mathematics. One piece of mathematics is the answer; two, or a word that changes, doubts or
denies a value, leave the text as it is: no reader reads it then, and it is wrong.
"""

from __future__ import annotations

import re

from tutelage.grading.lexer import FUNCTIONS, GREEK
from tutelage.grading.units import MULTIPLES, is_known, is_unit
from tutelage.grading.words import MONTH, WORD, number_of


def _set(words: str) -> frozenset[str]:
    return frozenset(re.findall(r"\S+", words))


_DENIALS = _set(
    """not no never cannot neither nor none without except wrong incorrect false mistake mistaken invalid impossible fails extraneous
    isn't aren't wasn't doesn't don't didn't can't couldn't won't shouldn't unlike instead unsure unclear guess unknown wait
    error suppose supposing assume assuming believe think tried let excluded excluding undefined infinite infinitely many
    diverges converges nicht kein keine non pas ne não ni nunca jamais нет не"""
)
_HEDGES = _set(
    """about close approximately approx roughly around nearly almost maybe perhaps possibly probably likely either might may could estimate
    estimated circa ungefähr etwa environ aproximadamente casi presque около примерно"""
)
_CHANGES = _set(
    """than over under least most between half twice double triple thrice times squared square cubed root product plus minus negative
    positive divided multiplied out dozen hundred thousand million billion trillion reciprocal inverse opposite complement factorial power
    multiple multiples divisible divisor factor percent modulo remainder quarter third thirds fewer less up too bound lower upper
    above below before beyond if unless when case odd even prime greater larger smaller others per versus vs where until base mod
    más mas menos moins mehr weniger mindestens höchstens больше меньше более менее unas unos
    colder warmer hotter cooler older younger taller heavier lighter faster slower longer exceeds binary octal hexadecimal
    more doubled tripled halved halves quarters fourths fifths tenths"""
)
"""Words beside a value (not in the subject of a sentence) that make it another one."""
_COPULAS = _set("is are was were be equals equal = : becomes gives es est ist é è son sont sind")
_SHORT = _set(
    """the and for are was has had she her his its our you sum all any way day is we he it in on at to of an as so by be am es el la le
    un il get got one two box men cup old pay area left sold"""
)
"""Words of two or three letters that only prose has: xy and abc are products."""
_ANSWERS = _set("answer answers ans result réponse respuesta antwort risposta resposta resultado résultat ergebnis")
_GLUE = _ANSWERS | _COPULAS | _set(
    """solution solutions so thus hence therefore then finally now and that i we you it he she they this these those there which
    the a an our my your its his her their get gets got have has had find found obtain obtains conclude give gives yield yields
    follows implies means to exactly precisely simply just in total altogether all both must needs final correct value sum
    number expression required of for by only such simplified form us here left la le el die das der o il lösung risultato hay y
    gibt ответ всего существует cevap đáp án ratio probability x"""
)
"""The words that may stand before a value without a copula, or in a sentence about the answer."""
_BETWEEN = _set("exactly simply precisely just equal to a an total of only given by the")
"""What may stand between a copula and the value; "the" and "of" only in "a total of"."""
_VERBS = _set(
    """sold sells sell need needs take takes cost costs travels travel paid pays pay walked walks makes make made earns earned buy
    buys bought spent spends ate eats used uses gives give gets get got has have had drives drove ran runs collected saved
    yields produces contains"""
)
_QUANTITIES = _set(
    """area perimeter volume center centre line length width height distance probability radius diameter slope intercept circle mean median
    average mode range cost price time speed rate age angle equation vertex point points domain range maximum minimum max min count"""
)
_DETERMINERS = _set("the this that its his her their our my your a an each every these those both")
_NO_SUBJECTS = _set(
    """would should could can might said say says claims claim guess confidence attempt bogus previous seems depends differs surpasses
    trap rounded truncated nobody somebody someone people bad rather also if example instance like opposite reverse spelled"""
)
_LEADING_CLAUSE = re.compile(r"^(?:\w+ing|after|by|in|from|so|thus|hence|therefore|finally|now|then|first)\b[^,]*,\s*", re.IGNORECASE)
_ADJECTIVES = _set("different more such possible distinct total real other small large red blue green whole full unique valid good")
_BEHIND = _set("in total all altogether left more each every day long old wide high tall away apart here exactly now overall such chance")
_CALLED = re.compile(
    r"(?:,?\s*(?:which )?(?:is|are|was)|as) (?:the|our|my|its) (?:(?:only|final|correct|required|simplified|desired) )*"
    r"(?:answer|solution|solutions|result|total|value|form)"
)
_REASON = re.compile(
    r"(?:[\s,;]|\\q?quad)*(?:(?:\\text\s*\{\s*)?\((?:\\text\s*\{\s*)?(?P<bracketed>since|because|as|by|using|from|due|given|note"
    r"|check|verified|rounded|simplified|in simplest|in lowest|answer|final|not|exactly|in total|see)\b(?P<said>.*)\)\s*\}?"
    r"|,?\s+(?P<open>since|because)\b(?P<why>.*)|,\s*(?P<apart>as required|as desired|as expected|which is|which are|not)\b(?P<rest>.*))$",
    re.IGNORECASE | re.DOTALL,
)
_TRUE_OF_ALL = re.compile(
    r"(?:form|terms|answer|above|below|even|odd|prime|required|desired|expected|(?:the|our) (?:final )?(?:answer|result))?"
)
_AGAIN = re.compile(
    r"^(?P<first>.*[^\s(,])\s*\((?:\\text\{)?\s*(?:or|i\.?e\.?,?|that is,?|=|equivalently,?)\s*\}?(?P<second>.*[^\s])\)$"
)
_DECIMAL_AGAIN = re.compile(r"^(?P<first>.*[^\s(,*])\s+\((?P<second>-?\d*\.\d+)\)$")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|hbox|emph)\s*\{([^{}$\\]*)\}")
_DISPLAY = re.compile(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\$])|\n+")
_CONCLUDES = re.compile(r"(?:so|thus|hence|therefore|finally|in total|altogether|then)\b|.*\b(?:answer|total)\b", re.IGNORECASE)
_PARTLY = re.compile(r"\b(?:one|some|any|each|part) of\b", re.IGNORECASE)
_PIECE = re.compile(
    r"(?P<formula>\$[^$]+\$|\\\((?:.+?)\\\))|(?P<rate>(?<=[\d }])(?:[a-z]{1,3}/[a-z]{1,3})(?![A-Za-z])(?:\^\{?-?\d\}?)?)"
    r"|(?P<word>(?<![\\A-Za-z_^{])[^\W\d_]+(?:['’-][^\W\d_]+)*\.?(?![\w(^]))|(?P<space>\s+)|(?P<other>\\[A-Za-z]+|.)",
    re.DOTALL,
)
_NO_PROSE = re.compile(
    rf"^\(?[A-J][.):]\s|\b{MONTH}\s+\d|\d(?:st|nd|rd|th)?\s+(?:of\s+)?{MONTH}(?![a-z])"
    r"|\b(?:mod|gcd|lcm|mid|floor|ceiling|sqrt|step|part|page|chapter|option|choice)\b", re.IGNORECASE,
)  # fmt: skip
"""Choices and dates are read elsewhere; the other words make something of the number behind them."""
_MATHEMATICAL = FUNCTIONS | GREEK | {"sqrt", "infinity", "inf", "cis", "pi"}


def said(text: str) -> str:
    """The value that a text of sentences says; the text itself where it has no words, or says none or several."""
    if "\\begin" in text or text.rstrip().endswith("?") or len(text) > 1_500 or not ("(" in text or WORD.search(text)):
        return text
    text = re.sub(r"^Il y a\b", "There are", without_remark(text))
    words = _words_of(re.sub(r"\\(?!text)[A-Za-z]+", " ", text))
    if _NO_PROSE.search(text) or not any(len(word) > 3 or word in _SHORT for word in words):
        return text
    plain = _DISPLAY.sub(lambda shown: f"\n$ {(shown[1] or shown[2]).strip(' .,')} $\n", _TEXT.sub(r" \1 ", text)).replace("**", " ")
    parts = [part.strip() for part in _SENTENCE_END.split(plain) if part.strip(" .")]
    valued = [part for part in parts if re.search(r"\d|\$|\\", part)]
    if not valued or any(_doubted(_words_of(part)) for part in parts if part not in valued):
        return text
    if any(not _words_of(part) <= _GLUE | {"hope", "done", "thanks"} for part in parts[parts.index(valued[-1]) + 1 :]):
        return text
    if len(valued) > 1 and not (_CONCLUDES.match(valued[-1]) or _DISPLAY.search(text)):
        return text
    return _value(valued[-1], len(parts) > 1) or text


def without_remark(text: str) -> str:
    """42 (since 6 · 7 = 42) → 42; 3/4 (or 0.75) → 3/4 = 0.75, so that both must be right."""
    again = _AGAIN.match(text) or _DECIMAL_AGAIN.match(text)
    if again is not None and not re.search("[=<>]", text) and not _words_of(again["second"]):
        return f"{again['first']} = {again['second']}"
    remark = _REASON.search(text)
    if remark is None or remark.start() == 0 or not re.search(r"[\d\w)}$]$", text[: remark.start()].rstrip(" \\")):
        return text
    value = text[: remark.start()]
    kind = (remark["bracketed"] or remark["open"] or remark["apart"]).casefold()
    tail = (remark["said"] or remark["why"] or remark["rest"] or "").strip(" .{}$:")
    if kind == "not":
        return value if re.fullmatch(r"-?\d+(?:[./]\d+)?|[A-J]", tail) and tail != value.strip(" $") else text
    if kind not in ("since", "because", "as", "by", "using", "from", "due", "given", "note"):
        return value if _TRUE_OF_ALL.fullmatch(tail) else text
    of_words = re.match(r"\W*(?:\(?[A-J]|yes|no|true|false)\b(?!\s*=)", value, re.IGNORECASE) is not None
    spoken = re.sub(r"\\[A-Za-z]+", "", tail)  # \times is no word
    words = _words_of(spoken)
    if _doubted(words) or words & {"value", "if", "actually", "rounding"} or (not of_words and _says_more(spoken)):
        return text
    if of_words or not re.search(r"\d", tail):
        return value
    tail = tail.replace("\\text", " ").strip(" ,{}")
    says_more = re.search(r"[<>\\]ne\b|[<>]|[^\W\d_]{3}", re.sub(r"\\[a-z]+", "", tail))
    return f"{value.strip()} = {tail}" if "=" in tail and not says_more else text


def _words_of(text: str) -> set[str]:
    return {word.casefold().strip(".") for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.replace("’", "'")) if word != "May"}


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
    return not (bare in _MATHEMATICAL or points or re.fullmatch("d[xyztruvs]", text))


def _value(sentence: str, many: bool) -> str | None:
    """The one value of a sentence."""
    pieces = _pieces(sentence)
    if len(pieces) == 1 and pieces[0][0] == "mathematics":
        return pieces[0][1] if many else None
    spoken = set().union(*(_words_of(text) for kind, text in pieces if kind == "words")) if pieces else set()
    if not spoken or spoken & (_DENIALS | _HEDGES):
        return None
    for index, (kind, text) in enumerate(pieces):
        words = text.casefold().split()
        if kind == "words" and ({"than", "least", "most"} & set(words) or _PARTLY.search(text)):
            break
        last = next((at for at, word in enumerate(words) if word.strip(",") in _COPULAS), None)
        if kind == "words" and last is not None and index + 1 < len(pieces) and (index or last):
            spoken_before = " ".join(text for kind, text in pieces[:index] if kind == "words")
            if not (is_subject(f"{spoken_before} {' '.join(words[:last])}", words[last] == ":") and _leads_on(words[last + 1 :])):
                return None
            value = _alone("", pieces[index + 1 :])
            if value is not None and "there" in words and re.search("[<>]", value):
                return None
            name = pieces[index - 1][1] if index and set(words[:last]) <= {"must", "should", "has", "to"} else ""
            named = value is not None and re.fullmatch("[A-Za-z]", name) and not re.search(r"[=<>]|\\[lg]e|\\in", value)
            return f"{name} = {value}" if named else value
    lead = pieces[0][1] if pieces[0][0] == "words" else ""
    if not lead and not re.match(r"(?:is|are|was)\b", pieces[-1][1]):
        return None
    return _alone(lead, pieces[1:] if lead else pieces)


def _alone(lead: str, pieces: list[tuple[str, str]]) -> str | None:
    """The first piece, if it is all the mathematics that is left and the words beside it leave it what it is."""
    if not pieces or pieces[0][0] != "mathematics" or len(pieces) > 2:
        return None
    value, behind = pieces[0][1], pieces[1][1] if len(pieces) > 1 else ""
    if not _is_lead(lead) or ("=" in value and re.search(r"\b(?:for|at|when|as|with|like|in)$", lead)):
        return None
    first = re.match(r"[^\W\d_]+", behind)
    if first is not None and (is_known(first[0]) or first[0].casefold() in MULTIPLES) and not behind.startswith(("is ", "are ", "in ")):
        unit = re.match(r"[^\W\d_]+(?:[ /-](?:per|square|cubic|and)\s[^\W\d_]+|/[^\W\d_]+|\^\d)*", behind)
        spoken = unit[0] if unit is not None else ""
        rest = behind[len(spoken) :].strip()
        return f"{value} {spoken}" if _harmless(rest) or _harmless(f"units {rest}") else None
    return value if _harmless(behind) or _CALLED.fullmatch(behind.strip(" .,").casefold()) else None


def is_subject(spoken: str, labelled: bool = False) -> bool:
    """Whether words before a copula name what the value is: the answer itself, or a noun phrase that says nothing of an answer."""
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", _LEADING_CLAUSE.sub("", spoken.casefold().strip()))
    if set(words) & (_DENIALS | _HEDGES | _NO_SUBJECTS):
        return False
    if set(words) <= _GLUE or (labelled and set(words) <= _GLUE | _QUANTITIES):
        return True
    while words and words[0] in ("so", "thus", "hence", "therefore", "then", "finally", "and", "that", "now"):
        del words[0]
    if labelled or set(words) & _ANSWERS or len(words) >= 12:
        return False
    return words[0] in _DETERMINERS or len(words) < 4 or words[1] == "of"


def _leads_on(words: list[str]) -> bool:
    """Nothing but exactly, simply, equal to, a total of between a copula and a value."""
    kept = [word.strip(",:") for word in words if word not in _COPULAS and word.strip(",:")]
    return set(kept) <= _BETWEEN and ("total" in kept or not {"of", "the"} & set(kept))


def _is_lead(lead: str) -> bool:
    """The words before a value without a copula: of the closed vocabulary, or a subject with a verb of having."""
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", _LEADING_CLAUSE.sub("", lead.casefold()))
    verb = next((at for at, word in enumerate(words) if word in _VERBS), None)
    if words and words[-1] in ("triangle", "segment", "side", "angle", "point") and set(words[:-1]) <= _GLUE | _QUANTITIES:
        return True
    if set(words) <= _GLUE:
        return not (set(words) & _ANSWERS and verb is not None)
    if verb is None or not set(words[verb + 1 :]) <= _GLUE | _VERBS | {"at"}:
        return False
    subject = set(words[:verb])
    return verb < 5 and not _changed(subject) and not subject & (_ANSWERS | _NO_SUBJECTS)


_PHRASE = re.compile(r"(?:to|of|in|on|for|from|at|with|that|per|altogether|left)\b.*", re.DOTALL)


def _harmless(behind: str) -> bool:
    """Words behind a value that only say what it counts: a plural noun, and a phrase behind that."""
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", behind.casefold())
    spoken = _words_of(behind)
    if spoken & (_ANSWERS | _NO_SUBJECTS) - {"lösungen"} or _changed(spoken - {"more"}):
        return False
    if re.search(r"\bmore\s*(?:$|than|\.)", behind):
        return False
    while words and words[0] in _ADJECTIVES:
        del words[0]
    if set(words) <= _BEHIND:
        return True
    if not is_unit(words[:1], False) and words[0] not in ("lösungen", "способов"):
        return False
    rest = " ".join(words[1:])
    return not rest or set(words[1:]) <= _BEHIND or (_PHRASE.match(rest) is not None and len(words) < 12)


def _doubted(words: set[str]) -> bool:
    return bool(words & (_DENIALS | _HEDGES | _NO_SUBJECTS)) or any(number_of(word) is not None for word in words)


def _says_more(tail: str) -> bool:
    """A reason that changes the value, or speaks of an answer."""
    return _changed(_words_of(tail)) or bool(_words_of(tail) & _ANSWERS)


def changes(words: list[str]) -> bool:
    """Whether one of these words beside a value makes it another one, doubts it or denies it."""
    spoken = _words_of(" ".join(words))
    return _changed(spoken) or bool(spoken & _NO_SUBJECTS)


def _changed(words: set[str]) -> bool:
    return bool(words & (_CHANGES | _DENIALS | _HEDGES)) or any(number_of(word) is not None for word in words)

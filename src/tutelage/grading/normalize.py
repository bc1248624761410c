"""One notation for what people and models write: each rule removes a difference that carries no meaning.

The rules work on text, in one order; none of them looks at the other answer.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

from tutelage.grading.format import TEXT_COMMANDS, boxes, closing_brace, stands_alone
from tutelage.grading.languages import translated
from tutelage.grading.notations import groups, latex_synonyms, notations, parts
from tutelage.grading.phrases import phrases
from tutelage.grading.prose import is_subject, said
from tutelage.grading.vocabulary import DOUBTS, replacements, words_of

_SYMBOLS = {
    character: f"{latex} " if latex[-1].isalpha() or latex in ".," else latex for character, latex in replacements("symbols").items()
} | dict.fromkeys("\u200b\u200c\u200d\ufeff\u2061\u2062\u00ad", "")  # fmt: skip
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎"
_PLAIN_DIGITS = str.maketrans(_RAISED + _LOWERED, "0123456789+-()ni" + "0123456789+-()")


def unicode_symbols(text: str) -> str:
    """½ → \\frac{1}{2}, x² → x^{2}, √ → \\sqrt, − → -, θ → \\theta, full-width characters → plain ones."""
    if text.isascii():
        return text
    text = re.sub(f"[{_RAISED}]+", lambda run: "^{" + run[0].translate(_PLAIN_DIGITS) + "}", text)
    text = re.sub(f"[{_LOWERED}]+", lambda run: "_{" + run[0].translate(_PLAIN_DIGITS) + "}", text)
    text = re.sub("(\\d)[\u0304\u0305]", r"\\overline{\1}", text).replace("}\\overline{", "")  # 0.3 with a bar of its own
    return unicodedata.normalize("NFKC", "".join(map(_latex_of, text)))


def _latex_of(character: str) -> str:
    if character.isascii():
        return character
    if "①" <= character <= "⑳":
        return f"({ord(character) - ord('①') + 1})"
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if (slash := unicodedata.decomposition(character).removeprefix("<fraction> ").split()) and "2044" in slash:
        over = slash.index("2044")
        top, bottom = ("".join(chr(int(code, 16)) for code in part) for part in (slash[:over], slash[over + 1 :]))
        return f"\\frac{{{top}}}{{{bottom}}}"
    if match := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(character, "")):
        name = match[2].lower().replace("lamda", "lambda")
        return f"\\{name if match[1] == 'SMALL' else name.capitalize()} "
    return character


_JSON_DAMAGE = {"\f": "\\f", "\b": "\\b", "\a": "\\a", "\v": "\\v"}


def escapes(text: str) -> str:
    """Backslashes that were doubled (\\\\frac), or eaten with the letter behind them, by a JSON or Python string; a trailing one."""
    text = re.sub("[\f\b\a\v](?=[a-z])", lambda match: _JSON_DAMAGE[match[0]], text)
    text = re.sub("\t(?=imes|ext|heta|frac|an\\b|binom|o\\b)", r"\\t", text)
    if "\\\\" in text and not re.search(r"(?<!\\)\\(?!\\)", text):  # every one is doubled: no matrix is like that
        text = text.replace("\\\\", "\\")
    return re.sub(r"\\+\s*$", "", text)


_HTML_TAG = re.compile(
    r"</?(?:b|i|u|p|em|strong|span|div|code|pre|center|font|mark|br)(?:\s+[a-z-]+\s*=[^<>]*|\s*/)?>", re.IGNORECASE
)


def html_markup(text: str) -> str:
    """<b>7</b> → 7, x<sup>2</sup> → x^{2}, &times; → ×."""
    if "&" in text and ";" in text:
        text = unicode_symbols(re.sub(r"&(?:[A-Za-z]+|#\d+|#x[0-9A-Fa-f]+);", lambda match: html.unescape(match[0]), text))
    if "<" in text and ">" in text:
        text = re.sub(r"<\|[A-Za-z_]+\|>|^\s*<s>(?!.*</s>)|<(?:eos|pad|end_of_turn|endoftext)>", " ", text)
        text = text if "<s>" in text else re.sub(r"</s>\s*$", " ", text)
        text = re.sub(r"^\s*<([^<>]*,[^<>]*)>\s*$", r"\\langle \1\\rangle ", text)
        text = re.sub(r"<sup>([^<>]*)</sup>\s*/\s*<sub>([^<>]*)</sub>", r"\1/\2", text, flags=re.IGNORECASE)
        text = re.sub(r"<sup>([^<>]*)</sup>", r"^{\1}", text, flags=re.IGNORECASE)
        text = re.sub(r"<sub>([^<>]*)</sub>", r"_{\1}", text, flags=re.IGNORECASE)
        text = _HTML_TAG.sub(" ", text)
    return text


_PAIRS = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("```", "```"), ("`", "`"),
    ("*", "*"), ('"', '"'), ("'", "'"),
)  # fmt: skip
_OPENERS = frozenset("$\\*_`\"'")
_COMMAND = re.compile(rf"\\(?:boxed|fbox|ensuremath|{TEXT_COMMANDS})\s*\{{")
_HENCE = r"(?:so|thus|hence|therefore)\b,?\s*"
_PROSE = re.compile(
    rf"(?:{_HENCE})?(?:\*\*)?(?:the\s+)?(?:(?:final|correct)\s+)?(?:answer|ans|result|solution)\s*(?:\*\*)?\s*(?:is|:|=)(?:\*\*)?\s*:?\s+(?=\S)"
    r"|(?P<subject>(?:the|this|its|his|her|their)\s+(?:[a-z-]{2,}\s+){1,6})(?:is|are|equals|was)\s*:?\s+(?=\S)"
    r"|(?:\\(?:Rightarrow|therefore|implies)\b|⇒|∴|=(?=\s*[^=]))\s*|#+\s+(?=\S)", re.IGNORECASE,
)  # fmt: skip
_HEDGED = re.compile(
    r"(?:\\approx(?![A-Za-z])|\\sim(?:eq)?(?![A-Za-z])|~|≈|(?:approximately|about|roughly|around|nearly|almost|maybe|probably|perhaps|circa"
    r"|approx)\b\.?(?:\s+equal\s+to\b)?|大约是?|大概是?|约(?:为|等于)?)\s*(?=\S)", re.IGNORECASE,
)  # fmt: skip
_HEDGED_BEHIND = re.compile(r"\s*(?:\bor so|\bor thereabouts|,?\s*\(?\bapprox(?:\.|imately)?\)?|左右)$", re.IGNORECASE)
_APPROXIMATELY = re.compile(
    r"(?:\\text\s*\{\s*)?\(\s*(?:or\s+)?(?:approximately|approx\.?|about|\\approx)(?![a-z])(?P<near>[^()]*\d[^()]*)\)\s*\}?\s*$"
)


HEDGE = "\\approx "
"""What stands before a value that the answer only calls about right."""


def _as_chain(remark: re.Match[str]) -> str:
    """1/3 (about 0.33) as a chain, whose members must be close."""
    near = remark["near"].strip(" $}")
    return f" \\approx {near}" if re.fullmatch(r"-?\d*\.?\d+", near) else ""


def wrappers(text: str) -> str:
    """$7$, \\boxed{7}, **7**, `7`, \\text{7}, "The answer is 7.", 7. → 7; what stands in several boxes becomes a list."""
    text = _APPROXIMATELY.sub(_as_chain, text)
    hedged = False
    for _ in range(8):
        before, text = text, text.strip()
        for opening, closing in _PAIRS if text[:1] in _OPENERS else ():
            inner = text[len(opening) : -len(closing)].strip()
            if text.startswith(opening) and text.endswith(closing) and inner and opening not in inner and closing not in inner:
                text = inner
        if (command := _COMMAND.match(text)) is not None and closing_brace(text, command.end() - 1) == len(text) - 1:
            text = text[command.end() : -1]
        elif "\\boxed" in text and (boxed := _boxed_list(text)):
            text = boxed
        if (prose := _PROSE.match(text)) is not None and DOUBTS.isdisjoint(words_of(prose[0])) and is_subject(prose["subject"] or ""):
            text = text[prose.end() :]
        if (hedge := _HEDGED.match(text)) is not None:
            text, hedged = text[hedge.end() :], True
        if _HEDGED_BEHIND.search(text, 1):
            text, hedged = _HEDGED_BEHIND.sub("", text), True
        text = re.sub(r"(?:\\[,;:!. ]|(?<!\.)(?<!\\right)\.|[,;\s])+$", "", text.replace("\\displaystyle", " ")).strip()
        if text == before:
            break
    text = f"{HEDGE}{text}" if hedged else text
    if text.count("$") < 2:
        return text
    text = re.sub(r"(?<!\\)\$(?=\S)([^$]*[^\s$\\])\$(?!\d)", r" \1 ", text)  # $5$ km, $x$ and $y$
    return re.sub(r"(?<!\\)\$(?!\s*\d)", " ", text)


def _boxed_list(text: str) -> str | None:
    """What stands in the boxes of a text, equal boxes once, if no figures stand outside of them."""
    found = boxes(text)
    outside = "".join(text[end:start] for (_, end, _), (start, _, _) in pairwise([(0, 0, ""), *found, (len(text), 0, "")]))
    listed = found and not re.search(r"\d", outside) and stands_alone(text)
    return ", ".join(dict.fromkeys(content for _, _, content in found)) if listed else None


def lines(text: str) -> str:
    """One answer a line → a list of them."""
    if "\n" not in text or "\\begin" in text or "\\\\" in text:
        return text
    parts = [re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", part.strip()).rstrip(",;.") for part in text.split("\n") if part.strip()]
    return ", ".join(parts) if all(re.search(r"[\w)}\]]$", part) and re.match(r"[\w(\[\\$-]", part) for part in parts) else text


def spaces(text: str) -> str:
    """One space where there were many; 1 000 000 → 1000000."""
    text = re.sub(r"\s+", " ", text).strip()
    return text.replace(" ", "") if re.fullmatch(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?", text) else text


RULES = (
    unicode_symbols, escapes, html_markup, wrappers, parts, translated, said, lines, latex_synonyms, notations, wrappers, spaces,
    groups, phrases,
)  # fmt: skip


@lru_cache(4_096)
def normalize(text: str) -> str:
    """The text after all rules."""
    if text.isascii() and text.isdigit():  # no rule changes it
        return text
    hedged = ""
    for rule in RULES:
        text = rule(text)
        if text.startswith(HEDGE):
            text, hedged = text.removeprefix(HEDGE), HEDGE
    return hedged + text

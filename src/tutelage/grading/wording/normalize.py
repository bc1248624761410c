"""One notation for what people and models write: each rule removes a difference that carries no meaning.

The rules work on text, in one order; none of them looks at the other answer.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

from tutelage.grading.taking.format import TEXT_COMMANDS, boxes, closing_brace, stands_alone
from tutelage.grading.wording.languages import translated
from tutelage.grading.wording.notations import conclusion, groups, latex_synonyms, notations, parts, rewritten, table
from tutelage.grading.wording.phrases import cases, phrases
from tutelage.grading.wording.prose import extreme_of, is_subject, said
from tutelage.grading.wording.vocabulary import DOUBTS, listed, replacements, words_of

_SYMBOLS = {
    character: f"{latex} " if latex[-1].isalpha() or latex in ".," else latex for character, latex in replacements("symbols").items()
} | dict.fromkeys("\u200b\u200c\u200d\ufeff\u2061\u2062\u00ad", "")  # fmt: skip
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣʸᵏᵐᵗ", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎"
_PLAIN_DIGITS = str.maketrans(_RAISED + _LOWERED, "0123456789+-()nixykmt" + "0123456789+-()")


def unicode_symbols(text: str) -> str:
    """½ → \\frac{1}{2}, x² → x^{2}, √ → \\sqrt, − → -, θ → \\theta, full-width characters → plain ones."""
    if text.isascii():
        return text
    text = re.sub(r"(?<=\d) ?([kcdm]?m)([²³])", r"\\text{ \1\2}", text)  # 9 m²
    text = re.sub(f"[{_RAISED}]+", lambda run: "^{" + run[0].translate(_PLAIN_DIGITS) + "}", text)
    text = re.sub(f"[{_LOWERED}]+", lambda run: "_{" + run[0].translate(_PLAIN_DIGITS) + "}", text)
    text = re.sub("(?<=[A-Za-z])[\u0304\u0305]", "", re.sub("([a-z])[\u0304\u0305]", r"\\bar{\1}", text))
    text = re.sub("(\\d)[\u0304\u0305]", r"\\overline{\1}", text).replace("}\\overline{", "")  # 0.3 with a bar of its own
    return unicodedata.normalize("NFKC", "".join(map(_latex_of, text)))


def _latex_of(character: str) -> str:
    if character.isascii() or character in _SYMBOLS:
        return _SYMBOLS.get(character, character)
    if "①" <= character <= "⑳":
        return f"({ord(character) - ord('①') + 1})"
    if unicodedata.decomposition(character).startswith("<fraction>"):
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("⁄")
        return f"\\frac{{{top}}}{{{bottom}}}"
    if match := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(character, "")):
        name = match[2].lower().replace("lamda", "lambda")
        return f"\\{name if match[1] == 'SMALL' else name.capitalize()} "
    return character


def _eaten(match: re.Match[str]) -> str:
    return "\\" + "fbavt"["\f\b\a\v\t".index(match[0])]


def escapes(text: str) -> str:
    """Backslashes that were doubled (\\\\frac), or eaten with the letter behind them, by a JSON or Python string; a trailing one."""
    if not text.isprintable():
        text = re.sub("[\f\b\a\v](?=[a-z])|\t(?=imes|ext|heta|frac|an\\b|binom|o\\b)", _eaten, text)
    if "\\\\" in text and not re.search(r"(?<!\\)\\(?!\\)", text):  # every one is doubled: no matrix is like that
        text = text.replace("\\\\", "\\")
    return re.sub(r"\\+\s*$", "", text) if text.rstrip().endswith("\\") else text


_ENTITY = re.compile(r"&(?:[A-Za-z]+|#\d+|#x[0-9A-Fa-f]+);")
_TAGS = table(
    ("<<", r"<<[^<>]*>>", ""),
    ("####", r"(?s)^.*\n\s*####\s*([^\n]*\S)\s*$", r"\1"),
    ("#", r"(?i)^\s*#+\s*(?:final )?(?:answer|result|solution):?\s*\n", ""),
    ("<", r"<\|[A-Za-z_]+\|>|^\s*<s>(?!.*</s>)|<(?:eos|pad|end_of_turn|endoftext)>", " "),
    ("</s>", r"^((?:(?!<s>).)*)</s>\s*$", r"\1 "),
    (",", r"^\s*<([^<>]*,[^<>]*)>\s*$", r"\\langle \1\\rangle "),
    ("<", r"(?i)<sup>([^<>]*)</sup>\s*/\s*<sub>([^<>]*)</sub>", r"\1/\2"),
    ("<", r"(?i)<sup>([^<>]*)</sup>", r"^{\1}"),
    ("<", r"(?i)<sub>([^<>]*)</sub>", r"_{\1}"),
    ("<", r"(?i)</?(?:b|i|u|p|em|strong|span|div|code|pre|answer|center|font|mark|br)(?:\s+[a-z-]+\s*=[^<>]*|\s*/)?>", " "),
)


def html_markup(text: str) -> str:
    """<b>7</b> → 7, x<sup>2</sup> → x^{2}, &times; → ×."""
    if "&" in text and ";" in text:
        text = unicode_symbols(_ENTITY.sub(lambda match: html.unescape(match[0]), text))
    return rewritten(text, _TAGS) if "#" in text or ("<" in text and ">" in text) else text


HEDGE = "\\approx "
"""What stands before a value that the answer only calls about right."""
_PAIRS = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("__", "__"), ("```", "```"), ("`", "`"),
    ("*", "*"), ('"', '"'), ("'", "'"),
)  # fmt: skip
_LAYOUT = re.compile(
    r"^(?:\s|\\(?:q?quad|displaystyle|textstyle|[lL]arge|LARGE|[hH]uge)(?![a-z])|\\[,;:!])+|(?:\s|\\q?quad(?![a-z])|\\[,;:!])+$"
)
_OPENERS = frozenset("$\\*_`\"'")
_LEADS_ON = listed("consequences")
_COMMAND = re.compile(rf"\\(?:boxed|fbox|ensuremath|{TEXT_COMMANDS})\s*\{{")
_HENCE = r"(?:so|thus|hence|therefore)\b,?\s*"
_PROSE = re.compile(
    rf"(?:{_HENCE})?(?:\*\*)?(?:the\s+)?(?:(?:final|correct)\s+)?(?:answer|ans|result|solution|option|choice)"
    r"\s*(?:\*\*)?\s*(?:is|:|=)(?:\*\*)?\s*:?\s+(?=\S)"
    r"|(?P<subject>(?:the|this|its|his|her|their)\s+(?:[a-z-]{2,}\s+){1,6})(?:is|are|equals|was)(?:\s+given\s+by)?\s*:?\s+(?=\S)"
    rf"|{_HENCE}(?=[\d\\$]|[A-Za-z]\s*=)|(?:exactly|precisely|definitely|certainly)\s+(?=[\d$\\.-])"
    r"|(?:\\(?:Rightarrow|therefore|implies)\b|=>|⇒|∴|=(?=\s*[^=])|\\equiv(?![a-z])(?=.*mod))\s*|#+\s+(?=\S)", re.IGNORECASE,
)  # fmt: skip
_ANOTHER = re.compile(r"(?:[,;]\s*(?:and\s+)?|\band\s+)(?:the\s+)?[a-z]{3,}[a-z ]*\s(?:is|are)\b", re.IGNORECASE)
"""A second subject: the mean is 6 and the variance is 4."""
_HEDGED = re.compile(
    r"(?:\\approx(?![A-Za-z])|\\sim(?:eq)?(?![A-Za-z])|~|≈|(?:approximately|about|roughly|around|nearly|almost|maybe|probably|perhaps|circa"
    r"|approx)\b\.?(?:\s+equal\s+to\b)?|大约是?|大概是?|约(?:为|等于)?)\s*(?=\S)", re.IGNORECASE,
)  # fmt: skip
LONGEST_HEDGE = 24
"""Characters of a hedge behind a value."""
_HEDGED_BEHIND = re.compile(r"\s*(?:\bor so|\bor thereabouts|,?\s*\(?\bapprox(?:\.|imately)?\)?|左右)$", re.IGNORECASE)
_NEARLY = re.compile(
    r"(?:(?:\\text\s*\{\s*)?\(\s*(?:or\s+)?|,?\s+or\s+)(?:approximately|approx\.?|about|roughly|\\approx)(?![a-z])([^()]*\d[^()]*?)\)?\s*\}?[\s.]*$"
)
_STRONG = re.compile(r"(?<![\w)}\]*])\*\*(?=[^\s*])([^*]*[^\s*])\*\*(?![\w({*])")
"""**72** eggs, and no power."""
_FORMULA = re.compile(r"(?<!\\)\$(?=\S)([^$]*[^\s$\\])\$(?!\d)")
"""$5$ km, $x$ and $y$."""
_LONE_DOLLAR = re.compile(r"(?<!\\)\$(?!\s*\d)")
_LEADING_TEXT = re.compile(r"^\s*\\text\s*\{([^{}]*\b(?:is|are|equals)\s*:?\s*)\}")
_ENDING = re.compile(r"(?:\\[,;:!. ]|(?<!\.)(?<!\\right)\.|[,;\s])+$")


def wrappers(text: str) -> str:
    """$7$, \\boxed{7}, **7**, `7`, \\text{7}, "The answer is 7.", 7. → 7; what stands in several boxes becomes a list."""
    if "\\" in text:
        text = _LAYOUT.sub("", text)
    if "\\text" in text:
        text = _LEADING_TEXT.sub(r"\1 ", text)
    if "**" in text:
        text = _STRONG.sub(r"\1", text)
    if (nearly := _NEARLY.search(text)) is not None:  # 1/3 (about 0.33) is a chain, whose members must be close
        near = nearly[1].strip(" $}")
        text = text[: nearly.start()] + (f" \\approx {near}" if re.fullmatch(r"-?\d*\.?\d+(?:\s*\\?%)?", near) else "")
    hedged, before = "", ""
    while text != before:
        before, text = text, _unwrapped(text.strip())
        hedge = _HEDGED.match(text)
        if hedge is None and not text[-1:].isdigit():
            hedge = _HEDGED_BEHIND.search(text, max(1, len(text) - LONGEST_HEDGE))
        if hedge is not None:
            text, hedged = text[: hedge.start()] + text[hedge.end() :], HEDGE
        if text and not text[-1].isalnum() and text[-1] not in ")}":
            text = _ENDING.sub("", text).strip()
    if text.count("$") > 1:
        text = _LONE_DOLLAR.sub(" ", _FORMULA.sub(r" \1 ", text))
    return hedged + text


def _unwrapped(text: str) -> str:
    """Without one layer of delimiters, a box or style, and the words before a value."""
    for opening, closing in _PAIRS if text[:1] in _OPENERS else ():
        inner = text[len(opening) : -len(closing)].strip()
        if text.startswith(opening) and text.endswith(closing) and inner and opening not in inner and closing not in inner:
            text = inner
    if (command := _COMMAND.match(text)) is not None and closing_brace(text, command.end() - 1) == len(text) - 1:
        text = text[command.end() : -1]
    elif "\\boxed" in text:
        text = _boxed_list(text) or text
    prose = _PROSE.match(text)
    if prose is None or not DOUBTS.isdisjoint(words_of(prose[0])):
        return text
    subject = prose["subject"] or ""
    another = subject and (_ANOTHER.search(text, prose.end()) or " and " in subject)
    spoken = is_subject(subject) and not extreme_of(subject) and not another
    return text[prose.end() :] if spoken else text


def _boxed_list(text: str) -> str | None:
    """What stands in the boxes of a text, equal boxes once, if no figures stand outside of them."""
    found = boxes(text)
    if not found or not stands_alone(text):
        return None
    if len(found) > 1 and not _LEADS_ON.isdisjoint(words_of(text[found[-2][1] : found[-1][0]])):  # so the final answer is \\boxed{23}
        return found[-1][2]
    if len(found) == 1 and re.search(r"[^<>!]=\s*$|^\W*[A-Za-z]\s*\\in\s*$", text[: found[0][0]]):
        # m + n = 20 + 9 = \\boxed{29}: a chain, whose members must agree
        return text[: found[0][0]] + found[0][2] + text[found[0][1] :]
    outside = "".join(text[end:start] for (_, end, _), (start, _, _) in pairwise([(0, 0, ""), *found, (len(text), 0, "")]))
    return None if re.search(r"\d", outside) else ", ".join(dict.fromkeys(content for _, _, content in found))


def lines(text: str) -> str:
    """One answer a line → a list of them."""
    if "\n" not in text or "\\begin" in text or "\\\\" in text:
        return text
    items = [re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line.strip()).rstrip(",;.") for line in text.split("\n") if line.strip()]
    return ", ".join(items) if all(re.fullmatch(r"[\w(\[\\$-](?:.*[\w)}\]])?", item) for item in items) else text


def spaces(text: str) -> str:
    """One space where there were many; 1 000 000 → 1000000."""
    text = " ".join(text.split())
    return text.replace(" ", "") if re.fullmatch(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?", text) else text


RULES = (
    unicode_symbols, escapes, html_markup, wrappers, parts, translated, said, lines, latex_synonyms, notations, wrappers, spaces,
    groups, conclusion, cases, phrases,
)  # fmt: skip
_PLAIN = re.compile(r"-?\d+(?:[./]\d+)?|[A-Za-z]", re.ASCII)


@lru_cache(4_096)
def normalize(text: str) -> str:
    """The text after all rules."""
    if _PLAIN.fullmatch(text):  # no rule changes it
        return text
    hedged = bare = ""
    for rule in RULES:
        if rule is wrappers and text == bare:
            continue
        before, text = text, rule(text)
        if rule is wrappers and text == before:
            bare = text  # nothing to take off, unless another rule changes it
        if text.startswith(HEDGE):
            text, hedged = text.removeprefix(HEDGE), HEDGE
    return hedged + text

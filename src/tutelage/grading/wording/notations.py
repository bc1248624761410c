"""Notations with an equal of their own: \\dfrac, C_n^k, 2A (base 16), USD 5, 1.234,56, n is odd; labelled parts.

Each notation names pieces of text without one of which it cannot occur: most answers have none of these, and cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tutelage.grading.reading.lexer import FUNCTIONS
from tutelage.grading.wording.vocabulary import listed, replacements

Match = re.Match[str]
Notation = tuple[tuple[str, ...], re.Pattern[str], str | Callable[[Match], str]]


def table(*notations: tuple[str, str, str | Callable[[Match], str]]) -> list[Notation]:
    """Notations of (pieces of text between "|", a pattern, what replaces it)."""
    return [(tuple(hints.split("|")), re.compile(pattern), replacement) for hints, pattern, replacement in notations]


def rewritten(text: str, notations: Sequence[Notation]) -> str:
    """The text with each notation replaced, in their order."""
    for hints, pattern, replacement in notations:
        for hint in hints:
            if hint in text:
                text = pattern.sub(replacement, text)
                break
    return text


# ── synonyms of LaTeX ─────────────────────────────────────────────────────────────────────────────────────────────────

def _rows(text: str) -> str:
    """x &= 1 + 1 \\\\ &= 2 → x = 1 + 1 = 2; other rows are a list."""
    first, *others = (row.strip() for row in text.split("\\\\"))
    return "".join([first, *((" " if row.startswith("&=") else ", ") + row for row in others if row)]).replace("&", " ")


_COMMANDS = replacements("commands") | dict.fromkeys(listed("layout"), " ")
_FUNCTIONS = FUNCTIONS | replacements("same functions").keys()
_SIZES = "left|right|middle|[bB]igg?[lr]?"
SYNONYMS = table(
    ("\\begin", r"\\left\s*\\\{\s*\\begin\{(?:array|aligned)\}(?:\{[lcr|]*\})?(.*?)\\end\{(?:array|aligned)\}\s*\\right\s*\.",
     r"\\begin{cases}\1\\end{cases}"),
    ("\\", rf"\\(?:{'|'.join(command[1:] for command in _COMMANDS)})(?![A-Za-z])", lambda match: _COMMANDS[match[0]]),
    ("\\begin", r"\\begin\{((?:align|equation|gather|split)(?:ed)?\*?)\}(.*?)\\end\{\1\}", lambda match: _rows(match[2])),
    (" \\ ", r"(?<=[A-Z]) \\ (?=[A-Z])", r" \\setminus "),
    ("\\boxed{", r"^\s*\\boxed\{((?:[^{}]|\{[^{}]*\})*)$", r"\1"),
    ("\\sim|~", r"^(\s*[A-Z])\s*(?:\\sim(?![a-z])|~)\s*(?=[A-Z\\][^=]*\)$)", r"\1 = "),  # X ~ N(0, 1)
    ("\\prime", r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", lambda match: "'" * match[1].count("prime")),
    ("^", r"\^\s*\{\s*([+*-])\s*\}", r"^\1"),
    ("\\left|\\right|\\middle|\\big|\\Big", rf"\\(?:{_SIZES})(?![A-Za-z])\s*\.?(?=\s|\W|$)", ""),
    ("\\!|\\neg", r"\\(?:!|neg(?:thin|med|thick)space)\s*", ""),
    ("\\,", r"(?<=\d)\\,(?=\d{3})", ","),
    ("\\", r"\\q?quad|(?<!\\)\\[;: ,]|\\(?:text)?color\s*\{\w+\}", " "),
    ("~", "~", " "),
    ("^", r"\^\s*\{?\s*\\(?:text|mathrm|textrm)\s*\{\s*(?:th|st|nd|rd)\s*\}\s*\}?", r"\\text{th}"),
    ("th|st|nd|rd", r"(?<=\d)(?:\^\s*\{?)?(?:th|st|nd|rd)\b\}?", r"\\text{th}"),
    ("\\mathrm", r"\\mathrm\s*\{\s*d\s*\}", "d"),
    ("\\of", r"\\root\s*\{?\s*(\w)\s*\}?\s*\\of", r"\\sqrt[\1]"),
    ("\\frac", r"\\frac\s*(\d)(?=\s*[\d{\\])", r"\\frac{\1}"),
    ("\\frac", r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
    ("base", r"(?<=[\d\w])\s+(?:in\s+)?base\s+(?=\w)", "_"),
    ("{,}", r"(?<=\d)\{,\}(?=\d)", ","),
    ("\\not", r"\\not\s*=", r"\\ne "),
    ("\\circ", r"\^\s*\{?\s*\\circ\s*\}?", r"\\degree "),
    ("\\operatorname", r"\\operatorname\s*\*?\s*\{\s*([A-Za-z]+)\s*\}",
     lambda match: f"\\{match[1]} " if match[1] in _FUNCTIONS else f"\\text{{{match[1]}}}"),
    ("\\bar|\\dot|\\overset", r"\\(?:bar|dot|overset\{\\cdot\})\s*(?=\d)", r"\\overline "),
    ("...", r"\.\.\.", r"\\ldots "),
)  # fmt: skip


def latex_synonyms(text: str) -> str:
    """\\dfrac → \\frac, \\geq → \\ge, \\left( → (, 11,\\! 111 → 11,111, spacing commands → a space."""
    return rewritten(text, SYNONYMS)


# ── notations of mathematics and trade ────────────────────────────────────────────────────────────────────────────────

_VALUE = r"\{?(\d+|[a-z])\}?"
_TEXT = r"\\(?:text|mathrm)\s*\{\s*"
_WORD = rf"(?:{_TEXT})?"
_LARGER = r"(?:hours?|hrs?|minutes?|feet|foot|ft|yards?|pounds?|lbs?|weeks?|days?|years?|dollars?|meters?)\b"
_SMALLER = r"(?:min|sec|in|foot|feet|ounce|oz|day|month|cent|hour)"
_MONEY = {"U": "$", "E": "€", "R": "₹", "I": "₹"}


def _chosen(kind: str, n: str, k: str, text: str) -> str:
    """C_n^k as \\binom{n}{k}, P_n^k as \\perm{n}{k}; as it stands if no k of n can be chosen."""
    of_digits = n.isdigit() and k.isdigit()
    if (of_digits and not int(n) >= int(k) > 0) or (kind != "C" and not of_digits):
        return text
    return f"\\{'binom' if kind == 'C' else 'perm'}{{{n}}}{{{k}}}"


_LETTERS, _POWER = r"[A-Za-z\s.]|\\cdot|\\times|\\[,;: ]", r"\^\s*(?:\{\s*-?\d\s*\}|-?\d)"
_SQUARE = r"\^\s*\{?2\}?"
NOTATIONS = table(
    ("egree", rf"(?<!\{{)(?<!\{{ )\\?degrees?(?![a-z])\s*{_WORD}(C(?:elsius)?|F(?:ahrenheit)?)(?![A-Za-z])\s*\}}?",
     lambda match: rf"\text{{ degrees {'Celsius' if match[1][0] == 'C' else 'Fahrenheit'}}}"),
    ("{", rf"\\(?:mathrm|text|rm)\s*\{{((?:{_LETTERS})*[A-Za-z]\s*{_POWER}(?:{_LETTERS}|{_POWER})*)\}}",
     lambda match: "\\text{ " + re.sub("[{}.]", "", re.sub(r"\\cdot|\\times|\\.", " ", match[1])) + "}"),
    ("\\partial", r"\\frac\s*\{\s*\\partial\s*([A-Za-z])\s*\}\s*\{\s*\\partial\s*([a-z])\s*\}", r"\1_{\2}"),
    ("\\partial", rf"\\frac\s*\{{\s*\\partial\s*{_SQUARE}\s*([A-Za-z])\s*\}}\s*\{{\s*\\partial\s*([a-z])"
     rf"\s*(?:{_SQUARE}|\\partial\s*([a-z]))\s*\}}",
     lambda match: f"{match[1]}_{{{''.join(sorted(match[2] + (match[3] or match[2])))}}}"),
    ("{d", r"\\frac\s*\{\s*d\s*\^\s*\{?2\}?\s*([a-z])\s*\}\s*\{\s*d\s*[a-z]\s*\^\s*\{?2\}?\s*\}", r"\1''"),
    ("\\circ", r"\(\s*([a-zA-Z])\s*\\circ\s*([a-zA-Z])\s*\)\s*\(\s*([a-z\d]+)\s*\)", r"\1(\2(\3))"),
    ("R", r"\\mathbb\s*\{?\s*R\s*\}?\s*[\^_]\s*\{?\s*([+-]|[<>]\s*0)\s*\}?(?![\w^])",
     lambda match: r"(0, \infty)" if match[1][0] in "+>" else r"(-\infty, 0)"),
    ("Z|N|R|Q", r"\\in(?![a-z])\s*(?:\\(?:mathbf|mathrm)\s*\{\s*([RZNQ])\s*\}|([RZNQ])(?![A-Za-z\d_]))", r"\\in \\mathbb{\1\2}"),
    ("N", r"(\\mathbb\s*\{?\s*N\s*\}?)\s*[\^_]\s*\{?\s*[*+]\s*\}?", r"\1"),
    ("in |(", r"(?<=[\dA-F])(?: in |\s*\()(binary|octal|hex(?:adecimal)?)\)?$",
     lambda match: {"b": "_2", "o": "_8", "h": "_16"}[match[1][0]]),
    ("\\overline", r"\\overline\s*\{\s*([\dA-F]+)\s*\}(?=\s*_)", r"\1"),
    ("ldots", r"^(\d+)\s*(?:\\ldots\s*){2}(\d+)$", r"\1 remainder \2"),
    ("{", r"(?<![\\\w^])\{(\s*[a-z]\s*(?:\||:|\\mid(?![a-z]))(?:[^{}]|\{[^{}]*\})*)\}", r"\\{\1\\}"),
    (" ", r"^(\d+) (?:R|\\text\s*\{\s*(?:remainder|R)\s*\}) ?(\d+)$", r"\1 remainder \2"),
    ("\\hat|\\vec|\\mathbf|\\bold|\\bm", r"\\(?:hat|vec|mathbf|boldsymbol|bm)\s*\{?\s*\\?([ijk])(?:math)?\s*\}?(?![A-Za-z])", r"\\hat{\1}"),
    ("\\mathbf|\\bold|\\bm", r"\\(?:mathbf|boldsymbol|bm)\s*\{?\s*([a-z])\s*\}?(?![A-Za-z])", r"\\vec{\1}"),
    ("]", r"\[([^\[\],]+)\](?=\s*\^\s*\{?\s*(?:\\(?:text|mathsf|mathrm|top|intercal)|T))", lambda match: f"[{','.join(match[1].split())}]"),
    ("^", r"\^\s*\{?\s*\\(?:intercal|top|(?:mathsf|text|mathrm)\s*\{?\s*T\s*\}?)\s*\}?", "^T"),
    ("_", r"\\(?:mathrm|text)\s*\{\s*([CAP])\s*\}(?=\s*_\s*\{?\w+\}?\s*\^)", r"\1"),
    ("_", rf"\b([CAP])\s*_\s*{_VALUE}\s*\^\s*{_VALUE}(?![A-Za-z\d])", lambda match: _chosen(match[1], match[2], match[3], match[0])),
    ("_", rf"\b(C)\s*\^\s*{_VALUE}\s*_\s*{_VALUE}(?![A-Za-z\d])", lambda match: _chosen(match[1], match[3], match[2], match[0])),
    ("_", rf"(?:\{{\}}\s*)?[_^]\s*{_VALUE}\s*([CP])\s*_\s*{_VALUE}", lambda match: _chosen(match[2], match[1], match[3], match[0])),
    ("C|P", r"(?<![\w.\\])(\d+|n)([CP])(\d+|[rk])(?!\w)", lambda match: _chosen(match[2], match[1], match[3], match[0])),
    ("choose", rf"\{{?\s*{_VALUE}\s*\\?choose\s*{_VALUE}\s*\}}?", r"\\binom{\1}{\2}"),
    ("_", rf"{_TEXT}([0-9A-F]+)\}}(?=[0-9A-F]*\s*_)", r"\1"),
    ("(base", r"\s*(?:\\text\s*\{\s*)?\(base\s+(\w+)\s*\)\s*\}?", r"_{\1}"),
    ("0x", r"(?<!\w)0x([0-9A-Fa-f]+)(?!\w)", lambda match: match[1].upper() + "_{16}"),
    ("0b", r"(?<!\w)0b([01]+)(?!\w)", r"\1_{2}"),
    ("per", r"\bper\s+cent\b", "percent"),
    ("{d", r"\\frac\s*\{\s*d\s*([A-Za-z])\s*\}\s*\{\s*d\s*[a-z]\s*\}", r"\1'"),
    ("/d", r"(?<![A-Za-z\\])d([a-z])/d[a-z](?![A-Za-z])", r"\1'"),
    ("directed|acting", r",? (?:directed|acting)(?= (?:to|toward|along|up|down)[a-z]* )", ""),
    ("P", r"(?<![A-Za-z\\])P\s*\(([^()|]*)(?:\||\\mid(?![a-z]))([^()|]*)\)", r"P_{|}(\1, \2)"),
    ("\\degree", r"(\d+)\s*\\degree\s*(\d+)\s*'(?!')(?:\s*(\d+)\s*'')?",
     lambda match: rf"\frac{{{int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)}}}{{3600}}\degree "),
    ("or", r"(?<=\d)or(?=[A-Za-z](?:\([a-z]\))?\s*=)", " or "),
    ("\\partial", r"\\partial\s*([A-Za-z])\s*/\s*\\partial\s*([a-z])(?![a-z])", r"\1_{\2}"),
    ("j", r"^([-+\d. ]*\d)\*?j$", r"\1i"),
    ("I", r"(?<=\d)\*I$", "i"),
    ("math.|np.|sympy.", r"\b(?:math|np|numpy|sympy)\.(?=[a-z])", ""),
    ("Rational|Fraction", r"\b(?:Rational|Fraction)\((-?\d+), ?(\d+)\)", r"\1/\2"),
    ("(", r"\b(?:Matrix|np\.array|array)\((\[.*\])\)$", r"\1"),
    ("set(", r"^(?:frozen)?set\([\[{](.*)[\]}]\)$", r"\\{\1\\}"),
    (";", r"^\[([^\[\],;]+ [^\[\],;]+(?:;[^\[\],;]+)+)\]$",
     lambda match: f"[{', '.join('[' + ', '.join(row.split()) + ']' for row in match[1].split(';'))}]"),
    ("'", r"(?<=[{\[( ])'([^',]*)'(?=[,}\])])", r"\1"),
    ("=", r"(?<![A-Za-z\\_{\d])([a-z])([1-9])(?=\s*=)", r"\1_\2"),
    ("c|C", r"(?<![A-Za-z\\_{])([cC])([1-9])(?![\w.])", r"\1_\2"),
    ("\\cap|\\cup", r"(?<=[A-Z)])\s*\^\s*\{?\s*[cC]\s*\}?(?![\w])", "'"),
    ("mod", r"\(\s*mod\s+(\w+)\s*\)|\\pmod\s*([\da-z])", lambda match: rf"\pmod{{{match[1] or match[2]}}}"),
    ("multiplicity", r"(-?[\w./]+)\s*(?:\\text\s*\{\s*)?\((?:with )?multiplicity (\d)\)\s*\}?",
     lambda match: ", ".join([match[1]] * int(match[2]))),
    ("‰", r"(\d+(?:\.\d+)?)\s*‰", r"\\frac{\1}{10}\\%"),
    ("\\lor", r"(?<=[\w})])\s*\\lor(?![a-z])\s*(?=[a-z]\s*(?:[=<>]|\\[lgn]e))", " or "),
    ("\\mapsto", r"^(?:([a-z])\s*:\s*)?([a-z])\s*\\mapsto\s*", lambda match: f"{match[1] or 'f'}({match[2]}) = "),
    ("\\text|\\mathrm", rf"{_TEXT}([A-Za-z]+)\s*\}}\s*(?:\\cdot|\\times|\\,|\s)\s*{_TEXT}([A-Za-z]+)\s*\}}(?:\^\{{?(-?\d)\}}?)?",
     lambda match: rf"\text{{{match[1]} {match[2]}{(match[3] and '^' + match[3]) or ''}}}"),
    ("\\Rightarrow", r"^([^=\d]*)\\Rightarrow(?![a-z])([^=\d]*)$", r"\1\\to\2"),
    ("asymptote", r"(?:vertical|horizontal|oblique|slant) asymptotes?(?: is| are| at|:)? *(?=[xy] ?=)", ""),
    ("similar|congruent", r"\s+is (similar|congruent) to\s+", lambda match: r" \sim " if match[1] == "similar" else r" \cong "),
    ("\\dim|\\ker|\\rank|\\tr", r"\\(dim|ker|rank|tr)(?![a-z])", r"\\text{\1}"),
    ("triangle", r"(?<![\\A-Za-z])triangle ([A-Z]{3})(?![A-Za-z])", r"\\triangle \1"),
    ("\\mathbb", r"\\mathbb\s*\{?\s*([EP])\s*\}?(?=\s*[\[(])", r"\1"),
    (" x ", r"(?<=[\d}]) x (?=\$?\d)", r" \\times "),
    ("const", r"(?<=\+)\s*(?:\\text\s*\{\s*)?const(?:ant|\.)?\s*\}?$", " C"),
    ("\\frac", rf"\\frac\s*\{{\s*{_TEXT}([A-Za-z]+)\s*\}}\s*\}}\s*\{{\s*{_TEXT}([A-Za-z]+)\s*\}}\s*(\^\{{?\d\}}?)?\s*\}}",
     r"\\text{ \1/\2}\3"),
    ("odd|even", r"(?<![A-Za-z\\'])(?![fgh])([a-z])(?:\s+|\s*\\(?:text|mathrm)\s*\{\s*)(?:is\s+)?(odd|even)\b\s*\}?",
     lambda match: rf"{match[1]} \equiv {'1' if match[2] == 'odd' else '0'} \pmod{{2}} "),
    ("odd|even",
     r"(?:\\(?:text\w*|mathrm)\s*\{\s*)?(?:\ball )?\b(odd|even) ?(?:(?:integers?|numbers?|values of) ?)?\}?\s*\b([a-z])(?![\w(])",
     lambda match: rf"{match[2]} \equiv {int(match[1] == 'odd')} \pmod{{2}}"),
    ("divisible", r"(?<![A-Za-z\\])([a-z])\s*(?:\\text\s*\{\s*)?is divisible by\s*\}?\s*(\d+)", r"\1 \\equiv 0 \\pmod{\2}"),
    ("\\mid", r"(?<![\w.|])(\d+)\s*\\mid\s*([a-z])(?![\w}])", r"\2 \\equiv 0 \\pmod{\1}"),
    ("\\underline", r"\\underline\s*\{(?:\\text\s*\{([^{}]*)\}|([^{}]*))\}", lambda match: match[1] or match[2]),
    ("&", r"&\s*(?:\\text\s*\{\s*(?:if|for|when|where)\b,?\s*([^{}]*)\}|(?:if|for|when)\b)", lambda match: f"& {match[1] or ''} "),
    ("\\text", r"\\text\s*\{\s*(\d[\d.,]*)\s*([A-Za-z][^{}]*)\}", r"\1\\text{ \2}"),
    ("%", r"(?<![\w./])(\d+)/(\d+)\s*\\?%", r"\\frac{\1}{\2}\\%"),
    ("US|EUR|Rs|INR", r"\b(?:USD|US\s*\\?\$|EUR|Rs\.?|INR)\s*(?=\d)", lambda match: _MONEY[match[0][0]]),
    (" ", rf"({_LARGER})\s*\}}?(?:\s*,|,?\s*(?:\\text\s*\{{\s*)?and\b\s*\}}?)(?=\s*\d+\s*(?:\\text\s*\{{)?\s*(?!\1){_SMALLER})",
     lambda match: f"{match[1]}{'}' if '}' in match[0] else ''} "),
)  # fmt: skip


def notations(text: str) -> str:
    """C_{10}^3 → \\binom{10}{3}, 0xFF → FF_{16}, \\mathbf{i} → \\hat{i}, n is odd → n \\equiv 1 \\pmod{2}."""
    return rewritten(text, NOTATIONS)


# ── groups of digits, times of day, conditions in brackets ────────────────────────────────────────────────────────────


def _grouped(match: Match) -> str:
    """1.234,56 → 1234.56; as it stands where a mark may be a decimal point."""
    mark, groups, decimals = match[3], len(match[2]) // 4, match[4]
    of_cents = decimals is not None and len(decimals) < 3
    sure = mark in "'_" or of_cents or (mark == "." and (groups > 1 or (decimals is not None and len(decimals) > 3)))
    return match[1] + match[2].replace(mark, "") + (f".{decimals}" if decimals else "") if sure else match[0]


def _decimal_commas(match: Match) -> str:
    """(0,5; 2) → (0.5, 2); as it stands where a comma may separate: [1,2; 3,4], (1,234; 2)."""
    values = match[2].split(";")
    whole = [value for value in values if "," not in value]
    if len(whole) == len(values) or not (whole or match[1][-1] == "("):
        return match[0]
    sure = all(re.fullmatch(r"\s*-?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))\s*", value) for value in values if value not in whole)
    return match[1] + ",".join(value.replace(",", ".") for value in values) + match[3] if sure else match[0]


_DERIVED = re.compile(r"\\(?:Rightarrow|implies|Longrightarrow)(?![a-z])|=>|\\to(?![a-z])")
_SOLVED = re.compile(r"\s*([a-z])\s*=[^=<>]+")


def conclusion(text: str) -> str:
    """2x + 1 = 7 \\implies 2x = 6 \\implies x = 3 → x = 3: an equation in one letter, solved."""
    *lines, last = _DERIVED.split(text)
    solved = _SOLVED.fullmatch(last)
    if not lines or solved is None or any(_SOLVED.fullmatch(line) or line.count("=") != 1 for line in lines):
        return text
    letters = set(re.findall("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)))
    return last.strip() if letters == {solved[1]} and "\\lim" not in text else text


_SUFFIXES = {"K": "thousand", "M": "million", "B": "billion"}
GROUPS = table(
    ("\"", r"^(\d+(?:\.\d+)?)\s*\"$", r"\1 inches"),
    ("'", r"^(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:''|\")$", r"\1 feet \2 inches"),
    (";", r"^([A-Z]?[(\[])([^()\[\]]+)([)\]])$", _decimal_commas),
    (".|'| |_", r"(?<![\w.,'])([1-9]\d{0,2})(([.' _])\d{3}(?:\3\d{3})*)(?:,(\d+))?(?![\d,]|\3)", _grouped),
    ("€", r"(?<![\w.,])(\d+),(\d{2})(?=\s*€)", r"\1.\2"),
    ("$", r"^(\\?\$ ?\d[\d.,]*) ?([KkMB])$", lambda match: f"{match[1]} {_SUFFIXES[match[2].upper()]}"),
    ("{:}", r"(?<=\d)\{:\}(?=\d)", ":"),
    ("&", r"(?<=\d)\s*\\?&\s*(?=\d+$)", ", "),
    ("\\in", r"(?<=[\w})\]])\s*\(\s*([a-z]\s*\\in\s*\\mathbb\s*\{?[A-Z]\}?)\s*\)$", r", \1"),
    (" (", r"(?<=[\w})\]])\s+\(\s*([a-z]\s*(?:[<>]|\\[lg]e|\\ne)\s*[^()]+)\)$", r", \1"),
    ("\\forall", r"(?<=[\w})\]])[ ,]*\(?\s*\\forall\s*([a-z])\s*(?:\\in\s*\\mathbb\s*\{?([A-Z])\}?)?\s*\)?$",
     lambda match: "" if match[2] in (None, "R") else rf", {match[1]} \in \mathbb{{{match[2]}}}"),
    ("m|M", r"^(\d{1,2}) ?([apAP])\.? ?[mM]\.?$", r"\1:00 \2m"),
    ("m|M", r"^(\d{1,2})\.(\d{2}) ?([apAP])\.? ?[mM]\.?$", r"\1:\2 \3m"),
    ("min", r"^(\d+) ?h ?(\d+) ?min$", r"\1 hours \2 minutes"),
)


def groups(text: str) -> str:
    """1.234,56 and 1'234.56 → 1234.56; 3,50 € → 3.50 €: only where the digits can be nothing else."""
    return rewritten(text, GROUPS)


_LABEL = re.compile(r"(?:^|(?<=[\s,;.]))\s*(?:\\text\s*\{\s*)?\(?([a-h1-9])\)\s*\}?\s*(?=[^\s,;.(])")


def parts(text: str) -> str:
    """(a) 5, (b) 6 → (5, 6): what stands behind labels has their order."""
    labels = list(_LABEL.finditer(text)) if text.lstrip().startswith(("(a)", "a)", "(1)", "1)", "\\text")) else []
    names = "".join(label[1] for label in labels)
    if len(names) < 2 or labels[0].start() or not ("abcdefgh".startswith(names) or "123456789".startswith(names)):
        return text
    ends = [label.start() for label in labels[1:]] + [len(text)]
    values = [text[label.end() : end].strip(" ,;.") for label, end in zip(labels, ends, strict=True)]
    if not all(values) or any("," in value or ";" in value for value in values):
        return text
    named = len({value.partition("=")[0] for value in values if "=" in value}) == len(values)
    return ", ".join(values) if named else f"({', '.join(values)})"

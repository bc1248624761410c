"""Notations with a LaTeX equal: C_n^k, 2A (base 16), USD 5, n is odd; groups of digits; labelled parts.

Each notation names a piece of text without which it cannot occur: most answers have none of these, and cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Replacement = str | Callable[[re.Match[str]], str]

_VALUE = r"\{?(\d+|[a-z])\}?"
_TEXT = r"\\(?:text|mathrm)\s*\{\s*"
_LARGER = r"(?:hours?|hrs?|minutes?|feet|foot|ft|yards?|pounds?|lbs?|weeks?|days?|years?|dollars?|meters?)\b"
_SMALLER = r"(?:min|sec|in|foot|feet|ounce|oz|day|month|cent|hour)"


def _chosen(above: int, below: int, name: str = r"\binom") -> Callable[[re.Match[str]], str]:
    """C_n^k as \\binom{n}{k}; as it stands if no k of n can be chosen."""

    def change(match: re.Match[str]) -> str:
        n, k = match[above], match[below]
        return f"{name}{{{n}}}{{{k}}}" if not (n.isdigit() and k.isdigit()) or int(n) >= int(k) > 0 else match[0]

    return change


_NOTATIONS: list[tuple[str, str, Replacement]] = [
    ("egree", rf"(?<!\{{)(?<!\{{ )\\?degrees?(?![a-z])\s*(?:{_TEXT})?C(?:elsius)?(?![A-Za-z])\s*\}}?", r"\\text{ degrees Celsius}"),
    ("egree", rf"(?<!\{{)(?<!\{{ )\\?degrees?(?![a-z])\s*(?:{_TEXT})?F(?:ahrenheit)?(?![A-Za-z])\s*\}}?", r"\\text{ degrees Fahrenheit}"),
    ("\\", r"\\(?:hat|vec|mathbf|boldsymbol|bm)\s*\{?\s*\\?([ijk])(?:math)?\s*\}?(?![A-Za-z])", r"\\hat{\1}"),
    ("\\b", r"\\(?:boldsymbol|bm)\s*\{?\s*([a-z])\s*\}?(?![A-Za-z])", r"\\vec{\1}"),
    ("\\mathbf", r"\\mathbf\s*\{?\s*([a-z])\s*\}?(?![A-Za-z])", r"\\vec{\1}"),
    ("]", r"\[([^\[\],]+)\](?=\s*\^\s*\{?\s*(?:\\(?:text|mathsf|mathrm|top|intercal)|T))", lambda m: f"[{','.join(m[1].split())}]"),
    ("T", r"\^\s*\{?\s*\\(?:mathsf|text|mathrm)\s*\{?\s*T\s*\}?\s*\}?", "^T"),
    ("\\intercal", r"\^\s*\{?\s*\\intercal\s*\}?", "^T"),
    ("C", rf"\bC\s*_\s*{_VALUE}\s*\^\s*{_VALUE}(?![A-Za-z\d])", _chosen(1, 2)),
    ("C", rf"\bC\s*\^\s*{_VALUE}\s*_\s*{_VALUE}(?![A-Za-z\d])", _chosen(2, 1)),
    ("_", r"\b[AP]\s*_\s*\{?(\d+)\}?\s*\^\s*\{?(\d+)\}?(?![A-Za-z\d])", _chosen(1, 2, r"\perm")),
    ("C", rf"(?:\{{\}}\s*)?[_^]\s*{_VALUE}\s*C\s*_\s*{_VALUE}", _chosen(1, 2)),
    ("P", rf"(?:\{{\}}\s*)?[_^]\s*{_VALUE}\s*P\s*_\s*{_VALUE}", _chosen(1, 2, r"\perm")),
    ("C", r"(?<![\w.\\])(\d+|n)C(\d+|[rk])(?!\w)", _chosen(1, 2)),
    ("choose", rf"\{{?\s*{_VALUE}\s*\\choose\s*{_VALUE}\s*\}}?", r"\\binom{\1}{\2}"),
    ("_", rf"{_TEXT}([0-9A-F]+)\}}(?=[0-9A-F]*\s*_)", r"\1"),
    ("(base", r"\s*\(base\s+(\w+)\s*\)", r"_{\1}"),
    ("0x", r"(?<!\w)0x([0-9A-Fa-f]+)(?!\w)", lambda match: match[1].upper() + "_{16}"),
    ("0b", r"(?<!\w)0b([01]+)(?!\w)", r"\1_{2}"),
    ("per", r"\bper\s+cent\b", "percent"),
    ("{d", r"\\frac\s*\{\s*d\s*([a-z])\s*\}\s*\{\s*d\s*[a-z]\s*\}", r"\1'"),
    ("\\frac", rf"\\frac\s*\{{\s*{_TEXT}([A-Za-z]+)\s*\}}\s*\}}\s*\{{\s*{_TEXT}([A-Za-z]+)\s*\}}\s*(\^\{{?\d\}}?)?\s*\}}",
     r"\\text{ \1/\2}\3"),
    ("odd", r"(?<![A-Za-z\\])([a-z])(?:\s+|\s*\\text\s*\{\s*)(?:is\s+)?odd\b\s*\}?", r"\1 \\equiv 1 \\pmod{2}"),
    ("even", r"(?<![A-Za-z\\])([a-z])(?:\s+|\s*\\text\s*\{\s*)(?:is\s+)?even\b\s*\}?", r"\1 \\equiv 0 \\pmod{2}"),
    ("divisible", r"(?<![A-Za-z\\])([a-z])\s*(?:\\text\s*\{\s*)?is divisible by\s*\}?\s*(\d+)", r"\1 \\equiv 0 \\pmod{\2}"),
    ("\\mid", r"(?<![\w.|])(\d+)\s*\\mid\s*([a-z])(?![\w}])", r"\2 \\equiv 0 \\pmod{\1}"),
    ("\\underline", r"\\underline\s*\{(?:\\text\s*\{([^{}]*)\}|([^{}]*))\}", lambda match: match[1] or match[2]),
    ("&", r"&\s*(?:\\text\s*\{\s*(?:if|for|when|where)\b,?\s*([^{}]*)\}|(?:if|for|when)\b)", lambda match: f"& {match[1] or ''} "),
    ("\\text", r"\\text\s*\{\s*(\d[\d.,]*)\s*([A-Za-z][^{}]*)\}", r"\1\\text{ \2}"),
    ("%", r"(?<![\w./])(\d+)/(\d+)\s*\\?%", r"\\frac{\1}{\2}\\%"),
    ("US", r"(?:\bUSD|\bUS\s*\\?\$)\s*(?=\d)", "$"),
    ("EUR", r"\bEUR\s*(?=\d)", "€"),
    ("R", r"\b(?:Rs\.?|INR)\s*(?=\d)", "₹"),
    ("and", rf"({_LARGER})\s*\}}?,?\s*(?:\\text\s*\{{\s*)?and\b\s*\}}?(?=\s*\d+\s*(?:\\text\s*\{{)?\s*{_SMALLER})",
     lambda match: f"{match[1]}{'}' if '}' in match[0] else ''} "),
]  # fmt: skip
_COMPILED = [(hint, re.compile(pattern), replacement) for hint, pattern, replacement in _NOTATIONS]


def notations(text: str) -> str:
    """C_{10}^3 → \\binom{10}{3}, 0xFF → FF_{16}, \\mathbf{i} → \\hat{i}, n is odd → n \\equiv 1 \\pmod{2}."""
    for hint, pattern, replacement in _COMPILED:
        if hint in text:
            text = pattern.sub(replacement, text)
    return text


# ── groups and parts ──────────────────────────────────────────────────────────────────────────────────────────────────

_GROUPS: list[tuple[str, str, Replacement]] = [
    (",", r"(?<![\w.,])(\d{1,3}(?:\.\d{3})+),(\d{1,2}|\d{4,})(?![\d,])", lambda m: m[1].replace(".", "") + "." + m[2]),
    (".", r"(?<![\w.,])([1-9]\d{0,2}(?:\.\d{3}){2,})(?:(,)(\d+))?(?![\d,.])",
     lambda m: m[1].replace(".", "") + (f".{m[3]}" if m[2] else "")),
    (",", r"(?<![\w.,])([1-9]\d{0,2}(?: \d{3})+),(\d{1,2})(?![\d,])", lambda m: m[1].replace(" ", "") + "." + m[2]),
    ("'", r"(?<![\w.,'])[1-9]\d{0,2}(?:'\d{3})+(?![\d'])", lambda m: m[0].replace("'", "")),
    ("_", r"(?<![\w.,'])[1-9]\d{0,2}(?:_\d{3})+(?![\d'])", lambda m: m[0].replace("_", "")),
    ("€", r"(?<![\w.,])(\d+),(\d{2})(?=\s*€)", r"\1.\2"),
    ("{:}", r"(?<=\d)\{:\}(?=\d)", ":"),
    ("&", r"(?<=\d)\s*\\?&\s*(?=\d+$)", ", "),
    ("\\in", r"(?<=[\w})\]])\s*\(\s*([a-z]\s*\\in\s*\\mathbb\s*\{?[A-Z]\}?)\s*\)$", r", \1"),
    (" (", r"(?<=[\w})\]])\s+\(\s*([a-z]\s*(?:[<>]|\\[lg]e|\\ne)\s*[^()]+)\)$", r", \1"),
    ("\\forall", r"(?<=[\w})\]])[ ,]*\(?\s*\\forall\s*[a-z]\s*(?:\\in\s*\\mathbb\s*\{?[A-Z]\}?)?\s*\)?$", ""),
    ("m", r"^(\d{1,2}) ?([apAP])\.? ?m\.?$", r"\1:00 \2m"),
    ("M", r"^(\d{1,2}) ?([AP])\.? ?M\.?$", r"\1:00 \2m"),
    ("min", r"^(\d+) ?h ?(\d+) ?min$", r"\1 hours \2 minutes"),
]  # fmt: skip
_COMPILED_GROUPS = [(hint, re.compile(pattern), replacement) for hint, pattern, replacement in _GROUPS]


def groups(text: str) -> str:
    """1.234,56 and 1'234.56 → 1234.56; 3,50 € → 3.50 €: only where the digits can be nothing else."""
    for hint, pattern, replacement in _COMPILED_GROUPS:
        if hint in text:
            text = pattern.sub(replacement, text)
    return text


_LABEL = re.compile(r"(?:^|(?<=[\s,;.]))\s*(?:\\text\s*\{\s*)?\(([a-h1-9])\)\s*\}?\s*(?=[^\s,;.(])")


def parts(text: str) -> str:
    """(a) 5, (b) 6 → (5, 6): what stands behind labels has their order."""
    labels = list(_LABEL.finditer(text)) if text.lstrip().startswith(("(a)", "(1)", "\\text")) else []
    names = "".join(label[1] for label in labels)
    if len(names) < 2 or labels[0].start() or names not in ("abcdefgh"[: len(names)], "123456789"[: len(names)]):
        return text
    ends = [label.start() for label in labels[1:]] + [len(text)]
    values = [text[label.end() : end].strip(" ,;.") for label, end in zip(labels, ends, strict=True)]
    if not all(values) or any("," in value or ";" in value for value in values):
        return text
    return ", ".join(values) if all("=" in value for value in values) else f"({', '.join(values)})"

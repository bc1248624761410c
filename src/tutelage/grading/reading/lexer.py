"""From a normalised answer to tokens (numbers, symbols, commands, words, marks), and a cursor that moves over them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

from tutelage.grading.calculating.work import TooLarge, spend
from tutelage.grading.reading.tree import Unreadable
from tutelage.grading.taking.format import TEXT_COMMANDS
from tutelage.grading.wording.vocabulary import listed, replacements

MAX_DIGITS = 1_000
MAX_DEPTH = 60
FUNCTIONS, GREEK, ENVIRONMENTS = listed("known functions"), listed("greek"), listed("environments")
ACCENTS = replacements("accents")
_SAME_FUNCTION, _SAME_SYMBOL = replacements("same functions"), replacements("same symbols")
_PLAIN_NAMES = FUNCTIONS | _SAME_FUNCTION.keys() | listed("plain names")
_LONG_NAMES = sorted((n for n in _PLAIN_NAMES - {"inf", "and", "deg", "det", "min", "max"} if len(n) > 2), key=lambda n: (-len(n), n))
_WITHIN_RUN = re.compile(f"({'|'.join(_LONG_NAMES)}|pi)")
_UNIT_WORDS = listed("unit words")
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    rf"|\\(?:{TEXT_COMMANDS})(?![A-Za-z])\s*(?:\{{(?P<text>[^{{}}\\]*)\}}|(?P<bare>[A-Za-z0-9]))"
    r"|(?P<repeat>\d*\.\d*(?:\(\d+\)|\\overline\s*(?:\{\d+\}|\d)|\\bar\s*(?:\{\d+\}|\d)|\\dot\s*(?:\{\d\}|\d)(?:\d*\\dot\s*(?:\{\d\}|\d))?|\d(?:\\ldots)))"
    r"|(?P<number>(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE](?:[+-]?\d+)(?![A-Za-z0-9.]))?)"
    r"|(?P<rate>(?<=[\d }])(?<![A-Za-z] )(?:k?m|cm|ft|mi|k?g|mol|rad|L)/(?:h|hr|min|sec|s|c?m|mL|L|kg|mol|day)"
    r"(?:\^\{?[23]\}?)?(?![A-Za-z]))"
    r"|(?P<command>\\[A-Za-z]+|\\.)"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<mark><=|>=|=<|=>|!=|<>|==|:=|\*\*|'+|_|[^\w\s])"
    r"|(?P<unknown>.)"
)  # fmt: skip


class Token(NamedTuple):
    kind: str  # number, command, word, symbol, text, mark, separator, end
    text: str
    spaced: bool
    value: Any = None


def tokenize(text: str) -> list[Token]:
    tokens: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "mark":
            tokens.append(Token("mark", match[0] if match[0] != "**" else "^", spaced))
        elif kind != "space":
            tokens += _tokens_of(kind or "", match, spaced, tokens)
        spaced = kind == "space"
    return [*tokens, Token("end", "", spaced)]


def _tokens_of(kind: str, match: re.Match[str], spaced: bool, before: list[Token]) -> list[Token]:
    found = match[0]
    if kind == "number":
        if sum(map(str.isdigit, found)) > MAX_DIGITS or len(found.lower().partition("e")[2].lstrip("+-")) > 3:
            raise TooLarge(f"a number has over {MAX_DIGITS} digits or a huge exponent")
        return [Token("number", found, spaced, Fraction(int(found) if found.isdigit() else found))]
    if kind == "repeat":
        return [Token("number", found, spaced, _repeating(found))]
    if kind == "rate":
        return [Token("text", found, spaced)]
    if kind in ("text", "bare"):
        return _text_tokens(match[kind].strip(), spaced, before)
    if kind == "letters":
        return _letter_tokens(found, spaced, before)
    if kind == "unknown":
        raise Unreadable(f"{found!r} is not known")
    name = found[1:]
    name = _SAME_FUNCTION.get(name, _SAME_SYMBOL.get(name, name))
    if name in ("and", "or"):
        return [Token("separator", name, spaced)]
    if name in ("{", "}", "|", "[", "]"):
        return [Token("mark", "\\" + name if name in "{}" else name, spaced)]
    return [Token("command", name, spaced)]


def _repeating(text: str) -> Fraction:
    """0.(3), 0.1\\overline{6}, 0.\\dot{1}4\\dot{2}, 0.333\\ldots: the exact value."""
    before, _, rest = text.partition(".")
    if rest.endswith("\\ldots"):
        digits = rest.removesuffix("\\ldots")
        for length in range(1, len(digits) // 2 + 1):
            period = digits[-length:]
            times = 1
            while digits.endswith(period * (times + 1)):
                times += 1
            if times * length >= 3 and times >= 2:
                fixed = digits[: len(digits) - length * times]
                break
        else:
            raise Unreadable(f"{text} does not say which digits repeat")
    else:
        fixed, _, period = rest.partition("(" if "(" in rest else "\\")
        period = re.sub(r"\D", "", period)
    if len(fixed) + len(period) > MAX_DIGITS:
        raise TooLarge("a number has too many digits")
    scale = 10 ** len(fixed)
    return Fraction(int(before + fixed or "0"), scale) + Fraction(int(period), (10 ** len(period) - 1) * scale)


def _text_tokens(inner: str, spaced: bool, before: list[Token]) -> list[Token]:
    """\\text{and} separates, \\text{cm} is a unit or a name, \\mathrm{e} and \\text{2/3} are mathematics."""
    follows_value = bool(before) and (before[-1].kind == "number" or before[-1].text in (")", "}", "]", "$", "pi"))
    if inner.strip(" ,") in ("and", "or", "And", "Or", ","):
        return [Token("separator", inner, spaced)]
    if not inner:
        return []
    if len(inner) == 1 and inner.isalpha():
        return [Token("text" if follows_value and inner not in "eidx" else "symbol", inner, spaced)]
    is_unit = follows_value and inner.lower() in _UNIT_WORDS
    is_name = inner in _PLAIN_NAMES and inner not in ("max", "min")
    is_formula = not re.search(r"[A-Za-z]{2}", inner) and not (follows_value and inner[0].isalpha())
    return tokenize(inner)[:-1] if (is_name or is_formula) and not is_unit else [Token("text", inner, spaced)]


def _letter_tokens(run: str, spaced: bool, before: list[Token]) -> list[Token]:
    """A run of letters: a known name, a unit or a word, or a product of one-letter symbols."""
    lower = run.lower()
    follows_value = bool(before) and (before[-1].kind in ("number", "text", "word") or before[-1].text in (")", "}", "]", "pi"))
    if len(before) > 1 and before[-1].text == "/" and (before[-2].kind in ("word", "text") or before[-3:][0].text in ("$", "€", "£")):
        follows_value = True  # dollars/day, $15/hr
    if lower in ("and", "or") and len(run) > 1:
        return [Token("separator", lower, spaced)]
    is_preposition = lower == "in" and spaced and bool(before) and before[-1].kind != "number"
    if ({lower, run} & _UNIT_WORDS or run == "nm") and follows_value and not is_preposition:
        return [Token("word", run, spaced)]
    if run in _PLAIN_NAMES:
        name = _SAME_FUNCTION.get(run, _SAME_SYMBOL.get(run, run))
        return [Token("command", name, spaced)]
    if len(run) == 1:
        return [Token("symbol", run, spaced)]
    pieces = [piece for piece in _WITHIN_RUN.split(run) if piece]
    if len(pieces) > 1 and sum(len(p) for p in pieces if p not in _PLAIN_NAMES) <= 2:
        return [t for i, p in enumerate(pieces) for t in _letter_tokens(p, spaced and i == 0, before if i == 0 else [])]
    if (len(run) >= 4 and not run.isupper()) or run in ("Var", "Cov") or (len(run) == 3 and follows_value and spaced and run.islower()):
        return [Token("word", run, spaced)]
    if run.isupper():  # AB/AC is not A·B/A·C
        return [Token("symbol", run, spaced)]
    return [Token("symbol", letter, spaced and index == 0) for index, letter in enumerate(run)]


class Cursor:
    """Moves over tokens. Each token taken costs a unit of work, since some rules read a part twice."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = self.depth = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def ahead(self, steps: int = 1) -> Token:
        return self.tokens[min(self.at + steps, len(self.tokens) - 1)]

    def take(self) -> Token:
        token = self.tokens[self.at]
        if token.kind == "end":
            raise Unreadable("the text ends too early")
        spend()
        self.at += 1
        return token

    def sees(self, *texts: str) -> bool:
        """A mark or command comes next, one of these."""
        token = self.tokens[self.at]
        return token.text in texts and token.kind in ("mark", "command")

    def takes(self, *texts: str) -> bool:
        """Take such a mark or command, if it comes next."""
        token = self.tokens[self.at]
        if token.text not in texts or token.kind not in ("mark", "command"):
            return False
        spend()
        self.at += 1
        return True

    def expect(self, text: str) -> None:
        if not self.takes(text):
            raise Unreadable(f"expected {text!r}, found {self.next.text!r}")

    def skip_to(self, text: str) -> str:
        """Take all tokens up to this one, and it; the text between."""
        skipped = ""
        while not self.takes(text):
            skipped += self.take().text
        return skipped

    def is_number(self) -> bool:
        return self.next.kind == "number"

    def is_word(self, steps: int = 0) -> bool:
        """Words stand there: of plain text, or in a \\text command."""
        return self.ahead(steps).kind in ("word", "text")

    def calls(self) -> bool:
        """An opening bracket follows without a space, as behind the name of a function."""
        return self.sees("(") and not self.next.spaced

    def follows(self, *texts: str) -> bool:
        """The tokens behind the next one have these texts."""
        return all(self.ahead(steps).text == text for steps, text in enumerate(texts, 1))

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested over {MAX_DEPTH} deep")

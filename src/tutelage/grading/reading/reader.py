"""Reads an answer, LaTeX or plain, into a tree. It reads the full text or raises `Unreadable`: never a part of it.

A recursive-descent parser for what stands in answers: numbers, expressions, relations, lists, intervals, sets, matrices, units.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tutelage.grading.calculating import work
from tutelage.grading.calculating.work import UNITS, TooLarge, limited, spend
from tutelage.grading.reading.lexer import FUNCTIONS, tokenize
from tutelage.grading.reading.terms import Terms
from tutelage.grading.reading.tree import ELLIPSIS, Kind, Node, Unreadable, plain_text, symbol

MAX_TOKENS = 3_000
_RELATIONS = {
    "=": "=", "==": "=", ":=": "=", "equiv": "=", "<": "<", ">": ">", "<=": "<=", "le": "<=", ">=": ">=", "ge": ">=",
    "!=": "!=", "<>": "!=", "ne": "!=", "approx": "~", "~": "~", "in": "in", "notin": "notin", "to": "to",
    "=<": "<=",
}  # fmt: skip
_SET_OPERATIONS = {"cup": Kind.UNION, "U": Kind.UNION, "cap": Kind.INTERSECTION, "setminus": Kind.SETMINUS}
_ATOM_ENDS = frozenset({"", ",", ")", "]", "}", "\\}"})
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d])(?!,\d)")
_DIGITS_AND_BASE = re.compile(r"\(?([0-9A-F]*[A-F][0-9A-F]*|\d[0-9a-f]*)\)?_\{?(1[1-9])\}?")


def read(text: str, thousands: bool = True, trusted: bool = False) -> Node:
    """The tree of a normalised answer.

    Args:
        thousands: read 1,234 as one number where no bracket holds it; otherwise the comma always separates.
        trusted: the text is a reference: any words behind a number are its unit.

    Raises:
        Unreadable: the grammar does not know the text; TooLarge: it is over a limit.
    """
    tree, units = _read(text, thousands, trusted)
    spend(units)
    return tree


@lru_cache(4_096)
def _read(text: str, thousands: bool, trusted: bool) -> tuple[Node, int]:
    """The tree, and the work that it costs each time."""
    with limited():
        tree = _tree(text, thousands, trusted)
        return tree, int(UNITS - work.left)


def _tree(text: str, thousands: bool, trusted: bool) -> Node:
    if thousands:
        text = _join_thousands(text)
    if "\\int" in text or "\\iint" in text:
        text = _DIFFERENTIAL.sub(r" \\differential{\1}", _DIFFERENTIAL_ABOVE.sub(_differential_behind, text))
    if (based := _DIGITS_AND_BASE.fullmatch(text)) is not None:
        return Node(Kind.BASED, (), (based[1].upper(), based[2]))
    tokens = tokenize(text)
    if len(tokens) > MAX_TOKENS:
        raise TooLarge(f"the answer has over {MAX_TOKENS} parts")
    parser = _Parser(tokens)
    parser.trusted = trusted
    try:
        return parser.answer()
    except RecursionError:
        raise TooLarge("nested too deep") from None


_DIFFERENTIAL = re.compile(r"(?<![A-Za-z\\])d\s*([a-zA-Z]|\\[a-z]+)(?![A-Za-z])")
_DIFFERENTIAL_ABOVE = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*?)(?<![A-Za-z\\])d([a-z])\s*\}\s*(\{(?:[^{}]|\{[^{}]*\})*\})")


def _differential_behind(match: re.Match[str]) -> str:
    """\\frac{dx}{x} → \\frac{1}{x} dx"""
    return f"\\frac{{{match[1].strip() or '1'}}}{match[3]} d{match[2]}"


def _join_thousands(text: str) -> str:
    """1,234 → 1234 outside brackets, and in a bracket where other separators are set off by a space: (1,000, 2,000)."""
    depth, pieces, start = 0, [], 0
    for match in _THOUSANDS.finditer(text):
        for character in text[start : match.start()]:
            depth += (character in "([{") - (character in ")]}")
        pieces.append(text[start : match.start()])
        spaced = depth == 0 or ", " in text or ";" in text
        pieces.append(match[0].replace(",", "") if spaced else match[0])
        start = match.end()
    return "".join(pieces) + text[start:]


class _Parser(Terms):
    def answer(self) -> Node:
        items, _ = self.items()
        if self.next.kind != "end":
            raise Unreadable(f"{self.next.text!r} is out of place")
        if not items:
            raise Unreadable("nothing to read")
        return items[0] if len(items) == 1 else Node(Kind.LIST, tuple(items), self.junction)

    def items(self, closers: tuple[str, ...] = ()) -> tuple[list[Node], int]:
        """Elements up to a closer or the end, with how many separators stood between; groups of a;b stand as lists of their own."""
        self.deeper()
        groups: list[list[Node]] = [[]]
        separators = 0
        while self.next.kind != "end" and not self.closes(closers):
            groups[-1].append(self.element(closers))
            separated = False
            while self.next.kind == "separator" or self.sees(",", ";"):
                token, separated = self.take(), True
                if token.kind == "separator" and token.text.lower() in ("and", "or"):
                    self.junction = token.text.lower()
                if token.text == ";":
                    groups.append([])
            separators += separated
            if not separated and self.next.kind != "end" and not self.closes(closers):
                raise Unreadable(f"{self.next.text!r} is out of place")
        self.depth -= 1
        if len(groups) > 1 and any(len(group) > 1 for group in groups):
            return [group[0] if len(group) == 1 else Node(Kind.LIST, tuple(group)) for group in groups if group], separators
        return [node for group in groups for node in group], separators

    def element(self, closers: tuple[str, ...] = ()) -> Node:
        """One answer: a chain of relations between sets, ratios or expressions."""
        if self.ahead().text in _ATOM_ENDS and (self.next.kind in ("number", "symbol") or self.sees("ldots")):
            return self.atom() if not self.takes("ldots") else symbol(ELLIPSIS)
        members, operators = [self.set_expression()], []
        while self.next.text in _RELATIONS and self.sees(self.next.text) and not self.sees(*closers):
            operators.append(_RELATIONS[self.take().text])
            members.append(self.set_expression())
        return Node(Kind.RELATION, tuple(members), tuple(operators)) if operators else members[0]

    def set_expression(self) -> Node:
        name = self.worded_name() if self.is_word() else self.call_before_equals() if self.next.kind == "symbol" else None
        if self.sees(*FUNCTIONS, "int", "lim", "sum") and self.ahead().text == "=":  # gcd = 12
            name = symbol(self.take().text)
        if name is not None:
            return name
        node = self.ratio()
        while self.sees("cup", "cap", "setminus") or self.sees_letter_union():
            kind, parts = _SET_OPERATIONS[self.take().text], (node, self.ratio())
            named = kind is not Kind.SETMINUS and all(part.is_symbol() for part in parts)  # A ∪ B is B ∪ A
            node = Node(kind, tuple(sorted(parts, key=plain_text)) if named else parts)
        return node

    def worded_name(self) -> Node | None:
        """Words before an equals sign: Area = 5."""
        steps = 0
        while self.is_word(steps):
            steps += 1
        if steps and self.ahead(steps).text == "(" and self.ahead(steps + 2).text == ")":  # rank(A)
            steps += 3
        if steps and self.next.text in ("dim", "ker", "rank", "tr") and self.ahead(steps).kind == "symbol":  # dim V
            steps += 1
        if steps and self.ahead(steps).text in ("=", "approx", "~"):
            return symbol(" ".join(self.take().text.lower() for _ in range(steps)))
        return None

    def call_before_equals(self) -> Node | None:
        """W(n) before an equals sign is a function, whatever its letter."""
        if self.ahead().text != "(" or self.ahead().spaced:
            return None
        if self.is_word(2) and self.ahead(3).text == ")":  # P(\text{red})
            return symbol("".join(self.take().text for _ in range(4)))
        depth, end = 0, self.at + 1
        while end < len(self.tokens):
            depth += (self.tokens[end].text == "(") - (self.tokens[end].text == ")")
            if depth == 0:
                break
            end += 1
        if end + 1 >= len(self.tokens) or self.tokens[end + 1].text not in ("=", "approx"):
            return None
        head = symbol(self.take().text)
        self.take()
        return Node(Kind.APPLY, (head, *self.inside(")")))

    def ratio(self) -> Node:
        parts = [self.sum()]
        while not self.bars and self.takes(":"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node(Kind.RATIO, tuple(parts))

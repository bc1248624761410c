"""Expressions, read from sums down to factors, with the units behind them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from tutelage.grading.reading.atoms import FUNCTION_LETTERS
from tutelage.grading.reading.commands import FACTORS, Commands
from tutelage.grading.reading.tree import (
    SIDES,
    Kind,
    Node,
    Unreadable,
    call,
    negated,
    number,
    plain_text,
    product,
    symbol,
    symbols_of,
)
from tutelage.grading.wording.units import MULTIPLES, is_known, is_unit

_SIGN_WORDS = {
    "percent": Kind.PERCENT, "pct": Kind.PERCENT, "per cent": Kind.PERCENT, "percents": Kind.PERCENT,
    "degree": Kind.DEGREE, "degrees": Kind.DEGREE, "deg": Kind.DEGREE,
}  # fmt: skip
_CURRENCIES = ("$", "€", "£", "¥", "¢", "₹")
_ENDS = frozenset({"", "+", "-", ",", ";", ")", "}", "]", "\\}", "=", "<", ">", ":", "&"})
"""What ends a term, whatever stands before it."""
_PARTS_OF_UNIT = re.compile(r"\^\{?-?\d+\}?|[^\W\d_]+(?:['’.-][^\W\d_]+)*|\S")
_LETTER_UNITS = re.compile(r"(?:[hsmglJKNVWACT](?:\^\{?-?\d\}?)?)+")
COMPOUND = ("", "")
"""The brackets of 5 ft 6 in, which is a sequence of quantities."""


class Terms(Commands):
    """Reads expressions; `reader` reads what is made of them, in a subclass."""

    trusted = False
    """The text is a reference: any words behind a number are its unit."""

    def sum(self) -> Node:
        self.deeper()
        terms = [self.signed_term()]
        while self.sees("+", "-", "pm", "mp"):
            terms.append(self.signed_term())
        self.depth -= 1
        node = terms[0] if len(terms) == 1 else Node(Kind.ADD, tuple(terms))
        if self.next.text in _ENDS:
            return node
        if self.takes("bmod"):
            node = Node(Kind.OPAQUE, (node, self.sum()), "mod")
        elif self.sees("pmod", "mod") or self.sees_modulus():
            node = Node(Kind.RESIDUE, (node, self.modulus()))
        node = self.with_unit(node)
        if node.kind is not Kind.QUANTITY or not self.is_number():
            return node
        rest = self.sum()  # 5 ft 6 in
        if rest.kind is Kind.MULTIPLY and rest.args[0].kind is Kind.NUMBER and rest.args[1].is_symbol(*"smgl"):  # 1 min 30 s
            rest = Node(Kind.QUANTITY, rest.args[:1], rest.args[1].value)
        if rest.kind is not Kind.QUANTITY and rest.value != COMPOUND:
            raise Unreadable("a number behind a unit")
        return Node(Kind.SEQUENCE, (node, *(rest.args if rest.value == COMPOUND else (rest,))), COMPOUND)

    def sees_modulus(self) -> bool:
        return self.sees("(") and self.follows("mod")

    def modulus(self) -> Node:
        """\\pmod{5}, mod 5, (mod 5)"""
        if self.takes("("):
            self.take()
            modulus = self.argument() if self.sees("{") else self.sum()
            self.expect(")")
            return modulus
        self.take()
        return self.argument() if self.sees("{") else self.factor()

    def signed_term(self) -> Node:
        if self.next.kind not in ("mark", "command"):
            return self.term()
        written_out = self.sees("+") and self.follows("/", "-")  # +/- 5
        if written_out:
            self.at += 3
        turned = self.sees("mp")
        if written_out or self.takes("pm", "mp"):
            return Node(Kind.PLUSMINUS, (self.term(),), "mp" if turned else None)
        return self.signed(self.term)

    def signed(self, part: Callable[[], Node]) -> Node:
        """Any signs, and what they stand before."""
        negative = False
        while self.sees("+", "-"):
            negative ^= self.take().text == "-"
        node = part()
        return negated(node) if negative else node

    def term(self) -> Node:
        node = last = self.factor()
        while self.next.text not in _ENDS:
            vectors = last.is_symbol() and last.value.startswith("nabla" if self.sees("cdot") else ("nabla", "vec "))
            if vectors and self.sees("times", "cdot"):
                node = last = call(f"{self.take().text} product", node, self.factor())
            elif self.takes("*", "cdot", "times") or (self.sees_letter_times() and self.take()):
                last = self.signed(self.factor)
                node = product(node, last)
            elif self.sees("/", "div") and not self.is_word(1):
                self.take()
                last = self.signed(self.factor)
                node = Node(Kind.DIVIDE, (node, last))
            elif self.starts_factor():
                numeric = last.kind is Kind.FACTORIAL or (last.kind is Kind.POWER and last.args[0].kind is Kind.NUMBER)
                numeric = numeric or (last.kind is Kind.CALL and last.value == "binom")
                if self.is_number() and not numeric and last.kind is not Kind.APPLY and (last.kind is Kind.NUMBER or not self.follows("^")):
                    raise Unreadable("a number stands behind another factor without a sign")
                last = self.factor()
                node = product(_ungrouped(node), last)
            else:
                break
        return node

    def sees_letter_times(self) -> bool:
        """2.5 x 10^3: the letter stands for the sign."""
        letter = self.next.kind == "symbol" and self.next.text in "xX"
        return letter and self.tokens[self.at - 1].kind == "number" and self.follows("10", "^")

    def starts_factor(self) -> bool:
        """A factor follows without a sign."""
        token = self.next
        match token.kind:
            case "number" | "symbol":
                return not self.sees_letter_union()
            case "command":
                return token.text in FACTORS
            case "mark" if token.text == "|":
                return not self.bars
            case "mark" if token.text == "[":
                return not self.closes(("[",))
            case "mark":
                return token.text in ("(", "{", "\\{") and not self.sees_modulus()
        return False

    def closes(self, closers: tuple[str, ...]) -> bool:
        """A closer comes next; "[" is one (French: [a, b[) only at the end or before a set operation."""
        if self.sees("["):
            return "[" in closers and (self.ahead().kind == "end" or self.ahead().text in ("cup", "cap", "setminus"))
        return self.sees(*closers)

    def sees_letter_union(self) -> bool:
        """(1, 2) U (3, 4)"""
        return self.next.text == "U" and self.tokens[self.at - 1].text in (")", "]") and self.ahead().text in ("(", "[", "]")

    def factor(self) -> Node:
        node = self.postfix(self.atom())
        if self.sees("^") and self.ahead().text in ("+", "-") and self.ahead(2).text == "}":  # x \\to 0^+
            self.take()
            return call(SIDES[self.take().text], node)
        if self.takes("^"):
            exponent = self.exponent()
            if node.is_symbol() and self.takes("_"):
                node = symbol(f"{node.value}_{self.subscript()}")
            node = self.postfix(Node(Kind.POWER, (node, exponent)))
        return node

    def exponent(self) -> Node:
        if self.sees("+", "-"):
            return self.signed(self.exponent)
        if self.sees("{"):
            return self.argument()
        if self.next.kind == "symbol" and self.follows("(") and self.next.text not in FUNCTION_LETTERS:  # e^x(x - 1)
            return symbol(self.take().text)
        if self.is_number() and self.follows("_"):  # x^2_1 is x_1^2
            return number(self.take().value)
        node = self.postfix(self.atom())
        if not self.takes("^"):
            return node
        self.deeper()
        node = Node(Kind.POWER, (node, self.exponent()))
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        """What stands behind an atom: !, %, °, the words for them, the base of a number."""
        while self.next.text not in _ENDS:
            if self.takes("!"):
                node = call("double factorial", node) if self.takes("!") else Node(Kind.FACTORIAL, (node,))
            elif self.takes("%"):
                node = Node(Kind.PERCENT, (node,))
            elif self.takes("degree"):
                node = Node(Kind.DEGREE, (node,))
            elif self.is_word() and self.next.text.lower() in _SIGN_WORDS:
                node = Node(_SIGN_WORDS[self.take().text.lower()], (node,))
            elif node.kind in (Kind.NUMBER, Kind.SEQUENCE) and node.places is None and self.takes("_"):
                node = _based(node, self.subscript())
            else:
                break
        return node

    # --- units

    def with_unit(self, node: Node) -> Node:
        """5 cm, 7\\text{ m}/\\text{s}^2, \\$15/hour, 12^{\\text{th}} grade, 5 million: the value with the words behind it."""
        words: list[str] = []
        rate = self.sees("/") and is_known(self.ahead().text)
        while self.is_word() or ((words or rate) and self.continues_unit()):
            token = self.take()
            if token.kind in ("word", "text", "symbol"):
                words += _PARTS_OF_UNIT.findall(token.text)
            elif token.text == "^":
                words.append("^" + plain_text(self.exponent()))
            else:
                words += [token.text, self.take().text]
        if not words and self.sees(*_CURRENCIES):
            words.append(self.take().text)
        while words and words[0].lower() in MULTIPLES:
            node = product(node, number(MULTIPLES[words.pop(0).lower()]))
        if not words:
            return node
        if node.kind is Kind.RATIO or not is_unit(words, self.trusted and not symbols_of(node)):
            raise Unreadable(f"{' '.join(words)!r} is no unit")
        return Node(Kind.QUANTITY, (node,), " ".join(words))

    def continues_unit(self) -> bool:
        """The power of cm^2, the second part of km/h, a.m or foot-pounds; never a sign before something else (5 cm - x)."""
        letter = self.ahead().kind == "symbol" and self.ahead().text in "hsmglL" and self.sees("/")
        if self.next.kind == "symbol" and self.next.text in "hsmgl" and self.ahead().text in ("^", ""):  # km h^{-1}, sq m
            return True
        if self.next.kind == "symbol" and _LETTER_UNITS.fullmatch("".join(token.text for token in self.tokens[self.at :])):  # kg m s^{-1}
            return True
        return self.sees("^") or (self.sees("/", "cdot", ".", "-") and (self.is_word(1) or letter))


def _ungrouped(node: Node) -> Node:
    """The x + y of \\{x + y\\} z, whose braces only group."""
    return node.args[0] if node.kind is Kind.SET and len(node.args) == 1 else node


def _based(node: Node, base: str) -> Node:
    value = node.args[0].value if node.kind is Kind.SEQUENCE and len(node.args) == 1 else node.value
    if type(value) is not Fraction or value.denominator != 1:
        raise Unreadable("a subscript on what is no number")
    return Node(Kind.BASED, (), (str(value), base))

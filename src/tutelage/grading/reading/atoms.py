"""The parts of an expression that stand by themselves: numbers, symbols, brackets, commands of LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from tutelage.grading.reading.lexer import Cursor, Token
from tutelage.grading.reading.tree import CONSTANTS, Kind, Node, Unreadable, call, number, plain_text, symbol

FUNCTION_LETTERS = "fghFGH"
NO_FUNCTIONS = frozenset({*CONSTANTS, "emptyset", "partial", "nabla", "d"})
CLOSERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


class Atoms(Cursor):
    """Reads atoms; `reader` reads what is made of them, in a subclass."""

    bars = 0
    """How many |…| are open: a bar within one closes it."""
    junction: str | None = None
    """The last "and" or "or" that separated elements."""

    # read by the subclass
    items: Callable[..., tuple[list[Node], int]]
    element: Callable[..., Node]
    sum: Callable[[], Node]
    signed: Callable[[Callable[[], Node]], Node]
    term: Callable[[], Node]
    factor: Callable[[], Node]
    exponent: Callable[[], Node]
    starts_factor: Callable[[], bool]
    closes: Callable[[tuple[str, ...]], bool]
    command: Callable[[str], Node]

    def atom(self) -> Node:
        token = self.take()
        match token.kind:
            case "number":
                return self.number(token)
            case "symbol":
                segment = len(token.text) == 2 and token.text.isupper()  # AB is BA, and a product of matrices is not
                of_matrices = segment and any(other.text == "begin" for other in self.tokens)
                return self.symbol("".join(sorted(token.text)) if segment and not of_matrices else token.text)
            case "mark":
                return self.bracket(token.text)
            case "command":
                return self.command(token.text)
            case "text" if self.sees("_") and re.fullmatch("[0-9A-Fa-f]+", token.text):
                self.take()
                return Node(Kind.BASED, (), (token.text.upper(), self.subscript()))
        raise Unreadable(f"{token.text!r} is out of place")

    def inside(self, closer: str) -> list[Node]:
        """The elements up to a closer, and the closer."""
        items, _ = self.items((closer,))
        self.expect(closer)
        return items

    # --- numbers and symbols

    def number(self, token: Token) -> Node:
        """A number, or a mixed one: 1\\frac{1}{2}, 1 1/2."""
        repeats = re.search(r"[(\\]", token.text)
        node = number(token.value, len(token.text.partition(".")[2]) if "." in token.text and not repeats else None)
        if not token.text.isdigit():
            return node
        start = self.at
        if self.takes("frac"):
            top, bottom = self.argument(), self.argument()
        elif self.is_number() and self.next.spaced and self.follows("/") and self.ahead(2).kind == "number":
            top = number(self.take().value)
            self.take()
            bottom = number(self.take().value)
        else:
            return node
        parts = (top.value, bottom.value)
        if top.kind == bottom.kind == Kind.NUMBER and all(part.denominator == 1 for part in parts) and 0 < parts[0] < parts[1]:
            return number(token.value + parts[0] / parts[1])
        self.at = start
        return node

    def symbol(self, name: str) -> Node:
        """A symbol with its primes and subscript, in either order; before a bracket it is a function or a factor (see `applied`)."""
        primes, subscript = 0, ""
        before = self.tokens[self.at - 2] if self.at > 1 else self.tokens[-1]
        mark = "2?" if before.kind == "number" or before.text in (")", "]", "}") else "?"
        while self.sees("_") or (self.next.kind == "mark" and self.next.text.startswith("'")):
            if self.takes("_"):
                subscript += self.subscript()
            else:
                primes += len(self.take().text)
        name += "'" * primes + ("_" + subscript if subscript else "")
        is_function = name[0] in FUNCTION_LETTERS or primes > 0
        if is_function and self.sees("^") and self.follows("{", "-"):  # f^{-1}(x)
            self.take()
            name += f"^{plain_text(self.exponent())}"
        if name == "C" and self.calls() and (self.ahead().kind == "number" or self.ahead().text in tuple("nmk")):  # C(12, 5)
            start = self.at
            self.take()
            chosen, _ = self.items((")",))
            if len(chosen) == 2 and self.takes(")"):
                return call("binom", *chosen)
            self.at = start
        points = len(name) > 1 and name.isalpha() and name.isupper()
        if self.sees("[") and len(name) == 1 and name.isupper() and not self.next.spaced and not self.closes(("[",)):  # E[X]
            self.take()
            return Node(Kind.APPLY, (symbol(name), *self.inside("]")))
        if not self.sees("(") or self.follows("mod") or name in NO_FUNCTIONS or points or (" " in name and not self.follows("t", ")")):
            return symbol(name)
        self.take()
        return Node(Kind.APPLY, (symbol(name), *self.inside(")")), None if is_function else mark)

    def subscript(self) -> str:
        """The text of a subscript without what only groups."""
        if not self.takes("{"):
            return self.take().text
        depth, pieces = 1, ""
        while depth:
            text = self.take().text
            depth += (text == "{") - (text == "}")
            pieces += text if text not in "{}" else ""
        return pieces.strip("()")

    # --- brackets

    def bracket(self, mark: str) -> Node:
        match mark:
            case "{":
                return self.group_or_set()
            case "\\{":
                return self.braces()
            case "|":
                self.bars += 1
                node = self.sum()
                self.expect("|")
                self.bars -= 1
                return call("abs", node)
            case "]":  # French: ]a, b[
                items, _ = self.items(("[", "]"))
                return Node(Kind.SEQUENCE, tuple(items), ("(", ")" if self.take().text == "[" else "]"))
            case "(" | "[":
                return self.sequence(mark)
            case "$" | "€" | "£" | "¥" | "¢" | "₹":
                return self.amount(mark)
        raise Unreadable(f"{mark!r} is out of place")

    def amount(self, sign: str) -> Node:
        return Node(Kind.QUANTITY, (self.signed(self.factor),), sign)

    def group_or_set(self) -> Node:
        """{a} groups, {a, b} is a set; {n \\choose k} and {a \\over b} are written with braces too."""
        opened = self.at - 1
        items, separators = self.items(("}", "choose", "over"))
        if self.sees("choose", "over") and len(items) == 1:
            binomial = self.take().text == "choose"
            below = self.sum()
            self.expect("}")
            return call("binom", items[0], below) if binomial else Node(Kind.DIVIDE, (items[0], below))
        self.expect("}")
        around = self.tokens[max(0, opened - 1)].text, self.next.text
        of_set = around in (("{", ","), (",", ","), (",", "}")) or (items and items[0].is_symbol("emptyset"))  # {{2}, {4}}
        return items[0] if len(items) == 1 and not separators and not of_set else Node(Kind.SET, tuple(items))

    def sequence(self, opening: str) -> Node:
        """An interval, a tuple, or brackets around one thing."""
        bars, self.bars = self.bars, 0
        items, separators = self.items((")", "]", "[") if opening == "[" else (")", "]"))
        self.bars = bars
        closing = self.take().text.replace("[", ")")
        if closing not in (")", "]"):
            raise Unreadable("a bracket is not closed")
        single = len(items) == 1 and not separators
        if single and (opening, closing) not in (("(", ")"), ("[", "]")):
            raise Unreadable("a bracket closed by another")
        if single and items[0].kind is not Kind.NUMBER:
            return items[0]
        if not items:
            raise Unreadable("an empty bracket")
        return Node(Kind.SEQUENCE, tuple(items), (opening, closing))

    def braces(self) -> Node:
        """A set by its elements, or by a condition: \\{x | x > 3\\}."""
        self.bars += 1
        start = self.at
        first = None if self.sees("\\}") else self.element(("\\}",))
        self.bars -= 1
        if first is not None and self.takes("|", "mid", ":"):
            self.junction = None
            conditions = self.inside("\\}")
            anywhere = Node(Kind.RELATION, (first, symbol("mathbb R")), ("in",))
            conditions = [condition for condition in conditions if condition != anywhere] or conditions
            if len(conditions) > 1 and all(part.kind is Kind.RELATION and part.value != ("in",) for part in conditions):
                conditions = [Node(Kind.LIST, tuple(conditions), self.junction)]
            return Node(Kind.BUILDER, (first, *conditions))
        self.at = start
        items = self.inside("\\}")
        return Node(Kind.SET, tuple(items)) if items else symbol("emptyset")

    def argument(self) -> Node:
        """What \\frac takes: a group, or one digit, letter or command."""
        if self.takes("{"):
            items = self.inside("}")
            if len(items) != 1:
                raise Unreadable("a group of several parts where one is needed")
            return items[0]
        text = self.next.text
        if self.is_number() and len(text) > 1 and text.isdigit():
            self.tokens[self.at] = Token("number", text[1:], False, Fraction(text[1:]))
            return number(Fraction(text[0]))
        return self.atom()

    def argument_or_atom(self) -> Node:
        """A group, or all digits of a number: \\sqrt 16."""
        return self.argument() if self.sees("{") else self.atom()

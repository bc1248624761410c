"""The parts of an expression that stand by themselves: numbers, symbols, brackets, commands of LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tutelage.grading.lexer import ACCENTS, ENVIRONMENTS, FUNCTIONS, GREEK, Cursor, Token
from tutelage.grading.tree import (
    BOUND,
    CONSTANTS,
    Kind,
    Node,
    Unreadable,
    call,
    negated,
    number,
    plain_text,
    product,
    rewritten,
    symbol,
    tuple_of,
)
from tutelage.grading.work import TooLarge

FUNCTION_LETTERS = "fghFGH"
NO_FUNCTIONS = frozenset({*CONSTANTS, "emptyset", "partial", "nabla", "d"})
_WITH_INVERSES = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
_CLOSERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
MAX_ROWS = 40


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

    def atom(self) -> Node:
        token = self.take()
        match token.kind:
            case "number":
                return self.number(token)
            case "symbol":
                segment = len(token.text) == 2 and token.text.isupper()
                return self.symbol("".join(sorted(token.text)) if segment else token.text)  # the segment AB is BA
            case "mark":
                return self.bracket(token.text)
            case "command" if token.text in COMMANDS:
                return COMMANDS[token.text](self, token.text)
            case "command":
                raise Unreadable(f"\\{token.text} is not known")
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
        node = number(token.value, len(token.text.partition(".")[2]) if "." in token.text else None)
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
        if name == "C" and self.calls() and self.ahead().kind == "number":  # C(12, 5)
            start = self.at
            self.take()
            chosen, _ = self.items((")",))
            if len(chosen) == 2 and self.takes(")"):
                return call("binom", *chosen)
            self.at = start
        if not self.sees("(") or self.follows("mod") or name in NO_FUNCTIONS or " " in name or (len(name) > 1 and name.isalpha() and name.isupper()):
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
        items, separators = self.items(("}", "choose", "over"))
        if self.sees("choose", "over") and len(items) == 1:
            binomial = self.take().text == "choose"
            below = self.sum()
            self.expect("}")
            return call("binom", items[0], below) if binomial else Node(Kind.DIVIDE, (items[0], below))
        self.expect("}")
        return items[0] if len(items) == 1 and not separators else Node(Kind.SET, tuple(items))

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

    # --- commands

    def fraction(self, name: str) -> Node:
        top, bottom = self.argument(), self.argument()
        if _is_differential(top) and _is_differential(bottom):
            raise Unreadable("a derivative")
        return Node(Kind.DIVIDE, (top, bottom))

    def root(self, name: str) -> Node:
        degree = number(2 if name == "sqrt" else 3)
        if self.takes("["):
            degree = self.sum()
            self.expect("]")
        body = self.argument_or_atom()
        if body.kind is Kind.SEQUENCE and len(body.args) == 1:
            body = body.args[0]
        return call("root", body, degree)

    def accented(self, name: str) -> Node:
        if self.sees("{") and self.ahead().kind == "symbol" and self.ahead(2).text == "}":
            written = self.ahead().text  # the vector AB is not BA
            self.at += 3
        else:
            inside = self.argument()
            if ACCENTS[name] == "bar" and inside.kind is Kind.ADD:
                return call("conj", inside)
            written = plain_text(inside)
        if ACCENTS[name] == "bar" and len(written) == 2 and written.isupper():
            written = "".join(sorted(written))
        return self.symbol(f"{ACCENTS[name]} {written}")

    def number_set(self, name: str) -> Node:
        self.takes("{")
        letter = self.take().text
        self.takes("}")
        power = f"^{plain_text(self.exponent())}" if self.takes("^") else ""
        return symbol(f"mathbb {letter}{power}")

    def rounded(self, name: str) -> Node:
        inner = self.sum()
        self.expect("r" + name[1:])
        return call(name[1:], inner)

    def figure(self, name: str) -> Node:
        """\\angle ABC, \\triangle ABC"""
        points = ""
        while self.next.kind == "symbol" and self.next.text.isupper():
            points += self.take().text
        return symbol(f"{name} {min(points, points[::-1]) if name == 'angle' else points}")

    def function(self, name: str) -> Node:
        """sin x, \\sin^2(x), \\log_2 8, gcd(a, b)."""
        power = base = None
        while self.sees("^", "_"):
            if self.take().text == "^":
                power = self.exponent()
            else:
                base = self.argument_or_atom()
        if name == "log" and base is None and self.is_number() and not self.next.spaced and self.follows("("):
            base = self.number(self.take())  # log2(8)
        if self.sees("(", "{") or (self.sees("[", "\\{") and name in ("max", "min", "gcd", "lcm")):
            arguments = self.inside(_CLOSERS[self.take().text])
            if not arguments:
                raise Unreadable(f"{name} of nothing")
        else:
            arguments = [self.function_argument()]
        if power == negated(number(1)) and name in _WITH_INVERSES:
            name, power = "arc" + name, None
        node = call(name, *arguments) if base is None else call(name + "_base", *arguments, base)
        return node if power is None else Node(Kind.POWER, (node, power))

    def function_argument(self) -> Node:
        """What a function without a bracket takes: a product up to a sign or the next function."""
        if self.sees("+", "-"):
            return self.signed(self.function_argument)
        node = self.factor()
        while self.starts_factor() and not self.sees("(", "[", "\\{", *FUNCTIONS):
            node = product(node, self.factor())
        return node

    def with_bounds(self, name: str) -> Node:
        """A sum, product, integral or limit: kept as it is, and compared by its parts."""
        bounds: dict[str, Node] = {}
        while self.sees("_", "^"):
            which = self.take().text
            if self.takes("{"):
                bounds[which] = self.element(("}",))
                self.expect("}")
            else:
                token = self.take()
                bounds[which] = number(token.value) if token.kind == "number" else symbol(token.text)
        body = self.sum() if "int" in name and any(token.text == "differential" for token in self.tokens[self.at :]) else self.term()
        below, above, variable = bounds.get("_"), bounds.get("^"), None
        if "int" in name and self.takes("differential"):
            variable = self.argument()
        elif below is not None and below.kind is Kind.RELATION:
            variable = below.args[0]
        if variable is None or not variable.is_symbol():
            return Node(Kind.OPAQUE, (None, below, above, body), name)
        bound = symbol(BOUND + variable.value)
        low = below.args[1] if below is not None and below.kind is Kind.RELATION else below
        return Node(Kind.OPAQUE, (bound, low, above, rewritten(body, lambda part: bound if part == variable else part)), name)

    def environment(self, name: str) -> Node:
        self.expect("{")
        name = self.skip_to("}")
        if name == "array" and self.takes("{"):
            self.skip_to("}")
        if name not in ENVIRONMENTS:
            raise Unreadable(f"\\begin{{{name}}} is not known")
        rows: list[list[Node]] = [[]]
        while not self.takes("end"):
            if self.takes("\\"):
                if self.takes("["):  # the height of a line
                    self.skip_to("]")
                rows.append([])
            elif name == "cases" and self.is_word() and self.next.text.strip(" .,").lower() in ("otherwise", "else"):
                self.take()
                rows[-1].append(symbol("otherwise"))
            elif not self.takes("&") and not (name == "cases" and self.takes(",")):
                rows[-1].append(self.element(("\\", "&", "end")) if name != "cases" else self.element())
            if len(rows) > MAX_ROWS or len(rows[-1]) > MAX_ROWS:
                raise TooLarge(f"a matrix over {MAX_ROWS} × {MAX_ROWS}")
        self.expect("{")
        self.skip_to("}")
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix with rows of different lengths")
        kind = Kind.DETERMINANT if name.startswith("v") else Kind.MATRIX
        return Node(kind, tuple(map(tuple, rows)), name if name == "cases" else None)


FACTORS: dict[str, Callable[[Any, str], Node]] = {
    **dict.fromkeys(GREEK, Atoms.symbol),
    **dict.fromkeys(FUNCTIONS, Atoms.function),
    **dict.fromkeys(ACCENTS, Atoms.accented),
    **dict.fromkeys(("sum", "prod", "int", "lim", "iint", "oint"), Atoms.with_bounds),
    **dict.fromkeys(("sqrt", "cbrt"), Atoms.root),
    **dict.fromkeys(("lfloor", "lceil"), Atoms.rounded),
    **dict.fromkeys(("angle", "triangle"), Atoms.figure),
    "frac": Atoms.fraction, "begin": Atoms.environment, "mathbb": Atoms.number_set,
    **dict.fromkeys(("binom", "perm"), lambda parser, name: call(name, parser.argument(), parser.argument())),
    "langle": lambda parser, name: tuple_of(tuple(parser.inside("rangle"))),
}  # fmt: skip
"""What reads each command that may stand behind a factor without a sign."""
COMMANDS = {**FACTORS, "$": Atoms.amount}


def _is_differential(node: Node) -> bool:
    """The d, dx or d^2 of a derivative."""
    while node.kind in (Kind.MULTIPLY, Kind.POWER):
        node = node.args[0]
    return node.is_symbol("d", "partial")

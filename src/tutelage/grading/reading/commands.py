"""The commands of LaTeX that stand for a value: \\frac, \\sqrt, functions, sums and integrals, matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tutelage.grading.calculating.work import TooLarge
from tutelage.grading.reading.atoms import CLOSERS, Atoms
from tutelage.grading.reading.lexer import ACCENTS, ENVIRONMENTS, FUNCTIONS, GREEK
from tutelage.grading.reading.tree import (
    BOUND,
    Kind,
    Node,
    Unreadable,
    call,
    negated,
    nodes_of,
    number,
    plain_text,
    product,
    rewritten,
    symbol,
    tuple_of,
)

_WITH_INVERSES = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
MAX_ROWS = 40


class Commands(Atoms):
    """Reads commands; `reader` reads what is made of them, in a subclass."""

    def command(self, name: str) -> Node:
        if name not in COMMANDS:
            raise Unreadable(f"\\{name} is not known")
        return COMMANDS[name](self, name)

    def fraction(self, name: str) -> Node:
        top, bottom = self.argument(), self.argument()
        if _is_differential(top) and _is_differential(bottom):
            if not top.is_symbol() or bottom.kind is not Kind.MULTIPLY or not bottom.args[1].is_symbol():
                raise Unreadable("a derivative in another form than d/dx")
            return Node(Kind.OPAQUE, (bottom.args[1], None, None, self.term()), "derivative")
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
            arguments = self.inside(CLOSERS[self.take().text])
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
        if "int" in name and self.sees("differential"):  # \\int dx
            body = number(1)
        else:
            measured = "int" in name and any(token.text == "differential" for token in self.tokens[self.at :])
            body = self.sum() if measured else self.term()
        below, above, variable = bounds.get("_"), bounds.get("^"), None
        if "int" in name and self.takes("differential"):
            variable = self.argument()
        elif below is not None and below.kind is Kind.RELATION:
            variable = below.args[0]
        if variable is None or not variable.is_symbol():
            return Node(Kind.OPAQUE, (None, below, above, body), name)
        inner = [part.args[0].value for part in nodes_of(body) if part.kind is Kind.OPAQUE and part.args[0] is not None]
        bound = symbol(f"{BOUND}{sum(name.startswith(BOUND) for name in inner if isinstance(name, str))}")  # not by its letter
        low = below.args[1] if below is not None and below.kind is Kind.RELATION else below

        def renamed(part: Node) -> Node:
            """The variable by its neutral name; a_k is a function of k."""
            if part.is_symbol() and part.value.endswith(f"_{variable.value}"):
                return Node(Kind.APPLY, (symbol(part.value.removesuffix(variable.value)), bound))
            return bound if part == variable else part

        return Node(Kind.OPAQUE, (bound, low, above, rewritten(body, renamed)), name)

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
            elif name == "cases" and self.next.kind == "separator" and rows[-1]:  # x < 0 or x > 1
                joined = self.take().text.lower()
                rows[-1][-1] = Node(Kind.LIST, (rows[-1][-1], self.element()), joined)
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
    **dict.fromkeys(GREEK, Commands.symbol),
    **dict.fromkeys(FUNCTIONS, Commands.function),
    **dict.fromkeys(ACCENTS, Commands.accented),
    **dict.fromkeys(("sum", "prod", "int", "lim", "iint", "oint"), Commands.with_bounds),
    **dict.fromkeys(("sqrt", "cbrt"), Commands.root),
    **dict.fromkeys(("lfloor", "lceil"), Commands.rounded),
    **dict.fromkeys(("angle", "triangle"), Commands.figure),
    "frac": Commands.fraction, "begin": Commands.environment, "mathbb": Commands.number_set,
    **dict.fromkeys(("binom", "perm"), lambda parser, name: call(name, parser.argument(), parser.argument())),
    "langle": lambda parser, name: tuple_of(tuple(parser.inside("rangle"))),
}  # fmt: skip
"""What reads each command that may stand behind a factor without a sign."""
COMMANDS = {**FACTORS, "$": Commands.amount}


def _is_differential(node: Node) -> bool:
    """The d, dx or d^2 of a derivative."""
    while node.kind in (Kind.MULTIPLY, Kind.POWER):
        node = node.args[0]
    return node.is_symbol("d", "partial")

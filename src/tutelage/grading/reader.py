"""Reads an answer, LaTeX or plain, into a tree. It reads the whole text or raises `Unreadable`: never a part of it.

A recursive-descent parser for what stands in answers: numbers, expressions, relations, lists, intervals, sets, matrices, units.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from tutelage.grading.lexer import FUNCTIONS, Token, tokenize
from tutelage.grading.tree import Node, TooLarge, Unreadable, symbols_of
from tutelage.grading.units import MULTIPLES, is_unit

MAX_DEPTH = 60
MAX_TOKENS = 3_000
_RELATIONS = {
    "=": "=", "==": "=", ":=": "=", "equiv": "=", "<": "<", ">": ">", "<=": "<=", "le": "<=", ">=": ">=", "ge": ">=",
    "!=": "!=", "<>": "!=", "ne": "!=", "approx": "~", "~": "~", "in": "in", "notin": "notin", "to": "to",
    "=<": "<=",
}  # fmt: skip
_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi",
    "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma",
    "Upsilon", "Phi", "Psi", "Omega", "hbar", "ell", "infty", "emptyset", "partial", "nabla", "angle", "triangle",
}  # fmt: skip
_ACCENTS = {
    "overline": "bar", "bar": "bar", "hat": "hat", "widehat": "hat", "vec": "vec", "overrightarrow": "vec", "tilde": "tilde",
    "dot": "dot", "ddot": "ddot", "underline": "underline",
}  # fmt: skip
FUNCTION_LETTERS = "fghFGH"
_OPERATORS_WITH_BOUNDS = {"sum", "prod", "int", "lim", "iint", "oint"}
_ENVIRONMENTS = {"matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array", "cases"}
_SIGN_WORDS = {
    "percent": "percent", "pct": "percent", "per cent": "percent", "percents": "percent",
    "degree": "degree", "degrees": "degree", "deg": "degree",
}  # fmt: skip
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d])(?!,\d)")


def read(text: str, thousands: bool = True, trusted: bool = False) -> Node:
    """The tree of a normalised answer.

    Args:
        thousands: read 1,234 as one number where no bracket holds it; otherwise the comma always separates.
        trusted: the text is a reference: any words behind a number are its unit.

    Raises:
        Unreadable: the grammar does not know the text; TooLarge: it is over a limit.
    """
    if thousands:
        text = _join_thousands(text)
    if (based := re.fullmatch(r"\(?([0-9A-F]*[A-F][0-9A-F]*|\d[0-9a-f]*)\)?_\{?(1[1-9])\}?", text)) is not None:
        return Node("based", (), (based[1].upper(), based[2]))
    tokens = tokenize(text)
    if len(tokens) > MAX_TOKENS:
        raise TooLarge(f"the answer has over {MAX_TOKENS} parts")
    try:
        return _Parser(tokens, trusted).whole()
    except RecursionError:
        raise TooLarge("nested too deep") from None


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


class _Parser:
    def __init__(self, tokens: list[Token], trusted: bool) -> None:
        self.tokens, self.trusted = tokens, trusted
        self.at = self.depth = self.bars = 0
        self.junction: str | None = None
        """The last "and" or "or" that separated elements."""

    # --- moving over the tokens

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def ahead(self, steps: int = 1) -> Token:
        return self.tokens[min(self.at + steps, len(self.tokens) - 1)]

    def take(self) -> Token:
        token = self.tokens[self.at]
        if token.kind == "end":
            raise Unreadable("the text ends too early")
        self.at += 1
        return token

    def sees(self, *texts: str) -> bool:
        return self.next.kind in ("mark", "command") and self.next.text in texts

    def takes(self, *texts: str) -> bool:
        if self.sees(*texts):
            self.at += 1
            return True
        return False

    def closes(self, closers: tuple[str, ...]) -> bool:
        """A closer comes next; "[" is one (French: [a, b[) only at the end or before a set operation."""
        if self.sees("["):
            return "[" in closers and (self.ahead().kind == "end" or self.ahead().text in ("cup", "cap", "setminus"))
        return self.sees(*closers)

    def expect(self, text: str) -> None:
        if not self.takes(text):
            raise Unreadable(f"expected {text!r}, found {self.next.text!r}")

    # --- lists and relations

    def whole(self) -> Node:
        items, _ = self.items()
        if self.next.kind != "end":
            raise Unreadable(f"{self.next.text!r} is out of place")
        if not items:
            raise Unreadable("nothing to read")
        return items[0] if len(items) == 1 else Node("list", tuple(items), self.junction)

    def items(self, closers: tuple[str, ...] = ()) -> tuple[list[Node], int]:
        """Elements up to a closer or the end, with how many separators stood between; groups of a;b stand as lists of their own."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested over {MAX_DEPTH} deep")
        groups: list[list[Node]] = [[]]
        semicolons = separators = 0
        while self.next.kind != "end" and not self.closes(closers):
            groups[-1].append(self.element(closers))
            between = 0
            while self.next.kind == "separator" or self.sees(",", ";"):
                token = self.take()
                between += 1
                if token.kind == "separator" and token.text.lower() in ("and", "or"):
                    self.junction = token.text.lower()
                if token.text == ";":
                    semicolons += 1
                    groups.append([])
            separators += between > 0
            if not between and self.next.kind != "end" and not self.closes(closers):
                raise Unreadable(f"{self.next.text!r} is out of place")
        self.depth -= 1
        groups = [group for group in groups if group]
        if semicolons and any(len(group) > 1 for group in groups):
            return [group[0] if len(group) == 1 else Node("list", tuple(group)) for group in groups], separators
        return [node for group in groups for node in group], separators

    def element(self, closers: tuple[str, ...] = ()) -> Node:
        """One answer: a chain of relations between sets, ratios or expressions."""
        members, operators = [self.set_expression()], []
        while self.next.kind in ("mark", "command") and self.next.text in _RELATIONS and not self.sees(*closers):
            operators.append(_RELATIONS[self.take().text])
            members.append(self.set_expression())
        return members[0] if not operators else Node("relation", tuple(members), tuple(operators))

    def set_expression(self) -> Node:
        if (name := self.worded_name() or self.call_before_equals()) is not None:
            return name
        node = self.ratio()
        while self.sees("cup", "cap", "setminus") or self.sees_letter_union():
            kind = {"cap": "intersection", "setminus": "setminus"}.get(self.take().text, "union")
            node = Node(kind, (node, self.ratio()))
        return node

    def sees_letter_union(self) -> bool:
        """(1, 2) U (3, 4)"""
        before = self.tokens[self.at - 1].text
        return self.next.text == "U" and before in (")", "]") and self.ahead().text in ("(", "[", "]")

    def worded_name(self) -> Node | None:
        """Words before an equals sign: Area = 5."""
        steps = 0
        while self.ahead(steps).kind in ("word", "text"):
            steps += 1
        if steps and self.ahead(steps).text in ("=", "approx", "~"):
            return Node("symbol", (), " ".join(self.take().text.lower() for _ in range(steps)))
        return None

    def call_before_equals(self) -> Node | None:
        """W(n) before an equals sign is a function, whatever its letter."""
        if self.next.kind != "symbol" or self.ahead().text != "(" or self.ahead().spaced:
            return None
        depth, end = 0, self.at + 1
        while end < len(self.tokens):
            depth += (self.tokens[end].text == "(") - (self.tokens[end].text == ")")
            if depth == 0:
                break
            end += 1
        if end + 1 >= len(self.tokens) or self.tokens[end + 1].text not in ("=", "approx"):
            return None
        head = Node("symbol", (), self.take().text)
        self.take()
        arguments, _ = self.items((")",))
        self.expect(")")
        return Node("apply", (head, *arguments))

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.sees(":") and not self.bars:
            self.take()
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node("ratio", tuple(parts))

    # --- expressions

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge(f"nested over {MAX_DEPTH} deep")
        terms = [self.signed_term()]
        while self.sees("+", "-", "pm", "mp"):
            terms.append(self.signed_term())
        self.depth -= 1
        node = terms[0] if len(terms) == 1 else Node("add", tuple(terms))
        if self.takes("bmod"):
            node = Node("opaque", (node, self.sum()), "mod")
        elif self.sees("pmod", "mod") or (self.sees("(") and self.ahead().text == "mod"):
            closed = self.takes("(")
            self.take()
            modulus = self.argument() if self.sees("{") else self.factor() if not closed else self.sum()
            if closed:
                self.expect(")")
            node = Node("residue", (node, modulus))
        return self.with_unit(node)

    def signed_term(self) -> Node:
        if self.takes("pm", "mp"):
            return Node("plusminus", (self.term(),))
        if self.sees("+") and self.ahead().text == "/" and self.ahead(2).text == "-":
            self.at += 3
            return Node("plusminus", (self.term(),))
        return self.signed(self.term)

    def signed(self, part: Callable[[], Node]) -> Node:
        """Any signs, and what they stand before."""
        negative = False
        while self.sees("+", "-"):
            negative ^= self.take().text == "-"
        node = part()
        return Node("negate", (node,)) if negative else node

    def term(self) -> Node:
        node = last = self.factor()
        while True:
            if self.sees("times") and last.kind == "symbol" and last.value.startswith("vec "):
                self.take()
                node = last = Node("call", (node, self.factor()), "cross product")
            elif self.takes("*", "cdot", "times") or (self.sees_letter_times() and self.take()):
                last = self.signed(self.factor)
                node = Node("multiply", (node, last))
            elif self.sees("/", "div") and self.ahead().kind not in ("word", "text"):
                self.take()
                last = self.signed(self.factor)
                node = Node("divide", (node, last))
            elif self.starts_factor():
                numeric = last.kind == "factorial" or (last.kind == "power" and last.args[0].kind == "number")
                if self.next.kind == "number" and not numeric:
                    raise Unreadable("a number stands behind another factor without a sign")
                last = self.factor()
                node = Node("multiply", (_ungrouped(node), last))
            else:
                return node

    def sees_letter_times(self) -> bool:
        """2.5 x 10^3: the letter stands for the sign."""
        before = self.tokens[self.at - 1]
        return (
            self.next.kind == "symbol" and self.next.text in "xX" and before.kind == "number"
            and self.ahead().text == "10" and self.ahead(2).text == "^"
        )  # fmt: skip

    def starts_factor(self) -> bool:
        token = self.next
        if token.kind in ("number", "symbol"):
            return not self.sees_letter_union()
        if token.kind == "mark":
            if token.text == "|":
                return not self.bars
            if token.text == "[":
                return not self.closes(("[",))
            return token.text in ("(", "{", "\\{") and not (token.text == "(" and self.ahead().text == "mod")
        return token.kind == "command" and (
            token.text in FUNCTIONS or token.text in _GREEK or token.text in _ACCENTS or token.text in _OPERATORS_WITH_BOUNDS
            or token.text in ("frac", "sqrt", "cbrt", "binom", "begin", "mathbb", "lfloor", "lceil", "langle")
        )  # fmt: skip

    def factor(self) -> Node:
        node = self.postfix(self.atom())
        if self.takes("^"):
            exponent = self.exponent()
            if node.kind == "symbol" and self.takes("_"):
                node = Node("symbol", (), f"{node.value}_{self.subscript()}")
            node = self.postfix(Node("power", (node, exponent)))
        return node

    def exponent(self) -> Node:
        if self.sees("+", "-"):
            return self.signed(self.exponent)
        if self.sees("{"):
            return self.argument()
        if self.next.kind == "number" and self.ahead().text == "_":  # x^2_1 is x_1^2
            return Node("number", (), self.take().value)
        node = self.postfix(self.atom())
        return Node("power", (node, self.exponent())) if self.takes("^") else node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.takes("!"):
                double = self.takes("!")
                node = Node("call", (node,), "double factorial") if double else Node("factorial", (node,))
            elif self.takes("%"):
                node = Node("percent", (node,))
            elif self.takes("degree"):
                node = Node("degree", (node,))
            elif self.next.kind in ("word", "text") and self.next.text.lower() in _SIGN_WORDS:
                node = Node(_SIGN_WORDS[self.take().text.lower()], (node,))
            elif self.sees("_") and (node.kind == "number" or node.kind == "sequence") and node.places is None:
                self.take()
                node = _based(node, self.subscript())
            else:
                return node

    def atom(self) -> Node:
        token = self.take()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "symbol":
            segment = len(token.text) == 2 and token.text.isupper()
            return self.symbol("".join(sorted(token.text)) if segment else token.text)  # the segment AB is BA
        if token.kind == "mark":
            return self.bracket(token.text)
        if token.kind == "command":
            return self.command(token.text)
        if token.kind == "text" and self.sees("_") and re.fullmatch("[0-9A-Fa-f]+", token.text):
            self.take()
            return Node("based", (), (token.text.upper(), self.subscript()))
        raise Unreadable(f"{token.text!r} is out of place")

    def number(self, token: Token) -> Node:
        """A number, or a mixed one: 1\\frac{1}{2}, 1 1/2."""
        places = len(token.text.partition(".")[2]) if "." in token.text and token.value is not None else None
        node = Node("number", (), token.value, places)
        if not token.text.isdigit():
            return node
        start = self.at
        if self.sees("frac"):
            self.take()
            top, bottom = self.argument(), self.argument()
        elif self.next.kind == "number" and self.next.spaced and self.ahead().text == "/" and self.ahead(2).kind == "number":
            top = Node("number", (), self.take().value)
            self.take()
            bottom = Node("number", (), self.take().value)
        else:
            return node
        parts = (top.value, bottom.value)
        if top.kind == bottom.kind == "number" and all(part.denominator == 1 for part in parts) and 0 < parts[0] < parts[1]:
            return Node("number", (), token.value + parts[0] / parts[1])
        self.at = start
        return node

    def symbol(self, name: str) -> Node:
        """A symbol with its primes and subscript, in either order; f, g and h are functions, other letters are factors."""
        primes, subscript = 0, ""
        while self.sees("_") or (self.next.kind == "mark" and self.next.text.startswith("'")):
            if self.takes("_"):
                subscript += self.subscript()
            else:
                primes += len(self.take().text)
        name += "'" * primes + ("_" + subscript if subscript else "")
        if name[0] in FUNCTION_LETTERS and self.sees("^") and self.ahead().text == "{" and self.ahead(2).text == "-":
            self.take()  # f^{-1}(x)
            name += f"^{_plain(self.exponent())}"
        if name == "C" and self.sees("(") and not self.next.spaced and self.ahead().kind == "number":
            start = self.at
            self.take()
            chosen, _ = self.items((")",))
            if len(chosen) == 2 and self.takes(")"):
                return Node("call", tuple(chosen), "binom")  # C(12, 5)
            self.at = start
        node = Node("symbol", (), name)
        if name[0] in FUNCTION_LETTERS and self.sees("(") and not self.next.spaced:
            self.take()
            arguments, _ = self.items((")",))
            self.expect(")")
            return Node("apply", (node, *arguments))
        return node

    def subscript(self) -> str:
        """The text of a subscript without what only groups."""
        if not self.takes("{"):
            return self.take().text
        depth, pieces = 1, []
        while depth:
            token = self.take()
            depth += (token.text == "{") - (token.text == "}")
            if token.text not in "{}":
                pieces.append(token.text)
        return "".join(pieces)

    def bracket(self, mark: str) -> Node:
        if mark == "{":
            items, separators = self.items(("}", "choose", "over"))
            if self.sees("choose", "over") and len(items) == 1:
                binomial = self.take().text == "choose"
                below = self.sum()
                self.expect("}")
                return Node("call", (items[0], below), "binom") if binomial else Node("divide", (items[0], below))
            self.expect("}")
            if len(items) == 1 and not separators:
                return items[0]
            return Node("set", tuple(items))
        if mark == "\\{":
            return self.braces()
        if mark == "|":
            self.bars += 1
            node = self.sum()
            self.expect("|")
            self.bars -= 1
            return Node("call", (node,), "abs")
        if mark == "]":  # French: ]a, b[
            items, _ = self.items(("[", "]"))
            return Node("sequence", tuple(items), ("(", ")" if self.take().text == "[" else "]"))
        if mark in "([":
            bars, self.bars = self.bars, 0
            items, separators = self.items((")", "]", "[") if mark == "[" else (")", "]"))
            self.bars = bars
            close = self.take().text.replace("[", ")")
            if close not in (")", "]"):
                raise Unreadable("a bracket is not closed")
            if len(items) == 1 and not separators:
                if (mark, close) not in (("(", ")"), ("[", "]")):
                    raise Unreadable("a bracket closed by another")
                return items[0] if items[0].kind != "number" else Node("sequence", tuple(items), (mark, close))
            if not items:
                raise Unreadable("an empty bracket")
            return Node("sequence", tuple(items), (mark, close))
        if mark in "$€£¥¢":
            return Node("quantity", (self.signed(self.factor),), mark)
        raise Unreadable(f"{mark!r} is out of place")

    def braces(self) -> Node:
        """A set by its elements, or by a condition: \\{x | x > 3\\}."""
        self.bars += 1
        start = self.at
        first = None
        if not self.sees("\\}"):
            first = self.element(("\\}",))
        self.bars -= 1
        if first is not None and self.takes("|", "mid", ":"):
            self.junction = None
            conditions, _ = self.items(("\\}",))
            self.expect("\\}")
            everywhere = Node("relation", (first, Node("symbol", (), "mathbb R")), ("in",))
            conditions = [condition for condition in conditions if condition != everywhere] or conditions
            together = len(conditions) > 1 and all(
                condition.kind == "relation" and condition.value != ("in",) for condition in conditions
            )
            return Node("builder", (first, Node("list", tuple(conditions), self.junction)) if together else (first, *conditions))
        self.at = start
        items, _ = self.items(("\\}",))
        self.expect("\\}")
        return Node("set", tuple(items)) if items else Node("symbol", (), "emptyset")

    def argument(self) -> Node:
        """What \\frac takes: a group, or one digit, letter or command."""
        if self.takes("{"):
            items, _ = self.items(("}",))
            self.expect("}")
            if len(items) != 1:
                raise Unreadable("a group of several parts where one is needed")
            return items[0]
        token = self.next
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self.tokens[self.at] = Token("number", token.text[1:], False, Fraction(token.text[1:]))
            return Node("number", (), Fraction(token.text[0]))
        return self.atom()

    def command(self, name: str) -> Node:
        if name == "frac":
            top, bottom = self.argument(), self.argument()
            if _is_differential(top) and _is_differential(bottom):
                raise Unreadable("a derivative")
            return Node("divide", (top, bottom))
        if name in ("sqrt", "cbrt"):
            degree = Node("number", (), Fraction(2 if name == "sqrt" else 3))
            if self.takes("["):
                degree = self.sum()
                self.expect("]")
            body = self.argument() if self.sees("{") else self.atom()
            if body.kind == "sequence" and len(body.args) == 1:
                body = body.args[0]
            return Node("call", (body, degree), "root")
        if name == "binom":
            top = self.argument()
            return Node("call", (top, self.argument()), "binom")
        if name in FUNCTIONS:
            return self.function(name)
        if name in _ACCENTS:
            if self.sees("{") and self.ahead().kind == "symbol" and self.ahead(2).text == "}":
                written = self.ahead().text  # the vector AB is not BA
                self.at += 3
            else:
                written = _plain(self.argument())
            return self.symbol(f"{_ACCENTS[name]} {written}")
        if name == "begin":
            return self.environment()
        if name == "mathbb":
            self.takes("{")
            letter = self.take().text
            self.takes("}")
            power = f"^{_plain(self.exponent())}" if self.takes("^") else ""
            return Node("symbol", (), f"mathbb {letter}{power}")
        if name in ("lfloor", "lceil"):
            inner = self.sum()
            self.expect("r" + name[1:])
            return Node("call", (inner,), name[1:])
        if name == "langle":
            items, _ = self.items(("rangle",))
            self.expect("rangle")
            return Node("sequence", tuple(items), ("(", ")"))
        if name in _OPERATORS_WITH_BOUNDS:
            return self.with_bounds(name)
        if name == "$":
            return Node("quantity", (self.signed(self.factor),), "$")
        if name in ("angle", "triangle"):
            points = ""
            while self.next.kind == "symbol" and self.next.text.isupper():
                points += self.take().text
            return Node("symbol", (), f"{name} {min(points, points[::-1]) if name == 'angle' else points}")
        if name in _GREEK:
            return self.symbol(name)
        raise Unreadable(f"\\{name} is not known")

    def function(self, name: str) -> Node:
        """sin x, \\sin^2(x), \\log_2 8, gcd(a, b)."""
        power = base = None
        while self.sees("^", "_"):
            if self.take().text == "^":
                power = self.exponent()
            else:
                base = self.argument() if self.sees("{") else self.atom()
        if name == "log" and base is None and self.next.kind == "number" and not self.next.spaced and self.ahead().text == "(":
            base = self.number(self.take())  # log2(8)
        if self.sees("(", "{") or (self.sees("[", "\\{") and name in ("max", "min", "gcd", "lcm")):
            opening = self.take().text
            closer = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}[opening]
            arguments, _ = self.items((closer,))
            self.expect(closer)
            if not arguments:
                raise Unreadable(f"{name} of nothing")
        else:
            arguments = [self.function_argument()]
        inverse = Node("negate", (Node("number", (), Fraction(1)),))
        if power == inverse and name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"):
            name, power = "arc" + name, None
        node = Node("call", (*arguments, *([base] if base is not None else [])), name + ("_base" if base is not None else ""))
        return node if power is None else Node("power", (node, power))

    def function_argument(self) -> Node:
        """What a function without a bracket takes: a product up to a sign or the next function."""
        if self.sees("+", "-"):
            return self.signed(self.function_argument)
        node = self.factor()
        while (
            self.starts_factor()
            and not (self.next.kind == "command" and self.next.text in FUNCTIONS)
            and not self.sees("(", "[", "\\{")
        ):
            node = Node("multiply", (node, self.factor()))
        return node

    def with_bounds(self, name: str) -> Node:
        """A sum, product, integral or limit: kept whole, and compared by its parts."""
        bounds: dict[str, Node] = {}
        while self.sees("_", "^"):
            which = self.take().text
            if self.takes("{"):
                bounds[which] = self.element(("}",))
                self.expect("}")
            elif self.next.kind == "number":
                bounds[which] = Node("number", (), self.take().value)
            else:
                bounds[which] = Node("symbol", (), self.take().text)
        body = self.term()
        return Node("opaque", (bounds.get("_"), bounds.get("^"), body), name)

    def environment(self) -> Node:
        self.expect("{")
        name = ""
        while not self.takes("}"):
            name += self.take().text
        if name == "array" and self.takes("{"):
            while not self.takes("}"):
                self.take()
        if name not in _ENVIRONMENTS:
            raise Unreadable(f"\\begin{{{name}}} is not known")
        rows: list[list[Node]] = [[]]
        while not self.takes("end"):
            if self.takes("\\"):
                if self.takes("["):  # the height of a line
                    while not self.takes("]"):
                        self.take()
                rows.append([])
            elif self.takes("&") or (name == "cases" and self.takes(",")):
                pass
            else:
                rows[-1].append(self.element(("\\", "&", "end")) if name != "cases" else self.element())
            if len(rows) > 40 or len(rows[-1]) > 40:
                raise TooLarge("a matrix over 40 × 40")
        self.expect("{")
        while not self.takes("}"):
            self.take()
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix with rows of different lengths")
        kind = "determinant" if name.startswith("v") else "matrix"
        return Node(kind, tuple(tuple(row) for row in rows), name if name == "cases" else None)

    def with_unit(self, node: Node) -> Node:
        """5 cm, 3\\text{ square units}, 7\\text{ m}/\\text{s}^2, 12^{\\text{th}} grade, 5 million: the value with the words behind it."""
        words: list[str] = []
        while self.next.kind in ("word", "text") or (words and self.continues_unit()):
            token = self.take()
            if token.kind in ("word", "text"):
                words += re.findall(r"\^\{?-?\d+\}?|[^\W\d_]+(?:['’.-][^\W\d_]+)*|\S", token.text)
            elif token.text == "^":
                words.append("^" + _plain(self.exponent()))
            else:
                words += [token.text, self.take().text]
        if not words and self.takes("$", "€", "£", "¥", "¢"):
            words.append(self.tokens[self.at - 1].text)
        while words and words[0].lower() in MULTIPLES:
            node = Node("multiply", (node, Node("number", (), Fraction(MULTIPLES[words.pop(0).lower()]))))
        if not words:
            return node
        if node.kind == "ratio" or not is_unit(words, self.trusted and not symbols_of(node)):
            raise Unreadable(f"{' '.join(words)!r} is no unit")
        return Node("quantity", (node,), " ".join(words))

    def continues_unit(self) -> bool:
        """The power of cm^2, the second part of km/h, a.m or foot-pounds; never a sign before something else (5 cm - x)."""
        behind = self.ahead()
        named = behind.kind in ("word", "text") or (behind.kind == "symbol" and behind.text in "hsmgl" and self.sees("/"))
        return self.sees("^") or (self.sees("/", "cdot", ".", "-") and named)


def _is_differential(node: Node) -> bool:
    """The d, dx or d^2 of a derivative."""
    while node.kind in ("multiply", "power"):
        node = node.args[0]
    return node.kind == "symbol" and node.value in ("d", "partial")


def _ungrouped(node: Node) -> Node:
    """The x + y of \\{x + y\\} z, whose braces only group."""
    return node.args[0] if node.kind == "set" and len(node.args) == 1 else node


def _based(node: Node, base: str) -> Node:
    number = node.args[0].value if node.kind == "sequence" and len(node.args) == 1 else node.value
    if not isinstance(number, Fraction) or number.denominator != 1:
        raise Unreadable("a subscript on what is no number")
    return Node("based", (), (str(number), base))


def _plain(node: Node) -> str:
    """A node as text, for the names of accented symbols."""
    inside = "".join(_plain(part) for part in node.args if isinstance(part, Node))
    return f"{node.value if node.value is not None else ''}{inside}"

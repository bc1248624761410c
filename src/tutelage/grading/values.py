"""The value of an expression: exact (`Fraction`) as long as it is rational, otherwise to many digits (mpmath).

Symbols take values from an assignment, so that two expressions can be compared at random points: if they agree at several points
that were not chosen by whoever wrote them, they are the same function (Schwartz 1980, Zippel 1979, for polynomials and quotients
of them exactly; for roots and transcendental functions to the digits that are computed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from hashlib import blake2b
from typing import Any

from mpmath.ctx_mp import MPContext

from tutelage.grading.lexer import FUNCTIONS
from tutelage.grading.tree import Node, TooLarge

DIGITS = 50
MANY_DIGITS = 1_000
MAX_BITS = 100_000
MAX_FACTORIAL = 5_000
MAX_TERMS = 2_000
WHOLE_LETTERS = "ijklmnpqrNMK"


class Undefined(ArithmeticError):
    """The expression has no value here (a division by zero, a matrix where a number should be)."""


def _context(digits: int) -> MPContext:
    context = MPContext()
    context.dps = digits
    return context


_CONTEXTS = {digits: _context(digits) for digits in (DIGITS, MANY_DIGITS)}


def points(names: set[str], count: int, whole: bool = False, seed: object = 0) -> Iterator[dict[str, Fraction]]:
    """`count` assignments, of one order of size and sign after another.

    Args:
        whole: the letters that stand for whole numbers (n, k, …) get small positive ones.
        seed: what is compared: whoever wrote one side cannot know the points without the other.
    """
    ranges = [(0, 1), (-1, 0), (1, 4), (-5, -1), (-9, 9), (-2, 2), (0, 3), (2, 9)]
    for index in range(count):
        low, high = ranges[index % len(ranges)]
        yield {
            name: Fraction(1 + _hash(index, name, seed) % (8 + 2 * index))
            if whole and (name[0] in WHOLE_LETTERS or index % 2)
            else low + (high - low) * Fraction(_hash(index, name, seed) % 99_991, 99_991)
            for name in names
        }


def _hash(*parts: Any) -> int:
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def evaluate(node: Node, at: Mapping[str, Any] | None = None, digits: int = DIGITS, log_base: int | None = None) -> Any:
    """The value of an expression: Fraction, or a real or complex number of mpmath.

    Args:
        at: the value of each symbol.
        digits: DIGITS or MANY_DIGITS.
        log_base: the base of a bare \\log (None: e).

    Raises:
        Undefined: it has none; TooLarge: it would cost too much.
    """
    try:
        return _Evaluator(at or {}, _CONTEXTS[digits], log_base).value(node)
    except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
        raise Undefined(str(error)) from None


class _Evaluator:
    def __init__(self, at: Mapping[str, Any], context: MPContext, log_base: int | None) -> None:
        self.at, self.mp, self.log_base = at, context, log_base
        self.in_function = 0

    def value(self, node: Node) -> Any:
        match node.kind:
            case "number":
                return node.value
            case "symbol":
                return self.symbol(node.value)
            case "negate":
                return -self.value(node.args[0])
            case "add":
                total = self.value(node.args[0])
                for part in node.args[1:]:
                    total = self.both(total, self.value(part), lambda a, b: a + b)
                return total
            case "multiply":
                return self.both(self.value(node.args[0]), self.value(node.args[1]), lambda a, b: a * b)
            case "divide":
                return self.both(self.value(node.args[0]), self.value(node.args[1]), lambda a, b: a / b)
            case "power":
                return self.power(self.value(node.args[0]), self.value(node.args[1]))
            case "percent":
                return self.both(self.value(node.args[0]), Fraction(100), lambda a, b: a / b)
            case "degree":
                inner = self.value(node.args[0])
                return self.mpf(inner) * self.mp.pi / 180 if self.in_function else inner
            case "factorial":
                return self.factorial(self.value(node.args[0]))
            case "sequence" | "quantity" if len(node.args) == 1:
                return self.value(node.args[0])
            case "apply":
                return self.opaque(node.args[0].value, [self.value(part) for part in node.args[1:]])
            case "call":
                self.in_function += 1
                arguments = [self.value(part) for part in node.args]
                self.in_function -= 1
                return self.call(node.value, arguments)
            case "opaque":
                return self.bounded_operator(node)
            case "determinant":
                return self.value(_determinant(node.args))
            case "ratio" if len(node.args) == 2:
                return self.both(self.value(node.args[0]), self.value(node.args[1]), lambda a, b: a / b)
        raise Undefined(f"a {node.kind} is no number")

    # --- numbers, exact where both are

    def mpf(self, number: Any) -> Any:
        return self.mp.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number

    def both(self, a: Any, b: Any, operation: Callable[[Any, Any], Any]) -> Any:
        exact = isinstance(a, Fraction) and isinstance(b, Fraction)
        if not exact and (self.mp.isinf(self.mpf(a)) or self.mp.isinf(self.mpf(b))):
            raise Undefined("arithmetic with infinity")
        result = operation(a, b) if exact else operation(self.mpf(a), self.mpf(b))
        return _small_enough(result) if exact else self.finite(result)

    def finite(self, number: Any) -> Any:
        if self.mp.isnan(number):
            raise Undefined("not a number")
        return number

    def symbol(self, name: str) -> Any:
        if name in self.at:
            return self.at[name]
        match name:
            case "pi":
                return +self.mp.pi
            case "e":
                return +self.mp.e
            case "i":
                return self.mp.mpc(0, 1)
            case "infty":
                return self.mp.inf
        raise Undefined(f"{name} has no value")

    def power(self, base: Any, exponent: Any) -> Any:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                bits = max(base.numerator.bit_length(), base.denominator.bit_length())
                if base in (0, 1, -1) or bits * abs(exponent) <= MAX_BITS:
                    return base ** int(exponent)
            elif base < 0 and exponent.denominator % 2:  # the real root, as school has it
                root = self.power(-base, exponent)
                return -root if exponent.numerator % 2 else root
            elif (exact := _exact_root(base, exponent.denominator)) is not None:
                return self.power(exact, Fraction(exponent.numerator))
        odd_root = isinstance(exponent, Fraction) and exponent.denominator % 2 and exponent.denominator > 1
        if odd_root and not isinstance(base, Fraction) and isinstance(base, self.mp.mpf) and base < 0:
            root = self.power(-base, exponent)
            return -root if exponent.numerator % 2 else root
        base, exponent = self.mpf(base), self.mpf(exponent)
        if base == 0:
            if self.mp.re(exponent) > 0:
                return Fraction(0)
            raise Undefined("zero to a power that is not positive")
        if not self.mp.isinf(base) and not self.mp.isinf(exponent):
            self.limit(abs(exponent) * abs(self.mp.log(abs(base))))
        return self.finite(self.mp.power(base, exponent))

    def limit(self, exponent: Any) -> None:
        if exponent > 10**12:
            raise TooLarge("a number with over 10^12 digits")

    def factorial(self, number: Any) -> Any:
        if isinstance(number, Fraction) and number.denominator == 1 and number >= 0:
            if number > MAX_FACTORIAL:
                raise TooLarge(f"the factorial of a number over {MAX_FACTORIAL}")
            return _small_enough(Fraction(math.factorial(int(number))))
        if isinstance(number, Fraction) and number.denominator == 1:
            raise Undefined("the factorial of a negative number")
        return self.opaque("factorial", [number])

    # --- functions

    def call(self, name: str, arguments: list[Any]) -> Any:
        if name == "root":
            return self.power(arguments[0], 1 / arguments[1]) if isinstance(arguments[1], Fraction) else self.power(
                arguments[0], self.both(Fraction(1), arguments[1], lambda a, b: a / b)
            )  # fmt: skip
        if name == "abs":
            return abs(arguments[0])
        if name in ("floor", "ceil", "lfloor", "lceil") and not isinstance(arguments[0], self.mp.mpc):
            rounded = math.floor if "floor" in name else math.ceil
            if isinstance(arguments[0], Fraction):
                return Fraction(rounded(arguments[0]))
            self.limit(abs(arguments[0]))
            return Fraction(int(self.mp.floor(arguments[0]) if "floor" in name else self.mp.ceil(arguments[0])))
        if name in ("gcd", "lcm", "binom", "max", "min"):
            return self.of_several(name, arguments)
        if name in ("log", "ln", "lg", "log_base", "ln_base", "lg_base"):
            return self.logarithm(name, arguments)
        if len(arguments) != 1:
            return self.opaque(name, arguments)
        function = _ELEMENTARY.get(name)
        if function is None:
            return self.opaque(name, arguments)
        argument = self.mpf(arguments[0])
        if name in ("exp", "sinh", "cosh"):
            self.limit(abs(argument))
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and abs(argument) > 10**30:
            raise TooLarge(f"{name} of a huge number")
        return self.finite(getattr(self.mp, function)(argument))

    def logarithm(self, name: str, arguments: list[Any]) -> Any:
        if arguments[0] == 0:
            raise Undefined("the logarithm of zero")
        top = self.mp.log(self.mpf(arguments[0]))
        if len(arguments) == 2:
            return self.finite(top / self.mp.log(self.mpf(arguments[1])))
        base = 10 if name == "lg" else self.log_base if name == "log" else None
        return self.finite(top if base is None else top / self.mp.log(base))

    def of_several(self, name: str, arguments: list[Any]) -> Any:
        exact = all(isinstance(a, Fraction) for a in arguments)
        if name in ("max", "min") and all(not isinstance(a, self.mp.mpc) for a in arguments):
            return (max if name == "max" else min)(arguments, key=self.mpf)
        if exact and all(a.denominator == 1 for a in arguments):
            integers = [int(a) for a in arguments]
            if name == "binom" and len(integers) == 2 and integers[0] >= 0:
                if integers[0] > MAX_FACTORIAL:
                    raise TooLarge(f"a binomial coefficient of a number over {MAX_FACTORIAL}")
                return Fraction(math.comb(integers[0], integers[1])) if integers[1] >= 0 else Fraction(0)
            if name in ("gcd", "lcm"):
                return _small_enough(Fraction(getattr(math, name)(*integers)))
        ordered = arguments if name == "binom" else sorted(arguments, key=lambda a: str(self.mp.nstr(self.mpf(a), 20)))
        return self.opaque(name, ordered)

    def opaque(self, name: str, arguments: list[Any]) -> Any:
        """A stand-in value for what is not evaluated: the same for the same function of the same values."""
        shown = [self.mp.nstr(self.mpf(argument), 20) for argument in arguments]
        return Fraction(_hash(name, shown) % 2_000_003 - 1_000_001, 1_000_003)

    def bounded_operator(self, node: Node) -> Any:
        """A sum, product, integral, limit or remainder, by its parts; the name of the bound variable does not matter."""
        if node.value == "mod":
            value, modulus = (self.value(part) for part in node.args)
            if isinstance(value, Fraction) and isinstance(modulus, Fraction) and modulus > 0:
                return value % modulus
            return self.opaque("mod", [value, modulus])
        below, above, body = node.args
        parts: list[Any] = []
        inner = self
        if below is not None and below.kind == "relation" and below.args[0].kind == "symbol":
            bound = {**self.at, below.args[0].value: Fraction(_hash("bound") % 97, 89)}
            inner = _Evaluator(bound, self.mp, self.log_base)
            parts += [self.value(part) for part in below.args[1:]]
        elif below is not None:
            parts.append(self.value(below))
        if above is not None:
            parts.append(self.value(above))
        if node.value in ("sum", "prod") and inner is not self and len(parts) == 2:
            low, high = parts
            if all(isinstance(part, Fraction) and part.denominator == 1 for part in parts) and high - low < MAX_TERMS:
                return self.terms(node.value, below.args[0].value, range(int(low), int(high) + 1), body)
        return self.opaque(node.value, [*parts, inner.value(body)])

    def terms(self, name: str, variable: str, numbers: range, body: Node) -> Any:
        """The sum or product over whole numbers, term by term."""
        total: Any = Fraction(0 if name == "sum" else 1)
        for number in numbers:
            term = _Evaluator({**self.at, variable: Fraction(number)}, self.mp, self.log_base).value(body)
            total = self.both(total, term, (lambda a, b: a + b) if name == "sum" else (lambda a, b: a * b))
        return total


_SPECIAL = {"ln", "log", "lg", "gcd", "lcm", "max", "min", "floor", "ceil", "abs", "det", "deg"}
_ELEMENTARY = {name: "a" + name[3:] if name.startswith("arc") else name.lower() for name in FUNCTIONS - _SPECIAL}
"""The names that mpmath has for the functions of one number."""


def _small_enough(number: Fraction) -> Fraction:
    if number.numerator.bit_length() + number.denominator.bit_length() > 2 * MAX_BITS:
        raise TooLarge(f"an exact number of over {MAX_BITS} bits")
    return number


def _exact_root(base: Fraction, degree: int) -> Fraction | None:
    """The rational root of a positive rational number, or None."""
    if base < 0 or degree > 64:
        return None
    parts = []
    for number in (base.numerator, base.denominator):
        root = math.isqrt(number) if degree == 2 else round(number ** (1 / degree)) if number < 10**15 else -1
        if root < 0 or root**degree != number:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1])


def _determinant(rows: tuple[tuple[Node, ...], ...]) -> Node:
    """The determinant by its first row, as an expression."""
    if len(rows) != len(rows[0]) or len(rows) > 5:
        raise Undefined("no determinant")
    if len(rows) == 1:
        return rows[0][0]
    terms = []
    for column, entry in enumerate(rows[0]):
        minor = _determinant(tuple(row[:column] + row[column + 1 :] for row in rows[1:]))
        term = Node("multiply", (entry, minor))
        terms.append(Node("negate", (term,)) if column % 2 else term)
    return Node("add", tuple(terms))


# --- comparing two values


def as_mpf(number: Any, digits: int = DIGITS) -> Any:
    """A rational number with that many digits; another as it is."""
    return _CONTEXTS[digits].mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number


def close(a: Any, b: Any, digits: int = DIGITS) -> bool:
    """Equal: exactly if both are rational, otherwise to 80 % of the digits that were computed."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    mp, x, y = _CONTEXTS[digits], as_mpf(a, digits), as_mpf(b, digits)
    if mp.isinf(x) or mp.isinf(y):
        return bool(x == y)
    tolerance = mp.mpf(10) ** (-int(digits * 0.8))
    return bool(abs(x - y) <= tolerance * max(abs(x), abs(y)))


def both_vanish(a: Any, b: Any, digits: int) -> bool:
    """The difference is nothing but what rounding leaves of digits that cancelled."""
    mp, x, y = _CONTEXTS[digits], as_mpf(a, digits), as_mpf(b, digits)
    return bool(abs(x - y) < mp.mpf(10) ** (-int(digits * 0.9)))


def is_finite(a: Any) -> bool:
    return isinstance(a, Fraction) or not _CONTEXTS[DIGITS].isinf(a)


def is_real(a: Any) -> bool:
    """A real number, up to the digits that were computed."""
    return (
        isinstance(a, Fraction) or not hasattr(a, "_mpc_") or bool(abs(a.imag) <= abs(a.real) * _CONTEXTS[DIGITS].mpf(10) ** -35)
    )

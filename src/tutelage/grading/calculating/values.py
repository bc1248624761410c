"""The value of an expression: exact (`Fraction`) as long as it is rational, otherwise to many digits (mpmath).

Symbols take values from an assignment, so that two expressions can be compared at random points. If they agree at several points
that were not chosen by whoever wrote them, they are the same function (Schwartz 1980, Zippel 1979, for polynomials and quotients
of them exactly; for roots and transcendental functions to the digits that are computed).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

from mpmath.ctx_mp import MPContext
from mpmath.libmp import NoConvergence

from tutelage.grading.calculating import series
from tutelage.grading.calculating.numbers import (
    CONTEXTS,
    DIGITS,
    MANY_DIGITS,
    MAX_BITS,
    Undefined,
    Value,
    as_mpf,
    exact_root,
    hash_of,
    is_integer,
    is_real,
    small_enough,
)
from tutelage.grading.calculating.work import TooLarge, spend
from tutelage.grading.reading.lexer import FUNCTIONS
from tutelage.grading.reading.tree import SIDES, Kind, Node, negated, nodes_of, product

MAX_FACTORIAL = 5_000
MAX_TERMS = 2_000
_UNITS_OF_WORK = {DIGITS: (5, 20), MANY_DIGITS: (10, 500)}
"""What a node costs at so many digits, and what a function costs more."""


def evaluate(node: Node, at: Mapping[str, Value] | None = None, digits: int = DIGITS, log_base: int | None = None) -> Value:
    """The value of an expression.

    Args:
        at: the value of each symbol.
        digits: DIGITS or MANY_DIGITS.
        log_base: the base of a bare \\log (None: e).

    Raises:
        Undefined: it has none; TooLarge: it would cost too much.
    """
    try:
        return _Evaluator(dict(at or {}), digits, log_base).counted(node)
    except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
        raise Undefined(str(error)) from None


calculated: dict[tuple[Any, ...], Value | None] = {}
"""The value of each sum, integral and limit of the present comparison; None if none was found: it is compared by its parts."""


class _Evaluator:
    def __init__(self, at: dict[str, Value], digits: int, log_base: int | None) -> None:
        self.at, self.digits, self.log_base = at, digits, log_base
        self.mp = CONTEXTS[digits]
        self.node_cost, self.function_cost = _UNITS_OF_WORK[digits]
        self.in_function = 0
        self.far_out = False
        """Within an integral: e^{-x} vanishes there, and sin x has no value."""

    def counted(self, node: Node) -> Value:
        """The value, whose work is counted."""
        spend(self.node_cost * node.contents[3])
        self.in_function = 0
        return self.value(node)

    def value(self, node: Node) -> Value:
        match node.kind:
            case Kind.NUMBER:
                return node.value
            case Kind.SYMBOL if node.value in self.at:
                return self.at[node.value]
            case Kind.SYMBOL if node.value in _CONSTANTS:
                return _CONSTANTS[node.value](self.mp)
            case Kind.NEGATE:
                return -self.value(node.args[0])
            case Kind.ADD:
                return reduce(lambda a, b: self.both(operator.add, a, b), self.values(node.args))
            case Kind.MULTIPLY:
                return self.both(operator.mul, self.value(node.args[0]), self.value(node.args[1]))
            case Kind.DIVIDE | Kind.RATIO if len(node.args) == 2:
                return self.both(operator.truediv, *self.values(node.args))
            case Kind.POWER if node.args[0].is_symbol("e") and "e" not in self.at:
                exponent = self.value(node.args[1])
                return self.call("exp", [exponent]) if exponent else Fraction(1)
            case Kind.POWER:
                return self.power(*self.values(node.args))
            case Kind.PERCENT:
                return self.both(operator.truediv, self.value(node.args[0]), Fraction(100))
            case Kind.DEGREE:
                inner = self.value(node.args[0])
                return self.mpf(inner) * self.mp.pi / 180 if self.in_function else inner
            case Kind.FACTORIAL:
                return self.factorial(self.value(node.args[0]))
            case Kind.SEQUENCE | Kind.QUANTITY if len(node.args) == 1:
                return self.value(node.args[0])
            case Kind.APPLY:
                name, arguments = node.args[0].value, [self.argument(part) for part in node.args[1:]]
                if name in _KNOWN_NAMES and len(arguments) == 1:
                    return self.finite(getattr(self.mp, name.lower())(self.mpf(arguments[0])))
                return self.of_several("perm", arguments) if name in "PA" and len(arguments) == 2 else self.opaque(name, arguments)
            case Kind.CALL:
                self.in_function += 1
                arguments = self.values(node.args)
                self.in_function -= 1
                return self.call(node.value, arguments)
            case Kind.OPAQUE if node.value == "mod":
                return self.remainder(*self.values(node.args))
            case Kind.OPAQUE:
                return self.bounded_operator(node.value, *node.args)
            case Kind.DETERMINANT:
                return self.value(_determinant(node.args))
        raise Undefined(f"a {node.kind} is no number")

    def values(self, nodes: tuple[Node, ...]) -> list[Value]:
        return [self.value(node) for node in nodes]

    def argument(self, node: Node) -> Value:
        """The value of an argument; of X > 2 and other things without a value, a stand-in for what is written."""
        scalar = node.kind not in (Kind.RELATION, Kind.LIST, Kind.SET, Kind.UNION, Kind.INTERSECTION, Kind.SETMINUS, Kind.MATRIX)
        return self.value(node) if scalar else Fraction(hash_of(repr(node)), 2**32)

    # --- numbers, exact where both are

    def mpf(self, number: Value) -> Value:
        return as_mpf(number, self.digits)

    def both(self, operation: Callable[[Value, Value], Value], a: Value, b: Value) -> Value:
        if type(a) is Fraction and type(b) is Fraction:
            return small_enough(operation(a, b))
        a, b = self.mpf(a), self.mpf(b)
        if self.mp.isinf(a) or self.mp.isinf(b):
            raise Undefined("arithmetic with infinity")
        return self.finite(operation(a, b))

    def finite(self, number: Value) -> Value:
        if self.mp.isnan(number):
            raise Undefined("not a number")
        return number

    def power(self, base: Value, exponent: Value) -> Value:
        if type(exponent) is Fraction and exponent.denominator == 1:
            if type(base) is Fraction:
                bits = max(base.numerator.bit_length(), base.denominator.bit_length())
                if base in (0, 1, -1) or bits * abs(exponent) <= MAX_BITS:
                    return base ** int(exponent)
        elif type(exponent) is Fraction:
            if exponent.denominator % 2 and isinstance(base, (Fraction, self.mp.mpf)) and base < 0:
                root = self.power(-base, exponent)  # the real root, as school has it
                return -root if exponent.numerator % 2 else root
            if type(base) is Fraction and (exact := exact_root(base, exponent.denominator)) is not None:
                return self.power(exact, Fraction(exponent.numerator))
        spend(self.function_cost)
        if is_integer(exponent) and abs(exponent) < 1_000 and type(base) is not Fraction and self.mp.isnormal(base):
            return base ** int(exponent)
        base, exponent = self.mpf(base), self.mpf(exponent)
        if base == 0:
            if self.mp.re(exponent) > 0:
                return Fraction(0)
            raise Undefined("zero to a power that is not positive")
        if not self.mp.isinf(base) and not self.mp.isinf(exponent):
            if self.far_out and self.mp.re(exponent) * self.mp.log(abs(base)) < -(10**9):
                return self.mp.mpf(0)
            if abs(self.mp.mag(base)) > 1_000 or abs(exponent) > 10**6:
                self.limit(abs(exponent) * abs(self.mp.log(abs(base))))
        return self.finite(self.mp.power(base, exponent))

    def limit(self, exponent: Value) -> None:
        if exponent > 10**12:
            raise TooLarge("a number with over 10^12 digits")

    def factorial(self, number: Value) -> Value:
        if not is_integer(number):
            small = is_real(number) and 0 < self.mpf(number) < 10**11
            return self.finite(self.mp.factorial(self.mpf(number))) if small else self.opaque("factorial", [number])
        if number < 0:
            raise Undefined("the factorial of a negative number")
        if number > MAX_FACTORIAL:
            raise TooLarge(f"the factorial of a number over {MAX_FACTORIAL}")
        return small_enough(Fraction(math.factorial(int(number))))

    # --- functions

    def call(self, name: str, arguments: list[Value]) -> Value:
        spend(self.function_cost)
        match name:
            case "root":
                return self.power(arguments[0], self.both(operator.truediv, Fraction(1), arguments[1]))
            case "abs":
                return abs(arguments[0])
            case "floor" | "ceil" | "lfloor" | "lceil" if not isinstance(arguments[0], self.mp.mpc):
                return self.rounded(arguments[0], "floor" if "floor" in name else "ceil")
            case "cis" if len(arguments) == 1:
                return self.finite(self.mp.expj(self.mpf(arguments[0])))
            case "conj" if len(arguments) == 1:
                return arguments[0] if type(arguments[0]) is Fraction else self.mp.conj(arguments[0])
            case "gcd" | "lcm" | "binom" | "max" | "min" | "perm":
                return self.of_several(name, arguments)
            case "log" | "ln" | "lg" | "log_base" | "ln_base" | "lg_base":
                return self.logarithm(name, arguments)
        if len(arguments) != 1 or name not in _ELEMENTARY:
            return self.opaque(name, arguments)
        argument = self.mpf(arguments[0])
        if name in ("exp", "sinh", "cosh") and not self.mp.isinf(argument):
            if self.far_out and name == "exp" and self.mp.re(argument) < -(10**9):
                return self.mp.mpf(0)
            self.limit(abs(argument))
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and abs(argument) > 10**30:
            raise TooLarge(f"{name} of a huge number")
        return self.finite(getattr(self.mp, _ELEMENTARY[name])(argument))

    def rounded(self, number: Value, rounding: str) -> Fraction:
        if type(number) is Fraction:
            return Fraction(getattr(math, rounding)(number))
        self.limit(abs(number))
        return Fraction(int(getattr(self.mp, rounding)(number)))

    def logarithm(self, name: str, arguments: list[Value]) -> Value:
        if arguments[0] == 0:
            raise Undefined("the logarithm of zero")
        top = self.mp.log(self.mpf(arguments[0]))
        if len(arguments) == 2:
            return self.finite(top / self.mp.log(self.mpf(arguments[1])))
        base = 10 if name == "lg" else self.log_base if name == "log" else None
        return self.finite(top if base is None else top / self.mp.log(base))

    def of_several(self, name: str, arguments: list[Value]) -> Value:
        if name in ("max", "min") and len(arguments) > 1 and not any(isinstance(argument, self.mp.mpc) for argument in arguments):
            return (max if name == "max" else min)(arguments, key=self.mpf)
        if all(map(is_integer, arguments)):
            integers = [int(argument) for argument in arguments]
            if name == "binom" and len(integers) == 2 and integers[0] >= 0:
                if integers[0] > MAX_FACTORIAL:
                    raise TooLarge(f"a binomial coefficient of a number over {MAX_FACTORIAL}")
                return Fraction(math.comb(integers[0], integers[1])) if integers[1] >= 0 else Fraction(0)
            if name == "perm" and len(integers) == 2 and 0 <= integers[1] <= integers[0] <= MAX_FACTORIAL:
                return Fraction(math.perm(*integers))
            if name in ("gcd", "lcm"):
                return small_enough(Fraction(getattr(math, name)(*integers)))
        return self.opaque(name, arguments if name in ("binom", "perm") else sorted(arguments, key=self.written))

    def written(self, number: Value) -> str:
        return str(self.mp.nstr(self.mpf(number), 20))

    def opaque(self, name: str, arguments: list[Value]) -> Fraction:
        """A stand-in value for what is not evaluated: the same for the same function of the same values."""
        return Fraction(hash_of(repr((name, list(map(self.written, arguments))))) % 2_000_003 - 1_000_001, 1_000_003)

    def remainder(self, number: Value, modulus: Value) -> Value:
        if type(number) is Fraction and type(modulus) is Fraction and modulus > 0:
            return number % modulus
        return self.opaque("mod", [number, modulus])

    def bounded_operator(self, name: str, bound: Node | None, low: Node | None, high: Node | None, body: Node) -> Value:
        """A sum, product, integral, limit or derivative; the name of the bound variable does not matter."""
        bounds = self.values(tuple(part for part in (low, high) if part is not None))
        if bound is None:
            return self.opaque(name, [*bounds, self.value(body)])
        variable = bound.value
        if name == "derivative":
            step, at = Fraction(1, 10**12), self.value(bound)
            before, after = (self.mpf(self.with_variable(variable, at + side).counted(body)) for side in (-step, step))
            return (after - before) / self.mpf(2 * step)
        if name in ("sum", "prod") and len(bounds) == 2 and all(map(is_integer, bounds)):
            first, last = map(int, bounds)
            if last - first < MAX_TERMS:  # term by term
                terms = [self.with_variable(variable, Fraction(index)).counted(body) for index in range(first, last + 1)]
                operation, start = (operator.add, Fraction(0)) if name == "sum" else (operator.mul, Fraction(1))
                return reduce(lambda a, b: self.both(operation, a, b), terms, start)
        if len(bounds) == (1 if name == "lim" else 2):
            key = (name, variable, *bounds, body, *sorted(self.at.items()), self.digits, self.log_base, self.far_out)
            if key not in calculated:
                from_one_side = low is not None and low.kind is Kind.CALL and low.value in SIDES.values()
                calculated[key] = None if from_one_side else self.calculated(name, variable, bounds, body)
            if calculated[key] is not None:
                return calculated[key]
        inner = self.with_variable(variable, Fraction(hash_of(variable) % 97 + 1, 89))
        return self.opaque(name, [*bounds, inner.value(body)])

    def calculated(self, name: str, variable: str, bounds: list[Value], body: Node) -> Value | None:
        """The number that an infinite sum, an integral or a limit is; None if none was found. Raises Undefined: it has none."""
        outer = _Evaluator({name: self.mpf(value) for name, value in self.at.items()}, self.digits, self.log_base)

        inner = outer.with_variable(variable, Fraction(0))
        inner.far_out = name == "int"

        def at(point: Value) -> Value:
            inner.at[variable] = Fraction(int(point)) if name in ("sum", "prod") else point
            return self.mpf(inner.counted(body))

        if self.digits != DIGITS or any(part.kind is Kind.APPLY and part.args[0].value not in _KNOWN_NAMES for part in nodes_of(body)):
            return None  # f(x) has no value, and nothing is calculated at many digits
        try:
            if name == "int":
                return series.integral(self.mp, at, *map(self.mpf, bounds))
            if name == "lim":
                return series.limit(self.mp, at, self.mpf(bounds[0]))
            if is_integer(bounds[0]) and bounds[1] == self.mp.inf:
                return series.infinite(self.mp, name, at, int(bounds[0]))
        except series.Divergent as error:
            raise Undefined(str(error)) from None
        except (ArithmeticError, ValueError, TypeError, NoConvergence, TooLarge):
            pass
        return None

    def with_variable(self, name: str, value: Fraction) -> _Evaluator:
        inner = _Evaluator({**self.at, name: value}, self.digits, self.log_base)
        inner.far_out = self.far_out
        return inner


_CONSTANTS: dict[str, Callable[[MPContext], Value]] = {
    "pi": lambda mp: +mp.pi,
    "e": lambda mp: +mp.e,
    "i": lambda mp: mp.mpc(0, 1),
    "infty": lambda mp: mp.inf,
}
_KNOWN_NAMES = ("Gamma", "zeta")
_SPECIAL = {"cis", "conj", "perm", "ln", "log", "lg", "gcd", "lcm", "max", "min", "floor", "ceil", "abs", "det", "deg"}
_ELEMENTARY = {name: "a" + name[3:] if name.startswith("arc") else name.lower() for name in FUNCTIONS - _SPECIAL}
"""The names that mpmath has for the functions of one number."""


def _determinant(rows: tuple[tuple[Node, ...], ...]) -> Node:
    """The determinant by its first row, as an expression."""
    if len(rows) != len(rows[0]) or len(rows) > 5:
        raise Undefined("no determinant")
    if len(rows) == 1:
        return rows[0][0]
    terms = []
    for column, entry in enumerate(rows[0]):
        term = product(entry, _determinant(tuple(row[:column] + row[column + 1 :] for row in rows[1:])))
        terms.append(negated(term) if column % 2 else term)
    return Node(Kind.ADD, tuple(terms))

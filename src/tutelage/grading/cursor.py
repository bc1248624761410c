"""A position in the tokens of an answer, and what can be asked about the tokens from there."""

from __future__ import annotations

from tutelage.grading.lexer import Token
from tutelage.grading.tree import Unreadable
from tutelage.grading.work import TooLarge, spend

MAX_DEPTH = 60


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
        if self.sees(*texts):
            self.take()
            return True
        return False

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

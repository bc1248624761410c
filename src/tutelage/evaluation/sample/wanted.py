"""What is asked for: how many responses a problem, and which of them become rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tutelage.config import EvalConfig
from tutelage.errors import InputError

CHOICES = ("random", "shortest", "spread")


@dataclass(frozen=True)
class Wanted:
    """What `tutelage sample` is asked for.

    Attributes:
        samples: responses per problem.
        keep: per problem, every response that ended ("all"), the distinct right ones ("right"), or at most so many of these.
        choose: which of the distinct right ones, where `keep` is a number: at random, the shortest, or a spread of lengths.
        favour_hard: where `keep` is a number N, a problem of which the share p of the responses is right keeps at most N·(1 − p),
            rounded up, and at least one.
        seed: of the responses, and of the choice.
    """

    samples: int = 8
    keep: Literal["all", "right"] | int = "right"
    choose: Literal["random", "shortest", "spread"] = "random"
    favour_hard: bool = False
    seed: int = 42

    def allowance(self, right: int) -> int:
        """How many right responses a problem keeps at most, of which so many are right."""
        if not isinstance(self.keep, int):
            return self.samples
        if not self.favour_hard:
            return self.keep
        return max(1, -(-self.keep * (self.samples - right) // self.samples))

    def check(self) -> None:
        """Raises InputError: what is wanted contradicts itself."""
        if self.samples < 1:
            raise InputError(f"samples = {self.samples}: ask for one response per problem at least")
        if self.keep not in ("all", "right") and not (isinstance(self.keep, int) and self.keep > 0):
            raise InputError(f'keep = {self.keep!r}: write "all", "right", or a number of responses per problem')
        if self.choose not in CHOICES:
            raise InputError(f"choose = {self.choose!r}: write one of {', '.join(CHOICES)}")
        if self.favour_hard and not isinstance(self.keep, int):
            raise InputError(f'favour_hard needs a number of rows per problem to divide: give keep = N, not "{self.keep}"')
        if self.choose != "random" and not isinstance(self.keep, int):
            raise InputError(f'choose = "{self.choose}" chooses so many of the right responses: give keep = N, not "{self.keep}"')


def check(wanted: Wanted, config: EvalConfig) -> None:
    """Raises InputError: what is wanted contradicts itself, or the configuration."""
    wanted.check()
    if wanted.samples > 1 and config.temperature == 0:
        raise InputError(
            f"{wanted.samples} samples at eval.temperature = 0 would be the same response again; set a temperature, such as"
            " eval.temperature = 1.0"
        )

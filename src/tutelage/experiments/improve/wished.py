"""What `tutelage improve` is asked for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from tutelage.config import Source
from tutelage.errors import InputError
from tutelage.evaluation import Wanted

Origin = Literal["base", "last"]
NAMES = {
    "origin": "--from", "with_rows": "--with-rows/--without-rows", "start": "--start", "problems": "--problems",
    "temperature": "--temperature", "wanted.samples": "--samples", "wanted.keep": "--keep", "wanted.choose": "--choose",
    "wanted.favour_hard": "--favour-hard",
    "wanted.seed": "--seed",
}  # fmt: skip
"""What sets each value, but for `rounds`: more rounds may be asked for later."""


@dataclass(frozen=True)
class Improvement:
    """Rounds of sampling and training.

    Attributes:
        problems: what the model solves, read as problems; their solutions, if there are any, are not looked at.
        rounds: rounds after round 0.
        origin: "base": each round trains the model of the configuration on the accepted rows of all rounds so far. "last": each round
            trains the model of the round before on the rows that were accepted in this round.
        with_rows: whether the configuration's own rows are trained on in each round too.
        start: the model of round 0, which is not trained; None: the model of the configuration, trained on its own rows.
        wanted: what is sampled; the seed of a round is that of `wanted` plus the round's index.
        temperature: of sampling; evaluations have that of the configuration.
    """

    problems: Source
    rounds: int = 3
    origin: Origin = "base"
    with_rows: bool = True
    start: str | None = None
    wanted: Wanted = field(default_factory=Wanted)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"--rounds {self.rounds}: at least one is needed")
        if self.origin not in get_args(Origin):
            raise InputError(f"--from {self.origin}: write {' or '.join(get_args(Origin))}")
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"--temperature {self.temperature:g}: a temperature is a number, zero or more")
        if self.wanted.favour_hard and not isinstance(self.wanted.keep, int):
            raise InputError(f"--favour-hard divides a number of rows per problem: give --keep N, not {self.wanted.keep}")
        if self.wanted.samples > 1 and self.temperature == 0:
            raise InputError(
                f"--samples {self.wanted.samples} at --temperature 0 would be the same response again; set a temperature above zero"
            )
        self.wanted.check()  # before a round has trained

    @property
    def needs_rows(self) -> bool:
        """Whether the configuration's own rows are trained on in some round."""
        return self.start is None or self.with_rows

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "problems": self.problems.model_dump()}

    def changes(self, known: dict[str, Any]) -> list[str]:
        """What this changes of an earlier one (`to_json`), by what sets it; `rounds` may change."""
        old, new = _flat(known), _flat(self.to_json())
        return [f"{name}: {old.get(key)} → {new[key]}" for key, name in NAMES.items() if old.get(key) != new[key]]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, **{f"wanted.{key}": value for key, value in values["wanted"].items()}}

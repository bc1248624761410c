"""The schema of each table of JSON, by the name of its file; those of `tutelage improve` are here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field

from tutelage.runs.schemas import (
    AtLeastOne,
    Count,
    Data,
    Environment,
    Evaluated,
    Finite,
    Identity,
    Interval,
    Plan,
    Result,
    Seconds,
    Session,
    Share,
    Sweep,
    Table,
    Text,
)


class Wished(Table):
    """What `tutelage improve` was asked for, as it is printed."""

    rounds: AtLeastOne
    origin: Literal["base", "last"]
    with_rows: bool
    start: str | None
    temperature: Finite
    wanted: dict[str, Any]
    problems: dict[str, Any]


class Sampled(Table):
    """A summary of `tutelage sample`."""

    problems: Count
    samples: Count
    kept: Count
    fates: dict[str, Count]
    solved_at_least_once: Count
    solved_share_ci95: Interval
    accuracy: Share | None
    avg_response_length: Finite | None
    avg_token_entropy: float | None
    seconds: Seconds


class Mixed(Table):
    own: Count
    sampled: Count


class Round(Table):
    round: AtLeastOne
    sampling: NotRequired[Sampled]
    rows: NotRequired[Mixed]
    solved_so_far: NotRequired[Count]


class ProblemsAsked(Table):
    source: str
    count: Count
    fates: dict[str, Count]
    fingerprint: Text


class Improve(Table):
    design: Wished
    problems: ProblemsAsked
    models: dict[str, Identity]
    template: str
    rounds: list[Round]
    sessions: Annotated[list[Session], Field(min_length=1)]
    price_per_hour: Finite | None


TABLES: Mapping[str, Any] = {
    "data.json": Data, "environment.json": Environment, "plan.json": Plan, "result.json": Result, "summary.json": Evaluated,
    "identity.json": Identity, "sweep.json": Sweep, "improve.json": Improve, ".tracking.json": dict[str, str],
}  # fmt: skip
"""The schema of a table, by the name of its file."""

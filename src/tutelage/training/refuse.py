"""Optimizer steps that are taken, and those that are refused, which are written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage import console
from tutelage.config import Config
from tutelage.data import TokenizedExample
from tutelage.runs import RunLog, write_text
from tutelage.training.ending import Nonsense
from tutelage.training.step import Gradients, Guard, HalfUpdated


@dataclass(frozen=True)
class Taken:
    """An optimizer step that was taken, or refused: then with an objection, and no weight changed.

    Attributes:
        counted: how many weights it changed, of how many that this rank has; None where they were not counted.
    """

    lr: float
    gradients: Gradients
    objection: str
    counted: tuple[float, float] | None


def refuse(
    objection: str,
    step: int,
    examples: Sequence[TokenizedExample],
    guard: Guard,
    config: Config,
    log: RunLog,
    changed: bool,
) -> None:
    """Write down a step that is not applied.

    Args:
        changed: whether it has changed weights in its backward pass all the same.

    Raises:
        Nonsense: the run is not to go on without it.
        HalfUpdated: it has changed weights, so the run cannot.
    """
    sources = [example.source for example in examples]
    guard.skipped += 1
    record = log.directory / "nonsense" / f"step-{step + 1}.json"
    replay = f"tutelage train {log.directory / 'config.toml'} --replay {step + 1}"
    if log.leads:
        record.parent.mkdir(exist_ok=True)
        write_text(
            record, json.dumps({"step": step + 1, "reason": objection, "rows": sources, "replay": replay}, indent=2) + "\n"
        )
    if changed:
        raise HalfUpdated(
            f"step {step + 1}: {objection}, which an update in the backward pass knows when weights have changed. The step's rows:"
            f" {', '.join(sources)} ({record}). To look into it: {replay}\nA run with --train.update step --allow train.update finds"
            " it before a weight changes, and stops there, or leaves it out (train.on_nonsense)"
        )
    what = f"step {step + 1}: {objection}; no weight was changed. The step's rows: {', '.join(sources)} ({record})"
    stops = config.train.on_nonsense == "stop"
    if stops or guard.skipped > config.train.max_skips:
        why = "" if stops else f"\n{guard.skipped} steps were not applied, and train.max_skips is {config.train.max_skips}."
        raise Nonsense(
            f"{what}{why}\nTo look into it: {replay}\nTo leave such steps out: --train.on_nonsense skip"
            " (--train.spike_ratio says what counts as a spike)"
        )
    console.say(f"{what}; skipped, as train.on_nonsense says", style="yellow")

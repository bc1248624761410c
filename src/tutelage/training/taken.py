"""Optimizer steps that are taken, and those that are refused, which are written down."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tutelage import console
from tutelage.data import TokenizedExample
from tutelage.machines import uninterrupted
from tutelage.model import Batch, optim
from tutelage.runs import write_text
from tutelage.training.ending import Nonsense
from tutelage.training.fit import Fitting
from tutelage.training.start import Start
from tutelage.training.step import Clock, Gradients, Guard, HalfUpdated, measures_change, update_weights


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


@dataclass(frozen=True)
class Stepper:
    """Takes the optimizer steps of a run, or refuses them."""

    start: Start
    fitting: Fitting
    guard: Guard

    @contextlib.contextmanager
    def taken(
        self, rows: tuple[Sequence[TokenizedExample], Sequence[Batch]], step: int, clock: Clock, settling: bool
    ) -> Iterator[Taken]:
        """Take optimizer step `step` (from 0), and keep signals waiting from its first change of a weight until the block is done."""
        course, updates = self.start.course, self.start.updates
        lr, measures = optim.lr_at(step, course.total, course.config.train), measures_change(step, course.total)
        with contextlib.ExitStack() as deaf:
            if updates is not None:  # weights change in the backward pass
                deaf.enter_context(uninterrupted())
                updates.expect(lr, measures)
            gradients = self.fitting.gradients(*rows, step, may_stop=settling)
            clock.lap("forward_backward")
            objection = self.guard.objection(gradients.loss, gradients.grad_norm)
            if objection:
                self._refuse(objection, step, rows[0], changed=updates is not None and math.isfinite(gradients.loss))
            deaf.enter_context(uninterrupted())
            if objection:
                counted: tuple[float, float] | None = (0.0, 1.0)
            elif updates is not None:
                counted = updates.changed()
            else:
                counted = update_weights(course.policy, self.start.optimizer, lr, measures)
            yield Taken(lr, gradients, objection, counted)

    def _refuse(self, objection: str, step: int, examples: Sequence[TokenizedExample], changed: bool) -> None:
        """Write down a step that is not applied.

        Args:
            changed: whether it has changed weights in its backward pass all the same.

        Raises:
            Nonsense: the run is not to go on without it.
            HalfUpdated: it has changed weights, so the run cannot.
        """
        train, log, guard = self.start.course.config.train, self.fitting.log, self.guard
        sources = [example.source for example in examples]
        guard.skipped += 1
        record = log.directory / "nonsense" / f"step-{step + 1}.json"
        replay = f"tutelage train {log.directory / 'config.toml'} --replay {step + 1}"
        if log.leads:
            record.parent.mkdir(exist_ok=True)
            told = {"step": step + 1, "reason": objection, "rows": sources, "replay": replay}
            write_text(record, json.dumps(told, indent=2) + "\n")
        if changed:
            raise HalfUpdated(
                f"step {step + 1}: {objection}, which an update in the backward pass knows when weights have changed. The step's rows:"
                f" {', '.join(sources)} ({record}). To look into it: {replay}\nA run with --train.update step --allow train.update"
                " finds it before a weight changes, and stops there, or leaves it out (train.on_nonsense)"
            )
        what = f"step {step + 1}: {objection}; no weight was changed. The step's rows: {', '.join(sources)} ({record})"
        stops = train.on_nonsense == "stop"
        if stops or guard.skipped > train.max_skips:
            why = "" if stops else f"\n{guard.skipped} steps were not applied, and train.max_skips is {train.max_skips}."
            raise Nonsense(
                f"{what}{why}\nTo look into it: {replay}\nTo leave such steps out: --train.on_nonsense skip"
                " (--train.spike_ratio says what counts as a spike)"
            )
        console.say(f"{what}; skipped, as train.on_nonsense says", style="yellow")

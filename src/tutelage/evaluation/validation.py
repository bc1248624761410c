"""What all evaluations of a run share: when they are due, which problems they ask, and how they are logged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from tutelage import console
from tutelage.config import Config
from tutelage.data import Prepared
from tutelage.evaluation.draft import Draft
from tutelage.evaluation.grade import summarize
from tutelage.evaluation.solve import Job, Solved
from tutelage.machines import ALONE, World
from tutelage.model import Policy
from tutelage.report import show
from tutelage.runs import RunLog


@dataclass
class Evaluation:
    """One evaluation: of a step's weights.

    Attributes:
        started: by the monotonic clock.
        cost: seconds that training has stood still for it.
    """

    step: int
    job: Job
    draft: Draft
    started: float
    cost: float = 0.0


@dataclass(frozen=True)
class Validation:
    """The validation of a run while it trains. Several ranks use it together; rank 0 writes the log.

    Attributes:
        total: optimizer steps of the run.
    """

    policy: Policy
    prepared: Prepared
    config: Config
    log: RunLog
    total: int
    world: World = ALONE

    def is_due(self, step: int) -> bool:
        """Whether to evaluate now; not what the log has already."""
        return self.config.eval.is_due(step, self.total) and not self.world.first(lambda: step in self.log.reading().evaluated)

    def begin(self, step: int, solver: str) -> Evaluation:
        """The evaluation of this step: of the panel, or of all problems before and after training.

        Args:
            solver: the name of what solves the problems.
        """
        config, full = self.config.eval, self.config.eval.full and step in (0, self.total)
        problems = self.prepared.validation if full else self.prepared.validation[: self.prepared.panel]
        job = Job.of(problems, self.policy.tokenizer, config)
        key = Draft.key(step, job.prompts, job.sampling, solver, self.policy.precision, config.entropy)
        return Evaluation(step, job, Draft(self.log.directory, key, self.world.rank), time.monotonic())

    def cost(self, step: int, since: float) -> float:
        """Seconds that training has stood still at a step; none after the last step, when nothing is left to train."""
        return round(time.monotonic() - since, 2) if step < self.total else 0.0

    def progress(self, evaluation: Evaluation) -> contextlib.AbstractContextManager[Callable[..., None]]:
        """A bar of responses."""
        return console.progress(f"evaluating at step {evaluation.step}", evaluation.job.responses)

    def record(self, evaluation: Evaluation, solved: Solved, now: int) -> None:
        """Log an evaluation: its summary is of the panel, so that steps compare; that of all problems stands in it as "full".

        Args:
            now: the step that training has reached.
        """
        if not self.world.leads:
            return
        if solved.entropy_failed:
            what = f"its entropies could not be computed ({solved.entropy_failed}); all else of it counts"
            console.say(f"step {evaluation.step}: {what}", style="yellow")
        self.log.generations(evaluation.step, solved.records)
        panel = self.prepared.panel * evaluation.job.sampling.samples
        summary = summarize(solved.records[:panel], solved.entropy)
        if len(solved.records) > panel:
            summary["full"] = summarize(solved.records, solved.entropy)
        if solved.entropy_failed:
            summary["entropy_failed"] = solved.entropy_failed
        for certificate in solved.certificates:
            summary["certificate"] = certificate.as_dict()
        self.log.metrics(
            kind="eval", step=evaluation.step, **summary, logged_at_step=now,
            seconds=round(time.monotonic() - evaluation.started, 2), training_seconds=round(evaluation.cost, 2),
        )  # fmt: skip
        evaluation.draft.forget()
        show.evaluation(evaluation.step, summary, now)

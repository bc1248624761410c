"""Evaluation while training, by the policy itself; and what all evaluations of a run share: when they are due, what they ask and log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tutelage import console
from tutelage.evaluation.draft import Draft
from tutelage.evaluation.grade import summarize
from tutelage.evaluation.solve import Job, Solved, solve
from tutelage.machines import StopWanted
from tutelage.model import Course
from tutelage.report import show
from tutelage.runs import RunLog

Part = Literal["weights", "waiting", "entropies", "grading"]
"""What training stands still for: weights are handed over (an engine's start and its turn of the GPU included), responses are
generated, their exact entropies are computed, they are graded."""


@dataclass
class Evaluation:
    """One evaluation: of a step's weights.

    Attributes:
        started: by the monotonic clock.
        stood_still: seconds that training has stood still for it, by part.
    """

    step: int
    job: Job
    draft: Draft
    started: float
    stood_still: dict[Part, float] = field(default_factory=lambda: {"weights": 0.0, "waiting": 0.0, "entropies": 0.0, "grading": 0.0})

    @property
    def cost(self) -> float:
        """Seconds that training has stood still for it."""
        return sum(self.stood_still.values())

    def cost_as_metrics(self) -> dict[str, Any]:
        """For a line of the log."""
        parts = {part: round(seconds, 3) for part, seconds in self.stood_still.items()}
        return {"training_seconds": round(self.cost, 3), "stood_still_seconds": parts}

    def divide_waiting(self, solved: Solved) -> None:
        """Divide the seconds that training waited for the answers: the last of them went to grading, those before to generation,
        and any others to the start of the engine and its loading."""
        waiting = self.stood_still["waiting"]
        grading = min(waiting, solved.grading_seconds)
        generation = min(waiting - grading, solved.generation_seconds)
        self.stood_still["waiting"] = generation
        self.stood_still["grading"] += grading
        self.stood_still["weights"] += waiting - grading - generation


class Evaluator:
    """Evaluates a run while it trains. All ranks call each method together; rank 0 writes the log.

    Here the policy solves the problems by itself while training waits, and nothing is ever in flight.

    Attributes:
        total: optimizer steps of the run.
        recorded: how many evaluations rank 0 has logged in this process.
    """

    def __init__(self, course: Course, log: RunLog) -> None:
        self.policy, self.prepared, self.config, self.world = course.policy, course.prepared, course.config, course.world
        self.total, self.log = course.total, log
        self.recorded = 0

    def __call__(self, step: int) -> None:
        """Evaluate if it is time to. Raises StopWanted if the job is asked to stop meanwhile."""
        if not self.is_due(step):
            return
        evaluation = self.begin(step, "native")
        try:
            with self.standing_still(evaluation, "waiting", step), self.progress(evaluation) as advance:
                tokens = console.per_second(advance, "tokens")
                solved = solve(evaluation.job, self.policy, evaluation.draft, self.world, advance, tokens)
        except (StopWanted, KeyboardInterrupt):
            if self.world.leads:
                evaluation.draft.add_seconds(evaluation.cost)
            raise
        self.record(evaluation, solved, step)

    def collect(self, step: int) -> None:
        """Log what has come back."""

    def finish(self, step: int) -> None:
        """Wait for what is in flight."""

    def give_up(self, step: int) -> None:
        """Wait for what is in flight for `live.GRACE` seconds, and no longer: the job was asked to stop."""

    def end_at(self, step: int) -> None:
        """Let the run end before its planned length, after `step` optimizer steps: these weights are evaluated, if they were not."""
        self.total = step
        self(step)

    def close(self) -> None:
        """End the engine; what is still in flight is lost, and said to be."""

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

    @contextlib.contextmanager
    def standing_still(self, evaluation: Evaluation, part: Part, now: int) -> Iterator[None]:
        """Within it training stands still for a part of an evaluation. The seconds of a part within a part count for the inner one.

        Args:
            now: the step that training has reached; after the last one nothing is left to train, and no second counts.
        """
        started, counted = time.monotonic(), evaluation.cost
        try:
            yield
        finally:
            if now < self.total:
                evaluation.stood_still[part] += time.monotonic() - started - (evaluation.cost - counted)

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
        evaluation.divide_waiting(solved)
        evaluation.stood_still["waiting"] += evaluation.draft.seconds()  # of a run that was stopped meanwhile
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
            seconds=round(time.monotonic() - evaluation.started, 2), **evaluation.cost_as_metrics(), **solved.seconds_as_metrics(),
        )  # fmt: skip
        self.recorded += 1
        evaluation.draft.forget()
        show.evaluation(evaluation.step, summary, now)

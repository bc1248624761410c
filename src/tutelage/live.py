"""Evaluation while training: by the training model itself, or through a vLLM engine, which training need not wait for."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from tutelage import console, optim, show
from tutelage.certificate import Certificate, UncertifiedWeights
from tutelage.config import Config, EvalConfig
from tutelage.data import Example
from tutelage.engines import Engine, Handover, engine_for
from tutelage.errors import RunError
from tutelage.evaluate import add_entropies, entropy_told, grade_examples, sampling_of, solve, summarize
from tutelage.generation import Completion
from tutelage.generation.process import EngineError
from tutelage.machine import uninterrupted
from tutelage.model import resolve
from tutelage.placement import Placement
from tutelage.policy import Policy
from tutelage.prepare import Prepared
from tutelage.runlog import RunLog
from tutelage.tokens import encode_prompt

QUEUE = 4
"""Evaluations in flight at most with `eval.when_busy = "queue"`: each holds a copy of the weights in the host's memory."""


def evaluation_due(step: int, total: int, config: EvalConfig) -> bool:
    """Before training if wanted, every `eval.every` steps, and at the end."""
    if step in (0, total):
        return step == total or config.before
    return config.every > 0 and step % config.every == 0


@dataclass(frozen=True)
class Answers:
    """What an engine made of the problems, graded."""

    certificate: Certificate
    completions: list[Completion]
    records: list[dict[str, Any]]


@dataclass
class Flight:
    """An evaluation that an engine is at; `cost` is for how many seconds training stood still to launch it."""

    step: int
    prompts: list[list[int]]
    handed: Handover
    answers: Future[Answers]
    started: float
    cost: float = 0.0


class Evaluator:
    """Lets the policy solve the validation problems when it is time to, and logs and prints what came of it.

    Whatever happens to the engine, training goes on: an evaluation that fails is reported and logged as failed. `close` ends it.

    Args:
        placement: where vLLM runs; None: the policy generates by itself.
        longest: prompt + response in tokens, at most.
        total: optimizer steps of the run.
    """

    def __init__(
        self,
        policy: Policy,
        prepared: Prepared,
        config: Config,
        log: RunLog,
        optimizer: torch.optim.Optimizer,
        placement: Placement | None,
        longest: int,
        total: int,
    ) -> None:
        self.policy, self.problems, self.panel = policy, prepared.validation, prepared.panel
        self.config, self.log, self.total = config.eval, log, total
        self.optimizer, self.placement = optimizer, placement
        self.engine: Engine | None = None
        if placement is not None:
            self.engine = engine_for(
                policy, resolve(config.model.id), config.eval, placement.device, share=placement.gpu_memory_utilization,
                longest=longest, log=log.directory / "engine.log", sleeps=placement.in_turns,
            )  # fmt: skip
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self.flights: deque[Flight] = deque()
        self.given_up = False

    def __call__(self, step: int) -> None:
        """Log what has come back, and evaluate if it is time to."""
        self.collect(step)
        if not evaluation_due(step, self.total, self.config) or self._knows(step):
            return
        problems = self.problems if self.config.full and step in (0, self.total) else self.problems[: self.panel]
        if self.engine is None:
            started = time.monotonic()
            with console.progress(f"evaluating at step {step}", len(problems) * self.config.samples) as advance:
                records = solve(self.policy, problems, self.config, advance)
            self._log(step, step, records, started, self._cost(step, started))
        elif self._may_start(step):
            self._launch(step, problems)

    def collect(self, step: int) -> None:
        """Log what has come back."""
        while self.flights and self.flights[0].answers.done():
            self._land(step)

    def finish(self, step: int) -> None:
        """Wait for what is in flight."""
        while self.flights:
            self._land(step)

    def close(self) -> None:
        """End the engine; what is still in flight is lost, and said to be."""
        try:
            if self.engine is not None:
                self.engine.close()
        finally:
            self.worker.shutdown(cancel_futures=True)
            with contextlib.suppress(RunError):
                while self.flights:
                    self._lose(self.flights.popleft())

    def _lose(self, flight: Flight) -> None:
        console.say(f"the evaluation of step {flight.step} was in flight and is lost", style="yellow")
        self.log.metrics(kind="eval_lost", step=flight.step)

    def _knows(self, step: int) -> bool:
        return self.log.has_evaluation(step) or any(flight.step == step for flight in self.flights)

    def _cost(self, step: int, since: float) -> float:
        """Seconds that training stood still at a step; none once there is nothing left to train."""
        return round(time.monotonic() - since, 2) if step < self.total else 0.0

    def _may_start(self, step: int) -> bool:
        """Make room for one more flight, or leave this evaluation out, as configured."""
        if self.flights and self.config.when_busy == "skip" and step < self.total:
            flying = self.flights[0].step
            console.say(f"step {step}: not evaluated, that of step {flying} is in flight (eval.when_busy)", style="yellow")
            self.log.metrics(kind="eval_skipped", step=step, in_flight=flying)
            return False
        while len(self.flights) >= (QUEUE if self.config.when_busy == "queue" else 1):
            self._land(step)
        return not self.given_up

    def _launch(self, step: int, problems: list[Example]) -> None:
        assert self.engine is not None and self.placement is not None
        started = time.monotonic()
        prompts = [encode_prompt(self.policy.tokenizer, problem.prompt) for problem in problems]
        waits = not self.placement.asynchronous
        if not waits and self.placement.device == self.policy.device != torch.device("cpu"):
            self._start_undisturbed()
        try:
            handed = self.engine.hand_over(self.policy)
        except EngineError as error:
            self._fail(step, error, self._cost(step, started))
            return
        bar = console.progress(f"evaluating at step {step}", len(problems) * self.config.samples)
        with bar if waits else contextlib.nullcontext(lambda count: None) as advance, self._turn():
            answers = self.worker.submit(self._answers, step, problems, prompts, handed, advance)
            flight = Flight(step, prompts, handed, answers, started)
            self.flights.append(flight)
            if waits:
                answers.exception()
        flight.cost = self._cost(step, started)
        if waits:
            self._land(step)

    def _answers(
        self,
        step: int,
        problems: list[Example],
        prompts: list[list[int]],
        handed: Handover,
        on_finished: Callable[[int], None],
    ) -> Answers:
        """In a thread of its own: sync, certify, generate, grade."""
        assert self.engine is not None

        def report(error: EngineError) -> None:
            console.say(f"step {step}: {error}; it is started again", style="yellow")
            self.log.metrics(kind="engine_failed", step=step, reason=str(error))

        if self.given_up:
            raise EngineError("vLLM had failed before")
        sampling = sampling_of(self.config, self.policy.stops)
        try:
            proof, completions = self.engine.answer(handed, prompts, sampling, on_finished=on_finished, on_failure=report)
        except EngineError:
            self.given_up = not self.engine.remote.closed
            raise
        return Answers(proof, completions, grade_examples(problems, completions, self.config))

    def _start_undisturbed(self) -> None:
        """Start an engine on the GPU that is trained on: it measures the memory that is free, which must not change meanwhile."""
        assert self.engine is not None
        if not self.engine.running and not self.flights and not self.given_up:
            torch.cuda.empty_cache()
            with console.progress("starting vLLM"):
                try:
                    self.engine.start()
                except EngineError as error:  # whoever asks it will start it again
                    console.say(str(error), style="yellow")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Where training and vLLM compute in turns, it is vLLM's."""
        assert self.engine is not None and self.placement is not None
        if not self.placement.in_turns:
            yield
            return
        with optim.offloaded(self.optimizer) if self.config.offload_optimizer else contextlib.nullcontext():
            torch.cuda.empty_cache()
            try:
                if self.engine.running:
                    self.engine.wake_up()
            except EngineError:  # started again by whoever asks it
                self.engine.remote.end()
            try:
                yield
            except BaseException:  # Ctrl-C: the memory must be free before the optimizer comes back
                self.engine.close()
                while self.flights:
                    self._lose(self.flights.popleft())
                raise
            try:
                if self.engine.running:
                    self.engine.sleep()
            except EngineError:
                self.engine.remote.end()

    def _land(self, now: int) -> None:
        """Wait for the oldest flight; log what it brings."""
        flight = self.flights[0]
        arrived = time.monotonic()
        if not flight.answers.done():
            with console.progress(f"waiting for the evaluation of step {flight.step}"):
                flight.answers.exception()
        failure = None
        try:
            answers = flight.answers.result()
            if self.config.entropy == "exact":
                with self._as_it_was(flight, now) as policy:
                    add_entropies(answers.records, policy, flight.prompts, answers.completions)
        except Exception as error:  # whatever it is, training can do without
            failure = error
        cost = flight.cost + self._cost(now, arrived)
        with uninterrupted():  # it is logged once
            self.flights.popleft()
            if failure is None:
                self._log(flight.step, now, answers.records, flight.started, cost, answers.certificate)
            else:
                self._fail(flight.step, failure, cost)

    def _as_it_was(self, flight: Flight, now: int) -> contextlib.AbstractContextManager[Policy]:
        """The policy with the weights of the flight's step."""
        if flight.step == now or flight.handed.snapshot is None:
            return contextlib.nullcontext(self.policy)
        return self.policy.holding(flight.handed.snapshot.tensors())

    def _fail(self, step: int, error: Exception, cost: float) -> None:
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        console.say(f"step {step}: the evaluation failed: {reason}", style="bold red")
        more = {"certificate": error.certificate.as_dict()} if isinstance(error, UncertifiedWeights) else {}
        self.log.metrics(kind="eval_failed", step=step, reason=reason, training_seconds=round(cost, 2), **more)
        if isinstance(error, EngineError) and self.given_up:
            console.say("vLLM has failed twice in one evaluation: there are no more of this run", style="bold red")

    def _log(
        self,
        step: int,
        now: int,
        records: list[dict[str, Any]],
        started: float,
        cost: float,
        certificate: Certificate | None = None,
    ) -> None:
        """Log an evaluation: its summary is of the panel, so that steps compare; that of all problems stands in it as "full"."""
        self.log.generations(step, records)
        panel = self.panel * self.config.samples
        label = entropy_told(self.config, by_engine=certificate is not None)
        summary = summarize(records[:panel], label)
        if len(records) > panel:
            summary["full"] = summarize(records, label)
        if certificate is not None:
            summary["certificate"] = certificate.as_dict()
        seconds = round(time.monotonic() - started, 2)
        self.log.metrics(kind="eval", step=step, **summary, logged_at_step=now, seconds=seconds, training_seconds=round(cost, 2))
        show.evaluation(step, summary, now)

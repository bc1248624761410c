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
from tutelage.engines import Engine, Handover
from tutelage.errors import RunError
from tutelage.evaluate import add_entropies, grade_examples, sampling_of, solve, summarize
from tutelage.generation import Completion
from tutelage.generation.process import EngineError
from tutelage.model import resolve
from tutelage.plan import Placement
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
    cost: float


class Evaluator:
    """Lets the policy solve the validation problems when it is time to, and logs and prints what came of it.

    Whatever happens to the engine, training goes on: an evaluation that fails is reported and logged as failed.
    """

    def __init__(
        self,
        policy: Policy,
        prepared: Prepared,
        config: Config,
        log: RunLog,
        optimizer: torch.optim.Optimizer,
        placement: Placement | None,
        engine: Engine | None,
        total: int,
    ) -> None:
        self.policy, self.problems, self.panel, self.config, self.log = (
            policy, prepared.validation, prepared.panel, config.eval, log,
        )  # fmt: skip
        self.optimizer, self.placement, self.engine = optimizer, placement, engine
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self.flights: deque[Flight] = deque()
        self.total = total
        self.given_up = False
        self._started = False

    def __call__(self, step: int) -> None:
        """Log what has come back, and evaluate if it is time to."""
        while self.flights and self.flights[0].answers.done():
            self._land(step)
        if not evaluation_due(step, self.total, self.config) or self._knows(step):
            return
        problems = self.problems if self.config.full and step in (0, self.total) else self.problems[: self.panel]
        if self.engine is None:
            started = time.monotonic()
            with console.progress(f"evaluating at step {step}", len(problems) * self.config.samples) as advance:
                records = solve(self.policy, problems, self.config, advance)
            self._log(step, records, started, self._cost(step, started))
        elif not self.given_up and self._may_start(step):
            self._launch(step, problems)

    def finish(self, step: int) -> None:
        """Wait for what is in flight."""
        while self.flights:
            self._land(step)

    def _knows(self, step: int) -> bool:
        return self.log.has_evaluation(step) or any(flight.step == step for flight in self.flights)

    def _cost(self, step: int, since: float) -> float:
        """Seconds that training stood still at a step; none once there is nothing left to train."""
        return time.monotonic() - since if step < self.total else 0.0

    def _may_start(self, step: int) -> bool:
        """Make room for one more flight, or leave this evaluation out, as configured."""
        if self.flights and self.config.when_busy == "skip" and step < self.total:
            console.say(
                f"step {step}: not evaluated, that of step {self.flights[0].step} is in flight (eval.when_busy)", style="yellow"
            )
            self.log.metrics(kind="eval_skipped", step=step, in_flight=self.flights[0].step)
            return False
        while len(self.flights) >= (QUEUE if self.config.when_busy == "queue" else 1):
            self._land(step)
        return not self.given_up

    def _launch(self, step: int, problems: list[Example]) -> None:
        assert self.engine is not None and self.placement is not None
        started = time.monotonic()
        prompts = [encode_prompt(self.policy.tokenizer, problem.prompt) for problem in problems]
        waits = not self.placement.asynchronous
        bar = console.progress(f"evaluating at step {step}", len(problems) * self.config.samples)
        with bar if waits else contextlib.nullcontext(lambda count: None) as advance, self._turn():
            try:
                handed = self.engine.hand_over(self.policy)
            except EngineError as error:
                self._fail(step, error)
                return
            answers = self.worker.submit(self._answers, step, problems, prompts, handed, advance)
            if waits:
                answers.exception()
        self.flights.append(Flight(step, prompts, handed, answers, started, self._cost(step, started)))
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
        """In a thread of its own: sync, certify, generate, grade. An engine that fails is started again, once."""
        assert self.engine is not None
        last: EngineError | None = None
        for _attempt in range(2):
            try:
                if not self._started:
                    self.engine.start()
                    self._started = True
                certificate = self.engine.load(handed)
                certificate.require()
                sampling = sampling_of(self.config, self.policy.stops)
                completions = self.engine.generate(prompts, sampling, on_finished=on_finished)
                return Answers(certificate, completions, grade_examples(problems, completions, self.config))
            except EngineError as error:
                self.engine.close()
                self._started = False
                if last is None:
                    console.say(f"step {step}: {error}; it is started again", style="yellow")
                    self.log.metrics(kind="engine_failed", step=step, reason=str(error))
                last = error
        assert last is not None
        raise last

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
                if self._started:
                    self.engine.wake_up()
            except EngineError:  # found out, reported and mended by whoever asks it next
                self.engine.close()
            yield
            try:
                if self._started:
                    self.engine.sleep()
            except EngineError:
                self.engine.close()
                self._started = False

    def _land(self, now: int) -> None:
        """Wait for the oldest flight; log what it brings."""
        flight = self.flights.popleft()
        arrived = time.monotonic()
        try:
            if not flight.answers.done():
                with console.progress(f"waiting for the evaluation of step {flight.step}"):
                    flight.answers.exception()
            answers = flight.answers.result()
        except RunError as error:
            self._fail(flight.step, error)
            if isinstance(error, EngineError):
                console.say("vLLM has failed twice in one evaluation: there are no more of this run", style="bold red")
                self.given_up = True
            return
        except KeyboardInterrupt:
            self.flights.appendleft(flight)
            raise
        if self.config.entropy == "exact":
            with self._as_it_was(flight, now) as policy:
                add_entropies(answers.records, policy, flight.prompts, answers.completions)
        cost = flight.cost + self._cost(now, arrived)
        self._log(flight.step, answers.records, flight.started, cost, answers.certificate, now)

    def _as_it_was(self, flight: Flight, now: int) -> contextlib.AbstractContextManager[Policy]:
        """The policy with the weights of the flight's step."""
        if flight.step == now:
            return contextlib.nullcontext(self.policy)
        return self.policy.holding(flight.handed.snapshot.tensors())

    def _fail(self, step: int, error: RunError) -> None:
        console.say(f"step {step}: the evaluation failed: {error}", style="bold red")
        proof = error.certificate.as_dict() if isinstance(error, UncertifiedWeights) else None
        self.log.metrics(kind="eval_failed", step=step, reason=str(error), **({"certificate": proof} if proof else {}))

    def _log(
        self,
        step: int,
        records: list[dict[str, Any]],
        started: float,
        cost: float,
        certificate: Certificate | None = None,
        now: int | None = None,
    ) -> None:
        """Log an evaluation: its summary is of the panel, so that steps compare; that of all problems stands in it as "full"."""
        self.log.generations(step, records)
        samples = self.config.samples
        label = self.config.entropy
        summary = summarize(records[: self.panel * samples], label)
        if len(records) > self.panel * samples:
            summary["full"] = summarize(records, label)
        if certificate is not None:
            summary["certificate"] = certificate.as_dict()
        seconds = round(time.monotonic() - started, 2)
        self.log.metrics(
            kind="eval", step=step, **summary, logged_at_step=step if now is None else now, seconds=seconds, training_seconds=round(cost, 2)
        )  # fmt: skip
        show.evaluation(step, summary, now)


@contextlib.contextmanager
def live_evaluation(
    policy: Policy,
    prepared: Prepared,
    config: Config,
    log: RunLog,
    optimizer: torch.optim.Optimizer,
    placement: Placement | None,
    longest: int,
    total: int,
) -> Iterator[Evaluator]:
    """The evaluator of a run; its engine, if it has one, ends with the block.

    Args:
        longest: prompt + response in tokens, at most.
        total: optimizer steps of the run.
    """
    engine = None
    if placement is not None:
        engine = Engine(
            resolve(config.model.id), placement.device, config.eval.seed,
            dtype="float32" if policy.precision == "fp32" else "bfloat16", max_model_len=longest,
            gpu_memory_utilization=placement.gpu_memory_utilization, sleeps=placement.in_turns,
            log=log.directory / "engine.log", timeout=config.eval.timeout,
        )  # fmt: skip
    evaluator = Evaluator(policy, prepared, config, log, optimizer, placement, engine, total)
    try:
        yield evaluator
    finally:
        if engine is not None:
            engine.close()
        evaluator.worker.shutdown(cancel_futures=True)

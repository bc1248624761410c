"""Evaluation while training: by the training model itself, or through a vLLM engine, which training need not wait for."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.data import Example, Prepared
from tutelage.errors import RunError
from tutelage.evaluation.certificate import Certificate, UncertifiedWeights
from tutelage.evaluation.draft import Draft
from tutelage.evaluation.engine import Completion, EngineError
from tutelage.evaluation.engines import Engine, Handover, engine_for, hand_over
from tutelage.evaluation.evaluate import add_entropies, entropy_kind, grade_examples, prompt_ids, sampling_of, solve, summarize
from tutelage.machines import ALONE, World, gathered, uninterrupted
from tutelage.model import Policy, optim, resolve
from tutelage.report import show
from tutelage.resources import Placement
from tutelage.runs import RunLog

GRACE = 20.0
"""Seconds for which an evaluation in flight is waited for when the job was asked to stop, and its state is saved."""
POLL = 0.2
"""Seconds between two looks at whether the job was asked to stop, while an engine is waited for."""
QUEUE = 4
"""Evaluations in flight at most with `eval.when_busy = "queue"`: each holds a copy of the weights in the host's memory."""


@dataclass(frozen=True)
class Answers:
    """What an engine made of the problems, graded."""

    certificate: Certificate
    completions: list[Completion]
    records: list[dict[str, Any]]


@dataclass
class Flight:
    """An evaluation that an engine is at; `cost` is for how many seconds training stood still to launch it.

    Of several ranks, the first has the answers.
    """

    step: int
    prompts: list[list[int]]
    handed: Handover
    draft: Draft
    answers: Future[Answers]
    started: float
    cost: float = 0.0


class Evaluator:
    """Lets the policy solve the validation problems when it is time to, and logs and prints what came of it.

    Whatever happens to the engine, training goes on: an evaluation that fails is reported and logged as failed. `close` ends it.
    Several ranks come here together; the first has the engine and the log.

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
        world: World = ALONE,
    ) -> None:
        self.policy, self.problems, self.panel = policy, prepared.validation, prepared.panel
        self.config, self.log, self.total = config.eval, log, total
        self.optimizer, self.placement, self.world = optimizer, placement, world
        self.engine: Engine | None = None
        if placement is not None and world.leads:
            self.engine = engine_for(
                policy, resolve(config.model.id), config.eval, placement.device, share=placement.gpu_memory_utilization,
                longest=longest, log=log.directory / "engine.log", sleeps=placement.in_turns,
            )  # fmt: skip
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self.flights: deque[Flight] = deque()
        self.given_up = False

    def __call__(self, step: int) -> None:
        """Log what has come back, and evaluate if it is time to. Raises StopWanted if the job is asked to stop meanwhile."""
        self.collect(step)
        if not self.config.is_due(step, self.total) or self.world.first(lambda: self._knows(step)):
            return
        problems = self.problems if self.config.full and step in (0, self.total) else self.problems[: self.panel]
        prompts = prompt_ids(self.policy.tokenizer, problems)
        how = f"{'native' if self.placement is None else 'vllm'}, {self.policy.precision}, {self.config.entropy}"
        draft = Draft(self.log.directory, step, prompts, sampling_of(self.config, self.policy.stops), how, self.world.rank)
        if self.placement is None:
            started = time.monotonic()
            with console.progress(f"evaluating at step {step}", len(problems) * self.config.samples) as advance:
                records = solve(self.policy, problems, self.config, advance, self.world, draft)
            self._log(step, step, records, started, self._cost(step, started), draft)
        elif self._may_start(step):
            self._launch(step, problems, prompts, draft)

    def collect(self, step: int) -> None:
        """Log what has come back."""
        while len(self.flights) > 0 and self.world.first(self.flights[0].answers.done):
            self._land(step)

    def finish(self, step: int) -> None:
        """Wait for what is in flight."""
        while self.flights:
            self._land(step)

    def give_up(self, step: int) -> None:
        """Wait for what is in flight for `GRACE` seconds, and no longer: the job was asked to stop."""
        until = time.monotonic() + GRACE
        while len(self.flights) > 0 and self.world.first(lambda: self._comes_in(until)):
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
        return step in self.log.reading().evaluated or any(flight.step == step for flight in self.flights)

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
        return not self.world.first(lambda: self.given_up)

    def _launch(self, step: int, problems: list[Example], prompts: list[list[int]], draft: Draft) -> None:
        assert self.placement is not None
        started = time.monotonic()
        waits = not self.placement.asynchronous
        if not waits:
            self.world.first(self._start_undisturbed)
        handed = self._hand_over(step, started)
        if handed is None:
            return
        bar = console.progress(f"evaluating at step {step}", len(problems) * self.config.samples)
        with bar if waits else contextlib.nullcontext(lambda count: None) as advance, self._turn():
            answers: Future[Answers] = Future()
            if self.engine is not None:
                known = draft.known()
                advance(sum(map(len, known.values())))
                answers = self.worker.submit(self._answers, step, problems, prompts, handed, known, draft, advance)
            flight = Flight(step, prompts, handed, draft, answers, started)
            self.flights.append(flight)
            if waits:
                self.world.first(lambda: self._wait(flight))
        flight.cost = self._cost(step, started)
        if waits:
            self._land(step)

    def _hand_over(self, step: int, started: float) -> Handover | None:
        """What the engine is to load; None if there is no memory for it, which is told."""
        probes, dtype = self.world.first(lambda: (self._engine().probes, self._engine().dtype))
        handed, failure = None, None
        try:
            handed = hand_over(self.policy, probes, dtype, keep=self.world.leads)
        except EngineError as error:
            failure = error
        if not self.world.any(failure is not None):
            return handed
        self._fail(step, failure or EngineError("another rank could not take part"), self._cost(step, started))
        return None

    def _engine(self) -> Engine:
        assert self.engine is not None
        return self.engine

    def _answers(
        self,
        step: int,
        problems: list[Example],
        prompts: list[list[int]],
        handed: Handover,
        known: dict[int, list[Completion]],
        draft: Draft,
        on_finished: Callable[[int], None],
    ) -> Answers:
        """In a thread of its own: sync, certify, generate, grade."""

        def report(error: EngineError) -> None:
            console.say(f"step {step}: {error}; it is started again", style="yellow")
            self.log.metrics(kind="engine_failed", step=step, reason=str(error))

        if self.given_up:
            raise EngineError("vLLM had failed before")
        sampling = sampling_of(self.config, self.policy.stops)
        asked = {number: prompt for number, prompt in enumerate(prompts) if number not in known}
        try:
            proof, answers = self._engine().answer(handed, asked, sampling, on_finished, report, draft.add)
        except EngineError:
            self.given_up = not self._engine().remote.closed
            raise
        completions = [each for number in range(len(prompts)) for each in (known | answers)[number]]
        return Answers(proof, completions, grade_examples(problems, completions, self.config))

    def _wait(self, flight: Flight) -> None:
        """Wait for a flight. Raises StopWanted if the job is asked to stop meanwhile."""
        while not self._comes_in(time.monotonic() + POLL, flight):
            self.world.alive()

    def _comes_in(self, until: float, flight: Flight | None = None) -> bool:
        """Whether a flight, else the oldest one, comes back until then."""
        answers = (flight or self.flights[0]).answers
        return len(wait([answers], max(0.0, until - time.monotonic())).done) > 0

    def _start_undisturbed(self) -> None:
        """Start an engine on the GPU that is trained on: it measures the memory that is free, which must not change meanwhile."""
        assert self.placement is not None
        shared = self.placement.device == self.policy.device != torch.device("cpu")
        if shared and not self._engine().running and not self.flights and not self.given_up:
            torch.cuda.empty_cache()
            with console.progress("starting vLLM"):
                try:
                    self._engine().start()
                except EngineError as error:  # whoever asks it will start it again
                    console.say(str(error), style="yellow")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Where training and vLLM compute in turns, it is vLLM's."""
        assert self.placement is not None
        if not self.placement.in_turns:  # which several ranks never take
            yield
            return
        engine = self._engine()
        with optim.offloaded(self.optimizer) if self.config.offload_optimizer else contextlib.nullcontext():
            torch.cuda.empty_cache()
            try:
                if engine.running:
                    engine.wake_up()
            except EngineError:  # started again by whoever asks it
                engine.remote.end()
            try:
                yield
            except BaseException:  # Ctrl-C: the memory must be free before the optimizer comes back
                engine.close()
                while self.flights:
                    self._lose(self.flights.popleft())
                raise
            try:
                if engine.running:
                    engine.sleep()
            except EngineError:
                engine.remote.end()

    def _land(self, now: int) -> None:
        """Wait for the oldest flight; log what it brings."""
        flight = self.flights[0]
        arrived = time.monotonic()
        if not self.world.first(flight.answers.done):
            with console.progress(f"waiting for the evaluation of step {flight.step}"):
                self.world.first(lambda: self._wait(flight))
        answers: Answers | None = None
        failure: Exception | None = None
        if self.engine is not None:
            failure = flight.answers.exception()  # type: ignore[assignment]
            answers = flight.answers.result() if failure is None else None
        if self.world.first(lambda: answers is not None) and self.config.entropy == "exact":
            with gathered(self.policy.model):
                failure = self.world.first(lambda: self._add_entropies(flight, answers, now))
        cost = flight.cost + self._cost(now, arrived)
        with uninterrupted():  # it is logged once
            self.flights.popleft()
            if failure is not None:
                self._fail(flight.step, failure, cost)
            elif answers is not None:
                self._log(flight.step, now, answers.records, flight.started, cost, flight.draft, answers.certificate)

    def _add_entropies(self, flight: Flight, answers: Answers | None, now: int) -> Exception | None:
        """Fill in the exact entropies, by the weights of the flight's step; what went wrong, if something did."""
        assert answers is not None
        try:
            with self._as_it_was(flight, now):
                add_entropies(answers.records, self.policy, flight.prompts, answers.completions, self.config.log_tokens)
        except Exception as error:  # whatever it is, training can do without
            return error
        return None

    def _as_it_was(self, flight: Flight, now: int) -> contextlib.AbstractContextManager[None]:
        """Within it the policy has the weights of the flight's step."""
        if flight.step == now or flight.handed.snapshot is None:
            return contextlib.nullcontext()
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
        draft: Draft,
        certificate: Certificate | None = None,
    ) -> None:
        """Log an evaluation: its summary is of the panel, so that steps compare; that of all problems stands in it as "full"."""
        if not self.world.leads:
            return
        self.log.generations(step, records)
        panel = self.panel * self.config.samples
        label = entropy_kind(self.config, by_engine=certificate is not None)
        summary = summarize(records[:panel], label)
        if len(records) > panel:
            summary["full"] = summarize(records, label)
        if certificate is not None:
            summary["certificate"] = certificate.as_dict()
        seconds = round(time.monotonic() - started, 2)
        self.log.metrics(kind="eval", step=step, **summary, logged_at_step=now, seconds=seconds, training_seconds=round(cost, 2))
        draft.forget()
        show.evaluation(step, summary, now)

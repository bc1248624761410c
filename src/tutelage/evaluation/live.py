"""Evaluation while training by an engine, which training need not wait for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from tutelage import console
from tutelage.errors import InputError, RunError
from tutelage.evaluation.certificate import UncertifiedWeights
from tutelage.evaluation.engine import EngineError, EngineHandle, Handover, engine_setting, hand_over, registry
from tutelage.evaluation.solve import Solved, nothing, solve_by_engine
from tutelage.evaluation.validation import Evaluation, Evaluator
from tutelage.machines import gathered, uninterrupted
from tutelage.model import Course, optim
from tutelage.resources import Placement
from tutelage.runs import RunLog

GRACE = 20.0
"""Seconds for which an evaluation in flight is waited for when the job was asked to stop, and its state is saved."""
POLL = 0.2
"""Seconds between two looks at whether the job was asked to stop, while an engine is waited for."""
QUEUE = 4
"""Evaluations in flight at most with `eval.when_busy = "queue"`: each holds a copy of the weights in the host's memory."""


@dataclass
class Flight:
    """An evaluation that the engine is at. Of several ranks, rank 0 has the answers."""

    evaluation: Evaluation
    handed: Handover
    answers: Future[Solved]


class EngineEvaluator(Evaluator):
    """An engine gets the policy's weights and solves the problems, while training goes on or waits, as placed.

    Whatever happens to the engine, training goes on: an evaluation that fails is reported and logged as failed. `close` ends it.
    Several ranks come here together; rank 0 starts the engine.
    """

    def __init__(
        self, course: Course, log: RunLog, placement: Placement, engine: EngineHandle, optimizer: torch.optim.Optimizer
    ) -> None:
        super().__init__(course, log)
        self.course = course
        self.placement, self.engine, self.optimizer = placement, engine, optimizer
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self.flights: deque[Flight] = deque()
        self.given_up = threading.Event()  # the worker sets it when the engine has failed twice in one evaluation

    def __call__(self, step: int) -> None:
        """Log what has come back, and evaluate if it is time to. Raises StopWanted if the job is asked to stop meanwhile."""
        self.collect(step)
        if any(flight.evaluation.step == step for flight in self.flights) or not self.is_due(step):
            return
        if self._has_room(step):
            self._launch(self.begin(step, self.config.eval.backend))

    def collect(self, step: int) -> None:
        while len(self.flights) > 0 and self.world.first(self.flights[0].answers.done):
            self._land(step)

    def finish(self, step: int) -> None:
        while self.flights:
            self._land(step)

    def give_up(self, step: int) -> None:
        until = time.monotonic() + GRACE
        while len(self.flights) > 0 and self.world.first(lambda: self._is_back(self.flights[0], until)):
            self._land(step)

    def close(self) -> None:
        try:
            self.engine.close()
        finally:
            self.worker.shutdown(cancel_futures=True)
            with contextlib.suppress(RunError):
                self._lose_flights()

    def _lose_flights(self) -> None:
        while self.flights:
            lost = self.flights.popleft().evaluation
            console.say(f"the evaluation of step {lost.step} was in flight and is lost", style="yellow")
            self.log.metrics(kind="eval_lost", step=lost.step, **lost.cost_as_metrics())

    def _has_room(self, step: int) -> bool:
        """Make room for one more flight, or leave this evaluation out, as configured."""
        if self.flights and self.config.eval.when_busy == "skip" and step < self.total:
            flying = self.flights[0].evaluation.step
            console.say(f"step {step}: not evaluated, that of step {flying} is in flight (eval.when_busy)", style="yellow")
            self.log.metrics(kind="eval_skipped", step=step, in_flight=flying)
            return False
        while len(self.flights) >= (QUEUE if self.config.eval.when_busy == "queue" else 1):
            self._land(step)
        return not self.world.first(self.given_up.is_set)

    def _launch(self, evaluation: Evaluation) -> None:
        """Hand the weights over, and let the engine begin; where training waits, until it is done."""
        waits, step = not self.placement.asynchronous, evaluation.step
        with self.standing_still(evaluation, "weights", step):
            if not waits:
                self.world.first(self._start_undisturbed)
            handed, failure = self._hand_over(step)
        if handed is None:
            self._fail(evaluation, failure)
            return
        bar = self.progress(evaluation) if waits else contextlib.nullcontext(nothing)
        turn = self._engines_turn() if self.placement.in_turns else contextlib.nullcontext()
        with self.standing_still(evaluation, "weights", step), bar as advance, turn:
            answers = self.worker.submit(self._solve, evaluation, handed, advance) if self.world.leads else Future()
            flight = Flight(evaluation, handed, answers)
            self.flights.append(flight)
            if waits:
                self._wait(flight, step)
        if waits:
            self._land(step)

    def _hand_over(self, step: int) -> tuple[Handover | None, EngineError]:
        """What the engine is to load; None, and why, if a rank has no memory for it."""
        handed, failure = None, EngineError("another rank could not take part")
        try:
            coming = self.course.examples(step) if step < self.total else ()
            handed = hand_over(self.policy, self.engine, keep=self.world.leads, rows=coming)
        except EngineError as error:
            failure = error
        return (None if self.world.any(handed is None) else handed), failure

    def _solve(self, evaluation: Evaluation, handed: Handover, on_finished: Callable[[int], None]) -> Solved:
        """In the worker's thread: sync, certify, generate, grade."""

        def report(error: EngineError) -> None:
            console.say(f"step {evaluation.step}: {error}; it is started again", style="yellow")
            self.log.metrics(kind="engine_failed", step=evaluation.step, reason=str(error))

        if self.given_up.is_set():
            raise EngineError(f"{self.engine.title} had failed before")
        try:
            return solve_by_engine(evaluation.job, self.engine, handed, evaluation.draft, on_finished, report)
        except EngineError:
            if not self.engine.closed:
                self.given_up.set()
            raise

    def _wait(self, flight: Flight, now: int) -> None:
        """Wait for a flight. Raises StopWanted if the job is asked to stop meanwhile."""

        def until_it_is_back() -> None:
            while not self._is_back(flight, time.monotonic() + POLL):
                self.world.alive()

        with self.standing_still(flight.evaluation, "waiting", now):
            self.world.first(until_it_is_back)

    def _is_back(self, flight: Flight, until: float) -> bool:
        """Whether a flight comes back before a time of the monotonic clock."""
        return len(wait([flight.answers], max(0.0, until - time.monotonic())).done) > 0

    def _start_undisturbed(self) -> None:
        """Start an engine on the GPU that is trained on: it measures the memory that is free, which must not change meanwhile."""
        shared = self.placement.device == self.policy.device != torch.device("cpu")
        if shared and not self.engine.running and not self.flights and not self.given_up.is_set():
            torch.cuda.empty_cache()
            with console.progress(f"starting {self.engine.title}"):
                try:
                    self.engine.start()
                except EngineError as error:  # it is started again when it is asked
                    console.say(str(error), style="yellow")

    @contextlib.contextmanager
    def _engines_turn(self) -> Iterator[None]:
        """Within it the engine has the GPU; the optimizer's state makes room if so configured. Only a single rank takes turns."""
        with optim.offloaded(self.optimizer) if self.config.eval.offload_optimizer else contextlib.nullcontext():
            torch.cuda.empty_cache()
            self._call_or_end(self.engine.wake_up)
            try:
                yield
            except BaseException:  # Ctrl-C: the memory must be free before the optimizer's state comes back
                self.engine.close()
                self._lose_flights()
                raise
            self._call_or_end(self.engine.sleep)

    def _call_or_end(self, method: Callable[[], None]) -> None:
        """Call a running engine's method; an engine that fails is ended, and started again when it is asked."""
        try:
            if self.engine.running:
                method()
        except EngineError:
            self.engine.end()

    def _land(self, now: int) -> None:
        """Wait for the oldest flight; log what it brings."""
        flight = self.flights[0]
        evaluation = flight.evaluation
        if not self.world.first(flight.answers.done):
            with console.progress(f"waiting for the evaluation of step {evaluation.step}"):
                self._wait(flight, now)
        failure = flight.answers.exception() if self.world.leads else None
        solved = flight.answers.result() if self.world.leads and failure is None else Solved()
        if self.config.eval.entropy == "exact" and self.world.first(lambda: failure is None):
            # the policy's own weights, if it has not been trained since, else the copy that the engine got
            snapshot = None if evaluation.step == now else flight.handed.snapshot
            with self.standing_still(evaluation, "entropies", now), gathered(self.policy.model):
                self.world.first(lambda: solved.add_exact_entropies(evaluation.job, self.policy, snapshot))
        with uninterrupted():  # it is logged once
            self.flights.popleft()
            if failure is not None:
                self._fail(evaluation, failure)
            else:
                self.record(evaluation, solved, now)

    def _fail(self, evaluation: Evaluation, error: BaseException) -> None:
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        console.say(f"step {evaluation.step}: the evaluation failed: {reason}", style="bold red")
        more: dict[str, Any] = {"certificate": error.certificate.as_dict()} if isinstance(error, UncertifiedWeights) else {}
        self.log.metrics(kind="eval_failed", step=evaluation.step, reason=reason, **evaluation.cost_as_metrics(), **more)
        if isinstance(error, EngineError) and self.given_up.is_set():
            console.say(
                f"{self.engine.title} has failed twice in one evaluation: there are no more of this run", style="bold red"
            )


def evaluator_for(course: Course, log: RunLog, placement: Placement | None, optimizer: torch.optim.Optimizer) -> Evaluator:
    """What evaluates a run while it trains.

    Args:
        placement: where the engine runs; None: the policy generates by itself.
        optimizer: its state makes room where training and the engine take turns.
    """
    if placement is None:
        return Evaluator(course, log)
    config = course.config
    setting = engine_setting(
        config, course.policy.precision, placement.device, course.longest, log.directory / "engine.log",
        gpu_memory_utilization=placement.gpu_memory_utilization, sleeps=placement.in_turns,
    )  # fmt: skip
    if placement.in_turns and not registry.entry_of(config.eval.backend).sleeps:
        raise InputError(
            f'eval.backend = "{config.eval.backend}": on {placement.device} training and the engine would take turns, and this one has'
            ' no sleep and wake_up; choose another eval.device, or eval.in_turns = "off"'
        )
    return EngineEvaluator(course, log, placement, EngineHandle(setting), optimizer)

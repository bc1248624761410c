"""The training loop."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.data import Prepared, TokenizedExample, prepare
from tutelage.errors import InputError, RunError
from tutelage.evaluation import Evaluator, evaluator_for, forget_drafts, registry
from tutelage.machines import ALONE, BEFORE_TRAINING, StopWanted, World, agreed, join, nothing_left_to_stop, uninterrupted
from tutelage.model import Batch, Policy, load_policy, optim, save_model, tokenizer_of
from tutelage.report import model_card, show
from tutelage.report import page as report
from tutelage.resources import place_engine
from tutelage.runs import Checkpoints, RunLog, SilentRunLog, checkpoint, kept_template, open_run
from tutelage.training.ending import Preempted, Stand, Wait, ending_of
from tutelage.training.fit import Fitting, StartAgain
from tutelage.training.patience import Patience, best_of
from tutelage.training.prolong import made_longer
from tutelage.training.refuse import Taken, refuse
from tutelage.training.start import Start, check_size, explain, keeps_end, require, same_model, saves_at, set_up
from tutelage.training.step import Clock, Guard, measures_change, share_changed, speed_of, update_weights

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Attributes:
        evaluations: oldest first.
        steps: optimizer steps.
        evaluation_cost: for how long evaluations held up training (`Reading.evaluation_cost`).
    """

    directory: Path
    evaluations: list[dict[str, Any]]
    steps: int
    evaluation_cost: dict[str, Any]


def fine_tune(
    config: Config,
    *,
    allow_changes: Collection[str] = (),
    prepared: Prepared | None = None,
    baseline: Path | None = None,
) -> Result:
    """Fine-tune by a configuration, and evaluate while training.

    A run directory with an unfinished run of the same configuration is continued. Under torchrun, this is one rank of the run.

    Args:
        allow_changes: settings ("train.lr") in which the configuration may differ from that of the unfinished run.
        prepared: what `prepare` makes of the configuration, where that is known.
        baseline: a run directory whose evaluation of the untouched model is this run's too (`evaluate_untrained`).

    Raises:
        InputError: something given is wrong; nothing was computed.
        RunError: the run could not go on.
        Interrupted: Ctrl-C, or, as Preempted, SIGTERM or SIGUSR1; the state was saved.
    """
    console.quiet_libraries()
    with join(config.model.device, config.parallel.timeout) as world, contextlib.ExitStack() as held, _stoppable(world):
        allow_changes = world.first(lambda: require(config, world, allow_changes), may_stop=True)
        tokenizer = world.first(lambda: tokenizer_of(config), may_stop=True)
        ready = world.first(lambda: prepared or prepare(config, tokenizer, kept_template(config)), may_stop=True)
        log = _open(config, allow_changes, world, held)
        if world.leads and checkpoint.latest(log.directory) is None:  # who goes on has seen it
            show.preview(ready, tokenizer)
        changed = world.first(lambda: same_model(config, log.directory, allow_changes))

        def loaded() -> Policy:
            with console.progress("loading the model"):
                return load_policy(
                    config.model, tokenizer, to_train=config.train.pack, world=world, shard_ranks=config.parallel.shard
                )

        policy = loaded()
        world.first(lambda: check_size(policy, ready, config, log.directory))
        world.first(lambda: explain(policy, config, ready, log, allow_changes, changed))
        if world.any(world.stop.wanted):
            raise StopWanted
        while True:
            try:
                return run(policy, ready, config, log, world, baseline)
            except StartAgain as again:
                if world.size > 1:  # the other ranks wait in the middle of a step: the job starts again
                    raise
                console.say(str(again), style="yellow")
            log.write_metrics()
            del policy  # with its gradients; the checkpoint, or the untouched model, takes its place
            gc.collect()
            policy = loaded()


@contextlib.contextmanager
def _stoppable(world: World) -> Iterator[None]:
    """What a request to stop means that all ranks have come to before training."""
    try:
        yield
    except StopWanted:
        raise agreed(Preempted(f"{world.stop.by or 'another rank was asked'}: {BEFORE_TRAINING}"), world) from None


def _open(config: Config, allow_changes: Collection[str], world: World, held: contextlib.ExitStack) -> RunLog:
    """The run's log: rank 0 holds the directory until `held` is left, and the other ranks are silent."""
    log: RunLog = SilentRunLog(Path(config.run.dir))

    def take_directory() -> None:
        nonlocal log
        reopens = made_longer(config, allow_changes) is not None
        log = held.enter_context(open_run(config, allow_changes, reopens))

    world.first(take_directory)
    return log


def evaluate_untrained(config: Config, prepared: Prepared) -> Path:
    """Let the untouched model solve the validation problems, as a run's own first evaluation does; the run directory of that."""
    console.quiet_libraries()
    require(config, ALONE, ())
    with open_run(config) as log:
        with console.progress("loading the model"):
            policy = load_policy(config.model, tokenizer_of(config), to_train=config.train.pack)
        check_size(policy, prepared, config, log.directory)
        explain(policy, config, prepared, log)
        start = set_up(policy, prepared, config, log, trains=False)
        with contextlib.closing(_evaluator(start, log)) as evaluate:
            evaluate(0)
            evaluate.finish(0)
        evaluations = log.reading().evaluations
        if not evaluations:
            raise RunError(f"the untouched model could not be evaluated; {log.directory}/metrics.jsonl says why")
        log.finish({"steps": 0, "evaluations": evaluations})
        forget_drafts(log.directory)
    return log.directory


def run(
    policy: Policy, prepared: Prepared, config: Config, log: RunLog, world: World = ALONE, baseline: Path | None = None
) -> Result:
    """Train from where the run stands to its end, evaluating on the way, and save the model."""
    start = set_up(policy, prepared, config, log, world)
    course, optimizer, step = start.course, start.optimizer, start.step
    if baseline is not None:
        world.first(lambda: log.adopt(baseline))
    total = course.total
    evaluator = _evaluator(start, log)
    guard = world.first(lambda: Guard.of_lines(config.train.spike_ratio, log.reading().steps))
    fitting, patience = Fitting(course, config, log, world, start.updates), Patience(config.eval.patience, total, log, world)
    saves = Checkpoints(log.directory, world, config.run.keep_last, lambda: _worth_keeping(log, config, total))
    stopped: dict[str, Any] | None = None
    settling = policy.compiled  # the first step after a start compiles, which takes long
    with contextlib.closing(saves), contextlib.closing(evaluator) as evaluate, world.listening():
        try:
            evaluate(step)
            with console.progress("training", total, done=step) as advance, prefetched(course.at, range(step, total)) as ahead:
                clock = Clock()
                for rows in ahead:
                    if stopped := patience.stop(step, evaluate.recorded):
                        break
                    clock.lap("data")
                    # no signal comes between weights, optimizer, step number and log
                    with _taken(start, fitting, guard, clock, rows, step, settling) as taken:
                        step, settling = step + 1, False
                        clock.lap("optimizer")
                        changed, weights, stops = world.sum([*(taken.counted or (0.0, 0.0)), world.stop.wanted])
                        line = {
                            "step": step, "epoch": round(step / course.epoch, 4), "lr": taken.lr, **taken.gradients.as_metrics(),
                            **share_changed(changed, weights), **({"skipped": taken.objection} if taken.objection else {}),
                            **speed_of(policy, rows[0], taken.gradients, clock, world.size, start.matrix_rate),
                        }  # fmt: skip
                        log.metrics(kind="train", **line)
                    show.step(line, total)
                    advance(1, f"loss {taken.gradients.loss:.4f}, {line['tokens_per_second']:,.0f} tokens/s")
                    evaluate.collect(step)  # what is logged outlasts the checkpoint
                    if saves_at(config, step, total):
                        _save(saves, step, policy, optimizer, log)
                    if stops:
                        raise StopWanted
                    evaluate(step)
                    world.arm()
                    clock = Clock()
            result = _finished(start, log, evaluate, saves, step, stopped)
        except (StopWanted, KeyboardInterrupt, RuntimeError, MemoryError) as stop:
            ending = ending_of(fitting.again(stop, step), Stand(step, total, log.directory), world, fitting.elsewhere)
            error = _saved(ending.error, policy, optimizer, step, saves, log) if ending.saves else ending.error
            _wait(ending.waits, evaluate, step)
            raise agreed(error, world) if ending.agreed else error from None
    _tidy(config, log, world, step)
    return result


@contextlib.contextmanager
def _taken(
    start: Start,
    fitting: Fitting,
    guard: Guard,
    clock: Clock,
    rows: tuple[Sequence[TokenizedExample], Sequence[Batch]],
    step: int,
    settling: bool,
) -> Iterator[Taken]:
    """Take optimizer step `step` (from 0), and keep signals waiting from its first change of a weight until the block is done."""
    course, updates, config, log = start.course, start.updates, fitting.config, fitting.log
    lr, measures = optim.lr_at(step, course.total, config.train), measures_change(step, course.total)
    with contextlib.ExitStack() as deaf:
        if updates is not None:  # weights change in the backward pass
            deaf.enter_context(uninterrupted())
            updates.expect(lr, measures)
        gradients = fitting.gradients(*rows, step, may_stop=settling)
        clock.lap("forward_backward")
        objection = guard.objection(gradients.loss, gradients.grad_norm)
        if objection:
            changed = updates is not None and math.isfinite(gradients.loss)
            refuse(objection, step, rows[0], guard, config, log, changed)
        deaf.enter_context(uninterrupted())
        if objection:
            counted: tuple[float, float] | None = (0.0, 1.0)
        elif updates is not None:
            counted = updates.changed()
        else:
            counted = update_weights(course.policy, start.optimizer, lr, measures)
        yield Taken(lr, gradients, objection, counted)


def _evaluator(start: Start, log: RunLog) -> Evaluator:
    """What evaluates the policy of a run; where its engine runs is decided and said."""
    course = start.course
    policy, prepared, config, world = course.policy, course.prepared, course.config, course.world
    longest = prepared.longest_prompt + config.eval.max_new_tokens
    missing = partial(registry.reason, config.eval.backend)
    placement = world.first(
        lambda: place_engine(policy, config, start.optimizer, course.largest, longest, world.local_size, missing)
    )
    return evaluator_for(course, log, placement, start.optimizer)


@contextlib.contextmanager
def prefetched(make: Callable[[int], T], steps: Iterable[int]) -> Iterator[Iterator[T]]:
    """What `make` gives for each step, made in a thread of its own while the step before it computes."""
    with ThreadPoolExecutor(1) as worker:

        def ahead() -> Iterator[T]:
            coming: Future[T] | None = None
            for step in steps:
                following = worker.submit(make, step)
                if coming is not None:
                    yield coming.result()
                coming = following
            if coming is not None:
                yield coming.result()

        yield ahead()


def _wait(waits: Wait, evaluate: Evaluator, step: int) -> None:
    """Wait for evaluations in flight, as an ending says; a second Ctrl-C gives them up."""
    with contextlib.suppress(KeyboardInterrupt, RunError, StopWanted):
        if waits is Wait.SHORTLY:
            evaluate.give_up(step)
        elif waits is Wait.LONG:
            evaluate.finish(step)


def _finished(
    start: Start, log: RunLog, evaluate: Evaluator, saves: Checkpoints, total: int, stopped: dict[str, Any] | None
) -> Result:
    """Wait for what is under way, save the model, and say in the log that the run is finished after `total` optimizer steps.

    Args:
        stopped: why that is before its planned length (`patience.stop_of`).
    """
    course = start.course
    policy, prepared, config, world = course.policy, course.prepared, course.config, course.world
    if stopped:
        show.stopped(stopped, total)
        evaluate.end_at(total)
    if keeps_end(config):  # nothing, where that was done before the last evaluation
        _save(saves, total, policy, start.optimizer, log)
    evaluate.finish(total)
    _report_failures(saves.wait(), total, log)
    world.first(log.require_there)
    evaluations, cost = world.first(lambda: (log.reading().evaluations, log.reading().evaluation_cost))
    with console.progress("saving the model"):
        card = model_card(config, prepared.ledger.counts(), evaluations, total, prepared.template, policy.precision, stopped=stopped)
        save_model(policy, log.directory / "model", card, world)
    early = {"stopped": stopped} if stopped else {}
    log.finish({"steps": total, "evaluations": evaluations, "evaluation_cost": cost, "model": "model", **early})
    nothing_left_to_stop()
    return Result(log.directory, evaluations, total, cost)


def _tidy(config: Config, log: RunLog, world: World, step: int) -> None:
    """Remove what only a run under way needs, and write the report of one that is finished after `step` optimizer steps."""
    if world.leads:
        best = _best(log) if config.run.keep_best else []
        checkpoint.remove_all(log.directory, [*best, *([step] if keeps_end(config) else [])])
        forget_drafts(log.directory)
        world.long_task("writing the report")
        _report(log.directory)


def _report(directory: Path) -> None:
    """Write the run's page. What keeps it from being written, whatever it is, is told: the run is finished all the same."""
    try:
        report.write(directory)
    except Exception as error:
        reason = str(error) if isinstance(error, RunError | InputError) else f"{type(error).__name__}: {error}"
        console.say(f"the report was not written: {reason}; to try again: tutelage report {directory}", style="yellow")


def _best(log: RunLog) -> list[int]:
    """The step of the best evaluation so far, the earliest of equals; none before there is one."""
    best = best_of(line for line in log.reading().evaluations if line["step"] > 0)
    return [] if best is None else [best["step"]]


def _worth_keeping(log: RunLog, config: Config, total: int) -> list[int]:
    """Steps whose checkpoints stay for `run.keep_best`: the best so far, and those whose evaluations have not come in yet."""
    if not config.run.keep_best:
        return []
    known = max(log.reading().evaluated, default=-1)
    return [*_best(log), *(step for step in range(known + 1, total) if config.eval.is_due(step, total))]


def _save(saves: Checkpoints, step: int, policy: Policy, optimizer: torch.optim.Optimizer, log: RunLog) -> None:
    """Begin a checkpoint. One that cannot be written is told, and training goes on: the one before is safe."""
    log.to_disk()
    _report_failures(saves.save(step, policy.model, optimizer), step, log)


def _report_failures(failures: Sequence[str], step: int, log: RunLog) -> None:
    for reason in failures:
        console.say(f"step {step}: {reason}; training goes on, the checkpoint before that one is safe", style="bold red")
        log.metrics(kind="save_failed", step=step, reason=reason)


def _saved(
    error: BaseException, policy: Policy, optimizer: torch.optim.Optimizer, step: int, saves: Checkpoints, log: RunLog
) -> BaseException:
    """The error to raise once the state after `step` is saved; if that fails, an error that says so too."""
    policy.model.zero_grad(set_to_none=True)
    failures: list[str] = []
    with contextlib.suppress(KeyboardInterrupt), uninterrupted():
        _report_failures(saves.wait(), step, log)
        try:
            log.write_metrics()  # a state whose steps are not all in the log is not one to go on from
        except RunError as failure:
            failures = [str(failure)]
        if not saves.world.any(bool(failures)):
            failures = saves.save(step, policy.model, optimizer, at_once=True)
    if failures:
        return RunError(f"{error}\nBut not from this step: {failures[0]}")
    return error

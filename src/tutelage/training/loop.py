"""The training loop."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tutelage import console
from tutelage.config import Config
from tutelage.data import Prepared, prepare
from tutelage.errors import InputError, RunError
from tutelage.evaluation import Evaluator, evaluator_for, forget_drafts, registry
from tutelage.machines import ALONE, BEFORE_TRAINING, StopWanted, World, agreed, join, nothing_left_to_stop
from tutelage.model import Policy, load_policy, save_model, tokenizer_of
from tutelage.report import model_card, show
from tutelage.report import page as report
from tutelage.resources import place_engine
from tutelage.runs import Checkpoints, RunLog, SilentRunLog, checkpoint, kept_template, open_run
from tutelage.training.ending import Preempted, Stand, Wait, ending_of
from tutelage.training.fit import Fitting, StartAgain
from tutelage.training.patience import Patience
from tutelage.training.prolong import made_longer
from tutelage.training.saving import best_step, report_failures, save, saved, worth_keeping
from tutelage.training.start import Start, check_size, explain, keeps_end, require, same_model, saves_at, set_up
from tutelage.training.step import Clock, Guard, share_changed, speed_of
from tutelage.training.taken import Stepper

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
        log, longer = _open(config, allow_changes, world, held)
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
        world.first(lambda: explain(policy, config, ready, log, changed, longer))
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


def _open(
    config: Config, allow_changes: Collection[str], world: World, held: contextlib.ExitStack
) -> tuple[RunLog, tuple[int, int] | None]:
    """(the run's log, `made_longer`): rank 0 holds the directory until `held` is left, and the other ranks are silent."""
    log: RunLog = SilentRunLog(Path(config.run.dir))

    def take_directory() -> tuple[int, int] | None:
        nonlocal log
        longer = made_longer(config, allow_changes)  # asked again: much time has passed since `require`
        log = held.enter_context(open_run(config, allow_changes, longer is not None))
        return longer

    longer = world.first(take_directory)
    return log, longer


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
    fitting, patience = Fitting(course, log, start.updates), Patience(config.eval.patience, total, log, world)
    stepper = Stepper(start, fitting, guard)
    saves = Checkpoints(log.directory, world, config.run.keep_last, lambda: worth_keeping(log, config, total))
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
                    with stepper.taken(rows, step, clock, settling) as taken:
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
                        save(saves, step, policy, optimizer, log)
                    if stops:
                        raise StopWanted
                    evaluate(step)
                    world.arm()
                    clock = Clock()
            result = _finished(start, log, evaluate, saves, step, stopped)
        except (StopWanted, KeyboardInterrupt, RuntimeError, MemoryError) as stop:
            ending = ending_of(fitting.again(stop, step), Stand(step, total, log.directory), world, fitting.elsewhere)
            error = saved(ending.error, policy, optimizer, step, saves, log) if ending.saves else ending.error
            _wait(ending.waits, evaluate, step)
            raise agreed(error, world) if ending.agreed else error from None
    _tidy(config, log, world, step)
    return result


def _evaluator(start: Start, log: RunLog) -> Evaluator:
    """What evaluates the policy of a run; where its engine runs is decided and said."""
    course = start.course
    missing = partial(registry.reason, course.config.eval.backend)
    placement = course.world.first(lambda: place_engine(course, start.optimizer, missing))
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
        save(saves, total, policy, start.optimizer, log)
    evaluate.finish(total)
    report_failures(saves.wait(), total, log)
    world.first(log.require_there)
    evaluations, cost = world.first(lambda: (log.reading().evaluations, log.reading().evaluation_cost))
    early = {"stopped": stopped} if stopped else {}
    result = {"steps": total, "evaluations": evaluations, "evaluation_cost": cost, "model": "model", **early}
    with console.progress("saving the model"):
        card = model_card(config, result, prepared.ledger.counts(), prepared.template, policy.precision)
        save_model(policy, log.directory / "model", card, world)
    log.finish(result)
    nothing_left_to_stop()
    return Result(log.directory, evaluations, total, cost)


def _tidy(config: Config, log: RunLog, world: World, step: int) -> None:
    """Remove what only a run under way needs, and write the report of one that is finished after `step` optimizer steps."""
    if world.leads:
        best = best_step(log) if config.run.keep_best else []
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

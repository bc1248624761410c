"""The training loop."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config, changeable, known_keys, parse_config
from tutelage.data import Prepared, TokenizedExample, prepare
from tutelage.errors import InputError, RunError
from tutelage.evaluation import Validation, evaluator_for, forget_drafts, registry
from tutelage.machines import ALONE, StopWanted, World, agreed, join, of_a_collective, uninterrupted
from tutelage.model import (
    Policy,
    check_positions,
    device_for,
    is_out_of_memory,
    load_policy,
    load_tokenizer,
    lora,
    optim,
    resolve,
    save_model,
    size_in_bytes,
)
from tutelage.report import page as report
from tutelage.report import show
from tutelage.resources import engine_device, place_engine
from tutelage.runs import (
    Checkpoints,
    RunLog,
    changes,
    checkpoint,
    open_run,
    refuse_to_overwrite,
    tracking,
    write_text,
)
from tutelage.training.fit import Fitting
from tutelage.training.guard import Guard
from tutelage.training.start import prefetched, set_up
from tutelage.training.step import Clock, speed_of, update_weights


class Interrupted(KeyboardInterrupt):
    """Training was interrupted after its state was saved; the message says how to continue."""


class Preempted(Interrupted):
    """Training was asked to stop (SIGTERM, SIGUSR1), finished its step and saved its state; the message says how to continue."""

    exit_code = 0


class Nonsense(RunError):
    """A step whose loss or gradient makes no sense was not applied, and the run is to stop there, or was to skip too many."""


def save_every(config: Config) -> int:
    """Optimizer steps between checkpoints; 0: none."""
    return config.run.save_every if config.run.save_every is not None else config.eval.every


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: its directory, the evaluations (oldest first), the number of optimizer steps, and for how long
    evaluations held up training (`RunLog.evaluation_cost`)."""

    directory: Path
    evaluations: list[dict[str, Any]]
    steps: int
    evaluation_cost: dict[str, float | None]


def train_one_size(
    config: Config,
    size: int | None = None,
    *,
    allow_changes: Collection[str] = (),
    prepared: Prepared | None = None,
    baseline: Path | None = None,
) -> Result:
    """Fine-tune on `size` training rows (None: what `config.data.size` says) and evaluate while training.

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
    if size is not None:
        raw = config.model_dump()
        config = parse_config({**raw, "data": {**raw["data"], "size": size}})
    console.quiet_libraries()
    with join(config.model.device, config.parallel.timeout) as world, contextlib.ExitStack() as held:
        world.first(lambda: _require(config, world, allow_changes))
        tokenizer = world.first(lambda: load_tokenizer(config.model.id))
        ready = world.first(lambda: prepared or prepare(config, tokenizer))
        opened: list[RunLog] = []
        world.first(lambda: opened.append(held.enter_context(open_run(config, allow_changes))))
        log = opened[0] if opened else RunLog(Path(config.run.dir), leads=False)
        if world.leads:
            show.preview(ready, tokenizer)
        with console.progress("loading the model"):
            policy = load_policy(config.model, tokenizer, world=world, shard_ranks=config.parallel.shard)
        world.first(lambda: _check_size(policy, ready, config, log.directory))
        world.first(lambda: _begin(policy, config, ready, log, allow_changes))
        if world.any(world.stop.wanted):
            raise agreed(Preempted(f"stopped before training; to begin: tutelage train {log.directory / 'config.toml'}"), world)
        return run(policy, ready, config, log, world, baseline)


def evaluate_untrained(config: Config, prepared: Prepared) -> Path:
    """Let the untouched model solve the validation problems, as a run's own first evaluation does; the run directory of that."""
    console.quiet_libraries()
    _require(config, ALONE, ())
    with open_run(config) as log:
        with console.progress("loading the model"):
            policy = load_policy(config.model, load_tokenizer(config.model.id))
        _check_size(policy, prepared, config, log.directory)
        _begin(policy, config, prepared, log, ())
        policy, optimizer, course, _ = set_up(policy, prepared, config, log)
        longest = prepared.longest_prompt + config.eval.max_new_tokens
        placement = place_engine(policy, config, optimizer, course.largest, longest, 1, partial(registry.reason, config.eval.backend))
        evaluator = evaluator_for(Validation(policy, prepared, config, log, course.total), placement, optimizer)
        with contextlib.closing(evaluator) as evaluate:
            evaluate(0)
            evaluate.finish(0)
        evaluations = log.evaluations()
        if not evaluations:
            raise RunError(f"the untouched model could not be evaluated; {log.directory}/metrics.jsonl says why")
        log.finish({"steps": 0, "evaluations": evaluations})
        forget_drafts(log.directory)
    return log.directory


def _require(config: Config, world: World, allow_changes: Collection[str]) -> None:
    """What can be wrong is found before anything is read or computed. Raises InputError."""
    trains_on = device_for(config.model.device, world)
    optim.require(config, world.size)
    if config.model.lora != "none":
        lora.require()
    if config.parallel.shard is not None and world.size % config.parallel.shard:
        raise InputError(f"parallel.shard = {config.parallel.shard} does not divide the {world.size} ranks of this job")
    if config.train.on_oom == "adapt" and world.size > 1:
        raise InputError('train.on_oom = "adapt": not with several ranks, where one that runs out of memory leaves the others waiting')
    for key in allow_changes:
        if key not in known_keys():
            raise InputError(f"--allow {key}: there is no such setting")
    if config.run.keep_best and (not save_every(config) or config.eval.every % save_every(config)):
        raise InputError(
            f"run.keep_best: evaluations, every {config.eval.every} steps, need a checkpoint each; set run.save_every to a divisor of that"
        )
    tracking.require(config.run.tracking)
    if config.eval.backend != "native":
        generates_on = engine_device(config.eval.device, trains_on, world.local_size)
        registry.require(config.eval.backend, generates_on.type)
    resolve(config.model.id)
    refuse_to_overwrite(config, allow_changes)


def _begin(policy: Policy, config: Config, prepared: Prepared, log: RunLog, allow_changes: Collection[str]) -> None:
    """Write what explains the run, and which settings a run that goes on has changed."""
    found = checkpoint.latest(log.directory)
    changed = changes(config, changeable() - set(allow_changes)) if found is not None else []
    log.begin(config, prepared.template, prepared.description(policy.tokenizer), prepared.ledger)
    if found is not None and changed:
        log.metrics(kind="config_changed", step=checkpoint.step_of(found), changes=changed)


def run(
    policy: Policy, prepared: Prepared, config: Config, log: RunLog, world: World = ALONE, baseline: Path | None = None
) -> Result:
    """Train from where the run stands to its end, evaluating on the way, and save the model."""
    policy, optimizer, course, step = set_up(policy, prepared, config, log, world)
    if baseline is not None:
        world.first(lambda: log.adopt(baseline))
    total = course.total
    longest = prepared.longest_prompt + config.eval.max_new_tokens
    missing = partial(registry.reason, config.eval.backend)
    placement = world.first(lambda: place_engine(policy, config, optimizer, course.largest, longest, world.local_size, missing))
    guard = world.first(lambda: Guard.of_lines(config.train.spike_ratio, log.steps()))
    fitting = Fitting(course, config, log, world)
    saves = Checkpoints(log.directory, world, config.run.keep_last, lambda: _worth_keeping(log, config, total))
    evaluator = evaluator_for(Validation(policy, prepared, config, log, total, world), placement, optimizer)
    settling = policy.compiled  # the first step after a start compiles, which takes long
    with contextlib.closing(saves), contextlib.closing(evaluator) as evaluate, world.listening():
        try:
            evaluate(step)
            with console.progress("training", total, done=step) as advance, prefetched(course.at, range(step, total)) as ahead:
                clock = Clock()
                for examples, batches in ahead:
                    clock.lap("data")
                    gradients = fitting.gradients(examples, batches, step, may_stop=settling)
                    clock.lap("forward_backward")
                    objection = guard.objection(gradients.loss, gradients.grad_norm)
                    if objection:
                        _refuse(objection, step, examples, guard, config, log)
                    with uninterrupted():  # weights, optimizer, step number and log change together or not at all
                        lr = optim.lr_at(step, total, config.train)
                        changed, weights = (0.0, 1.0) if objection else update_weights(policy, optimizer, lr)
                        step, settling = step + 1, False
                        clock.lap("optimizer")
                        changed, weights, stops = world.sum([changed, weights, world.stop.wanted])
                        log.metrics(
                            kind="train", step=step, epoch=round(step / course.epoch, 4), lr=lr, **gradients.as_metrics(),
                            weights_changed=round(changed / weights, 4), **({"skipped": objection} if objection else {}),
                            **speed_of(policy, examples, gradients, clock, world),
                        )  # fmt: skip
                    advance(1, f"loss {gradients.loss:.4f}")
                    evaluate.collect(step)  # what is logged outlasts the checkpoint
                    if save_every(config) and step % save_every(config) == 0 and step < total:
                        _save(saves, step, policy, optimizer, log)
                    if stops:
                        raise StopWanted
                    evaluate(step)
                    world.arm()
                    clock = Clock()
            evaluate.finish(total)
            _tell_failures(saves.wait(), total, log)
            result = _finished(policy, prepared, config, log, total, world)
        except (StopWanted, KeyboardInterrupt, RuntimeError, MemoryError) as stop:
            if world.size > 1 and not (isinstance(stop, StopWanted | Nonsense) or getattr(stop, "agreed", False)):
                raise _left_alone(stop, world) from None
            if isinstance(stop, RuntimeError) and not isinstance(stop, RunError) and not is_out_of_memory(stop):
                raise
            explained = _explained(stop, f"step {step} of {total}", fitting, log, world)
            explained = _saved(explained, policy, optimizer, step, saves, log)
            if isinstance(stop, StopWanted | KeyboardInterrupt):
                with contextlib.suppress(KeyboardInterrupt, RunError, StopWanted):  # a second Ctrl-C gives up what is in flight
                    evaluate.give_up(step) if isinstance(stop, StopWanted) else evaluate.finish(step)
            raise agreed(explained, world) from None
    if world.leads:
        checkpoint.remove_all(log.directory, _best(log) if config.run.keep_best else ())
        forget_drafts(log.directory)
        world.long_task("writing the report")
        _report(log.directory)
    return result


def _finished(policy: Policy, prepared: Prepared, config: Config, log: RunLog, total: int, world: World) -> Result:
    """Save the model, and say in the log that the run is finished."""
    evaluations, cost = world.first(lambda: (log.evaluations(), log.evaluation_cost()))
    with console.progress("saving the model"):
        card = show.model_card(config, prepared.ledger.counts(), evaluations, total)
        save_model(policy, log.directory / "model", card, world)
    log.finish({"steps": total, "evaluations": evaluations, "evaluation_cost": cost, "model": "model"})
    return Result(log.directory, evaluations, total, cost)


def _report(directory: Path) -> None:
    """Write the run's page. What keeps it from being written, whatever it is, is told: the run is finished all the same."""
    try:
        report.write(directory)
    except Exception as error:
        reason = str(error) if isinstance(error, RunError | InputError) else f"{type(error).__name__}: {error}"
        console.say(f"the report was not written: {reason}; to try again: tutelage report {directory}", style="yellow")


def _best(log: RunLog) -> list[int]:
    """The step of the best evaluation so far, the earliest of equals; none before there is one."""
    evaluations = [line for line in log.evaluations() if line["step"] > 0]
    return [max(evaluations, key=lambda line: (line["accuracy"], -line["step"]))["step"]] if evaluations else []


def _worth_keeping(log: RunLog, config: Config, total: int) -> list[int]:
    """Steps whose checkpoints stay for `run.keep_best`: the best so far, and those whose evaluations have not come in yet."""
    if not config.run.keep_best:
        return []
    known = max((line["step"] for line in log.evaluations()), default=-1)
    return [*_best(log), *(step for step in range(known + 1, total) if config.eval.is_due(step, total))]


def _save(saves: Checkpoints, step: int, policy: Policy, optimizer: torch.optim.Optimizer, log: RunLog) -> None:
    """Begin a checkpoint. One that cannot be written is told, and training goes on: the one before is safe."""
    log.to_disk()
    _tell_failures(saves.save(step, policy.model, optimizer), step, log)


def _tell_failures(failures: Sequence[str], step: int, log: RunLog) -> None:
    for reason in failures:
        console.say(f"step {step}: {reason}; training goes on, the checkpoint before that one is safe", style="bold red")
        log.metrics(kind="save_failed", step=step, reason=reason)


def _refuse(objection: str, step: int, examples: Sequence[TokenizedExample], guard: Guard, config: Config, log: RunLog) -> None:
    """Write down a step that is not applied. Raises Nonsense if the run is not to go on without it."""
    sources = [example.source for example in examples]
    guard.skipped += 1
    record = log.directory / "nonsense" / f"step-{step + 1}.json"
    replay = f"tutelage train {log.directory / 'config.toml'} --replay {step + 1}"
    if log.leads:
        record.parent.mkdir(exist_ok=True)
        write_text(
            record, json.dumps({"step": step + 1, "reason": objection, "rows": sources, "replay": replay}, indent=2) + "\n"
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


def _explained(stop: BaseException, where: str, fitting: Fitting, log: RunLog, world: World) -> BaseException:
    """What is raised when training stops after `where`: what happened, and how to go on from there."""
    how = (
        f"stopped after {where}; everything measured is in {log.directory}.\n"
        f"To go on from there: tutelage train {log.directory / 'config.toml'}"
    )
    if isinstance(stop, StopWanted):
        ranks = f" --launch {world.size} (or any other number of ranks)" if world.size > 1 else ""
        return Preempted(f"{world.stop.by or 'another rank was asked'}: {how}{ranks}")
    if isinstance(stop, KeyboardInterrupt):
        return Interrupted(how)
    if isinstance(stop, RunError):
        return RunError(f"{stop}\n{how}")
    return RunError(f"{fitting.elsewhere(str(stop).splitlines()[0] if str(stop) else 'out of memory')}\n{how}")


def _left_alone(stop: BaseException, world: World) -> BaseException:
    """What is raised when one of several ranks fails: the others wait for it in vain, so nothing can be saved."""
    if isinstance(stop, RuntimeError) and of_a_collective(stop) and not isinstance(stop, RunError):
        stop = world.lost(stop)
    if isinstance(stop, RunError | MemoryError) or is_out_of_memory(stop):
        return RunError(
            f"rank {world.rank}: {str(stop) or 'out of memory'}\n"
            "The job ends, and the same command goes on from the last checkpoint."
        )
    return stop


def _saved(
    explained: BaseException, policy: Policy, optimizer: torch.optim.Optimizer, step: int, saves: Checkpoints, log: RunLog
) -> BaseException:
    """`explained` once the state after `step` is saved; if it cannot be, what says so too."""
    policy.model.zero_grad(set_to_none=True)
    failures: list[str] = []
    with contextlib.suppress(KeyboardInterrupt), uninterrupted():
        _tell_failures(saves.wait(), step, log)
        try:
            log.write_metrics()  # a state whose steps are not all in the log is not one to go on from
        except RunError as error:
            failures = [str(error)]
        if not saves.world.any(bool(failures)):
            failures = [*saves.save(step, policy.model, optimizer), *saves.wait()]
    if failures:
        return RunError(f"{explained}\nBut not from this step: {failures[0]}")
    return explained


def _check_size(policy: Policy, prepared: Prepared, config: Config, directory: Path) -> None:
    """The model must have positions for the longest sequences, and the disk room for the model, and for the checkpoints that are kept
    beside the one that is being written. Raises InputError."""
    check_positions(policy, prepared.max_length, "data.max_length")
    longest = prepared.longest_prompt + config.eval.max_new_tokens
    check_positions(policy, longest, "the longest prompt + eval.max_new_tokens")
    checkpoint_size = 3 * size_in_bytes(policy.model, trained=True)
    kept = 1 + config.run.keep_last + config.run.keep_best
    needed = size_in_bytes(policy.model) + (0 if config.run.save_every == 0 else kept * checkpoint_size)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(
            f"run.dir: {directory.absolute()} has {free / 1e9:.1f} GB free, and the run needs {needed / 1e9:.1f} GB"
            " for its model and checkpoints (run.save_every = 0 keeps none; run.keep_last fewer); make room, or choose another"
            " --run.dir"
        )

"""How a run starts, or goes on: what is checked before anything is computed, and the state that training continues from."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tutelage import console
from tutelage.config import Config, changeable, known_keys
from tutelage.data import Prepared
from tutelage.errors import InputError, first_line
from tutelage.evaluation import forget_drafts, registry
from tutelage.machines import ALONE, World, agreed, bytes_in_words
from tutelage.model import (
    Course,
    Policy,
    check_positions,
    device_for,
    identity_of,
    is_out_of_memory,
    lora,
    loss_named,
    optim,
    quantized,
    resolve,
    size_in_bytes,
)
from tutelage.resources import costs_of, engine_device, matrix_rate
from tutelage.runs import RunLog, changes, checkpoint, refuse_another_model, refuse_to_overwrite, tracking
from tutelage.training import arrange, in_backward
from tutelage.training.fit import Fitting, MemoryRanOut
from tutelage.training.in_backward import InBackward
from tutelage.training.prolong import LENGTH, in_words, made_longer


def save_every(config: Config) -> int:
    """Optimizer steps between checkpoints; 0: none."""
    return config.run.save_every if config.run.save_every is not None else config.eval.every


def keeps_end(config: Config) -> bool:
    """Whether the checkpoint of a finished run's end stays."""
    return config.run.keep_end and config.run.save_every != 0


def saves_at(config: Config, step: int, total: int) -> bool:
    """Whether a checkpoint is taken after `step` of `total` optimizer steps."""
    if step == total:
        return keeps_end(config)
    return save_every(config) > 0 and step % save_every(config) == 0


def require(config: Config, world: World, allow_changes: Collection[str]) -> frozenset[str]:
    """What can be wrong with settings and packages is found before anything is read or computed. Raises InputError.

    Returns:
        The settings in which the configuration may differ from that of the run in `run.dir`: those that say how long it is, where it
        is made longer, beside `allow_changes`.
    """
    trains_on = device_for(config.model.device, world)
    optim.require(config)
    in_backward.require(config)
    arrange.require(config)
    loss_named(config.train.loss)
    if config.model.lora != "none":
        lora.require()
    if config.model.quantize != "none":
        quantized.require()
        if world.size > 1:
            raise InputError(f'model.quantize = "{config.model.quantize}": on one GPU alone; 4-bit weights are not shared among ranks')
    if config.parallel.shard is not None and world.size % config.parallel.shard:
        raise InputError(f"parallel.shard = {config.parallel.shard} does not divide the {world.size} ranks of this job")
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
    longer = made_longer(config, allow_changes)
    allowed = frozenset(allow_changes) | (LENGTH if longer else frozenset())
    refuse_to_overwrite(config, allowed, reopens=longer is not None)
    return allowed


def check_size(policy: Policy, prepared: Prepared, config: Config, directory: Path) -> None:
    """The model must have positions for the longest sequences, and the disk room for the model and its checkpoints.

    Raises:
        InputError: one of them is too small.
    """
    check_positions(policy, prepared.max_length, "data.max_length")
    longest = prepared.longest_prompt + config.eval.max_new_tokens
    check_positions(policy, longest, "the longest prompt + eval.max_new_tokens")
    checkpoint_size = 3 * size_in_bytes(policy.model, trained=True)
    # those that are kept, beside the one that is being written
    kept = 1 + config.run.keep_last + config.run.keep_best
    needed = size_in_bytes(policy.model) + (0 if config.run.save_every == 0 else kept * checkpoint_size)
    own = checkpoint.size_on_disk(directory)  # of a run that goes on; new ones take their room
    free = shutil.disk_usage(directory).free
    if free + own < needed:
        wants, has = bytes_in_words(needed - own, free)
        raise InputError(
            f"run.dir: the run needs {wants}{' more' if own else ''}, {has} are free in {directory.absolute()}:"
            " room for its model and checkpoints (run.save_every = 0 keeps none; run.keep_last fewer); make room, or choose another"
            " --run.dir"
        )


def same_model(config: Config, directory: Path, allow_changes: Collection[str]) -> list[str]:
    """What has changed of the model behind `model.id` since an unfinished run was begun, where that is allowed.

    Raises:
        InputError: it has changed, and that is not allowed.
    """
    if checkpoint.latest(directory) is None:
        return []
    now = identity_of(config.model.id)
    what_to_do = ", give this run another --run.dir, or go on with the model as it is now: --allow model.id"
    return refuse_another_model(directory, now, what_to_do, allow_changes)


def explain(
    policy: Policy,
    config: Config,
    prepared: Prepared,
    log: RunLog,
    changed: Sequence[str] = (),
    longer: tuple[int, int] | None = None,
) -> None:
    """Write what explains the run, and what a run that goes on has changed.

    Args:
        changed: of the model (`same_model`).
        longer: as `made_longer`.
    """
    found = checkpoint.latest(log.directory)
    kept = changeable() - set(log.allowed) | (LENGTH if longer else frozenset())
    changed = [*changed, *changes(config, kept)] if found is not None else []
    description, model = prepared.description(policy.tokenizer), identity_of(config.model.id)
    log.begin(config, prepared.template, description, prepared.ledger, model)
    if found is not None and changed:
        log.metrics(kind="config_changed", step=checkpoint.step_of(found), changes=changed)
    if found is not None and longer is not None:
        step = checkpoint.step_of(found)
        said = in_words(log.reading(), config, step, longer[1])
        log.metrics(kind="prolonged", step=step, planned=longer[0], total=longer[1], said=said)
        console.say(f"Made longer after step {step:,}: {said}.", style="bold")


@dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes:
        step: optimizer steps that are done already.
        matrix_rate: floating-point operations per second of the device; None: they could not be measured.
        updates: what takes steps whose weights change in the backward pass; None: they change after it.
    """

    course: Course
    optimizer: torch.optim.Optimizer
    step: int
    matrix_rate: float | None
    updates: InBackward | None


def set_up(
    policy: Policy,
    prepared: Prepared,
    config: Config,
    log: RunLog,
    world: World = ALONE,
    until: int | None = None,
    trains: bool = True,
) -> Start:
    """Arrange the policy for the run, and restore the newest checkpoint, if there is one.

    Args:
        until: no checkpoint of more steps is taken.
        trains: whether steps follow; else the optimizer gets no state.

    Raises:
        MemoryRanOut: there is no memory for the optimizer's state; nothing was trained.
        InputError: weights change in the backward pass, and a step could have several batches, which cannot go backward together.
    """
    policy.packs = policy.packs and config.train.pack
    optimizer = optim.make_optimizer(policy.model, config)
    course = Course(prepared, config, policy, world.first(lambda: costs_of(policy)), world)
    world.first(lambda: in_backward.require_batches(course))
    rate = _describe_device(policy, log)
    if trains:
        _fill_state(optimizer, course, log)
    step = _resume(course, optimizer, log, until)
    record = log.directory / "plan.json"
    if step == 0 and log.leads:
        arrange.forget(record, config)
    as_before = step > 0 and arrange.recorded(record).get("ranks") == world.size  # then what was decided has been said
    with console.quiet() if as_before else contextlib.nullcontext():
        arrange.arrange(course, optim.state_bytes(optimizer), rate, record, writes=log.leads)
    policy.model.config.use_cache = False
    policy.model.train()
    return Start(course, optimizer, step, rate, InBackward.of(course, optimizer))


def _describe_device(policy: Policy, log: RunLog) -> float | None:
    """The rate of matrix products, written down with the kernel that computes attention within packs.

    It is measured now, while nothing depends on it: in the middle of a step it would take memory and time that others need.
    """
    rate = matrix_rate(policy.device, policy.compute_dtype)
    log.add_to_environment(matrix_flops_per_second=rate, kernel=str(policy.kernel) if policy.packs else None)
    return rate


def _fill_state(optimizer: torch.optim.Optimizer, course: Course, log: RunLog) -> None:
    failure = ""
    try:
        optim.fill_state(optimizer)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = first_line(error)
    if course.world.any(bool(failure)):
        explained = Fitting(course, log).elsewhere(failure or "memory ran out on another rank")
        raise agreed(MemoryRanOut(f"no room for the optimizer's state, so nothing was trained: {explained}"), course.world)


def _resume(course: Course, optimizer: torch.optim.Optimizer, log: RunLog, until: int | None) -> int:
    """Restore the newest checkpoint if there is one; the number of optimizer steps already done."""
    policy, world = course.policy, course.world
    found = world.first(lambda: checkpoint.latest(log.directory, until))
    if found is None:
        log.set_aside()
        if log.leads:
            forget_drafts(log.directory)
        return 0
    with console.progress("loading the checkpoint"):
        step = checkpoint.load(found, policy.model, optimizer, world)
    rows = "" if step == 0 else "; rows, prompts and validation problems are those that it began with"
    console.say(f"going on after step {step:,} of {course.total:,} ({found}){rows}")
    log.forget_after(step)
    if log.leads:
        forget_drafts(log.directory, but_of=step)
    return step

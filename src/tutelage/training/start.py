"""Where a run stands when it starts, or goes on: its optimizer, its course, and the checkpoint that it goes on from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.data import Prepared
from tutelage.evaluation import forget_drafts
from tutelage.machines import ALONE, World
from tutelage.model import Course, Policy, optim
from tutelage.resources import pair_cost
from tutelage.runs import RunLog, checkpoint
from tutelage.training import arrange

T = TypeVar("T")


def set_up(
    policy: Policy, prepared: Prepared, config: Config, log: RunLog, world: World = ALONE, until: int | None = None
) -> tuple[Policy, torch.optim.Optimizer, Course, int]:
    """The policy arranged for the run, its optimizer, its course, and the optimizer steps that the newest checkpoint had done.

    Args:
        until: no checkpoint of more steps is taken.
    """
    policy = replace(policy, packs=policy.packs and config.train.pack)
    optimizer = optim.make_optimizer(policy.model, config)
    step = _resume(policy, optimizer, log, world, until)
    course = Course(prepared, config, policy, pair_cost(policy), world)
    record = log.directory / "plan.json"
    if step == 0 and log.leads:
        record.unlink(missing_ok=True)
    tokens = sum(map(len, prepared.train)) * course.total // course.epoch
    policy = arrange.arrange(policy, config, course.largest, tokens, record, world, writes=log.leads)
    policy.model.config.use_cache = False
    policy.model.train()
    return policy, optimizer, replace(course, policy=policy), step


def _resume(policy: Policy, optimizer: torch.optim.Optimizer, log: RunLog, world: World, until: int | None) -> int:
    """Restore the newest checkpoint if there is one; the number of optimizer steps already done."""
    found = world.first(lambda: checkpoint.latest(log.directory, until))
    if found is None:
        log.set_aside()
        if log.leads:
            forget_drafts(log.directory)
        return 0
    with console.progress("loading the checkpoint"):
        optim.fill_state(optimizer)
        step = checkpoint.load(found, policy.model, optimizer, world)
    console.say(f"continuing after step {step} ({found})", style="bold")
    log.forget_after(step)
    if log.leads:
        forget_drafts(log.directory, but_of=step)
    return step


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

"""What each optimizer step of a run computes, and where a run stands when it starts, or goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from tutelage import checkpoint, console, optim, packing, plan
from tutelage.config import Config
from tutelage.draft import forget_drafts
from tutelage.policy import Policy
from tutelage.prepare import Prepared
from tutelage.runlog import RunLog
from tutelage.speed import pair_cost
from tutelage.tokens import TokenizedExample
from tutelage.world import ALONE, World

T = TypeVar("T")


@dataclass(frozen=True)
class Course:
    """What each optimizer step of a run computes, a function of the configuration and the rows alone.

    Batches are made in a thread of their own, which must not look at the model while it computes.

    Attributes:
        pair_cost: as `plan_packs`, of this model.
        budget: distinct tokens of a pack; `largest`: tokens of the largest batch.
        epoch, total: optimizer steps of one pass over the rows, and of the run.
    """

    prepared: Prepared
    config: Config
    policy: Policy
    pair_cost: float
    world: World = ALONE

    @property
    def rows_per_step(self) -> int:
        return self.config.train.batch_size * self.config.train.grad_accum

    @property
    def epoch(self) -> int:
        return packing.steps_per_epoch(len(self.prepared.train), self.rows_per_step)

    @property
    def total(self) -> int:
        train = self.config.train
        return packing.total_steps(len(self.prepared.train), self.rows_per_step, train.num_epochs, train.num_steps)

    @property
    def budget(self) -> int:
        return self.config.train.pack_tokens or self.config.train.batch_size * self.prepared.max_length

    @property
    def largest(self) -> int:
        rows = self.config.train.batch_size * self.prepared.max_length
        return max(self.budget, self.prepared.max_length) if self.policy.packs else rows

    def examples(self, step: int) -> list[TokenizedExample]:
        rows = packing.step_rows(len(self.prepared.train), self.rows_per_step, self.config.train.seed, step)
        return [self.prepared.train[row] for row in rows]

    def batches(self, examples: Sequence[TokenizedExample], parts: int = 1) -> list[packing.Batch]:
        """This rank's batches of a step with these rows, each `parts` times smaller than planned, though of one row at least."""
        pad_id = None if self.policy.packs else self.policy.pad_token_id
        return packing.step_batches(
            examples, max(1, self.budget // parts), max(1, self.config.train.batch_size // parts), pad_id,
            self.world.rank, self.world.size, self.pair_cost,
        )  # fmt: skip

    def at(self, step: int) -> tuple[list[TokenizedExample], list[packing.Batch]]:
        """The rows of optimizer step `step` (from 0), and this rank's batches of them."""
        examples = self.examples(step)
        return examples, self.batches(examples)


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
    policy = plan.arrange(policy, config, course.largest, tokens, record, world, writes=log.leads)
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

"""What each optimizer step of a run computes: its rows, and the batches that they are laid out in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tutelage.config import Config
from tutelage.data import Prepared, TokenizedExample
from tutelage.machines import ALONE, World
from tutelage.model import packing
from tutelage.model.policy import Policy

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

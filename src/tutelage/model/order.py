"""Which rows make up a step, as a pure function of (seed, step), and in which batches they go through the model."""

from __future__ import annotations

import functools
import heapq
import math
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from tutelage.config import Config, TrainConfig
from tutelage.data import Prepared, TokenizedExample
from tutelage.machines import ALONE, World
from tutelage.model.batch import Batch, pack, pack_rows, pad
from tutelage.model.packs import AS_FEW, Costs, lay_out_packs
from tutelage.model.policy import Policy
from tutelage.model.trie import SortedRows


def steps_per_epoch(rows: int, rows_per_step: int) -> int:
    """Optimizer steps of one pass over the rows; the last one may be smaller."""
    return math.ceil(rows / rows_per_step)


def total_steps(rows: int, train: TrainConfig) -> int:
    """Optimizer steps of a run on so many rows."""
    if train.num_steps is not None:
        return train.num_steps
    return math.ceil(train.num_epochs * steps_per_epoch(rows, train.rows_per_step) - 1e-9)


def step_rows(rows: int, rows_per_step: int, seed: int, step: int) -> Sequence[int]:
    """Indices of the rows of optimizer step `step` (from 0). Each epoch has an order of its own; its last step may be smaller."""
    epoch, within = divmod(step, steps_per_epoch(rows, rows_per_step))
    return epoch_order(rows, seed, epoch)[within * rows_per_step : (within + 1) * rows_per_step]


@functools.lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> Sequence[int]:
    """The order of all rows in an epoch.

    A million rows take seconds to shuffle, so the orders of the last two epochs are kept: steps are prefetched across the border.
    """
    order = array("I", range(rows))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order


def step_batches(
    examples: Sequence[TokenizedExample],
    budget: int,
    rows: int,
    pad_id: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    costs: Costs | None = None,
) -> list[Batch]:
    """A rank's batches of one optimizer step.

    All ranks get the same number of batches, because collectives run in lockstep. A rank without rows repeats the shortest row
    with weight 0.

    Args:
        budget: distinct tokens of a pack at most.
        rows: padded rows of a batch at most.
        pad_id: what padded rows are filled with; None: rows are packed.
        costs: as `lay_out_packs`.
    """
    idle = min(examples, key=len)
    if pad_id is None:
        packs = lay_out_packs(SortedRows.of_examples(examples), budget, ranks, costs)
        if ranks > 1:  # batches that are computed at the same time cost about the same
            packs.sort(key=lambda each: (costs or Costs()).of(each.size), reverse=True)
        return [pack_rows(each) if len(each) else _of_no_weight(pack([idle])) for each in packs[rank::ranks]]
    ordered = sorted(range(len(examples)), key=lambda index: len(examples[index]), reverse=True)  # rows of like length
    size = min(rows, math.ceil(len(examples) / ranks))
    groups = [[examples[index] for index in ordered[start : start + size]] for start in range(0, len(ordered), size)]
    groups += [[] for _ in range(-len(groups) % ranks)]
    if ranks > 1:
        groups.sort(key=lambda group: sum(map(len, group)), reverse=True)
    return [pad(group, pad_id) if group else _of_no_weight(pad([idle], pad_id)) for group in groups[rank::ranks]]


def _of_no_weight(batch: Batch) -> Batch:
    return replace(batch, weights=torch.zeros_like(batch.weights), counts=None)


def one_pack(lengths: Iterable[int], rows: int, ranks: int, budget: int = 0) -> int:
    """The least tokens of a pack with which any `rows` of a step fit into one pack of each rank; `budget` where that is enough."""
    largest = heapq.nlargest(rows, lengths)
    most, longest = int(sum(largest)), int(largest[0])
    # so many ranks always find room for an item: a pack that has none for it is nearly full
    if most <= max(budget, ranks * (budget - longest)):
        return budget
    return most if ranks == 1 else math.ceil(most / ranks) + longest


@dataclass(frozen=True)
class Course:
    """What each optimizer step of a run computes, a function of the configuration and the rows alone.

    Batches are made in a thread of their own, which must not look at the model while it computes.

    Attributes:
        costs: as `lay_out_packs`, of this model on its device.
    """

    prepared: Prepared
    config: Config
    policy: Policy
    costs: Costs | None = None
    world: World = ALONE

    @property
    def epoch(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return steps_per_epoch(self.prepared.rows, self.config.train.rows_per_step)

    @property
    def total(self) -> int:
        """Optimizer steps of the run."""
        return total_steps(self.prepared.rows, self.config.train)

    @property
    def budget(self) -> int:
        """Distinct tokens of a pack at most."""
        return self.config.train.pack_tokens or self.config.train.batch_size * self.prepared.max_length

    @property
    def largest(self) -> int:
        """Tokens of the largest batch, at most."""
        rows = self.config.train.batch_size * self.prepared.max_length
        return max(self.budget, self.prepared.max_length) if self.policy.packs else rows

    @property
    def longest(self) -> int:
        """Tokens of a problem's prompt and response, at most."""
        return self.prepared.longest_prompt + self.config.eval.max_new_tokens

    @property
    def most(self) -> int:
        """Tokens of the longest rows of a step, of all ranks; no step has more."""
        return int(sum(heapq.nlargest(self.config.train.rows_per_step, self.prepared.lengths)))

    @property
    def has_several(self) -> bool:
        """Whether a step could have several batches (of a rank)."""
        if not self.policy.packs:
            return self.config.train.grad_accum > 1
        return one_pack(self.prepared.lengths, self.config.train.rows_per_step, self.world.size, self.budget) > self.budget

    @property
    def together(self) -> int:
        """Tokens of the batches of a step, at most, where those go backward together; 0: where they do not."""
        if self.config.train.update != "in_backward" or not self.has_several:
            return 0
        return self.most if self.policy.packs else self.config.train.rows_per_step * self.prepared.max_length

    def examples(self, step: int) -> list[TokenizedExample]:
        """The sequences of the rows of optimizer step `step` (from 0), those of all ranks."""
        return self.prepared.of_rows(step_rows(self.prepared.rows, self.config.train.rows_per_step, self.config.train.seed, step))

    def batches(self, examples: Sequence[TokenizedExample], parts: int = 1) -> list[Batch]:
        """This rank's batches of a step with these rows, each `parts` times smaller than planned, though of one row at least."""
        budget, rows = max(1, self.budget // parts), max(1, self.config.train.batch_size // parts)
        pad_id = None if self.policy.packs else self.policy.pad_token_id
        costs = self.costs
        if self.config.train.update == "in_backward":  # a step is one batch, if it can be
            costs = replace(costs or Costs(), pack=AS_FEW)
        return step_batches(examples, budget, rows, pad_id, self.world.rank, self.world.size, costs)

    def at(self, step: int) -> tuple[list[TokenizedExample], list[Batch]]:
        """The rows of optimizer step `step` (from 0), and this rank's batches of them, ready for the model.

        Where the device has no memory for them now, they are made ready in their step: what runs out there is known how to handle.
        """
        examples = self.examples(step)
        batches = self.batches(examples)
        try:
            return examples, [batch.ready(self.policy.kernel) for batch in batches]
        except torch.OutOfMemoryError:
            return examples, batches

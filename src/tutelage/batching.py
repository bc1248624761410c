"""Which rows make up a step, as a pure function of (seed, step), and how they are split into micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch

from tutelage.tokens import TokenizedExample, pad_and_shift


def steps_per_epoch(rows: int, rows_per_step: int) -> int:
    return math.ceil(rows / rows_per_step)


def total_steps(rows: int, rows_per_step: int, num_epochs: float, num_steps: int | None) -> int:
    return num_steps if num_steps is not None else math.ceil(num_epochs * steps_per_epoch(rows, rows_per_step) - 1e-9)


def step_rows(rows: int, rows_per_step: int, seed: int, step: int) -> list[int]:
    """Indices of the rows of optimizer step `step` (from 0). Each epoch has an order of its own; its last step may be smaller."""
    epoch, within = divmod(step, steps_per_epoch(rows, rows_per_step))
    order = list(range(rows))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order[within * rows_per_step : (within + 1) * rows_per_step]


def micro_batches(examples: Sequence[TokenizedExample], batch_size: int, pad_id: int) -> list[dict[str, torch.Tensor]]:
    """The examples of one step, sorted by length so that little is padding, `batch_size` at a time.

    How a step is split changes nothing but rounding: the loss is one sum over one denominator.
    """
    ordered = sorted(examples, key=len, reverse=True)
    groups = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [pad_and_shift([(example.prompt_ids, example.response_ids) for example in group], pad_id) for group in groups]

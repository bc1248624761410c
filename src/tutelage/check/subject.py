"""What the doctor looks at: a person's configuration, tokenizer and rows, and the model in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config, replaced
from tutelage.data import Pool, Prepared, TokenizedExample, choose, read_pool
from tutelage.model import Course, Policy, check_positions, load_policy, load_tokenizer, outline
from tutelage.resources import pair_cost

ROWS = 8
"""Rows that the model computes."""
LOOKED_AT = 64
"""They are the shortest of so many."""
SAMPLED = 4096
"""Elements of each weight's gradient that are compared."""


@dataclass(frozen=True)
class Finding:
    """Whether a property holds (None: it cannot be asked here), and the figures."""

    holds: bool | None
    figures: str


@dataclass(frozen=True)
class Subject:
    """Attributes:
    config: as it was given, but with the rows below for one step, unclipped.
    pool, prepared: all rows.
    rows: the few that the model computes.
    policy: in float32, in packs where the model allows and the configuration wants.
    scratch: a directory that is removed afterwards.
    """

    config: Config
    pool: Pool
    prepared: Prepared
    rows: list[TokenizedExample]
    policy: Policy
    scratch: Path

    def course(self, budget: int | None = None, rows_together: int = ROWS) -> Course:
        """One step of the few rows, in packs of at most `budget` tokens (None: one pack), or so many padded rows together."""
        budget = budget or sum(map(len, self.rows))
        config = replaced(
            self.config,
            {"train.pack_tokens": budget, "train.batch_size": rows_together, "train.grad_accum": ROWS // rows_together},
        )
        return Course(self.prepared, config, self.policy, pair_cost(self.policy))


def make_subject(config: Config, scratch: Path) -> Subject:
    """Read, grade and tokenize the rows, and load the model. Raises InputError."""
    tokenizer = load_tokenizer(config.model.id)
    pool = read_pool(config, tokenizer)
    prepared = choose(pool, config.data)
    check_positions(outline(config.model, tokenizer, torch.device("cpu")), prepared.max_length, "data.max_length")
    rows = sorted(prepared.train[:LOOKED_AT], key=len)[:ROWS]
    # everything is trained, so that everything is compared; adapters have tests of their own
    wide = replaced(config, {"model.precision": "fp32", "model.lora": "none", "train.clip_grad": 1e30})
    with console.progress("loading the model"):
        policy = load_policy(wide.model, tokenizer)
    policy.packs = policy.packs and config.train.pack
    return Subject(wide, pool, prepared, rows, policy, scratch)


def sampled_gradient(model: torch.nn.Module, full_tensor: Any = None) -> torch.Tensor:
    """Elements of every gradient, evenly spaced, one after another: (elements,) float64, on the CPU.

    Args:
        full_tensor: what makes a sharded gradient whole, where it is.
    """
    parts = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradient = full_tensor(parameter.grad) if callable(full_tensor) else parameter.grad
            parts.append(gradient.detach().flatten()[:: max(1, gradient.numel() // SAMPLED)].double().cpu())
    return torch.cat(parts)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖; infinite where they have not as many elements."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def largest_gap(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """The largest difference of log-probabilities, in nats."""
    return worst([float((x.double() - y.double()).abs().max()) for x, y in zip(a, b, strict=True)])


def worst(values: Sequence[float]) -> float:
    """The largest, and NaN if one is not a number, which Python's `max` may overlook."""
    return float(torch.tensor(values, dtype=torch.float64).max())

"""What the doctor looks at, a person's configuration, tokenizer, rows and model in float32, and how it compares figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tutelage import console
from tutelage.config import Config, replaced
from tutelage.data import Pool, Prepared, TokenizedExample, choose, read_pool
from tutelage.model import Course, Policy, check_positions, load_policy, outline, tokenizer_of
from tutelage.resources import costs_of

ROWS = 8
"""Rows that the model computes."""
LOOKED_AT = 64
"""They are the shortest of the first so many training rows."""
SAMPLED = 4096
"""Elements of each weight, or of its gradient, that are compared."""


@dataclass(frozen=True)
class Finding:
    """Whether a property holds (None: it is not applicable), and the figures."""

    holds: bool | None
    figures: str

    @property
    def verdict(self) -> str:
        return {True: "proven", False: "failed", None: "not applicable"}[self.holds]


@dataclass(frozen=True)
class Subject:
    """What the properties are tried on.

    Attributes:
        config: the given one, but in float32, without adapters and unclipped. `pool.config` is as it was given.
        pool, prepared: all rows.
        rows: the few that the model computes.
        policy: it packs rows if the model allows that and the configuration wants it.
        scratch: a directory that is removed afterwards.
    """

    config: Config
    pool: Pool
    prepared: Prepared
    rows: list[TokenizedExample]
    policy: Policy
    scratch: Path

    def course(self, rows_together: int) -> Course:
        """One step of the few rows, so many of them together: padded, or in packs that have room for so many; all are one pack."""
        lengths = list(map(len, self.rows))
        layout = {
            "train.pack_tokens": sum(lengths) if rows_together == ROWS else rows_together * max(lengths),
            "train.batch_size": rows_together,
            "train.grad_accum": ROWS // rows_together,
        }
        return Course(self.prepared, replaced(self.config, layout), self.policy, costs_of(self.policy))


def make_subject(config: Config, scratch: Path) -> Subject:
    """Read, grade and tokenize the rows, and load the model. Raises InputError."""
    tokenizer = tokenizer_of(config)
    pool = read_pool(config, tokenizer)
    prepared = choose(pool, config.data)
    check_positions(outline(config.model, tokenizer, torch.device("cpu")), prepared.max_length, "data.max_length")
    rows = sorted(prepared.train[:LOOKED_AT], key=len)[:ROWS]
    # everything is trained, so that everything is compared; adapters have tests of their own
    wide = replaced(config, {"model.precision": "fp32", "model.lora": "none", "model.quantize": "none", "train.clip_grad": 1e12})
    with console.progress("loading the model"):
        policy = load_policy(wide.model, tokenizer)
    policy.packs = policy.packs and config.train.pack
    return Subject(wide, pool, prepared, rows, policy, scratch)


def sampled(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Evenly spaced elements of every tensor, one tensor after another: (elements,) float64, on the CPU."""
    return torch.cat([tensor.detach().flatten()[:: max(1, tensor.numel() // SAMPLED)].double().cpu() for tensor in tensors])


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖; infinite if they do not have as many elements."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def largest_gap(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """The largest difference of log-probabilities, in nats."""
    return worst([float((x.double() - y.double()).abs().max()) for x, y in zip(a, b, strict=True)])


def worst(values: Sequence[float]) -> float:
    """The largest, and NaN if one is not a number, which Python's `max` may overlook."""
    return float(torch.tensor(values, dtype=torch.float64).max())

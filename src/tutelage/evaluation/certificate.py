"""Does the engine hold the trainer's weights? Both score fixed sequences; the difference is kept with the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tutelage.data import TokenizedExample, arithmetic
from tutelage.errors import RunError
from tutelage.evaluation.engine.contract import Scores
from tutelage.model import Policy

PROBES, LENGTH = 2, 160
"""How many sequences, and of how many tokens: several blocks of an engine's prefix cache."""
CUTS = tuple(range(LENGTH // 4, LENGTH, LENGTH // 16))
"""Indices of the tokens that are scored through the cache too: so many that in bfloat16 their mean says something."""
MAX_GAP_FLOAT32, MEAN_GAP_BFLOAT16 = 1e-3, 0.1
"""Bounds in nats. Engines and trainers add in another order: in float32 that shows below 1e-4, in bfloat16 as 0.03–0.05 on
average, single tokens differing by more; a stale head gives 0.3 and more, a stale cache several nats."""


@dataclass(frozen=True)
class Certificate:
    """How far the engine's log-probabilities are from the trainer's on the probes, in nats.

    Attributes:
        cached_max_gap, cached_mean_gap: through the engine's prefix cache, on fewer tokens.
        cached_tokens: tokens that were read from that cache; 0 says that this engine has none.
        weights_sha256: of the copy of the weights that the engine loaded; None: it has read its own.
        sync_seconds: what the copy, the trainer's scores, and loading took together.
        training_seconds: what of it the trainer stood still for: all but loading.
    """

    dtype: str
    tokens: int
    max_gap: float
    mean_gap: float
    cached_max_gap: float
    cached_mean_gap: float
    cached_tokens: int
    weights_sha256: str | None = None
    sync_seconds: float | None = None
    training_seconds: float | None = None

    @property
    def holds(self) -> bool:
        if self.dtype == "float32":
            return all(gap <= MAX_GAP_FLOAT32 for gap in (self.max_gap, self.cached_max_gap))
        return all(gap <= MEAN_GAP_BFLOAT16 for gap in (self.mean_gap, self.cached_mean_gap))

    def as_dict(self) -> dict[str, Any]:
        """For a log; JSON has neither NaN nor infinity."""
        values = asdict(self) | {"holds": self.holds}
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}

    def require(self) -> None:
        """Raises UncertifiedWeights if a gap is beyond its bound."""
        if not self.holds:
            bound = f"max {MAX_GAP_FLOAT32}" if self.dtype == "float32" else f"mean {MEAN_GAP_BFLOAT16}"
            raise UncertifiedWeights(
                self,
                f"the engine does not hold the trainer's weights: log-probabilities of {self.tokens} probe tokens differ by"
                f" {self.mean_gap:.2g} on average and {self.max_gap:.2g} at most, through the prefix cache by"
                f" {self.cached_mean_gap:.2g} and {self.cached_max_gap:.2g}; allowed is {bound} ({self.dtype})",
            )


class UncertifiedWeights(RunError):
    """The engine does not hold the trainer's weights; what it generates says nothing about them."""

    def __init__(self, certificate: Certificate, message: str) -> None:
        super().__init__(message)
        self.certificate = certificate


def probes(tokenizer: Any, longest: int | None = None) -> list[tuple[int, ...]]:
    """Fixed sequences of ids: worked solutions of the built-in task, one after the other, of `LENGTH` tokens (or `longest`)."""
    length = min(LENGTH, longest or LENGTH)
    texts = ["".join(message["content"] + "\n" for message in row["messages"]) for row in arithmetic.rows("train", 40 * PROBES)]
    ids = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False)]
    return [tuple(ids[index * length : (index + 1) * length]) for index in range(PROBES)]


def cuts_of(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The indices of the tokens that are scored through the cache: `CUTS`, or nearer to the start in shorter sequences."""
    length = len(sequences[0])
    return sorted({max(1, cut * length // LENGTH) for cut in CUTS})


def trainer_scores(policy: Policy, sequences: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Log-probabilities of every token but the first of each sequence, by the policy as it computes in training."""
    rows = [TokenizedExample(f"probe {index}", ids[:1], ids[1:]) for index, ids in enumerate(sequences)]
    return [log_probs.float() for log_probs, _ in policy.score_responses(rows)]


def compare(expected: Sequence[torch.Tensor], scored: Scores, cuts: Sequence[int], dtype: str, **more: Any) -> Certificate:
    """The certificate from the trainer's scores and what the engine's `score` gave."""
    plain = (torch.cat(list(expected)) - torch.tensor([value for values in scored["plain"] for value in values])).abs()
    at_cuts = torch.stack([scores[cut - 1] for scores in expected for cut in cuts])
    cached = (at_cuts - torch.tensor(scored["cached"])).abs()
    return Certificate(
        dtype, plain.numel(), plain.max().item(), plain.mean().item(), cached.max().item(), cached.mean().item(),
        scored["cached_tokens"], **more,
    )  # fmt: skip

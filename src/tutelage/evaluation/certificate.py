"""Does the engine hold the trainer's weights? Both score the same sequences; the differences are kept with the results.

Two questions, two measures:

- *Are these the weights?* The trainer scores in float32 what it sent. How far the engine is from that is compared with how far the
  trainer's own arithmetic is from it: rounding of the same kind, on the same model.
- *Or are they those of the sync before?* Since then the trainer's scores have moved, and the engine's must have moved with them.
  The share of the trainer's movement that the engine made is 1 for the new weights and 0 for the old ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tutelage.data import TokenizedExample, arithmetic
from tutelage.errors import RunError
from tutelage.evaluation.engine.contract import Scores
from tutelage.model import Policy, in_float32
from tutelage.runs import finite

PROBES, LENGTH = 2, 160
"""How many sequences, and of how many tokens: several blocks of an engine's prefix cache."""
CUTS = tuple(range(LENGTH // 4, LENGTH, LENGTH // 16))
"""Indices of the tokens that are scored through the cache too: so many that in bfloat16 their mean says something."""
MAX_GAP_FLOAT32 = 1e-3
"""In nats. Engines and trainers add in another order: in float32 that shows below 1e-4. A stale cache gives several nats."""
ROUNDINGS = 3.0
"""How many times the trainer's own mean rounding an engine in bfloat16 may be off on average. Engines are off by 0.9 to 1.2 times."""
SEPARATE = 8.0
"""Standard errors that the engine's share of a step must be apart from what it is not: with fewer from 0 to 1 nothing is judged."""
TOLERANCE = 0.05
"""By how much the engine's share may be below 1 in any case."""
LEAST_ROUNDING = 1e-5
"""Nats that are taken for rounding where none is measured, as in float32."""


@dataclass(frozen=True)
class Expected:
    """What the trainer says of the weights that it sends.

    Attributes:
        sequences: ids; the probes of the engine first, then rows that are trained on.
        scores: log-probabilities of every token but the first of each, in float32.
        rounding: how far the trainer's own arithmetic in the engine's precision is from that, on average over the probes, in nats.
    """

    sequences: tuple[tuple[int, ...], ...]
    scores: list[torch.Tensor]
    rounding: float = 0.0


@dataclass(frozen=True)
class Held:
    """The last sync that is known to have been right: what the trainer expected, and the engine's log-probabilities of it."""

    expected: Expected
    plain: list[list[float]]


@dataclass(frozen=True)
class Certificate:
    """How far the engine's log-probabilities are from the trainer's, in nats.

    Attributes:
        cached_max_gap, cached_mean_gap: through the engine's prefix cache, on fewer tokens.
        cached_tokens: tokens that were read from that cache; 0 says that this engine has none.
        rounding: as in `Expected`.
        step_gap: how far the trainer's scores have moved since the last sync that was right, on average.
        step_share, step_error: the share of this movement that the engine made, and its standard error; None: nothing has moved.
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
    rounding: float = 0.0
    step_gap: float | None = None
    step_share: float | None = None
    step_error: float | None = None
    weights_sha256: str | None = None
    sync_seconds: float | None = None
    training_seconds: float | None = None

    @property
    def bound(self) -> float:
        """In nats: of the largest gap in float32, of the mean gap in bfloat16."""
        return MAX_GAP_FLOAT32 if self.dtype == "float32" else max(MAX_GAP_FLOAT32, ROUNDINGS * self.rounding)

    @property
    def step(self) -> str | None:
        """Whether the engine has the new weights or those of the last sync: "taken", "in part", "missed", "cannot be told".

        None: there is nothing to compare with, or nothing has moved.
        """
        if self.step_share is None or self.step_error is None:
            return None
        if not self.step_error <= 1 / SEPARATE:
            return "cannot be told"
        if self.step_share < 0.5:
            return "missed"
        return "taken" if self.step_share >= 1 - max(TOLERANCE, SEPARATE * self.step_error) else "in part"

    @property
    def holds(self) -> bool:
        gaps = (self.max_gap, self.cached_max_gap) if self.dtype == "float32" else (self.mean_gap, self.cached_mean_gap)
        return all(gap <= self.bound for gap in gaps) and self.step not in ("missed", "in part")

    def as_dict(self) -> dict[str, Any]:
        """For a log; JSON has neither NaN nor infinity."""
        values: dict[str, Any] = finite(asdict(self) | {"bound": self.bound, "step": self.step, "holds": self.holds})
        return values

    def require(self) -> None:
        """Raises UncertifiedWeights if a gap is beyond its bound, or the engine has not moved with the trainer."""
        if self.holds:
            return
        why = (
            f"log-probabilities of {self.tokens} tokens differ by {self.mean_gap:.2g} on average and {self.max_gap:.2g} at most,"
            f" through the prefix cache by {self.cached_mean_gap:.2g} and {self.cached_max_gap:.2g}; allowed is"
            f" {'max' if self.dtype == 'float32' else 'mean'} {self.bound:.2g} ({self.dtype})"
        )
        if self.step in ("missed", "in part"):
            why += (
                f"; since the last sync they have moved by {self.step_gap:.2g} on average, of which the engine made"
                f" {self.step_share:.2f} ± {self.step_error:.2f}: it still has {'some of ' * (self.step == 'in part')}the weights of then"
            )
        raise UncertifiedWeights(self, f"the engine does not hold the trainer's weights: {why}")


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


def excerpts(rows: Sequence[TokenizedExample], length: int) -> list[tuple[int, ...]]:
    """One sequence of `length` ids of rows that are about to be trained on: their scores will move most. None of too few tokens.

    Of each row, the end of its prompt and the beginning of its response.
    """
    ids: list[int] = []
    for row in rows:
        if len(ids) >= length:
            break
        ids += (row.prompt_ids + row.response_ids)[max(0, len(row.prompt_ids) - length // 4) :][:length]
    return [tuple(ids[:length])] if len(ids) >= length else []


def expected_of(
    policy: Policy,
    dtype: str,
    probes: Sequence[tuple[int, ...]],
    rows: Sequence[TokenizedExample] = (),
    held: Held | None = None,
) -> Expected:
    """What the trainer says of its weights now. Of a sharded policy, all ranks take part.

    Args:
        dtype: the engine's.
        rows: that will be trained on next.
        held: the last sync that was right; the rows that it looked ahead at are scored again.
    """
    sent: torch.dtype = getattr(torch, dtype)
    before = list(held.expected.sequences[len(probes) :][-1:]) if held is not None else []
    sequences = tuple(dict.fromkeys([*probes, *before, *excerpts(rows, len(probes[0]))]))
    with in_float32(policy, sent) as exact:
        scores = trainer_scores(exact, sequences)
    if sent == torch.float32:
        return Expected(sequences, scores)
    rounding = copy.copy(policy)  # of the same model
    rounding.precision = "bf16-mixed" if policy.precision == "fp32" else policy.precision
    rounded = trainer_scores(rounding, probes)
    return Expected(sequences, scores, _gaps(rounded, scores[: len(probes)]).mean().item())


def trainer_scores(policy: Policy, sequences: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Log-probabilities of every token but the first of each sequence, by the policy as it computes now."""
    rows = [TokenizedExample(f"probe {index}", ids[:1], ids[1:]) for index, ids in enumerate(sequences)]
    return [log_probs.float() for log_probs, _ in policy.score_responses(rows)]


def compare(
    expected: Expected, scored: Scores, cuts: Sequence[int], dtype: str, held: Held | None = None, **more: Any
) -> Certificate:
    """The certificate from what the trainer expects and what the engine's `score` gave.

    Args:
        scored: `plain` of all the sequences; `cached` of the first ones, the probes.
        held: the last sync that was right.
        more: further fields of the certificate.
    """
    plain = _gaps(expected.scores, scored["plain"])
    probes = expected.scores[: len(scored["cached"][0]) // len(cuts)]
    cached = (torch.stack([scores[cut - 1] for scores in probes for cut in cuts]) - torch.tensor(scored["cached"])).abs()
    if held is not None:
        more |= _step(expected, scored["plain"], held)
    return Certificate(
        dtype, plain.numel(), plain.max().item(), plain.mean().item(), cached.max().item(), cached.mean().item(),
        scored["cached_tokens"], expected.rounding, **more,
    )  # fmt: skip


def held_after(proof: Certificate, expected: Expected, scored: Scores, held: Held | None) -> Held | None:
    """What the next sync is compared with: this one if it is known to be right, else the one before.

    So movements that are too small to tell add up until they are not.
    """
    right = proof.holds and (held is None or proof.step == "taken")
    return Held(expected, scored["plain"]) if right else held


def _step(expected: Expected, plain: Sequence[Sequence[float]], held: Held) -> dict[str, float]:
    """`step_gap`, `step_share` and `step_error`, from the sequences that both syncs scored; nothing if nothing has moved.

    The share is the slope of the engine's movement over the trainer's. The trainer's has no rounding, so the slope is not biased.
    Its standard error is that of the engine's rounding, twice, or that of what the slope leaves over, whichever is larger.
    """
    then = {ids: index for index, ids in enumerate(held.expected.sequences)}
    pairs = [(index, then[ids]) for index, ids in enumerate(expected.sequences) if ids in then]
    moved = _differences([expected.scores[now] for now, _ in pairs], [held.expected.scores[before] for _, before in pairs])
    made = _differences([plain[now] for now, _ in pairs], [held.plain[before] for _, before in pairs])
    squares = moved.square().sum()
    if not squares > 0:
        return {}
    share = (moved * made).sum() / squares
    rounding = _gaps(held.expected.scores, held.plain).square().mean().sqrt().clamp(min=LEAST_ROUNDING)
    errors = (2**0.5 * rounding / squares.sqrt(), ((made - share * moved) * moved).norm() / squares)
    return {
        "step_gap": moved.abs().mean().item(), "step_share": share.item(), "step_error": torch.stack(errors).max().item(),
    }  # fmt: skip


def _differences(some: Sequence[Any], others: Sequence[Any]) -> torch.Tensor:
    """Values of sequences less those of others, one after the other, in float64."""
    a, b = (torch.cat([torch.as_tensor(values, dtype=torch.float64) for values in all]) for all in (some, others))
    return a - b


def _gaps(some: Sequence[Any], others: Sequence[Any]) -> torch.Tensor:
    return _differences(some, others).abs()

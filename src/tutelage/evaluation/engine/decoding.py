"""One token after another: how a batch of prompts is read, how a token is chosen, and the way that lets the cache grow with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from tutelage.evaluation.engine.contract import Sampling
from tutelage.model import compute_entropy

Columns = tuple[list[list[int]], list[list[float]], list[list[float]]]
"""Tokens, their entropies and their log-probabilities, each as (rows, tokens)."""


class Decoder(Protocol):
    """A way to continue a batch of prompts: `begin` reads them, then `advance` and `keep` take turns.

    Attributes:
        block: how many tokens `advance` may be asked for.
    """

    block: int

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompts, each of which becomes a row. What was there before is forgotten."""

    def advance(self, count: int, uniforms: list[list[float]] | None) -> Columns:
        """The next `count` tokens of each row.

        Args:
            uniforms: (rows, count) draws from [0, 1); None: greedy.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """From now on, these rows are all rows, in this order."""

    def close(self) -> None:
        """Give back all memory."""


class Growing:
    """The way that any model can go: one token at a time, a cache that grows, and rows that leave it as soon as they end."""

    block = 1

    def __init__(self, model: Any, sampling: Sampling, ends: set[int]) -> None:
        self.model, self.sampling, self.ends = model, sampling, ends
        self.made = 0
        self.cache: Any = None

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache

        self.ids, self.mask, self.positions = left_padded(prompts, device_of(self.model))
        self.cache = DynamicCache(config=self.model.config)
        self.made = 0

    def advance(self, count: int, uniforms: list[list[float]] | None) -> Columns:
        logits = self.forward()
        self.made += 1
        forbidden = end_mask(self.ends, logits) if self.made <= self.sampling.min_new_tokens else None
        draws = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, 0] if uniforms is not None else None
        chosen, entropies, log_probs = pick(logits, self.sampling, forbidden, draws)
        self.ids = chosen[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(chosen), 1))], dim=-1)
        self.positions = self.positions[:, -1:] + 1
        return chosen[:, None].tolist(), entropies[:, None].tolist(), log_probs[:, None].tolist()

    def forward(self) -> torch.Tensor:
        """Logits (rows, vocabulary) of the next token; the cache takes in what was read."""
        output = self.model(
            input_ids=self.ids, attention_mask=self.mask, position_ids=self.positions, past_key_values=self.cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        if not rows:
            return self.close()
        index = torch.tensor(rows, device=self.ids.device)
        self.cache.batch_select_indices(index)
        self.ids, self.mask, self.positions = self.ids[index], self.mask[index], self.positions[index]

    def close(self) -> None:
        self.cache = None


def device_of(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, mask, positions), each (prompts, width), so that all prompts end in the same column."""
    missing = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
    ids = [[0] * gap + list(prompt) for gap, prompt in zip(missing, prompts, strict=True)]
    mask = torch.tensor(
        [[0] * gap + [1] * len(prompt) for gap, prompt in zip(missing, prompts, strict=True)], device=device
    )  # fmt: skip
    return torch.tensor(ids, device=device), mask, (mask.cumsum(-1) - 1).clamp(min=0)


def end_mask(ends: set[int], logits: torch.Tensor) -> torch.Tensor:
    """Which tokens of the vocabulary end a response: (vocabulary,)."""
    mask = torch.zeros(logits.shape[-1], dtype=torch.bool)
    mask[sorted(ends)] = True
    return mask.to(logits.device)


def pick(
    logits: torch.Tensor, sampling: Sampling, forbidden: torch.Tensor | None, uniforms: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The next token of each row, the entropy of the distribution, and the log-probability that it gave the token: (rows,) each.

    Entropy and log-probability are those of the model: before temperature and top-p, and before what is forbidden.

    Args:
        logits: (rows, vocabulary).
        forbidden: (vocabulary,), tokens that are not chosen.
        uniforms: as `choose`.
    """
    logits = logits.float()
    entropies, log_z = compute_entropy(logits), logits.logsumexp(-1)
    if forbidden is not None:
        logits = logits.masked_fill(forbidden, -torch.inf)
    chosen = choose(logits, sampling, uniforms)
    return chosen, entropies, logits.gather(-1, chosen[:, None]).squeeze(-1) - log_z


def choose(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row: the most likely one, or the one where the cumulative probability passes a uniform draw.

    Only top-p needs tokens in the order of their probability; without it the vocabulary's own order does, and nothing is sorted.
    A row whose logits are not numbers gets some token of the vocabulary.

    Args:
        logits: (rows, vocabulary), float32.
        uniforms: (rows,) in float64, from [0, 1); None: the most likely token.
    """
    if uniforms is None:
        return logits.argmax(dim=-1)
    probabilities, order = torch.softmax(logits.double() / sampling.temperature, dim=-1), None
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)  # the first token always stays
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    last = torch.searchsorted(cumulative, total)  # the last token of positive probability, which rounding must not pass
    chosen = torch.minimum(torch.searchsorted(cumulative, uniforms[:, None] * total, right=True), last)
    chosen = chosen.clamp(max=logits.shape[-1] - 1)  # of NaN, all are past the end
    return (chosen if order is None else order.gather(-1, chosen)).squeeze(-1)

"""One contract for every engine that generates: prompts and `Sampling` in, `Completion`s out, in the order of the prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How to generate. Temperature 0 is greedy. `stop` strings end a response and stay in its text.

    Attributes:
        samples: responses per prompt; they follow each other in the result.
        min_new_tokens: before so many tokens, neither an end token nor a stop string ends a response.
        top_logprobs: over how many of the likeliest tokens an engine that does not see the whole distribution sums the entropy;
            0: not at all.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("</answer>",)
    seed: int = 0
    samples: int = 1
    min_new_tokens: int = 0
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: max_new_tokens must be at least 1, temperature at least 0, top_p in (0, 1]")
        if self.samples < 1 or not 0 <= self.min_new_tokens <= self.max_new_tokens or self.top_logprobs < 0:
            raise ValueError(f"{self}: samples must be at least 1, min_new_tokens at most max_new_tokens")

    def seed_of(self, problem: int, sample: int) -> int:
        """A seed for each response: it depends neither on the batch nor on the engine that it was generated in."""
        return random.Random(f"{self.seed}-{problem}-{sample}").getrandbits(53)


@dataclass(frozen=True)
class Completion:
    """A response: `finish_reason` is "stop" (end token or stop string) or "length" (cut off at the cap).

    `entropies` holds the entropy in nats of the distribution that each token was drawn from, before temperature and top-p, and
    `log_probs` the log-probability that it gave that token; None when the engine did not tell.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    entropies: tuple[float, ...] | None
    log_probs: tuple[float, ...] | None = None


def to_text(tokenizer: Any, tokens: Sequence[int], ends: set[int], sampling: Sampling) -> str:
    """The text of a response, up to and with the stop string that ended it.

    Special tokens are kept, for in some tokenizers <think> is one; only the end token is not part of the response.
    """
    text: str = tokenizer.decode(list(tokens[:-1] if tokens and tokens[-1] in ends else tokens))
    early = len(tokenizer.decode(list(tokens[: sampling.min_new_tokens]))) if sampling.min_new_tokens else 0
    return cut_at_stop(text, sampling.stop, early)[0]


def cut_at_stop(text: str, stop: tuple[str, ...], early: int = 0) -> tuple[str, bool]:
    """The text up to and with the first stop string, and whether there was one (a token may reach past it).

    Stop strings that are complete within the first `early` characters do not count.
    """
    ends = [position + len(string) for string in stop if (position := text.find(string, max(0, early - len(string) + 1))) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def end_token_ids(tokenizer: Any, configured: int | list[int] | None) -> set[int]:
    """What ends a response: the tokenizer's end token, and those that the model's generation configuration names."""
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [tokenizer.eos_token_id, *several] if token is not None}

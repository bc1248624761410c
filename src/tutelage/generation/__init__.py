"""One contract for every engine that generates: prompts and `Sampling` in, `Completion`s out, in the order of the prompts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How to generate. Temperature 0 is greedy. `stop` strings end a response and stay in its text."""

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("</answer>",)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: max_new_tokens must be at least 1, temperature at least 0, top_p in (0, 1]")


@dataclass(frozen=True)
class Completion:
    """A response: `finish_reason` is "stop" (end token or stop string) or "length" (cut off at the cap).

    `entropies` holds the entropy in nats of the distribution that each token was drawn from, before temperature and top-p;
    None when the engine cannot tell.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    entropies: tuple[float, ...] | None


def cut_at_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The text up to and with the first stop string, and whether there was one (a token may reach past it)."""
    ends = [position + len(string) for string in stop if (position := text.find(string)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)

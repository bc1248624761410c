"""The contract of an engine: prompts and `Sampling` in, `Completion`s out, in the order of the prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    import torch

UNFINISHED = "\ufffd"
"""What a character is decoded as while some of its bytes are missing."""


@dataclass(frozen=True)
class Sampling:
    """How to generate. Temperature 0 is greedy. `stop` strings end a response and stay in its text.

    Attributes:
        samples: responses per prompt; they follow each other in the result.
        min_new_tokens: before so many tokens, no stop string ends a response, and no token that would end it is chosen.
        top_logprobs: over how many of the likeliest tokens an engine that does not see the whole distribution sums the entropy;
            0: not at all.
        end_token_id: the one token that ends a response; None: those that tokenizer and generation configuration name.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("</answer>",)
    seed: int = 0
    samples: int = 1
    min_new_tokens: int = 0
    top_logprobs: int = 0
    end_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: max_new_tokens must be at least 1, temperature at least 0, top_p in (0, 1]")
        if self.samples < 1 or not 0 <= self.min_new_tokens <= self.max_new_tokens or self.top_logprobs < 0:
            raise ValueError(f"{self}: samples must be at least 1, min_new_tokens at most max_new_tokens")
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(f"{self}: stop must be several strings, none of them empty")

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


class Scores(TypedDict):
    """What `Engine.score` returns, in nats.

    For n sequences of T tokens and c cuts: `plain` is (n, T − 1), the log-probability of every token but the first. `cached` is
    (2, n·c): the log-probabilities of the tokens at the cuts of the first sequence, of the second, …, scored twice.
    `cached_tokens` counts the prompt tokens that the second time read from a prefix cache; 0: the engine has no such cache.
    """

    plain: list[list[float]]
    cached: list[list[float]]
    cached_tokens: int


class Engine(Protocol):
    """What generates for an evaluation. It is made, and called, in a process of its own (`process.serve`), in one thread.

    It is made with these keywords: `model` (a directory or hub name, whose weights it has until `load`), `device` ("cpu", or "cuda"
    for the one GPU that its process sees), `dtype` ("bfloat16", "float32"), `seed`, `gpu_memory_utilization` (the share of the
    GPU's memory that it may take), `max_model_len` (longest prompt + response in tokens, or None), `sleeps` (whether `sleep` will be
    called). What a method raises fails the evaluation, not the run.

    An engine of your own is a class in a file of the current directory, and `eval.backend = "my_file:MyEngine"`. The trainer
    imports that file to check the name, so import what is heavy inside the class.

    Where training and the engine take turns on one GPU, the class also needs `sleep()`, which gives the GPU's memory back, and
    `wake_up()`. A static method `missing(device)` may say what keeps it from running on a kind of device ("cpu", "cuda"): a
    reason and a remedy, or two empty strings. A method `answer` may take what vLLM's `LLM.generate` takes (`VllmEngine.answer`).
    """

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over weights by the names of the model's state dictionary, and forget what was cached under the old ones.

        Args:
            weights: all of the model, a tied head too, on the CPU, in the engine's dtype. The memory is gone after the call.
        """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        indices: Sequence[int] | None = None,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """`sampling.samples` completions of each prompt (token ids), one prompt's after the other's.

        Args:
            sampling: where it has an `end_token_id`, that token and the stop strings end a response, and nothing else does.
            indices: the index of each prompt's problem, from which `sampling.seed_of` makes seeds; default: 0, 1, 2, …
            on_finished: call it with the number of responses that have just finished. It is also the sign of life: an engine
                that is silent for `eval.timeout` seconds counts as hung.
        """

    def score(self, sequences: Sequence[Sequence[int]], cuts: Sequence[int]) -> Scores:
        """Log-probabilities of sequences (n, T), and of their tokens at the indices `cuts` once more, through the prefix cache.

        They are those of the model, before temperature and top-p, in float32: one that is rounded to bfloat16 is as far off as
        other weights. There may be no cuts.
        """


def to_text(tokenizer: Any, tokens: Sequence[int], ends: set[int], sampling: Sampling) -> str:
    """The text of a response, up to and with the stop string that ended it.

    Special tokens are kept, for in some tokenizers <think> is one; only the end token is not part of the response.
    """
    text: str = tokenizer.decode(list(tokens[:-1] if tokens and tokens[-1] in ends else tokens))
    return cut_at_stop(text, sampling.stop, complete_characters(tokenizer, tokens[: sampling.min_new_tokens]))[0]


def complete_characters(tokenizer: Any, tokens: Sequence[int]) -> int:
    """How many characters tokens spell to the end. A character of several bytes may still lack some: it belongs to the next token."""
    return len(tokenizer.decode(list(tokens)).rstrip(UNFINISHED)) if tokens else 0


def cut_at_stop(text: str, stop: tuple[str, ...], early: int = 0) -> tuple[str, bool]:
    """The text up to and with the first stop string, and whether there was one (a token may reach past it).

    Stop strings that are complete within the first `early` characters do not count.
    """
    ends = [position + len(string) for string in stop if (position := text.find(string, max(0, early - len(string) + 1))) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def end_token_ids(sampling: Sampling, tokenizer: Any, configured: int | list[int] | None) -> set[int]:
    """What ends a response, beside the stop strings: the one end token of the run.

    An engine without a run (`init_vllm`, `log_generations`) is told none: there, the tokenizer's end token ends a response, and
    each that the model's generation configuration names.

    Args:
        configured: `eos_token_id` of the generation configuration.
    """
    if sampling.end_token_id is not None:
        return {sampling.end_token_id}
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [tokenizer.eos_token_id, *several] if token is not None}

"""What vLLM's `LLM.generate` returns, as objects that reach a process without vLLM. The names are vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.evaluation.engine.contract import Completion, Sampling


@dataclass(frozen=True)
class Logprob:
    """The log-probability of a token in nats, and its rank: 1 is the likeliest token."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


Position = dict[int, Logprob]
"""Log-probabilities at a position, by token."""


@dataclass(frozen=True)
class CompletionOutput:
    """One response.

    Attributes:
        index: of the sample among those of its prompt.
        logprobs: at each position of `token_ids`; None: they were not asked for.
        cumulative_logprob: their sum over the tokens of the response.
        finish_reason: "stop" or "length".
        stop_reason: the stop string, or the token of `stop_token_ids`, that ended it; None: the model's end token, or the cap.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[Position] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True)
class RequestOutput:
    """A prompt and its responses. `prompt` is None where only token ids were given."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[Position | None] | None = None
    num_cached_tokens: int | None = None
    finished: bool = True


def without_vllm(request: Any) -> RequestOutput:
    """vLLM's own RequestOutput in the classes of this file."""
    outputs = [
        CompletionOutput(
            output.index, output.text, list(output.token_ids), output.cumulative_logprob, _positions(output.logprobs),
            output.finish_reason, output.stop_reason,
        )
        for output in request.outputs
    ]  # fmt: skip
    return RequestOutput(
        request.request_id, request.prompt, list(request.prompt_token_ids), outputs, _positions(request.prompt_logprobs),
        request.num_cached_tokens,
    )  # fmt: skip


def _positions(found: Any) -> Any:
    if found is None:
        return None
    return [
        position
        and {token: Logprob(entry.logprob, entry.rank, entry.decoded_token) for token, entry in position.items()}
        for position in found
    ]


def of_completions(
    prompts: Sequence[tuple[str | None, list[int]]], completions: Sequence[Completion], sampling: Sampling
) -> list[RequestOutput]:
    """Completions of prompts (text, token ids), all samples of one after the other, as vLLM would return them."""
    found = []
    for index, (text, ids) in enumerate(prompts):
        samples = completions[index * sampling.samples : (index + 1) * sampling.samples]
        outputs = [_output(sample, completion, sampling) for sample, completion in enumerate(samples)]
        found.append(RequestOutput(str(index), text, ids, outputs))
    return found


def _output(index: int, completion: Completion, sampling: Sampling) -> CompletionOutput:
    tokens, known = list(completion.token_ids), completion.log_probs
    stopped_by = [string for string in sampling.stop if completion.text.endswith(string)] if completion.finish_reason == "stop" else []
    return CompletionOutput(
        index, completion.text, tokens, sum(known) if known else None,
        [{token: Logprob(value)} for token, value in zip(tokens, known, strict=True)] if known else None,
        completion.finish_reason, stopped_by[0] if stopped_by else None,
    )  # fmt: skip


def to_completion(output: Any, top_logprobs: int) -> Completion:
    """A response of vLLM's kind as one of ours: the text as vLLM cut it.

    Args:
        top_logprobs: over how many of the likeliest tokens to sum the entropy; 0: not at all.
    """
    if output.finish_reason in ("abort", "error"):
        raise RuntimeError(f"vLLM ended a response by itself: {output.finish_reason}")
    entropies = log_probs = None
    if output.logprobs is not None and top_logprobs:
        entropies = tuple(entropy_of(position, top_logprobs) for position in output.logprobs)
        log_probs = tuple(position[token].logprob for token, position in zip(output.token_ids, output.logprobs, strict=True))
    reason = "length" if output.finish_reason == "length" else "stop"
    return Completion(output.text, tuple(output.token_ids), reason, entropies, log_probs)


def entropy_of(position: dict[int, Any], k: int) -> float:
    """−Σ p log p over the k likeliest tokens, in nats: a lower bound of the distribution's entropy."""
    import torch

    logs = torch.tensor([entry.logprob for entry in position.values() if entry.rank <= k], dtype=torch.float64)
    return float(-(logs.exp() * logs).sum())

"""The training model itself generates: batches with a KV cache, prompts sorted by length, rows leaving as they finish."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tutelage.evaluation.engine.contract import Completion, Sampling, cut_at_stop, end_token_ids, to_text
from tutelage.model import compute_entropy, evaluating

Request = tuple[int, int]
"""The index of a problem, and the index of the sample."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    indices: Sequence[int] | None = None,
    on_finished: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """`sampling.samples` completions of each tokenized prompt, in their order.

    Sampling draws one uniform variate per token from a generator of (seed, problem index, sample): a response depends neither on the batch
    it was generated in nor on the trainer's random state, which is left alone. Training mode is restored afterwards.
    A response ends as `end_token_ids` says, or with a stop string.

    Args:
        prompts: token ids; none may be empty.
        indices: the index of each prompt's problem, from which its draws are made; default: 0, 1, 2, …
        on_finished: is called after each token of a batch with the number of responses that ended with it, mostly 0. What it
            raises ends the generation.
    """
    ends = end_token_ids(sampling, tokenizer, getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    by_index = dict(zip(indices if indices is not None else range(len(prompts)), prompts, strict=True))
    requests = [(index, sample) for index in by_index for sample in range(sampling.samples)]
    order = sorted(requests, key=lambda request: len(by_index[request[0]]))
    done: dict[Request, Completion] = {}
    with evaluating(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = {request: by_index[request[0]] for request in order[start : start + batch_size]}
            done.update(_generate_batch(model, tokenizer, batch, sampling, ends, on_finished))
    return [done[request] for request in requests]


def _generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: dict[Request, Sequence[int]],
    sampling: Sampling,
    ends: set[int],
    on_finished: Callable[[int], None],
) -> Iterator[tuple[Request, Completion]]:
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    active = list(prompts)  # in the order of the batch's rows
    tokens: dict[Request, list[int]] = {request: [] for request in active}
    entropies: dict[Request, list[float]] = {request: [] for request in active}
    log_probs: dict[Request, list[float]] = {request: [] for request in active}
    draws = {request: random.Random(sampling.seed_of(*request)) for request in active}
    tail = max((len(string.encode()) for string in sampling.stop), default=0) + 1

    ids, mask = _left_padded(list(prompts.values()), device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    for length in range(1, sampling.max_new_tokens + 1):
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits = output.logits[:, -1].float()
        entropy, log_z = compute_entropy(logits).tolist(), logits.logsumexp(-1)
        if length <= sampling.min_new_tokens:
            logits[:, sorted(ends)] = -torch.inf
        chosen = _choose(logits, sampling, [draws[request].random() for request in active] if sampling.temperature else None)
        log_prob = (logits.gather(-1, torch.tensor(chosen, device=device)[:, None]).squeeze(-1) - log_z).tolist()

        staying = []
        for row, (request, token) in enumerate(zip(active, chosen, strict=True)):
            tokens[request].append(token)
            entropies[request].append(entropy[row])
            log_probs[request].append(log_prob[row])
            stopped = length > sampling.min_new_tokens and (
                token in ends or _says_stop(tokenizer, tokens[request][-tail:], sampling)
            )
            if stopped or length == sampling.max_new_tokens:
                text = to_text(tokenizer, tokens[request], ends, sampling)
                reason = "stop" if stopped else "length"
                in_nats = tuple(entropies[request]), tuple(log_probs[request])
                yield request, Completion(text, tuple(tokens[request]), reason, *in_nats)
            else:
                staying.append(row)
        on_finished(len(active) - len(staying))
        if not staying:
            return
        ids = torch.tensor([[chosen[row]] for row in staying], device=device)
        rows = torch.tensor(staying, device=device)
        if len(staying) < len(active):
            cache.batch_select_indices(rows)
        mask = torch.cat([mask[rows], torch.ones((len(staying), 1), dtype=mask.dtype, device=device)], dim=-1)
        positions = positions[rows, -1:] + 1
        active = [active[row] for row in staying]


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (prompts, width), so that all prompts end in the same column."""
    missing = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
    ids = [[0] * gap + list(prompt) for gap, prompt in zip(missing, prompts, strict=True)]
    mask = [[0] * gap + [1] * len(prompt) for gap, prompt in zip(missing, prompts, strict=True)]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _choose(logits: torch.Tensor, sampling: Sampling, uniforms: list[float] | None) -> list[int]:
    """The next token of each row: the most likely one, or the one where the cumulative probability passes a uniform draw.

    Only top-p needs tokens in the order of their probability; without it the vocabulary's own order does, and nothing is sorted.
    """
    if uniforms is None:
        greedy: list[int] = logits.argmax(dim=-1).tolist()
        return greedy
    probabilities, order = torch.softmax(logits.double() / sampling.temperature, dim=-1), None
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)  # the first token always stays
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    targets = torch.tensor(uniforms, dtype=cumulative.dtype, device=cumulative.device)[:, None] * total
    last = torch.searchsorted(cumulative, total)  # the last token of positive probability, which rounding must not pass
    chosen = torch.minimum(torch.searchsorted(cumulative, targets, right=True), last)
    drawn: list[int] = (chosen if order is None else order.gather(-1, chosen)).squeeze(-1).tolist()
    return drawn


def _says_stop(tokenizer: Any, tail: list[int], sampling: Sampling) -> bool:
    """Whether the last token completes a stop string."""
    early = len(tokenizer.decode(tail[:-1])) if sampling.min_new_tokens else 0
    return cut_at_stop(tokenizer.decode(tail), sampling.stop, early)[1]

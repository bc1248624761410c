"""The training model itself generates: batches with a KV cache, prompts sorted by length, rows leaving as they finish."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tutelage.generation import Completion, Sampling, cut_at_stop
from tutelage.objective import compute_entropy


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    end_token_ids: set[int] | None = None,
    on_finished: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """Completions of tokenized prompts, in their order.

    Sampling draws one number per token from a generator of (seed, prompt index): a response depends neither on the batch it
    was generated in nor on the trainer's random state, which is left alone. Training mode is restored afterwards.

    Args:
        prompts: token ids; none may be empty.
        end_token_ids: ids that end a response; default: those of the tokenizer and of the model's generation_config.
        on_finished: told how many rows have just finished.
    """
    ends = end_token_ids if end_token_ids is not None else _end_token_ids(model, tokenizer)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    done: dict[int, Completion] = {}
    with _evaluating(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            done.update(
                _generate_batch(model, tokenizer, {index: prompts[index] for index in batch}, sampling, ends, on_finished)
            )
    return [done[index] for index in range(len(prompts))]


def _generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: dict[int, Sequence[int]],
    sampling: Sampling,
    ends: set[int],
    on_finished: Callable[[int], None],
) -> Iterator[tuple[int, Completion]]:
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    active = list(prompts)  # prompt indices, in the order of the batch's rows
    tokens: dict[int, list[int]] = {index: [] for index in active}
    entropies: dict[int, list[float]] = {index: [] for index in active}
    draws = {index: random.Random(f"{sampling.seed}-{index}") for index in active}
    tail = max((len(string.encode()) for string in sampling.stop), default=0) + 1

    width = max(map(len, prompts.values()))
    ids = torch.tensor([[0] * (width - len(prompts[index])) + list(prompts[index]) for index in active], device=device)
    mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in active], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    for length in range(1, sampling.max_new_tokens + 1):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        entropy = compute_entropy(logits).tolist()
        chosen = _choose(logits, sampling, [draws[index].random() for index in active] if sampling.temperature else None)

        staying = []
        for row, (index, token) in enumerate(zip(active, chosen, strict=True)):
            tokens[index].append(token)
            entropies[index].append(entropy[row])
            stopped = token in ends or cut_at_stop(tokenizer.decode(tokens[index][-tail:]), sampling.stop)[1]
            if stopped or length == sampling.max_new_tokens:
                yield index, _completion(tokenizer, tokens[index], entropies[index], sampling, ends, stopped)
                on_finished(1)
            else:
                staying.append(row)
        if not staying:
            return
        ids = torch.tensor([[chosen[row]] for row in staying], device=device)
        rows = torch.tensor(staying, device=device)
        if len(staying) < len(active):
            cache.batch_select_indices(rows)
        mask = torch.cat([mask[rows], torch.ones((len(staying), 1), dtype=mask.dtype, device=device)], dim=-1)
        positions = positions[rows, -1:] + 1
        active = [active[row] for row in staying]


def _choose(logits: torch.Tensor, sampling: Sampling, uniforms: list[float] | None) -> list[int]:
    """The next token of each row: the most likely one, or the one where the cumulative probability passes a uniform draw."""
    if uniforms is None:
        greedy: list[int] = logits.argmax(dim=-1).tolist()
        return greedy
    probabilities, order = torch.softmax(logits.double() / sampling.temperature, dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)  # the first token always stays
    cumulative = probabilities.cumsum(-1)
    targets = torch.tensor(uniforms, dtype=cumulative.dtype, device=cumulative.device)[:, None] * cumulative[:, -1:]
    ranks = torch.searchsorted(cumulative, targets, right=True).clamp(max=(probabilities > 0).sum(-1, keepdim=True) - 1)
    drawn: list[int] = order.gather(-1, ranks).squeeze(-1).tolist()
    return drawn


def _completion(
    tokenizer: Any, tokens: list[int], entropies: list[float], sampling: Sampling, ends: set[int], stopped: bool
) -> Completion:
    # special tokens are kept in the text: in some tokenizers <think> is one; only the end token is not part of the response
    text = tokenizer.decode(tokens[:-1] if tokens[-1] in ends else tokens)
    return Completion(cut_at_stop(text, sampling.stop)[0], tuple(tokens), "stop" if stopped else "length", tuple(entropies))


def _end_token_ids(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [tokenizer.eos_token_id, *several] if token is not None}


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """In evaluation mode, and uncompiled: layers compiled for training would be compiled anew for each length of the cache."""
    was_training = model.training
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        model.train(was_training)

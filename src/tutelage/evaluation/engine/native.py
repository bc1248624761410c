"""A model generates by itself: batches with a cache of keys and values, prompts sorted by length.

The training model does so in its own process (`generating`); `NativeEngine` is an engine like others, with a model of its own.
One loop, and two ways to get the next tokens of a batch: `decoding.Growing`, and on CUDA `static.Static`, whose step is captured.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tutelage import console
from tutelage.evaluation.engine.contract import (
    Completion,
    Sampling,
    Scores,
    complete_characters,
    cut_at_stop,
    end_token_ids,
    to_text,
)
from tutelage.evaluation.engine.decoding import Decoder, Growing, device_of
from tutelage.model import evaluating

Request = tuple[int, int]
"""The index of a problem, and the index of the sample."""
Way = Callable[[Any, Sampling, set[int]], Decoder]
"""Makes the decoder of a model."""


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
        on_finished: is called after each token of a batch (where steps are captured: each `static.BLOCK` tokens) with the number of
            responses that ended with it, mostly 0. What it raises ends the generation.
    """
    with generating(model, tokenizer, sampling) as continued:
        return continued(prompts, batch_size=batch_size, indices=indices, on_finished=on_finished)


@contextlib.contextmanager
def generating(
    model: Any, tokenizer: Any, sampling: Sampling, way: Way | None = None
) -> Iterator[Callable[..., list[Completion]]]:
    """What `generate` is, for several calls while the weights stay as they are: steps are captured once for all of them.

    Args:
        way: how to decode; None: as is fastest on the model's device.

    Yields:
        `generate` without its arguments `model`, `tokenizer` and `sampling`. Its `on_tokens` is called with the number of tokens that
        have just been generated, before `on_finished` is; its `on_text` with the text so far of each response that goes on.
    """
    ends = end_token_ids(sampling, tokenizer, getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    decoder = (way or way_for(model))(model, sampling, ends)
    try:
        with evaluating(model):
            yield functools.partial(_generate, decoder, tokenizer, sampling, ends)
    finally:
        decoder.close()


def way_for(model: Any) -> Way:
    """On CUDA captured steps, if the model allows it; elsewhere a growing cache, which is faster there."""
    if device_of(model).type != "cuda":
        return Growing
    from tutelage.evaluation.engine.static import Static, obstacle

    reason = obstacle(model)
    if reason:
        _say_once(f"the steps of generation by the training model are not captured, which is slower: {reason}")
    return Growing if reason else Static


_say_once = functools.cache(console.say)


def _generate(
    decoder: Decoder,
    tokenizer: Any,
    sampling: Sampling,
    ends: set[int],
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    indices: Sequence[int] | None = None,
    on_finished: Callable[[int], None] = lambda count: None,
    on_tokens: Callable[[int], None] = lambda count: None,
    on_text: Callable[[str], None] | None = None,
) -> list[Completion]:
    by_index = dict(zip(indices if indices is not None else range(len(prompts)), prompts, strict=True))
    requests = [(index, sample) for index in by_index for sample in range(sampling.samples)]
    order = sorted(requests, key=lambda request: len(by_index[request[0]]))
    done: dict[Request, Completion] = {}
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            decoder.begin([by_index[index] for index, _ in batch])
            responses = {request: _Response(tokenizer, sampling, ends) for request in batch}
            done.update(_continued(decoder, responses, sampling, on_finished, on_tokens, on_text))
    return [done[request] for request in requests]


def _continued(
    decoder: Decoder,
    responses: dict[Request, _Response],
    sampling: Sampling,
    on_finished: Callable[[int], None],
    on_tokens: Callable[[int], None],
    on_text: Callable[[str], None] | None,
) -> Iterator[tuple[Request, Completion]]:
    """The responses to a batch of prompts, as they end."""
    draws = {request: random.Random(sampling.seed_of(*request)) for request in responses}
    active, made = list(responses), 0  # in the order of the decoder's rows
    while active:
        count = min(decoder.block, sampling.max_new_tokens - made)
        uniforms = [[draws[request].random() for _ in range(count)] for request in active] if sampling.temperature else None
        columns = decoder.advance(count, uniforms)
        made += count
        staying = []
        for row, (request, tokens, entropies, log_probs) in enumerate(zip(active, *columns, strict=True)):
            completion = responses[request].extended(tokens, entropies, log_probs)
            if completion is None:
                staying.append(row)
                if on_text is not None:
                    on_text(responses[request].text)
            else:
                yield request, completion
        on_tokens(count * len(active))
        on_finished(len(active) - len(staying))
        if len(staying) < len(active):
            decoder.keep(staying)
            active = [active[row] for row in staying]


@dataclass
class _Response:
    """A response that grows until it ends."""

    tokenizer: Any
    sampling: Sampling
    ends: set[int]
    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def extended(self, tokens: list[int], entropies: list[float], log_probs: list[float]) -> Completion | None:
        """Take tokens in; the completion if one of them ended it, whose later tokens are left out."""
        sampling, made = self.sampling, len(self.tokens)
        self.tokens += tokens
        self.entropies += entropies
        self.log_probs += log_probs
        reach = max((len(string.encode()) for string in sampling.stop), default=0) + 1
        window = self.tokenizer.decode(self.tokens[-reach - len(tokens) + 1 :]) if sampling.stop else ""
        may_stop = any(string in window for string in sampling.stop)  # mostly not: then single tokens need not be looked at
        for length, token in enumerate(tokens, made + 1):
            stopped = length > sampling.min_new_tokens and (
                token in self.ends or (may_stop and self._says_stop(self.tokens[max(0, length - reach) : length]))
            )
            if stopped or length == sampling.max_new_tokens:
                text = to_text(self.tokenizer, self.tokens[:length], self.ends, sampling)
                in_nats = tuple(self.entropies[:length]), tuple(self.log_probs[:length])
                return Completion(text, tuple(self.tokens[:length]), "stop" if stopped else "length", *in_nats)
        return None

    @property
    def text(self) -> str:
        """What the tokens so far spell, without a character that still lacks bytes."""
        return to_text(self.tokenizer, self.tokens, self.ends, self.sampling)[: complete_characters(self.tokenizer, self.tokens)]

    def _says_stop(self, tail: list[int]) -> bool:
        """Whether the last token completes a stop string."""
        early = complete_characters(self.tokenizer, tail[:-1]) if self.sampling.min_new_tokens else 0
        return cut_at_stop(self.tokenizer.decode(tail), self.sampling.stop, early)[1]


class NativeEngine:
    """An `Engine` that is the model itself, read a second time; see `contract.Engine` for its arguments.

    An evaluation with `eval.backend = "native"` needs none: the training model has the weights already, and answers in its own process.
    """

    def __init__(self, model: str, device: str, dtype: str, seed: int, **others: Any) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = torch.device(device)
        made = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.model: Any = made.to(self.device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model, mistral_format=False)

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(weights)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        indices: Sequence[int] | None = None,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        return generate(self.model, self.tokenizer, prompts, sampling, indices=indices, on_finished=on_finished)

    def score(self, sequences: Sequence[Sequence[int]], cuts: Sequence[int]) -> Scores:
        with torch.no_grad():
            ids = torch.tensor([list(ids) for ids in sequences], device=self.device)
            log_probs = self.model(ids).logits.float().log_softmax(-1)
        plain = [log_probs[row, range(len(ids) - 1), ids[1:]].tolist() for row, ids in enumerate(sequences)]
        return {"plain": plain, "cached": [[values[cut - 1] for values in plain for cut in cuts]] * 2, "cached_tokens": 0}

    def sleep(self) -> None:
        self.model.to("cpu")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wake_up(self) -> None:
        self.model.to(self.device)

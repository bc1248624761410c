"""The specification's two functions that generate, grade and log: by the model itself, and by an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from tutelage.data import encode_texts, plain
from tutelage.errors import InputError, first_line
from tutelage.evaluation.engine import Completion, Sampling, instance_of, native
from tutelage.evaluation.entropy import TOP_K, Entropy, add_entropies
from tutelage.evaluation.grade import RewardFn, as_log, grade_completions, style_of
from tutelage.grading import grade_responses
from tutelage.model import Policy


def log_generations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    ground_truths: Sequence[Any],
    reward_fn: RewardFn,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    device: torch.device | str | int | None = None,
    *,
    do_sample: bool | None = None,
    batch_size: int = 8,
    stop: str | Sequence[str] | None = ("</answer>",),
    seed: int = 0,
    samples: int = 1,
    min_new_tokens: int = 0,
    on_finished: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Generate with the model itself, grade, and summarise. The model's training mode and the random state stay as they were.

    Args:
        model: a causal language model of Hugging Face, or a `Policy`.
        prompts, ground_truths: as many of each; none give an empty log. Prompts are tokenized as in training.
        reward_fn: (response, ground truth) → a dict with ``reward``, and ``answer_reward`` and ``format_reward`` as it has them. A
            response counts as correct if its ``answer_reward`` is positive. Where ``answer_reward`` or ``reward`` is missing, the
            other stands for it; a missing ``format_reward`` is None. Further keys are kept in ``rewards``.
        temperature: 0 is greedy.
        device: a check that the model is there, in words or as torch writes it. The model is not moved: an optimizer may hold it.
        do_sample: False is greedy, whatever the temperature.
        batch_size: responses that are generated at a time.
        stop: strings that end a response and stay in it, beside the end token; None or () for none.
        seed: a response depends on the seed, the index of its prompt and its sample alone, not on the batch.
        samples: responses per prompt.
        min_new_tokens: before so many tokens, neither an end token nor a stop string ends a response.
        on_finished: as `native.generate`.

    Returns:
        ``{"records": [...], "summary": {...}}``. A record of each response, in the order of the prompts, has ``prompt``, ``sample``,
        ``response``, ``ground_truth``, ``reward``, ``format_reward``, ``answer_reward``, ``rewards`` (the dict of the reward
        function), ``vote``, ``length`` and ``response_length`` (tokens), ``token_entropy`` and ``avg_token_entropy`` (mean over the
        response, in nats), ``finish_reason`` ("stop" or "length"). docs/evaluation.md has the keys of the summary.

    Raises:
        InputError: prompts and ground truths do not fit together, a ground truth says no answer, the model is on another device, or
            the reward function raises or does not return such a dict.
    """
    _check(prompts, ground_truths, reward_fn)
    model = model.model if isinstance(model, Policy) else model
    if device is not None:
        _require_device(model, device)
    if do_sample and temperature == 0:
        raise InputError("do_sample is True and temperature 0, which is greedy: set a temperature above 0, or do_sample=False")
    ends = (stop,) if isinstance(stop, str) else tuple(stop or ())
    sampling = Sampling(max_new_tokens, 0.0 if do_sample is False else temperature, top_p, ends, seed, samples, min_new_tokens)
    ids = encode_texts(tokenizer, prompts, begin=True)
    completions = native.generate(model, tokenizer, ids, sampling, batch_size=batch_size, on_finished=on_finished)
    return as_log(grade_completions([plain(prompt) for prompt in prompts], ground_truths, completions, reward_fn))


def log_generations_vllm(
    vllm_model: Any,
    prompts: list[str],
    ground_truths: list[str],
    reward_fn: RewardFn,
    sampling_params: Any,
    batch_size: int = 8,
    *,
    entropy: Entropy = "exact",
    on_finished: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Generate with a vLLM engine, grade, and summarise: what `log_generations` returns, by the same code.

    Args:
        vllm_model: what `init_vllm` returned, or a `vllm.LLM`.
        prompts: they are tokenized as in training.
        sampling_params: a `Sampling`, or vLLM's SamplingParams: responses are then the texts that vLLM makes.
        batch_size: prompts handed to the engine at a time; it batches by itself, so larger is faster.
        entropy: "exact" scores the responses once more, in packs, with the policy whose weights the engine has; "top-k" takes a
            lower bound from the likeliest tokens, which vLLM returns; "off" leaves it out.
    """
    _check(prompts, ground_truths, reward_fn)
    engine = instance_of(vllm_model)
    if isinstance(sampling_params, Sampling):
        sampling_params = replace(sampling_params, top_logprobs=TOP_K if entropy == "top-k" else 0)
    elif entropy == "top-k" and not sampling_params.logprobs:
        raise ValueError('entropy = "top-k" needs sampling_params.logprobs: over how many of the likeliest tokens to sum')
    ids = encode_texts(engine.get_tokenizer(), prompts, begin=True)
    completions: list[Completion] = []
    for start in range(0, len(ids), batch_size):
        part = range(start, min(start + batch_size, len(ids)))
        completions += engine.complete([ids[index] for index in part], sampling_params, part, on_finished)
    records = grade_completions([plain(prompt) for prompt in prompts], ground_truths, completions, reward_fn)
    if entropy == "exact" and records:
        with engine.handle.policy() as policy:
            add_entropies(records, policy, ids, completions)
    return as_log(records, entropy)


def _check(prompts: Sequence[str], ground_truths: Sequence[Any], reward_fn: RewardFn) -> None:
    """Raise InputError for what cannot be asked or graded, before anything is generated."""
    for name, texts in (("prompts", prompts), ("ground_truths", ground_truths)):
        if isinstance(texts, str):
            raise InputError(f"{name} is one text: give a list, also of a single one")
    if len(prompts) != len(ground_truths):
        raise InputError(f"{len(prompts)} prompts and {len(ground_truths)} ground truths: as many of each are needed")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt:
            raise InputError(f"prompts[{index}] is {prompt!r:.100}: a prompt is a text that is not empty")
    if not callable(reward_fn):
        raise InputError(f"reward_fn is {reward_fn!r:.100}: it must be a function of a response and its ground truth")
    style = style_of(reward_fn)
    if style is None:
        return
    for index, truth in enumerate(ground_truths):
        try:
            grade_responses([("", truth)], style)
        except ValueError as error:
            raise InputError(f"ground_truths[{index}]: {error}") from None


def _require_device(model: Any, device: torch.device | str | int) -> None:
    """Raise InputError if the model is elsewhere. A device without an index, such as "cuda", is any of its kind."""
    there = model.get_input_embeddings().weight.device
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {device!r}: {first_line(error)}") from None
    if wanted.type != there.type or (None not in (wanted.index, there.index) and wanted.index != there.index):
        raise InputError(
            f"the model is on {there}, and device is {wanted}. Its optimizer may hold it there, so it is not moved: call model.to(…)"
            " before you make the optimizer, or leave device out"
        )

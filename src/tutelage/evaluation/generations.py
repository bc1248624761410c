"""The specification's two functions that generate, grade and log: by the model itself, and by an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tutelage.data import encode_texts, plain
from tutelage.evaluation.engine import Completion, Sampling, instance_of, native
from tutelage.evaluation.entropy import TOP_K, Entropy, add_entropies
from tutelage.evaluation.grade import RewardFn, grade_completions, summarize


def log_generations(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    ground_truths: list[str],
    reward_fn: RewardFn,
    *,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: Sequence[str] = ("</answer>",),
    seed: int = 0,
    samples: int = 1,
    min_new_tokens: int = 0,
    batch_size: int = 8,
    on_finished: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Generate with the model itself, grade, and summarise.

    Args:
        prompts, ground_truths: as many of each. Prompts are tokenized as in training.
        reward_fn: (response, ground truth) → ``{"reward", "format_reward", "answer_reward"}``.
        temperature: 0 is greedy.
        samples: responses per prompt.
        on_finished: as `native.generate`.

    Returns:
        ``{"records": [...], "summary": {...}}``; see `grade_completions` and `summarize`.
    """
    _check(prompts, ground_truths)
    sampling = Sampling(max_new_tokens, temperature, top_p, tuple(stop), seed, samples, min_new_tokens)
    ids = encode_texts(tokenizer, prompts, begin=True)
    completions = native.generate(model, tokenizer, ids, sampling, batch_size=batch_size, on_finished=on_finished)
    records = grade_completions([plain(prompt) for prompt in prompts], ground_truths, completions, reward_fn)
    return {"records": records, "summary": summarize(records)}


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
    _check(prompts, ground_truths)
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
    if entropy == "exact":
        with engine.handle.policy() as policy:
            add_entropies(records, policy, ids, completions)
    return {"records": records, "summary": summarize(records, entropy)}


def _check(prompts: Sequence[str], ground_truths: Sequence[str]) -> None:
    if len(prompts) != len(ground_truths) or not prompts:
        raise ValueError(
            f"{len(prompts)} prompts and {len(ground_truths)} ground truths: as many of each are needed, and at least one"
        )

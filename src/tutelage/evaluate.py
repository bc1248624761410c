"""Let a model solve problems, grade what it says, and log every generation: two thin doors to one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tutelage import console, grading
from tutelage.config import EvalConfig
from tutelage.data import Example
from tutelage.generation import Completion, Sampling, native, vllm
from tutelage.model import choose_device
from tutelage.policy import Policy
from tutelage.stats import mean, wilson_interval
from tutelage.tokens import Stops, encode_prompt

RewardFn = Callable[[str, str], dict[str, float]]
REWARD_FUNCTIONS: dict[str, RewardFn] = {
    "r1_zero": grading.r1_zero_reward_fn,
    "question_only": grading.question_only_reward_fn,
}


def solve(
    policy: Policy,
    examples: Sequence[Example],
    config: EvalConfig,
    on_finished: Callable[[int], None] = lambda count: None,
    engine: Any = None,
) -> dict[str, Any]:
    """Records and summary of a policy on examples, as an evaluation is configured; `engine` generates in its place if given."""
    prompts, references = [example.prompt for example in examples], [example.reference for example in examples]
    reward_fn, stop = REWARD_FUNCTIONS[config.reward], policy.stops.strings
    if engine is not None:
        params = vllm.sampling_params(sampling_of(config, policy.stops), policy.stops.end_token_id)
        return log_generations_vllm(engine, prompts, references, reward_fn, params, batch_size=len(prompts))
    with policy.computing(with_head=True):
        return log_generations(
            policy.model, policy.tokenizer, prompts, references, reward_fn, max_new_tokens=config.max_new_tokens,
            temperature=config.temperature, top_p=config.top_p, stop=stop, seed=config.seed, batch_size=config.batch_size,
            on_finished=on_finished,
        )  # fmt: skip


def sampling_of(config: EvalConfig, stops: Stops) -> Sampling:
    """How to generate, as an evaluation is configured."""
    return Sampling(config.max_new_tokens, config.temperature, config.top_p, stops.strings, config.seed)


def require_engine(config: EvalConfig) -> None:
    """Raises InputError where vLLM or the device that it is configured for is not there."""
    vllm.require()
    choose_device(config.device)


def start_engine(config: EvalConfig, model_path: str) -> Any:
    """The vLLM engine of `eval.engine = "vllm"`, or None for the native one."""
    if config.engine == "native":
        return None
    with console.progress("starting vLLM"):
        return vllm.init_vllm(model_path, config.device, config.seed, config.gpu_memory_utilization)


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
    batch_size: int = 8,
    on_finished: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Generate with the model itself, grade, and summarise.

    Args:
        prompts, ground_truths: as many of each. Prompts are tokenized as in training.
        reward_fn: (response, ground truth) → ``{"reward", "format_reward", "answer_reward"}``.
        temperature: 0 is greedy.
        on_finished: told how many responses have just finished.

    Returns:
        ``{"records": [...], "summary": {...}}``; see `grade_completions`.
    """
    _check(prompts, ground_truths)
    sampling = Sampling(max_new_tokens, temperature, top_p, tuple(stop), seed)
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions = native.generate(model, tokenizer, ids, sampling, batch_size=batch_size, on_finished=on_finished)
    return grade_completions(prompts, ground_truths, completions, reward_fn)


def log_generations_vllm(
    vllm_model: Any,
    prompts: list[str],
    ground_truths: list[str],
    reward_fn: RewardFn,
    sampling_params: Any,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Generate with a vLLM engine, grade, and summarise: the same records and summary as `log_generations`.

    Token entropy is None here: vLLM returns the log-probabilities of a few tokens, not the distribution.
    """
    _check(prompts, ground_truths)
    tokenizer = vllm_model.get_tokenizer()
    completions: list[Completion] = []
    for start in range(0, len(prompts), batch_size):
        ids = [encode_prompt(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
        completions += vllm.generate(vllm_model, ids, sampling_params)
    return grade_completions(prompts, ground_truths, completions, reward_fn)


def grade_completions(
    prompts: Sequence[str], ground_truths: Sequence[str], completions: Sequence[Completion], reward_fn: RewardFn
) -> dict[str, Any]:
    """Grade completions and summarise them.

    Returns:
        ``records``, one per prompt: prompt, response, ground_truth, reward, format_reward, answer_reward, length (tokens),
        token_entropy (mean over the response, nats, or None), finish_reason.
        ``summary``: examples; accuracy (share with answer_reward > 0) and its 95 % Wilson interval accuracy_ci95; format_rate
        and no_answer_rate (well-formed or not); cap_hit_rate (cut off at max_new_tokens); avg_response_length, and the same of
        correct and incorrect responses; avg_token_entropy. A mean over nothing is None.
    """
    records = []
    for prompt, truth, completion in zip(prompts, ground_truths, completions, strict=True):
        rewards = reward_fn(completion.text, truth)
        records.append(
            {
                "prompt": prompt,
                "response": completion.text,
                "ground_truth": truth,
                "reward": rewards["reward"],
                "format_reward": rewards["format_reward"],
                "answer_reward": rewards["answer_reward"],
                "length": len(completion.token_ids),
                "token_entropy": mean(list(completion.entropies)) if completion.entropies is not None else None,
                "finish_reason": completion.finish_reason,
            }
        )
    return {"records": records, "summary": summarize(records)}


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of `grade_completions` from its records."""
    count = len(records)
    correct = [record for record in records if record["answer_reward"] > 0]
    incorrect = [record for record in records if not record["answer_reward"] > 0]
    well_formed = sum(record["format_reward"] > 0 for record in records)
    entropies = [record["token_entropy"] for record in records if record["token_entropy"] is not None]
    low, high = wilson_interval(len(correct), count)
    return {
        "examples": count,
        "accuracy": len(correct) / count,
        "accuracy_ci95": [low, high],
        "format_rate": well_formed / count,
        "no_answer_rate": 1 - well_formed / count,
        "cap_hit_rate": sum(record["finish_reason"] == "length" for record in records) / count,
        "avg_response_length": mean([record["length"] for record in records]),
        "avg_response_length_correct": mean([record["length"] for record in correct]),
        "avg_response_length_incorrect": mean([record["length"] for record in incorrect]),
        "avg_token_entropy": mean(entropies),
    }


def _check(prompts: Sequence[str], ground_truths: Sequence[str]) -> None:
    if len(prompts) != len(ground_truths) or not prompts:
        raise ValueError(
            f"{len(prompts)} prompts and {len(ground_truths)} ground truths: as many of each are needed, and at least one"
        )

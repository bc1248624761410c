"""Let a model solve problems, grade what it says, and log every generation: two thin doors to one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

from tutelage.config import EvalConfig
from tutelage.data import Example, Stops, TokenizedExample, characters_of, encode_prompt
from tutelage.evaluation.draft import Draft
from tutelage.evaluation.engine import Completion, Sampling, native
from tutelage.evaluation.engines import Engine, by_problem
from tutelage.grading import answer_of, grade_all, grade_responses, question_only_reward_fn, r1_zero_reward_fn, rewards_of
from tutelage.machines import ALONE, StopWanted, World, gathered
from tutelage.model import Policy
from tutelage.stats import clustered_interval, majority_at_k, mean, pass_at_k, powers_of_two

RewardFn = Callable[[str, str], dict[str, float]]
REWARD_FUNCTIONS: dict[str, RewardFn] = {
    "r1_zero": r1_zero_reward_fn,
    "question_only": question_only_reward_fn,
}
Entropy = Literal["exact", "top-k", "off"]
TOP_K = 20
"""Tokens that `entropy="top-k"` sums over: as many as vLLM tells unless it is started otherwise."""


def sampling_of(config: EvalConfig, stops: Stops) -> Sampling:
    """How to generate, as an evaluation is configured."""
    return Sampling(
        config.max_new_tokens, config.temperature, config.top_p, stops.strings, config.seed, config.samples,
        config.min_new_tokens, TOP_K if config.entropy == "top-k" else 0,
    )  # fmt: skip


def prompt_ids(tokenizer: Any, problems: Sequence[Example]) -> list[list[int]]:
    """The ids that every engine is sent for problems."""
    return [encode_prompt(tokenizer, problem.prompt) for problem in problems]


def entropy_kind(config: EvalConfig, by_engine: bool) -> Entropy:
    """What kind of entropy an evaluation's records hold: the model itself knows it exactly, or was not to tell."""
    return config.entropy if by_engine or config.entropy == "off" else "exact"


def solve(
    policy: Policy,
    examples: Sequence[Example],
    config: EvalConfig,
    on_finished: Callable[[int], None] = lambda count: None,
    world: World = ALONE,
    draft: Draft | None = None,
    numbers: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Records of a policy that solves problems by itself, as an evaluation is configured.

    Several ranks share the problems, and the first has the records.

    Args:
        draft: what is answered already, and where further answers are kept.
        numbers: those of the problems, which their seeds come from; default: their places.

    Raises:
        StopWanted: the job was asked to stop; answers so far are in the draft.
    """
    sampling = replace(sampling_of(config, policy.stops), top_logprobs=0)
    ids = prompt_ids(policy.tokenizer, examples)
    prompts = dict(zip(numbers if numbers is not None else range(len(ids)), ids, strict=True))
    known = world.first(draft.known) if draft is not None else {}
    on_finished(sum(map(len, known.values())))
    open_ones = sorted((number for number in prompts if number not in known), key=lambda number: len(prompts[number]))
    size = max(1, config.batch_size // sampling.samples)
    portions = [open_ones[start : start + size] for start in range(0, len(open_ones), size)]
    answers: dict[int, list[Completion]] = {}
    stopped = False
    with gathered(policy.model), policy.computing(with_head=True):
        try:
            for portion in portions[world.rank :: world.size]:
                completions = native.generate(
                    policy.model, policy.tokenizer, [prompts[number] for number in portion], sampling,
                    batch_size=config.batch_size, numbers=portion, on_finished=on_finished, on_token=world.alive,
                )  # fmt: skip
                found = by_problem(portion, completions)
                answers |= found
                if draft is not None:
                    draft.add(found)
        except StopWanted:
            stopped = True
    if world.any(stopped):
        raise StopWanted
    for of_a_rank in world.gather(answers):
        known |= of_a_rank
    if not world.leads:
        return []
    world.long_task("grading")
    completions = [each for number in prompts for each in known[number]]
    if config.entropy == "off":
        completions = [replace(completion, entropies=None, log_probs=None) for completion in completions]
    records = grade_examples(examples, completions, config)
    if config.log_tokens:
        _tell_tokens(records, completions, policy.tokenizer)
    return records


def grade_examples(examples: Sequence[Example], completions: Sequence[Completion], config: EvalConfig) -> list[dict[str, Any]]:
    """Records of the completions of problems, as an evaluation is configured."""
    prompts, references = [example.prompt for example in examples], [example.reference for example in examples]
    return grade_completions(prompts, references, completions, REWARD_FUNCTIONS[config.reward])


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
        on_finished: told how many responses have just finished.

    Returns:
        ``{"records": [...], "summary": {...}}``; see `grade_completions` and `summarize`.
    """
    _check(prompts, ground_truths)
    sampling = Sampling(max_new_tokens, temperature, top_p, tuple(stop), seed, samples, min_new_tokens)
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions = native.generate(model, tokenizer, ids, sampling, batch_size=batch_size, on_finished=on_finished)
    records = grade_completions(prompts, ground_truths, completions, reward_fn)
    return {"records": records, "summary": summarize(records)}


def log_generations_vllm(
    vllm_model: Engine,
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
        vllm_model: what `init_vllm` returned.
        sampling_params: a `Sampling`, or vLLM's SamplingParams.
        batch_size: prompts handed to the engine at a time; it batches by itself, so larger is faster.
        entropy: "exact" scores the responses once more, in packs, with the policy whose weights the engine has; "top-k" takes a
            lower bound from what vLLM tells of the likeliest tokens; "off" leaves it out.
    """
    _check(prompts, ground_truths)
    if isinstance(sampling_params, Sampling):
        sampling_params = replace(sampling_params, top_logprobs=TOP_K if entropy == "top-k" else 0)
    elif entropy == "top-k" and not sampling_params.logprobs:
        raise ValueError('entropy = "top-k" needs sampling_params.logprobs: over how many of the likeliest tokens to sum')
    tokenizer = vllm_model.get_tokenizer()
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions: list[Completion] = []
    for start in range(0, len(ids), batch_size):
        part = range(start, min(start + batch_size, len(ids)))
        completions += vllm_model.generate([ids[number] for number in part], sampling_params, part, on_finished)
    records = grade_completions(prompts, ground_truths, completions, reward_fn)
    if entropy == "exact":
        with vllm_model.policy() as policy:
            add_entropies(records, policy, ids, completions)
    return {"records": records, "summary": summarize(records, entropy)}


def add_entropies(
    records: Sequence[dict[str, Any]],
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    log_tokens: bool = False,
) -> None:
    """Fill in each record's exact token entropy, by one packed pass of the policy over prompts and completions.

    Args:
        log_tokens: also those of each token, and its negative log-likelihood.
    """
    samples = len(completions) // len(prompts)
    rows = [
        TokenizedExample(f"response {number}", tuple(prompts[number // samples]), completion.token_ids)
        for number, completion in enumerate(completions)
    ]
    scored = [
        replace(completion, entropies=tuple(entropies.tolist()), log_probs=tuple(log_probs.tolist()))
        for completion, (log_probs, entropies) in zip(completions, policy.score_responses(rows), strict=True)
    ]
    for record, completion in zip(records, scored, strict=True):
        record["token_entropy"] = mean(list(completion.entropies or ()))
    if log_tokens:
        _tell_tokens(records, scored, policy.tokenizer)


def _tell_tokens(records: Sequence[dict[str, Any]], completions: Sequence[Completion], tokenizer: Any) -> None:
    """Give each record its ``tokens``: how many characters of the response each brings, its entropy and its negative
    log-likelihood, in nats."""
    for record, completion in zip(records, completions, strict=True):
        if completion.entropies is not None and completion.log_probs is not None:
            record["tokens"] = {
                "characters": characters_of(tokenizer, completion.token_ids, completion.text),
                "entropy": [round(value, 3) for value in completion.entropies],
                "nll": [round(-value, 3) for value in completion.log_probs],
            }


def grade_completions(
    prompts: Sequence[str], ground_truths: Sequence[str], completions: Sequence[Completion], reward_fn: RewardFn
) -> list[dict[str, Any]]:
    """Grade completions, of which each prompt has as many, one after the other.

    Returns:
        A record for each: prompt, sample (its number among those of the prompt), response, ground_truth, reward, format_reward,
        answer_reward, vote (which answer it gives: equal answers of a prompt have equal votes, the correct one 0, a malformed
        one None), length (tokens), token_entropy (mean over the response, nats, or None), finish_reason.
    """
    samples = len(completions) // len(prompts)
    asked = [number // samples for number in range(len(completions))]
    if len(completions) != samples * len(prompts):
        raise ValueError(f"{len(completions)} completions of {len(prompts)} prompts: each prompt must have as many")
    style = next((name for name, known in REWARD_FUNCTIONS.items() if known is reward_fn), None)
    pairs = [(completion.text, ground_truths[number]) for number, completion in zip(asked, completions, strict=True)]
    if style is None:
        rewards = [reward_fn(response, truth) for response, truth in pairs]
    else:  # our own graders use all cores
        rewards = [rewards_of(verdict) for verdict in grade_responses(pairs, style)]
    records: list[dict[str, Any]] = [
        {
            "prompt": prompts[asked[number]],
            "sample": number % samples,
            "response": completion.text,
            "ground_truth": ground_truths[asked[number]],
            "reward": rewards[number]["reward"],
            "format_reward": rewards[number]["format_reward"],
            "answer_reward": rewards[number]["answer_reward"],
            "vote": None,
            "length": len(completion.token_ids),
            "token_entropy": mean(list(completion.entropies)) if completion.entropies is not None else None,
            "finish_reason": completion.finish_reason,
        }
        for number, completion in enumerate(completions)
    ]
    _add_votes([records[start : start + samples] for start in range(0, len(records), samples)], style)
    return records


def _add_votes(groups: Sequence[Sequence[dict[str, Any]]], style: str | None) -> None:
    """Number the answers of each problem: 0 is the correct one, equal wrong ones share a number."""
    texts: list[list[str]] = []  # of each problem, its different wrong answers
    for group in groups:
        wrong: list[str] = []
        for record in group:
            if record["answer_reward"] > 0:
                record["vote"] = 0
            elif record["format_reward"] > 0:
                answer = answer_of(record["response"], style)
                if answer not in wrong:
                    wrong.append(answer)
                record["vote"] = wrong.index(answer) + 1
        texts.append(wrong)
    pairs = [
        (place, a, b) for place, wrong in enumerate(texts) for a, b in combinations(range(len(wrong)), 2) if wrong[a] and wrong[b]
    ]
    verdicts = grade_all([(texts[place][a], texts[place][b]) for place, a, b in pairs])
    for (place, a, b), verdict in zip(pairs, verdicts, strict=True):
        if verdict.equal:
            for record in groups[place]:
                if record["vote"] == b + 1:
                    record["vote"] = a + 1


def summarize(records: Sequence[dict[str, Any]], entropy: Entropy = "exact") -> dict[str, Any]:
    """What the records of an evaluation say; the same keys always.

    Returns:
        ``examples`` (problems) and ``samples`` of each; ``accuracy`` (share with answer_reward > 0) and its 95 % interval
        ``accuracy_ci95`` (Wilson's; over problems, if each was sampled several times); ``pass_at_k`` and ``maj_at_k`` for
        k = 1, 2, 4, … up to the samples; ``format_rate`` and ``no_answer_rate`` (well-formed or not); ``cap_hit_rate`` (cut off
        at max_new_tokens); ``avg_response_length``, and the same of correct and incorrect responses; ``avg_token_entropy``,
        and ``entropy``: whether that is "exact", the lower bound "top-k", or "off". A mean over nothing is None.
    """
    count = len(records)
    samples = 1 + max(record["sample"] for record in records)
    groups = [records[start : start + samples] for start in range(0, count, samples)]
    right = [sum(record["answer_reward"] > 0 for record in group) for group in groups]
    correct = [record for record in records if record["answer_reward"] > 0]
    incorrect = [record for record in records if not record["answer_reward"] > 0]
    well_formed = sum(record["format_reward"] > 0 for record in records)
    entropies = [record["token_entropy"] for record in records if record["token_entropy"] is not None]
    votes = [[record["vote"] for record in group] for group in groups]
    return {
        "examples": len(groups),
        "samples": samples,
        "accuracy": len(correct) / count,
        "accuracy_ci95": list(clustered_interval(right, samples)),
        "pass_at_k": {str(k): mean([pass_at_k(c, samples, k) for c in right]) for k in powers_of_two(samples)},
        "maj_at_k": {str(k): mean([majority_at_k(group, 0, k) for group in votes]) for k in powers_of_two(samples)},
        "format_rate": well_formed / count,
        "no_answer_rate": 1 - well_formed / count,
        "cap_hit_rate": sum(record["finish_reason"] == "length" for record in records) / count,
        "avg_response_length": mean([record["length"] for record in records]),
        "avg_response_length_correct": mean([record["length"] for record in correct]),
        "avg_response_length_incorrect": mean([record["length"] for record in incorrect]),
        "avg_token_entropy": mean(entropies),
        "entropy": entropy,
    }


def _check(prompts: Sequence[str], ground_truths: Sequence[str]) -> None:
    if len(prompts) != len(ground_truths) or not prompts:
        raise ValueError(
            f"{len(prompts)} prompts and {len(ground_truths)} ground truths: as many of each are needed, and at least one"
        )

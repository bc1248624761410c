"""Records of graded completions, the votes of several samples, and the summary of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from tutelage.evaluation.engine import Completion
from tutelage.evaluation.entropy import Entropy
from tutelage.grading import (
    answer_of,
    grade_all,
    grade_responses,
    question_only_reward_fn,
    r1_zero_reward_fn,
    reference_of,
    rewards_of,
)
from tutelage.stats import clustered_interval, majority_at_k, mean, pass_at_k, powers_of_two

RewardFn = Callable[[str, Any], dict[str, float]]
REWARD_FUNCTIONS: dict[str, RewardFn] = {
    "r1_zero": r1_zero_reward_fn,
    "question_only": question_only_reward_fn,
}


def grade_completions(
    prompts: Sequence[str], ground_truths: Sequence[Any], completions: Sequence[Completion], reward_fn: RewardFn
) -> list[dict[str, Any]]:
    """Grade completions: the same number for each prompt, one prompt's after the other's.

    Args:
        ground_truths: of each prompt. Our own graders take whatever `reference_of` reads; another reward function gets it as it is.

    Returns:
        A record for each: prompt, sample (its index among those of the prompt), response, ground_truth (text; a list of several, of
        which any is right), reward, format_reward, answer_reward, vote (a number for the answer: equal answers of a prompt have
        equal votes, the correct one 0, a malformed one None), length (tokens), token_entropy (mean over the response, nats, or
        None), finish_reason.
    """
    samples = len(completions) // len(prompts)
    asked = [index // samples for index in range(len(completions))]
    if len(completions) != samples * len(prompts):
        raise ValueError(f"{len(completions)} completions of {len(prompts)} prompts: each prompt must have the same number")
    style = next((name for name, known in REWARD_FUNCTIONS.items() if known is reward_fn), None)
    if style is not None:
        ground_truths = [reference_of(truth) for truth in ground_truths]
    pairs = [(completion.text, ground_truths[index]) for index, completion in zip(asked, completions, strict=True)]
    if style is None:
        rewards = [reward_fn(response, truth) for response, truth in pairs]
    else:  # our own graders use all cores
        rewards = [rewards_of(verdict) for verdict in grade_responses(pairs, style)]
    records: list[dict[str, Any]] = [
        {
            "prompt": prompts[asked[index]],
            "sample": index % samples,
            "response": completion.text,
            "ground_truth": _as_json(ground_truths[asked[index]]),
            "reward": rewards[index]["reward"],
            "format_reward": rewards[index]["format_reward"],
            "answer_reward": rewards[index]["answer_reward"],
            "vote": None,
            "length": len(completion.token_ids),
            "token_entropy": mean(list(completion.entropies)) if completion.entropies is not None else None,
            "finish_reason": completion.finish_reason,
        }
        for index, completion in enumerate(completions)
    ]
    _add_votes([records[start : start + samples] for start in range(0, len(records), samples)], style)
    return records


def _as_json(truth: Any) -> Any:
    return list(truth) if isinstance(truth, tuple) else truth


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
        (index, a, b) for index, wrong in enumerate(texts) for a, b in combinations(range(len(wrong)), 2) if wrong[a] and wrong[b]
    ]
    verdicts = grade_all([(texts[index][a], texts[index][b]) for index, a, b in pairs])
    for (index, a, b), verdict in zip(pairs, verdicts, strict=True):
        if verdict.equal:
            for record in groups[index]:
                if record["vote"] == b + 1:
                    record["vote"] = a + 1


def summarize(records: Sequence[dict[str, Any]], entropy: Entropy = "exact") -> dict[str, Any]:
    """The summary of an evaluation's records; the same keys always.

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

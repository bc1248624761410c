"""Records of graded completions, the votes of several samples, and the summary of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from tutelage.errors import InputError, first_line
from tutelage.evaluation.engine import Completion
from tutelage.evaluation.entropy import Entropy
from tutelage.evaluation.tolerance import near
from tutelage.grading import (
    answer_of,
    grade_all,
    grade_responses,
    question_only_reward_fn,
    r1_zero_reward_fn,
    reference_of,
    reward_fn_response_vs_gt,
    rewards_of,
)
from tutelage.stats import clustered_interval, majority_at_k, mean, pass_at_k, powers_of_two

RewardFn = Callable[[str, Any], Mapping[str, Any]]
REWARD_FUNCTIONS: dict[str, RewardFn] = {
    "r1_zero": r1_zero_reward_fn,
    "question_only": question_only_reward_fn,
}
_STYLES = [*((function, style) for style, function in REWARD_FUNCTIONS.items()), (reward_fn_response_vs_gt, "r1_zero")]
REWARDS = ("reward", "format_reward", "answer_reward")


def style_of(reward_fn: RewardFn) -> str | None:
    """The style of answers that one of our own reward functions grades; None for another function."""
    return next((style for known, style in _STYLES if known is reward_fn), None)


def grade_completions(
    prompts: Sequence[str],
    ground_truths: Sequence[Any],
    completions: Sequence[Completion],
    reward_fn: RewardFn,
    tolerance: float = 0.0,
) -> list[dict[str, Any]]:
    """Grade completions: the same number for each prompt, one prompt's after the other's.

    Args:
        ground_truths: of each prompt. Our own graders take whatever `reference_of` reads; another reward function gets it as it is.
        tolerance: as `eval.tolerance`, for our own graders.

    Returns:
        A record for each: prompt, sample (its index among those of the prompt), response, ground_truth (text; a list of several, of
        which any is right), reward, format_reward, answer_reward, vote (a number for the answer: equal answers of a prompt have
        equal votes, the correct one 0, a malformed one None), length (tokens), token_entropy (mean over the response, nats, or
        None), finish_reason; and of another reward function rewards, what it returned.

    Raises:
        InputError: another reward function raises, or does not return what `log_generations` asks for.
    """
    if not prompts:
        return []
    samples = len(completions) // len(prompts)
    asked = [index // samples for index in range(len(completions))]
    if len(completions) != samples * len(prompts):
        raise ValueError(f"{len(completions)} completions of {len(prompts)} prompts: each prompt must have the same number")
    style = style_of(reward_fn)
    if style is not None:
        ground_truths = [reference_of(truth) for truth in ground_truths]
    pairs = [(completion.text, ground_truths[index]) for index, completion in zip(asked, completions, strict=True)]
    if style is None:
        rewards = [_rewards(reward_fn, *pair) for pair in pairs]
    else:  # our own graders use all cores
        rewards = [rewards_of(verdict) for verdict in grade_responses(pairs, style)]
        if tolerance:
            _let_near_pass(rewards, pairs, style, tolerance)
    records: list[dict[str, Any]] = [
        {
            "prompt": prompts[asked[index]],
            "sample": index % samples,
            "response": completion.text,
            "ground_truth": as_json(ground_truths[asked[index]]),
            **rewards[index],
            "vote": None,
            "length": len(completion.token_ids),
            "token_entropy": mean(list(completion.entropies)) if completion.entropies is not None else None,
            "finish_reason": completion.finish_reason,
        }
        for index, completion in enumerate(completions)
    ]
    _add_votes([records[start : start + samples] for start in range(0, len(records), samples)], style)
    return records


def _let_near_pass(rewards: list[dict[str, float]], pairs: Sequence[tuple[str, Any]], style: str, tolerance: float) -> None:
    """Reward well-formed wrong answers that are numbers near their reference (`tolerance.near`)."""
    wrong = [index for index, reward in enumerate(rewards) if reward["format_reward"] > 0 and not reward["answer_reward"] > 0]
    answers = [answer_of(pairs[index][0], style) for index in wrong]
    for index, passes in zip(wrong, near(answers, [pairs[index][1] for index in wrong], tolerance), strict=True):
        if passes:
            rewards[index] |= {"reward": 1.0, "answer_reward": 1.0}


def _rewards(reward_fn: RewardFn, response: str, truth: Any) -> dict[str, Any]:
    """What a reward function that is not ours says of a response: the three rewards, and all that it returned as ``rewards``."""
    name = getattr(reward_fn, "__name__", type(reward_fn).__name__)
    asked = f"the reward function {name}, asked about the response {response[-200:]!r} and the ground truth {truth!r:.200},"
    try:
        returned = reward_fn(response, truth)
    except Exception as error:
        raise InputError(f"{asked} raised {type(error).__name__}: {first_line(error)}") from error
    told = {key: _finite(returned[key]) for key in REWARDS if key in returned} if isinstance(returned, Mapping) else {}
    if not told.keys() & {"reward", "answer_reward"} or None in told.values():
        raise InputError(
            f'{asked} returned {returned!r:.200}: it must return a dict with the number "reward" (0 is wrong). It may add "answer_reward"'
            ' and "format_reward", which are numbers too, and other keys'
        )
    reward = told.get("reward", told.get("answer_reward"))
    return {
        "reward": reward,
        "format_reward": told.get("format_reward"),
        "answer_reward": told.get("answer_reward", reward),
        "rewards": dict(returned),
    }


def _finite(value: Any) -> float | None:
    """A number, as Python, NumPy or PyTorch has it, as a float; None if it is anything else."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_json(truth: Any) -> Any:
    return list(truth) if isinstance(truth, tuple) else truth


def _add_votes(groups: Sequence[Sequence[dict[str, Any]]], style: str | None) -> None:
    """Number the answers of each problem: 0 is the correct one, equal wrong ones share a number."""
    texts: list[list[str]] = []  # of each problem, its different wrong answers
    for group in groups:
        wrong: list[str] = []
        for record in group:
            if record["answer_reward"] > 0:
                record["vote"] = 0
            elif record["format_reward"] is None or record["format_reward"] > 0:
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


def as_log(records: list[dict[str, Any]], entropy: Entropy = "exact") -> dict[str, Any]:
    """What `log_generations` and `log_generations_vllm` return, once the entropies are filled in.

    Returns:
        ``records``: those of `grade_completions`, each with the specification's names too: ``rewards`` (what the reward function
        returned), ``response_length`` and ``avg_token_entropy``. ``summary``: that of `summarize`.
    """
    for record in records:
        record.setdefault("rewards", {key: record[key] for key in REWARDS})
        record["response_length"], record["avg_token_entropy"] = record["length"], record["token_entropy"]
    return {"records": records, "summary": summarize(records, entropy)}


def summarize(records: Sequence[dict[str, Any]], entropy: Entropy = "exact") -> dict[str, Any]:
    """The summary of an evaluation's records; the same keys always, which docs/evaluation.md explains.

    Over nothing, counts are 0, means and shares None, and what is listed by k is empty.
    """
    count = len(records)
    samples = 1 + max((record["sample"] for record in records), default=-1)
    groups = [records[start : start + samples] for start in range(0, count, samples or 1)]
    right = [sum(record["answer_reward"] > 0 for record in group) for group in groups]
    correct = [record for record in records if record["answer_reward"] > 0]
    incorrect = [record for record in records if not record["answer_reward"] > 0]
    told = [record["format_reward"] for record in records if record["format_reward"] is not None]
    well_formed = _share(sum(reward > 0 for reward in told), len(told))
    entropies = [record["token_entropy"] for record in records if record["token_entropy"] is not None]
    votes = [[record["vote"] for record in group] for group in groups]
    orders = powers_of_two(samples) if samples else []
    return {
        "examples": len(groups),
        "samples": samples,
        "accuracy": _share(len(correct), count),
        "accuracy_ci95": list(clustered_interval(right, samples)) if records else None,
        "pass_at_k": {str(k): mean([pass_at_k(c, samples, k) for c in right]) for k in orders},
        "maj_at_k": {str(k): mean([majority_at_k(group, 0, k) for group in votes]) for k in orders},
        "format_rate": well_formed,
        "no_answer_rate": None if well_formed is None else 1 - well_formed,
        "cap_hit_rate": _share(sum(record["finish_reason"] == "length" for record in records), count),
        "avg_response_length": mean([record["length"] for record in records]),
        "avg_response_length_correct": mean([record["length"] for record in correct]),
        "avg_response_length_incorrect": mean([record["length"] for record in incorrect]),
        "avg_token_entropy": mean(entropies),
        "entropy": entropy,
    }


def _share(part: int, count: int) -> float | None:
    return part / count if count else None

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tutelage import log_generations, log_generations_vllm, r1_zero_reward_fn
from tutelage.evaluate import grade_completions
from tutelage.generation import Completion

RECORD_KEYS = {
    "prompt",
    "response",
    "ground_truth",
    "reward",
    "format_reward",
    "answer_reward",
    "length",
    "token_entropy",
    "finish_reason",
}
SUMMARY_KEYS = {
    "examples", "accuracy", "accuracy_ci95", "format_rate", "no_answer_rate", "cap_hit_rate", "avg_response_length",
    "avg_response_length_correct", "avg_response_length_incorrect", "avg_token_entropy",
}  # fmt: skip


def test_records_and_summary_of_graded_completions():
    completions = [
        Completion("<think> a </think> <answer> 4 </answer>", (1, 2, 3), "stop", (0.5, 1.0, 1.5)),
        Completion("<think> a </think> <answer> 5 </answer>", (1, 2, 3, 4, 5), "stop", (2.0,) * 5),
        Completion("<think> on and on", (1,) * 9, "length", (3.0,) * 9),
    ]
    result = grade_completions(["p"] * 3, ["4"] * 3, completions, r1_zero_reward_fn)
    assert all(set(record) == RECORD_KEYS for record in result["records"])
    assert [record["reward"] for record in result["records"]] == [1.0, 0.0, 0.0]
    assert [record["format_reward"] for record in result["records"]] == [1.0, 1.0, 0.0]
    summary = result["summary"]
    assert set(summary) == SUMMARY_KEYS
    assert summary["accuracy"] == pytest.approx(1 / 3) and summary["accuracy_ci95"][0] < 1 / 3 < summary["accuracy_ci95"][1]
    assert (
        summary["avg_response_length"],
        summary["avg_response_length_correct"],
        summary["avg_response_length_incorrect"],
    ) == (17 / 3, 3, 7)
    assert summary["avg_token_entropy"] == pytest.approx(2.0)
    assert (summary["cap_hit_rate"], summary["no_answer_rate"], summary["format_rate"]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))


def test_a_mean_over_nothing_is_none():
    summary = grade_completions(["p"], ["4"], [Completion("x", (1,), "stop", None)], r1_zero_reward_fn)["summary"]
    assert summary["avg_response_length_correct"] is None and summary["avg_token_entropy"] is None


def test_log_generations_asks_the_model_itself(model, tokenizer):
    told = []
    result = log_generations(
        model,
        tokenizer,
        ["Ava has 3 pens.", "Ben?"],
        ["3", "4"],
        r1_zero_reward_fn,
        max_new_tokens=5,
        on_finished=told.append,
    )
    assert [record["prompt"] for record in result["records"]] == ["Ava has 3 pens.", "Ben?"]
    assert all(1 <= record["length"] <= 5 and record["token_entropy"] > 0 for record in result["records"])
    assert sum(told) == 2 and set(result["summary"]) == SUMMARY_KEYS


def test_log_generations_vllm_returns_the_same_shape_from_an_engine(tokenizer):
    asked = []

    class Engine:
        """What `generation.vllm` uses of a vllm.LLM."""

        def get_tokenizer(self):
            return tokenizer

        def generate(self, prompts, params, use_tqdm):
            asked.append(len(prompts))
            text = "<think> a </think> <answer> 4 </answer>"
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1, 2], finish_reason="stop")]) for _ in prompts
            ]

    params = SimpleNamespace(stop=["</answer>"])
    result = log_generations_vllm(Engine(), ["a", "b", "c"], ["4", "4", "5"], r1_zero_reward_fn, params, batch_size=2)
    assert asked == [2, 1]
    assert all(set(record) == RECORD_KEYS for record in result["records"]) and set(result["summary"]) == SUMMARY_KEYS
    assert result["summary"]["accuracy"] == pytest.approx(2 / 3)


def test_as_many_ground_truths_as_prompts_are_needed(model, tokenizer):
    with pytest.raises(ValueError, match="2 prompts and 1 ground truths"):
        log_generations(model, tokenizer, ["a", "b"], ["1"], r1_zero_reward_fn)

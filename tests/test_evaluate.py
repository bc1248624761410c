from __future__ import annotations

import pytest
import torch

from tutelage import log_generations, log_generations_vllm, r1_zero_reward_fn
from tutelage.evaluation.engine import native
from tutelage.evaluation.engine.contract import Completion, Sampling
from tutelage.evaluation.engine.handle import EngineHandle
from tutelage.evaluation.entropy import TOP_K, add_entropies
from tutelage.evaluation.grade import grade_completions, summarize

RECORD_KEYS = {
    "prompt", "sample", "response", "ground_truth", "reward", "format_reward", "answer_reward", "vote", "length", "token_entropy",
    "finish_reason",
}  # fmt: skip
SUMMARY_KEYS = {
    "examples", "samples", "accuracy", "accuracy_ci95", "pass_at_k", "maj_at_k", "format_rate", "no_answer_rate", "cap_hit_rate",
    "avg_response_length", "avg_response_length_correct", "avg_response_length_incorrect", "avg_token_entropy", "entropy",
}  # fmt: skip


def says(answer: str) -> Completion:
    return Completion(f"<think> a </think> <answer> {answer} </answer>", (1, 2, 3), "stop", None)


def test_records_and_summary_of_graded_completions():
    completions = [
        Completion("<think> a </think> <answer> 4 </answer>", (1, 2, 3), "stop", (0.5, 1.0, 1.5)),
        Completion("<think> a </think> <answer> 5 </answer>", (1, 2, 3, 4, 5), "stop", (2.0,) * 5),
        Completion("<think> on and on", (1,) * 9, "length", (3.0,) * 9),
    ]
    records = grade_completions(["p"] * 3, ["4"] * 3, completions, r1_zero_reward_fn)
    assert all(set(record) == RECORD_KEYS for record in records)
    assert [record["reward"] for record in records] == [1.0, 0.0, 0.0]
    assert [record["format_reward"] for record in records] == [1.0, 1.0, 0.0]
    summary = summarize(records)
    assert set(summary) == SUMMARY_KEYS
    assert summary["accuracy"] == pytest.approx(1 / 3) and summary["accuracy_ci95"][0] < 1 / 3 < summary["accuracy_ci95"][1]
    assert (
        summary["avg_response_length"],
        summary["avg_response_length_correct"],
        summary["avg_response_length_incorrect"],
    ) == (17 / 3, 3, 7)
    assert summary["avg_token_entropy"] == pytest.approx(2.0) and summary["entropy"] == "exact"
    assert (summary["cap_hit_rate"], summary["no_answer_rate"], summary["format_rate"]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))


def test_a_mean_over_nothing_is_none():
    summary = summarize(grade_completions(["p"], ["4"], [Completion("x", (1,), "stop", None)], r1_zero_reward_fn))
    assert summary["avg_response_length_correct"] is None and summary["avg_token_entropy"] is None


def test_several_samples_of_a_problem_are_voted_on():
    """Equal wrong answers share a vote however they are written; a malformed one has none."""
    answers = ["1/2", "0.5", "4", "3"]
    completions = [*map(says, answers), Completion("no idea", (1,), "stop", None), *map(says, ["4", "4", "7"])]
    records = grade_completions(["p", "q"], ["4", "4"], completions, r1_zero_reward_fn)
    assert [record["sample"] for record in records] == [0, 1, 2, 3] * 2
    assert [record["vote"] for record in records] == [1, 1, 0, 3, None, 0, 0, 1]
    summary = summarize(records)
    assert (summary["examples"], summary["samples"], summary["accuracy"]) == (2, 4, 3 / 8)
    # p: 1/2 outvotes 4; in pairs, {1/2, 0.5} is wrong and {4, 3} a tie. q: {–, 4} and {4, 7}
    assert summary["maj_at_k"] == {"1": 3 / 8, "2": (1 / 4 + 3 / 4) / 2, "4": 1 / 2}
    assert summary["pass_at_k"] == pytest.approx({"1": 3 / 8, "2": (1 / 2 + 5 / 6) / 2, "4": 1.0})


def test_a_reward_function_of_ones_own_is_asked_for_each_response():
    def no_news(response, truth):
        return {"reward": 1.0, "format_reward": 1.0, "answer_reward": float(truth in response)}

    records = grade_completions(["p"], ["x"], [says("x")], no_news)
    assert (records[0]["answer_reward"], records[0]["vote"]) == (1.0, 0)


def test_log_generations_asks_the_model_itself(model, tokenizer):
    told = []
    result = log_generations(
        model,
        tokenizer,
        ["Ava has 3 pens.", "Ben?"],
        ["3", "4"],
        r1_zero_reward_fn,
        max_new_tokens=5,
        samples=2,
        on_finished=told.append,
    )
    assert [record["prompt"] for record in result["records"]] == ["Ava has 3 pens."] * 2 + ["Ben?"] * 2
    assert all(1 <= record["length"] <= 5 and record["token_entropy"] > 0 for record in result["records"])
    assert sum(told) == 4 and set(result["summary"]) == SUMMARY_KEYS


@pytest.mark.parametrize("packs", [True, False])
def test_entropies_by_one_pass_are_those_that_generation_saw(tiny_model, tokenizer, packs):
    """Packed or padded, over prompts that are shared and responses of different lengths."""
    from tutelage.config import ModelConfig
    from tutelage.model.load import load_policy

    policy = load_policy(ModelConfig(id=tiny_model, device="cpu", precision="fp32"), tokenizer)
    object.__setattr__(policy, "packs", packs)
    prompts = [tokenizer.encode(text) for text in ("Ava has 3 pens.", "Ben?")]
    completions = native.generate(policy.model, tokenizer, prompts, Sampling(9, temperature=1.0, stop=("a",), samples=3))
    records = grade_completions(["p", "q"], ["4", "4"], completions, r1_zero_reward_fn)
    seen = [record["token_entropy"] for record in records]
    add_entropies(records, policy, prompts, completions)
    assert [record["token_entropy"] for record in records] == pytest.approx(seen, abs=1e-4)
    assert not any("tokens" in record for record in records)
    add_entropies(records, policy, prompts, completions, log_tokens=True)
    for record, completion in zip(records, completions):
        tokens = record["tokens"]
        assert tokens["entropy"] == pytest.approx(completion.entropies, abs=2e-3)
        assert tokens["nll"] == pytest.approx([-value for value in completion.log_probs], abs=2e-3)
        assert sum(tokens["characters"]) == len(completion.text) and len(tokens["characters"]) == len(completion.token_ids)


class SameModel(EngineHandle):
    """What `log_generations_vllm` uses of an engine, by the model itself."""

    def __init__(self, policy):
        self.held, self.asked = policy, []

    def get_tokenizer(self):
        return self.held.tokenizer

    def generate(self, prompts, sampling, indices, on_finished):
        self.asked.append((len(prompts), list(indices), sampling.top_logprobs))
        completions = native.generate(self.held.model, self.held.tokenizer, prompts, sampling, on_finished=on_finished)
        return [Completion(c.text, c.token_ids, c.finish_reason, None) for c in completions]

    def policy(self):
        import contextlib

        return contextlib.nullcontext(self.held)


def test_both_doors_return_the_same(model, tokenizer):
    """Records and summaries, the entropy included, which an engine does not tell."""
    from tutelage.evaluation.engine.instance import as_policy

    engine = SameModel(as_policy(model, tokenizer))
    prompts, truths = ["Ava has 3 pens.", "Ben?", "Is it?"], ["3", "4", "5"]
    ours = log_generations(model, tokenizer, prompts, truths, r1_zero_reward_fn, max_new_tokens=6, temperature=0)
    theirs = log_generations_vllm(engine, prompts, truths, r1_zero_reward_fn, Sampling(6, temperature=0), batch_size=2)
    assert engine.asked == [(2, [0, 1], 0), (1, [2], 0)]
    for a, b in zip(ours["records"], theirs["records"], strict=True):
        assert {**a, "token_entropy": 0, "avg_token_entropy": 0} == {**b, "token_entropy": 0, "avg_token_entropy": 0}
        assert a["token_entropy"] == pytest.approx(b["token_entropy"], abs=1e-4)
    assert set(ours["summary"]) == set(theirs["summary"]) == SUMMARY_KEYS
    off = log_generations_vllm(engine, prompts, truths, r1_zero_reward_fn, Sampling(6, temperature=0), entropy="off")
    assert off["summary"]["avg_token_entropy"] is None and off["summary"]["entropy"] == "off"
    log_generations_vllm(engine, prompts, truths, r1_zero_reward_fn, Sampling(6, temperature=0), entropy="top-k")
    assert engine.asked[-1][2] == TOP_K


def test_as_many_ground_truths_as_prompts_are_needed(model, tokenizer):
    with pytest.raises(ValueError, match="2 prompts and 1 ground truths"):
        log_generations(model, tokenizer, ["a", "b"], ["1"], r1_zero_reward_fn)


def test_a_policy_holds_other_weights_for_a_while(tiny_model, tokenizer):
    """Its scores are those of the other model, adapters rest meanwhile, and afterwards all is as it was."""
    from tutelage.config import ModelConfig
    from tutelage.data.tokens import TokenizedExample
    from tutelage.evaluation.engine.snapshot import take
    from tutelage.model import lora
    from tutelage.model.load import load_policy

    pytest.importorskip("peft")
    rows = [TokenizedExample("r", (5, 6, 7), (8, 9, 10, 11)), TokenizedExample("s", (5, 6), (12, 13))]

    def scores(policy):
        return torch.cat([torch.cat(pair) for pair in policy.score_responses(rows)])

    plain = load_policy(ModelConfig(id=tiny_model, device="cpu", precision="fp32"), tokenizer)
    original = scores(plain)
    with torch.no_grad():
        for parameter in plain.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    changed, snapshot = scores(plain), take(lora.merged_weights(plain.model), torch.float32)
    adapted = load_policy(ModelConfig(id=tiny_model, device="cpu", precision="fp32", lora="lora", lora_rank=2), tokenizer)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.02)
    own = scores(adapted)
    with adapted.holding(snapshot.tensors()):
        assert torch.allclose(scores(adapted), changed, atol=1e-5)
    assert torch.equal(scores(adapted), own) and not torch.allclose(own, original) and not torch.allclose(own, changed)

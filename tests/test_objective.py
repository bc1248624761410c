from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tutelage import compute_entropy, get_response_log_probs, masked_normalize, sft_microbatch_train_step
from tutelage.objective import head_log_probs


def test_entropy_equals_the_definition():
    logits = torch.randn(2, 5, 11, dtype=torch.float64)
    p = torch.softmax(logits, dim=-1)
    torch.testing.assert_close(compute_entropy(logits), -(p * p.log()).sum(-1))
    assert compute_entropy(logits).shape == (2, 5)


def test_entropy_of_a_uniform_distribution_is_log_of_its_size():
    torch.testing.assert_close(compute_entropy(torch.zeros(1, 1, 50_000)), torch.full((1, 1), math.log(50_000)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entropy_is_finite_for_huge_and_forbidden_logits(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [3e4, 3e4, -math.inf]], dtype=dtype)
    entropy = compute_entropy(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, torch.tensor([0.0, math.log(2)]), atol=1e-2, rtol=0)


def test_masked_normalize_sums_over_a_dimension_or_everything():
    tensor = torch.arange(6.0).reshape(2, 3)
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]])
    torch.testing.assert_close(masked_normalize(tensor, mask, 2.0), torch.tensor(5.5))
    torch.testing.assert_close(masked_normalize(tensor, mask, 2.0, dim=1), torch.tensor([1.0, 4.5]))
    torch.testing.assert_close(masked_normalize(tensor, mask, 2.0, dim=0), torch.tensor([0.0, 2.0, 3.5]))


def test_masked_normalize_never_sees_what_is_masked_out():
    tensor = torch.tensor([1.0, math.inf, math.nan], requires_grad=True)
    total = masked_normalize(tensor, torch.tensor([True, False, False]), 1.0)
    total.backward()
    assert total.item() == 1.0 and tensor.grad.tolist() == [1.0, 0.0, 0.0]


def test_masked_normalize_in_bf16_sums_in_float32():
    tensor = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    assert masked_normalize(tensor, torch.ones(4096), 4096.0).item() == 1.0


def test_masked_normalize_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        masked_normalize(torch.zeros(2, 3), torch.zeros(3, 2), 1.0)


def test_train_step_is_the_formula_and_its_gradient():
    log_probs = (-torch.rand(2, 4)).requires_grad_()
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]])
    loss, metadata = sft_microbatch_train_step(log_probs, mask, gradient_accumulation_steps=3, normalize_constant=2.0)
    expected = -(log_probs.detach() * mask).sum() / 2.0
    torch.testing.assert_close(metadata["masked_ce_sum"], expected)
    torch.testing.assert_close(loss, expected / (2 * 3))
    torch.testing.assert_close(log_probs.grad, -mask / (2.0 * 2 * 3))
    assert metadata["num_response_tokens"].item() == 4


def test_train_steps_over_micro_batches_accumulate_to_one_batch():
    weight = torch.randn(6, requires_grad=True)
    inputs, mask = torch.randn(8, 5, 6), torch.rand(8, 5) > 0.4
    sft_microbatch_train_step(inputs @ weight, mask, 1)
    whole, weight.grad = weight.grad.clone(), None
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        sft_microbatch_train_step(inputs[rows] @ weight, mask[rows], 4)
    torch.testing.assert_close(weight.grad, whole)


@pytest.mark.parametrize(
    ("log_probs", "mask", "steps", "constant"),
    [((2, 3), (2, 4), 1, 1.0), ((6,), (6,), 1, 1.0), ((2, 3), (2, 3), 0, 1.0), ((2, 3), (2, 3), 1, 0.0)],
)
def test_train_step_validates_what_it_gets(log_probs, mask, steps, constant):
    with pytest.raises(ValueError, match="must be"):
        sft_microbatch_train_step(torch.zeros(log_probs, requires_grad=True), torch.ones(mask), steps, constant)


def test_response_log_probs_are_gathered_log_softmax(model):
    ids = torch.randint(1, 300, (2, 7))
    inputs, labels = ids[:, :-1], ids[:, 1:]
    result = get_response_log_probs(model, inputs, labels, return_token_entropy=True)
    logits = model(inputs).logits
    expected = torch.log_softmax(logits, -1).gather(-1, labels[..., None]).squeeze(-1)
    torch.testing.assert_close(result["log_probs"], expected)
    torch.testing.assert_close(result["token_entropy"], compute_entropy(logits))
    assert not result["log_probs"].requires_grad


def test_response_log_probs_carry_a_graph_only_when_asked(model):
    ids = torch.randint(1, 300, (1, 5))
    result = get_response_log_probs(model, ids[:, :-1], ids[:, 1:], with_grad=True)
    assert set(result) == {"log_probs"}
    result["log_probs"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_response_log_probs_of_bf16_logits_are_computed_in_float32():
    logits = (torch.randn(1, 3, 1000) * 8).bfloat16()
    labels = torch.tensor([[1, 2, 3]])
    result = get_response_log_probs(lambda _: SimpleNamespace(logits=logits), labels, labels)
    expected = torch.log_softmax(logits.float(), -1).gather(-1, labels[..., None]).squeeze(-1)
    torch.testing.assert_close(result["log_probs"], expected)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunked_head_equals_the_whole_in_value_and_gradient(chunk):
    torch.manual_seed(0)
    hidden, labels = torch.randn(10, 8, requires_grad=True), torch.randint(0, 20, (10,))
    head = torch.nn.Linear(8, 20)
    whole = torch.log_softmax(head(hidden), -1).gather(-1, labels[:, None]).squeeze(-1)
    gradients = torch.autograd.grad(whole.sum(), [hidden, head.weight, head.bias])
    chunked = head_log_probs(hidden, head, labels, chunk)
    torch.testing.assert_close(chunked, whole)
    for ours, theirs in zip(torch.autograd.grad(chunked.sum(), [hidden, head.weight, head.bias]), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)

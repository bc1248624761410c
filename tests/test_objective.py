from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tutelage import compute_entropy, get_response_log_probs, masked_normalize, sft_microbatch_train_step
from tutelage.model import scoring
from tutelage.model.scoring import Head, Manner, score


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
@pytest.mark.parametrize("form", [{}, {"bias": True}, {"scale": 0.5, "cap": 3.0}, {"bias": True, "scale": 2.0, "cap": 5.0}])
def test_the_fused_objective_equals_the_plain_one_in_value_gradient_and_entropy(chunk, form):
    torch.manual_seed(0)
    hidden, labels, weights = torch.randn(10, 8, requires_grad=True), torch.randint(0, 20, (10,)), torch.rand(10)
    weight = torch.randn(20, 8, requires_grad=True)
    bias = torch.randn(20, requires_grad=True) if form.get("bias") else None
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    scale, cap = form.get("scale", 1.0), form.get("cap")
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain = torch.log_softmax(logits, -1).gather(-1, labels[:, None]).squeeze(-1)
    gradients = torch.autograd.grad((plain * weights).sum(), leaves, retain_graph=True)

    head = Head(weight, bias, scale, cap)
    weighted = score(hidden, head, labels, weights, entropy=True, manner=Manner(chunk=chunk))
    torch.testing.assert_close(weighted.log_probs, plain)
    torch.testing.assert_close(weighted.entropies, compute_entropy(logits))
    torch.testing.assert_close(weighted.total, (plain * weights).sum())
    for ours, theirs in zip(torch.autograd.grad(3 * weighted.total, leaves), gradients, strict=True):
        torch.testing.assert_close(ours, 3 * theirs)

    free = score(hidden, head, labels, manner=Manner(chunk=chunk))  # what a log-probability counts is only known later
    for ours, theirs in zip(torch.autograd.grad((free.log_probs * weights).sum(), leaves), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("form", [{}, {"bias": True}, {"scale": 0.5, "cap": 3.0}, {"bias": True, "scale": 2.0, "cap": 5.0}])
def test_a_factor_weighs_each_target_by_its_own_probability_without_gradient(chunk, form):
    """In float64, beside autograd of −Σ w · stop(p) · log p on full logits; targets of weight zero and sure ones are among them."""
    torch.manual_seed(0)
    hidden, labels = 3 * torch.randn(12, 8, dtype=torch.float64), torch.randint(0, 20, (12,))
    weight, weights = torch.randn(20, 8, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
    hidden[3], weights[5] = 4 * weight[labels[3]], 0.0
    bias = torch.randn(20, dtype=torch.float64).requires_grad_() if form.get("bias") else None
    leaves = [leaf for leaf in (hidden.requires_grad_(), weight.requires_grad_(), bias) if leaf is not None]
    scale, cap = form.get("scale", 1.0), form.get("cap")
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain = torch.log_softmax(logits, -1).gather(-1, labels[:, None]).squeeze(-1)
    by_hand = -(weights * plain.exp().detach() * plain).sum()

    found = score(hidden, Head(weight, bias, scale, cap), labels, weights, entropy=True, manner=Manner(chunk, factor=torch.exp))
    torch.testing.assert_close(-found.total, by_hand)
    torch.testing.assert_close(found.log_probs, plain)
    by_autograd = torch.autograd.grad(3 * by_hand, leaves)
    for ours, theirs in zip(torch.autograd.grad(-3 * found.total, leaves), by_autograd, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_frozen_head_gets_no_gradient_and_costs_none():
    hidden, head = torch.randn(6, 4, requires_grad=True), Head(torch.randn(9, 4))
    score(hidden, head, torch.arange(6), torch.ones(6)).total.backward()
    assert hidden.grad is not None and head.weight.grad is None


def test_the_fused_objective_never_holds_a_tensor_of_tokens_by_vocabulary():
    """Every tensor that the forward and the backward pass make is seen: the largest is a chunk's, or the weight's gradient."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    tokens, width, vocabulary, chunk = 640, 8, 500, 16
    hidden, weight = torch.randn(tokens, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    for weights in (torch.ones(tokens), None):
        with Largest() as largest:
            scores = score(
                hidden, Head(weight), torch.zeros(tokens, dtype=torch.long), weights, entropy=True, manner=Manner(chunk=chunk)
            )
            scores.total.backward()
        assert largest.size == max(chunk * vocabulary, tokens * width)


class Passes(TorchDispatchMode):
    """Bytes that element-wise operations and reductions read and write on tensors of a chunk's logits, in float32 tensors of such."""

    PRODUCTS = ("aten.mm", "aten.addmm")

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries, self.moved = entries, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func)
        free = func.is_view or name.startswith((*self.PRODUCTS, "aten.empty", "aten.new_empty"))
        sparse = name.startswith(("aten.gather", "aten.index_put"))  # an entry of each row
        if not free and not sparse:
            written = out if isinstance(out, tuple | list) else (out,)
            read = [it for it in args if isinstance(it, torch.Tensor)]
            for tensor in (*read, *written):
                if isinstance(tensor, torch.Tensor) and tensor.numel() == self.entries:
                    self.moved += tensor.element_size() / 4
        return out


@pytest.fixture
def float32_products(monkeypatch):
    """Products of half-precision matrices in float32, as CUDA gives them, emulated on the CPU."""

    def emulated(of):
        def product(*matrices, out_dtype=None, out=None):
            if out_dtype is None:
                return of(*matrices) if out is None else of(*matrices, out=out)
            with _disable_current_modes():
                found = of(*(it.to(out_dtype) for it in matrices))
                return found if out is None else out.copy_(found)

        return product

    monkeypatch.setattr(scoring, "adds_in_float32", lambda device: True)
    monkeypatch.setattr(torch, "mm", emulated(torch.mm))
    monkeypatch.setattr(torch, "addmm", emulated(torch.addmm))


def passes_of(dtype: torch.dtype, head: Head, entropy: bool = False) -> float:
    """Passes over a chunk's logits, forward and backward, of which there are two chunks."""
    hidden = torch.randn(64, head.weight.shape[1], dtype=dtype).requires_grad_()
    labels = torch.arange(64)
    with Passes(32 * len(head.weight)) as passes:
        scores = score(hidden, head, labels, torch.ones(64), entropy, Manner(32))
        (-scores.total).backward()
    assert hidden.grad is not None and head.weight.grad is not None
    return passes.moved / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_makes_at_most_four_passes_over_a_chunk(dtype, float32_products):
    weight = torch.randn(700, 16)
    assert passes_of(dtype, Head(weight.clone().requires_grad_())) <= 4
    assert passes_of(dtype, Head(weight.clone().requires_grad_()), entropy=True) <= (8 if dtype == torch.float32 else 9.5)


def test_without_float32_products_half_precision_costs_one_pass_more():
    assert passes_of(torch.bfloat16, Head(torch.randn(700, 16).requires_grad_())) <= 5


def test_the_first_chunks_product_is_the_gradient_of_the_weight(float32_products):
    """No tensor of (vocabulary × hidden) is filled with zeros, and only products add to it."""

    class Touched(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape == (700, 16) and not func.is_view:
                self.names.append(str(func))
            return out

    hidden, weight = torch.randn(96, 16, requires_grad=True), torch.randn(700, 16, requires_grad=True)
    with Touched() as touched:
        total = score(hidden, Head(weight), torch.arange(96), torch.ones(96), manner=Manner(32)).total
    assert [name.split(".")[1] for name in touched.names] == ["mm", "addmm_", "addmm_"]
    with Touched() as touched:
        touched.names.clear()
        total.backward()
    assert [name.split(".")[1] for name in touched.names] == ["mul_"]


@pytest.mark.parametrize("exact", [False, True], ids=["cpu", "float32 products"])
@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize("counts", ["equal", "some twice or thrice", "any", "by probability"])
def test_half_precision_gradients_are_rounded_only_at_the_end(exact, sure, counts, request):
    """Beside float64: an error of bfloat16's own rounding (0.2 to 0.4 %), whatever the targets count and however sure they are."""
    if exact:
        request.getfixturevalue("float32_products")
    torch.manual_seed(0)
    weight = (torch.randn(2000, 64) * (0.5 if sure else 0.2)).bfloat16()
    labels = torch.randint(0, 2000, (300,))
    hidden = (0.2 * torch.randn(300, 64) + weight[labels].float() if sure else torch.randn(300, 64)).bfloat16()
    weights = {
        "equal": torch.full((300,), 1 / 777),
        "some twice or thrice": torch.randint(1, 4, (300,)) / 777,
        "any": torch.rand(300),
        "by probability": torch.full((300,), 1 / 777),
    }[counts]
    # in float64, from the logits as they are rounded
    logits = hidden.float() @ weight.float().T
    apart = (logits if exact else logits.bfloat16()).double().softmax(-1)
    probabilities = apart.gather(1, labels[:, None])
    assert bool(probabilities.median() > 0.5) == sure
    apart[torch.arange(300), labels] -= 1
    apart *= weights.double()[:, None] * (probabilities if counts == "by probability" else 1)
    leaf, master = hidden.clone().requires_grad_(), weight.float().requires_grad_()
    manner = Manner(128, factor=torch.exp if counts == "by probability" else None)
    (-score(leaf, Head(master), labels, weights, manner=manner).total).backward()
    for found, right in ((leaf.grad, apart @ weight.double()), (master.grad, apart.T @ hidden.double())):
        assert float((found.double() - right).norm() / right.norm()) < (3e-3 if exact else 4e-3)


def test_sure_tokens_keep_their_small_gradients():
    """The probability of the label is 1 − 1e-4: rounded to bfloat16 it would be one, and its gradient nothing."""
    weight, hidden = torch.tensor([[0.0], [9.2]]).bfloat16(), torch.ones(1, 1).bfloat16().requires_grad_()
    master = weight.float().requires_grad_()
    score(hidden, Head(master), torch.tensor([1]), torch.ones(1)).total.backward()
    p = torch.sigmoid(-torch.tensor(float(weight[1, 0])))
    torch.testing.assert_close(master.grad.flatten(), torch.stack([-p, p]), rtol=1e-2, atol=0)


def test_targets_that_are_none_give_gradients_of_zero():
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    bias = torch.randn(9, requires_grad=True)
    score(hidden, Head(weight, bias), torch.zeros(0, dtype=torch.long), torch.ones(0)).total.backward()
    assert not weight.grad.any() and not bias.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_head_computes_the_same_and_is_compiled_once(dtype):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    scoring._compiled_chunk.cache_clear()
    for targets in (20, 33, 40, 26):  # the last chunk has 8, 9, 4 and 2
        torch.manual_seed(targets)
        hidden, labels, weights = torch.randn(targets, 8).to(dtype), torch.randint(0, 30, (targets,)), torch.rand(targets)
        found = []
        for compiled in (False, True):
            leaf, weight = hidden.clone().requires_grad_(), torch.ones(30, 8).cumsum(0).div(30).requires_grad_()
            manner = Manner(12, compiled, factor=torch.exp if targets == 33 else None)
            scores = score(leaf, Head(weight, scale=0.5, cap=3.0), labels, weights, manner=manner)
            scores.total.backward()
            found.append((scores.total.detach(), scores.log_probs, leaf.grad, weight.grad))
        torch.testing.assert_close(found[1], found[0], rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_products_in_float32_are_those_of_a_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    a, b = torch.randn(64, 32, device=device).bfloat16(), torch.randn(32, 48, device=device).bfloat16()
    assert scoring.adds_in_float32(device)
    torch.testing.assert_close(torch.mm(a, b, out_dtype=torch.float32), a.float() @ b.float(), rtol=1e-4, atol=1e-4)
    total = torch.ones(64, 48, device=device)
    torch.testing.assert_close(
        scoring._plus(total.clone(), a, b, torch.float32, True), total + a.float() @ b.float(), rtol=1e-4, atol=1e-4
    )

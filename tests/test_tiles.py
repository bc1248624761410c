"""Tiles of MLPs and norms, and what waits in the host's memory: the same forward pass and the same gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tutelage.data.tokens import TokenizedExample
from tutelage.errors import InputError
from tutelage.model.batch import pack, pad
from tutelage.model.load import load_policy
from tutelage.model.offload import IN_FLIGHT, Host, Offload
from tutelage.model.policy import layers_of
from tutelage.model.tiled import _Tiled, tileable
from tutelage.resources.fitting import tile_for
from tutelage.resources.memory import Load, Shapes

ROWS = [TokenizedExample(str(n), tuple(range(1, 40)), tuple(range(50 + n, 90 + 3 * n))) for n in range(4)]


def step_of(policy, rows=ROWS):
    """(log-probabilities, gradients by name) of a batch of rows."""
    batch = pack(rows) if policy.packs else pad(rows, policy.pad_token_id)
    policy.model.zero_grad(set_to_none=True)
    policy.model.train()
    with policy.computing():
        scores = policy.score(batch, batch.weights)
        (-scores.total / 100).backward()
    return scores.log_probs.detach(), {
        name: weight.grad for name, weight in policy.model.named_parameters() if weight.requires_grad
    }


def assert_alike(one, other, exact):
    """Log-probabilities and each gradient agree: in float32 to rounding, in bfloat16 to a hundredth of the gradient's norm."""
    torch.testing.assert_close(one[0], other[0], rtol=1e-5 if exact else 3e-2, atol=1e-5 if exact else 3e-2)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        if gradient is None:
            assert other[1][name] is None
            continue
        gap = (gradient - other[1][name]).float().norm() / gradient.float().norm().clamp_min(1e-12)
        assert gap < (2e-6 if exact else 2e-2), (name, float(gap))


@pytest.fixture
def policy_of(make_config, tokenizer, monkeypatch):
    monkeypatch.setattr("tutelage.model.load.has_bfloat16", lambda device: True)

    def of(packs=True, kind="none", **changes):
        policy = load_policy(make_config(**changes).model, tokenizer)
        policy.packs = packs
        policy.recompute(kind)
        return policy

    return of


@pytest.mark.parametrize(
    ("precision", "lora"),
    [("fp32", "none"), ("bf16-mixed", "none"), ("bf16-sr", "none"), ("fp32", "dora"), ("bf16-mixed", "lora")],
)
def test_tiles_change_nothing_but_rounding(policy_of, precision, lora):
    policy = policy_of(model__precision=precision, model__lora=lora)
    before = step_of(policy)
    for kind, packs, tokens in (("none", True, 30), ("full", True, 100), ("full", False, 70)):
        policy.recompute(kind)
        policy.packs = packs
        policy.compute_by_tiles(tokens)
        assert_alike(before, step_of(policy), precision == "fp32")
    policy.compute_by_tiles(0)
    policy.recompute("none")
    policy.packs = True
    again = step_of(policy)
    assert torch.equal(before[0], again[0]) and not any(
        isinstance(vars(it).get("forward"), _Tiled) for it in policy.model.modules()
    )


def test_norms_of_queries_and_keys_are_tiled_too(policy_of):
    policy = policy_of()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    implementation = policy.model.config._attn_implementation
    policy.model = Qwen3ForCausalLM(Qwen3Config(vocab_size=400, head_dim=8, tie_word_embeddings=True, **sizes))
    policy.model.set_attn_implementation(implementation)
    policy.__post_init__()
    before = step_of(policy)
    assert (
        len(list(tileable(policy.model, layers_of(policy.model)))) == 2 * (4 + 1) + 1
    )  # norms of hidden states, queries, keys; MLP; last
    policy.compute_by_tiles(16)
    assert_alike(before, step_of(policy), exact=True)


def test_a_full_layer_that_is_computed_again_computes_its_tiles_once_more_and_no_more(policy_of, monkeypatch):
    """A tile is computed forward, and in the backward pass: checkpointing stops before it would compute the last ones a third time."""
    passes = []
    policy = policy_of(kind="full")
    tokens = pack(ROWS).input_ids.numel()
    policy.compute_by_tiles(tokens // 2 + 1)
    for layer in layers_of(policy.model):
        layer.mlp.register_forward_hook(lambda *_: passes.append(0))
        own = layer.mlp.forward.own
        monkeypatch.setattr(layer.mlp.forward, "own", lambda rows, own=own: (passes.append(rows.shape[1]), own(rows))[1])
    step_of(policy)
    assert sum(passes) == 2 * 2 * tokens  # two layers, forward and backward


def test_evaluation_and_generation_go_by_tiles_without_a_graph(policy_of):
    policy = policy_of()
    before = policy.score_responses(ROWS)
    policy.compute_by_tiles(10)
    for (a, _), (b, _) in zip(before, policy.score_responses(ROWS), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_modules_that_mix_tokens_or_draw_numbers_are_not_tiled(policy_of):
    policy = policy_of()
    for layer in layers_of(policy.model):
        layer.mlp.dropout = torch.nn.Dropout(0.1)
    assert all("Norm" in type(module).__name__ for module in tileable(policy.model, layers_of(policy.model)))
    assert not policy.has_tiles and tile_for(Shapes.of(policy), Load(10**6, 10**6), "full", None, 0.0) == 0
    policy.model = torch.nn.Linear(2, 2)  # what follows is of a model without either
    with pytest.raises(InputError, match="has no MLP and no norm"):
        policy.compute_by_tiles(8)


@pytest.mark.slow
def test_compiled_layers_go_on_around_their_tiles(policy_of):
    policy = policy_of()
    before = step_of(policy)
    policy.compile()
    policy.compute_by_tiles(30)
    assert_alike(before, step_of(policy), exact=True)


class Seen(Host):
    """The host's memory, which knows what was put there and brought back."""

    def __init__(self):
        self.put_there, self.brought = [], []

    def put(self, tensor):
        self.put_there.append(tuple(tensor.shape))
        return super().put(tensor)

    def get(self, there, made):
        self.brought.append(there.shape)
        super().get(there, made)


@pytest.mark.parametrize(("kind", "tokens"), [("none", 0), ("selective", 0), ("full", 0), ("full", 40), ("none", 40)])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_what_waits_in_the_host_comes_back_as_it_was(policy_of, monkeypatch, kind, tokens, precision):
    monkeypatch.setattr("tutelage.model.offload.SMALL", 0)
    policy = policy_of(kind=kind, model__precision=precision)
    policy.compute_by_tiles(tokens)
    before = step_of(policy)
    policy.offload, policy.host = True, Seen()
    monkeypatch.setattr(Offload.__init__, "__defaults__", (None, 0))
    after = step_of(policy)
    assert torch.equal(before[0], after[0])
    assert all(gradient is None or torch.equal(gradient, after[1][name]) for name, gradient in before[1].items())
    assert policy.host.put_there and len(policy.host.brought) == len(policy.host.put_there)


def test_with_full_recomputation_the_inputs_of_layers_are_all_that_is_left_of_them(policy_of, monkeypatch):
    policy = policy_of(kind="full")
    policy.offload, policy.host = True, Seen()
    monkeypatch.setattr(Offload.__init__, "__defaults__", (None, 1000))
    step_of(policy)
    tokens = pack(ROWS).input_ids.numel()
    assert policy.host.put_there.count((1, tokens, 32)) >= 2  # each layer's, and what the last norm keeps


def test_the_device_holds_few_tensors_whose_copies_are_under_way():
    offload = Offload(torch.device("cpu"), [], small=0)
    held = [torch.full((4,), float(n)) for n in range(6)]
    left = [offload.leave(tensor) for tensor in held]
    assert len(offload.flying) == IN_FLIGHT and offload.leave(held[-1]) is left[-1]  # kept twice, copied once
    back = [offload.fetch(it) for it in reversed([*left, left[-1]])]
    assert [float(it[0]) for it in back] == [5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert offload.left == [None] * 6 and not offload.flying


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card: copies on a stream of their own")
@pytest.mark.parametrize("kind", ["none", "full"])
def test_on_a_card_copies_on_another_stream_change_nothing(policy_of, kind):
    policy = policy_of(kind=kind, model__device="cuda", model__precision="bf16-mixed")
    before = step_of(policy)
    policy.offload = True
    policy.compute_by_tiles(40)
    assert_alike(before, step_of(policy), exact=False)

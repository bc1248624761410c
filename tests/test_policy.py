"""What makes training fast changes nothing: packs on each family of models, compiled layers, planned activations."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage import get_response_log_probs
from tutelage.config import Config, ModelConfig
from tutelage.data.tokens import TokenizedExample
from tutelage.evaluation.engine import native
from tutelage.evaluation.engine.contract import Sampling
from tutelage.model.batch import pack, pad
from tutelage.model.load import load_policy
from tutelage.resources import matrix_rate, step_flops
from tutelage.resources.memory import Load, activation_bytes, state_to_come

ROWS = [
    TokenizedExample("a", (5, 6, 7), (8, 9)),
    TokenizedExample("b", (5, 6, 7), (8,)),  # a prefix of another row
    TokenizedExample("c", (5, 6), (10, 11, 12)),
    TokenizedExample("c again", (5, 6), (10, 11, 12)),
    TokenizedExample("d", (13,), (5,)),
]


def gradients(policy, batch):
    policy.model.zero_grad()
    with policy.computing():
        scores = policy.score(batch, batch.weights / 7, entropy=True)
        scores.total.backward()
    found = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters() if parameter.grad is not None}
    return scores, found


def assert_same(policy, one, other, of_one, of_other, tolerance=1e-5):
    (a, by_a), (b, by_b) = gradients(policy, one), gradients(policy, other)
    torch.testing.assert_close(a.total, b.total, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(a.log_probs[of_one], b.log_probs[of_other], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(a.entropies[of_one], b.entropies[of_other], rtol=tolerance, atol=tolerance)
    assert by_a.keys() == by_b.keys()
    for name, gradient in by_a.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(by_b[name], gradient, rtol=10 * tolerance, atol=tolerance * scale)


def saved(config, path) -> ModelConfig:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return ModelConfig(id=str(path), device="cpu", precision="fp32")


def tiny(**more):
    return dict(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=128,
    ) | more  # fmt: skip


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Gemma", "Olmo2", "SmolLM3", "Granite", "Mixtral"])
def test_packed_is_unpacked_on_every_family(family, tmp_path, tokenizer):
    import transformers

    more = {"head_dim": 8} if family in ("Qwen3", "Gemma") else {"pad_token_id": 0} if family == "SmolLM3" else {}
    if family == "Mixtral":
        more = {"num_local_experts": 2, "sliding_window": None}
    policy = load_policy(saved(getattr(transformers, f"{family}Config")(**tiny(**more)), tmp_path), tokenizer)
    assert policy.packs
    packed, padded = pack(ROWS), pad(ROWS, 0)
    assert packed.input_ids.numel() == 10 < padded.input_ids.numel()
    assert_same(policy, packed, padded, torch.cat(packed.of_examples), torch.cat(padded.of_examples))


@pytest.mark.parametrize(
    ("family", "more", "why"),
    [
        ("Mistral", {"sliding_window": 4}, "sliding_window"),
        ("Gemma2", {"head_dim": 8}, "softcap"),
        ("Llama", {"attention_dropout": 0.1}, "attention dropout"),
        ("Llama", {"attention_dropout": 0.0}, ""),
        ("Bloom", None, "attention of its own kind"),
        ("Mamba", None, "attention of its own kind"),
    ],
)
def test_what_cannot_be_packed_is_trained_unpacked_and_says_why(family, more, why, tmp_path, tokenizer, capsys):
    import transformers

    small = dict(vocab_size=400, hidden_size=32, num_hidden_layers=2)
    config = getattr(transformers, f"{family}Config")
    policy = load_policy(saved(config(**(tiny(**more) if more is not None else small)), tmp_path), tokenizer)
    said = capsys.readouterr().out
    assert policy.packs == (not why) and (not why or "trained on padded rows" in said)
    assert why in said
    assert not policy.model.training
    scores, found = gradients(policy, pad(ROWS, 0))
    full = policy.model(torch.tensor([[5, 6, 7, 8, 9]])).logits.log_softmax(-1)
    torch.testing.assert_close(scores.log_probs[:2], full[0, [2, 3], [8, 9]], rtol=1e-4, atol=1e-4)
    assert found
    assert step_flops(policy, pad(ROWS, 0)) > 0


def test_get_response_log_probs_of_a_policy_are_those_of_its_model(make_config, tokenizer):
    policy = load_policy(make_config().model, tokenizer)
    ids = torch.randint(1, 100, (3, 9))
    ids[1:, :5] = ids[0, :5]
    inputs, labels = ids[:, :-1], ids[:, 1:]
    plain = get_response_log_probs(policy.model, inputs, labels, return_token_entropy=True, with_grad=True)
    packed = get_response_log_probs(policy, inputs, labels, return_token_entropy=True, with_grad=True)
    for key, value in plain.items():
        torch.testing.assert_close(packed[key], value, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(plain["log_probs"])
    parameters = list(policy.model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((packed["log_probs"] * upstream).sum(), parameters),
        torch.autograd.grad((plain["log_probs"] * upstream).sum(), parameters),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not get_response_log_probs(policy, inputs, labels)["log_probs"].requires_grad


@pytest.mark.slow
def test_compiled_layers_compute_what_the_others_do(make_config, tokenizer):
    policy = load_policy(make_config().model, tokenizer)
    batch = pack(ROWS)
    plain, by_plain = gradients(policy, batch)
    prompts, greedy = [[5, 6, 7], [5, 6]], Sampling(4, temperature=0)
    said = native.generate(policy.model, tokenizer, prompts, greedy)
    policy.compile()
    assert native.generate(policy.model, tokenizer, prompts, greedy) == said
    for rows in (ROWS, ROWS[:3]):  # another length needs no other code
        compiled, by_compiled = gradients(policy, pack(rows))
        if rows is ROWS:
            torch.testing.assert_close(compiled.log_probs, plain.log_probs)
            for name, gradient in by_plain.items():
                torch.testing.assert_close(by_compiled[name], gradient, rtol=1e-4, atol=1e-6)


def test_bf16_mixed_gradients_are_near_those_of_float32(make_config, tokenizer):
    batch = pack(ROWS)
    _, exact = gradients(load_policy(make_config().model, tokenizer), batch)
    _, mixed = gradients(load_policy(make_config(model__precision="bf16-mixed").model, tokenizer), batch)
    for name, gradient in exact.items():
        assert mixed[name].dtype == torch.float32
        assert (mixed[name] - gradient).norm() < 0.03 * gradient.norm()


def test_offloaded_activations_give_the_same_gradients(make_config, tokenizer):
    policy = load_policy(make_config().model, tokenizer)
    _, here = gradients(policy, pack(ROWS))
    policy.offload = True
    _, there = gradients(policy, pack(ROWS))
    assert all(torch.equal(gradient, there[name]) for name, gradient in here.items())


def test_gradients_that_would_outlive_their_precision_are_refused(make_config, tokenizer):
    policy = load_policy(make_config(model__precision="bf16-mixed").model, tokenizer)
    policy.recompute("full")
    with pytest.raises(ValueError, match="within `computing`"):
        get_response_log_probs(policy, torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long), with_grad=True)


def test_operations_are_counted_as_by_hand(make_config, tokenizer):
    policy = load_policy(make_config().model, tokenizer)
    batch = pack([TokenizedExample("a", (1, 2), (3, 4)), TokenizedExample("b", (1, 2), (5,))])
    layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 64
    pairs = 1 + 2 + 3 + 4 + 3
    assert step_flops(policy, batch) == 6 * 2 * layer * 5 + 6 * 32 * policy.head.weight.shape[0] * 3 + 12 * 2 * 4 * 8 * pairs
    assert matrix_rate(torch.device("cpu")) > 1e8


@pytest.mark.parametrize("lora", ["none", "lora"])
def test_an_outline_is_reckoned_as_the_model_itself_is(tiny_model, tokenizer, lora):
    """Shapes alone say what weights, state, activations and a step take."""
    from tutelage.model.load import outline

    config = ModelConfig(id=tiny_model, device="cpu", precision="fp32", lora=lora)
    loaded, shape = load_policy(config, tokenizer), outline(config, tokenizer, torch.device("cpu"))
    assert all(parameter.is_meta for parameter in shape.model.parameters())
    for reckon in (
        lambda policy: state_to_come(policy, Config(model=config)),
        lambda policy: activation_bytes(policy, Load(512, 512), "selective"),
        lambda policy: step_flops(policy, pack(ROWS)),
    ):
        assert reckon(shape) == reckon(loaded)


def test_memory_is_read_at_a_rate():
    from tutelage.resources.device import memory_rate

    assert 1e8 < memory_rate(torch.device("cpu")) < 1e13


def test_gradients_of_copies_add_up_in_float32_and_do_not_wait(make_config, tokenizer):
    """Those of two batches are the sum, bit for bit, of what each gives; a copy's own gradient is freed at once."""
    policy = load_policy(make_config(model__precision="bf16-mixed").model, tokenizer)
    one, other = pack(ROWS[:2]), pack(ROWS[2:])
    (_, by_one), (_, by_other) = gradients(policy, one), gradients(policy, other)
    policy.model.zero_grad()
    masters = dict(policy.model.named_parameters())
    with policy.computing():
        copies = [parameter for parameter in policy.model.parameters() if parameter.dtype == torch.bfloat16]
        for batch in (one, other):
            policy.score(batch, batch.weights / 7, entropy=True).total.backward()
            assert copies and all(copy.grad is None and copy.is_leaf for copy in copies)
    for name, master in masters.items():
        torch.testing.assert_close(master.grad, by_one[name] + by_other[name], rtol=1e-6, atol=1e-9)
    assert all(parameter is masters[name] for name, parameter in policy.model.named_parameters())


@pytest.mark.parametrize("what", ["none", "selective", "full"])
def test_copies_learn_whatever_the_backward_pass_computes_again(make_config, tokenizer, what):
    policy = load_policy(make_config(model__precision="bf16-mixed").model, tokenizer)
    policy.model.train()
    _, plain = gradients(policy, pack(ROWS))
    policy.recompute(what)
    _, again = gradients(policy, pack(ROWS))
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


def test_the_head_is_cast_once_for_all_batches_of_a_step(make_config, tokenizer):
    policy = load_policy(make_config(model__precision="bf16-mixed").model, tokenizer)
    shape, casts = policy.head.weight.shape, []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if "_to_copy" in str(func) and out.shape == shape and out.dtype == torch.bfloat16:
                casts.append(func)
            return out

    with Casts(), policy.computing():
        for batch in (pack(ROWS[:2]), pack(ROWS[2:])):
            policy.score(batch, batch.weights).total.backward()
    assert len(casts) == 1 and policy.manner.cast is None


FAMILIES = [("Qwen2", {}, 1, "fp32"), ("Llama", {}, 1, "bf16-mixed"), ("SmolLM3", {"pad_token_id": 0}, 2, "bf16-mixed")]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "more", "kinds", "precision"), FAMILIES)
def test_layers_are_compiled_once_a_kind_for_all_lengths(family, more, kinds, precision, tmp_path, tokenizer, monkeypatch, recwarn):
    """Six steps of changing lengths, with an evaluation between; SmolLM3 has layers without positions."""
    import transformers
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    config = saved(getattr(transformers, f"{family}Config")(**tiny(**more, num_hidden_layers=4)), tmp_path)
    policy = load_policy(config.model_copy(update={"precision": precision}), tokenizer)
    counter, plain = CompileCounterWithBackend("aot_eager"), torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: plain(module, backend=counter, **how))
    policy.compile()
    policy.model.train()
    for step in range(6):
        rows = [TokenizedExample("a", (5, 6, 7), tuple(range(20 + index, 22 + index + 3 * step))) for index in range(3)]
        gradients(policy, pack(rows))
        if step == 2:
            policy.score_responses(rows)
    assert sum(any(node.op == "call_function" for node in graph.graph.nodes) for graph in counter.graphs) == kinds
    assert not [warning for warning in recwarn if "Dynamo" in str(warning.message)]

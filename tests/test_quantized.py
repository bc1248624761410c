"""Frozen weights in 4 bits: adapters over them train in packs as over plain ones, and the model that is saved computes the same."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from adapters import ROWS, gradients_by_packs, trained
from safetensors.torch import load_file
from test_train import interrupt_at_call, weights_of
from tiny import make_tiny_model

from tutelage.errors import InputError
from tutelage.evaluation.engine import native
from tutelage.evaluation.engine.contract import Sampling
from tutelage.model import quantized
from tutelage.model.batch import pack, pad
from tutelage.model.exact import in_float32
from tutelage.model.load import load_policy, outline, size_in_bytes
from tutelage.model.lora import merged_weights
from tutelage.resources import generation, memory
from tutelage.resources.seconds import Operations
from tutelage.training import fine_tune, start
from tutelage.training.ending import Interrupted

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("peft", "bitsandbytes")), reason="PEFT or bitsandbytes is not installed"
)
CPU = torch.device("cpu")
QLORA = {"model__lora": "lora", "model__lora_rank": 4, "model__quantize": "nf4"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(96, 40), (34, 7), (64, 64)])
def test_a_quantized_layer_computes_as_a_plain_one_of_its_dense_weight(bias, sizes):
    torch.manual_seed(0)
    plain = torch.nn.Linear(*sizes, bias=bias)
    layer = quantized.QuantizedLinear(plain, CPU)
    dense = layer.dense(torch.float32)
    assert dense.shape == plain.weight.shape and quantized.count_of(layer.weight) in (dense.numel(), dense.numel() + 1)
    # of 16 levels the two that are furthest apart differ by 0.3 of a block's largest number, whose 8 bits add to it
    assert 0 < (dense - plain.weight).abs().max() < 0.2 * plain.weight.abs().max()
    rows = torch.randn(2, 5, sizes[0], requires_grad=True)
    layer(rows).square().sum().backward()
    ours, rows.grad = rows.grad, None
    torch.nn.functional.linear(rows, dense, plain.bias).square().sum().backward()
    torch.testing.assert_close(ours, rows.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_packs_over_4_bits_give_the_gradients_of_padded_rows(make_config, tokenizer, precision):
    policy = trained(load_policy(make_config(**QLORA, model__precision=precision).model, tokenizer))
    assert policy.packs
    gradients_by_packs(policy, precision)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj"]])
def test_the_saved_weights_compute_what_the_quantized_model_does(make_config, tokenizer, targets):
    policy = trained(load_policy(make_config(**QLORA, model__lora_targets=targets).model, tokenizer))
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    plain = load_policy(make_config().model, tokenizer)
    with torch.no_grad():
        adapted = policy.score(pack(ROWS)).log_probs
        unchanged = plain.score(pack(ROWS)).log_probs
        state = dict(merged_weights(policy.model))
        with policy.holding(state):
            held = policy.score(pack(ROWS)).log_probs
        with in_float32(policy, torch.float32) as exact:
            sent = exact.score(pad(ROWS, 0)).log_probs
        plain.model.load_state_dict(state)
        saved = plain.score(pack(ROWS)).log_probs
        assert torch.equal(policy.score(pack(ROWS)).log_probs, adapted)
    for other in (held, sent, saved):
        torch.testing.assert_close(other, adapted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unchanged, adapted, atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


@pytest.mark.slow
def test_an_interrupted_run_over_quantized_weights_ends_the_same(make_config, monkeypatch, tmp_path):
    same = {**QLORA, "train__lr": 1e-2, "eval__every": 0, "run__save_every": 2}
    through = fine_tune(make_config(**same, run__dir=str(tmp_path / "through")))
    config = make_config(**same)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at_call(patch, "accumulate_gradients", 3, signal.SIGINT)
        fine_tune(config)
    resumed = fine_tune(config)
    ours, theirs = weights_of(resumed.directory), weights_of(through.directory)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [json.loads(line) for line in (through.directory / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    # what is saved is a plain model, whose weights are as they were rounded
    plain = load_file(Path(config.model.id) / "model.safetensors")
    assert ours.keys() == plain.keys()
    changed = {name for name in ours if not torch.equal(ours[name].float(), plain[name].float())}
    assert changed == {name for name in ours if name.endswith("proj.weight")}


def test_the_outline_of_a_quantized_model_has_its_sizes(make_config, tokenizer):
    config = make_config(**QLORA).model
    plain = config.model_copy(update={"quantize": "none"})
    made, real = outline(config, tokenizer, CPU).model, load_policy(config, tokenizer).model
    shapes = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        for model in (made, real)
    ]
    assert shapes[0] == shapes[1] and len(quantized.beside(made)) == 4 * 14
    assert size_in_bytes(made) == size_in_bytes(outline(plain, tokenizer, CPU).model)


def test_a_model_without_linear_layers_is_not_quantized(make_config):
    class Bare(torch.nn.Module):
        def get_output_embeddings(self):
            return None

    with pytest.raises(InputError, match="has no linear layers beside its head"):
        quantized.quantize(Bare(), make_config(**QLORA).model, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__lora": "none"}, 'write model.lora = "lora"'),
        ({"model__lora": "dora"}, 'write model.lora = "lora"'),
        ({"model__compile": "on"}, "compiled layers would keep every weight in full"),
        ({"model__precision": "bf16-sr"}, "nothing to round"),
    ],
)
def test_what_cannot_be_quantized_is_refused(make_config, changes, message):
    with pytest.raises(InputError, match=message):
        make_config(**{**QLORA, **changes})


def test_weights_in_4_bits_are_reckoned_so_and_full_for_an_engine(make_config, tmp_path):
    sizes = dict(hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8)
    config = make_config(**QLORA, model__id=make_tiny_model(tmp_path / "wide", **sizes), model__precision="bf16-mixed").model
    policy, plain = (outline(each, None, CPU) for each in (config, config.model_copy(update={"quantize": "none"})))
    layers = sum(module.out_features * module.in_features for module in policy.model.modules() if is_quantized(module))
    saved = memory.weight_bytes(plain) - memory.weight_bytes(policy)
    # two bytes became half a byte and a 64th of one, beside a table of 1 KiB and 4 bytes for each 16,384 numbers
    assert saved == pytest.approx(layers * (2 - 1 / 2 - 1 / 64 - 4 / 16384), abs=28 * 1100)
    assert generation.engine_parts(policy, 100) == generation.engine_parts(plain, 100)
    assert Operations.of(policy) == Operations.of(plain)
    assert memory.Shapes.of(policy).dense == 1024 * 512 and memory.Shapes.of(plain).dense == 0


def is_quantized(module) -> bool:
    return isinstance(module, quantized.QuantizedLinear)


def test_several_ranks_and_a_missing_package_are_refused(make_config, monkeypatch):
    monkeypatch.setattr(start, "device_for", lambda *arguments: CPU)
    with pytest.raises(InputError, match="on one GPU alone"):
        start.require(make_config(**QLORA), SimpleNamespace(size=2, local_size=2), ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tutelage\[qlora\]'"):
        quantized.require()


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA card: kernels of 4-bit weights, and captured steps over them"
)
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_a_card_trains_and_answers_over_4_bits(make_config, tokenizer, precision):
    config = make_config(**QLORA, model__precision=precision, model__device="cuda").model
    policy = trained(load_policy(config, tokenizer))
    assert policy.packs and all(parameter.is_cuda for parameter in policy.model.parameters())
    scored = []
    for batch in (pack(ROWS), pad(ROWS, 0)):
        policy.model.zero_grad()
        with policy.computing():
            scores = policy.score(batch, batch.weights)
            scores.total.backward()
        scored.append(scores.log_probs.detach())
    torch.testing.assert_close(*scored, **({"rtol": 1e-3, "atol": 1e-3} if precision == "fp32" else {"rtol": 0.1, "atol": 0.1}))
    with torch.no_grad(), policy.holding(dict(merged_weights(policy.model))), policy.computing():
        held = policy.score(pad(ROWS, 0)).log_probs
    torch.testing.assert_close(held, scored[1], rtol=0.1, atol=0.1)
    prompts = [list(row.prompt_ids) for row in ROWS]
    with policy.computing(with_head=True):
        assert all(
            len(completion.token_ids) == 8
            for completion in native.generate(policy.model, tokenizer, prompts, Sampling(8, 0.0, min_new_tokens=8))
        )

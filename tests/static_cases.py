"""What tests of generation with fixed shapes share: prompts, small shapes, models, and the comparison with a growing cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tape import Tapes

from tutelage.evaluation.engine import native, static
from tutelage.evaluation.engine.static import Static
from tutelage.model import attention

TEXTS = [
    "Ava has 3 pens.",
    "There are 4 rows of 5 sweets, and 2 more.",
    "A",
    "Ben has 2 times as many",
    "Who has 7 more than 12?",
]
GREEDY, SAMPLED = {"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9}


def make_small(monkeypatch):
    """Blocks and caches so small that a few tokens pass every border."""
    monkeypatch.setattr(static, "SHORTEST", 32)
    monkeypatch.setattr(static, "BLOCK", 4)
    monkeypatch.setattr(Static, "block", 4)


def statically(model, tokenizer, sampling, prompts, capture=None, **options):
    """The completions with fixed shapes."""

    def way(*arguments):
        return Static(*arguments, capture=capture or Tapes())

    with native.generating(model, tokenizer, sampling, way) as continued:
        return continued(prompts, **options)


def assert_equal(ours, reference):
    """The same tokens, texts and endings, and nearly the same figures."""
    assert [dataclasses.replace(one, entropies=None, log_probs=None) for one in ours] == [
        dataclasses.replace(one, entropies=None, log_probs=None) for one in reference
    ]
    for one, other in zip(ours, reference, strict=True):
        assert one.entropies == pytest.approx(other.entropies, abs=1e-4)
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


def assert_as_reference(model, tokenizer, sampling, prompts, capture=None, **options):
    reference = native.generate(model, tokenizer, prompts, sampling, **options)
    assert_equal(statically(model, tokenizer, sampling, prompts, capture, **options), reference)
    return reference


def of_family(family: str, packed: bool):
    """A small random model; `packed`: with the attention that training uses."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **sizes, **({"head_dim": 16} if family == "qwen3" else {}))
    attention.register()
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME if packed else "sdpa").float().eval()

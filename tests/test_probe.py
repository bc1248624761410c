"""Packs are tried on each model: its structure in float32, token by token; the device's kernels forward and backward."""

from __future__ import annotations

import emulated
import pytest
import torch
import transformers
from test_policy import saved, tiny

from tutelage.config import ModelConfig
from tutelage.errors import InputError
from tutelage.model import attention, probe
from tutelage.model.attention import CpuLayout, EqualRowsLayout, PathsLayout
from tutelage.model.batch import pack, pad
from tutelage.model.load import has_bfloat16, load_policy, load_tokenizer
from tutelage.model.policy import Policy


def lfm2(path):
    """A hybrid: short convolutions look two tokens back, whoever they belong to, so packs leak at their seams only."""
    kinds = ["conv", "conv", "full_attention", "conv"]
    # weights as large as trained ones: random ones of the usual size hide what leaks
    config = transformers.Lfm2Config(**tiny(num_hidden_layers=4, layer_types=kinds, pad_token_id=0, initializer_range=0.1))
    return saved(config, path)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16-sr"}, {"precision": "bf16-mixed", "lora": "lora"}])
def test_a_leak_at_a_few_tokens_is_found_in_every_precision(tmp_path, tokenizer, changes, capsys):
    if "lora" in changes:
        pytest.importorskip("peft")
    config = lfm2(tmp_path).model_copy(update=changes)
    policy = load_policy(config, tokenizer, here=False)
    assert not policy.packs and "state from token to token" in capsys.readouterr().out


def test_a_model_in_bfloat16_that_can_be_packed_is(tmp_path, tokenizer):
    config = saved(transformers.LlamaConfig(**tiny()), tmp_path).model_copy(update={"precision": "bf16-sr"})
    policy = load_policy(config, tokenizer, here=False)
    assert policy.packs and {weight.dtype for weight in policy.model.parameters()} == {torch.bfloat16}
    assert all(weight.grad is None and weight.requires_grad for weight in policy.model.parameters())
    assert not policy.model.training


def leaks(self, query, key, value, scaling):
    return attention.DenseLayout(torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()).attend(query, key, value, scaling)


def forgets_the_keys(self, query, key, value, scaling):
    return RIGHT(self, query, key.detach(), value, scaling)


def is_a_tenth_off(self, query, key, value, scaling):
    return RIGHT(self, query, key, value, 1.1 * scaling)


RIGHT = CpuLayout.attend


@pytest.mark.slow
@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this CPU has no bfloat16; in float32 it is tried below")
@pytest.mark.parametrize("attend", [RIGHT, leaks, forgets_the_keys, is_a_tenth_off])
def test_a_trained_model_in_bfloat16_tells_rounding_from_a_wrong_kernel(kernel, attend, capsys):
    kernel(attend)
    policy = load_policy(ModelConfig(id="smollm2", device="cpu"), load_tokenizer("smollm2"))
    assert policy.packs == (attend is RIGHT), capsys.readouterr().out


@pytest.fixture
def kernel(monkeypatch):
    """Let the device's kernel for packs do something else."""

    def becomes(attend):
        monkeypatch.setattr(CpuLayout, "attend", attend)

    return becomes


def raising(error):
    def attend(self, *_):
        raise error

    return attend


def test_a_kernel_with_other_numbers_is_not_trained_with(make_config, tokenizer, kernel, capsys):
    right = CpuLayout.attend
    kernel(lambda self, query, key, value, scaling: right(self, query, key, value, 2 * scaling))
    assert not load_policy(make_config().model, tokenizer).packs
    assert "kernels on cpu that differ from plain masked attention" in capsys.readouterr().out


def test_a_kernel_whose_backward_pass_is_wrong_is_not_trained_with(make_config, tokenizer, kernel, capsys):
    right = CpuLayout.attend
    kernel(lambda self, query, key, value, scaling: right(self, query, key.detach(), value, scaling))
    assert not load_policy(make_config().model, tokenizer).packs
    assert "gradients by" in capsys.readouterr().out


def test_a_kernel_that_does_not_compile_is_named_for_what_it_is(make_config, tokenizer, kernel, capsys):
    class CompilationError(RuntimeError):
        pass

    CompilationError.__module__ = "torch._inductor.exc"
    kernel(raising(CompilationError("out of resource: shared memory\nmore")))
    assert not load_policy(make_config().model, tokenizer).packs
    said = capsys.readouterr().out
    assert "no kernel for packed attention that compiles on cpu (blocks of queries on the CPU: CompilationError: out of resource: shared memory)" in said


def test_a_kernel_of_another_version_is_an_error_with_a_remedy(make_config, tokenizer, kernel):
    kernel(raising(TypeError("flash_attn_varlen_func() got an unexpected keyword argument 'softmax_scale'")))
    with pytest.raises(InputError, match=r"takes other arguments.*softmax_scale.*train\.pack = false"):
        load_policy(make_config().model, tokenizer)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError("illegal memory access", 700), ValueError("bug")]
)
def test_what_says_nothing_of_packs_is_not_taken_for_a_verdict(make_config, tokenizer, kernel, error):
    try:
        raise error
    except Exception as raised:
        error = raised
    kernel(raising(error))
    with pytest.raises(type(error)):
        load_policy(make_config().model, tokenizer)


@pytest.mark.parametrize("met", [torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError("illegal memory access", 700)])
def test_what_a_compiler_met_on_the_device_is_not_taken_for_a_verdict(make_config, tokenizer, kernel, met):
    from torch._inductor.exc import InductorError

    kernel(raising(InductorError(met, None)))
    with pytest.raises(InductorError):
        load_policy(make_config().model, tokenizer)


@pytest.fixture
def by_paths(monkeypatch):
    """Let the CPU have a kernel with a variable-length call."""
    monkeypatch.setattr(Policy, "kernel", emulated.kernel())


def test_a_kernel_of_variable_lengths_is_proven(make_config, tokenizer, by_paths):
    assert load_policy(make_config().model, tokenizer).packs


@pytest.mark.parametrize("kind", ["shared", "apart", "equal"])
def test_each_layout_of_a_kernel_is_proven(make_config, tokenizer, by_paths, kind, monkeypatch, capsys):
    layout = EqualRowsLayout if kind == "equal" else PathsLayout
    right = layout.attend

    def wrong(self, query, key, value, scaling):
        broken = kind == "equal" or (self.keys is not None) == (kind == "shared")
        return right(self, query, key, value, 2 * scaling if broken else scaling)

    monkeypatch.setattr(layout, "attend", wrong)
    assert not load_policy(make_config().model, tokenizer).packs
    assert "torch's varlen_attn" in capsys.readouterr().out


def test_a_kernel_that_gives_no_number_is_not_trained_with(make_config, tokenizer, kernel, capsys):
    right = CpuLayout.attend
    kernel(lambda self, query, key, value, scaling: right(self, query, key, value, scaling) * torch.nan)
    assert not load_policy(make_config().model, tokenizer).packs
    assert "differ from plain masked attention" in capsys.readouterr().out


def test_the_probe_compares_the_largest_gap_not_the_mean(make_config, tokenizer):
    policy = load_policy(make_config().model, tokenizer)
    rows = probe._rows(policy)
    batch = pack(rows)
    with torch.no_grad():
        packed = probe._log_probs(policy, batch, probe._dense(policy, batch))[torch.cat(batch.of_examples)]
        alone = torch.cat([probe._log_probs(policy, pad([row], 0), {}) for row in rows])
    assert (packed - alone).abs().max() < probe.STRUCTURE_GAP / 10
    assert policy.model.config._attn_implementation == attention.NAME

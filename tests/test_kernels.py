"""Which kernel attends within packs, how it is called, and what of it is compiled and kept."""

from __future__ import annotations

import functools
import logging
import random
import sys
import types
import warnings

import emulated
import pytest
import torch
from attention_cases import CPU, SHARED, assert_is_masked_attention, ends_of, tensors
from test_policy import tiny

from tutelage.errors import InputError
from tutelage.model import policy as policy_module
from tutelage.model.attention import (
    NAME,
    OPERATIONS,
    DenseLayout,
    Kernel,
    dense_mask,
    kernel_for,
    layout_of,
)
from tutelage.model.attention import call as attention_call
from tutelage.model.attention import kernel as attention_kernel
from tutelage.model.attention.varlen import torchs_own
from tutelage.model.batch import build_trie

# Which kernel serves


@pytest.fixture
def card(monkeypatch):
    """A pretended card: its capability and the packages that are installed beside it; gives the kernel for heads in bfloat16."""
    attention_kernel._kernel_for.cache_clear()

    def chosen(capability=(9, 0), packages=(), size=128, dtype=torch.bfloat16):
        for module, name in (("flash_attn_interface", "has_flash3"), ("flash_attn", "has_flash2")):
            monkeypatch.setattr(attention_kernel, name, lambda present=module in packages: present)
            if module in packages:
                monkeypatch.setitem(sys.modules, module, packages[module])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        attention_kernel._kernel_for.cache_clear()
        return kernel_for(torch.device("cuda"), dtype, size)

    yield chosen
    attention_kernel._kernel_for.cache_clear()


def package(function=None) -> types.SimpleNamespace:
    """A stand-in for a FlashAttention package."""

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False, deterministic=False
    ):
        assert causal and not dropout_p
        return emulated.varlen(q, k, v, (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k), softmax_scale)

    return types.SimpleNamespace(flash_attn_varlen_func=function or flash_attn_varlen_func)


@pytest.fixture
def flash3_operations(monkeypatch):
    monkeypatch.setattr(torch.ops, "flash_attn_3", types.SimpleNamespace(_flash_attn_forward=None), raising=False)


def test_the_fastest_kernel_that_is_installed_serves(card, flash3_operations):
    both = {"flash_attn_interface": package(), "flash_attn": package()}
    assert card().name == "varlen"
    assert card(packages={"flash_attn": package()}).name == "flash2"
    assert card(packages=both).name == "flash3" and str(card(packages=both)) == "FlashAttention 3"
    assert card((8, 0), both).name == "flash2" and card((10, 0), both).name == "flash2"  # FlashAttention 3 is for Hopper
    assert card((7, 5), both).name == "flex"
    assert card(dtype=torch.float32, packages=both).name == "flex"
    assert kernel_for(CPU, torch.bfloat16, 128).name == "cpu"


def test_heads_that_a_kernel_does_not_take_go_to_the_next(card, flash3_operations):
    both = {"flash_attn_interface": package(), "flash_attn": package()}
    assert card(packages=both, size=256).name == "flash3" and card(packages=both, size=264).name == "flex"
    assert card(size=100).name == "flex" and card(size=256).name == "varlen" and card((8, 9), size=256).name == "flex"
    torch.use_deterministic_algorithms(True)
    try:
        assert card(packages=both, size=256).name == "flash2" and card(packages=both, size=192).name == "flash3"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("module", ["flash_attn_interface", "flash_attn"])
def test_a_package_that_lacks_an_argument_is_an_error_that_names_it(card, flash3_operations, module):
    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, deterministic=False):
        raise AssertionError

    with pytest.raises(InputError, match=rf"{module}.* takes no argument softmax_scale.*install another.*train\.pack = false"):
        card(packages={module: package(flash_attn_varlen_func)})


def test_a_package_that_cannot_be_imported_is_an_error(card, flash3_operations):
    with pytest.raises(InputError, match=r"FlashAttention 2 is installed, but .* cannot be imported.*uninstall"):
        card(packages={"flash_attn": types.SimpleNamespace()})


def test_flash_attention_3_without_a_traced_operation_is_an_error(card, monkeypatch):
    monkeypatch.setattr(torch.ops, "flash_attn_3", types.SimpleNamespace(), raising=False)
    with pytest.raises(InputError, match="no torch operation"):
        card(packages={"flash_attn_interface": package()})


@pytest.mark.parametrize("told", [True, False], ids=["with enable_gqa", "without"])
def test_torchs_varlen_attn_is_told_of_groups_where_it_wants_to_be(card, monkeypatch, told):
    import torch.nn.attention.varlen

    def of_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        assert enable_gqa == (query.shape[1] != key.shape[1])
        return of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)

    def of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        assert window_size == (-1, 0)
        return emulated.varlen(query, key, value, (cu_seq_q, cu_seq_k, max_q, max_k), scale)

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", of_2_13 if told else of_2_11)
    ends = ends_of(SHARED)
    made = layout_of(ends, Kernel("varlen", CPU, card().varlen))
    for heads in ((4, 2), (4, 4)):
        assert_is_masked_attention(made, ends, heads)


def test_torchs_varlen_attn_without_a_window_is_an_error(card, monkeypatch):
    import torch.nn.attention.varlen

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, scale=None):
        raise AssertionError

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    with pytest.raises(InputError, match=r"torch 2.* varlen_attn takes no argument window_size"):
        card()


@pytest.mark.parametrize("name", ["flash_attn_interface", "flash_attn"])
def test_a_package_is_called_with_runs_and_paths_and_as_causal(card, flash3_operations, name):
    ends = ends_of(SHARED)
    made = layout_of(ends, Kernel("flash2", CPU, card(packages={name: package()}).varlen))
    assert_is_masked_attention(made, ends)


# Layers that are compiled


def packs_of_changing_lengths(kinds, steps=10):
    """Tries of each kind in turn, as (sequences, layout)."""
    draw = random.Random(0)
    for step in range(steps):
        kind = kinds[step % len(kinds)]
        lengths = [draw.randint(1, 20) for _ in range(draw.randint(2, 6))]
        if kind == "equal":
            lengths = lengths[:1] * len(lengths)
        shared = [draw.randrange(400) for _ in range(draw.randint(2, 9))] if kind == "shared" else []
        yield [(*shared, row, *(draw.randrange(400) for _ in range(length))) for row, length in enumerate(lengths)]


@pytest.mark.slow
def test_layers_are_compiled_once_for_each_kind_of_layout(caplog):
    import transformers
    from torch._dynamo.utils import counters

    attention_call.register()
    torch.manual_seed(0)
    kinds = ("apart", "shared", "equal")
    config = transformers.Qwen2Config(**tiny())
    model = transformers.Qwen2ForCausalLM._from_config(config, attn_implementation=NAME).double().train()
    torch._dynamo.reset()
    counters.clear()
    for layer in model.model.layers:
        layer.compile(dynamic=True, fullgraph=True, backend="aot_eager")  # traces the backward pass too

    def computed(trie, layout):
        model.zero_grad()
        mask = torch.ones((1, 1, 1, 1), dtype=torch.bool)
        ids, depths = torch.tensor([trie.ids]), torch.tensor([trie.depths])
        hidden = model.model(ids, position_ids=depths, attention_mask=mask, layout=layout, use_cache=False).last_hidden_state
        hidden.square().sum().backward()
        return hidden.detach(), *(weight.grad.clone() for weight in model.model.parameters())

    logging.getLogger("torch._dynamo").addHandler(caplog.handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for sequences in packs_of_changing_lengths(kinds):
                trie = build_trie(sequences)
                ends = torch.tensor(trie.ends)
                ours = computed(trie, layout_of(ends, emulated.kernel()))
                with torch.compiler.set_stance("force_eager"):
                    theirs = computed(trie, DenseLayout(dense_mask(ends)))
                for mine, other in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(mine, other, rtol=0, atol=1e-9 * float(other.abs().max()))
    finally:
        logging.getLogger("torch._dynamo").removeHandler(caplog.handler)
    assert counters["stats"]["unique_graphs"] == len(kinds)
    assert not [it for it in caplog.records if it.name.startswith("torch._dynamo")]
    assert not [it for it in warned if "dynamo" in str(it.message).lower()]


def test_torchs_varlen_attn_is_traced_as_one_graph():
    ends = ends_of(SHARED)
    layout, graphs = layout_of(ends, Kernel("varlen", CPU, torchs_own())), []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return lambda *arguments: (torch.empty(0),)

    with torch.no_grad():
        torch.compile(layout.attend, fullgraph=True, dynamic=True, backend=backend)(*tensors(len(ends), dtype=torch.bfloat16), 0.3)
    (code,) = graphs
    assert "tutelage.gather_keys" in code and "torch_attn._varlen_attn" in code


# What selective recomputation keeps


def test_the_operations_that_torch_has_are_known_by_their_names():
    import torch.nn.attention.varlen  # registers its operation

    assert torch.ops.higher_order.flex_attention.name() in OPERATIONS
    known = [name.split("::") for name in OPERATIONS if "::" in name and not name.startswith("flash_attn")]
    assert all(getattr(getattr(torch.ops, space), name).default.name() == f"{space}::{name}" for space, name in known)
    assert len(known) == 6


@pytest.mark.parametrize(("kept", "calls"), [(True, 1), (False, 2)], ids=["kept", "computed again"])
def test_selective_recomputation_computes_attention_once(kept, calls, monkeypatch):
    """The contract's operation in place of a package's, which is registered only where the package is installed."""
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    monkeypatch.setattr(policy_module, "_PRODUCTS", policy_module._PRODUCTS | ({"emulated::varlen"} if kept else set()))
    made = []
    right = emulated.probabilities
    monkeypatch.setattr(emulated, "probabilities", lambda *inputs: made.append(1) or right(*inputs))
    ends = ends_of(SHARED)
    layout, inputs = layout_of(ends, emulated.kernel()), tensors(len(ends))
    contexts = functools.partial(create_selective_checkpoint_contexts, policy_module._keep_products)
    attended = checkpoint(lambda *each: layout.attend(*each, 0.3).sin(), *inputs, use_reentrant=False, context_fn=contexts)
    attended.sum().backward()
    runs = len(layout.runs) - 1
    assert len(made) == (calls + 1) * runs  # one more for the gradients

"""Packed attention against the definition, `dense_mask`; the back ends for CUDA by what of them runs without one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.model.attention import cpu as attention_cpu
from tutelage.model.attention import (
    DenseLayout,
    FlexLayout,
    RowsLayout,
    UnsupportedAttention,
    attend,
    dense_mask,
    gathered_keys,
    kernel_for,
    layout_of,
)
from tutelage.model.batch import build_trie

CPU = torch.device("cpu")
tries = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=6)


def ends_of(sequences) -> torch.Tensor:
    return torch.tensor(build_trie(sequences).ends)


def layout(ends, device, dtype=torch.bfloat16):
    return layout_of(ends, kernel_for.__wrapped__(device, dtype, 64))


def reference(query, key, value, ends, scaling):
    """Softmax over what `dense_mask` allows, key heads repeated."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~dense_mask(ends), -torch.inf)
    return (torch.softmax(scores, -1) @ value).transpose(1, 2)


def tensors(tokens: int, heads: int = 4, key_heads: int = 2, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((1, heads, tokens, 8), (1, key_heads, tokens, 8), (1, key_heads, tokens, 8))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@settings(deadline=None)
@given(tries)
def test_the_keys_of_all_paths_are_counted_where_a_prefix_is_shared(sequences):
    ends = ends_of(sequences)
    mask = dense_mask(ends)
    last = [token for token in range(len(ends)) if token + 1 == len(ends) or not mask[token + 1, token]]  # of each run
    keys = int(mask[last].sum())
    assert gathered_keys(ends) == (keys if keys > len(ends) else 0)


@settings(deadline=None)
@given(tries, st.sampled_from([(4, 2), (4, 4), (3, 1)]), st.sampled_from([1, 2, 256]))
def test_packed_attention_is_masked_attention_in_value_and_gradient(sequences, heads, block):
    ends = ends_of(sequences)
    query, key, value = tensors(len(ends), *heads)
    before, attention_cpu.QUERY_BLOCK = attention_cpu.QUERY_BLOCK, block
    try:
        ours, _ = attend(None, query, key, value, None, scaling=0.3, layout=layout(ends, CPU))
    finally:
        attention_cpu.QUERY_BLOCK = before
    theirs = reference(query, key, value, ends, 0.3)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), upstream), torch.autograd.grad(theirs, (query, key, value), upstream)
    ):
        torch.testing.assert_close(mine, other)


def test_the_packed_operation_passes_torchs_own_checks():
    query, key, value = (tensor[0].detach().requires_grad_() for tensor in tensors(5))
    made = layout(ends_of([(1, 2, 3), (1, 4), (5,)]), CPU)
    torch.library.opcheck(attention_cpu._attend_cpu, (query, key, value, made.blocks, made.above, 0.3))


@pytest.mark.parametrize("sequences", [[(1, 2, 3), (1, 2, 4, 5), (6, 7)], [(1, 2), (3, 4)]])
def test_the_flex_mask_is_the_mask(sequences):
    from torch.nn.attention.flex_attention import flex_attention

    ends = ends_of(sequences)
    query, key, value = (tensor.detach() for tensor in tensors(len(ends), 2, 2, torch.float32))
    ours = flex_attention(query, key, value, block_mask=FlexLayout.of(ends).mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(ours, reference(query, key, value, ends, 0.3))


def test_the_dense_layout_is_the_mask_in_every_precision():
    ends = ends_of([(1, 2, 3), (1, 2, 4, 5), (6, 7)])
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        query, key, value = (tensor.detach() for tensor in tensors(len(ends), dtype=dtype))
        ours, _ = attend(None, query, key, value, None, scaling=0.3, layout=DenseLayout(dense_mask(ends)))
        torch.testing.assert_close(ours, reference(query, key, value, ends, 0.3), atol=tolerance, rtol=tolerance)


def test_rows_that_share_nothing_go_to_the_kernels_for_variable_lengths():
    meta, apart, shared = torch.device("meta"), ends_of([(1, 2), (3, 4, 5)]), ends_of([(1, 2), (1, 3)])  # anything but a CPU
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlexLayout, "of", staticmethod(lambda ends: "flex"))
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        rows = layout(apart, meta)
        assert isinstance(rows, RowsLayout) and rows.bounds.shape == (3,) and rows.longest == 3
        assert layout(shared, meta) == "flex"
        assert layout(apart, meta, torch.float32) == "flex"  # those kernels take half precision only
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert layout(apart, meta) == "flex"


def test_a_row_kernel_is_called_with_the_rows_and_as_causal():
    """The kernel itself needs a GPU: here a stand-in attends within each row."""

    def kernel(q, k, v, of_queries, of_keys, longest_query, longest_key, *, softmax_scale, causal):
        assert of_queries is of_keys and longest_query == longest_key == 3 and causal
        parts = []
        for start, stop in itertools.pairwise(of_queries):
            one = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
            part = [each[start:stop].transpose(0, 1)[None] for each in (q, k, v)]
            parts.append(DenseLayout(one).attend(*part, softmax_scale)[0])
        return torch.cat(parts)

    ends = ends_of([(1, 2), (3, 4, 5)])
    query, key, value = tensors(len(ends))
    ours = RowsLayout(torch.tensor([0, 2, 5], dtype=torch.int32), 3, kernel).attend(query, key, value, 0.3)
    torch.testing.assert_close(ours, reference(query, key, value, ends, 0.3))


@pytest.mark.parametrize("asked", [{"sliding_window": 4}, {"softcap": 30.0}, {"s_aux": torch.ones(4)}, {"dropout": 0.1}])
def test_attention_that_is_not_plain_is_refused(asked):
    with pytest.raises(UnsupportedAttention):
        attend(None, *tensors(3), None, layout=layout(ends_of([(1, 2, 3)]), CPU), **asked)


def test_without_a_layout_it_is_transformers_own():
    query, key, value = (tensor.detach() for tensor in tensors(6, 2, 2))
    module = torch.nn.Module()
    module.is_causal = True
    ours, _ = attend(module, query, key, value, None, scaling=0.3)
    torch.testing.assert_close(ours, reference(query, key, value, ends_of([(1, 2, 3, 4, 5, 6)]), 0.3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; the masks are tested on the CPU above")
@pytest.mark.parametrize("sequences", [[(1, 2, 3), (1, 2, 4, 5), (6, 7)], [(1, 2), (3, 4, 5)]])
def test_cuda_attends_as_the_cpu_does(sequences):
    device = torch.device("cuda")
    ends = ends_of(sequences)
    ends = torch.cat([ends, torch.arange(len(ends), 128) + 1])
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 128, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
    )
    made = layout(ends, device)
    ours, _ = attend(None, query, key, value, None, scaling=0.125, layout=made)
    theirs = reference(query, key, value, ends.to(device), 0.125)
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), upstream), torch.autograd.grad(theirs, (query, key, value), upstream)
    ):
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0.1)

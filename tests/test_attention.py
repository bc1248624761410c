"""Packed attention against the definition, `dense_mask`; the kernels of CUDA by their contract, and by themselves with a card."""

from __future__ import annotations

import itertools
import sys
import tracemalloc

import emulated
import pytest
import torch
from attention_cases import APART, CPU, EQUAL, SHARED, assert_is_masked_attention, ends_of, reference, tensors, tries
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.model.attention import (
    CpuLayout,
    DenseLayout,
    EqualRowsLayout,
    FlexLayout,
    Kernel,
    PathsLayout,
    UnsupportedAttention,
    attend,
    dense_mask,
    kernel_for,
    layout_of,
)
from tutelage.model.attention import cpu as attention_cpu
from tutelage.model.attention import flex as attention_flex
from tutelage.model.attention import paths as attention_paths
from tutelage.model.attention.paths import Paths, gather
from tutelage.model.attention.varlen import flash2, flash3, has_flash2, has_flash3, torchs_own

# Which runs and paths a pack has


@settings(deadline=None)
@given(tries)
def test_runs_and_paths_are_those_of_the_mask(sequences):
    ends = ends_of(sequences)
    mask = dense_mask(ends)
    starts = [token for token in range(len(ends)) if token == 0 or not mask[token, token - 1]]
    bounds = list(itertools.pairwise([*starts, len(ends)]))
    keys = [mask[stop - 1].nonzero().flatten().tolist() for _, stop in bounds]
    paths = Paths.of(ends)
    assert paths.runs.tolist() == [*starts, len(ends)]
    assert paths.paths.tolist() == [0, *itertools.accumulate(map(len, keys))]
    assert paths.longest_run == max(stop - start for start, stop in bounds) and paths.longest_path == max(map(len, keys))
    gathered = list(itertools.chain.from_iterable(keys))
    assert paths.keys is None if len(gathered) == len(ends) else paths.keys.tolist() == gathered


def test_paths_of_a_long_pack_are_made_by_runs_and_not_by_tokens():
    """A deep pack whose rows share all but their last tokens: 400 runs, 1.6 million keys."""
    depth, rows = 4000, 400
    ends = torch.cat([torch.full((depth,), depth + rows), torch.arange(depth, depth + rows) + 1])
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count if frame.f_code.co_filename == attention_paths.__file__ else None

    sys.settrace(count)
    try:
        paths = Paths.of(ends)
    finally:
        sys.settrace(None)
    assert lines < 10 * rows and len(paths.keys) == (depth + 1) + (rows - 1) * (depth + 1)


# The gather of keys


def test_the_gather_passes_torchs_own_checks():
    _, key, value = (tensor[0].transpose(0, 1).detach().requires_grad_() for tensor in tensors(5))
    torch.library.opcheck(gather, (key, value, torch.tensor([0, 1, 0, 2, 0, 1, 3])))


def test_gradients_of_copies_are_summed_in_float32():
    """A root with 4,096 copies, whose gradients of 1 + 1/128 a sum in bfloat16 would stop adding at 256."""
    key = torch.zeros(2, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    value = torch.zeros(2, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    keys = torch.zeros(4097, dtype=torch.long)
    keys[-1] = 1
    copies = gather(key, value, keys)
    torch.autograd.backward(copies, [torch.full_like(copies[0], 1 + 1 / 128), torch.ones_like(copies[1])])
    assert (key.grad[0] == 4096 + 32).all() and (key.grad[1] == 1 + 1 / 128).all()
    assert (value.grad[0] == 4096).all() and key.grad.dtype == torch.bfloat16


# Each layout against the definition


@settings(deadline=None)
@given(tries, st.sampled_from([(4, 2), (4, 4), (3, 1)]), st.sampled_from([1, 2, 256]))
def test_packed_attention_is_masked_attention_in_value_and_gradient(sequences, heads, block):
    ends = ends_of(sequences)
    before, attention_cpu.QUERY_BLOCK = attention_cpu.QUERY_BLOCK, block
    try:
        assert_is_masked_attention(layout_of(ends, Kernel("cpu", CPU)), ends, heads)
    finally:
        attention_cpu.QUERY_BLOCK = before


def test_the_packed_operation_passes_torchs_own_checks():
    query, key, value = (tensor[0].detach().requires_grad_() for tensor in tensors(5))
    made = CpuLayout.of(ends_of([(1, 2, 3), (1, 4), (5,)]))
    torch.library.opcheck(attention_cpu._attend_cpu, (query, key, value, made.blocks, made.above, 0.3))


@settings(deadline=None)
@given(tries, st.sampled_from([(4, 2), (4, 4), (3, 1)]))
def test_attention_by_paths_is_masked_attention_in_value_and_gradient(sequences, heads):
    ends = ends_of(sequences)
    assert_is_masked_attention(layout_of(ends, emulated.kernel()), ends, heads, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("sequences", "kind"), [(SHARED, PathsLayout), (APART, PathsLayout), (EQUAL, EqualRowsLayout), ([(1, 2)], EqualRowsLayout)])
def test_rows_of_one_length_that_share_nothing_are_a_batch(sequences, kind):
    ends = ends_of(sequences)
    layout = layout_of(ends, emulated.kernel())
    assert type(layout) is kind
    assert_is_masked_attention(layout, ends)


def test_nothing_is_gathered_where_nothing_is_shared():
    assert layout_of(ends_of(APART), emulated.kernel()).keys is None
    assert layout_of(ends_of(SHARED), emulated.kernel()).keys is not None


def test_a_batch_of_rows_is_a_view():
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
                copied.append(func)
            return func(*args, **(kwargs or {}))

    # as projections give them: tokens before heads in memory
    query, key, value = (torch.randn(1, 6, heads, 8).transpose(1, 2) for heads in (4, 4, 4))
    with Copies():
        EqualRowsLayout(3).attend(query, key, value, 0.3)
    assert copied == []


def flexed(ends, block=128):
    """The layout for FlexAttention with its plain PyTorch form, which needs no compiler and materialises the scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return FlexLayout(FlexLayout.of(ends, CPU, block).mask, flex_attention)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("sequences", "heads"), [(SHARED, (4, 4)), (APART, (4, 2))])
def test_flex_attention_is_masked_attention_in_value_and_gradient(sequences, heads, monkeypatch):
    # without a compiler, torch has a backward pass on a CPU, but refuses it
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    long = [tuple(itertools.chain.from_iterable([token] * 40 for token in row)) for row in sequences]
    ends = ends_of(long)
    ends = torch.cat([ends, torch.arange(len(ends), -len(ends) // 128 * -128) + 1])
    assert_is_masked_attention(flexed(ends), ends, heads)


@settings(deadline=None)
@given(tries, st.sampled_from([1, 2, 4]))
def test_the_blocks_for_flex_attention_are_those_of_the_mask(sequences, block):
    ends = ends_of(sequences)
    ends = torch.cat([ends, torch.arange(len(ends), -len(ends) // block * -block) + 1])
    count = len(ends) // block
    tiles = dense_mask(ends).view(count, block, count, block).transpose(1, 2).flatten(2)
    partial, full = (torch.from_numpy(found) for found in attention_flex.visible_blocks(ends.numpy(), block))
    assert torch.equal(partial | full, tiles.any(-1)) and not (partial & full).any()
    # a block of one token that sees itself is masked token by token, which changes nothing
    assert torch.equal(full | torch.eye(count, dtype=torch.bool), tiles.all(-1) | torch.eye(count, dtype=torch.bool))
    mask = FlexLayout.of(ends, CPU, block).mask
    for counts, indices, blocks in (
        (mask.kv_num_blocks, mask.kv_indices, partial), (mask.full_kv_num_blocks, mask.full_kv_indices, full),
        (mask.q_num_blocks, mask.q_indices, partial.T), (mask.full_q_num_blocks, mask.full_q_indices, full.T),
    ):  # fmt: skip
        rows = [sorted(row[:count].tolist()) for count, row in zip(counts[0, 0].tolist(), indices[0, 0])]
        assert rows == [row.nonzero().flatten().tolist() for row in blocks]


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("kernel", [Kernel("flex", CPU), emulated.kernel(), Kernel("cpu", CPU)], ids=str)
def test_no_layout_is_made_from_a_tensor_of_tokens_by_tokens(kernel):
    tokens = 8192
    ends = torch.arange(512, tokens + 1, 512).repeat_interleave(512)
    ends[:256] = tokens  # half of the first row is shared by all
    layout_of(ends[:512] * 0 + 512, kernel)  # what is imported once
    tracemalloc.start()  # of numpy's arrays; torch's tensors are counted by themselves
    try:
        with Largest() as largest:
            layout_of(ends, kernel)
        assert tracemalloc.get_traced_memory()[1] < tokens**2 // 50
    finally:
        tracemalloc.stop()
    assert 0 < largest.elements <= 2 * tokens


def test_the_dense_layout_is_the_mask_in_every_precision():
    ends = ends_of(SHARED)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        query, key, value = (tensor.detach() for tensor in tensors(len(ends), dtype=dtype))
        ours, _ = attend(None, query, key, value, None, scaling=0.3, layout=DenseLayout(dense_mask(ends)))
        torch.testing.assert_close(ours, reference(query, key, value, ends, 0.3), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("asked", [{"sliding_window": 4}, {"softcap": 30.0}, {"s_aux": torch.ones(4)}, {"dropout": 0.1}])
def test_attention_that_is_not_plain_is_refused(asked):
    with pytest.raises(UnsupportedAttention):
        attend(None, *tensors(3), None, layout=CpuLayout.of(ends_of([(1, 2, 3)])), **asked)


def test_without_a_layout_it_is_transformers_own():
    query, key, value = (tensor.detach() for tensor in tensors(6, 2, 2))
    module = torch.nn.Module()
    module.is_causal = True
    ours, _ = attend(module, query, key, value, None, scaling=0.3)
    torch.testing.assert_close(ours, reference(query, key, value, ends_of([(1, 2, 3, 4, 5, 6)]), 0.3))


# On a card: pytest tests/test_attention.py -k cuda

needs_card = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU; layouts and the kernels' contract are tested on the CPU above"
)


def cuda_kernel(name: str) -> Kernel:
    """A kernel of the card by name; where its package or the card is missing, the test is skipped."""
    device, made = torch.device("cuda"), {"flash3": flash3, "flash2": flash2, "varlen": torchs_own}.get(name)
    if name == "flash3" and not (has_flash3() and torch.cuda.get_device_capability() == (9, 0)):
        pytest.skip("needs flash_attn_interface and a Hopper GPU")
    if name == "flash2" and not has_flash2():
        pytest.skip("needs flash-attn")
    torch._dynamo.reset()  # FlexAttention is compiled for each shape of heads, more than torch compiles of one function
    return Kernel(name, device, made() if made else None)


def long_ends(sequences, multiple: int) -> torch.Tensor:
    """The ends of a pack whose tokens are each repeated 90 times, filled up to a multiple."""
    ends = ends_of([tuple(itertools.chain.from_iterable([token] * 90 for token in row)) for row in sequences])
    return torch.cat([ends, torch.arange(len(ends), -len(ends) // multiple * -multiple) + 1])


@needs_card
@pytest.mark.parametrize("sequences", [SHARED, APART, EQUAL, [(1, 2, 3, 4), (1, 2, 5), (1, 6), (1, 7)]])
@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (6, 1)])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.bfloat16) for name in ("flash3", "flash2", "varlen", "flex")] + [("flex", torch.float32)],
)
def test_a_cuda_kernel_is_masked_attention_in_value_and_gradient(name, dtype, heads, size, sequences):
    kernel = cuda_kernel(name)
    ends = long_ends(sequences, kernel.multiple)
    inputs = tensors(len(ends), *heads, dtype=dtype, size=size, device=kernel.device)
    wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
    ours, _ = attend(None, *inputs, None, layout=layout_of(ends, kernel))
    theirs = reference(*wide, ends.to(kernel.device), size**-0.5)
    upstream = torch.randn_like(theirs)
    by_ours = torch.autograd.grad(ours, inputs, upstream.to(dtype))
    by_theirs = torch.autograd.grad(theirs, wide, upstream.to(dtype).float())
    # a mask that is off by one token changes single outputs by 0.1 and more
    far = 2e-3 if dtype == torch.float32 else 2e-2
    for mine, other in zip((ours, *by_ours), (theirs, *by_theirs), strict=True):
        torch.testing.assert_close(mine.float(), other, rtol=far, atol=far * max(1.0, float(other.abs().max())))


@needs_card
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_kernel_that_is_chosen_on_cuda_is_masked_attention(dtype):
    kernel = kernel_for(torch.device("cuda"), dtype, 64)
    ends = long_ends(SHARED, kernel.multiple)
    inputs = tensors(len(ends), dtype=dtype, size=64, device=kernel.device)
    ours, _ = attend(None, *inputs, None, layout=layout_of(ends, kernel))
    theirs = reference(*(tensor.float() for tensor in inputs), ends.to(kernel.device), 64**-0.5)
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=2e-2)


@needs_card
def test_gradients_on_cuda_are_the_same_each_time_where_torch_is_asked_for_that():
    ends = long_ends(SHARED, 1)
    inputs = tensors(len(ends), dtype=torch.bfloat16, size=64, device=torch.device("cuda"))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        kernel = kernel_for(torch.device("cuda"), torch.bfloat16, 64)
        layout = layout_of(ends, kernel)
        one, other = (
            torch.autograd.grad(attend(None, *inputs, None, layout=layout)[0].float().square().sum(), inputs) for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@needs_card
def test_a_layout_is_copied_to_cuda_without_a_synchronisation():
    kernels = [kernel_for(torch.device("cuda"), dtype, 64) for dtype in (torch.bfloat16, torch.float32)]
    packs = [(long_ends(sequences, kernel.multiple), kernel) for kernel in kernels for sequences in (SHARED, APART, EQUAL)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert all(layout_of(ends, kernel) for ends, kernel in packs)
    finally:
        torch.cuda.set_sync_debug_mode("default")

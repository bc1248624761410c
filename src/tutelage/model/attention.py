"""Attention within a pack: token q attends to token k iff ``k <= q < ends[k]``. One function, with a back end per device.

It is registered with transformers under `NAME`. A call that carries a `Layout` is packed; any other (generation with its cache)
goes to transformers' own SDPA function. Padded rows go there too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

NAME = "tutelage"
QUERY_BLOCK = 256
"""Queries that meet their keys at a time on a CPU: bounds the scores that are held, and skips most of what is masked."""
CUDA_MULTIPLE = 128
"""FlexAttention's block size: packs are filled up to a multiple of it, so that few shapes are compiled."""


class UnsupportedAttention(ValueError):
    """The model's attention does more than a causal softmax over all earlier tokens, so it cannot be packed exactly."""


@dataclass(frozen=True)
class Layout:
    """A pack's mask in the form that a back end reads.

    Attributes:
        blocks, above: for the CPU. Each block (start, stop, own, from, to) are queries start…stop − 1, which attend to the
            tokens of the ranges ``above[from:to]``, then causally to those from `own` on.
        flex: for CUDA where prefixes are shared: FlexAttention's block mask.
        bounds, longest, flash: for CUDA where nothing is shared: where each row starts and ends (int32), the longest row's length,
            and FlashAttention's kernel, None for torch's own.
    """

    blocks: torch.Tensor | None = None
    above: torch.Tensor | None = None
    flex: Any = None
    bounds: torch.Tensor | None = None
    longest: int = 0
    flash: Any = None


def layout(ends: torch.Tensor, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Layout:
    """The layout of a pack with subtree ends `ends` (tokens,), still on the CPU, for the back end of `device` that takes `dtype`."""
    if device.type == "cpu":
        return Layout(*_blocks(ends))
    starts = _starts(ends)
    if has_row_kernels(device, dtype) and not any(bool((ends[:start] > start).any()) for start in starts):
        bounds = torch.tensor([*starts, len(ends)], dtype=torch.int32)
        return Layout(bounds=bounds.to(device), longest=int(bounds.diff().max()), flash=_flash_attention())
    return Layout(flex=flex_mask(ends.to(device)))


def has_row_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels for rows of different lengths run here: they need half precision and a GPU since Ampere."""
    return dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0)


def multiple(device: torch.device) -> int:
    """What a pack's length should be a multiple of on a device, so that its kernels are compiled for few shapes."""
    return CUDA_MULTIPLE if device.type == "cuda" else 1


def flex_mask(ends: torch.Tensor) -> Any:
    """FlexAttention's block mask of a pack."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends[key])

    return create_block_mask(visible, None, None, len(ends), len(ends), device=str(ends.device))


def dense_mask(ends: torch.Tensor) -> torch.Tensor:
    """(tokens, tokens) bool, True where query (row) may attend to key (column): the definition, for tests and small packs."""
    place = torch.arange(len(ends), device=ends.device)
    return (place[None, :] <= place[:, None]) & (place[:, None] < ends[None, :])


def register() -> None:
    """Make the attention known to transformers under `NAME`; generation with it makes its masks as SDPA does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query (1, heads, tokens, size), key and value with as many heads or a divisor of them.

    Returns:
        ((1, tokens, heads, size), None).

    Raises:
        UnsupportedAttention: what the model asks for beyond causal attention: a sliding window, soft-capping, sinks, dropout.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )  # fmt: skip
    asked = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if asked or dropout:
        raise UnsupportedAttention(" and ".join(asked) or "attention dropout")
    scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
    if layout.blocks is not None:
        assert layout.above is not None
        return _attend_cpu(query[0], key[0], value[0], layout.blocks, layout.above, scaling)[None], None
    if layout.bounds is not None:
        return _attend_rows(query, key, value, layout, scaling), None
    grouped = query.shape[1] != key.shape[1]
    attended = _compiled_flex()(query, key, value, block_mask=layout.flex, scale=scaling, enable_gqa=grouped)
    return attended.transpose(1, 2), None


# --- CUDA


def _attend_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float) -> torch.Tensor:
    """Causal attention within each of several rows laid end to end."""
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    bounds, longest = layout.bounds, layout.longest
    assert bounds is not None
    if layout.flash is not None:
        attended: torch.Tensor = layout.flash(q, k, v, bounds, bounds, longest, longest, softmax_scale=scaling, causal=True)
        return attended[None]
    from torch.nn.attention.varlen import varlen_attn

    attended = varlen_attn(  # type: ignore[assignment]
        q, k, v, bounds, bounds, longest, longest,
        scale=scaling, window_size=(-1, 0), enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return attended[None]


@functools.cache
def _flash_attention() -> Any:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


# --- CPU


def _starts(ends: torch.Tensor) -> list[int]:
    """Where a token is not the child of the one before it: where each row's own tokens begin."""
    tokens = torch.arange(1, len(ends))
    return [0, *(tokens[ends[:-1] == tokens]).tolist()]


def _blocks(ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`Layout.blocks` and `Layout.above` of a pack."""
    starts = _starts(ends)
    blocks: list[tuple[int, int, int, int, int]] = []
    above: list[tuple[int, int]] = []
    for start, stop in zip(starts, [*starts[1:], len(ends)], strict=True):
        known = len(above)
        for token in (ends[:start] > start).nonzero().flatten().tolist():
            if len(above) > known and above[-1][1] == token:
                above[-1] = (above[-1][0], token + 1)
            else:
                above.append((token, token + 1))
        blocks += [(first, min(first + QUERY_BLOCK, stop), start, known, len(above)) for first in range(start, stop, QUERY_BLOCK)]
    return torch.tensor(blocks), torch.tensor(above, dtype=torch.long).view(-1, 2)


@torch.library.custom_op("tutelage::packed_attention", mutates_args=())
def _attend_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: torch.Tensor, above: torch.Tensor, scaling: float
) -> torch.Tensor:
    """query (heads, tokens, size), key and value (key heads, tokens, size) → (tokens, heads, size).

    Query heads that share a key head are one matrix, so each block is a few batched matrix products and a softmax, which is
    faster on a CPU than its flash kernel. Like that one it keeps no probabilities for the backward pass.
    """
    heads, tokens, _ = query.shape
    attended = query.new_empty(tokens, heads, value.shape[-1])
    query = query * scaling
    for start, stop, sees in _each(blocks, above):
        probs = _probabilities(_grouped(query[:, start:stop], len(key)), _gather(key, sees), stop - start)
        part = torch.bmm(probs, _gather(value, sees))
        attended[start:stop] = part.view(heads, stop - start, -1).transpose(0, 1)
    return attended


@_attend_cpu.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> torch.Tensor:
    return query.new_empty(query.shape[1], query.shape[0], value.shape[-1])


@torch.library.custom_op("tutelage::packed_attention_backward", mutates_args=())
def _attend_cpu_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: torch.Tensor,
    above: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of query, key and value; the probabilities are computed again."""
    heads, groups = len(query), len(key)
    by_query = torch.empty_like(query)
    # many blocks add to one token above them: in float32
    by_key, by_value = (torch.zeros_like(it, dtype=torch.promote_types(it.dtype, torch.float32)) for it in (key, value))
    query, gradient = query * scaling, gradient.transpose(0, 1)
    for start, stop, sees in _each(blocks, above):
        q, k, g = _grouped(query[:, start:stop], groups), _gather(key, sees), _grouped(gradient[:, start:stop], groups)
        probs = _probabilities(q, k, stop - start)
        _scatter(by_value, torch.bmm(probs.transpose(1, 2), g), sees)
        by_probs = torch.bmm(g, _gather(value, sees).transpose(1, 2))
        by_scores = torch.ops.aten._softmax_backward_data(by_probs, probs, -1, probs.dtype)
        by_query[:, start:stop] = torch.bmm(by_scores, k).view(heads, stop - start, -1)
        _scatter(by_key, torch.bmm(by_scores.transpose(1, 2), q), sees)
    return by_query.mul_(scaling), by_key.to(key.dtype), by_value.to(value.dtype)


@_attend_cpu_backward.register_fake
def _(gradient: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> Any:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (*_attend_cpu_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None, None)


_attend_cpu.register_autograd(_backward, setup_context=_save_for_backward)


def _probabilities(q: torch.Tensor, k: torch.Tensor, width: int) -> torch.Tensor:
    """softmax(q kᵀ) of a block, (key heads, heads per key head × queries, keys), zero where a key comes later."""
    scores = torch.bmm(q, k.transpose(1, 2))
    scores.view(len(q), -1, width, scores.shape[-1])[..., -width:] += _later(width, scores.dtype)
    return torch.softmax(scores, dim=-1)


@functools.lru_cache(maxsize=2 * QUERY_BLOCK)
def _later(width: int, dtype: torch.dtype) -> torch.Tensor:
    """(width, width), −inf above the diagonal, else 0."""
    return torch.full((width, width), -torch.inf, dtype=dtype).triu_(1)


def _grouped(tensor: torch.Tensor, groups: int) -> torch.Tensor:
    """(heads, queries, size) → (key heads, heads per key head × queries, size)."""
    return tensor.reshape(groups, -1, tensor.shape[-1])


def _each(blocks: torch.Tensor, above: torch.Tensor) -> Iterator[tuple[int, int, list[list[int]]]]:
    """Each block's first query, the one after its last, and the ranges of tokens that it sees, its own last."""
    ranges = above.tolist()
    for start, stop, own, first, last in blocks.tolist():
        yield start, stop, [*ranges[first:last], [own, stop]]


def _gather(tensor: torch.Tensor, ranges: list[list[int]]) -> torch.Tensor:
    """(heads, tokens, size) → (heads, tokens of the ranges, size)."""
    return torch.cat([tensor[:, start:stop] for start, stop in ranges], dim=1)


def _scatter(total: torch.Tensor, part: torch.Tensor, ranges: list[list[int]]) -> None:
    """Add to `total` what belongs to the tokens of the ranges: the transpose of `_gather`."""
    for (start, stop), piece in zip(ranges, part.split([stop - start for start, stop in ranges], dim=1), strict=True):
        total[:, start:stop] += piece

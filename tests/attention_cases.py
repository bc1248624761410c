"""Tries, their ends, and masked attention by the definition: what tests of attention hold kernels against."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from tutelage.model.attention import attend, dense_mask
from tutelage.model.batch import build_trie

CPU = torch.device("cpu")
tries = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=6)
SHARED, APART, EQUAL = [(1, 2, 3), (1, 2, 4, 5), (6, 7)], [(1, 2), (3, 4, 5)], [(1, 2, 3), (3, 4, 5)]


def ends_of(sequences) -> torch.Tensor:
    return torch.tensor(build_trie(sequences).ends)


def reference(query, key, value, ends, scaling):
    """Softmax over what `dense_mask` allows, key heads repeated."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~dense_mask(ends), -torch.inf)
    return (torch.softmax(scores, -1) @ value).transpose(1, 2)


def tensors(tokens: int, heads: int = 4, key_heads: int = 2, dtype=torch.float64, size: int = 8, device=CPU):
    torch.manual_seed(0)
    shapes = ((1, heads, tokens, size), (1, key_heads, tokens, size), (1, key_heads, tokens, size))
    return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]


def assert_is_masked_attention(layout, ends, heads=(4, 2), **close):
    """The layout's attention, and all its gradients, are the dense mask's."""
    query, key, value = tensors(len(ends), *heads)
    ours, _ = attend(None, query, key, value, None, scaling=0.3, layout=layout)
    theirs = reference(query, key, value, ends, 0.3)
    torch.testing.assert_close(ours, theirs, **close)
    upstream = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), upstream), torch.autograd.grad(theirs, (query, key, value), upstream)
    ):
        torch.testing.assert_close(mine, other, **close)

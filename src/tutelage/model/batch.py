"""How the tokens of rows are laid out for the model: in a pack, where every shared prefix stands once, or in padded rows.

A pack is a trie of token ids in depth-first order. A token's position is its depth. One integer per token is the whole attention
mask: token q may attend to token k iff ``k <= q < ends[k]``, where ``ends[k]`` is where the subtree under k ends. The rule is
exact: each token sees the tokens of its own row before it, and no others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tutelage.data import TokenizedExample, pad_and_shift
from tutelage.model import attention


@dataclass(frozen=True)
class Batch:
    """Tokens that go through the model together, and what they are to predict.

    A target is a response token that is learnt: the hidden state of token `sources[i]` (an index into the flattened `input_ids`)
    predicts `labels[i]`. It counts `weights[i]` times, once for each row that shares the prediction.

    Attributes:
        input_ids, position_ids: (rows, width) int64; a pack is one row of tokens.
        ends: (tokens,) int64, where each token's subtree ends, for a pack; None for rows that are right-padded.
        sources, labels: (targets,) int64.
        weights: (targets,) float32.
        of_examples: for each example, in the order given, the targets of its response tokens.
        layout: of a pack, once it is `ready` for a kernel.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    ends: torch.Tensor | None
    sources: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    of_examples: tuple[torch.Tensor, ...]
    layout: attention.Layout | None = None

    def ready(self, kernel: attention.Kernel) -> Batch:
        """The batch as the model takes it: filled up, with its layout, and on the kernel's device.

        A batch that is ready stays as it is. Copies do not block, so a thread can make the next batches while a step computes.
        """
        if self.ends is None or self.layout is not None:
            return self.to(kernel.device)
        filled = self.filled(kernel.multiple)
        assert filled.ends is not None
        return replace(filled, layout=attention.layout_of(filled.ends, kernel)).to(kernel.device)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors there; `of_examples`, which the model never needs, stays."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)

    def filled(self, multiple: int) -> Batch:
        """The pack, its length filled up to a multiple with tokens that see only themselves and predict nothing."""
        if self.ends is None or self.input_ids.shape[1] % multiple == 0:
            return self
        length = self.input_ids.shape[1]
        more = multiple - length % multiple
        nothing = torch.zeros((1, more), dtype=torch.long)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, nothing], dim=1),
            position_ids=torch.cat([self.position_ids, nothing], dim=1),
            ends=torch.cat([self.ends, torch.arange(length, length + more) + 1]),
        )


@dataclass(frozen=True)
class Trie:
    """Sequences of ids, every prefix that they share held once, in depth-first order.

    Attributes:
        ids, depths, ends: of each token; `ends` is where its subtree ends.
        paths: the tokens of each sequence, in the order in which the sequences were given.
    """

    ids: list[int]
    depths: list[int]
    ends: list[int]
    paths: list[list[int]]


def build_trie(sequences: Sequence[tuple[int, ...]]) -> Trie:
    """The trie of sequences.

    Sorted sequences are the leaves of their trie in depth-first order. The prefix that a sequence shares with any earlier one is
    the prefix that it shares with the one just before it.
    """
    ids: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    paths: list[list[int]] = [[] for _ in sequences]
    path: list[int] = []  # from the root to where we are
    previous: tuple[int, ...] = ()
    for index in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[index]
        shared = shared_length(previous, sequence)
        for token in path[shared:]:
            ends[token] = len(ids)
        fresh = range(len(ids), len(ids) + len(sequence) - shared)
        ids += sequence[shared:]
        depths += range(shared, len(sequence))
        ends += [-1] * len(fresh)
        path = [*path[:shared], *fresh]
        paths[index] = path
        previous = sequence
    for token in path:
        ends[token] = len(ids)
    return Trie(ids, depths, ends, paths)


def pack(examples: Sequence[TokenizedExample]) -> Batch:
    """The examples as one pack.

    Raises:
        ValueError: an example has no prompt token, so nothing could predict its first response token.
    """
    trie = build_trie([joined(example) for example in examples])
    counts: dict[int, int] = {}  # how many rows predict a token
    predictor: dict[int, int] = {}  # the token whose hidden state predicts it
    responses = []
    for example, path in zip(examples, trie.paths, strict=True):
        start = len(example.prompt_ids)
        if start == 0:
            raise ValueError(f"{example.source}: the prompt has no tokens")
        responses.append(path[start:])
        for source, token in itertools.pairwise(path[start - 1 :]):
            counts[token], predictor[token] = counts.get(token, 0) + 1, source
    predicted = sorted(counts)
    target = {token: index for index, token in enumerate(predicted)}
    return Batch(
        input_ids=torch.tensor([trie.ids]),
        position_ids=torch.tensor([trie.depths]),
        ends=torch.tensor(trie.ends),
        sources=torch.tensor([predictor[token] for token in predicted]),
        labels=torch.tensor([trie.ids[token] for token in predicted]),
        weights=torch.tensor([float(counts[token]) for token in predicted]),
        of_examples=tuple(torch.tensor([target[token] for token in response]) for response in responses),
    )


def pack_labels(input_ids: torch.Tensor, labels: torch.Tensor) -> Batch:
    """Rows of ids, each predicting its own row of labels, as one pack: both (rows, width), the targets row by row."""
    trie = build_trie([tuple(row) for row in input_ids.tolist()])
    return Batch(
        input_ids=torch.tensor([trie.ids]),
        position_ids=torch.tensor([trie.depths]),
        ends=torch.tensor(trie.ends),
        sources=torch.tensor(trie.paths).flatten(),
        labels=labels.flatten(),
        weights=torch.ones(labels.numel()),
        of_examples=tuple(torch.arange(labels.numel()).view(labels.shape)),
    )


def pad(examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
    """The examples as right-padded rows, for models whose attention cannot be packed.

    Padding needs no attention mask: causal attention of a real token never looks to the right, where padding stands.
    """
    tensors = pad_and_shift([(example.prompt_ids, example.response_ids) for example in examples], pad_id)
    return padded_batch(tensors["input_ids"], tensors["labels"], tensors["response_mask"])


def padded_batch(input_ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> Batch:
    """Right-padded rows as a batch whose targets are the labels under the mask; all three (rows, width)."""
    target = mask.flatten().cumsum(0).view_as(mask) - 1
    return Batch(
        input_ids=input_ids,
        position_ids=torch.arange(mask.shape[1]).expand_as(mask),
        ends=None,
        sources=mask.flatten().nonzero().flatten(),
        labels=labels[mask],
        weights=torch.ones(int(mask.sum())),
        of_examples=tuple(target[row][mask[row]] for row in range(len(mask))),
    )


def joined(example: TokenizedExample) -> tuple[int, ...]:
    """The ids of prompt and response."""
    return (*example.prompt_ids, *example.response_ids)


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shortest = min(len(a), len(b))
    return next((index for index in range(shortest) if a[index] != b[index]), shortest)

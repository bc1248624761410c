"""Which rows make up a step, as a pure function of (seed, step), and how their tokens are laid out: packed or padded.

A pack is a trie of token ids in depth-first order: every prefix that rows share stands in it once. A token's position is its
depth, and one integer per token is the whole attention mask: token q may attend to token k iff ``k <= q < ends[k]``, where
``ends[k]`` is where the subtree under k ends. That is exact: each token sees the tokens of its own row before it, and no others.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tutelage.data import TokenizedExample, pad_and_shift


@dataclass(frozen=True)
class Batch:
    """Tokens that go through the model together, and what they are to predict.

    A target is a triple: the hidden state of token `sources[i]` (an index into the flattened `input_ids`) predicts `labels[i]`,
    and counts `weights[i]` times, as often as rows share that prediction.

    Attributes:
        input_ids, position_ids: (rows, width) int64; a pack is one row of tokens.
        ends: (tokens,) int64, where each token's subtree ends, for a pack; None for rows that are right-padded.
        sources, labels: (targets,) int64.
        weights: (targets,) float32.
        of_examples: for each example, in the order given, the targets of its response tokens.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    ends: torch.Tensor | None
    sources: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    of_examples: tuple[torch.Tensor, ...]

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors there; `of_examples`, which the model never needs, stays."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)

    def filled(self, multiple: int) -> Batch:
        """A pack whose length is a multiple: tokens at its end that see only themselves and predict nothing."""
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


def steps_per_epoch(rows: int, rows_per_step: int) -> int:
    return math.ceil(rows / rows_per_step)


def total_steps(rows: int, rows_per_step: int, num_epochs: float, num_steps: int | None) -> int:
    return num_steps if num_steps is not None else math.ceil(num_epochs * steps_per_epoch(rows, rows_per_step) - 1e-9)


def step_rows(rows: int, rows_per_step: int, seed: int, step: int) -> list[int]:
    """Indices of the rows of optimizer step `step` (from 0). Each epoch has an order of its own; its last step may be smaller."""
    epoch, within = divmod(step, steps_per_epoch(rows, rows_per_step))
    order = list(range(rows))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order[within * rows_per_step : (within + 1) * rows_per_step]


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

    In lexicographic order they are its leaves in depth-first order, and what one shares with any before it, it shares with the
    one just before it.
    """
    ids: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    paths: list[list[int]] = [[] for _ in sequences]
    path: list[int] = []  # from the root to where we are
    previous: tuple[int, ...] = ()
    for number in sorted(range(len(sequences)), key=lambda number: sequences[number]):
        sequence = sequences[number]
        shared = _shared_length(previous, sequence)
        for token in path[shared:]:
            ends[token] = len(ids)
        fresh = range(len(ids), len(ids) + len(sequence) - shared)
        ids += sequence[shared:]
        depths += range(shared, len(sequence))
        ends += [-1] * len(fresh)
        path = [*path[:shared], *fresh]
        paths[number] = path
        previous = sequence
    for token in path:
        ends[token] = len(ids)
    return Trie(ids, depths, ends, paths)


def pack(examples: Sequence[TokenizedExample]) -> Batch:
    """The examples as one pack.

    Raises:
        ValueError: an example has no prompt token, so nothing could predict its first response token.
    """
    trie = build_trie([_joined(example) for example in examples])
    counts: dict[int, int] = {}  # how many rows predict a token
    before: dict[int, int] = {}  # the token that predicts it
    responses = []
    for example, path in zip(examples, trie.paths, strict=True):
        start = len(example.prompt_ids)
        if start == 0:
            raise ValueError(f"{example.source}: the prompt has no tokens")
        responses.append(path[start:])
        for source, token in itertools.pairwise(path[start - 1 :]):
            counts[token], before[token] = counts.get(token, 0) + 1, source
    predicted = sorted(counts)
    target = {token: number for number, token in enumerate(predicted)}
    return Batch(
        input_ids=torch.tensor([trie.ids]),
        position_ids=torch.tensor([trie.depths]),
        ends=torch.tensor(trie.ends),
        sources=torch.tensor([before[token] for token in predicted]),
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
    """The examples as right-padded rows: for models whose attention cannot be packed.

    Padding needs no attention mask: it stands to the right, where causal attention of real tokens never looks.
    """
    tensors = pad_and_shift([(example.prompt_ids, example.response_ids) for example in examples], pad_id)
    return padded_batch(tensors["input_ids"], tensors["labels"], tensors["response_mask"])


def padded_batch(input_ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> Batch:
    """Right-padded rows as a batch whose targets are the labels under the mask; all three (rows, width)."""
    numbers = mask.flatten().cumsum(0).view_as(mask) - 1
    return Batch(
        input_ids=input_ids,
        position_ids=torch.arange(mask.shape[1]).expand_as(mask),
        ends=None,
        sources=mask.flatten().nonzero().flatten(),
        labels=labels[mask],
        weights=torch.ones(int(mask.sum())),
        of_examples=tuple(numbers[row][mask[row]] for row in range(len(mask))),
    )


def plan_packs(examples: Sequence[TokenizedExample], budget: int, ranks: int = 1, pair_cost: float = 0.0) -> list[list[int]]:
    """Which examples share a pack: packs of at most `budget` distinct tokens.

    Examples of the same prompt stay together while they fit. An example that is longer than the budget has a pack of its own.
    How a step is packed changes nothing but rounding: the loss is one sum over one denominator.

    By first-fit decreasing (Johnson 1974) for one rank. For several, whose number divides that of the packs, each item goes to
    the pack that costs least so far (Graham 1969), so that all packs cost about the same; some may be empty.

    Args:
        pair_cost: what a pair of tokens of which one attends to the other costs, beside a token's own computation.
    """
    order = sorted(range(len(examples)), key=lambda number: _joined(examples[number]))
    everywhere = _shared_length(_joined(examples[order[0]]), _joined(examples[order[-1]]))
    room = max(1, budget - everywhere)
    items: list[tuple[int, list[int]]] = []  # (distinct tokens beyond what all examples share, examples)
    for before, number in zip([None, *order], order, strict=False):
        joined = _joined(examples[number])
        alone = len(joined) - everywhere
        together = len(joined) - _shared_length(_joined(examples[before]), joined) if before is not None else alone
        same_prompt = before is not None and examples[before].prompt_ids == examples[number].prompt_ids
        if same_prompt and items[-1][0] + together <= room:
            items[-1] = (items[-1][0] + together, [*items[-1][1], number])
        else:
            items.append((alone, [number]))
    items.sort(key=lambda item: -item[0])
    packs = _first_fit(items, room)
    if ranks > 1:
        count = math.ceil(len(packs) / ranks) * ranks
        while (balanced := _least_cost(items, room, count, everywhere, pair_cost)) is None:
            count += ranks
        return balanced
    return packs


def _first_fit(items: Sequence[tuple[int, list[int]]], room: int) -> list[list[int]]:
    packs: list[tuple[int, list[int]]] = []
    for size, members in items:
        for place, (filled, others) in enumerate(packs):
            if filled + size <= room:
                packs[place] = (filled + size, others + members)
                break
        else:
            packs.append((size, members))
    return [members for _, members in packs]


def _least_cost(
    items: Sequence[tuple[int, list[int]]], room: int, count: int, everywhere: int, pair_cost: float
) -> list[list[int]] | None:
    """`count` packs of about the same cost; None if the items do not fit into so many."""
    packs: list[list[int]] = [[] for _ in range(count)]
    filled, costs = [0] * count, [0.0] * count
    for size, members in items:
        open_to = [place for place in range(count) if filled[place] == 0 or filled[place] + size <= room]
        if not open_to:
            return None
        place = min(open_to, key=lambda place: (costs[place], place))
        packs[place] = packs[place] + members
        filled[place] += size
        costs[place] += size + pair_cost * size * (everywhere + size / 2)
    return packs


def step_batches(
    examples: Sequence[TokenizedExample],
    budget: int,
    rows: int,
    pad_id: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    pair_cost: float = 0.0,
) -> list[Batch]:
    """A rank's batches of one optimizer step: packs of at most `budget` tokens, or, with a `pad_id`, `rows` padded rows of like length.

    Every rank has as many, for they compute in step; one that there are no rows for gets a row that counts nothing.
    """
    if pad_id is None:
        plans = plan_packs(examples, budget, ranks, pair_cost)
    else:
        ordered = sorted(range(len(examples)), key=lambda number: len(examples[number]), reverse=True)
        size = min(rows, math.ceil(len(examples) / ranks))
        plans = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    plans += [[] for _ in range(-len(plans) % ranks)]
    if ranks > 1:  # those that are computed at the same time are alike
        plans.sort(key=lambda members: sum(len(examples[number]) for number in members), reverse=True)
    idle = min(examples, key=len)
    batches = []
    for members in plans[rank::ranks]:
        chosen = [examples[number] for number in members] or [idle]
        batch = pack(chosen) if pad_id is None else pad(chosen, pad_id)
        batches.append(batch if members else replace(batch, weights=torch.zeros_like(batch.weights)))
    return batches


def _joined(example: TokenizedExample) -> tuple[int, ...]:
    return (*example.prompt_ids, *example.response_ids)


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shortest = min(len(a), len(b))
    return next((index for index in range(shortest) if a[index] != b[index]), shortest)

"""Tries, packs and their layout in plain Python over tuples: slow, short, and what the arrays of `tutelage.model` must equal."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass


def shared_length(a, b):
    shortest = min(len(a), len(b))
    return next((index for index in range(shortest) if a[index] != b[index]), shortest)


def joined(example):
    return (*example.prompt_ids, *example.response_ids)


def plain_trie(sequences):
    """(ids, depths, ends, paths) of the trie of sequences."""
    ids, depths, ends, paths = [], [], [], [[] for _ in sequences]
    path, previous = [], ()
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
    return ids, depths, ends, paths


def plain_pack(examples):
    """The fields of a `Batch` that shares every prefix, as lists."""
    ids, depths, ends, paths = plain_trie([joined(example) for example in examples])
    counts, predictor, responses = {}, {}, []
    for example, path in zip(examples, paths, strict=True):
        start = len(example.prompt_ids)
        responses.append(path[start:])
        for source, token in itertools.pairwise(path[start - 1 :]):
            counts[token], predictor[token] = counts.get(token, 0) + 1, source
    predicted = sorted(counts)
    target = {token: index for index, token in enumerate(predicted)}
    return {
        "input_ids": [ids],
        "position_ids": [depths],
        "ends": ends,
        "sources": [predictor[token] for token in predicted],
        "labels": [ids[token] for token in predicted],
        "weights": [float(counts[token]) for token in predicted],
        "of_examples": [[target[token] for token in response] for response in responses],
    }


def plain_layout(examples, budget, ranks=1, pair_cost=0.0):
    """Indices of the examples that share a pack, where every prefix is shared."""
    sequences = [joined(example) for example in examples]
    order = sorted(range(len(examples)), key=sequences.__getitem__)
    common = shared_length(sequences[order[0]], sequences[order[-1]])
    room = max(1, budget - common)
    items = _by_prompt(examples, sequences, order, common, room)
    items.sort(key=lambda item: -item.size)
    if ranks == 1:
        return _first_fit(items, room)
    count = math.ceil(len(_first_fit(items, room)) / ranks) * ranks
    while (balanced := _least_cost(items, room, count, common, pair_cost)) is None:
        count += ranks
    return balanced


@dataclass
class _Item:
    size: int
    members: list[int]


def _by_prompt(examples, sequences, order, common, room):
    items, before = [], None
    for index in order:
        shared = shared_length(sequences[before], sequences[index]) if before is not None else common
        more = len(sequences[index]) - shared
        if before is not None and items[-1].size + more <= room and _are_alike(examples[before], examples[index], shared, common):
            items[-1].size += more
            items[-1].members.append(index)
        else:
            items.append(_Item(len(sequences[index]) - common, [index]))
        before = index
    return items


def _are_alike(a, b, shared, common):
    return 2 * (shared - common) >= min(len(a.prompt_ids), len(b.prompt_ids)) - common


def _first_fit(items, room):
    packs = []
    for item in items:
        pack = next((pack for pack in packs if pack.size + item.size <= room), None)
        if pack is None:
            packs.append(_Item(item.size, list(item.members)))
        else:
            pack.size += item.size
            pack.members += item.members
    return [pack.members for pack in packs]


def _least_cost(items, room, count, common, pair_cost):
    packs = [_Item(0, []) for _ in range(count)]
    costs = [0.0] * count
    for item in items:
        open_to = [index for index, pack in enumerate(packs) if pack.size == 0 or pack.size + item.size <= room]
        if not open_to:
            return None
        cheapest = min(open_to, key=costs.__getitem__)
        packs[cheapest].size += item.size
        packs[cheapest].members += item.members
        costs[cheapest] += item.size + pair_cost * item.size * (common + item.size / 2)
    return [pack.members for pack in packs]

"""Which examples share a pack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.data import TokenizedExample
from tutelage.model.batch import joined, shared_length


def lay_out_packs(
    examples: Sequence[TokenizedExample], budget: int, ranks: int = 1, pair_cost: float = 0.0
) -> list[list[int]]:
    """Indices of the examples that share a pack: packs of at most `budget` distinct tokens.

    Examples of the same prompt, and turns of a conversation, stay together while they fit.
    An example that is longer than the budget has a pack of its own.
    How a step is packed changes nothing but rounding: the loss is one sum over one denominator.

    One rank gets packs by first-fit decreasing (Johnson 1974). Several ranks get a number of packs that they divide: each item
    goes to the pack that costs least so far (Graham 1969), so that all packs cost about the same. Some packs may be empty.

    Args:
        pair_cost: the cost of a pair of tokens of which one attends to the other, in units of a token's own computation.
    """
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
    """Examples that stay together; `size` counts their distinct tokens beyond the prefix that all examples share."""

    size: int
    members: list[int]


def _by_prompt(
    examples: Sequence[TokenizedExample], sequences: Sequence[tuple[int, ...]], order: Sequence[int], common: int, room: int
) -> list[_Item]:
    """The examples in sorted order; those of one prompt, or of one conversation, together while they fit into the room of a pack."""
    items: list[_Item] = []
    before: int | None = None
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


def _are_alike(a: TokenizedExample, b: TokenizedExample, shared: int, common: int) -> bool:
    """Whether two examples share at least half of the shorter prompt, beyond what all examples share."""
    return 2 * (shared - common) >= min(len(a.prompt_ids), len(b.prompt_ids)) - common


def _first_fit(items: Sequence[_Item], room: int) -> list[list[int]]:
    packs: list[_Item] = []
    for item in items:
        pack = next((pack for pack in packs if pack.size + item.size <= room), None)
        if pack is None:
            packs.append(_Item(item.size, list(item.members)))
        else:
            pack.size += item.size
            pack.members += item.members
    return [pack.members for pack in packs]


def _least_cost(items: Sequence[_Item], room: int, count: int, common: int, pair_cost: float) -> list[list[int]] | None:
    """`count` packs of about the same cost; None if the items do not fit into so many."""
    packs = [_Item(0, []) for _ in range(count)]
    costs = [0.0] * count
    for item in items:
        open_to = [index for index, pack in enumerate(packs) if pack.size == 0 or pack.size + item.size <= room]
        if not open_to:
            return None
        cheapest = min(open_to, key=costs.__getitem__)
        packs[cheapest].size += item.size
        packs[cheapest].members += item.members
        # a token costs its own computation, and that of the pairs with the tokens before it: half of the item's, on average
        costs[cheapest] += item.size + pair_cost * item.size * (common + item.size / 2)
    return [pack.members for pack in packs]

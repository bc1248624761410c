"""Which rows share a pack, and whether a pack computes each shared prefix once: whatever makes the step fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.model.trie import Array, Size, SortedRows

AS_FEW = 1e12
"""The cost of a pack, in tokens, where a step is to have as few as it can."""


@dataclass(frozen=True)
class Costs:
    """What the parts of a step cost, forward and backward, in units of what one token costs in the layers.

    Attributes:
        pair: a (query, key) pair that attends, by the kernel that serves packs.
        equal: such a pair in a pack whose rows have the same length and share nothing.
        key: a key of a path that attention gathers: its copy, and the sum over the copies in the backward pass.
        pack: a pack, whatever it holds.
    """

    pair: float = 0.0
    equal: float = 0.0
    key: float = 0.0
    pack: float = 0.0

    @property
    def of_sharing(self) -> bool:
        """Whether sharing a prefix costs anything; else every prefix is shared."""
        return self.key > 0 or self.equal < self.pair

    def of(self, size: Size) -> float:
        """The cost of a pack."""
        pair = self.equal if size.equal else self.pair
        return self.pack + size.tokens + pair * size.pairs + self.key * size.keys


def lay_out_packs(rows: SortedRows, budget: int, ranks: int = 1, costs: Costs | None = None) -> list[SortedRows]:
    """The rows in packs of at most `budget` distinct tokens; the rows of a pack that shares nothing are `apart`.

    A row that is longer than the budget has a pack of its own.
    How a step is packed changes nothing but rounding: the loss is one sum over one denominator.

    Three layouts are tried: one that keeps the rows of a prompt together, one that counts every row in full, and one that gives
    rows of the same length packs of their own. Each pack then shares its prefixes, or none of them, by its cost. The layout whose
    step costs least is taken; of equals the first. It is a function of the arguments alone, so all ranks choose the same one.

    One rank gets packs by first-fit decreasing (Johnson 1974). Several ranks get a number of packs that they divide: each item
    goes to the pack that costs least so far (Graham 1969), so that all packs cost about the same. Some packs may be empty.

    Args:
        costs: what the parts of a step cost; None: sharing costs nothing.
    """
    costs = costs or Costs()
    shared = _packed(rows, _by_prompt(rows, budget), rows.common, budget, ranks, costs.pair)
    if not costs.of_sharing and costs.pack < AS_FEW:
        return shared
    in_full = _packed(rows, _one_by_one(rows), 0, budget, ranks, costs.pair)
    equal = _packed(rows, *_by_length(rows, budget), budget, ranks, costs.pair)
    layouts = [[_cheapest(pack, budget, costs) for pack in packs] for packs in (shared, in_full, equal)]
    return min(layouts, key=lambda packs: _step_cost(packs, ranks, costs))


def _cheapest(pack: SortedRows, budget: int, costs: Costs) -> SortedRows:
    """The pack with every prefix shared, or with none, where that is cheaper and within the budget."""
    apart = pack.apart()
    return apart if apart.size.tokens <= budget and costs.of(apart.size) < costs.of(pack.size) else pack


def _step_cost(packs: Sequence[SortedRows], ranks: int, costs: Costs) -> float:
    """The cost of a step in which ranks compute as many packs at the same time, and wait for the slowest."""
    each = sorted((costs.of(pack.size) for pack in packs), reverse=True)
    return sum(each[::ranks])


@dataclass
class _Item:
    """Rows that stay together, by their indices; `size` counts their distinct tokens beyond the prefix that all rows share."""

    size: int
    members: list[int]


def _by_prompt(rows: SortedRows, budget: int) -> list[_Item]:
    """Rows of one prompt, and turns of a conversation, together while they fit into a pack."""
    common = rows.common
    room = max(1, budget - common)
    items: list[_Item] = []
    lengths, shared, prompts = rows.lengths.tolist(), rows.shared.tolist(), rows.prompts.tolist()
    for index, length in enumerate(lengths):
        more = length - shared[index]
        if index and items[-1].size + more <= room and _are_alike(prompts[index - 1], prompts[index], shared[index], common):
            items[-1].size += more
            items[-1].members.append(index)
        else:
            items.append(_Item(length - common, [index]))
    return items


def _are_alike(a: int, b: int, shared: int, common: int) -> bool:
    """Whether two rows with prompts of `a` and `b` tokens share at least half of the shorter prompt, beyond what all rows share."""
    return 2 * (shared - common) >= min(a, b) - common


def _one_by_one(rows: SortedRows) -> list[_Item]:
    return [_Item(length, [index]) for index, length in enumerate(rows.lengths.tolist())]


def _by_length(rows: SortedRows, budget: int) -> tuple[list[_Item], int]:
    """Rows of one length, as many as fill a pack together, and the other rows as `_by_prompt`; what those others all share."""
    filled: list[list[int]] = []
    rest: list[Array] = []
    for length in np.unique(rows.lengths).tolist():
        same = np.flatnonzero(rows.lengths == length)
        together = max(1, budget // max(1, length))
        full = len(same) // together * together
        filled += same[:full].reshape(-1, together).tolist()
        rest.append(same[full:])
    left = np.sort(np.concatenate(rest))
    others = rows.select(left)
    too_large = max(1, budget - others.common) + 1  # nothing joins such an item
    items = [_Item(item.size, left[item.members].tolist()) for item in _by_prompt(others, budget)]
    return [_Item(too_large, members) for members in filled] + items, others.common


def _packed(rows: SortedRows, items: list[_Item], common: int, budget: int, ranks: int, pair: float) -> list[SortedRows]:
    """The items in packs, for one rank or several."""
    room = max(1, budget - common)
    items = sorted(items, key=lambda item: -item.size)
    packs = _first_fit(items, room)
    if ranks > 1:
        count = math.ceil(len(packs) / ranks) * ranks
        while (balanced := _least_cost(items, room, count, common, pair)) is None:
            count += ranks
        packs = balanced
    return [rows.select(pack.members) for pack in packs]


def _first_fit(items: Sequence[_Item], room: int) -> list[_Item]:
    packs: list[_Item] = []
    for item in items:
        pack = next((pack for pack in packs if pack.size + item.size <= room), None)
        if pack is None:
            packs.append(_Item(item.size, list(item.members)))
        else:
            pack.size += item.size
            pack.members += item.members
    return packs


def _least_cost(items: Sequence[_Item], room: int, count: int, common: int, pair: float) -> list[_Item] | None:
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
        costs[cheapest] += item.size + pair * item.size * (common + item.size / 2)
    return packs

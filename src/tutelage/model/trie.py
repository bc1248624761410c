"""Rows of token ids in sorted order, and their trie, as arrays: fast enough for a thread beside the one that launches kernels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tutelage.data import TokenizedExample

Array = np.ndarray


@dataclass(frozen=True)
class Size:
    """What a pack of rows computes.

    Attributes:
        tokens: those that rows share counted once.
        pairs: (query, key) pairs that attend.
        keys: of all paths from the root to a leaf, which attention by paths gathers; 0 where no row branches off another.
        equal: whether nothing is shared and all rows have the same length.
    """

    tokens: int
    pairs: int
    keys: int
    equal: bool


@dataclass(frozen=True)
class SortedRows:
    """Rows of token ids in sorted order: rows that share a prefix stand side by side.

    Attributes:
        ids: (tokens,) int32, of all rows, end to end.
        starts, lengths: (rows,) int64, where each row's ids begin in `ids`, and how many they are.
        prompts: (rows,) int64, how many of them are the prompt's.
        shared: (rows,) int64, how many tokens each row shares with the row before it; 0 for the first row.
        order: (rows,) int64, the index of each row in the order in which the rows were given.
    """

    ids: Array
    starts: Array
    lengths: Array
    prompts: Array
    shared: Array
    order: Array

    @staticmethod
    def of(parts: Sequence[Sequence[int]], lengths: Sequence[int], prompts: Sequence[int]) -> SortedRows:
        """The rows, sorted.

        Args:
            parts: the ids of all rows in their order; a row may be cut into several parts.
            lengths, prompts: of each row.
        """
        total = sum(lengths)
        # big-endian numbers, none of them negative, are ordered as their bytes are
        text = np.fromiter(itertools.chain.from_iterable(parts), np.dtype(np.int32), total).astype(">i4").tobytes()
        bounds = [0, *itertools.accumulate(4 * length for length in lengths)]
        keys = [text[start:stop] for start, stop in itertools.pairwise(bounds)]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        ids = np.frombuffer(b"".join([keys[index] for index in order]), ">i4").astype(np.int32)
        count = np.array(lengths, np.int64)[order]
        starts = np.cumsum(count) - count
        return SortedRows(ids, starts, count, np.array(prompts, np.int64)[order], _shared(ids, starts, count), order)

    @staticmethod
    def of_examples(examples: Sequence[TokenizedExample]) -> SortedRows:
        """The rows of prompt and response.

        Raises:
            ValueError: an example has no prompt token, so nothing could predict its first response token.
        """
        for example in examples:
            if not example.prompt_ids:
                raise ValueError(f"{example.source}: the prompt has no tokens")
        parts = [ids for example in examples for ids in (example.prompt_ids, example.response_ids)]
        return SortedRows.of(parts, [len(each) for each in examples], [len(each.prompt_ids) for each in examples])

    def __len__(self) -> int:
        return len(self.order)

    @property
    def common(self) -> int:
        """Tokens of the prefix that all rows share."""
        return int(self.shared[1:].min() if len(self) > 1 else self.lengths.sum())

    def select(self, rows: Sequence[int] | Array) -> SortedRows:
        """Some of the rows, by their indices in the sorted order."""
        chosen = np.sort(np.asarray(rows, np.int64))
        shared = np.zeros(len(chosen), np.int64)
        if len(chosen) > 1:  # what two rows share is the least that neighbours between them share
            shared[1:] = np.minimum.reduceat(self.shared[: chosen[-1] + 1], chosen[:-1] + 1)
        return SortedRows(
            self.ids, self.starts[chosen], self.lengths[chosen], self.prompts[chosen], shared, self.order[chosen]
        )

    @property
    def size(self) -> Size:
        """The size of the rows as one pack."""
        lengths, shared = self.lengths, self.shared
        # rows from which the next row does not go on
        leaves = np.append(shared[1:] < lengths[:-1], True) if len(self) else np.empty(0, bool)
        branches = bool((shared[1:] * leaves[:-1]).any())
        paths = lengths[leaves]
        return Size(
            tokens=int((lengths - shared).sum()),
            pairs=int((lengths * (lengths + 1) - shared * (shared + 1)).sum()) // 2,
            keys=int(paths.sum()) if branches else 0,
            equal=not branches and bool((paths == paths[:1]).all()),
        )

    def apart(self) -> SortedRows:
        """The same rows, which share nothing from here on: prefixes that are the same are computed for each row."""
        return replace(self, shared=np.zeros_like(self.shared))


def _shared(ids: Array, starts: Array, lengths: Array) -> Array:
    """(rows,) int64: how many tokens each row shares with the row before it, of rows end to end in `ids`."""
    row, depth = rows_and_depths(lengths)
    before = np.maximum(row - 1, 0)
    # beyond the end of the row before stands the row itself, whose first token is compared with something: it is masked out
    differ = (depth >= lengths[before]) | (ids != ids[np.minimum(starts[before] + depth, len(ids) - 1)]) | (row == 0)
    at = np.flatnonzero(differ)
    ends = starts + lengths
    first = np.append(at, len(ids))[np.searchsorted(at, starts)]  # where each row differs first, or a later row does
    return np.minimum(first, ends) - starts


def rows_and_depths(lengths: Array) -> tuple[Array, Array]:
    """The row of each token of rows that stand end to end, and its index within the row: both (tokens,) int64."""
    starts = np.cumsum(lengths) - lengths
    return np.repeat(np.arange(len(lengths)), lengths), np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


@dataclass(frozen=True)
class Trie:
    """The trie of sorted rows in depth-first order: every prefix that neighbours share stands once.

    Attributes:
        ids, depths, ends: (tokens,) int64, of each token; `ends` is where its subtree ends.
        paths: (tokens of all rows,) int64, the tokens of each row, row by row in the sorted order.
        rows: the rows.
    """

    ids: Array
    depths: Array
    ends: Array
    paths: Array
    rows: SortedRows

    @staticmethod
    def of(rows: SortedRows) -> Trie:
        """The trie of the rows, which are its leaves in depth-first order."""
        row, depth = rows_and_depths(rows.lengths)
        own = depth >= rows.shared[row]
        at = np.cumsum(own)
        paths = at - 1
        first = np.cumsum(rows.lengths - rows.shared) - (rows.lengths - rows.shared)  # each row's first own token
        starts = [0, *np.cumsum(rows.lengths).tolist()]
        for before, start, count in zip([0, *starts], starts, rows.shared.tolist(), strict=False):
            if count:  # a path begins as the one before it does
                paths[start : start + count] = paths[before : before + count]
        ids = rows.ids[rows.starts[row[own]] + depth[own]].astype(np.int64)
        ends = np.full(len(ids), len(ids), np.int64)
        left = depth >= np.append(rows.shared[1:], 0)[row]  # tokens whose subtree ends with their row
        ends[paths[left]] = np.append(first[1:], len(ids))[row[left]]
        return Trie(ids, depth[own], ends, paths, rows)

    def by_row(self, values: Array, counts: Array | None = None) -> list[Array]:
        """Values that stand row by row in the sorted order, cut into those of each row, in the order that the rows were given in.

        Args:
            counts: (rows,) int64, how many values each row has; None: one for each of its tokens.
        """
        stops = np.cumsum(self.rows.lengths if counts is None else counts).tolist()
        pieces = [values[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
        return [pieces[index] for index in np.argsort(self.rows.order).tolist()]


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """The trie of sequences of ids."""
    lengths = [len(sequence) for sequence in sequences]
    return Trie.of(SortedRows.of(sequences, lengths, [0] * len(lengths)))

"""What a run trains on and validates on, ready for the model."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from tutelage.data.ledger import Example, Ledger
from tutelage.data.stored import Store
from tutelage.data.templates import Template, plain
from tutelage.data.tokens import TokenizedExample, pieces


class Sequences(Sequence[TokenizedExample]):
    """The sequences that are trained on, read from a store when they are asked for.

    Args:
        rows: the indices of the rows in the store, in the order of training: (rows,) int64.
        max_length: longer sequences are left out, or cut to it where `cut` says so.
    """

    def __init__(self, store: Store, rows: np.ndarray, max_length: int, cut: bool) -> None:
        self.store, self.rows, self.max_length, self.cut = store, rows, max_length, cut
        prompts, responses = store.lengths
        every, of_row = store.sequences_of(rows)
        stays = fits(prompts[every], responses[every], max_length, cut)
        self.indices: np.ndarray = every[stays]
        self.of_row: np.ndarray = of_row[stays]
        self.turns: np.ndarray = self.indices - store.first[rows][self.of_row]
        self.prompts: np.ndarray = prompts[self.indices]
        self.lengths: np.ndarray = np.minimum(self.prompts + responses[self.indices], max_length)
        """Tokens of each sequence: (sequences,) int64."""
        self.several: np.ndarray = store.first[rows + 1] - store.first[rows] > 1
        self.weights: np.ndarray = normalised_weights(store.weights[rows][self.of_row], self.lengths - self.prompts)
        """What each response token of a sequence counts in the loss, one on average: (sequences,) float64."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Sequences, (self.store, self.rows, self.max_length, self.cut)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        prompt, response = self.store.sequence(int(self.indices[index]))
        room = self.max_length - len(prompt)
        ends, weight = len(response) <= room, float(self.weights[index])
        return TokenizedExample(self.source(index), tuple(prompt), tuple(response[:room]), ends, weight)

    def __iter__(self) -> Iterator[TokenizedExample]:
        return (self[index] for index in range(len(self)))

    def source(self, index: int) -> str:
        """The name of a sequence: its row's, and which turn it is, where the row has several."""
        row = int(self.of_row[index])
        name: str = self.store.sources[int(self.rows[row])]
        return f"{name} turn {int(self.turns[index]) + 1}" if self.several[row] else name

    def example(self, index: int) -> Example:
        """The texts of a sequence, which its ids were made from."""
        asked = self.asked(index)
        return replace(asked, prompt=plain(asked.prompt), response=plain(asked.response))

    def asked(self, index: int) -> Example:
        """The texts of a sequence as they are encoded: special tokens that are mere text in them are marked."""
        row = int(self.rows[int(self.of_row[index])])
        parsed, turn = self.store.parsed(row), self.store.turns(row)[int(self.turns[index])]
        return Example(turn.prompt, turn.response, parsed.reference, self.source(index))

    @property
    def first(self) -> np.ndarray:
        """The index of each row's first sequence, and behind them the number of sequences: (rows + 1,) int64."""
        return np.searchsorted(self.of_row, np.arange(len(self.rows) + 1))

    def by_source(self) -> list[dict[str, Any]]:
        """Of each source: its name, the rows and tokens that are trained on, the mean, least and largest weight of its response
        tokens, and their share of the loss."""
        of_row = self.store.of_source[self.rows]
        of_sequence, responses = of_row[self.of_row], self.lengths - self.prompts
        found = []
        for index, each in enumerate(self.store.kept):
            its = of_sequence == index
            weights, learnt = self.weights[its], responses[its]
            counted = float(np.dot(weights, learnt))
            found.append({
                "source": each.name, "rows": int((of_row == index).sum()), "tokens": int(self.lengths[its].sum()),
                "response_tokens": int(learnt.sum()), "weight": counted / max(1, int(learnt.sum())),
                "weights": [float(weights.min()), float(weights.max())] if len(weights) else [0.0, 0.0],
                "share": counted / float(np.dot(self.weights, responses)),
            })  # fmt: skip
        return found


def normalised_weights(weights: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The weights of sequences over their mean, of which each sequence is a part by its response tokens.

    Equal weights are one, to the bit.
    """
    return np.ones(len(weights)) if are_equal(weights) else weights * (tokens.sum() / np.dot(weights, tokens))


def are_equal(weights: np.ndarray) -> bool:
    """Whether all weights are the same one."""
    return bool((weights == weights[:1]).all())


def fits(prompts: np.ndarray, responses: np.ndarray, max_length: int, cut: bool) -> np.ndarray:
    """Which sequences of these lengths are trained on: (sequences,) bool. One whose prompt alone fills `max_length` never is."""
    return (prompts + responses <= max_length) | (cut & (prompts < max_length))


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and validates on.

    Attributes:
        train: the sequences that are trained on: one of a row, or, of a conversation, one for each turn that is learnt.
        lengths: of prompt + response in tokens, before `max_length` is looked at.
        unread: what nothing reads, in words; [] if all is read.
        notes: what else was found and decided about the rows, a line for each.
        shown: for some rows of each fate, their text.
        hashes: of the ids of each row that is trained on: (rows, 16) uint8.
        first: the index of each row's first sequence in `train`, and behind them the number of sequences; None: each is a row.
    """

    train: Sequence[TokenizedExample]
    validation: Sequence[Example]
    ledger: Ledger
    lengths: np.ndarray
    max_length: int
    max_length_was_chosen: bool
    template: Template
    panel: int
    longest_prompt: int
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shown: list[dict[str, str]] = field(default_factory=list)
    hashes: np.ndarray | None = None
    first: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Rows that are trained on; a step is made of so many."""
        return len(self.train) if self.first is None else len(self.first) - 1

    def of_rows(self, rows: Sequence[int]) -> list[TokenizedExample]:
        """The sequences of some of the rows."""
        if self.first is None:
            return [self.train[row] for row in rows]
        return [self.train[index] for row in rows for index in range(int(self.first[row]), int(self.first[row + 1]))]

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self.train.lengths.sum()) if isinstance(self.train, Sequences) else sum(map(len, self.train))

    @property
    def response_tokens(self) -> int:
        """Response tokens of all sequences, which carry the loss."""
        if isinstance(self.train, Sequences):
            return int((self.train.lengths - self.train.prompts).sum())
        return sum(len(row.response_ids) for row in self.train)

    @functools.cached_property
    def longest_response(self) -> int:
        """Tokens of the longest response."""
        if isinstance(self.train, Sequences):
            return int((self.train.lengths - self.train.prompts).max())
        return max(len(row.response_ids) for row in self.train)

    def by_source(self) -> list[dict[str, Any]]:
        """As `Sequences.by_source`; [] for sequences that are of no store."""
        return self.train.by_source() if isinstance(self.train, Sequences) else []

    def fingerprint(self) -> str:
        """A hash of all that is trained and validated on: a run is continued only on the same rows."""
        digest = hashlib.sha256(repr((self.max_length, [(each.prompt, each.reference) for each in self.validation])).encode())
        digest.update(b"" if self.hashes is None else self.hashes.tobytes())
        if isinstance(self.train, Sequences) and not are_equal(self.train.weights):
            digest.update(self.train.weights.tobytes())
        return digest.hexdigest()

    def description(self, tokenizer: Any) -> dict[str, Any]:
        """What ``data.json`` says of the data: the fingerprint, sizes, the histogram of lengths with its cut, what nothing reads,
        one training row in tokens, of which those after `prompt_tokens` carry the loss, and rows of each fate."""
        first = self.train[0]
        return {
            "sha256": self.fingerprint(),
            "rows": self.rows,
            "sequences": len(self.train),
            "tokens": self.tokens,
            "response_tokens": self.response_tokens,
            "problems": len(self.validation),
            "panel": self.panel,
            "max_length": self.max_length,
            "max_length_was_chosen": self.max_length_was_chosen,
            "lengths": [list(pair) for pair in histogram(self.lengths)],
            "fates": dict(self.ledger.counts()),
            "sources": self.by_source(),
            "unread": self.unread,
            "notes": self.notes,
            "example": {
                "source": first.source,
                "prompt_tokens": len(first.prompt_ids),
                "tokens": [*pieces(tokenizer, first.prompt_ids), *pieces(tokenizer, first.response_ids)],
            },
            "shown": self.shown,
        }


def histogram(lengths: np.ndarray) -> list[tuple[int, int]]:
    """(length, how many sequences have it) of each length that there is, the shortest first."""
    values, counts = np.unique(lengths, return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))

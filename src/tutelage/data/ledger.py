"""The ledger: the one fate of every row."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tutelage.errors import InputError
from tutelage.grading import Reference


@dataclass(frozen=True)
class Example:
    """One problem: what the model is asked, what it should learn to say, and the reference answer ("" if none is known)."""

    prompt: str
    response: str
    reference: Reference
    source: str


@dataclass(frozen=True)
class Fate:
    """What became of one row, and why."""

    source: str
    fate: str
    why: str = ""


class Ledger:
    """The fate of every row, in the order of the rows; "kept" until another is marked.

    A million rows need 8 bytes each besides their names: fates and reasons are few, and stand in a list once.
    """

    def __init__(self, sources: Sequence[str], more: Sequence[str] = ()) -> None:
        """`more` names rows that stand behind the others, such as validation rows that are no problems."""
        self.sources, self.more = sources, list(more)
        self._known: dict[tuple[str, str], int] = {("kept", ""): 0}
        self._marks = array("I", bytes(4 * (len(sources) + len(more))))

    def copy(self) -> Ledger:
        made = Ledger((), self.more)
        made.sources, made._known, made._marks = self.sources, dict(self._known), array("I", self._marks)
        return made

    def source(self, row: int) -> str:
        """The name of a row."""
        return self.sources[row] if row < len(self.sources) else self.more[row - len(self.sources)]

    def mark(self, row: int, fate: str, why: str = "") -> None:
        """Say what becomes of a row, by its index."""
        self._marks[row] = self._known.setdefault((fate, why), len(self._known))

    def counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        fates = [fate for fate, _ in self._known]
        for mark, count in Counter(self._marks).items():
            counts[fates[mark]] += count
        return counts

    def why(self) -> dict[str, str]:
        """Of each fate that has a reason, its first row and the reason."""
        first: dict[int, int] = {}
        for row, mark in enumerate(self._marks):
            if mark and mark not in first:
                first[mark] = row
        said: dict[str, str] = {}
        marks = list(self._known)
        for mark, row in first.items():
            fate, why = marks[mark]
            if why:
                said.setdefault(fate, f"{self.source(row)}: {why}")
        return said

    def first_of_each(self, count: int) -> Iterator[tuple[int, Fate]]:
        """(index, fate) of the first `count` rows of each fate, in the order of the rows."""
        marks = list(self._known)
        seen: Counter[str] = Counter()
        for row, mark in enumerate(self._marks):
            fate, why = marks[mark]
            seen[fate] += 1
            if seen[fate] <= count:
                yield row, Fate(self.source(row), fate, why)

    def __len__(self) -> int:
        return len(self._marks)

    def __iter__(self) -> Iterator[Fate]:
        marks = list(self._known)
        return (
            Fate(source, *marks[mark]) for source, mark in zip(itertools.chain(self.sources, self.more), self._marks, strict=True)
        )


def summary(counts: Counter[str]) -> str:
    """``450 kept, 62 wrong answer``."""
    return ", ".join(f"{count} {fate}" for fate, count in counts.most_common())


SKIP = 'data.on_bad_row = "skip"'


def check_malformed(count: int, first: str, rows: int, on_bad_row: str, skip: str = SKIP) -> None:
    """Raises InputError if rows are malformed and that is not allowed, or if no other rows are left.

    Args:
        count: malformed rows; `first` names the first of them.
        rows: all rows.
        skip: the setting that leaves malformed rows out, as it is written.
    """
    if count and on_bad_row == "error":
        more = f" (and {count - 1} more malformed rows)" if count > 1 else ""
        raise InputError(f"{first}{more}; mend the row, or set {skip} to leave such rows out and count them")
    if count == rows:
        raise InputError(f"all {rows} rows are malformed; the first: {first}")


def named_once(unread: Iterable[tuple[str, int]], rows: int) -> str:
    """Columns that nothing reads, in words: ``level (20 of 20 rows), source (3)``."""
    return ", ".join(f"{column} ({count} of {rows} rows)" for column, count in unread)

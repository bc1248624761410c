"""From rows to examples, and the ledger: the one fate of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tutelage.config import DataConfig
from tutelage.data.shapes import BadRow, parse_row, shape_of
from tutelage.data.sources import Row
from tutelage.data.templates import apply_template
from tutelage.errors import InputError


@dataclass(frozen=True)
class Example:
    """One problem: what the model is asked, what it should learn to say, and the reference answer ("" if none is known)."""

    prompt: str
    response: str
    reference: str
    source: str


@dataclass(frozen=True)
class Fate:
    """What became of one row, and why."""

    source: str
    fate: str
    why: str = ""


class Ledger:
    """The fate of every row, by its source, in the order of the rows."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._fates: dict[str, Fate] = {}
        for source in sources:
            if source in self._fates:
                raise AssertionError(f"two rows have the name {source}; this is a bug of Tutelage")
            self._fates[source] = Fate(source, "kept")

    def copy(self) -> Ledger:
        made = Ledger(())
        made._fates = dict(self._fates)
        return made

    def mark(self, source: str, fate: str, why: str = "") -> None:
        self._fates[source] = Fate(source, fate, why)

    def counts(self) -> Counter[str]:
        return Counter(fate.fate for fate in self)

    def __iter__(self) -> Iterator[Fate]:
        return iter(self._fates.values())


def summary(counts: Counter[str]) -> str:
    """``450 kept, 62 wrong answer``."""
    return ", ".join(f"{count} {fate}" for fate, count in counts.most_common())


def examples_of(
    rows: Iterable[Row], template: str, data: DataConfig, needs_response: bool = True
) -> Iterator[tuple[Row, Example | BadRow]]:
    """Each row with its example, or with the reason why it is malformed.

    Raises:
        InputError: `data.shape` names no function.
    """
    shape = shape_of(data)
    for row in rows:
        try:
            if row.problem:
                raise BadRow(row.problem)
            pair = parse_row(row.value, shape, needs_response)
        except BadRow as malformed:
            yield row, malformed
        else:
            yield row, Example(*apply_template(pair, template), pair["reference"], row.source)


def to_examples(
    rows: Sequence[Row], template: str, ledger: Ledger, data: DataConfig | None = None, needs_response: bool = True
) -> list[Example]:
    """Examples of the well-formed rows; malformed ones raise, or are marked "malformed" in the ledger.

    Raises:
        InputError: names file, line and key of the first malformed row (and counts the others), or no row is left.
    """
    data = data or DataConfig()
    examples: list[Example] = []
    malformed: list[str] = []
    for row, made in examples_of(rows, template, data, needs_response):
        if isinstance(made, Example):
            examples.append(made)
        else:
            malformed.append(f"{row.source}: {made}")
            ledger.mark(row.source, "malformed", str(made))
    check_malformed(len(malformed), malformed[0] if malformed else "", len(rows), data.on_bad_row)
    return examples


def check_malformed(count: int, first: str, rows: int, on_bad_row: str) -> None:
    """Raises InputError if rows are malformed and that is not allowed, or if no other rows are left.

    Args:
        count: malformed rows; `first` names the first of them.
        rows: all rows.
    """
    if count and on_bad_row == "error":
        more = f" (and {count - 1} more malformed rows)" if count > 1 else ""
        raise InputError(f'{first}{more}; mend the row, or set data.on_bad_row = "skip" to leave such rows out and count them')
    if count == rows:
        raise InputError(f"all {rows} rows are malformed; the first: {first}")

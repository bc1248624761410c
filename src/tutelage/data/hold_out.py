"""Which problems are validated on, and which rows are not trained on for that: problems are held out, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from tutelage.config import DataConfig
from tutelage.data.ledger import check_malformed
from tutelage.data.overlap import Validation
from tutelage.data.parts import Added
from tutelage.data.recipe import MALFORMED, Made, Recipe
from tutelage.data.sources import seeded_order
from tutelage.data.stored import Store
from tutelage.errors import InputError

NO_REFERENCE = "no reference"


class Asked(NamedTuple):
    """What is validated on.

    Attributes:
        store, rows: where the problems are, one row of each: (problems,) int64, in the order of the source.
        again: rows that ask a problem again.
        faults: (source, fate, why) of rows that are no problems.
    """

    store: Store
    rows: np.ndarray
    again: int = 0
    faults: tuple[tuple[str, str, str], ...] = ()


def checked_faults(store: Store, data: DataConfig) -> list[tuple[int, str, str]]:
    """The faults of a store. Raises InputError: rows are malformed, and that is not allowed, or all of them are."""
    faults = list(store.faults())
    malformed = [f"{store.sources[row]}: {why}" for row, fate, why in faults if fate == MALFORMED]
    check_malformed(len(malformed), malformed[0] if malformed else "", len(store), data.on_bad_row)
    return faults


def problems_of(store: Store, data: DataConfig) -> Asked:
    """The problems of a source of their own. Raises InputError: a row is malformed, or none has a reference."""
    fates = checked_faults(store, data)
    rows, again = _one_of_each(store)
    if not len(rows):
        raise InputError(
            f"{store.sources[0]}: no row of the validation data has a reference answer to compare responses with{_may_hold_one(store)}"
        )
    unknown = np.flatnonzero(store.well_formed & ~store.referenced).tolist()
    faults = [(store.sources[row], fate, why) for row, fate, why in fates]
    faults += [(store.sources[row], NO_REFERENCE, "a validation problem needs one") for row in unknown]
    return Asked(store, rows, again, tuple(faults))


def hold_out(store: Store, data: DataConfig) -> tuple[Asked, np.ndarray]:
    """The problems that are held out of the training rows, and all of their rows: (rows,) int64.

    Only problems with a reference are held out. With `data.test_size` 0, all are asked, and no row is held out.

    Raises:
        InputError: one side would be empty.
    """
    rows, again = _one_of_each(store)
    if not len(rows):
        raise InputError(
            f"{store.sources[0]}: no row has a reference answer, so no problem can be held out; name validation problems"
            f" (data.validation){_may_hold_one(store)}"
        )
    if data.test_size == 0:
        return Asked(store, rows, again), np.zeros(0, np.int64)
    problems = len(np.unique(store.problems[store.well_formed]))
    count = round(problems * data.test_size)
    if count == 0 or count >= problems:
        raise InputError(
            f"data.test_size = {data.test_size} of {problems} problems leaves one side empty; name data.validation instead"
        )
    chosen = np.sort(np.array(seeded_order(len(rows), data.seed)[:count]))
    asked = rows[chosen]
    held = np.flatnonzero(np.isin(store.problems, store.problems[asked]) & store.well_formed)
    return Asked(store, asked), held


def _may_hold_one(store: Store) -> str:
    """The columns that nothing reads, one of which may be the reference."""
    if not store.unread:
        return ""
    return f", or name the column of the answers as reference in data.columns: nothing reads {', '.join(store.unread)}"


def _one_of_each(store: Store) -> tuple[np.ndarray, int]:
    """The first row with a reference of each problem, and how many more rows ask one of these problems."""
    rows = np.flatnonzero(store.well_formed & store.referenced)
    _, first = np.unique(store.problems[rows], return_index=True)
    return rows[np.sort(first)], len(rows) - len(first)


def overlap_column(asked: Asked, recipe: Recipe) -> Added:
    """The column that says which validation problem a row overlaps with (see `overlap`); its value is "" where with none.

    Args:
        recipe: of the training rows.
    """
    store = asked.store

    def validation() -> Validation:
        asks = ((store.sources[row], store.question(row)) for row in asked.rows.tolist())
        return Validation(asks, store.common | recipe.common)

    # the folder is named after the content of the rows, and the column is kept with the training rows
    key = xxhash.xxh3_128_hexdigest(store.key.encode() + asked.rows.tobytes())
    return Added(f"overlap-{key}", overlaps, validation)


def overlaps(validation: Validation, rows: Sequence[tuple[int, Made]]) -> tuple[dict[str, list[str]], bool]:
    """The values of `overlap_column`."""
    return {"overlap": validation.overlaps([validation.compared(row.asked, row.question) for _, row in rows])}, True

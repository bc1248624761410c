"""Problems that a model is to solve for its own training: each once, and none that is validated on, word for word or nearly."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.config import Config, Source
from tutelage.data.benchmarks import validation_source
from tutelage.data.hold_out import Asked, hold_out, overlap_column, problems_of
from tutelage.data.ledger import Example, Ledger, summary
from tutelage.data.pool import choose_problems
from tutelage.data.store import Store, open_store
from tutelage.data.stored import joined
from tutelage.data.templates import Template, template_of
from tutelage.data.texts import is_text
from tutelage.errors import InputError

PROBLEM = "problem"
"""The fate of a row whose problem is to be solved."""


@dataclass(frozen=True)
class Unsolved:
    """Problems without solutions.

    Attributes:
        problems: in the seeded order.
        ledger: the fate of every row of their source: "problem", "overlap", "asked again", "no reference", "malformed", "left out".
    """

    problems: list[Example]
    ledger: Ledger

    @property
    def fates(self) -> Counter[str]:
        """How many rows met which fate."""
        return self.ledger.counts()


def held_out_problems(config: Config, template: Template, tokenizer: Any) -> Asked:
    """The problems that the configuration validates on, found without the solutions of its training rows.

    Raises:
        InputError: as `problems_of` and `hold_out`.
    """
    data, named = config.data, validation_source(config.data)

    def opened(source: Source) -> Store:
        its = template if source.prompt in (None, data.prompt) else template_of(str(source.prompt), tokenizer, {})
        return open_store(source, its, tokenizer, config.eval.reward)

    if named is None:
        return hold_out(joined([opened(weighed.source) for weighed in data.of_training()]), data)[0]
    return problems_of(opened(named), data)


def unsolved_problems(source: Source, held: Asked, config: Config, template: Template, tokenizer: Any, seed: int) -> Unsolved:
    """The problems of a source that a model may solve for its own training.

    A row whose problem is held out, word for word or nearly (see `overlap`), is left out whatever `data.overlap` says.

    Args:
        held: the problems that are validated on.
        seed: of the problems' order.

    Raises:
        InputError: a row is malformed, or no problem is left.
    """
    store = open_store(source, template, tokenizer, config.eval.reward)
    asked = problems_of(store, config.data)
    ledger = Ledger(store.sources)
    _mark_others(ledger, store, asked)
    whys = store.column(functools.partial(overlap_column, held), "comparing with the held-out problems")["overlap"]
    same = ~is_text(whys, "")
    for row in np.flatnonzero(same & store.well_formed & store.referenced).tolist():
        ledger.mark(row, "overlap", whys[row].as_py())
    rows = asked.rows[~same[asked.rows]]
    if not len(rows):
        first = f"{store.sources[int(asked.rows[0])]}, {whys[int(asked.rows[0])].as_py()}"
        raise InputError(
            f"{source.path}: no problem is left to be solved ({summary(ledger.counts())}): all {len(asked.rows)} are held out for"
            f" validation; the first: {first}. Name other problems (--problems), or other validation problems (data.validation)"
        )
    for row in rows.tolist():
        ledger.mark(row, PROBLEM)
    return Unsolved(choose_problems(Asked(store, rows), seed), ledger)


def _mark_others(ledger: Ledger, store: Store, asked: Asked) -> None:
    """Mark the rows that are no problems, and those that ask a problem again."""
    for row, fate, why in store.faults():
        ledger.mark(row, fate, why)
    for row in np.flatnonzero(store.well_formed & ~store.referenced).tolist():
        ledger.mark(row, "no reference", "a response cannot be graded without one")
    for row in np.setdiff1d(np.flatnonzero(store.well_formed & store.referenced), asked.rows).tolist():
        ledger.mark(row, "asked again", "an earlier row asks the same problem")

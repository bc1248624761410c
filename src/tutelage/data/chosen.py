"""From a configuration to what is trained and validated on: `prepare`, before any compute is spent.

A sweep does the first half, `read_pool`, once for all its trials, and `choose` for each.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tutelage.config import Config, DataConfig
from tutelage.data.filter import nothing_survives
from tutelage.data.ledger import Ledger, summary
from tutelage.data.pool import Pool, read_pool
from tutelage.data.prepared import Prepared, Sequences, fits
from tutelage.data.recipe import Recipe
from tutelage.data.sources import seeded_order
from tutelage.data.stored import Store
from tutelage.data.templates import Template
from tutelage.data.texts import is_text
from tutelage.errors import InputError
from tutelage.grading import reference_text

SHOWN_OF_A_FATE = 3
"""Rows of each fate whose text is kept, to be shown."""
CHECKED = 1000
"""Sequences whose end token is looked at."""


def prepare(config: Config, tokenizer: Any, kept: Template | None = None) -> Prepared:
    """Read, hold out, leave out what overlaps, filter, fit and subset, in this order; each training row gets one fate.

    Args:
        kept: the prompt template of a run that goes on; None: as the configuration says.

    Raises:
        InputError: a row is malformed, the rows ask a question, or no row is left at some stage.
    """
    return choose(read_pool(config, tokenizer, kept), config.data)


def choose(pool: Pool, data: DataConfig) -> Prepared:
    """What a run trains on, of the rows of a pool. Raises InputError if no row is left at some stage."""
    ledger, store, rows = pool.ledger.copy(), pool.store, pool.candidates
    if data.filter:
        rows = _correct(pool, rows, ledger)
    lengths = _sequence_lengths(store, rows)
    max_length = data.max_length or choose_max_length(lengths)
    rows = _fitting(store, rows, max_length, data.truncate == "tail", ledger)
    if not len(rows):
        raise InputError(f"no training row fits data.max_length = {max_length}: the shortest has {int(lengths.min())} tokens")
    rows = _subset(rows, data, ledger)
    train = Sequences(store, rows, max_length, data.truncate == "tail")
    _check_supervision(train, store.recipe)
    return Prepared(
        train=train, validation=pool.problems, ledger=ledger, lengths=lengths, max_length=max_length,
        max_length_was_chosen=data.max_length is None, template=pool.template, panel=pool.panel,
        longest_prompt=pool.longest_prompt, unread=pool.unread, notes=pool.notes, shown=_shown(pool, ledger),
        hashes=store.hashes[rows], first=train.first if train.several.any() else None,
    )  # fmt: skip


def _correct(pool: Pool, rows: np.ndarray, ledger: Ledger) -> np.ndarray:
    """The rows whose response is right; the others are marked. Raises InputError: none is."""
    fates, whys = pool.verdicts["fate"], pool.verdicts["why"]
    right = is_text(fates, "kept")[rows]
    for row in rows[~right].tolist():
        ledger.mark(row, fates[row].as_py(), whys[row].as_py())
    if len(rows) and not right.any():
        raise nothing_survives(ledger.counts(), pool.example(int(rows[0])), pool.config.eval.reward)
    return rows[right]


def _sequence_lengths(store: Store, rows: np.ndarray) -> np.ndarray:
    prompts, responses = store.lengths
    sequences, _ = store.sequences_of(rows)
    return prompts[sequences] + responses[sequences]


def _fitting(store: Store, rows: np.ndarray, max_length: int, cut: bool, ledger: Ledger) -> np.ndarray:
    """The rows of which a sequence at least is trained on. Those that lose something are marked."""
    prompts, responses = store.lengths
    sequences, of_row = store.sequences_of(rows)
    lengths = prompts[sequences] + responses[sequences]
    fit = fits(prompts[sequences], responses[sequences], max_length, cut)
    count, fitting = (np.bincount(of_row, weights=each, minlength=len(rows)) for each in (np.ones(len(fit)), fit))
    longest = np.maximum.reduceat(lengths, np.searchsorted(of_row, np.arange(len(rows)))) if len(rows) else lengths
    for index in np.flatnonzero(longest > max_length).tolist():
        if not fitting[index]:
            least = "at least " if _is_cut(store, int(rows[index]), int(longest[index])) else ""
            ledger.mark(int(rows[index]), "too long", f"{least}{longest[index]} tokens, max_length is {max_length}")
        elif fitting[index] < count[index]:
            lost = int(count[index] - fitting[index])
            ledger.mark(int(rows[index]), "truncated", f"{lost} of {int(count[index])} turns are longer than max_length, {max_length}")
        else:
            ledger.mark(int(rows[index]), "truncated", f"{longest[index]} tokens cut to {max_length}")
    return rows[fitting > 0]


def _is_cut(store: Store, row: int, longest: int) -> bool:
    """Whether of a sequence of a row, the longest of which has so many tokens, the start alone was encoded."""
    recipe = store.recipe_of(row)
    return recipe.limit is not None and longest > recipe.limit and any(map(recipe.is_cut, store.turns(row)))


def choose_max_length(lengths: np.ndarray) -> int:
    """The 99.5th percentile of the lengths (the smallest length that covers that share)."""
    index = -(-len(lengths) * 995 // 1000) - 1
    return int(np.partition(lengths, index)[index])


def _subset(rows: np.ndarray, data: DataConfig, ledger: Ledger) -> np.ndarray:
    """The first `data.size` rows of a seeded order."""
    if data.size is None:
        return rows
    if data.size > len(rows):
        raise InputError(f"data.size = {data.size}, but only {len(rows)} training rows are left ({summary(ledger.counts())})")
    order = seeded_order(len(rows), data.seed if data.subset_seed is None else data.subset_seed)
    for index in order[data.size :]:
        ledger.mark(int(rows[index]), "not in subset", f"data.size = {data.size}")
    return rows[order[: data.size]]


def _check_supervision(train: Sequences, recipe: Recipe) -> None:
    """What must hold by construction, tried on the first rows: response tokens, and, if uncut, an end token, once, at the end."""
    for example in train[:CHECKED]:
        ends = example.response_ids.count(recipe.stops.end_token_id)
        if not example.response_ids or (example.ends and recipe.stops.end_token_id == example.response_ids[-1] and ends != 1):
            raise AssertionError(f"{example.source}: no supervised end token; this is a bug of Tutelage")


def _shown(pool: Pool, ledger: Ledger) -> list[dict[str, str]]:
    """The texts of the first rows of each fate."""
    shown = []
    for row, fate in ledger.first_of_each(SHOWN_OF_A_FATE):
        if row >= len(pool.store):
            text = {"row": ""}
        elif pool.store.well_formed[row]:
            example = pool.example(row)
            text = {"prompt": example.prompt, "response": example.response, "reference": reference_text(example.reference)}
        else:
            text = {"row": json.dumps(pool.store.raw(row).value, ensure_ascii=False, default=str)[:2000]}
        shown.append({"fate": fate.fate, "source": fate.source, "why": fate.why, **text})
    return shown

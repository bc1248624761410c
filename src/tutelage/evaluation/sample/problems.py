"""Which problems of a source are asked: those that have a reference, and that nothing is validated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tutelage import console
from tutelage.config import Config, DataConfig, Source
from tutelage.data import (
    Example,
    Fate,
    Store,
    Validation,
    choose_problems,
    normalised,
    open_store,
    problems_of,
    question_of,
    read_pool,
    template_of,
    validation_source,
)
from tutelage.errors import InputError
from tutelage.model import tokenizer_of

AT_ONCE = 4096
"""Questions that are compared with what is excluded at a time."""
Rows = tuple[Store, Sequence[int]]
"""Some rows of a store, by their indices."""


def problems_to_sample(
    path: str, config: Config, exclude: Sequence[str] = (), run: Config | None = None
) -> tuple[list[Example], list[Fate]]:
    """The problems of a source in the order of `eval.seed`, and the fates of rows that are not asked.

    A row that overlaps with an excluded problem is not asked: one of `exclude`, of `data.validation`, or of what a run validated on.
    ``data.overlap = "keep"`` asks those that overlap with the validation, and not those of `exclude`.

    Args:
        path: a file, a directory, a hub name or "arithmetic", read as `data.train` is.
        exclude: further sources of problems, read likewise; of these, no reference is needed.
        run: the configuration of the run that the model comes from.

    Raises:
        InputError: a source cannot be read, a row is malformed, or no problem is left.
    """
    tokenizer = tokenizer_of(config)
    template = template_of(config.data.prompt, tokenizer, config.data.template_arguments)

    def opened(source: Source) -> Store:
        return open_store(source, template, tokenizer, config.eval.reward)

    def read(source: str) -> Source:
        return config.data.read_as_training(source).model_copy(update={"where": None})

    asked = problems_of(opened(read(path)), config.data)
    if asked.again:
        console.say(f"{asked.again} rows ask a problem again; each problem is asked once")
    fates = [Fate(*fault) for fault in asked.faults]
    stores = [opened(read(each)) for each in exclude]
    excluded: list[Rows] = [(store, np.flatnonzero(store.well_formed).tolist()) for store in stores]
    if config.data.overlap == "drop":
        excluded += _validation_of(config, run, tokenizer, opened)
    if excluded:
        overlap = _overlaps(asked.store, asked.rows.tolist(), excluded)
        fates += [Fate(asked.store.sources[row], "overlap", why) for row, why in overlap.items()]
        asked = asked._replace(rows=np.array([row for row in asked.rows.tolist() if row not in overlap], np.int64))
        _say(overlap, len(overlap) + len(asked.rows), asked.store)
    if not len(asked.rows):
        raise InputError(f"{path}: every problem overlaps with one that is excluded; {fates[-1].source}: {fates[-1].why}")
    return choose_problems(asked, config.eval.seed), fates


def _say(overlap: dict[int, str], problems: int, store: Store) -> None:
    first = next(iter(overlap), None)
    example = "" if first is None else f"; the first: {store.sources[first]}, {overlap[first]}"
    console.say(
        f"{len(overlap)} of {problems} problems overlap with those that are validated on or excluded, and are not asked{example}"
    )


def _validation_of(config: Config, run: Config | None, tokenizer: Any, opened: Any) -> Iterator[Rows]:
    """The problems that a configuration names as validation, and those that a run has validated on."""
    if config.data.validation is not None and (run is None or config.data.validation != run.data.validation):
        yield _named(config.data, opened)
    if run is None:
        return
    try:
        if run.data.of_validation() is not None:
            yield _named(run.data, opened)
        elif run.data.test_size > 0:
            held = read_pool(run, tokenizer).asked
            yield held.store, held.rows.tolist()
    except InputError as error:
        raise InputError(
            f"the problems that {run.run.dir} was validated on cannot be read, so nothing says which problems to leave out: {error}."
            " Name them (--data.validation, or --exclude), and set --data.overlap keep to do without the run's own"
        ) from None


def _named(data: DataConfig, opened: Any) -> Rows:
    store = opened(validation_source(data))
    return store, np.flatnonzero(store.well_formed).tolist()


def _overlaps(store: Store, rows: Sequence[int], excluded: Sequence[Rows]) -> dict[int, str]:
    """Of each row that overlaps with an excluded one: which, in words."""
    template, common = store.recipe.template.text, store.recipe.common.union(*(each.recipe.common for each, _ in excluded))

    def questions() -> Iterator[tuple[str, str]]:
        for each, of_it in excluded:
            for row in of_it:
                parsed = each.parsed(row)
                yield parsed.source, question_of(parsed, each.recipe.template.text)

    validation = Validation(questions(), common)
    found: dict[int, str] = {}
    for start in range(0, len(rows), AT_ONCE):
        portion = rows[start : start + AT_ONCE]
        asked = [question_of(store.parsed(row), template) for row in portion]
        whys = validation.overlaps([validation.compared(question, normalised(question)) for question in asked])
        found |= {row: why for row, why in zip(portion, whys, strict=True) if why}
    return found

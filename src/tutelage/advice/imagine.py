"""Rows of a given length in place of those of the data, as many as the data have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tutelage.config import Config, DataConfig
from tutelage.data import BENCHMARKS, Example, Ledger, Prepared, Template, TokenizedExample, iter_rows, panel_size
from tutelage.errors import InputError

IMAGINED_ROWS, IMAGINED_PROBLEMS = 1000, 500
"""What is planned for where the data are not on this machine."""


class Rows(NamedTuple):
    """The rows that are planned for.

    Attributes:
        source: as `data.train`.
        total: how many it has, before any is left out.
        training, validation: how many are trained on, and validated on.
        imagined: whether the source is not on this machine, so that its rows could not be counted.
    """

    source: str
    total: int
    training: int
    validation: int
    imagined: bool


def rows_of(data: DataConfig) -> Rows:
    """How many rows the data have, before any is left out. They are counted and not understood; a hub is not asked."""
    counts = [_count(each.source.path, each.source.split, each.source.hub_config) for each in data.of_training()]
    count = None if None in counts else sum(each for each in counts if each is not None)
    source = data.of_validation()
    problems = None if source is None else _count(source.path, source.split, source.hub_config)
    training = IMAGINED_ROWS if count is None else count
    named = BENCHMARKS.get(source.path) if source is not None else None
    validation = problems if problems is not None else named.questions if named is not None else IMAGINED_PROBLEMS
    if source is None and count is not None:
        validation = max(1, round(data.test_size * count))
        training = count - validation if data.test_size else count
    total = IMAGINED_ROWS if count is None else count
    return Rows(data.in_words, total, min(training, data.size or training), validation, count is None)


def _count(name: str, split: str, hub_config: str | None) -> int | None:
    """The rows of a source; None: it is not on this machine."""
    if name != "arithmetic" and not Path(name).expanduser().exists():
        return None
    return sum(1 for _ in iter_rows(name, split, hub_config))


@dataclass(frozen=True)
class Alike(Sequence[TokenizedExample]):
    """Rows of one length, of which no two share a token; each is made when it is asked for."""

    rows: int
    prompt: int
    response: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.rows:
            raise IndexError(index)
        return TokenizedExample(f"row {index}", (index,) * self.prompt, (index,) * self.response)


def imagined(config: Config, length: int, rows: Rows) -> Prepared:
    """Rows of a given length, of which no two share anything, in place of data: a fifth of each is the prompt.

    Raises:
        InputError: too short for a prompt and a response.
    """
    if length < 2:
        raise InputError(f"--length {length}: a row has at least two tokens")
    prompt = max(1, length // 5)
    count = max(1, rows.training)
    made = Alike(count, prompt, length - prompt)
    problems = [Example("", "", "", f"problem {index}") for index in range(max(1, rows.validation))]
    panel = panel_size(config.eval, len(problems))
    return Prepared(
        made, problems if config.eval.full else problems[:panel], Ledger([f"row {index}" for index in range(count)]),
        np.full(count, length), length, False, Template("{question}"), panel, prompt,
    )  # fmt: skip

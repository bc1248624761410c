"""What all rounds share: the configuration's own rows, the problems that are held out, and those that the model is to solve."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.config import Config, Source, replaced
from tutelage.data import (
    Asked,
    Example,
    Pool,
    Prepared,
    Template,
    Unsolved,
    choose,
    choose_problems,
    held_out_problems,
    panel_size,
    read_pool,
    template_of,
    unsolved_problems,
    validation_source,
)
from tutelage.errors import InputError
from tutelage.experiments.improve.wished import Improvement
from tutelage.model import tokenizer_of
from tutelage.runs import to_lines, write_text

FATES_OF_ROWS = "problems.ledger.jsonl"
HELD_OUT = "held-out.jsonl"
"""The rows of the problems that were held out of the training rows: later rounds, which train on other rows, validate on them."""


@dataclass(frozen=True)
class Ground:
    """What all rounds share.

    Attributes:
        held: the problems that are validated on, in every round.
        unsolved: the problems that are sampled.
        pool, own: the configuration's rows, and those of them that are trained on; None where no round trains on them.
    """

    config: Config
    wished: Improvement
    directory: Path
    tokenizer: Any
    template: Template
    held: Asked
    unsolved: Unsolved
    pool: Pool | None
    own: Prepared | None

    @property
    def fingerprint(self) -> str:
        """A hash of all rows and problems: what is continued on is what it was begun on."""
        digest = hashlib.sha256(b"" if self.own is None else self.own.fingerprint().encode())
        for problem in (*self.unsolved.problems, *self.validated_on):
            digest.update(repr((problem.prompt, problem.reference)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    @property
    def validated_on(self) -> list[Example]:
        """What every round's model is asked at last, in the order of `eval.seed`."""
        settings = self.config.eval
        return choose_problems(self.held, settings.seed, None if settings.full else panel_size(settings, len(self.held.rows)))

    @property
    def validation(self) -> Source:
        """Where rounds that train on other rows than the configuration's find the problems that are held out."""
        data = self.config.data
        named = validation_source(data)  # the source of a benchmark is no name of one any more
        path = str(self.directory / HELD_OUT)
        return named or Source(path=path, shape=data.shape, columns=data.columns, prompt=data.prompt)


def read_ground(config: Config, wished: Improvement, directory: Path, kept: Template | None = None) -> Ground:
    """Read all that rounds share; nothing is written.

    Args:
        kept: the template of rounds that go on.

    Raises:
        InputError: rows are malformed or ask a question, nothing is held out, or no problem is left to be solved.
    """
    data = config.data
    if data.of_validation() is None and data.test_size == 0:
        raise InputError(
            "data.test_size = 0 validates on training rows, and rounds cannot be measured on what they train on; name validation"
            " problems (data.validation), or hold some out (data.test_size)"
        )
    tokenizer = tokenizer_of(config)
    template = kept or template_of(data.prompt, tokenizer, data.template_arguments)
    pool = read_pool(config, tokenizer, template) if wished.needs_rows else None
    own = None if pool is None else choose(pool, data)
    held = pool.asked if pool is not None else held_out_problems(config, template, tokenizer)
    unsolved = unsolved_problems(wished.problems, held, config, template, tokenizer, wished.wanted.seed)
    return Ground(config, wished, directory, tokenizer, template, held, unsolved, pool, own)


def write_problems(ground: Ground) -> None:
    """Write the fate of each row of the problems, and the rows of held-out problems where no source of their own has them.

    Raises:
        InputError: these rows would be read as other problems than those that are held out.
    """
    fates = (vars(fate) for fate in ground.unsolved.ledger)
    write_text(ground.directory / FATES_OF_ROWS, to_lines(fates))
    if ground.config.data.of_validation() is not None:
        return
    held = ground.held
    rows = {raw.source: raw.value for raw in map(held.store.raw, held.rows.tolist())}  # a row may hold several solutions
    write_text(ground.directory / HELD_OUT, to_lines(rows.values()))
    named = replaced(ground.config, {"data.validation": ground.validation})
    again = held_out_problems(named, ground.template, ground.tokenizer)
    if not same_problems(choose_problems(again, 0), choose_problems(held, 0)):
        raise InputError(
            f"{ground.config.data.in_words}: the problems that data.test_size holds out are read otherwise by themselves than among the"
            " training rows; name validation problems (data.validation)"
        )


def same_problems(first: Iterable[Example], second: Iterable[Example]) -> bool:
    """Whether the same questions are asked, with the same references."""
    a, b = (sorted((each.prompt, repr(each.reference)) for each in problems) for problems in (first, second))
    return a == b

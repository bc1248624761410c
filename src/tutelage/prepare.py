"""Everything about the data of a run, before any compute is spent: rows, their fates, their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage import console
from tutelage.config import Config, DataConfig, EvalConfig
from tutelage.data import Example, Ledger, keep_correct, seeded_order, to_examples
from tutelage.errors import InputError
from tutelage.sources import Row, read_rows
from tutelage.stats import problems_for_width
from tutelage.tokens import Stops, TokenizedExample, choose_max_length, encode_prompt, fit, prompt_template, tokenize


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and validates on."""

    train: list[TokenizedExample]
    validation: list[Example]
    ledger: Ledger
    lengths: list[int]
    max_length: int
    max_length_was_chosen: bool
    template: str
    panel: int
    longest_prompt: int

    def fingerprint(self) -> str:
        """A hash of all that is trained and validated on: a run is continued only on the same rows."""
        digest = hashlib.sha256()
        for row in self.train:
            digest.update(repr((row.prompt_ids, row.response_ids)).encode())
        for example in self.validation:
            digest.update(repr((example.prompt, example.reference)).encode())
        return digest.hexdigest()


def prepare(config: Config, tokenizer: Any) -> Prepared:
    """Read, split, filter, tokenize, fit and subset, in this order; each training row gets one fate.

    Raises:
        InputError: a row is malformed, or no row is left at some stage.
    """
    data, stops = config.data, Stops.of(tokenizer)
    template = prompt_template(data.prompt, tokenizer)
    with console.progress(f"reading {data.train}"):
        rows = read_rows(data.train, data.train_split, data.hub_config)
    ledger = Ledger(row.source for row in rows)
    rows, validation_rows = _split(rows, data, ledger)

    problems = choose_problems(validation_rows, template, ledger, config)
    examples = to_examples(rows, template, ledger, columns=data.columns, on_bad_row=data.on_bad_row)
    if data.filter:
        with console.progress("grading the worked solutions", len(examples)) as advance:
            examples = keep_correct(examples, ledger, config.eval.reward, on_graded=advance)
    with console.progress("tokenizing", len(examples)) as advance:
        tokenized = tokenize(examples, tokenizer, stops, on_tokenized=advance)
    lengths = [len(example) for example in tokenized]
    max_length = data.max_length or choose_max_length(lengths)
    kept = fit(tokenized, max_length, data.truncate, ledger)
    if not kept:
        raise InputError(f"no training row fits data.max_length = {max_length}: the shortest has {min(lengths)} tokens")
    train = _subset(kept, data, ledger)
    _check_supervision(train, stops)
    panel = panel_size(config.eval, len(problems))
    problems = problems if config.eval.full else problems[:panel]
    return Prepared(
        train,
        problems,
        ledger,
        lengths,
        max_length,
        data.max_length is None,
        template,
        panel,
        longest_prompt(problems, tokenizer),
    )


def panel_size(config: EvalConfig, problems: int) -> int:
    """How many of the problems every evaluation asks."""
    wanted = problems_for_width(config.interval_width) if config.examples is None else config.examples
    return min(wanted or problems, problems)


def choose_problems(rows: Sequence[Row], template: str, ledger: Ledger, config: Config) -> list[Example]:
    """The problems of rows, which need no response, in the order of `eval.seed`: the panel is the first of them."""
    columns = {field: column for field, column in config.data.columns.items() if field != "response"}
    found = to_examples(rows, template, ledger, columns=columns, on_bad_row=config.data.on_bad_row, needs_response=False)
    return [found[index] for index in seeded_order(len(found), config.eval.seed)]


def longest_prompt(problems: Sequence[Example], tokenizer: Any) -> int:
    """Tokens of the longest prompt."""
    return max(len(encode_prompt(tokenizer, problem.prompt)) for problem in problems)


def _split(rows: list[Row], data: DataConfig, ledger: Ledger) -> tuple[list[Row], list[Row]]:
    """(training rows, validation rows)."""
    if data.validation is not None:
        return rows, read_rows(data.validation, data.validation_split, data.hub_config)
    if data.train == "arithmetic":
        return rows, read_rows("arithmetic", "validation")
    if data.test_size == 0:
        console.say("validation: on training rows (data.validation is none and data.test_size is 0)", style="yellow")
        return rows, rows
    count = round(len(rows) * data.test_size)
    if count in (0, len(rows)):
        raise InputError(
            f"data.test_size = {data.test_size} of {len(rows)} rows leaves one side empty; name data.validation instead"
        )
    held_out = set(seeded_order(len(rows), data.seed)[:count])
    for index in held_out:
        ledger.mark(rows[index].source, "validation", "held out by data.test_size")
    return [row for index, row in enumerate(rows) if index not in held_out], [rows[index] for index in sorted(held_out)]


def _subset(kept: list[TokenizedExample], data: DataConfig, ledger: Ledger) -> list[TokenizedExample]:
    if data.size is None:
        return kept
    if data.size > len(kept):
        raise InputError(f"data.size = {data.size}, but only {len(kept)} training rows are left ({ledger.summary()})")
    order = seeded_order(len(kept), data.seed)
    for index in order[data.size :]:
        ledger.mark(kept[index].source, "not in subset", f"data.size = {data.size}")
    return [kept[index] for index in order[: data.size]]


def _check_supervision(train: Sequence[TokenizedExample], stops: Stops) -> None:
    """What must hold by construction: each row has response tokens, and each uncut row teaches the end token, once."""
    for example in train:
        if not example.response_ids or (example.ends and example.response_ids[-1] != stops.end_token_id):
            raise AssertionError(f"{example.source}: no supervised end token; this is a bug of Tutelage")

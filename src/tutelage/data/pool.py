"""Everything about the data of a run, before any compute is spent: rows, their fates, their ids."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage import console
from tutelage.config import Config, DataConfig, EvalConfig
from tutelage.data.rows import Example, Ledger, judge, keep_judged, seeded_order, to_examples, verdict_cache
from tutelage.data.sources import Row, read_rows
from tutelage.data.tokens import Stops, TokenizedExample, choose_max_length, encode_prompt, fit, pieces, prompt_template, tokenize
from tutelage.errors import InputError
from tutelage.grading import Verdict
from tutelage.stats import problems_for_width

SHOWN_OF_A_FATE = 3
"""Rows of each fate whose text is kept, to be shown."""


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and validates on.

    Attributes:
        lengths: of prompt + response in tokens, before `max_length` is looked at.
        shown: for some rows of each fate, their text.
    """

    train: list[TokenizedExample]
    validation: list[Example]
    ledger: Ledger
    lengths: list[int]
    max_length: int
    max_length_was_chosen: bool
    template: str
    panel: int
    longest_prompt: int
    shown: list[dict[str, str]] = field(default_factory=list)

    def fingerprint(self) -> str:
        """A hash of all that is trained and validated on: a run is continued only on the same rows."""
        digest = hashlib.sha256()
        for row in self.train:
            digest.update(repr((row.prompt_ids, row.response_ids)).encode())
        for example in self.validation:
            digest.update(repr((example.prompt, example.reference)).encode())
        return digest.hexdigest()

    def description(self, tokenizer: Any) -> dict[str, Any]:
        """What ``data.json`` says of the data: the fingerprint, sizes, the histogram of lengths with its cut, one training row in
        tokens, of which those after `prompt_tokens` carry the loss, and rows of each fate."""
        first = self.train[0]
        return {
            "sha256": self.fingerprint(),
            "rows": len(self.train),
            "tokens": sum(map(len, self.train)),
            "response_tokens": sum(len(row.response_ids) for row in self.train),
            "problems": len(self.validation),
            "panel": self.panel,
            "max_length": self.max_length,
            "max_length_was_chosen": self.max_length_was_chosen,
            "lengths": sorted(Counter(self.lengths).items()),
            "example": {
                "source": first.source,
                "prompt_tokens": len(first.prompt_ids),
                "tokens": [*pieces(tokenizer, first.prompt_ids), *pieces(tokenizer, first.response_ids)],
            },
            "shown": self.shown,
        }


class Pool:
    """The rows of a run, or of all trials of a sweep: read once, graded and tokenized once when that is first asked for."""

    def __init__(self, config: Config, tokenizer: Any) -> None:
        """Read and split. Raises InputError: a row is malformed, or there is none."""
        data = config.data
        self.config, self.tokenizer, self.stops = config, tokenizer, Stops.of(tokenizer)
        self.template = prompt_template(data.prompt, tokenizer)
        with console.progress(f"reading {data.train}"):
            rows = read_rows(data.train, data.train_split, data.hub_config)
        self.ledger = Ledger(row.source for row in rows)
        rows, validation_rows = _split(rows, data, self.ledger)
        self.raw = {row.source: row.value for row in (*rows, *validation_rows)}
        problems = choose_problems(validation_rows, self.template, self.ledger, config)
        self.examples = to_examples(rows, self.template, self.ledger, columns=data.columns, on_bad_row=data.on_bad_row)
        self.panel = panel_size(config.eval, len(problems))
        self.problems = problems if config.eval.full else problems[: self.panel]
        self.longest_prompt = longest_prompt(self.problems, tokenizer)
        self._ids: dict[str, TokenizedExample] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all rows and problems: what a sweep is continued on is what it was begun on."""
        digest = hashlib.sha256()
        for example in (*self.examples, *self.problems):
            digest.update(repr((example.prompt, example.response, example.reference)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    @functools.cached_property
    def by_source(self) -> dict[str, Example]:
        return {example.source: example for example in self.examples}

    @functools.cached_property
    def judged(self) -> list[tuple[Example, str, Verdict]]:
        """What the filter says of each row, as `data.judge`."""
        with console.progress("grading the worked solutions", len(self.examples)) as advance, verdict_cache() as cache:
            return list(judge(self.examples, self.config.eval.reward, cache, advance))

    def tokenized(self, examples: Sequence[Example]) -> list[TokenizedExample]:
        new = [example for example in examples if example.source not in self._ids]
        with console.progress("tokenizing", len(new)) as advance:
            self._ids.update({row.source: row for row in tokenize(new, self.tokenizer, self.stops, on_tokenized=advance)})
        return [self._ids[example.source] for example in examples]


def prepare(config: Config, tokenizer: Any) -> Prepared:
    """Read, split, filter, tokenize, fit and subset, in this order; each training row gets one fate.

    Raises:
        InputError: a row is malformed, or no row is left at some stage.
    """
    return choose(Pool(config, tokenizer), config.data)


def choose(pool: Pool, data: DataConfig) -> Prepared:
    """What a run trains on, of the rows of a pool. Raises InputError if no row is left at some stage."""
    ledger = pool.ledger.copy()
    examples = keep_judged(pool.judged, ledger) if data.filter else pool.examples
    tokenized = pool.tokenized(examples)
    lengths = [len(example) for example in tokenized]
    max_length = data.max_length or choose_max_length(lengths)
    kept = fit(tokenized, max_length, data.truncate, ledger)
    if not kept:
        raise InputError(f"no training row fits data.max_length = {max_length}: the shortest has {min(lengths)} tokens")
    train = _subset(kept, data, ledger)
    _check_supervision(train, pool.stops)
    return Prepared(
        train,
        pool.problems,
        ledger,
        lengths,
        max_length,
        data.max_length is None,
        pool.template,
        pool.panel,
        pool.longest_prompt,
        _shown(pool, ledger),
    )


def _shown(pool: Pool, ledger: Ledger) -> list[dict[str, str]]:
    """The texts of the first rows of each fate."""
    seen: Counter[str] = Counter()
    shown = []
    for fate in ledger:
        seen[fate.fate] += 1
        if seen[fate.fate] > SHOWN_OF_A_FATE:
            continue
        row = pool.by_source.get(fate.source)
        text = (
            {"prompt": row.prompt, "response": row.response, "reference": row.reference}
            if row is not None
            else {"row": json.dumps(pool.raw.get(fate.source), ensure_ascii=False, default=str)[:2000]}
        )
        shown.append({"fate": fate.fate, "source": fate.source, "why": fate.why, **text})
    return shown


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
    order = seeded_order(len(kept), data.seed if data.subset_seed is None else data.subset_seed)
    for index in order[data.size :]:
        ledger.mark(kept[index].source, "not in subset", f"data.size = {data.size}")
    return [kept[index] for index in order[: data.size]]


def _check_supervision(train: Sequence[TokenizedExample], stops: Stops) -> None:
    """What must hold by construction: each row has response tokens, and each uncut row teaches the end token, once."""
    for example in train:
        if not example.response_ids or (example.ends and example.response_ids[-1] != stops.end_token_id):
            raise AssertionError(f"{example.source}: no supervised end token; this is a bug of Tutelage")

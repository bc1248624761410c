"""What a run trains on and validates on, before any compute is spent: `prepare`, from a configuration to token ids.

A sweep does the first half, `read_pool`, once for all its trials, and `choose` for each.
"""

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
from tutelage.data.filter import judge, keep_correct, verdict_cache
from tutelage.data.ledger import Example, Ledger, summary, to_examples
from tutelage.data.sources import Row, read_rows, seeded_order
from tutelage.data.stops import Stops
from tutelage.data.templates import prompt_template
from tutelage.data.tokens import TokenizedExample, choose_max_length, encode_prompt, fit, pieces, tokenize
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


@dataclass
class Pool:
    """The rows of a run, or of all trials of a sweep. They are read once; verdicts and ids are found when first needed, and kept.

    Attributes:
        raw: training and validation rows as they were read, by source.
        ledger: the fates of training rows before any is filtered.
        examples: the well-formed training rows.
        problems: what is validated on, in the order of `eval.seed`; the panel is the first `panel` of them.
        longest_prompt: of the problems, in tokens.
        ids: the tokenized examples so far, by source.
    """

    config: Config
    tokenizer: Any
    stops: Stops
    template: str
    raw: dict[str, dict[str, Any]]
    ledger: Ledger
    examples: list[Example]
    problems: list[Example]
    panel: int
    longest_prompt: int
    ids: dict[str, TokenizedExample] = field(default_factory=dict)

    @functools.cached_property
    def verdicts(self) -> list[tuple[Example, str, Verdict]]:
        """What `judge` says of every example, with a progress bar when it is first asked for."""
        with console.progress("grading the worked solutions", len(self.examples)) as advance, verdict_cache() as cache:
            return list(judge(self.examples, self.config.eval.reward, cache, advance))

    @functools.cached_property
    def by_source(self) -> dict[str, Example]:
        return {example.source: example for example in self.examples}

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all rows and problems: what a sweep is continued on is what it was begun on."""
        digest = hashlib.sha256()
        for example in (*self.examples, *self.problems):
            digest.update(repr((example.prompt, example.response, example.reference)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def prepare(config: Config, tokenizer: Any) -> Prepared:
    """Read, hold out, parse, filter, tokenize, fit and subset, in this order; each training row gets one fate.

    Raises:
        InputError: a row is malformed, or no row is left at some stage.
    """
    return choose(read_pool(config, tokenizer), config.data)


def read_pool(config: Config, tokenizer: Any) -> Pool:
    """Rows, split and parsed. Raises InputError: a row is malformed, or there is none."""
    data, template, stops = config.data, prompt_template(config.data.prompt, tokenizer), Stops.of(tokenizer)
    with console.progress(f"reading {data.train}"):
        rows = read_rows(data.train, data.train_split, data.hub_config)
    ledger = Ledger(row.source for row in rows)
    training, validation = _split(rows, data, ledger)
    problems = _problems(validation, training, template, ledger, config)
    examples = to_examples(training, template, ledger, data)
    panel = panel_size(config.eval, len(problems))
    problems = problems if config.eval.full else problems[:panel]
    return Pool(
        config=config, tokenizer=tokenizer, stops=stops, template=template, ledger=ledger, examples=examples, problems=problems,
        panel=panel, longest_prompt=max(len(encode_prompt(tokenizer, problem.prompt)) for problem in problems),
        raw={row.source: row.value for row in (*training, *validation)},
    )  # fmt: skip


def choose(pool: Pool, data: DataConfig) -> Prepared:
    """What a run trains on, of the rows of a pool. Raises InputError if no row is left at some stage."""
    ledger = pool.ledger.copy()
    examples = keep_correct(pool.verdicts, ledger) if data.filter else pool.examples
    tokenized = _tokenized(pool, examples)
    lengths = [len(example) for example in tokenized]
    max_length = data.max_length or choose_max_length(lengths)
    fitting = fit(tokenized, max_length, data.truncate, ledger)
    if not fitting:
        raise InputError(f"no training row fits data.max_length = {max_length}: the shortest has {min(lengths)} tokens")
    train = _subset(fitting, data, ledger)
    _check_supervision(train, pool.stops)
    return Prepared(
        train=train, validation=pool.problems, ledger=ledger, lengths=lengths, max_length=max_length,
        max_length_was_chosen=data.max_length is None, template=pool.template, panel=pool.panel,
        longest_prompt=pool.longest_prompt, shown=_shown(pool, ledger),
    )  # fmt: skip


def _split(rows: list[Row], data: DataConfig, ledger: Ledger) -> tuple[list[Row], list[Row]]:
    """(training rows, validation rows)."""
    source = data.of_validation()
    if source is not None:
        return rows, read_rows(source.path, source.split, source.hub_config)
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


def _problems(validation: list[Row], training: list[Row], template: str, ledger: Ledger, config: Config) -> list[Example]:
    """The validation problems. A row that cannot be one is marked in the ledger, and stays there as it is if it is trained on."""
    of_problems = Ledger(())
    problems = choose_problems(validation, template, of_problems, config)
    trained_on = {row.source for row in training}
    for fate in of_problems:
        if fate.source in trained_on:
            ledger.mark(fate.source, "kept", f"trained on, but no validation problem: {fate.why}")
        else:
            ledger.mark(fate.source, fate.fate, fate.why)
    return problems


def choose_problems(rows: Sequence[Row], template: str, ledger: Ledger, config: Config) -> list[Example]:
    """The problems of rows, in the order of `eval.seed`. A problem needs a reference, and no response."""
    found = to_examples(rows, template, ledger, config.data, needs_response=False)
    return [found[index] for index in seeded_order(len(found), config.eval.seed)]


def panel_size(config: EvalConfig, problems: int) -> int:
    """How many of the problems every evaluation asks."""
    wanted = problems_for_width(config.interval_width) if config.examples is None else config.examples
    return min(wanted or problems, problems)


def _tokenized(pool: Pool, examples: Sequence[Example]) -> list[TokenizedExample]:
    """The ids of examples, those that are new with a progress bar."""
    new = [example for example in examples if example.source not in pool.ids]
    with console.progress("tokenizing", len(new)) as advance:
        pool.ids |= {row.source: row for row in tokenize(new, pool.tokenizer, pool.stops, on_tokenized=advance)}
    return [pool.ids[example.source] for example in examples]


def _subset(rows: list[TokenizedExample], data: DataConfig, ledger: Ledger) -> list[TokenizedExample]:
    """The first `data.size` rows of a seeded order."""
    if data.size is None:
        return rows
    if data.size > len(rows):
        raise InputError(f"data.size = {data.size}, but only {len(rows)} training rows are left ({summary(ledger.counts())})")
    order = seeded_order(len(rows), data.seed if data.subset_seed is None else data.subset_seed)
    for index in order[data.size :]:
        ledger.mark(rows[index].source, "not in subset", f"data.size = {data.size}")
    return [rows[index] for index in order[: data.size]]


def _check_supervision(train: Sequence[TokenizedExample], stops: Stops) -> None:
    """What must hold by construction: each row has response tokens, and each uncut row teaches the end token, once."""
    for example in train:
        if not example.response_ids or (example.ends and example.response_ids[-1] != stops.end_token_id):
            raise AssertionError(f"{example.source}: no supervised end token; this is a bug of Tutelage")


def _shown(pool: Pool, ledger: Ledger) -> list[dict[str, str]]:
    """The texts of the first rows of each fate."""
    seen: Counter[str] = Counter()
    shown, examples = [], pool.by_source
    for fate in ledger:
        seen[fate.fate] += 1
        if seen[fate.fate] > SHOWN_OF_A_FATE:
            continue
        row = examples.get(fate.source)
        text = (
            {"prompt": row.prompt, "response": row.response, "reference": row.reference}
            if row is not None
            else {"row": json.dumps(pool.raw.get(fate.source), ensure_ascii=False, default=str)[:2000]}
        )
        shown.append({"fate": fate.fate, "source": fate.source, "why": fate.why, **text})
    return shown

"""The rows of a run, or of all trials of a sweep: read, split into training and validation, and compared with each other."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tutelage.config import Config, DataConfig, EvalConfig
from tutelage.data.benchmarks import validation_source
from tutelage.data.filter import verdict_column
from tutelage.data.hold_out import Asked, checked_faults, hold_out, overlap_column, problems_of
from tutelage.data.ledger import Example, Ledger, named_once
from tutelage.data.longest import limit_of
from tutelage.data.parts import Added
from tutelage.data.prepared import are_equal
from tutelage.data.recipe import Recipe
from tutelage.data.shapes import LOOKED_AT, BadRow
from tutelage.data.sources import seeded_order
from tutelage.data.stops import end_token
from tutelage.data.store import Use, open_store
from tutelage.data.stored import Store, joined
from tutelage.data.templates import Template, foreign_words, plain, rendered_words, template_of
from tutelage.data.templates.thoughts import CLOSINGS, opens_thought
from tutelage.data.texts import is_text
from tutelage.errors import InputError, some_of
from tutelage.stats import problems_for_width

NAMED = 10
"""Unread files that are named; the others are counted."""
MOST_FOR_A_PANEL = 0.8
"""The largest share of the problems that a panel of the default size has; a larger one is all of them."""


@dataclass
class Pool:
    """The rows of a run, or of all trials of a sweep. They are read once; verdicts are found when first needed, and kept.

    Attributes:
        store: the training rows.
        asked: where the problems are that are validated on.
        ledger: the fates of rows before any is filtered; behind the training rows stand validation rows that are no problems.
        candidates: the rows of the store that may be trained on: (rows,) int64.
        problems: what is validated on, in the order of `eval.seed`; the panel is the first `panel` of them.
        longest_prompt: of the problems, in tokens.
        unread, notes: as in `Prepared`.
    """

    config: Config
    store: Store
    asked: Asked
    ledger: Ledger
    candidates: np.ndarray
    problems: list[Example]
    panel: int
    longest_prompt: int
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def template(self) -> Template:
        return self.store.recipe.template

    @functools.cached_property
    def verdicts(self) -> pa.Table:
        """What the grader says of every row of the store."""
        return self.store.column(lambda _: verdict_column(self.config.eval.reward), "grading the worked solutions")

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all rows and problems: what a sweep is continued on is what it was begun on."""
        digest = hashlib.sha256(self.store.hashes[self.candidates].tobytes())
        weights = self.store.weights[self.candidates]
        digest.update(b"" if are_equal(weights) else weights.tobytes())
        for example in self.problems:
            digest.update(repr((example.prompt, example.reference)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def example(self, row: int) -> Example:
        """What is asked and learnt last of a row of the store."""
        parsed, turn = self.store.parsed(row), self.store.turns(row)[-1]
        return Example(plain(turn.prompt), plain(turn.response), parsed.reference, parsed.source)


def read_pool(config: Config, tokenizer: Any, kept: Template | None = None) -> Pool:
    """Rows, split and in tokens. Raises InputError: a row is malformed, the rows ask a question, or there is none."""
    data, reward = config.data, config.eval.reward
    template = kept or template_of(data.prompt, tokenizer, data.template_arguments)
    source, asked = validation_source(data), None
    if source is not None:
        other = template if source.prompt in (None, data.prompt) else template_of(source.prompt, tokenizer, {})
        asked = problems_of(open_store(source, other, tokenizer, reward), data)
        if source.path in data.paths:  # its rows have a fate already, as training rows
            asked = asked._replace(faults=())

    def columns(recipe: Recipe) -> list[Added]:
        overlap = [overlap_column(asked, recipe)] if asked is not None else []
        return [verdict_column(reward), *overlap] if data.filter else overlap

    store = training_rows(data, template, tokenizer, reward, columns)
    _check_end(store, config)
    faults = checked_faults(store, data)
    held = np.zeros(0, np.int64)
    if asked is None:
        asked, held = hold_out(store, data)
    ledger = Ledger(store.sources, [source for source, _, _ in asked.faults])
    for row, fate, why in faults:
        ledger.mark(row, fate, why)
    for index, (_, fate, why) in enumerate(asked.faults):
        ledger.mark(len(store) + index, fate, why)
    if asked.store is store and data.test_size == 0:
        for row in np.flatnonzero(store.well_formed & ~store.referenced).tolist():
            ledger.mark(row, "kept", "trained on, but no validation problem: it has no reference")
    for row in held.tolist():
        ledger.mark(row, "validation", "held out by data.test_size")
    stays = store.well_formed.copy()
    stays[held] = False
    notes = _notes(store, asked, data)
    stays = _without_overlap(store, asked, stays, data, ledger, notes)
    stays = _without_duplicates(store, stays, data, ledger, notes)
    problems, longest, panel = _problems(asked, config)
    return Pool(config, store, asked, ledger, np.flatnonzero(stays), problems, panel, longest, _unread(store, asked), notes)


def training_rows(
    data: DataConfig, template: Template, tokenizer: Any, reward: str, columns: Callable[[Recipe], list[Added]]
) -> Store:
    """The rows of all sources of `data.train`, with further columns."""
    stores, limit = [], limit_of(data, tokenizer)
    for index, weighed in enumerate(data.of_training()):
        prompt = weighed.source.prompt or data.prompt
        arguments = data.template_arguments if prompt == "chat" else {}
        its = template if prompt == data.prompt else template_of(prompt, tokenizer, arguments)
        setting = "data" if isinstance(data.train, str) else f"data.train[{index}]"
        use = Use(False, setting, weighed.weight, data.turns, limit, columns)
        stores.append(open_store(weighed.source, its, tokenizer, reward, use))
    return joined(stores)


def _check_end(store: Store, config: Config) -> None:
    """Raises InputError: prompts hold a chat template whose turns end otherwise than rows are taught to end."""
    tokenizer = store.recipe.tokenizer
    if config.model.end_token is not None or not tokenizer.chat_template or not store.count_of("rendered"):
        return
    end = end_token(tokenizer, chat=True, wanted=None)
    prompt = store.parsed(int(np.flatnonzero(store.table["rendered"].to_numpy())[0])).prompt
    if end != tokenizer.eos_token and end in prompt:
        raise InputError(
            f"the prompts hold a chat template whose turns end in {end}, and the tokenizer's end token is {tokenizer.eos_token}:"
            f' set model.end_token = "{end}", or "{tokenizer.eos_token}" if responses are to end in that'
        )


def _notes(store: Store, asked: Asked, data: DataConfig) -> list[str]:
    """What was found in the rows, a line for each."""
    notes = []
    if asked.store is store and data.test_size == 0:
        notes.append("validation: on training rows (data.validation is none and data.test_size is 0)")
    if asked.again and asked.store is not store:
        notes.append(f"{asked.again} validation rows ask a problem again; each problem is asked once")
    if marked := store.count_of("marked"):
        notes.append(f"{marked} rows hold special tokens in their text; they are learnt as text")
    if store.count_of("rendered"):
        rendered = int(np.flatnonzero(store.table["rendered"].to_numpy())[0])
        recipe = store.recipe_of(rendered)
        notes.append(foreign_words(store.parsed(rendered).prompt, recipe.specials, recipe.tokenizer.get_vocab()))
    if not data.filter or store.recipe.reader.purpose.reward == "question_only":
        notes.append(_unclosed(store))
    notes.append(rendered_words(store.count_of("rendered"), len(store), data.prompt))
    return [note for note in notes if note]


def _unclosed(store: Store) -> str:
    """The sentence that tells of responses that do not close the thought that their prompt opens, by the first rows."""
    opening = [not each.recipe.template.chat and opens_thought(each.recipe.template.text) for each in store.kept]
    if not any(opening):
        return ""
    rows = np.flatnonzero(store.well_formed & np.array(opening)[store.of_source])[:LOOKED_AT].tolist()
    turns = [store.turns(row)[-1] for row in rows]
    count = sum(opens_thought(turn.prompt) and not any(tag in turn.response for tag in CLOSINGS) for turn in turns)
    if not count:
        return ""
    return (
        f"{count} of the first {len(rows)} responses do not close the thought that the prompt opens;"
        ' data.prompt = "question_only" or "chat" opens none'
    )


def _without_overlap(
    store: Store, asked: Asked, stays: np.ndarray, data: DataConfig, ledger: Ledger, notes: list[str]
) -> np.ndarray:
    """The rows that stay when those of validation problems are left out; the others are marked. Raises InputError: none stays."""
    if asked.store is store and data.test_size == 0:
        return stays
    title = "comparing with the validation problems"
    whys = store.column(functools.partial(overlap_column, asked), title)["overlap"]
    same = ~is_text(whys, "") & stays
    found = np.flatnonzero(same).tolist()
    if not found:
        return stays
    example = f"the first: {store.sources[found[0]]}, {whys[found[0]].as_py()}"
    if data.overlap == "keep":
        notes.append(f'{len(found)} training rows overlap with validation, and are trained on (data.overlap = "keep"); {example}')
        return stays
    notes.append(f"{len(found)} training rows overlap with validation, and are left out; {example}")
    for row in found:
        ledger.mark(row, "overlap", whys[row].as_py())
    if not (stays & ~same).any():
        raise InputError(
            f"all {len(found)} training rows are of validation problems; {example}. Name other validation problems"
            ' (data.validation), or set data.overlap = "keep"'
        )
    return stays & ~same


def _without_duplicates(store: Store, stays: np.ndarray, data: DataConfig, ledger: Ledger, notes: list[str]) -> np.ndarray:
    """The rows that stay when those that are equal to an earlier one are counted, or left out."""
    rows = np.flatnonzero(stays)
    keys = store.hashes.view(np.uint64)[rows, 0]
    _, first, of = np.unique(keys, return_index=True, return_inverse=True)
    equal = np.ones(len(rows), bool)
    equal[first] = False
    if not equal.any():
        return stays
    dropped = data.duplicates == "drop"
    what = "left out" if dropped else 'trained on (data.duplicates = "drop" leaves them out)'
    notes.append(f"{int(equal.sum())} training rows are equal to an earlier one, and are {what}")
    if not dropped:
        return stays
    for index in np.flatnonzero(equal).tolist():
        ledger.mark(int(rows[index]), "duplicate", f"equal to {store.sources[int(rows[first[of[index]]])]}")
    stays = stays.copy()
    stays[rows[equal]] = False
    return stays


def _problems(asked: Asked, config: Config) -> tuple[list[Example], int, int]:
    """(problems in the order of `eval.seed`, their longest prompt in tokens, how many every evaluation asks)."""
    panel = panel_size(config.eval, len(asked.rows))
    problems = choose_problems(asked, config.eval.seed, None if config.eval.full else panel)
    store = asked.store
    return problems, int(store.lengths[0][store.first[asked.rows + 1] - 1].max()), panel


def choose_problems(asked: Asked, seed: int, count: int | None = None) -> list[Example]:
    """The first `count` problems (None: all) in the order of a seed."""
    store = asked.store
    chosen = [int(asked.rows[index]) for index in seeded_order(len(asked.rows), seed)[:count]]
    problems = []
    for parsed, turns in store.written(chosen):
        if isinstance(turns, BadRow):
            raise AssertionError(f"{parsed.source}: well-formed when the rows were kept, and no longer; this is a bug of Tutelage")
        problems.append(Example(turns[-1].prompt, "", parsed.reference, parsed.source))
    return problems


def _unread(store: Store, asked: Asked) -> list[str]:
    """What nothing reads of the training data, and of validation data of its own, a line for each."""
    lines = []
    validation = [] if asked.store is store else asked.store.kept
    for what, each in [*(("training", each) for each in store.kept), *(("validation", each) for each in validation)]:
        of = f" of {each.name}" if what == "training" and len(store.kept) > 1 else ""
        if each.unread:
            lines.append(f"columns of the {what} rows{of} that nothing reads: {named_once(each.unread.items(), each.raw_rows)}")
        if what == "training" and "weight" in each.unread and each.recipe.reader.weight is None and each.weight == 1:
            lines.append(f'each row{of} counts one: data.weight = "weight" lets its column weight say what it counts')
        if each.files:
            lines.append(f"files of the {what} data{of} that nothing reads: {some_of(each.files, NAMED)}")
    return lines


def panel_size(config: EvalConfig, problems: int) -> int:
    """How many of the problems every evaluation asks: as many as `examples` says, else as the width of the interval needs.

    A panel that nobody asked for is all of the problems where it would leave out few: two figures of nearly the same problems confuse.
    """
    if config.examples is not None:
        return min(config.examples or problems, problems)
    wanted = problems_for_width(config.interval_width)
    return wanted if wanted <= MOST_FOR_A_PANEL * problems else problems

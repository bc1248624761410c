"""The settings of ``[data]``: where rows come from, how they are read, which of them are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator

from tutelage.config.plug_in import is_plug_in
from tutelage.config.section import Name, Rows, Section, Seed, Tokens, below

Columns = dict[Literal["prompt", "response", "reference"], str]
MOST_NAMED = 3
"""Sources that are named in a sentence; the others are counted."""
LEAST_WEIGHT, LARGEST_WEIGHT = 1e-9, 1e9
"""Bounds of weights: beyond them sums in float32 would lose the others."""


class Source(Section):
    """Where rows come from, and how they are read."""

    path: Name
    """As `data.train`."""
    split: str = "test"
    """As `data.train_split`."""
    hub_config: str | None = None
    """As `data.hub_config`."""
    shape: str = "auto"
    """As `data.shape`."""
    columns: Columns = {}
    """As `data.columns`."""
    where: str | None = None
    """As `data.where`."""
    prompt: str | None = None
    """As `data.prompt`. None: what training uses."""

    @model_validator(mode="after")
    def _refuse_two_ways_to_read(self) -> Source:
        _one_way_to_read("data.validation.", self.shape, self.columns)
        return self


class TrainSource(Section):
    """One of several sources of training rows. What is left out is as the key of the same name in `[data]` says."""

    path: Name
    """As a name in `data.train`."""
    weight: float | Name | None = None
    """What each row counts in the loss: a number above 0, or the column that says it. None: as `data.weight`."""
    split: str | None = None
    """As `data.train_split`."""
    hub_config: str | None = None
    """As `data.hub_config`."""
    shape: str | None = None
    """As `data.shape`."""
    columns: Columns | None = None
    """As `data.columns`."""
    where: str | None = None
    """As `data.where`."""
    prompt: Name | None = None
    """As `data.prompt`."""

    @model_validator(mode="after")
    def _refuse_what_weighs_nothing(self) -> TrainSource:
        if isinstance(self.weight, float) and not LEAST_WEIGHT <= self.weight <= LARGEST_WEIGHT:
            raise ValueError(
                f"data.train: weight = {self.weight:g} of {self.path}: it must be from {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}; leave a"
                " source out that is to count nothing"
            )
        _one_way_to_read("data.train: ", self.shape or "auto", self.columns or {})
        return self


@dataclass(frozen=True)
class Weighed:
    """A source of training rows, and what its rows count in the loss: each the same, or what a column says (a path)."""

    source: Source
    weight: float | str = 1.0


def _several_or_one(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


def _one_way_to_read(section: str, shape: str, columns: dict[Any, str]) -> None:
    if shape != "auto" and not is_plug_in(shape):
        raise ValueError(f'{section}shape = "{shape}": write "auto", or a function of yours as "module:function"')
    if shape != "auto" and columns:
        raise ValueError(f'{section}shape = "{shape}" and {section}columns both say how rows are read; leave one of them out')


class DataConfig(Section):
    train: Annotated[
        Annotated[Name, Tag("one")] | Annotated[list[TrainSource], Tag("several")], Discriminator(_several_or_one)
    ] = "arithmetic"
    """Training rows: a file (JSONL, JSON, CSV, TSV, Parquet or Arrow, also with .gz or .zst), a directory of such files, a directory of
    `datasets.save_to_disk`, a hub name ("openai/gsm8k", or pinned: "openai/gsm8k@REVISION"), or "arithmetic" (built in).
    Or a list of several such sources, tables of path, weight, split, hub_config, shape, columns, where and prompt."""
    train_split: str = "train"
    """The split to take when `train` is a hub name, or a directory whose names say splits; there "all" takes all files."""
    validation: Name | Source | None = None
    """Validation problems: named as `train` is, a benchmark's name ("math500"; `tutelage eval --list`), or a table of path, split,
    hub_config, shape, columns, where and prompt. None: `test_size` of the training problems are held out."""
    validation_split: str = "test"
    """As `train_split`, when `validation` is a name; a table has its own `split`."""
    hub_config: str | None = None
    """The configuration of a hub data set ("main" for openai/gsm8k)."""
    test_size: Annotated[float, below(0, 1)] = 0.1
    """Share of the training problems held out for validation when `validation` is None, each with all of its rows; 0 validates on
    training rows and says so."""
    shape: str = "auto"
    """How rows are read. auto: by the names of their columns, or by `columns`; or a function of yours, "module:function", from a row
    to a dict of prompt, response and reference, in a file of the current directory. It raises ValueError for a malformed row, and
    returns None for one to leave out."""
    columns: Columns = {}
    """Which column holds the prompt, the response, the reference; what is left out is recognised by name. Paths reach into a row
    ("info.answer", "messages[-1].content"), "generations[*]" makes a row of each item, and a text with columns in braces joins them
    ("<think>\\n{thinking}\\n</think>\\n{attempt}")."""
    where: str | None = None
    """Keep only rows where this column or path is true; with "[*]", as in "correct[*]", the items of `columns` at those indices."""
    weight: Name | None = None
    """The column or path that says what a row counts in the loss: a number from 0 (the row is left out). None: each row counts one,
    whatever its columns are called. Weights are divided by their mean over the response tokens that are trained on."""
    turns: Literal["last", "all"] = "all"
    """Of a conversation with several assistant turns: learn all of them, each after the history as the chat template shows it then,
    or the last one alone."""
    prompt: Name = "r1_zero"
    """Prompt template: "r1_zero", "question_only", "plain", "none" (bare), "chat" (the tokenizer's), or a file with {question}. A
    prompt that holds a template already is not wrapped again."""
    template_arguments: dict[str, Any] = {}
    """Arguments of the tokenizer's chat template, such as { enable_thinking = true }; for `prompt` "chat" alone."""
    overlap: Literal["drop", "keep"] = "drop"
    """Training rows whose problem is a validation problem too, word for word or nearly: left out, or kept and counted."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Training rows that are equal to an earlier one: kept, or left out; they are counted either way."""
    filter: bool = True
    """Keep only training rows whose response earns answer_reward 1.0 against its reference."""
    size: Rows | None = None
    """How many training rows to use: the first `size` of a seeded order, so that smaller sets lie inside larger ones. None: all."""
    max_length: Tokens | None = None
    """Longest prompt + response in tokens. None: the 99.5th percentile of the data, printed."""
    truncate: Literal["drop", "tail"] = "drop"
    """Longer rows are dropped and counted, or lose the tail of their response (and then teach no end token)."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A malformed row stops the run with its file, line and key, or is skipped and counted in the ledger."""
    seed: Seed = 42
    """Seed of the held-out split, and of the subset where that has none of its own."""
    subset_seed: Seed | None = None
    """Seed of the subset (`size`) alone; sweeps change it and keep the held-out problems. None: `seed`."""

    @property
    def paths(self) -> list[str]:
        """The names of the sources of training rows."""
        return [self.train] if isinstance(self.train, str) else [each.path for each in self.train]

    @property
    def in_words(self) -> str:
        """What is trained on: ``a.jsonl``, or ``a.jsonl, b.jsonl and 3 more sources``."""
        more = len(self.paths) - MOST_NAMED
        return ", ".join(self.paths[:MOST_NAMED]) + (f" and {more} more sources" if more > 0 else "")

    def read_as_training(self, path: str) -> Source:
        """A source that is read as `[data]` says of training rows. Whether there is one of this name is seen when it is read."""
        source = Source(
            path="rows", split=self.train_split, hub_config=self.hub_config, shape=self.shape, columns=self.columns,
            where=self.where, prompt=self.prompt,
        )  # fmt: skip
        return source.model_copy(update={"path": path})

    def of_training(self) -> list[Weighed]:
        """Where training rows come from, and what they count."""
        weight = 1.0 if self.weight is None else self.weight
        if isinstance(self.train, str):
            return [Weighed(self.read_as_training(self.train), weight)]
        named = [(each, each.model_dump(exclude={"path", "weight"}, exclude_none=True)) for each in self.train]
        return [
            Weighed(self.read_as_training(each.path).model_copy(update=given), weight if each.weight is None else each.weight)
            for each, given in named
        ]

    def of_validation(self) -> Source | None:
        """Where validation rows come from; None: they are held out of the training rows.

        A validation that is named alone is read as the training rows are, where its rows have those columns.
        """
        if self.validation is None:
            built_in = set(self.paths) == {"arithmetic"}
            return Source(path="arithmetic", split="validation", prompt=self.prompt) if built_in else None
        if isinstance(self.validation, Source):
            return self.validation.model_copy(update={"prompt": self.validation.prompt or self.prompt})
        return Source(
            path=self.validation, split=self.validation_split, hub_config=self.hub_config, shape=self.shape,
            columns=self.columns, prompt=self.prompt,
        )  # fmt: skip

    @model_validator(mode="after")
    def _refuse_two_ways_to_read(self) -> DataConfig:
        if not self.train:
            raise ValueError("data.train is an empty list: name a source of training rows")
        for each in [self] if isinstance(self.train, str) else self.train:
            shape, columns = each.shape or self.shape, self.columns if each.columns is None else each.columns
            _one_way_to_read("data.", shape, columns)
        return self

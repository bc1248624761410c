"""The rows of one source or of several, one behind the other, as they lie on the disk: tables and ids that are mapped, not read."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tutelage import console
from tutelage.data.parts import Added, Part, column_of_part, file_of, write_table
from tutelage.data.recipe import Recipe, question_of
from tutelage.data.shapes import BadRow, Parsed
from tutelage.data.sources import Row
from tutelage.data.templates import Turn
from tutelage.data.texts import Texts, is_text
from tutelage.errors import RunError
from tutelage.machines import over_cores, unsealed


@dataclass(frozen=True)
class Kept:
    """The rows of a source on the disk. A row is what the reader makes of it: one of the file, or an item of one.

    Attributes:
        name: of the source.
        weight: what each row counts, beside the weight of its own.
        count: of its parts.
        unread: of each column that nothing reads, in how many rows of the files it holds something.
        files: of a directory, the files that nothing reads.
    """

    folder: Path
    recipe: Recipe
    name: str
    weight: float
    count: int = field(compare=False)
    raw_rows: int = field(compare=False)
    unread: dict[str, int] = field(compare=False)
    files: list[str] = field(compare=False)

    @functools.cached_property
    def parts(self) -> list[Part]:
        return [Part(stem_of(self.folder, index)) for index in range(self.count)]


@dataclass(frozen=True, eq=False)
class Store:
    """The rows of all sources, one behind the other."""

    kept: tuple[Kept, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_all, ([(each.folder, each.recipe, each.name, each.weight) for each in self.kept],)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def recipe(self) -> Recipe:
        """Of the first source; tokenizer, limit and purpose are those of all."""
        return self.kept[0].recipe

    @property
    def key(self) -> str:
        """A name for all rows, which changes with any of them."""
        return "-".join(each.folder.name for each in self.kept)

    @property
    def common(self) -> frozenset[str]:
        """As `Recipe.common`, of all sources."""
        return frozenset().union(*(each.recipe.common for each in self.kept))

    @property
    def unread(self) -> dict[str, int]:
        """As in `Kept`, of all sources."""
        return dict(sum((Counter(each.unread) for each in self.kept), Counter()))

    @functools.cached_property
    def parts(self) -> list[Part]:
        return [part for each in self.kept for part in each.parts]

    @functools.cached_property
    def of_source(self) -> np.ndarray:
        """(rows,) int64: the index of each row's source in `kept`."""
        counts = [sum(part.rows.num_rows for part in each.parts) for each in self.kept]
        return np.repeat(np.arange(len(counts)), counts)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """(rows,) float64: what each row counts in the loss, as the sources say."""
        return self.table["weight"].to_numpy() * np.array([each.weight for each in self.kept])[self.of_source]

    def recipe_of(self, row: int) -> Recipe:
        """How a row became ids."""
        return self.kept[int(self.of_source[row])].recipe

    @functools.cached_property
    def table(self) -> pa.Table:
        """The rows of all parts."""
        return pa.concat_tables([part.rows.replace_schema_metadata() for part in self.parts])

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The index of each part's first row, and behind them the number of rows."""
        return np.cumsum([0, *(part.rows.num_rows for part in self.parts)])

    @functools.cached_property
    def sources(self) -> Sequence[str]:
        """The name of each row."""
        return Texts(self.table["source"].combine_chunks())

    @functools.cached_property
    def problems(self) -> np.ndarray:
        """(rows,) uint64: equal where rows are of the same problem."""
        return self.table["problem"].to_numpy()

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """(rows, 16) uint8: of all ids of a row."""
        return np.frombuffer(self.table["hash"].combine_chunks().buffers()[1], np.uint8).reshape(-1, 16)

    @functools.cached_property
    def referenced(self) -> np.ndarray:
        """(rows,) bool: whether a row has a reference."""
        return self.table["reference"].to_numpy()

    @functools.cached_property
    def first(self) -> np.ndarray:
        """(rows + 1,) int64: the index of each row's first sequence."""
        return np.concatenate([[0], np.cumsum(self.table["sequences"].to_numpy(), dtype=np.int64)])

    def sequences_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of some rows, and the index of each one's row among these: (sequences,) int64 both."""
        starts = self.first[rows]
        counts = self.first[rows + 1] - starts
        of_row = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(of_row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return starts[of_row] + within, of_row

    @functools.cached_property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each sequence's prompt, and of its response: (sequences,) int64 both."""
        prompts, responses = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for part in self.parts:
            shared, prompt, _, response, _ = part.tokens
            prompts.append(np.diff(prompt).astype(np.int64) + shared)
            responses.append(np.diff(response).astype(np.int64))
            part.forget()
        return np.concatenate(prompts), np.concatenate(responses)

    @functools.cached_property
    def well_formed(self) -> np.ndarray:
        """(rows,) bool: whether a row is neither malformed nor left out."""
        return is_text(self.table["fate"], "")

    def faults(self) -> Iterator[tuple[int, str, str]]:
        """(index, "malformed" or "left out", why) of the other rows."""
        for index in np.flatnonzero(~self.well_formed).tolist():
            yield index, self.table["fate"][index].as_py(), self.table["why"][index].as_py()

    def count_of(self, flag: str) -> int:
        """How many rows are `marked` (their text holds special tokens), or `rendered` (their prompt holds the template)."""
        return int(self.table[flag].to_numpy().sum())

    def part_of(self, row: int) -> tuple[Part, int]:
        """The part that a row is in, and the row's index there."""
        index = int(np.searchsorted(self.starts, row, "right")) - 1
        return self.parts[index], row - int(self.starts[index])

    def parsed(self, row: int) -> Parsed:
        """What a row says."""
        part, index = self.part_of(row)
        return part.parsed(self.recipe_of(row), index)

    def question(self, row: int) -> str:
        """What a row asks."""
        return question_of(self.parsed(row), self.recipe_of(row).template.text)

    def turns(self, row: int) -> list[Turn]:
        """The texts of what is learnt of a row, or of what is asked."""
        return self.recipe_of(row).write(self.parsed(row))

    def written(self, rows: Sequence[int]) -> list[tuple[Parsed, list[Turn] | BadRow]]:
        """(what it says, `Recipe.write_all` of it) of each of some rows."""
        parsed = [self.parsed(row) for row in rows]
        found: list[list[Turn] | BadRow] = [[] for _ in rows]
        of_source = self.of_source[list(rows)]
        for source, each in enumerate(self.kept):
            indices = np.flatnonzero(of_source == source).tolist()
            for index, turns in zip(indices, each.recipe.write_all([parsed[index] for index in indices]), strict=True):
                found[index] = turns
        return list(zip(parsed, found, strict=True))

    def raw(self, row: int) -> Row:
        """The row of the file that a row comes from."""
        part, index = self.part_of(row)
        return part.row(part.rows["raw"][index].as_py())

    def sequence(self, index: int) -> tuple[list[int], list[int]]:
        """(prompt ids, response ids) of a sequence."""
        at = int(np.searchsorted(self._first_sequences, index, "right")) - 1
        shared, prompts, prompt_ids, responses, response_ids = self.parts[at].tokens

        def ids(within: int) -> tuple[list[int], list[int]]:
            prompt = prompt_ids[prompts[within] : prompts[within + 1]].tolist()
            response = response_ids[responses[within] : responses[within + 1]].tolist()
            if shared[within]:
                prompt = list(itertools.chain(*ids(within - 1)))[: shared[within]] + prompt
            return prompt, response

        found = ids(index - int(self._first_sequences[at]))
        self.parts[at].forget()
        return found

    @functools.cached_property
    def _first_sequences(self) -> np.ndarray:
        return np.cumsum([0, *(len(part.tokens[0]) for part in self.parts)])

    def column(self, added: Callable[[Recipe], Added], title: str) -> pa.Table:
        """The values of an added column for all rows; those of parts that do not have it yet are found, and kept.

        Args:
            added: the column, by the recipe of a source.
        """
        columns = [(each, added(each.recipe)) for each in self.kept]
        found = {part.stem: part.known(column.name) for each, column in columns for part in each.parts}
        missing = [part for part in self.parts if found[part.stem] is None]
        with console.progress(title, sum(part.rows.num_rows for part in missing)) if missing else _silence() as advance:
            for each, column in columns:
                for part, table in _made(column, each, [part for part in each.parts if found[part.stem] is None]):
                    found[part.stem] = table
                    advance(part.rows.num_rows)
        return pa.concat_tables([found[part.stem] for part in self.parts])


@contextlib.contextmanager
def _silence() -> Iterator[Callable[..., None]]:
    yield lambda *_: None


def _made(column: Added, kept: Kept, missing: Sequence[Part]) -> Iterator[tuple[Part, pa.Table]]:
    """The values of a column for the parts of a source that do not have it."""
    if not missing:
        return
    say_damaged(kept.folder, [file.name for part in missing if (file := file_of(part.stem, column.name)).exists()])
    jobs = [(part.stem, kept.recipe) for part in missing]
    for part, (table, keep) in zip(missing, over_cores(column_of_part, jobs, column.ready()), strict=True):
        if keep:
            with writing_rows(kept.folder):
                write_table(file_of(part.stem, column.name), table)
        yield part, table


def joined(stores: Sequence[Store]) -> Store:
    """The rows of several stores as one."""
    return Store(tuple(each for store in stores for each in store.kept))


def opened(folder: Path, recipe: Recipe, name: str, weight: float = 1.0) -> Kept:
    """The rows that lie in a folder. Raises RunError: they do not."""
    try:
        done = unsealed((folder / "done.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise RunError(
            f"{folder}: the rows are not there on this machine; let TUTELAGE_CACHE name a directory that all machines share"
        ) from None
    return Kept(folder, recipe, name, weight, done["parts"], done["rows"], done["unread"], done["files"])


def _opened_all(kept: Sequence[tuple[Path, Recipe, str, float]]) -> Store:
    return Store(tuple(itertools.starmap(opened, kept)))


def stem_of(folder: Path, index: int) -> Path:
    """What the names of a part's files begin with."""
    return folder / f"part-{index:05}"


def say_damaged(folder: Path, names: Sequence[str]) -> None:
    """Say that files are made again."""
    if names:
        console.say(f"{folder}: damaged or missing, and made again: {', '.join(names[:3])} ({len(names)} in all)", style="yellow")


@contextlib.contextmanager
def writing_rows(folder: Path) -> Iterator[None]:
    """Within it, an error of the disk is a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: the rows cannot be kept there: {error}; make room, or let TUTELAGE_CACHE name another directory"
        ) from None

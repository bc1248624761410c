"""Rows and their token ids on the disk, made once for a content, a tokenizer and a template, and mapped by every process.

A store is never stale: its directory is named after the content of the files, the settings that say how rows are read, the tokenizer,
the template, and the code that makes it. Parts that are complete stay when the making is interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tutelage import console
from tutelage.config import Source, is_plug_in
from tutelage.data.cleaning import remove_leftovers, remove_unused
from tutelage.data.keys import content_of, store_key
from tutelage.data.overlap import common_sentences
from tutelage.data.parts import Added, Part, column_of_part, cut, file_of, make_part, write_table
from tutelage.data.recipe import Recipe, question_of
from tutelage.data.shapes import Parsed, reader_of
from tutelage.data.sources import Row, iter_rows, unread_files
from tutelage.data.templates import Template
from tutelage.data.texts import Texts, is_text
from tutelage.errors import InputError, RunError
from tutelage.machines import available_cores, cache_directory, over_cores, sealed, unsealed

LOOKED_AT = 200
"""Rows from which it is decided how all are read."""


@dataclass(frozen=True)
class Store:
    """The rows of a source. A row is what the reader makes of it: one of the file, or an item of one.

    Attributes:
        unread: of each column that nothing reads, in how many rows of the files it holds something.
        files: of a directory, the files that nothing reads.
    """

    folder: Path
    recipe: Recipe
    count: int
    raw_rows: int
    unread: dict[str, int]
    files: list[str]

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.folder, self.recipe)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @functools.cached_property
    def parts(self) -> list[Part]:
        return [Part(_stem(self.folder, index)) for index in range(self.count)]

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
        return part.parsed(self.recipe, index)

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

    def column(self, added: Added, title: str) -> pa.Table:
        """The values of an added column for all rows; those of parts that do not have it yet are found, and kept."""
        found = {part.stem: table for part in self.parts if (table := part.known(added.name)) is not None}
        missing = [part for part in self.parts if part.stem not in found]
        if missing:
            _say_damaged(self.folder, [file.name for part in missing if (file := file_of(part.stem, added.name)).exists()])
            with console.progress(title, sum(part.rows.num_rows for part in missing)) as advance:
                jobs = [(part.stem, self.recipe) for part in missing]
                for part, (table, keep) in zip(missing, over_cores(column_of_part, jobs, added.ready()), strict=True):
                    found[part.stem] = table
                    if keep:
                        _keep(file_of(part.stem, added.name), table)
                    advance(part.rows.num_rows)
        return pa.concat_tables([found[part.stem] for part in self.parts])


def _keep(path: Path, table: pa.Table) -> None:
    with _writing(path.parent):
        write_table(path, table)


def open_store(
    source: Source,
    template: Template,
    tokenizer: Any,
    reward: str,
    turns: Literal["last", "all"] = "all",
    setting: str = "data",
    columns: Callable[[Recipe], Sequence[Added]] = lambda recipe: (),
    limit: int | None = None,
) -> Store:
    """The store of a source; what is not there yet is made.

    Args:
        reward: as `reader_of` takes it.
        setting: the section of the configuration that names the source: "data", or "data.validation", whose rows are problems.
        columns: those that will be asked for, which are best found while the rows are at hand.
        limit: as `Recipe.limit`; a store without one that is there already serves as well.

    Raises:
        InputError: the source cannot be read, or its rows ask a question.
    """
    problems = setting == "data.validation"
    # what a function of the user's depends on is not known
    made_anew = is_plug_in(source.shape)
    content = "" if made_anew else content_of(source)
    rows = iter_rows(source.path, source.split, source.hub_config)
    head = list(itertools.islice(rows, LOOKED_AT))
    reader = reader_of(source, head, problems, reward, setting)
    said = (parsed for row in head for parsed in reader.read(row) if not parsed.fault and not parsed.left_out)
    common = common_sentences(question_of(parsed, template.text) for parsed in said)
    recipe = Recipe(reader, template, tokenizer, turns, problems, common)
    folder = _folder_for_once() if made_anew else _directory() / store_key(content, source, recipe, reward)
    if limit is not None and not _is_ready(folder):
        recipe = replace(recipe, limit=limit)
        folder = folder if made_anew else _directory() / store_key(content, source, recipe, reward)
    if not _is_ready(folder):
        _make(folder, recipe, itertools.chain(head, rows), source, columns(recipe))
        if content and content_of(source) != content:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"{source.path}: changed while it was read; begin again when it stays as it is")
    with contextlib.suppress(OSError):  # a cache that is only read
        os.utime(folder / "done.json")
    return _opened(folder, recipe)


def _is_ready(folder: Path) -> bool:
    """Whether a store is complete. One of which a part is damaged or missing is not, and that is said."""
    done = folder / "done.json"
    if not done.is_file():
        return False
    try:
        parts = [Part(_stem(folder, index)) for index in range(unsealed(done.read_text(encoding="utf-8"))["parts"])]
        with ThreadPoolExecutor(available_cores()) as readers:
            complete = readers.map(Part.is_complete, parts)
        damaged = [part.stem.name for part, there in zip(parts, complete, strict=True) if not there]
    except ValueError:
        damaged = [done.name]
    _say_damaged(folder, damaged)
    if damaged:
        with _writing(folder):
            done.unlink(missing_ok=True)
    return not damaged


def _say_damaged(folder: Path, names: Sequence[str]) -> None:
    if names:
        console.say(f"{folder}: damaged or missing, and made again: {', '.join(names[:3])} ({len(names)} in all)", style="yellow")


def _folder_for_once() -> Path:
    """A folder that is removed when this process ends."""
    with _writing(_directory()):
        _directory().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="once-", dir=_directory()))
    atexit.register(_remove_own, folder, os.getpid())
    return folder


def _remove_own(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a process that was forked ends too
        shutil.rmtree(folder, ignore_errors=True)


def _opened(folder: Path, recipe: Recipe) -> Store:
    try:
        done = unsealed((folder / "done.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise RunError(
            f"{folder}: the rows are not there on this machine; let TUTELAGE_CACHE name a directory that all machines share"
        ) from None
    return Store(folder, recipe, done["parts"], done["rows"], done["unread"], done["files"])


def _stem(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05}"


def _make(folder: Path, recipe: Recipe, rows: Iterator[Row], source: Source, columns: Sequence[Added]) -> None:
    parts = 0

    def jobs(advance: Callable[..., None]) -> Iterator[tuple[Path, list[Row]]]:
        nonlocal parts
        for part in cut(rows):
            stem = _stem(folder, parts)
            parts += 1
            if not Part(stem).is_complete():
                yield stem, part
            advance(len(part))

    with console.progress(f"reading {source.path}") as advance, _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        for _ in over_cores(make_part, jobs(advance), (recipe, [column.ready() for column in columns])):
            pass
        unread: Counter[str] = Counter()
        raw_rows = 0
        for index in range(parts):
            about = Part(_stem(folder, index)).rows.schema.metadata
            unread.update(json.loads(about[b"unread"]))
            raw_rows += int(about[b"rows"])
        files = unread_files(source.path, source.split)
        done = {"parts": parts, "rows": raw_rows, "unread": dict(unread.most_common()), "files": files}
        making = folder / f".done.json.{os.getpid()}"
        making.write_text(sealed(done), encoding="utf-8")
        making.replace(folder / "done.json")  # in full, or not at all
    remove_unused(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: the rows cannot be kept there: {error}; make room, or let TUTELAGE_CACHE name another directory"
        ) from None


def _directory() -> Path:
    return cache_directory() / "rows"

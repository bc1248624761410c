"""Rows and their token ids on the disk, made once for a content, a tokenizer and a template, and mapped by every process.

A store is never stale: its directory is named after the content of the files, the settings that say how rows are read, the tokenizer,
the template, and the code that makes it. Parts that are complete stay when the making is interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tutelage import console
from tutelage.config import Source, is_plug_in
from tutelage.data.cleaning import remove_leftovers, remove_unused
from tutelage.data.keys import content_of, store_key
from tutelage.data.overlap import common_sentences
from tutelage.data.parts import Added, Part, cut, make_part
from tutelage.data.recipe import Recipe, question_of
from tutelage.data.shapes import LOOKED_AT, reader_of
from tutelage.data.sources import Row, iter_rows, unread_files
from tutelage.data.stored import Store, opened, say_damaged, stem_of, writing_rows
from tutelage.data.templates import Template
from tutelage.errors import InputError
from tutelage.machines import available_cores, cache_directory, over_cores, sealed, unsealed


class Use(NamedTuple):
    """What the rows of a store are for; by default, they are problems.

    Attributes:
        setting: what of the configuration names the source: "data", "data.train[1]" or "data.validation".
        weight: as in `Weighed`.
        turns, limit: as in `Recipe`; a store without a limit that is there already serves as well.
        columns: those that will be asked for, which are best found while the rows are at hand.
    """

    problems: bool = True
    setting: str = "data.validation"
    weight: float | str = 1.0
    turns: Literal["last", "all"] = "all"
    limit: int | None = None
    columns: Callable[[Recipe], Sequence[Added]] = lambda _: ()


AS_PROBLEMS = Use()


def open_store(source: Source, template: Template, tokenizer: Any, reward: str, use: Use = AS_PROBLEMS) -> Store:
    """The store of a source; what is not there yet is made.

    Args:
        reward: as `reader_of` takes it.

    Raises:
        InputError: the source cannot be read, or its rows ask a question.
    """
    made_anew = is_plug_in(source.shape)
    content = "" if made_anew else content_of(source)
    rows = iter_rows(source.path, source.split, source.hub_config)
    head = list(itertools.islice(rows, LOOKED_AT))
    by_column = use.weight if isinstance(use.weight, str) else None
    reader = reader_of(source, head, use.problems, reward, use.setting, by_column)
    said = (parsed for row in head for parsed in reader.read(row) if not parsed.fault and not parsed.left_out)
    common = common_sentences(question_of(parsed, template.text) for parsed in said)
    recipe = Recipe(reader, template, tokenizer, use.turns, use.problems, common)
    folder = _folder_for_once() if made_anew else _directory() / store_key(content, source, recipe)
    if use.limit is not None and not _is_ready(folder):
        recipe = replace(recipe, limit=use.limit)
        folder = folder if made_anew else _directory() / store_key(content, source, recipe)
    if not _is_ready(folder):
        _make(folder, recipe, itertools.chain(head, rows), source, use.columns(recipe))
        if content and content_of(source) != content:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"{source.path}: changed while it was read; begin again when it stays as it is")
    with contextlib.suppress(OSError):  # a cache that is only read
        os.utime(folder / "done.json")
    return Store((opened(folder, recipe, source.path, 1.0 if isinstance(use.weight, str) else use.weight),))


def _is_ready(folder: Path) -> bool:
    """Whether a store is complete. One of which a part is damaged or missing is not, and that is said."""
    done = folder / "done.json"
    if not done.is_file():
        return False
    try:
        parts = [Part(stem_of(folder, index)) for index in range(unsealed(done.read_text(encoding="utf-8"))["parts"])]
        with ThreadPoolExecutor(available_cores()) as readers:
            complete = readers.map(Part.is_complete, parts)
        damaged = [part.stem.name for part, there in zip(parts, complete, strict=True) if not there]
    except ValueError:
        damaged = [done.name]
    say_damaged(folder, damaged)
    if damaged:
        with writing_rows(folder):
            done.unlink(missing_ok=True)
    return not damaged


def _folder_for_once() -> Path:
    """A folder that is removed when this process ends."""
    with writing_rows(_directory()):
        _directory().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="once-", dir=_directory()))
    atexit.register(_remove_own, folder, os.getpid())
    return folder


def _remove_own(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a process that was forked ends too
        shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, recipe: Recipe, rows: Iterator[Row], source: Source, columns: Sequence[Added]) -> None:
    parts = 0

    def jobs(advance: Callable[..., None]) -> Iterator[tuple[Path, list[Row]]]:
        nonlocal parts
        for part in cut(rows):
            stem = stem_of(folder, parts)
            parts += 1
            if not Part(stem).is_complete():
                yield stem, part
            advance(len(part))

    with console.progress(f"reading {source.path}") as advance, writing_rows(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        for _ in over_cores(make_part, jobs(advance), (recipe, [column.ready() for column in columns])):
            pass
        unread: Counter[str] = Counter()
        raw_rows = 0
        for index in range(parts):
            about = Part(stem_of(folder, index)).rows.schema.metadata
            unread.update(json.loads(about[b"unread"]))
            raw_rows += int(about[b"rows"])
        files = unread_files(source.path, source.split)
        done = {"parts": parts, "rows": raw_rows, "unread": dict(unread.most_common()), "files": files}
        making = folder / f".done.json.{os.getpid()}"
        making.write_text(sealed(done), encoding="utf-8")
        making.replace(folder / "done.json")  # in full, or not at all
    remove_unused(folder)


def _directory() -> Path:
    return cache_directory() / "rows"

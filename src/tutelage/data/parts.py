"""A part of a data set on the disk: some rows as they were, what each says, and the ids of its sequences.

A part is three Arrow files, each with its checksum behind it. They are mapped into memory; a start compares the checksums, and
nothing else reads them in full. Any process makes a part from the rows alone.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import mmap
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tutelage.data.overlap import key_of
from tutelage.data.recipe import MALFORMED, Made, Recipe, made_of
from tutelage.data.shapes import BadRow, Parsed
from tutelage.data.sources import Row
from tutelage.machines import checksum_of, summed

CHECKSUM = 8
"""Bytes of the checksum at the end of each file."""
ROWS, BYTES = 4096, 16 << 20
"""A part is complete when it has so many rows, or so many bytes of them."""

Column = Callable[[Any, Sequence[tuple[int, Made]]], tuple[dict[str, list[Any]], bool]]
"""A function of a module, from something shared and (index, row) of the well-formed rows of a part: the values of its columns for
these rows, and whether to keep them for another time."""


@dataclass(frozen=True)
class Added:
    """A column that is added to the rows of every part.

    Attributes:
        name: says all that the values depend on.
        shared: makes what `make` is given beside the rows. It is called where values are missing, and only there.
    """

    name: str
    make: Column
    shared: Callable[[], Any]

    def ready(self) -> tuple[str, Column, Any]:
        """(name, make, what is shared), as processes take it."""
        return self.name, self.make, self.shared()


Ready = tuple[str, Column, Any]
"""A column that is ready to be made."""


def cut(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """The rows of each part, a function of the rows alone."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += _size(row.value)
        if len(part) == ROWS or size >= BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _size(value: Any) -> int:
    """Characters of all texts in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict | list):
        return sum(map(_size, value.values() if isinstance(value, dict) else value))
    return 0


def make_part(shared: tuple[Recipe, Sequence[Ready]], job: tuple[Path, list[Row]]) -> None:
    """Write the files of a part; the table of rows comes last, so a part that has it is complete.

    Args:
        shared: the recipe, and the columns to be added.
        job: what the names of the files begin with, and the rows.
    """
    (recipe, columns), (stem, rows) = shared, job
    read = [(raw, item, parsed) for raw, row in enumerate(rows) for item, parsed in enumerate(recipe.reader.read(row))]
    made = list(made_of(recipe, read))
    sequences = _encoded(recipe, made)
    tokens, hashes = _token_table(sequences)
    hashes = [_hash_in_full(recipe, row, of_ids) for row, of_ids in zip(made, hashes, strict=True)]
    raws = {
        "source": pa.array([row.source for row in rows], pa.string()),
        "value": pa.array([json.dumps(row.value, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in rows], pa.large_binary()),
        "problem": pa.array([row.problem for row in rows], pa.string()),
    }  # fmt: skip
    table = {
        "source": pa.array([row.parsed.source for row in made], pa.string()),
        "raw": pa.array([row.raw for row in made], pa.int32()),
        "item": pa.array([row.item for row in made], pa.int32()),
        "fate": pa.array([row.fate for row in made], pa.string()),
        "why": pa.array([row.why for row in made], pa.string()),
        "reference": pa.array([bool(row.parsed.reference) for row in made], pa.bool_()),
        "weight": pa.array([row.parsed.weight for row in made], pa.float64()),
        "marked": pa.array([any(turn.is_marked for turn in row.turns) for row in made], pa.bool_()),
        "rendered": pa.array([row.rendered for row in made], pa.bool_()),
        "problem": pa.array([key_of(row.question) for row in made], pa.uint64()),
        "hash": pa.array(hashes, pa.binary(16)),
        "sequences": pa.array([len(each) for each in sequences], pa.int32()),
    }  # fmt: skip
    unread = Counter(name for row in made if row.item == 0 for name in row.parsed.unread)
    write_table(file_of(stem, "raw"), pa.table(raws))
    write_table(file_of(stem, "tokens"), tokens)
    for name, make, given in columns:
        values, keep = add_column(make, given, made)
        if keep:
            write_table(file_of(stem, name), values)
    about = {"unread": json.dumps(unread), "rows": str(len(rows))}
    write_table(file_of(stem, "rows"), pa.table(table).replace_schema_metadata(about))


def add_column(make: Column, given: Any, made: Sequence[Made]) -> tuple[pa.Table, bool]:
    """The table of an added column, "" for rows that are not well-formed, and whether to keep it."""
    rows = [(index, row) for index, row in enumerate(made) if not row.fate]
    values, keep = make(given, rows)
    full = {}
    for name, of_rows in values.items():
        full[name] = [""] * len(made)
        for (index, _), value in zip(rows, of_rows, strict=True):
            full[name][index] = value
    return pa.table({name: pa.array(each, pa.string()) for name, each in full.items()}), keep


def column_of_part(column: Ready, job: tuple[Path, Recipe]) -> tuple[pa.Table, bool]:
    """`add_column` of a part that is complete."""
    (_, make, given), (stem, recipe) = column, job
    return add_column(make, given, list(Part(stem).made(recipe)))


def file_of(stem: Path, kind: str) -> Path:
    """A file of a part."""
    return stem.with_name(f"{stem.name}.{kind}.arrow")


def _encoded(recipe: Recipe, made: list[Made]) -> list[list[tuple[list[int], list[int]]]]:
    """The sequences of each row; those without special tokens in their texts all at once."""
    marked = [any(turn.is_marked for turn in row.turns) for row in made]
    found = iter(recipe.encode([turn for row, alone in zip(made, marked, strict=True) if not alone for turn in row.turns]))
    encoded = []
    for row, alone in zip(made, marked, strict=True):
        try:
            encoded.append(recipe.encode(row.turns) if alone else list(itertools.islice(found, len(row.turns))))
        except BadRow as bad:
            row.fate, row.why, row.turns = MALFORMED, str(bad), []
            encoded.append([])
    return encoded


def _hash_in_full(recipe: Recipe, row: Made, of_ids: bytes) -> bytes:
    """The hash of a row's ids; of a row that was encoded in part, of its texts too, so that equal starts do not make rows equal."""
    if not any(map(recipe.is_cut, row.turns)):
        return of_ids
    digest = hashlib.blake2b(of_ids, digest_size=16)
    for turn in row.turns:
        digest.update(repr((turn.prompt, turn.response)).encode("utf-8", "backslashreplace"))
    return digest.digest()


def _token_table(sequences: Sequence[Sequence[tuple[list[int], list[int]]]]) -> tuple[pa.Table, list[bytes]]:
    """A line for each sequence, and a hash of the ids of each row.

    Of the prompt, what it shares with the row's sequence before it is not written again.
    """
    shared: list[int] = []
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    for of_row in sequences:
        before: list[int] = []
        for prompt, response in of_row:
            common = _common(before, prompt)
            shared.append(common)
            prompts.append(prompt[common:] if common else prompt)
            responses.append(response)
            before = [*prompt, *response] if len(of_row) > 1 else []
    (prompt_ids, prompt_bytes), (response_ids, response_bytes) = _lists(prompts), _lists(responses)
    table = pa.table({"shared": pa.array(shared, pa.int32()), "prompt": prompt_ids, "response": response_ids})
    pieces = zip(shared, prompt_bytes, response_bytes, strict=True)
    hashes = []
    for of_row in sequences:
        digest = hashlib.blake2b(digest_size=16)
        for common, prompt_piece, response_piece in itertools.islice(pieces, len(of_row)):
            digest.update(b"%d,%d," % (common, len(prompt_piece)))
            digest.update(prompt_piece)
            digest.update(response_piece)
        hashes.append(digest.digest())
    return table, hashes


def _common(before: list[int], prompt: list[int]) -> int:
    shortest = min(len(before), len(prompt))
    if shortest == 0:
        return 0
    differs = np.flatnonzero(np.array(before[:shortest]) != np.array(prompt[:shortest]))
    return int(differs[0]) if len(differs) else shortest


def _lists(rows: Sequence[list[int]]) -> tuple[pa.ListArray, Iterator[memoryview]]:
    """The rows as an Arrow array, and the bytes of each."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = array("i")
    for row in rows:
        values.fromlist(row)
    view = memoryview(values).cast("B")
    ends = (4 * offsets).tolist()
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(values, dtype=np.int32)))
    return lists, (view[start:end] for start, end in itertools.pairwise(ends))


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow file, and its checksum behind it: in full, or not at all."""
    making = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with summed(making) as (stream, file):
            with pa.ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)
            stream.flush()
            stream.write(bytes.fromhex(file.checksum()))
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)


def _mapped(column: pa.ChunkedArray) -> pa.Array:
    """A column of a part, which is written in one piece, where it is; to combine pieces is to copy them."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class Part:
    """A part that is complete.

    Args:
        stem: what the names of its files begin with.
    """

    def __init__(self, stem: Path) -> None:
        self.stem = stem

    def table(self, kind: str) -> pa.Table:
        """One of its tables: raw, rows, tokens, or a column that was added."""
        with pa.memory_map(str(file_of(self.stem, kind))) as file:
            return pa.ipc.open_file(file.read_buffer(file.size() - CHECKSUM)).read_all()

    def known(self, kind: str) -> pa.Table | None:
        """One of its tables; None where it is missing, or differs from its checksum."""
        try:
            with pa.memory_map(str(file_of(self.stem, kind))) as file:
                content, checksum = file.read_buffer(max(file.size() - CHECKSUM, 0)), file.read_buffer()
            return self.table(kind) if checksum_of(content) == checksum.to_pybytes().hex() else None
        except (OSError, pa.ArrowInvalid):
            return None

    def is_complete(self) -> bool:
        """Whether it was made, and its files are as they were written."""
        return all(self.known(kind) is not None for kind in ("rows", "raw", "tokens"))

    @functools.cached_property
    def rows(self) -> pa.Table:
        return self.table("rows")

    @functools.cached_property
    def raw(self) -> pa.Table:
        return self.table("raw")

    @functools.cached_property
    def _mapping(self) -> mmap.mmap:
        with file_of(self.stem, "tokens").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    @functools.cached_property
    def tokens(self) -> tuple[np.ndarray, ...]:
        """(shared, prompt offsets, prompt ids, response offsets, response ids), mapped."""
        table = pa.ipc.open_file(pa.py_buffer(self._mapping).slice(0, len(self._mapping) - CHECKSUM)).read_all()
        views = [_mapped(table["shared"]).to_numpy()]
        for name in ("prompt", "response"):
            lists = _mapped(table[name])
            views += [lists.offsets.to_numpy(), lists.values.to_numpy()]
        return tuple(views)

    def forget(self) -> None:
        """Give back the memory of the pages that were read. The system maps sixteen at a time, and would keep the full file."""
        self._mapping.madvise(mmap.MADV_DONTNEED)

    def row(self, raw: int) -> Row:
        """The raw row at an index, as it was read."""
        value = json.loads(self.raw["value"][raw].as_py().decode("utf-8", "surrogatepass"))
        return Row(self.raw["source"][raw].as_py(), value, self.raw["problem"][raw].as_py())

    def parsed(self, recipe: Recipe, index: int) -> Parsed:
        """What a row says, by its index in the part."""
        row = self.row(self.rows["raw"][index].as_py())
        return replace(recipe.reader.read(row)[self.rows["item"][index].as_py()], unread=())

    def made(self, recipe: Recipe) -> Iterator[Made]:
        """The rows as they were made, again."""
        read = [(raw, item, parsed) for raw in range(self.raw.num_rows) for item, parsed in enumerate(recipe.reader.read(self.row(raw)))]
        for index, row in enumerate(made_of(recipe, read)):
            row.fate, row.why = self.rows["fate"][index].as_py(), self.rows["why"][index].as_py()
            yield row

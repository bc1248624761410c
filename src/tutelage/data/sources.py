"""Rows from where people keep them: JSONL, JSON, Parquet, directories of such shards, Hugging Face data sets, the built-in task.

Each row carries where it came from ("train.jsonl:17"), so that every later message can name it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutelage.data import arithmetic
from tutelage.errors import InputError, first_line

SUFFIXES = (".jsonl", ".json", ".parquet")
BUILT_IN_ROWS = {"train": 512, "validation": 128}


@dataclass(frozen=True)
class Row:
    """One raw row. `problem` says why it is not a row at all (then `value` is empty)."""

    source: str
    value: dict[str, Any]
    problem: str = ""


def read_rows(name: str, split: str = "train", hub_config: str | None = None) -> list[Row]:
    """All rows of a source: the list of `iter_rows`."""
    return list(iter_rows(name, split, hub_config))


def iter_rows(name: str, split: str = "train", hub_config: str | None = None) -> Iterator[Row]:
    """The rows of a source, one after the other, in its order; shards of a directory in the order of their names.

    Raises:
        InputError: nothing is there, the kind is unknown, a file cannot be read as what it is, or it holds no row.
    """
    empty = True
    for row in _rows_of(name, split, hub_config):
        empty = False
        yield row
    if empty:
        raise InputError(f"{name}: the data set is empty")


def seeded_order(count: int, seed: int) -> list[int]:
    """A permutation of ``range(count)``: its prefixes are nested subsets (128 ⊂ 256 ⊂ …)."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _rows_of(name: str, split: str, hub_config: str | None) -> Iterator[Row]:
    path = Path(name).expanduser()
    if name == "arithmetic":
        part: Literal["train", "validation"] = "train" if split == "train" else "validation"
        made = arithmetic.rows(part, BUILT_IN_ROWS[part])
        yield from (Row(f"arithmetic/{part}:{index}", value) for index, value in enumerate(made, 1))
    elif path.is_dir():
        shards = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not shards:
            raise InputError(f"{path}: no {', '.join(SUFFIXES)} file in this directory")
        for shard in shards:
            yield from _read_file(shard)
    elif path.is_file():
        yield from _read_file(path)
    elif path.suffix in SUFFIXES or name.startswith((".", "/", "~")):
        raise InputError(f"{name}: no such file or directory")
    else:
        yield from _read_hub(name, split, hub_config)


def _read_file(path: Path) -> Iterator[Row]:
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as lines:
                yield from (_parse(f"{path}:{index}", line) for index, line in enumerate(lines, 1) if line.strip())
        elif path.suffix == ".json":
            yield from _read_json(path)
        elif path.suffix == ".parquet":
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:
                values = (value for batch in file.iter_batches(1_000) for value in batch.to_pylist())
                yield from (Row(f"{path}:row {index}", value) for index, value in enumerate(values, 1))
        else:
            raise InputError(f"{path}: unknown kind of file {path.suffix!r}; known are {', '.join(SUFFIXES)}")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:  # includes pyarrow's own errors
        raise InputError(f"{path}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a valid {path.suffix[1:]} file: {error}") from None


def _parse(source: str, line: str) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Row(source, {}, f"not valid JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets thousands deep
        return Row(source, {}, f"not readable JSON ({error})")
    return _object(source, value)


def _read_json(path: Path) -> Iterator[Row]:
    """A list of rows, or an object that holds exactly one list (``{"data": [...]}``)."""
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise InputError(f"{path}: expected a list of rows, or an object that holds one list; found {len(lists)} lists")
        content = lists[0]
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of rows, found {type(content).__name__}")
    for index, value in enumerate(content, 1):
        yield _object(f"{path}:row {index}", value)


def _object(source: str, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(source, value)
    return Row(source, {}, f"a row is an object with keys, this is {type(value).__name__}")


def _read_hub(name: str, split: str, config: str | None) -> Iterator[Row]:
    import datasets

    repository, _, revision = name.partition("@")
    try:
        loaded = datasets.load_dataset(repository, config, split=split, revision=revision or None)
    except Exception as error:  # the hub's errors have no common base
        reason = first_line(error)
        raise InputError(
            f"{name}: neither a file nor a directory here, and not loaded from the Hugging Face hub (split {split!r}): {reason}"
        ) from None
    yield from (Row(f"{name}/{split}:{index}", value) for index, value in enumerate(loaded, 1))

"""Rows from where people keep them: files, directories of files, Hugging Face data sets on the disk and the hub, the built-in task.

Each row carries where it came from ("train.jsonl:17"), so that every later message can name it. `files.py` reads one file,
`folders.py` chooses the files of a directory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import xxhash

from tutelage.data import arithmetic
from tutelage.data.sources.files import kind_of, read_file
from tutelage.data.sources.folders import SAY_WHICH, Choice, choose_files, saved_files, saved_folder
from tutelage.data.sources.rows import Row, row_of
from tutelage.errors import InputError, first_line

BUILT_IN_ROWS = {"train": 640, "validation": 128}
"""So many that 512 training rows, the usual size of a curve, are left by the filter and without overlap."""
ROWS_AT_ONCE = 1_000
BLOCK = 8 << 20
"""Bytes that are hashed at once."""
LONGEST_REASON = 500


def read_rows(name: str, split: str = "train", hub_config: str | None = None) -> list[Row]:
    """All rows of a source: the list of `iter_rows`."""
    return list(iter_rows(name, split, hub_config))


def iter_rows(name: str, split: str = "train", hub_config: str | None = None) -> Iterator[Row]:
    """The rows of a source, one after the other, in its order; files of a directory in the order of their names.

    Raises:
        InputError: nothing is there, the kind is unknown, the split is not certain, a file cannot be read, or there is no row.
    """
    empty = True
    for row in _rows_of(name, split, hub_config):
        empty = False
        yield row
    if empty:
        raise InputError(f"{name}: the data set is empty: no file there holds a row")


def seeded_order(count: int, seed: int) -> list[int]:
    """A permutation of ``range(count)``: its prefixes are nested subsets (128 ⊂ 256 ⊂ …)."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def unread_files(name: str, split: str = "train") -> list[str]:
    """The files below a directory that nothing reads: of other splits, and of unknown kinds. Empty for any other source.

    Raises:
        InputError: as `iter_rows`.
    """
    path = Path(name).expanduser()
    if name == "arithmetic" or not path.is_dir():
        return []
    return _choice(path, split).unread


def _choice(directory: Path, split: str) -> Choice:
    saved = saved_folder(directory, split)
    return choose_files(directory, split) if saved is None else saved_files(directory, saved)


def fingerprint(name: str, split: str = "train", hub_config: str | None = None) -> str:
    """A hash of what `iter_rows` reads: of the files with their names, or of the hub's data set.

    Raises:
        InputError: as `iter_rows`.
    """
    path = Path(name).expanduser()
    if name == "arithmetic":
        return _hash([Path(str(arithmetic.__file__))], Path(str(arithmetic.__file__)).parent, _part(split), str(BUILT_IN_ROWS))
    if path.is_dir():
        return _hash(_choice(path, split).read, path)
    if _is_file(name, path):
        return _hash([path], path.parent)
    return _hash([], path, name, split, str(hub_config), _load(name, split, hub_config)._fingerprint)


def _hash(files: list[Path], below: Path, *texts: str) -> str:
    digest = xxhash.xxh3_128()
    for text in texts:
        digest.update(f"{len(text.encode())} {text}\n".encode())
    block = memoryview(bytearray(BLOCK))
    for file in files:
        try:
            digest.update(f"{file.relative_to(below)}\0{file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
            with file.open("rb", buffering=0) as stream:
                while size := stream.readinto(block):
                    digest.update(block[:size])
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _part(split: str) -> Literal["train", "validation"]:
    """The part of the built-in task that answers to a split."""
    return "train" if split == "train" else "validation"


def _is_file(name: str, path: Path) -> bool:
    """Whether a source is a file. Raises InputError: it can be nothing else, but is not there."""
    if path.is_file():
        return True
    if kind_of(path.name) or name.startswith((".", "/", "~")):
        raise InputError(f"{name}: no such file or directory")
    return False


def _rows_of(name: str, split: str, hub_config: str | None) -> Iterator[Row]:
    path = Path(name).expanduser()
    if name == "arithmetic":
        made = arithmetic.rows(_part(split), BUILT_IN_ROWS[_part(split)])
        yield from (Row(f"arithmetic/{_part(split)}:{index}", value) for index, value in enumerate(made, 1))
    elif path.is_dir():
        saved = saved_folder(path, split)
        if saved is not None:
            yield from _read_dataset(f"{saved}:row ", _load_saved(saved))
        else:
            for file in choose_files(path, split).read:
                yield from read_file(file)
    elif _is_file(name, path):
        yield from read_file(path)
    else:
        yield from _read_dataset(f"{name}/{split}:", _load(name, split, hub_config))


def _read_dataset(prefix: str, dataset: Any) -> Iterator[Row]:
    """The rows of a `datasets.Dataset`; `prefix` stands before the index in `Row.source`."""
    index = 0
    for batch in dataset.with_format(None).iter(ROWS_AT_ONCE):  # a saved one may be in the form of tensors
        for values in zip(*batch.values(), strict=True):
            index += 1
            yield row_of(f"{prefix}{index}", dict(zip(batch, values, strict=True)))


def _load_saved(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # a missing shard, a feature of a later version
        raise InputError(f"{folder}: the saved data set cannot be read: {first_line(error)}; save it again") from None


def _load(name: str, split: str, config: str | None) -> Any:
    """A data set of the hub."""
    import datasets

    repository, _, revision = name.partition("@")
    try:
        return datasets.load_dataset(repository, config, split=split, revision=revision or None)
    except Exception as error:  # the hub's errors have no common base
        reason = " ".join(str(error).partition("Example of usage")[0].split())[:LONGEST_REASON] or type(error).__name__
        hint = ""
        if "split" in reason and "[" in reason:
            hint = f"; choose a split, and {SAY_WHICH}"
        elif "config" in reason.lower() and "[" in reason:
            hint = "; choose a configuration, and set data.hub_config (hub_config in a table) to it"
        raise InputError(
            f"{name}: neither a file nor a directory here, and not loaded from the Hugging Face hub (split {split!r}): {reason}{hint}"
        ) from None

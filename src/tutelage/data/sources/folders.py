"""Which files of a directory are read: all that hold rows, but never those of two splits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NoReturn

from tutelage.data.sources.files import KINDS, PACKED, kind_of, stem_of
from tutelage.errors import InputError, some_of

SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Words of a name that say a split, and which."""
FILLERS = ("part", "shard", "chunk", "batch", "file", "data", "set", "split", "of")
"""Words beside a split that tell shards apart, not splits."""
HUB_SHARD = re.compile(r"(?P<split>[\w.-]+)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
"""A shard as the Hugging Face hub names it: what stands first is the split."""
DESCRIPTION = re.compile(r"(readme|licen[sc]e|notice|changelog|citation|contributing)([-_.].*)?|_.*|.*\.(md|rst)")
"""Files of no known kind that nobody takes for data, so that they are not named as unread."""
BOOKKEEPING = re.compile(r"(dataset_infos?|dataset_dict|state)\.json|cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")
"""Files of known kinds that hold no rows: what `datasets` writes beside them."""
SAY_WHICH = "set data.train_split or data.validation_split (split in a table) to it"
SHOWN = 5


@dataclass(frozen=True)
class Said:
    """The split that a file's path says. `label` is as it stands there ("train_1m"), `split` what it means ("train")."""

    split: str
    label: str
    is_hub: bool = False


@dataclass(frozen=True)
class Choice:
    """The files of a directory that are read, in their order, and the paths below it that nothing reads."""

    read: list[Path]
    unread: list[str]


def choose_files(directory: Path, split: str) -> Choice:
    """The files of a directory for a split.

    Raises:
        InputError: there is none, or which of them hold the rows of the split is not certain.
    """
    data, others = _listed(directory)
    if not data:
        there = f"; there is {some_of(others, SHOWN)}" if others else "; it is empty"
        raise InputError(
            f"{directory}: no {', '.join(KINDS)} file in this directory (each also with {' or '.join(PACKED)}){there}"
        )
    chosen = _of_split(directory, data, split)
    _refuse_twins(directory, chosen)
    _refuse_configurations(directory, chosen)
    taken = set(chosen)
    unread = [file for file in data if file not in taken]
    return Choice([directory / file for file in chosen], sorted(map(str, (*unread, *others))))


def saved_folder(directory: Path, split: str) -> Path | None:
    """The folder of a split that `datasets.save_to_disk` wrote; None: the directory is not of this kind.

    Raises:
        InputError: there is no such split.
    """
    if (directory / "state.json").is_file() and (directory / "dataset_info.json").is_file():
        return directory
    if not (directory / "dataset_dict.json").is_file():
        return None
    try:
        splits = json.loads((directory / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{directory / 'dataset_dict.json'}: cannot be read; save the data set again") from None
    alike = [name for name in splits if name == split] or [name for name in splits if _meaning(name) == _meaning(split)]
    if len(alike) != 1:
        _refuse_split(directory, split, splits, bool(alike))
    return directory / alike[0]


def saved_files(directory: Path, folder: Path) -> Choice:
    """The files of a folder that `datasets.save_to_disk` wrote, and those of its directory that nothing reads."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        listed = [file["filename"] for key in ("_data_files", "_indices_files") for file in state.get(key) or ()]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'state.json'}: cannot be read; save the data set again") from None
    read = [folder / name for name in ("state.json", "dataset_info.json", *listed)]
    taken = set(read)
    data, others = _listed(directory)
    return Choice(read, sorted(str(file) for file in (*data, *others) if directory / file not in taken))


def _listed(directory: Path) -> tuple[list[PurePath], list[PurePath]]:
    """(files of known kinds, other files), without what is no data by its name; paths below the directory, in order."""
    found: list[PurePath] = []
    seen_folders = {os.path.realpath(directory)}

    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None

    for root, folders, files in os.walk(directory, onerror=refuse, followlinks=True):
        visible = [Path(root, name) for name in folders if name[0] not in "._"]
        folders.clear()
        for folder in sorted(visible, key=lambda folder: (folder.is_symlink(), folder)):
            real = os.path.realpath(folder)
            folders += [folder.name] if real not in seen_folders else []  # a link back to a folder would never end
            seen_folders.add(real)
        found += [Path(root, name).relative_to(directory) for name in files]
    data, others = [], []
    for file in sorted(file for file in found if not file.name.startswith(".")):
        if not kind_of(file.name):
            others += [file] if not DESCRIPTION.fullmatch(file.name.lower()) else []
        elif not BOOKKEEPING.fullmatch(file.name):
            data.append(file)
    return data, others


def _meaning(split: str) -> str:
    return SPLITS.get(split.lower(), split.lower())


def _said(file: PurePath) -> Said:
    """What a path says of its split: the file's name first, then its folders, the innermost first."""
    for part in (stem_of(file.name), *(folder.name for folder in file.parents)):
        shard = HUB_SHARD.fullmatch(part)
        text = (shard["split"] if shard else part).lower()
        found = {SPLITS[word] for word in re.split(r"[^a-z]+", text) if word in SPLITS}
        if len(found) == 1:
            words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", text)]
            own = [word for word in words if word and word not in FILLERS] if not shard else [text]
            label = own[0] if len(own) == 1 else text
            return Said(found.pop(), label, is_hub=bool(shard and "-" not in text))
    return Said("", "")


def _of_split(directory: Path, data: Sequence[PurePath], split: str) -> list[PurePath]:
    """The files of a split; all of them where no name says a split, or `split` is "all" as for the hub."""
    said = {file: _said(file) for file in data} | _hub_splits(data)
    named = [file for file in data if said[file].split]
    if not named or split == "all":
        return list(data)
    unnamed = [file for file in data if not said[file].split]
    if unnamed:
        raise InputError(
            f"{directory}: some files name a split ({some_of(named, SHOWN)}), others do not ({some_of(unnamed, SHOWN)}), so which"
            f' of them belong to {split!r} is not certain; name one file, move the others away, or ask for the split "all"'
        )
    asked = split.lower()
    alike = [file for file in data if said[file].split == _meaning(split) or said[file].label == asked]
    if not alike:
        _refuse_split(directory, split, {said[file].label for file in data}, False)
    chosen = (
        [file for file in alike if said[file].label == asked] or [file for file in alike if said[file].label in SPLITS] or alike
    )
    rivals = {said[file].label for file in chosen if said[file].is_hub or said[file].label in SPLITS}
    if len(rivals) > 1:
        _refuse_split(directory, split, rivals, True)
    taken, folders = set(chosen), {file.parent for file in chosen}
    variants = [
        file for file in alike
        if file not in taken and file.parent in folders and not said[file].is_hub and said[file].label not in SPLITS
    ]  # fmt: skip
    if variants:
        raise InputError(
            f"{directory}: the split {split!r} may be {some_of(chosen, SHOWN)} alone, or {some_of(variants, SHOWN)} too;"
            " name one file, or move the others away"
        )
    return chosen


def _hub_splits(data: Sequence[PurePath]) -> dict[PurePath, Said]:
    """Shards of the hub whose splits have names of their own ("cot", "tir"): several side by side are splits, one is not."""
    shards = {
        file: shard["split"] for file in data if (shard := HUB_SHARD.fullmatch(stem_of(file.name))) and "-" not in shard["split"]
    }
    beside: dict[PurePath, set[str]] = {}
    for file, name in shards.items():
        beside.setdefault(file.parent, set()).add(name)
    several = {file: name.lower() for file, name in shards.items() if len(beside[file.parent]) > 1}
    return {file: Said(name, name, is_hub=True) for file, name in several.items() if not _said(PurePath(file.name)).split}


def _refuse_split(directory: Path, split: str, splits: Iterable[str], several: bool) -> NoReturn:
    """Raises InputError: of the splits that are there, several may be the one that is asked for, or none is."""
    what = f"several splits may be {split!r}" if several else f"there is no split {split!r}"
    raise InputError(f"{directory}: {what}: choose one of {', '.join(map(repr, sorted(splits)))}, and {SAY_WHICH}")


def _refuse_twins(directory: Path, files: Sequence[PurePath]) -> None:
    """Raises InputError: two files have the same name but for their kind, so they may be the same rows twice."""
    seen: dict[tuple[str, ...], PurePath] = {}
    kinds = [kind[1:] for kind in KINDS]
    for file in files:
        key = (*(part for part in file.parent.parts if part.lower() not in kinds), stem_of(file.name))
        other = seen.setdefault(key, file)
        if other is not file:
            raise InputError(
                f"{directory}: {other} and {file} may be the same rows twice, in two kinds of file; move one of them away, or rename"
                " it if its rows are others"
            )


def _refuse_configurations(directory: Path, files: Sequence[PurePath]) -> None:
    """Raises InputError: a copy of a hub data set with several configurations, in folders of their names."""
    readme = directory / "README.md"
    if not readme.is_file():
        return
    head = readme.read_text(encoding="utf-8", errors="replace").partition("---")[2].partition("\n---")[0]
    configurations = set(re.findall(r"^[\s-]*config_name:\s*[\"']?([^\s\"']+)", head, re.MULTILINE))
    folders = sorted({file.parts[0] for file in files if len(file.parts) > 1} & configurations)
    if len(folders) > 1:
        raise InputError(
            f"{directory}: README.md says that {', '.join(folders)} are configurations of one data set; name the folder of one"
            f" of them ({directory / folders[0]})"
        )

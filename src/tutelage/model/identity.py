"""What makes a model the one that it is: hashes of its configuration, its tokenizer, its chat template, and of parts of its weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.model.directory import at_hand, resolve

KINDS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "tekken.json", "*.model", "*.spm", "*.tiktoken", "*.bpe", "*.codes", "*.jinja", "chat_template.json",
    "*.safetensors", "*.safetensors.index.json",
)  # fmt: skip
"""The files of a model directory that loading reads, by their names."""
TABLES, LARGEST = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"), 65_536
"""Files whose values are kept, where they have so many bytes at most, so that a change is told by its key; of others, the hash."""
BLOCK, BLOCKS = 65_536, 16
"""Of a file of weights, so many blocks of so many bytes are hashed, the first with its header and the last among them. Training
changes nearly every weight, so another training's weights do not pass."""


def identity_of(model_id: str) -> dict[str, Any]:
    """The files of a model that is on this machine, each with its hash and size, and with its values where it is a small table.

    ``model``: as it is configured. ``revision``: the commit of a model from the hub; None of a directory.

    Raises:
        InputError: there is no such model.
    """
    folder = at_hand(resolve(model_id, weights=False))
    files = {} if folder is None else {str(file.relative_to(folder)): _described(file) for file in _files(folder)}
    is_snapshot = folder is not None and folder.parent.name == "snapshots"
    return {"model": model_id, "revision": folder.name if folder is not None and is_snapshot else None, "files": files}


def _files(folder: Path) -> Iterator[Path]:
    found = {file for kind in KINDS for file in [*folder.glob(kind), *folder.glob(f"additional_chat_templates/{kind}")] if file.is_file()}
    yield from sorted(found)


def _described(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    if file.name.endswith(".safetensors"):
        with file.open("rb") as opened:
            for index in range(BLOCKS):
                opened.seek(max(0, size - BLOCK) * index // (BLOCKS - 1))
                digest.update(opened.read(BLOCK))
        return {"sha256": digest.hexdigest(), "size": size}
    text = file.read_bytes()
    digest.update(text)
    described: dict[str, Any] = {"sha256": digest.hexdigest(), "size": size}
    if size <= LARGEST and file.name in TABLES:
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(text)
            described |= {"values": _flat(values)} if isinstance(values, dict) else {}
    return described


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The same table without tables in it: their keys stand joined, as ``outer.inner``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value}
    return flat

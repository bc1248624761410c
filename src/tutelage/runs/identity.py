"""The model that a run was begun with: what has changed of it since, and the refusal to go on with another one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.errors import InputError
from tutelage.runs.reading import Reading
from tutelage.runs.records import SHOWN

IDENTITY = "identity.json"
UNIMPORTANT = ("transformers_version", "_name_or_path", "_commit_hash", "tokenizer_file", "name_or_path")
"""Keys of a model's files that say who wrote them from where, and change nothing."""
OF_WEIGHTS = ".safetensors"


def changes_of_model(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed from one description of a model to another, by file and key: ``config.json: rms_norm_eps 1e-06 → 0.01``.

    Args:
        then, now: of `tutelage.model.identity_of`.
    """
    old, new = then["files"], now["files"]
    fetched = then["revision"] is not None and then["revision"] == now["revision"]  # the hub's cache may hold a part of it
    found = []
    for name in sorted({*old, *new}):
        if name not in new or name not in old:
            found += [] if fetched else [f"{name} is {'gone' if name not in new else 'new'}"]
        elif old[name]["sha256"] != new[name]["sha256"]:
            found += _changes_of_file(name, old[name], new[name])
    if found and then["revision"] != now["revision"]:
        return [f"revision {then['revision']} → {now['revision']}", *found]
    return found


def refuse_another_model(
    directory: Path, now: Mapping[str, Any], what_to_do: str = "", allowed: Collection[str] = ()
) -> list[str]:
    """Compare the model of now with the one that an unfinished run was begun with; what has changed, where that is allowed.

    Args:
        now: of `tutelage.model.identity_of`.
        what_to_do: beside undoing it.
        allowed: settings that may have changed; "model.id" stands for the model behind it too.

    Raises:
        InputError: the model has changed, or the record of it is damaged.
    """
    reading = Reading(directory)
    then, fault = reading.table(IDENTITY), reading.fault_of(IDENTITY)
    if not then and not fault:
        console.say(
            f"{directory}: there is no {IDENTITY}, so nothing says whether {now['model']} is still the model that this run was begun with",
            style="yellow",
        )
        return []
    changed = [f"{IDENTITY} was damaged: {fault}"] if fault else changes_of_model(then, now)
    if not changed or "model.id" in allowed:
        return changed
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    what = (
        f"{IDENTITY} is damaged ({fault}), so nothing says whether {now['model']} is the model that this run was begun with"
        if fault
        else f"the model {now['model']} has changed since this run was begun: {'; '.join(changed[:SHOWN])}{more}"
    )
    raise InputError(f"{directory}: {what}; undo that{what_to_do}")


def _changes_of_file(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if "values" in old and "values" in new:
        a, b = old["values"], new["values"]
        keys = [key for key in sorted({*a, *b}) if key.rpartition(".")[2] not in UNIMPORTANT and a.get(key) != b.get(key)]
        return [f"{name}: {key} {_shown(a, key)} → {_shown(b, key)}" for key in keys]
    if name.endswith(OF_WEIGHTS):
        size = "" if old["size"] == new["size"] else f", {old['size']:,} → {new['size']:,} bytes"
        return [f"{name}: other weights{size}"]
    return [f"{name}: other content"]


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "(none)"
    return text if len(text) <= 60 else f"{text[:57]}…"

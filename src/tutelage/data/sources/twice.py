"""Keys that stand twice in an object of JSON: Python's reader keeps the last value of each, and says nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tutelage import console
from tutelage.data.sources.rows import Row

_found: list[str] = []
"""Keys that stand twice in the value that was decoded last, at any depth."""
_said: set[tuple[str, int, str]] = set()
"""(file, rows, first row) of what was said: a file is read several times."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        _found.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def decoded(text: str, start: int | None = None) -> Any:
    """The value of JSON text, or, given where one starts, (the value there, where it ends). Raises ValueError, RecursionError."""
    _found.clear()
    return _DECODER.decode(text) if start is None else _DECODER.raw_decode(text, start)


def noticed(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The same rows; when the file of that name has been read, it is said once in how many a key stands twice.

    Each row is what was `decoded` last, or has a problem.
    """
    count, first = 0, ""
    for row in rows:
        if _found and not row.problem:
            first = first or f"{row.source}, key {_found[0]!r}"
            count += 1
        yield row
    said = (name, count, first)
    if count and said not in _said:
        _said.add(said)
        console.say(f"{name}: a key stands twice in {count:,} rows, and its last value counts (the first: {first})", style="yellow")

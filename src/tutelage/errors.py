"""The errors a person is meant to read: one clear message, no traceback."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Something the person gave is wrong (a key, a row, a file), found before any compute is spent. Exit code 2."""


class RunError(RuntimeError):
    """A run could not go on (a full disk, a loss that is not a number). Exit code 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; of an error without a message, the name of its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def some_of(names: Iterable[object], most: int) -> str:
    """``a, b and 3 more``: the first names, and how many there are besides."""
    each = list(map(str, names))
    return ", ".join(each[:most]) + (f" and {len(each) - most} more" if len(each) > most else "")

"""Tables and lines of JSON as a run's files hold them: what is no JSON, or not by its schema, is told and never raised."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.errors import RunError, first_line
from tutelage.runs.schemas import fault_of
from tutelage.runs.tables import TABLES

SHOWN = 3
"""How many damaged lines of a file are named; the others are counted."""


class Records(NamedTuple):
    """The lines of a file that are right, and what is wrong with each of the others, by its number from 1."""

    lines: list[dict[str, Any]]
    faults: dict[int, str]


def read_records(path: Path, check: Callable[[Any], str], appended: bool = True) -> Records:
    """The JSON lines of a file, none if there is no file.

    Args:
        check: what is wrong with a line's value; "" if nothing is.
        appended: whether lines were appended, so that a torn last one is no fault: the process was killed.

    Raises:
        RunError: the file is there and cannot be read at all.
    """
    found = Records([], {})
    for index, line in enumerate(_lines(path), 1):
        if appended and not line.endswith(b"\n"):
            break
        value, fault = _parsed(line)
        fault = fault or check(value)
        if fault:
            found.faults[index] = fault
        else:
            found.lines.append(value)
    return found


def read_table(path: Path) -> tuple[dict[str, Any], str]:
    """(the table that a file of JSON holds, what is wrong with it): an empty table where something is wrong, or no file is there.

    The file's name says what it must hold (`TABLES`). Raises RunError as `read_records`.
    """
    if (text := read_bytes(path)) is None:
        return {}, ""
    value, fault = _parsed(text)
    fault = fault or fault_of(TABLES[path.name], value)
    return ({}, fault) if fault else (value, "")


def read_bytes(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none. Raises RunError: what is there is no file, or cannot be read."""
    try:
        _require_file(path)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None


def in_words(name: str, faults: dict[int, str], follows: str) -> list[str]:
    """A sentence on each of the first damaged lines of a file, and one on how many more there are.

    Args:
        follows: what is missing without a line.
    """
    said = [f"{name}, line {index}: {fault}; {follows}." for index, fault in list(faults.items())[:SHOWN]]
    more = len(faults) - SHOWN
    return said + ([f"{name}: {more} more line{'s are' if more > 1 else ' is'} damaged; {follows}."] if more > 0 else [])


def gaps(there: Iterable[int], last: int) -> str:
    """``3–4, 7``: the whole numbers from 1 to `last` that are not there; "" if all are."""
    spans, expected = [], 1
    for number in [*sorted({each for each in there if 1 <= each <= last}), last + 1]:
        if number > expected:
            spans.append(str(expected) if number == expected + 1 else f"{expected}–{number - 1}")
        expected = number + 1
    return ", ".join(spans[:SHOWN]) + (f" and {len(spans) - SHOWN} more stretches" if len(spans) > SHOWN else "")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        _require_file(path)
        with path.open("rb") as file:  # bytes: the torn end may lie inside a character
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None


def _require_file(path: Path) -> None:
    """Raises OSError. A pipe would be waited for without end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is a directory, a pipe or a device, not a file")


def _parsed(text: bytes) -> tuple[Any, str]:
    """(the value, "") or (None, why there is none)."""
    try:
        return json.loads(text.decode("utf-8")), ""
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except json.JSONDecodeError as error:
        return None, f"no JSON: {first_line(error).partition(':')[0].lower()} (character {error.pos + 1})" if text.strip() else "empty"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets within brackets
        return None, "no JSON: brackets too deep" if isinstance(error, RecursionError) else f"no JSON: {first_line(error)}"

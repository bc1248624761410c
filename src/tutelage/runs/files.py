"""Files that are there in full or not at all, JSON lines, and the lock of a directory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tutelage.errors import InputError, RunError
from tutelage.runs.owner import checked_name, is_at, open_temporary, parents_of, remove_leftovers, take

LOCK = ".lock"
"""The lock of a directory, in it."""
_appending = threading.Lock()
"""Threads append one after the other: a line that another thread has written in part must not be taken for a torn one."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name when all of it is written; until then it has a name that no other writer has.

    Raises:
        RunError: it cannot be written.
    """
    remove_leftovers(path)
    beside: Path | None = None
    try:
        descriptor, beside = open_temporary(path)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            beside.replace(path)  # while it is locked: nobody takes it for a leftover
            beside = None
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file in full, or nothing (see `writing`)."""
    with writing(path) as file:
        file.write(text)


def flattened(values: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """The same table without tables in it: their keys stand joined, as ``outer.inner``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}{separator}{inner}": each for inner, each in flattened(value, separator).items()}
        else:
            flat[key] = value
    return flat


def finite(value: Any) -> Any:
    """The same value for JSON, which has neither NaN nor infinity: null in their place."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_lines(values: Iterable[dict[str, Any]]) -> str:
    """JSON lines; a value that JSON does not know (a date from a Parquet file) is written as text."""
    text = "".join(json.dumps(value, ensure_ascii=False, default=str) + "\n" for value in values)
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, as JSON writes it: \ud83d


def append_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines in one write, all or none; threads take turns. Raises RunError when the file cannot be written."""
    text = to_lines(lines).encode()
    try:
        with _appending, path.open("ab+") as file:
            size = file.tell()
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # the line before was torn: it ends here
                    text = b"\n" + text
            try:
                file.write(text)
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def _lock_of(directory: Path, setting: str) -> TextIO:
    """The lock of a directory, open and taken."""
    while True:
        try:
            directory.mkdir(exist_ok=True)
            lock = (directory / LOCK).open("a")
        except OSError as error:
            raise InputError(f"{setting}: {directory} cannot be written: {error.strerror}") from None
        if not take(lock, directory):
            lock.close()
            name = f"--{setting.removeprefix('--')}"
            raise InputError(f"{setting}: {directory} is in use by another process; wait for it, or choose another {name}")
        if is_at(lock.fileno(), directory / LOCK):  # else a process that began nothing has removed it since it was opened
            return lock
        lock.close()


@contextlib.contextmanager
def locked(directory: Path, setting: str) -> Iterator[None]:
    """Make a directory, which a setting names, and hold its lock. One in which nothing was begun is not left behind.

    Raises:
        InputError: another process holds the lock, or the directory cannot be made.
    """
    checked_name(directory, setting)
    with parents_of(directory, setting), _lock_of(directory, setting) as lock:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_at(lock.fileno(), directory / LOCK) and [path.name for path in directory.iterdir()] == [LOCK]:
                    shutil.rmtree(directory)

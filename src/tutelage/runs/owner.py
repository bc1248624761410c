"""Who writes a file: its one owner, known by a lock beside it, or each writer under a temporary name of its own.

The kernel releases a lock when its process ends, in whatever way, so a writer that was killed stops nobody, and what it leaves is
removed by the next one. A file system without locks is told of once; there, each file still appears in full or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.errors import InputError

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a file's name, and of a path, on Linux and macOS."""
LONGEST_STEM = 200
"""Bytes of a file's name that the names of its lock and of its temporary files repeat."""
_without_locks: set[int] = set()
"""Devices of file systems that have no locks, once that is said."""


def checked_name(path: Path, setting: str) -> Path:
    """The same path. Raises InputError: no file can have that name; `setting` is what gave it."""
    text = os.fspath(path)
    if "\0" in text:
        raise InputError(f"{setting}: {text!r} holds a NUL character, which no file name can")
    if not path.name or path.name == "..":
        raise InputError(f"{setting}: {text!r} is no name for a file or directory to write; give one")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts) or len(os.fsencode(path.absolute())) > LONGEST_PATH:
        raise InputError(f"{setting}: a name in {_short(text)} is longer than {LONGEST_NAME} bytes, or the path than {LONGEST_PATH}")
    return path


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:50]}…{text[-20:]}")


@contextlib.contextmanager
def owned(path: Path, *, new: bool = True, parents: bool = False) -> Iterator[None]:
    """Own a file or directory that is to be written, as --out names it: nobody else writes it meanwhile.

    Args:
        new: it must not be there yet.
        parents: directories above it are made; those in which nothing is written are removed at the end.

    Raises:
        InputError: another process owns it, it is there, or it cannot be written.
    """
    checked_name(path, "--out")
    with parents_of(path, "--out") if parents else contextlib.nullcontext(), _lock_beside(path):
        if new and os.path.lexists(path):
            raise InputError(f"{path} exists and is not overwritten; remove it, or choose another --out")
        remove_leftovers(path)
        yield


@contextlib.contextmanager
def parents_of(path: Path, setting: str) -> Iterator[None]:
    """Make the directories above a path; of those that were made, the empty ones are removed at the end. Raises InputError."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{setting}: {path} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        for parent in missing:  # the innermost first
            with contextlib.suppress(OSError):
                parent.rmdir()


@contextlib.contextmanager
def _lock_beside(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{_stem(path)}.lock")
    while True:
        try:
            file = _open_lock(lock)
        except FileNotFoundError:
            raise InputError(f"--out: {path.parent}: no such directory to write {path.name} to") from None
        except OSError as error:
            raise InputError(f"--out: {path} cannot be written: {error.strerror}") from None
        if not take(file, path):
            os.close(file)
            raise InputError(f"--out: {path} is being written by another process; wait for it, or choose another --out")
        if is_at(file, lock):  # else its owner has removed it since it was opened
            break
        os.close(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(file)


def _open_lock(lock: Path) -> int:
    """Open a lock, or make one; what a name leads to elsewhere is not touched. Raises OSError."""
    flags = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(lock, os.O_RDWR | flags, 0o666)
    except PermissionError:  # one that another person's process has left: locking it needs no more than reading
        return os.open(lock, os.O_RDONLY | flags)


def take(file: Any, path: Path, *, wait: bool = False) -> bool:
    """Lock an open file; False: another process has locked it. A file system without locks is told of, once.

    Args:
        path: what the lock is for.
        wait: until the other one has released it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in HELD:
            return False
        device = os.fstat(file if isinstance(file, int) else file.fileno()).st_dev
        if device not in _without_locks:
            _without_locks.add(device)
            console.say(
                f"{path}: its file system has no locks ({error.strerror}), so nothing keeps a second process from writing there too",
                style="yellow",
            )
    return True


def open_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside a path, open for writing, under a name that no other writer has: (file descriptor, path). Raises OSError."""
    while True:
        beside = path.with_name(f".{_stem(path)}.{secrets.token_hex(4)}.tmp")
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        take(file, path, wait=True)  # says that its writer lives
        if is_at(file, beside):  # else another one has taken it for a leftover before it was locked
            return file, beside
        os.close(file)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of a path whose writers were killed: nobody has locked them."""
    start = f".{_stem(path)}."
    with contextlib.suppress(OSError):
        found = [entry.name for entry in os.scandir(path.parent) if entry.name.startswith(start) and entry.name.endswith(".tmp")]
        for name in found:
            if len(name) == len(start) + len("01234567.tmp"):
                _remove_dead(path.with_name(name))


def _remove_dead(beside: Path) -> None:
    with contextlib.suppress(OSError):
        file = os.open(beside, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # without locks nobody knows whose it is, and it stays
            beside.unlink()
        finally:
            os.close(file)


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _stem(path: Path) -> str:
    """A file's name, or, of one that is too long to be lengthened, its start and a hash."""
    name = path.name
    if len(os.fsencode(name)) <= LONGEST_STEM:
        return name
    return f"{name[:40]}-{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"

"""Checksums of files: made while a file is written, compared before it is read. The seal of a folder names its files, each with
its size and its checksum, and carries a checksum of itself."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from tutelage.errors import first_line

SEAL = "COMPLETE.json"
"""The file of a folder that says what else is in it."""
READ_AT_ONCE = 4 << 20
READERS = 4
"""Threads that read the files of a folder."""


class Sealed(NamedTuple):
    """Size in bytes, and checksum, of a file; "" where an earlier version wrote none."""

    size: int
    checksum: str


class SummedFile(io.FileIO):
    """A new file that sums what is written to it, and remembers why it could not be written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self.failure: OSError | None = None
        self._digest = xxhash.xxh3_64()

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            self.failure = error
            raise
        self._digest.update(memoryview(data).cast("B")[:written])
        return written

    def checksum(self) -> str:
        return str(self._digest.hexdigest())


@contextlib.contextmanager
def summed(path: Path) -> Iterator[tuple[Any, SummedFile]]:
    """A new file to write to, and the same file to ask for its checksum once it is written.

    Raises:
        OSError: it could not be written, whatever a library in between has made of that.
    """
    file = SummedFile(path)
    try:
        with io.BufferedWriter(file) as stream:
            yield stream, file
    except Exception:
        if file.failure is not None:
            raise file.failure from None
        raise


def checksum_of(data: Any) -> str:
    return str(xxhash.xxh3_64_hexdigest(data))


def checksum_of_file(path: Path) -> str:
    """The checksum of a file, which is read in full. Raises OSError."""
    digest, buffer = xxhash.xxh3_64(), memoryview(bytearray(READ_AT_ONCE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return str(digest.hexdigest())


def sealed(content: Mapping[str, Any]) -> str:
    """JSON of a table, with a checksum of that JSON in it."""
    return json.dumps({**content, "seal": checksum_of(json.dumps(content).encode())})


def unsealed(text: str) -> dict[str, Any]:
    """The table of `sealed`. Raises ValueError: it is not as it was written."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("seal", None) is None or sealed(content) != text:
        raise ValueError("it differs from its own checksum")
    return content


def write_seal(folder: Path, files: Mapping[str, Sealed], **more: Any) -> None:
    """Seal a folder: the file, and its name, are on the disk when this returns. Raises OSError."""
    with (folder / SEAL).open("w", encoding="utf-8") as file:
        file.write(sealed({**more, "files": files}))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files outlast a crash of the machine. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_of(folder: Path) -> dict[str, Sealed]:
    """What the seal of a folder says of its files.

    Raises:
        OSError: there is no seal.
        ValueError: it is damaged.
    """
    text = (folder / SEAL).read_text(encoding="utf-8")
    known = json.loads(text)
    files = known.get("files") if isinstance(known, dict) else None
    if not isinstance(files, dict) or any(Path(name).name != name or "\0" in name for name in files):
        raise ValueError("no seal")
    if files and "seal" not in known and all(isinstance(size, int) for size in files.values()):  # of an earlier version
        return {name: Sealed(size, "") for name, size in files.items()}
    return {name: Sealed(*entry) for name, entry in unsealed(text)["files"].items()}


def fault_of(folder: Path, in_full: bool = True) -> str:
    """What is wrong with a sealed folder, in words; "" where nothing is.

    Args:
        in_full: whether the files are read and their checksums compared; else their sizes alone are.
    """
    try:
        files = files_of(folder)
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except OSError as error:
        return f"{SEAL} cannot be read: {error.strerror}"
    except (ValueError, TypeError, RecursionError):
        return f"{SEAL} is damaged"
    faults = filter(None, (_size_fault(folder / name, entry.size) for name, entry in files.items()))
    first = next(faults, "")
    if first or not in_full:
        return first
    with ThreadPoolExecutor(READERS) as readers:
        entries = [(folder / name, entry.checksum) for name, entry in files.items() if entry.checksum]
        return next(filter(None, readers.map(lambda entry: _content_fault(*entry), entries)), "")


def _size_fault(path: Path, size: int) -> str:
    try:
        found = path.stat()
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):  # a pipe would be read for ever
        return f"{path.name} is no file"
    return "" if found.st_size == size else f"{path.name} has {found.st_size:,} bytes instead of {size:,}"


def _content_fault(path: Path, checksum: str) -> str:
    try:
        return "" if checksum_of_file(path) == checksum else f"{path.name} differs from its checksum"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"


def bytes_in_words(*sizes: float) -> list[str]:
    """Sizes in one unit, with so many digits that those which differ look different: ``["129 MB", "74 MB"]``."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if max(sizes) >= unit), (1, "bytes"))
    for digits in range(0 if max(sizes) >= 10 * unit or unit == 1 else 1, 10):
        shown = [f"{size / unit:.{digits}f} {name}" for size in sizes]
        if len(set(shown)) == len(set(sizes)):
            break
    return shown


def why_not_written(error: BaseException, folder: Path, needed: float) -> str:
    """Why something could not be written into a folder; of a full disk, how much it needs and how much is free.

    Args:
        needed: bytes of what was to be written, which is removed again.
    """
    full = getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)
    if full:
        with contextlib.suppress(OSError):
            wants, free = bytes_in_words(needed, shutil.disk_usage(folder).free)
            return f"the disk is full: it needs {wants}, and {folder} has {free} free"
    return getattr(error, "strerror", None) or first_line(error)

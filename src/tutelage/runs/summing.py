"""How torch's checkpoints are written: each rank sums its own files while it writes them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Generator
from pathlib import Path

from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem

from tutelage.machines import summed

CHECKSUM = ".xxh3"
"""How the file ends that holds the checksum of the file beside it, until the first rank seals the checkpoint."""


class _Summing(FileSystem):
    """Beside each file that is written, a file that holds its checksum."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        with summed(Path(path)) as (stream, file):
            yield stream
        _beside(path).write_text(file.checksum())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        _beside(path).rename(_beside(new_path))

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        Path(path).mkdir(exist_ok=True)  # without its parents: a run directory that is gone does not come back


def _beside(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_name(path.name + CHECKSUM)


def writer_to(folder: Path) -> FileSystemWriter:
    """What writes a checkpoint, and the checksums of its files, into a folder."""
    writer = FileSystemWriter(folder, sync_files=True)
    writer.fs = _Summing()
    return writer


def take_checksums(folder: Path) -> dict[str, str]:
    """The checksums of the files in a folder, by name; their own files are removed. Raises OSError."""
    found = {}
    for path in sorted(folder.glob(f"*{CHECKSUM}")):
        found[path.name.removesuffix(CHECKSUM)] = path.read_text()
        path.unlink()
    return found

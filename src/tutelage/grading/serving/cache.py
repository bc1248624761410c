"""Verdicts kept on disk by content and grader version: what was graded once is not graded again, also after an interruption."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tutelage.grading.equality import Verdict

Pair = tuple[str, str]


@cache
def grader_version() -> str:
    """A hash of the grader's own code and of the library that calculates for it: it changes whenever a verdict could."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(file for file in Path(__file__).parents[1].rglob("*") if file.suffix in (".py", ".txt")):
        digest.update(file.read_bytes())
    digest.update(version("mpmath").encode())
    return digest.hexdigest()


class VerdictCache:
    """A table from (reference, answer) to `Verdict` in `directory`, for this version of the grader. Several processes may share it.

    Attributes:
        damaged: how many verdicts were found that differ from their checksum; they count as not known.

    Raises:
        OSError, sqlite3.Error: it cannot be opened, read or written.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.damaged = 0
        self.path = directory / f"verdicts-{grader_version()}.sqlite"
        self._connection = sqlite3.connect(self.path, timeout=30)
        with self._connection:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts"
                " (key BLOB PRIMARY KEY, equal INTEGER, layer TEXT, why TEXT, checksum INTEGER) WITHOUT ROWID"
            )

    def find(self, pairs: Iterable[Pair]) -> dict[Pair, Verdict]:
        """The verdicts that are known."""
        keys = {_key(pair): pair for pair in pairs}
        found, wanted = {}, list(keys)
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            query = f"SELECT key, equal, layer, why, checksum FROM verdicts WHERE key IN ({','.join('?' * len(part))})"
            for key, equal, layer, why, checksum in self._connection.execute(query, part):
                if checksum != _checksum(key, equal, layer, why):
                    self.damaged += 1
                    continue
                found[keys[key]] = Verdict(None if equal is None else bool(equal), layer, why)
        return found

    def keep(self, verdicts: Mapping[Pair, Verdict]) -> None:
        """Store verdicts, except those that a clock made."""
        values = [(_key(pair), v.equal, v.layer, v.why) for pair, v in verdicts.items() if not v.by_the_clock]
        rows = [(*value, _checksum(*value)) for value in values]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._connection.close()


def _checksum(key: bytes, equal: bool | None, layer: str, why: str) -> int:
    return zlib.crc32(repr((key, None if equal is None else int(equal), layer, why)).encode("utf-8", "surrogatepass"))


def _key(pair: Pair) -> bytes:
    parts = (part.encode("utf-8", "surrogatepass") for part in pair)
    return hashlib.blake2b(b"\0\0".join(parts), digest_size=16).digest()

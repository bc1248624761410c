"""One file of rows: unpacked, recognised by its content, and read in a stream."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tutelage.data.sources.read_arrow import read_arrow
from tutelage.data.sources.read_csv import read_csv
from tutelage.data.sources.read_json import read_json
from tutelage.data.sources.rows import Row
from tutelage.errors import InputError, first_line

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".zst")
BLOCK = 1 << 20

MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\xff\xff\xff\xff": ".arrow"}
NOT_ROWS = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save it as CSV, and name what comes out",
    b"BZh": "packed by bzip2: unpack it (bunzip2)",
    b"\xfd7zXZ": "packed by xz: unpack it (unxz)",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS, not the data: run git lfs pull",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"<!DOCTYPE": "a web page: download the data itself",
    b"<!doctype": "a web page: download the data itself",
    b"<html": "a web page: download the data itself",
    b"SQLite format": "an SQLite database: write its rows to a JSONL or CSV file",
}


def kind_of(name: str) -> str:
    """The suffix that says how a file is read ("train.jsonl.gz": ".jsonl"); "" if it is not known."""
    path = Path(name.lower())
    suffix = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return suffix if suffix in KINDS else ""


def stem_of(name: str) -> str:
    """A file's name without the suffixes of its kind: "train" of "train.jsonl.gz"."""
    packed = len(Path(name).suffix) if Path(name.lower()).suffix in PACKED else 0
    return name[: len(name) - packed - len(kind_of(name))]


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file, none if it is empty.

    Raises:
        InputError: the file cannot be read, or is no file of rows; the message says what to do.
    """
    try:
        yield from _read(path)
    except EOFError:
        raise InputError(f"{path}: the gzip file is cut short; copy or download it again") from None
    except zlib.error as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); copy or download it again") from None
    except OSError as error:  # includes pyarrow's own errors
        more = " (the file is cut short; copy or download it again)" if "runcated" in str(error) else ""
        raise InputError(f"{path}: cannot be read: {error.strerror or first_line(error)}{more}") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a valid {kind_of(path.name)[1:]} file: {first_line(error)}") from None


def _read(path: Path) -> Iterator[Row]:
    def open_file() -> BinaryIO:
        return _unpacked(path)

    with open_file() as stream:
        start = stream.read(512)
    if not start:
        return
    for magic, what in NOT_ROWS.items():
        if start.startswith(magic):
            raise InputError(f"{path}: this is {what}")
    if start[257:262] == b"ustar":
        raise InputError(f"{path}: this is a tar archive: unpack it into a directory, and name the directory")
    kind = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), kind_of(path.name))
    if kind in (".csv", ".tsv", ".parquet", ".arrow") and _is_json(open_file):
        kind = ".json"
    if kind in (".csv", ".tsv"):
        with open_file() as stream:
            yield from read_csv(str(path), stream, "\t" if kind == ".tsv" else ",")
    elif kind in (".parquet", ".arrow"):
        with _seekable(path) as file:
            yield from read_arrow(str(path), file, kind == ".parquet")
    elif kind:
        yield from read_json(str(path), open_file, kind in (".jsonl", ".ndjson"))
    else:
        raise InputError(_unknown(path, open_file))


def _packing(path: Path) -> str:
    """ "gzip", "zstd" or "": what is around a file. The content tells, not the name."""
    with path.open("rb") as file:
        magic = file.read(4)
    return "gzip" if magic[:2] == b"\x1f\x8b" else "zstd" if magic == b"\x28\xb5\x2f\xfd" else ""


def _unpacked(path: Path) -> BinaryIO:
    """The content of a file in a stream, without the gzip or zstd around it."""
    packing = _packing(path)
    if packing == "gzip":
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, gzip.open(path)), BLOCK))
    if packing == "zstd":
        import pyarrow

        return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), BLOCK))
    return path.open("rb", BLOCK)


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """The content of a file with access to all of it: what is packed is unpacked to the disk."""
    with _unpacked(path) as stream:
        if not _packing(path):
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, BLOCK)
            copy.seek(0)
            yield cast(BinaryIO, copy)


def _is_json(open_file: Callable[[], BinaryIO]) -> bool:
    """Whether the content begins as JSON does: with an object, or with a list of objects or lists."""
    with open_file() as stream:
        start = stream.read(BLOCK).removeprefix(b"\xef\xbb\xbf")
    return re.match(rb"\s*(\[\s*[{\[]|\{\s*\")", start) is not None


def _unknown(path: Path, open_file: Callable[[], BinaryIO]) -> str:
    """Why a file without a known suffix is not read."""
    suffix = "".join(path.suffixes[-2:]) if path.suffix.lower() in PACKED else path.suffix
    if _is_json(open_file):
        return f"{path}: unknown kind of file {suffix!r}; its content looks like JSON: rename it to .jsonl"
    return (
        f"{path}: unknown kind of file {suffix!r}; known are {', '.join(KINDS)}, each also with {' or '.join(PACKED)} behind it"
    )

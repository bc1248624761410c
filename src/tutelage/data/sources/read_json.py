"""Rows of JSON text, in a stream: JSON lines, one list of rows, or one object. The content tells which, not the file's name."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from tutelage.data.sources.rows import Row, json_row
from tutelage.data.sources.twice import decoded, noticed
from tutelage.errors import InputError

CHUNK = 1 << 20
LOOKED_AT = 10
"""A file whose first lines are all broken, so many of them, is taken to be no JSON lines."""
LONGEST_LOOK = 1 << 20
"""Bytes of a line that are read to find out what a file is."""
PYTHON_DICT = re.compile(rb"\{\s*'")
BEYOND = re.compile(r"[ \t\r\n\ufeff]*")
UNREADABLE = (ValueError, RecursionError)  # also an integer of thousands of digits, brackets thousands deep

Open = Callable[[], BinaryIO]


def read_json(name: str, open_file: Open, is_lines: bool) -> Iterator[Row]:
    """The rows of JSON text.

    Args:
        name: of the file, for `Row.source` and messages.
        open_file: opens the unpacked file at its beginning.
        is_lines: a single line that holds an object is a row (a file named .jsonl), not a wrapper of a list (.json).

    Raises:
        InputError: the text is no JSON, or an object with several lists.
    """
    try:
        form = _form(open_file, is_lines)
        with open_file() as stream:
            if form == "lines":
                rows = _read_lines(name, stream)
            elif form == "object":
                rows = _read_object(name, _Text(stream), open_file)
            else:
                rows = _read_values(name, _Text(stream), form == "list")
            yield from noticed(name, rows)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name}: not valid JSON: {error.msg} at line {error.lineno} column {error.colno}; mend the file"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text; save the file as UTF-8") from None
    except RecursionError:
        raise InputError(f"{name}: not readable JSON: its brackets are nested too deep; mend the file") from None
    except InputError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"{name}: not readable JSON: {error}; mend the file") from None


def is_json(line: bytes, kind: type = dict) -> bool:
    """Whether a line is a JSON object, or a value of another kind."""
    with suppress(*UNREADABLE):
        return isinstance(json.loads(line.decode()), kind)
    return False


def full_lines(stream: BinaryIO, limit: int = -1) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream that are not empty, with their index from 1, without byte-order marks and line ends."""
    for index, line in enumerate(iter(lambda: stream.readline(limit), b""), 1):
        stripped = line.removeprefix(b"\xef\xbb\xbf").strip()
        if stripped:
            yield index, stripped


def _form(open_file: Open, is_lines: bool) -> str:
    """ "lines", "list", "object", or "values" (several objects over several lines each).

    Raises:
        JSONDecodeError, RecursionError: it is none of them.
    """
    with open_file() as stream:
        lines = full_lines(stream, LONGEST_LOOK)
        _, first = next(lines, (0, b""))
        if first[:1] not in (b"[", b"{"):
            return "lines"
        if is_json(first):
            return "lines" if is_lines or next(lines, None) else "object"
        if is_json(first, list) and next(lines, None):
            return "lines"
    try:
        with open_file() as stream:
            text = _Text(stream)
            if first[:1] == b"[":
                next(text.items(), None)
                return "list"
            text.peek()
            begin = text.line()
            _outline(text)
            end = text.line()
            return "object" if not text.peek() else "values" if end > begin else "lines"
    except UNREADABLE:
        with open_file() as stream:
            look = [line for (_, line), _ in zip(full_lines(stream, LONGEST_LOOK), range(LOOKED_AT), strict=False)]
        if is_lines or PYTHON_DICT.match(first) or any(map(is_json, look)):
            return "lines"
        raise


# ---- JSON lines


def _read_lines(name: str, stream: BinaryIO) -> Iterator[Row]:
    """One row a line. A broken line is that row's problem, unless the first lines are all broken."""
    held: list[tuple[Row, bytes]] | None = []
    for index, line in full_lines(stream):
        row = _parse(f"{name}:{index}", line)
        if held is None:
            yield row
        elif row.problem:
            held.append((row, line))
            if len(held) == LOOKED_AT:
                raise InputError(_no_json(name, held))
        else:
            yield from (broken for broken, _ in held)
            yield row
            held = None
    if held and not any(line.startswith(b"{") and not PYTHON_DICT.match(line) for _, line in held):
        raise InputError(_no_json(name, held))
    yield from (broken for broken, _ in held or ())


def _parse(source: str, line: bytes) -> Row:
    try:
        value = decoded(line.decode())
    except UnicodeDecodeError as error:
        return Row(source, {}, f"not UTF-8 text at byte {error.start} of the line")
    except json.JSONDecodeError as error:
        return Row(source, {}, f"not valid JSON ({error.msg} at column {error.colno})")
    except UNREADABLE as error:
        return Row(source, {}, f"not readable JSON ({error})")
    return json_row(source, value)


def _no_json(name: str, held: list[tuple[Row, bytes]]) -> str:
    """What a file seems to be whose lines are no rows."""
    first, line = held[0]
    start = line[:300].decode(errors="replace").partition("\r")[0]
    count = "its only line is no row" if len(held) == 1 else f"the first {len(held)} lines are no rows"
    said = f"{name}: expected a list of rows, or one JSON object a line, but {count} ({first.source}: {first.problem})"
    if start.startswith("["):
        return f"{said}. Each line is a list: write each row as an object with keys"
    if PYTHON_DICT.match(line):
        return f"{said}. The lines look like Python's dicts: write each of them with json.dumps"
    if start.startswith('"{'):
        return f"{said}. Each line is a text that holds JSON: write the object itself"
    if line.endswith(b"},"):
        return f"{said}. Each line ends in a comma: remove it, or write [ before the first row and ] after the last"
    if start.startswith("<"):
        return f"{said}. The file looks like a web page or XML: download the data itself"
    for mark, kind in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        cells = next(csv.reader([start], delimiter=mark), [])
        if len(cells) > 1 and all(len(cell) < 60 for cell in cells) and not start.startswith("{"):
            return f"{said}. The file looks like a table with the columns {', '.join(cells)}: rename it to .{kind}"
    return f"{said}. Write one JSON object a line"


# ---- one JSON value, read piece by piece


class _Text:
    """A window on JSON text: values are decoded one after the other, and text that was decoded is let go."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.decoder = stream, codecs.getincrementaldecoder("utf-8-sig")()
        self.window, self.at, self.ended = "", 0, False
        self.lines, self.column = 0, 0  # of the text before the window: line ends, characters since the last of them

    def more(self) -> bool:
        """Lengthens the window, at least to twice what is not decoded yet. False: the text has ended."""
        gone, rest = self.window[: self.at], self.window[self.at :]
        self.column = len(gone) - gone.rfind("\n") - 1 + (0 if "\n" in gone else self.column)
        self.lines += gone.count("\n")
        read = self.stream.read(max(CHUNK, len(rest)))
        self.window, self.at, self.ended = rest + self.decoder.decode(read, final=not read), 0, not read
        return bool(read)

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            beyond = BEYOND.match(self.window, self.at)
            self.at = beyond.end() if beyond else self.at
            if self.at < len(self.window):
                return self.window[self.at]
            if not self.more():
                return ""

    def take(self, *expected: str) -> str:
        """The next character, one of those expected."""
        found = self.peek()
        if found not in expected or not found:
            raise self.error(f"expected {' or '.join(expected)}" if found else "the text ends too early", self.at)
        self.at += 1
        return found

    def line(self) -> int:
        """The line ends before the next character."""
        return self.lines + self.window.count("\n", 0, self.at)

    def error(self, message: str, at: int) -> json.JSONDecodeError:
        """An error at an index of the window, with line and column in the text."""
        error = json.JSONDecodeError(message, self.window, at)
        error.colno += 0 if "\n" in self.window[:at] else self.column
        error.lineno += self.lines
        return error

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = decoded(self.window, self.at)
            except json.JSONDecodeError as error:
                # an error near the end of the window may come from the cut
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.window) - 16
                beyond = error.pos - self.at
                if not (cut and self.more()):
                    raise self.error(error.msg, self.at + beyond) from None
            else:
                length = end - self.at
                if end < len(self.window) or self.ended or not self.more():  # a number may go on behind the window
                    self.at += length
                    return value

    def items(self) -> Iterator[Any]:
        """The items of the list that begins next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        yield self.value()
        while self.take(",", "]") == ",":
            yield self.value()

    def rest(self) -> Iterator[Any]:
        """The values up to the end."""
        while self.peek():
            yield self.value()

    def keys(self) -> Iterator[str]:
        """The keys of the object that begins next; the caller takes each key's value."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                raise self.error("expected a key in double quotes", self.at)
            key = self.value()
            self.take(":")
            yield key
            if self.take(",", "}") == "}":
                return


def _read_values(name: str, text: _Text, is_list: bool) -> Iterator[Row]:
    """The objects of a list, or those that stand one after the other."""
    values = text.items() if is_list else text.rest()
    yield from (json_row(f"{name}:row {index}", value) for index, value in enumerate(values, 1))
    if text.peek():
        raise text.error("more text after the end of the list", text.at)


def _outline(text: _Text) -> dict[str, bool]:
    """For each key of the next object that holds a list: whether the list may be one of rows."""
    lists = {}
    for key in text.keys():  # noqa: SIM118, no dict
        if text.peek() == "[":
            rows = True
            for item in text.items():
                rows = rows and isinstance(item, dict) and not _is_turn(item)
            lists[key] = rows
        else:
            text.value()
    return lists


def _is_turn(item: dict[str, Any]) -> bool:
    return {"role", "content"} <= item.keys() or {"from", "value"} <= item.keys()


def _is_frame(value: dict[str, Any]) -> bool:
    """Whether an object is a data frame as pandas writes it by default: the rows' indices are keys."""
    if not all(isinstance(item, dict) and item for item in value.values()):
        return False
    return all(map(str.isdigit, value)) or all(key.isdigit() for item in value.values() for key in item)


def _read_object(name: str, text: _Text, open_file: Open) -> Iterator[Row]:
    """The rows of the object's only list; an object without a list of rows is itself a row."""
    with open_file() as stream:
        lists = _outline(_Text(stream))
    if len(lists) > 1:
        keys = ", ".join(lists)
        raise InputError(
            f"{name}: expected a list of rows, or an object that holds one list; this object holds the lists {keys}:"
            f" write the list of {next(iter(lists))!r}, or of whichever holds the rows, to a file of its own"
        )
    if not any(lists.values()):
        value = text.value()
        if _is_frame(value):
            raise InputError(
                f'{name}: expected a list of rows; this is a table by columns: write it with orient="records", lines=True'
            )
        yield json_row(f"{name}:row 1", value)
        return
    for key in text.keys():  # noqa: SIM118
        if key in lists:
            yield from (json_row(f"{name}:row {index}", value) for index, value in enumerate(text.items(), 1))
        else:
            text.value()

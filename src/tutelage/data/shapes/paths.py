"""What a value of `data.columns` reads from a row: a path into it, or a text with paths in braces.

``a.b``, ``messages[-1].content`` and ``generations[0]`` are one value; ``generations[*]`` is one of each item.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.data.shapes.parsed import BadRow, holds, text_of
from tutelage.errors import InputError

EACH = "*"
"""The step of a path that takes each item of a list."""


@dataclass(frozen=True)
class Path:
    """A path into a row. A key that literally holds dots, spaces or brackets is found before any step is taken apart."""

    text: str
    steps: tuple[str | int, ...]

    @property
    def each(self) -> bool:
        """Whether the path has a value for each item of a list."""
        return EACH in self.steps

    def read(self, row: Mapping[str, Any]) -> Any:
        """The value there; of a path with ``[*]``, the list of its values.

        Raises:
            BadRow: a component is missing; the message names the path and the keys there.
        """
        if self.text in row:
            return row[self.text]
        return self._walk(row, self.steps)

    def root(self, row: Mapping[str, Any]) -> str:
        """The row's own column that the path begins with."""
        if self.text in row or not self.steps:
            return self.text
        joined = next((key for key, _ in _literal(row, self.steps)), None)
        return joined if joined is not None else str(self.steps[0])

    def _walk(self, value: Any, steps: tuple[str | int, ...]) -> Any:
        for index, step in enumerate(steps):
            value = unpacked(value)
            if step == EACH:
                return [self._walk(each, steps[index + 1 :]) for each in self._list(value)]
            if isinstance(step, int):
                items = self._list(value)
                if not -len(items) <= step < len(items):
                    raise BadRow(f"{self.text!r} (from data.columns) wants item {step} of a list of {len(items)}")
                value = items[step]
            elif isinstance(value, Mapping) and step in value:
                value = value[step]
            else:
                for key, rest in _literal(value, steps[index:]):
                    return self._walk(value[key], rest)
                raise BadRow(f"column {self.text!r} (from data.columns) is not in this row; {_keys(value, index)}")
        return value

    def _list(self, value: Any) -> Sequence[Any]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise BadRow(f"{self.text!r} (from data.columns) wants an item of a list, but finds {type(value).__name__}")
        return value


@dataclass(frozen=True)
class Column:
    """What a field is read from: one path, or texts and paths in turn that are joined."""

    text: str
    parts: tuple[str | Path, ...]

    @property
    def paths(self) -> list[Path]:
        return [part for part in self.parts if isinstance(part, Path)]

    @property
    def each(self) -> bool:
        return any(path.each for path in self.paths)

    def read(self, row: Mapping[str, Any], blank: bool = False) -> Any:
        """The value; of a column with ``[*]``, the list of its values, in which a `BadRow` stands for an item that cannot be read.

        Args:
            blank: whether a column within a text may hold nothing.

        Raises:
            BadRow: a path is not there, lists are of several lengths, or a column within a text holds nothing.
        """
        if len(self.parts) == 1 and isinstance(self.parts[0], Path):
            return self.parts[0].read(row)
        found = [part.read(row) if isinstance(part, Path) else part for part in self.parts]
        if not self.each:
            return self._join(found, blank)
        lists = [value for part, value in zip(self.parts, found, strict=True) if isinstance(part, Path) and part.each]
        length = in_step(lists, self.text)
        each = [isinstance(part, Path) and part.each for part in self.parts]
        rows = ([value[index] if many else value for many, value in zip(each, found, strict=True)] for index in range(length))
        return [self._try(values, blank) for values in rows]

    def _try(self, values: list[Any], blank: bool) -> str | BadRow | None:
        try:
            return self._join(values, blank)
        except BadRow as problem:
            return problem

    def _join(self, values: list[Any], blank: bool) -> str | None:
        texts = []
        for part, value in zip(self.parts, values, strict=True):
            if isinstance(part, Path) and not blank and not holds(value):
                raise BadRow(f"{part.text} is empty, and {self.text!r} wants it")
            texts.append(text_of(value, part.text) if isinstance(part, Path) else str(part))
        empty = [not text for part, text in zip(self.parts, texts, strict=True) if isinstance(part, Path)]
        joined = "".join(texts)
        return None if empty and all(empty) else joined.strip() if any(empty) else joined


def in_step(lists: Sequence[Sequence[Any]], what: str) -> int:
    """The length that all lists have.

    Raises:
        BadRow: their lengths differ.
    """
    lengths = sorted({len(each) for each in lists})
    if len(lengths) != 1:
        raise BadRow(f"{what}: the lists that [*] runs over have {' and '.join(map(str, lengths))} items")
    return lengths[0]


def column_of(text: str, setting: str) -> Column:
    """What a value of `data.columns` reads.

    Args:
        setting: the dotted name of the setting, for messages.

    Raises:
        InputError: it is no path, or its braces can be meant in two ways.
    """
    if "{" not in text and "}" not in text:
        return Column(text, (path_of(text, setting),))
    parts: list[str | Path] = []
    plain, index = "", 0
    while index < len(text):
        braced = _BRACED.match(text, index)
        if text[index : index + 2] in ("{{", "}}"):
            plain, index = plain + text[index], index + 2
        elif braced:
            if re.search(r"\\[A-Za-z]+$", plain):
                raise InputError(
                    f"{setting} = {text!r}: {{{braced[1]}}} behind a LaTeX command is text or a column; write {{{{{braced[1]}}}}} for"
                    f" the text, {{{{{{{braced[1]}}}}}}} for the column in braces"
                )
            parts += [plain, path_of(braced[1], setting)]
            plain, index = "", braced.end()
        else:
            plain, index = plain + text[index], index + 1
    parts.append(plain)
    made = Column(text, tuple(part for part in parts if part != ""))
    if not made.paths:
        raise InputError(f"{setting} = {text!r}: no column stands in its braces, as in {{question}}")
    return made


def path_of(text: str, setting: str) -> Path:
    """A path, taken apart.

    Raises:
        InputError: it is empty, or has ``[*]`` twice.
    """
    if not text.strip():
        raise InputError(f"{setting} is empty: name a column, or leave the setting out")
    if text.count("[*]") > 1:
        raise InputError(f"{setting} = {text!r}: [*] may stand once in a path")
    steps: list[str | int] = []
    for name, inside in re.findall(r"([^.\[\]]+)|\[(-?\d+|\*)\]", text):
        steps.append(name if name else EACH if inside == "*" else int(inside))
    return Path(text, tuple(steps))


def unpacked(value: Any) -> Any:
    """Lists of NumPy as lists; a table of columns, as some tools write lists of records, as a list of records."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value


_BRACED = re.compile(r"\{([^\W\d][\w .\-]*(?:\[(?:-?\d+|\*)\][\w .\-]*)*)\}")


def _literal(value: Any, steps: tuple[str | int, ...]) -> list[tuple[str, tuple[str | int, ...]]]:
    """(key, the steps behind it) of the longest key that some first steps spell together."""
    if not isinstance(value, Mapping):
        return []
    for count in range(len(steps), 0, -1):
        key = ".".join(map(str, steps[:count]))
        if key in value:
            return [(key, steps[count:])]
    return []


def _keys(value: Any, depth: int) -> str:
    if not isinstance(value, Mapping):
        return f"it finds {type(value).__name__} there"
    return f"{'its keys are' if depth == 0 else 'the keys there are'} {sorted(map(str, value))}"

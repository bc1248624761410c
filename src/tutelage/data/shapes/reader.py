"""How rows are read: `reader_of` decides by the first rows of a source how all of its rows are; `Reader.read` says what a row says.

Rows are recognised by the names of their columns (`names.py`); `data.columns` or a function of the user's own read any other row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tutelage.config import LARGEST_WEIGHT, LEAST_WEIGHT, Source
from tutelage.data.shapes.messages import content_of, is_messages
from tutelage.data.shapes.own import Own, load_shape
from tutelage.data.shapes.parsed import BadRow, Found, Parsed, Purpose, holds, said_in, stands_in
from tutelage.data.shapes.paths import Column, Path, column_of, path_of
from tutelage.data.shapes.questions import Seen, ask_of, ask_which_work, wants_columns
from tutelage.data.shapes.recognise import Facts, facts_of, is_context, rest_of, way_of
from tutelage.data.shapes.references import first_reference
from tutelage.data.shapes.unknown import no_shape
from tutelage.data.shapes.ways import Conversation, Mapped, Named, Way, is_true
from tutelage.data.sources import Row
from tutelage.errors import InputError

LOOKED_AT = 200
"""The first rows of a source, by which it is decided how all are read."""


@dataclass(frozen=True)
class Reader:
    """How the rows of a source are read.

    Attributes:
        way: how all rows are read; None: each by the names of its columns and by `facts`.
        where: the path of `data.where`, if it has no ``[*]``.
        setting: the section of the configuration that messages name.
        weight: the path of what a row counts in the loss; None: one.
    """

    way: Way | None
    facts: Facts
    purpose: Purpose
    where: Path | None = None
    setting: str = "data"
    weight: Path | None = None
    _ways: dict[tuple[str, ...], Way | None] = field(default_factory=dict, compare=False, repr=False)

    def read(self, row: Row) -> list[Parsed]:
        """What a row says: usually one `Parsed`, one for each item where a column has ``[*]``.

        A row that cannot be read is a `Parsed` with its fault.
        """
        if row.problem:
            return [Parsed(row.source, fault=row.problem)]
        value = row.value
        try:
            if self.where is not None and not self._keeps(value, self.where):
                return [Parsed(row.source, left_out=f'{self.setting}.where = "{self.where.text}"')]
            way, found = self.find(value)
            self._refuse_half_read(way, value, found)
            if self.weight is not None:
                found = self._weighed(self.weight, value, found)
        except BadRow as problem:
            return [Parsed(row.source, fault=str(problem))]
        if len(found) == 1 and not _has_items(way):
            return [Parsed(row.source, **found[0])]
        return [Parsed(f"{row.source}[{index}]", **self._named(item)) for index, item in enumerate(found)]

    def find(self, row: Mapping[str, Any]) -> tuple[Way, list[Found]]:
        """(the way that reads a row, what it finds).

        Raises:
            BadRow: the row cannot be read.
        """
        way = self.way or self._way_of(row)
        if way is None:
            raise BadRow(no_shape(row))
        found = way.read(row)
        for path in (each for each in (self.where, self.weight) if each is not None):
            root = path.root(row)
            for item in found:
                item["unread"] = tuple(name for name in item.get("unread", ()) if name != root)
        return way, found

    def _way_of(self, row: Mapping[str, Any]) -> Way | None:
        """By the columns that are not null; by all of them where those alone do not tell a work."""
        way = self._by_names(tuple([name for name, value in row.items() if value is not None]))
        if way is None or (isinstance(way, Named) and not way.work):
            way = self._by_names(tuple(row)) or way
        return way

    def _by_names(self, names: tuple[str, ...]) -> Way | None:
        if names not in self._ways:
            self._ways[names] = way_of(names, self.facts, self.purpose)
        return self._ways[names]

    def _keeps(self, row: Mapping[str, Any], where: Path) -> bool:
        try:
            value = where.read(row)
        except BadRow:
            return False
        return is_true(value, where.text)

    def _weighed(self, path: Path, row: Mapping[str, Any], found: Sequence[Found]) -> list[Found]:
        """What was found, with its weight; an item that counts nothing is left out. Raises BadRow: a weight is none."""
        setting = f'{self.setting}.weight = "{path.text}"'
        try:
            value = path.read(row)
        except BadRow:
            raise BadRow(f"{setting}: the row has no such column") from None
        values = value if path.each else [value] * len(found)
        if len(values) != len(found):
            raise BadRow(f"{setting}: it has {len(values)} items, where {len(found)} rows are made of this one")
        return [
            item if item.get("fault") or item.get("left_out") else item | _weight_found(each, setting)
            for each, item in zip(values, found, strict=True)
        ]

    def _refuse_half_read(self, way: Way, row: Mapping[str, Any], found: Sequence[Found]) -> None:
        """Raises BadRow for what a row holds beside its way, and the first rows did not: another conversation, a context."""
        if isinstance(way, Named) and way.twin and not self.purpose.problems and way.differs(row):
            raise BadRow(f"{way.twin} says something else than {way.prompt} and {way.work}: name one of them in {self.setting}.columns")
        if isinstance(way, Named | Conversation) and self.way is None:
            for name in found[0]["unread"]:
                if is_context(name, "") and not stands_in(row[name], said_in(found[0])):
                    raise BadRow(f"{name} holds something that nothing reads: join it to the prompt in {self.setting}.columns")

    def _named(self, found: Found) -> Found:
        if found.get("left_out") is True:
            where = next((way.where for way in [self.way] if isinstance(way, Mapped)), None)
            return {"left_out": f'{self.setting}.where = "{where.text if where else ""}"'}
        return found


def reader_of(
    source: Source,
    head: Sequence[Row],
    problems: bool = False,
    reward: str = "r1_zero",
    setting: str = "data",
    weight: str | None = None,
) -> Reader:
    """How the rows of a source are read, decided by its first rows.

    Args:
        head: the first `LOOKED_AT` rows of the source.
        problems: the rows are validation problems: they need no response, and works are not read.
        reward: the grader, as `eval.reward`: its form of an answer is written into responses that are made of several columns.
        setting: the section of the configuration that messages name.
        weight: the column or path that says what a row counts in the loss; None: each row counts one.

    Raises:
        InputError: rows can be read in two ways, or in none; the message has the lines to write.
    """
    reader = _unweighed(source, head, problems, reward, setting)
    if weight is None:
        return reader
    path = path_of(weight, f"{setting}.weight")
    _check_there(path, [row.value for row in head if not row.problem], setting, "weight")
    if path.each and not (reader.way is not None and _has_items(reader.way)):
        raise InputError(f'{setting}.weight = "{weight}" has [*], but no value of {setting}.columns has it')
    return replace(reader, weight=path)


def _unweighed(source: Source, head: Sequence[Row], problems: bool, reward: str, setting: str) -> Reader:
    """`reader_of` without a weight."""
    purpose = Purpose(problems, reward)
    rows = [row.value for row in head if not row.problem]
    where = path_of(source.where, f"{setting}.where") if source.where is not None else None
    if where is not None:
        _check_there(where, rows, setting, "where")
    facts = facts_of(rows)
    outer = where if where is not None and not where.each else None
    if source.shape != "auto":
        load_shape(source.shape)
        return Reader(Own(source.shape, purpose), facts, purpose, _no_items(where, setting, "a function of a row"), setting)
    columns = {str(name): column_of(text, f"{setting}.columns.{name}") for name, text in source.columns.items()}
    asked = {name: column for name, column in columns.items() if not (problems and name == "response")}
    seen = Seen(source.path, setting, purpose, rows, facts)
    if asked and (not problems or not rows or _fit(asked, rows)):
        mapped = _mapped(columns, where, seen)
        talks = "prompt" in asked and any(is_messages(row.get(asked["prompt"].text)) for row in rows)
        if not problems and "response" not in asked and not talks and len(mapped.rest["response"]) > 1:
            raise InputError(ask_which_work(asked, mapped.rest["response"], seen))
        return Reader(mapped, facts, purpose, outer, setting)
    if asked and not any(way_of(tuple(row), facts, purpose) for row in rows):
        raise InputError(wants_columns(seen, asked))
    reader = Reader(None, facts, purpose, _no_items(where, setting, f"no {setting}.columns"), setting)
    if rows:
        first = next(row.source for row in head if not row.problem)
        question = ask_of(seen, reader.find)
        if question:
            raise InputError(f"{first}: {question}")
    return reader


def _mapped(columns: Mapping[str, Column], where: Path | None, seen: Seen) -> Mapped:
    asked = {name: column for name, column in columns.items() if not (seen.purpose.problems and name == "response")}
    each = where if where is not None and where.each else None
    if not any(column.each for column in asked.values()):
        _no_items(each, seen.setting, f"no value of {seen.setting}.columns")
    names = tuple(dict.fromkeys(name for row in seen.rows for name in row))
    paths = [path for column in columns.values() for path in column.paths]
    taken = {path.root(row) for path in paths for row in seen.rows[:1]}
    return Mapped(tuple(asked.items()), rest_of(names, taken, seen.facts), each, seen.purpose)


def _no_items(where: Path | None, setting: str, which: str) -> Path | None:
    if where is not None and where.each:
        raise InputError(f'{setting}.where = "{where.text}" selects items of a list, but {which} has [*] of its own')
    return where


def _check_there(path: Path, rows: Sequence[Mapping[str, Any]], setting: str, key: str) -> None:
    if rows and not any(path.root(row) in row for row in rows):
        keys = sorted({key for row in rows for key in row})
        raise InputError(f'{setting}.{key} = "{path.text}": no such column in the first rows; their keys are {keys}')


def _weight_found(value: Any, setting: str) -> Found:
    """The weight of a row; of one that counts nothing, why it is left out; of one whose weight is none, its fault."""
    try:
        weight = weight_of(value, setting)
    except BadRow as problem:
        return {"fault": str(problem)}
    return {"weight": weight} if weight else {"left_out": f"{setting}: it counts 0"}


def weight_of(value: Any, setting: str) -> float:
    """What a row counts in the loss. Raises BadRow: it is no number from 0 to `LARGEST_WEIGHT`, or too small to count.

    Args:
        setting: what names it, for messages.
    """
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if weight == 0 or LEAST_WEIGHT <= weight <= LARGEST_WEIGHT:
        return weight
    hint = "; write 1 for a row that counts as any other, 0 for one that is left out" if not holds(value) else ""
    raise BadRow(f"{setting}: {value!r} is no weight: 0, or a number from {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g}{hint}")


def _fit(columns: Mapping[str, Column], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some row has all columns that a mapping begins with."""
    paths = [path for column in columns.values() for path in column.paths]
    return any(all(path.root(row) in row for path in paths) for row in rows)


def _has_items(way: Way) -> bool:
    return isinstance(way, Mapped) and any(column.each for _, column in way.columns)


def build_text_pairs(example: dict[str, Any]) -> dict[str, Any]:
    """The specification's pairs of a message row.

    Args:
        example: ``{"messages": [{"role": "user", "content", "info": {"reference_answer"}}, {"role": "assistant", "content"}]}``.

    Returns:
        ``{"prompt": user content, "response": assistant content, "reference": the reference answer}``, None where there is none.
        The reference is taken from the user's ``info``, else from the assistant's, else from the row.

    Raises:
        BadRow: a message is missing or malformed.
    """
    messages = example.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BadRow("messages is not a list")
    by_role: dict[str, dict[str, Any]] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"messages[{index}] has no role")
        if message["role"] in by_role and message["role"] in ("user", "assistant"):
            raise BadRow(f"messages has more than one {message['role']} turn; a prompt and a response are one of each")
        by_role[message["role"]] = message
    lost = next((role for role, message in by_role.items() if role not in ("user", "assistant") and holds(message.get("content"))), None)
    if lost is not None:
        raise BadRow(f"messages has a {lost} turn, which a prompt and a response do not tell")
    user, assistant = by_role.get("user"), by_role.get("assistant", {})
    if user is None:
        raise BadRow("messages has no user turn")
    reference = first_reference(user.get("info"), assistant.get("info"), user, example.get("info"), example, assistant)
    return {"prompt": content_of(user, "user"), "response": content_of(assistant, "assistant"), "reference": reference}

"""Ways to read a row: by the names of its columns, as a conversation, by `data.columns`, by a function of the user's own.

Each way has ``read(row)``: what the row says as fields of `Parsed`, one dict for each item; a row that it cannot read is a `BadRow`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.data.shapes.messages import Turn, is_messages, is_pair, messages_in, tools_of, turns_of, unread_fields
from tutelage.data.shapes.names import kind_of
from tutelage.data.shapes.own import Own
from tutelage.data.shapes.parsed import BadRow, Found, Purpose, holds, text_of, unread
from tutelage.data.shapes.paths import Column, Path, in_step
from tutelage.data.shapes.references import checked_reference, message_reference, row_reference
from tutelage.data.shapes.works import LONG, is_marked, is_work, response_of
from tutelage.grading import Reference

WITHOUT = "so the row is a problem without its work"


@dataclass(frozen=True)
class Named:
    """Columns of known names.

    Attributes:
        work: "": the row's answer is its work, if it shows that it is one.
        references: columns of reference answers, the likeliest first.
        twin: a conversation that says the same as prompt and work.
        known: columns that are read, or that a problem does not need.
        thought: whether the work is a thought alone, by its name.
        verbatim: whether the response is the work as it is.
    """

    prompt: str
    work: str
    references: tuple[str, ...]
    twin: str
    known: frozenset[str]
    thought: bool
    verbatim: bool
    purpose: Purpose

    def read(self, row: Mapping[str, Any]) -> list[Found]:
        prompt = text_of(row[self.prompt], "prompt")
        if not prompt or prompt.isspace():
            raise BadRow(_empty("prompt", self.prompt, row))
        work, column = self.work_of(row)
        references = self.references if column == self.work else tuple(name for name in self.references if name != column)
        reference, holder = row_reference(row, references, work)
        used = self.known if not holder and column == self.work else self.known | {holder, column}
        found = {"prompt": prompt, "response": "", "reference": reference, "unread": unread(row, used)}
        if self.purpose.problems:
            return [found]
        if not work or work.isspace():
            raise BadRow(_empty("response", self.work, row) if self.work else _no_work(row, references))
        answer = ""
        if self.thought and self.references and not is_marked(work):
            answer = self._answer(row, reference)
        found["response"] = work if self.verbatim else response_of(work, answer, self.thought, self.purpose.reward)
        return [found]

    def differs(self, row: Mapping[str, Any]) -> bool:
        """Whether the conversation beside prompt and work says something else."""
        prompt, work = row.get(self.prompt), row.get(self.work)
        return holds(row.get(self.twin)) and not says_the_same(row[self.twin], str(prompt), str(work))

    def work_of(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """(the work, its column)."""
        if self.work:
            value = row.get(self.work)
            if self.purpose.problems and not isinstance(value, str):
                return "", self.work
            return text_of(value, "response" if self.verbatim else self.work), self.work
        for column in self.references:
            value = row.get(column)
            if isinstance(value, str) and is_work(value):
                return text_of(value, column), column
        return "", ""

    def _answer(self, row: Mapping[str, Any], reference: Reference) -> str:
        """What stands behind a thought: the reference, or an answer of so many words that it is none."""
        if reference:
            return reference if isinstance(reference, str) else reference[0]
        long = next((str(row[name]) for name in self.references if isinstance(row.get(name), str) and len(row[name]) >= LONG), "")
        if not long:
            raise BadRow(f"{self.work} is a thought, and the row has no answer to stand behind it")
        return long.strip()


@dataclass(frozen=True)
class Conversation:
    """A column of messages, and maybe one of the completion, of the system's turn, of the tools."""

    column: str
    completion: str
    system: str
    tools: str
    references: tuple[str, ...]
    known: frozenset[str]
    purpose: Purpose

    def read(self, row: Mapping[str, Any]) -> list[Found]:
        messages = list(messages_in(row[self.column], self.column))
        turns = turns_of(messages, self.column)
        if self.completion and not self.purpose.problems:
            turns += _completion(row.get(self.completion), self.completion)
        if self.system and holds(row.get(self.system)):
            turns = _with_system(turns, text_of(row[self.system], self.system), self.system)
        tools = tools_of(row.get(self.tools), self.tools) if self.tools else ()
        found = conversation(turns, self.column, self.purpose, plain=not tools) | {"tools": tools}
        value, holder = message_reference(row, messages)
        reference = checked_reference(value) if value is not None else ""
        if not reference:
            reference, holder = row_reference(row, self.references, found["response"])
        used = self.known if not holder else self.known | {holder}
        found["reference"] = reference
        found["unread"] += unread_fields(messages, self.column) + unread(row, used)
        return [found]


@dataclass(frozen=True)
class Mapped:
    """Columns that `data.columns` names; fields that it leaves out are recognised by names (`rest`).

    Attributes:
        where: the path of `data.where`, if it has ``[*]``.
    """

    columns: tuple[tuple[str, Column], ...]
    rest: Mapping[str, tuple[str, ...]]
    where: Path | None
    purpose: Purpose

    def read(self, row: Mapping[str, Any]) -> list[Found]:
        columns = dict(self.columns)
        values = {field: column.read(row, blank=field == "prompt") for field, column in self.columns}
        for field in ("prompt", "response"):
            if field not in columns:
                values[field] = next((row[name] for name in self.rest[field] if holds(row.get(name))), None)
        lists = {field: values[field] for field, column in columns.items() if column.each}
        keeps = self.where.read(row) if self.where else None
        used = frozenset(path.root(row) for column in columns.values() for path in column.paths)
        used |= {name for field in self.rest for name in self.rest[field][:1] if field not in columns}
        used |= {self.where.root(row)} if self.where else set()
        if self.purpose.problems:
            used |= {name for name in row if kind_of(name) == "work"}
        if not lists:
            return [self._one(row, values, used)]
        length = in_step([*lists.values(), *([keeps] if keeps is not None else [])], " and ".join(lists))
        if length == 0:
            raise BadRow(f"{' and '.join(columns[field].text for field in lists)} has no items")
        items: list[Found] = []
        for index in range(length):
            item = {field: values[field][index] if field in lists else value for field, value in values.items()}
            if keeps is not None and not is_true(keeps[index], str(self.where and self.where.text)):
                items.append({"left_out": True})
                continue
            try:
                items.append(self._one(row, item, used))
            except BadRow as problem:
                items.append({"fault": str(problem)})
        return items

    def _one(self, row: Mapping[str, Any], values: Mapping[str, Any], used: frozenset[str]) -> Found:
        for value in values.values():
            if isinstance(value, BadRow):
                raise value
        prompt, response = values["prompt"], values["response"]
        if is_messages(prompt) or is_messages(response):
            found = self._conversation(prompt, response)
        else:
            prompt, response = text_of(prompt, "prompt"), "" if self.purpose.problems else text_of(response, "response")
            if not prompt.strip():
                raise BadRow("prompt is empty or missing")
            if not self.purpose.problems and not response.strip():
                raise BadRow("response is empty or missing")
            found = {"prompt": prompt, "response": response, "unread": ()}
        if "reference" in values:
            found["reference"] = checked_reference(values["reference"])
        else:
            found["reference"], holder = row_reference(row, self.rest["reference"], found["response"])
            used = used | {holder}
        return found | {"unread": found["unread"] + unread(row, used)}

    def _conversation(self, prompt: Any, response: Any) -> Found:
        turns = turns_of(prompt, "prompt") if is_messages(prompt) else [{"role": "user", "content": text_of(prompt, "prompt")}]
        if "response" in dict(self.columns) and not self.purpose.problems:
            turns += _completion(response, "response")
        return conversation(turns, "prompt", self.purpose)


Way = Named | Conversation | Mapped | Own


def conversation(turns: Sequence[Turn], column: str, purpose: Purpose, plain: bool = True) -> Found:
    """What turns say: prompt and response alone where that is all, else the turns as messages.

    Args:
        plain: there is nothing beside the turns, such as tools, so that prompt and response alone may be all.

    Raises:
        BadRow: there is no user's turn, or nothing to learn.
    """
    turns = list(turns)
    left = len(turns)
    while left and (turns[left - 1]["role"] == "assistant") == purpose.problems:
        left -= 1
    behind, turns = turns[left:], turns[:left]
    if not any(turn["role"] == "user" for turn in [*turns, *behind]):
        raise BadRow(f"{column} has no user turn")
    if not turns:
        asks = f"{column} has no user turn"
        raise BadRow(asks if purpose.problems else f"response is empty or missing: {column} has no assistant's turn, {WITHOUT}")
    if not purpose.problems and not any(turn.get("train", True) for turn in turns if turn["role"] == "assistant"):
        raise BadRow(f"no turn of {column} is trained (train, weight)")
    asked = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")
    simple = is_pair(turns) if not purpose.problems else len(turns) == 1 and set(turns[0]) == {"role", "content"}
    return {
        "prompt": asked,
        "response": "" if purpose.problems else turns[-1]["content"],
        "messages": () if simple and plain else tuple(turns),
        "unread": (f"{column}[-1]",) if behind and not purpose.problems else (),
    }


def says_the_same(messages: Any, prompt: str, work: str) -> bool:
    """Whether messages are just this prompt and this work."""
    try:
        turns = turns_of(messages, "messages")
    except BadRow:
        return False
    return is_pair(turns) and [turn["content"].strip() for turn in turns] == [prompt.strip(), work.strip()]


def is_true(value: Any, path: str) -> bool:
    """Whether `data.where` keeps what has this value.

    Raises:
        BadRow: it is neither true nor false.
    """
    if isinstance(value, str):
        said = value.strip().lower()
        if said in ("true", "1", "yes"):
            return True
        if said in ("", "false", "0", "no", "none", "null"):
            return False
    elif value is None or isinstance(value, int | float) or type(value).__name__ in ("bool_", "bool"):
        return bool(value == value and value)
    raise BadRow(f"data.where = {path!r}: {value!r} is neither true nor false")


def _completion(value: Any, column: str) -> list[Turn]:
    if is_messages(value):
        return turns_of(value, column)
    text = text_of(value, column)
    if not text.strip():
        raise BadRow("response is empty or missing")
    return [{"role": "assistant", "content": text}]


def _with_system(turns: list[Turn], text: str, column: str) -> list[Turn]:
    if turns and turns[0]["role"] in ("system", "developer"):
        if turns[0]["content"].strip() != text.strip():
            raise BadRow(f"{column} and the first turn are two system turns that differ")
        return turns
    return [{"role": "system", "content": text}, *turns]


def _empty(field: str, column: str, row: Mapping[str, Any]) -> str:
    said = f"{column} is null" if column in row and row[column] is None else f"{field} is empty or missing"
    return said if field == column or said.endswith("null") else f"{said} (column {column})"


def _no_work(row: Mapping[str, Any], references: Sequence[str]) -> str:
    answer = next((name for name in references if holds(row.get(name))), None)
    if answer is None:
        empty = next((name for name in references if name in row), None)
        if empty and row[empty] is None:
            return f"{empty} is null"
        columns = ", ".join(map(str, row))
        return f"response is empty or missing: of the columns {columns}, data.columns can name the one that is the response"
    beside = f": {answer} is an answer, {WITHOUT}" if answer.endswith(("answer", "solution")) else ""
    return f"response is empty or missing{beside}"

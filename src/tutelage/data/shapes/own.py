"""A shape of the user's own: the function of a row that `data.shape` names."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.config import load_plug_in
from tutelage.data.shapes.parsed import FIELDS, BadRow, Found, Purpose, text_of, unread
from tutelage.data.shapes.references import checked_reference
from tutelage.errors import InputError

Shape = Callable[[dict[str, Any]], Mapping[str, Any] | None]
"""A function of a row: its prompt, response and reference; None leaves the row out."""


class Watched(dict[str, Any]):
    """A row that notes which of its keys were asked for; what takes it as a whole asks for all of them."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.asked: set[str] = set()
        self.all = False

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.asked.add(key)
        return super().pop(key, *default)

    def __repr__(self) -> str:
        self.all = True
        return super().__repr__()


def _all_of(name: str) -> Callable[..., Any]:
    def method(self: Watched, *arguments: Any) -> Any:
        self.all = True
        return getattr(dict, name)(self, *arguments)

    return method


for _name in ("__iter__", "keys", "items", "values", "copy", "popitem", "__or__", "__ror__", "__eq__"):
    setattr(Watched, _name, _all_of(_name))



@dataclass(frozen=True)
class Own:
    """A function of the user's own, by name; each process loads it for itself. Whatever it raises is that row's fault."""

    name: str
    purpose: Purpose

    def __reduce__(self) -> Any:
        return Own, (self.name, self.purpose)

    @functools.cached_property
    def function(self) -> Shape:
        return load_shape(self.name)

    def read(self, row: Mapping[str, Any]) -> list[Found]:
        return read_by(self.function, row, self.purpose)


def load_shape(name: str) -> Shape:
    """The function that `data.shape` names.

    Raises:
        InputError: it names no function.
    """
    shape: Shape = load_plug_in("data.shape", name)
    if not callable(shape):
        raise InputError(f'data.shape = "{name}": this is {type(shape).__name__}, not a function of a row')
    return shape


def read_by(function: Shape, row: Mapping[str, Any], purpose: Purpose) -> list[Found]:
    """What a function says of a row.

    Raises:
        BadRow: the function raises, or returns something else than texts of prompt, response and reference.
    """
    watched = Watched(copy.deepcopy(dict(row)))  # what the filter keeps is the row as it was
    try:
        found = function(watched)
    except ValueError as error:
        raise BadRow(str(error) or "data.shape refuses it") from None
    except Exception as error:
        raise BadRow(f"data.shape raises {type(error).__name__}: {error}") from None
    if found is None:
        return [{"left_out": "the function of data.shape returns None"}]
    if not isinstance(found, Mapping) or not set(found) <= set(FIELDS):
        what = f"the keys {sorted(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise BadRow(f"data.shape returns {what}, and should return a dict of {', '.join(FIELDS)}")
    texts = {field: text_of(found.get(field), field) for field in ("prompt", "response")}
    for field in ("prompt",) if purpose.problems else ("prompt", "response"):
        if not texts[field].strip():
            raise BadRow(f"{field} is empty or missing")
    left = unread(row, watched.asked if not watched.all else frozenset(row))
    return [{**texts, "reference": checked_reference(found.get("reference")), "unread": left}]



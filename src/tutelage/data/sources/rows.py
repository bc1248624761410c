"""One raw row, in values that JSON has."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NATIVE = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Row:
    """One raw row. `problem` says why it is not a row at all (then `value` is empty)."""

    source: str
    value: dict[str, Any]
    problem: str = ""


class NotPlain(ValueError):
    """A value that JSON cannot hold; the message names the column."""


def json_row(source: str, value: Any) -> Row:
    """The row of a JSON value."""
    return Row(source, value) if isinstance(value, dict) else row_of(source, value)


def row_of(source: str, value: Any) -> Row:
    """The row of a value as it was read: a dict in values that JSON has, or a row with a problem."""
    if not isinstance(value, Mapping):
        return Row(source, {}, f"a row is an object with keys, this is {type(value).__name__}")
    try:
        return Row(source, plain(value, ""))
    except NotPlain as problem:
        return Row(source, {}, str(problem))


def plain(value: Any, column: str) -> Any:
    """`value` in dicts, lists and what JSON has: decimals and dates become text, bytes become the text that they encode.

    Args:
        column: the path of the value in its row, for messages.

    Raises:
        NotPlain: bytes that are no UTF-8 text, or a value of another kind, such as an image.
    """
    if type(value) in NATIVE:
        return value
    if isinstance(value, Mapping):
        return _plain_dict(value, column)
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise NotPlain(
                f"column {column!r} holds bytes that are no UTF-8 text (byte {error.start}); leave the column out"
            ) from None
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{column}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, decimal.Decimal):
        # an exponent of zero is a whole number; the digits of any other stay as they were written ("0.10")
        return int(value) if value.is_finite() and value.as_tuple().exponent == 0 else format(value, "f")
    if isinstance(value, (datetime.date, datetime.time)):  # includes datetime
        return value.isoformat() if value == value else None  # a missing date of a data frame differs from itself
    if isinstance(value, (datetime.timedelta, uuid.UUID)):
        return str(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # NumPy's scalars and arrays
        return plain((value.astype(str) if value.dtype.kind in "mM" else value).tolist(), column)
    raise NotPlain(f"column {column!r} holds {type(value).__name__}, of which no text is made; leave the column out")


def _plain_dict(value: Mapping[Any, Any], column: str) -> dict[str, Any]:
    made = {}
    for key, item in value.items():
        name = key if isinstance(key, str) else str(plain(key, column))
        if name in made:
            raise NotPlain(f"column {column!r} has the key {name!r} twice; keep one of them")
        made[name] = plain(item, f"{column}.{name}" if column else name)
    return made


def merged(pairs: Sequence[tuple[Any, Any]], column: str) -> dict[str, Any]:
    """The dict of a map's pairs. Raises NotPlain: a key stands there twice."""
    made: dict[str, Any] = {}
    for key, item in pairs:
        name = str(plain(key, column))
        if name in made:
            raise NotPlain(f"column {column!r} has the key {name!r} twice; keep one of them")
        made[name] = item
    return made

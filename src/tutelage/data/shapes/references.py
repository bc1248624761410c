"""Where a row holds its reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.data.shapes.names import REFERENCE
from tutelage.data.shapes.parsed import BadRow, holds, text_of
from tutelage.data.shapes.works import answer_in, split_final
from tutelage.grading import Reference, reference_of

HOLDERS = ("info", "reward_model", "extra_info", "metadata", "meta")
"""Columns that may hold a reference answer within."""
WITHIN = REFERENCE[: REFERENCE.index("target")]


def first_reference(*holders: Any) -> Any:
    """The first value that says something under the name of a reference answer; None if none does."""
    found = (each[key] for each in holders if isinstance(each, Mapping) for key in WITHIN if holds(each.get(key)))
    return next(found, None)


def row_reference(row: Mapping[str, Any], columns: Sequence[str], work: str) -> tuple[Reference, str]:
    """(the reference of a row, the column that it was found in if that is none of `columns`)."""
    for name in columns:
        value = row.get(name)
        if value is not None and (reference := checked_reference(value)):
            return reference, name
    for name in HOLDERS:
        value = first_reference(row[name]) if isinstance(row.get(name), Mapping) else None
        if value is not None and (reference := checked_reference(value)):
            return reference, name
    return answer_in(work), ""


def checked_reference(value: Any) -> Reference:
    if isinstance(value, str):
        if "####" in value and (split := split_final(value)):
            value = split.final
        text_of(value, "reference")
        if not holds(value):
            return ""
    elif isinstance(value, float) and value != value:
        return ""
    try:
        return reference_of(value)
    except ValueError as error:
        raise BadRow(str(error)) from None


def message_reference(row: Mapping[str, Any], messages: Sequence[Any]) -> tuple[Any, str]:
    """The reference of the specification's rows: the user's ``info``, the assistant's, the user's message, the row's ``info``, the
    assistant's message; and the column that holds it."""
    said = {}
    for message in messages:
        if isinstance(message, Mapping):
            said[str(message.get("role") or message.get("from"))] = message
    user, assistant = said.get("user", {}), said.get("assistant", {})
    value = first_reference(user.get("info"), assistant.get("info"), user)
    if value is not None:
        return value, ""
    value = first_reference(row.get("info"))
    if value is not None:
        return value, "info"
    return (None if first_reference(row) is not None else first_reference(assistant)), ""

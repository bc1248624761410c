"""Rows of Parquet and Arrow files, batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from tutelage.data.sources.rows import NotPlain, Row, merged, row_of
from tutelage.errors import InputError, first_line

ROWS_AT_ONCE = 1_000
BUFFER = 1 << 20  # bytes of a column that are read at once: a row group may be larger than memory
UNREADABLE = (ArithmeticError, ValueError, NotImplementedError, ImportError)
"""Raised for what Python has no value for, such as a date in the year 20,000."""


def read_arrow(name: str, file: BinaryIO, is_parquet: bool) -> Iterator[Row]:
    """The rows of a Parquet file, or of an Arrow file or stream.

    Args:
        name: of the file, for `Row.source` and messages.

    Raises:
        InputError: two columns have the same name.
    """
    index = 0
    for batch in _batches(file, is_parquet):
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise InputError(
                f"{name}: two columns have the name {next(key for key in names if names.count(key) > 1)!r}; rename one"
            )
        as_it_is = all(map(_is_native, batch.schema.types))
        for value in _values(batch):
            index += 1
            source = f"{name}:row {index}"
            if isinstance(value, str):
                yield Row(source, {}, value)
            else:
                yield Row(source, value) if as_it_is else row_of(source, value)


def _batches(file: BinaryIO, is_parquet: bool) -> Iterator[Any]:
    """Record batches of at most `ROWS_AT_ONCE` rows."""
    if is_parquet:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER) as table:
            yield from table.iter_batches(ROWS_AT_ONCE)
        return
    import pyarrow

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    if is_stream:
        with pyarrow.ipc.open_stream(file) as reader:
            yield from (part for batch in reader for part in _parts(batch))
    else:
        with pyarrow.ipc.open_file(file) as reader:
            yield from (part for index in range(reader.num_record_batches) for part in _parts(reader.get_batch(index)))


def _parts(batch: Any) -> Iterator[Any]:
    return (batch.slice(begin, ROWS_AT_ONCE) for begin in range(0, batch.num_rows, ROWS_AT_ONCE))


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch as dicts; for a row that Python has no value for, the reason."""
    guides = {field.name: field.type for field in batch.schema if _has_a_guide(field.type)}
    try:
        values = batch.to_pylist()
    except UNREADABLE:
        if batch.num_rows == 1:
            yield _reason(batch)
            return
        for index in range(batch.num_rows):
            yield from _values(batch.slice(index, 1))
        return
    for value in values:
        try:
            yield value | {key: _guided(value[key], guide, key) for key, guide in guides.items()} if guides else value
        except NotPlain as problem:
            yield str(problem)


def _reason(row: Any) -> str:
    """Why a row cannot be read, with its column."""
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            column.to_pylist()
        except UNREADABLE as error:
            return f"column {name!r} cannot be read: {first_line(error)}; leave the column out"
    return "the row cannot be read"


def _is_native(kind: Any) -> bool:
    """Whether the values of an Arrow type are values that JSON has."""
    import pyarrow

    types = pyarrow.types
    if types.is_struct(kind):
        return all(_is_native(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_native(kind.value_type)
    simple = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    return any(is_such(kind) for is_such in simple)


def _has_a_guide(kind: Any) -> bool:
    """Whether the values of an Arrow type are to be read by it: maps come as pairs, JSON as text."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return any(_has_a_guide(kind.field(index).type) for index in range(kind.num_fields))
    if pyarrow.types.is_map(kind) or str(kind).startswith("extension<arrow.json"):
        return True
    return hasattr(kind, "value_type") and not pyarrow.types.is_dictionary(kind) and _has_a_guide(kind.value_type)


def _guided(value: Any, kind: Any, column: str) -> Any:
    """A value with its maps as dicts and its JSON read."""
    import pyarrow

    if value is None or not _has_a_guide(kind):
        return value
    if pyarrow.types.is_map(kind):
        return merged([(key, _guided(item, kind.item_type, column)) for key, item in value], column)
    if pyarrow.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return {field.name: _guided(value[field.name], field.type, f"{column}.{field.name}") for field in fields}
    if hasattr(kind, "value_type"):
        return [_guided(item, kind.value_type, column) for item in value]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise NotPlain(f"column {column!r} holds JSON that cannot be read") from None

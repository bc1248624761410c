"""Rows of CSV and TSV, in a stream: the first row names the columns, every cell is text."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from tutelage.data.sources.rows import Row
from tutelage.errors import InputError

LONGEST_NAME = 100
LONGEST_CELL = 2**31 - 1
DELIMITERS = (",", "\t", ";")


def read_csv(name: str, stream: BinaryIO, delimiter: str) -> Iterator[Row]:
    """The rows of a table. Empty cells are left out; a row with too many cells has a problem.

    Args:
        name: of the file, for `Row.source` and messages.
        delimiter: where it divides nothing in the first row, another that does is taken.

    Raises:
        InputError: the first row cannot be names of columns, or quotes do not match.
    """
    csv.field_size_limit(LONGEST_CELL)  # 131,072 characters otherwise, less than a long trace
    begin = 1  # the line where the row begins
    columns: list[str] = []
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            while first.isspace():
                begin, first = begin + 1, text.readline()
            if delimiter not in first:
                delimiter = max((delimiter, *DELIMITERS), key=first.count)
            empty_lines, reader = begin - 1, csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
            for cells in reader:
                if any(map(str.strip, cells)) and not columns:
                    columns = _columns(name, cells)
                elif any(map(str.strip, cells)):
                    yield _row(f"{name}:{begin}", columns, cells)
                begin = empty_lines + reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{name}:{begin}: not a valid row of a table: {error}; put a cell with quotes or line ends into double quotes,"
            " and write each quote within it twice"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text near line {begin}; save the file as UTF-8") from None


def _columns(name: str, cells: list[str]) -> list[str]:
    """The names of the columns."""
    columns = [cell.strip() or f"column {index}" for index, cell in enumerate(cells, 1)]
    odd = [column for column in columns if len(column) > LONGEST_NAME or "\n" in column or re.fullmatch(r"[-+]?[\d.,]+", column)]
    if odd:
        raise InputError(
            f"{name}: the first row must name the columns, but {odd[0][:LONGEST_NAME]!r} looks like data; put a row such as"
            " question,answer before it"
        )
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"{name}: the first row names the column {twice[0]!r} twice; rename one of them")
    return columns


def _row(source: str, columns: list[str], cells: list[str]) -> Row:
    if any(cells[len(columns) :]):
        return Row(
            source, {}, f"{len(cells)} cells under {len(columns)} columns; put a cell that holds a delimiter into double quotes"
        )
    return Row(source, {column: cell for column, cell in zip(columns, cells, strict=False) if cell})

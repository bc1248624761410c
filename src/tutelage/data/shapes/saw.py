"""What a look at the first rows shows: the columns that are read, in words, and what columns of unknown names probably hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from tutelage.data.shapes.names import PROMPT, REFERENCE, WORK, is_about
from tutelage.data.shapes.parsed import FIELDS, BadRow, holds
from tutelage.data.shapes.reader import Reader
from tutelage.data.shapes.recognise import held_by, ranked
from tutelage.data.shapes.references import row_reference
from tutelage.data.shapes.ways import Conversation, Mapped, Named, Way
from tutelage.data.shapes.works import boxed, is_bare, split_final
from tutelage.data.sources import Row

END = 80
"""Characters at the end of a worked solution in which its answer is looked for."""
SHARE = 0.5
"""A column is taken to hold something if so many of its values look like it."""


def columns_seen(reader: Reader, rows: Sequence[Row]) -> dict[str, str]:
    """What prompt, response and reference are read from, in words, in most of the rows; fields that nothing gives are left out."""
    said: dict[str, Counter[str]] = {field: Counter() for field in FIELDS}
    for row in rows:
        if row.problem:
            continue
        try:
            way, found = reader.find(row.value)
        except BadRow:
            continue
        for field, words in _words(way, row.value, found[0].get("reference", "")).items():
            said[field][words] += 1
    return {field: counts.most_common(1)[0][0] for field, counts in said.items() if counts}


def columns_by_content(rows: Sequence[Mapping[str, Any]], problems: bool) -> dict[str, str]:
    """What columns of unknown names probably hold, by what stands in them; fields for which no column is likely are left out.

    The response is the longest text, the reference a short value that stands at its end, the prompt the longest text that is left.
    A known name counts more than what stands in the column.

    Args:
        problems: the rows have no response.
    """
    values = {name: held for name, held in held_by(rows).items() if all(isinstance(value, str | int | float) for value in held)}
    texts = {name: median(map(len, map(str, held))) for name, held in values.items() if any(isinstance(each, str) for each in held)}
    differ = {name: length for name, length in texts.items() if len(set(values[name])) >= SHARE * len(values[name])}
    texts = differ if len(differ) > (not problems) else texts
    short = [name for name, held in values.items() if sum(map(is_bare, held)) >= SHARE * len(held) and not is_about(name)]
    found = {} if problems else {"response": _named(texts, "work", WORK) or _longest(texts, short)}
    response = found.get("response", "")
    asks = {name: length for name, length in texts.items() if name != response}
    found["prompt"] = _named(asks, "prompt", PROMPT) or _longest(asks, short) or _longest(asks, [])
    left = [name for name in short if name not in found.values()]
    ends = [name for name in left if problems or _stands_at_the_end(rows, name, response)]
    found["reference"] = _named([name for name in values if name not in found.values()], "reference", REFERENCE) or next(iter(ends), "")
    return {field: found[field] for field in FIELDS if found.get(field)}


def _named(names: Iterable[str], kind: str, known: tuple[str, ...]) -> str:
    """The likeliest column of a known name; "" where none has one."""
    return next(iter(ranked(names, kind, known)), "")


def _longest(lengths: Mapping[str, float], without: Sequence[str]) -> str:
    return max((name for name in lengths if name not in without and not is_about(name)), key=lambda name: lengths[name], default="")


def _stands_at_the_end(rows: Sequence[Mapping[str, Any]], name: str, work: str) -> bool:
    """Whether a column's value stands at the end of the worked solution in at least half of the rows."""
    each = [(str(row[name]).strip(), str(row[work])[-END:]) for row in rows if holds(row.get(name)) and holds(row.get(work))]
    return bool(each) and sum(value in end for value, end in each) >= SHARE * len(each)


def _words(way: Way, row: Mapping[str, Any], reference: Any) -> dict[str, str]:
    work = column = ""
    if isinstance(way, Mapped):
        named = {field: path.text for field, path in way.columns}
        rest = {field: next((name for name in names if holds(row.get(name))), "") for field, names in way.rest.items()}
        words = {**rest, **named}
        column = words.get("response", "")
        work = str(row.get(column, ""))
        words |= {} if "reference" in named else {"reference": ""}
    elif isinstance(way, Named):
        work, column = way.work_of(row)
        words = {"prompt": way.prompt, "response": column}
    elif isinstance(way, Conversation):
        words = {"prompt": f"the turns of {way.column}", "response": way.completion or f"the assistant's turns of {way.column}"}
    else:
        return dict.fromkeys(FIELDS if reference else FIELDS[:2], f"the function {way.name}")
    if way.purpose.problems:
        words.pop("response", None)
    if reference and not words.get("reference"):
        words["reference"] = _holder(way, row, work, column)
    return {field: text for field, text in words.items() if text and (field != "reference" or reference)}


def _holder(way: Mapped | Named | Conversation, row: Mapping[str, Any], work: str, column: str) -> str:
    """Where the reference answer of a row stands."""
    columns = way.rest["reference"] if isinstance(way, Mapped) else way.references
    name = row_reference(row, tuple(each for each in columns if each != column), work)[1]
    if name:
        return f"#### in {name}" if split_final(str(row.get(name, ""))) else name
    if boxed(work):
        return f"\\boxed{{}} in {column or 'the response'}"
    if work and split_final(work):
        return f"#### in {column or 'the response'}"
    return "the turns"

"""What `tutelage init` finds out from the rows of the data: how they are read, and which grader reads their answers."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.config import Source, inline
from tutelage.data import LOOKED_AT, Parsed, Reader, Row, columns_by_content, columns_seen, iter_rows, likely_columns, reader_of
from tutelage.errors import InputError
from tutelage.grading import boxed_answer, tagged_answer

COUNTED = 20_000
"""Rows among which references are counted; those behind are only counted themselves."""
GRADERS = ("r1_zero", "question_only")
ENOUGH = 0.9
"""A way to read rows is taken if it reads this share of them."""
FIELDS = {"prompt": "question", "response": "worked solution", "reference": "reference answer"}
NO_ANSWERS = (
    "most responses have neither <think>…</think> <answer>…</answer> nor \\boxed{}: a model that learns them will not give answers"
    " that the grader finds"
)
BOX = "\n\n\\boxed{{{"
"""How a column is written behind another one, in a box, in `data.columns`."""
WRITE_BOXES = "data.columns.response = '{SOLUTION}\\n\\n\\boxed{{{ANSWER}}}' writes the reference answer behind each solution"


@dataclass(frozen=True)
class Look:
    """What a look at a source of rows shows.

    Attributes:
        columns: that the rows need in the configuration; {}: they are recognised by their names.
        seen: what each field is read from, in words.
        count: of all rows; counted: how many of them were read; references, without: how many of those have a reference answer, and
            have none though they can be read.
        parsed: the first rows that can be read, for each grader.
        faults: of the first rows.
    """

    source: str
    columns: dict[str, str]
    seen: dict[str, str]
    count: int
    counted: int
    references: int
    without: int
    parsed: dict[str, list[Parsed]]
    faults: list[str]

    def __str__(self) -> str:
        """``mine.jsonl: 300 rows, 300 with a reference answer; prompt = question, response = solution, reference = gold``."""
        what = "problem" if "response" not in self.seen else "row"
        rows = f"{self.count:,} {what}{'' if self.count == 1 else 's'}"
        among = f"of the first {self.counted:,}, " if self.counted < self.count else ""
        read = ", ".join(f"{field} = {words}" for field, words in self.seen.items()).replace("\n", "\\n")
        return f"{self.source}: {rows}, {among}{self.references:,} with a reference answer; {read}"

    def as_columns(self) -> dict[str, str]:
        """What is read as `data.columns` say it; {} where it is not read from columns alone."""
        return self.seen if all(re.fullmatch(r"[\w.-]+", text) for text in self.seen.values()) else {}


@dataclass(frozen=True)
class Guess:
    """The settings of [data] that rows want, the grader, and why, line by line."""

    settings: dict[str, Any]
    reward: str
    notes: list[str]


class UnknownColumns(InputError):
    """Rows whose columns are of no known names, or can be meant in several ways.

    Attributes:
        question: what is not known.
        likely: what the columns probably hold.
        options: the ways to mean them, in words, each with its columns; [] where the names are not known.
    """

    def __init__(self, question: str, flags: str, likely: dict[str, str], options: list[tuple[str, dict[str, str]]]) -> None:
        super().__init__(f"{question}\n{flags}")
        self.question, self.likely, self.options = question, likely, options


def look(source: str, columns: Mapping[str, str] | None = None, problems: bool = False, **options: Any) -> Look:
    """Look at the rows of a source, as training reads them.

    Args:
        source: as `data.train`.
        columns: as `data.columns`; None: found out.
        problems: the rows are validation problems.
        options: more fields of a `Source`.

    Raises:
        UnknownColumns: the rows can be read in several ways, or in none.
        InputError: nothing is there, most of the rows are malformed, or no problem has a reference answer.
    """
    setting = "data.validation" if problems else "data"
    options = {"split": "test" if problems else "train", **options}
    rows = iter_rows(source, options["split"], options.get("hub_config"))
    head = list(itertools.islice(rows, LOOKED_AT))
    named = dict(columns or {})

    def readers_of() -> dict[str, Reader]:
        read = Source(path=source, columns=named, **options)
        return {reward: reader_of(read, head, problems, reward, setting) for reward in GRADERS}

    def parsed_by(readers: Mapping[str, Reader]) -> dict[str, list[Parsed]]:
        return {reward: [each for row in head for each in of.read(row)] for reward, of in readers.items()}

    try:
        readers = readers_of()
    except InputError as error:
        values = [row.value for row in head if not row.problem]
        named = likely_columns(values, problems) if columns is None else {}
        if not any("." in named.get(field, "") for field in ("prompt", "response")):
            raise _unknown(error, source, values, problems) from None
        readers = readers_of()
    parsed = parsed_by(readers)
    boxes = "" if problems or columns else _answer_behind(columns_seen(readers["r1_zero"], head), parsed)
    if boxes:
        named = columns_seen(readers["r1_zero"], head) | {"response": boxes}
        readers = readers_of()
        parsed = parsed_by(readers)
    faults = [f"{each.source}: {each.fault}" for each in parsed["r1_zero"] if each.fault]
    if len(faults) > (1 - ENOUGH) * len(parsed["r1_zero"]):
        raise InputError(f"{faults[0]}; {len(faults)} of the first {len(head)} rows cannot be read; mend them, or name their columns")
    count, counted, references, without = _counted(readers["r1_zero"], head, rows)
    if problems and not references:
        raise InputError(f"{source}: no problem there has a reference answer, so nothing can be graded; its columns are {_keys(head)}")
    read = {reward: [each for each in found if not each.fault] for reward, found in parsed.items()}
    return Look(source, named, columns_seen(readers["r1_zero"], head), count, counted, references, without, read, faults)


def guess(seen: Look, instruct: bool) -> Guess:
    """The settings that rows want.

    Args:
        instruct: the model answers chats: rows without tags become chats, and are graded by the box.
    """
    reward = _grader(seen.parsed, instruct)
    rows = seen.parsed["r1_zero"]
    settings: dict[str, Any] = {"columns": seen.columns} if seen.columns else {}
    notes = []
    if seen.faults:
        notes.append(f"{len(seen.faults)} of the first {len(rows) + len(seen.faults)} rows are malformed ({seen.faults[0]}) and skipped")
        settings["on_bad_row"] = "skip"
    if seen.references == 0:
        notes.append("no row has a reference answer, so nothing is filtered by correctness")
    elif seen.without:
        notes.append(f"{seen.without:,} rows have no reference answer: they are left out, and counted")
    if unread := list(dict.fromkeys(name for each in rows for name in each.unread)):
        notes.append(f"nothing reads {', '.join(unread)}")
    if reward is None:
        hint = f": {WRITE_BOXES}" if seen.references else ""
        notes.append(NO_ANSWERS + hint)
    if BOX in seen.columns.get("response", ""):
        notes.append("the solutions show no answer of their own, so the reference answer is written behind each, in \\boxed{}")
    settings["filter"] = reward is not None and seen.references > 0
    chats = any(each.messages for each in rows)
    grader = reward or ("question_only" if instruct else "r1_zero")
    settings["prompt"] = "chat" if chats or (instruct and grader == "question_only") else grader
    form = {"r1_zero": "<answer> tags", "question_only": "\\boxed{}"}[grader]
    asked = "the model's chat template" if settings["prompt"] == "chat" else f'the prompt "{settings["prompt"]}"'
    why = " (the rows are conversations)" if chats else " (it is an instruct model)" if settings["prompt"] == "chat" else ""
    notes.append(f"problems are asked in {asked}{why}, and answers are looked for in {form}")
    return Guess(settings, grader, notes)


def _counted(reader: Reader, head: Sequence[Row], rest: Iterable[Row]) -> tuple[int, int, int, int]:
    """(all rows, those that were read, those of them with a reference answer, those that can be read and have none)."""
    count = counted = references = without = 0
    for row in itertools.chain(head, rest):
        count += 1
        if count <= COUNTED:
            counted += 1
            read = [each for each in reader.read(row) if not each.fault and not each.left_out]
            references += any(each.reference for each in read)
            without += bool(read) and not any(each.reference for each in read)
    return count, counted, references, without


def _answer_behind(seen: Mapping[str, str], parsed: Mapping[str, list[Parsed]]) -> str:
    """The response with the reference answer behind it, as `data.columns` write it, where solutions show no answer and rows have one.

    "" where that is not so, or the fields are not columns of their own.
    """
    columns = [seen.get(field, "") for field in FIELDS]
    shows = max(_share(parsed["r1_zero"], tagged_answer), _share(parsed["question_only"], boxed_answer)) >= 0.5
    if shows or not all(re.fullmatch(r"[\w.-]+", column) for column in columns):
        return ""
    references = sum(bool(each.reference) for each in parsed["r1_zero"])
    return f"{{{columns[1]}}}{BOX}{columns[2]}}}}}}}" if references > len(parsed["r1_zero"]) / 2 else ""


def _unknown(error: InputError, source: str, rows: Sequence[Mapping[str, Any]], problems: bool) -> UnknownColumns:
    """The error with the flags that decide."""
    reason, setting = str(error), "data.validation.columns" if problems else "data.columns"
    options = [] if "of no known shape" in reason or "neither the columns" in reason else _options(reason)
    if options:
        likely = options[0][1]
        flags = f"--{setting} {shlex.quote(inline(likely))}" if "\n" in "".join(likely.values()) else ""
        flags = flags or " ".join(f"--{setting}.{field} {shlex.quote(text)}" for field, text in likely.items())
        return UnknownColumns(reason, f"As flags, the first of these is:\n  {flags}", likely, options)
    likely = columns_by_content(rows, problems)
    keys = list(dict.fromkeys(str(key) for row in rows for key in row))
    wanted = [field for field in FIELDS if not (problems and field == "response")]
    flags = " ".join(f"--{setting}.{field} {shlex.quote(likely.get(field, 'COLUMN'))}" for field in wanted)
    meant = ", ".join(f"{likely[field]} is the {FIELDS[field]}" for field in wanted if field in likely)
    probably = f"If {meant}, add" if meant else "Name them, for instance with"
    question = f"{source}: its columns {', '.join(keys)} have no names that are known"
    return UnknownColumns(question, f"{probably}:\n  {flags}", likely, [])


def _options(question: str) -> list[tuple[str, dict[str, str]]]:
    """The ways to mean columns that a question to the user shows, each in words and as `data.columns`.

    Ways that need more settings than columns are left out.
    """
    found, words = [], "so"
    lines = question.splitlines()
    for line, behind in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("# "):
            words = line.removeprefix("# ")
        elif line.startswith("columns = ") and not behind.startswith("where") and "…" not in line:
            found.append((words, tomllib.loads(line)["columns"]))
    return found


def _keys(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(str(key) for row in rows for key in row.value))


def _grader(parsed: Mapping[str, list[Parsed]], instruct: bool) -> str | None:
    """The grader that finds an answer in most responses; None where neither does.

    A base model learns tags, also where responses get them only by the way that rows are read; an instruct model keeps its boxes.
    """
    tagged = _share(parsed["question_only" if instruct else "r1_zero"], tagged_answer)
    boxed = _share(parsed["question_only"], boxed_answer)
    if max(tagged, boxed) < 0.5:
        return None
    return "r1_zero" if tagged >= boxed else "question_only"


def _share(parsed: Sequence[Parsed], answer: Callable[[str], str | None]) -> float:
    return sum(answer(each.response) is not None for each in parsed) / max(1, len(parsed))

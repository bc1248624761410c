"""The filter: rows are kept whose worked solution is right, by the grader, against their reference."""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from tutelage import console
from tutelage.data.ledger import SKIP, Example, Fate, check_malformed, summary
from tutelage.data.parts import Added
from tutelage.data.recipe import LEFT_OUT, MALFORMED, Made
from tutelage.data.shapes import Parsed, Reader
from tutelage.data.sources import Row
from tutelage.data.templates import in_the_form_of, plain
from tutelage.errors import InputError
from tutelage.grading import (
    Verdict,
    VerdictCache,
    answer_of,
    boxed_answer,
    grade_all,
    grade_responses,
    grader_version,
    tagged_answer,
)
from tutelage.machines import cache_directory, is_worker, run_map

GRADED_AT_ONCE = 512
"""Rows that are graded together; their verdicts are kept together."""
WAVE = 64
"""Where a cluster grades, the rows on their way at once are this many times as many."""


def judge(
    examples: Sequence[Example],
    style: str = "r1_zero",
    cache: VerdictCache | None = None,
    on_graded: Callable[[int], None] = lambda count: None,
    where: str = "local",
    grade_pairs: Callable[..., list[Verdict]] = grade_all,
) -> Iterator[tuple[Example, str, Verdict]]:
    """(example, fate, verdict) of each worked solution against its reference, graded on all cores or over a cluster.

    The fates: kept, no reference, wrong format, wrong answer, undecided.

    Args:
        style: the grader, as `eval.reward`.
        on_graded: called with how many more are done.
        where: who grades, as `fanout.run_map`.
        grade_pairs: what grades on this machine, as `grade_all`.
    """
    unknown = Verdict(None, "reference", "the row has no reference answer to compare with")
    at_once = _graded_at_once(where)
    grade_pairs = grade_pairs if where == "local" else functools.partial(_grade_over, where)
    for start in range(0, len(examples), at_once):
        chunk = examples[start : start + at_once]
        pairs = [(example.response, example.reference) for example in chunk if example.reference]
        on_graded(len(chunk) - len(pairs))
        try:
            verdicts = iter(grade_responses(pairs, style, cache, on_graded, grade_pairs))
        except sqlite3.Error as error:
            console.say(f"verdicts are not kept from here on: {error}")
            cache = None
            verdicts = iter(grade_responses(pairs, style, grade_pairs=grade_pairs))
        for example in chunk:
            verdict = next(verdicts) if example.reference else unknown
            yield example, _fate(verdict), verdict


def _graded_at_once(where: str) -> int:
    return GRADED_AT_ONCE * (1 if where == "local" else WAVE)


def _grade_over(
    where: str,
    pairs: Sequence[tuple[str, str]],
    known: Mapping[tuple[str, str], Verdict] | None = None,
    on_graded: Callable[[int], None] = lambda count: None,
) -> list[Verdict]:
    """`grade_all` by the workers of a cluster, each on the core that it was given."""
    verdicts = dict(known or {})
    left = [pair for pair in dict.fromkeys(pairs) if pair not in verdicts]
    jobs = [left[start : start + GRADED_AT_ONCE] for start in range(0, len(left), GRADED_AT_ONCE)]
    on_graded(len(pairs) - len(left))
    for job, found in zip(jobs, run_map(functools.partial(grade_all, workers=1), jobs, where), strict=True):
        verdicts.update(zip(job, found, strict=True))
        on_graded(len(job))
    return [verdicts[pair] for pair in pairs]


def _fate(verdict: Verdict) -> str:
    if verdict.equal:
        return "kept"
    if verdict.layer == "reference":
        return "no reference"
    return "undecided" if verdict.equal is None else "wrong format" if verdict.layer == "format" else "wrong answer"


@contextlib.contextmanager
def verdict_cache() -> Iterator[VerdictCache | None]:
    """The verdicts of earlier filtering; None, and a line that says why, where they cannot be kept."""
    try:
        cache = VerdictCache(cache_directory())
    except (OSError, sqlite3.Error) as error:
        console.say(f"verdicts are not kept for the next time: {cache_directory()}: {error}")
        yield None
        return
    try:
        yield cache
    finally:
        if cache.damaged:
            many = "kept verdict was damaged, and was" if cache.damaged == 1 else "kept verdicts were damaged, and were"
            console.say(f"{cache.path}: {cache.damaged} {many} graded again", style="yellow")
        cache.close()


def verdict_column(style: str) -> Added:
    """The column that says what `judge` makes of a row: its values are fate and why."""
    return Added(f"verdicts-{style}-{grader_version()}", verdicts, lambda: style)


def verdicts(style: str, rows: Sequence[tuple[int, Made]]) -> tuple[dict[str, list[str]], bool]:
    """The values of `verdict_column`. Those that a clock made are not kept."""
    examples = [Example("", plain(row.turns[-1].response), row.parsed.reference, row.parsed.source) for _, row in rows]
    workers = 1 if is_worker() else None
    with verdict_cache() as cache:
        judged = list(judge(examples, style, cache, grade_pairs=functools.partial(grade_all, workers=workers)))
    whys = [f"{verdict.layer}: {verdict.why}" for _, _, verdict in judged]
    return {"fate": [fate for _, fate, _ in judged], "why": whys}, not any(verdict.by_the_clock for _, _, verdict in judged)


def nothing_survives(counts: Counter[str], first: Example, style: str) -> InputError:
    """The error that no row is kept, with what would help."""
    hint = ""
    other = "question_only" if style == "r1_zero" else "r1_zero"
    if (boxed_answer if other == "question_only" else tagged_answer)(first.response) is not None:
        form = "\\boxed{}" if other == "question_only" else "<answer> tags"
        asks = f'"{other}"' if other == "r1_zero" else f'"{other}" or "chat"'
        hint = f' (it answers in {form}: eval.reward = "{other}" reads that, and data.prompt = {asks} asks for it)'
    elif first.reference and answer_of(first.response, style) == first.response.strip():
        hint = " (it marks no answer: data.columns can write one behind the work, " + (
            'response = "<think>\\n{work}\\n</think>\\n<answer> {answer} </answer>"'
            if style == "r1_zero"
            else 'response = "{work}\\n\\n\\\\boxed{{{answer}}}"'
        ) + ", with your columns' names)"
    return InputError(
        f"nothing survives the filter ({summary(counts)}); the first row, {first.source}: reference {first.reference!r},"
        f" response ends {first.response[-80:]!r}{hint}. Mend the data, or set data.filter = false"
    )


# ── a stream of rows: memory does not grow with their number ──────────────────────────────────────────────────────────


class Judged(NamedTuple):
    """A row, its fate, and (None for a malformed row) what was graded and how."""

    row: Row
    fate: Fate
    example: Example | None = None
    verdict: Verdict | None = None


def parsed_rows(rows: Iterable[Row], reader: Reader) -> Iterator[tuple[Row, Parsed]]:
    """Each row with what it says; an item of a row comes as a row of its own, with prompt, response and reference."""
    for row in rows:
        for parsed in reader.read(row):
            if parsed.source != row.source and not parsed.fault:
                value: dict[str, Any] = {"prompt": parsed.prompt, "response": parsed.response, "reference_answer": parsed.reference}
                value |= {"weight": parsed.weight} if reader.weight is not None else {}
                yield Row(parsed.source, value), parsed
            else:
                yield row, parsed


def response_text(parsed: Parsed, style: str) -> str:
    """What is graded of a row where no prompt template is at hand: the last turn, its thought in the form that the grader reads."""
    if not parsed.messages:
        return parsed.response
    answers = [message for message in parsed.messages if message["role"] == "assistant"]
    return in_the_form_of("<answer>" if style == "r1_zero" else "", answers[-1]) if answers else ""


def count_well_formed(rows: Iterable[Row], reader: Reader, on_bad_row: str, skip: str = SKIP) -> int:
    """How many rows are well-formed. Raises InputError for malformed ones as `prepare` does, before anything is graded."""
    well_formed, malformed, first = 0, 0, ""
    for _, parsed in parsed_rows(rows, reader):
        if parsed.fault:
            malformed, first = malformed + 1, first or f"{parsed.source}: {parsed.fault}"
        else:
            well_formed += not parsed.left_out
    check_malformed(malformed, first, well_formed + malformed, on_bad_row, skip)
    return well_formed


def judge_rows(
    rows: Iterable[Row], reader: Reader, style: str, where: str, on_graded: Callable[[int], None]
) -> Iterator[Judged]:
    """What `judge` says of each row, in their order. Verdicts are kept some hundreds at a time, and found again the next time."""
    parsed = parsed_rows(rows, reader)
    with verdict_cache() as cache:
        while chunk := list(islice(parsed, _graded_at_once(where))):
            examples = [
                Example(each.prompt, response_text(each, style), each.reference, each.source)
                for _, each in chunk
                if not each.fault and not each.left_out
            ]
            judged = judge(examples, style, cache, on_graded, where)
            for row, each in chunk:
                if each.fault or each.left_out:
                    yield Judged(row, Fate(each.source, MALFORMED if each.fault else LEFT_OUT, each.fault or each.left_out))
                else:
                    example, fate, verdict = next(judged)
                    yield Judged(row, Fate(each.source, fate, f"{verdict.layer}: {verdict.why}".rstrip(": ")), example, verdict)


def draw_rows(rows: Iterable[Row], reader: Reader, well_formed: int, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` of the `well_formed` rows, drawn at random by a seed, in their order."""
    chosen = set(random.Random(seed).sample(range(well_formed), count))
    values = (row.value for row, each in parsed_rows(rows, reader) if not each.fault and not each.left_out)
    return (value for index, value in enumerate(values) if index in chosen)


class Tally:
    """Counts by fate and by layer of the grader; of each fate, one reason and the first example."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        self.layers: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.examples: dict[str, Example] = {}

    def add(self, judged: Judged) -> None:
        fate = judged.fate
        self.fates[fate.fate] += 1
        if fate.fate != "kept":
            self.reasons.setdefault(fate.fate, f"{fate.source}: {fate.why}")
        if judged.example is not None and judged.verdict is not None:
            self.layers[judged.verdict.layer] += 1
            self.examples.setdefault(fate.fate, judged.example)

    def kept(self, style: str) -> int:
        """How many rows are kept. Raises InputError: none is."""
        if not self.fates["kept"] and self.examples:
            raise nothing_survives(self.fates, next(iter(self.examples.values())), style)
        return self.fates["kept"]

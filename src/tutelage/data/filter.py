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
from tutelage.config import DataConfig
from tutelage.data.ledger import Example, Fate, Ledger, check_malformed, examples_of, summary
from tutelage.data.sources import Row
from tutelage.data.templates import BARE
from tutelage.errors import InputError
from tutelage.grading import Verdict, VerdictCache, grade_all, grade_responses
from tutelage.machines import cache_directory, run_map

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
) -> Iterator[tuple[Example, str, Verdict]]:
    """(example, fate, verdict) of each worked solution against its reference, graded on all cores or over a cluster.

    The fates: kept, no reference, wrong format, wrong answer, undecided.

    Args:
        style: the grader, as `eval.reward`.
        on_graded: called with how many more are done.
        where: who grades, as `fanout.run_map`.
    """
    unknown = Verdict(None, "reference", "the row has no reference answer to compare with")
    at_once = _graded_at_once(where)
    grade_pairs = grade_all if where == "local" else functools.partial(_grade_over, where)
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
        cache.close()


def keep_correct(judged: Iterable[tuple[Example, str, Verdict]], ledger: Ledger) -> list[Example]:
    """Of what `judge` says, the examples whose response is right; the others are marked in the ledger with the reason.

    Raises:
        InputError: nothing survives; the message counts why and shows one row.
    """
    kept, first = [], None
    for example, fate, verdict in judged:
        first = first or example
        if fate == "kept":
            kept.append(example)
        else:
            ledger.mark(example.source, fate, f"{verdict.layer}: {verdict.why}")
    if not kept and first is not None:
        raise _nothing_survives(ledger.counts(), first)
    return kept


def _nothing_survives(counts: Counter[str], first: Example) -> InputError:
    return InputError(
        f"nothing survives the filter ({summary(counts)}); the first row, {first.source}: reference {first.reference!r},"
        f" response ends {first.response[-80:]!r}. Mend the data, or set data.filter = false"
    )


# ── a stream of rows: memory does not grow with their number ──────────────────────────────────────────────────────────
# The template is BARE throughout: the prompt plays no part in grading, and one that opens the think block changes responses.


class Judged(NamedTuple):
    """A row, its fate, and (None for a malformed row) what was graded and how."""

    row: Row
    fate: Fate
    example: Example | None = None
    verdict: Verdict | None = None


def count_well_formed(rows: Iterable[Row], data: DataConfig) -> int:
    """How many rows are well-formed. Raises InputError for malformed ones as `to_examples` does, before anything is graded."""
    well_formed, malformed, first = 0, 0, ""
    for row, made in examples_of(rows, BARE, data):
        if isinstance(made, Example):
            well_formed += 1
        else:
            malformed, first = malformed + 1, first or f"{row.source}: {made}"
    check_malformed(malformed, first, well_formed + malformed, data.on_bad_row)
    return well_formed


def judge_rows(
    rows: Iterable[Row], data: DataConfig, style: str, where: str, on_graded: Callable[[int], None]
) -> Iterator[Judged]:
    """What `judge` says of each row, in their order. Verdicts are kept some hundreds at a time, and found again the next time."""
    parsed = examples_of(rows, BARE, data)
    with verdict_cache() as cache:
        while chunk := list(islice(parsed, _graded_at_once(where))):
            judged = judge([made for _, made in chunk if isinstance(made, Example)], style, cache, on_graded, where)
            for row, made in chunk:
                if isinstance(made, Example):
                    example, fate, verdict = next(judged)
                    yield Judged(row, Fate(row.source, fate, f"{verdict.layer}: {verdict.why}".rstrip(": ")), example, verdict)
                else:
                    yield Judged(row, Fate(row.source, "malformed", str(made)))


def draw_rows(rows: Iterable[Row], data: DataConfig, well_formed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` of the `well_formed` rows, drawn at random by the seed of the data, in their order."""
    chosen = set(random.Random(data.seed).sample(range(well_formed), count))
    values = (row.value for row, made in examples_of(rows, BARE, data) if isinstance(made, Example))
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

    def kept(self) -> int:
        """How many rows are kept. Raises InputError: none is."""
        if not self.fates["kept"] and self.examples:
            raise _nothing_survives(self.fates, next(iter(self.examples.values())))
        return self.fates["kept"]

"""``tutelage filter``: a file of rows in, the rows whose solution is right out, and the fate of each beside it.

Rows stream through: memory does not grow with their number. Verdicts are kept some hundreds at a time, so that filtering that was
interrupted goes on when it is run again.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import DataConfig
from tutelage.data import (
    BadRow,
    Example,
    Fate,
    Row,
    check_malformed,
    graded_at_once,
    iter_rows,
    judge,
    load_template,
    nothing_survives,
    summary,
    to_example,
    verdict_cache,
)
from tutelage.errors import InputError
from tutelage.grading import Verdict
from tutelage.machines import fanout
from tutelage.report import fate_table
from tutelage.runs import to_lines, writing


def filter_file(
    data: str,
    out: Path,
    config: DataConfig | None = None,
    style: str = "r1_zero",
    control: str | None = None,
    where: str = "local",
) -> int:
    """Write the raw rows that are kept to `out` (JSONL) and every row's fate to ``OUT.ledger.jsonl``; print a table and samples.

    Args:
        control: "random" also writes ``OUT.control.jsonl``: as many rows as were kept, drawn at random from all well-formed rows.
            Training on both shows what filtering by correctness buys, apart from the number of rows.
        where: who grades, as `fanout.run_map`.

    Returns:
        How many rows were kept.

    Raises:
        InputError: a file to write exists, a row is malformed, or nothing survives.
    """
    fanout.require(where)
    config = config or DataConfig()
    ledger_path, control_path = (
        out.with_name(out.name.removesuffix(".jsonl") + end) for end in (".ledger.jsonl", ".control.jsonl")
    )
    for path in (out, ledger_path, *([control_path] if control else [])):
        if path.exists():
            raise InputError(f"{path} exists and is not overwritten; remove it, or choose another --out")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such directory to write {out.name} to")

    def rows() -> Iterator[Row]:
        return iter_rows(data, config.train_split, config.hub_config)

    with console.progress(f"reading {data}"):
        well_formed = _check(rows(), config)
    tally = _Tally()
    with contextlib.ExitStack() as files:
        kept_lines, fate_lines = files.enter_context(writing(out)), files.enter_context(writing(ledger_path))
        with console.progress("grading the worked solutions", well_formed) as advance, _going_on(), fanout.cluster(where):
            for row, fate, example, verdict in _judged(rows(), config, style, advance, where):
                fate_lines.write(to_lines([vars(fate)]))
                if fate.fate == "kept":
                    kept_lines.write(to_lines([row.value]))
                tally.count(fate, example, verdict)
        kept = tally.fates["kept"]
        if not kept:
            assert tally.first is not None
            raise nothing_survives(summary(tally.fates), tally.first)
        if control:
            lines = files.enter_context(writing(control_path))
            lines.writelines(to_lines([value]) for value in _drawn(rows(), config, well_formed, kept))
    tally.show()
    wrote = [f"{out} ({kept} rows)", f"{ledger_path} (the fate of each row)"]
    console.say("wrote " + ", ".join(wrote + ([f"{control_path} ({kept} rows drawn at random)"] if control else [])))
    return kept


def _check(rows: Iterator[Row], config: DataConfig) -> int:
    """How many rows are well-formed; raises InputError for malformed ones before anything is graded."""
    well_formed, malformed, first = 0, 0, ""
    for row in rows:
        try:
            to_example(row, "{question}", config.columns)
            well_formed += 1
        except BadRow as problem:
            malformed, first = malformed + 1, first or f"{row.source}: {problem}"
    check_malformed(malformed, first, well_formed + malformed, config.on_bad_row)
    return well_formed


def _drawn(rows: Iterator[Row], config: DataConfig, well_formed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` of the well-formed rows, drawn at random by the seed of the data, in their order."""
    chosen, number = set(random.Random(config.seed).sample(range(well_formed), count)), 0
    for row in rows:
        with contextlib.suppress(BadRow):
            to_example(row, "{question}", config.columns)
            if number in chosen:
                yield row.value
            number += 1


def _judged(
    rows: Iterator[Row], config: DataConfig, style: str, advance: Callable[[int], None], where: str
) -> Iterator[tuple[Row, Fate, Example | None, Verdict | None]]:
    """Each row with its fate, in their order, some hundreds at a time."""
    template = load_template(
        "none"
    )  # the prompt plays no part in grading; one that opens the think block would change the response
    with verdict_cache() as cache:
        while chunk := list(islice(rows, graded_at_once(where))):
            examples, problems = [], {}
            for row in chunk:
                try:
                    examples.append(to_example(row, template, config.columns))
                except BadRow as problem:
                    problems[row.source] = str(problem)
            judged = judge(examples, style, cache, advance, where)
            for row in chunk:
                if row.source in problems:
                    yield row, Fate(row.source, "malformed", problems[row.source]), None, None
                    continue
                example, fate, verdict = next(judged)
                yield row, Fate(row.source, fate, f"{verdict.layer}: {verdict.why}".rstrip(": ")), example, verdict


class _Tally:
    """Counts by fate and by layer, and the first row of each fate."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        self.layers: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.samples: dict[str, Example] = {}
        self.first: Example | None = None

    def count(self, fate: Fate, example: Example | None, verdict: Verdict | None) -> None:
        self.fates[fate.fate] += 1
        if fate.fate != "kept":
            self.reasons.setdefault(fate.fate, f"{fate.source}: {fate.why}")
        if example is not None and verdict is not None:
            self.layers[verdict.layer] += 1
            self.samples.setdefault(fate.fate, example)
            self.first = self.first or example

    def show(self) -> None:
        fate_table(self.fates, self.reasons)
        console.say(f"decided by: {summary(self.layers)}")
        for fate, example in self.samples.items():
            console.say(
                f"{fate}: {' '.join(example.prompt.split())[:160]}\n"
                f"  {example.response.strip()[-200:]}   (reference {example.reference or 'missing'})"
            )


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the verdicts so far are kept, the same command goes on from them") from None

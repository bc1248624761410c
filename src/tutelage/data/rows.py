"""From raw rows to examples: prompt templates, filtering by correctness, nested subsets, and the fate of every row."""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage import console
from tutelage.data.shapes import BadRow, parse_row
from tutelage.data.sources import Row, read_rows
from tutelage.errors import InputError
from tutelage.grading import Verdict, grade_all, grade_responses
from tutelage.machines import cache_directory, run_map

if TYPE_CHECKING:
    from tutelage.grading import VerdictCache


@dataclass(frozen=True)
class Example:
    """One problem: what the model is asked, what it should learn to say, and the reference answer ("" if none is known)."""

    prompt: str
    response: str
    reference: str
    source: str


# ── prompts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_template(name: str) -> str:
    """The text of a prompt template: a shipped one by name, "none" for the row's own text, or a file with ``{question}``."""
    if name == "none":
        return "{question}"
    shipped = resources.files("tutelage.data") / "prompts"
    try:
        file = shipped / f"{name}.txt"
        text = file.read_text(encoding="utf-8") if file.is_file() else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = sorted(file.name.removesuffix(".txt") for file in shipped.iterdir() if file.name.endswith(".txt"))
        raise InputError(
            f"data.prompt: {name!r} is neither a template ({', '.join(known)}, none, chat) nor a readable file"
        ) from None
    if text.count("{question}") != 1:
        raise InputError(f"{name}: a prompt template holds {{question}} exactly once")
    return text


def apply_template(pair: dict[str, str], template: str) -> tuple[str, str]:
    """(prompt, response); when the template already opens the think block, the response does not open it again."""
    prompt = template.replace("{question}", pair["prompt"].strip() if template != "{question}" else pair["prompt"])
    response = pair["response"]
    if template.rstrip().endswith("<think>"):
        response = response.lstrip().removeprefix("<think>")
    return prompt, response


# ── fates ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Fate:
    """What became of one row, and why; the ledger holds one for each."""

    source: str
    fate: str
    why: str = ""


def summary(counts: Counter[str]) -> str:
    """``450 kept, 62 wrong answer``."""
    return ", ".join(f"{count} {fate}" for fate, count in counts.most_common())


class Ledger:
    """Every row's fate, in the order of the rows."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._fates = {source: Fate(source, "kept") for source in sources}

    def copy(self) -> Ledger:
        made = Ledger(())
        made._fates = dict(self._fates)
        return made

    def mark(self, source: str, fate: str, why: str = "") -> None:
        self._fates[source] = Fate(source, fate, why)

    def counts(self) -> Counter[str]:
        return Counter(fate.fate for fate in self)

    def summary(self) -> str:
        """``450 kept, 62 wrong answer``."""
        return summary(self.counts())

    def __iter__(self) -> Iterator[Fate]:
        return iter(self._fates.values())


def to_example(row: Row, template: str, columns: dict[Any, str] | None = None, needs_response: bool = True) -> Example:
    """The example of one row. Raises BadRow: the row is malformed."""
    if row.problem:
        raise BadRow(row.problem)
    pair = parse_row(row.value, columns, needs_response)
    prompt, response = apply_template(pair, template)
    return Example(prompt, response, pair["reference"], row.source)


def to_examples(
    rows: Sequence[Row],
    template: str,
    ledger: Ledger,
    *,
    columns: dict[Any, str] | None = None,
    on_bad_row: str = "error",
    needs_response: bool = True,
) -> list[Example]:
    """Examples of the well-formed rows; malformed ones raise, or are marked "malformed" in the ledger.

    Raises:
        InputError: names file, line and key of the first malformed row (and counts the others), or no row is left.
    """
    examples, bad = [], []
    for row in rows:
        try:
            examples.append(to_example(row, template, columns, needs_response))
        except BadRow as problem:
            bad.append(f"{row.source}: {problem}")
            ledger.mark(row.source, "malformed", str(problem))
    check_malformed(len(bad), bad[0] if bad else "", len(rows), on_bad_row)
    return examples


def check_malformed(count: int, first: str, rows: int, on_bad_row: str) -> None:
    """Raises InputError if rows are malformed and that is not allowed, or if no other rows are left."""
    if count and on_bad_row == "error":
        more = f" (and {count - 1} more malformed rows)" if count > 1 else ""
        raise InputError(f'{first}{more}; mend the row, or set data.on_bad_row = "skip" to leave such rows out and count them')
    if count == rows:
        raise InputError(f"all {rows} rows are malformed; the first: {first}")


# ── filtering by correctness ──────────────────────────────────────────────────────────────────────────────────────────

GRADED_AT_ONCE = 512
WAVE = 64
"""How many times as many rows are on their way at once where a cluster grades."""


def judge(
    examples: Sequence[Example],
    style: str = "r1_zero",
    cache: VerdictCache | None = None,
    on_graded: Callable[[int], None] = lambda count: None,
    where: str = "local",
) -> Iterator[tuple[Example, str, Verdict]]:
    """(example, fate, verdict) of each worked solution against its reference, graded on all cores (of a cluster: `fanout`).

    The fates: kept, no reference, wrong format, wrong answer, undecided.
    """
    unknown = Verdict(None, "reference", "the row has no reference answer to compare with")
    at_once = graded_at_once(where)
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


def graded_at_once(where: str) -> int:
    """Rows whose verdicts are found together."""
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
    from tutelage.grading import VerdictCache

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


def keep_correct(
    examples: Sequence[Example],
    ledger: Ledger,
    style: str = "r1_zero",
    on_graded: Callable[[int], None] = lambda count: None,
) -> list[Example]:
    """The examples whose response is graded right; the others are marked in the ledger with the reason.

    Raises:
        InputError: nothing survives; the message counts why and shows one row.
    """
    with verdict_cache() as cache:
        return keep_judged(list(judge(examples, style, cache, on_graded)), ledger)


def keep_judged(judged: Sequence[tuple[Example, str, Verdict]], ledger: Ledger) -> list[Example]:
    """`keep_correct` of examples that `judge` has judged."""
    kept = []
    for example, fate, verdict in judged:
        if fate == "kept":
            kept.append(example)
        else:
            ledger.mark(example.source, fate, f"{verdict.layer}: {verdict.why}")
    if not kept:
        raise nothing_survives(ledger.summary(), judged[0][0])
    return kept


def nothing_survives(summary: str, first: Example) -> InputError:
    return InputError(
        f"nothing survives the filter ({summary}); the first row, {first.source}: reference {first.reference!r},"
        f" response ends {first.response[-80:]!r}. Mend the data, or set data.filter = false"
    )


def seeded_order(count: int, seed: int) -> list[int]:
    """A permutation of ``range(count)``: its prefixes are nested subsets (128 ⊂ 256 ⊂ …)."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


# ── the specification's functions ─────────────────────────────────────────────────────────────────────────────────────


def load_data(
    subset: int | None = None,
    seed: int = 42,
    test_size: float | None = None,
    *,
    source: str = "arithmetic",
    split: str = "train",
) -> dict[str, Any]:
    """The specification's loader: raw rows as Hugging Face datasets.

    Args:
        subset: how many rows to sample (seeded; smaller subsets lie inside larger ones); None for all.
        seed: seed of the sample and of the split.
        test_size: share of the rows held out; None or 0 uses the same rows for both.
        source: a file, a directory of shards, a hub name, or the built-in task; `split` is for hub names.

    Returns:
        ``{"train": Dataset, "test": Dataset}``.
    """
    import datasets

    rows = read_rows(source, split)
    for row in rows:
        if row.problem:
            raise InputError(f"{row.source}: {row.problem}")
    if subset is not None and not 0 < subset <= len(rows):
        raise InputError(f"subset is {subset}, but {source} has {len(rows)} rows")
    if test_size is not None and not 0 <= test_size < 1:
        raise InputError(f"test_size is {test_size}; it is a share of the rows, at least 0 and below 1")
    chosen = (
        [rows[index].value for index in seeded_order(len(rows), seed)[:subset]]
        if subset is not None
        else [row.value for row in rows]
    )
    keys = list(dict.fromkeys(key for row in chosen for key in row))  # from_list takes its columns from the first row alone
    try:
        whole = datasets.Dataset.from_list([{key: row.get(key) for key in keys} for row in chosen])
    except Exception as error:  # pyarrow's errors: a column of mixed types
        raise InputError(f"{source}: the rows do not fit one table, a column has mixed types: {error}") from None
    if not test_size:
        return {"train": whole, "test": whole}
    if round(len(whole) * test_size) in (0, len(whole)):
        raise InputError(f"test_size {test_size} of {len(whole)} rows leaves one side empty")
    parts = whole.train_test_split(test_size=test_size, seed=seed)
    return {"train": parts["train"], "test": parts["test"]}


def filter_correct_dataset(ds: Any, *, seed: int = 42, log_filter_stats: bool = True, debug_samples: int = 0) -> Any:
    """The specification's filter: rows whose assistant response earns ``answer_reward >= 1.0`` against the reference.

    Args:
        ds: a Hugging Face Dataset (a Dataset is returned) or a sequence of rows (a list is returned).
        seed: which rows `debug_samples` shows.
        log_filter_stats: print the counts before → after, by fate.
        debug_samples: how many rows to print with reward, prompt and response.
    """
    pairs = []
    for index, row in enumerate(ds):
        try:
            pairs.append(parse_row(row))
        except BadRow as problem:
            raise InputError(f"row {index}: {problem}") from None
    judged = [judged[1:] for judged in judge([Example(**pair, source=f"row {index}") for index, pair in enumerate(pairs)])]
    kept = [index for index, (fate, _) in enumerate(judged) if fate == "kept"]
    if log_filter_stats:
        print(f"filter: {len(pairs)} → {len(kept)} rows ({summary(Counter(fate for fate, _ in judged))})")
    for index in random.Random(seed).sample(range(len(pairs)), min(debug_samples, len(pairs))):
        fate, verdict = judged[index]
        reward = 1.0 if verdict.equal else 0.0
        print(f"row {index}: {fate}, answer_reward {reward} (layer {verdict.layer}), reference {pairs[index]['reference']!r}")
        print(f"  prompt: {pairs[index]['prompt'][:200]!r}\n  response: {pairs[index]['response'][-200:]!r}")
    return ds.select(kept) if hasattr(ds, "select") else [ds[index] for index in kept]

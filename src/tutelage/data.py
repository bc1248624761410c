"""From raw rows to examples: prompt templates, filtering by correctness, nested subsets, and the fate of every row."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.grading import Verdict, grade_response
from tutelage.shapes import BadRow, parse_row
from tutelage.sources import Row, read_rows


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
    shipped = resources.files("tutelage") / "prompts"
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


class Ledger:
    """Every row's fate, in the order of the rows."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._fates = {source: Fate(source, "kept") for source in sources}

    def mark(self, source: str, fate: str, why: str = "") -> None:
        self._fates[source] = Fate(source, fate, why)

    def counts(self) -> Counter[str]:
        return Counter(fate.fate for fate in self)

    def summary(self) -> str:
        """``450 kept, 62 wrong answer``."""
        return ", ".join(f"{count} {fate}" for fate, count in self.counts().most_common())

    def __iter__(self) -> Iterator[Fate]:
        return iter(self._fates.values())


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
            if row.problem:
                raise BadRow(row.problem)
            pair = parse_row(row.value, columns, needs_response)
        except BadRow as problem:
            bad.append(f"{row.source}: {problem}")
            ledger.mark(row.source, "malformed", str(problem))
            continue
        prompt, response = apply_template(pair, template)
        examples.append(Example(prompt, response, pair["reference"], row.source))
    if bad and on_bad_row == "error":
        more = f" (and {len(bad) - 1} more malformed rows)" if len(bad) > 1 else ""
        raise InputError(f'{bad[0]}{more}; mend the row, or set data.on_bad_row = "skip" to leave such rows out and count them')
    if not examples:
        raise InputError(f"all {len(rows)} rows are malformed; the first: {bad[0]}")
    return examples


def judge(example: Example, style: str = "r1_zero") -> tuple[str, Verdict]:
    """(fate, verdict) of a worked solution against its reference: kept, no reference, wrong format, wrong answer, undecided."""
    if not example.reference:
        return "no reference", Verdict(None, "reference", "the row has no reference answer to compare with")
    verdict = grade_response(example.response, example.reference, style)
    if verdict.equal is None:
        return "undecided", verdict
    return ("kept" if verdict.equal else "wrong format" if verdict.layer == "format" else "wrong answer"), verdict


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
    kept = []
    for example in examples:
        fate, verdict = judge(example, style)
        if fate == "kept":
            kept.append(example)
        else:
            ledger.mark(example.source, fate, f"{verdict.layer}: {verdict.why}")
        on_graded(1)
    if not kept:
        first = examples[0]
        raise InputError(
            f"nothing survives the filter ({ledger.summary()}); the first row, {first.source}: reference {first.reference!r},"
            f" response ends {first.response[-80:]!r}. Mend the data, or set data.filter = false"
        )
    return kept


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
    judged = [judge(Example(**pair, source=f"row {index}")) for index, pair in enumerate(pairs)]
    kept = [index for index, (fate, _) in enumerate(judged) if fate == "kept"]
    if log_filter_stats:
        fates = ", ".join(f"{count} {fate}" for fate, count in Counter(fate for fate, _ in judged).most_common())
        print(f"filter: {len(pairs)} → {len(kept)} rows ({fates})")
    for index in random.Random(seed).sample(range(len(pairs)), min(debug_samples, len(pairs))):
        fate, verdict = judged[index]
        reward = 1.0 if verdict.equal else 0.0
        print(f"row {index}: {fate}, answer_reward {reward} (layer {verdict.layer}), reference {pairs[index]['reference']!r}")
        print(f"  prompt: {pairs[index]['prompt'][:200]!r}\n  response: {pairs[index]['response'][-200:]!r}")
    return ds.select(kept) if hasattr(ds, "select") else [ds[index] for index in kept]

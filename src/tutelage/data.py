"""From raw rows to examples: shapes that people's data has, prompt templates, filtering by correctness, and the fate of every row."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.grading import Verdict, boxed_answer, grade_response
from tutelage.sources import Row, read_rows


@dataclass(frozen=True)
class Example:
    """One problem: what the model is asked, what it should learn to say, and the reference answer ("" if none is known)."""

    prompt: str
    response: str
    reference: str
    source: str


class BadRow(ValueError):
    """A row that is not of any known shape; the message names the key."""


# ── shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_row(row: dict[str, Any], columns: dict[Any, str] | None = None, needs_response: bool = True) -> dict[str, str]:
    """A raw row as ``{"prompt", "response", "reference"}``, by the column mapping if there is one, else by its shape.

    Raises:
        BadRow: a key is missing, empty or not text.
    """
    if columns:
        pair = {field: _reach(row, columns[field]) if field in columns else row.get(field) for field in _FIELDS}
    else:
        for keys, parse in _SHAPES:
            if all(row.get(key) is not None for key in keys):
                pair = parse(row)
                break
        else:
            raise BadRow(_unknown_shape(row))
    pair = {key: _as_text(value) for key, value in pair.items()}
    for key, value in pair.items():
        if value is not None and not isinstance(value, str):
            raise BadRow(f"{key} is {type(value).__name__}, not text")
        if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
            raise BadRow(f"{key} holds half of a surrogate pair, which is no character")
    if pair["reference"] is not None and not pair["reference"].strip():
        raise BadRow("reference is empty: an empty answer would count as right")
    for key in ("prompt", "response") if needs_response else ("prompt", "reference"):
        if not (pair[key] or "").strip():
            raise BadRow(f"{key} is empty or missing")
    return {key: value or "" for key, value in pair.items()}


def _as_text(value: Any) -> Any:
    """Numbers as they are written; NaN, which data frames write for nothing, as nothing."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _unknown_shape(row: dict[str, Any]) -> str:
    empty = sorted(key for keys, _ in _SHAPES for key in keys if key in row and row[key] is None)
    if empty:
        return f"{empty[0]} is null"
    shapes = "; ".join(" + ".join(keys) for keys, _ in _SHAPES)
    return f"keys {sorted(row)} are of no known shape ({shapes}): name them in data.columns"


_FIELDS = ("prompt", "response", "reference")
_REFERENCE_KEYS = ("reference_answer", "reference", "ground_truth", "expected_answer", "answer")


def build_text_pairs(example: dict[str, Any]) -> dict[str, Any]:
    """The specification's pairs of a message row.

    Args:
        example: ``{"messages": [{"role": "user", "content", "info": {"reference_answer"}}, {"role": "assistant", "content"}]}``.

    Returns:
        ``{"prompt": user content, "response": assistant content, "reference": the reference answer}``, None where there is none.
        The reference is taken from the user's ``info``, else from the assistant's, else from the row.

    Raises:
        BadRow: a message is missing or malformed.
    """
    messages = example.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BadRow("messages is not a list")
    by_role: dict[str, dict[str, Any]] = {}
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"messages[{index}] has no role")
        if message["role"] in ("user", "assistant") and message["role"] in by_role:
            raise BadRow(f"messages has more than one {message['role']} turn; only single-turn rows are supported")
        by_role[message["role"]] = message
    user, assistant = by_role.get("user"), by_role.get("assistant", {})
    if user is None:
        raise BadRow("messages has no user turn")
    places = [user.get("info"), assistant.get("info"), user, example.get("info"), example]
    reference = _first_reference(*places)
    return {"prompt": user.get("content"), "response": assistant.get("content"), "reference": reference}


def _first_reference(*places: Any) -> Any:
    found = (place[key] for place in places if isinstance(place, dict) for key in _REFERENCE_KEYS if place.get(key) is not None)
    return next(found, None)


def _gsm8k(row: dict[str, Any]) -> dict[str, Any]:
    """GSM8K: the answer's last line is ``#### 72``; its calculator marks ``<<48/2=24>>`` are not for reading.

    An answer without the mark is a bare reference, or a response of its own if it has the tags.
    """
    work, mark, final = str(row["answer"]).rpartition("####")
    if not mark:
        reference = _first_reference({**row, "answer": None}) if "</answer>" in final else row["answer"]
        return {"prompt": row["question"], "response": row["answer"], "reference": reference}
    work = re.sub(r"<<[^<>]*>>", "", work).strip()
    return {
        "prompt": row["question"],
        "response": think_answer(work, final.strip()),
        "reference": final.strip().replace(",", ""),
    }


def _math(row: dict[str, Any]) -> dict[str, Any]:
    """MATH: the reference is the last ``\\boxed{}`` of the solution, unless the row has an answer of its own."""
    solution = row["solution"] if isinstance(row["solution"], str) else ""
    boxed = boxed_answer(solution)
    reference = row["answer"] if row.get("answer") not in (None, "") else boxed
    if reference is None:
        raise BadRow("solution has no \\boxed{}")
    response = solution if "</think>" in solution else think_answer(solution.strip(), boxed or str(reference))
    return {"prompt": row["problem"], "response": response, "reference": reference}


def _prompt_response(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["prompt"], "response": row["response"], "reference": _first_reference(row)}


def _prompt_reference(row: dict[str, Any]) -> dict[str, Any]:
    return _prompt_response({**row, "response": ""})


def _problem_reference(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["problem"], "response": None, "reference": row["answer"]}


_SHAPES: tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], dict[str, Any]]], ...] = (
    (("messages",), build_text_pairs),
    (("prompt", "response"), _prompt_response),
    (("problem", "solution"), _math),
    (("question", "answer"), _gsm8k),
    (("problem", "answer"), _problem_reference),
    (("prompt",), _prompt_reference),
)


def _reach(row: dict[str, Any], dotted: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise BadRow(f"column {dotted!r} (from data.columns) is not in this row; its keys are {sorted(row)}")
        value = value[part]
    return value


def think_answer(thought: str, answer: str) -> str:
    """The response form that the reward function expects."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


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

"""The specification's two functions of data sets: `load_data` and `filter_correct_dataset`."""

from __future__ import annotations

import operator
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, Literal

from tutelage import console
from tutelage.config import Source
from tutelage.data.filter import Judged, Tally, count_well_formed, judge_rows, parsed_rows
from tutelage.data.ledger import summary
from tutelage.data.overlap import normalised
from tutelage.data.recipe import question_of
from tutelage.data.shapes import LOOKED_AT, is_messages, reader_of
from tutelage.data.sources import Row, read_rows, row_of, seeded_order
from tutelage.errors import InputError
from tutelage.grading import rewards_of

SEED = type("Seed", (int,), {})(42)
"""The specification's seed, as an object of its own: a seed that was given, 42 too, is told apart from none."""


def load_data(
    subset: int | None = None,
    seed: int = SEED,
    test_size: float | None = None,
    source: str | os.PathLike[str] = "arithmetic",
    *,
    split: str = "train",
    hub_config: str | None = None,
) -> dict[str, Any]:
    """The specification's loader, raw rows as Hugging Face datasets: ``load_data(512, source="rows.jsonl")``, ``load_data("rows.jsonl")``.

    Args:
        subset: how many rows to sample (seeded; smaller subsets lie inside larger ones); None for all.
        seed: seed of the sample and of the split.
        test_size: share of the rows held out; None or 0 uses the same rows for both, and warns of it. Rows are held out, as the
            specification says, and a warning counts the problems on both sides; ``tutelage train`` holds out problems.
        source: a file, a directory of shards, a hub name, or the built-in task, as `data.train`.
        split: of a hub name or a directory, as `data.train_split`.
        hub_config: of a hub name, as `data.hub_config`.

    Returns:
        ``{"train": Dataset, "test": Dataset}``.

    Raises:
        InputError: an argument is not one of these, a source cannot be read, a side would be empty.
    """
    if isinstance(subset, str | os.PathLike):
        subset, source = None, _named_first(subset, seed, source)
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"source is of type {type(source).__name__}; it is the name of a file, of a directory, or of a hub data set")
    name, seed = os.fspath(source), _whole(seed, "seed is {}; it is a whole number")
    rows = read_rows(name, split, hub_config)
    for row in rows:
        if row.problem:
            raise InputError(f"{row.source}: {row.problem}")
    count = _checked_subset(subset, len(rows), name)
    if test_size is not None and (isinstance(test_size, bool | str) or not 0 <= test_size < 1):
        raise InputError(f"test_size is {test_size!r}; it is a share of the rows, at least 0 and below 1")
    if count is not None:
        rows = [rows[index] for index in seeded_order(len(rows), seed)[:count]]
    full = _dataset_of([row.value for row in rows], name)
    if not test_size:
        warnings.warn(
            f"load_data: train and test are the same {len(rows)} rows (test_size is {test_size}), so what is evaluated on test was"
            " trained on; test_size=0.1 holds a tenth of the rows out",
            stacklevel=2,
        )
        return {"train": full, "test": full}
    if round(len(full) * test_size) in (0, len(full)):
        raise InputError(f"test_size {test_size} of {len(full)} rows leaves one side empty")
    parts = full.train_test_split(test_size=test_size, seed=seed)
    both = _asked_twice(parts)
    if both:
        warnings.warn(
            f"load_data: {both} of {len(parts['test'])} test rows ask a problem that is trained on too: rows were held out, and a"
            " problem has several here; `tutelage train` holds out problems",
            stacklevel=2,
        )
    return {"train": parts["train"], "test": parts["test"]}


def _named_first(name: Any, seed: int, source: Any) -> Any:
    """The source that stands where the number of rows should. Raises InputError if more is said than it alone."""
    if seed is not SEED or source != "arithmetic":
        raise InputError(f"load_data takes the number of rows first: load_data(512, seed=42, test_size=0.1, source={os.fspath(name)!r})")
    return name


def _checked_subset(subset: Any, rows: int, name: str) -> int | None:
    if subset is None:
        return None
    count = _whole(subset, wrong := "subset is {}; it is a number of rows, at least 1 (None: all of them)")
    if count < 1:
        raise InputError(wrong.format(subset))
    if count > rows:
        raise InputError(f"subset is {subset}, but {name} has {rows} rows")
    return count


def _whole(value: Any, wrong: str) -> int:
    """An integer, also NumPy's, as int; True and False are none. Raises InputError with `wrong`, which the value is written into."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(wrong.format(repr(value)))
    return operator.index(value)


def _dataset_of(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    import datasets

    keys = list(dict.fromkeys(key for row in rows for key in row))  # from_list takes its columns from the first row alone
    try:
        return datasets.Dataset.from_list([{key: row.get(key) for key in keys} for row in rows])
    except Exception as error:  # pyarrow's errors: a column of mixed types
        raise InputError(f"{name}: the rows do not fit one table, a column has mixed types: {error}") from None


def _asked_twice(parts: Mapping[str, Any]) -> int:
    """How many test rows ask a problem that a training row asks; 0 where rows cannot be read as problems."""
    questions: dict[str, list[str]] = {}
    for name in ("train", "test"):
        rows = _rows_of(parts[name])
        try:
            reader = reader_of(Source(path=name), list(islice(rows(), LOOKED_AT)), problems=True)
        except InputError:
            return 0
        questions[name] = [
            normalised(question_of(each, "")) for _, each in parsed_rows(rows(), reader) if not each.fault and not each.left_out
        ]
    trained = set(questions["train"])
    return sum(question in trained for question in questions["test"])


# ── the filter ────────────────────────────────────────────────────────────────────────────────────────────────────────


def filter_correct_dataset(
    ds: Any,
    *,
    seed: int = 42,
    on_bad_row: Literal["error", "skip"] = "error",
    reward: Literal["r1_zero", "question_only"] = "r1_zero",
    log_filter_stats: bool = True,
    debug_samples: int = 3,
) -> Any:
    """The specification's filter: rows whose assistant response earns ``answer_reward >= 1.0`` against the reference.

    Rows are read and graded as ``tutelage filter`` does. A row without a reference is not kept, and is counted as "no reference".

    Args:
        ds: a Hugging Face Dataset or IterableDataset, a DatasetDict or dict of these (each is filtered), or rows: a list, or
            whatever gives one row after the other.
        seed: which rows `debug_samples` shows.
        on_bad_row: as `data.on_bad_row`. A malformed row is an error that names it ("error"), or is left out and counted ("skip").
        reward: the grader, as `eval.reward`: think/answer tags, or the last \\boxed{}.
        log_filter_stats: print the counts before → after, by fate, and the samples.
        debug_samples: how many rows to print with rewards, prompt and response.

    Returns:
        The rows that are kept, in their order: of the type of `ds` for what is of Hugging Face, else a list.

    Raises:
        InputError: `ds` is none of these, a row is malformed, or the rows can be read in two ways or in none.
    """
    if on_bad_row not in ("error", "skip"):
        raise InputError(f'on_bad_row is {on_bad_row!r}; it is "error" or "skip"')
    if reward not in ("r1_zero", "question_only"):
        raise InputError(f'reward is {reward!r}; it is "r1_zero" or "question_only"')
    _refuse_what_is_no_dataset(ds)

    def filtered(part: Any, name: str) -> Any:
        return _filtered(part, name, seed, on_bad_row, reward, debug_samples if log_filter_stats else None)

    if isinstance(ds, Mapping):
        kept = {name: filtered(part, f" {name}") for name, part in ds.items()}
        made: Any = type(ds)
        return made(kept)
    return filtered(ds, "")


def _refuse_what_is_no_dataset(ds: Any) -> None:
    if isinstance(ds, str | os.PathLike):
        name = os.fspath(ds)
        raise InputError(f'ds is the name {name!r}; load its rows first: filter_correct_dataset(load_data({name!r})["train"])')
    if isinstance(ds, Mapping) and not all(_may_be_rows(part) for part in ds.values()):
        raise InputError("ds is one row; it is a data set, a dict of data sets, or a list of rows: filter_correct_dataset([row])")
    if hasattr(ds, "iterrows"):
        raise InputError('ds is a data frame; give its rows: filter_correct_dataset(ds.to_dict("records"))')
    if not isinstance(ds, Iterable) and not (hasattr(ds, "__getitem__") and isinstance(ds, Sized)):
        raise InputError(f"ds is of type {type(ds).__name__}; it is a data set, a dict of data sets, or a list of rows")


def _may_be_rows(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping) and not is_messages(value)


def _filtered(ds: Any, name: str, seed: int, on_bad_row: str, reward: str, samples: int | None) -> Any:
    """The rows of one data set that are kept.

    Args:
        samples: how many rows to print beside the counts; None: nothing is printed.
    """
    if not hasattr(ds, "with_format"):
        ds = list(ds) if isinstance(ds, Iterable) else [ds[index] for index in range(len(ds))]
    rows = _rows_of(ds)
    head = list(islice(rows(), LOOKED_AT))
    kept: list[int] = []
    tally, shown = Tally(), []
    if head:
        reader = reader_of(Source(path="ds"), head, reward=reward)
        count_well_formed(rows(), reader, on_bad_row, 'on_bad_row="skip"')
        count_of_rows = len(ds) if isinstance(ds, Sized) else sum(1 for _ in rows())
        drawn = set(random.Random(seed).sample(range(count_of_rows), min(samples or 0, count_of_rows)))
        for index, judged in enumerate(judge_rows(rows(), reader, reward, "local", lambda graded: None)):
            tally.add(judged)
            if judged.fate.fate == "kept":
                kept.append(index)
            if index in drawn:
                shown.append(judged)
    if samples is not None:
        console.out(f"filter{name}: {sum(tally.fates.values())} → {len(kept)} rows ({summary(tally.fates) or 'no rows'})")
        for judged in shown:
            _show(judged)
    if hasattr(ds, "select"):
        return ds.select(kept)
    if hasattr(ds, "with_format"):  # rows that come one after the other are looked for again where they come from
        stays = set(kept)
        return ds.filter(lambda row, index: index in stays, with_indices=True)
    return [ds[index] for index in kept]


def _rows_of(ds: Any) -> Callable[[], Iterator[Row]]:
    """What gives the rows of a data set, or of a list, from the first one on, each time that it is called."""
    values = ds.with_format(None) if hasattr(ds, "with_format") else ds  # a data set may be in the form of tensors
    return lambda: (row_of(f"row {index}", value) for index, value in enumerate(values))


def _show(judged: Judged) -> None:
    """Print one row as it was judged: its fate, rewards, prompt and response."""
    fate, example, verdict = judged.fate, judged.example, judged.verdict
    if example is None or verdict is None:
        console.out(f"{fate.source}: {fate.fate} ({fate.why})")
        return
    console.out(f"{fate.source}: {fate.fate} ({fate.why}), rewards {rewards_of(verdict)}, reference {example.reference!r}")
    console.out(f"  prompt: {example.prompt[:200]!r}\n  response: {example.response[-200:]!r}")

"""The specification's two functions of data sets: `load_data` and `filter_correct_dataset`."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from tutelage.data.filter import judge
from tutelage.data.ledger import Example, summary
from tutelage.data.shapes import BadRow, parse_row
from tutelage.data.sources import read_rows, seeded_order
from tutelage.errors import InputError


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
    chosen = [row.value for row in rows]
    if subset is not None:
        chosen = [chosen[index] for index in seeded_order(len(rows), seed)[:subset]]
    keys = list(dict.fromkeys(key for row in chosen for key in row))  # from_list takes its columns from the first row alone
    try:
        full = datasets.Dataset.from_list([{key: row.get(key) for key in keys} for row in chosen])
    except Exception as error:  # pyarrow's errors: a column of mixed types
        raise InputError(f"{source}: the rows do not fit one table, a column has mixed types: {error}") from None
    if not test_size:
        return {"train": full, "test": full}
    if round(len(full) * test_size) in (0, len(full)):
        raise InputError(f"test_size {test_size} of {len(full)} rows leaves one side empty")
    parts = full.train_test_split(test_size=test_size, seed=seed)
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
    judged = list(judge([Example(**pair, source=f"row {index}") for index, pair in enumerate(pairs)]))
    kept = [index for index, (_, fate, _) in enumerate(judged) if fate == "kept"]
    if log_filter_stats:
        print(f"filter: {len(pairs)} → {len(kept)} rows ({summary(Counter(fate for _, fate, _ in judged))})")
    for index in random.Random(seed).sample(range(len(pairs)), min(debug_samples, len(pairs))):
        example, fate, verdict = judged[index]
        reward = 1.0 if verdict.equal else 0.0
        print(f"row {index}: {fate}, answer_reward {reward} (layer {verdict.layer}), reference {example.reference!r}")
        print(f"  prompt: {example.prompt[:200]!r}\n  response: {example.response[-200:]!r}")
    return ds.select(kept) if hasattr(ds, "select") else [ds[index] for index in kept]

"""A sweep laid out: the points of its curves, the trials behind them, and the rows that trials share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.config import Config, changeable, replaced
from tutelage.data import Pool, Template, choose, read_pool
from tutelage.errors import InputError
from tutelage.experiments.design import Design, Point, name_of, rows_of, steps_for, trial_config
from tutelage.model import steps_per_epoch, tokenizer_of, total_steps
from tutelage.runs import results


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep; `group` says which baseline and which pool of rows are its."""

    name: str
    config: Config
    group: str
    steps: int
    tokens: int


@dataclass(frozen=True)
class Layout:
    """A sweep laid out: points of curves, their trials by name, and the pools of rows by group."""

    points: list[Point]
    trials: dict[str, Trial]
    pools: dict[str, Pool]


def lay_out(config: Config, design: Design, directory: Path) -> Layout:
    """Points and trials of a design. Raises InputError: a value is not one of its setting, or there are fewer rows."""
    points: list[Point] = []
    trials: dict[str, Trial] = {}
    pools: dict[str, Pool] = {}
    kept = results.read_state(directory).get("templates", {})  # the prompts of a sweep that goes on stay as they are
    for varied, base in design.variations(config):
        if base.train.num_steps is not None and design.equal == "epochs":
            raise InputError("train.num_steps is given, so trials take as many steps each: write --equal steps (or tokens)")
        group = _group(base)
        if group not in pools:
            pools[group] = read_pool(base, tokenizer_of(base), Template.from_json(kept[group]) if group in kept else None)
        pool = pools[group]
        for point, trial in _of_one_variation(base, design, varied, group, pool, directory):
            points.append(point)
            if trials.setdefault(trial.name, trial).config != trial.config:
                raise InputError(f"two different trials would have the name {trial.name}; sweep their settings apart")
    first = _first_of_equals(points, trials, pools)
    points = [replace(point, trial=first[point.trial]) for point in points]
    return Layout(points, {name: trial for name, trial in trials.items() if first[name] == name}, pools)


def _first_of_equals(points: list[Point], trials: dict[str, Trial], pools: dict[str, Pool]) -> dict[str, str]:
    """For each trial the first one that trains on the same set of rows by the same settings: itself, if there is none before it.

    Rows are compared only where their number and all other settings are the same.
    """
    rows = {point.trial: point.rows for point in points}
    alike: dict[tuple[str, int, str], list[str]] = {}
    for name, trial in trials.items():
        others = replaced(trial.config, dict.fromkeys(("data.filter", "data.size", "run.dir", "run.tracking_name")))
        alike.setdefault((trial.group, rows[name], repr(others)), []).append(name)
    first = {}
    for names in alike.values():
        known: dict[tuple[bytes, ...], str] = {}
        for name in names:
            trial = trials[name]
            first[name] = known.setdefault(_row_set(pools[trial.group], trial) if len(names) > 1 else (), name)
    return first


def _row_set(pool: Pool, trial: Trial) -> tuple[bytes, ...]:
    """The hashes of the rows of a trial, in an order of their own."""
    hashes = choose(pool, trial.config.data).hashes
    assert hashes is not None  # rows of a store have some
    return tuple(sorted(each.tobytes() for each in hashes))


def _of_one_variation(
    base: Config, design: Design, varied: dict[str, str], group: str, pool: Pool, directory: Path
) -> Iterator[tuple[Point, Trial]]:
    unsized = base.data.model_copy(update={"size": None, "filter": False})
    raw = choose(pool, unsized)
    lengths = unsized.model_copy(update={"max_length": raw.max_length})
    grades = "filtered" in design.kinds or "control" in design.kinds
    filtered = choose(pool, lengths.model_copy(update={"filter": True})) if grades else raw
    right = filtered.rows

    def course(kind: str, rows: int) -> tuple[int, float]:
        """(steps, tokens of a step) of a set by itself, as if its rows were as long as those of its kind are on average."""
        of_kind = filtered if kind == "filtered" else raw
        epoch = steps_per_epoch(rows, base.train.rows_per_step)
        return total_steps(rows, base.train), of_kind.tokens / of_kind.rows * rows / epoch

    counted = [(kind, size, rows_of(kind, size, raw.rows, right)) for size in design.sizes for kind in design.kinds]
    largest = max((course(kind, rows) for kind, _, rows in counted), key=lambda pair: pair[0] * pair[1])
    for kind, size, rows in counted:
        own_steps, tokens_per_step = course(kind, rows)
        steps = steps_for(design.equal, own_steps, tokens_per_step, largest)
        lr = design.lrs[design.sizes.index(size)] if design.lrs else None
        for seed in range(base.train.seed, base.train.seed + design.seeds):
            name = name_of(kind, rows, size, raw.rows, seed, varied, lr)
            point = Point(name, kind, size, rows, seed, steps, round(steps * tokens_per_step), varied)
            num_steps = base.train.num_steps if design.equal == "epochs" else steps
            made = trial_config(base, point, raw.max_length, str(directory / "trials" / name), lr=lr, num_steps=num_steps)
            yield point, Trial(name, made, group, steps, point.tokens)


def _group(config: Config) -> str:
    """Equal for configurations that share rows, problems and the evaluation of the untouched model."""
    aside = changeable() | {"data.size", "data.filter", "data.subset_seed", "data.max_length", "eval.every"}
    values = {
        f"{section}.{key}": value
        for section in ("model", "data", "eval")
        for key, value in getattr(config, section).model_dump().items()
        if not key.startswith("lora") and key != "quantize"
    }
    shared = sorted((key, value) for key, value in values.items() if key not in aside)
    return hashlib.sha256(repr(shared).encode()).hexdigest()[:8]

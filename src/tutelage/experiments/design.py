"""What a sweep tries: its design, laid out as points of curves, and the training runs (trials) behind them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from tutelage.config import Config, known_keys, replaced, with_settings
from tutelage.errors import InputError

Kind = Literal["raw", "filtered", "control"]
Equal = Literal["epochs", "steps", "tokens"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SETS_ITSELF = {
    "data.size": "--sizes",
    "data.filter": "--data",
    "data.subset_seed": "--seeds",
    "train.seed": "--seeds",
    "model.lora_seed": "--seeds",
    "run.dir": "--out",
}
"""Settings that a sweep sets for each trial, and by what."""


@dataclass(frozen=True)
class Design:
    """What a sweep varies.

    Attributes:
        sizes: training rows; None: all there are.
        kinds: raw: rows as they are. filtered: right ones only. control: as many rows as the filter keeps (or `sizes` says), drawn at
            random from the raw ones.
        seeds: how often each is tried, with another subset and another order of rows.
        vary: settings and the values that each takes, as on the command line; all combinations are tried.
        equal: what trials have in common: epochs, optimizer steps, or tokens that are trained on.
        lrs: the learning rate of each size; empty: the configuration's for all.
    """

    sizes: tuple[int | None, ...] = (None,)
    kinds: tuple[Kind, ...] = ("raw",)
    seeds: int = 1
    vary: tuple[tuple[str, tuple[str, ...]], ...] = ()
    equal: Equal = "epochs"
    lrs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"--seeds {self.seeds}: at least one is needed")
        named = {"--sizes": self.sizes, "--data": self.kinds, **{f"--vary {key}": tried for key, tried in self.vary}}
        for name, values in named.items():
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name}: {'is empty' if not values else 'has a value twice'}")
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"--data {kind}: there are {', '.join(KINDS)}")
        for size in self.sizes:
            if size is not None and size < 1:
                raise InputError(f"--sizes {size}: at least one row is needed")
        keys = [key for key, _ in self.vary]
        if len(set(keys)) < len(keys):
            raise InputError(
                f"--vary {next(key for key in keys if keys.count(key) > 1)}: is given twice; write its values together"
            )
        if not all(0 < lr < math.inf for lr in self.lrs):
            raise InputError(f"--lr {','.join(f'{lr:g}' for lr in self.lrs)}: a learning rate is a number above zero")
        if self.lrs and len(self.lrs) != len(self.sizes):
            raise InputError(
                f"--lr: {len(self.lrs)} learning rates for {len(self.sizes)} sizes; give one for each, in their order"
            )
        for key, _ in self.vary:
            if key in SETS_ITSELF:
                raise InputError(f"--vary {key}: a sweep sets it itself, by {SETS_ITSELF[key]}")
            if key not in known_keys():
                raise InputError(f"--vary {key}: there is no such setting; `tutelage train --help` lists them")
            if key == "train.lr" and self.lrs:
                raise InputError("--vary train.lr beside --lr: which is it?")

    def variations(self, config: Config) -> list[tuple[dict[str, str], Config]]:
        """(the varied values, the configuration with them) of each combination. Raises InputError for a value that is none."""
        keys = [key for key, _ in self.vary]
        found = []
        for values in itertools.product(*(tried for _, tried in self.vary)):
            varied = dict(zip(keys, values, strict=True))
            found.append((varied, with_settings(config.model_dump(), varied.items())))
        return found


def parse_sizes(text: str) -> tuple[int | None, ...]:
    """``"128,256,full"`` → (128, 256, None)."""
    sizes: list[int | None] = []
    for part in text.split(","):
        part = part.strip()
        if part != "full" and not (part.isascii() and part.isdigit()):
            raise InputError(f'--sizes {text}: {part!r} is neither a number of rows nor "full"')
        sizes.append(None if part == "full" else int(part))
    return tuple(sizes)


def parse_rates(text: str | None) -> tuple[float, ...]:
    """``"1e-4,5e-5"`` → (1e-4, 5e-5)."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--lr {text}: write numbers with commas between them") from None


def parse_vary(texts: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """``["train.lr=1e-5,2e-5"]`` → (("train.lr", ("1e-5", "2e-5")),); commas within brackets do not part."""
    found = []
    for text in texts:
        key, separator, values = text.partition("=")
        if not separator:
            raise InputError(f"--vary {text}: write section.key=value,value,…")
        found.append((key.strip().removeprefix("--"), tuple(_parted(values))))
    return tuple(found)


def _parted(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


@dataclass(frozen=True)
class Point:
    """One point of a curve: which rows, which seed, which varied values, and the trial that has its result.

    Several points may have one trial: the control of a size is the raw set of that size, and where the filter drops nothing, filtered
    rows are the raw ones.

    Attributes:
        size: as in the design; None: full.
        rows: how many rows that is.
        steps, tokens: optimizer steps, and tokens trained on.
    """

    trial: str
    kind: Kind
    size: int | None
    rows: int
    seed: int
    steps: int
    tokens: int
    varied: dict[str, str] = field(default_factory=dict)


def rows_of(kind: Kind, size: int | None, raw: int, right: int) -> int:
    """How many rows a point trains on.

    Args:
        raw, right: rows there are, and those of them that the filter keeps.

    Raises:
        InputError: there are not so many.
    """
    there = raw if kind == "raw" else right
    if size is not None and size > there:
        what = "training rows" if kind == "raw" else "rows that the filter keeps"
        raise InputError(f'--sizes {size}: there are only {there} {what} ({kind}); leave it out, or write "full"')
    return there if size is None else size


def name_of(kind: Kind, rows: int, size: int | None, raw: int, seed: int, varied: dict[str, str], lr: float | None = None) -> str:
    """The name of a trial's directory: equal names are equal trials, so a control is named for the raw rows that it is.

    Args:
        lr: the learning rate, if that is this size's own.
    """
    what = "filtered" if kind == "filtered" else "raw"
    count = "full" if size is None and (kind == "filtered" or rows == raw) else str(rows)
    settings = [f"{key.rpartition('.')[2]}={value}".replace("/", "_") for key, value in varied.items()]
    settings += [] if lr is None else [f"lr={lr:g}"]
    return "-".join([what, count, *settings, f"seed{seed}"])


def trial_config(
    config: Config, point: Point, max_length: int, directory: str, *, lr: float | None, num_steps: int | None
) -> Config:
    """The configuration of a point's trial: `tutelage train` on it alone gives the same run."""
    offset = point.seed - config.train.seed
    subset_seed = config.data.seed if config.data.subset_seed is None else config.data.subset_seed
    values = {
        "model.lora_seed": config.model.lora_seed + offset,
        "data.filter": point.kind == "filtered",
        "data.size": None if point.trial.split("-")[1] == "full" else point.rows,
        "data.subset_seed": subset_seed + offset,
        "data.max_length": max_length,
        "train.seed": point.seed,
        "train.num_steps": num_steps,
        "run.dir": directory,
        "run.keep_end": False,  # trials of a sweep stay as long as they are
    }
    if config.run.tracking_name is not None:
        values["run.tracking_name"] = f"{config.run.tracking_name}-{point.trial}"
    return replaced(config, values if lr is None else values | {"train.lr": lr})


def steps_for(equal: Equal, steps: int, tokens_per_step: float, largest: tuple[int, float]) -> int:
    """The optimizer steps of a trial.

    Args:
        steps: what its own epochs would be.
        largest: (steps, tokens of a step) of the largest set, which the others are made equal to.
    """
    if equal == "epochs":
        return steps
    if equal == "steps":
        return largest[0]
    return max(1, math.floor(largest[0] * largest[1] / tokens_per_step + 0.5))

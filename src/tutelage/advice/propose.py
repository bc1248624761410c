"""The settings of a run that fit on a device, and the fastest of them, of the first way to train that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tutelage.config import Config, replaced
from tutelage.data import Example, Ledger, Prepared, Template, TokenizedExample, panel_size, prepare
from tutelage.errors import InputError
from tutelage.model import RECOMPUTATIONS, Recomputation, check_positions, for_device, tokenizer_of
from tutelage.resources import AGAIN, HALF_FILLED, Estimate, Estimator, Seat, device_here, device_named, way_of, ways

IMAGINED_ROWS, IMAGINED_PROBLEMS = 1000, 500
"""What is planned for where rows of a given length stand for the data."""


class Option(NamedTuple):
    """Settings that differ from those that were given, by their dotted names, and what the run is then reckoned to need and take."""

    changes: dict[str, Any]
    needs: Estimate


@dataclass(frozen=True)
class Advice:
    """What `tutelage plan` says: the settings as they were given, and the best that fit. None: nothing does.

    Attributes:
        others: the best of each other way to train.
        less_again: the proposal with each kind of recomputation that computes less again.
        doubled: the proposal with packs twice as large. None: rows are padded.
    """

    config: Config
    prepared: Prepared
    estimator: Estimator
    given: Option
    proposal: Option | None
    others: list[Option]
    less_again: list[Option]
    doubled: Option | None

    @property
    def ranks(self) -> int:
        return self.estimator.ranks(self.config)


@dataclass(frozen=True)
class Planner:
    """Finds options for one configuration and its data."""

    config: Config
    prepared: Prepared
    estimator: Estimator

    def option(self, changes: dict[str, Any], kind: Recomputation) -> Option:
        """The settings with some changes; fewer rows are generated together where all of them do not fit."""
        config = replaced(self.config, changes)
        needs = self.estimator.estimate(config, self.prepared, kind)
        rows = config.eval.batch_size
        while needs.seat is Seat.NATIVE and rows > 1 and sum(needs.evaluation.values()) > self.estimator.allowed:
            rows //= 2
            changes = {**changes, "eval.batch_size": rows}
            needs = self.estimator.estimate(replaced(self.config, changes), self.prepared, kind)
        return Option(changes, needs)

    def best(self, changes: dict[str, Any]) -> Option:
        """The fastest of the sizes of packs and kinds of recomputation that fit; else the one that needs least."""
        longest, rows = self.prepared.max_length, self.config.train.batch_size * self.config.train.grad_accum
        sizes: list[dict[str, Any]] = [
            {"train.pack_tokens": longest * 2**power} for power in range(8) if 2**power <= max(1, rows)
        ]
        if not self.estimator.policy(self.config).packs:
            splits = [2**power for power in range(8) if rows % 2**power == 0]
            sizes = [{"train.batch_size": together, "train.grad_accum": rows // together} for together in splits]
        wanted = self.config.model.activation_checkpointing
        kinds = RECOMPUTATIONS if wanted == "auto" else (wanted, "selective", "full")
        options = [self.option({**changes, **size}, kind) for size in sizes for kind in dict.fromkeys(kinds)]
        fitting = [option for option in options if option.needs.fits]
        if not fitting:
            return min(options, key=lambda option: option.needs.peak)
        if fitting[0].needs.seconds is None:
            return min(fitting, key=_unfilled)
        fastest = min(_seconds(option) for option in fitting)
        return min((each for each in fitting if _seconds(each) <= 1.01 * fastest), key=lambda option: option.needs.peak)

    def traced(self, option: Option) -> Option:
        """An option whose memory of training is traced rather than reckoned."""
        config = replaced(self.config, option.changes)
        return Option(option.changes, self.estimator.estimate(config, self.prepared, option.needs.kind, trace=True))


def _seconds(option: Option) -> float:
    return sum(option.needs.seconds or ())


def _unfilled(option: Option) -> tuple[float, float]:
    """Less is better where the speed is not known: what is computed again, and how badly batches fill a GPU; then bytes."""
    tokens = option.needs.load.tokens
    return AGAIN[option.needs.kind] - tokens / (tokens + HALF_FILLED), option.needs.peak


def advise(
    config: Config, device_name: str | None = None, gpus: int = 1, length: int | None = None, trace: bool = False
) -> Advice:
    """What a run needs and takes on a device, and the settings to use there.

    The proposal is, of the first way of training that fits (`resources.ways`), the fastest size of packs and kind of recomputation.
    It never changes which rows make up a step.

    Args:
        device_name: as `resources.device_named`; None: the device of the configuration on this machine.
        gpus: how many such devices the machine has. With several, the last one is the engine's, and the others share the weights.
        length: plan for rows of so many tokens, without looking at data or tokenizer.
        trace: trace the memory of training for the settings given and for the proposal.

    Raises:
        InputError: the device, the model's configuration or the data are not there.
    """
    if gpus < 1:
        raise InputError(f"--gpus {gpus}: at least one is needed")
    device = device_named(device_name) if device_name is not None else device_here(config.model)
    if device.kind == "cpu" and gpus > 1:
        raise InputError(f"--gpus {gpus}: the device is a CPU")
    if device.kind == "cpu":
        config = config.model_copy(update={"model": for_device(config.model, device.torch_device)})
    tokenizer = tokenizer_of(config) if length is None else None
    prepared = prepare(config, tokenizer) if length is None else imagined(config, length)
    planner = Planner(config, prepared, Estimator(tokenizer, device, gpus))
    policy, ranks = planner.estimator.policy(config), planner.estimator.ranks(config)
    check_positions(policy, prepared.max_length, "data.max_length")
    if length is None:
        check_positions(policy, prepared.longest_prompt + config.eval.max_new_tokens, "the longest prompt + eval.max_new_tokens")
    given = Option({}, planner.estimator.given(config, prepared))
    best: dict[tuple[str, ...], Option] = {}
    for changes in ways(config, device.kind, ranks):
        best.setdefault(way_of(replaced(config, changes)), planner.best(changes))
    chosen = next((way for way, option in best.items() if option.needs.fits), None)
    others = [option for way, option in best.items() if way != chosen]
    if chosen is None:
        return Advice(config, prepared, planner.estimator, planner.traced(given) if trace else given, None, others, [], None)
    proposal = best[chosen]
    changes, kind = proposal.changes, proposal.needs.kind
    less_again = [planner.option(changes, other) for other in RECOMPUTATIONS if AGAIN[other] < AGAIN[kind]]
    budget = changes.get("train.pack_tokens")
    doubled = planner.option({**changes, "train.pack_tokens": 2 * budget}, kind) if budget else None
    if trace:
        given, proposal = planner.traced(given), planner.traced(proposal)
        if not proposal.needs.fits:
            raise InputError(
                "the trace of what was to be proposed needs more than the device has; leave out --trace, or plan for less"
            )
    return Advice(config, prepared, planner.estimator, given, proposal, others, less_again, doubled)


def imagined(config: Config, length: int) -> Prepared:
    """Rows of a given length, of which no two share anything, in place of data: a fifth of each is the prompt.

    Raises:
        InputError: too short for a prompt and a response.
    """
    if length < 2:
        raise InputError(f"--length {length}: a row has at least two tokens")
    prompt = max(1, length // 5)
    count = config.data.size or IMAGINED_ROWS
    rows = [TokenizedExample(f"row {index}", (index,) * prompt, (index,) * (length - prompt)) for index in range(count)]
    problems = [Example("", "", "", f"problem {index}") for index in range(IMAGINED_PROBLEMS)]
    panel = panel_size(config.eval, len(problems))
    return Prepared(
        rows, problems if config.eval.full else problems[:panel], Ledger([row.source for row in rows]), np.full(count, length), length,
        False, Template("{question}"), panel, prompt,
    )  # fmt: skip

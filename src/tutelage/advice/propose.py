"""The settings of a run that fit on a device, and the fastest of them, of the first way to train that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from tutelage import console
from tutelage.advice.imagine import Rows, imagined, rows_of
from tutelage.advice.measure import Measured
from tutelage.config import Config, replaced
from tutelage.data import Prepared, prepare
from tutelage.errors import InputError
from tutelage.model import RECOMPUTATIONS, Recomputation, check_positions, for_device, one_pack, tokenizer_of
from tutelage.resources import (
    AGAIN,
    HALF_FILLED,
    Device,
    Estimate,
    Estimator,
    Seat,
    device_here,
    device_named,
    joined_by,
    keeps,
    starting_seconds,
    way_of,
    ways,
)

WORTH = 1.05
"""Settings that fit are changed if the run is faster by this factor."""
WORTH_A_SEAT = 1.1
"""Evaluation gives up a better seat (beside training, rather than in turns) if the run is faster by this factor."""
SEATS = (Seat.OWN_DEVICE, Seat.BESIDE, Seat.IN_TURNS, Seat.NATIVE)
"""Where responses are generated, the better seat first."""


class Asked(NamedTuple):
    """What a plan is asked for, beside a configuration.

    Attributes:
        device: as `resources.device_named`; None: the device of the configuration on this machine.
        gpus: how many such devices the machine has. With several, the last one is the engine's, and the others share the weights.
        length: plan for rows of so many tokens, without looking at data or tokenizer.
        trace: trace the memory of training for the settings given and for the proposal.
        network: what joins the cards, as `resources.joined_by`.
        measure: whether real steps are computed with the settings that are proposed.
    """

    device: str | None = None
    gpus: int = 1
    length: int | None = None
    trace: bool = False
    network: str | None = None
    measure: bool = False


class Option(NamedTuple):
    """Settings that differ from those that were given, by their dotted names, and what the run is then reckoned to need and take."""

    changes: dict[str, Any]
    needs: Estimate


@dataclass(frozen=True)
class Advice:
    """What `tutelage plan` says: the settings as they were given, and the best that fit. None: nothing does.

    A proposal without changes says that the settings are to stay as they are.

    Attributes:
        asked: the configuration as it was given; config: as it can be on the device.
        rows: those that are planned for.
        others: the best of each way to train that was tried before the proposed one, and does not fit.
        less_again: the proposal with each kind of recomputation that computes less again.
        doubled: the proposal with packs twice as large. None: rows are padded.
        measured: what real steps of the proposal took. None: none were computed.
    """

    asked: Config
    config: Config
    rows: Rows
    prepared: Prepared
    estimator: Estimator
    given: Option
    proposal: Option | None
    others: list[Option]
    less_again: list[Option]
    doubled: Option | None
    measured: Measured | None = None

    @property
    def ranks(self) -> int:
        return self.estimator.ranks(self.config)

    @property
    def packs(self) -> bool:
        """Whether rows are packed, rather than padded."""
        return self.estimator.policy(self.config).packs

    @property
    def starting(self) -> float:
        """Seconds before the steps are as fast as later ones."""
        return starting_seconds(self.estimator.policy(self.config), self.estimator.device)

    @property
    def by_itself(self) -> Estimate:
        """What the proposal comes to where the run decides what is computed again."""
        assert self.proposal is not None
        return self.estimator.given(replaced(self.config, self.proposal.changes), self.prepared)

    def budget(self, option: Option) -> int:
        """Tokens of a pack at most."""
        train = replaced(self.config, option.changes).train
        return train.pack_tokens or train.batch_size * self.prepared.max_length


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
        longest, rows = self.prepared.max_length, self.config.train.rows_per_step
        in_one = replaced(self.config, changes).train.update == "in_backward"  # a step is one batch
        powers = [2**power for power in range(8)]
        if not self.estimator.policy(self.config).packs:
            splits = [rows] if in_one else [together for together in powers if rows % together == 0]
            sizes = [{"train.batch_size": together, "train.grad_accum": rows // together} for together in splits]
        elif in_one:
            sizes = [{"train.pack_tokens": one_pack(self.prepared.lengths, rows, self.estimator.ranks(self.config))}]
        else:
            sizes = [{"train.pack_tokens": longest * power} for power in powers if power <= max(1, rows)]
        options: list[Option] = []
        tried = keeps(self.config, self.estimator.device.kind)
        for beyond in (False, True):  # what takes the host's memory, where nothing fits without
            options += [self.option({**changes, **size, **more}, kind) for size in sizes for kind, more in tried if bool(more) == beyond]
            fitting = [option for option in options if option.needs.fits]
            if fitting:
                break
        if not fitting:
            return min(options, key=lambda option: option.needs.peak)
        if fitting[0].needs.seconds is None:
            return min(fitting, key=_unfilled)
        near = WORTH_A_SEAT * min(map(_seconds, fitting))
        patient = self.config.eval.mode == "async"  # it wants a seat in which training goes on, however fast the others are
        seated = min(map(_rank, (each for each in fitting if patient or _seconds(each) <= near)))
        fitting = [each for each in fitting if _rank(each) == seated]
        fastest = min(map(_seconds, fitting))
        return min((each for each in fitting if _seconds(each) <= 1.01 * fastest), key=lambda option: option.needs.peak)

    def first_that_fits(self) -> tuple[Option | None, list[Option]]:
        """(the best of the first way of training that fits, the best of each way before it); None: no way fits."""
        others: list[Option] = []
        tried = set()
        for changes in ways(self.config, self.estimator.device.kind):
            way = way_of(replaced(self.config, changes))
            if way not in tried:
                tried.add(way)
                option = self.best(changes)
                if option.needs.fits:
                    return option, others
                others.append(option)
        return None, others

    def settled(self, given: Option, proposal: Option) -> Option:
        """The settings as they were given where they fit and the proposal is hardly faster; else the proposal."""
        if not given.needs.fits or _rank(given) > _rank(proposal):
            return proposal
        known = given.needs.seconds is not None
        stays = _seconds(given) <= WORTH * _seconds(proposal) if known else _unfilled(given)[:2] <= _unfilled(proposal)[:2]
        return given if stays else proposal

    def traced(self, option: Option) -> Option:
        """An option whose memory of training is traced rather than reckoned."""
        config = replaced(self.config, option.changes)
        return Option(option.changes, self.estimator.estimate(config, self.prepared, option.needs.kind, trace=True))


def _seconds(option: Option) -> float:
    return sum(option.needs.seconds or ())


def _rank(option: Option) -> int:
    return SEATS.index(option.needs.seat)


def _unfilled(option: Option) -> tuple[int, float, float]:
    """Less is better where the speed is not known: the seat, what is computed again and how badly batches fill a GPU; then bytes."""
    tokens = option.needs.load.tokens
    filled = round(AGAIN[option.needs.kind] - tokens / (tokens + HALF_FILLED), 2)
    return _rank(option), filled, option.needs.peak


def advise(config: Config, asked: Asked | None = None) -> Advice:
    """What a run needs and takes on a device, and the settings to use there.

    The proposal is, of the first way of training that fits (`resources.ways`), the fastest size of packs and kind of recomputation.
    It never changes which rows make up a step.

    Raises:
        InputError: the device, the model's configuration or the data are not there.
    """
    asked, as_given = asked or Asked(), config
    device = _device(config, asked)
    if device.kind == "cpu":
        config = config.model_copy(update={"model": for_device(config.model, device.torch_device)})
    tokenizer, prepared, rows = _rows(config, asked.length)
    planner = Planner(config, prepared, Estimator(tokenizer, device, asked.gpus))
    with console.progress("making the model's shapes"):
        policy = planner.estimator.policy(config)
    check_positions(policy, prepared.max_length, "data.max_length")
    if asked.length is None:
        check_positions(policy, prepared.longest_prompt + config.eval.max_new_tokens, "the longest prompt + eval.max_new_tokens")
    with console.progress("laying out the first steps"):
        given = Option({}, planner.estimator.given(config, prepared))
    with console.progress("trying sizes of packs"):
        chosen, others = planner.first_that_fits()
    if chosen is None:
        given = planner.traced(given) if asked.trace else given
        return Advice(as_given, config, rows, prepared, planner.estimator, given, None, others, [], None)
    proposal = planner.settled(given, chosen)
    changes, kind = proposal.changes, proposal.needs.kind
    less_again = [planner.option(changes, other) for other in RECOMPUTATIONS if AGAIN[other] < AGAIN[kind]]
    budget = changes.get("train.pack_tokens")
    doubled = planner.option({**changes, "train.pack_tokens": 2 * budget}, kind) if budget else None
    if asked.trace:
        given, proposal = planner.traced(given), planner.traced(proposal)
        if not proposal.needs.fits:
            raise InputError(
                "the trace of what was to be proposed needs more than the device has; leave out --trace, or plan for less"
            )
    return Advice(as_given, config, rows, prepared, planner.estimator, given, proposal, others, less_again, doubled)


def _device(config: Config, asked: Asked) -> Device:
    """The device that is planned for. Raises InputError: there is no such one, or not as many of it."""
    if asked.gpus < 1:
        raise InputError(f"--gpus {asked.gpus}: at least one is needed")
    with console.progress("looking at the device"):
        device = joined_by(device_named(asked.device) if asked.device is not None else device_here(config.model), asked.network)
    if device.kind == "cpu" and asked.gpus > 1:
        raise InputError(f"--gpus {asked.gpus}: the device is a CPU")
    return device


def _rows(config: Config, length: int | None) -> tuple[Any, Prepared, Rows]:
    """(the tokenizer, the rows, how many there are); with a length, no tokenizer and imagined rows.

    Raises:
        InputError: there are no such rows, or no tokenizer, and then how to plan without it.
    """
    if length is not None:
        with console.progress("counting the rows"):
            rows = rows_of(config.data)
        return None, imagined(config, length, rows), rows
    try:
        with console.progress("loading the tokenizer"):
            tokenizer = tokenizer_of(config)
        with console.progress("reading the rows"):
            prepared = prepare(config, tokenizer)
    except InputError as error:
        if "tokenizer" not in str(error):
            raise
        raise InputError(f"{error}; or plan without a tokenizer, as if every row had so many tokens: --length 1024") from None
    sources = len(prepared.ledger.sources)
    return tokenizer, prepared, Rows(config.data.in_words, sources, prepared.rows, len(prepared.validation), imagined=False)

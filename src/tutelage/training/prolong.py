"""A run is made longer: what may be made so, and what its learning rate does from there."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tutelage.config import Config, changeable
from tutelage.errors import InputError
from tutelage.model import optim, total_steps
from tutelage.runs import Reading, changes, checkpoint, damage
from tutelage.training.patience import stop_of

LENGTH = frozenset({"train.num_epochs", "train.num_steps"})
"""The settings that say how long a run is."""


def made_longer(config: Config, allowed: Collection[str]) -> tuple[int, int] | None:
    """(optimizer steps that the run in `run.dir` was to have, those that it is to have now), where these are more; else None.

    Of a run that `eval.patience` ended, and that its configuration of now lets go on, both may be the same.

    Raises:
        InputError: it is a finished run, and cannot go on.
    """
    directory = Path(config.run.dir)
    reading = Reading(directory)
    if not (directory / "config.toml").is_file() or not (reading.trained or checkpoint.latest(directory)):
        return None
    rows = reading.table("data.json").get("rows")
    then = None if rows is None else total_steps(rows, damage.configuration(directory / "config.toml").train)
    now = None if rows is None else total_steps(rows, config.train)
    if reading.trained:
        _refuse_what_cannot_go_on(reading, config, now, allowed)
    elif then is None or now is None or now <= then:
        return None
    assert then is not None and now is not None
    return then, now


def _refuse_what_cannot_go_on(reading: Reading, config: Config, now: int | None, allowed: Collection[str]) -> None:
    """Raises InputError where a finished run cannot go on to `now` optimizer steps."""
    directory, done = reading.directory, reading.last_step
    start = f"run.dir: {directory} holds a finished run of {done:,} steps, which is never overwritten"
    other = "give this run another --run.dir, or remove it"
    if now is None:
        raise InputError(f"{start}; how many rows it has is not known, so it cannot be made longer: {other}")
    if now <= done:
        by_epochs = "--train.num_epochs E" if config.train.num_steps is None else "--train.num_steps N"
        raise InputError(f"{start}; {other}. To make that run longer: {by_epochs} for more than {done:,} steps (now {now:,})")
    if stop_of(reading.evaluations, config.eval.patience, now):
        raise InputError(
            f"{start}; eval.patience = {config.eval.patience} would end it at once: its last evaluations were no better than the best one."
            f" To go on: a larger --eval.patience, or none; else {other}"
        )
    changed = changes(config, {*changeable(), *allowed, *LENGTH})
    if changed:
        keys = " ".join(f"--allow {line.partition(':')[0]}" for line in changed)
        raise InputError(
            f"{start}. It could be made longer, but other settings changed as well: {'; '.join(changed)}; undo that, {other},"
            f" or go on with the new values: {keys}"
        )
    found = checkpoint.latest(directory)
    if found is None or checkpoint.step_of(found) != done:
        raise InputError(
            f"{start}, and cannot be made longer: the state of its end (checkpoints/step-{done:08d}: weights in full precision, moments of"
            f" the optimizer) is not there. run.keep_end = true keeps it, unless run.save_every is 0. Train anew: {other}"
        )


def in_words(reading: Reading, config: Config, done: int, total: int) -> str:
    """What a run is that goes on after `done` steps to a larger `total`: the longer run itself, or one of another learning rate."""
    train = config.train
    rates = {line["step"]: line["lr"] for line in reading.steps if line["step"] <= done and "lr" in line}
    if all(rate == optim.lr_at(step - 1, total, train) for step, rate in rates.items()):
        return f"to {total:,} steps; the learning rates so far are those of a run of {total:,} steps, so this is that run"
    before = f"was {rates[done]:.2e} in step {done:,} and " if done in rates else ""
    ends = "" if train.schedule == "constant" else f" and falls to zero by the end ({train.schedule}, over {total:,} steps)"
    return (
        f"to {total:,} steps; the learning rate {before}is {optim.lr_at(done, total, train):.2e} in step {done + 1:,}{ends}."
        f' A run of {total:,} steps from the start would have had other rates before; train.schedule = "constant" without warm-up'
        " has the same"
    )

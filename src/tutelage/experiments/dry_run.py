"""``tutelage sweep --dry-run``: every trial of a sweep, and what it is reckoned to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import ModelConfig
from tutelage.data import Pool, choose
from tutelage.machines import ALONE
from tutelage.model import device_for, for_device
from tutelage.resources import USUAL_SHARE, forecast
from tutelage.runs import Reading


def show(trials: Sequence[Any], pools: Mapping[str, Pool], models: int) -> list[dict[str, Any]]:
    """Print every trial of a sweep with what it is reckoned to take; finished ones with what they took. The same for `--json`.

    Once trials are finished, others of the same model and problems are reckoned to be as fast.

    Args:
        models: how many trained models will be on the disk at the same time.
    """
    rows, told, total, size = [], [], 0.0, 0.0
    evaluated: set[str] = set()
    on_device: dict[str, ModelConfig] = {}  # a CPU without bfloat16 is told of once
    for model in (trial.config.model for trial in trials):
        if repr(model) not in on_device:
            on_device[repr(model)] = for_device(model, device_for(model.device, ALONE))
    finished = {trial.name: reading for trial in trials if (reading := Reading(Path(trial.config.run.dir))).trained}
    known = {group: _pace([trial for trial in trials if trial.group == group and trial.name in finished]) for group in pools}
    for trial in trials:
        prepared = choose(pools[trial.group], trial.config.data)
        shape = (trial.name, len(prepared.train), trial.steps, f"{trial.tokens:,}")
        if trial.name in finished:
            took = sum(line["seconds"] for line in finished[trial.name].steps)
            rows.append((*shape, f"took {console.duration(took)}", "", "finished"))
            told.append({"trial": trial.name, "finished": True, "training_seconds": took})
            continue
        config = trial.config.model_copy(update={"model": on_device[repr(trial.config.model)]})
        expected = forecast.forecast(config, prepared, pools[trial.group].tokenizer, trial.group not in evaluated)
        if pace := known[trial.group]:
            expected = replace(expected, training=trial.tokens * pace[0], evaluation=pace[1])
        evaluated.add(trial.group)
        total, size = total + expected.training + expected.evaluation, max(size, expected.model)
        times = console.duration(expected.training), console.duration(expected.evaluation)
        rows.append((*shape, *times, f"{expected.memory / 1e9:.1f} GB"))
        reckoned = {"training_seconds": expected.training, "evaluation_seconds": expected.evaluation, "peak_bytes": expected.memory}
        size_of = {"rows": len(prepared.train), "steps": trial.steps, "tokens": trial.tokens}
        told.append({"trial": trial.name, "finished": False, **size_of, **reckoned})
    console.table("Trials", ("trial", "rows", "steps", "tokens", "training", "evaluation", "memory"), rows)
    how = (
        "as fast as finished trials were"
        if finished
        else f"from shapes: {100 * USUAL_SHARE:.0f} % of the rate of matrix products, generation at the rate of memory; the first"
        " trial's evaluation includes that of the untouched model"
    )
    console.say(f"About {console.duration(total)} of one device, and {models} models of {size / 1e9:.1f} GB on the disk ({how}).")
    return told


def _pace(finished: Sequence[Any]) -> tuple[float, float] | None:
    """(seconds of training for each token, seconds of the evaluations of a trial) of finished trials; None of none."""
    if not finished:
        return None
    readings = [Reading(Path(trial.config.run.dir)) for trial in finished]
    training = sum(line["seconds"] for reading in readings for line in reading.steps)
    evaluations = [line for reading in readings for line in reading.evaluations if "adopted_from" not in line]
    return training / sum(trial.tokens for trial in finished), sum(line["seconds"] for line in evaluations) / len(finished)

"""``tutelage sweep --dry-run``: every trial of a sweep, and what it is reckoned to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import replaced
from tutelage.data import Pool, Prepared, choose
from tutelage.experiments.layout import Layout, Trial
from tutelage.model import for_device
from tutelage.resources import USUAL_SHARE, Estimate, Estimator, device_here, in_gib
from tutelage.runs import Reading, verdicts

Known = dict[tuple[str, str, str], tuple[Estimator, str]]
"""The estimator and the precision of a group, a device and a configured precision."""


def show(layout: Layout, gpus_per_trial: int, models: int) -> list[dict[str, Any]]:
    """Print every trial of a sweep with what it is reckoned to take; finished ones with what they took. The same for `--json`.

    Once trials are finished, others of the same model and problems are reckoned to be as fast.

    Args:
        models: how many trained models will be on the disk at the same time.
    """
    trials, known, begun = list(layout.trials.values()), Known(), set[str]()
    finished = {trial.name: reading for trial in trials if (reading := Reading(Path(trial.config.run.dir))).trained}
    paces = {group: _pace([trial for trial in trials if trial.group == group], finished) for group in layout.pools}
    rows: list[tuple[Any, ...]] = []
    found: list[dict[str, Any]] = []
    total = size = 0.0
    for trial in trials:
        prepared = choose(layout.pools[trial.group], trial.config.data)
        shape = {"rows": prepared.rows, "steps": trial.steps, "tokens": trial.tokens}
        cells = trial.name, *(f"{count:,}" for count in shape.values())
        if trial.name in finished:
            took = finished[trial.name].training_seconds
            rows.append((*cells, f"took {console.duration(took)}", "", "finished"))
            found.append({"trial": trial.name, "finished": True, "training_seconds": took})
            continue
        needs = _needs(trial, prepared, layout.pools[trial.group], gpus_per_trial, known, trial.group not in begun)
        begun.add(trial.group)
        if pace := paces[trial.group]:
            needs = replace(needs, seconds=(trial.tokens * pace[0], pace[1]))
        seconds = needs.seconds or (None, None)
        total, size = total + sum(needs.seconds or ()), max(size, needs.training["weights"])
        rows.append((*cells, *("–" if each is None else console.duration(each) for each in seconds), in_gib(needs.peak)))
        reckoned = {"training_seconds": seconds[0], "evaluation_seconds": seconds[1], "peak_bytes": needs.peak}
        found.append({"trial": trial.name, "finished": False, **shape, **reckoned})
    console.table("Trials", ("trial", "rows", "steps", "tokens", "training", "evaluation", "memory"), rows)
    how = (
        "as fast as finished trials were"
        if finished
        else f"as `tutelage plan` reckons: {100 * USUAL_SHARE:.0f} % of the rate of matrix products; the first trial's evaluation"
        " includes that of the untouched model"
    )
    for line in verdicts.equal_sets([asdict(point) for point in layout.points]):
        console.say(line)
    console.say(f"About {console.duration(total)} of one device, and {models} models of {in_gib(size)} on the disk ({how}).")
    return found


def _pace(trials: Sequence[Trial], finished: Mapping[str, Reading]) -> tuple[float, float] | None:
    """(seconds of training for each token, seconds of the evaluations of a trial) of those that are finished; None of none."""
    done = [trial for trial in trials if trial.name in finished]
    if not done:
        return None
    readings = [finished[trial.name] for trial in done]
    training = sum(reading.training_seconds for reading in readings)
    evaluations = [line for reading in readings for line in reading.evaluations if "adopted_from" not in line]
    return training / sum(trial.tokens for trial in done), sum(line["seconds"] for line in evaluations) / len(done)


def _needs(trial: Trial, prepared: Prepared, pool: Pool, gpus: int, known: Known, first: bool) -> Estimate:
    """What a trial is reckoned to take on this machine. The first of a group has the evaluation of the untouched model."""
    model, config = trial.config.model, trial.config
    key = trial.group, model.device, model.precision
    if key not in known:
        device = device_here(model)
        estimator = Estimator(pool.store.recipe.tokenizer, device, gpus if device.kind == "cuda" else 1, shares=False)
        known[key] = estimator, for_device(model, device.torch_device).precision
    estimator, precision = known[key]
    changes = {"model.precision": precision, "eval.before": config.eval.before and first}
    return estimator.given(replaced(config, changes), prepared)

"""How long a run will take and how much memory it will need, before anything is trained: from shapes, never from weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage import console, memory, plan
from tutelage.config import Config, EvalConfig, ModelConfig
from tutelage.course import Course
from tutelage.live import evaluation_due
from tutelage.memory import Load
from tutelage.model import device_for, for_device, outline
from tutelage.policy import RECOMPUTATIONS, Policy
from tutelage.prepare import Pool, Prepared, choose
from tutelage.readings import Reading
from tutelage.speed import matrix_rate, memory_rate, pair_cost, step_flops
from tutelage.world import ALONE


@dataclass(frozen=True)
class Forecast:
    """Seconds of training and of evaluation, and bytes: of weights, state and activations on the
    device that trains, and of the trained model on the disk."""

    training: float
    evaluation: float
    memory: float
    model: float


def forecast(config: Config, prepared: Prepared, tokenizer: Any, with_baseline: bool = False) -> Forecast:
    """What a run is reckoned to take on this machine.

    Training: the operations of its first step, times the steps, at the usual share of the rate of matrix products. Generation: each token
    of a batch at the rate of matrix products or of memory, whichever is slower; responses are reckoned to be as long as the
    longest worked solution, at most as they may be. Memory: as `memory` reckons.

    Args:
        with_baseline: whether the run also evaluates the untouched model, whose responses may all be cut off at the cap.
    """
    device = device_for(config.model.device, ALONE)
    policy = outline(config.model, tokenizer, device)
    course = Course(prepared, config, policy, pair_cost(policy))
    _, batches = course.at(0)
    flops = sum(step_flops(policy, batch) for batch in batches) * course.total
    rate = matrix_rate(device, policy.compute_dtype)
    asked = rows_asked(prepared, config.eval, course.total)
    tokens = response_tokens(prepared, config.eval)
    reads = memory_rate(device)
    seconds = sum(
        generation_seconds(policy, rows, tokens, config.eval.batch_size, rate, reads) for step, rows in asked.items() if step
    )
    if with_baseline and config.eval.before:
        seconds += generation_seconds(policy, asked[0], config.eval.max_new_tokens, config.eval.batch_size, rate, reads)
    model = memory.weight_bytes(policy)
    load = Load(course.largest, course.largest)
    return Forecast(flops / (plan.USUAL_SHARE * rate), seconds, _memory(policy, config, load), model)


def rows_asked(prepared: Prepared, config: EvalConfig, total: int) -> dict[int, int]:
    """How many responses the evaluation after each step wants, by the step; 0 is the untouched model."""
    due = [0] if config.before else []
    due += [step for step in range(1, total + 1) if evaluation_due(step, total, config)]
    return {step: config.samples * (len(prepared.validation) if step in (0, total) else prepared.panel) for step in due}


def response_tokens(prepared: Prepared, config: EvalConfig) -> int:
    """How long a trained model's responses are reckoned to be: as the longest worked solution, at most as they may be."""
    return min(max(len(row.response_ids) for row in prepared.train), config.max_new_tokens)


def generation_seconds(policy: Policy, rows: int, tokens: int, together: int, product_rate: float, reads: float) -> float:
    """Seconds for so many rows of so many tokens: each token of a batch at the rate of matrix products or of memory, whichever
    is slower.

    Args:
        together: rows that are generated at the same time.
        product_rate, reads: of the device, as `devices.Device`.
    """
    weights = list(policy.model.parameters())
    count = sum(weight.numel() for weight in weights)
    size = sum(weight.numel() * min(weight.element_size(), policy.compute_dtype.itemsize) for weight in weights)
    batch = min(rows, together)
    return -(-rows // batch) * tokens * max(2.0 * count * batch / product_rate, size / reads)


def _memory(policy: Policy, config: Config, load: Load) -> float:
    """Bytes at the peak of training with the recomputation that is configured, or that "auto" would choose."""
    wanted = config.model.activation_checkpointing
    choices = RECOMPUTATIONS if wanted == "auto" else (wanted,)
    free = plan.HEADROOM * memory.free_memory(policy.device)
    needed = [sum(memory.training_bytes(policy, config, load, kind).values()) for kind in choices]
    return next((size for size in needed if size <= free), needed[-1])


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
        expected = forecast(config, prepared, pools[trial.group].tokenizer, trial.group not in evaluated)
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
        else f"from shapes: {100 * plan.USUAL_SHARE:.0f} % of the rate of matrix products, generation at the rate of memory; the first"
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

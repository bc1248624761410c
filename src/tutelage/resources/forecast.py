"""How long a run will take and how much memory it will need, before anything is trained: from shapes, never from weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutelage.config import Config, EvalConfig
from tutelage.data import Prepared
from tutelage.machines import ALONE
from tutelage.model import RECOMPUTATIONS, Course, Policy, device_for, outline
from tutelage.resources import memory
from tutelage.resources.memory import Load
from tutelage.resources.speed import USUAL_SHARE, matrix_rate, memory_rate, pair_cost, step_flops


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
    return Forecast(flops / (USUAL_SHARE * rate), seconds, _memory(policy, config, load), model)


def rows_asked(prepared: Prepared, config: EvalConfig, total: int) -> dict[int, int]:
    """How many responses the evaluation after each step wants, by the step; 0 is the untouched model."""
    due = [0] if config.before else []
    due += [step for step in range(1, total + 1) if config.is_due(step, total)]
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
    free = memory.HEADROOM * memory.free_memory(policy.device)
    needed = [sum(memory.training_bytes(policy, config, load, kind).values()) for kind in choices]
    return next((size for size in needed if size <= free), needed[-1])

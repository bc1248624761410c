"""``tutelage plan --measure``: a trial of real steps on this machine, in place of speeds that are reckoned."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.data import Prepared
from tutelage.errors import InputError, first_line
from tutelage.model import Course, Policy, is_out_of_memory, load_policy, optim
from tutelage.resources import Estimate, costs_of, memory_in_use
from tutelage.training import accumulate_gradients, update_weights

TRIAL_SECONDS = 20.0


class Measured(NamedTuple):
    """What a trial took.

    Attributes:
        steps: that were measured, after a first one that was not; seconds: of one of them, the median.
        tokens_per_second: of the rows' own tokens.
        training_seconds: of all steps of the run, at this speed.
        peak_bytes: of a GPU at most, through all steps. None: a CPU does not tell.
    """

    steps: int
    seconds: float
    tokens_per_second: float
    training_seconds: float
    peak_bytes: float | None


def measured(
    config: Config, prepared: Prepared, tokenizer: Any, needs: Estimate,
    seconds: float = TRIAL_SECONDS, now: Callable[[], float] = time.monotonic,
) -> Measured:  # fmt: skip
    """Real optimizer steps of a run's first rows, for so many seconds, one at least; nothing is saved.

    The first step allocates, and does not count. Layers are compiled where `model.compile` is "on".

    Args:
        config: with the settings that are proposed; needs: what they were reckoned to need, with tile and chunk.

    Raises:
        InputError: the weights are not there, or memory ran out.
    """
    with console.progress("loading the model"):
        policy = load_policy(config.model, tokenizer)
    policy.packs = policy.packs and config.train.pack
    policy.recompute(needs.kind)
    policy.chunk, policy.offload = needs.chunk, config.model.activation_offload
    if config.model.compile == "on":
        policy.compile()
    policy.compute_by_tiles(needs.tile)
    policy.model.config.use_cache = False
    policy.model.train()
    optimizer = optim.make_optimizer(policy.model, config)
    course = Course(prepared, config, policy, costs_of(policy))
    try:
        with console.progress(f"real steps, for about {seconds:.0f} s"):
            taken = _steps(course, optimizer, seconds, now)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"--measure: memory ran out on {policy.device}: {first_line(error)}") from None
    in_use = memory_in_use(policy.device)
    peak = in_use * 1e9 if policy.device.type == "cuda" and in_use is not None else None
    tokens, total = sum(each for each, _ in taken), sum(each for _, each in taken)
    rate = tokens / total
    del policy, optimizer
    gc.collect()
    of_step = statistics.median(each for _, each in taken)
    return Measured(len(taken), of_step, rate, prepared.tokens * course.total / course.epoch / rate, peak)


def _steps(course: Course, optimizer: torch.optim.Optimizer, seconds: float, now: Callable[[], float]) -> list[tuple[int, float]]:
    """(tokens, seconds) of each step but the first."""
    taken: list[tuple[int, float]] = []
    began, step = now(), 0
    while not taken or now() - began < seconds:
        examples, batches = course.at(step % course.epoch)
        started = now()
        accumulate_gradients(course.policy, examples, batches, course.config, step)
        # at a learning rate of nothing: weights stay, and the update takes as long as any
        update_weights(course.policy, optimizer, 0.0, measures=False)
        _wait(course.policy)
        if step:
            taken.append((sum(map(len, examples)), now() - started))
        step += 1
    return taken


def _wait(policy: Policy) -> None:
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)

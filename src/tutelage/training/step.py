"""One optimizer step: gradients of all its rows over one denominator, the update, and how fast it went."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tutelage.config import Config
from tutelage.data import TokenizedExample
from tutelage.machines import ALONE, StopWanted, World, full_tensor, is_sharded
from tutelage.model import Policy, optim, packing
from tutelage.resources import matrix_rate, memory_in_use, step_flops


@dataclass(frozen=True)
class Gradients:
    """What is known of a step before the weights change: its loss, the norm of its gradient before clipping, its size.

    Attributes:
        nll: negative log-likelihood per response token, in nats; the loss itself, where that is normalized by tokens.
        distinct_tokens, flops: what was computed, by all ranks.
    """

    loss: float
    nll: float
    grad_norm: float
    response_tokens: int
    distinct_tokens: int
    flops: float

    def as_metrics(self) -> dict[str, float]:
        """What a step's metrics say of it."""
        return {"loss": self.loss, "nll": self.nll, "grad_norm": self.grad_norm, "response_tokens": self.response_tokens}


def accumulate_gradients(
    policy: Policy,
    examples: Sequence[TokenizedExample],
    batches: Sequence[packing.Batch],
    config: Config,
    step: int,
    world: World = ALONE,
    may_stop: bool = False,
) -> Gradients:
    """Forward and backward over one step's rows, laid out in this rank's batches; gradients summed over ranks, and clipped.

    The loss is one sum over response tokens, divided once by a number that is known before the first backward pass; so the
    gradient does not depend on how the rows are laid out, nor on how many ranks share them.

    Args:
        examples: the rows of the step, those of all ranks.
        may_stop: whether ranks look after each batch whether the job was asked to stop, and then raise StopWanted.
    """
    tokens = sum(len(example.response_ids) for example in examples)
    denominator = tokens if config.train.loss_normalization == "token" else len(examples)
    policy.model.zero_grad(set_to_none=True)  # also what an interrupted step had left
    loss = torch.zeros((), dtype=torch.float64, device=policy.device)
    with policy.computing():
        for index, batch in enumerate(batches):
            world.passed(f"step {step + 1}, micro-batch {index + 1} of {len(batches)}")
            if is_sharded(policy.model):
                policy.model.set_requires_gradient_sync(policy.always_sync or index == len(batches) - 1)
            # dropout is a function of (seed, step, batch): a resumed run draws the same
            number = index * world.size + world.rank
            torch.manual_seed(random.Random(f"{config.train.seed}-{step}-{number}").getrandbits(63))
            part = -policy.score(batch, batch.weights / denominator).total
            part.backward()
            loss += part.detach().double()
            if may_stop and world.any(world.stop.wanted):
                raise StopWanted
    norm = full_tensor(torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.train.clip_grad))
    total, size = torch.stack([loss, norm.double()]).tolist()  # both at once: each would wait for the device
    computed = [float(sum(batch.input_ids.numel() for batch in batches)), sum(step_flops(policy, batch) for batch in batches)]
    total, size, distinct, flops = world.sum([total, size if world.leads else 0.0, *computed])
    return Gradients(total, total * denominator / tokens, size, tokens, int(distinct), flops)


def update_weights(policy: Policy, optimizer: torch.optim.Optimizer, lr: float) -> tuple[float, float]:
    """One optimizer step at learning rate `lr`; how many weights it changed, of how many that this rank has."""
    watch = optim.ChangeMeter(policy.model)
    optim.set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return watch.changed()


class Clock:
    """The seconds between laps, by the name of what ended there."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def speed_of(
    policy: Policy, examples: Sequence[TokenizedExample], gradients: Gradients, clock: Clock, world: World
) -> dict[str, float | None]:
    """What a step's metrics say of its speed: tokens are the rows' own, each counted; the matrix share is of distinct ones."""
    if not world.leads:
        return {}
    seconds = sum(clock.laps.values())
    rate = matrix_rate(policy.device, policy.compute_dtype)
    share = {} if rate is None else {"matrix_share": round(gradients.flops / seconds / (rate * world.size), 4)}
    return {
        "seconds": round(seconds, 4),
        **{f"{name}_seconds": round(lap, 4) for name, lap in clock.laps.items()},
        "tokens_per_second": round(sum(map(len, examples)) / seconds, 1),
        "distinct_tokens": gradients.distinct_tokens,
        **share,
        "memory_gb": memory_in_use(policy.device),
    }

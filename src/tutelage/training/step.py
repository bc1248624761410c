"""One optimizer step: gradients of all its rows over one denominator, whether they make sense, the update, and how fast it went."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.config import Config
from tutelage.data import TokenizedExample
from tutelage.errors import RunError, first_line
from tutelage.machines import ALONE, StopWanted, World, full_tensor, is_sharded
from tutelage.model import Batch, ChangeMeter, Fused, Loss, Policy, is_out_of_memory, loss_named, optim
from tutelage.resources import memory_in_use, step_flops

WINDOW, AT_LEAST = 64, 16
"""How many earlier gradient norms a norm is held against; with fewer than the latter nothing is a spike."""
MEASURED_EVERY = 10
"""Steps between those whose changes of weights are counted."""
SPREADS = 8.0
"""A spike is also so many standard deviations above the median, by the median absolute deviation of the logarithms."""


@dataclass(frozen=True)
class Gradients:
    """What is known of a step before the weights change: its loss, the norm of its gradient before clipping, its size.

    Attributes:
        nll: negative log-likelihood per response token, in nats; the loss itself, where that is "nll" normalized by tokens.
        distinct_tokens, flops: what was computed, by all ranks.
    """

    loss: float
    nll: float
    grad_norm: float
    response_tokens: int
    distinct_tokens: int
    flops: float

    def as_metrics(self) -> dict[str, float]:
        """For the step's line of metrics."""
        return {"loss": self.loss, "nll": self.nll, "grad_norm": self.grad_norm, "response_tokens": self.response_tokens}


def accumulate_gradients(
    policy: Policy,
    examples: Sequence[TokenizedExample],
    batches: Sequence[Batch],
    config: Config,
    step: int,
    world: World = ALONE,
    may_stop: bool = False,
) -> Gradients:
    """Forward and backward over one step's rows, laid out in this rank's batches; gradients summed over ranks, and clipped.

    The loss is one sum over response tokens, each times the weight of its row. It is divided once, by a number that is known before
    the first backward pass. So the gradient does not depend on how the rows are laid out, nor on how many ranks share them.

    Args:
        examples: the rows of the step, those of all ranks.
        may_stop: whether ranks look after each batch whether the job was asked to stop, and then raise StopWanted.
    """
    denominator = denominator_of(examples, config)
    loss_of = loss_named(config.train.loss)
    policy.model.zero_grad(set_to_none=True)  # also what an interrupted step had left
    loss, nll = (torch.zeros((), dtype=torch.float64, device=policy.device) for _ in range(2))
    with policy.computing():
        for index, batch in enumerate(batches):
            world.passed(f"step {step + 1}, micro-batch {index + 1} of {len(batches)}")
            if is_sharded(policy.model):
                policy.model.set_requires_gradient_sync(policy.always_sync or index == len(batches) - 1)
            seed_dropout(config, step, index, world)
            of_batch, nll_of_batch = loss_of_batch(policy, batch, denominator, loss_of)
            of_batch.backward()
            loss += of_batch.detach().double()
            nll += nll_of_batch.double()
            if may_stop and world.any(world.stop.wanted):
                raise StopWanted
    norm = full_tensor(torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.train.clip_grad))
    computed = computed_of(policy, batches)  # while the device is busy: all that follows the next line, it waits for
    total, nll_total, size = torch.stack([loss, nll, norm.double()]).tolist()  # all at once: each would wait for the device
    total, nll_total, size, *computed = world.sum([total, nll_total, size if world.leads else 0.0, *computed])
    return gradients_of(examples, config, (total, nll_total, size), computed)


def denominator_of(examples: Sequence[TokenizedExample], config: Config) -> int:
    """What the summed loss of a step is divided by."""
    return _tokens(examples) if config.train.loss_normalization == "token" else len(examples)


def _tokens(examples: Sequence[TokenizedExample]) -> int:
    return sum(len(example.response_ids) for example in examples)


def seed_dropout(config: Config, step: int, index: int, world: World) -> None:
    """Dropout is a function of (seed, step, batch): a resumed run draws the same. `index`: of this rank's batches in the step."""
    batch_index = index * world.size + world.rank
    torch.manual_seed(random.Random(f"{config.train.seed}-{step}-{batch_index}").getrandbits(63))


def computed_of(policy: Policy, batches: Sequence[Batch]) -> list[float]:
    """Distinct tokens of this rank's batches, and the floating-point operations that they take."""
    return [float(sum(batch.input_ids.numel() for batch in batches)), step_flops(policy, *batches)]


def gradients_of(
    examples: Sequence[TokenizedExample], config: Config, found: tuple[float, float, float], computed: Sequence[float]
) -> Gradients:
    """What is known of a step by (its loss, its likelihood over its denominator, the norm of its gradient), summed over ranks."""
    total, nll_total, size = found
    tokens, denominator = _tokens(examples), denominator_of(examples, config)
    # times and over the same number would be another last digit
    nll_of_token = nll_total if denominator == tokens else nll_total * denominator / tokens
    return Gradients(total, nll_of_token, size, tokens, int(computed[0]), computed[1])


def loss_of_batch(policy: Policy, batch: Batch, denominator: int, loss_of: Fused | Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """(the loss of a batch, its negative log-likelihood, detached), both divided by the step's denominator.

    In the likelihood every row counts one, whatever its weight in the loss.
    """
    weights, counts = batch.weights / denominator, None if batch.counts is None else batch.counts / denominator

    def nll(log_probs: torch.Tensor) -> torch.Tensor:
        counted = weights if counts is None else counts
        return -torch.dot(counted.to(log_probs.device, non_blocking=True), log_probs)

    if isinstance(loss_of, Fused):  # the gradients are computed with the log-probabilities
        scores = policy.score(batch, weights, factor=loss_of.factor)
        is_nll = loss_of.factor is None and counts is None
        return -scores.total, -scores.total.detach() if is_nll else nll(scores.log_probs)
    scores = policy.score(batch, entropy=True)
    assert scores.entropies is not None
    likelihood = nll(scores.log_probs.detach())  # before the user's function could write to its arguments
    counting = batch.weights.to(policy.device, copy=True)
    return loss_of(scores.log_probs, counting, scores.entropies) / denominator, likelihood


def measures_change(step: int, total: int) -> bool:
    """Whether the weights that step `step` (from 0) of `total` changes are counted: in the first step, the last and every tenth."""
    return step == 0 or (step + 1) % MEASURED_EVERY == 0 or step + 1 == total


def share_changed(changed: float, weights: float) -> dict[str, float]:
    """For the step's line of metrics: the share of the weights that a step changed; nothing where none were counted."""
    return {"weights_changed": round(changed / weights, 4)} if weights else {}


class HalfUpdated(RunError):
    """An update failed in the middle: some weights or moments are of the step before, others of this one. Nothing is saved of it."""

    @staticmethod
    def by(error: Exception) -> HalfUpdated:
        """The error to raise from whatever stopped an update."""
        what = "memory ran out" if is_out_of_memory(error) else type(error).__name__
        return HalfUpdated(f"{what} in the middle of an update ({first_line(error)})")


def update_weights(
    policy: Policy, optimizer: torch.optim.Optimizer, lr: float, measures: bool = True
) -> tuple[float, float] | None:
    """One optimizer step at learning rate `lr`; how many weights it changed, of how many that this rank has.

    Args:
        measures: whether changes are counted, for which the host waits for the device; else None is returned.

    Raises:
        HalfUpdated: it failed. Optimizers update weight by weight, so the model is not to be saved, nor trained on.
    """
    try:
        meter = ChangeMeter(policy.model) if measures else None
        optim.set_lr(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return None if meter is None else meter.changed()
    except Exception as error:  # whatever it is: the weights are in between
        raise HalfUpdated.by(error) from error


class Clock:
    """The seconds between laps, by the name of what ended there."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def speed_of(
    policy: Policy,
    examples: Sequence[TokenizedExample],
    gradients: Gradients,
    clock: Clock,
    ranks: int,
    matrix_rate: float | None,
) -> dict[str, float | None]:
    """What a step's metrics say of its speed: tokens are the rows' own, each counted; the matrix share is of distinct ones.

    Args:
        matrix_rate: floating-point operations per second of a rank's device; None: not known.
    """
    seconds = sum(clock.laps.values())
    share = gradients.flops / seconds / (matrix_rate * ranks) if matrix_rate else None
    return {
        "seconds": round(seconds, 4),
        **{f"{name}_seconds": round(lap, 4) for name, lap in clock.laps.items()},
        "tokens_per_second": round(sum(map(len, examples)) / seconds, 1),
        "distinct_tokens": gradients.distinct_tokens,
        "matrix_share": None if share is None else round(share, 4),
        "memory_gb": memory_in_use(policy.device),
    }


class Guard:
    """Knows the gradient norms of the steps before, and says which step is not to be applied.

    Norms are held against their median in logarithms, for they are positive and vary by factors; median and median absolute
    deviation do not move with single outliers (Leys et al. 2013).

    Args:
        spike_ratio: a norm below so many times the median is never a spike; 0: nothing is.
        norms: of the steps so far that were applied, oldest first.
        skipped: how many steps were skipped so far.
    """

    def __init__(self, spike_ratio: float, norms: Iterable[float] = (), skipped: int = 0) -> None:
        self.spike_ratio, self.skipped = spike_ratio, skipped
        self.norms = deque(norms, maxlen=WINDOW)

    @property
    def bound(self) -> float:
        """The largest gradient norm that is no spike."""
        if not self.spike_ratio or len(self.norms) < AT_LEAST:
            return math.inf
        logs = [math.log(max(norm, 1e-30)) for norm in self.norms]
        middle = statistics.median(logs)
        deviation = 1.4826 * statistics.median(abs(value - middle) for value in logs)
        return math.exp(middle + max(math.log(max(self.spike_ratio, 1.0)), SPREADS * deviation))

    def objection(self, loss: float, norm: float) -> str:
        """Why a step is not to be applied; "" if it is, and then its norm counts from here on."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"the loss is {loss}, its gradient norm {norm}"
        if norm > self.bound:
            return f"the gradient norm is {norm:.4g}, more than {self.bound:.4g}, the bound that the last {len(self.norms)} steps set"
        self.norms.append(norm)
        return ""

    @staticmethod
    def of_lines(spike_ratio: float, lines: Iterable[dict[str, Any]]) -> Guard:
        """The guard after the steps of a run, by the lines of its metrics."""
        steps = [line for line in lines if line["kind"] == "train"]
        applied = [line["grad_norm"] for line in steps if not line.get("skipped")]
        return Guard(spike_ratio, applied[-WINDOW:], sum(bool(line.get("skipped")) for line in steps))

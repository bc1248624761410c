"""`train.update = "in_backward"`: each weight changes as soon as its gradient is complete, and the gradient is freed."""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch.distributed.tensor import DTensor, Replicate

from tutelage.config import Config
from tutelage.data import TokenizedExample
from tutelage.errors import InputError, first_line
from tutelage.machines import StopWanted, is_sharded, local_part, reshard
from tutelage.model import Batch, ByWeight, ChangeMeter, Course, is_out_of_memory, loss_named, one_pack, optim
from tutelage.training.step import (
    Gradients,
    HalfUpdated,
    computed_of,
    denominator_of,
    gradients_of,
    loss_of_batch,
    seed_dropout,
)


def require(config: Config) -> None:
    """Raises InputError where a setting needs what an update in the backward pass does not have."""
    train = config.train
    if train.update == "in_backward" and train.on_oom == "adapt":
        raise InputError(
            'train.on_oom = "adapt" with train.update = "in_backward": a step is one batch there, which cannot be divided; use'
            ' train.update = "step", or train.on_oom = "stop"'
        )


def require_one_batch(course: Course) -> None:
    """Raises InputError where the rows of some step could need more than one batch: their gradients would have to be kept."""
    train, ranks = course.config.train, course.world.size
    if train.update != "in_backward":
        return
    rows = course.rows_per_step
    if not course.policy.packs:
        if train.grad_accum > 1:
            raise InputError(
                f'train.update = "in_backward": a step is one batch of padded rows, and train.grad_accum = {train.grad_accum}; write'
                f" --train.batch_size {rows} --train.grad_accum 1, or fewer rows"
            )
        return
    needed = one_pack(course.prepared.lengths, rows, ranks, course.budget)
    if needed > course.budget:
        most = int(sum(heapq.nlargest(rows, course.prepared.lengths)))
        raise InputError(
            f'train.update = "in_backward": a step is one pack{" of each rank" if ranks > 1 else ""}, for the gradients of several would'
            f" have to be kept; the {rows} longest rows have {most:,} tokens, and a pack {course.budget:,}: write --train.pack_tokens"
            f" {needed}, or a smaller train.batch_size × train.grad_accum"
        )


class InBackward:
    """Takes steps whose weights change in the backward pass.

    When the first weight of a step changes, the norm of the step's gradient is not known. So each gradient is multiplied by what
    clipping would have multiplied the gradient of the step before by. That norm is part of the checkpoint. Before the first step of
    a run there is none, so that step is computed twice: once for its norm.

    The loss is looked at before the backward pass. The norm is known after it: a step that makes no sense then has changed weights.
    """

    def __init__(self, course: Course, optimizer: torch.optim.Optimizer) -> None:
        self.course, self.optimizer = course, cast(ByWeight, optimizer)
        # while the model computes, others may stand in their place
        self._trained = [weight for weight in course.policy.model.parameters() if weight.requires_grad]
        self._norms: dict[torch.Tensor, torch.Tensor] = {}
        self._meter: ChangeMeter | None = None
        self._scale: float | None = None
        self._began = False

    @staticmethod
    def of(course: Course, optimizer: torch.optim.Optimizer) -> InBackward | None:
        """None where weights change after the backward passes."""
        return InBackward(course, optimizer) if course.config.train.update == "in_backward" else None

    def expect(self, lr: float, measures: bool) -> None:
        """What the next step is taken with: its learning rate, and whether the weights that it changes are counted."""
        optim.set_lr(self.optimizer, lr)
        self._meter = ChangeMeter(self.course.policy.model) if measures else None

    def changed(self) -> tuple[float, float] | None:
        """How many weights the last step changed, of how many that this rank has; None where they were not counted."""
        return None if self._meter is None else self._meter.changed()

    def step(
        self, examples: Sequence[TokenizedExample], batches: Sequence[Batch], step: int, may_stop: bool = False
    ) -> Gradients:
        """Forward and backward over one step's rows, updating; if the loss is not finite, nothing has changed.

        Raises:
            HalfUpdated: it failed when the first weights had changed.
        """
        [batch], before = batches, self.optimizer.of_all["norm"]
        if not math.isfinite(float(before)):
            loss, nll, norm = self._computed(batch, examples, step, None, may_stop)
            if not math.isfinite(norm):
                return self._found(examples, batch, (loss, nll, norm))
            before.fill_(norm)
        # as torch.nn.utils.clip_grad_norm_ has it
        scale = min(1.0, self.course.config.train.clip_grad / (float(before) + 1e-6))
        loss, nll, norm = self._computed(batch, examples, step, scale, may_stop)
        if math.isfinite(norm):
            before.fill_(norm)
        return self._found(examples, batch, (loss, nll, norm))

    def _found(self, examples: Sequence[TokenizedExample], batch: Batch, found: tuple[float, float, float]) -> Gradients:
        course = self.course
        computed = course.world.sum(computed_of(course.policy, [batch]))
        return gradients_of(examples, course.config, found, computed)

    def _computed(
        self, batch: Batch, examples: Sequence[TokenizedExample], step: int, scale: float | None, may_stop: bool
    ) -> tuple[float, float, float]:
        """(loss, likelihood, norm of the gradient) of a step. A loss that is not finite has no gradient, and its norm is not a number.

        Args:
            scale: what gradients are multiplied by before they change their weights; None: no weight changes.
        """
        policy, config, world = self.course.policy, self.course.config, self.course.world
        policy.model.zero_grad(set_to_none=True)
        world.passed(f"step {step + 1}")
        if is_sharded(policy.model):
            policy.model.set_requires_gradient_sync(True)
        with policy.computing():
            seed_dropout(config, step, 0, world)
            of_batch, of_nll = loss_of_batch(policy, batch, denominator_of(examples, config), loss_named(config.train.loss))
            known = torch.stack([of_batch.detach().double(), of_nll.double()]).tolist()
            loss, nll, stops = world.sum([*known, world.stop.wanted])
            if may_stop and stops:
                raise StopWanted
            if not math.isfinite(loss):
                reshard(policy.model)
                return loss, nll, math.nan
            with self._updating(scale):
                of_batch.backward()
        return loss, nll, self._norm()

    @contextlib.contextmanager
    def _updating(self, scale: float | None) -> Iterator[None]:
        self._norms, self._scale, self._began = {}, scale, False
        hooks = [weight.register_post_accumulate_grad_hook(self._complete) for weight in self._trained]
        try:
            yield
            self.optimizer.settle()
        except Exception as error:  # whatever it is: the weights are in between
            if not self._began:
                raise
            what = "memory ran out" if is_out_of_memory(error) else type(error).__name__
            raise HalfUpdated(f"{what} in the middle of an update ({first_line(error)})") from error
        finally:
            for hook in hooks:
                hook.remove()

    def _complete(self, weight: torch.Tensor) -> None:
        """Called when the gradient of a weight is complete, for all places that use the weight."""
        assert weight.grad is not None
        gradient = local_part(weight.grad)
        self._norms[weight] = torch.linalg.vector_norm(gradient, dtype=torch.float32)
        if self._scale is not None:
            self._began = True
            if self._scale < 1.0:
                gradient.mul_(self._scale)
            self.optimizer.update(weight)
        weight.grad = None

    def _norm(self) -> float:
        """The norm of the step's gradient, by the norms of its weights in the model's order."""
        world = self.course.world
        norms = [(weight, self._norms[weight]) for weight in self._trained if weight in self._norms]
        if world.size == 1:
            return float(torch.linalg.vector_norm(torch.stack([norm for _, norm in norms])))
        squares = torch.stack([norm.double() ** 2 / _copies(weight) for weight, norm in norms])
        return math.sqrt(world.sum([float(squares.sum())])[0])


def _copies(weight: torch.Tensor) -> int:
    """How many ranks hold the same part of a weight."""
    if not isinstance(weight, DTensor):
        return 1
    sizes = zip(weight.device_mesh.shape, weight.placements, strict=True)
    return math.prod(size for size, placement in sizes if isinstance(placement, Replicate))

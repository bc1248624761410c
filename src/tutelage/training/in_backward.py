"""`train.update = "in_backward"`: each weight changes as soon as its gradient is complete, and the gradient is freed.

A step of one batch has one backward pass, in which hooks of the weights are called. The batches of a larger step go backward together,
one layer after the other (`model.Layered`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch.distributed.tensor import DTensor, Replicate

from tutelage.config import Config
from tutelage.data import TokenizedExample
from tutelage.errors import InputError
from tutelage.machines import StopWanted, is_sharded, local_part, reshard
from tutelage.model import Batch, ByWeight, ChangeMeter, Course, Layered, loss_named, one_pack, optim
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
            'train.on_oom = "adapt" with train.update = "in_backward": when memory runs out there, weights may have changed; use'
            ' train.update = "step", or train.on_oom = "stop"'
        )


def require_batches(course: Course) -> None:
    """Raises InputError where the rows of some step could need several batches, and their gradients would have to be kept.

    They need not be in one process, where batches go backward together through one layer after the other, each computed again.
    """
    train, checkpointing = course.config.train, course.config.model.activation_checkpointing
    if train.update != "in_backward" or not course.has_several:
        return
    if course.world.size == 1 and checkpointing in ("auto", "full"):
        return
    rows, ranks, accumulated = train.rows_per_step, course.world.size, train.grad_accum
    if course.policy.packs:
        needs = f"the {rows} longest rows have {course.most:,} tokens, and a pack {course.budget:,}"
        enough = one_pack(course.prepared.lengths, rows, ranks, course.budget)
        written = f"--train.pack_tokens {enough}, or a smaller train.batch_size × train.grad_accum"
    else:
        needs = f"train.grad_accum = {accumulated} makes {accumulated} batches of padded rows"
        written = f"--train.batch_size {rows} --train.grad_accum 1, or fewer rows"
    if ranks > 1:
        raise InputError(
            'train.update = "in_backward" with several ranks: a step is one batch of each rank, for the gradients of several would have'
            f" to be kept; {needs}: write {written}"
        )
    raise InputError(
        f'train.update = "in_backward" with several batches in a step: layers are computed again, and model.activation_checkpointing is'
        f' "{checkpointing}"; {needs}: write --model.activation_checkpointing full, or {written}'
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
        """None where weights change after the backward passes.

        Raises:
            InputError: a step could have several batches, and the model's layers cannot go backward one by one.
        """
        if course.config.train.update != "in_backward":
            return None
        if course.together:
            Layered(course.policy).require_chain()
        return InBackward(course, optimizer)

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
        before, config = self.optimizer.of_all["norm"], self.course.config
        if not math.isfinite(float(before)):
            found = self._computed(batches, examples, step, None, may_stop)
            if not math.isfinite(found[2]):
                return self._found(examples, batches, found)
            before.fill_(found[2])
        # as torch.nn.utils.clip_grad_norm_ has it
        scale = min(1.0, config.train.clip_grad / (float(before) + 1e-6))
        found = self._computed(batches, examples, step, scale, may_stop)
        if math.isfinite(found[2]):
            before.fill_(found[2])
        return self._found(examples, batches, found)

    def _found(
        self, examples: Sequence[TokenizedExample], batches: Sequence[Batch], found: tuple[float, float, float]
    ) -> Gradients:
        course = self.course
        return gradients_of(examples, course.config, found, course.world.sum(computed_of(course.policy, batches)))

    def _computed(
        self, batches: Sequence[Batch], examples: Sequence[TokenizedExample], step: int, scale: float | None, may_stop: bool
    ) -> tuple[float, float, float]:
        """(loss, likelihood, norm of the gradient) of a step. A loss that is not finite has no gradient, and its norm is not a number.

        Args:
            scale: what gradients are multiplied by before they change their weights; None: no weight changes.
        """
        policy, world = self.course.policy, self.course.world
        policy.model.zero_grad(set_to_none=True)
        world.passed(f"step {step + 1}")
        if is_sharded(policy.model):
            policy.model.set_requires_gradient_sync(True)
        layered = Layered(policy) if len(batches) > 1 else None
        with policy.computing():
            known = torch.zeros(2, dtype=torch.float64, device=policy.device)
            for index, batch in enumerate(batches):
                seed_dropout(self.course.config, step, index, world)
                with contextlib.nullcontext() if layered is None else layered.forward():
                    of_batch, of_nll = self._loss(batch, examples)
                    if layered is not None:
                        of_batch.backward()
                known += torch.stack([of_batch.detach().double(), of_nll.double()])
            loss, nll, stops = world.sum([*known.tolist(), world.stop.wanted])
            if may_stop and stops:
                raise StopWanted
            if not math.isfinite(loss):
                reshard(policy.model)
                policy.model.zero_grad(set_to_none=True)
                return loss, nll, math.nan
            with self._updating(scale, by_hooks=layered is None):
                if layered is None:
                    of_batch.backward()
                else:
                    layered.backward(self._complete)
        return loss, nll, self._norm()

    def _loss(self, batch: Batch, examples: Sequence[TokenizedExample]) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.course.config
        return loss_of_batch(self.course.policy, batch, denominator_of(examples, config), loss_named(config.train.loss))

    @contextlib.contextmanager
    def _updating(self, scale: float | None, by_hooks: bool) -> Iterator[None]:
        self._norms, self._scale, self._began = {}, scale, False
        hooked = self._trained if by_hooks else []
        hooks = [weight.register_post_accumulate_grad_hook(self._complete) for weight in hooked]
        try:
            yield
            self.optimizer.settle()
        except Exception as error:  # whatever it is: the weights are in between
            if not self._began:
                raise
            raise HalfUpdated.by(error) from error
        finally:
            for hook in hooks:
                hook.remove()

    def _complete(self, weight: torch.Tensor) -> None:
        """Called when the gradient of a weight is complete, for all places that use the weight and all batches."""
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

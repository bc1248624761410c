"""What happens when memory runs out in a step all the same: smaller batches of the same rows, or one message that says what to change."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.data import TokenizedExample
from tutelage.errors import RunError
from tutelage.machines import World
from tutelage.model import Batch, Course, is_out_of_memory
from tutelage.resources import Load, memory
from tutelage.runs import RunLog, write_text
from tutelage.training.arrange import recorded
from tutelage.training.step import Gradients, accumulate_gradients

ONE_BY_ONE = 1 << 40
"""So many times smaller batches hold one row each."""


class MemoryRanOut(RunError):
    """A step does not fit; the message says what was predicted, what happened and what to change."""


class Fitting:
    """Gradients of each step, in batches that are halved when memory runs out and `train.on_oom` says so.

    The loss of a step is one sum over one denominator, so its gradient is that of the larger batches, to rounding.
    """

    def __init__(self, course: Course, config: Config, log: RunLog, world: World) -> None:
        self.course, self.config, self.log, self.world = course, config, log, world
        self._record = log.directory / "plan.json"
        self.parts: int = recorded(self._record).get("parts", 1)
        """Into how many times smaller batches than planned the rows are laid out by now."""

    def gradients(
        self, examples: Sequence[TokenizedExample], batches: Sequence[Batch], step: int, may_stop: bool = False
    ) -> Gradients:
        """`accumulate_gradients` of a step's rows, planned as `batches`. Raises MemoryRanOut."""
        policy = self.course.policy
        if self.parts > 1:
            batches = self.course.batches(examples, self.parts)
        while True:
            try:
                return accumulate_gradients(policy, examples, batches, self.config, step, self.world, may_stop=may_stop)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else "out of memory"
            policy.model.zero_grad(set_to_none=True)  # what the step had so far; its activations went with the error
            if policy.device.type == "cuda":
                torch.cuda.empty_cache()
            batches = self._smaller(examples, batches, step, reason)

    def _smaller(self, examples: Sequence[TokenizedExample], batches: Sequence[Batch], step: int, reason: str) -> list[Batch]:
        """The step's rows in batches half as large. Raises MemoryRanOut where that is not wanted, or impossible."""
        finest = self.course.batches(examples, ONE_BY_ONE)  # equal rows share a batch even then
        alone = len(batches) >= len(finest)
        if self.config.train.on_oom == "stop" or alone:
            raise MemoryRanOut(self._explained(batches, reason, alone))
        smaller = list(batches)
        while len(smaller) <= len(batches):  # a budget that the step did not fill is halved for nothing
            self.parts *= 2
            smaller = self.course.batches(examples, self.parts)
        tokens = max(batch.input_ids.numel() for batch in smaller)
        console.say(
            f"step {step + 1}: memory ran out ({reason}); from here on batches are {self.parts} times smaller than planned, in this"
            f" step at most {tokens:,} tokens, which changes nothing but speed (train.on_oom = adapt)", style="yellow",
        )  # fmt: skip
        self.log.metrics(kind="memory_ran_out", step=step + 1, reason=reason, parts=self.parts, tokens=tokens)
        if self._record.is_file():  # a run that goes on does not have to find out again
            write_text(self._record, json.dumps({**recorded(self._record), "parts": self.parts}) + "\n")
        return smaller

    def _explained(self, batches: Sequence[Batch], reason: str, alone: bool) -> str:
        policy, load = self.course.policy, Load.of([batches])
        needed = memory.training_bytes(policy, self.config, load, policy.recomputation)
        return (
            f"the memory of {policy.device} is too small: {reason}\n"
            f"Predicted were {_in_gb(needed)} for batches of up to {load.tokens:,} tokens; what else is on the device counts too.\n"
            f"{self._next_down(load, alone)}"
        )

    def elsewhere(self, reason: str) -> str:
        """What is said when memory runs out other than in the batches of a step: in the optimizer's first one, or an evaluation."""
        policy = self.course.policy
        held = memory.held_bytes(policy, self.config)
        return (
            f"the memory of {policy.device} is too small, though not for the batches of a step: {reason}\n"
            f"Predicted were {_in_gb(held)} beside the batches. If it was an evaluation: a smaller --eval.batch_size, or"
            f" --eval.gpu_memory_utilization where vLLM shares the device. Else: {self._smaller_state()}"
        )

    def _next_down(self, load: Load, alone: bool) -> str:
        """The next setting to turn down: first what changes nothing, then what changes least."""
        config, policy = self.config, self.course.policy
        checkpoints = policy.model.supports_gradient_checkpointing
        stronger = {"none": "selective", "selective": "full"}.get(policy.recomputation)
        if not alone:
            smaller = (
                f"--train.pack_tokens {load.tokens // 2}"
                if policy.packs
                else "half the --train.batch_size and twice the --train.grad_accum"
            )
            adapt = ", or --train.on_oom adapt, which finds out by itself" if self.world.size == 1 else ""
            return f"The next setting down: {smaller}{adapt} (the same gradients)"
        if stronger is not None and checkpoints:
            return f"The next setting down: --model.activation_checkpointing {stronger} (the same gradients, in more time)"
        if policy.device.type == "cuda" and not config.model.activation_offload and self.world.size == 1:
            return "The next setting down: --model.activation_offload true (the same gradients, in more time)"
        return self._smaller_state()

    def _smaller_state(self) -> str:
        """The next setting down that makes weights, gradients and moments smaller."""
        config, elsewhere = self.config, "in a new --run.dir, for it changes what is computed"
        if config.model.lora == "none":
            if config.model.precision != "bf16-sr":
                return f"The next setting down: --model.precision bf16-sr, {elsewhere}"
            if config.train.optimizer == "adamw" and self.world.size == 1:
                return f"The next setting down: --train.optimizer adamw-8bit, {elsewhere}"
            return f"The next setting down: --model.lora lora with --model.precision bf16-mixed, {elsewhere}"
        return "There is no setting further down: a shorter data.max_length, a smaller model, more ranks (--launch) or a larger device"


def _in_gb(needed: dict[str, float]) -> str:
    """``2.10 GB (weights 0.54, …)``."""
    return f"{sum(needed.values()) / 1e9:.2f} GB ({', '.join(f'{name} {size / 1e9:.2f}' for name, size in needed.items() if size)})"

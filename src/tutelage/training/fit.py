"""What happens when memory runs out in a step all the same: smaller batches of the same rows, or one message that says what to change."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from tutelage import console
from tutelage.data import TokenizedExample
from tutelage.errors import RunError, first_line
from tutelage.machines import AGAIN
from tutelage.model import Batch, Course, is_out_of_memory
from tutelage.resources import Load, exact_rungs, held_bytes, in_parts, smaller_state, training_bytes
from tutelage.runs import RunLog, write_text
from tutelage.training.arrange import recorded
from tutelage.training.in_backward import InBackward
from tutelage.training.step import Gradients, HalfUpdated, accumulate_gradients

ONE_BY_ONE = 1 << 40
"""So many times smaller batches hold one row each."""


class StartAgain(RunError):
    """Memory ran out in a step that cannot be computed again as it is; the run goes on from its last checkpoint, in smaller batches."""

    exit_code = AGAIN


class MemoryRanOut(RunError):
    """A step does not fit; the message says what was predicted, what happened and what to change."""


class Fitting:
    """Gradients of each step, in batches that are halved when memory runs out and `train.on_oom` says so.

    The loss of a step is one sum over one denominator, so its gradient is that of the larger batches, to rounding.
    """

    def __init__(self, course: Course, log: RunLog, updates: InBackward | None = None) -> None:
        self.course, self.config, self.world = course, course.config, course.world
        self.log, self.updates = log, updates
        self._record = log.directory / "plan.json"
        self.parts: int = self.world.first(lambda: recorded(self._record).get("parts", 1))
        """Into how many times smaller batches than planned the rows are laid out by now."""

    def gradients(
        self, examples: Sequence[TokenizedExample], batches: Sequence[Batch], step: int, may_stop: bool = False
    ) -> Gradients:
        """`accumulate_gradients` of a step's rows, planned as `batches`, or what updates weights on the way.

        Raises:
            MemoryRanOut: there is no memory for them.
            StartAgain: there may be for smaller ones, and the other ranks wait in the middle of the step.
        """
        policy = self.course.policy
        if self.parts > 1:
            batches = self.course.batches(examples, self.parts)
        while True:
            try:
                if self.updates is not None:
                    return self.updates.step(examples, batches, step, may_stop)
                return accumulate_gradients(policy, examples, batches, self.config, step, self.world, may_stop=may_stop)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            if self.world.size > 1:
                self.go_back(step, reason)
            policy.model.zero_grad(set_to_none=True)  # what the step had so far; its activations went with the error
            if policy.device.type == "cuda":
                torch.cuda.empty_cache()
            batches = self._smaller(examples, batches, step, reason)

    def again(self, stop: BaseException, step: int) -> BaseException:
        """What has stopped a run; where an update failed for want of memory, and `go_back` knows better, StartAgain."""
        if isinstance(stop, HalfUpdated) and is_out_of_memory(stop.__cause__ or stop):
            try:
                self.go_back(step, str(stop))
            except StartAgain as better:
                return better
        return stop

    def go_back(self, step: int, reason: str) -> None:
        """Raises StartAgain, with batches half as large on record, where `train.on_oom` says so and there are smaller ones."""
        examples = self.course.examples(step)
        sizes = [len(self.course.batches(examples, parts)) for parts in (self.parts, ONE_BY_ONE)]
        if self.config.train.on_oom == "stop" or sizes[0] >= sizes[1]:
            return
        # whichever rank it is, it writes the same
        write_text(self._record, json.dumps({**recorded(self._record), "parts": 2 * self.parts}) + "\n")
        raise StartAgain(
            f"step {step + 1}: memory ran out ({reason}) in the middle of a step; the run goes on from its last checkpoint, in batches"
            f" {2 * self.parts} times smaller than planned (train.on_oom = adapt)"
            + ("; where nothing starts the job again, the same command does" if self.world.size > 1 else "")
        )

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
        policy, load = self.course.policy, Load.of([batches], self.config)
        needed = training_bytes(policy, self.config, load, policy.recomputation)
        return (
            f"the memory of {policy.device} is too small: {reason}\n"
            f"Predicted were {in_parts(needed)} for batches of up to {load.tokens:,} tokens; what else is on the device counts too.\n"
            f"{self._next_down(load, alone)}"
        )

    def elsewhere(self, reason: str) -> str:
        """What is said when memory runs out other than in the batches of a step: in the optimizer's first one, or an evaluation."""
        policy = self.course.policy
        return (
            f"the memory of {policy.device} is too small, though not for the batches of a step: {reason}\n"
            f"Predicted were {in_parts(held_bytes(policy, self.config))} beside the batches. If it was an evaluation: a smaller"
            f" --eval.batch_size, or --eval.gpu_memory_utilization where vLLM shares the device. Else: {self._smaller_state()}"
        )

    def _next_down(self, load: Load, alone: bool) -> str:
        """The next setting to turn down: first what changes nothing, then what changes least."""
        one_batch = self.config.train.update == "in_backward"
        rung = next(exact_rungs(self.config, self.course.policy, None if alone or one_batch else load.tokens, load.tokens), None)
        if rung is None:
            return self._smaller_state()
        adapt = "" if alone or one_batch else ", or --train.on_oom adapt, which finds out by itself"
        return f"The next setting down: {rung}{adapt} ({rung.means})"

    def _smaller_state(self) -> str:
        """The next setting down that makes weights, gradients and moments smaller."""
        rung = smaller_state(self.config, self.course.policy.device.type)
        if rung is None:
            return "There is no setting further down: a shorter data.max_length, a smaller model, more ranks (--launch) or a larger device"
        exact = set(rung.settings) == {"train.optimizer_offload"}
        elsewhere = "" if exact else ", in a new --run.dir, for it changes what is computed"
        return f"The next setting down: {rung}{elsewhere} ({rung.means})"

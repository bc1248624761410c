"""The fake engine: the native one, on a CPU, and with faults on demand.

`eval.backend = "fake"` takes it. It lets tests see what training does when an engine dies.
The environment variable TUTELAGE_FAKE says how it behaves:

    good    it does what it should (default)
    slow    `generate` takes a second longer
    stale   from the second `load` on it keeps its old weights, and says nothing
    wrong   `generate` raises ValueError
    die     its process ends in `generate`, with exit code 3
    hang    `generate` does not return

"die-once", "wrong-once" and "hang-once" misbehave in the first process only. "NAME@FILE" (needed by "-once") appends a line to the
file at each "start", "sleep" and "wake up".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tutelage.evaluation.engine.contract import Completion, Sampling
from tutelage.evaluation.engine.native import NativeEngine

VARIABLE = "TUTELAGE_FAKE"


def missing(device: str) -> tuple[str, str]:
    """What keeps the fake from running on a kind of device, and the remedy."""
    return ("", "") if device == "cpu" else ("the fake engine runs on a CPU alone", 'eval.device = "cpu"')


class FakeEngine(NativeEngine):
    """An `Engine`; see `contract.Engine` for its arguments."""

    def __init__(self, model: str, device: str, dtype: str, seed: int, **others: Any) -> None:
        self.behaviour, _, self.record = os.environ.get(VARIABLE, "good").partition("@")
        self._note("start")
        if self.behaviour.endswith("-once") and len(Path(self.record).read_text(encoding="utf-8").splitlines()) > 1:
            self.behaviour = "good"
        torch.manual_seed(seed)  # an engine changes the random state and the threads of its process, as vLLM does
        torch.set_num_threads(1)
        super().__init__(model, device, dtype, seed)
        self.syncs = 0

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        self.syncs += 1
        if self.behaviour != "stale" or self.syncs == 1:
            super().load(weights)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        indices: Sequence[int] | None = None,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        match self.behaviour.removesuffix("-once"):
            case "die":
                print("the fake engine has had enough", flush=True)
                os._exit(3)
            case "hang":
                time.sleep(3600)
            case "slow":
                time.sleep(1.0)
            case "wrong":
                raise ValueError("the fake engine does not like this")
        return super().generate(prompts, sampling, indices, on_finished)

    def sleep(self) -> None:
        self._note("sleep")

    def wake_up(self) -> None:
        self._note("wake up")

    def _note(self, event: str) -> None:
        if self.record:
            with Path(self.record).open("a", encoding="utf-8") as file:
                file.write(f"{event}\n")

"""One side of the GPU bench, in a process of its own: it answers requests, a word on a line, with RESULT lines and a last DONE.

Between two requests a side has nothing on the card, so that another side has all of it. Ours keeps its compiled layers, and its
weights wait in the host's memory; TRL's sides load the model anew. `train_gpu.py` starts the sides and asks them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
PACKAGES = ("torch", "transformers", "triton", "trl", "liger-kernel", "flash-attn", "flash-attn-3", "accelerate")


@dataclass
class Ours:
    """Tutelage's side.

    Attributes:
        precision: as `model.precision`. Under "bf16-sr" the process may have `arguments.cap` GB of the card, and rows are long.
        start: what training starts from, once it is set up; config: the configuration of that.
    """

    arguments: argparse.Namespace
    precision: str
    start: Any = None
    config: Any = None

    def set_up(self) -> None:
        """Load the model and set training up as a run does."""
        from gpu_rows import SIZES, rows_of

        from tutelage.config import parse_config
        from tutelage.data import Prepared
        from tutelage.model import load_policy, load_tokenizer
        from tutelage.runs import SilentRunLog
        from tutelage.training import set_up

        size, capped, folder = SIZES[self.arguments.toy], self.precision == "bf16-sr", self.arguments.folder
        together = 1 if capped else size.together
        model = {
            "id": folder, "device": "cpu" if self.arguments.toy else "cuda", "precision": self.precision,
            "compile": "auto" if capped else self.arguments.compile, "activation_checkpointing": "auto" if capped else "none",
        }  # fmt: skip
        train = {
            "batch_size": together, "grad_accum": size.rows_of("capped" if capped else "equal") // together, "num_steps": 1000,
            "pack_tokens": size.capped if capped else size.budget, "lr": 1e-5,
        }  # fmt: skip
        self.config = parse_config({"model": model, "train": train, "run": {"dir": f"{folder}/{self.precision}"}})
        Path(self.config.run.dir).mkdir(exist_ok=True)
        policy = load_policy(self.config.model, load_tokenizer(folder))
        rows = rows_of("capped" if capped else "equal", size, policy.head.weight.shape[0], 1)
        longest = size.capped if capped else max(size.length, size.longest)
        unread: Any = None  # what training looks at only to explain a run
        prepared = Prepared(rows, [], unread, unread, longest, False, unread, panel=0, longest_prompt=0)
        self.start = set_up(policy, prepared, self.config, SilentRunLog(Path(self.config.run.dir)))

    def turn(self, kind: str) -> Iterator[dict[str, Any]]:
        """Train some steps of rows of a kind; what was measured so far after the first step, and after the last one."""
        from gpu_rows import SIZES

        size = SIZES[self.arguments.toy]
        began = self._wake()
        seconds, rates, distinct, loads = [], [], [], []
        for tokens, spent, batches, load in self._steps(kind, size.warmup + size.steps):
            seconds.append(round(spent, 4))
            rates.append(tokens / spent)
            distinct.append(sum(batch.input_ids.numel() for batch in batches) / tokens)
            loads.append(load)
            if len(seconds) == 1:
                yield {"first_step_seconds": round(time.monotonic() - began, 2), "since_start": round(time.monotonic() - STARTED, 2)}
        yield {
            "tokens_per_second": round(statistics.median(rates[size.warmup :])), "seconds": seconds, "batches": len(batches),
            "distinct_share": round(statistics.mean(distinct), 4), **self._memory(max(loads, key=lambda load: load.tokens)),
            "recomputation": self.start.course.policy.recomputation, "compiled": self.start.course.policy.compiled,
            "kernel": self.start.course.policy.kernel.name, "matrix_rate": self.start.matrix_rate,
        }  # fmt: skip

    def profile(self) -> Iterator[dict[str, Any]]:
        """Where the time of a step of equal rows goes, beside the time of steps without the profiler."""
        import torch
        from gpu_profile import kernels_of, summary
        from gpu_rows import SIZES

        self._wake()
        size, on_card = SIZES[self.arguments.toy], not self.arguments.toy
        seconds = [spent for _, spent, _, _ in self._steps("equal", size.warmup + size.steps)][size.warmup :]
        kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_card else [])]
        steps = self._steps("equal", 2)
        next(steps)  # batches of the step that is profiled are made meanwhile
        synchronize(on_card)
        with _head_in_a_range(), torch.profiler.profile(activities=kinds) as profile:
            next(steps)
            synchronize(on_card)
        steps.close()
        yield summary(kernels_of(profile, on_card), statistics.median(seconds), on_card)

    def _wake(self) -> float:
        """Set training up, or bring its weights back; when this began."""
        began = time.monotonic()
        if self.start is None:
            self.set_up()
        self.start.course.policy.model.to(self.start.course.policy.device)
        if not self.arguments.toy:
            import torch

            torch.cuda.reset_peak_memory_stats()
        return began

    def park(self) -> None:
        """Leave nothing on the card: weights wait in the host's memory, moments are forgotten."""
        if self.start is not None and not self.arguments.toy:
            self.start.course.policy.model.zero_grad(set_to_none=True)
            self.start.course.policy.model.to("cpu")
            self.start.optimizer.state.clear()

    def _steps(self, kind: str, count: int) -> Iterator[tuple[int, float, list[Any], Any]]:
        """Train so many steps: (tokens of the rows, seconds, batches, `Load`) of each. Batches are made ahead in a thread."""
        from gpu_rows import SIZES, rows_of

        from tutelage.resources import Load
        from tutelage.training import accumulate_gradients, update_weights
        from tutelage.training.loop import prefetched

        size, policy = SIZES[self.arguments.toy], self.start.course.policy
        rows = rows_of(kind, size, policy.head.weight.shape[0], count)
        course = _in_order(self.start.course, rows, size.rows_of(kind))
        with prefetched(course.at, range(count)) as ahead:
            last = time.monotonic()
            for step, (examples, batches) in enumerate(ahead):
                accumulate_gradients(policy, examples, batches, self.config, step)
                update_weights(policy, self.start.optimizer, self.config.train.lr)
                now = time.monotonic()  # a step waits for the card once, always at the same point: differences are right
                yield sum(map(len, examples)), now - last, batches, Load.of([batches])
                last = now

    def _memory(self, load: Any) -> dict[str, Any]:
        """The peak in GB, beside what `plan` predicts for the largest batch."""
        from tutelage.resources import training_bytes

        policy = self.start.course.policy
        predicted = training_bytes(policy, self.config, load, policy.recomputation)
        parts = {name: round(size / 1e9, 2) for name, size in predicted.items()}
        return {**peak(self.arguments.toy), "predicted_gb": round(sum(predicted.values()) / 1e9, 2), "predicted_parts_gb": parts}


def _in_order(course: Any, rows: list[Any], of_a_step: int) -> Any:
    """The course over other rows, taken in their order: solutions of one problem stay in one step."""
    kind = type(course)

    class InOrder(kind):  # type: ignore[misc, valid-type]
        def examples(self, step: int) -> list[Any]:
            return rows[step * of_a_step : (step + 1) * of_a_step]

    return InOrder(**{**vars(course), "prepared": replace(course.prepared, train=rows)})


@contextlib.contextmanager
def _head_in_a_range() -> Iterator[None]:
    """Within it the head's kernels run in a range of the profiler named "head"."""
    import torch

    from tutelage.model import policy

    score = policy.score

    def in_a_range(*arguments: Any, **options: Any) -> Any:
        with torch.profiler.record_function("head"):
            return score(*arguments, **options)

    policy.score = in_a_range  # type: ignore[assignment]
    try:
        yield
    finally:
        policy.score = score


@dataclass
class Trl:
    """TRL's side: its trainer on the same rows, float32 weights and bfloat16 compute.

    Attributes:
        settings: of its configuration, beyond those of `harness.trl_steps`.
        packed: whether it packs rows, which then make fewer steps.
    """

    arguments: argparse.Namespace
    settings: dict[str, Any]
    packed: bool = False

    def turn(self, kind: str) -> Iterator[dict[str, Any]]:
        from gpu_rows import QWEN, SIZES, TOY, rows_of
        from harness import trl_steps

        from tutelage.model import load_tokenizer

        toy, size = self.arguments.toy, SIZES[self.arguments.toy]
        rows = rows_of(kind, size, int((TOY if toy else QWEN)["vocab_size"]), size.warmup + size.steps)
        of_a_step = size.rows_of(kind)
        together, accumulation = size.together, of_a_step // size.together
        longest = max(map(len, rows))
        if self.packed:  # as many tokens at once, and about as many in a step
            together = max(1, size.budget // longest)
            accumulation = max(1, round(sum(map(len, rows)) / (size.warmup + size.steps) / (together * longest)))
        if not toy:
            import torch

            torch.cuda.reset_peak_memory_stats()
        seconds = trl_steps(
            self.arguments.folder, load_tokenizer(self.arguments.folder), rows, together, accumulation, use_cpu=toy, max_length=longest,
            gradient_checkpointing=False, **self.settings,
        )  # fmt: skip
        tokens = [sum(map(len, rows[at : at + of_a_step])) for at in range(0, len(rows), of_a_step)]
        if self.packed:
            tokens = [sum(map(len, rows)) / len(seconds)] * len(seconds)
        rates = [count / spent for count, spent in zip(tokens, seconds, strict=True)][size.warmup :]
        yield {"tokens_per_second": round(statistics.median(rates)), "seconds": [round(each, 4) for each in seconds], **peak(toy)}

    def park(self) -> None:
        """The trainer is gone already."""


def peak(toy: bool) -> dict[str, float]:
    """GB: the most that this turn had of the card; at toy size of the process."""
    if toy:
        from harness import peak_rss

        return {"peak_reserved_gb": round(peak_rss(), 2), "peak_allocated_gb": round(peak_rss(), 2)}
    import torch

    reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
    return {"peak_reserved_gb": round(reserved / 1e9, 2), "peak_allocated_gb": round(allocated / 1e9, 2)}


def synchronize(on_card: bool) -> None:
    """Wait for the card."""
    if on_card:
        import torch

        torch.cuda.synchronize()


def make(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Save the model that all sides load; what it ran on."""
    from gpu_rows import save_model
    from harness import commit, machine

    weights = save_model(arguments.folder, arguments.toy)
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    yield {"weights": weights, "machine": machine(), "versions": versions, "commit": commit()}


SIDES: dict[str, Any] = {
    "ours": lambda arguments: Ours(arguments, "bf16-mixed"),
    "ours, capped": lambda arguments: Ours(arguments, "bf16-sr"),
    "TRL": lambda arguments: Trl(arguments, {}),
    "TRL + Liger": lambda arguments: Trl(arguments, {"loss_type": "nll", "use_liger_kernel": True}),
    "TRL + Liger, packed": lambda arguments: Trl(
        arguments,
        {
            "loss_type": "nll", "use_liger_kernel": True, "packing": True,
            "model_init_kwargs": {"dtype": "float32", "attn_implementation": "flash_attention_2"},
        },
        packed=True,
    ),
}  # fmt: skip


def answers(side: Any, request: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a request finds out."""
    import torch

    if not (arguments.toy or torch.cuda.is_available()):
        raise SystemExit("no CUDA card here: --toy runs the same on a CPU, at a toy shape")
    if request == "make":
        yield from make(arguments)
    else:
        yield from side.profile() if request == "profile" else side.turn(request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder", help="where the model is, or is to be")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--cap", type=float, default=24.0)
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    arguments = parser.parse_args()
    from tutelage.machines.process import prepare_process

    prepare_process()  # every side gets our allocator and thread settings
    import torch

    side = SIDES[arguments.side](arguments)
    if "capped" in arguments.side and torch.cuda.is_available():
        full = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.cap * 1e9 / full))
    for line in sys.stdin:
        try:
            for found in answers(side, line.strip(), arguments):
                print("RESULT " + json.dumps(found), flush=True)
        except Exception as error:  # whatever it is, the other parts are still measured
            traceback.print_exc()
            print("RESULT " + json.dumps({"failed": f"{type(error).__name__}: {str(error)[:300]}"}), flush=True)
        side.park()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print("DONE", flush=True)


if __name__ == "__main__":
    main()

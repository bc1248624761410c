"""What the benches share: sides that alternate in processes of their own, the machine in words, peak memory, results."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def alternate(script: str, sides: Sequence[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run this script once for each side and round with ``--child SIDE``; each round starts with another side.

    A child prints its result with `answer`. A side that fails is told, and has no result of that round.
    """
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        turn = number % len(sides)
        for side in (*sides[turn:], *sides[:turn]):
            command = [sys.executable, script, *sys.argv[1:], "--child", side]
            done = subprocess.run(command, env={**os.environ, "OMP_WAIT_POLICY": "passive"}, capture_output=True, text=True)
            if done.returncode:
                print(f"round {number + 1}, {side}: failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
                continue
            measured[side].append(json.loads(done.stdout.split("RESULT")[1]))
            print(f"round {number + 1}, {side}: {[round(s, 3) for s in measured[side][-1]['seconds']]} s", flush=True)
    return {side: runs for side, runs in measured.items() if runs}


def trl_steps(model: str, tokenizer: Any, rows: Sequence[Any], batch: int, accumulation: int, **settings: Any) -> list[float]:
    """Seconds of each optimizer step of TRL's SFTTrainer on tokenized rows, in their order: float32 weights, bfloat16 compute."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(
        [
            {
                "input_ids": [*row.prompt_ids, *row.response_ids],
                "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.response_ids),
            }
            for row in rows
        ]
    )
    seconds: list[float] = []

    class Clock(TrainerCallback):
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.monotonic() - self.started)

    usual = dict(
        bf16=True, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=1,
        loss_type="chunked_nll", optim="adamw_torch_fused", train_sampling_strategy="sequential", save_strategy="no",
        report_to="none", disable_tqdm=True, logging_strategy="no", model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(folder, **usual | settings)  # type: ignore[arg-type]
        SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]).train()
    return seconds


def answer(result: dict[str, Any]) -> None:
    """A child's result, to its parent."""
    print("RESULT" + json.dumps(result))


def machine() -> str:
    """The machine and the versions that matter, in one line."""
    import torch
    import transformers

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else model
    return f"{device}, {os.cpu_count()} cores, {platform.platform()}, torch {torch.__version__}, transformers {transformers.__version__}"


def commit() -> str | None:
    """The commit of the code, or what the variable COMMIT says of it; None where neither is there."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    return os.environ.get("COMMIT")


def peak_rss() -> float:
    """The largest resident memory of this process so far, in GB. (`ru_maxrss` would count its parent's, too.)"""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def path_of(name: str) -> Path:
    """bench/results/`name`.json. The variable BENCH_RESULTS is another directory."""
    return Path(os.environ.get("BENCH_RESULTS") or Path(__file__).parent / "results") / f"{name}.json"


def write(name: str, result: dict[str, Any]) -> None:
    """Write the file of `path_of`, with the machine: this one, if the result names none."""
    path = path_of(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**({} if "machine" in result else {"machine": machine()}), **result}, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")


def tabulate(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of equal keys as a table."""
    cells = [
        [str(key) for key in rows[0]],
        *([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))

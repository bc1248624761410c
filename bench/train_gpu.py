"""Training on one CUDA card, at the shape of Qwen2.5-Math-1.5B: ours beside TRL and TRL with Liger, in four minutes.

    pip install -r bench/requirements.txt [liger-kernel flash-attn]
    python bench/train_gpu.py [--only equal real profile] [--minutes 4] [--cap 24]

The model has random weights and is made once, on the card. `gpu_rows.py` describes the kinds of rows: equal, real, shared, shared_8.
All sides hold float32 masters, compute in bfloat16, keep all activations, and train the same rows in the same steps. Each side is
one process; the sides take turns with each kind of rows, each time another one first. Ours computes as training does: batches are
made ahead in a thread, layers are compiled. A turn begins with steps that are not timed.

`profile` is a step of ours by what its kernels are for, with the share of the step in which the card is busy. `capped` trains all
weights in bf16-sr on rows of 4,096 tokens, in a process that may have `--cap` GB of the card.

Each part prints RESULT lines as it goes and has a time limit, so a run that is cut off leaves figures. The results are in
bench/results/train_gpu.json: ours over the better of TRL's padded sides as `ratio_equal`, `ratio_real`, `ratio_shared` and
`ratio_shared_8`, over its packing side as `ratio_real_packed`; `mfu` counts 6 operations for each weight and token of equal rows,
against the measured rate of matrix products; null is what was not measured.

`--toy` runs every part on a CPU at a toy shape; that is what the tests do. Sides whose packages are missing are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import tabulate, write

KINDS = ("equal", "real", "shared", "shared_8")
PARTS = (*KINDS, "profile", "capped")
LIMITS = {"real": 90.0, "capped": 75.0}
"""Seconds that a part may take on one side; others `USUAL_LIMIT`. Rows of real lengths have layouts of several kinds to compile for."""
USUAL_LIMIT = 60.0
SET_UP = 75.0
"""Seconds more for the first part of a process, whichever it is: the model is loaded, and layers are compiled."""
NEEDS = {
    "TRL": ("trl",),
    "TRL + Liger": ("trl", "liger_kernel"),
    "TRL + Liger, packed": ("trl", "liger_kernel", "flash_attn"),
}  # fmt: skip
"""TRL's sides, and the modules that each needs; Liger and flash-attn also need a card."""


class Side:
    """A process that measures one side (`gpu_sides.py`). One that does not answer in time is ended, and started anew when needed."""

    def __init__(self, name: str, folder: str, arguments: argparse.Namespace) -> None:
        here = Path(__file__).parent
        self.name, self.errors = name, Path(folder, f"{name.replace(' ', '_')}.log")
        self._command = [sys.executable, str(here / "gpu_sides.py"), name, folder, "--cap", str(arguments.cap)]
        self._command += ["--compile", arguments.compile, *(["--toy"] if arguments.toy else [])]
        self.process: Any = None
        self.is_set_up = False

    def start(self) -> None:
        """Begin, so that it imports what it needs while others work."""
        if self.process is not None and self.process.poll() is None:
            return
        self.is_set_up = False
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self.process.stdout, self._lines), daemon=True).start()

    @staticmethod
    def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    def ask(self, request: str, limit: float) -> Iterator[dict[str, Any]]:
        """What it finds out in so many seconds at most; what it does not find out is a result too, with `failed`."""
        self.start()
        with contextlib.suppress(BrokenPipeError):  # it ended while it began: its log says why, below
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        until = time.monotonic() + limit
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self.end()
                yield {"failed": f"not done after {limit:.0f} s, and ended"}
                return
            if line is None:
                last = (self.errors.read_text().strip().splitlines() or ["no message"])[-1]
                yield {"failed": f"the process ended: {last[:300]}"}
                return
            if line.startswith("RESULT "):
                yield json.loads(line.removeprefix("RESULT "))
            elif line.strip() == "DONE":
                self.is_set_up = request != "make"
                return

    def limit_of(self, part: str) -> float:
        """Seconds that a part may take now."""
        ready = self.is_set_up and self.process.poll() is None
        return LIMITS.get(part, USUAL_LIMIT) + (0.0 if ready or part == "make" else SET_UP)

    def end(self) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def sides_here(toy: bool) -> list[str]:
    """Ours, and those of TRL's sides whose packages are installed; the others are named."""
    found = ["ours"]
    for name, modules in NEEDS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing or (toy and len(modules) > 1):
            print(f"{name} is left out: {'no ' + missing[0] if missing else 'it needs a card'}", flush=True)
        else:
            found.append(name)
    return found


def requests_of(parts: list[str], names: list[str]) -> Iterator[tuple[str, str]]:
    """(part, side) in the order in which they are measured; the sides of a kind of rows take turns to be first."""
    padded = [name for name in names if "packed" not in name]
    for index, kind in enumerate(kind for kind in KINDS if kind in parts):
        turn = index % len(padded)
        yield from ((kind, name) for name in (*padded[turn:], *padded[:turn]))
        if kind == "real":
            yield from ((kind, name) for name in names if "packed" in name)
    if "profile" in parts:
        yield "profile", "ours"
    if "capped" in parts:
        yield "capped", "ours, capped"


def measure(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Ask all sides; what came of it."""
    until = time.monotonic() + 60 * arguments.minutes
    requests = list(requests_of(arguments.only, sides_here(arguments.toy)))
    sides = {name: Side(name, folder, arguments) for name in dict.fromkeys(["ours", *(name for _, name in requests)])}
    result: dict[str, Any] = {"arguments": vars(arguments), "turns": []}
    try:
        for side in sides.values():
            if side.name != "ours, capped":  # which starts with the card empty, so that its first step is timed from nothing
                side.start()
        for part, name in (("make", "ours"), *requests):
            left = until - time.monotonic()
            if left < 5:
                print(f"{part}, {name}: left out, the {arguments.minutes:g} minutes are over", flush=True)
                continue
            if name == "ours, capped":
                for side in sides.values():
                    side.end()
            turn: dict[str, Any] = {"part": part, "side": name}
            for found in sides[name].ask(part, min(left, sides[name].limit_of(part))):
                turn |= found
                print("RESULT " + json.dumps({"part": part, "side": name, **found}), flush=True)
            if part == "make":
                if "failed" in turn:
                    raise SystemExit(f"the model was not made: {turn['failed']}")
                result |= {key: turn[key] for key in ("machine", "commit", "versions", "weights")}
            else:
                result["turns"].append(turn)
    finally:
        for side in sides.values():
            side.end()
    return result


def summed_up(result: dict[str, Any]) -> dict[str, Any]:
    """The figures that are compared, from all turns; None where not measured."""
    turns = {(turn["part"], turn["side"]): turn for turn in result["turns"]}

    def of(part: str, side: str, key: str) -> Any:
        return turns.get((part, side), {}).get(key)

    def best(part: str) -> str:
        """The fastest of TRL's padded sides."""
        return max(("TRL", "TRL + Liger"), key=lambda side: of(part, side, "tokens_per_second") or 0)

    def ratio(part: str, other: str, key: str = "tokens_per_second") -> float | None:
        mine, theirs = of(part, "ours", key), of(part, other, key)
        return round(mine / theirs, 3) if mine and theirs else None

    figures: dict[str, Any] = {f"ratio_{kind}": ratio(kind, best(kind)) for kind in KINDS}
    figures["ratio_real_packed"] = ratio("real", "TRL + Liger, packed")
    rate, speed = of("equal", "ours", "matrix_rate"), of("equal", "ours", "tokens_per_second")
    figures["mfu"] = round(6 * result["weights"] * speed / rate, 4) if rate and speed else None
    figures["matrix_tflops"] = round(rate / 1e12, 3) if rate else None
    figures["peak_memory_ratio"] = ratio("equal", best("equal"), "peak_reserved_gb")
    figures["busy_share"] = of("profile", "ours", "busy_share")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to measure")
    parser.add_argument("--minutes", type=float, default=4.0, help="no part begins later, or goes on")
    parser.add_argument("--cap", type=float, default=24.0, help="GB of the card that the capped part may have")
    parser.add_argument("--compile", choices=("on", "off"), default="on", help="whether our layers are compiled")
    parser.add_argument("--toy", action="store_true", help="on a CPU, at a toy shape")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 8e9
    with tempfile.TemporaryDirectory(dir=memory if in_memory else None) as folder:
        result = measure(arguments, folder)
    figures = summed_up(result)
    rows = [
        {key: turn.get(key) for key in ("part", "side", "tokens_per_second", "peak_reserved_gb", "peak_allocated_gb", "predicted_gb")}
        for turn in result["turns"]
        if "tokens_per_second" in turn
    ]
    if rows:
        tabulate(rows)
    for name, value in figures.items():
        print(f"{name}: {value}")
    write("train_gpu_toy" if arguments.toy else "train_gpu", {**figures, **result})


if __name__ == "__main__":
    main()

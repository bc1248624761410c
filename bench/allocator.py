"""What `machine.prepare_process` buys: seconds of a training step with its allocator settings, and without.

    python bench/allocator.py [--rounds 3] [--steps 6]

Runs SmolLM2-135M on the built-in task in child processes that alternate between the two settings, and prints the median step of
each and their ratio. Machines are noisy: read the ratio, over several rounds, and not the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def child(steps: int) -> None:
    """Print the seconds of each training step, the first two (warm-up) left out."""
    from tutelage import batching
    from tutelage.config import parse_config
    from tutelage.model import load_policy, load_tokenizer
    from tutelage.optim import make_optimizer
    from tutelage.prepare import prepare
    from tutelage.train import accumulate_gradients, update_weights

    config = parse_config({"model": {"device": "cpu"}, "data": {"prompt": "plain"}, "train": {"batch_size": 16, "grad_accum": 1}})
    tokenizer = load_tokenizer("smollm2")
    rows = prepare(config, tokenizer).train
    policy = load_policy(config.model, tokenizer)
    policy.model.train()
    optimizer = make_optimizer(policy.model, config.train)
    seconds = []
    for step in range(steps + 2):
        examples = [rows[row] for row in batching.step_rows(len(rows), 16, 0, step)]
        started = time.monotonic()
        accumulate_gradients(policy, examples, config, step)
        update_weights(policy, optimizer, 1e-5)
        seconds.append(time.monotonic() - started)
    print("SECONDS" + json.dumps(seconds[2:]))


def measure(setting: str, steps: int) -> list[float]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--child", setting, "--steps", str(steps)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    measured: list[float] = json.loads(printed.split("SECONDS")[1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--child", choices=("kept", "returned"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        if arguments.child == "kept":
            from tutelage.machine import prepare_process

            prepare_process()
        child(arguments.steps)
        return
    seconds: dict[str, list[float]] = {"kept": [], "returned": []}
    for number in range(arguments.rounds):
        for setting in ("kept", "returned") if number % 2 == 0 else ("returned", "kept"):
            seconds[setting] += measure(setting, arguments.steps)
    medians = {setting: statistics.median(values) for setting, values in seconds.items()}
    result = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "median_step_seconds": medians,
        "ratio_returned_to_kept": medians["returned"] / medians["kept"],
    }
    path = Path(__file__).parent / "results" / "allocator.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"freed memory kept:     median step {medians['kept']:.2f} s\nfreed memory returned: median step {medians['returned']:.2f} s"
    )
    print(f"ratio {result['ratio_returned_to_kept']:.2f}  (written to {path})")


if __name__ == "__main__":
    main()

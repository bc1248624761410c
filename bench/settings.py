"""Short real runs on this machine's device, one for each setting that computes in a way of its own: which of them work, and how fast.

    python bench/settings.py [--only sr sr+8bit lora] [--model smollm2] [--out /tmp/settings]

Each run trains a few steps of the built-in task by `fine_tune`, evaluates, and saves. A line says what came of it: losses, the
share of changed weights where it was looked at, seconds of each step, memory. With `--device cpu` settings that need a card are
refused, and this is shown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, str]] = {
    "default": {},
    "fp32": {"model.precision": "fp32"},
    "sr": {"model.precision": "bf16-sr"},
    "sr+8bit": {"model.precision": "bf16-sr", "train.optimizer": "adamw-8bit"},
    "8bit": {"train.optimizer": "adamw-8bit"},
    "lora": {"model.lora": "lora"},
    "dora": {"model.lora": "dora"},
    "selective": {"model.activation_checkpointing": "selective"},
    "full": {"model.activation_checkpointing": "full"},
    "offload": {"model.activation_offload": "true"},
    "compile": {"model.compile": "on"},
    "compile+full": {"model.compile": "on", "model.activation_checkpointing": "full"},
    "eager": {"model.compile": "off"},
    "unpacked": {"train.pack": "false"},
    "small packs": {"train.pack_tokens": "200"},
    "sampled": {"eval.samples": "4", "eval.temperature": "0.8"},
    "adapt": {"train.on_oom": "adapt"},
}
"""The settings of each run, beyond those that all have."""


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What came of a run."""
    from tutelage import load_config
    from tutelage.training import fine_tune

    directory = Path(arguments.out, name.replace(" ", "-"))
    shutil.rmtree(directory, ignore_errors=True)
    settings = {
        "model.id": arguments.model, "model.device": arguments.device, "data.train": "arithmetic", "data.prompt": "plain",
        "data.size": "48", "train.batch_size": "8", "train.grad_accum": "2", "train.lr": "1e-4", "train.num_steps": str(arguments.steps),
        "eval.every": "2", "eval.examples": "8", "eval.full": "false", "eval.max_new_tokens": "24", "eval.backend": "native",
        "run.save_every": "2", "run.dir": str(directory),
    } | CASES[name]  # fmt: skip
    result = fine_tune(load_config(None, [word for key, value in settings.items() for word in (f"--{key}", value)]))
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    return {
        "losses": [round(step["loss"], 4) for step in steps],
        "changed": [step["weights_changed"] for step in steps if step.get("weights_changed") is not None],
        "step_seconds": [step["seconds"] for step in steps],
        "memory_gb": steps[-1]["memory_gb"],
        "evaluations": len(result.evaluations),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="the settings to run")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", default="/tmp/tutelage-settings", help="where run directories are written; earlier ones are removed")
    arguments = parser.parse_args()
    from tutelage.machines.process import prepare_process

    prepare_process()
    from harness import write

    found: dict[str, Any] = {}
    for name in arguments.only:
        started = time.monotonic()
        try:
            found[name] = run(name, arguments)
        except Exception as error:  # whatever it is, the other settings are still tried
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {str(error)[:400]}"}
        found[name]["seconds"] = round(time.monotonic() - started, 1)
        print("RESULT " + json.dumps({"setting": name, **found[name]}), flush=True)
    write("settings", {"arguments": vars(arguments), "settings": found})


if __name__ == "__main__":
    main()

"""Two ranks beside one process: how far apart their weights are after some steps, and what a checkpoint costs.

    python bench/ranks.py                    # the table of equality on a tiny model, saves of SmolLM2-135M (1.6 GB)
    python bench/ranks.py --no-saves

The steps of the table are plain SGD in float32 where nothing else is said: AdamW would hide a wrong scale. A save's call is
what training waits for; its total is until the checkpoint is sealed on the disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import tabulate, write

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

SGD: dict[str, Any] = {"sgd": True, "lr": 0.1, "clip_grad": 1e9}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "tied embeddings": {"train": SGD},
    "untied": {"model": {"id": "untied"}, "train": SGD},
    "HSDP, a copy on each rank": {"parallel": {"shard": 1}, "train": SGD},
    "sync after each micro-batch": {"parallel": {"sync": "always"}, "train": SGD | {"pack_tokens": 120}},
    "padded rows": {"train": SGD | {"pack": False}},
    "activation checkpointing": {"model": {"activation_checkpointing": "full"}, "train": SGD},
    "clipped": {"train": SGD | {"clip_grad": 0.1}},
    "AdamW": {"train": {"lr": 1e-3}},
    "LoRA, AdamW": {"model": {"lora": "lora", "lora_rank": 4}, "train": {"lr": 1e-3}},
    "bf16-mixed, AdamW": {"model": {"precision": "bf16-mixed"}, "train": {"lr": 1e-3}},
    "bf16-sr, AdamW": {"model": {"precision": "bf16-sr"}, "train": {"lr": 1e-3}},
}


def configuration(tiny: dict[str, str], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "model": {"id": "tied", "device": "cpu", "precision": "fp32"}, "data": {"train": "arithmetic", "prompt": "plain", "size": 48},
        "train": {"batch_size": 4, "grad_accum": 2, "num_steps": 10}, "eval": {"backend": "native"}, "parallel": {},
    }  # fmt: skip
    for section, values in changes.items():
        raw[section] = raw[section] | values
    raw["model"]["id"] = tiny[raw["model"]["id"]]
    return raw


def equality(ranks: Any, directory: Path) -> list[dict[str, Any]]:
    """The largest distance of a weight after three steps, and how far the first step moved it, case by case."""
    import rank_cases
    from tiny import make_tiny_model

    from tutelage import console
    from tutelage.machines.world import ALONE
    from tutelage.model import load as model

    console.mute()
    model.has_bfloat16 = lambda device: True  # as the ranks of the tests do
    tiny = {"tied": make_tiny_model(directory / "tied"), "untied": make_tiny_model(directory / "untied", tied=False)}
    rows = []
    for case, changes in CASES.items():
        raw = configuration(tiny, changes)
        before = rank_cases.train_steps(ALONE, raw, steps=0)["weights"]
        one = rank_cases.train_steps(ALONE, raw)
        many = ranks.run("train_steps", raw=raw)[0]
        rows.append(
            {
                "case": case,
                "largest_difference": max((one["weights"][name] - many["weights"][name]).abs().max().item() for name in before),
                "largest_move": max((one["weights"][name] - before[name]).abs().max().item() for name in before),
                "gradient_norm_ratio": many["norms"][0] / one["norms"][0],
            }
        )
    return rows


def saves(ranks: Any, directory: Path, times: int) -> list[dict[str, Any]]:
    """Seconds of the call and until the checkpoint is whole, by one process and by two ranks, in turns."""
    import rank_cases

    from tutelage.machines.world import ALONE

    raw = {
        "model": {"id": "smollm2", "device": "cpu", "precision": "fp32"}, "data": {"train": "arithmetic", "prompt": "plain", "size": 16},
        "train": {"batch_size": 2, "grad_accum": 1, "num_steps": 4}, "eval": {"backend": "native"}, "parallel": {},
    }  # fmt: skip
    rows = []
    for number in range(times):
        for side in ("one process", "two ranks"):
            run = str(directory / f"{side}-{number}".replace(" ", "-"))
            if side == "one process":
                found = rank_cases.time_of_a_save(ALONE, raw, run)
            else:
                found = ranks.run("time_of_a_save", raw=raw, run=run)[0]
            rows.append({"side": side, **found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-saves", action="store_true")
    parser.add_argument("--times", type=int, default=2, help="saves by each side")
    arguments = parser.parse_args()
    from ranks import Ranks

    both, started = Ranks(), time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="tutelage-ranks-") as name:
            found: dict[str, Any] = {"equality": equality(both, Path(name))}
            tabulate(found["equality"])
            if not arguments.no_saves:
                found["saves"] = saves(both, Path(name), arguments.times)
                tabulate(found["saves"])
    finally:
        both.close()
    write("ranks", found | {"seconds": round(time.monotonic() - started)})


if __name__ == "__main__":
    main()

"""What the benches share: the machine in words, this process's peak memory, and where results go."""

from __future__ import annotations

import json
import os
import platform
import resource
from pathlib import Path
from typing import Any


def machine() -> str:
    """The machine and the versions that matter, in one line."""
    import torch
    import transformers

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else model
    return f"{device}, {os.cpu_count()} cores, {platform.platform()}, torch {torch.__version__}, transformers {transformers.__version__}"


def peak_rss() -> float:
    """The largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write(name: str, result: dict[str, Any]) -> None:
    """bench/results/`name`.json."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")

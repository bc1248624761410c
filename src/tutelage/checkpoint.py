"""Checkpoints: written beside their place, complete or not there; an interrupted run continues as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import RunError

if TYPE_CHECKING:  # who only asks for the latest checkpoint needs no torch
    import torch


def save(directory: Path, step: int, model: Any, optimizer: torch.optim.Optimizer) -> Path:
    """Write trained weights and optimizer state after `step` optimizer steps; older checkpoints go once this one is complete.

    Order of rows and randomness are functions of (seed, step), so nothing else is needed to continue exactly.

    Raises:
        RunError: it could not be written (a full disk); earlier checkpoints are untouched.
    """
    import torch

    parent = directory / "checkpoints"
    target, beside = parent / f"step-{step:08d}", parent / f".tmp-step-{step:08d}"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        with (beside / "state.pt").open("wb") as file:
            state = {name: tensor for name, tensor in model.state_dict().items() if name not in _frozen(model)}
            torch.save({"step": step, "model": state, "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        size = (beside / "state.pt").stat().st_size
        (beside / "COMPLETE.json").write_text(json.dumps({"step": step, "files": {"state.pt": size}}))
        if target.exists():  # the same step again, after a resume that trained nothing
            target.rename(parent / f".del-{target.name}")
        beside.rename(target)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        shutil.rmtree(beside, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise RunError(f"{target}: the checkpoint could not be written: {reason}") from None
    for path in parent.iterdir():
        if path != target:
            shutil.rmtree(path, ignore_errors=True)
    return target


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run directory, if there is one."""
    found = [path for path in sorted((directory / "checkpoints").glob("step-*")) if _is_complete(path)]
    return found[-1] if found else None


def load(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Restore weights and optimizer state in place; returns the number of optimizer steps done."""
    import torch

    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(state["model"], strict=False)
    if unexpected or not set(missing) <= _frozen(model):
        raise RunError(f"{path}: the checkpoint is of another model: {[*unexpected, *sorted(set(missing) - _frozen(model))][0]}")
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _frozen(model: Any) -> set[str]:
    """Names of the weights that are not trained: they are where the model came from."""
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


def remove_all(directory: Path) -> None:
    """Remove the checkpoints of a finished run: its model is the result."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _is_complete(path: Path) -> bool:
    try:
        files = json.loads((path / "COMPLETE.json").read_text())["files"]
        return all((path / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False

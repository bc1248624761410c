"""The checkpoints of a run under way: which ones stay, and what follows where one cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.errors import RunError
from tutelage.machines import uninterrupted
from tutelage.model import Policy
from tutelage.runs import Checkpoints, RunLog
from tutelage.training.patience import best_of


def best_step(log: RunLog) -> list[int]:
    """The step of the best evaluation so far, the earliest of equals; none before there is one."""
    best = best_of(line for line in log.reading().evaluations if line["step"] > 0)
    return [] if best is None else [best["step"]]


def worth_keeping(log: RunLog, config: Config, total: int) -> list[int]:
    """Steps whose checkpoints stay for `run.keep_best`: the best so far, and those whose evaluations have not come in yet."""
    if not config.run.keep_best:
        return []
    known = max(log.reading().evaluated, default=-1)
    return [*best_step(log), *(step for step in range(known + 1, total) if config.eval.is_due(step, total))]


def save(saves: Checkpoints, step: int, policy: Policy, optimizer: torch.optim.Optimizer, log: RunLog) -> None:
    """Begin a checkpoint. One that cannot be written is told, and training goes on: the one before is safe."""
    log.to_disk()
    report_failures(saves.save(step, policy.model, optimizer), step, log)


def report_failures(failures: Sequence[str], step: int, log: RunLog) -> None:
    for reason in failures:
        console.say(f"step {step}: {reason}; training goes on, the checkpoint before that one is safe", style="bold red")
        log.metrics(kind="save_failed", step=step, reason=reason)


def saved(
    error: BaseException, policy: Policy, optimizer: torch.optim.Optimizer, step: int, saves: Checkpoints, log: RunLog
) -> BaseException:
    """The error to raise once the state after `step` is saved; if that fails, an error that says so too."""
    policy.model.zero_grad(set_to_none=True)
    failures: list[str] = []
    with contextlib.suppress(KeyboardInterrupt), uninterrupted():
        report_failures(saves.wait(), step, log)
        try:
            log.write_metrics()  # a state whose steps are not all in the log is not one to go on from
        except RunError as failure:
            failures = [str(failure)]
        if not saves.world.any(bool(failures)):
            failures = saves.save(step, policy.model, optimizer, at_once=True)
    if failures:
        return RunError(f"{error}\nBut not from this step: {failures[0]}")
    return error

"""`eval.patience`: a run ends before its planned length where its accuracy has stopped rising."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tutelage.machines import World
from tutelage.runs import RunLog

Line = Mapping[str, Any]


def best_of(evaluations: Iterable[Line]) -> Line | None:
    """The evaluation with the highest accuracy of the panel, the earliest of equals; None of none."""
    return max(evaluations, key=lambda line: (line["accuracy"], -line["step"]), default=None)


def without_a_rise(evaluations: Iterable[Line]) -> int:
    """How many evaluations in a row, up to the newest, were no better than the best one before them.

    The accuracy is that of the panel. The evaluation of the untouched model is one to be better than; equal is not better.
    Evaluations that failed, were lost or were left out do not count.

    Args:
        evaluations: oldest first.
    """
    best, count = -1.0, 0
    for line in evaluations:
        best, count = (line["accuracy"], 0) if line["accuracy"] > best else (best, count + 1)
    return count


def stop_of(evaluations: Iterable[Line], patience: int | None, planned: int) -> dict[str, Any] | None:
    """What ``result.json`` says of a run that `eval.patience` has ended; None while it goes on.

    Args:
        evaluations: oldest first.
        planned: optimizer steps that the run would have made.
    """
    lines = list(evaluations)
    best = best_of(lines)
    if patience is None or best is None or without_a_rise(lines) < patience:
        return None
    return {
        "patience": patience, "planned_steps": planned, "best_step": best["step"], "best_accuracy": best["accuracy"],
        "best_accuracy_ci95": best["accuracy_ci95"],
    }  # fmt: skip


class Patience:
    """Asks after each step whether the run is to end; all ranks ask together, and rank 0 reads its log.

    The count follows from the log alone, so a run that goes on has it too.
    """

    def __init__(self, patience: int | None, planned: int, log: RunLog, world: World) -> None:
        self.patience, self.planned, self.log, self.world = patience, planned, log, world
        self._seen = -1

    def stop(self, step: int, recorded: int) -> dict[str, Any] | None:
        """As `stop_of`, after optimizer step `step`; None at the planned end.

        Args:
            recorded: how many evaluations this process has logged; the log is read again where there are more.
        """
        if self.patience is None or step >= self.planned:
            return None
        return self.world.first(lambda: self._read(recorded))

    def _read(self, recorded: int) -> dict[str, Any] | None:
        if recorded == self._seen:
            return None
        self._seen = recorded
        return stop_of(self.log.reading().evaluations, self.patience, self.planned)

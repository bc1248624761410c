"""How training ends before its end: what a person is told, whether the state is saved, and what is waited for."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import RunError, first_line
from tutelage.machines import StopWanted, World, of_a_collective
from tutelage.model import is_out_of_memory
from tutelage.runs import RunGone
from tutelage.training.fit import StartAgain
from tutelage.training.step import HalfUpdated


class Interrupted(KeyboardInterrupt):
    """Training was interrupted after its state was saved; the message says how to continue."""


class Preempted(Interrupted):
    """Training was asked to stop (SIGTERM, SIGUSR1), finished its step and saved its state; the message says how to continue."""

    exit_code = 0


class Nonsense(RunError):
    """A step whose loss or gradient makes no sense was not applied, and the run is to stop there, or was to skip too many."""


class Wait(enum.Enum):
    """For how long evaluations in flight are waited for."""

    NOT = "not at all"
    SHORTLY = "for a grace period"
    LONG = "until they are in"


@dataclass(frozen=True)
class Ending:
    """What an exception means for a run.

    Attributes:
        error: what is raised in the end.
        saves: whether the state after the last step is saved first.
        agreed: whether all ranks end so; else the others are not waited for.
    """

    error: BaseException
    saves: bool
    waits: Wait = Wait.NOT
    agreed: bool = True


@dataclass(frozen=True)
class Stand:
    """How far a run had got when it stopped: after `step` of `total` optimizer steps."""

    step: int
    total: int
    directory: Path

    def how_to_go_on(self) -> str:
        return (
            f"stopped after step {self.step} of {self.total}; everything measured is in {self.directory}.\n"
            f"To go on from there: tutelage train {self.directory / 'config.toml'}"
        )


def ending_of(stop: BaseException, stand: Stand, world: World, on_memory: Callable[[str], str]) -> Ending:
    """The ending that an exception means.

    | what stopped training | raised | state saved | evaluations in flight |
    |---|---|---|---|
    | one of several ranks failed, the others wait for it | RunError | no | lost |
    | an update failed in the middle | RunError | no | lost |
    | memory ran out amid a step, and batches can be smaller (StartAgain) | itself | no | lost |
    | the run directory is gone | RunError | no | lost |
    | SIGTERM or SIGUSR1 (StopWanted) | Preempted | yes | waited for shortly |
    | Ctrl-C | Interrupted | yes | waited for |
    | nonsense, a full disk (RunError), memory | RunError | yes | lost |
    | anything else | itself | no | lost |

    Args:
        on_memory: what to say, given the first line of an error, where memory ran out outside of the batches of a step.
    """
    how = stand.how_to_go_on()
    alone = not (isinstance(stop, StopWanted | Nonsense) or getattr(stop, "agreed", False))
    if isinstance(stop, StartAgain):
        return Ending(stop, saves=False, agreed=False)
    if world.size > 1 and alone:
        return Ending(_left_alone(stop, world), saves=False, agreed=False)
    if isinstance(stop, HalfUpdated):
        memory = f"{on_memory(str(stop))}\n" if is_out_of_memory(stop.__cause__ or stop) else f"{stop}.\n"
        return Ending(
            RunError(
                f"{memory}The weights of step {stand.step + 1} are half updated, so they were not saved; everything measured is in"
                f" {stand.directory}.\nTo go on from the last checkpoint: tutelage train {stand.directory / 'config.toml'}"
            ),
            saves=False,
        )
    if isinstance(stop, RunGone):
        return Ending(RunError(f"stopped after step {stand.step} of {stand.total}: {stop}"), saves=False)
    if isinstance(stop, StopWanted):
        ranks = f" --launch {world.size} (or any other number of ranks)" if world.size > 1 else ""
        return Ending(Preempted(f"{world.stop.by or 'another rank was asked'}: {how}{ranks}"), True, Wait.SHORTLY)
    if isinstance(stop, KeyboardInterrupt):
        return Ending(Interrupted(how), True, Wait.LONG)
    if isinstance(stop, RunError):
        return Ending(RunError(f"{stop}\n{how}"), True)
    if is_out_of_memory(stop):
        return Ending(RunError(f"{on_memory(first_line(stop))}\n{how}"), True)
    return Ending(stop, saves=False, agreed=False)


def _left_alone(stop: BaseException, world: World) -> BaseException:
    """What is raised when one of several ranks fails: the others wait for it in vain, so nothing can be saved."""
    if isinstance(stop, RuntimeError) and of_a_collective(stop) and not isinstance(stop, RunError):
        stop = world.lost(stop)
    if isinstance(stop, RunError | MemoryError) or is_out_of_memory(stop):
        return RunError(
            f"rank {world.rank}: {str(stop) or 'out of memory'}\n"
            "The job ends, and the same command goes on from the last checkpoint."
        )
    return stop

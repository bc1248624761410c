"""How training ends early: a table of what is raised, saved and waited for, tried without training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tutelage.errors import RunError
from tutelage.machines.world import StopWanted, World
from tutelage.training.ending import Interrupted, Nonsense, Preempted, Stand, Wait, ending_of
from tutelage.training.step import HalfUpdated

STAND = Stand(3, 8, Path("runs/x"))
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def half_updated(cause):
    error = HalfUpdated("memory ran out in the middle of an update (why)")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("stop", "kind", "saves", "waits", "says"),
    [
        (StopWanted(), Preempted, True, Wait.SHORTLY, "stopped after step 3 of 8"),
        (KeyboardInterrupt(), Interrupted, True, Wait.LONG, "tutelage train runs/x/config.toml"),
        (Nonsense("step 4: the loss is nan"), RunError, True, Wait.NOT, "the loss is nan\nstopped after step 3"),
        (RunError("the disk is full"), RunError, True, Wait.NOT, "the disk is full\nstopped after step 3"),
        (OUT_OF_MEMORY, RunError, True, Wait.NOT, "elsewhere: CUDA out of memory. Tried to allocate 2.00 GiB.\nstopped"),
        (MemoryError(), RunError, True, Wait.NOT, "elsewhere: MemoryError"),
        (half_updated(OUT_OF_MEMORY), RunError, False, Wait.NOT, "weights of step 4 are half updated"),
        (half_updated(ValueError("why")), RunError, False, Wait.NOT, "weights of step 4 are half updated"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError, False, Wait.NOT, "mat1"),
    ],
)
def test_an_ending_says_what_is_raised_saved_and_waited_for(stop, kind, saves, waits, says):
    ending = ending_of(stop, STAND, World(), lambda reason: f"elsewhere: {reason}")
    assert type(ending.error) is kind and says in str(ending.error)
    assert (ending.saves, ending.waits) == (saves, waits)


def test_a_rank_that_fails_alone_saves_nothing_and_waits_for_nobody():
    two = World(rank=1, size=2)
    for stop in (RunError("the disk is full"), OUT_OF_MEMORY, half_updated(OUT_OF_MEMORY)):
        ending = ending_of(stop, STAND, two, str)
        assert "rank 1: " in str(ending.error) and "from the last checkpoint" in str(ending.error)
        assert not ending.saves and not ending.agreed
    lost = ending_of(RuntimeError("[gloo] Connection closed by peer"), STAND, two, str).error
    assert "rank 1 lost another rank of 2" in str(lost)


def test_what_all_ranks_know_of_ends_them_together():
    two = World(rank=1, size=2)
    agreed = RunError("of all")
    agreed.agreed = True
    for stop in (StopWanted(), Nonsense("a spike"), agreed):
        ending = ending_of(stop, STAND, two, str)
        assert ending.saves and ending.agreed
    assert "--launch 2" in str(ending_of(StopWanted(), STAND, two, str).error)

"""Jobs for processes of their own. They import nothing heavy, so that a process starts at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from tutelage.errors import InputError, RunError


def square(number: int) -> int:
    if number < 0:
        raise RunError(f"{number} is negative")
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def share_of_the_machine(_: int) -> tuple[str, str]:
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fails_at(shared, job):
    """What a worker is asked: to raise, to die, to print to its owner, or to answer."""
    if job == "input":
        raise InputError("mend the row")
    if job == "two":
        raise NeedsTwo("one", "two")
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "nonsense":
        for descriptor in range(3, 20):  # one of them is the pipe to the owner
            with contextlib.suppress(OSError):
                os.write(descriptor, b"nonsense\n")
    return job


def sleeps(shared, seconds):
    time.sleep(seconds)
    return os.getpid()

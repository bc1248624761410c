"""Jobs for processes of their own. They import nothing heavy, so that a process starts at once."""

from __future__ import annotations

import os
import signal

from tutelage.errors import RunError


def square(number: int) -> int:
    if number < 0:
        raise RunError(f"{number} is negative")
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def share_of_the_machine(_: int) -> tuple[str, str]:
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]

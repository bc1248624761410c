"""Work, counted. The limit of a comparison is an amount of work: a slow or busy machine changes no verdict.

Our own reading and comparing spends units where it does something (a token read, a node visited, a value calculated). Libraries spend
one unit for each call and each return that Python makes in them; this costs about as much time again, so only Math-Verify is counted
this way.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from types import FrameType
from typing import Any, NoReturn

OUT_OF_TIME = "stopped by the clock"
"""How the reason begins when a clock ended a comparison, or something from outside did."""


class Task(StrEnum):
    """What a worker does: a reading one hands on, by no reply, what only Math-Verify evaluates."""

    READ = "read"
    MATH_VERIFY = "math-verify"


OWN_UNITS = 1_000_000
"""What our own reading and comparing may spend in one comparison: about two seconds of one core. No pair of the tests needs 10,000."""
LIBRARY_UNITS = 12_000_000
"""What Math-Verify may spend in one comparison: about three seconds of one core."""


class TooLarge(Exception):
    """To read or evaluate an answer would cost too much."""


def _raise(reason: str) -> NoReturn:
    raise TooLarge(reason)


left: float = math.inf
"""Units that the present comparison may still spend."""
stop: Callable[[str], NoReturn] = _raise
"""Ends a comparison for a reason. A worker replaces it: a library could catch an exception, and go on."""


def spend(units: int = 1) -> None:
    """Count units of work.

    Raises:
        TooLarge: the comparison has spent them all.
    """
    global left
    left -= units
    if left < 0:
        stop("more work than a comparison may cost")


@contextlib.contextmanager
def limited(units: float) -> Iterator[None]:
    """Give units of work to what happens within."""
    global left
    before, left = left, units
    try:
        yield
    finally:
        left = before


@contextlib.contextmanager
def counting_calls() -> Iterator[None]:
    """Spend a unit for each call and return within, of Python functions and of functions in C."""
    global left

    def count(frame: FrameType, event: str, argument: Any) -> None:
        global left
        left -= 1
        if left < 0:
            sys.setprofile(None)
            stop("more work than a comparison may cost")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)

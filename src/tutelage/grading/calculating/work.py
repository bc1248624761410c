"""Work, counted. The limit of a comparison is an amount of work: a slow or busy machine changes no verdict.

Reading and comparing spend units where they do something: a token read, a node visited, a value calculated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

OUT_OF_TIME = "stopped by the clock"
"""How the reason begins when a clock ended a comparison, or something from outside did."""
UNITS = 1_000_000
"""What one comparison may spend: about two seconds of one core. No pair of the tests needs 10,000 without a sum or integral."""


class TooLarge(Exception):
    """To read or evaluate an answer would cost too much."""


left: float = math.inf
"""Units that the present comparison may still spend."""


def spend(units: int = 1) -> None:
    """Count units of work.

    Raises:
        TooLarge: the comparison has spent them all.
    """
    global left
    left -= units
    if left < 0:
        raise TooLarge("more work than a comparison may cost")


@contextlib.contextmanager
def limited(units: float = UNITS) -> Iterator[None]:
    """Give units of work to what happens within.

    Raises:
        TooLarge: they were spent, also where a library caught the error and went on.
    """
    global left
    before, left = left, units
    try:
        yield
        spend(0)
    finally:
        left = before

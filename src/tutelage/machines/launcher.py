"""``tutelage train --launch N``: the ranks of a run on this machine, without torchrun."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.errors import InputError

PARTING_SECONDS = 10.0
"""What ranks get to notice that one of them is gone, and to say so, before they are killed."""


def launch(ranks: int, arguments: Sequence[str], module: str = "tutelage") -> int:
    """Run `tutelage` (or another module) with these arguments as so many ranks; the exit code: 0 if all ended well, else the largest.

    SIGTERM, SIGUSR1 and Ctrl-C are passed on, and ask the ranks to stop with their state saved; a second Ctrl-C kills them.
    """
    ours = module == "tutelage"
    if ranks < 1:
        raise InputError(f"--launch {ranks}: at least one rank is needed")
    if "WORLD_SIZE" in os.environ:
        raise InputError("--launch within a job that has ranks already (WORLD_SIZE is set): leave one of the two out")
    shared = {
        **os.environ, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()), "TUTELAGE_LAUNCHER": str(os.getpid()),
    }  # fmt: skip
    # sessions of their own: a Ctrl-C in the terminal comes here, and is passed on as a polite request
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        with _passing_on(processes) as received:
            code = _watch(processes, "; the job ends, and the same command goes on from the last checkpoint" if ours else "")
        if received and not ours:
            raise KeyboardInterrupt
        return code
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def _watch(processes: Sequence[subprocess.Popen[Any]], how_it_goes_on: str) -> int:
    """Wait for all; when one fails, the others get a moment to end by themselves."""
    failures: dict[int, int] = {}  # by rank
    parting = math.inf
    while time.monotonic() < parting:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code and rank not in failures:
                failures[rank] = code
                parting = min(parting, time.monotonic() + PARTING_SECONDS)
                if code < 0:
                    print(
                        f"tutelage: rank {rank} was ended by {signal.Signals(-code).name}{how_it_goes_on}",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
        if None not in codes:
            break
        time.sleep(0.05)
    return max([1, *failures.values()] if any(code < 0 for code in failures.values()) else [0, *failures.values()])


@contextlib.contextmanager
def _passing_on(processes: Sequence[subprocess.Popen[Any]]) -> Iterator[list[int]]:
    """Within it, signals go to the processes; those that came are in the list."""
    received: list[int] = []
    asked = 0

    def pass_on(number: int, frame: Any) -> None:
        nonlocal asked
        received.append(number)
        asked += number == signal.SIGINT
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL if asked > 1 else number)

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

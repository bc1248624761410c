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

from tutelage import console
from tutelage.errors import InputError
from tutelage.machines.request import BEFORE_TRAINING, CTRL_C, POLITE_SIGNALS

AGAIN = 75
"""The exit code of a rank that wants the job to start again: it goes on from the last checkpoint, otherwise than before."""
PARTING_SECONDS = 10.0
"""What ranks get to notice that one of them is gone, and to say so, before they are killed."""


def launch(ranks: int, arguments: Sequence[str], module: str = "tutelage") -> int:
    """Run `tutelage` (or another module) with these arguments as so many ranks; the exit code: 0 if all ended well, else the largest.

    SIGTERM, SIGUSR1 and Ctrl-C are passed on, and ask the ranks to stop with their state saved; a second Ctrl-C kills them. The job is
    started again when a rank ends with `AGAIN`.
    """
    code = AGAIN
    while code == AGAIN:
        code = _launch_once(ranks, arguments, module)
    return code


def _launch_once(ranks: int, arguments: Sequence[str], module: str) -> int:
    if ranks < 1:
        raise InputError(f"--launch {ranks}: at least one rank is needed")
    if "WORLD_SIZE" in os.environ:
        raise InputError("--launch within a job that has ranks already (WORLD_SIZE is set): leave one of the two out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {
        **os.environ, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TUTELAGE_LAUNCHER": str(os.getpid()),
    }  # fmt: skip
    processes: list[subprocess.Popen[Any]] = []
    received: list[int] = []

    def pass_on(signal_number: int, frame: Any) -> None:
        received.append(signal_number)
        for process in processes:
            process.send_signal(signal.SIGKILL if received.count(signal.SIGINT) > 1 else signal_number)

    previous = {each: signal.signal(each, pass_on) for each in (*POLITE_SIGNALS, signal.SIGINT)}
    try:
        for rank in range(ranks):
            ids = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", module, *arguments]
            with _held_back(module == "tutelage"):
                if received:  # nothing was begun: ranks that wait for one another may be killed
                    break
                # in a session of its own: a Ctrl-C in the terminal comes to this process alone, which passes it on
                processes.append(subprocess.Popen(command, env=job | ids, start_new_session=True))
        if len(processes) < ranks:
            return _stopped_early(received, module)
        code = _wait(
            processes, "; the job ends, and the same command goes on from the last checkpoint" if module == "tutelage" else ""
        )
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        for process in processes:
            process.kill()
            process.wait()
    if received and module != "tutelage":
        raise KeyboardInterrupt
    return 1 if received and code == AGAIN else code


def _stopped_early(received: Sequence[int], module: str) -> int:
    """The exit code of a job that was asked to stop before all its ranks were started."""
    if module != "tutelage":
        raise KeyboardInterrupt
    console.complain(f"tutelage: {signal.Signals(received[0]).name}: {BEFORE_TRAINING}")
    return CTRL_C if signal.SIGINT in received else 0


@contextlib.contextmanager
def _held_back(wanted: bool) -> Iterator[None]:
    """A process that is started within it gets polite signals when it listens, and not while its interpreter starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, POLITE_SIGNALS if wanted else ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(processes: Sequence[subprocess.Popen[Any]], how_it_goes_on: str) -> int:
    """Wait for all ranks; when one fails, the others get a moment to end by themselves. The largest exit code, 1 for a signal."""
    failed: dict[int, int] = {}  # exit code by rank
    parting = math.inf
    while time.monotonic() < parting:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code and rank not in failed:
                failed[rank] = code
                parting = min(parting, time.monotonic() + PARTING_SECONDS)
                if code < 0:
                    name = signal.Signals(-code).name
                    console.complain(f"tutelage: rank {rank} was ended by {name}{how_it_goes_on}")
        if None not in codes:
            break
        time.sleep(0.05)
    if AGAIN in failed.values():
        return AGAIN
    return max([0, *(code if code > 0 else 1 for code in failed.values())])

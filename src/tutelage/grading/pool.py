"""The owner's side of the symbolic workers: one per thread that asks, started on first need, gone with the owner.

Each worker is a child process started by exec, so it neither inherits threads nor an accelerator's state, whenever it starts.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys

SECONDS = 3.0
"""Wall-clock limit of one comparison."""

_idle: queue.LifoQueue[subprocess.Popen[bytes]] = queue.LifoQueue()
_owner = os.getpid()


def symbolically_equal(gold: str, answer: str) -> tuple[bool | None, str]:
    """(equal, why) of two normalised answers; equal is None when a limit was met. Safe to call from any thread."""
    global _owner, _idle
    if _owner != os.getpid():  # a forked process must not talk over its parent's pipes
        _owner, _idle = os.getpid(), queue.LifoQueue()
    request = json.dumps([gold, answer]).encode() + b"\n"
    for _attempt in range(2):  # a worker that somebody killed is replaced once
        worker = _take()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(request)
            worker.stdin.flush()
            line = worker.stdout.readline()
        except OSError:
            line = b""
        except BaseException:  # Ctrl-C in the middle: the reply would be taken for the next question's
            worker.kill()
            worker.wait()
            raise
        if line:
            _idle.put(worker)
            reply = json.loads(line)
            return reply["equal"], reply["why"]
        worker.kill()
        worker.wait()
    return None, "the grading process ended twice without an answer"


def _take() -> subprocess.Popen[bytes]:
    try:
        return _idle.get_nowait()
    except queue.Empty:
        command = [sys.executable, "-m", "tutelage.grading.worker", str(SECONDS)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )


@atexit.register
def close() -> None:
    """End the idle workers; they also end by themselves when this process does."""
    while _owner == os.getpid():
        try:
            worker = _idle.get_nowait()
        except queue.Empty:
            return
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait()

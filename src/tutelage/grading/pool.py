"""The owner's side of the workers: started on first need, one per thread that asks, gone with the owner.

Each worker is started by exec, so it inherits neither threads nor an accelerator's state, whenever that is, and it leaves the
owner's signals alone.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import RunError
from tutelage.grading.tree import Reply

OUT_OF_TIME = "stopped by the clock"
"""How the reason begins when a clock ended a comparison, or something from outside did."""


def available_cores() -> int:
    """Cores that this process may use; where the system cannot say (macOS), all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class Worker:
    """A worker process, the way to it (unbuffered: nothing is left in a lock or a buffer at a fork) and the way back."""

    process: subprocess.Popen[bytes]
    requests: io.RawIOBase
    replies: io.BufferedReader


_idle: queue.LifoQueue[Worker] = queue.LifoQueue()
_started: set[Worker] = set()
CORES = available_cores()
_running = threading.BoundedSemaphore(CORES)


def ask(pairs: list[list[str]], stopping: threading.Event | None = None) -> list[Reply]:
    """(equal, layer, why) of each pair of normalised answers. Safe to call from any thread; no more workers run than there are cores.

    `stopping` is set when nobody waits for the replies any more.
    """
    with _running:
        return _ask(pairs, stopping)


def _ask(pairs: list[list[str]], stopping: threading.Event | None) -> list[Reply]:
    for _attempt in range(2):  # a worker that somebody killed is replaced once
        if stopping is not None and stopping.is_set():
            break
        worker = _take()
        try:
            unsent = memoryview(json.dumps(pairs).encode() + b"\n")
            while unsent:
                unsent = unsent[worker.requests.write(unsent) or 0 :]
            line = worker.replies.readline()
        except (OSError, ValueError):  # ValueError: closed by another thread
            line = b""
        except BaseException:  # Ctrl-C in the middle: the reply would be taken for the next question's
            _end(worker)
            raise
        if line.endswith(b"\n"):
            _idle.put(worker)
            return [(equal, layer, why) for equal, layer, why in json.loads(line)]
        _end(worker)
    return [(None, "limit", f"{OUT_OF_TIME}: the grading process ended twice without an answer")] * len(pairs)


def ask_many(requests: Sequence[list[list[str]]], workers: int | None = None) -> Iterator[tuple[int, list[Reply]]]:
    """(index, replies) of each request as it is done, asked on all cores."""
    count = min(workers or CORES, len(requests))
    if count < 2:
        yield from ((index, ask(request)) for index, request in enumerate(requests))
        return
    with ThreadPoolExecutor(count, thread_name_prefix="grading") as threads:
        stopping = threading.Event()
        waiting = {threads.submit(ask, request, stopping): index for index, request in enumerate(requests)}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:  # Ctrl-C: the threads must not finish what nobody will read
            stopping.set()
            threads.shutdown(wait=False, cancel_futures=True)
            close()
            raise


def _take() -> Worker:
    with contextlib.suppress(queue.Empty):
        while True:
            worker = _idle.get_nowait()
            if worker.process.poll() is None:
                return worker
            _end(worker)
    # -P: a file mpmath.py in the current directory is not the library; the package is found where it was found here
    command = [sys.executable, "-P", "-m", "tutelage.grading.worker"]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    try:
        process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},  # the order of sets too is the same in each worker
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"a grading process cannot be started: {error.strerror}") from None
    assert isinstance(process.stdin, io.RawIOBase) and isinstance(process.stdout, io.RawIOBase)
    worker = Worker(process, process.stdin, io.BufferedReader(process.stdout))
    _started.add(worker)
    if worker.replies.readline() != b"ready\n":
        _end(worker)
        raise RunError(f"a grading process does not start; `{' '.join(command)} < /dev/null` says why")
    return worker


def _end(worker: Worker, grace_seconds: float = 0.0) -> None:
    """Close the way to a worker, which ends it; kill it if that takes long."""
    _started.discard(worker)
    worker.requests.close()
    if grace_seconds:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(grace_seconds)
    worker.process.kill()
    worker.process.wait()
    worker.replies.close()


def _forget() -> None:
    """In a forked process: the parent's workers are not ours, and our copies of their pipes must not keep them alive."""
    global _idle, _running
    for worker in _started:
        worker.requests.close()
        worker.process.returncode = 0  # nobody here may wait for another process's child
    _started.clear()
    _idle = queue.LifoQueue()
    _running = threading.BoundedSemaphore(CORES)


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close() -> None:
    """End the workers; they also end by themselves when this process does, however it does."""
    while not _idle.empty():
        _idle.get_nowait()
    while _started:
        _end(_started.pop(), grace_seconds=1.0)

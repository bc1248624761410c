"""The owner's side of the workers: started ahead or on first need, shared by all threads, gone with the owner.

Each worker is started by exec, so it inherits neither threads nor an accelerator's state, whenever that is, and it leaves the owner's
signals alone.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import itertools
import json
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import RunError
from tutelage.grading.calculating.work import OUT_OF_TIME
from tutelage.grading.reading.tree import Reply

Pair = tuple[str, str]
"""Two normalised answers."""
CHUNK = 16
"""Pairs that a worker is asked at a time."""
PER_WORKER = 16
"""Answers for which one more worker is started ahead."""
AHEAD = 4
"""Workers that are started ahead, at most; more are started when they are needed."""
ENDED: Reply = (None, "limit", f"{OUT_OF_TIME}, or by the limit of memory: the grading process ended twice without an answer")


def available_cores() -> int:
    """Cores that this process may use; where the system cannot say (macOS), all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(eq=False)
class Worker:
    """A worker process, the way to it (unbuffered: nothing is left in a lock or a buffer at a fork) and the way back."""

    process: subprocess.Popen[bytes]
    requests: io.RawIOBase
    replies: io.BufferedReader
    ready: bool = False
    """It has been heard of: its imports are done."""


_idle: queue.LifoQueue[Worker] = queue.LifoQueue()
_started: set[Worker] = set()
CORES = available_cores()
_running = threading.BoundedSemaphore(CORES)


def start_workers(answers: int) -> None:
    """Start workers in the background, so that the first answers need not wait for their imports. Returns at once.

    Args:
        answers: how many will be graded soon. Workers that run already are not started again.

    Raises:
        RunError: the system starts no process.
    """
    for _ in range(min(-(-answers // PER_WORKER), AHEAD, CORES) - len(_started)):
        _idle.put(_start())


def ask_many(pairs: Iterable[Pair], workers: int | None = None) -> Iterator[tuple[list[Pair], list[Reply]]]:
    """Some pairs and (equal, layer, why) of each, as they are done. Safe to call from any thread: no more workers run than there are cores.

    Args:
        pairs: drawn while the workers are busy with those before.
        workers: how many may run at once (None: as many as there are cores).
    """
    asked: dict[Worker, list[Pair]] = {}
    try:
        rest = iter(pairs)
        while request := list(itertools.islice(rest, CHUNK)):
            while len(asked) >= (workers or CORES) or not _running.acquire(blocking=not asked):
                yield from _done(asked)
            worker = None
            try:
                worker = _take()
                _send(worker, request)
            except BaseException:
                _running.release()
                if worker is not None:
                    _end(worker)
                raise
            asked[worker] = request
            yield from _done(asked, milliseconds=0)
        while asked:
            yield from _done(asked)
    finally:
        for worker in asked:  # Ctrl-C, or nobody reads on: a reply would be taken for the next question's
            _end(worker)
            _running.release()


def _done(asked: dict[Worker, list[Pair]], milliseconds: int | None = None) -> Iterator[tuple[list[Pair], list[Reply]]]:
    """Wait for at least one of the workers (for so long at most); what those that are done reply."""
    poll = select.poll()
    by_file = {worker.replies.fileno(): worker for worker in asked}
    for file in by_file:
        poll.register(file, select.POLLIN)
    for file, _ in poll.poll(milliseconds):
        worker = by_file[file]
        replies, request = _received(worker), asked.pop(worker)
        _running.release()
        # one of the pairs ended it, or somebody killed it: each is asked once more, alone
        yield request, replies or [reply for pair in request for reply in _asked_alone(pair) or [ENDED]]


def _asked_alone(pair: Pair) -> list[Reply] | None:
    with _running:
        worker = _take()
        try:
            _send(worker, [pair])
            return _received(worker)
        except BaseException:
            _end(worker)
            raise


def _send(worker: Worker, pairs: list[Pair]) -> None:
    unsent = memoryview(json.dumps(pairs).encode() + b"\n")
    with contextlib.suppress(OSError, ValueError):  # it ended, or another thread closed it: so no reply will come
        while unsent:
            unsent = unsent[worker.requests.write(unsent) or 0 :]


def _received(worker: Worker) -> list[Reply] | None:
    """The replies, after which it is idle; None if it ended."""
    line = _line(worker)
    if not line.endswith(b"\n"):
        _end(worker)
        return None
    _idle.put(worker)
    return [tuple(reply) for reply in json.loads(line)]


def _line(worker: Worker) -> bytes:
    try:
        return worker.replies.readline()
    except (OSError, ValueError):  # ValueError: closed by another thread
        return b""


def _take() -> Worker:
    """A worker that is ready: an idle one, else a new one."""
    with contextlib.suppress(queue.Empty):
        while True:
            worker = _idle.get_nowait()
            if worker.process.poll() is None and _is_ready(worker):
                return worker
            _end(worker)
    worker = _start()
    if not _is_ready(worker):
        _end(worker)
        raise RunError(f"a grading process does not start; `{' '.join(_command())} < /dev/null` says why")
    return worker


def _is_ready(worker: Worker) -> bool:
    """Wait until a worker has imported; False if it ended."""
    try:
        worker.ready = worker.ready or _line(worker) == b"ready\n"
    except BaseException:  # Ctrl-C
        _end(worker)
        raise
    return worker.ready


def _command() -> list[str]:
    """-P: a file mpmath.py in the current directory is not the library."""
    return [sys.executable, "-P", "-m", "tutelage.grading.serving.worker"]


def _start() -> Worker:
    """A new worker, which imports while the owner does something else."""
    # the package is found where it was found here
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
    try:
        process = subprocess.Popen(
            _command(), bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},  # the order of sets is the same in each worker
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"a grading process cannot be started: {error.strerror}") from None
    assert isinstance(process.stdin, io.RawIOBase) and isinstance(process.stdout, io.RawIOBase)
    worker = Worker(process, process.stdin, io.BufferedReader(process.stdout))
    _started.add(worker)
    return worker


def _end(worker: Worker) -> None:
    """End a worker. It holds nothing that would be lost."""
    _started.discard(worker)
    worker.requests.close()
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
    _idle, _running = queue.LifoQueue(), threading.BoundedSemaphore(CORES)


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close() -> None:
    """End the workers; they also end by themselves when this process does, however it does."""
    with contextlib.suppress(queue.Empty):
        while True:
            _idle.get_nowait()
    for worker in list(_started):
        _end(worker)

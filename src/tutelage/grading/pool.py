"""The owner's side of the workers: started ahead or on first need, one per thread that asks, gone with the owner.

A worker reads and compares, or asks Math-Verify, whose libraries take most of a second to import: few pairs need them, and those that
read start without them. Each worker is started by exec, so it inherits neither threads nor an accelerator's state, whenever that is,
and it leaves the owner's signals alone.
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
from tutelage.grading.work import OUT_OF_TIME, Task

PER_WORKER = 16
"""Answers for which one more reading worker is started ahead."""
AHEAD = 4
"""Reading workers that are started ahead, at most; more are started when they are needed."""
MATH_VERIFY_FROM = 64
"""For so many answers, a worker for Math-Verify is started ahead: about one in a hundred needs it."""


def available_cores() -> int:
    """Cores that this process may use; where the system cannot say (macOS), all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class Worker:
    """A worker process, the way to it (unbuffered: nothing is left in a lock or a buffer at a fork) and the way back."""

    task: Task
    process: subprocess.Popen[bytes]
    requests: io.RawIOBase
    replies: io.BufferedReader


_idle: dict[Task, queue.LifoQueue[Worker]] = {task: queue.LifoQueue() for task in Task}
_started: set[Worker] = set()
_silent: set[Worker] = set()
"""The workers that have not been heard of: they import."""
CORES = available_cores()
_running = threading.BoundedSemaphore(CORES)


def start_workers(answers: int) -> None:
    """Start workers in the background, so that the first answers need not wait for their imports. Returns at once.

    Args:
        answers: how many will be graded soon. Workers that run already are not started again.

    Raises:
        RunError: the system starts no process.
    """
    running = [worker.task for worker in list(_started)]
    readers = min(-(-answers // PER_WORKER), AHEAD, CORES)
    for task, wanted in ((Task.READ, readers), (Task.MATH_VERIFY, int(answers >= MATH_VERIFY_FROM))):
        for _ in range(wanted - running.count(task)):
            _idle[task].put(_start(task))


def ask(pairs: list[list[str]], stopping: threading.Event | None = None) -> list[Reply]:
    """(equal, layer, why) of each pair of normalised answers. Safe to call from any thread; no more workers run than there are cores.

    `stopping` is set when nobody waits for the replies any more.
    """
    with _running:
        found = _ask(Task.READ, pairs, stopping)
        rest = iter(_ask(Task.MATH_VERIFY, [pair for pair, reply in zip(pairs, found, strict=True) if reply is None], stopping))
    return [reply or next(rest) or (None, "error", "no verdict") for reply in found]


def _ask(task: Task, pairs: list[list[str]], stopping: threading.Event | None) -> list[Reply | None]:
    for _attempt in range(2 if pairs else 0):  # a worker that somebody killed is replaced once
        if stopping is not None and stopping.is_set():
            break
        worker = _take(task)
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
            _idle[task].put(worker)
            return [reply and tuple(reply) for reply in json.loads(line)]
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


def _take(task: Task) -> Worker:
    """A worker that is ready: an idle one, else a new one."""
    with contextlib.suppress(queue.Empty):
        while True:
            worker = _idle[task].get_nowait()
            if worker.process.poll() is None and _is_ready(worker):
                return worker
            _end(worker)
    worker = _start(task)
    if not _is_ready(worker):
        _end(worker)
        raise RunError(f"a grading process does not start; `{' '.join(_command(task))} < /dev/null` says why")
    return worker


def _is_ready(worker: Worker) -> bool:
    """Wait until a worker has imported; False if it ended."""
    if worker in _silent:
        try:
            line = worker.replies.readline()
        except (OSError, ValueError):  # ValueError: closed by another thread
            line = b""
        except BaseException:  # Ctrl-C
            _end(worker)
            raise
        _silent.discard(worker)
        return line == b"ready\n"
    return True


def _command(task: Task) -> list[str]:
    """-P: a file mpmath.py in the current directory is not the library."""
    return [sys.executable, "-P", "-m", "tutelage.grading.worker", task]


def _start(task: Task) -> Worker:
    """A new worker, which imports while the owner does something else."""
    # the package is found where it was found here
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    try:
        process = subprocess.Popen(
            _command(task), bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},  # the order of sets too is the same in each worker
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"a grading process cannot be started: {error.strerror}") from None
    assert isinstance(process.stdin, io.RawIOBase) and isinstance(process.stdout, io.RawIOBase)
    worker = Worker(task, process, process.stdin, io.BufferedReader(process.stdout))
    _started.add(worker)
    _silent.add(worker)
    return worker


def _end(worker: Worker, grace_seconds: float = 0.0) -> None:
    """Close the way to a worker, which ends it; kill it if that takes long, or if it still imports."""
    imports = worker in _silent
    _started.discard(worker)
    _silent.discard(worker)
    worker.requests.close()
    if grace_seconds and not imports:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(grace_seconds)
    worker.process.kill()
    worker.process.wait()
    worker.replies.close()


def _forget() -> None:
    """In a forked process: the parent's workers are not ours, and our copies of their pipes must not keep them alive."""
    global _running
    for worker in _started:
        worker.requests.close()
        worker.process.returncode = 0  # nobody here may wait for another process's child
    _started.clear()
    _silent.clear()
    _idle.update({task: queue.LifoQueue() for task in Task})
    _running = threading.BoundedSemaphore(CORES)


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close() -> None:
    """End the workers; they also end by themselves when this process does, however it does."""
    for idle in _idle.values():
        with contextlib.suppress(queue.Empty):
            while True:
                idle.get_nowait()
    for worker in list(_started):
        _end(worker, grace_seconds=1.0)

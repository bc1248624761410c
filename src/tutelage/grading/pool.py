"""The owner's side of the workers: started on first need, one per thread that asks, gone with the owner.

Each worker is started by exec, so it inherits neither threads nor an accelerator's state, whenever that is, and it leaves the
owner's signals alone.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

CPU_SECONDS, WALL_SECONDS = 2.5, 4.0
"""What one comparison may take; the wall clock is the larger, so that a machine that stalls does not refuse right answers."""

Reply = tuple[bool | None, str, str]
_idle: queue.LifoQueue[subprocess.Popen[bytes]] = queue.LifoQueue()
_started: set[subprocess.Popen[bytes]] = set()


def ask(pairs: list[list[str]]) -> list[Reply]:
    """(equal, layer, why) of each pair of normalised answers. Safe to call from any thread."""
    request = json.dumps(pairs).encode() + b"\n"
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
            _end(worker)
            raise
        if line:
            _idle.put(worker)
            return [(equal, layer, why) for equal, layer, why in json.loads(line)]
        _end(worker)
    return [(None, "limit", "the grading process ended twice without an answer")] * len(pairs)


def ask_many(keys: Sequence[Any], requests: Sequence[list[list[str]]], workers: int | None = None) -> Iterator[tuple[Any, list[Reply]]]:
    """(key, replies) of each request as it is done, asked on all cores."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    count = min(workers or len(os.sched_getaffinity(0)), len(requests))
    if count < 2:
        for key, request in zip(keys, requests, strict=True):
            yield key, ask(request)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="grading") as threads:
        waiting = {threads.submit(ask, request): key for key, request in zip(keys, requests, strict=True)}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            for future in waiting:
                future.cancel()


def _take() -> subprocess.Popen[bytes]:
    try:
        return _idle.get_nowait()
    except queue.Empty:
        command = [sys.executable, "-m", "tutelage.grading.worker", str(CPU_SECONDS), str(WALL_SECONDS)]
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        _started.add(worker)
        return worker


def _end(worker: subprocess.Popen[bytes]) -> None:
    _started.discard(worker)
    worker.kill()
    worker.wait()


def _forget() -> None:
    """In a forked process: the parent's workers are not ours, and our copies of their pipes must not keep them alive."""
    global _idle
    for worker in _started:
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                os.close(pipe.detach().detach() if hasattr(pipe, "detach") else pipe.fileno())  # type: ignore[attr-defined]
        worker.returncode = 0  # so that nobody waits for another process's child
    _started.clear()
    _idle = queue.LifoQueue()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close() -> None:
    """End the workers; they also end by themselves when this process does, however it does."""
    while _started:
        worker = _started.pop()
        if worker.stdin is not None:
            worker.stdin.close()
        try:
            worker.wait(timeout=1)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    while not _idle.empty():
        _idle.get_nowait()

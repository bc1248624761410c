"""Processes that work through a list of jobs beside each other.

They are started by exec, so they inherit neither threads nor the state of a device, and a script that starts them needs no
``if __name__ == "__main__"``.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from tutelage.errors import RunError, first_line
from tutelage.machines.process import available_cores, end_with

Job = TypeVar("Job")
Answer = TypeVar("Answer")
WORKER = "TUTELAGE_WORKER"
"""The variable that such a process has in its environment."""
SECONDS_TO_END = 10
FEW = 3
"""So many jobs are done in this process: others would take longer to start."""
AHEAD = 2
"""Jobs on their way for each process: one that is worked on, and the next."""


def over_cores(function: Callable[[Any, Job], Answer], jobs: Iterable[Job], shared: Any) -> Iterator[Answer]:
    """``function(shared, job)`` of each job in their order: in this process if they are few, else as `over_processes` on all cores."""
    jobs = iter(jobs)
    few = list(itertools.islice(jobs, FEW + 1))
    cores = available_cores()
    if len(few) > FEW and cores > 1:
        yield from over_processes(function, itertools.chain(few, jobs), shared, cores)
        return
    for job in itertools.chain(few, jobs):
        with _uncollected():
            answer = function(shared, job)
        yield answer


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles, which takes a third of the time where many small objects are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def over_processes(
    function: Callable[[Any, Job], Answer], jobs: Iterable[Job], shared: Any, count: int
) -> Iterator[Answer]:
    """``function(shared, job)`` of each job, in their order, by `count` processes.

    Args:
        function: of a module that can be imported; `shared`, jobs and answers can be pickled.
        jobs: are taken as they are needed, so that few of them are in memory.

    Raises:
        Exception: what a job raised.
        RunError: a process ended in the middle of a job.
    """
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    started: list[subprocess.Popen[bytes]] = []

    def answer(job: Job) -> Answer:
        process = idle.get()
        try:
            return _ask(process, job)
        finally:
            idle.put(process)

    waiting: deque[Future[Answer]] = deque()
    threads = ThreadPoolExecutor(count)
    try:
        for _ in range(count):
            started.append(_start(function, shared))
            idle.put(started[-1])
        for job in jobs:
            waiting.append(threads.submit(answer, job))
            if len(waiting) >= AHEAD * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for process in started:
            process.kill()
        threads.shutdown(cancel_futures=True)
        for process in started:
            process.communicate()


def _start(function: Callable[..., Any], shared: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", WORKER: "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    # -P: a file of the working directory is no module of a library's
    command = [sys.executable, "-P", "-m", "tutelage.machines.workers", str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    pickle.dump((function, shared), process.stdin)
    process.stdin.flush()
    return process


def _ask(process: subprocess.Popen[bytes], job: Any) -> Any:
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump(job, process.stdin)
        process.stdin.flush()
        succeeded, answer = pickle.load(process.stdout)
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        try:
            code = process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:  # it lives, and what it says cannot be read
            process.kill()
            code = process.wait()
        raise RunError(f"a process that worked beside this one ended ({code}); was there too little memory?") from None
    if not succeeded:
        raise answer
    return answer


def is_worker() -> bool:
    """Whether this process is one of several that `over_processes` has started."""
    return WORKER in os.environ


def main() -> None:
    """Answer the jobs on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's
    end_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    asked = sys.stdin.buffer
    with contextlib.suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # the owner has ended
        function, shared = pickle.load(asked)
        gc.disable()  # as `_uncollected`
        while True:
            job = pickle.load(asked)
            try:
                reply = True, function(shared, job)
            except Exception as error:
                reply = False, portable(error)
            pickle.dump(reply, answers)
            answers.flush()


def portable(error: Exception) -> Exception:
    """The error, or where it cannot be handed to another process, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a library's error needs to be made again
        return RunError(f"{type(error).__name__}: {first_line(error)}")
    return error


if __name__ == "__main__":
    main()

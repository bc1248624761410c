"""The same function for many jobs: in processes on this machine, or over the machines of a Ray cluster. Only this file knows Ray."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from tutelage.errors import InputError, RunError, first_line
from tutelage.machines.process import available_cores, end_with, prepare_process

Job = TypeVar("Job")
Answer = TypeVar("Answer")

PASSED_ON = ("OMP_WAIT_POLICY", "HF_HUB_OFFLINE", "HF_HOME", "TUTELAGE_CACHE", "TOKENIZERS_PARALLELISM", "TRACKIO_DIR")
PASSED_ON_PREFIXES = ("WANDB_", "MLFLOW_")
"""Variables of the environment that workers on other machines get from this one."""
PARTING_SECONDS = 30.0
"""What jobs on a cluster get to save their state when they are asked to stop."""


def require(where: str) -> None:
    """Raises InputError if `where` is none of "local", "ray" and "ray://HOST:PORT", or Ray is meant and not installed."""
    if where != "local" and where != "ray" and not where.startswith("ray://"):
        raise InputError(
            f'{where!r}: write "local", "ray" (a cluster that RAY_ADDRESS names, else this machine), or "ray://HOST:PORT"'
        )
    if where != "local" and importlib.util.find_spec("ray") is None:
        raise InputError('Ray is not installed: pip install "tutelage[ray]"')


def run_map(
    function: Callable[[Job], Answer], jobs: Sequence[Job], where: str = "local", *, workers: int = 2, gpus_per_job: float = 0
) -> Iterator[Answer]:
    """`function(job)` of each job, in their order, as they come in.

    Args:
        function: a function of a module that the workers can import, with jobs and answers that can be pickled.
        where: "local": processes on this machine, which inherit nothing. "ray": the cluster that RAY_ADDRESS names, else one of
            `workers` cores that is started on this machine for these jobs. "ray://HOST:PORT": that cluster. Its machines have
            Tutelage installed, and see files under the same paths.
        workers: how many jobs run at the same time on this machine; a cluster has its own number.
        gpus_per_job: how many GPUs of a cluster that has any are set aside for each job.

    Raises:
        InputError: Ray is meant and not installed, or that cluster cannot be reached.
        Exception: what a job raised; jobs that have not begun by then are not.
    """
    require(where)
    if where == "local":
        with ProcessPoolExecutor(min(workers, max(1, len(jobs))), multiprocessing.get_context("spawn")) as pool:
            try:
                yield from pool.map(function, jobs)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return
    early: dict[int, Answer] = {}
    following = 0
    with contextlib.closing(_over_cluster(function, jobs, where, workers, gpus_per_job, retries=3)) as answers:
        for index, answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            early[index] = answer
            while following in early:
                yield early.pop(following)
                following += 1


def run_apart(
    function: Callable[[Job], Answer],
    jobs: Iterable[Job],
    where: str = "local",
    *,
    workers: int = 1,
    devices: Sequence[str] = (),
    gpus_per_job: float = 0,
) -> Generator[tuple[int, Answer | BaseException], None, None]:
    """(index of the job, its answer) as jobs end, each in a process of its own. What a job raises, or that it was killed, is its
    answer, and the others go on. When this is closed early, jobs under way are asked to stop by SIGTERM, and waited for.

    Args:
        function, where, gpus_per_job: as `run_map`.
        jobs: each is made when its turn comes.
        workers: how many jobs run at the same time on this machine.
        devices: CUDA_VISIBLE_DEVICES of each worker on this machine, over and over; empty: all see all.
    """
    require(where)
    if where == "local":
        yield from _apart_locally(function, jobs, workers, devices)
    else:
        yield from _over_cluster(function, jobs, where, workers, gpus_per_job, retries=0)


def _over_cluster(
    function: Callable[[Job], Answer], jobs: Iterable[Job], where: str, workers: int, gpus_per_job: float, retries: int
) -> Generator[tuple[int, Answer | BaseException], None, None]:
    """As `run_apart`, by Ray, in processes that it keeps."""
    with cluster(where, workers) as ray:

        def call(job: Job) -> Answer:  # Ray takes plain functions only, no partial ones
            return function(job)

        resources = ray.cluster_resources()
        gpus = gpus_per_job if resources.get("GPU", 0) > 0 else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(call)
        coming = enumerate(jobs)
        at_once = max(1, int(resources.get("CPU", 1)))  # more could not run at the same time
        waiting = {remote.remote(job): index for index, job in islice(coming, at_once)}
        try:
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                # what has answered is not cancelled below: Ray ends the process over a task that ends in that moment
                index = waiting.pop(done)
                waiting |= {remote.remote(job): following for following, job in islice(coming, 1)}
                yield index, _answer_of(ray, done, where)
        finally:
            for each in waiting:
                ray.cancel(each, force=False)
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=PARTING_SECONDS)


def _answer_of(ray: Any, reference: Any, where: str) -> Any:
    """What a job has answered, or what it raised, without the story of the other process for a message."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause or error
    except ray.exceptions.RayError as error:
        return RunError(f"{where}: {first_line(error)}")


def _apart_locally(
    function: Callable[[Job], Answer], jobs: Iterable[Job], workers: int, devices: Sequence[str]
) -> Generator[tuple[int, Answer | BaseException], None, None]:
    context = multiprocessing.get_context("spawn")
    coming, free = enumerate(jobs), list(range(workers))
    running: dict[Connection, tuple[int, SpawnProcess, int]] = {}
    try:
        while True:
            for index, job in islice(coming, len(free)):
                slot = free.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_answer_in_process, args=(theirs, os.getpid(), function, job))
                with _environment(_share(slot, workers, devices)):  # before the process imports torch
                    process.start()
                theirs.close()
                running[ours] = index, process, slot
            if not running:
                return
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                index, process, slot = running[ready]
                try:
                    answer = ready.recv()
                except (EOFError, OSError):  # killed before it had said anything, or while it did
                    process.join()
                    answer = RunError(f"its process {_end_of(process.exitcode or 0)}")
                process.join()
                del running[ready]
                free.append(slot)
                yield index, answer
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def _share(slot: int, workers: int, devices: Sequence[str]) -> dict[str, str]:
    """What a worker gets of this machine, as environment variables."""
    cores = max(1, available_cores() // workers)
    share = {"OMP_NUM_THREADS": str(cores)} if workers > 1 and "OMP_NUM_THREADS" not in os.environ else {}
    return share | ({"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {})


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _answer_in_process(theirs: Connection, parent: int, function: Callable[[Job], Answer], job: Job) -> None:
    """The process of one job. A Ctrl-C in the terminal is its parent's, which then asks it to stop."""
    if hasattr(os, "setsid"):
        os.setsid()
    end_with(parent)
    prepare_process()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        answer: Any = function(job)
    except BaseException as error:
        answer = _sendable(error)
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        theirs.send(answer)


def _sendable(error: BaseException) -> BaseException:
    """An error as one that can be sent to another process, whatever it holds."""
    for kind in (InputError, RunError, KeyboardInterrupt):
        if isinstance(error, kind):
            return kind(str(error))
    traceback.print_exc()
    return RunError(f"{type(error).__name__}: {first_line(error)}")


def _end_of(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}{', as when memory runs out' if code == -signal.SIGKILL else ''}"


@contextlib.contextmanager
def cluster(where: str, workers: int = 2) -> Iterator[Any]:
    """Ray, connected, or None where all is local. What is started or connected for the block ends with it, not with one `run_map`."""
    if where == "local":
        yield None
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # jobs that ask for no GPU see those there are, as elsewhere
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    connected = ray.is_initialized()
    if not connected:
        address = os.environ.get("RAY_ADDRESS") if where == "ray" else where
        variables = {
            name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
        }
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(**options, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise InputError(f"{address or where}: no Ray cluster there: {first_line(error)}") from None
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()

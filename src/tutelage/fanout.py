"""The same function for many jobs: in processes on this machine, or over the machines of a Ray cluster. Only this file knows Ray."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from tutelage.errors import InputError, RunError

Job = TypeVar("Job")
Answer = TypeVar("Answer")

PASSED_ON = ("OMP_WAIT_POLICY", "HF_HUB_OFFLINE", "HF_HOME", "TUTELAGE_CACHE", "TOKENIZERS_PARALLELISM")
"""Variables that workers on other machines get from here."""


def gpus_per_job() -> int:
    """How many GPUs a job that needs one sets aside on the connected cluster: 1 where it has any."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0) > 0)


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
        gpus_per_job: what Ray sets aside for each.

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
    with cluster(where, workers) as ray:

        def call(job: Job) -> Answer:  # Ray takes plain functions only, no partial ones
            return function(job)

        remote = ray.remote(num_cpus=1, num_gpus=gpus_per_job, max_retries=3)(call)
        waiting = [remote.remote(job) for job in jobs]
        try:
            for answer in waiting:
                yield ray.get(answer)
        except ray.exceptions.RayTaskError as error:  # with the whole story of the other process for a message
            raise (error.cause or error) from None
        except ray.exceptions.RayError as error:
            raise RunError(f"{where}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
        finally:
            for answer in waiting:
                ray.cancel(answer, force=False)


@contextlib.contextmanager
def cluster(where: str, workers: int = 2) -> Iterator[Any]:
    """Ray, connected, or None where all is local. What was started or connected here ends with the block, not with one `run_map`."""
    if where == "local":
        yield None
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # jobs that ask for no GPU see those there are, as elsewhere
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    connected = ray.is_initialized()
    if not connected:
        address = os.environ.get("RAY_ADDRESS") if where == "ray" else where
        variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(**options, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise InputError(f"{address or where}: no Ray cluster there: {(str(error).splitlines() or [''])[0]}") from None
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()

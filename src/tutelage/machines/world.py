"""The ranks of a job: who this process is among them, what they tell each other, and how they join and part."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tutelage import console
from tutelage.errors import InputError, RunError, first_line
from tutelage.machines.process import available_cores
from tutelage.machines.request import StopRequest, StopWanted, request_of_program
from tutelage.machines.watch import Watchdog

T = TypeVar("T")

FOR_EVER = datetime.timedelta(days=30)
"""The time-out of the process groups: `Watchdog` ends what hangs long before, and knows by whose fault."""


@dataclass(frozen=True)
class World:
    """This process among the ranks of its job; by itself, it is rank 0 of 1, and nothing of this costs anything.

    Attributes:
        local_rank, local_size: among the ranks of this machine.
        control, saving: gloo groups in the host's memory, one for numbers and objects, one for the threads of checkpoints.
        watch: ends the job when a rank hangs; None in a single process.
        stop: whether the job was asked to stop.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: Any = None
    saving: Any = None
    watch: Watchdog | None = None
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def leads(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def first(self, make: Callable[[], T], may_stop: bool = False) -> T:
        """What rank 0 makes, for every rank; if it fails on rank 0, it fails on all.

        Args:
            may_stop: with several ranks, a request to stop gives it up, and raises StopWanted on all.
        """
        if self.size == 1:
            return make()
        self.passed("rank 0 works alone", patient=self.leads)
        made: list[Any] = [None]
        failure: BaseException | None = None
        if self.leads:
            try:
                with self.stop.interrupting() if may_stop else contextlib.nullcontext():
                    made = [("made", make())]
            except BaseException as error:
                failure = error
                known = isinstance(error, InputError | RunError | StopWanted)
                made = [("failed", error if known else RunError(f"rank 0 failed: {type(error).__name__}: {error}"))]
        with self._collective():
            dist.broadcast_object_list(made, src=0, group=self.control)
        kind, value = made[0]
        if kind == "failed":
            raise agreed(value, self) from failure
        self.passed("after rank 0")
        result: T = value
        return result

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over the ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        self.passed("sums over the ranks")
        with self._collective():
            dist.all_reduce(total, group=self.control)
        summed: list[float] = total.tolist()
        return summed

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all ranks get the same answer."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """The value of every rank, on rank 0; nothing elsewhere."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.leads else None
        self.passed("gathers what the ranks found")
        with self._collective():
            dist.gather_object(value, found, dst=0, group=self.control)
        return found or []

    def passed(self, doing: str, patient: bool = False) -> None:
        """Tell the watch that this rank is at a point that all ranks pass; `patient`: it may stay there for long."""
        if self.watch is not None:
            self.watch.passed(doing, patient)

    def long_task(self, doing: str) -> None:
        """Tell the watch that this rank may stay for long with something, until its next `passed`."""
        if self.watch is not None:
            self.watch.long_task(doing)

    def arm(self) -> None:
        """From now on the watch waits for `parallel.timeout` and no longer."""
        if self.watch is not None:
            self.watch.armed = True

    def alive(self) -> None:
        """Tell the watch that something goes on, such as another token. Raises StopWanted if the job was asked to stop."""
        if self.watch is not None:
            self.watch.stir()
        if self.stop.wanted:
            raise StopWanted

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Within it a polite signal is remembered. Several ranks listen all the time, for none may leave the others alone."""
        return self.stop.listening(also_ctrl_c=False) if self.size == 1 else contextlib.nullcontext()

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from None

    def lost(self, error: BaseException) -> RunError:
        """What a failed collective means."""
        reason = first_line(error)
        return RunError(f"rank {self.rank} lost another rank of {self.size} ({reason})")


ALONE: World = World()
"""A process by itself. A run that may be asked to stop takes a world of its own from `join`, for a request is never forgotten."""


def of_a_collective(error: BaseException) -> bool:
    """Whether an error of torch says that another rank is gone."""
    signs = ("gloo", "NCCL", "Connection", "collective", "ProcessGroup", "process group")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


@contextlib.contextmanager
def join(device: str, timeout: float) -> Iterator[World]:
    """The world that torchrun (or `tutelage train --launch`) has put this process into, by its environment variables.

    With several ranks, process groups are made (gloo for what is on the host, NCCL for what is on GPUs), all but rank 0 fall
    silent, and CPU cores are shared out among the ranks of a machine.

    Args:
        device: `model.device`.

    Raises:
        InputError: the variables make no sense, or this machine has fewer GPUs than ranks.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    stop = request_of_program()
    if size == 1:
        yield World(stop=stop)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} not set: start with torchrun, or tutelage train --launch N"
        )
    rank = int(os.environ["RANK"])
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if rank != 0:
        console.mute()
    on_gpu = _take_share(device, local_rank, local_size)
    with stop.listening(also_ctrl_c=True):
        store, _, _ = next(dist.rendezvous("env://", rank, size))
        watch = Watchdog(dist.PrefixStore("watch", store.clone()), rank, size, timeout, stop)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        groups = dist.PrefixStore("groups", store)
        dist.init_process_group(backend, store=groups, timeout=FOR_EVER, rank=rank, world_size=size)
        control, saving = (dist.new_group(backend="gloo", timeout=FOR_EVER) for _ in range(2))
        world = World(rank, size, local_rank, local_size, control, saving, watch, stop)
        try:
            yield world
        except BaseException as error:
            if getattr(error, "agreed", False):
                with contextlib.suppress(RunError):
                    _leave(world)
            elif isinstance(error, RuntimeError) and not isinstance(error, RunError) and of_a_collective(error):
                raise world.lost(error) from None
            raise  # without waiting for the other ranks, which may wait for this one
        _leave(world)


def _take_share(device: str, local_rank: int, local_size: int) -> bool:
    """Take this rank's GPU, or its share of the machine's cores; whether it is a GPU."""
    try:
        on_gpu = rank_device(device, local_rank, local_size).type == "cuda"
    except InputError as error:  # the other ranks of this machine raise it too
        error.printed = local_rank != 0  # type: ignore[attr-defined]
        raise
    if on_gpu:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, available_cores() // local_size))
    return on_gpu


def agreed(error: BaseException, world: World) -> BaseException:
    """An error that every rank raises, marked as such: the ranks part in order, and rank 0 prints it."""
    error.agreed, error.printed = True, not world.leads  # type: ignore[attr-defined]
    return error


def _leave(world: World) -> None:
    assert world.watch is not None
    world.any(False)  # rank 0 holds the store, and must not leave while the others still ask it
    world.watch.close()
    dist.destroy_process_group()


def rank_device(name: str, local_rank: int, local_size: int) -> torch.device:
    """The device of a rank: the CPU, or the GPU of index `local_rank`.

    Raises:
        InputError: one GPU is named, which several ranks cannot share; or there are fewer than ranks.
    """
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and count == 0):
        return torch.device("cpu")
    if index:
        raise InputError(f'model.device = "{name}": {local_size} ranks on this machine need a GPU each; write "cuda", or "auto"')
    if count < local_size:
        raise InputError(f"{local_size} ranks on this machine need a GPU each, and it has {count}; start as many ranks as GPUs")
    return torch.device("cuda", local_rank)

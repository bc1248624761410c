"""The ranks of a job: who this process is among them, what they agree on, and who is named when they wait for ever."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tutelage import console
from tutelage.errors import InputError, RunError

T = TypeVar("T")

FOR_EVER = datetime.timedelta(days=30)
"""The time-out of the process groups: `Watchdog` ends what hangs long before, and knows by whose fault."""
STARTING_SECONDS = 1800.0
"""Before training, ranks may stand still for so long at least."""
PATIENCE_SECONDS = 6 * 3600.0
"""And for so long where a rank has said that it may take long: rank 0 alone with the data, a slow disk."""


class StopWanted(Exception):
    """What is under way is given up, for the job was asked to stop."""


class StopRequest:
    """Whether this job was asked to stop: by SIGTERM or SIGUSR1 to any of its ranks, with several ranks by Ctrl-C too."""

    def __init__(self) -> None:
        self.by: str | None = None
        self._wakeups: int | None = None

    @property
    def wanted(self) -> bool:
        return self.by is not None

    @contextlib.contextmanager
    def listening(self, also_ctrl_c: bool) -> Iterator[None]:
        """Within it these signals are remembered instead of obeyed. In the main thread only; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGTERM, signal.SIGUSR1, *([signal.SIGINT] if also_ctrl_c else [])]
        previous = {number: signal.signal(number, self._remember) for number in numbers}
        # handlers do not run while the main thread waits in a collective; what the interpreter writes here can be read meanwhile
        self._wakeups, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in previous.items():
                signal.signal(number, handler)
            reading, self._wakeups = self._wakeups, None
            os.close(reading)
            os.close(written)

    def look(self) -> None:
        """Notice a signal that the main thread has not come to yet; for another thread."""
        with contextlib.suppress(BlockingIOError, OSError, TypeError):
            for number in os.read(self._wakeups, 64):  # type: ignore[arg-type]
                if signal.Signals(number) in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                    self._remember(number, None)

    def _remember(self, number: int, frame: Any) -> None:
        self.by = self.by or signal.Signals(number).name


@dataclass(frozen=True)
class World:
    """This process among the ranks of its job; by itself, it is rank 0 of 1, and nothing here costs anything.

    Attributes:
        local_rank, local_size: among the ranks of this machine.
        control: a gloo group for numbers and objects in the host's memory; `saving`: another one, for checkpoints' threads.
        watch: ends the job when a rank hangs.
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

    def first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for every rank; if it fails there, it fails everywhere."""
        if self.size == 1:
            return make()
        self.passed("rank 0 works alone", patient=self.leads)
        made: list[Any] = [None]
        failure: BaseException | None = None
        if self.leads:
            try:
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
        """Tell the watch that all ranks come by here, and that this one has arrived; `patient`: it may stay for long."""
        if self.watch is not None:
            self.watch.passed(doing, patient)

    def long_task(self, doing: str) -> None:
        """Tell the watch that this rank may stay for long with something, until its next `passed`."""
        if self.watch is not None:
            self.watch.doing, self.watch.patient = doing, True

    def arm(self) -> None:
        """From here on the watch does not wait longer than it was told."""
        if self.watch is not None:
            self.watch.armed = True

    def alive(self) -> None:
        """Tell the watch that something goes on here, such as another token. Raises StopWanted if the job was asked to stop."""
        if self.watch is not None:
            self.watch.stirs += 1
        if self.stop.wanted:
            raise StopWanted

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Within it a polite signal is remembered: several ranks listen anyway, for none may leave the others alone."""
        return self.stop.listening(also_ctrl_c=False) if self.size == 1 else contextlib.nullcontext()

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from None

    def lost(self, error: BaseException) -> RunError:
        """What a failed collective means."""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return RunError(f"rank {self.rank} lost another rank of {self.size} ({reason})")


ALONE: World = World()
"""A process by itself. Whoever lets it be asked to stop gets a world of its own from `join`, for a request is never forgotten."""


def of_a_collective(error: BaseException) -> bool:
    """Whether an error of torch says that another rank is gone."""
    signs = ("gloo", "NCCL", "Connection", "collective", "ProcessGroup", "process group")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


class Watchdog:
    """A thread on each rank that tells the others where its rank is, and ends the process when nobody gets any further.

    Ranks wait for each other in collectives, which say nothing of whom they wait for. So each rank counts the points that all of
    them pass, and when nothing has moved for `timeout` seconds, whoever is behind is named. It also passes on a request to stop.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float, stop: StopRequest) -> None:
        self.store, self.rank, self.size, self.timeout, self.stop = store, rank, size, timeout, stop
        self.place, self.stirs, self.doing, self.patient, self.armed = 0, 0, "starts", False, False
        self.launcher = int(os.environ.get("TUTELAGE_LAUNCHER", "0"))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")
        self._thread.start()

    def passed(self, doing: str, patient: bool) -> None:
        self.place, self.doing, self.patient = self.place + 1, doing, patient

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)

    def _run(self) -> None:
        ticks, keys = 0, [f"watch/{rank}" for rank in range(self.size)]
        seen: list[tuple[str, float]] = [("", time.monotonic())] * self.size  # what each rank said last, and since when
        moved = time.monotonic()
        with contextlib.suppress(RuntimeError, OSError):  # the store is gone: so is the job, as its collectives will tell
            self.store.set(keys[self.rank], "")
            while not self._over.wait(min(1.0, self.timeout / 10)):
                ticks += 1
                if self.launcher and os.getppid() != self.launcher:
                    os._exit(1)  # it is dead, and so is the job
                where = f"{self.place} {self.stirs} {int(self.patient)} {self.doing}"
                self.store.set(keys[self.rank], f"{ticks} {where}")
                self.stop.look()
                if self.stop.wanted:
                    self.store.set("stop", self.stop.by)
                elif self.store.check(["stop"]):
                    self.stop.by = self.store.get("stop").decode()
                now = time.monotonic()
                for rank, key in enumerate(keys):
                    if not self.store.check([key]):
                        continue
                    said = self.store.get(key).decode()
                    if said.partition(" ")[2] != seen[rank][0].partition(" ")[2]:
                        moved = now
                    if said != seen[rank][0]:
                        seen[rank] = (said, now)
                # until training begins, there are imports, downloads and compilers to wait for
                if now - moved > (self.timeout if self.armed else max(self.timeout, STARTING_SECONDS)):
                    self._end(now - moved, [said for said, _ in seen], [now - since > self.timeout / 2 for _, since in seen])

    def _end(self, since: float, said: list[str], silent: list[bool]) -> None:
        """Name who is behind, and end the process: its main thread waits in a collective that nothing else would end."""
        places = [int(line.split()[1]) if line.strip() else -1 for line in said]
        doing = [" ".join(line.split()[4:]) for line in said]
        behind = [rank for rank in range(self.size) if silent[rank]] or [
            rank for rank in range(self.size) if places[rank] == min(places)
        ]
        if not any(silent) and since < PATIENCE_SECONDS and any(said[rank].split()[3:4] == ["1"] for rank in behind):
            return  # it may take long there, and said so
        if self.rank == min((rank for rank in range(self.size) if rank not in behind), default=0):
            if len(behind) == self.size:
                who = f"no rank got any further: all are at {doing[0]!r}"
            else:
                names = ", ".join(
                    f"rank {rank} ({'does not respond, last' if silent[rank] else 'is'} at {doing[rank]!r})" for rank in behind
                )
                who = f"{names} hangs; the others wait at {doing[self.rank]!r}"
            print(
                f"tutelage: {who}. Nothing moved for parallel.timeout = {self.timeout:g} s, so the job ends;"
                " the same command goes on from the last checkpoint",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        os._exit(1)


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
    stop = StopRequest()
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
    try:
        on_gpu = rank_device(device, local_rank, local_size).type == "cuda"
    except InputError as error:  # which the others on this machine find too
        error.printed = local_rank != 0  # type: ignore[attr-defined]
        raise
    if on_gpu:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    with stop.listening(also_ctrl_c=True):
        store, _, _ = next(dist.rendezvous("env://", rank, size))
        watch = Watchdog(dist.PrefixStore("watch", store.clone()), rank, size, timeout, stop)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=dist.PrefixStore("groups", store), rank=rank, world_size=size,
            timeout=FOR_EVER,
        )  # fmt: skip
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
            raise  # otherwise nobody is waited for: the others may wait for us
        _leave(world)


def agreed(error: BaseException, world: World) -> BaseException:
    """An error that every rank raises, marked as such: they part in order, and the first one tells it."""
    error.agreed, error.printed = True, not world.leads  # type: ignore[attr-defined]
    return error


def _leave(world: World) -> None:
    assert world.watch is not None
    world.any(False)  # the first rank holds the store that the others still ask
    world.watch.close()
    dist.destroy_process_group()


def rank_device(name: str, local_rank: int, local_size: int) -> torch.device:
    """The device of a rank: GPU number `local_rank`, where GPUs are meant.

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

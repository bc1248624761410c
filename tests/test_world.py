"""Who is named when ranks wait for ever, and what one process pays for being one of one."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tutelage.errors import InputError
from tutelage.machines import watch as watching
from tutelage.machines import world as worlds
from tutelage.machines.process import available_cores
from tutelage.machines.watch import StopRequest, Watchdog
from tutelage.machines.world import ALONE, StopWanted, World, join, rank_device


class Store:
    """What ranks tell each other, in a dictionary. Rank 0 calls `heard` each time it says something."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.heard = lambda: None

    def set(self, key: str, value: str) -> None:
        self.values[key] = value
        self.heard()

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def beside(sign: list, alive: bool) -> Store:
    """A store in which rank 1 is always at the same point, with or without a new sign of life whenever rank 0 says something.

    Args:
        sign: (points, stirs, patient, doing) of a `Sign`.
    """
    store, ticks = Store(), itertools.count()

    def say() -> None:
        store.values["watch/1"] = json.dumps([next(ticks) if alive else 0, *sign])

    store.heard = say
    return store


WATCHES: list[Watchdog] = []


@pytest.fixture
def ended(monkeypatch):
    """Set when a watch ends its process; its thread then stands still until the test is over, and all watches are closed."""
    over, test_is_over = threading.Event(), threading.Event()

    def end(code: int) -> None:
        over.set()
        test_is_over.wait()

    monkeypatch.setattr(watching.os, "_exit", end)
    yield over
    for watch in WATCHES:
        watch._over.set()
    test_is_over.set()
    while WATCHES:
        WATCHES.pop().close()


def watched(store: Store, timeout: float = 0.4, armed: bool = True, rank: int = 0) -> Watchdog:
    watch = Watchdog(store, rank, 2, timeout, StopRequest())
    watch.armed = armed
    WATCHES.append(watch)
    return watch


@pytest.mark.parametrize(
    ("alive", "named"),
    [(True, "rank 1 (is at 'step 3, micro-batch 1 of 2') hangs"), (False, "rank 1 (does not respond, last at 'step 3")],
)
def test_whoever_is_behind_or_silent_is_named(ended, capsys, alive, named):
    watch = watched(beside([3, 0, False, "step 3, micro-batch 1 of 2"], alive))
    for _ in range(5):
        watch.passed("sums over the ranks", False)
    assert ended.wait(60)
    told = capsys.readouterr().err
    assert named in told and "the others wait at 'sums over the ranks'" in told and "parallel.timeout = 0.4 s" in told


def test_a_rank_that_may_take_long_stirs_or_starts_is_waited_for(ended):
    patient, stirring, starting = beside([0, 0, True, "rank 0 works alone"], True), Store(), Store()
    watches = [watched(patient), watched(stirring), watched(starting, 0.1, armed=False)]
    watches[0].passed("after rank 0", False)
    stirring.heard = watches[1].stir  # another token
    assert not ended.wait(1.5)
    for watch in watches:
        watch.close()


def test_rank_0_that_hangs_with_the_store_it_keeps_is_named_by_rank_1(ended, capsys):
    """A stopped process answers nothing, and a question to its store has no time-out; a store that is gone has other consequences."""
    hung, gone, over = Store(), Store(), threading.Event()
    hung.heard = lambda: over.wait(60) and None

    def lost():
        raise OSError("connection closed")

    gone.heard = lost
    watched(gone, 0.1, rank=1)
    assert not ended.wait(0.4)
    watch = watched(hung, 0.1, rank=1)
    watch.passed("sums over the ranks")
    assert ended.wait(60)
    over.set()
    told = capsys.readouterr().err
    assert "rank 0 (does not respond) hangs; rank 1 waits at 'sums over the ranks'" in told and "parallel.timeout = 0.1 s" in told


def test_a_rank_whose_launcher_is_gone_ends(ended, monkeypatch):
    monkeypatch.setenv("TUTELAGE_LAUNCHER", str(os.getppid()))
    watched(Store(), 0.1)
    assert not ended.wait(0.05)
    monkeypatch.setattr(watching.os, "getppid", lambda: 1)
    assert ended.wait(60)


def test_a_request_to_one_rank_reaches_the_others(ended):
    store = Store()
    watch = watched(store)
    store.set("stop", "SIGUSR1")
    deadline = time.monotonic() + 60
    while not watch.stop.wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert watch.stop.by == "SIGUSR1"
    watch.close()


def test_a_signal_is_remembered_while_someone_listens():
    before = signal.getsignal(signal.SIGTERM)
    with join("cpu", 1.0) as world, world.listening():
        world.alive()
        os.kill(os.getpid(), signal.SIGTERM)
        assert world.stop.by == "SIGTERM"
        with pytest.raises(StopWanted):
            world.alive()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_seen_by_the_watch_while_the_main_thread_waits():
    """Python's handlers run in the main thread only, and not while it is in C."""
    stop = StopRequest()
    with stop.listening(also_ctrl_c=True):
        seen: list[str | None] = []

        def watch() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            deadline = time.monotonic() + 60
            while not stop.wanted and time.monotonic() < deadline:
                stop.look()
            seen.append(stop.by)

        blocked = threading.Thread(target=watch)
        blocked.start()
        blocked.join()
        assert seen == ["SIGUSR1"]
    stop.look()  # nobody listens any more


def test_one_process_asks_nobody():
    assert ALONE.first(lambda: 3) == 3 and ALONE.sum([1.0, 2.0]) == [1.0, 2.0] and ALONE.gather("a") == ["a"]
    assert ALONE.any(True) and not ALONE.any(False) and World().leads


def test_a_machine_with_fewer_gpus_than_ranks_is_told(monkeypatch):
    monkeypatch.setattr(worlds.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(worlds.torch.cuda, "device_count", lambda: 2)
    assert rank_device("auto", 1, 2).index == 1 and rank_device("cpu", 1, 4).type == "cpu"
    with pytest.raises(InputError, match="3 ranks on this machine need a GPU each, and it has 2"):
        rank_device("cuda", 0, 3)
    with pytest.raises(InputError, match='model.device = "cuda:1": 2 ranks'):
        rank_device("cuda:1", 0, 2)


WITHOUT_LINUX = """
import os, signal
for module, names in ((os, ("sched_getaffinity", "pipe2", "memfd_create", "setsid")), (signal, ("SIGUSR1",))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""


@pytest.mark.slow
def test_a_system_without_what_linux_adds_imports_and_joins_a_world():
    """As macOS: no affinity, no pipe2, no memfd; and nothing like SIGUSR1 or setsid, to be sure."""
    code = WITHOUT_LINUX + """
import tutelage, tutelage.config, tutelage.data.filter, tutelage.machines.fanout, tutelage.machines.launcher, tutelage.stats
from tutelage.machines import POLITE_SIGNALS, join
from tutelage.machines.process import available_cores
assert available_cores() == os.cpu_count() and POLITE_SIGNALS == (signal.SIGTERM,)
with join("cpu", 1.0) as world, world.listening():
    os.kill(os.getpid(), signal.SIGTERM)
    world.stop.by = None
    world.stop.look()  # by the pipe
    assert world.stop.by == "SIGTERM"
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == os.cpu_count()

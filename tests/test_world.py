"""Who is named when ranks wait for ever, and what one process pays for being one of one."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tutelage.errors import InputError
from tutelage.machines import world as room
from tutelage.machines.world import ALONE, StopRequest, StopWanted, Watchdog, World, join, rank_device


class Store:
    """What ranks tell each other, in a dictionary; other ranks are played by the test."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


@pytest.fixture
def ended(monkeypatch):
    """Set when a watch ends its process."""
    told = threading.Event()

    def end(code: int) -> None:
        told.set()
        raise RuntimeError("ended")  # of the thread

    monkeypatch.setattr(room.os, "_exit", end)
    return told


def watched(store: Store, timeout: float = 0.6) -> Watchdog:
    watch = Watchdog(store, 0, 2, timeout, StopRequest())
    watch.armed = True
    return watch


def play(store: Store, line: str, alive: bool, until: threading.Event) -> threading.Thread:
    """Rank 1 says the same place again and again, with or without a sign of life."""

    def say() -> None:
        ticks = 0
        while not until.wait(0.05):
            ticks += alive
            store.set("watch/1", f"{ticks} {line}")

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("alive", "named"),
    [(True, "rank 1 (is at 'step 3, micro-batch 1 of 2') hangs"), (False, "rank 1 (does not respond, last at 'step 3")],
)
def test_whoever_is_behind_or_silent_is_named(ended, capsys, alive, named):
    store = Store()
    watch = watched(store)
    for _ in range(5):
        watch.passed("sums over the ranks", False)
    play(store, "3 0 0 step 3, micro-batch 1 of 2", alive, ended)
    assert ended.wait(10)
    told = capsys.readouterr().err
    assert named in told and "the others wait at 'sums over the ranks'" in told and "parallel.timeout = 0.6 s" in told


def test_a_rank_that_may_take_long_or_stirs_is_waited_for(ended):
    store = Store()
    watch = watched(store)
    watch.passed("after rank 0", False)
    play(store, "0 0 1 rank 0 works alone", True, ended)
    assert not ended.wait(2)
    store.values.pop("watch/1")
    for _ in range(20):
        watch.stirs += 1  # another token
        assert not ended.wait(0.1)
    watch.close()


def test_before_training_begins_there_is_more_patience(ended):
    watch = Watchdog(Store(), 0, 2, 0.3, StopRequest())
    assert not ended.wait(1.5)
    watch.close()


def test_a_request_to_one_rank_reaches_the_others(ended):
    store = Store()
    watch = watched(store)
    store.set("stop", "SIGUSR1")
    deadline = time.monotonic() + 5
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


def test_a_signal_is_seen_by_the_watch_while_the_main_thread_waits_in_a_collective():
    """Python's handlers run in the main thread only, and not while it is in C."""
    stop = StopRequest()
    with stop.listening(also_ctrl_c=True):
        seen: list[str | None] = []

        def watch() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            deadline = time.monotonic() + 5
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
    monkeypatch.setattr(room.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(room.torch.cuda, "device_count", lambda: 2)
    assert rank_device("auto", 1, 2).index == 1 and rank_device("cpu", 1, 4).type == "cpu"
    with pytest.raises(InputError, match="3 ranks on this machine need a GPU each, and it has 2"):
        rank_device("cuda", 0, 3)
    with pytest.raises(InputError, match='model.device = "cuda:1": 2 ranks'):
        rank_device("cuda:1", 0, 2)


def test_what_rank_0_finds_wrong_is_wrong_everywhere_and_told_once(ranks):
    assert ranks.run("what_fails_on_rank_0") == [("InputError", "no such file", False), ("InputError", "no such file", True)]
    assert ranks.run("what_fails_on_rank_0", surprise=True) == [
        ("RunError", "rank 0 failed: KeyError: 'x'", False), ("RunError", "rank 0 failed: KeyError: 'x'", True),
    ]  # fmt: skip

"""What runs beside the training of a rank: the thread that ends a job whose ranks wait for ever, and passes a request to stop on."""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import threading
import time
from typing import Any, NamedTuple

from tutelage import console
from tutelage.machines.request import StopRequest

STARTING_SECONDS = 1800.0
"""Before training begins, ranks may stand still for this long at least: imports, downloads and compilers take their time."""
PATIENCE_SECONDS = 6 * 3600.0
"""Ranks may stand still for this long where one has said that it may take long: rank 0 alone with the data, a slow disk."""


class Sign(NamedTuple):
    """What a rank says to the others.

    Attributes:
        ticks: grows while the process lives.
        points: how many points it has passed; all ranks pass the same ones.
        stirs: grows while something goes on between two points, such as another token.
        patient: it may stay for long where it is.
        doing: what it is at, in words.
    """

    ticks: int = 0
    points: int = -1
    stirs: int = 0
    patient: bool = False
    doing: str = ""


class Watchdog:
    """A thread on each rank that tells the others how far its rank is, and ends the process when nobody gets any further.

    Ranks wait for each other in collectives, which do not say for whom they wait. So each rank counts the points that all of
    them pass; when nothing has moved for `timeout` seconds, the rank that is behind is named. The thread also passes on a
    request to stop.

    Rank 0 keeps the store. When rank 0 hangs, the store does not answer, and the thread waits for it without a time-out. So a
    second thread, which asks no other process for anything, ends the process when the first one stands still for so long.

    Args:
        store: of torch.distributed, or anything with its `set`, `get` and `check`.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float, stop: StopRequest) -> None:
        self.store, self.rank, self.size, self.timeout, self.stop = store, rank, size, timeout, stop
        # attributes of their own, for `stir` is called from other threads too
        self.points, self.stirs, self.doing, self.patient, self.armed = 0, 0, "starts", False, False
        self.launcher = int(os.environ.get("TUTELAGE_LAUNCHER", "0"))
        self._over, self._rounds = threading.Event(), 0  # rounds: how often the store has answered
        self._threads = [
            threading.Thread(target=each, daemon=True, name=name)
            for each, name in ((self._run, "watch"), (self._stand_by, "store"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def allowed(self) -> float:
        """For how many seconds nothing may move."""
        return self.timeout if self.armed else max(self.timeout, STARTING_SECONDS)

    def passed(self, doing: str, patient: bool = False) -> None:
        self.points, self.doing, self.patient = self.points + 1, doing, patient

    def long_task(self, doing: str) -> None:
        self.doing, self.patient = doing, True

    def stir(self) -> None:
        self.stirs += 1

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(5)

    def _run(self) -> None:
        ticks = 0
        moved = time.monotonic()
        signs, since = [Sign()] * self.size, [moved] * self.size  # what each rank said last, and since when
        with contextlib.suppress(RuntimeError, OSError):  # the store is gone: so is the job, as its collectives will tell
            while not self._over.wait(self._pause):
                ticks += 1
                sign = Sign(ticks, self.points, self.stirs, self.patient, self.doing)
                self.store.set(f"watch/{self.rank}", json.dumps(sign))
                self._share_stop()
                now = time.monotonic()
                for rank in range(self.size):
                    sign = self._sign_of(rank)
                    if sign[1:] != signs[rank][1:]:
                        moved = now
                    if sign != signs[rank]:
                        signs[rank], since[rank] = sign, now
                if now - moved > self.allowed:
                    self._judge(signs, [now - at > self.timeout / 2 for at in since], now - moved)
                self._rounds += 1
        self._rounds = -1

    def _stand_by(self) -> None:
        """End the process when its launcher is dead, or when the store has not answered for too long."""
        rounds, waited = 0, 0.0
        while not self._over.wait(self._pause):
            if self.launcher and os.getppid() != self.launcher:
                os._exit(1)  # so is the job
            # time that this process itself slept through does not count
            waited = 0.0 if self._rounds != rounds else waited + self._pause
            rounds = self._rounds
            if rounds >= 0 and waited > self.allowed:
                if self.rank == 1:
                    self._complain(f"rank 0 (does not respond) hangs; rank 1 waits at {self.doing!r}")
                else:
                    self._let_speak()
                os._exit(1)

    def _let_speak(self) -> None:
        """Wait until the rank that names who hangs has found it out too: its collectives fail as soon as this rank has ended."""
        self._over.wait(5 * self._pause)

    @property
    def _pause(self) -> float:
        return min(1.0, self.timeout / 10)

    def _sign_of(self, rank: int) -> Sign:
        key = f"watch/{rank}"
        return Sign(*json.loads(self.store.get(key))) if self.store.check([key]) else Sign()

    def _share_stop(self) -> None:
        self.stop.look()
        if self.stop.wanted:
            self.store.set("stop", self.stop.by)
        elif self.store.check(["stop"]):
            self.stop.remember(self.store.get("stop").decode())
            if self.stop.interrupts:
                _thread.interrupt_main(signal.SIGTERM)  # its handler raises

    def _judge(self, signs: list[Sign], silent: list[bool], seconds: float) -> None:
        """End the process, whose main thread waits in a collective that nothing else would end; one rank names who is behind.

        Args:
            silent: of which ranks nothing was heard, by rank.
            seconds: since when nothing has moved.
        """
        ranks = range(self.size)
        least = min(sign.points for sign in signs)
        behind = [rank for rank in ranks if silent[rank]] or [rank for rank in ranks if signs[rank].points == least]
        if not any(silent) and seconds < PATIENCE_SECONDS and any(signs[rank].patient for rank in behind):
            return
        if self.rank != min((rank for rank in ranks if rank not in behind), default=0):
            self._let_speak()
        else:
            if len(behind) == self.size:
                who = f"no rank got any further: all are at {signs[0].doing!r}"
            else:
                names = ", ".join(
                    f"rank {rank} ({'does not respond, last' if silent[rank] else 'is'} at {signs[rank].doing!r})"
                    for rank in behind
                )
                who = f"{names} hangs; the others wait at {signs[self.rank].doing!r}"
            self._complain(who)
        os._exit(1)

    def _complain(self, who: str) -> None:
        console.complain(
            f"tutelage: {who}. Nothing moved for parallel.timeout = {self.timeout:g} s, so the job ends;"
            " the same command goes on from the last checkpoint"
        )

"""The request to stop a job, by SIGTERM or SIGUSR1: heard from the first line of the program to its last.

Little is imported: the program listens before torch is imported, which takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

POLITE_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Signals by which a job is asked to stop, and by which training saves its state first."""
TRAINING = ("train", "demo")
"""Commands that a polite signal ends with exit code 0, at any moment; the others end as by Ctrl-C."""
CTRL_C = 130
BEFORE_TRAINING = "stopped before training; the same command begins it, or goes on"
SHOW_CURSOR = b"\x1b[?25h"


class StopWanted(Exception):
    """What is under way is given up, for the job was asked to stop."""


class Asked(KeyboardInterrupt):
    """The program was asked to stop by a polite signal, and is no training run under way.

    Attributes:
        exit_code: 0 for a command that trains, whose job is to be started again; else that of Ctrl-C.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Whether this job was asked to stop: by SIGTERM or SIGUSR1 to any of its ranks, with several ranks by Ctrl-C too.

    Attributes:
        by: the name of the first signal that came.
        interrupts: a signal raises StopWanted in the main thread, once, instead of being remembered alone.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self.interrupts = False
        self._reading: int | None = None

    @property
    def wanted(self) -> bool:
        return self.by is not None

    @contextlib.contextmanager
    def listening(self, also_ctrl_c: bool) -> Iterator[None]:
        """Within it these signals are remembered instead of obeyed. In the main thread only; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        listened = (*POLITE_SIGNALS, signal.SIGINT) if also_ctrl_c else POLITE_SIGNALS
        previous = {each: signal.signal(each, self._hear) for each in listened}
        # Handlers do not run while the main thread waits in a collective. The interpreter writes each signal into this pipe
        # at once, where another thread can read it.
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for each, handler in previous.items():
                signal.signal(each, handler)
            reading, self._reading = self._reading, None
            os.close(reading)
            os.close(writing)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within it the first signal raises StopWanted in the main thread; so does one that came before."""
        if self.wanted:
            raise StopWanted
        self.interrupts = True
        try:
            yield
        finally:
            self.interrupts = False

    def look(self) -> None:
        """Notice a signal that the main thread has not come to yet; for another thread."""
        with contextlib.suppress(BlockingIOError, OSError, TypeError):
            for received in os.read(self._reading, 64):  # type: ignore[arg-type]
                if received in (*POLITE_SIGNALS, signal.SIGINT):
                    self.remember(signal.Signals(received).name)

    def remember(self, name: str) -> None:
        self.by = self.by or name

    def _hear(self, received: int, frame: Any) -> None:
        self.remember(signal.Signals(received).name)
        if self.interrupts:
            self.interrupts = False
            raise StopWanted


class _Program:
    """How this program answers a polite signal where no training run listens.

    Attributes:
        exit_code: of a polite signal.
        remembers: a signal is remembered alone: the run is finished, or this is a rank, which may not leave the others.
        importing: nothing was begun, so the process can end at once. An exception that a handler raises while a large package
            is imported is lost in it, or turned into another one.
        raised: an exception was raised already; a second one would disturb what cleans up.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.request = StopRequest()
        self.process = os.getpid()
        command = next((word for word in arguments if not word.startswith("-")), "")
        self.trains = command in TRAINING
        self.exit_code = 0 if self.trains else CTRL_C
        self.remembers = self.trains and os.environ.get("WORLD_SIZE", "1") != "1" and "--launch" not in arguments
        self.importing, self.raised = True, False

    def said(self, name: str) -> str:
        how = BEFORE_TRAINING if self.trains else "interrupted"
        return f"{name}: {how}"

    def end(self, text: str, exit_code: int) -> None:
        """End the process at once. Its streams may be in the middle of a write, so the message goes around them."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            if sys.stdout.isatty():
                os.write(1, SHOW_CURSOR)
        with contextlib.suppress(OSError):
            os.write(2, f"tutelage: {text}\n".encode())
        os._exit(exit_code)

    def on_polite(self, received: int, frame: Any) -> None:
        name = signal.Signals(received).name
        if os.getpid() != self.process:  # a process that was forked
            raise KeyboardInterrupt
        self.request.remember(name)
        if self.remembers:
            return
        if self.importing:
            self.end(self.said(name), self.exit_code)
        if not self.raised:
            self.raised = True
            raise Asked(self.said(name), self.exit_code)

    def on_ctrl_c(self, received: int, frame: Any) -> None:
        if self.importing and os.getpid() == self.process:
            self.end("interrupted", CTRL_C)
        raise KeyboardInterrupt


_program: _Program | None = None


def listen(arguments: Sequence[str]) -> None:
    """From here on a polite signal ends this program, with the exit code of the command that the arguments name.

    Signals that a launcher held back for this process are let in.
    """
    global _program
    if threading.current_thread() is not threading.main_thread():
        return
    _program = program = _Program(arguments)
    for each in POLITE_SIGNALS:
        signal.signal(each, program.on_polite)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell ignores it for what it starts in the background
        signal.signal(signal.SIGINT, program.on_ctrl_c)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, POLITE_SIGNALS)


@contextlib.contextmanager
def listening(arguments: Sequence[str]) -> Iterator[None]:
    """`listen` within it, unless the program listens already."""
    global _program
    if _program is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {each: signal.getsignal(each) for each in (*POLITE_SIGNALS, signal.SIGINT)}
    listen(arguments)
    try:
        yield
    finally:
        _program = None
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def importing(now: bool = True) -> Iterator[None]:
    """Within it nothing is begun, and a signal ends the process at once; `now` False: what is begun is cleaned up."""
    before = None if _program is None else _program.importing
    if _program is not None:
        _program.importing = now
    try:
        yield
    finally:
        if _program is not None and before is not None:
            _program.importing = before


def request_of_program() -> StopRequest:
    """The request that this program remembers, which a signal before training may have made; elsewhere a new one."""
    return StopRequest() if _program is None else _program.request


def asked_in_vain() -> Asked | None:
    """What a signal has raised, where something has turned it into another error; None if no signal came."""
    if _program is None or not _program.raised:
        return None
    return Asked(_program.said(str(_program.request.by)), _program.exit_code)


def nothing_left_to_stop() -> None:
    """A command that trains has finished its run: from here on a polite signal changes nothing."""
    if _program is not None and _program.trains:
        _program.remembers = True


def ends_by_itself(handler: Any) -> bool:
    """Whether a handler of a signal ends what is under way."""
    own = () if _program is None else (_program.on_polite, _program.on_ctrl_c)
    return handler in (signal.default_int_handler, signal.SIG_DFL, *own)


def stay_deaf() -> None:
    """The program is over, and its exit code stands: a polite signal changes nothing while the interpreter ends."""
    for each in POLITE_SIGNALS:
        signal.signal(each, signal.SIG_IGN)

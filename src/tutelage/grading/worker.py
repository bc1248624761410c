"""The process behind the symbolic layers: ``python -m tutelage.grading.worker CPU_SECONDS WALL_SECONDS``.

It imports the mathematics once, stays single-threaded, and forks a child that does the work. The child has memory and CPU
limits and refuses to run code made from text; this process keeps the wall-clock deadline, and replaces a child that was stopped
(milliseconds). Requests are JSON lists of pairs, a line each, replies lists of [equal, layer, why]; at the end of input both
processes end, so no orphan outlives the owner.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any

MEMORY_LIMIT = 1 << 30
RECYCLE_AFTER = 2_000
_PR_SET_PDEATHSIG = 1


def main() -> None:
    cpu_seconds, wall_seconds = map(float, sys.argv[1:3])
    replies = os.fdopen(os.dup(1), "w")  # a library that prints must not write into the protocol
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # what the owner ignores or blocks comes down through exec
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    from tutelage.grading import symbolic
    from tutelage.grading.pool import OUT_OF_TIME

    symbolic.warm_up()  # before the fork, so that each child has it for nothing
    replies.write("ready\n")
    replies.flush()
    stopped = {
        Stopped.WALL: [None, "limit", f"{OUT_OF_TIME} after {wall_seconds:g} s"],
        Stopped.LIMIT: [None, "limit", f"stopped at the limit of {cpu_seconds:g} s of CPU or {MEMORY_LIMIT >> 20} MB"],
    }
    child: Child | None = None
    for line in sys.stdin.buffer:
        verdicts = []
        for pair in json.loads(line):
            if child is not None and child.served >= RECYCLE_AFTER:
                child.end()
                child = None
            child = child or Child(cpu_seconds)
            verdict = child.ask(json.dumps(pair).encode() + b"\n", wall_seconds)
            if isinstance(verdict, Stopped):
                verdict = [*stopped[verdict], True]
            *verdict, spoilt = verdict
            if spoilt:
                child.end()
                child = None
            verdicts.append(verdict)
        replies.write(json.dumps(verdicts) + "\n")
        replies.flush()
    if child is not None:
        child.end()


class Stopped(enum.Enum):
    WALL = enum.auto()
    LIMIT = enum.auto()


class Child:
    """A forked worker and the socket to it."""

    def __init__(self, cpu_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self.served = 0
        owner = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _restrict(owner)
            _work(theirs, cpu_seconds)
        theirs.close()
        self.socket = ours
        self.file = ours.makefile("rb")
        self.poll = select.poll()
        self.poll.register(ours, select.POLLIN)
        self.poll.register(0, 0)  # only that its other end was closed

    def ask(self, line: bytes, seconds: float) -> list[Any] | Stopped:
        """The verdict, or what stopped the child."""
        self.served += 1
        try:
            self.socket.sendall(line)
            events = dict(self.poll.poll(1000 * seconds))
            if 0 in events:  # the owner is gone
                self.end()
                os._exit(0)
            if not events:
                return Stopped.WALL
            answer = self.file.readline()
        except OSError:
            return Stopped.LIMIT
        return json.loads(answer) if answer.endswith(b"\n") else Stopped.LIMIT

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.file.close()
        self.socket.close()


def _restrict(owner: int) -> None:
    """Limits of the child; none of them can be raised again."""
    with contextlib.suppress(OSError, AttributeError):  # Linux: go when the owner goes, even in the middle of a comparison
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:
        os._exit(0)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.addaudithook(refuse_code)


_refused: list[str] = []
"""What was refused in this process: libraries may swallow the error, and go on with half of what they needed."""


def refuse_code(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: code made from text never runs here, nor does anything that starts a process or opens a connection.

    Raises:
        PermissionError: for each of these; the comparison that met it is undecided, and this process is replaced.
    """
    if event == "exec":
        name = getattr(arguments[0], "co_filename", "<string>")
        forbidden = name.startswith("<") and not name.startswith("<frozen")
    elif event == "compile":
        forbidden = arguments[0] is not None and not str(arguments[1]).endswith(".py")
    else:
        forbidden = event in (
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "os.forkpty",
            "subprocess.Popen",
            "socket.connect",
        )
    if forbidden:
        _refused.append(event)
        raise PermissionError(f"{event} is not allowed while grading")


def _work(requests: socket.socket, cpu_seconds: float) -> None:
    """The child: answers one line after the other until its parent closes the socket; never returns."""
    from tutelage.grading.symbolic import decide

    with requests.makefile("rb") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # its default action ends the process
            try:
                verdict: list[Any] = list(decide(*json.loads(line)))
            except MemoryError:
                os._exit(1)
            except BaseException as error:  # a crash is a reason and never a verdict; some libraries raise what is no Exception
                verdict = [None, "error", f"{type(error).__name__}: {str(error)[:200]}"]
            signal.setitimer(signal.ITIMER_PROF, 0)
            if _refused and verdict[0] is not True:
                verdict = [None, "limit", "a library wanted to make code from text"]
            verdict.append(bool(_refused))  # then this process holds half of what the library needed: it is replaced
            requests.sendall(json.dumps(verdict).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()

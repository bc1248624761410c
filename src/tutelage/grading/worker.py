"""The process behind the symbolic layers: ``python -m tutelage.grading.worker read``, or ``… math-verify``.

It stays single-threaded, and forks children that do the work: one that reads and compares pair after pair, or one for each pair of which
Math-Verify is asked. Children have memory limits and refuse to run code made from text; what they may compute is counted (`work`), so
that a verdict does not depend on how busy the machine is. Two clocks are the last resort, for a single operation that does not end.
Requests are JSON lists of pairs, a line each. Replies are lists of [equal, layer, why], or of null for a pair that is for Math-Verify.
At the end of input all processes end, so no orphan outlives the owner.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tutelage.grading import foreign, symbolic, work
from tutelage.grading.tree import Reply
from tutelage.grading.work import OUT_OF_TIME, Task

MEMORY_LIMIT = 1 << 30
CPU_SECONDS, WALL_SECONDS = 60.0, 1200.0
"""The last resort, twenty times what a comparison takes that spends all its work: about three seconds of an idle core. The first clock
is the child's own, of the time that it computes; the second one is for a child that waits, and for a machine hundreds of times as busy."""
RECYCLE_AFTER = 2_000
"""Pairs that one child reads."""
_PR_SET_PDEATHSIG = 1


def main(task: Task) -> None:
    replies = os.fdopen(os.dup(1), "w")  # a library that prints must not write into the protocol
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # what the owner ignores or blocks comes down through exec
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    print("ready", file=replies, flush=True)
    ask = _ask_reader() if task is Task.READ else _ask_math_verify()
    for line in sys.stdin.buffer:
        print(json.dumps([ask(pair) for pair in json.loads(line)]), file=replies, flush=True)


def _ask_reader() -> Callable[[list[str]], Reply | None]:
    """Asks one child pair after pair, and the next child where that is spoilt or has read its share."""
    child = Child(symbolic.by_reading)  # now: the first pair finds it there

    def ask(pair: list[str]) -> Reply | None:
        nonlocal child
        if child.spoilt or child.served >= RECYCLE_AFTER:
            child.end()
            child = Child(symbolic.by_reading)
        return child.ask(pair)

    return ask


def _ask_math_verify() -> Callable[[list[str]], Reply | None]:
    """Asks a child of its own for each pair: it starts from the same state whatever came before."""
    foreign.warm_up()  # here, so that each child has it for nothing

    def ask(pair: list[str]) -> Reply | None:
        child = Child(foreign.ask)
        verdict = child.ask(pair)
        child.end()
        return verdict

    return ask


class Child:
    """A forked process that answers pairs, and the socket to it."""

    def __init__(self, answer: Callable[[str, str], Reply | None]) -> None:
        ours, theirs = socket.socketpair()
        self.served = 0
        self.spoilt = False
        """It ended, or holds half of what a library needed."""
        owner = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _restrict(owner)
            _serve(theirs, answer)
        theirs.close()
        self.socket = ours
        self.file = ours.makefile("rb")
        self.poll = select.poll()
        self.poll.register(ours, select.POLLIN)
        self.poll.register(0, 0)  # only that its other end was closed

    def ask(self, pair: list[str]) -> Reply | None:
        """What it answers, or that it was stopped."""
        self.served += 1
        line = b""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(pair).encode() + b"\n")
            events = dict(self.poll.poll(1000 * WALL_SECONDS))
            if 0 in events:  # the owner is gone
                self.end()
                os._exit(0)
            if not events:
                self.spoilt = True
                return None, "limit", f"{OUT_OF_TIME} after {WALL_SECONDS:g} s"
            line = self.file.readline()
        if not line.endswith(b"\n"):
            self.spoilt = True
            return None, "limit", f"{OUT_OF_TIME} after {CPU_SECONDS:g} s of CPU, or by the limit of {MEMORY_LIMIT >> 20} MB"
        verdict, self.spoilt = json.loads(line)
        return verdict

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.file.close()
        self.socket.close()


def _restrict(owner: int) -> None:
    """Limits of the child; none of them can be raised again. A system without one of them goes without it."""
    with contextlib.suppress(OSError, AttributeError):  # Linux: go when the owner goes, even in the middle of a comparison
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:
        os._exit(0)
    for name, limit in (("RLIMIT_AS", MEMORY_LIMIT), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.addaudithook(refuse_code)


_refused: list[str] = []
"""What was refused in this process: libraries may swallow the error, and go on with half of what they needed."""
_PROCESSES_AND_CONNECTIONS = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
}  # fmt: skip


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
        forbidden = event in _PROCESSES_AND_CONNECTIONS
    if forbidden:
        _refused.append(event)
        raise PermissionError(f"{event} is not allowed while grading")


def _serve(requests: socket.socket, answer: Callable[[str, str], Reply | None]) -> NoReturn:
    """The child: answers one line after the other until its parent closes the socket."""

    def reply(verdict: Reply | None, spoilt: bool) -> None:
        requests.sendall(json.dumps([verdict, spoilt]).encode() + b"\n")

    def stop(reason: str) -> NoReturn:
        reply((None, "limit", reason), spoilt=True)
        os._exit(0)

    work.stop = stop
    with requests.makefile("rb") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its default action ends the process
            verdict: Reply | None
            try:
                verdict = answer(*json.loads(line))
            except MemoryError:
                os._exit(1)
            except BaseException as error:  # a crash is a reason and never a verdict; some libraries raise what is no Exception
                verdict = None, "error", f"{type(error).__name__}: {str(error)[:200]}"
            signal.setitimer(signal.ITIMER_PROF, 0)
            if _refused and verdict is not None and verdict[0] is not True:
                verdict = None, "limit", "a library wanted to make code from text"
            reply(verdict, spoilt=bool(_refused))
    os._exit(0)


if __name__ == "__main__":
    main(Task(sys.argv[1]))

"""The process behind the layers that read mathematics: ``python -m tutelage.grading.serving.worker``.

It compares pair after pair. What it may compute is counted (`work`), so that a verdict does not depend on how busy the machine is; its
memory is limited, and it refuses to run code made from text. A clock is the last resort, for a single operation that does not end.
Requests are JSON lists of pairs, a line each; replies are lists of [equal, layer, why]. At the end of input it ends, so it does not
outlive its owner.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
from typing import Any

from tutelage.grading.comparing import symbolic
from tutelage.grading.reading.tree import Reply

MEMORY_LIMIT = 1 << 30
CPU_SECONDS = 60.0
"""The last resort: of the process's own computing time, thirty times what a comparison takes that spends all its work."""


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")  # a library that prints must not write into the protocol
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # what the owner ignores or blocks comes down through exec
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    restrict()
    gc.freeze()
    gc.set_threshold(20_000)  # trees hold no cycles
    print("ready", file=replies, flush=True)
    for line in sys.stdin.buffer:
        print(json.dumps([_reply(*pair) for pair in json.loads(line)]), file=replies, flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reply(gold: str, answer: str) -> Reply:
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its default action ends the process
    try:
        return symbolic.decide(gold, answer)
    except MemoryError:
        os._exit(1)  # what it holds would count against the next pair
    except Exception as error:  # a crash is a reason and never a verdict
        return None, "error", f"{type(error).__name__}: {str(error)[:200]}"


def restrict() -> None:
    """Limits of this process; none of them can be raised again. A system without one of them goes without it."""
    for name, limit in (("RLIMIT_AS", MEMORY_LIMIT), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (limit, limit))
    sys.addaudithook(refuse_code)


_PROCESSES_AND_CONNECTIONS = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
}  # fmt: skip


def refuse_code(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: code made from text never runs here, nor does anything that starts a process or opens a connection.

    Raises:
        PermissionError: for each of these; the comparison that met it is undecided.
    """
    if event == "exec":
        name = getattr(arguments[0], "co_filename", "<string>")
        forbidden = name.startswith("<") and not name.startswith("<frozen")
    elif event == "compile":
        forbidden = arguments[0] is not None and not str(arguments[1]).endswith(".py")
    else:
        forbidden = event in _PROCESSES_AND_CONNECTIONS
    if forbidden:
        raise PermissionError(f"{event} is not allowed while grading")


if __name__ == "__main__":
    main()

"""The process behind the symbolic layer: ``python -m tutelage.grading.worker``.

It imports the mathematics once, stays single-threaded, and forks a child that does the work. The child has memory and CPU
limits; this process keeps the wall-clock deadline, and kills and re-forks the child (milliseconds) when it is passed. Requests
and replies are JSON lines on standard input and output; at the end of input both processes end, so no orphan outlives its owner.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any

MEMORY_LIMIT = 1 << 30
RECYCLE_AFTER = 500


def main() -> None:
    seconds = float(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")  # a library that prints must not write into the protocol
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import math_verify  # noqa: F401  (imported before the fork, so that each child has it for nothing)

    child: _Child | None = None
    for line in sys.stdin.buffer:
        if child is None or child.served >= RECYCLE_AFTER:
            if child is not None:
                child.end()
            child = _Child(seconds)
        reply = child.ask(line, seconds)
        if reply is None:
            child = None
            reply = {"equal": None, "why": f"stopped at the limit of {seconds:g} s or {MEMORY_LIMIT >> 20} MB"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    if child is not None:
        child.end()


class _Child:
    """A forked worker and the socket to it."""

    def __init__(self, seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self.served = 0
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _work(theirs, seconds)
        theirs.close()
        self.socket = ours
        self.file = ours.makefile("rb")

    def ask(self, line: bytes, seconds: float) -> dict[str, Any] | None:
        """The reply, or None if there was none in time (the child is dead then)."""
        self.served += 1
        try:
            self.socket.sendall(line)
            ready, _, _ = select.select([self.socket], [], [], seconds)
            answer = self.file.readline() if ready else b""
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            self.end()
            return None
        reply: dict[str, Any] = json.loads(answer)
        return reply

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.file.close()
        self.socket.close()


def _work(requests: socket.socket, seconds: float) -> None:
    """The child: answers one line after the other until its parent closes the socket; never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cpu = int(seconds * RECYCLE_AFTER) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    with requests.makefile("rb") as lines:
        for line in lines:
            gold, answer = json.loads(line)
            try:
                reply = _compare(gold, answer)
            except MemoryError:
                os._exit(1)
            except Exception as error:  # a parser's crash is a reason, never a verdict
                reply = {"equal": None, "why": f"{type(error).__name__}: {str(error)[:200]}"}
            except BaseException as error:  # math-verify derives its time-outs from BaseException
                reply = {"equal": None, "why": type(error).__name__}
            requests.sendall(json.dumps(reply).encode() + b"\n")
    os._exit(0)


def _compare(gold: str, answer: str) -> dict[str, Any]:
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list[Any]:
        found: list[Any] = parse(f"\\boxed{{{text}}}", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
        return found

    parsed_gold, parsed_answer = read(gold), read(answer)
    if not parsed_gold or not parsed_answer:
        return {"equal": False, "why": f"cannot be read as mathematics: {answer if parsed_gold else gold}"}
    equal = verify(parsed_gold, parsed_answer, timeout_seconds=None, allow_set_relation_comp=True)
    return {"equal": bool(equal), "why": "" if equal else "not equal symbolically"}


if __name__ == "__main__":
    main()

"""An engine in a process of its own, so that whatever it does to random state, threads, devices and process groups stays there.

`Remote` is the trainer's side; the other side is this module run by `python -m`: it makes the engine that it is told to make and
calls what it is told to call. Weights go over as open memory (`snapshot`), so that neither side waits for the other.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tutelage.errors import RunError
from tutelage.generation.snapshot import Snapshot
from tutelage.machine import prepare_process

START_SECONDS = 1800.0
"""What an engine may take to start: it may have to fetch its model, and to compile."""
OF_THE_TRAINERS_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun, which would make an engine think that it is one of the trainer's ranks."""
LINES_TOLD = 3
"""How many of its last lines are quoted when an engine has died."""


class EngineError(RunError):
    """The engine died, did not answer in time, or said that it cannot do what it was asked."""


class Remote:
    """A process with an engine; calls are answered one at a time.

    Args:
        factory: ``module:name`` of what makes the engine there.
        options: its keyword arguments.
        environment: variables of that process, beyond those of this one.
        log: the file that gets what it prints; None: a temporary one.
        timeout: seconds without an answer, or a sign of progress, after which it counts as hung and is killed.
    """

    def __init__(
        self,
        factory: str,
        options: dict[str, Any],
        environment: dict[str, str] | None = None,
        log: Path | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.factory, self.options, self.environment, self.timeout = factory, options, environment or {}, timeout
        self.log = log or Path(tempfile.mkstemp(prefix="tutelage-engine-", suffix=".log")[1])
        self.process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the process, and wait until its engine is made. Raises EngineError if it is not."""
        self.close()
        ours, theirs = socket.socketpair()
        paths = [str(Path(entry or ".").absolute()) for entry in sys.path]
        inherited = {name: value for name, value in os.environ.items() if name not in OF_THE_TRAINERS_GROUP}
        environment = {**inherited, "PYTHONPATH": os.pathsep.join(paths), **self.environment}
        with self.log.open("ab") as log, theirs:
            # a session of its own: Ctrl-C is for the trainer, which ends the engine when it is time to
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tutelage.generation.process", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self._socket, self._connection = ours, Connection(os.dup(ours.fileno()))
        self.call(self.factory, limit=max(self.timeout, START_SECONDS), **self.options)

    def call(
        self,
        method: str,
        *arguments: Any,
        on_progress: Callable[[int], None] = lambda count: None,
        snapshot: Snapshot | None = None,
        limit: float | None = None,
        **options: Any,
    ) -> Any:
        """What a method of the engine returns; the tensors of a `snapshot` are its first argument there.

        `limit` takes the place of the engine's timeout.

        Raises:
            EngineError: the engine is not there (any more), does not answer, or failed.
        """
        if self._connection is None or self._socket is None:
            raise EngineError("the engine is not running")
        entries = None if snapshot is None else snapshot.entries
        limit = limit or self.timeout
        try:
            self._connection.send((method, arguments, options, entries))
            if snapshot is not None:
                socket.send_fds(self._socket, [b"w"], [snapshot.fd])
            while True:
                if not self._connection.poll(limit):
                    self.close()
                    raise EngineError(f"the engine did not answer for {limit:g} s and was ended{self._last_lines()}")
                kind, value = self._connection.recv()
                if kind == "progress":
                    on_progress(value)
                elif kind == "failed":
                    raise EngineError(f"the engine failed: {value} (the whole story: {self.log})")
                else:
                    return value
        except (OSError, EOFError):
            raise EngineError(f"the engine died ({self._ending()}){self._last_lines()}") from None
        except KeyboardInterrupt:  # a later answer would be taken for the answer to a later question
            self.close()
            raise

    def close(self) -> None:
        """End the process, at once."""
        connection, self._connection = self._connection, None
        ours, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if ours is not None:
            ours.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _ending(self) -> str:
        """How the process ended, in words."""
        if self.process is None:
            return "it was never started"
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if code >= 0:
            return f"exit code {code}"
        hint = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{hint}"

    def _last_lines(self) -> str:
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return "; the last it said: " + " | ".join(line.strip()[:200] for line in lines[-LINES_TOLD:]) + f" ({self.log})"
        return ""


def serve(fd: int, parent: int) -> None:
    """The other side: the first call makes the engine, the others are its methods', until nobody is there to call."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    theirs = socket.socket(fileno=fd)
    connection = Connection(os.dup(fd))
    engine: Any = None
    while True:
        try:
            method, arguments, options, entries = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if engine is None:
                module, _, name = method.partition(":")
                engine, answer = getattr(importlib.import_module(module), name)(*arguments, **options), None
            else:
                if entries is not None:
                    _, (opened, *_), _, _ = socket.recv_fds(theirs, 1, 1)
                    snapshot = Snapshot(opened, entries)
                    arguments = (snapshot.tensors(), *arguments)
                if method == "generate":
                    options["on_finished"] = lambda count: connection.send(("progress", count))
                answer = getattr(engine, method)(*arguments, **options)
                arguments = ()  # else the memory of a snapshot would stay until the next call
            connection.send(("done", answer))
        except Exception as error:
            import traceback

            traceback.print_exc()
            connection.send(("failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))


def _end_with(parent: int) -> None:
    """End when the trainer has ended, however it did."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    prepare_process()
    serve(int(sys.argv[1]), int(sys.argv[2]))

"""An engine in a process of its own, so that whatever it does to random state, threads, devices and process groups stays there.

`Remote` is the trainer's side. The other side is this module, run by `python -m`: its first message names the class of the engine,
the others name methods. Weights go over as open memory (`snapshot`), which the trainer need not keep still.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tutelage.config import load_plug_in
from tutelage.errors import RunError, first_line
from tutelage.evaluation.engine.snapshot import Snapshot
from tutelage.machines import end_with, prepare_process

START_SECONDS = 1800.0
"""What an engine may take to start: it may have to fetch its model, and to compile."""
OF_THE_TRAINERS_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun, from which an engine would conclude that it is one of the trainer's ranks."""
LINES_QUOTED = 3
"""How many of its last lines are quoted when an engine has died."""


class EngineError(RunError):
    """The engine died, hung, or failed at what it was asked."""


class EngineFailed(EngineError):
    """What it was asked for failed there; the engine is alive."""


class Remote:
    """A process with an engine; calls are answered one at a time.

    Args:
        factory: ``module:name`` of what makes the engine there.
        options: its keyword arguments.
        log: the file that gets what it prints; None: a temporary one, which stays where an error names it.
        timeout: seconds after which it counts as hung and is killed, if it takes no message, or neither answers nor makes progress.
    """

    def __init__(
        self,
        factory: str,
        options: dict[str, Any],
        log: Path | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.factory, self.options, self.timeout = factory, options, timeout
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.closed = False
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None
        self._changing = threading.Lock()
        self._remove_folder: weakref.finalize[..., Remote] | None = None
        self._remove_log: weakref.finalize[..., Remote] | None = None

    @property
    def running(self) -> bool:
        return self._connection is not None

    def start(self, variables: Mapping[str, str] | None = None) -> None:
        """Start the process, anew if it runs, and wait until its engine is made. Raises EngineError if it is not.

        Args:
            variables: of its environment, beyond those of this process.
        """
        paths = [str(Path(entry or ".").absolute()) for entry in sys.path]
        inherited = {name: value for name, value in os.environ.items() if name not in OF_THE_TRAINERS_GROUP}
        environment = {"OMP_WAIT_POLICY": "passive", **inherited, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})}
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # what is compiled outlives the process

        self.end()
        with self._changing:  # whoever closes meanwhile finds the process, or keeps it from being started
            if self.closed:
                raise EngineError("the engine was closed")
            ours, theirs = socket.socketpair()
            # an engine that has stopped reads nothing: a full pipe must not block this thread for ever
            ours.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1e6))
            )
            try:
                folder = self._make_folder()
                with self._writable_log().open("ab") as log, theirs:
                    # a session of its own: Ctrl-C is for the trainer, which ends the engine when it is time to
                    self.process = subprocess.Popen(
                        [sys.executable, "-P", "-m", "tutelage.evaluation.engine.process", str(theirs.fileno()), str(os.getpid())],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                        env={"TORCHINDUCTOR_CACHE_DIR": default_cache_dir(), **environment, "TMPDIR": folder}, pass_fds=[theirs.fileno()],
                    )  # fmt: skip
            except OSError as error:
                ours.close()
                theirs.close()
                raise EngineError(f"the engine cannot be started: {error}") from None
            self._socket, self._connection = ours, Connection(os.dup(ours.fileno()))
        try:
            self.call(self.factory, limit=max(self.timeout, START_SECONDS), **self.options)
        except EngineError:
            self.end()
            raise

    def _make_folder(self) -> str:
        """The folder for temporary files of the process: removed when it has ended, in whatever way."""
        folder = tempfile.mkdtemp(prefix="tutelage-engine-")
        self._remove_folder = weakref.finalize(self, _remove, Path(folder), os.getpid())
        return folder

    def _writable_log(self) -> Path:
        if self.log is None:
            handle, name = tempfile.mkstemp(prefix="tutelage-engine-", suffix=".log")
            os.close(handle)
            self.log = Path(name)
            self._remove_log = weakref.finalize(self, _remove, self.log, os.getpid())
        return self.log

    def call(
        self,
        method: str,
        *arguments: Any,
        on_progress: Callable[[int], None] | None = None,
        snapshot: Snapshot | None = None,
        limit: float | None = None,
        **options: Any,
    ) -> Any:
        """What a method of the engine returns.

        Args:
            on_progress: gets what the method gives its argument ``on_finished``.
            snapshot: its tensors are the method's first argument.
            limit: takes the place of `timeout`.

        Raises:
            EngineError: the engine is not there (any more), does not answer, or failed.
        """
        ours, connection, limit = self._socket, self._connection, limit or self.timeout
        if connection is None or ours is None:
            raise EngineError("the engine is not running")
        try:
            entries = None if snapshot is None else snapshot.entries
            try:
                connection.send((method, arguments, options, entries, on_progress is not None))
                if snapshot is not None:
                    socket.send_fds(ours, [b"w"], [snapshot.fd])
            except BlockingIOError:
                raise self._hung("took nothing", self.timeout) from None
            while True:
                kind, value = self._receive(connection, limit)
                if kind == "done":
                    return value
                if kind == "failed":
                    self._keep_log()
                    raise EngineFailed(f"the engine failed: {value} (more in {self.log})")
                if on_progress is not None:
                    on_progress(value)
        except EngineFailed:
            raise
        except BaseException as error:  # a later answer would be taken for the answer to a later question
            death = f"the engine died ({self._ending()}){self._last_lines()}" if self._gone(connection) else ""
            self.end()
            if death and isinstance(error, Exception) and not isinstance(error, EngineError):
                raise EngineError(death) from None
            raise

    def _receive(self, connection: Connection, limit: float) -> tuple[str, Any]:
        try:
            if connection.poll(limit):
                kind, value = connection.recv()
                return kind, value
        except (OSError, EOFError, TypeError):  # TypeError: closed by another thread in the middle
            raise EngineError(f"the engine died ({self._ending()}){self._last_lines()}") from None
        raise self._hung("did not answer", limit)

    def _hung(self, what: str, seconds: float) -> EngineError:
        """End a process that hangs; the error that says so."""
        self.end()
        return EngineError(f"the engine {what} for {seconds:g} s and was ended{self._last_lines()}")

    def _gone(self, connection: Connection) -> bool:
        """Whether the other side has ended, or another thread has ended it."""
        if self._connection is not connection or self.process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
            return True
        return False

    def end(self) -> None:
        """End the process, at once; it may be started again."""
        with self._changing:
            connection, self._connection = self._connection, None
            ours, self._socket = self._socket, None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if connection is not None:
            connection.close()
        if ours is not None:
            ours.close()
        if self._remove_folder is not None:
            self._remove_folder()

    def close(self) -> None:
        """End the process for good, whatever another thread is about to do with it."""
        with self._changing:
            self.closed = True
        self.end()
        if self._remove_log is not None:
            self._remove_log()

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
            text = "" if self.log is None else self.log.read_text(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                self._keep_log()
                return (
                    "; the last it said: " + " | ".join(line.strip()[:200] for line in lines[-LINES_QUOTED:]) + f" ({self.log})"
                )
        return ""

    def _keep_log(self) -> None:
        """A temporary log that an error names stays, for who reads the error."""
        if self._remove_log is not None:
            self._remove_log.detach()


def _remove(path: Path, owner: int) -> None:
    """Remove a temporary file or folder; a forked child of its owner leaves it alone."""
    if os.getpid() != owner:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def serve(fd: int, parent: int) -> None:
    """The other side: the first call makes the engine, the others are its methods', until nobody is there to call."""
    end_with(parent)
    theirs = socket.socket(fileno=fd)
    connection = Connection(os.dup(fd))
    engine: Any = None
    while True:
        try:
            method, arguments, options, entries, reports = connection.recv()
            opened = None if entries is None else socket.recv_fds(theirs, 1, 1)[1][0]
        except (EOFError, OSError):
            return
        if reports:
            options["on_finished"] = lambda count: connection.send(("progress", count))
        try:
            if engine is None:
                engine = load_plug_in("eval.backend", method)(*arguments, **options)  # found in the current directory, too
                answer = None
            elif opened is not None:  # no name holds the tensors: their memory is let go after the call
                answer = getattr(engine, method)(Snapshot(opened, entries).tensors(), *arguments, **options)
            else:
                answer = getattr(engine, method)(*arguments, **options)
            connection.send(("done", answer))
        except Exception as error:
            traceback.print_exc()
            connection.send(("failed", f"{type(error).__name__}: {first_line(error)}"))


if __name__ == "__main__":
    prepare_process()
    serve(int(sys.argv[1]), int(sys.argv[2]))

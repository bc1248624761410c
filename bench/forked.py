"""Commands of Tutelage in forks of a process that has imported all packages: they start at once."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


def import_all() -> None:
    """Import what any command imports, so that a forked process starts at once; no thread is started."""
    import importlib
    import pkgutil

    import tutelage

    for module in pkgutil.walk_packages(tutelage.__path__, "tutelage."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of a package that is not installed
                importlib.import_module(module.name)
    for name in (
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "transformers.models.llama.modeling_llama",
        "datasets",
    ):
        importlib.import_module(name)


def live_as_a_process(work: Callable[[], Any], log: Path | None = None) -> NoReturn:
    """Work in a process that was just forked, and end it with the exit code that a program would end with.

    Args:
        log: where what it prints goes; None: where its parent's goes.
    """
    code: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if log is not None:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT, 0o600), 1)
            os.dup2(1, 2)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def tutelage(words: Iterable[Any]) -> None:
    """What ``tutelage WORDS`` does, in this process."""
    sys.argv = ["tutelage", *map(str, words)]
    runpy.run_module("tutelage", run_name="__main__")


def in_fork(work: Callable[[], Any]) -> int:
    """The exit code of work in a fork of this process, which starts no thread of its own by that."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        live_as_a_process(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Forked:
    """``python -m tutelage WORDS`` in a fork of this process; it stands for a `subprocess.Popen` of that command.

    It skips the start of an interpreter, the imports and the interpreter's end. All else is the command's own.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, log: Path | None = None, **_: Any) -> None:
        self.returncode: int | None = None
        assert list(command[:3]) == [sys.executable, "-m", "tutelage"], command
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            live_as_a_process(lambda: self._begin(command[3:], env), log)

    def _begin(self, words: Sequence[str], env: Mapping[str, str] | None) -> None:
        from tutelage.machines import launcher, request

        os.setsid()
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        for each in (*request.POLITE_SIGNALS, signal.SIGINT):  # what a new interpreter would have
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        request._program = None
        launcher.subprocess = types.SimpleNamespace(Popen=Forked)  # type: ignore[assignment]
        tutelage(words)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("tutelage", timeout)
            time.sleep(0.002)
        return int(self.returncode or 0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

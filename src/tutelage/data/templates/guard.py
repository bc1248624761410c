"""A chat template is a program of a stranger: a copy of this process runs it, with limits, before this process does.

The copy is forked, so that it costs some milliseconds for thousands of rows. What it has rendered within its limits renders in the same
way here, for a template draws no random numbers (`template`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tutelage.data.shapes import BadRow
from tutelage.errors import InputError, first_line
from tutelage.machines import POLITE_SIGNALS

Job = TypeVar("Job")
SECONDS = 10.0
"""Time on a processor that the template has for one row."""
SECONDS_TO_SAY_SO = 5.0
"""Time that a copy has beyond that, until the system ends it: within one operation, it cannot say where it is."""
MEMORY = 2 << 30
"""Bytes that the copy may take beyond what this process has."""
BUFFER = 1 << 16
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class ExceededError(InputError):
    """The template does not keep within a limit. That is no refusal of some turns, and no fate of a row."""


def guarded(write: Callable[[Job], Any], jobs: Sequence[Job], name_of: Callable[[Job], str]) -> list[Any]:
    """``write(job)`` of each job, a JSON value, or the BadRow that it raised; from a copy of this process with limits.

    Args:
        name_of: names a job in a message; "" where there is nothing to name.

    Raises:
        InputError: the template exceeds a limit or ends the copy, or `write` raised one.
    """
    import transformers.utils.chat_template_utils  # noqa: F401  once, and not in each copy

    if not jobs:
        return []
    at = mmap.mmap(-1, 8)  # the index of the job that the copy is at
    read, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads do not matter: the copy takes no lock of theirs
        copy = os.fork()
    if copy == 0:
        _work(write, jobs, name_of, at, write_end)
    os.close(write_end)
    status = None
    answers: list[Any] = []
    failed = ""
    try:
        with os.fdopen(read, "rb", BUFFER) as lines:
            for line in lines:
                if line.startswith(b"!"):
                    failed = json.loads(line[1:])
                else:
                    answers.append(BadRow(json.loads(line[1:])) if line.startswith(b"?") else json.loads(line))
        status = os.waitpid(copy, 0)[1]
    except ValueError:  # a line that the copy did not end
        pass
    finally:
        if status is None:
            os.kill(copy, signal.SIGKILL)
            status = os.waitpid(copy, 0)[1]
    if failed:
        raise InputError(failed)
    if status != 0 or len(answers) != len(jobs):
        name = name_of(jobs[min(int.from_bytes(at[:8], "little"), len(jobs) - 1)])
        raise InputError(_worded(name, _of_status(os.waitstatus_to_exitcode(status))))
    return answers


def _work(write: Callable[[Job], Any], jobs: Sequence[Job], name_of: Callable[[Job], str], at: mmap.mmap, out: int) -> NoReturn:
    """What the copy does: a line for each job, which begins with "?" if it is a BadRow; a last line with "!" says what went wrong."""
    code = 1
    try:
        for each in (signal.SIGINT, *POLITE_SIGNALS):
            signal.signal(each, signal.SIG_IGN)  # they are for this process's owner, who ends it
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _end_with_owner()
        signal.signal(signal.SIGVTALRM, _too_long)
        _limit_memory()
        with os.fdopen(out, "wb", BUFFER) as lines:
            for index, job in enumerate(jobs):
                at[:8] = index.to_bytes(8, "little")
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, 0.5)  # again: a filter may swallow the error
                signal.setitimer(signal.ITIMER_PROF, SECONDS + SECONDS_TO_SAY_SO)
                try:
                    lines.write(json.dumps(write(job)).encode() + b"\n")
                    continue
                except BadRow as error:
                    lines.write(b"?" + json.dumps(str(error)).encode() + b"\n")
                    continue
                except ExceededError as error:
                    said = _worded(name_of(job), str(error))
                except InputError as error:
                    said = str(error)
                except MemoryError:
                    said = _worded(name_of(job), no_memory())
                except Exception as error:  # a fault of Tutelage's: the copy's traceback says where
                    said = _worded(name_of(job), f"ended in {first_line(error)}\n{traceback.format_exc()}")
                lines.write(b"!" + json.dumps(said).encode() + b"\n")
                break
        code = 0
    finally:
        os._exit(code)


def _end_with_owner() -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux; elsewhere the limits end it
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):  # a system that does not say or limit what a process takes
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _too_long(_: int, frame: Any) -> NoReturn:
    raise ExceededError(f"takes more than {SECONDS:g} seconds of computing{line_of_frame(frame)}")


def no_memory() -> str:
    return f"wants more than {MEMORY / 2**30:g} GiB of memory"


def _of_status(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"takes more than {SECONDS:g} seconds of computing, in one operation"
    if code == -signal.SIGKILL:
        return "was ended by the system, as a process that takes too much memory is"
    return f"ended the process that rendered it ({signal.Signals(-code).name if code < 0 else code})"


def _worded(name: str, what: str) -> str:
    start = f"{name}: " if name else ""
    return f"{start}the chat template {what}; mend it, or give another one (data.prompt)"


def line_of_frame(frame: Any) -> str:
    """Where in a template a frame is, or one that called it: ", at its line 3"; "" outside of templates."""
    while frame is not None:
        template = frame.f_globals.get("__jinja_template__")
        if template is not None:
            return f", at its line {template.get_corresponding_lineno(frame.f_lineno)}"
        frame = frame.f_back
    return ""


def line_of_error(error: BaseException) -> str:
    """As `line_of_frame`, of an error that a template raised, or that it is one of syntax."""
    line = getattr(error, "lineno", None)
    for frame, at in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == "<template>":  # jinja gives such a frame the line of the template
            line = at
    return f", at its line {line}" if line else ""

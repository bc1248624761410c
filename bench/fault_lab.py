"""What bench/faults.py runs its commands with, and the one judge of how they end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from forked import import_all, live_as_a_process, tutelage

PARTS = ("weights", "metrics", "generations", "ledger")
"""What of a run must not depend on what happened to it."""
PWNED = "PWNED"
"""The file that hostile inputs try to make in the folder of the lab."""
PATIENCE = 40.0
"""Seconds that a command has, unless a case gives it others."""


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (minus a signal's number; None if it did not end in time), and all that it printed."""

    code: int | None
    text: str


@dataclasses.dataclass(frozen=True)
class Case:
    """What was tried: in words, what is expected, and why it did not hold, or nothing."""

    what: str
    expected: str
    problem: str


@dataclasses.dataclass
class Job:
    """A command that runs: its process, which leads a group of its own, and the file with what it prints."""

    pid: int
    log: Path
    code: int | None = None

    def alive(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def send(self, number: int) -> None:
        """A signal to the command; SIGKILL goes to all that it started, too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number) if number == signal.SIGKILL else os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> Done:
        self.wait_for(lambda: False, seconds)
        cut = self.alive()
        self.send(signal.SIGKILL)  # what it left behind, too
        if cut:
            self.wait_for(lambda: False, 10.0)
        return Done(None if cut else self.code, self.log.read_text(errors="replace"))

    def wait_for(self, event: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait for an event, for the command's end or for so long; whether the command still runs."""
        deadline = time.monotonic() + seconds
        while self.alive() and not event() and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.alive()

    def listens(self) -> bool:
        """Whether the command has a handler of SIGTERM: from its first line on."""
        with contextlib.suppress(OSError):
            caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{self.pid}/status").read_text())
            return bool(caught) and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
        return False


class Lab:
    """A folder with a tiny model, rows and a configuration, in which commands run.

    A command runs in a process forked from this one, which has imported all packages and has run nothing: it starts at once.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.jobs = folder, seed, 0
        os.environ.update(
            TUTELAGE_CACHE=str(folder / "cache"),
            HF_HUB_OFFLINE="1",
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="passive",
            TOKENIZERS_PARALLELISM="false",
        )
        import_all()
        self.model = folder / "tiny"
        self.config = folder / "config.toml"
        self.rows = folder / "rows.jsonl"
        assert self.fork(lambda: make_inputs(self)).wait(120).code == 0, "the tiny model could not be made"

    def fork(self, work: Callable[[], Any], folder: Path | None = None) -> Job:
        """Start work in a process of its own; what it prints goes to a file."""
        self.jobs += 1
        log = self.folder / f"log-{self.jobs}"
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            with contextlib.suppress(PermissionError):  # the child did it, and has gone on
                os.setpgid(pid, pid)
            return Job(pid, log)

        def alone() -> None:
            os.setpgid(0, 0)
            os.chdir(folder or self.folder)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()

        live_as_a_process(alone, log)

    def start(self, *words: Any, first: Callable[[], Any] = lambda: None, env: dict[str, str] | None = None) -> Job:
        """Start ``tutelage WORDS``.

        Args:
            first: what its process does first, for instance set a limit.
        """

        def command() -> None:
            os.environ.update(env or {})
            first()
            tutelage(words)

        return self.fork(command)

    def run(self, *words: Any, seconds: float = PATIENCE, **how: Any) -> Done:
        return self.start(*words, **how).wait(seconds)

    def train(self, run: Path, *settings: str) -> tuple[Any, ...]:
        """The words of the command that trains in a run directory."""
        return ("train", self.config, f"--run.dir={run}", *settings)

    def fresh(self, name: str) -> Path:
        """The path of a directory that is not there."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def copied(self, source: Path, name: str) -> Path:
        """A copy of a directory, in the place of an earlier one."""
        return Path(shutil.copytree(source, self.fresh(name), symlinks=True))

    def calm(self) -> Path:
        """A run that nothing happened to."""
        run = self.folder / "calm"
        if not (run / "result.json").exists():
            done = self.run(*self.train(self.fresh("calm")), seconds=120)
            assert done.code == 0, f"the undisturbed run failed:\n{done.text[-2000:]}"
        return run

    def goes_on(self, run: Path, *settings: str) -> str:
        """Why a run does not end as the undisturbed one does, by the same command if it is not finished; nothing if it does."""
        if (run / "result.json").exists():
            differing = unlike(run, self.calm())
            return f"finished with other {', '.join(differing)}" if differing else ""
        return judge(self.run(*self.train(run, *settings)), (0,), run=run, calm=self.calm())

    def unfinished(self) -> Path:
        """A run that was killed after its sixth step, with two checkpoints."""
        run = self.folder / "unfinished"
        if not run.exists():
            job = self.start(*self.train(run))
            job.wait_for(lambda: (run / "checkpoints" / "step-00000006" / "COMPLETE.json").exists(), 120)
            job.send(signal.SIGKILL)
            job.wait()
        return run


def digest(run: Path, what: str) -> str:
    """A hash of what a run left, times of day, speeds and notes of checkpoints that could not be written apart."""
    if what == "weights":
        return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (run / f"{what}.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("kind") != "save_failed"]
    for line in lines:
        for key in [key for key in line if key.endswith("seconds") or key in ("time", "tokens_per_second", "matrix_share", "memory_gb")]:
            del line[key]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def judge(
    done: Done,
    codes: Iterable[int],
    named: str = "",
    run: Path | None = None,
    calm: Path | None = None,
    folder: Path | None = None,
) -> str:
    """Why the end of a command does not hold; nothing if it holds.

    It holds if it ends in time with a documented exit code, without a traceback and without what hostile inputs try to make.
    A refusal is one message, and names the cause. A result equals the undisturbed one, or what was printed names the cause.

    Args:
        named: a pattern of the cause, to be found in what was printed.
        run: the run directory, to be compared with `calm` after exit code 0.
        folder: where `PWNED` would lie.
    """
    last = (done.text.strip().splitlines() or ["nothing was printed"])[-1][:300]
    if done.code is None:
        return f"it did not end in time: {last}"
    if "Traceback (most recent call last)" in done.text or "Fatal Python error" in done.text:
        return f"a traceback: {last}"
    if folder is not None and (folder / PWNED).exists():
        return "text of the input was executed"
    if done.code not in set(codes):
        return f"exit code {done.code}: {last}"
    is_named = re.search(named, done.text, re.I) is not None
    if done.code in (1, 2):
        message = done.text[done.text.rfind("tutelage: ") :].splitlines() if "tutelage: " in done.text else []
        if not message and "usage: tutelage" not in done.text:
            return f"exit code {done.code} without a message: {last}"
        if len(message) > 15:
            return f"a message of {len(message)} lines"
        return "" if is_named else f"the cause ({named}) is not named: {last}"
    if done.code == 0 and run is not None and calm is not None:
        differing = unlike(run, calm)
        return (
            f"other {', '.join(differing)}, and the cause ({named}) is not named: {last}"
            if differing and not (named and is_named)
            else ""
        )
    return "" if is_named else f"the cause ({named}) is not named: {last}"


def unlike(run: Path, calm: Path) -> list[str]:
    """The parts of a run that do not equal those of another one."""

    def part(directory: Path, name: str) -> str:
        try:
            return digest(directory, name)
        except (OSError, ValueError) as error:
            return f"{type(error).__name__} of {directory.name}"

    return [name for name in PARTS if part(run, name) != part(calm, name)]


def make_inputs(lab: Lab) -> None:
    """A tiny model, forty rows and a configuration of ten steps, each with a checkpoint."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from tiny import make_tiny_model

    from tutelage.data import arithmetic
    from tutelage.runs.files import to_lines

    make_tiny_model(lab.model)
    lab.rows.write_text(to_lines(arithmetic.rows("train", 40)), encoding="utf-8")
    lab.config.write_text(
        f"""
model = {{ id = "{lab.model}", device = "cpu", precision = "fp32" }}
data = {{ train = "{lab.rows}", prompt = "plain", test_size = 0.2, max_length = 256 }}
train = {{ lr = 1e-3, batch_size = 1, grad_accum = 2, num_steps = 8 }}
eval = {{ every = 4, examples = 2, full = false, max_new_tokens = 4, backend = "native" }}
run = {{ save_every = 1 }}
"""
    )


def flip(path: Path, index: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(index)
        byte = file.read(1)[0]
        file.seek(index)
        file.write(bytes([byte ^ 1 << bit]))


def spoil(path: Path, damage: str) -> None:
    """Damage a file: "removed", "empty", "half", "zeroed" in the middle, "garbage" of the same size, or JSON of another type."""
    if damage == "removed":
        path.unlink()
        return
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "half": content[:middle],
            "zeroed": content[: middle // 2] + bytes(middle) + content[middle // 2 + middle :],
            "garbage": hashlib.shake_128(content).digest(len(content)),
            "list": b"[1]\n",
            "null": b"null\n",
            "object": b"{}\n",
            "number": b"123\n" + content,
            "brackets": b"[" * 200_000 + b"\n",
        }[damage]
    )


def said(words: Sequence[Any]) -> str:
    """A command in one short line."""
    return json.dumps(" ".join(map(str, words)), ensure_ascii=True)[1:-1][:200]

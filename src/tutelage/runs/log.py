"""A run directory that explains itself: config, environment, ledger, metrics, every generation; locked while in use."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config, changeable, differences, to_toml
from tutelage.data import Fate, Template
from tutelage.errors import InputError, RunError, first_line
from tutelage.runs import checkpoint, damage, tracking
from tutelage.runs.damage import KEPT_TEMPLATE, UNREAD
from tutelage.runs.environment import describe_environment
from tutelage.runs.files import LOCK, append_lines, locked, to_lines, write_text
from tutelage.runs.identity import IDENTITY
from tutelage.runs.reading import Reading

METRICS, GENERATIONS = "metrics.jsonl", "generations.jsonl"


class RunGone(RunError):
    """The run directory was removed, renamed or taken away while the run wrote to it."""


class RunLog:
    """What the first rank writes of a run. A line is written in full and flushed, so a killed run keeps what it had measured.

    Threads may write at once: an evaluation comes in while training goes on.

    Args:
        allowed: as `open_run`.
    """

    leads = True

    def __init__(self, directory: Path, allowed: Collection[str] = ()) -> None:
        self.directory, self.allowed = directory, allowed
        self._opened = _lock_of(directory)
        self._lock = threading.Lock()
        self._unwritten: list[dict[str, Any]] = []
        self._tracker: tracking.Tracker | None = None
        self._damage: list[str] = []

    def reading(self) -> Reading:
        """What the directory holds now."""
        return Reading(self.directory)

    def is_there(self) -> bool:
        """Whether the run directory still is the one that was opened."""
        return self.directory.is_dir() and _lock_of(self.directory) == self._opened

    def require_there(self) -> None:
        """Raises RunGone: the run directory is no longer the one that was opened."""
        if not self.is_there():
            raise RunGone(
                f"run.dir: {self.directory.absolute()} is gone: it was removed or renamed, or its disk taken away, while the run wrote"
                " to it. Nothing more was written. A directory that was renamed goes on under its new name: tutelage train"
                " NEW/config.toml --run.dir NEW"
            )

    def metrics(self, **values: Any) -> None:
        """Append to ``metrics.jsonl``, and send the numbers to the trackers."""
        line = {**values, "time": round(time.time(), 3)}
        with self._lock:
            self._unwritten.append(line)
        self.write_metrics()
        console.metrics_line(to_lines([line]))
        kind = values.get("kind", "train")
        if self._tracker is not None and kind in ("train", "eval"):
            self._tracker.send(kind, values["step"], values)

    def write_metrics(self) -> None:
        """Write the lines that could not be written before. Raises RunError if that fails again; no line is lost then."""
        with self._lock:
            if self._unwritten:
                self._append(METRICS, self._unwritten)
                self._unwritten = []

    def generations(self, step: int, records: Iterable[dict[str, Any]]) -> None:
        """Append the responses of an evaluation to ``generations.jsonl``, and send some of them to the trackers."""
        lines = [{"step": step, **record} for record in records]
        self._append(GENERATIONS, lines)
        if self._tracker is not None:
            self._tracker.texts(step, lines)

    def _append(self, name: str, lines: list[dict[str, Any]]) -> None:
        self.require_there()
        try:
            append_lines(self.directory / name, lines)
        except RunError:
            self.require_there()  # it may have gone meanwhile
            raise

    def begin(
        self,
        config: Config,
        template: Template,
        data: Mapping[str, Any],
        ledger: Iterable[Fate],
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what explains the run: its configuration, environment, prompt template, model, and the fate of every row.

        What is found damaged of a run that goes on is said, and written to its metrics.

        Args:
            data: the description of the prepared data; its ``sha256`` covers all rows and problems.
            model: `tutelage.model.identity_of`.

        Raises:
            InputError: the run was begun on other rows and has a checkpoint; or the directory cannot be written.
        """
        found = checkpoint.latest(self.directory)
        if found is not None:
            self.refuse_other_rows(data["sha256"])
            self._damage = damage.faults(self.reading(), checkpoint.step_of(found))
            damage.say(self._damage, self.directory)
        try:
            (self.directory / "result.json").unlink(missing_ok=True)  # of a finished run that is made longer
            write_text(self.directory / "config.toml", to_toml(config))
            write_text(self.directory / "environment.json", json.dumps(self._environment(found is not None), indent=2) + "\n")
            write_text(self.directory / "prompt.txt", template.text)
            write_text(self.directory / KEPT_TEMPLATE, template.to_json() + "\n")
            write_text(self.directory / "data.json", to_lines([dict(data)]))
            if model is not None:
                write_text(self.directory / IDENTITY, json.dumps(model, indent=1) + "\n")
            unread = ({"source": "", "fate": UNREAD, "why": line} for line in data["unread"])
            write_text(self.directory / "ledger.jsonl", to_lines(itertools.chain((vars(fate) for fate in ledger), unread)))
        except RunError as error:
            raise InputError(str(error)) from None
        self._tracker = tracking.start(config, self.directory, None if found is None else checkpoint.step_of(found))

    def refuse_other_rows(self, sha256: str) -> None:
        """Raises InputError if the run was begun on other rows, or nothing says on which."""
        reading = self.reading()
        known = reading.table("data.json").get("sha256")
        if known is None and "data.train" not in self.allowed:
            what = f"is damaged ({fault})" if (fault := reading.fault_of("data.json")) else "is not there"
            raise InputError(
                f"run.dir: {self.directory}/data.json {what}, so nothing says whether the rows are those that this unfinished run was"
                " begun on; put the file back, give this run another --run.dir, or go on with the rows as they are now, which writes it"
                " again: --allow data.train"
            )
        if known not in (sha256, None):
            raise InputError(
                f"run.dir: {self.directory} holds an unfinished run on other rows: the data, the prompt template or the tokenizer"
                " changed since; undo that, or give this run another --run.dir"
            )

    def _environment(self, goes_on: bool) -> dict[str, Any]:
        """The environment of now; of a run that goes on, with the commands by which it was begun and went on before."""
        known = self.reading().table("environment.json") if goes_on else {}
        earlier = [*known.get("earlier_commands", []), known["command"]] if known else []
        return describe_environment() | ({"earlier_commands": earlier} if earlier else {})

    def add_to_environment(self, **values: Any) -> None:
        """Add what was found out at the start of training to ``environment.json``."""
        known = self.reading().table("environment.json")
        write_text(self.directory / "environment.json", json.dumps({**known, **values}, indent=2) + "\n")

    def to_disk(self) -> None:
        """Make what was logged outlast a crash of the machine, as the checkpoint does that is taken now."""
        self.require_there()
        for name in (METRICS, GENERATIONS):
            with contextlib.suppress(FileNotFoundError), (self.directory / name).open("rb") as file:
                os.fsync(file.fileno())

    def adopt(self, other: Path) -> None:
        """Take over the evaluation of the untouched model from another run, unless this run has one.

        The other run has the same model and problems.
        """
        if 0 in self.reading().evaluated:
            return
        baseline = Reading(other)
        self.generations(0, (line for line in baseline.responses.lines if line.get("step") == 0))
        for line in baseline.evaluations:
            if line["step"] == 0:
                self.metrics(**{**line, "training_seconds": 0.0, "stood_still_seconds": {}, "adopted_from": str(other)})

    def forget_after(self, step: int) -> None:
        """Drop the lines beyond a step that the run goes back to, and the generations of an evaluation that was not finished.

        So each step appears once, however often the run was interrupted. Damaged lines are left out: the files that hold them are
        kept under another name, and what `begin` found is written down.
        """
        reading = self.reading()
        metrics = [line for line in reading.lines if line["step"] <= step]
        known = {fault for line in metrics if line["kind"] == "damaged" for fault in line["faults"]}
        evaluated = {line["step"] for line in metrics if line["kind"] == "eval"}
        generations = [line for line in reading.responses.lines if line.get("step") in evaluated]
        for name, lines, records in ((METRICS, metrics, reading.metrics), (GENERATIONS, generations, reading.responses)):
            if records.faults:
                kept = Path(shutil.copy(self.directory / name, self._unused(name, "damaged")))
                console.say(f"{self.directory / name}: as it was, with its damaged lines, it is kept as {kept.name}", style="yellow")
            write_text(self.directory / name, to_lines(lines))
        if new := [fault for fault in self._damage if fault not in known]:
            self.metrics(kind="damaged", step=step, faults=new)

    def _unused(self, name: str, why: str) -> Path:
        """A name for what a file was before: ``metrics.damaged-1.jsonl``."""
        path = self.directory / name
        earlier = len(list(self.directory.glob(f"{path.stem}.{why}-*")))
        return path.with_name(f"{path.stem}.{why}-{earlier + 1}.jsonl")

    def set_aside(self) -> None:
        """Keep what a run without a checkpoint had measured, under another name, and say so: the run starts from the beginning."""
        steps = len(self.reading().steps)
        kept = []
        for name in (METRICS, GENERATIONS):
            path = self.directory / name
            if path.exists() and path.stat().st_size:
                kept.append(path.rename(self._unused(name, "before-restart")).name)
        if kept:
            console.say(
                f"{self.directory} holds no checkpoint, so the run begins again at step 0; what was measured before ({steps} steps)"
                f" is kept in {' and '.join(kept)}",
                style="yellow",
            )

    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``: its presence says that the run is finished."""
        self.require_there()
        write_text(self.directory / "result.json", json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        """End the trackers' runs, as finished ones if this run is finished."""
        if self._tracker is not None:
            self._tracker.end(self.reading().trained)


class SilentRunLog(RunLog):
    """The log of a rank that does not lead: it reads, and writes nothing."""

    leads = False

    def _nothing(self, *arguments: Any, **options: Any) -> None:
        """In place of each method that writes."""

    require_there = metrics = write_metrics = generations = begin = add_to_environment = to_disk = _nothing
    adopt = forget_after = set_aside = finish = close = _nothing


@contextlib.contextmanager
def open_run(config: Config, allowed: Collection[str] = (), reopens: bool = False) -> Iterator[RunLog]:
    """Create the run directory, or reopen an unfinished one, and hold its lock. `RunLog.begin` writes what explains the run.

    Args:
        allowed: settings whose change does not keep an unfinished run from being continued, besides `config.changeable`.
        reopens: whether a finished run may be opened, which is made longer.

    Raises:
        InputError: the directory is in use, or each of its checkpoints is damaged, or as `refuse_to_overwrite`.
    """
    directory = Path(config.run.dir)
    with locked(directory, "run.dir"):
        refuse_to_overwrite(config, allowed, reopens)
        checkpoint.set_damaged_aside(directory)
        log = RunLog(directory, allowed)
        try:
            yield log
        finally:
            log.close()


def _lock_of(directory: Path) -> tuple[int, int] | None:
    """Which file is the lock of a directory, as the system counts files; None where there is none."""
    try:
        found = (directory / LOCK).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def refuse_to_overwrite(config: Config, allowed: Collection[str] = (), reopens: bool = False) -> None:
    """Raises InputError if the run directory holds a finished run, a begun one of another configuration, or something else.

    Args:
        allowed, reopens: as `open_run`.
    """
    directory = Path(config.run.dir)
    if not directory.is_dir():
        return
    for name, what in (("sweep.json", "a sweep"), ("improve.json", "rounds of `tutelage improve`")):
        if (directory / name).exists():
            raise InputError(f"run.dir: {directory} holds {what}; give this run another --run.dir")
    if Reading(directory).trained and not reopens:
        raise InputError(
            f"run.dir: {directory} holds a finished run, which is never overwritten; give this run another --run.dir, or remove it"
        )
    others = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    if checkpoint.latest(directory) is not None and not (directory / "config.toml").exists():
        raise InputError(
            f"run.dir: {directory} holds an unfinished run, but its config.toml is not there any more; put the file back, or give this run"
            " another --run.dir"
        )
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
    """What a configuration changes of the one that its run directory holds, but for settings that may change."""
    return differences(damage.configuration(Path(config.run.dir) / "config.toml"), config, may_change)


def kept_template(config: Config) -> Template | None:
    """The prompt template that an unfinished run in `run.dir` was begun with, if its prompts are those of the configuration."""
    directory = Path(config.run.dir)
    if not (directory / KEPT_TEMPLATE).is_file() or not (directory / "config.toml").is_file():
        return None
    then = damage.configuration(directory / "config.toml")
    same = (then.model.id, then.data.prompt, then.data.template_arguments) == (
        config.model.id, config.data.prompt, config.data.template_arguments,
    )  # fmt: skip
    try:
        return Template.from_json((directory / KEPT_TEMPLATE).read_text(encoding="utf-8")) if same else None
    except (OSError, ValueError, RecursionError) as error:
        why = f"{KEPT_TEMPLATE} is damaged: {first_line(error)}; the prompts are made again, and compared with those of the run."
        damage.say([why], directory)
        return None

"""A run directory that explains itself: config, environment, ledger, metrics, every generation; locked while in use."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.config import Config, changeable, differences, load_config, to_toml
from tutelage.data import Fate, Template
from tutelage.errors import InputError, RunError
from tutelage.runs import checkpoint, tracking
from tutelage.runs.environment import describe_environment
from tutelage.runs.files import append_lines, iter_lines, locked, read_json, to_lines, write_text
from tutelage.runs.reading import UNREAD, Reading

KEPT_TEMPLATE = "template.json"
"""The prompt template as it was rendered when the run began, with the chat template and its date."""

METRICS, GENERATIONS = "metrics.jsonl", "generations.jsonl"


class RunLog:
    """What the first rank writes of a run. A line is written in full and flushed, so a killed run keeps what it had measured.

    Threads may write at once: an evaluation comes in while training goes on.
    """

    leads = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._unwritten: list[dict[str, Any]] = []
        self._tracker: tracking.Tracker | None = None

    def reading(self) -> Reading:
        """What the directory holds now."""
        return Reading(self.directory)

    def metrics(self, **values: Any) -> None:
        """Append to ``metrics.jsonl``, and send the numbers to the trackers."""
        with self._lock:
            self._unwritten.append({**values, "time": round(time.time(), 3)})
        self.write_metrics()
        kind = values.get("kind", "train")
        if self._tracker is not None and kind in ("train", "eval"):
            self._tracker.send(kind, values["step"], values)

    def write_metrics(self) -> None:
        """Write the lines that could not be written before. Raises RunError if that fails again; no line is lost then."""
        with self._lock:
            if self._unwritten:
                append_lines(self.directory / METRICS, self._unwritten)
                self._unwritten = []

    def generations(self, step: int, records: Iterable[dict[str, Any]]) -> None:
        append_lines(self.directory / GENERATIONS, [{"step": step, **record} for record in records])

    def begin(self, config: Config, template: Template, data: Mapping[str, Any], ledger: Iterable[Fate]) -> None:
        """Write what explains the run: its configuration, environment, prompt template, and the fate of every row.

        Args:
            data: the description of the prepared data; its ``sha256`` covers all rows and problems.

        Raises:
            InputError: the run was begun on other rows and has a checkpoint; or the directory cannot be written.
        """
        known, found = self.directory / "data.json", checkpoint.latest(self.directory)
        if found is not None and read_json(known).get("sha256") != data["sha256"]:
            raise InputError(
                f"run.dir: {self.directory} holds an unfinished run on other rows: the data, the prompt template or the tokenizer"
                " changed since; undo that, or give this run another --run.dir"
            )
        try:
            write_text(self.directory / "config.toml", to_toml(config))
            write_text(self.directory / "environment.json", json.dumps(self._environment(found is not None), indent=2) + "\n")
            write_text(self.directory / "prompt.txt", template.text)
            write_text(self.directory / KEPT_TEMPLATE, template.to_json() + "\n")
            write_text(known, to_lines([dict(data)]))
            unread = ({"source": "", "fate": UNREAD, "why": line} for line in data["unread"])
            write_text(self.directory / "ledger.jsonl", to_lines(itertools.chain((vars(fate) for fate in ledger), unread)))
        except RunError as error:
            raise InputError(str(error)) from None
        self._tracker = tracking.start(config, self.directory, None if found is None else checkpoint.step_of(found))

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
        for name in (METRICS, GENERATIONS):
            with contextlib.suppress(FileNotFoundError), (self.directory / name).open("rb") as file:
                os.fsync(file.fileno())

    def adopt(self, other: Path) -> None:
        """Take over the evaluation of the untouched model from another run, unless this run has one.

        The other run has the same model and problems.
        """
        if 0 in self.reading().evaluated:
            return
        self.generations(0, (line for line in iter_lines(other / GENERATIONS) if line["step"] == 0))
        for line in Reading(other).evaluations:
            if line["step"] == 0:
                self.metrics(**{**line, "training_seconds": 0.0, "stood_still_seconds": {}, "adopted_from": str(other)})

    def forget_after(self, step: int) -> None:
        """Drop the lines beyond a step that the run goes back to, and the generations of an evaluation that was not finished.

        So each step appears once, however often the run was interrupted.
        """
        metrics = [line for line in self.reading().lines if line["step"] <= step]
        evaluated = {line["step"] for line in metrics if line["kind"] == "eval"}
        generations = [line for line in iter_lines(self.directory / GENERATIONS) if line["step"] in evaluated]
        for name, lines in ((METRICS, metrics), (GENERATIONS, generations)):
            write_text(self.directory / name, to_lines(lines))

    def set_aside(self) -> None:
        """Keep what a run without a checkpoint had measured, under another name: the run starts from the beginning."""
        for name in (METRICS, GENERATIONS):
            path = self.directory / name
            if path.exists():
                earlier = len(list(self.directory.glob(f"{path.stem}.before-restart-*")))
                path.rename(path.with_name(f"{path.stem}.before-restart-{earlier + 1}.jsonl"))

    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``: its presence says that the run is finished."""
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

    metrics = write_metrics = generations = begin = add_to_environment = to_disk = _nothing
    adopt = forget_after = set_aside = finish = close = _nothing


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


def refuse_to_overwrite(config: Config, allowed: Collection[str] = ()) -> None:
    """Raises InputError if the run directory holds a finished run, a begun one of another configuration, or something else."""
    directory = Path(config.run.dir)
    if not directory.is_dir():
        return
    if (directory / "sweep.json").exists():
        raise InputError(f"run.dir: {directory} holds a sweep; give this run another --run.dir")
    if Reading(directory).trained:
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
    """What a configuration changes of the one that its run directory holds, but for settings that may change."""
    return differences(load_config(Path(config.run.dir) / "config.toml"), config, may_change)


def kept_template(config: Config) -> Template | None:
    """The prompt template that an unfinished run in `run.dir` was begun with, if its prompts are those of the configuration."""
    directory = Path(config.run.dir)
    if not (directory / KEPT_TEMPLATE).is_file() or not (directory / "config.toml").is_file():
        return None
    then = load_config(directory / "config.toml")
    same = (then.model.id, then.data.prompt, then.data.template_arguments) == (
        config.model.id, config.data.prompt, config.data.template_arguments,
    )  # fmt: skip
    return Template.from_json((directory / KEPT_TEMPLATE).read_text(encoding="utf-8")) if same else None

"""`sample_problems`: a model answers problems several times, and the right answers become rows to train on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config
from tutelage.data import Example, Fate
from tutelage.errors import InputError, RunError
from tutelage.evaluation.sample.answers import Answers
from tutelage.evaluation.sample.ask import ask_elsewhere, ask_here
from tutelage.evaluation.sample.finish import Finished, finish
from tutelage.evaluation.sample.task import Task, task_of
from tutelage.evaluation.sample.wanted import Wanted, check
from tutelage.machines import fanout
from tutelage.runs import checked_name, owned, write_text


def sample_problems(
    problems: Sequence[Example],
    config: Config,
    out: Path,
    wanted: Wanted,
    where: str = "local",
    workers: int = 2,
    left_out: Sequence[Fate] = (),
) -> dict[str, Any]:
    """Let the model of a configuration answer each problem several times, and write what is right as rows to train on.

    Interrupted in any way, the same call goes on: what was answered is on the disk, and is not asked again. A call that has
    finished returns its summary.

    Args:
        problems: what is asked. One without a reference is not, and is counted.
        config: `eval` says how: temperature, top_p, max_new_tokens, min_new_tokens, stop, backend, device, reward, entropy.
            `eval.samples`, `eval.seed` and `eval.examples` do not count.
        out: the rows (JSONL). Beside it, by its stem: ``.samples.jsonl`` (every response), ``.ledger.jsonl`` (the fate of each)
            and ``.summary.json``.
        where: as `fanout.run_map`; on a cluster, `workers` jobs share the problems.
        left_out: fates of problems that are not among those asked, for ledger and summary.

    Returns:
        The summary; docs/howto/own-answers.md explains its keys.

    Raises:
        InputError: the arguments contradict each other, no problem has a reference, `out` is there and of something else, or another
            process writes it.
        RunError: an engine failed twice at the same problems, or does not have the model's weights.
    """
    fanout.require(where)
    check(wanted, config.eval)
    files = Files.beside(checked_name(out, "--out"))
    with owned(out, new=False, parents=True):
        task = task_of(problems, config, wanted, left_out)
        finished = files.finished(task)
        if finished is not None:
            console.say(f"{files.summary}: all was sampled before")
            return finished
        files.begin(task)
        answers = Answers(files.folder, len(task.problems))
        failed = _answer(task, answers, where, workers)
        if answers.lacking():
            raise RunError(
                f"{files.folder}: {len(answers.lacking())} problems have no answers on the disk; the same call asks them again"
            )
        if failed:
            console.say(f"log-probabilities and entropies could not be computed ({failed}); all else counts", style="yellow")
        summary = finish(task, answers, files.written)
        summary |= {"entropy_failed": failed} if failed else {}
        write_text(files.summary, json.dumps(summary, indent=2) + "\n")
        shutil.rmtree(files.folder, ignore_errors=True)
        return summary


def _answer(task: Task, answers: Answers, where: str, workers: int) -> str:
    """Ask what is not answered yet; why scores could not be computed, if they could not."""
    lacking, samples = answers.lacking(), task.wanted.samples
    count = len(task.problems)
    if not lacking and not (task.config.eval.entropy == "exact" and answers.unscored()):
        return ""
    if len(lacking) < count:
        console.say(f"{count - len(lacking)} of {count} problems were answered before")
    with console.progress(f"sampling {count} problems × {samples}", count * samples, (count - len(lacking)) * samples) as advance:
        meter = Meter(advance)
        if where == "local":
            return ask_here(task.problems, answers, lacking, task.config, task.longest, meter.judged, meter)
        return ask_elsewhere(task.problems, answers, lacking, task.config, task.longest, where, workers, meter.judged, meter)


class Meter:
    """Advances a bar, and says with it how many right responses there are by now, and how many a minute."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.accepted, self.started = advance, 0, time.monotonic()

    def __call__(self, count: int) -> None:
        minutes = max(time.monotonic() - self.started, 1e-3) / 60
        self.advance(count, f"{self.accepted} accepted, {self.accepted / minutes:.1f} a minute")

    def judged(self, lines: Sequence[dict[str, Any]]) -> None:
        """Count what is right in the lines of problems."""
        self.accepted += sum(each["fate"] == "right" for line in lines for each in line["responses"])
        self(0)


@dataclass(frozen=True)
class Files:
    """The files of one sampling, by the stem of its rows; what is unfinished has a folder of its own."""

    written: Finished
    summary: Path
    folder: Path

    @staticmethod
    def beside(out: Path) -> Files:
        stem = out.name.removesuffix(".jsonl")
        names = ("samples.jsonl", "ledger.jsonl", "summary.json", "unfinished")
        samples, ledger, summary, folder = (out.with_name(f"{stem}.{name}") for name in names)
        return Files(Finished(out, samples, ledger), summary, folder)

    @property
    def asked(self) -> Path:
        """What the unfinished answers depend on."""
        return self.folder / "asked.json"

    def finished(self, task: Task) -> dict[str, Any] | None:
        """The summary, where all is done. Raises InputError: it is of something else, or a file is in the way."""
        if self.summary.exists():
            summary = _table(self.summary)
            changed = _changes(summary.get("asked", {}), task.asked | task.rule)
            if changed:
                raise InputError(f"{self.summary}: was sampled with another {changed}; remove its files, or choose another --out")
            if not self.written.rows.exists():
                raise InputError(f"{self.summary} is there, and its rows {self.written.rows} are not; remove it to sample anew")
            shutil.rmtree(self.folder, ignore_errors=True)
            return summary
        there = [path for path in self.written if path.exists()]
        if there and not self.asked.exists():
            raise InputError(f"{there[0]} exists and is not overwritten; remove it, or choose another --out")
        return None

    def begin(self, task: Task) -> None:
        """Make the folder of what is unfinished. Raises InputError: it holds answers to something else, or cannot be written."""
        if self.asked.exists():
            changed = _changes(_table(self.asked), task.asked)
            if changed:
                raise InputError(
                    f"{self.folder}: its answers were asked for with another {changed}; go on as it was begun, remove it, or choose"
                    " another --out"
                )
            return
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written: {error.strerror}") from None
        write_text(self.asked, json.dumps(task.asked))


def _table(path: Path) -> dict[str, Any]:
    """A table of JSON. Raises InputError: it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no table")
    return found


def _changes(then: dict[str, Any], now: dict[str, Any]) -> str:
    """The keys whose values differ, with both values where they are short: ``samples (8 → 16)``; "" where none does."""
    changed = [key for key in now if then.get(key) != now[key]]
    return ", ".join(key if isinstance(now[key], str) else f"{key} ({then.get(key)} → {now[key]})" for key in changed)

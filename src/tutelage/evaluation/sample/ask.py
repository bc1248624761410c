"""Problems are asked some at a time; each portion is judged and written before the next one is asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config
from tutelage.data import Example
from tutelage.evaluation.engine import Completion, registry
from tutelage.evaluation.sample.answers import Lines
from tutelage.evaluation.sample.form import Form
from tutelage.evaluation.sample.judge import judged
from tutelage.evaluation.solve import Job, answers_of_engine, answers_of_policy
from tutelage.evaluation.spread import engines_for, loaded
from tutelage.grading import start_workers
from tutelage.model import tokenizer_of
from tutelage.resources import engine_devices

AT_ONCE = 2048
"""Responses that an engine is asked for at a time, or those of one problem: enough to keep it busy, few enough to be held."""

Advance = Callable[[int], None]
Keep = Callable[[Sequence[dict[str, Any]], float], None]
"""Takes the lines of problems, and the seconds since it was called last."""


@dataclass
class Portions:
    """Portions of problems as they are taken, each once; several threads take turns."""

    problems: Sequence[Example]
    indices: Sequence[int]
    size: int
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[dict[int, Example]]:
        while True:
            with self.lock:
                start, self.taken = self.taken, self.taken + self.size
            portion = self.indices[start : start + self.size]
            if not portion:
                return
            yield {index: self.problems[index] for index in portion}


def ask_here(
    problems: Sequence[Example],
    indices: Sequence[int],
    config: Config,
    longest: int,
    directory: Path,
    keep: Keep,
    advance: Advance,
) -> None:
    """The model of a configuration answers on this machine: the policy itself, or an engine on each device.

    Args:
        problems: all of them, of which those of `indices` are asked.
        longest: prompt + response in tokens, at most.
        directory: for what the engines print.
        keep: is called from one thread at a time.
    """
    policy = loaded(config, longest)
    form, style = Form.of(config, tokenizer_of(config)), config.eval.reward
    portions = Portions(problems, indices, max(1, AT_ONCE // config.eval.samples))
    start_workers(len(indices) * config.eval.samples)
    judging, last = threading.Lock(), time.monotonic()

    def take(portion: dict[int, Example], answers: dict[int, list[Completion]]) -> None:
        nonlocal last
        with judging:
            lines = judged(portion, answers, form, style)
            now = time.monotonic()
            keep(lines, now - last)
            last = now

    def job_of(portion: dict[int, Example]) -> Job:
        job = Job.of(list(portion.values()), form.tokenizer, config.eval)
        return Job(job.problems, list(portion), job.prompts, job.sampling, job.config)

    if registry.entry_of(config.eval.backend).in_place and len(engine_devices(config.eval)) == 1:
        for portion in portions:
            for answers in answers_of_policy(job_of(portion), policy, on_finished=advance):
                take(portion, answers)
        return
    engines, handed = engines_for(config, policy, longest, len(portions.indices), directory)

    def ask(engine: Any) -> None:
        for portion in portions:
            answers, proof, _ = answers_of_engine(
                job_of(portion), engine, handed, None, advance, lambda error: console.say(f"{error}; again")
            )
            take(portion, answers)

    with ThreadPoolExecutor(len(engines)) as threads, contextlib.ExitStack() as closing:
        for engine in engines:  # before the threads are waited for: after Ctrl-C they have nothing more to do
            closing.callback(engine.close)
        for _ in threads.map(ask, engines):
            pass


def unfinished(lines: Lines, problems: int) -> list[int]:
    """The indices of problems that lack their responses."""
    return [index for index in range(problems) if lines.lacks(index)]

"""Problems are asked some at a time; each portion is judged and on the disk before the next one is asked."""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config
from tutelage.data import Example, TokenizedExample
from tutelage.errors import InputError, RunError, first_line
from tutelage.evaluation.engine import Completion, EngineError, EngineHandle, registry
from tutelage.evaluation.sample.answers import Answers
from tutelage.evaluation.sample.form import Form
from tutelage.evaluation.sample.judge import judged
from tutelage.evaluation.solve import Job, answers_of_engine, answers_of_policy, prompt_ids
from tutelage.evaluation.spread import engines_for, loaded, with_absolute_paths
from tutelage.grading import start_workers
from tutelage.machines import fanout
from tutelage.model import Policy
from tutelage.resources import engine_devices
from tutelage.stats import mean

AT_ONCE = 2048
"""Responses that are asked for at a time, or those of one problem: enough to keep an engine busy, few enough to be held."""
SHARE = 8
"""Portions that a worker on a cluster answers with one start of its engine, at most."""

Keep = Callable[[list[dict[str, Any]]], None]
Advance = Callable[[int], None]


@dataclass
class Portions:
    """Portions of indices, each of which is taken once; several threads take turns."""

    indices: Sequence[int]
    size: int
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """No further portion is taken."""
        self.taken = len(self.indices)

    def __iter__(self) -> Iterator[Sequence[int]]:
        while True:
            with self.lock:
                start, self.taken = self.taken, self.taken + self.size
            if start >= len(self.indices):
                return
            yield self.indices[start : start + self.size]


@dataclass(frozen=True)
class Asked:
    """Problems that are asked, and how: all that a worker on another machine needs.

    Attributes:
        problems: by their indices, those of `indices` and perhaps others.
        indices: of the problems that are asked.
        config: with the backend settled.
        longest: prompt + response in tokens, at most.
    """

    problems: Mapping[int, Example] | Sequence[Example]
    indices: Sequence[int]
    config: Config
    longest: int

    def portions(self, indices: Sequence[int]) -> Portions:
        return Portions(indices, max(1, AT_ONCE // self.config.eval.samples))

    def shares(self, workers: int) -> Iterator[Asked]:
        """What workers take, one after the other: as many shares as there are workers, or more where these would be large."""
        size = max(1, min(-(-len(self.indices) // workers), SHARE * self.portions(()).size))
        there = with_absolute_paths(self.config)
        for each in Portions(self.indices, size):
            yield Asked({index: self.problems[index] for index in each}, each, there, self.longest)


def ask_here(asked: Asked, answers: Answers, on_lines: Keep, advance: Advance) -> str:
    """The model of a configuration answers problems on this machine, and scores what an engine did not tell the scores of.

    Args:
        answers: takes the answers, beside which the engines write what they print.
        on_lines: is called with the lines of problems that have just been answered, from one thread at a time.
        advance: is called with how many responses have just finished.

    Returns:
        Why scores could not be computed; "" if they could, or are not wanted.
    """
    policy = loaded(asked.config, asked.longest)
    if asked.indices:
        _answered(asked, answers, policy, on_lines, advance)
    unscored = answers.unscored() if asked.config.eval.entropy == "exact" else []
    if not unscored:
        return ""
    policy.model.to(policy.device)  # the engines are gone
    try:
        _score(asked, answers, unscored, policy)
    except RunError:
        raise
    except (RuntimeError, MemoryError) as error:  # such as memory that runs out: no answer depends on it
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _answered(asked: Asked, answers: Answers, policy: Policy, on_lines: Keep, advance: Advance) -> None:
    """The policy itself answers, or an engine on each device; the model itself is such an engine where there are several devices."""
    problems, config = asked.problems, asked.config
    form, judging, last = Form.of(config, policy.tokenizer), threading.Lock(), time.monotonic()
    start_workers(len(asked.indices) * config.eval.samples)

    def take(found: Mapping[int, list[Completion]]) -> None:
        nonlocal last
        with judging:
            lines = judged({index: problems[index] for index in found}, found, form, config.eval.reward)
            now = time.monotonic()
            answers.said.add(lines, now - last)
            last = now
            on_lines(lines)

    def job_of(portion: Sequence[int]) -> Job:
        with judging:  # one thread at a time tokenizes
            job = Job.of([problems[index] for index in portion], form.tokenizer, config.eval)
        return Job(job.problems, portion, job.prompts, job.sampling, job.config)

    portions = asked.portions(asked.indices)
    if registry.entry_of(config.eval.backend).in_place and (
        config.model.device != "auto" or len(engine_devices(config.eval)) == 1
    ):
        for portion in portions:
            for found in answers_of_policy(job_of(portion), policy, on_finished=advance):
                take(found)
        return

    def ask(engine: EngineHandle) -> None:
        def again(error: EngineError) -> None:
            console.say(f"{error}; again")

        try:
            for portion in portions:
                found, *_ = answers_of_engine(job_of(portion), engine, handed, None, advance, again)
                take(found)
        except BaseException:
            portions.stop()  # the other engines end with what they are at, and the error is told
            raise

    engines, handed = engines_for(config, policy, asked.longest, len(asked.indices), answers.said.file.parent)
    with ThreadPoolExecutor(len(engines)) as threads, contextlib.ExitStack() as ended:
        for engine in engines:  # before the threads are waited for: after Ctrl-C they have nothing more to do
            ended.callback(engine.close)
        for _ in threads.map(ask, engines):
            pass


def _score(asked: Asked, answers: Answers, unscored: Sequence[int], policy: Policy) -> None:
    """The policy scores responses in packs: log-probability of each, and the mean entropy of its tokens."""
    with console.progress("log-probabilities and entropies", len(unscored) * asked.config.eval.samples) as advance:
        for portion in asked.portions(unscored):
            started = time.monotonic()
            said = {index: answers.read(index) for index in portion}
            prompts = prompt_ids(policy.tokenizer, [asked.problems[index] for index in portion])
            rows = [
                TokenizedExample(f"problem {index}", tuple(prompt), tuple(each["token_ids"]))
                for index, prompt in zip(portion, prompts, strict=True)
                for each in said[index]
            ]
            found = iter([_scores(*each) for each in policy.score_responses(rows)])
            lines = [{"problem": index, "responses": [next(found) for _ in said[index]]} for index in portion]
            answers.scores.add(lines, time.monotonic() - started)
            advance(len(rows))


def _scores(log_probs: torch.Tensor, entropies: torch.Tensor) -> dict[str, float | None]:
    return {"log_prob": math.fsum(log_probs.tolist()), "token_entropy": mean(entropies.tolist())}


def answer_share(share: Asked) -> tuple[list[dict[str, Any]], str]:
    """What a worker on another machine does: its problems' lines, and why scores could not be computed, if they could not."""
    with tempfile.TemporaryDirectory(prefix="tutelage-share-") as directory:
        answers = Answers(Path(directory), max(share.indices) + 1)
        failed = ask_here(share, answers, lambda _: None, lambda _: None)
        return [{"problem": index, "responses": answers.read(index)} for index in share.indices], failed


def ask_elsewhere(asked: Asked, answers: Answers, where: str, workers: int, on_lines: Keep, advance: Advance) -> str:
    """As `ask_here`, by the workers of a cluster. Each loads the model from the same path, and its answers are kept as it ends.

    Args:
        where: as `fanout.run_map`.
    """
    failed, last = "", time.monotonic()
    with (
        fanout.cluster(where, workers),
        contextlib.closing(
            fanout.run_apart(answer_share, asked.shares(workers), where, workers=workers, gpus_per_job=1)
        ) as found,
    ):
        for _, answer in found:
            if isinstance(answer, InputError | RunError | KeyboardInterrupt):
                raise answer
            if isinstance(answer, BaseException):
                raise RunError(f"a worker failed: {type(answer).__name__}: {first_line(answer)}") from answer
            lines, reason = answer
            answers.said.add(lines, time.monotonic() - last)
            last, failed = time.monotonic(), failed or reason
            advance(sum(len(line["responses"]) for line in lines))
            on_lines(lines)
    return failed

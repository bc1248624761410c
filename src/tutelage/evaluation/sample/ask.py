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
from tutelage.errors import RunError, first_line
from tutelage.evaluation.engine import Completion, EngineError, EngineHandle, registry
from tutelage.evaluation.sample.answers import Answers
from tutelage.evaluation.sample.form import Form
from tutelage.evaluation.sample.judge import judged
from tutelage.evaluation.solve import Job, answers_of_engine, answers_of_policy, prompt_ids
from tutelage.evaluation.spread import engines_for, loaded, with_absolute_path
from tutelage.grading import start_workers
from tutelage.machines import fanout
from tutelage.model import Policy
from tutelage.resources import engine_devices
from tutelage.stats import mean

AT_ONCE = 2048
"""Responses that are asked for at a time, or those of one problem: enough to keep an engine busy, few enough to be held."""
SHARE = 16
"""Portions that a worker on a cluster answers with one start of its engine, at most."""

Problems = Mapping[int, Example] | Sequence[Example]
"""Problems by their indices."""
Keep = Callable[[list[dict[str, Any]]], None]
Advance = Callable[[int], None]


@dataclass
class Portions:
    """Portions of indices, each of which is taken once; several threads take turns."""

    indices: Sequence[int]
    size: int
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(indices: Sequence[int], config: Config, times: int = 1) -> Portions:
        return Portions(indices, times * max(1, AT_ONCE // config.eval.samples))

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


def ask_here(
    problems: Problems, answers: Answers, indices: Sequence[int], config: Config, longest: int, on_lines: Keep, advance: Advance
) -> str:
    """The model of a configuration answers problems on this machine, and scores what an engine did not tell the scores of.

    Args:
        answers: takes the answers, beside which the engines write what they print.
        indices: of the problems that are asked.
        longest: prompt + response in tokens, at most.
        on_lines: is called with the lines of problems that have just been answered, from one thread at a time.
        advance: is called with how many responses have just finished.

    Returns:
        Why scores could not be computed; "" if they could, or are not wanted.
    """
    policy = loaded(config, longest)
    if indices:
        _answered(problems, answers, indices, config, longest, policy, on_lines, advance)
    unscored = answers.unscored() if config.eval.entropy == "exact" else []
    if not unscored:
        return ""
    policy.model.to(policy.device)  # the engines are gone
    try:
        _score(problems, answers, Portions.of(unscored, config), policy, len(unscored) * config.eval.samples)
    except RunError:
        raise
    except (RuntimeError, MemoryError) as error:  # such as memory that runs out: no answer depends on it
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _answered(
    problems: Problems, answers: Answers, indices: Sequence[int], config: Config, longest: int, policy: Policy, on_lines: Keep,
    advance: Advance,
) -> None:  # fmt: skip
    """The policy itself answers, or an engine on each device; the model itself is such an engine where there are several devices."""
    form, judging, last = Form.of(config, policy.tokenizer), threading.Lock(), time.monotonic()
    start_workers(len(indices) * config.eval.samples)

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

    portions = Portions.of(indices, config)
    if registry.entry_of(config.eval.backend).in_place and len(engine_devices(config.eval)) == 1:
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

    engines, handed = engines_for(config, policy, longest, len(indices), answers.said.file.parent)
    with ThreadPoolExecutor(len(engines)) as threads, contextlib.ExitStack() as ended:
        for engine in engines:  # before the threads are waited for: after Ctrl-C they have nothing more to do
            ended.callback(engine.close)
        for _ in threads.map(ask, engines):
            pass


def _score(problems: Problems, answers: Answers, portions: Portions, policy: Policy, responses: int) -> None:
    """The policy scores responses in packs: log-probability of each, and the mean entropy of its tokens."""
    with console.progress("log-probabilities and entropies", responses) as advance:
        for portion in portions:
            started = time.monotonic()
            said = {index: answers.read(index) for index in portion}
            prompts = prompt_ids(policy.tokenizer, [problems[index] for index in portion])
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


Share = tuple[dict[int, Example], Config, int]
"""Problems by index, the configuration of the model, and the longest prompt + response in tokens."""


def answer_share(share: Share) -> tuple[list[dict[str, Any]], str]:
    """What a worker on another machine does: its problems' lines, and why scores could not be computed, if they could not."""
    problems, config, longest = share
    with tempfile.TemporaryDirectory(prefix="tutelage-share-") as directory:
        answers = Answers(Path(directory), max(problems) + 1)
        failed = ask_here(problems, answers, list(problems), config, longest, lambda _: None, lambda _: None)
        return [{"problem": index, "responses": answers.read(index)} for index in problems], failed


def ask_elsewhere(
    problems: Problems, answers: Answers, indices: Sequence[int], config: Config, longest: int, where: str, workers: int,
    on_lines: Keep, advance: Advance,
) -> str:  # fmt: skip
    """As `ask_here`, by the workers of a cluster. Each loads the model from the same path, and its answers are kept as it ends.

    Args:
        where: as `fanout.run_map`.
        workers: how many share the problems, or more where there are more than `SHARE` portions each.
    """
    there, size = with_absolute_path(config), min(-(-len(indices) // workers), Portions.of(indices, config, SHARE).size)
    shares = (({index: problems[index] for index in each}, there, longest) for each in Portions(indices, max(1, size)))
    failed, last = "", time.monotonic()
    with (
        fanout.cluster(where, workers),
        contextlib.closing(fanout.run_apart(answer_share, shares, where, workers=workers, gpus_per_job=1)) as found,
    ):
        for _, answer in found:
            if isinstance(answer, BaseException):
                raise answer
            lines, reason = answer
            answers.said.add(lines, time.monotonic() - last)
            last, failed = time.monotonic(), failed or reason
            advance(sum(len(line["responses"]) for line in lines))
            on_lines(lines)
    return failed

"""A job of problems is solved: by the policy itself, or by an engine. `spread` shares one out among engines and machines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tutelage.config import EvalConfig
from tutelage.data import Example, Stops, encode_prompt, plain
from tutelage.errors import first_line
from tutelage.evaluation.certificate import Certificate
from tutelage.evaluation.draft import Draft
from tutelage.evaluation.engine import Completion, EngineError, EngineHandle, Handover, Sampling, Snapshot, native
from tutelage.evaluation.entropy import TOP_K, Entropy, add_entropies, add_tokens, drop_entropies
from tutelage.evaluation.grade import REWARD_FUNCTIONS, grade_completions
from tutelage.grading import start_workers
from tutelage.machines import ALONE, StopWanted, World, gathered
from tutelage.model import Policy

PORTION = 256
"""Problems that an engine is asked at a time, at most: enough to keep it busy, few enough to keep what is done."""


def nothing(*_: Any, **__: Any) -> None:
    """Where nobody wants to be called."""


def sampling_of(config: EvalConfig, stops: Stops) -> Sampling:
    """How to generate, as an evaluation is configured."""
    strings = tuple(dict.fromkeys([*stops.strings, *config.stop]))
    return Sampling(
        config.max_new_tokens, config.temperature, config.top_p, strings, config.seed, config.samples,
        config.min_new_tokens, TOP_K if config.entropy == "top-k" else 0, stops.end_token_id,
    )  # fmt: skip


def prompt_ids(tokenizer: Any, problems: Sequence[Example]) -> list[list[int]]:
    """The ids that every engine is sent for problems."""
    return [encode_prompt(tokenizer, problem.prompt) for problem in problems]


@dataclass(frozen=True)
class Job:
    """Problems that are to be solved, and how.

    Attributes:
        indices: the index of each problem in its evaluation, of which a job may be a part. Seeds of responses come from them.
        prompts: token ids of each problem's prompt.
    """

    problems: Sequence[Example]
    indices: Sequence[int]
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    config: EvalConfig

    @staticmethod
    def of(problems: Sequence[Example], tokenizer: Any, config: EvalConfig) -> Job:
        """The job of all problems of an evaluation."""
        sampling = sampling_of(config, Stops.of(tokenizer))
        return Job(problems, range(len(problems)), prompt_ids(tokenizer, problems), sampling, config)

    def parts(self, size: int) -> list[Job]:
        """Jobs of at most `size` problems each."""
        slices = [slice(start, start + size) for start in range(0, len(self.problems), size)]
        return [
            replace(self, problems=self.problems[each], indices=self.indices[each], prompts=self.prompts[each]) for each in slices
        ]

    @property
    def responses(self) -> int:
        """How many responses it takes."""
        return len(self.problems) * self.sampling.samples

    @property
    def longest(self) -> int:
        """Prompt + response in tokens, at most."""
        return max(map(len, self.prompts)) + self.sampling.max_new_tokens


@dataclass
class Solved:
    """A job's responses, graded, in the order of its problems.

    Attributes:
        entropy: the kind of entropy that the records hold.
        entropy_failed: why exact entropies could not be computed; "" if they could, or were not wanted.
        certificates: of the engines.
        generation_seconds, grading_seconds: of all parts together.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    entropy: Entropy = "off"
    entropy_failed: str = ""
    certificates: list[Certificate] = field(default_factory=list)
    generation_seconds: float = 0.0
    grading_seconds: float = 0.0

    def seconds_as_metrics(self) -> dict[str, float | None]:
        """For a line of the log: what the sync of the weights, generation and grading took, whether training waited for them or not."""
        return {
            "sync_seconds": next((proof.sync_seconds for proof in self.certificates), None),
            "generation_seconds": round(self.generation_seconds, 3), "grading_seconds": round(self.grading_seconds, 3),
        }  # fmt: skip

    def add(self, other: Solved) -> None:
        """Take in what follows in the order of the problems."""
        self.records += other.records
        self.completions += other.completions
        self.certificates += other.certificates
        self.generation_seconds += other.generation_seconds
        self.grading_seconds += other.grading_seconds
        failed = self.entropy_failed or other.entropy_failed
        if failed:  # one kind for all
            drop_entropies(self.records)
        self.entropy, self.entropy_failed = "off" if failed else other.entropy, failed

    def add_exact_entropies(self, job: Job, policy: Policy, snapshot: Snapshot | None = None) -> None:
        """Compute the entropies with the policy. If that fails, all the rest stands.

        Args:
            snapshot: the weights that generated, if the policy has others by now.
        """
        try:
            with policy.holding(snapshot.tensors()) if snapshot is not None else contextlib.nullcontext():
                add_entropies(self.records, policy, job.prompts, self.completions, job.config.log_tokens)
        except Exception as error:  # such as memory that runs out: the accuracy does not depend on it
            drop_entropies(self.records)
            self.entropy, self.entropy_failed = "off", f"{type(error).__name__}: {first_line(error)}"


def solve(
    job: Job,
    policy: Policy,
    draft: Draft | None = None,
    world: World = ALONE,
    on_finished: Callable[[int], None] = nothing,
    on_tokens: Callable[[int], None] = nothing,
) -> Solved:
    """The policy itself solves the problems. Several ranks share them, and rank 0 has the answers; the others get none.

    Args:
        draft: has what is answered already, and keeps further answers.
        on_finished: is called with how many responses have just finished.
        on_tokens: is called with how many tokens this rank has just generated.

    Raises:
        StopWanted: the job was asked to stop; the answers so far are in the draft.
    """
    started = time.monotonic()
    if world.leads:
        start_workers(job.responses)
    known = world.first(draft.known) if draft is not None else {}
    on_finished(sum(map(len, known.values())))
    answers: dict[int, list[Completion]] = {}
    stopped = False

    def after_each_token(count: int) -> None:
        world.alive()
        if count:
            on_finished(count)

    try:
        for found in answers_of_policy(job, policy, known, after_each_token, world, on_tokens):
            answers |= found
            if draft is not None:
                draft.add(found)
    except StopWanted:
        stopped = True
    if world.any(stopped):
        raise StopWanted
    for of_a_rank in world.gather(answers):
        known |= of_a_rank
    if not world.leads:
        return Solved()
    world.long_task("grading")
    solved = _graded(job, known, "off" if job.config.entropy == "off" else "exact", time.monotonic() - started)
    if job.config.log_tokens:
        add_tokens(solved.records, solved.completions, policy.tokenizer)
    return solved


def answers_of_policy(
    job: Job,
    policy: Policy,
    known: Container[int] = (),
    on_finished: Callable[[int], None] = nothing,
    world: World = ALONE,
    on_tokens: Callable[[int], None] = nothing,
) -> Iterator[dict[int, list[Completion]]]:
    """The policy's own answers to this rank's part of a job, by index, some problems at a time; the shortest prompts come first.

    Args:
        known: the indices of problems that are answered already.
        on_finished: as `native.generate`.
        on_tokens: as `solve`.
    """
    prompts = dict(zip(job.indices, job.prompts, strict=True))
    unsolved = sorted((index for index in prompts if index not in known), key=lambda index: len(prompts[index]))
    size = max(1, job.config.batch_size // job.sampling.samples)
    portions = [unsolved[start : start + size] for start in range(0, len(unsolved), size)]
    with (
        gathered(policy.model),
        policy.computing(with_head=True),
        native.generating(policy.model, policy.tokenizer, job.sampling) as generate,
    ):
        for portion in portions[world.rank :: world.size]:
            completions = generate(
                [prompts[index] for index in portion], batch_size=job.config.batch_size, indices=portion,
                on_finished=on_finished, on_tokens=on_tokens,
            )  # fmt: skip
            yield by_index(portion, completions)


def solve_by_engine(
    job: Job,
    engine: EngineHandle,
    handed: Handover,
    draft: Draft | None,
    on_finished: Callable[[int], None],
    on_failure: Callable[[EngineError], None],
) -> Solved:
    """As `answers_of_engine`, graded; exact entropies are left to the caller."""
    start_workers(job.responses)
    answers, proof, seconds = answers_of_engine(job, engine, handed, draft, on_finished, on_failure)
    solved = _graded(job, answers, job.config.entropy, seconds)
    solved.certificates.append(proof)
    return solved


def answers_of_engine(
    job: Job,
    engine: EngineHandle,
    handed: Handover,
    draft: Draft | None,
    on_finished: Callable[[int], None],
    on_failure: Callable[[EngineError], None],
) -> tuple[dict[int, list[Completion]], Certificate, float]:
    """An engine gets the weights, proves that it has them, and answers: (answers by index, the proof, seconds of generation).

    An engine that does not run is started. One that fails is started again, once, and asked what it had not answered yet.

    Raises:
        UncertifiedWeights: trainer and engine differ beyond the bound.
        EngineError: it failed twice, or was closed.
    """
    answers = draft.known() if draft is not None else {}
    on_finished(sum(map(len, answers.values())))
    prompts = dict(zip(job.indices, job.prompts, strict=True))

    seconds = 0.0

    def ask() -> Certificate:
        nonlocal seconds
        if not engine.running:
            engine.start()
        proof = engine.load(handed)
        proof.require()
        started = time.monotonic()
        try:
            unsolved = [index for index in prompts if index not in answers]
            for start in range(0, len(unsolved), PORTION):
                indices = unsolved[start : start + PORTION]
                completions = engine.generate([prompts[index] for index in indices], job.sampling, indices, on_finished)
                found = by_index(indices, completions)
                answers.update(found)
                if draft is not None:
                    draft.add(found)
            # the probes shall be recent in the prefix cache: the next certificate must be able to catch a stale entry
            engine.score()
        finally:
            seconds += time.monotonic() - started
        return proof

    for again in (True, False):
        try:
            proof = ask()
            break
        except EngineError as error:
            engine.end()
            if not again or engine.closed:
                raise
            on_failure(error)
    return answers, proof, seconds


def by_index(indices: Sequence[int], completions: Sequence[Completion]) -> dict[int, list[Completion]]:
    """Completions of problems, all samples of one after the other, by the problems' indices."""
    samples = len(completions) // len(indices)
    return {index: list(completions[row * samples : (row + 1) * samples]) for row, index in enumerate(indices)}


def _graded(job: Job, answers: Mapping[int, Sequence[Completion]], entropy: Entropy, generation_seconds: float) -> Solved:
    """All answers in the order of the job's problems, graded."""
    started = time.monotonic()
    completions = [completion for index in job.indices for completion in answers[index]]
    if entropy == "off":
        completions = [replace(completion, entropies=None, log_probs=None) for completion in completions]
    prompts, references = [plain(problem.prompt) for problem in job.problems], [problem.reference for problem in job.problems]
    records = grade_completions(prompts, references, completions, REWARD_FUNCTIONS[job.config.reward], job.config.tolerance)
    return Solved(
        records, completions, entropy, generation_seconds=generation_seconds, grading_seconds=time.monotonic() - started
    )

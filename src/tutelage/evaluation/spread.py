"""One job shared out: among the engines of this machine, or among workers on other machines."""

from __future__ import annotations

import contextlib
import queue
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from tutelage import console
from tutelage.config import Config, EvalConfig, Source, replaced
from tutelage.evaluation.certificate import expected_of
from tutelage.evaluation.engine import EngineHandle, Handover, engine_setting, registry
from tutelage.evaluation.solve import PORTION, Job, Solved, nothing, solve, solve_by_engine
from tutelage.machines import fanout
from tutelage.model import Policy, check_positions, load_policy, tokenizer_of
from tutelage.resources import engine_devices


class Solve(Protocol):
    """What solves a job, as `solver` yields it."""

    def __call__(
        self, job: Job, on_finished: console.Advance = nothing, on_part: Callable[[Job, Solved], None] = nothing
    ) -> Solved: ...


def settled(config: EvalConfig) -> EvalConfig:
    """The configuration with "auto" settled: the engine where it can run, else the model itself, as printed.

    Raises:
        InputError: an engine was asked for that is not there, or cannot run on this device.
    """
    if registry.entry_of(config.backend).in_place:
        return config
    devices = engine_devices(config)
    registry.require(config.backend, devices[0].type)
    reason = registry.reason(config.backend, devices[0].type)  # only of "auto"
    if reason:
        console.say(f"by the model itself ({reason})")
        return config.model_copy(update={"backend": "native"})
    console.say(f"by {registry.entry_of(config.backend).title} on {', '.join(map(str, devices))}")
    return config.model_copy(update={"backend": registry.AUTO}) if config.backend == "auto" else config


def loaded(config: Config, longest: int) -> Policy:
    """The model of a configuration, to answer with. Raises InputError: it has not as many positions as prompt + response have tokens.

    Args:
        longest: prompt + response in tokens, at most.
    """
    saved = config.model.as_saved()
    with console.progress("loading the model"):
        policy = load_policy(saved, tokenizer_of(config), to_train=False)
    check_positions(policy, longest, "the longest prompt + eval.max_new_tokens")
    return policy


def engines_for(
    config: Config, policy: Policy, longest: int, problems: int, directory: Path
) -> tuple[list[EngineHandle], Handover]:
    """An engine for each device, none of them started, and what they prove their weights by. The policy leaves its GPU to them.

    Args:
        longest: prompt + response in tokens, at most.
        problems: how many are asked; there are not more engines.
        directory: for what the engines print.
    """
    engines = [
        EngineHandle(engine_setting(config, policy.precision, device, longest, directory / f"engine-{index}.log"))
        for index, device in enumerate(engine_devices(config.eval)[:problems])
    ]
    # engines read the same weights themselves
    handed = Handover(expected_of(policy, engines[0].setting.dtype, engines[0].probes))
    policy.model.to("cpu")  # the GPUs are theirs
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
    return engines, handed


def solve_here(
    job: Job,
    config: Config,
    directory: Path,
    on_finished: console.Advance = nothing,
    on_part: Callable[[Job, Solved], None] = nothing,
) -> Solved:
    """Have one job solved here, as `solver` does."""
    with solver(config, [job], directory) as solve_job:
        return solve_job(job, on_finished, on_part)


@contextlib.contextmanager
def solver(config: Config, jobs: Sequence[Job], directory: Path) -> Iterator[Solve]:
    """Load the model of a configuration once; what is yielded solves a job: by the model itself, or by an engine on each device.

    Engines are started for the first job and serve all of them. Exact entropies need the memory that an engine holds: each job then
    ends its engines, and the next one starts them again.

    Args:
        config: whose `eval.backend` is `settled`.
        jobs: that will be solved; they may differ in how they sample, not in `eval.backend` and `eval.entropy`.
        directory: for what the engines print.

    Yields:
        A function of a job; of `on_finished`, called with how many responses have just finished; and of `on_part`, called with each
        part of the job that engines have finished, in order.
    """
    asked = jobs[0].config
    policy = loaded(config, max(job.longest for job in jobs))
    if registry.entry_of(asked.backend).in_place:
        yield lambda job, on_finished=nothing, on_part=nothing: solve(
            job, policy, on_finished=on_finished, on_tokens=console.per_second(on_finished, "tokens")
        )
        return
    engines, handed = engines_for(
        config.model_copy(update={"eval": asked}), policy, max(job.longest for job in jobs), max(len(job.problems) for job in jobs),
        directory,
    )  # fmt: skip

    def by_engines(
        job: Job, on_finished: console.Advance = nothing, on_part: Callable[[Job, Solved], None] = nothing
    ) -> Solved:
        solved = solve_by_engines(job, engines[: len(job.problems)], handed, on_finished, on_part)
        if job.config.entropy == "exact":
            for engine in engines:
                engine.end()
            policy.model.to(policy.device)
            solved.add_exact_entropies(job, policy)
            policy.model.to("cpu")
        return solved

    try:
        yield by_engines
    finally:
        for engine in engines:
            engine.close()


def solve_by_engines(
    job: Job,
    engines: Sequence[EngineHandle],
    handed: Handover,
    on_finished: Callable[[int], None],
    on_part: Callable[[Job, Solved], None],
) -> Solved:
    """Engines take parts of a job from one queue; each part has a certificate. If that fails, the engines are closed.

    A response depends on its problem and sample alone, not on the engine that gave it.
    """
    parts = job.parts(min(PORTION, -(-len(job.problems) // len(engines))))
    idle: queue.SimpleQueue[EngineHandle] = queue.SimpleQueue()
    for engine in engines:
        idle.put(engine)

    def solve_part(part: Job) -> Solved:
        engine = idle.get()
        try:
            return solve_by_engine(part, engine, handed, None, on_finished, lambda error: console.say(f"{error}; again"))
        finally:
            idle.put(engine)

    solved = Solved()
    with ThreadPoolExecutor(len(engines)) as threads:
        try:
            for part, found in zip(parts, threads.map(solve_part, parts), strict=True):
                on_part(part, found)
                solved.add(found)
        except BaseException:  # before the threads are waited for: after Ctrl-C they have nothing more to do
            for engine in engines:
                engine.close()
            raise
    return solved


def solve_share(share: tuple[Job, Config]) -> Solved:
    """What a worker on another machine does: its part of a job, with the configuration of the model."""
    with tempfile.TemporaryDirectory(prefix="tutelage-share-") as directory:
        return replace(solve_here(*share, Path(directory)), completions=[])  # the records are what travels


def solve_elsewhere(
    job: Job,
    config: Config,
    where: str,
    workers: int,
    on_finished: Callable[[int], None],
    on_part: Callable[[Job, Solved], None],
) -> Solved:
    """Workers of a cluster share a job; each loads the model from the same path.

    Args:
        where: as `fanout.run_map`.
        on_part: is called with each worker's part, in order.
    """
    parts = job.parts(-(-len(job.problems) // workers))
    shares = [(part, with_absolute_paths(config)) for part in parts]
    solved = Solved()
    with fanout.cluster(where, workers):
        answers = fanout.run_map(solve_share, shares, where, workers=workers, gpus_per_job=1)
        for part, found in zip(parts, answers, strict=True):
            on_part(part, found)
            on_finished(len(found.records))
            solved.add(found)
    return solved


def with_absolute_paths(config: Config) -> Config:
    """The configuration for another machine, which sees the files and directories of this one under the same paths."""

    def absolute(name: str) -> str:
        return str(Path(name).absolute()) if Path(name).exists() else name

    named = {"model.id": config.model.id, "data.prompt": config.data.prompt}
    values: dict[str, Any] = {key: absolute(name) for key, name in named.items()}
    train = config.data.train
    if isinstance(train, str):
        values["data.train"] = absolute(train)
    else:
        prompts = [None if each.prompt is None else absolute(each.prompt) for each in train]
        updates = [{"path": absolute(each.path), "prompt": prompt} for each, prompt in zip(train, prompts, strict=True)]
        values["data.train"] = [each.model_copy(update=update) for each, update in zip(train, updates, strict=True)]
    match config.data.validation:
        case Source() as source:
            values["data.validation"] = source.model_copy(update={"path": absolute(source.path)})
        case str() as name:
            values["data.validation"] = absolute(name)
    return replaced(config, values)

"""``tutelage ask`` and ``tutelage eval``: a trained run, or any model, answers a question or a file of problems."""

from __future__ import annotations

import json
import queue
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config, load_config, to_toml
from tutelage.data import (
    Example,
    Ledger,
    apply_template,
    choose_problems,
    encode_prompt,
    longest_prompt,
    prompt_template,
    read_rows,
)
from tutelage.errors import InputError
from tutelage.evaluation import (
    PORTION,
    Certificate,
    Completion,
    Engine,
    Handover,
    add_entropies,
    engine_for,
    entropy_kind,
    grade_examples,
    native,
    prompt_ids,
    sampling_of,
    solve,
    summarize,
    trainer_scores,
    vllm,
)
from tutelage.machines import fanout
from tutelage.model import Policy, check_positions, load_policy, load_tokenizer, resolve
from tutelage.report import show
from tutelage.resources import engine_devices
from tutelage.runs import append_lines, environment, to_lines, write_text


def config_of(model: str, overrides: list[str]) -> Config:
    """The configuration to use a model with: its run's, if it comes from one, so that it is asked as it was taught.

    Args:
        model: a run directory, the ``model/`` in one, another model directory, a hub name, or "smollm2".
    """
    path = Path(model)
    run = path.parent if path.name == "model" and path.is_dir() else path
    if (run / "config.toml").is_file() and (run / "model").is_dir():
        # the prompt template as it was then, whatever has become of its file
        return load_config(
            run / "config.toml",
            [f"--model.id={run / 'model'}", f"--data.prompt={run / 'prompt.txt'}", "--eval.mode=auto", *overrides],
        )
    if (path / "config.toml").is_file():
        raise InputError(
            f"{model}: this run has no model yet; it is written when training ends. To go on: tutelage train {path / 'config.toml'}"
        )
    return load_config(None, [f"--model.id={model}", *overrides])


def ask(model: str, question: str, overrides: list[str]) -> str:
    """The model's response to one question, in the prompt it was trained with."""
    config = config_of(model, overrides)
    if not question.strip():
        raise InputError("the question is empty")
    policy = _load(config, load_tokenizer(config.model.id))
    template = prompt_template(config.data.prompt, policy.tokenizer)
    prompt, _ = apply_template({"prompt": question, "response": ""}, template)
    sampling = sampling_of(config.eval, policy.stops)
    with console.progress("answering"), policy.computing(with_head=True):
        completion = native.generate(policy.model, policy.tokenizer, [encode_prompt(policy.tokenizer, prompt)], sampling)[0]
    cut = (
        ""
        if completion.finish_reason == "stop"
        else f"\n[cut off after {config.eval.max_new_tokens} tokens; --eval.max_new_tokens allows more]"
    )
    return completion.text.strip() + cut


def evaluate_file(
    model: str, data: str, overrides: list[str], out: Path | None, where: str = "local", workers: int = 2
) -> dict[str, Any]:
    """Let a model solve the problems of a data source; print the summary, and log every generation to a directory.

    Args:
        where: as `fanout.run_map`; elsewhere than here, `workers` jobs share the problems.

    Raises:
        InputError: `out` exists, or a row has no prompt or reference; vLLM, or Ray, was asked for and is not installed.
        RunError: vLLM failed twice at the same problems, or does not have the model's weights; what was finished is on the disk.
    """
    fanout.require(where)
    config = config_of(model, overrides)
    by_vllm = config.eval.backend != "native"
    devices = engine_devices(config.eval) if by_vllm else []
    if config.eval.backend == "vllm":
        vllm.require(devices[0].type)
    if by_vllm and (reason := vllm.missing(devices[0].type)):
        console.say(f"by the model itself ({reason})")
        by_vllm = False
    elif by_vllm:
        console.say(f"by vLLM on {', '.join(map(str, devices))}")
    directory = out or Path("evaluations") / f"{Path(model).name}-{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if directory.exists():
        raise InputError(f"{directory} exists and is not overwritten; choose another --out")
    tokenizer = load_tokenizer(config.model.id)
    template = prompt_template(config.data.prompt, tokenizer)
    rows = read_rows(data, config.data.validation_split, config.data.hub_config)
    ledger = Ledger(row.source for row in rows)
    chosen = choose_problems(rows, template, ledger, config)[: config.eval.examples or None]
    longest = longest_prompt(chosen, tokenizer) + config.eval.max_new_tokens
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
    _explain(directory, config, template)
    total = len(chosen) * config.eval.samples
    with console.progress(f"solving {len(chosen)} problems", total) as advance:
        if where == "local":
            policy = _load(config, tokenizer)
            check_positions(policy, longest, "the longest prompt + eval.max_new_tokens")
            numbers = range(len(chosen))
            records, certificates = _solve(
                policy, chosen, numbers, config, devices if by_vllm else [], longest, directory, advance
            )
        else:
            settings = [*overrides, f"--eval.backend={'vllm' if by_vllm else 'native'}"]
            records, certificates = _solve_elsewhere(model, chosen, settings, longest, directory, where, workers, advance)
    write_text(directory / "generations.jsonl", to_lines(_with_sources(chosen, records)))
    malformed = ledger.counts()["malformed"]
    summary = {
        "model": model, "data": data, "rows": len(rows), "malformed_rows": malformed, "backend": "vllm" if by_vllm else "native",
        **summarize(records, entropy_kind(config.eval, by_vllm)), "certificates": [certificate.as_dict() for certificate in certificates],
    }  # fmt: skip
    write_text(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    show.summary_table(f"{model} on {data}", summary)
    console.say(
        f"{len(chosen)} of the {len(rows) - malformed} problems were asked; {malformed} rows were malformed;"
        f" every response is in {directory}/generations.jsonl"
    )
    return summary


def _explain(directory: Path, config: Config, template: str) -> None:
    """Write what an evaluation is of: settings, prompt template, environment and command."""
    write_text(directory / "settings.toml", to_toml(config))
    write_text(directory / "prompt.txt", template)
    write_text(directory / "environment.json", json.dumps(environment(), indent=2) + "\n")


def _solve(
    policy: Policy,
    problems: list[Example],
    numbers: range,
    config: Config,
    devices: list[torch.device],
    longest: int,
    directory: Path,
    on_finished: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[Certificate]]:
    """Records and certificates: by engines on devices, or, where there are none, by the policy itself."""
    if devices:
        return solve_by_engines(policy, problems, numbers, config, devices, longest, directory, on_finished)
    return solve(policy, problems, config.eval, on_finished, numbers=numbers), []


@dataclass(frozen=True)
class Share:
    """Problems that are solved elsewhere, with their numbers among all, which their seeds come from."""

    model: str
    overrides: list[str]
    problems: list[Example]
    numbers: range
    longest: int


def solve_share(share: Share) -> tuple[list[dict[str, Any]], list[Certificate]]:
    """What a worker on another machine does: load the model there, and solve its share of the problems."""
    config = config_of(share.model, share.overrides)
    policy = _load(config, load_tokenizer(config.model.id))
    check_positions(policy, share.longest, "the longest prompt + eval.max_new_tokens")
    devices = engine_devices(config.eval) if config.eval.backend == "vllm" else []
    with tempfile.TemporaryDirectory(prefix="tutelage-share-") as directory:
        return _solve(policy, share.problems, share.numbers, config, devices, share.longest, Path(directory), lambda count: None)


def _solve_elsewhere(
    model: str,
    problems: list[Example],
    overrides: list[str],
    longest: int,
    directory: Path,
    where: str,
    workers: int,
    on_finished: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[Certificate]]:
    """Records and certificates of workers that share the problems. What is finished is on the disk."""
    size = -(-len(problems) // workers)
    model = str(Path(model).absolute()) if Path(model).exists() else model
    shares = [
        Share(model, overrides, problems[start : start + size], range(start, min(start + size, len(problems))), longest)
        for start in range(0, len(problems), size)
    ]
    records: list[dict[str, Any]] = []
    certificates: list[Certificate] = []
    with fanout.cluster(where, workers):
        found = fanout.run_map(solve_share, shares, where, workers=workers, gpus_per_job=1)
        for share, (graded, proofs) in zip(shares, found, strict=True):
            append_lines(directory / "generations.jsonl", _with_sources(share.problems, graded))
            records += graded
            certificates += proofs
            on_finished(len(graded))
    return records, certificates


def solve_by_engines(
    policy: Policy,
    problems: list[Example],
    numbers: range,
    config: Config,
    devices: list[torch.device],
    longest: int,
    directory: Path,
    on_finished: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[Certificate]]:
    """Records of vLLM engines, one on each device, that take portions of the problems from one queue; and their certificates.

    A response depends on its problem and sample alone, not on the engine that gave it. What is finished is on the disk.

    Args:
        numbers: those of the problems, which their seeds come from.
    """
    settings, sampling = config.eval, sampling_of(config.eval, policy.stops)
    size = min(PORTION, -(-len(problems) // len(devices)))
    portions = [range(start, min(start + size, len(problems))) for start in range(0, len(problems), size)]
    prompts = prompt_ids(policy.tokenizer, problems)
    engines = [
        engine_for(
            policy, resolve(config.model.id), settings, device, share=settings.gpu_memory_utilization, longest=longest,
            log=directory / f"engine-{number}.log",
        )
        for number, device in enumerate(devices[: len(portions)])
    ]  # fmt: skip
    handed = Handover(trainer_scores(policy, engines[0].probes))  # they read the weights themselves
    policy.model.to("cpu")  # the GPUs are theirs
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
    idle: queue.SimpleQueue[Engine] = queue.SimpleQueue()
    for engine in engines:
        idle.put(engine)

    def solve_portion(portion: range) -> tuple[Certificate, list[Completion], list[dict[str, Any]]]:
        engine = idle.get()
        try:
            asked = {numbers[place]: prompts[place] for place in portion}
            proof, answers = engine.answer(handed, asked, sampling, on_finished, lambda error: console.say(f"{error}; again"))
        finally:
            idle.put(engine)
        said = [each for number in asked for each in answers[number]]
        return proof, said, grade_examples([problems[place] for place in portion], said, settings)

    records: list[dict[str, Any]] = []
    completions: list[Completion] = []
    certificates: list[Certificate] = []
    with ThreadPoolExecutor(len(engines)) as threads:
        try:
            for portion, (proof, said, graded) in zip(portions, threads.map(solve_portion, portions), strict=True):
                append_lines(directory / "generations.jsonl", _with_sources([problems[place] for place in portion], graded))
                certificates.append(proof)
                completions += said
                records += graded
        finally:  # before the threads are waited for: after Ctrl-C they have nothing more to do
            for engine in engines:
                engine.close()
    if settings.entropy == "exact":
        policy.model.to(policy.device)
        add_entropies(records, policy, prompts, completions, settings.log_tokens)
    return records, certificates


def _with_sources(problems: Sequence[Example], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    samples = len(records) // len(problems)
    return [{"source": problems[number // samples].source, **record} for number, record in enumerate(records)]


def _load(config: Config, tokenizer: Any) -> Policy:
    saved = config.model.model_copy(update={"lora": "none"})  # a run's adapters are merged into the model that it saved
    with console.progress("loading the model"):
        return load_policy(saved, tokenizer, to_train=False)

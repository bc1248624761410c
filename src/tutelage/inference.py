"""``tutelage ask`` and ``tutelage eval``: a trained run, or any model, answers a question or a file of problems."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tutelage import console, show
from tutelage.certificate import Certificate, compare, cuts_of, trainer_scores
from tutelage.config import Config, EvalConfig, load_config
from tutelage.data import Example, Ledger, apply_template
from tutelage.engines import Engine
from tutelage.errors import InputError
from tutelage.evaluate import add_entropies, grade_examples, sampling_of, solve, summarize
from tutelage.generation import Completion, Sampling, native, vllm
from tutelage.generation.process import EngineError
from tutelage.model import check_positions, choose_device, load_policy, load_tokenizer, resolve
from tutelage.policy import Policy
from tutelage.prepare import choose_problems, longest_prompt
from tutelage.runlog import append_lines, to_lines, write_text
from tutelage.sources import read_rows
from tutelage.tokens import encode_prompt, prompt_template

PORTION = 512
"""Problems that an engine is asked at a time: enough to keep it busy, few enough to share the work and to keep what is done."""


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
            run / "config.toml", [f"--model.id={run / 'model'}", f"--data.prompt={run / 'prompt.txt'}", *overrides]
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


def evaluate_file(model: str, data: str, overrides: list[str], out: Path | None) -> dict[str, Any]:
    """Let a model solve the problems of a data source; print the summary, and log every generation to a directory.

    Raises:
        InputError: `out` exists, or a row has no prompt or reference; vLLM was asked for and is not installed.
        RunError: vLLM failed twice at the same problems, or does not have the model's weights.
    """
    config = config_of(model, overrides)
    devices = devices_for(config.eval)
    if config.eval.backend == "vllm":
        vllm.require(devices[0].type)
    by_vllm = config.eval.backend != "native" and not vllm.missing(devices[0].type)
    directory = out or Path("evaluations") / f"{Path(model).name}-{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if directory.exists():
        raise InputError(f"{directory} exists and is not overwritten; choose another --out")
    tokenizer = load_tokenizer(config.model.id)
    template = prompt_template(config.data.prompt, tokenizer)
    rows = read_rows(data, config.data.validation_split, config.data.hub_config)
    ledger = Ledger(row.source for row in rows)
    chosen = choose_problems(rows, template, ledger, config)[: config.eval.examples or None]
    policy = _load(config, tokenizer)
    longest = longest_prompt(chosen, tokenizer) + config.eval.max_new_tokens
    check_positions(policy, longest, "the longest prompt + eval.max_new_tokens")
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
    total = len(chosen) * config.eval.samples
    console.say(f"by vLLM on {', '.join(map(str, devices))}" if by_vllm else "by the model itself")
    with console.progress(f"solving {len(chosen)} problems", total) as advance:
        if by_vllm:
            records, certificates = solve_by_engines(policy, chosen, config, devices, longest, directory, advance)
        else:
            records, certificates = solve(policy, chosen, config.eval, advance), []
    write_text(directory / "generations.jsonl", to_lines(_with_sources(chosen, records)))
    malformed = ledger.counts()["malformed"]
    summary = {
        "model": model, "data": data, "rows": len(rows), "malformed_rows": malformed, "backend": "vllm" if by_vllm else "native",
        **summarize(records, config.eval.entropy), "certificates": [certificate.as_dict() for certificate in certificates],
    }  # fmt: skip
    write_text(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    show.summary_table(f"{model} on {data}", summary)
    console.say(
        f"{len(chosen)} of the {len(rows) - malformed} problems were asked; {malformed} rows were malformed;"
        f" every response is in {directory}/generations.jsonl"
    )
    return summary


def devices_for(config: EvalConfig) -> list[torch.device]:
    """Where `tutelage eval` starts its engines: on every GPU in sight, unless `eval.device` names one; else on the CPU."""
    if config.device != "auto":
        return [choose_device(config.device)]
    if torch.cuda.is_available():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu")]


def solve_by_engines(
    policy: Policy,
    problems: list[Example],
    config: Config,
    devices: list[torch.device],
    longest: int,
    directory: Path,
    on_finished: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[Certificate]]:
    """Records of vLLM engines, one on each device, that take portions of the problems from one queue; and their certificates.

    A response depends on its problem and sample alone, not on the engine that gave it. What is finished is on the disk.
    """
    settings = config.eval
    policy.model.to("cpu")  # the engines get the GPUs
    starts = range(0, len(problems), PORTION)
    prompts = [encode_prompt(policy.tokenizer, problem.prompt) for problem in problems]
    engines = [
        Engine(
            resolve(config.model.id), device, settings.seed, dtype="float32" if policy.precision == "fp32" else "bfloat16",
            gpu_memory_utilization=settings.gpu_memory_utilization, max_model_len=longest, timeout=settings.timeout,
            log=directory / f"engine-{number}.log",
        )
        for number, device in enumerate(devices[: len(starts)])
    ]  # fmt: skip
    idle: queue.SimpleQueue[Engine] = queue.SimpleQueue()
    for engine in engines:
        idle.put(engine)

    def portion(start: int) -> tuple[list[Completion], list[dict[str, Any]]]:
        part = range(start, min(start + PORTION, len(problems)))
        engine = idle.get()
        try:
            completions = _generate(
                engine, [prompts[number] for number in part], sampling_of(settings, policy.stops), part, on_finished
            )
        finally:
            idle.put(engine)
        return completions, grade_examples([problems[number] for number in part], completions, settings)

    records: list[dict[str, Any]] = []
    completions: list[Completion] = []
    try:
        with ThreadPoolExecutor(len(engines)) as threads:
            scores = list(threads.map(_start, engines))
            for start, (said, graded) in zip(starts, threads.map(portion, starts), strict=True):
                append_lines(directory / "generations.jsonl", _with_sources(problems[start : start + PORTION], graded))
                completions += said
                records += graded
    finally:
        for engine in engines:
            engine.close()
    policy.model.to(policy.device)
    expected = trainer_scores(policy, engines[0].probes)
    cuts = cuts_of(engines[0].probes)
    certificates = [compare(expected, scored, cuts, engine.dtype) for scored, engine in zip(scores, engines, strict=True)]
    for certificate in certificates:
        certificate.require()
    if settings.entropy == "exact":
        add_entropies(records, policy, prompts, completions)
    return records, certificates


def _start(engine: Engine) -> dict[str, Any]:
    """Start an engine; its scores of the probes."""
    engine.start()
    return engine.score()


def _generate(
    engine: Engine, prompts: list[list[int]], sampling: Sampling, numbers: range, on_finished: Callable[[int], None]
) -> list[Completion]:
    """An engine's completions; one that fails is started again, once."""
    try:
        return engine.generate(prompts, sampling, numbers, on_finished)
    except EngineError as error:
        console.say(f"{error}; it is started again", style="yellow")
        engine.start()
        return engine.generate(prompts, sampling, numbers, on_finished)


def _with_sources(problems: Sequence[Example], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    samples = len(records) // len(problems)
    return [{"source": problems[number // samples].source, **record} for number, record in enumerate(records)]


def _load(config: Config, tokenizer: Any) -> Policy:
    saved = config.model.model_copy(update={"lora": "none"})  # a run's adapters are merged into the model that it saved
    with console.progress("loading the model"):
        return load_policy(saved, tokenizer, to_train=False)

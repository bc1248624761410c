"""``tutelage ask`` and ``tutelage eval``: a trained run, or any model, answers a question or a file of problems."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config, load_config, to_toml
from tutelage.data import Ledger, apply_template, choose_problems, encode_prompt, prompt_template, read_rows
from tutelage.errors import InputError
from tutelage.evaluation import Job, Solved, native, sampling_of, settled, solve_elsewhere, solve_here, summarize
from tutelage.machines import fanout
from tutelage.model import load_policy, load_tokenizer
from tutelage.report import show
from tutelage.runs import append_lines, describe_environment, to_lines, write_text


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
    saved = config.model.model_copy(update={"lora": "none"})  # a run's adapters are merged into the model that it saved
    with console.progress("loading the model"):
        policy = load_policy(saved, load_tokenizer(config.model.id), to_train=False)
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
        where: as `fanout.run_map`; on a cluster, `workers` jobs share the problems.

    Raises:
        InputError: `out` exists, or a row has no prompt or reference; an engine, or Ray, was asked for and is not installed.
        RunError: an engine failed twice at the same problems, or does not have the model's weights; finished parts are on the disk.
    """
    fanout.require(where)
    config = config_of(model, overrides)
    solving = config.model_copy(update={"eval": settled(config.eval)})
    directory = out or Path("evaluations") / f"{Path(model).name}-{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if directory.exists():
        raise InputError(f"{directory} exists and is not overwritten; choose another --out")
    tokenizer = load_tokenizer(config.model.id)
    template = prompt_template(config.data.prompt, tokenizer)
    rows = read_rows(data, config.data.validation_split, config.data.hub_config)
    ledger = Ledger(row.source for row in rows)
    chosen = choose_problems(rows, template, ledger, config)[: config.eval.examples or None]
    job = Job.of(chosen, tokenizer, solving.eval)
    _begin(directory, config, template)

    def keep(part: Job, solved: Solved) -> None:
        append_lines(directory / "generations.jsonl", _with_sources(part, solved))

    with console.progress(f"solving {len(chosen)} problems", job.responses) as advance:
        if where == "local":
            solved = solve_here(job, solving, directory, advance, keep)
        else:
            solved = solve_elsewhere(job, solving, where, workers, advance, keep)
    if solved.entropy_failed:
        console.say(f"entropies could not be computed ({solved.entropy_failed}); all else counts", style="yellow")
    write_text(directory / "generations.jsonl", to_lines(_with_sources(job, solved)))
    malformed = ledger.counts()["malformed"]
    summary = {
        "model": model, "data": data, "rows": len(rows), "malformed_rows": malformed, "backend": solving.eval.backend,
        **summarize(solved.records, solved.entropy), **({"entropy_failed": solved.entropy_failed} if solved.entropy_failed else {}),
        "certificates": [certificate.as_dict() for certificate in solved.certificates],
    }  # fmt: skip
    write_text(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    show.summary_table(f"{model} on {data}", summary)
    console.say(
        f"{len(chosen)} of the {len(rows) - malformed} problems were asked; {malformed} rows were malformed;"
        f" every response is in {directory}/generations.jsonl"
    )
    return summary


def _begin(directory: Path, config: Config, template: str) -> None:
    """Make the directory, and write what an evaluation is of: settings, prompt template, environment and command."""
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
    write_text(directory / "settings.toml", to_toml(config))
    write_text(directory / "prompt.txt", template)
    write_text(directory / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")


def _with_sources(job: Job, solved: Solved) -> list[dict[str, Any]]:
    """The records of a job's problems, each with the row that its problem comes from."""
    samples = job.sampling.samples
    return [{"source": job.problems[index // samples].source, **record} for index, record in enumerate(solved.records)]

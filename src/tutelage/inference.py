"""``tutelage ask`` and ``tutelage eval``: a trained run, or any model, answers a question or a file of problems."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tutelage import console, show
from tutelage.config import Config, load_config
from tutelage.data import Ledger, apply_template
from tutelage.errors import InputError
from tutelage.evaluate import require_engine, sampling_of, solve, start_engine
from tutelage.generation import native
from tutelage.model import check_positions, load_policy, load_tokenizer, resolve
from tutelage.policy import Policy
from tutelage.prepare import choose_problems, longest_prompt
from tutelage.runlog import append_lines, write_text
from tutelage.sources import read_rows
from tutelage.tokens import encode_prompt, prompt_template


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
        InputError: `out` exists, or a row has no prompt or reference.
    """
    config = config_of(model, overrides)
    if config.eval.engine == "vllm":
        require_engine(config.eval)
    directory = out or Path("evaluations") / f"{Path(model).name}-{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if directory.exists():
        raise InputError(f"{directory} exists and is not overwritten; choose another --out")
    tokenizer = load_tokenizer(config.model.id)
    template = prompt_template(config.data.prompt, tokenizer)
    rows = read_rows(data, config.data.validation_split, config.data.hub_config)
    ledger = Ledger(row.source for row in rows)
    chosen = choose_problems(rows, template, ledger, config)
    policy = _load(config, tokenizer)
    longest = longest_prompt(chosen, tokenizer)
    check_positions(policy, longest + config.eval.max_new_tokens, "the longest prompt + eval.max_new_tokens")
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
    engine = start_engine(config.eval, resolve(config.model.id))
    with console.progress(f"solving {len(chosen)} problems", len(chosen)) as advance:
        result = solve(policy, chosen, config.eval, advance, engine)
    append_lines(
        directory / "generations.jsonl",
        [{"source": e.source, **r} for e, r in zip(chosen, result["records"], strict=True)],
    )
    malformed = ledger.counts()["malformed"]
    summary = {"model": model, "data": data, "rows": len(rows), "malformed_rows": malformed, **result["summary"]}
    write_text(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    show.summary_table(f"{model} on {data}", summary)
    console.say(
        f"{len(chosen)} of the {len(rows) - malformed} problems were asked (eval.examples = {config.eval.examples});"
        f" {malformed} rows were malformed; every response is in {directory}/generations.jsonl"
    )
    return summary


def _load(config: Config, tokenizer: Any) -> Policy:
    saved = config.model.model_copy(update={"lora": "none"})  # a run's adapters are merged into the model that it saved
    with console.progress("loading the model"):
        return load_policy(saved, tokenizer, to_train=False)

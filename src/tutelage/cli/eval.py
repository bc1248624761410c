"""``tutelage eval``: grade any model on any data."""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.command import DATA, MODEL, OVERRIDES, WHERE, Commands, Outcome, add_command, config_of, integer, start
from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import Config, DataConfig, Source
    from tutelage.data import Template
    from tutelage.evaluation import Job, Solved


def add(commands: Commands) -> None:
    parser = add_command(commands, "eval", run, "grade any model on any data", takes_settings=True, description=OVERRIDES)
    parser.add_argument("model", help=MODEL)
    parser.add_argument("data", help=DATA)
    parser.add_argument("--out", type=Path, help="a new directory for the generations (default: evaluations/…)")
    parser.add_argument(
        "--backend",
        help="what generates: auto, vllm (one engine on each GPU in sight), native, or module:Class (eval.backend)",
    )
    parser.add_argument("--split", help="the split of the data (default: data.validation_split)")
    parser.add_argument("--hub-config", help="the configuration of a hub data set")
    parser.add_argument("--columns", metavar="TABLE", help='as data.columns: { prompt = "problem", reference = "answer" }')
    parser.add_argument("--prompt", help="the prompt template (default: what the model was trained with)")
    parser.add_argument("--where", default="local", help=WHERE)
    parser.add_argument("--workers", type=integer(1, 10_000), default=2, help="with Ray: how many jobs share the problems (default 2)")


def run(arguments: argparse.Namespace) -> Outcome:
    start()
    backend = [] if arguments.backend is None else [f"--eval.backend={arguments.backend}"]
    overrides = [*arguments.overrides, *backend]
    reading = {name: getattr(arguments, name) for name in ("split", "hub_config", "prompt") if getattr(arguments, name) is not None}
    if arguments.columns is not None:
        reading["columns"] = _table(arguments.columns)
    return Outcome(
        evaluate_file(arguments.model, arguments.data, overrides, arguments.out, arguments.where, arguments.workers, reading)
    )


def _table(text: str) -> dict[str, str]:
    """The columns that a TOML table names. Raises InputError."""
    from tutelage.config import Source

    try:
        return Source(path="rows", columns=tomllib.loads(f"columns = {text}")["columns"]).columns  # type: ignore[return-value]
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise InputError(f"--columns {text}: write a table, such as {{ prompt = \"problem\", reference = \"answer\" }}: {error}") from None


def evaluate_file(
    model: str,
    data: str,
    overrides: list[str],
    out: Path | None,
    where: str = "local",
    workers: int = 2,
    reading: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Let a model solve the problems of a data source; print the summary, and log every generation to a directory.

    Args:
        where: as `fanout.run_map`; on a cluster, `workers` jobs share the problems.
        reading: how the rows are read: `split`, `hub_config`, `columns`, `shape`, `prompt`, as in `data.validation`.

    Raises:
        InputError: `out` exists, or another process writes it; a row has no prompt or reference; an engine, or Ray, was asked for
            and is not installed.
        RunError: an engine failed twice at the same problems, or does not have the model's weights; finished parts are on the disk.
    """
    from tutelage.machines import fanout
    from tutelage.runs import checked_name, owned

    fanout.require(where)
    config = config_of(model, overrides)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    directory = checked_name(out or Path("evaluations") / f"{Path(model).name}-{Path(data).stem}-{stamp}", "--out")
    with owned(directory, new=not _is_unfinished(directory), parents=True):
        return _evaluate(config, directory, {"model": model, "data": data}, reading or {}, where, workers)


def _is_unfinished(directory: Path) -> bool:
    """Whether a directory holds an evaluation that was killed, or failed."""
    return (directory / "settings.toml").is_file() and not (directory / "summary.json").exists()


def _evaluate(
    config: Config, directory: Path, asked_for: dict[str, str], reading: dict[str, Any], where: str, workers: int
) -> dict[str, Any]:
    """The work of `evaluate_file`.

    Args:
        asked_for: the model and the data, as they were named.
    """
    from tutelage import console
    from tutelage.data import choose_problems, open_store, problems_of, template_of
    from tutelage.evaluation import Job, settled, solve_elsewhere, solve_here, summarize
    from tutelage.model import tokenizer_of
    from tutelage.runs import append_lines, to_lines, write_text

    solving = config.model_copy(update={"eval": settled(config.eval)})
    tokenizer = tokenizer_of(config)
    source = as_validation(config.data).model_copy(update={"path": asked_for["data"], **reading})
    template = template_of(source.prompt or config.data.prompt, tokenizer, config.data.template_arguments)
    store = open_store(source, template, tokenizer, config.eval.reward, setting="data.validation")
    asked = problems_of(store, config.data)
    chosen = choose_problems(asked, config.eval.seed)[: config.eval.examples or None]
    job = Job.of(chosen, tokenizer, solving.eval)
    _begin(directory, config, template)

    def keep(part: Job, solved: Solved) -> None:
        append_lines(directory / "generations.jsonl", _with_sources(part, solved))

    with console.progress(f"solving {len(chosen)} problems", job.responses) as advance:
        if where == "local":
            solved = solve_here(job, solving, directory, advance, keep)
        else:
            solved = solve_elsewhere(job, solving, where, workers, advance, keep)
    write_text(directory / "generations.jsonl", to_lines(_with_sources(job, solved)))
    left_out = Counter(fate for _, fate, _ in asked.faults)
    failed = {"entropy_failed": solved.entropy_failed} if solved.entropy_failed else {}
    summary = {
        **asked_for, "rows": len(store), "malformed_rows": left_out["malformed"],
        "rows_without_reference": left_out["no reference"], "rows_that_ask_again": asked.again, "backend": solving.eval.backend,
        **summarize(solved.records, solved.entropy), **failed,
        "certificates": [certificate.as_dict() for certificate in solved.certificates],
    }  # fmt: skip
    write_text(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    _show(summary, len(chosen), directory)
    return summary


def as_validation(data: DataConfig) -> Source:
    """How rows to evaluate on are read if nothing else is said: as the validation rows of the configuration are, if it names some."""
    named = data.of_validation() if data.validation is not None else None
    return named or data.of_training().model_copy(update={"split": data.validation_split, "where": None})


def _begin(directory: Path, config: Config, template: Template) -> None:
    """Make the directory, and write what an evaluation is of: settings, prompt template, environment and command.

    What an evaluation that was not finished has left there is kept under another name, for all is asked again.
    """
    from tutelage import console
    from tutelage.config import to_toml
    from tutelage.runs import describe_environment, write_text

    answers = directory / "generations.jsonl"
    try:
        directory.mkdir(exist_ok=True)
        if answers.exists():
            kept = directory / f"generations.before-restart-{len(list(directory.glob('generations.before-restart-*'))) + 1}.jsonl"
            answers.rename(kept)
            console.say(f"{directory}: holds an evaluation that was not finished; all is asked again, and {kept.name} has what was there")
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
    write_text(directory / "settings.toml", to_toml(config))
    write_text(directory / "prompt.txt", template.text)
    write_text(directory / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")


def _show(summary: dict[str, Any], asked: int, directory: Path) -> None:
    from tutelage import console
    from tutelage.report import show

    if "entropy_failed" in summary:
        console.say(f"entropies could not be computed ({summary['entropy_failed']}); all else counts", style="yellow")
    show.summary_table(f"{summary['model']} on {summary['data']}", summary)
    named = {"malformed_rows": "are malformed", "rows_without_reference": "have no reference", "rows_that_ask_again": "ask a problem again"}
    problems = summary["rows"] - sum(summary[key] for key in named)
    others = "".join(f"; {summary[key]} rows {what}" for key, what in named.items() if summary[key])
    console.say(f"{asked} of the {problems} problems were asked{others}; every response is in {directory}/generations.jsonl")


def _with_sources(job: Job, solved: Solved) -> list[dict[str, Any]]:
    """The records of a job's problems, each with the row that its problem comes from."""
    samples = job.sampling.samples
    return [{"source": job.problems[index // samples].source, **record} for index, record in enumerate(solved.records)]

"""A model is evaluated on one source of problems, or on several: each is a part with its own settings, directory and summary."""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config, EvalConfig, Source, changeable, differences, load_config, parse_overrides, to_toml
from tutelage.console import percent
from tutelage.data import TEMPERATURE, Asked, Named, Template, choose_problems, named_source, open_store, problems_of, template_of
from tutelage.errors import InputError
from tutelage.evaluation.grade import summarize
from tutelage.evaluation.solve import Job, Solved
from tutelage.evaluation.spread import Solve, settled, solve_elsewhere, solver
from tutelage.evaluation.tell import FEW_QUESTIONS, in_words, least_difference, points
from tutelage.model import identity_of, tokenizer_of
from tutelage.report import show
from tutelage.runs import append_lines, changes_of_model, describe_environment, shown_accuracy, to_lines, write_text

IDENTITY = "identity.json"
"""The model that the parts of one evaluation are asked of (`identity_of`)."""
NOT_ASKED = {
    "malformed_rows": "are malformed", "rows_left_out": "are left out", "rows_without_reference": "have no reference",
    "rows_that_ask_again": "ask a problem again",
}  # fmt: skip
"""Keys of a summary that count rows which are not asked, and what is said of these."""


@dataclass(frozen=True)
class Part:
    """One source that a model is evaluated on.

    Attributes:
        source: what is read; `config.data.validation` is the same.
        config: what the part is evaluated with.
        directory: for its files.
    """

    named: Named
    source: Source
    config: Config
    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name


@dataclass(frozen=True)
class Prepared:
    """A part whose rows are read."""

    part: Part
    asked: Asked
    job: Job
    template: Template


def parts_of(
    names: Sequence[str], source: Source, config: Config, overrides: Sequence[str], directory: Path, reading: Mapping[str, Any]
) -> list[Part]:
    """The parts of an evaluation on the sources that are named; several have directories of their own below one.

    Args:
        source: how rows are read that are no benchmark's, if `reading` says nothing else.
        overrides: the settings that were asked for, which go before a benchmark's own.
        reading: `split`, `hub_config`, `columns`, `shape`, `prompt` of all sources; and `folder`, where the rows of benchmarks lie.

    Raises:
        InputError: nothing has such a name.
    """
    options = {key: value for key, value in reading.items() if key != "folder"}
    if "columns" in options:
        options["shape"] = "auto"
    parts, taken = [], Counter[str]()
    for name in names:
        named = named_source(name, source, reading.get("folder"))
        if named.note:
            console.say(named.note, style="yellow")
        read = named.source.model_copy(update=options)
        taken[named.short] += 1
        folder = directory / (named.short if taken[named.short] == 1 else f"{named.short}-{taken[named.short]}")
        settings = {"data": config.data.model_copy(update={"validation": read}), "eval": _asked_as(named, config.eval, overrides)}
        parts.append(Part(named, read, config.model_copy(update=settings), folder if len(names) > 1 else directory))
    return parts


def _asked_as(named: Named, config: EvalConfig, overrides: Sequence[str]) -> EvalConfig:
    """The settings of [eval] for a source: a benchmark has its own, where nothing else was asked for."""
    if named.benchmark is None:
        return config
    said = {key.removeprefix("eval.") for key, _ in parse_overrides(list(overrides))}
    own: dict[str, Any] = {"samples": named.benchmark.samples, "tolerance": named.benchmark.tolerance, "examples": None}
    samples = config.samples if "samples" in said else named.benchmark.samples
    if samples > 1 and config.temperature == 0:
        own |= {"samples": 1} if "temperature" in said else {"temperature": TEMPERATURE}  # greedy responses to a question are one
    return config.model_copy(update={key: value for key, value in own.items() if key not in said})


def evaluate_parts(
    parts: Sequence[Part], config: Config, directory: Path, model: str, where: str, workers: int
) -> dict[str, Any]:
    """Let a model solve the problems of all parts; the summary of one, or of several ``{"model", "parts": {name: summary}}``.

    Args:
        config: of all parts, without what they have of their own.
        directory: of the evaluation; of several parts, one that is finished in it is not asked again.
        model: as it was named.

    Raises:
        InputError: a part was evaluated with other settings, rows cannot be read, or the directory cannot be written.
        RunError: an engine failed twice at the same problems, or does not have the model's weights; finished parts are on the disk.
    """
    if len(parts) == 1:
        [summary] = _evaluate(parts, directory, model, where, workers)
        return summary
    known = {part.name: _finished(part) for part in parts}
    done = [name for name, summary in known.items() if summary is not None]
    identity = identity_of(config.model.id)
    with _writing(directory):
        directory.mkdir(exist_ok=True)
    if done:
        _refuse_another_model(directory, identity)
    write_text(directory / IDENTITY, json.dumps(identity) + "\n")
    write_text(directory / "settings.toml", to_toml(config))
    if done:
        console.say(f"{directory}: finished before, and not asked again: {', '.join(done)}")
    else:
        console.say(f"if this is interrupted, the same command with --out {directory} goes on with what is missing")
    left = [part for part in parts if known[part.name] is None]
    for part, summary in zip(left, _evaluate(left, directory, model, where, workers), strict=True):
        known[part.name] = summary
    both = {"model": model, "parts": known}
    write_text(directory / "summary.json", json.dumps(both, indent=2) + "\n")
    _show_all(model, known)
    return both


def _finished(part: Part) -> dict[str, Any] | None:
    """The summary of a part that is finished. Raises InputError: it was evaluated with other settings."""
    file = part.directory / "summary.json"
    if not file.is_file():
        return None
    others = differences(load_config(part.directory / "settings.toml"), part.config, changeable())
    if others:
        raise InputError(f"{part.directory}: was evaluated with other settings ({'; '.join(others)}); choose another --out")
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file}: damaged; remove {part.directory} to have it evaluated again") from None
    return summary


def _refuse_another_model(directory: Path, identity: Mapping[str, Any]) -> None:
    """Raises InputError: the finished parts of an evaluation were asked of another model."""
    try:
        changed = changes_of_model(json.loads((directory / IDENTITY).read_text(encoding="utf-8")), identity)
    except (OSError, ValueError, KeyError, TypeError):
        changed = [f"{IDENTITY} is missing or damaged"]
    if changed:
        raise InputError(
            f"{directory}: holds answers of another model: {identity['model']} has changed since ({'; '.join(changed)}); choose another"
            " --out, or undo that"
        )


def _evaluate(parts: Sequence[Part], directory: Path, model: str, where: str, workers: int) -> Iterator[dict[str, Any]]:
    """The summary of each part, in order. All rows are read before the model is loaded, and it is loaded once."""
    if not parts:
        return
    config = parts[0].config
    backend = settled(config.eval).backend
    solving = config.model_copy(update={"eval": config.eval.model_copy(update={"backend": backend})})
    tokenizer = tokenizer_of(config)
    prepared = [_prepare(part, tokenizer, backend) for part in parts]
    if len(parts) > 1 and backend != "native" and config.eval.entropy == "exact":
        said = (
            'eval.entropy = "exact" needs the memory of the engine, which is started anew for each source; "off" starts it once'
        )
        console.say(said, style="yellow")
    _begin(prepared[0])  # engines write their logs into its directory, or beside it
    with (
        solver(solving, [each.job for each in prepared], directory)
        if where == "local"
        else contextlib.nullcontext(functools.partial(_solve_elsewhere, solving, where, workers))
    ) as solve_job:
        for index, each in enumerate(prepared):
            if index:
                _begin(each)
            yield _solve(each, model, solve_job)


def _solve_elsewhere(solving: Config, where: str, workers: int, job: Job, on_finished: Any, on_part: Any) -> Solved:
    return solve_elsewhere(job, solving.model_copy(update={"eval": job.config}), where, workers, on_finished, on_part)


def _prepare(part: Part, tokenizer: Any, backend: str) -> Prepared:
    """Read the rows of a part, and say what it can tell. Raises InputError."""
    config, benchmark = part.config, part.named.benchmark
    template = template_of(part.source.prompt or config.data.prompt, tokenizer, config.data.template_arguments)
    try:
        store = open_store(part.source, template, tokenizer, config.eval.reward)
    except InputError as error:
        if benchmark is None or part.source.path != benchmark.pinned:
            raise
        raise InputError(
            f"{error}. Rows of {benchmark.name} on the disk are read by --folder DIRECTORY, or {benchmark.name}=PATH"
        ) from None
    asked = problems_of(store, config.data)
    chosen = choose_problems(asked, config.eval.seed)[: config.eval.examples or None]
    job = Job.of(chosen, tokenizer, config.eval.model_copy(update={"backend": backend}))
    if benchmark is not None and len(asked.rows) != benchmark.questions:
        console.say(
            f"{benchmark.name}: {part.source.path} has {len(asked.rows)} questions, and the benchmark {benchmark.questions}: results"
            " of other questions cannot be compared with published ones",
            style="yellow",
        )
    least = least_difference(len(chosen), job.sampling.samples)
    console.say(f"{part.named.text}: {in_words(len(chosen), job.sampling.samples, least)} where half of the responses are right")
    return Prepared(part, asked, job, template)


def _solve(prepared: Prepared, model: str, solve_job: Solve) -> dict[str, Any]:
    """Have the problems of one part solved, and write down what comes of it."""
    part, job = prepared.part, prepared.job
    file = part.directory / "generations.jsonl"

    def keep(done: Job, solved: Solved) -> None:
        append_lines(file, _with_sources(done, solved))

    with console.progress(f"solving {len(job.problems)} problems of {part.named.text}", job.responses) as advance:
        solved = solve_job(job, advance, keep)
    write_text(file, to_lines(_with_sources(job, solved)))
    left_out = Counter(fate for _, fate, _ in prepared.asked.faults)
    failed = {"entropy_failed": solved.entropy_failed} if solved.entropy_failed else {}
    summary = {
        "model": model, "data": part.named.text, "read_from": part.source.path, "rows": len(prepared.asked.store),
        "malformed_rows": left_out["malformed"], "rows_left_out": left_out["left out"],
        "rows_without_reference": left_out["no reference"], "rows_that_ask_again": prepared.asked.again,
        "backend": job.config.backend, **summarize(solved.records, solved.entropy), **failed,
        "detectable_difference": least_difference(len(job.problems), job.sampling.samples, solved.records),
        "certificates": [certificate.as_dict() for certificate in solved.certificates],
    }  # fmt: skip
    write_text(part.directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    _show(summary, len(job.problems), part.directory)
    return summary


def _with_sources(job: Job, solved: Solved) -> list[dict[str, Any]]:
    """The records of a job's problems, each with the row that its problem comes from."""
    samples = job.sampling.samples
    return [{"source": job.problems[index // samples].source, **record} for index, record in enumerate(solved.records)]


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None


def _begin(prepared: Prepared) -> None:
    """Make the directory, and write what an evaluation is of: settings, prompt template, environment and command.

    What an evaluation that was not finished has left there is kept under another name, for all is asked again.
    """
    directory = prepared.part.directory
    answers = directory / "generations.jsonl"
    with _writing(directory):
        directory.mkdir(exist_ok=True)
        if answers.exists():
            kept = directory / f"generations.before-restart-{len(list(directory.glob('generations.before-restart-*'))) + 1}.jsonl"
            answers.rename(kept)
            console.say(
                f"{directory}: holds an evaluation that was not finished; all is asked again, and {kept.name} has what was there"
            )
    write_text(directory / "settings.toml", to_toml(prepared.part.config))
    write_text(directory / "prompt.txt", prepared.template.text)
    write_text(directory / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")


def _show(summary: Mapping[str, Any], asked: int, directory: Path) -> None:
    """Print a part's summary, and what it can tell."""
    if "entropy_failed" in summary:
        console.say(f"entropies could not be computed ({summary['entropy_failed']}); all else counts", style="yellow")
    show.summary_table(f"{summary['model']} on {summary['data']}", dict(summary))
    problems = summary["rows"] - sum(summary[key] for key in NOT_ASKED)
    others = "".join(f"; {summary[key]} rows {what}" for key, what in NOT_ASKED.items() if summary[key])
    console.say(f"{asked} of the {problems} problems were asked{others}; every response is in {directory}/generations.jsonl")
    told = in_words(summary["examples"], summary["samples"], summary["detectable_difference"])
    few = summary["examples"] < FEW_QUESTIONS
    rough = f"; an interval of fewer than {FEW_QUESTIONS} questions is rough" if few else ""
    console.say(f"{told} (two models, the same questions){rough}", style="yellow" if few else None)


def _show_all(model: str, summaries: Mapping[str, Any]) -> None:
    """A table with a row for each part."""

    def row(name: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
        asked = f"{summary['examples']} × {summary['samples']}"
        return name, asked, shown_accuracy(summary), percent(summary["cap_hit_rate"]), points(summary["detectable_difference"])

    columns = ("data", "questions × responses", "accuracy [95 %]", "cut off", "least difference told")
    console.table(f"{model}, accuracy over questions", columns, [row(*each) for each in summaries.items()])

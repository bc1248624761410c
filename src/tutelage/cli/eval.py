"""``tutelage eval``: grade any model on any data, and on benchmarks by name."""

from __future__ import annotations

import argparse
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.command import DATA, MODEL, OVERRIDES, Commands, Outcome, add_command, add_where, config_of, start
from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import DataConfig, Source


def add(commands: Commands) -> None:
    parser = add_command(commands, "eval", run, "grade any model on any data", takes_settings=True, description=OVERRIDES)
    parser.add_argument("model", nargs="?", help=MODEL)
    parser.add_argument("data", nargs="?", help=f"{DATA}, a benchmark (--list), or several with commas: gsm8k,math500,mine.jsonl")
    parser.add_argument("--list", action="store_true", help="list the benchmarks: hub name, split, questions, responses to each")
    parser.add_argument(
        "--out", type=Path, help="a new directory for the generations (default: evaluations/…), or an unfinished one"
    )
    parser.add_argument("--folder", type=Path, help="where the rows of benchmarks lie, by name; of one alone: gsm8k=PATH as data")
    parser.add_argument("--config", help="a TOML file of settings, such as recipes/evaluate.toml")
    parser.add_argument(
        "--backend",
        help="what generates: auto, vllm (one engine on each GPU in sight), native, or module:Class (eval.backend)",
    )
    parser.add_argument("--split", help="the split of the data (default: data.validation_split)")
    parser.add_argument("--hub-config", help="the configuration of a hub data set")
    parser.add_argument("--columns", metavar="TABLE", help='as data.columns: { prompt = "problem", reference = "answer" }')
    parser.add_argument("--prompt", help="the prompt template (default: what the model was trained with)")
    add_where(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    if arguments.list:
        return Outcome(list_benchmarks())
    if arguments.model is None or arguments.data is None:
        raise InputError("tutelage eval MODEL DATA: name both; tutelage eval --list shows the benchmarks that DATA may name")
    start()
    backend = [] if arguments.backend is None else [f"--eval.backend={arguments.backend}"]
    overrides = [*_settings_in(arguments.config), *arguments.overrides, *backend]
    options = ("split", "hub_config", "prompt", "folder")
    reading = {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None}
    if arguments.columns is not None:
        reading["columns"] = columns_of(arguments.columns)
    return Outcome(
        evaluate_file(arguments.model, arguments.data, overrides, arguments.out, arguments.where, arguments.workers, reading)
    )


def list_benchmarks() -> list[dict[str, Any]]:
    """Print the benchmarks; a dict of each."""
    from tutelage import console
    from tutelage.data import BENCHMARKS

    columns = ("name", "questions × responses", "data set of the hub", "revision", "subset", "split")
    rows = [
        (
            each.name,
            f"{each.questions} × {each.samples}",
            each.hub,
            (each.revision or "newest")[:8],
            each.hub_config or "",
            each.split,
        )
        for each in BENCHMARKS.values()
    ]
    console.table("Benchmarks", columns, rows)
    for each in BENCHMARKS.values():
        if each.unverified:
            console.say(f"{each.name}: not verified: {each.unverified}")
    keys = ("name", "pinned", "hub_config", "split", "questions", "samples", "tolerance", "read_in", "unverified")
    return [{key: getattr(each, key) for key in keys} for each in BENCHMARKS.values()]


def _settings_in(path: str | None) -> list[str]:
    """The settings of a TOML file as on the command line. Raises InputError."""
    import tomli_w

    from tutelage.config import load_config

    if path is None:
        return []
    load_config(path)
    sections = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if "id" in sections.get("model", {}):
        raise InputError(f"{path}: model.id: the model is named on the command line; leave it out of the file")
    values = {f"{section}.{key}": value for section, table in sections.items() for key, value in table.items()}
    table = next((name for name, value in values.items() if isinstance(value, dict)), None)
    if table is not None:
        raise InputError(f"{path}: {table} is a table, which a file for tutelage eval cannot hold; write it on the command line")
    return [
        f"--{name}={value if isinstance(value, str) else tomli_w.dumps({'value': value}).removeprefix('value = ').strip()}"
        for name, value in values.items()
    ]


def columns_of(text: str) -> dict[str, str]:
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
    """Let a model solve the problems of data sources; print the summary, and log every generation to a directory.

    Args:
        data: a file, a directory, a hub name, a benchmark, or several of them with commas; each of several has a directory of its own
            in `out`, and what is finished there is not asked again.
        where: as `fanout.run_map`; on a cluster, `workers` jobs share the problems.
        reading: how the rows are read: `split`, `hub_config`, `columns`, `shape`, `prompt`, as in `data.validation`; and `folder`, where
            the rows of benchmarks lie.

    Raises:
        InputError: `out` exists, or another process writes it; a row has no prompt or reference; an engine, or Ray, was asked for
            and is not installed.
        RunError: an engine failed twice at the same problems, or does not have the model's weights; finished parts are on the disk.
    """
    from tutelage.data import named_sources
    from tutelage.evaluation import evaluate_parts, parts_of
    from tutelage.machines import fanout
    from tutelage.runs import checked_name, owned

    fanout.require(where)
    config = config_of(model, overrides)
    names = named_sources(data)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    first = f"{Path(names[0]).stem}{f'-and-{len(names) - 1}-more' if len(names) > 1 else ''}"
    directory = checked_name(out or Path("evaluations") / f"{Path(model).name}-{first}-{stamp}", "--out")
    parts = parts_of(names, as_validation(config.data), config, overrides, directory, reading or {})
    for part in parts:
        checked_name(part.directory, "--out")
    with owned(directory, new=not _is_unfinished(directory), parents=True):
        return evaluate_parts(parts, config, directory, model, where, workers)


def _is_unfinished(directory: Path) -> bool:
    """Whether a directory holds an evaluation that was killed, or failed."""
    return (directory / "settings.toml").is_file() and not (directory / "summary.json").exists()


def as_validation(data: DataConfig) -> Source:
    """How rows to evaluate on are read if nothing else is said: as the validation rows of the configuration are, if it names some."""
    named = data.of_validation() if data.validation is not None else None
    return named or data.read_as_training(data.paths[0]).model_copy(update={"split": data.validation_split, "where": None})

"""``tutelage sample``: a model's own right answers to problems, as rows to train on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.command import DATA, MODEL, OVERRIDES, Commands, Outcome, add_command, add_where, config_of, integer, start

if TYPE_CHECKING:
    from tutelage.config import Config

TEMPERATURE = 1.0
"""At which problems are sampled where nothing else is said; a run's own temperature is that of its evaluations."""
MOST = 100_000


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "sample", run, "let a model write solutions, and keep the right ones to train on", takes_settings=True,
        description=f"Each problem is solved several times, at temperature {TEMPERATURE} unless --eval.temperature says otherwise. Called"
        f" again, it goes on where it was interrupted. {OVERRIDES}",
    )  # fmt: skip
    parser.add_argument("model", help=MODEL)
    parser.add_argument("problems", help=f"{DATA}; each needs a reference answer, and no solution")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file for the rows that are kept")
    parser.add_argument("--samples", type=integer(1, MOST), default=8, help="responses per problem (default 8)")
    parser.add_argument(
        "--keep", type=_keep, default="right", metavar="all|right|N",
        help="per problem: all responses that ended, the distinct right ones (default), or at most N of these",
    )  # fmt: skip
    parser.add_argument("--choose", choices=["random", "shortest", "spread"], default="random", help="which N (default random)")
    parser.add_argument(
        "--favour-hard", action="store_true", help="with --keep N: problems that are often solved keep fewer than N"
    )
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=42, help="of the responses and of the choice (default 42)")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="FILE",
        help="problems that are not asked, nor any that is nearly one of them; may be repeated. Those that a run was validated on,"
        " and those of data.validation, are left out by themselves",
    )  # fmt: skip
    parser.add_argument("--backend", help="what generates: auto, vllm, native, or module:Class (eval.backend)")
    add_where(parser)


def _keep(text: str) -> str | int:
    return text if text in ("all", "right") else integer(1, MOST)(text)


def run(arguments: argparse.Namespace) -> Outcome:
    start()
    from tutelage.evaluation import Wanted, problems_to_sample, sample_problems
    from tutelage.machines import fanout
    from tutelage.runs import checked_name

    fanout.require(arguments.where)
    checked_name(arguments.out, "--out")
    backend = [] if arguments.backend is None else [f"--eval.backend={arguments.backend}"]
    config = config_of(arguments.model, [f"--eval.temperature={TEMPERATURE}", "--data.overlap=drop", *arguments.overrides, *backend])
    problems, left_out = problems_to_sample(arguments.problems, config, arguments.exclude, _run_of(arguments.model))
    wanted = Wanted(arguments.samples, arguments.keep, arguments.choose, arguments.favour_hard, arguments.seed)
    summary = sample_problems(problems, config, arguments.out, wanted, arguments.where, arguments.workers, left_out)
    _show(summary)
    return Outcome(summary)


def _run_of(model: str) -> Config | None:
    """The configuration of the run that a model comes from, if it comes from one."""
    path = Path(model)
    comes_from_run = (path / "config.toml").is_file() or (path.name == "model" and (path.parent / "config.toml").is_file())
    return config_of(model, []) if comes_from_run else None


def _show(summary: dict[str, Any]) -> None:
    from tutelage import console

    responses = summary["problems"] * summary["samples"]
    rows = [(fate, count, console.percent(count / responses)) for fate, count in summary["fates"].items()]
    console.table("What became of each response", ("fate", "responses", "share"), [*rows, ("all", responses, "")])
    solved = console.within(summary["solved_at_least_once"] / summary["problems"], *summary["solved_share_ci95"])
    shares = [
        (f"pass@{k}", console.within(*(each[key] for key in ("estimate", "low", "high"))))
        for k, each in summary["pass_at_k"].items()
    ]
    counts = [
        ("problems", summary["problems"]), ("solved at least once", f"{summary['solved_at_least_once']}, {solved}"), *shares,
        ("mean length (tokens)", f"{summary['avg_response_length']:.1f}"),
    ]  # fmt: skip
    console.table("The pool", ("", "[95 %]"), counts)
    if not summary["kept"]:
        console.say(
            f"no row is kept, so there is nothing to train on; {summary['out'].removesuffix('.jsonl')}.samples.jsonl has every response"
        )
        return
    differ = summary["rows_whose_ids_differ"]
    note = f"; training tokenizes {differ} of them otherwise than the model said them" if differ else ""
    console.say(
        f"{summary['kept']} rows are in {summary['out']}{note}. Train on them: tutelage train CONFIG --data.train {summary['out']}"
    )

"""``tutelage improve``: rounds in which a model solves problems, trains on its right answers, and is measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.command import DATA, MODEL, OVERRIDES, Commands, Outcome, add_command, add_config, add_where, integer, start
from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import Config, Source
    from tutelage.experiments import Improvement

MOST_ROUNDS = 1000


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "improve", run, "rounds of sampling and training: a model trains on its own right answers, and is measured",
        takes_settings=True,
        description=(
            "Round 0 trains the model on the configuration's own rows. In each further round the last model solves problems, its right"
            f" answers become rows, and a model is trained on them and evaluated. Run again, it goes on. {OVERRIDES}"
        ),
    )  # fmt: skip
    add_config(parser)
    parser.add_argument("--rounds", type=integer(1, MOST_ROUNDS), default=3, help="rounds after round 0 (default 3)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/improve"), help="the directory of all rounds (default runs/improve)"
    )
    parser.add_argument(
        "--problems", metavar="SOURCE", help=f"problems to solve, with reference answers: {DATA} (default: data.train)"
    )
    parser.add_argument("--split", help="the split of the problems (default: data.train_split)")
    parser.add_argument("--hub-config", help="the configuration of a hub data set of problems (default: data.hub_config)")
    parser.add_argument(
        "--columns", metavar="TABLE", help='of the problems, as data.columns: { prompt = "problem", reference = "answer" }'
    )
    parser.add_argument(
        "--from", dest="origin", choices=["base", "last"], default="base",
        help="base (default): each round trains the configured model on all accepted rows so far; last: each goes on from the last one",
    )  # fmt: skip
    own = parser.add_mutually_exclusive_group()
    own.add_argument(
        "--with-rows", action="store_true", default=True, help="rounds train on the configuration's own rows too (default)"
    )
    own.add_argument("--without-rows", dest="with_rows", action="store_false", help="rounds train on accepted rows alone")
    parser.add_argument(
        "--start", metavar="MODEL", help=f"the model of round 0, as it is: {MODEL} (default: trained on data.train)"
    )
    _add_sampling(parser)
    add_where(parser, "where problems are solved: ")
    parser.add_argument("--dry-run", action="store_true", help="print every round with its rows and predicted time, and stop")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=integer(1, 100_000), default=8, help="responses per problem (default 8)")
    parser.add_argument(
        "--keep",
        default="right",
        metavar="all|right|N",
        help="per problem: all responses that ended, the distinct right ones (default), or at most N of these",
    )
    parser.add_argument(
        "--choose",
        choices=["random", "shortest", "spread"],
        default="random",
        help="which ones, where --keep is a number (default random)",
    )
    parser.add_argument("--favour-hard", action="store_true", help="problems that are rarely solved keep more of them")
    parser.add_argument("--seed", type=integer(0, 2**32 - 1 - MOST_ROUNDS), default=42, help="of responses and choices (default 42)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="of sampling; evaluations have eval.temperature (default 1)"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    start()
    from tutelage.experiments import predict_improve, run_improve
    from tutelage.runs import rounds

    wished = wished_by(arguments, config)
    if arguments.dry_run:
        found = predict_improve(config, wished, arguments.out, arguments.where)
        return Outcome({"directory": str(arguments.out), "rounds": found})
    page = run_improve(config, wished, arguments.out, arguments.where, arguments.workers)
    said = {"verdicts": rounds.verdicts(arguments.out), "collapse": rounds.collapse(arguments.out)}
    return Outcome({"directory": str(arguments.out), "page": str(page), "rounds": rounds.table(arguments.out), **said})


def wished_by(arguments: argparse.Namespace, config: Config) -> Improvement:
    """What the arguments ask for."""
    from tutelage.evaluation import Wanted
    from tutelage.experiments import Improvement

    wanted = Wanted(
        samples=arguments.samples, keep=_kept(arguments.keep), choose=arguments.choose, favour_hard=arguments.favour_hard,
        seed=arguments.seed,
    )  # fmt: skip
    return Improvement(
        problems=_problems(arguments, config), rounds=arguments.rounds, origin=arguments.origin, with_rows=arguments.with_rows,
        start=arguments.start, wanted=wanted, temperature=arguments.temperature,
    )  # fmt: skip


def _kept(text: str) -> Any:
    if text in ("right", "all"):
        return text
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise InputError(f'--keep {text}: write "right", "all", or how many right responses a problem keeps at most')
    return int(text)


def _problems(arguments: argparse.Namespace, config: Config) -> Source:
    """Where the problems come from, and how they are read: as the training rows are, if nothing else is said."""
    from tutelage.cli.eval import columns_of
    from tutelage.config import Source

    reading: dict[str, Any] = {"split": arguments.split or config.data.train_split, "hub_config": arguments.hub_config}
    if arguments.columns is not None:
        reading |= {"columns": columns_of(arguments.columns), "shape": "auto"}
    if arguments.problems is not None:
        return Source(path=arguments.problems, prompt=config.data.prompt, **reading)
    reading["hub_config"] = arguments.hub_config or config.data.hub_config
    if len(config.data.paths) > 1:
        raise InputError(f"data.train names {len(config.data.paths)} sources: name one that has the problems to solve (--problems)")
    # a problem whose given solution is wrong is a problem too
    return config.data.read_as_training(config.data.paths[0]).model_copy(update={"where": None, **reading})

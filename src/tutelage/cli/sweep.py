"""``tutelage sweep``: accuracy against the number of training rows, raw and filtered, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.command import OVERRIDES, WHERE, Commands, Outcome, add_command, add_config, integer, start

if TYPE_CHECKING:
    from tutelage.config import Config
    from tutelage.experiments import Design


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "sweep", run, "accuracy against the number of training rows, raw and filtered, with intervals",
        takes_settings=True,
        description=f"One training run for each size, kind of data, seed and varied setting. Run again, it goes on. {OVERRIDES}",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument("--sizes", default="full", help='training rows: 128,256,512,1024,full (default "full")')
    parser.add_argument(
        "--data", default="filtered",
        help="raw, filtered (right solutions only), control (as many rows as the filter keeps, at random); default filtered",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=integer(1, 1000), default=1, help="tries of each, with another subset and order of rows (default 1)"
    )
    parser.add_argument("--vary", action="append", default=[], metavar="section.key=A,B", help="values of any other setting")
    parser.add_argument(
        "--equal", choices=["epochs", "steps", "tokens"],
        help="what trials have in common (default: epochs; steps where train.num_steps is set)",
    )  # fmt: skip
    parser.add_argument("--lr", help="a learning rate for each size: 1e-4,5e-5,… (default: train.lr for all)")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="the sweep's directory (default runs/sweep)")
    parser.add_argument("--where", default="local", help=WHERE)
    parser.add_argument(
        "--workers", type=integer(1, 10_000), help="trials at the same time on this machine (default: one on each GPU, else one)"
    )
    parser.add_argument(
        "--gpus-per-trial", type=integer(1, 1024), default=1, help="2: one trains, vLLM has the other (default 1)"
    )
    parser.add_argument("--models", choices=["all", "best", "none"], default="all", help="whose trained models stay on the disk")
    parser.add_argument("--dry-run", action="store_true", help="print every trial with its predicted time and memory, and stop")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    design = _design(arguments, config)
    start()
    from tutelage.experiments import predict_sweep, run_sweep
    from tutelage.runs import results, verdicts

    if arguments.dry_run:
        trials = predict_sweep(config, design, arguments.out, arguments.where, arguments.gpus_per_trial, arguments.models)
        return Outcome({"directory": str(arguments.out), "trials": trials})
    page = run_sweep(
        config, design, arguments.out, where=arguments.where, workers=arguments.workers,
        gpus_per_trial=arguments.gpus_per_trial, models=arguments.models,
    )  # fmt: skip
    found = results.points(arguments.out)
    judged = verdicts.judge(found)
    return Outcome(
        {
            "directory": str(arguments.out), "page": str(page), "points": results.table(arguments.out),
            "verdicts": verdicts.of_sweep(arguments.out, found, judged),
            "growth": {name: vars(each) for name, each in judged.growth.items()},
        }
    )  # fmt: skip


def _design(arguments: argparse.Namespace, config: Config) -> Design:
    """The design that the arguments ask for; settings that it sets itself are named where the configuration has others."""
    from tutelage import console
    from tutelage.config import Config
    from tutelage.experiments import SETS_ITSELF, Design, parse_rates, parse_sizes, parse_vary

    varied = parse_vary(arguments.vary)
    by_steps = config.train.num_steps is not None or any(key == "train.num_steps" for key, _ in varied)
    kinds: Any = tuple(part.strip() for part in arguments.data.split(","))
    design = Design(
        parse_sizes(arguments.sizes), kinds, arguments.seeds, varied, arguments.equal or ("steps" if by_steps else "epochs"),
        parse_rates(arguments.lr),
    )  # fmt: skip
    for key in ("size", "filter"):
        if getattr(config.data, key) != getattr(Config().data, key):
            console.complain(f"data.{key} of the configuration is not looked at: {SETS_ITSELF[f'data.{key}']} says it")
    return design

"""``tutelage eval``: grade any model on any data."""

from __future__ import annotations

import argparse
from pathlib import Path

from tutelage.cli.command import DATA, MODEL, OVERRIDES, WHERE, Commands, Outcome, add_command, start


def add(commands: Commands) -> None:
    parser = add_command(commands, "eval", run, "grade any model on any data", takes_settings=True, description=OVERRIDES)
    parser.add_argument("model", help=MODEL)
    parser.add_argument("data", help=DATA)
    parser.add_argument("--out", type=Path, help="a new directory for the generations (default: evaluations/…)")
    parser.add_argument(
        "--backend",
        choices=["auto", "vllm", "native"],
        help="what generates; vllm: one engine on each GPU in sight (eval.backend)",
    )
    parser.add_argument("--where", default="local", help=WHERE)
    parser.add_argument("--workers", type=int, default=2, help="with Ray: how many jobs share the problems (default 2)")


def run(arguments: argparse.Namespace) -> Outcome:
    start()
    from tutelage.cli.inference import evaluate_file

    backend = [] if arguments.backend is None else [f"--eval.backend={arguments.backend}"]
    overrides = [*arguments.overrides, *backend]
    return Outcome(evaluate_file(arguments.model, arguments.data, overrides, arguments.out, arguments.where, arguments.workers))

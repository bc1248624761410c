"""``tutelage filter``: keep the rows whose worked solution is right."""

from __future__ import annotations

import argparse
from pathlib import Path

from tutelage.cli.command import DATA, OVERRIDES, WHERE, Commands, Outcome, add_command


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "filter", run, "keep the rows whose worked solution is right", takes_settings=True, description=OVERRIDES
    )
    parser.add_argument("data", help=DATA)
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file for the rows that are kept")
    parser.add_argument(
        "--control",
        choices=["random"],
        help="also write OUT.control.jsonl: as many rows, drawn at random from all well-formed ones",
    )
    parser.add_argument("--where", default="local", help=WHERE)


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.cli.filtering import filter_file
    from tutelage.config import load_config

    config = load_config(None, arguments.overrides)
    kept = filter_file(arguments.data, arguments.out, config.data, config.eval.reward, arguments.control, arguments.where)
    return Outcome({"kept": kept, "out": str(arguments.out)})

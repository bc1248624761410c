"""``tutelage compare``: two evaluations of the same questions."""

from __future__ import annotations

import argparse

from tutelage.cli.command import Commands, Outcome, add_command, integer


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "compare", run, "two evaluations of the same questions: gained, lost, and whether the difference is significant"
    )
    parser.add_argument(
        "first", metavar="RUN_A", help="a run, or a directory of `tutelage eval`; RUN@STEP: not its last evaluation"
    )
    parser.add_argument("second", metavar="RUN_B", help="the same, to compare with")
    parser.add_argument("--examples", type=integer(0, 10**6), default=3, help="problems shown of each kind of change (default 3)")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.runs import as_json, compare_runs

    return Outcome(as_json(compare_runs(arguments.first, arguments.second, arguments.examples)))

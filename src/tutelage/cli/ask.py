"""``tutelage ask``: ask a model one question."""

from __future__ import annotations

import argparse
import contextlib
import sys

from tutelage.cli.command import MODEL, OVERRIDES, Commands, Outcome, add_command, start


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "ask", run, "ask a model one question", takes_settings=True, prints_json=False, description=OVERRIDES
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("question")


def run(arguments: argparse.Namespace) -> Outcome:
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer
        start()
        from tutelage.cli.inference import ask

        answer = ask(arguments.model, arguments.question, arguments.overrides)
    print(answer)
    return Outcome()

"""``tutelage grade``: are two answers equal?"""

from __future__ import annotations

import argparse

from tutelage.cli.command import Commands, Outcome, add_command
from tutelage.errors import InputError


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "grade", run, "are two answers equal? prints the verdict and the layer that decided"
    )
    parser.add_argument("gold", help="the reference answer")
    parser.add_argument("answer", help="the answer to grade")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.grading import grade

    if not arguments.gold.strip():
        raise InputError("the reference answer is empty")
    verdict = grade(arguments.gold, arguments.answer)
    word = {True: "equal", False: "not equal", None: "undecided"}[verdict.equal]
    print(f"{word}  (layer: {verdict.layer}{'; ' + verdict.why if verdict.why and not verdict.equal else ''})")
    return Outcome({"equal": verdict.equal, "layer": verdict.layer, "why": verdict.why})

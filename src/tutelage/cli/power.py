"""``tutelage power``: what an evaluation can tell, before it is made."""

from __future__ import annotations

import argparse
import math
from typing import Any

from tutelage.cli.command import Commands, Outcome, add_command, integer
from tutelage.errors import InputError

FEW_QUESTIONS = 100
"""Below these, intervals of low or high accuracies are too narrow (docs/evaluation.md)."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "power", run, "what an evaluation can tell, before it is made: which difference of two models, with how many questions",
        description="What an evaluation can tell of two models, by the variance between questions and within them (Miller 2024).",
    )  # fmt: skip
    parser.add_argument("--questions", type=integer(2, 10**7), required=True, help="questions that each model is asked")
    parser.add_argument("--samples", type=integer(1, 10**6), default=1, help="responses to each question (default 1)")
    parser.add_argument(
        "--difference", type=share("--difference"), default=0.05, help="of two accuracies: 0.05 is 5 points (default)"
    )
    parser.add_argument(
        "--accuracy", type=share("--accuracy"), default=0.5, help="of the model at hand (default 0.5, where least can be told)"
    )
    parser.add_argument(
        "--within", type=share("--within"),
        help="the mean variance of answers within a question (default: half of p(1 − p), p the accuracy)",
    )  # fmt: skip
    parser.add_argument(
        "--correlation", type=share("--correlation"), help="of the two models' chances, over questions (default 0.5)"
    )
    parser.add_argument("--confidence", type=share("--confidence"), default=0.95, help="default 0.95")
    parser.add_argument("--power", type=share("--power"), default=0.8, help="how surely a difference is to be told (default 0.8)")
    parser.add_argument("--unpaired", action="store_true", help="the two models are asked different questions")


def share(name: str) -> Any:
    """The `type` of an argument that is a share."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:  # not a number is not within, either
            raise argparse.ArgumentTypeError(f"must be a share from 0 to 1 (5 points are 0.05), got {text[:40]!r}")
        return value

    number.__name__ = name
    return number


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console
    from tutelage.stats import detectable_difference, power_of, questions_for

    correlation = 0.5 if arguments.correlation is None else arguments.correlation
    if arguments.unpaired and arguments.correlation is not None:
        raise InputError(
            "--correlation: models that are asked different questions have none; leave it out, or leave out --unpaired"
        )
    model = {
        "samples": arguments.samples, "accuracy": arguments.accuracy, "within": arguments.within,
        "confidence": arguments.confidence, "paired": not arguments.unpaired, "correlation": correlation,
    }  # fmt: skip
    questions, difference, wanted = arguments.questions, arguments.difference, arguments.power
    try:
        power = power_of(difference, questions, **model)
        smallest = detectable_difference(questions, power=wanted, **model)
        needed = questions_for(difference, power=wanted, **model)
    except ValueError as error:
        raise InputError(str(error)) from None
    found = {
        "questions": questions, "difference": difference, **model, "correlation": None if arguments.unpaired else correlation,
        "wanted_power": wanted, "power": power, "smallest_difference": smallest, "questions_needed": needed,
    }  # fmt: skip
    for line in sentences(found):
        console.say(line)
    return Outcome(found)


def sentences(found: dict[str, Any]) -> list[str]:
    """What was found, in words."""
    samples = "one answer each" if found["samples"] == 1 else f"{found['samples']} answers each"
    who = "two models on the same questions" if found["paired"] else "two models on different questions"
    questions, wanted = f"{found['questions']:,} questions", f"{100 * found['wanted_power']:g} %"
    said = [
        f"{questions}, {samples}; {who}; accuracy about {100 * found['accuracy']:g} %, confidence {100 * found['confidence']:g} %."
    ]
    said.append(
        f"A true difference of {100 * found['difference']:g} points is told with a chance of {100 * found['power']:.0f} %."
    )
    smallest = found["smallest_difference"]
    if smallest >= 1:
        said.append(f"No difference is told with a chance of {wanted}.")
    else:
        said.append(f"{questions}: differences under {100 * smallest:.1f} points cannot be told (with a chance of {wanted}).")
    said.append(f"For {100 * found['difference']:g} points, {found['questions_needed']:,} questions are needed.")
    if found["questions"] < FEW_QUESTIONS:
        said.append(
            f"Below {FEW_QUESTIONS} questions, intervals of accuracies near 0 % or 100 % are too narrow: more questions help, more"
            " samples do not."
        )
    said.append(
        "This is of two models. The spread between training seeds comes on top: --seeds 3 of `tutelage sweep` measures it."
    )
    return said

"""``tutelage check``: prove on a person's own model, tokenizer and data what the tests prove on ours."""

from __future__ import annotations

import argparse

from tutelage.cli.command import OVERRIDES, Commands, Outcome, add_command, add_config, start


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "check", run, "prove on your model, tokenizer and data what the tests prove on ours", takes_settings=True,
        description=f"A table of what is proven, failed or not applicable. Exit code 1 if something failed. {OVERRIDES}",
    )  # fmt: skip
    add_config(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    start()
    from tutelage.check import doctor

    findings = doctor.check(config)
    doctor.show(findings)
    value = doctor.as_json(findings)
    return Outcome(value, exit_code=int(value["failed"] > 0))

"""``tutelage completion``: a completion script for the shell."""

from __future__ import annotations

import argparse

from tutelage.cli.command import Commands, Outcome, add_command


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "completion", run, "a completion script for the shell, settings and their choices included", prints_json=False
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def run(arguments: argparse.Namespace) -> Outcome:
    import shtab

    parser = arguments.build_parser(with_settings=True)
    print(shtab.complete(parser, shell=arguments.shell))
    return Outcome()

"""``tutelage train``: train by a configuration, or compute a step of a run again."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from tutelage.cli.command import Commands, Outcome, add_command, integer, start
from tutelage.errors import InputError

MOST_RANKS = 1024
"""Of one machine."""


class SettingsHelp(argparse.Action):
    """``train --help``: the usage, then every setting with its docstring."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this message, with every setting, and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tutelage.config import describe
        from tutelage.console import columns, fitted

        lines, last = [parser.format_help()], ""
        for section, key, kind, default, text in describe():
            if section != last:
                lines.append(f"\n[{section}]")
                last = section
            lines.append(fitted(f"  --{section}.{key}  ({kind}; default {default})", columns(), " " * 6).plain)
            lines.append(fitted(f"      {' '.join(text.split())}", columns()).plain)
        print("\n".join(lines))
        parser.exit()


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "train", run, "train by a configuration, evaluating while it trains", takes_settings=True, add_help=False,
        usage="tutelage train [CONFIG.toml] [--section.key value …]",
        description="Train by a TOML file and overrides. Run again in an unfinished run directory, it goes on from the last checkpoint.",
    )  # fmt: skip
    parser.add_argument(
        "config", nargs="?", help="a TOML file; without one, the defaults (the embedded model on the built-in task)"
    )
    _add_launch(parser)
    parser.add_argument(
        "--allow", action="append", default=[], metavar="section.key",
        help="go on with an unfinished run although this setting has changed (can be given several times)",
    )  # fmt: skip
    parser.add_argument(
        "--replay", type=integer(1, 10**9), metavar="STEP", help="compute a step of the run again, row by row, and write nothing"
    )
    parser.add_argument("--quiet", action="store_true", help="print warnings, and how it ends, and nothing else")
    parser.add_argument(
        "--json-lines", action="store_true",
        help="print the lines of metrics.jsonl as they are written, and everything else on standard error",
    )  # fmt: skip
    parser.add_argument("-h", "--help", action=SettingsHelp)


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launch", type=integer(1, MOST_RANKS), metavar="N",
        help="as N ranks on this machine, which share the model (or start it with torchrun)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> Outcome:
    if arguments.launch is not None:
        from tutelage.machines import launch

        return Outcome(exit_code=launch(arguments.launch, [*_without_launch(arguments.words), *arguments.overrides]))
    from tutelage.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    start()
    if arguments.replay is not None:
        from tutelage.training import replay_step

        return Outcome(replay_step(config, arguments.replay))
    from tutelage.report import show
    from tutelage.training import fine_tune

    with _as_asked(arguments):
        result = fine_tune(config, allow_changes=arguments.allow)
        show.finished(result.directory, result.evaluations, result.evaluation_cost)
    return Outcome({**vars(result), "directory": str(result.directory)})


@contextlib.contextmanager
def _as_asked(arguments: argparse.Namespace) -> Iterator[None]:
    """Within it, the console says as much as was asked for (``--quiet``), and lines of metrics go to standard output (``--json-lines``)."""
    from tutelage import console

    if arguments.json and arguments.json_lines:
        raise InputError("--json and --json-lines: both write to standard output; leave one of them out")
    with contextlib.ExitStack() as asked:
        if arguments.quiet:
            asked.enter_context(console.quiet())
        if arguments.json_lines:
            asked.enter_context(console.lines_to(sys.stdout))
            asked.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _without_launch(words: Sequence[str]) -> list[str]:
    """The same words without ``--launch N``: what a parser of this option alone leaves."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_launch(parser)
    return parser.parse_known_args(words)[1]

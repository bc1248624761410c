"""The entry of the command line: it parses, runs one command, prints its value under ``--json`` and maps errors to exit codes."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tutelage import console
from tutelage.cli import (
    ask,
    check,
    compare,
    completion,
    demo,
    eval,
    export,
    filter,
    grade,
    improve,
    init,
    plan,
    power,
    report,
    sample,
    sweep,
    train,
)
from tutelage.cli.command import Outcome
from tutelage.config import split_overrides
from tutelage.errors import InputError, RunError, first_line
from tutelage.machines import asked_in_vain, importing, listening, prepare_process
from tutelage.runs import finite

COMMANDS = (
    demo, init, plan, check, train, sweep, eval, power, filter, sample, improve, ask, report, compare, export, grade, completion,
)  # fmt: skip
"""The commands' files, in the order in which ``--help`` lists them. Each has `add`, its arguments, and `run`, its work."""
EXIT_CODES = """exit codes:
  0    done; also a training run that SIGTERM or SIGUSR1 stopped: before
       training, or with its state saved
  1    it failed after it had begun, `check` found a failure, or nothing that
       `plan` knows fits
  2    bad input, found before compute was spent
  130  Ctrl-C; SIGTERM and SIGUSR1 too where nothing trains"""


class Parser(argparse.ArgumentParser):
    """A parser whose messages, which repeat what was given, are printable."""

    def error(self, message: str) -> NoReturn:
        super().error(message + _meant(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        said = console.printable(message)
        to_a_terminal = (file or sys.stderr).isatty()
        super()._print_message(console.fitted(said, console.columns()).plain if to_a_terminal else said, file)


def _meant(message: str) -> str:
    """What was probably meant, to stand behind a message of the parser: the nearest command, or what a flag is called here."""
    if wrong := re.search(r"invalid choice: '([^']*)' \(choose from 'demo'", message):
        names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
        near = difflib.get_close_matches(wrong[1], names, n=1)
        return f"; did you mean {near[0]}?" if near else ""
    from tutelage.config import known_keys, of_another_tool

    if unknown := re.search(r"unrecognized arguments: .*?--([\w-]+)", message):
        name = unknown[1].replace("-", "_")
        same = [f"--{key}" for key in known_keys() if key.rpartition(".")[2] == name]
        return f"; {of_another_tool(name)}" if of_another_tool(name) and not same else f"; did you mean {same[0]}?" if same else ""
    return ""


def build_parser(with_settings: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        with_settings: with every setting as an option of the commands that take some, for completion.
    """
    parser = Parser(
        prog="tutelage",
        description="Fine-tune reasoning models on worked solutions, and see while it trains whether they learn to solve problems.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(build_parser=build_parser)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    if with_settings:
        for own_parser in commands.choices.values():
            if own_parser.get_default("takes_settings"):
                _add_settings(own_parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    from tutelage.config import describe

    for section, key, kind, default, text in describe():
        choices = kind.split(" | ") if " | " in kind and default in kind.split(" | ") else None
        summary = " ".join(text.split())[:120].replace("%", "%%")
        parser.add_argument(f"--{section}.{key}", choices=choices, help=summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, as `EXIT_CODES` says."""
    prepare_process()
    words, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    with listening(words), importing(now=False):
        return _answered(words, overrides)


def _answered(words: list[str], overrides: list[str]) -> int:
    try:
        for word in (*words, *overrides):
            if "\0" in word:
                raise InputError(f"{word[:60]!r} holds a NUL character, which no argument can")
        parser = build_parser()
        arguments = parser.parse_args(words, argparse.Namespace(words=words, overrides=overrides))
        if arguments.version:
            from importlib.metadata import version

            print(f"tutelage {version('tutelage')}")
            return 0
        if arguments.command is None:
            parser.print_help()
            return 2
        if overrides and not arguments.takes_settings:
            raise InputError(f"tutelage {arguments.command} takes no settings; got {' '.join(overrides)}")
        return _run(arguments).exit_code
    except InputError as error:
        _show(error)
        return 2
    except BrokenPipeError:  # `tutelage … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            _show(error)
            return 1
        _show(InputError(f"{str(error.filename)[:60]!r}…: {error.strerror}"))
        return 2
    except (RunError, MemoryError) as error:
        _show(error)
        return int(getattr(error, "exit_code", 1))
    except (ImportError, SystemError):  # what becomes of a signal while a package is imported
        asked = asked_in_vain()
        if asked is None:
            raise
        _show(asked)
        return asked.exit_code
    except RuntimeError as error:  # torch's, for memory that ran out while a model loads or answers
        from tutelage.model import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        console.complain(f"tutelage: {first_line(error)}")
        return 1
    except KeyboardInterrupt as interruption:
        _show(interruption)
        return int(getattr(interruption, "exit_code", 130))


def _run(arguments: argparse.Namespace) -> Outcome:
    """Run the command. Under --json its value goes to standard output, and what it prints to standard error."""
    if not getattr(arguments, "json", False):
        return arguments.run(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        outcome: Outcome = arguments.run(arguments)
    if outcome.value is not None and os.environ.get("RANK", "0") == "0":  # of several ranks, the first one speaks
        console.out(json.dumps(finite(outcome.value), ensure_ascii=False, default=str))
    return outcome


def _show(error: BaseException) -> None:
    """Print an error that a person is meant to read, unless another rank prints it."""
    if not getattr(error, "printed", False):
        otherwise = "interrupted" if isinstance(error, KeyboardInterrupt) else "out of memory"
        start = "\n" if isinstance(error, KeyboardInterrupt) else ""
        console.complain(f"{start}tutelage: {str(error) or otherwise}")

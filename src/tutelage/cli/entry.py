"""The command line: which command, its settings, its exit code. What each command does is in `commands`."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from tutelage.cli.commands import ADD, WITHOUT_SETTINGS
from tutelage.config import split_overrides
from tutelage.errors import InputError, RunError
from tutelage.machines import prepare_process

EXIT_CODES = """exit codes:
  0    done; also a training run that SIGTERM or SIGUSR1 stopped, its state saved
  1    it failed after it had begun, `check` found a failure, or nothing that `plan` knows fits
  2    bad input, found before compute was spent
  130  Ctrl-C"""


def build_parser(with_settings: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        with_settings: with every setting as an option of the commands that take some, for completion.
    """
    parser = argparse.ArgumentParser(
        prog="tutelage",
        description="Fine-tune reasoning models on worked solutions, and see while it trains whether they learn to solve problems.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(parser=lambda: build_parser(with_settings=True))
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for add in ADD:
        add(commands)
    if with_settings:
        from tutelage.config import describe

        for name, command in commands.choices.items():
            for section, key, kind, default, text in describe() if name not in WITHOUT_SETTINGS else ():
                choices = kind.split(" | ") if " | " in kind and default in kind.split(" | ") else None
                summary = " ".join(text.split())[:120].replace("%", "%%")
                command.add_argument(f"--{section}.{key}", choices=choices, help=summary)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, as `EXIT_CODES` says."""
    prepare_process()
    parser = build_parser()
    given = sys.argv[1:] if argv is None else list(argv)
    others, overrides = split_overrides(given)
    try:
        arguments = parser.parse_args(others)
        if arguments.version:
            from importlib.metadata import version

            print(f"tutelage {version('tutelage')}")
            return 0
        if arguments.command is None:
            parser.print_help()
            return 2
        for polite in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(polite, signal.default_int_handler)  # ends as Ctrl-C does; training remembers them instead
        if arguments.command == "train" and arguments.launch is not None:
            return _launch(arguments.launch, given)
        if overrides and arguments.command in WITHOUT_SETTINGS:
            raise InputError(f"tutelage {arguments.command} takes no settings; got {' '.join(overrides)}")
        told = _run(arguments, overrides)
        failed = arguments.command == "check" and told["failed"] > 0
        return int(failed or (arguments.command == "plan" and told["proposal"] is None))
    except InputError as error:
        _tell(error)
        return 2
    except BrokenPipeError:  # `tutelage … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (RunError, OSError, MemoryError) as error:
        _tell(error)
        return 1
    except RuntimeError as error:  # torch's, for memory that ran out while a model loads or answers
        from tutelage.model import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print(f"tutelage: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        _tell(interruption)
        return int(getattr(interruption, "exit_code", 130))


def _run(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """What the command returns; under --json, printed, and what it prints on standard error."""
    if not getattr(arguments, "json", False):
        return arguments.run(arguments, overrides)
    with contextlib.redirect_stdout(sys.stderr):
        told = arguments.run(arguments, overrides)
    if os.environ.get("RANK", "0") == "0":  # of several ranks, one speaks
        print(json.dumps(_without_nan(told), ensure_ascii=False, default=str))
    return told


def _without_nan(value: Any) -> Any:
    """The same for JSON, which has neither NaN nor infinity: null in their place."""
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tell(error: BaseException) -> None:
    """Print an error that a person is meant to read, unless another rank does."""
    if not getattr(error, "printed", False):
        otherwise = "interrupted" if isinstance(error, KeyboardInterrupt) else "out of memory"
        start = "\n" if isinstance(error, KeyboardInterrupt) else ""
        print(f"{start}tutelage: {str(error) or otherwise}", file=sys.stderr)


def _launch(ranks: int, given: Sequence[str]) -> int:
    """The same command, without --launch, as so many ranks."""
    from tutelage.machines import launch

    place = next(index for index, argument in enumerate(given) if argument.partition("=")[0] == "--launch")
    return launch(ranks, [*given[:place], *given[place + (1 if "=" in given[place] else 2) :]])


if __name__ == "__main__":
    sys.exit(main())

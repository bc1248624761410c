"""What the commands share: how one is added to the parser, what it returns, and words that several of them say."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import Config

MODEL = "a run directory, a model directory, a hub name, or smollm2"
DATA = "a file, a directory of shards, a hub name, or arithmetic"
WHERE = "local (default), ray (the cluster that RAY_ADDRESS names, else one on this machine), or ray://HOST:PORT"
MOST_EXPENSIVE = 1e12
"""As `run.price_per_hour`."""
OVERRIDES = "Any setting can be changed: --section.key value (tutelage train --help lists them all)."


@dataclass(frozen=True)
class Outcome:
    """What a command returns: the value that ``--json`` prints (None: nothing), and the exit code."""

    value: Any = None
    exit_code: int = 0


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = Callable[[argparse.Namespace], Outcome]
"""A command's work. Beside its own arguments it is given `overrides`, the settings on its command line."""


def add_command(
    commands: Commands, name: str, run: Run, summary: str, *, takes_settings: bool = False, prints_json: bool = True, **options: Any
) -> argparse.ArgumentParser:
    """Add a command to the parser; the command's own parser.

    Args:
        takes_settings: whether ``--section.key value`` may follow.
        prints_json: whether the command has ``--json``.
        options: of `argparse.ArgumentParser`.
    """
    parser = commands.add_parser(name, help=summary, allow_abbrev=not takes_settings, **options)
    parser.set_defaults(run=run, takes_settings=takes_settings)
    if prints_json:
        parser.add_argument("--json", action="store_true", help="print one JSON document, and everything else on standard error")
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument of a command that reads a configuration."""
    parser.add_argument("config", nargs="?", help="a TOML file; without one, the defaults")


def add_where(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Add the arguments of a command whose problems a cluster can share; `what` begins the help."""
    parser.add_argument("--where", default="local", help=f"{what}{WHERE}")
    parser.add_argument("--workers", type=integer(1, 10_000), default=2, help="with Ray: how many jobs share the problems (default 2)")


def integer(low: int, high: int) -> Callable[[str], int]:
    """The `type` of an argument that is an integer from `low` to `high`."""

    def number(text: str) -> int:
        if len(text) > len(str(high)) + 1 or not text.strip().lstrip("+-").isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low:,} to {high:,}, got {text[:40]!r}")
        return int(text)

    return number


def price(text: str) -> float:
    """The `type` of an argument that is a price."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_EXPENSIVE:  # not a number is not within either
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {MOST_EXPENSIVE:g}, got {text[:40]!r}")
    return value


def start() -> None:
    """Import torch and transformers, which takes seconds, behind a sign of life."""
    from tutelage import console
    from tutelage.machines import importing

    with console.progress("starting"), importing():
        from tutelage.training import fine_tune  # noqa: F401


def config_of(model: str, overrides: list[str]) -> Config:
    """The configuration to use a model with: its run's, if it comes from one, so that it is asked as it was taught.

    Args:
        model: a run directory, the ``model/`` in one, another model directory, a hub name, or "smollm2".
    """
    from tutelage.config import load_config
    from tutelage.runs import damage

    path = Path(model)
    run = path.parent if path.name == "model" and path.is_dir() else path
    if (run / "config.toml").is_file() and (run / "model").is_dir():
        # the prompt template as it was then, whatever has become of its file or of the day
        damage.configuration(run / "config.toml")
        kept = next(file for name in ("template.json", "prompt.txt") if (file := run / name).is_file() or name == "prompt.txt")
        return load_config(
            run / "config.toml",
            [f"--model.id={run / 'model'}", f"--data.prompt={kept}", "--data.template_arguments={}", "--eval.mode=auto", *overrides],
        )
    if (path / "config.toml").is_file():
        raise InputError(
            f"{model}: this run has no model yet; it is written when training ends. To go on: tutelage train {path / 'config.toml'}"
        )
    return load_config(None, [f"--model.id={model}", *overrides])

"""``tutelage report``: one self-contained page of a run, an evaluation, a sweep or an improvement."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from tutelage.cli.command import Commands, Outcome, add_command, price


def add(commands: Commands) -> None:
    parser = add_command(commands, "report", run, "one self-contained page of a run, an evaluation, a sweep or an improvement")
    parser.add_argument("directory", type=Path, metavar="RUN", help="of a run, of `tutelage eval`, of a sweep, or of `tutelage improve`")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the directory)")
    parser.add_argument(
        "--price", type=price, metavar="PER_HOUR", help="what an hour of the machine costs (default: run.price_per_hour)"
    )
    parser.add_argument("--watch", action="store_true", help="write it again whenever the run gets on, until it is finished")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console
    from tutelage.report import page as report
    from tutelage.runs import owned

    write = report.watch if arguments.watch else report.write
    page = arguments.out or arguments.directory / "report.html"
    # of a directory that is not there, the report says more than that nothing can be written to it
    ours = owned(page, new=False) if arguments.out is not None or arguments.directory.is_dir() else contextlib.nullcontext()
    with ours:
        page = write(arguments.directory, arguments.out, price_per_hour=arguments.price)
    console.say(f"wrote {page}")
    return Outcome({"page": str(page)})

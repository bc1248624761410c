"""``tutelage report``: one self-contained page of a run, an evaluation, a sweep or rounds, or of several runs beside each other."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from tutelage.cli.command import Commands, Outcome, add_command, price
from tutelage.errors import InputError


def add(commands: Commands) -> None:
    summary = "one self-contained page of a run, an evaluation, a sweep or rounds of improve, or of several runs"
    parser = add_command(commands, "report", run, summary)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="a directory of a run, of `tutelage eval`, of a sweep, or of `tutelage improve`; several runs are shown beside each other,"
        " the first is what the others are compared with, and RUN@STEP names another evaluation than the last",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="the page (default: report.html in the directory; of several runs, compare.html in the first)"
    )
    parser.add_argument(
        "--price", type=price, metavar="PER_HOUR", help="what an hour of the machine costs (default: run.price_per_hour)"
    )
    parser.add_argument("--currency", help='what the price is in, such as EUR or "$" (default: run.currency)')
    parser.add_argument("--watch", action="store_true", help="write it again whenever the run gets on, until it is finished")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console
    from tutelage.report import page as report
    from tutelage.runs import owned, side

    cost = {"price_per_hour": arguments.price, "currency": arguments.currency}
    if len(arguments.runs) > 1:
        if arguments.watch:
            raise InputError("--watch is for one run; the page of several is written once")
        page = arguments.out or side(arguments.runs[0]).reading.directory / "compare.html"
        with owned(page, new=False):
            report.write_beside(arguments.runs, page, **cost)
    else:
        directory = Path(arguments.runs[0])
        write = report.watch if arguments.watch else report.write
        page = arguments.out or directory / "report.html"
        # of a directory that is not there, the report says more than that nothing can be written to it
        with owned(page, new=False) if arguments.out is not None or directory.is_dir() else contextlib.nullcontext():
            page = write(directory, arguments.out, **cost)
    console.say(f"wrote {page}")
    return Outcome({"page": str(page)})

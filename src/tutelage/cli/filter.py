"""``tutelage filter``: a file of rows in, the rows whose solution is right out, and the fate of each beside it."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.command import DATA, OVERRIDES, WHERE, Commands, Outcome, add_command
from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import DataConfig
    from tutelage.data import Row, Tally


LOOKED_AT = 200
"""Rows from which it is decided how all are read."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "filter", run, "keep the rows whose worked solution is right", takes_settings=True, description=OVERRIDES
    )
    parser.add_argument("data", help=DATA)
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file for the rows that are kept")
    parser.add_argument(
        "--control",
        choices=["random"],
        help="also write OUT.control.jsonl: as many rows, drawn at random from all well-formed ones",
    )
    parser.add_argument("--where", default="local", help=WHERE)


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage.config import load_config

    config = load_config(None, arguments.overrides)
    kept = filter_file(arguments.data, arguments.out, config.data, config.eval.reward, arguments.control, arguments.where)
    return Outcome({"kept": kept, "out": str(arguments.out)})


def filter_file(
    data: str,
    out: Path,
    config: DataConfig | None = None,
    style: str = "r1_zero",
    control: str | None = None,
    where: str = "local",
) -> int:
    """Write the raw rows that are kept to `out` (JSONL) and every row's fate to ``OUT.ledger.jsonl``; print a table and samples.

    Args:
        control: "random" also writes ``OUT.control.jsonl``: as many rows as were kept, drawn at random from all well-formed rows.
            Training on both shows what filtering by correctness buys, apart from the number of rows.
        where: who grades, as `fanout.run_map`.

    Returns:
        How many rows were kept.

    Raises:
        InputError: a file to write exists, a row is malformed, or nothing survives.
    """
    from tutelage import console
    from tutelage.config import DataConfig
    from tutelage.data import Tally, count_well_formed, draw_rows, iter_rows, judge_rows, reader_of
    from tutelage.grading import start_workers
    from tutelage.machines import fanout
    from tutelage.runs import to_lines, writing

    fanout.require(where)
    config = config or DataConfig()
    ledger_path, control_path = (
        out.with_name(out.name.removesuffix(".jsonl") + end) for end in (".ledger.jsonl", ".control.jsonl")
    )
    _refuse_to_overwrite([out, ledger_path, *([control_path] if control else [])])

    def rows() -> Iterator[Row]:
        return iter_rows(data, config.train_split, config.hub_config)

    with console.progress(f"reading {data}"):
        source = config.of_training().model_copy(update={"path": data})
        first = list(itertools.islice(rows(), LOOKED_AT))
        if where == "local":
            start_workers(len(first))
        reader = reader_of(source, first, reward=style)
        well_formed = count_well_formed(rows(), reader, config.on_bad_row)
    tally = Tally()
    with contextlib.ExitStack() as files:  # on an error, none of the files is left
        kept_lines, fate_lines = files.enter_context(writing(out)), files.enter_context(writing(ledger_path))
        with console.progress("grading the worked solutions", well_formed) as advance, _going_on(), fanout.cluster(where):
            for judged in judge_rows(rows(), reader, style, where, advance):
                fate_lines.write(to_lines([vars(judged.fate)]))
                if judged.fate.fate == "kept":
                    kept_lines.write(to_lines([judged.row.value]))
                tally.add(judged)
        kept = tally.kept(style)
        if control:
            lines = files.enter_context(writing(control_path))
            lines.writelines(to_lines([value]) for value in draw_rows(rows(), reader, well_formed, kept, config.seed))
    _show(tally)
    wrote = [f"{out} ({kept} rows)", f"{ledger_path} (the fate of each row)"]
    console.say("wrote " + ", ".join(wrote + ([f"{control_path} ({kept} rows drawn at random)"] if control else [])))
    return kept


def _refuse_to_overwrite(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path} exists and is not overwritten; remove it, or choose another --out")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such directory to write {path.name} to")


def _show(tally: Tally) -> None:
    """The table of fates, what decided, and one example of each fate."""
    from tutelage import console
    from tutelage.data import summary
    from tutelage.report import show

    show.fate_table(tally.fates, tally.reasons)
    console.say(f"decided by: {summary(tally.layers)}")
    for fate, example in tally.examples.items():
        console.say(
            f"{fate}: {' '.join(example.prompt.split())[:160]}\n"
            f"  {example.response.strip()[-200:]}   (reference {example.reference or 'missing'})"
        )


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """What Ctrl-C says: the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the verdicts so far are kept, the same command goes on from them") from None

"""``tutelage filter``: a file of rows in, the rows whose solution is right out, and the fate of each beside it."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.command import DATA, OVERRIDES, WHERE, Commands, Outcome, add_command

if TYPE_CHECKING:
    from tutelage.config import DataConfig
    from tutelage.data import Row, Tally


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
        InputError: a file to write exists, or another process writes it; a row is malformed, or nothing survives.
    """
    from tutelage.config import DataConfig
    from tutelage.machines import fanout
    from tutelage.runs import checked_name, owned

    fanout.require(where)
    checked_name(out, "--out")
    stem = out.name.removesuffix(".jsonl")
    paths = [out, *(out.with_name(f"{stem}.{kind}.jsonl") for kind in ("ledger", *(["control"] if control else [])))]
    with contextlib.ExitStack() as ours:
        for path in paths:
            ours.enter_context(owned(path))
        return _filter(data, paths, config or DataConfig(), style, where)


def _filter(data: str, paths: list[Path], config: DataConfig, style: str, where: str) -> int:
    """The work of `filter_file`.

    Args:
        paths: of the rows that are kept, of the ledger, and of the control if there is to be one.
    """
    from tutelage import console
    from tutelage.data import LOOKED_AT, Tally, count_well_formed, draw_rows, iter_rows, judge_rows, reader_of
    from tutelage.grading import start_workers
    from tutelage.machines import fanout
    from tutelage.runs import to_lines, writing

    out, ledger_path, *controls = paths

    def rows() -> Iterator[Row]:
        return iter_rows(data, config.train_split, config.hub_config)

    with console.progress(f"reading {data}"):
        source = config.read_as_training(data)
        first = list(itertools.islice(rows(), LOOKED_AT))
        if where == "local":
            start_workers(len(first))
        reader = reader_of(source, first, reward=style, weight=config.weight)
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
        for control_path in controls:
            lines = files.enter_context(writing(control_path))
            lines.writelines(to_lines([value]) for value in draw_rows(rows(), reader, well_formed, kept, config.seed))
    _show(tally)
    wrote = [f"{out} ({kept} rows)", f"{ledger_path} (the fate of each row)"]
    console.say("wrote " + ", ".join(wrote + [f"{path} ({kept} rows drawn at random)" for path in controls]))
    return kept


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

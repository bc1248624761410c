"""``tutelage filter``: a file of rows in, the rows whose solution is right out, and the fate of each beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import DataConfig
from tutelage.data import Ledger, keep_correct, load_template, to_examples
from tutelage.errors import InputError
from tutelage.runlog import append_lines, to_lines, write_text
from tutelage.show import ledger_table
from tutelage.sources import read_rows


def filter_file(data: str, out: Path, config: DataConfig | None = None, style: str = "r1_zero") -> int:
    """Write the raw rows that are kept to `out` (JSONL) and every row's fate to ``OUT.ledger.jsonl``; print a table and samples.

    Returns:
        How many rows were kept.

    Raises:
        InputError: `out` exists, a row is malformed, or nothing survives.
    """
    config = config or DataConfig()
    ledger_path = out.with_suffix(".ledger.jsonl")
    for path in (out, ledger_path):
        if path.exists():
            raise InputError(f"{path} exists and is not overwritten; remove it, or choose another --out")
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such directory to write {out.name} to")
    rows = read_rows(data, config.train_split, config.hub_config)
    ledger = Ledger(row.source for row in rows)
    # the prompt plays no part in grading, but a template that opens the think block changes the response
    examples = to_examples(rows, load_template("none"), ledger, columns=config.columns, on_bad_row=config.on_bad_row)
    with console.progress("grading the worked solutions", len(examples)) as advance:
        kept = {example.source for example in keep_correct(examples, ledger, style, on_graded=advance)}
    write_text(out, to_lines(row.value for row in rows if row.source in kept))
    append_lines(ledger_path, [vars(fate) for fate in ledger])
    ledger_table(ledger)
    by_source = {example.source: example for example in examples}
    for sample in _samples(ledger):
        example = by_source.get(sample.source)
        if example is not None:
            console.say(
                f"{sample.fate}: {' '.join(example.prompt.split())[:160]}\n"
                f"  {example.response.strip()[-200:]}   (reference {example.reference})"
            )
    return len(kept)


def _samples(ledger: Ledger) -> list[Any]:
    """The first row that was kept and the first that was not."""
    kept = [fate for fate in ledger if fate.fate == "kept"][:1]
    return kept + [fate for fate in ledger if fate.fate not in ("kept", "malformed")][:1]

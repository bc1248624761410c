"""``tutelage init``: three questions, a look at the data, and a configuration with a comment on each line."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w

from tutelage import console
from tutelage.config import describe, parse_config
from tutelage.errors import InputError
from tutelage.shapes import BadRow, parse_row
from tutelage.sources import Row, read_rows

NAMES = {
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input", "text"),
    "response": ("response", "solution", "completion", "generation", "generations", "output", "reasoning", "trace", "rationale"),
    "reference": (
        "reference",
        "reference_answer",
        "final_answer",
        "gold",
        "target",
        "expected_answer",
        "ground_truth",
        "label",
        "answer",
    ),
}
"""What people call their columns, the likeliest name first."""
SMALL = {"lr": 1e-4, "batch_size": 8, "grad_accum": 2, "num_epochs": 1}
"""What the embedded model of 135M learns well with."""
LOOKED_AT = 200
"""Rows that are looked at."""
QUESTIONS = {
    "model": ("Which model? A directory, a hub name (name@revision pins it), or smollm2", "smollm2"),
    "train": ("Which training data? A file, a directory of shards, a hub name, or arithmetic", "arithmetic"),
    "dir": ("Where shall the run go?", "runs/first"),
}


def init(out: Path, answers: dict[str, str | None], validation: str | None = None) -> Path:
    """Write a configuration to `out`.

    Args:
        answers: to `QUESTIONS`, by name; those that are None are asked on the terminal.

    Raises:
        InputError: `out` exists; an answer is missing and there is nobody to ask; the data cannot be read or understood.
    """
    if out.exists():
        raise InputError(f"{out} exists and is not overwritten; choose another --out")
    known = {name: answer if answer is not None else _ask(name) for name, answer in answers.items()}
    data: dict[str, Any] = {"train": known["train"]}
    if validation is not None:
        data["validation"] = validation
    note = "arithmetic is built in"
    if known["train"] != "arithmetic":
        found, note = guess(read_rows(known["train"])[:LOOKED_AT])
        data |= found
    small = known["model"] == "smollm2"
    raw: dict[str, dict[str, Any]] = {
        "model": {"id": known["model"]},
        "data": {**data, "prompt": "r1_zero", "filter": data.get("filter", True)},
        "train": {**(SMALL if small else {"lr": 2e-5, "batch_size": 4, "grad_accum": 4, "num_epochs": 2})},
        "eval": {"every": 30 if small else 100, "max_new_tokens": 256 if small else 1024},
        "run": {"dir": known["dir"]},
    }  # fmt: skip
    parse_config(raw)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_commented(raw, note), encoding="utf-8")
    console.say(f"{known['train']}: {note}")
    console.say(
        f"wrote {out}. What it will take: tutelage plan {out}; is all as it should be: tutelage check {out}; go: tutelage train {out}"
    )
    return out


def _ask(name: str) -> str:
    question, default = QUESTIONS[name]
    if not sys.stdin.isatty():
        raise InputError(f"there is no terminal to ask on: give --{name} ({question.lower()}; {default} for the default)")
    return input(f"{question} [{default}]: ").strip() or default


def guess(rows: list[Row]) -> tuple[dict[str, Any], str]:
    """(settings of [data] that read these rows, what was found), by trying known shapes and then likely names of columns.

    Raises:
        InputError: no reading gives most rows a prompt and a response.
    """
    if not rows:
        raise InputError("the training data have no rows")
    for columns in (None, _likely_columns(rows)):
        if columns is not None and not {"prompt", "response"} <= set(columns):
            continue
        pairs, reasons = _read(rows, columns)
        if len(pairs) < 0.9 * len(rows):
            continue
        with_reference = sum(bool(pair["reference"]) for pair in pairs)
        settings: dict[str, Any] = {"columns": columns} if columns else {}
        how = "known shape" if columns is None else f"columns {', '.join(f'{field} = {name}' for field, name in columns.items())}"
        if len(pairs) < len(rows):
            settings["on_bad_row"] = "skip"
            how += f"; {len(rows) - len(pairs)} of the first {len(rows)} rows are malformed ({reasons.most_common(1)[0][0]}) and skipped"
        if with_reference < len(pairs):
            settings["filter"] = False
            missing = len(pairs) - with_reference
            how += f"; {missing} rows have no reference answer, so nothing is filtered (and validation needs rows that have one)"
        return settings, how
    keys = sorted({key for row in rows for key in row.value})
    raise InputError(
        f"{rows[0].source}: none of the keys {keys} look like a prompt and a response; write data.columns yourself ({', '.join(NAMES)})"
    )


def _read(rows: list[Row], columns: dict[str, str] | None) -> tuple[list[dict[str, str]], Counter[str]]:
    pairs, reasons = [], Counter[str]()
    for row in rows:
        try:
            if row.problem:
                raise BadRow(row.problem)
            pairs.append(parse_row(row.value, columns))
        except BadRow as reason:
            reasons[str(reason)] += 1
    return pairs, reasons


def _likely_columns(rows: list[Row]) -> dict[str, str]:
    """Which column holds what, by its name; dots reach into a row."""
    first = _flat(rows[0].value)
    columns: dict[str, str] = {}
    for field, names in NAMES.items():
        for name in names:
            found = next((key for key in first if key.rpartition(".")[2].lower() == name and key not in columns.values()), None)
            if found is not None:
                columns[field] = found
                break
    return columns


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def _commented(raw: dict[str, dict[str, Any]], note: str) -> str:
    """TOML whose every line has what the setting means above it."""
    meaning = {(section, key): text for section, key, _, _, text in describe()}
    lines = ["# Written by tutelage init. Every other setting has a default: tutelage train --help", f"# The data: {note}"]
    for section, values in raw.items():
        lines += ["", f"[{section}]"]
        tables = {}
        for key, value in values.items():
            if isinstance(value, dict):
                tables[key] = value
                continue
            lines += [f"# {line}" for line in meaning[section, key].splitlines()]
            lines.append(tomli_w.dumps({key: value}).rstrip())
        for key, table in tables.items():
            lines += [
                "",
                *(f"# {line}" for line in meaning[section, key].splitlines()),
                f"[{section}.{key}]",
                tomli_w.dumps(table).rstrip(),
            ]
    return "\n".join(lines) + "\n"

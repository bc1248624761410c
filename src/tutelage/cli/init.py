"""``tutelage init``: three questions, a look at the data, and a configuration with a comment on each line."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tutelage import console
from tutelage.config import describe, parse_config
from tutelage.data import BadRow, Row, parse_row, read_rows
from tutelage.errors import InputError
from tutelage.grading import boxed_answer, tagged_answer

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
    note, reward = "arithmetic is built in", "r1_zero"
    if known["train"] != "arithmetic":
        found = guess(read_rows(known["train"])[:LOOKED_AT])
        reward, note = found.reward, found.note
        data |= found.settings
        if not found.references and validation is None:
            raise InputError(
                f"{known['train']}: no row has a reference answer, so none can be held out: give --validation with problems that have"
            )
    if validation is not None and validation != "arithmetic":
        _require_problems(read_rows(validation)[:LOOKED_AT], data.get("columns"))
    if (
        "/" in str(known["model"])
        and Path(str(known["model"])).is_dir()
        and not Path(str(known["model"]), "config.json").is_file()
    ):
        raise InputError(f"--model {known['model']}: no model there (a Hugging Face model directory holds config.json)")
    small = known["model"] == "smollm2"
    raw: dict[str, dict[str, Any]] = {
        "model": {"id": known["model"]},
        "data": {**data, "prompt": reward, "filter": data.get("filter", True)},
        "train": {**(SMALL if small else {"lr": 2e-5, "batch_size": 4, "grad_accum": 4, "num_epochs": 2})},
        "eval": {"every": 30 if small else 100, "max_new_tokens": 256 if small else 1024, "reward": reward},
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
    nobody = InputError(f"there is no terminal to ask on: give --{name} ({question.lower()}; {default} for the default)")
    if not sys.stdin.isatty():
        raise nobody
    try:
        return input(f"{question} [{default}]: ").strip() or default
    except EOFError:
        raise nobody from None


@dataclass(frozen=True)
class Guess:
    """How rows are read: settings of [data], the grader, how many rows have a reference, and all that in words."""

    settings: dict[str, Any]
    reward: str
    references: int
    note: str


def guess(rows: list[Row]) -> Guess:
    """How these rows are read, by trying known shapes and then likely names of columns.

    Raises:
        InputError: no reading gives most rows a prompt and a response.
    """
    reasons: Counter[str] = Counter()
    for columns in (None, _likely_columns(rows)):
        if columns is not None and not {"prompt", "response"} <= set(columns):
            continue
        pairs, found = _read(rows, columns)
        reasons.update(found)
        if len(pairs) < 0.9 * len(rows):
            continue
        with_reference = sum(bool(pair["reference"]) for pair in pairs)
        settings: dict[str, Any] = {"columns": columns} if columns else {}
        how = "known shape" if columns is None else f"columns {', '.join(f'{field} = {name}' for field, name in columns.items())}"
        if len(pairs) < len(rows):
            settings["on_bad_row"] = "skip"
            how += f"; {len(rows) - len(pairs)} of the first {len(rows)} rows are malformed ({found.most_common(1)[0][0]}) and skipped"
        if with_reference == 0:
            settings["filter"] = False
            how += "; no row has a reference answer, so nothing is filtered"
        elif with_reference < len(pairs):
            settings["on_bad_row"] = "skip"
            how += f"; {len(pairs) - with_reference} rows have no reference answer, and are left out and counted"
        reward, said = _grader(pairs)
        if said and with_reference:
            settings["filter"] = False
        leftover = [] if columns is None else _left_over(rows[0], columns)
        if leftover:
            how += f"; look at {', '.join(leftover)}, which nothing reads: is it part of the prompt?"
        return Guess(settings, reward, with_reference, how + said)
    keys = sorted({key for row in rows for key in row.value})
    why = f" ({reasons.most_common(1)[0][0]})" if reasons else ""
    raise InputError(
        f"{rows[0].source}: nothing reads as a prompt and a response in rows with the keys {keys}{why}; write data.columns yourself"
        f" ({', '.join(NAMES)})"
    )


def _grader(pairs: list[dict[str, str]]) -> tuple[str, str]:
    """(the grader that finds an answer in most responses, what to say where none does)."""
    tagged = sum(tagged_answer(pair["response"]) is not None for pair in pairs)
    boxed = sum(boxed_answer(pair["response"]) is not None for pair in pairs)
    if max(tagged, boxed) < 0.5 * len(pairs):
        what = (
            "; most responses have neither <think>…</think> <answer>…</answer> nor \\boxed{}, so nothing is filtered, and a model that"
            " learns them will not give answers that the grader finds"
        )
        return "r1_zero", what
    return ("r1_zero" if tagged >= boxed else "question_only"), ""


def _left_over(row: Row, columns: dict[str, str]) -> list[str]:
    """Columns that have the name of a prompt, hold text, and are not read."""
    return [
        name for name, value in _flat(row.value).items()
        if name.rpartition(".")[2].lower() in NAMES["prompt"] and isinstance(value, str) and value.strip() and name not in columns.values()
    ]  # fmt: skip


def _require_problems(rows: list[Row], columns: dict[str, str] | None) -> None:
    """Raises InputError if validation rows do not have a prompt and a reference, read as the training rows are."""
    mapped = {field: name for field, name in (columns or {}).items() if field != "response"}
    for row in rows:
        try:
            parse_row(row.value, mapped or None, needs_response=False)
        except BadRow as problem:
            raise InputError(f"{row.source}: {problem}; validation rows are read as the training rows are") from None


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

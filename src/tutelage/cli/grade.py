"""``tutelage grade``: are two answers equal? Of two that are given, or of each row of a file."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tutelage.cli.command import Commands, Outcome, add_command
from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.data import Row
    from tutelage.grading import Verdict

REFERENCES = ("reference", "ground_truth", "reference_answer", "gold", "answer")
RESPONSES = ("response", "prediction", "completion", "pred")
LABELS = ("label", "correct", "equal")
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_WORDS = {True: "right", False: "wrong", None: "undecided"}
SHOWN = 5
"""Bad rows that the error names."""


def add(commands: Commands) -> None:
    parser = add_command(commands, "grade", run, "are two answers equal? or the two of each row of a file? says which layer decided")
    parser.add_argument("gold", nargs="?", help="the reference answer")
    parser.add_argument("answer", nargs="?", help="the answer to grade")
    parser.add_argument("--file", help="rows to grade instead: JSON Lines, JSON, CSV, or Parquet")
    parser.add_argument("--reference", metavar="COLUMN", help=f"holds the reference answers (default: {', '.join(REFERENCES)})")
    parser.add_argument("--response", metavar="COLUMN", help=f"holds what is graded (default: {', '.join(RESPONSES)})")
    parser.add_argument(
        "--style", choices=["answer", "r1_zero", "question_only"], default="answer",
        help="where a response has its answer: it is the answer (default), in <answer> tags, or in the last \\boxed{}",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="with --file: a new JSONL file for the verdict on each row")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console
    from tutelage.grading import grade, grade_response

    gold, answer = arguments.gold, arguments.answer
    if arguments.file is not None and gold is None:
        from tutelage.runs import owned

        with contextlib.nullcontext() if arguments.out is None else owned(arguments.out):
            return Outcome(grade_file(arguments.file, arguments.out, arguments.style, arguments.reference, arguments.response))
    if arguments.file is not None or gold is None or answer is None:
        raise InputError("give two answers (tutelage grade GOLD ANSWER) or --file, not both")
    if arguments.out or arguments.reference or arguments.response:
        raise InputError("--out, --reference and --response go with --file")
    if not gold.strip():
        raise InputError("the reference answer is empty")
    verdict = grade(gold, answer) if arguments.style == "answer" else grade_response(answer, [gold], arguments.style)
    word = {True: "equal", False: "not equal", None: "undecided"}[verdict.equal]
    console.out(f"{word}  (layer: {verdict.layer}{'; ' + verdict.why if verdict.why and not verdict.equal else ''})")
    return Outcome({"equal": verdict.equal, "layer": verdict.layer, "why": verdict.why})


class Pair(NamedTuple):
    """What a row holds: where it stands, the response, the reference, and whether a person calls the two equal (None: not said)."""

    source: str
    response: str
    reference: Any
    label: bool | None


def grade_file(file: str, out: Path | None, style: str, reference: str | None, response: str | None) -> dict[str, Any]:
    """Grade each row of a file, print the counts, and write the verdict on each row to `out`, a line each.

    Args:
        style: as `grade_responses`.
        reference, response: the columns; by default the one that has a known name.

    Returns:
        The counts, as ``--json`` prints them.

    Raises:
        InputError: rows cannot be graded (all are looked at before the first is graded), or `out` exists.
    """
    from tutelage import console
    from tutelage.data import iter_rows
    from tutelage.grading import grade_responses, start_workers
    from tutelage.runs import to_lines, writing

    with console.progress(f"reading {file}"):
        rows = list(iter_rows(file))
        start_workers(len(rows))
        pairs = _pairs(rows, reference, response)
    with console.progress("grading", len(pairs)) as advance:
        started = time.monotonic()
        verdicts = grade_responses([(pair.response, pair.reference) for pair in pairs], style, on_graded=advance)
        seconds = time.monotonic() - started
    counts = Counter(_WORDS[verdict.equal] for verdict in verdicts)
    speed = len(pairs) / max(seconds, 1e-6)
    said = ", ".join(f"{counts[word]:,} {word}" for word in _WORDS.values())
    console.say(f"{len(pairs):,} rows: {said} ({speed:,.0f} rows per second)")
    agreement = _agreement(pairs, verdicts)
    if agreement["labelled"]:
        console.say("beside the labels: " + ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in agreement.items()))
    if out is not None:
        with writing(out) as lines:
            lines.write(to_lines(map(_line, pairs, verdicts)))
        console.say(f"wrote {out}")
    return {
        "rows": len(pairs), **{word: counts[word] for word in _WORDS.values()}, "rows_per_second": speed,
        "agreement": agreement if agreement["labelled"] else None,
    }  # fmt: skip


def _pairs(rows: list[Row], reference: str | None, response: str | None) -> list[Pair]:
    """The pair of each row. Raises InputError with the rows that hold none."""
    first = next((row.value for row in rows if not row.problem), {})
    columns = [_column(first, *wanted) for wanted in (("--reference", reference, REFERENCES), ("--response", response, RESPONSES))]
    label = next((name for name in LABELS if name not in columns and _truth(first.get(name)) is not None), None)
    pairs, bad = [], []
    for row in rows:
        problem = row.problem or _problem(row.value, columns[0], columns[1], label)
        if problem:
            bad.append(f"{row.source}: {problem}")
        else:
            pairs.append(Pair(row.source, row.value[columns[1]], row.value[columns[0]], _truth(row.value.get(label)) if label else None))
    if bad:
        more = f"\n  and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        raise InputError(f"{len(bad):,} of {len(rows):,} rows cannot be graded:\n  " + "\n  ".join(bad[:SHOWN]) + more)
    return pairs


def _column(first: dict[str, Any], option: str, chosen: str | None, names: tuple[str, ...]) -> str:
    """The column that was chosen, or the one with a known name. Raises InputError where there is none, or several."""
    found = [name for name in ((chosen,) if chosen else names) if name in first]
    if len(found) != 1:
        several = f"the columns {' and '.join(found)} may both be meant" if found else f"there is no column {chosen or ', '.join(names)}"
        raise InputError(f"{several}: choose with {option} one of {', '.join(first)}")
    return found[0]


def _problem(row: dict[str, Any], reference: str, response: str, label: str | None) -> str:
    """Why a row cannot be graded, or ""."""
    from tutelage.grading import reference_of

    if missing := [name for name in (reference, response) if name not in row]:
        return f"has no {' and no '.join(missing)}"
    if not isinstance(row[response], str):
        return f"{response} is no text, but {row[response]!r:.40}"
    try:
        read = reference_of(row[reference])
    except ValueError as error:
        return str(error)
    if not read and isinstance(row[reference], str):
        return f"{reference} says no answer: {row[reference]!r:.40}"
    if label and row.get(label) is not None and _truth(row[label]) is None:
        return f"{label} is neither true nor false, but {row[label]!r:.40}"
    return ""


def _truth(value: Any) -> bool | None:
    return _TRUTH.get(str(value).strip().lower())


def _agreement(pairs: list[Pair], verdicts: list[Verdict]) -> dict[str, int]:
    """Counts of the rows with a label; an undecided row that should be right is refused."""
    judged = [(pair.label, verdict.equal is True) for pair, verdict in zip(pairs, verdicts, strict=True) if pair.label is not None]
    return {
        "labelled": len(judged),
        "agree": sum(label == equal for label, equal in judged),
        "false_acceptances": sum(equal and not label for label, equal in judged),
        "false_refusals": sum(bool(label) and not equal for label, equal in judged),
    }


def _line(pair: Pair, verdict: Verdict) -> dict[str, Any]:
    line = {"row": pair.source, "verdict": _WORDS[verdict.equal], "layer": verdict.layer, "why": verdict.why}
    return line | ({} if pair.label is None else {"label": pair.label})

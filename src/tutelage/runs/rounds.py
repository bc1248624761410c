"""What `tutelage improve` has come to: a row for each round, paired verdicts between rounds, and whether responses have collapsed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.console import within
from tutelage.errors import InputError
from tutelage.runs import damage
from tutelage.runs.compare import difference_of
from tutelage.runs.files import write_text
from tutelage.runs.reading import Reading, aligned, of_all_problems, shown_accuracy
from tutelage.runs.records import read_table
from tutelage.stats import in_words, judged_together

STATE = "improve.json"
LEAST = {"avg_token_entropy": 1 / 3, "avg_response_length": 1 / 2}
"""Responses have collapsed where their mean token entropy, or their mean length, is below this share of what it was at first."""
MEASURES = {"avg_token_entropy": ("mean token entropy", "nats", 3), "avg_response_length": ("mean length", "tokens", 1)}
SHARES = {"avg_token_entropy": "a third", "avg_response_length": "half"}
UNTOUCHED = "the untouched model"


@dataclass(frozen=True)
class Measured:
    """Responses of one round's model, to be compared with those of others: `name` says whose and which."""

    name: str
    summary: dict[str, Any]


def name_of(index: int) -> str:
    """The directory of a round within that of `tutelage improve`."""
    return f"round-{index}"


def is_improvement(directory: Path) -> bool:
    return (directory / STATE).is_file()


def read_state(directory: Path) -> dict[str, Any]:
    """``improve.json``; nothing where there is none. Raises InputError where it is damaged."""
    state, fault = read_table(directory / STATE)
    if fault:
        raise InputError(
            f"{directory}/{STATE} is damaged: {fault}; put the file back, or choose another --out. Each {directory}/round-N is a run of"
            " its own, which `tutelage report` shows"
        )
    return state


def write_state(state: dict[str, Any], directory: Path) -> None:
    """Write ``improve.json`` in full, or not at all."""
    write_text(directory / STATE, json.dumps(state, indent=1) + "\n")


def reading_of(directory: Path, index: int) -> Reading:
    """The run of a round; round 0 may be an evaluation of the model that was given."""
    return Reading(directory / name_of(index))


def is_done(reading: Reading) -> bool:
    """Whether a round is trained and evaluated, or, of a model that was given, evaluated."""
    return reading.trained or (reading.directory / "summary.json").is_file()


def evaluation_of(reading: Reading) -> dict[str, Any] | None:
    """The evaluation of a round's model, of all problems where that was one; None where there is none."""
    if not reading.trained:
        return reading.evaluations[-1] if is_done(reading) and reading.evaluations else None
    return reading.last


def untouched_of(directory: Path) -> dict[str, Any] | None:
    """Round 0's evaluation of the model before any training; None where there is none."""
    reading = reading_of(directory, 0)
    first = reading.evaluations[0] if reading.trained and reading.evaluations else None
    return of_all_problems(first) if first is not None and first["step"] == 0 and reading.last_step > 0 else None


def records(state: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What was sampled and trained on in each round, by its index."""
    return {record["round"]: record for record in state["rounds"]}


def table(directory: Path) -> list[dict[str, Any]]:
    """A row for each round that is wanted. Raises InputError if nothing was begun."""
    state = read_state(directory)
    if not state:
        raise InputError(f"{directory}: nothing of `tutelage improve` ({STATE} is not there)")
    known = records(state)
    return [_row(directory, index, known.get(index, {})) for index in range(state["design"]["rounds"] + 1)]


def _row(directory: Path, index: int, record: dict[str, Any]) -> dict[str, Any]:
    """What a round brought; the same keys always."""
    reading = reading_of(directory, index)
    last, sampled, rows = evaluation_of(reading) or {}, record.get("sampling", {}), record.get("rows", {})
    low, high = last.get("accuracy_ci95", (None, None))
    solved_low, solved_high = sampled.get("solved_share_ci95", (None, None))
    begun = bool(record) or reading.directory.is_dir()
    return {
        "round": index, "name": name_of(index),
        "status": "finished" if is_done(reading) else "unfinished" if begun else "not begun",
        "accuracy": last.get("accuracy"), "accuracy_low": low, "accuracy_high": high, "problems": last.get("examples"),
        "mean_length": last.get("avg_response_length"), "mean_entropy": last.get("avg_token_entropy"),
        "cut_off": last.get("cap_hit_rate"), "well_formed": last.get("format_rate"),
        "asked": sampled.get("problems"), "samples": sampled.get("samples"), "accepted": sampled.get("kept"),
        "solved": sampled.get("solved_at_least_once"), "solved_low": solved_low, "solved_high": solved_high,
        "solved_so_far": record.get("solved_so_far"), "sampled_accuracy": sampled.get("accuracy"),
        "sampled_length": sampled.get("avg_response_length"), "sampled_entropy": sampled.get("avg_token_entropy"),
        "pass_at_k": sampled.get("pass_at_k"), "fates": sampled.get("fates"), "sampling_seconds": sampled.get("seconds"),
        "own_rows": rows.get("own"), "sampled_rows": rows.get("sampled"), "rows": reading.table("data.json").get("rows"),
        "steps": reading.last_step if reading.trained else None,
        "training_seconds": round(reading.training_seconds, 1) if reading.steps else None,
    }  # fmt: skip


def verdicts(directory: Path) -> list[str]:
    """Each round against the one before, the last one against round 0, and against the untouched model: on the same questions, in
    pairs, judged by Holm's rule for their number."""
    readings = [reading_of(directory, row["round"]) for row in table(directory)]
    last = [(index, reading, evaluation_of(reading)) for index, reading in enumerate(readings)]
    known = {f"round {index}": reading.scores(line["step"]) for index, reading, line in last if line is not None}
    names = list(known)
    wanted = list(itertools.pairwise(names))
    if len(names) > 2:
        wanted.append((names[0], names[-1]))
    if untouched_of(directory) is not None and names:
        known[UNTOUCHED] = readings[0].scores(0)
        wanted.append((UNTOUCHED, names[-1]))
    pairs = {(first, second): aligned([known[first], known[second]]) for first, second in wanted}
    there = {names: each for names, each in pairs.items() if each}
    judged = judged_together([difference_of(each) for each in there.values()])
    return [in_words(difference, *names) for names, difference in zip(there, judged, strict=True)]


def series(directory: Path) -> dict[str, list[Measured]]:
    """The responses of trained models, round by round: to the problems that are validated on, and to those that are sampled."""
    found: dict[str, list[Measured]] = {"validation": [], "sampling": []}
    rows, known = table(directory), records(read_state(directory))
    for row in rows:
        index = row["round"]
        reading = reading_of(directory, index)
        if reading.trained and (last := evaluation_of(reading)) is not None:
            found["validation"].append(Measured(f"round {index}", last))
        asked_trained = index > 0 and reading_of(directory, index - 1).trained
        if asked_trained and "sampling" in known.get(index, {}):
            found["sampling"].append(Measured(f"the samples for round {index}", known[index]["sampling"]))
    return found


def collapses(measured: Sequence[Measured]) -> list[str]:
    """In words, where responses have collapsed (`LEAST`), against the first of the series."""
    said = []
    for key, share in LEAST.items():
        there = [each for each in measured if each.summary.get(key) is not None]
        for each in there[1:]:
            first, now = there[0].summary[key], each.summary[key]
            if first > 0 and now < share * first:
                what, unit, digits = MEASURES[key]
                said.append(
                    f"Collapse: the {what} of {each.name} is {now:.{digits}f} {unit}, less than {SHARES[key]} of the {first:.{digits}f} of"
                    f" {there[0].name}."
                )
                break
    return said


def collapse(directory: Path) -> list[str]:
    """What is to be said of collapse: each one found; or one sentence that there is none, once two rounds can be compared."""
    known = series(directory)
    found = [line for measured in known.values() for line in collapses(measured)]
    compared = max((len(measured) for measured in known.values()), default=0)
    if found or compared < 2:
        return found
    return [
        "No collapse: no round's mean token entropy is below a third, and no mean length below half, of what it was at first."
    ]


def faults(directory: Path) -> dict[str, list[str]]:
    """What is damaged or missing in the directories of rounds that are done, by their names."""
    readings = {row["name"]: Reading(directory / row["name"]) for row in table(directory) if row["status"] == "finished"}
    return {name: reading.faults for name, reading in readings.items() if reading.faults}


def failures(directory: Path) -> dict[str, str]:
    """Why rounds failed that are not done since."""
    found: dict[str, str] = {}
    for session in read_state(directory)["sessions"]:
        found = {name: why for name, why in found.items() if name not in session["finished"]} | session["failed"]
    return {name: why for name, why in found.items() if not is_done(Reading(directory / name))}


def is_finished(directory: Path) -> bool:
    """Whether nothing more will come: every round is done, or one has failed in the last session."""
    failed = read_state(directory)["sessions"][-1]["failed"]
    return bool(failed) or all(row["status"] == "finished" for row in table(directory))


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A round in the cells of a table."""

    def number(key: str, digits: int = 0) -> str:
        return "–" if row[key] is None else f"{row[key]:,.{digits}f}"

    return {
        "accuracy": "–" if row["accuracy"] is None else within(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
        "solved": "–" if row["solved"] is None else f"{row['solved']:,} of {row['asked']:,}",
        **{key: number(key) for key in ("solved_so_far", "accepted", "rows", "steps")},
        "mean_length": number("mean_length", 1), "mean_entropy": number("mean_entropy", 3),
    }  # fmt: skip


def in_a_line(directory: Path, index: int) -> str:
    """``accuracy 71.9 % [60–81]``."""
    last = evaluation_of(reading_of(directory, index))
    return "trained, and not evaluated" if last is None else f"accuracy {shown_accuracy(last)}"


def show(directory: Path) -> None:
    """Print the rounds, and what they say."""
    columns = ("round", "solved", "solved so far", "accepted", "rows", "steps", "accuracy [95 %]", "length", "entropy")
    keys = ("solved", "solved_so_far", "accepted", "rows", "steps", "accuracy", "mean_length", "mean_entropy")
    shown = [(str(row["round"]), *(cells(row)[key] for key in keys)) for row in table(directory)]
    console.table("Rounds: problems solved, rows accepted and trained on, and the held-out problems", columns, shown)
    for line in verdicts(directory):
        console.say(f"- {line}")
    for line in collapse(directory):
        console.say(f"- {line}", style="bold yellow" if line.startswith("Collapse") else None)
    for name, sentences in faults(directory).items():
        damage.say(sentences, name)
    for name, why in failures(directory).items():
        console.say(f"failed: {name}: {why}", style="bold red")

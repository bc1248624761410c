"""What a sweep has found: one table, the curves with their intervals, and what they say."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.console import within
from tutelage.errors import InputError
from tutelage.runs.compare import difference_of, kinds_of
from tutelage.runs.reading import Reading, Scores, aligned, of_all_problems, shown_accuracy
from tutelage.runs.records import read_table
from tutelage.stats import crossed_interval, holm, mean


@dataclass(frozen=True)
class Found:
    """A point of a curve over its seeds: the scores by seed, and the 95 % interval of the mean accuracy.

    `untouched`: the untouched model's scores, for each seed whose trial began with them. `trials`: of each seed of the design.
    """

    kind: str
    label: str
    rows: int
    varied: dict[str, str]
    low: float
    high: float
    scores: dict[int, Scores]
    untouched: dict[int, Scores] = field(default_factory=dict)
    trials: tuple[str, ...] = ()

    @property
    def accuracies(self) -> list[float]:
        """Of each seed."""
        return [mean(list(scores.values())) or 0.0 for scores in self.scores.values()]

    @property
    def accuracy(self) -> float:
        return mean(self.accuracies) or 0.0

    @property
    def name(self) -> str:
        """Of the curve: ``filtered, lr = 1e-5``."""
        return curve_name(self.kind, self.varied)

    def is_trained_with(self, other: Found) -> bool:
        """Whether both are the same trained models."""
        return bool(self.trials) and self.trials == other.trials

    @property
    def shown(self) -> str:
        """``71.9 % [60–81]``."""
        return within(self.accuracy, self.low, self.high)


def curve_name(kind: str, varied: Mapping[str, str]) -> str:
    """``filtered, lr = 1e-5``."""
    return ", ".join([kind, *(f"{key.rpartition('.')[2]} = {value}" for key, value in varied.items())])


def read_state(directory: Path) -> dict[str, Any]:
    """``sweep.json``; nothing where there is none. Raises InputError where it is damaged."""
    state, fault = read_table(directory / "sweep.json")
    if fault:
        raise InputError(
            f"{directory}/sweep.json is damaged: {fault}; put the file back, or choose another --out. Each trial in {directory}/trials is"
            " a run of its own, which `tutelage report` shows"
        )
    return state


def is_sweep(directory: Path) -> bool:
    return (directory / "sweep.json").is_file()


def is_finished(directory: Path) -> bool:
    """Whether nothing more will come of a run, or of a sweep: each trial is finished, or has failed in the last session."""
    if not is_sweep(directory):
        return Reading(directory).finished
    failed = read_state(directory)["sessions"][-1]["failed"]
    return all(row["status"].startswith("finished") or row["trial"] in failed for row in table(directory))


def trial_of(directory: Path, name: str) -> Reading:
    return Reading(directory / "trials" / name)


def failures(state: dict[str, Any], directory: Path) -> dict[str, str]:
    """Why trials failed that have not finished since."""
    found: dict[str, str] = {}
    for session in state["sessions"]:
        found = {name: why for name, why in found.items() if name not in session["finished"]} | session["failed"]
    return {name: why for name, why in found.items() if not trial_of(directory, name).trained}


def faults(directory: Path) -> dict[str, list[str]]:
    """What is damaged or missing in the directories of finished trials and baselines, by their paths in the sweep."""
    state = read_state(directory)
    paths = [*state["baselines"].values(), *(f"trials/{point['trial']}" for point in state["points"])]
    readings = {path: reading for path in paths if (reading := Reading(directory / path)).trained}
    return {path: reading.faults for path, reading in readings.items() if reading.faults}


def table(directory: Path) -> list[dict[str, Any]]:
    """A row for each point: what was tried, and what came of it. Raises InputError if there is no sweep."""
    state = read_state(directory)
    if not state:
        raise InputError(f"{directory}: no sweep (no sweep.json)")
    failed = failures(state, directory)
    results = {
        name: _result(trial_of(directory, name), failed.get(name)) for name in {point["trial"] for point in state["points"]}
    }
    _judge(results.values())
    return [
        {
            "data": point["kind"], "size": "full" if point["size"] is None else str(point["size"]), "rows": point["rows"],
            "seed": point["seed"], **point["varied"], "trial": point["trial"], "steps": point["steps"], "tokens": point["tokens"],
            **results[point["trial"]],
        }
        for point in state["points"]
    ]  # fmt: skip


def _judge(results: Iterable[dict[str, Any]]) -> None:
    """Say of each trial what it is beside the untouched model, by p-values that are adjusted for the number of trials."""
    judged = [result for result in results if result["p_value"] is not None]
    for result, adjusted in zip(judged, holm([result["p_value"] for result in judged]), strict=True):
        side = "above" if result["change"] > 0 else "below"
        result |= {"p_value_holm": adjusted, "against_untouched": side if adjusted < 0.05 else "not told apart"}


def _result(reading: Reading, failure: str | None) -> dict[str, Any]:
    """What a trial brought; the same keys always."""
    done, steps, evaluations = reading.trained, reading.steps, reading.evaluations
    last = reading.last or {}
    first = of_all_problems(evaluations[0]) if last and evaluations[0]["step"] == 0 < last["step"] else {}
    low, high = last.get("accuracy_ci95", (None, None))
    pairs = aligned([reading.scores(0), reading.scores(last["step"])]) if first else {}
    kinds, against = (kinds_of(pairs), difference_of(pairs)) if pairs else ({}, None)
    gained, lost = (len(kinds[kind]) if kinds else None for kind in ("gained", "lost"))
    status = "finished" if last else "finished, not evaluated" if done else ""
    memory = [line["memory_gb"] for line in steps if line.get("memory_gb")]
    return {
        "status": status or ("failed" if failure else "unfinished" if reading.lines else "not begun"),
        "accuracy": last.get("accuracy"), "accuracy_low": low, "accuracy_high": high, "problems": last.get("examples"),
        "accuracy_before": first.get("accuracy"), "gained": gained, "lost": lost,
        "change": against and against.estimate, "p_value": against and against.p_value, "p_value_holm": None, "against_untouched": None,
        "well_formed": last.get("format_rate"), "cut_off": last.get("cap_hit_rate"),
        "mean_length": last.get("avg_response_length"), "mean_entropy": last.get("avg_token_entropy"),
        "nll": steps[-1].get("nll") if done and steps else None,
        "training_seconds": round(reading.training_seconds, 1) if steps else None,
        "evaluation_seconds": round(_own_seconds(reading), 1) if evaluations else None,
        "evaluation_share": reading.evaluation_cost["share"] if evaluations else None,
        "wall_seconds": round(reading.wall_seconds, 1) if reading.lines else None,
        "response_tokens": sum(line["response_tokens"] for line in steps) if steps else None,
        "memory_gb": max(memory) if memory else None,
        "failure": failure,
    }  # fmt: skip


def _own_seconds(reading: Reading) -> float:
    """Seconds of the evaluations that the trial made itself."""
    return sum(line["seconds"] for line in reading.evaluations if "adopted_from" not in line)


def points(directory: Path) -> list[Found]:
    """The points of the curves that have a finished trial, in the order of the design."""
    state = read_state(directory)
    grouped: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[dict[str, Any]]] = {}
    for point in state["points"]:
        label = "full" if point["size"] is None else str(point["size"])
        grouped.setdefault((point["kind"], label, tuple(point["varied"].items())), []).append(point)

    @functools.cache
    def scores_of(trial: str) -> tuple[Scores | None, Scores | None]:
        """(of the trained model, of the untouched one)."""
        reading = trial_of(directory, trial)
        if reading.last is None:
            return None, None
        begins = reading.evaluations[0]["step"] == 0 < reading.last["step"]
        return reading.scores(reading.last["step"]), reading.scores(0) if begins else None

    found = []
    for (kind, label, varied), members in grouped.items():
        scores, untouched = (
            {member["seed"]: each for member in members if (each := scores_of(member["trial"])[index]) is not None}
            for index in (0, 1)
        )
        if scores:
            low, high = crossed_interval(list(aligned(list(scores.values())).values()))
            trials = tuple(member["trial"] for member in members)
            found.append(Found(kind, label, members[0]["rows"], dict(varied), low, high, scores, untouched, trials))
    return found


def curves(found: Sequence[Found]) -> dict[str, list[Found]]:
    """The points of each curve, by its name."""
    made: dict[str, list[Found]] = {}
    for point in found:
        made.setdefault(point.name, []).append(point)
    return made


def baselines(directory: Path) -> list[dict[str, Any]]:
    """The evaluations of the untouched model that trials share."""
    paths = dict.fromkeys(read_state(directory)["baselines"].values())
    readings = [reading for path in paths if (reading := Reading(directory / path)).trained]
    return [of_all_problems(reading.evaluations[0]) for reading in readings if reading.evaluations]


def baseline_scores(directory: Path) -> tuple[float, float, float] | None:
    """(accuracy, low, high) of the untouched model, where the sweep has one."""
    evaluated = baselines(directory)
    return (evaluated[0]["accuracy"], *evaluated[0]["accuracy_ci95"]) if len(evaluated) == 1 else None


def write_table(directory: Path) -> None:
    """``sweep.csv`` and ``sweep.parquet``: the table, a row for each point."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    made = pyarrow.Table.from_pylist(table(directory))
    for name, write in (("sweep.csv", pyarrow.csv.write_csv), ("sweep.parquet", pyarrow.parquet.write_table)):
        beside = directory / f".{name}.tmp"
        write(made, beside)
        beside.replace(directory / name)


def in_a_line(directory: Path, name: str) -> str:
    """``accuracy 71.9 % [60–81], 2 min 3 s``."""
    reading = trial_of(directory, name)
    if (last := reading.last) is None:
        return "evaluated" if name.startswith("baseline") else "finished"
    return f"accuracy {shown_accuracy(last)}, {console.duration(reading.wall_seconds)}"

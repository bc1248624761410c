"""What a page shows of several runs beside each other: their curves, what each gains and loses against the first, their settings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.config import describe, shown
from tutelage.console import percent, within
from tutelage.errors import InputError
from tutelage.report import facts, figures, words
from tutelage.runs import Reading, Side, aligned, is_sweep, kinds_of, pair, side
from tutelage.stats import compare, in_words, wilson_interval

MOST = 12
"""Runs that one page can show so that they are told apart."""
BESIDE = 4
"""Runs whose responses to a problem all stand beside each other from the start."""
OF_EVALUATIONS = (
    ("avg_token_entropy", "Mean token entropy of responses", "nats", None),
    ("avg_response_length", "Mean length of responses", "tokens", None),
    ("format_rate", "Well-formed responses", "share", ".0%"),
    ("cap_hit_rate", "Responses cut off at the cap", "share", ".0%"),
)
"""What is drawn of the evaluations besides their accuracy: key, title, unit, form of the ticks."""


def sides_of(names: Sequence[str]) -> list[Side]:
    """The evaluations that are compared. Raises InputError: one is not there, is a sweep, or is named twice."""
    if len(names) > MOST:
        raise InputError(f"{len(names)} runs are too many for one page, which shows {MOST} at most")
    for name in names:
        if is_sweep(Path(name)):
            raise InputError(f"{name} is a sweep, which has a page of its own: tutelage report {shlex.quote(name)}")
    sides = [side(name) for name in names]
    known: set[tuple[Path, int]] = set()
    for name, each in zip(names, sides, strict=True):
        key = (each.reading.directory.resolve(), each.step)
        if key in known:
            raise InputError(f"{name}: step {each.step} of that run is named twice; RUN@STEP names another evaluation")
        known.add(key)
    return sides


def labels_of(sides: Sequence[Side]) -> list[str]:
    """A short name for each side: the end of its path that no other path has, and the step where the path alone does not say it."""
    paths = [each.reading.directory.absolute() for each in sides]
    distinct = set(paths)
    depth = 1
    while len({path.parts[-depth:] for path in distinct}) < len(distinct):
        depth += 1
    return [
        "/".join(path.parts[-depth:])
        + (f" at step {each.step}" if paths.count(path) > 1 or each.step != each.reading.evaluated[-1] else "")
        for each, path in zip(sides, paths, strict=True)
    ]


def content(names: Sequence[str], page: Path, price_per_hour: float | None, currency: str | None) -> dict[str, Any]:
    """What the template of a comparison is filled with.

    Args:
        names: run directories, or directories of `tutelage eval`; ``RUN@STEP`` for another evaluation than the last.

    Raises:
        InputError: as `sides_of`; or no question was put to all, or its reference is not the same for all.
    """
    sides = sides_of(names)
    for other in sides[1:]:
        pair(sides[0], other)
    labels = labels_of(sides)
    scores = aligned([each.reading.scores(each.step) for each in sides])
    if not scores:
        raise InputError("there is no question that all of these runs were asked")
    readings = [each.reading for each in sides]
    columns = list(map(list, zip(*scores.values(), strict=True)))
    title = _title(readings, labels, columns)
    return {
        "title": title,
        "finished": all(reading.finished for reading in readings),
        "questions": len(scores),
        "left_out": len(set().union(*(each.answers for each in sides))) - len(scores),
        "first": labels[0],
        "verdicts": _verdicts(labels, columns),
        "rows": [
            _row(each, label, columns[0], column, page, price_per_hour, currency)
            for each, label, column in zip(sides, labels, columns, strict=True)
        ],
        "labels": labels,
        "differing": differing_settings(readings),
        "faults": {label: reading.faults for label, reading in zip(labels, readings, strict=True) if reading.faults},
        "figures": curves(readings, labels),
        "generations": {
            "steps": list(range(1, 1 + len(sides))), "labels": labels, "beside": "all" if len(sides) <= BESIDE else "first",
            **facts.problems_of([(each.reading, each.step) for each in sides]),
        },
        "repeat": shlex.join(["tutelage", "report", *names]),
    }  # fmt: skip


def _title(readings: Sequence[Reading], labels: Sequence[str], columns: Sequence[Sequence[float]]) -> str:
    """What was compared, by model where it is one, and the accuracy of each."""
    models = {words.model_name(reading.config) if reading.config else "" for reading in readings}
    said = [f"{label} {percent(sum(column) / len(column))}" for label, column in zip(labels, columns, strict=True)]
    model = models.pop() if len(models) == 1 else ""
    return f"{model}: {', '.join(said)}" if model else ", ".join(said)


def _verdicts(labels: Sequence[str], columns: Sequence[Sequence[float]]) -> list[str]:
    """Each run against the first, in words; together the intervals hold in 95 % of cases, however many there are (Bonferroni)."""
    confidence = 1 - 0.05 / (len(columns) - 1)
    first, *others = ([[score] for score in column] for column in columns)
    found = [
        in_words(compare(first, other, confidence), labels[0], label) for label, other in zip(labels[1:], others, strict=True)
    ]
    return [line[0].upper() + line[1:] if line.startswith("not ") else line for line in found]


def _row(
    each: Side, label: str, first: Sequence[float], scores: Sequence[float], page: Path, price: float | None, currency: str | None
) -> dict[str, Any]:
    """One run in the cells of the table."""
    reading, config, count = each.reading, each.reading.config, len(scores)
    kinds = kinds_of({(str(index), 1): both for index, both in enumerate(zip(first, scores, strict=True))})
    cost = words.cost(reading, price)
    report = reading.directory / "report.html"
    known = reading.table("data.json")
    evaluated = reading.evaluations[0]
    return {
        "label": label,
        "link": facts.link(report, page),
        "model": words.model_name(config) if config else facts.shortly(evaluated["model"]),
        "data": facts.data_name(config.data.train) if config else "",
        "rows": known.get("rows"),
        "step": each.step,
        "accuracy": within(sum(scores) / count, *wilson_interval(sum(scores), count)),
        "gained": len(kinds["gained"]),
        "lost": len(kinds["lost"]),
        "time": cost["time"] if cost["seconds"] else "–",
        "money": cost["money"] if cost["seconds"] else None,
        "currency": currency or (config.run.currency if config else None),
    }


def differing_settings(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs: ``key``, ``text``, and ``values``, "–" where a side is no run."""
    configs = [reading.config for reading in readings]
    found = []
    for section, key, _, _, text in describe():
        values = ["–" if config is None else shown(getattr(getattr(config, section), key)) for config in configs]
        known = [value for value, config in zip(values, configs, strict=True) if config is not None]
        if (section, key) != ("run", "dir") and len(set(known)) > 1:
            found.append({"key": f"{section}.{key}", "text": text, "values": values})
    return found


# ── curves over each other ────────────────────────────────────────────────────────────────────────────────────────────


def curves(readings: Sequence[Reading], labels: Sequence[str]) -> list[figures.Figure]:
    """A figure for each number that at least one run has a curve of; each run has one colour and one dash in all of them."""
    runs = list(zip(readings, labels, figures.styles(len(labels)), strict=True))
    accuracy = [
        trace
        for reading, label, style in runs
        if reading.evaluations
        for trace in figures.accuracy_traces(reading.evaluations, label, **style)
    ]
    title = "Accuracy on validation problems, with 95 % intervals"
    yaxis = {"tickformat": ".0%", "rangemode": "tozero"}
    found = [figures.figure("accuracy", title, "accuracy", accuracy, yaxis=yaxis)]
    once = all(map(figures.is_loss_the_nll, readings))
    for key, (title, unit) in figures.OF_STEPS.items():
        if key != "nll" or not once:
            points = [(figures.points_of(reading, key), label, style) for reading, label, style in runs]
            found.append(_over_each_other(key, figures.LOSS_IS_NLL if once and key == "loss" else title, unit, points))
    for key, title, unit, form in OF_EVALUATIONS:
        points = [
            ([(line["step"], line[key]) for line in reading.evaluations if line[key] is not None], label, style)
            for reading, label, style in runs
        ]
        found.append(_over_each_other(key, title, unit, points, **({"tickformat": form} if form else {})))
    return [figure for figure in found if any(len(trace["x"]) > 1 for trace in figure["data"])]


def _over_each_other(
    name: str, title: str, unit: str, runs: Sequence[tuple[Sequence[tuple[float, float]], str, dict[str, str]]], **yaxis: Any
) -> figures.Figure:
    """The same number of several runs over their steps."""
    data = [figures.line_trace(label, *figures.columns_of(points), **style) for points, label, style in runs if points]
    return figures.figure(name, title, unit, data, yaxis=yaxis)

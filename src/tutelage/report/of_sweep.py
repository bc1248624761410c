"""What a page shows of a sweep."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tutelage.config import Config
from tutelage.console import duration, percent, within
from tutelage.report import facts, figures, words
from tutelage.runs import Found, Reading, damage, results, shown_accuracy, verdicts

EQUAL = {"epochs": "equal epochs", "steps": "equal optimizer steps", "tokens": "equal tokens"}


def content(directory: Path, page: Path, price_per_hour: float | None) -> dict[str, Any]:
    """What the template of a sweep's page is filled with."""
    state, table = results.read_state(directory), results.table(directory)
    config = damage.configuration(directory / "config.toml")
    found = results.points(directory)
    judged = verdicts.judge(found)
    price = price_per_hour if price_per_hour is not None else state["price_per_hour"]
    caption = setting(state["design"], config)
    seconds = sum(session["seconds"] for session in state["sessions"])
    trials = {row["trial"]: row for row in table}
    baseline = results.baseline_scores(directory)
    return {
        "title": f"{words.model_name(config)} on {facts.data_name(config.data.train)}: accuracy by training rows",
        "finished": all(row["status"].startswith("finished") for row in table),
        "headline": headline(config, found, baseline, trials),
        "best": [_best(points, judged) for points in results.curves(found).values()],
        "caption": caption,
        "verdicts": verdicts.of_sweep(directory, found, judged),
        "time": duration(seconds),
        "tokens": sum(row["response_tokens"] or 0 for row in trials.values()),
        "environment": facts.environment(next((results.trial_of(directory, name) for name in trials), Reading(directory))),
        "money": None if price is None else price * seconds / 3600,
        "price_per_hour": price,
        "currency": config.run.currency,
        "sessions": state["sessions"],
        "baselines": [{"accuracy": shown_accuracy(each), "problems": each["examples"]} for each in results.baselines(directory)],
        "figures": [figures.size_curve(found, baseline, caption, judged.growth)] if found else [],
        "trials": [_row(row, directory, page) for row in trials.values()],
        "points": len(table),
        "failures": results.failures(state, directory),
        "faults": results.faults(directory),
        "curves": [curve(point, judged) for point in found],
        "varied": sorted({key for row in state["points"] for key in row["varied"]}),
        "toml": (directory / "config.toml").read_text(encoding="utf-8"),
        "repeat": command(directory, state["design"]),
    }


def setting(design: dict[str, Any], config: Config) -> str:
    """What the points have in common, for the plot: epochs, steps or tokens, and the learning rate."""
    lrs = design["lrs"]
    rate = "learning rate of each size: " + ", ".join(f"{lr:g}" for lr in lrs) if lrs else f"learning rate {config.train.lr:g}"
    rate = "" if any(key == "train.lr" for key, _ in design["vary"]) else rate
    varied = ", ".join(f"{key} varied" for key, _ in design["vary"])
    epochs = config.train.num_epochs
    length = f"{config.train.num_steps} steps" if config.train.num_steps else f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    of = f"{EQUAL[design['equal']]} ({length}{'' if design['equal'] == 'epochs' else ' of the largest set'})"
    seeds = f"{design['seeds']} seed{'s' if design['seeds'] > 1 else ''}"
    return "; ".join(part for part in (of, rate, varied, seeds) if part)


def headline(config: Config, found: list[Found], baseline: tuple[float, float, float] | None, trials: dict[str, Any]) -> str:
    """One sentence: what was trained on what, and the best of it."""
    done = sum(row["status"].startswith("finished") for row in trials.values())
    said = f"{words.model_name(config)} on {config.data.in_words}: {done} of {len(trials)} trials finished"
    if not found:
        return f"{said}."
    top = max(found, key=lambda point: point.accuracy)
    before = f", from {percent(baseline[0])} untouched" if baseline else ""
    equals = [point for point in found if point.accuracy == top.accuracy]
    if any(not point.is_trained_with(top) for point in equals if point is not top):
        which = "all points" if len(equals) == len(found) else ", ".join(verdicts.named(point) for point in equals)
        return f"{said}; a tie: {which} at {percent(top.accuracy)}{before}."
    return f"{said}; {top.name} data, {top.rows} rows, came furthest: {top.shown}{before}."


def _best(points: list[Found], judged: verdicts.Verdicts) -> dict[str, str]:
    """The best point of a curve in the cells of a table; of equal ones, the rows of each."""
    top = max(points, key=lambda point: point.accuracy)
    rows = dict.fromkeys(str(point.rows) for point in points if point.accuracy == top.accuracy)
    return curve(top, judged) | {"rows": ", ".join(rows)}


def curve(point: Found, judged: verdicts.Verdicts) -> dict[str, str]:
    """A point of a curve in the cells of a table."""
    seeds = ", ".join(percent(value) for value in point.accuracies)
    return {
        "name": point.name,
        "label": point.label,
        "rows": str(point.rows),
        "accuracy": point.shown,
        "seeds": seeds,
        "beside": judged.beside_untouched(point) or "–",
    }


def _row(row: dict[str, Any], directory: Path, page: Path) -> dict[str, Any]:
    report = directory / "trials" / row["trial"] / "report.html"
    return row | {
        "link": facts.link(report, page),
        "shown": "–" if row["accuracy"] is None else within(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
        "took": duration(row["wall_seconds"]) if row["wall_seconds"] else "–",
        "evaluating": "–" if row["evaluation_share"] is None else percent(row["evaluation_share"]),
    }


def command(directory: Path, design: dict[str, Any]) -> str:
    """The command that makes the sweep again."""
    sizes = ",".join("full" if size is None else str(size) for size in design["sizes"])
    parts = ["tutelage", "sweep", str(directory / "config.toml"), "--sizes", sizes, "--data", ",".join(design["kinds"])]
    parts += ["--seeds", str(design["seeds"]), "--equal", design["equal"]]
    parts += [part for key, values in design["vary"] for part in ("--vary", f"{key}={','.join(values)}")]
    parts += ["--lr", ",".join(f"{lr:g}" for lr in design["lrs"])] if design["lrs"] else []
    return f"{shlex.join(parts)} --out NEW_DIRECTORY"

"""What a page shows of `tutelage improve`: accuracy by round, what was sampled and solved, lengths and entropies, and verdicts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tutelage.config import Config, inline
from tutelage.console import duration, percent, within
from tutelage.report import facts, words
from tutelage.report.figures import BLUE, DASHES, GREEN, GREY, ORANGE, Figure, error_bars, figure, line_trace
from tutelage.runs import damage, rounds, shown_accuracy

Row = dict[str, Any]


def content(directory: Path, page: Path, price_per_hour: float | None) -> dict[str, Any]:
    """What the template of the page is filled with."""
    state, table = rounds.read_state(directory), rounds.table(directory)
    config, design = damage.configuration(directory / "config.toml"), state["design"]
    untouched = rounds.untouched_of(directory)
    price = price_per_hour if price_per_hour is not None else state["price_per_hour"]
    seconds = sum(session["seconds"] for session in state["sessions"])
    return {
        "title": directory.absolute().name,
        "finished": all(row["status"] == "finished" for row in table),
        "headline": headline(config, table, untouched),
        "caption": setting(design),
        "untouched": None if untouched is None else shown_accuracy(untouched),
        "held_out": next((row["problems"] for row in table if row["problems"]), None),
        "problems": state["problems"],
        "verdicts": rounds.verdicts(directory),
        "collapse": rounds.collapse(directory),
        "time": duration(seconds),
        "sessions": state["sessions"],
        "currency": config.run.currency,
        "money": None if price is None else price * seconds / 3600,
        "price_per_hour": price,
        "figures": [each for each in _figures(table, untouched) if each["data"]],
        "rounds": [_shown(row, directory, page) for row in table],
        "best": _best(table),
        "failures": rounds.failures(directory),
        "faults": rounds.faults(directory),
        "environment": facts.environment(rounds.reading_of(directory, 0)),
        "toml": (directory / "config.toml").read_text(encoding="utf-8"),
        "repeat": command(directory, design),
    }


def headline(config: Config, table: list[Row], untouched: Row | None) -> str:
    """One sentence: which model, how many rounds are done, and from which accuracy to which they led."""
    done = [row for row in table if row["accuracy"] is not None]
    said = f"{words.model_name(config)}, trained on its own right answers: {max(0, len(done) - 1)} of {len(table) - 1} rounds finished"
    if not done:
        return f"{said}."
    first, last = done[0], done[-1]
    before = f" ({percent(untouched['accuracy'])} untouched)" if untouched else ""
    now = f" to {_accuracy(last)} in round {last['round']}" if last is not first else ""
    return f"{said}; accuracy from {_accuracy(first)} in round 0{before}{now}."


def _accuracy(row: Row) -> str:
    return within(row["accuracy"], row["accuracy_low"], row["accuracy_high"])


def setting(design: dict[str, Any]) -> str:
    """How the rounds were made, in words."""
    wanted = design["wanted"]
    trains = (
        "each round trains the base model on all accepted rows so far"
        if design["origin"] == "base"
        else "each round goes on training the model of the round before"
    )
    own = "with" if design["with_rows"] else "without"
    asks = f"{wanted['samples']} responses per problem at temperature {design['temperature']:g}"
    return f"{asks}; {trains}, {own} the configuration's own rows"


def _best(table: list[Row]) -> Row | None:
    done = [row for row in table if row["accuracy"] is not None]
    top = max(done, key=lambda row: row["accuracy"], default=None)
    return None if top is None else {"round": top["round"], "accuracy": _accuracy(top)}


def _shown(row: Row, directory: Path, page: Path) -> dict[str, Any]:
    """A round in the cells of the tables."""
    report = directory / row["name"] / "report.html"
    fates = row["fates"] or {}
    solved = row["solved"]
    return row | rounds.cells(row) | {
        "link": facts.link(report, page),
        "solved_share": "–" if solved is None else within(solved / row["asked"], row["solved_low"], row["solved_high"]),
        "pass_at_k": ", ".join(f"pass@{k} {percent(each['estimate'])}" for k, each in (row["pass_at_k"] or {}).items()) or "–",
        "fates": ", ".join(f"{count:,} {fate}" for fate, count in fates.items() if count) or "–",
        "sampling": "–" if row["sampling_seconds"] is None else duration(row["sampling_seconds"]),
        "training": "–" if row["training_seconds"] is None else duration(row["training_seconds"]),
        "sampled_length": "–" if row["sampled_length"] is None else f"{row['sampled_length']:.1f}",
        "sampled_entropy": "–" if row["sampled_entropy"] is None else f"{row['sampled_entropy']:.3f}",
        "mix": "–" if row["own_rows"] is None else f"{row['own_rows']:,} + {row['sampled_rows']:,}",
    }  # fmt: skip


def _figures(table: list[Row], untouched: Row | None) -> list[Figure]:
    ticks = {"tickvals": [row["round"] for row in table]}
    return [
        figure(
            "rounds", "Accuracy on the held-out problems, with its 95 % interval", "accuracy", _accuracies(table, untouched), "round",
            xaxis=ticks, yaxis={"tickformat": ".0%", "rangemode": "tozero"},
        ),
        figure(
            "solved", "Problems solved at least once", "problems", _solved(table), "round", xaxis=ticks, yaxis={"rangemode": "tozero"}
        ),
        figure(
            "entropies", "Mean token entropy of responses", "nats", _pair(table, "mean_entropy", "sampled_entropy", "nats"), "round",
            xaxis=ticks, yaxis={"rangemode": "tozero"},
        ),
        figure(
            "lengths", "Mean length of responses", "tokens", _pair(table, "mean_length", "sampled_length", "tokens"), "round",
            xaxis=ticks, yaxis={"rangemode": "tozero"},
        ),
    ]  # fmt: skip


def _accuracies(table: list[Row], untouched: Row | None) -> list[dict[str, Any]]:
    done = [row for row in table if row["accuracy"] is not None]
    if not done:
        return []
    xs, ys = [row["round"] for row in done], [row["accuracy"] for row in done]
    low, high = [row["accuracy_low"] for row in done], [row["accuracy_high"] for row in done]
    texts = [within(*each, digits=1) for each in zip(ys, low, high, strict=True)]
    data = [
        line_trace(
            "by round", xs, ys, GREEN, error_y=error_bars(ys, low, high, GREEN), text=texts, hovertemplate="%{text}",
            mode="lines+markers",
        )
    ]  # fmt: skip
    if untouched is not None:
        ends = [table[0]["round"], table[-1]["round"]]
        level = [untouched["accuracy"]] * 2
        data.append(line_trace("untouched model", ends, level, GREY, "dot", mode="lines", hovertemplate="%{y:.1%}"))
    return data


def _solved(table: list[Row]) -> list[dict[str, Any]]:
    """Of the problems that are sampled: those solved in each round, and so far."""
    return [
        line_trace(label, *_points(table, key), colour, dash, mode="lines+markers", hovertemplate="%{y}")
        for label, key, colour, dash in (
            ("in the round", "solved", BLUE, DASHES[0]),
            ("so far", "solved_so_far", GREEN, DASHES[1]),
        )
        if _points(table, key)[0]
    ]


def _pair(table: list[Row], evaluated: str, sampled: str, unit: str) -> list[dict[str, Any]]:
    """Of the responses to the held-out problems, and of those that were sampled for a round."""
    named = (("held-out problems", evaluated, GREEN, DASHES[0]), ("samples for the round", sampled, ORANGE, DASHES[1]))
    hover = f"%{{y:.3~g}} {unit}"
    return [
        line_trace(label, *_points(table, key), colour, dash, mode="lines+markers", hovertemplate=hover)
        for label, key, colour, dash in named
        if _points(table, key)[0]
    ]


def _points(table: list[Row], key: str) -> tuple[list[int], list[float]]:
    known = [row for row in table if row[key] is not None]
    return [row["round"] for row in known], [row[key] for row in known]


def command(directory: Path, design: dict[str, Any]) -> str:
    """The command that makes the rounds again."""
    wanted = design["wanted"]
    parts = ["tutelage", "improve", str(directory / "config.toml"), "--rounds", str(design["rounds"]), "--from", design["origin"]]
    problems = design["problems"]
    parts += ["--problems", problems["path"], "--split", problems["split"]]
    parts += ["--hub-config", problems["hub_config"]] if problems["hub_config"] else []
    parts += ["--columns", inline(problems["columns"])] if problems["columns"] else []
    parts += ["--with-rows" if design["with_rows"] else "--without-rows"]
    parts += ["--start", design["start"]] if design["start"] else []
    parts += [word for key in ("samples", "keep", "choose", "seed") for word in (f"--{key}", str(wanted[key]))]
    parts += ["--favour-hard"] if wanted["favour_hard"] else []
    parts += ["--temperature", f"{design['temperature']:g}"]
    return f"{shlex.join(parts)} --out NEW_DIRECTORY"

"""The curves of a page, as figures of Plotly: plain dicts of traces and a layout, in colours that both themes bear."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tutelage.report.facts import OUTCOMES, outcome_of
from tutelage.runs import Found, Reading
from tutelage.stats import mean

BLUE, ORANGE, GREEN, RED, VIOLET, GREY = "#3d7be0", "#d9730d", "#2a9a55", "#d64545", "#8a63d2", "#858b94"
OF_OUTCOME = {"right": GREEN, "wrong": RED, "cut off": ORANGE, "malformed": VIOLET}
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
MOST_POINTS = 2000
"""Points that a line is drawn with at most."""
BESIDE = 1.03
"""By what factor curves of a logarithmic axis stand beside each other."""

Figure = dict[str, Any]


def of_run(reading: Reading) -> list[Figure]:
    """The curves of a run over its optimizer steps; those that there is something to draw of."""
    steps, evaluations = reading.steps, reading.evaluations
    marks = [line["step"] for line in evaluations]
    figures = [
        _accuracy(evaluations),
        _over_steps("loss", "Loss", "loss", steps, [("loss", "loss", BLUE)], marks),
        _over_steps("nll", "Negative log-likelihood per response token", "nats", steps, [("NLL", "nll", BLUE)], marks),
        _entropy(reading),
        _lengths(reading),
        _shares(evaluations),
        _over_steps("lr", "Learning rate", "learning rate", steps, [("learning rate", "lr", VIOLET)], marks, ".2~e"),
        _over_steps("grad_norm", "Gradient norm before clipping", "L2 norm", steps, [("gradient norm", "grad_norm", ORANGE)], marks),
        _over_steps("throughput", "Throughput", "tokens per second", steps, [("tokens per second", "tokens_per_second", GREEN)], marks),
        _over_steps("memory", "Memory of the training process", "GB", steps, [("memory", "memory_gb", GREY)], marks),
    ]  # fmt: skip
    return [figure for figure in figures if figure["data"]]


def figure(name: str, title: str, y: str, data: list[dict[str, Any]], x: str = "optimizer step", **layout: Any) -> Figure:
    """A figure; `name` is the id of its place in the page, `title` its heading, `x` and `y` its axes."""
    return {
        "name": name,
        "title": title,
        "data": data,
        "layout": {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, **layout},
        "linked": x == "optimizer step",
    }


def _over_steps(
    name: str,
    title: str,
    y: str,
    steps: Sequence[dict[str, Any]],
    curves: Sequence[tuple[str, str, str]],
    marks: Sequence[int],
    form: str | None = None,
) -> Figure:
    data = []
    for label, key, colour in curves:
        points = [(line["step"], line[key]) for line in steps if line.get(key) is not None and math.isfinite(line[key])]
        if points:
            xs, ys = zip(*thinned(points), strict=True)
            data.append(line_trace(label, xs, ys, colour))
    lines = [
        {
            "type": "line",
            "x0": step,
            "x1": step,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": GREY, "width": 1, "dash": "dot"},
        }
        for step in marks[:: 1 + len(marks) // 60]
    ]
    made = figure(name, title, y, data, shapes=lines)
    made["layout"]["yaxis"] |= {"tickformat": form} if form else {}
    return made


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    kept = []
    width = -(-len(points) // (most // 2))
    for start in range(0, len(points), width):
        stretch = points[start : start + width]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def line_trace(label: str, xs: Sequence[Any], ys: Sequence[Any], colour: str, dash: str = "solid", **more: Any) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines+markers" if len(xs) <= 40 else "lines", "name": label, "x": list(xs), "y": list(ys),
        "line": {"color": colour, "width": 2, "dash": dash}, "marker": {"color": colour, "size": 6}, **more,
    }  # fmt: skip


def _band(xs: Sequence[Any], low: Sequence[float], high: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "x": [*xs, *reversed(xs)], "y": [*high, *reversed(low)], "fill": "toself",
        "fillcolor": colour + "30", "line": {"width": 0}, "hoverinfo": "skip", "name": "95 % interval", "showlegend": False,
    }  # fmt: skip


def _accuracy(evaluations: Sequence[dict[str, Any]]) -> Figure:
    data = []
    if evaluations:
        steps = [line["step"] for line in evaluations]
        low, high = zip(*(line["accuracy_ci95"] for line in evaluations), strict=True)
        texts = [f"{100 * a:.1f}–{100 * b:.1f} %" for a, b in zip(low, high, strict=True)]
        hover = "%{y:.1%} [%{text}]"
        data = [
            _band(steps, low, high, GREEN),
            line_trace("panel", steps, [line["accuracy"] for line in evaluations], GREEN, text=texts, hovertemplate=hover),
        ]
        whole = [(line["step"], line["full"]) for line in evaluations if "full" in line]
        if whole:
            lows, highs = zip(*(full["accuracy_ci95"] for _, full in whole), strict=True)
            values = [full["accuracy"] for _, full in whole]
            data.append(
                {
                    "type": "scatter", "mode": "markers", "name": "all problems", "x": [step for step, _ in whole], "y": values,
                    "marker": {"symbol": "diamond", "size": 10, "color": BLUE}, "hovertemplate": "%{y:.1%}",
                    "error_y": error_bars(values, lows, highs, BLUE),
                }
            )  # fmt: skip
    made = figure("accuracy", "Accuracy on validation problems, with its 95 % interval", "accuracy", data)
    made["layout"]["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return made


def error_bars(values: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "color": colour, "thickness": 1.5,
        "array": [b - value for value, b in zip(values, high, strict=True)],
        "arrayminus": [value - a for value, a in zip(values, low, strict=True)],
    }  # fmt: skip


def _by_outcome(reading: Reading, value: Callable[[dict[str, Any]], float | None], unit: str) -> list[dict[str, Any]]:
    """A line for each outcome: the mean of a value over its responses to the panel, at each evaluation."""
    groups: dict[tuple[int, int], list[float]] = {}
    for record in (record for line in reading.evaluations for record in reading.panel(line)):
        found = value(record)
        if found is not None:
            groups.setdefault((outcome_of(record), record["step"]), []).append(found)
    data = []
    for place, (outcome, colour) in enumerate(OF_OUTCOME.items()):
        points = sorted((step, values) for (of, step), values in groups.items() if of == OUTCOMES.index(outcome))
        if points:
            texts = [f"{len(values)} responses" for _, values in points]
            ys = [mean(values) for _, values in points]
            hover = f"%{{y:.3~g}} {unit}, %{{text}}"
            data.append(
                line_trace(outcome, [step for step, _ in points], ys, colour, DASHES[place], text=texts, hovertemplate=hover)
            )
    return data


def _entropy(reading: Reading) -> Figure:
    data = _by_outcome(reading, lambda record: record["token_entropy"], "nats")
    if data:
        told = [line for line in reading.evaluations if line["avg_token_entropy"] is not None]
        data.insert(0, line_trace("all", [line["step"] for line in told], [line["avg_token_entropy"] for line in told], GREY))
    return figure("entropy", "Mean token entropy of responses, by outcome", "nats", data)


def _lengths(reading: Reading) -> Figure:
    data = _by_outcome(reading, lambda record: record["length"], "tokens")
    return figure("lengths", "Mean length of responses, by outcome", "tokens", data)


def _shares(evaluations: Sequence[dict[str, Any]]) -> Figure:
    steps = [line["step"] for line in evaluations]
    curves = (("well-formed", "format_rate", BLUE, "solid"), ("cut off at the cap", "cap_hit_rate", ORANGE, "dash"))
    data = [
        line_trace(label, steps, [line[key] for line in evaluations], colour, dash, hovertemplate="%{y:.1%}")
        for label, key, colour, dash in curves
        if steps
    ]
    made = figure("shares", "Well-formed and cut-off responses", "share", data)
    made["layout"]["yaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    return made


def lengths_histogram(data: dict[str, Any]) -> Figure | None:
    """The lengths of the rows, and where they are cut."""
    if not data.get("lengths"):
        return None
    lengths, counts = zip(*data["lengths"], strict=True)
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // 40))
    bins: dict[int, int] = {}
    for length, count in zip(lengths, counts, strict=True):
        start = low + (length - low) // width * width
        bins[start] = bins.get(start, 0) + count
    starts = sorted(bins)
    bars = {
        "type": "bar", "x": [start + (width - 1) / 2 for start in starts], "y": [bins[start] for start in starts], "width": width,
        "marker": {"color": BLUE}, "name": "rows", "text": [f"{start}–{start + width - 1} tokens" for start in starts],
        "textposition": "none", "hovertemplate": "%{text}: %{y} rows<extra></extra>",
    }  # fmt: skip
    cut = data["max_length"]
    line = {
        "type": "line",
        "x0": cut,
        "x1": cut,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": RED, "width": 2, "dash": "dash"},
    }
    note = {
        "x": cut,
        "y": 1,
        "yref": "paper",
        "text": f"max_length {cut}",
        "showarrow": False,
        "xanchor": "right",
        "yanchor": "bottom",
    }
    return figure("histogram", "Lengths of prompt + response", "rows", [bars], x="tokens", shapes=[line], annotations=[note])


def size_curve(found: Sequence[Found], baseline: tuple[float, float, float] | None, caption: str) -> Figure:
    """Accuracy against the number of training rows: a line for each kind of data, with error bars, and the seeds as dots."""
    names = list(dict.fromkeys(point.name for point in found))
    colours = (BLUE, GREEN, ORANGE, VIOLET, RED, GREY)
    data: list[dict[str, Any]] = []
    if baseline is not None and found:
        rows = [min(point.rows for point in found), max(point.rows for point in found)]
        share, low, high = baseline
        data += [
            _band(rows, [low] * 2, [high] * 2, GREY),
            line_trace("untouched model", rows, [share] * 2, GREY, "dot", mode="lines", hovertemplate="%{y:.1%}"),
        ]
    for place, name in enumerate(names):
        curve = sorted((point for point in found if point.name == name), key=lambda point: point.rows)
        colour, symbol = colours[place % len(colours)], SYMBOLS[place % len(SYMBOLS)]
        ys = [point.accuracy for point in curve]
        bars = error_bars(ys, [point.low for point in curve], [point.high for point in curve], colour)
        texts = [
            f"{point.rows} rows: {100 * point.accuracy:.1f} % [{100 * point.low:.1f}–{100 * point.high:.1f}]" for point in curve
        ]
        beside = BESIDE ** (place - (len(names) - 1) / 2)  # so that bars of the same size stand beside each other
        made = line_trace(
            name, [point.rows * beside for point in curve], ys, colour, DASHES[place % len(DASHES)], error_y=bars, text=texts,
            hovertemplate="%{text}", legendgroup=name,
        )  # fmt: skip
        made["mode"] = "lines+markers"
        made["marker"] |= {"symbol": symbol, "size": 9}
        data.append(made)
        dots = [(point.rows * beside, value) for point in curve for value in point.accuracies if len(point.accuracies) > 1]
        if dots:
            xs, values = zip(*dots, strict=True)
            data.append(
                {
                    "type": "scatter", "mode": "markers", "x": list(xs), "y": list(values), "legendgroup": name, "showlegend": False,
                    "marker": {"color": colour, "size": 5, "opacity": 0.6, "symbol": f"{symbol}-open"}, "name": f"{name}, each seed",
                    "hovertemplate": "%{y:.1%}",
                }
            )  # fmt: skip
    made = figure("sizes", "Accuracy against the number of training rows", "accuracy", data, x="training rows (logarithmic)")
    made["caption"] = caption
    ticks = sorted({point.rows for point in found})
    made["layout"]["xaxis"] |= {"type": "log", "tickvals": _apart(ticks), "ticktext": [str(tick) for tick in _apart(ticks)]}
    made["layout"]["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    return made


def _apart(ticks: Sequence[int]) -> list[int]:
    """Those of the ticks whose labels do not touch on a logarithmic axis, the largest first."""
    kept: list[int] = []
    for tick in sorted(ticks, reverse=True):
        if not kept or kept[-1] / tick > 1.18:
            kept.append(tick)
    return kept[::-1]

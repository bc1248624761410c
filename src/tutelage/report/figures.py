"""The curves of a page, as figures of Plotly: plain dicts of traces and a layout, in colours that both themes bear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.console import within
from tutelage.report.facts import OUTCOMES, outcome_of
from tutelage.runs import Found, Reading, results
from tutelage.stats import Continued, binned, mean

BLUE, ORANGE, GREEN, RED, VIOLET, GREY = "#3d7be0", "#c98300", "#00997a", "#d4533a", "#a070d8", "#858b94"
"""Colours that people who see no red or no green tell apart, on white and on black."""
OF_OUTCOME = {"right": GREEN, "wrong": RED, "cut off": ORANGE, "malformed": VIOLET}
DASHES = ("solid", "dash", "dot", "dashdot")
COLOURS = (BLUE, GREEN, ORANGE, VIOLET, RED, GREY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
OF_STEPS = {
    "loss": ("Loss", "loss"),
    "nll": ("Negative log-likelihood per response token", "nats"),
    "lr": ("Learning rate", "learning rate"),
    "grad_norm": ("Gradient norm before clipping", "L2 norm"),
    "tokens_per_second": ("Throughput", "tokens per second"),
    "memory_gb": ("Memory of the training process", "GiB"),
}
"""The numbers of each step that are drawn: the figure's title, and its unit."""
SCALE = {"memory_gb": 1e9 / 2**30}
"""What a number of the log is multiplied by to be in its unit."""
LOSS_IS_NLL = "Loss: negative log-likelihood per response token"
MOST_POINTS = 2000
"""Points that a line is drawn with at most."""
BESIDE = 1.03
"""By what factor curves of a logarithmic axis stand beside each other."""

Figure = dict[str, Any]


def of_run(reading: Reading) -> list[Figure]:
    """The curves of a run over its optimizer steps; those that there is something to draw of."""
    figures = [
        _accuracy(reading.evaluations),
        *_losses(reading),
        _entropy(reading),
        figure("lengths", "Mean length of responses, by outcome", "tokens", _by_outcome(reading, "length", "tokens")),
        _shares(reading.evaluations),
        _over_steps(reading, "lr", VIOLET),
        _over_steps(reading, "grad_norm", ORANGE),
        _over_steps(reading, "tokens_per_second", GREEN),
        _over_steps(reading, "memory_gb", GREY),
    ]
    return [figure for figure in figures if figure["data"]]


def figure(name: str, title: str, y: str, data: list[dict[str, Any]], x: str = "optimizer step", **layout: Any) -> Figure:
    """A figure; `name` is the id of its place in the page, `title` its heading, `x` and `y` the titles of its axes."""
    axes = {axis: {"title": {"text": text}, **layout.get(axis, {})} for axis, text in (("xaxis", x), ("yaxis", y))}
    return {"name": name, "title": title, "data": data, "layout": layout | axes, "linked": x == "optimizer step"}


def _losses(reading: Reading) -> list[Figure]:
    """Loss and negative log-likelihood: one figure where the two are the same."""
    if is_loss_the_nll(reading):
        return [_over_steps(reading, "loss", BLUE, LOSS_IS_NLL)]
    return [_over_steps(reading, "loss", BLUE), _over_steps(reading, "nll", BLUE)]


def is_loss_the_nll(reading: Reading) -> bool:
    """Whether the loss of every step is its negative log-likelihood per response token."""
    return all(math.isclose(line["loss"], line.get("nll", math.nan), rel_tol=1e-4) for line in reading.steps)


def points_of(reading: Reading, key: str) -> list[tuple[float, float]]:
    """(step, value) of one number of each step, where it is a number; thinned."""
    told = [(line["step"], line[key]) for line in reading.steps if line.get(key) is not None and math.isfinite(line[key])]
    return thinned([(step, value * SCALE.get(key, 1.0)) for step, value in told])


def _over_steps(reading: Reading, key: str, colour: str, title: str | None = None) -> Figure:
    """The curve of one number of each step, with a dotted line at each evaluation."""
    named, unit = OF_STEPS[key]
    points = points_of(reading, key)
    data = [line_trace(key.replace("_", " "), *columns_of(points), colour)] if points else []
    marks = reading.evaluated[:: 1 + len(reading.evaluated) // 60]
    lines = [_vertical(step, color=GREY, width=1, dash="dot") for step in marks]
    return figure(key, title or named, unit, data, shapes=lines)


def _vertical(x: float, **line: Any) -> dict[str, Any]:
    """A line across the height of a figure."""
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    kept = []
    width = -(-len(points) // (MOST_POINTS // 2))
    for start in range(0, len(points), width):
        stretch = points[start : start + width]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def columns_of(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The two coordinates of points."""
    return [x for x, _ in points], [y for _, y in points]


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


def styles(count: int) -> list[dict[str, str]]:
    """A colour and a dash for each of some lines; no two have both."""
    every = len(COLOURS)
    return [{"colour": COLOURS[index % every], "dash": DASHES[(index + index // every) % len(DASHES)]} for index in range(count)]


def accuracy_traces(
    evaluations: Sequence[dict[str, Any]], label: str, colour: str, dash: str = "solid"
) -> list[dict[str, Any]]:
    """The accuracy of evaluations, and the band of its intervals."""
    steps, values, low, high = _with_intervals([(line["step"], line) for line in evaluations])
    texts = [within(*each, digits=1) for each in zip(values, low, high, strict=True)]
    line = line_trace(label, steps, values, colour, dash, text=texts, hovertemplate="%{text}")
    return [_band(steps, low, high, colour), line]


def _accuracy(evaluations: Sequence[dict[str, Any]]) -> Figure:
    data = accuracy_traces(evaluations, "panel", GREEN) if evaluations else []
    of_all = [(line["step"], line["full"]) for line in evaluations if "full" in line]
    if of_all:
        steps, values, low, high = _with_intervals(of_all)
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "all problems", "x": steps, "y": values,
                "marker": {"symbol": "diamond", "size": 10, "color": BLUE}, "hovertemplate": "%{y:.1%}",
                "error_y": error_bars(values, low, high, BLUE),
            }
        )  # fmt: skip
    title = "Accuracy on validation problems, with its 95 % interval"
    return figure("accuracy", title, "accuracy", data, yaxis={"tickformat": ".0%", "rangemode": "tozero"})


def _with_intervals(evaluations: Sequence[tuple[int, dict[str, Any]]]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps, accuracies, and the ends of their intervals."""
    rows = [(step, line["accuracy"], *line["accuracy_ci95"]) for step, line in evaluations]
    steps, values, low, high = map(list, zip(*rows, strict=True))
    return steps, values, low, high


def error_bars(values: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "color": colour, "thickness": 1.5,
        "array": [b - value for value, b in zip(values, high, strict=True)],
        "arrayminus": [value - a for value, a in zip(values, low, strict=True)],
    }  # fmt: skip


def _by_outcome(reading: Reading, key: str, unit: str) -> list[dict[str, Any]]:
    """A line for each outcome: the mean of what `key` names over its responses to the panel, at each evaluation."""
    groups: dict[tuple[int, int], list[float]] = {}
    for record in (record for line in reading.evaluations for record in reading.panel(line)):
        if record[key] is not None:
            groups.setdefault((outcome_of(record), record["step"]), []).append(record[key])
    data = []
    hover = f"%{{y:.3~g}} {unit}, %{{text}}"
    for index, (outcome, colour) in enumerate(OF_OUTCOME.items()):
        points = sorted((step, values) for (of, step), values in groups.items() if of == OUTCOMES.index(outcome))
        if points:
            texts = [f"{len(values)} responses" for _, values in points]
            ys = [mean(values) for _, values in points]
            xs = [step for step, _ in points]
            data.append(line_trace(outcome, xs, ys, colour, DASHES[index], text=texts, hovertemplate=hover))
    return data


def _entropy(reading: Reading) -> Figure:
    data = _by_outcome(reading, "token_entropy", "nats")
    if data:
        known = [line for line in reading.evaluations if line["avg_token_entropy"] is not None]
        data.insert(0, line_trace("all", [line["step"] for line in known], [line["avg_token_entropy"] for line in known], GREY))
    return figure("entropy", "Mean token entropy of responses, by outcome", "nats", data)


def _shares(evaluations: Sequence[dict[str, Any]]) -> Figure:
    steps = [line["step"] for line in evaluations]
    curves = (("well-formed", "format_rate", BLUE, "solid"), ("cut off at the cap", "cap_hit_rate", ORANGE, "dash"))
    data = [
        line_trace(label, steps, [line[key] for line in evaluations], colour, dash, hovertemplate="%{y:.1%}")
        for label, key, colour, dash in curves
        if steps
    ]
    yaxis = {"tickformat": ".0%", "range": [-0.02, 1.02]}
    return figure("shares", "Well-formed and cut-off responses", "share", data, yaxis=yaxis)


def lengths_histogram(data: dict[str, Any]) -> Figure | None:
    """The lengths of the rows, and where they are cut."""
    if not data.get("lengths"):
        return None
    width, bins = binned(dict(data["lengths"]), 40)
    starts = [start for start, count in bins.items() if count]
    bars = {
        "type": "bar", "x": [start + (width - 1) / 2 for start in starts], "y": [bins[start] for start in starts], "width": width,
        "marker": {"color": BLUE}, "name": "rows", "text": [f"{start}–{start + width - 1} tokens" for start in starts],
        "textposition": "none", "hovertemplate": "%{text}: %{y} rows<extra></extra>",
    }  # fmt: skip
    cut = data["max_length"]
    line = _vertical(cut, color=RED, width=2, dash="dash")
    note = {
        "x": cut, "y": 1, "yref": "paper", "text": f"max_length {cut}", "showarrow": False, "xanchor": "right", "yanchor": "top",
    }  # fmt: skip  # within the plot, whose margins are narrow; few rows are so long
    return figure("histogram", "Lengths of prompt + response", "rows", [bars], x="tokens", shapes=[line], annotations=[note])


def size_curve(
    found: Sequence[Found], baseline: tuple[float, float, float] | None, caption: str, growth: Mapping[str, Continued]
) -> Figure:
    """Accuracy against the number of training rows: a line for each kind of data, with error bars, and the seeds as dots.

    Beyond the data, what more rows would bring (`growth`, by the curve's name) is drawn dashed, with its band.
    """
    curves = results.curves(found).values()
    data: list[dict[str, Any]] = []
    if baseline is not None and found:
        rows = [min(point.rows for point in found), max(point.rows for point in found)]
        share, low, high = baseline
        data += [
            _band(rows, [low] * 2, [high] * 2, GREY),
            line_trace("untouched model", rows, [share] * 2, GREY, "dot", mode="lines", hovertemplate="%{y:.1%}"),
        ]
    for index, curve in enumerate(curves):
        beside = BESIDE ** (index - (len(curves) - 1) / 2)  # so that bars of the same size stand beside each other
        data += _size_curve_of(sorted(curve, key=lambda point: point.rows), index, beside)
        data += _beyond(growth.get(curve[0].name, Continued()), curve[0].name, COLOURS[index % len(COLOURS)], beside)
    told = {each.rows[-1] for each in growth.values() if each.rows}
    ticks = _apart(sorted({point.rows for point in found} | told))
    xaxis = {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}
    made = figure(
        "sizes", "Accuracy against the number of training rows", "accuracy", data, "training rows (logarithmic)",
        xaxis=xaxis, yaxis={"tickformat": ".0%", "rangemode": "tozero"},
    )  # fmt: skip
    return {**made, "caption": caption}


def _size_curve_of(curve: Sequence[Found], index: int, beside: float) -> list[dict[str, Any]]:
    """One kind of data: its line with error bars, and a dot for each seed where there are several."""
    name, colour, symbol = curve[0].name, COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]
    ys = [point.accuracy for point in curve]
    line = line_trace(
        name, [point.rows * beside for point in curve], ys, colour,  # solid: dashed is what is continued
        error_y=error_bars(ys, [point.low for point in curve], [point.high for point in curve], colour),
        text=[f"{point.rows} rows: {within(point.accuracy, point.low, point.high, digits=1)}" for point in curve],
        hovertemplate="%{text}", legendgroup=name, mode="lines+markers",
    )  # fmt: skip
    line["marker"] |= {"symbol": symbol, "size": 9}
    dots = [(point.rows * beside, value) for point in curve for value in point.accuracies if len(point.accuracies) > 1]
    if not dots:
        return [line]
    xs, values = zip(*dots, strict=True)
    seeds = {
        "type": "scatter", "mode": "markers", "x": list(xs), "y": list(values), "legendgroup": name, "showlegend": False,
        "marker": {"color": colour, "size": 5, "opacity": 0.6, "symbol": f"{symbol}-open"}, "name": f"{name}, each seed",
        "hovertemplate": "%{y:.1%}",
    }  # fmt: skip
    return [line, seeds]


def _beyond(found: Continued, name: str, colour: str, beside: float) -> list[dict[str, Any]]:
    """A curve from its largest size to twice that: dashed, with its band; nothing where it cannot be told."""
    if not found.rows:
        return []
    xs = [rows * beside for rows in found.rows]
    points = zip(found.rows, found.values, found.low, found.high, strict=True)
    texts = [f"{rows} rows, if the curve goes on: {within(value, low, high, digits=1)}" for rows, value, low, high in points]
    line = line_trace(
        f"{name}, continued", xs, found.values, colour, "dash", mode="lines", text=texts, hovertemplate="%{text}", legendgroup=name,
        showlegend=False,
    )  # fmt: skip
    return [_band(xs, found.low, found.high, colour) | {"legendgroup": name}, line]


def _apart(ticks: Sequence[int]) -> list[int]:
    """The ticks whose labels do not touch on a logarithmic axis, the largest first to be kept."""
    kept: list[int] = []
    for tick in sorted(ticks, reverse=True):
        if not kept or kept[-1] / tick > 1.18:
            kept.append(tick)
    return kept[::-1]

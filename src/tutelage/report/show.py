"""What is printed of a run: the data before it starts, each evaluation, and the before/after table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tutelage import console
from tutelage.console import percent, within
from tutelage.data import histogram as histogram_of
from tutelage.report.words import (
    SOURCE_COLUMNS,
    course,
    evaluation_row,
    number,
    share_of_evaluations,
    source_rows,
    stopped_early,
    warnings,
)
from tutelage.runs import Reading, shown_accuracy
from tutelage.stats import binned, wilson_interval

if TYPE_CHECKING:  # `tutelage filter` shows its ledger without torch
    from tutelage.data import Prepared, TokenizedExample

MEANS = (
    ("mean length (tokens)", "avg_response_length"),
    ("  of correct responses", "avg_response_length_correct"),
    ("  of incorrect responses", "avg_response_length_incorrect"),
    ("mean token entropy (nats)", "avg_token_entropy"),
)


def preview(prepared: Prepared, tokenizer: Any) -> None:
    """One training example with its loss tokens marked, the response share, the length histogram, the ledger."""
    ledger = prepared.ledger
    fate_table(ledger.counts(), ledger.why())
    for line in (*prepared.unread, *prepared.notes):
        console.say(line, style="yellow")
    histogram(prepared)
    responses, total = prepared.response_tokens, prepared.tokens
    turns = "" if prepared.first is None else f" ({len(prepared.train)} turns)"
    console.say(
        f"training on {prepared.rows} rows{turns}: {total} tokens, {responses} of them response tokens that carry the loss"
        f" ({percent(responses / total)}); validating on a panel of {prepared.panel} problems"
        + (f", and on all {len(prepared.validation)} at the ends" if len(prepared.validation) > prepared.panel else "")
    )
    if rows := source_rows(prepared.by_source()):
        console.table("What is trained on, by source (weight: what a response token counts, 1 on average)", SOURCE_COLUMNS, rows)
    marked_example(prepared.train[0], tokenizer)


def fate_table(counts: Counter[str], reasons: Mapping[str, str]) -> None:
    """How many rows met which fate, with one reason each."""
    total = sum(counts.values())
    rows = [(fate, count, percent(count / total), reasons.get(fate, "")) for fate, count in counts.most_common()]
    console.table("What became of each row", ("fate", "rows", "share", "for example"), [*rows, ("all", total, "", "")])


def histogram(prepared: Prepared) -> None:
    """Lengths of prompt + response in tokens, and where max_length cuts."""
    width, bins = binned(dict(histogram_of(prepared.lengths)), 8)
    chosen = "the 99.5th percentile" if prepared.max_length_was_chosen else "as configured"
    console.say(f"lengths in tokens (prompt + response); max_length is {prepared.max_length} ({chosen})")
    for start, count in bins.items():
        console.say(f"  {start:>6}–{start + width - 1:<6} {'█' * round(40 * count / max(bins.values())):<40} {count}")


def marked_example(example: TokenizedExample, tokenizer: Any) -> None:
    """One row as the model sees it: prompt plain, loss tokens green on a terminal and between ⟦ ⟧ elsewhere."""
    console.say(f"one training row ({example.source}); the loss is on the marked tokens only:")
    prompt, response = tokenizer.decode(list(example.prompt_ids)), tokenizer.decode(list(example.response_ids))
    if sys.stdout.isatty():
        console.say(Text(prompt, style="dim") + Text(response, style="bold green"))
    else:
        console.say(f"{prompt}⟦{response}⟧")


STEP_LINES = 20
"""Lines of steps that a run prints, about."""


def step(line: Mapping[str, Any], total: int) -> None:
    """A line of the first step, of the last, and of about each twentieth in between.

    Args:
        line: the step's line of metrics.
        total: optimizer steps of the run.
    """
    count = line["step"]
    if count not in (1, total) and count % max(1, total // STEP_LINES):
        return
    share = "" if line["matrix_share"] is None else f", {percent(line['matrix_share'])} of the matrix rate"
    memory = "" if not line["memory_gb"] else f", {line['memory_gb'] * 1e9 / 2**30:.1f} GiB"
    loss = f"loss {line['loss']:.4f}" + ("" if line["loss"] == line["nll"] else f" (NLL {line['nll']:.4f})")
    console.say(
        f"step {count}/{total}: {loss}, gradient norm {line['grad_norm']:.3g}, learning rate {line['lr']:.2e},"
        f" {line['tokens_per_second']:,.0f} tokens/s{share}{memory}"
    )


def evaluation(step: int, summary: dict[str, Any], now: int | None = None) -> None:
    """One line of an evaluation of the weights of `step`; `now` is the step at which its result came in."""
    certificate = summary.get("certificate")
    console.say(
        f"step {step}: accuracy {shown_accuracy(summary)}, well-formed {percent(summary['format_rate'])},"
        f" cut off {percent(summary['cap_hit_rate'])}"
        + (f"; of all {summary['full']['examples']} problems: {shown_accuracy(summary['full'])}" if "full" in summary else "")
        + (f"; vLLM within {certificate['mean_gap']:.2g} nats (max {certificate['max_gap']:.2g})" if certificate else "")
        + (f"; at step {now}" if now not in (None, step) else "")
    )


def before_after(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Two evaluations of the same problems beside each other, with 95 % intervals on the shares; of all problems, if both were."""
    if "full" in before and "full" in after:
        before, after = before["full"], after["full"]

    def share(summary: dict[str, Any], key: str) -> str:
        count = summary["examples"]
        return within(summary[key], *wilson_interval(round(summary[key] * count), count))

    both = (before, after)
    rows = [
        ("accuracy", *map(shown_accuracy, both)),
        ("well-formed answers", *(share(each, "format_rate") for each in both)),
        ("cut off at the cap", *(share(each, "cap_hit_rate") for each in both)),
        *((name, *(number(each, key) for each in both)) for name, key in MEANS),
    ]
    console.table(f"Before and after ({after['examples']} validation problems, 95 % intervals)", ("", "before", "after"), rows)


def stopped(record: Mapping[str, Any], step: int) -> None:
    """A line of a run that ends after `step` optimizer steps, before its planned length.

    Args:
        record: as in ``result.json``.
    """
    console.say(stopped_early(record, step), style="bold")


def summary_table(title: str, summary: dict[str, Any]) -> None:
    """One evaluation as a table."""
    several = summary["samples"] > 1
    rows = [
        ("problems", summary["examples"]),
        (f"accuracy (avg@{summary['samples']})" if several else "accuracy", shown_accuracy(summary)),
        ("well-formed answers", percent(summary["format_rate"])),
        ("cut off at the cap", percent(summary["cap_hit_rate"])),
    ]
    for name in ("pass", "maj") if several else ():
        rows += [(f"{name}@{k}", percent(share)) for k, share in summary[f"{name}_at_k"].items()]
    rows += [(name, number(summary, key)) for name, key in MEANS]
    console.table(title, ("", ""), rows)


def finished(directory: Path, evaluations: Sequence[dict[str, Any]], cost: Mapping[str, Any] | None = None) -> None:
    """The end of a run: the curve, before and after, what the evaluations cost, and where everything lies."""
    shown = ("step", "accuracy", "well_formed", "cut_off", "length")
    rows = [[row[key] for key in shown] for row in map(evaluation_row, evaluations)]
    console.table("Accuracy while training", ("step", "accuracy [95 %]", "well-formed", "cut off", "mean tokens"), rows)
    if len(evaluations) > 1 and evaluations[0]["step"] == 0:
        before_after(evaluations[0], evaluations[-1])
    if cost is not None and (said := share_of_evaluations(cost)):
        console.say(said)
    reading = Reading(directory)
    for line in course(reading):
        console.say(line, style="bold")
    for line in warnings(reading):
        console.say(f"Beware: {line}", style="yellow")
    console.say(
        f"The page to look at is {directory}/report.html; the model is in {directory}/model, every generation in"
        f" {directory}/generations.jsonl, the curve in {directory}/metrics.jsonl."
    )
    console.say(f'Try it: tutelage ask {directory} "…"')

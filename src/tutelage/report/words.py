"""What a run's numbers say: each number as it is written everywhere, the headline, the verdict, the cost, and what to be wary of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.config import Config
from tutelage.console import duration, percent, within
from tutelage.data import summary as counts_in_words
from tutelage.runs import Reading, aligned, difference_of, of_all_problems, shown_accuracy, verdict_of

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WARNINGS = {
    "eval_failed": "The evaluation of step {step} failed: {reason}.",
    "eval_lost": "Step {step} was not evaluated (lost).",
    "eval_skipped": "Step {step} was not evaluated (skipped).",
    "save_failed": "A checkpoint at step {step} could not be written: {reason}.",
    "engine_failed": "vLLM failed in the evaluation of step {step} and was started again: {reason}.",
}
"""What the lines of a run say that a person should know, by their kind."""
PARTS = {
    "weights": "handing weights over or starting the engine",
    "waiting": "waiting for responses",
    "entropies": "on exact entropies",
    "grading": "on grading",
    "unknown": "on what was not logged apart",
}
"""What training stands still for (`Reading.waiting_by_part`), in words."""


def model_id(config: Config) -> str:
    """The model that a run starts from, as it is known elsewhere."""
    return SMOLLM2 if config.model.id == "smollm2" else config.model.id


def model_name(config: Config) -> str:
    """The model's name without that of its owner."""
    return model_id(config).rstrip("/").rpartition("/")[2]


def number(summary: Mapping[str, Any], key: str, digits: int = 2) -> str:
    """A mean, "–" of nothing; "≥" before an entropy that is only known from below."""
    if summary[key] is None:
        return "–"
    bound = "≥ " if key == "avg_token_entropy" and summary.get("entropy") == "top-k" else ""
    return f"{bound}{summary[key]:.{digits}f}"


def evaluation_row(line: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation in the cells of a table."""
    return {
        "step": line["step"],
        "accuracy": shown_accuracy(line),
        "full": f"{shown_accuracy(line['full'])} of {line['full']['examples']}" if "full" in line else "",
        "problems": line["examples"],
        "well_formed": percent(line["format_rate"]),
        "cut_off": percent(line["cap_hit_rate"]),
        "length": number(line, "avg_response_length", 1),
        "entropy": number(line, "avg_token_entropy", 3),
        "seconds": "adopted" if "adopted_from" in line else f"{line.get('seconds', 0):.0f}",
    }


def ends(reading: Reading) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The first evaluation and the last one, of all problems if both were; None where there is none, or only one.

    The first is of the untouched model, if that was evaluated.
    """
    evaluations = reading.evaluations
    first = evaluations[0] if evaluations else None
    last = evaluations[-1] if len(evaluations) > 1 or (first and first["step"] > 0) else None
    if first is last:
        first = None
    if all("full" in line for line in (first, last) if line):
        return first and of_all_problems(first), last and of_all_problems(last)
    return first, last


def headline(reading: Reading) -> str:
    """One sentence: what was trained on what, and how many problems it solves, before and after."""
    config, (before, after) = reading.config, ends(reading)
    if config is None:
        evaluated = reading.evaluations[-1]
        solved = f"{shown_accuracy(evaluated)} of {evaluated['examples']} problems of {evaluated['data']}"
        return f"{evaluated['model']} solves {solved}."
    steps = reading.last_step
    data = reading.table("data.json")
    rows = f"{data['rows']:,} worked solutions" if "rows" in data else "worked solutions"
    seen = rows_seen(steps, config.train.rows_per_step, data.get("rows", 0)) if reading.finished else ""
    said = f"{model_name(config)}, trained for {steps:,} steps on {rows} from {config.data.in_words}{seen and f' ({seen})'}"
    said += "" if reading.finished else " so far"
    if after is None:
        solved = f"; untouched, it solves {shown_accuracy(before)} of {before['examples']} validation problems" if before else ""
        return f"{said}{solved}."
    at = f" at step {after['step']:,}" if after["step"] != steps else ""
    first = "; before training" if before and before["step"] == 0 else f"; at step {before['step']}" if before else ""
    first += f" {shown_accuracy(before)}" if before else ""
    return f"{said}, solves{at} {shown_accuracy(after)} of {after['examples']} validation problems{first}."


def rows_seen(steps: int, rows_per_step: int, rows: int) -> str:
    """How much of the data a run has seen, where that is less than all of it: ``12 of 299 rows seen: 0.04 epochs``; else ""."""
    seen = steps * rows_per_step
    return f"{seen:,} of {rows:,} rows seen: {seen / rows:.2g} epochs" if seen < rows else ""


def stopped_early(stopped: Mapping[str, Any], steps: int) -> str:
    """Why a run ended before its planned length.

    Args:
        stopped: of ``result.json``.
        steps: after how many optimizer steps it ended.
    """
    count, best = stopped["patience"], within(stopped["best_accuracy"], *stopped["best_accuracy_ci95"])
    in_a_row = "the last evaluation was" if count == 1 else f"the last {count} evaluations were"
    of = "of the untouched model" if stopped["best_step"] == 0 else f"at step {stopped['best_step']:,}"
    return (
        f"Ended after step {steps:,} of {stopped['planned_steps']:,} by eval.patience = {count}: {in_a_row} no better than the best"
        f" one, {best} {of}."
    )


def course(reading: Reading) -> list[str]:
    """How a run came to its length: where it was made longer, and why it ended before its planned length."""
    said = [f"Made longer after step {line['step']:,}: {line['said']}." for line in reading.lines if line["kind"] == "prolonged"]
    stopped = reading.table("result.json").get("stopped")
    if not stopped or not reading.trained:
        return said
    best, steps = stopped["best_step"], reading.last_step
    kept = (reading.directory / "checkpoints" / f"step-{best:08d}").is_dir()
    how = f": tutelage export {reading.directory} --step {best}" if kept else "; run.keep_best would have kept the best one too"
    which = f" The saved model is that of step {steps:,}{how}." if best else ""
    return [*said, stopped_early(stopped, steps) + which]


def verdict(reading: Reading) -> str:
    """Whether training has changed the accuracy, on the same questions."""
    before, after = ends(reading)
    if not before or not after:
        return "There are no two evaluations to compare yet." if reading.config is not None else ""
    pairs = aligned([reading.scores(before["step"]), reading.scores(after["step"])])
    if not pairs:
        return "The generations of the two evaluations are not there to be compared."
    first = "the untouched model" if before["step"] == 0 else f"the model after step {before['step']}"
    said = verdict_of(difference_of(pairs), first, f"the model after step {after['step']}", before["step"] == 0)
    return said[0].upper() + said[1:]


def share_of_evaluations(cost: Mapping[str, Any]) -> str:
    """One sentence: the share of training's time that evaluations took, and what for; "" before the first step.

    Args:
        cost: as `Reading.evaluation_cost`.
    """
    if cost["share"] is None:
        return ""
    seconds = cost["evaluation_seconds"]
    parts = ", ".join(f"{_brief(spent)} {PARTS[part]}" for part, spent in cost["stood_still_seconds"].items() if spent >= 0.05)
    last = cost.get("after_training_seconds")  # not in results of before it was kept
    return (
        f"Evaluation took {percent(cost['share'])} of the time{' up to the last step' if last else ''}: training stood still for"
        f" {_brief(seconds)} of {_brief(cost['training_seconds'] + seconds)}{f' ({parts})' if parts else ''}."
        f"{f' The evaluation after the last step took {_brief(last)} more.' if last else ''}"
    )


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def time_row(line: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation took, in seconds, in the cells of a table: training's by part, and its own. Those that nothing tells are "–"."""

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    parts = line.get("stood_still_seconds", {})
    own = {name: cell(line.get(f"{name}_seconds")) for name in ("sync", "generation", "grading")}
    return {
        "step": str(line["step"]), "stood_still": cell(line.get("training_seconds")),
        **{part: cell(parts.get(part)) for part in PARTS if part != "unknown"},
        **{f"own_{name}": value for name, value in own.items()},
    }  # fmt: skip


def cost(reading: Reading, price_per_hour: float | None) -> dict[str, Any]:
    """Time, tokens, and money where an hour has a price; without loading and saving, which no line tells of."""
    seconds = reading.wall_seconds
    price = price_per_hour if price_per_hour is not None else reading.config.run.price_per_hour if reading.config else None
    timed = [line for line in reading.steps if "tokens_per_second" in line]
    return {
        "seconds": seconds,
        "time": duration(seconds),
        "training": duration(reading.training_seconds),
        "evaluating": duration(seconds - reading.training_seconds),
        "share": share_of_evaluations(reading.evaluation_cost),
        "by_evaluation": [
            time_row(line) for line in reading.evaluations if "training_seconds" in line and "adopted_from" not in line
        ],
        "tokens": sum(round(line["tokens_per_second"] * line["seconds"]) for line in timed),
        "response_tokens": sum(line["response_tokens"] for line in reading.steps),
        "price_per_hour": price,
        "money": None if price is None else price * seconds / 3600,
    }


def warnings(reading: Reading) -> list[str]:
    """What a person should know before they trust the run."""
    found = list(reading.faults)
    for line in reading.lines:
        if line["kind"] in ("eval_lost", "eval_skipped") and line["step"] in reading.evaluated:
            continue  # the run went on from a step before it, and evaluated it
        if line["kind"] in WARNINGS:
            found.append(WARNINGS[line["kind"]].format_map(line))
        elif line["kind"] == "config_changed":
            found.append(f"The configuration changed after step {line['step']}: {'; '.join(line['changes'])}.")
        elif "skipped" in line:
            found.append(f"Step {line['step']} was not applied: {line['skipped']}.")
    counts = reading.fates
    dropped = Counter({fate: counts[fate] for fate in ("too long", "malformed", "undecided", "no reference") if counts[fate]})
    if dropped.total() > 0.01 * counts.total():
        found.append(f"Rows were left out for other reasons than a wrong answer: {counts_in_words(dropped)}.")
    if reading.evaluations:
        last = of_all_problems(reading.evaluations[-1])
        if last["cap_hit_rate"] > 0.1:
            found.append(
                f"{percent(last['cap_hit_rate'])} of the last evaluation's responses were cut off: a larger eval.max_new_tokens may"
                " raise the accuracy."
            )
        low, high = last["accuracy_ci95"]
        if high - low > 0.3:
            found.append(
                f"The accuracy may be anything from {100 * low:.0f} to {100 * high:.0f} %: evaluate on more problems (eval.examples)."
            )
    changed = [line["weights_changed"] for line in reading.steps if line.get("lr", 0) > 0 and "weights_changed" in line]
    config = reading.config
    # with stochastic rounding most weights stand still in a step, and all of them move on average
    is_stochastic = config is not None and config.model.precision == "bf16-sr"
    if changed and (not any(changed) if is_stochastic else max(changed) < 0.5):
        found.append(
            f"Of the steps whose changes were counted, each changed {percent(max(changed))} of the weights or less: updates may be lost"
            " to rounding."
        )
    if config is not None and config.data.of_validation() is None and config.data.test_size == 0:
        found.append("The model was validated on its own training rows.")
    return found


SOURCE_COLUMNS = ("source", "rows", "tokens", "weight", "share of the loss")


def source_rows(sources: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """A line of `SOURCE_COLUMNS` for each source of training rows; none where there is one source whose rows count the same."""
    if len(sources) < 2 and all(each["weights"] == [1.0, 1.0] for each in sources):
        return []
    rows = []
    for each in sources:
        least, most = each["weights"]
        weight = f"{each['weight']:.4g}" + ("" if least == most else f" ({least:.4g} to {most:.4g})")
        rows.append((each["source"], f"{each['rows']:,}", f"{each['tokens']:,}", weight, percent(each["share"])))
    return rows

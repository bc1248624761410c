"""What a run's numbers say, in sentences: the headline, the verdict, the cost, and what to be wary of."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tutelage.config import Config
from tutelage.console import duration, percent, within
from tutelage.data import summary
from tutelage.runs import Reading, of_all_problems, score, training_and_waiting
from tutelage.stats import compare, in_words

SMOLLM2 = "SmolLM2-135M-Instruct"


def model_name(config: Config) -> str:
    return SMOLLM2 if config.model.id == "smollm2" else config.model.id.rstrip("/").rpartition("/")[2]


def accuracy(evaluation: dict[str, Any]) -> str:
    """``71.9 % [60–81]``: accuracy and its 95 % interval."""
    return within(evaluation["accuracy"], *evaluation["accuracy_ci95"])


def ends(reading: Reading) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The first evaluation and the last one, of all problems if both were; None where there is none, or only one.

    The first is of the untouched model, if that was evaluated.
    """
    evaluations = reading.evaluations
    first = evaluations[0] if evaluations else None
    last = evaluations[-1] if len(evaluations) > 1 or (first and first["step"] > 0) else None
    if first is last:
        first = None
    if "full" in (last or first or {}) and "full" in (first or last or {}):
        return first and of_all_problems(first), last and of_all_problems(last)
    return first, last


def named(evaluation: dict[str, Any]) -> str:
    return "the untouched model" if evaluation["step"] == 0 else f"the model after step {evaluation['step']}"


def headline(reading: Reading) -> str:
    """One sentence: what was trained on what, and how many problems it solves, before and after."""
    config, (before, after) = reading.config, ends(reading)
    if config is None:
        evaluated = reading.evaluations[-1]
        return f"{evaluated['model']} solves {accuracy(evaluated)} of {evaluated['examples']} problems of {evaluated['data']}."
    steps = reading.steps[-1]["step"] if reading.steps else 0
    data = reading.table("data.json")
    rows = f"{data['rows']:,} worked solutions" if "rows" in data else "worked solutions"
    said = f"{model_name(config)}, trained for {steps:,} steps on {rows} from {config.data.train}"
    said += "" if reading.finished else " so far"
    if after is None:
        solved = f"; untouched, it solves {accuracy(before)} of {before['examples']} validation problems" if before else ""
        return f"{said}{solved}."
    at = f" at step {after['step']:,}" if after["step"] != steps else ""
    first = "; before training" if before and before["step"] == 0 else f"; at step {before['step']}" if before else ""
    first += f" {accuracy(before)}" if before else ""
    return f"{said}, solves{at} {accuracy(after)} of {after['examples']} validation problems{first}."


def verdict(reading: Reading) -> str:
    """Whether training has changed the accuracy, on the same questions."""
    before, after = ends(reading)
    if not before or not after:
        return "There are no two evaluations to compare yet." if reading.config is not None else ""
    first, last = reading.answers(before["step"]), reading.answers(after["step"])
    shared = [question for question in first if question in last]
    if not shared:
        return "The generations of the two evaluations are not there to be compared."
    a, b = ([[score(answers[question])] for question in shared] for answers in (first, last))
    said = in_words(compare(a, b), named(before), named(after))
    return said[0].upper() + said[1:]


def cost(reading: Reading, price_per_hour: float | None) -> dict[str, Any]:
    """Time, tokens, and money where an hour has a price; without loading and saving, which no line tells of."""
    evaluations = [line for line in reading.lines if line["kind"] == "eval" and "adopted_from" not in line]
    training, waiting = training_and_waiting(reading.lines)
    # the last evaluation holds no training up, but the machine is taken
    last = next((line["seconds"] for line in evaluations[-1:] if line.get("training_seconds") == 0), 0.0)
    seconds = training + waiting + last
    price = price_per_hour if price_per_hour is not None else reading.config.run.price_per_hour if reading.config else None
    return {
        "seconds": seconds,
        "time": duration(seconds),
        "training": duration(training),
        "evaluating": duration(sum(line["seconds"] for line in evaluations)),
        "tokens": sum(
            round(line["tokens_per_second"] * line["seconds"]) for line in reading.steps if "tokens_per_second" in line
        ),
        "response_tokens": sum(line["response_tokens"] for line in reading.steps),
        "price_per_hour": price,
        "money": None if price is None else price * seconds / 3600,
    }


def warnings(reading: Reading) -> list[str]:
    """What a person should know before they trust the run."""
    found = []
    for line in reading.lines:
        match line["kind"]:
            case "eval_failed":
                found.append(f"The evaluation of step {line['step']} failed: {line['reason']}.")
            case "eval_lost" | "eval_skipped":
                found.append(f"Step {line['step']} was not evaluated ({line['kind'].removeprefix('eval_')}).")
            case "save_failed":
                found.append(f"A checkpoint at step {line['step']} could not be written: {line['reason']}.")
            case "engine_failed":
                found.append(f"vLLM failed in the evaluation of step {line['step']} and was started again: {line['reason']}.")
            case "config_changed":
                found.append(f"The configuration changed after step {line['step']}: {'; '.join(line['changes'])}.")
            case "train" if "skipped" in line:
                found.append(f"Step {line['step']} was not applied: {line['skipped']}.")
    counts = reading.fates
    dropped = {fate: counts[fate] for fate in ("too long", "malformed", "undecided", "no reference") if counts[fate]}
    if dropped and sum(dropped.values()) > 0.01 * counts.total():
        found.append(f"Rows were left out for other reasons than a wrong answer: {summary(Counter(dropped))}.")
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
                f"The accuracy is known to ± {50 * (high - low):.0f} points only: evaluate on more problems (eval.examples)."
            )
    changed = [line["weights_changed"] for line in reading.steps if line.get("lr", 0) > 0 and "weights_changed" in line]
    if changed and max(changed) < 0.5:
        found.append(f"No step changed more than {percent(max(changed))} of the weights: updates may be lost to rounding.")
    config = reading.config
    if config is not None and config.data.validation is None and config.data.test_size == 0 and config.data.train != "arithmetic":
        found.append("The model was validated on its own training rows.")
    return found

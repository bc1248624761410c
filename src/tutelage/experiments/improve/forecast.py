"""``tutelage improve --dry-run``: every round, and what it is reckoned to take at most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config, replaced
from tutelage.data import Prepared
from tutelage.evaluation import prompt_ids
from tutelage.experiments.improve.ground import Ground
from tutelage.experiments.improve.loop import checked
from tutelage.experiments.improve.wished import Improvement
from tutelage.model import for_device, total_steps
from tutelage.resources import USUAL_SHARE, Estimator, device_here
from tutelage.runs import rounds

Forecast = dict[str, Any]


def predict_improve(config: Config, wished: Improvement, directory: Path, where: str = "local") -> list[Forecast]:
    """Print every round with its rows and the time that it is reckoned to take on this machine at most; nothing is computed.

    A round is reckoned to accept as many rows as `wished` allows, or, once a round has accepted some, as many as the last one did.

    Returns:
        What `--json` prints of each round.

    Raises:
        InputError: as `run_improve`.
    """
    ground = checked(config, wished, directory, where)
    device = device_here(config.model)
    estimator = Estimator(ground.tokenizer, device, shares=False)
    precision = for_device(config.model, device.torch_device).precision
    settled = replaced(config, {"model.precision": precision})
    sampling = _sampling_seconds(ground, settled, estimator)
    state = rounds.read_state(directory)
    there = rounds.table(directory) if state else []
    found = []
    for index in range(wished.rounds + 1):
        row = there[index] if index < len(there) else None
        if row is not None and row["status"] == "finished":
            found.append({"round": index, "finished": True, **{key: row.get(key) for key in ("rows", "steps", *SECONDS)}})
        else:
            found.append(_reckoned(ground, settled, estimator, index, _accepted(ground, there), sampling))
    _show(found, ground)
    return found


SECONDS = ("sampling_seconds", "training_seconds", "evaluation_seconds")


def _accepted(ground: Ground, there: list[dict[str, Any]]) -> int:
    """How many rows a round is reckoned to accept."""
    known = [row["accepted"] for row in there if row["accepted"]]
    if known:
        return int(known[-1])
    wanted = ground.wished.wanted
    most = wanted.samples if isinstance(wanted.keep, str) else min(wanted.keep, wanted.samples)
    return most * len(ground.unsolved.problems)


def _sampling_seconds(ground: Ground, config: Config, estimator: Estimator) -> float | None:
    """Seconds in which the problems are solved once; None where the device's speed, or the rows' length, is not known."""
    if ground.own is None:
        return None
    problems = ground.unsolved.problems
    longest = max(map(len, prompt_ids(ground.tokenizer, problems)))
    prepared = replace(ground.own, validation=problems, panel=len(problems), longest_prompt=longest)
    changes = {"eval.samples": ground.wished.wanted.samples, "eval.before": False, "eval.every": 0}
    seconds = estimator.given(replaced(config, changes), prepared).seconds
    return None if seconds is None else seconds[1]


def _reckoned(
    ground: Ground, config: Config, estimator: Estimator, index: int, accepted: int, sampling: float | None
) -> Forecast:
    """What a round that is not finished is reckoned to take."""
    own, wished = ground.own, ground.wished
    mine = own.rows if own is not None and (index == 0 or wished.with_rows) else 0
    sampled = accepted * (index if wished.origin == "base" else min(index, 1))
    rows = mine + sampled if index or wished.start is None else 0
    steps = total_steps(rows, config.train) if rows else 0
    training, evaluation = _run_seconds(own, config, estimator, steps, index)
    return {
        "round": index, "finished": False, "rows": rows, "own_rows": mine, "sampled_rows": sampled, "steps": steps,
        "sampling_seconds": sampling if index else 0.0, "training_seconds": training, "evaluation_seconds": evaluation,
    }  # fmt: skip


def _run_seconds(own: Prepared | None, config: Config, estimator: Estimator, steps: int, index: int) -> tuple[Any, Any]:
    """Seconds of training and of evaluation in a round of so many steps, whose rows are as long as the configuration's own."""
    if own is None:
        return None, None
    changes = {"train.num_steps": max(1, steps), "eval.before": config.eval.before and index == 0}
    seconds = estimator.given(replaced(config, changes), own).seconds
    if seconds is None:
        return None, None
    return (seconds[0] if steps else 0.0), seconds[1]


def _show(found: list[Forecast], ground: Ground) -> None:
    def seconds(each: Forecast, key: str) -> str:
        return "–" if each.get(key) is None else console.duration(each[key])

    columns = ("round", "rows", "steps", "sampling", "training", "evaluation")
    cells = [
        (
            f"{each['round']}{', finished' if each['finished'] else ''}",
            f"{'' if each['finished'] or not each['round'] else '≤ '}{each['rows'] or 0:,}", f"{each['steps'] or 0:,}",
            *(seconds(each, key) for key in SECONDS),
        )
        for each in found
    ]  # fmt: skip
    console.table("Rounds", columns, cells)
    seconds_left = [each[key] for each in found if not each["finished"] for key in SECONDS]
    known = [each for each in seconds_left if each is not None]
    if len(known) < len(seconds_left):
        total = "How long it takes is not known: the device's speed, or the length of any row, is not"
    else:
        total = (
            f"About {console.duration(sum(known))} of one device at most (as `tutelage plan` reckons: {100 * USUAL_SHARE:.0f} % of the"
            " rate of matrix products; responses as long as the longest worked solution)"
        )
    console.say(
        f"{len(ground.unsolved.problems):,} problems × {ground.wished.wanted.samples} responses in each round,"
        f" {len(ground.validated_on):,} held-out problems. {total}."
    )

"""A model improves on its own right answers, beside the control that such a claim needs. On two cores beside much other
work, 73 minutes:

    python bench/improve.py --out /tmp/improve

SmolLM2-135M learns 64 rows of the built-in task (round 0). Then two rounds of `tutelage improve` on 256 problems without solutions:
four responses a problem, each round trains the untouched model on the 64 rows and all accepted rows so far. The control trains the
untouched model on the 64 rows alone, for as many optimizer steps as the last round. All are asked the same 200 held-out problems.

It can be interrupted, or killed, anywhere: the same command goes on. `--toy` is the same with few rows and problems. One seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import harness

SETTINGS: dict[str, Any] = {
    "data.prompt": "plain", "data.filter": False,  # all 64 rows are right
    "train.lr": 1.5e-4, "train.batch_size": 8, "train.grad_accum": 1, "train.num_epochs": 3.0, "train.schedule": "linear",
    "train.warmup_ratio": 0.1, "train.betas": (0.9, 0.99), "eval.every": 0, "eval.full": False, "eval.backend": "native",
    "eval.batch_size": 96, "run.save_every": 16,
}  # fmt: skip
FULL = {"rows": 64, "problems": 256, "held_out": 200, "samples": 4}
TOY = {"rows": 32, "problems": 8, "held_out": 8, "samples": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/improve"), help="where everything is kept, to go on from")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--tokens", type=int, default=80, help="of a response at most")
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    from tutelage.machines import prepare_process

    prepare_process()
    sizes = TOY if given.toy else FULL
    started = time.monotonic()
    write_data(given.out / "data", sizes)
    improved, control = given.out / "rounds", given.out / "control"
    config = config_of(given, sizes)
    improve(given, config, improved, sizes)
    train_control(config, improved, control)
    harness.write(
        "improve", {"settings": sizes, "temperature": given.temperature, "model": given.model, **read(improved, control)}
    )
    print(f"this session took {time.monotonic() - started:.0f} s", flush=True)


def write_data(directory: Path, sizes: dict[str, int]) -> None:
    """Rows, problems without solutions, and held-out problems that none of these overlaps with."""
    from tutelage.data import Validation, arithmetic, normalised
    from tutelage.runs import to_lines, write_text

    if (directory / "held-out.jsonl").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    held_out = arithmetic.rows("validation", sizes["held_out"])
    candidates = arithmetic.rows("train", 3 * (sizes["rows"] + sizes["problems"]), wrong_share=0)
    known = Validation((str(index), question_of(row)) for index, row in enumerate(held_out))
    free = [row for row in candidates if not known.overlaps([normalised(question_of(row))])[0]]
    problems = free[sizes["rows"] :][: sizes["problems"]]
    asked = [{"prompt": question_of(row), "reference": row["messages"][0]["info"]["reference_answer"]} for row in problems]
    write_text(directory / "rows.jsonl", to_lines(free[: sizes["rows"]]))
    write_text(directory / "problems.jsonl", to_lines(asked))
    write_text(directory / "held-out.jsonl", to_lines(held_out))


def question_of(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def config_of(given: argparse.Namespace, sizes: dict[str, int]) -> Any:
    from tutelage.config import as_config

    data = given.out / "data"
    return as_config(
        SETTINGS
        | {
            "model.id": given.model, "model.device": given.device, "data.train": str(data / "rows.jsonl"),
            "data.validation": str(data / "held-out.jsonl"), "eval.examples": sizes["held_out"], "eval.max_new_tokens": given.tokens,
        }
    )  # fmt: skip


def improve(given: argparse.Namespace, config: Any, directory: Path, sizes: dict[str, int]) -> None:
    from tutelage.config import Source
    from tutelage.evaluation import Wanted
    from tutelage.experiments import Improvement, run_improve

    problems = Source(path=str(given.out / "data" / "problems.jsonl"), prompt="plain")
    wanted = Wanted(samples=sizes["samples"])
    run_improve(config, Improvement(problems, rounds=2, wanted=wanted, temperature=given.temperature), directory)


def train_control(config: Any, improved: Path, control: Path) -> None:
    """The untouched model on the configuration's rows alone, for as many steps as the last round."""
    from tutelage.config import replaced
    from tutelage.runs import Reading
    from tutelage.training import fine_tune

    if Reading(control).trained:
        return
    steps = Reading(improved / "round-2").last_step
    print(f"\ncontrol: {steps} steps on the rows alone", flush=True)
    fine_tune(replaced(config, {"train.num_steps": steps, "run.dir": str(control)}), baseline=improved / "round-0")


def read(improved: Path, control: Path) -> dict[str, Any]:
    """What the rounds and the control have come to."""
    from tutelage.runs import Reading, aligned, difference_of, rounds
    from tutelage.stats import in_words

    table, state, alone = rounds.table(improved), rounds.read_state(improved), Reading(control)
    keys = (
        "round", "rows", "own_rows", "sampled_rows", "steps", "asked", "accepted", "solved", "solved_so_far", "sampled_accuracy", "fates",
        "mean_length", "mean_entropy", "sampled_length", "sampled_entropy", "sampling_seconds", "training_seconds",
    )  # fmt: skip
    last = rounds.reading_of(improved, 2)
    pairs = aligned([alone.scores(alone.last_step), last.scores(last.last_step)])
    untouched = rounds.untouched_of(improved)
    return {
        "seconds_of_rounds": round(sum(session["seconds"] for session in state["sessions"])),
        "untouched": None if untouched is None else accuracy(untouched),
        "rounds": [{**accuracy(rounds.reading_of(improved, row["round"]).last), **{key: row[key] for key in keys}} for row in table],
        "control": {**accuracy(alone.last), "steps": alone.last_step, "rows": alone.table("data.json")["rows"]},
        "last_round_against_control": in_words(difference_of(pairs), "the control", "the last round"),
        "says": rounds.verdicts(improved), "collapse": rounds.collapse(improved),
    }  # fmt: skip


def accuracy(evaluation: Any) -> dict[str, Any]:
    """Of an evaluation: the accuracy, its 95 % interval, and the number of problems."""
    interval = [round(end, 4) for end in evaluation["accuracy_ci95"]]
    return {"accuracy": round(evaluation["accuracy"], 4), "interval": interval, "problems": evaluation["examples"]}


if __name__ == "__main__":
    main()

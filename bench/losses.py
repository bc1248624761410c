"""Two losses on two tasks, by sweeps of three seeds: accuracy with its interval, and what the paired statistics say of `dft` against `nll`.

    python bench/losses.py --out /tmp/losses --gsm8k /work/shared/data/gsm8k     # both tasks, about an hour on two idle cores
    python bench/losses.py --out /tmp/losses --tasks arithmetic                  # one of them; results of the other stay in the file
    python bench/losses.py --out /tmp/losses --only-read                         # write the results of sweeps that are there

The built-in task: the demo's 560 rows and settings, filtered, with 200 problems. GSM8K: 512 rows of openai/gsm8k and 200 problems, by
recipes/gsm8k.toml; `--gsm8k FOLDER` is a local folder with train.jsonl and test.jsonl of the same rows. The model is SmolLM2-135M, and
its own engine generates. A bench that is interrupted goes on with the same command: its sweeps do. `--dry-run` shows every trial with
its reckoned time. Other arguments are settings of the trials (`--model.id …`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness

from tutelage.cli.demo import TRAINING_ROWS, demo_config
from tutelage.config import load_config, replaced, to_toml
from tutelage.data import arithmetic
from tutelage.runs import Reading, results, to_lines, verdicts, write_text
from tutelage.stats import compare, in_words

ROOT = Path(__file__).parent.parent
TASKS = ("arithmetic", "gsm8k")
LOSSES = ("nll", "dft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--gsm8k", type=Path, help="a folder with train.jsonl and test.jsonl instead of openai/gsm8k of the hub")
    parser.add_argument("--rows", type=int, default=512, help="training rows of GSM8K")
    parser.add_argument("--problems", type=int, default=200, help="validation problems of each task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-read", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    given, settings = parser.parse_known_args()
    for task in given.tasks:
        if not given.only_read:
            sweep(task, given, settings)
        if not given.dry_run:
            harness.write("losses", known() | {"machine": harness.machine(), task: read(given.out / task)})


def known() -> dict[str, Any]:
    """What the file of results holds already."""
    path = harness.path_of("losses")
    return json.loads(path.read_text()) if path.is_file() else {}


def sweep(task: str, given: argparse.Namespace, settings: list[str]) -> None:
    """Run what has not finished yet of a task's sweep. Raises CalledProcessError if trials failed."""
    config = given.out / f"{task}.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(of_arithmetic(given) if task == "arithmetic" else of_gsm8k(given))
    command = [sys.executable, "-m", "tutelage", "sweep", str(config), "--out", str(given.out / task), *settings]
    command += ["--vary", f"train.loss={','.join(LOSSES)}", "--seeds", str(given.seeds), "--models", "none"]
    command += ["--sizes", "full" if task == "arithmetic" else str(given.rows)]
    subprocess.run([*command, *(["--dry-run"] if given.dry_run else [])], check=True)


def of_arithmetic(given: argparse.Namespace) -> str:
    """The demo's configuration as TOML, with evaluations at the start and the end; its rows are written."""
    files = {name: given.out / f"{name}.jsonl" for name in ("train", "validation")}
    for name, count in (("train", TRAINING_ROWS), ("validation", given.problems)):
        write_text(files[name], to_lines(arithmetic.rows(name, count)))
    return to_toml(
        replaced(
            demo_config(given.out),
            {
                "data.train": str(files["train"]), "data.validation": str(files["validation"]),
                "eval.every": 0, "eval.examples": given.problems, "eval.full": False, "eval.batch_size": 200,
            },
        )
    )  # fmt: skip


def of_gsm8k(given: argparse.Namespace) -> str:
    """The recipe's configuration as TOML, with evaluations at the start and the end."""
    values: dict[str, Any] = {
        "data.filter": False,  # the sweep's own --data filtered says it
        "eval.every": 0, "eval.examples": given.problems, "eval.backend": "native", "eval.batch_size": 200, "run.save_every": 16,
    }  # fmt: skip
    if given.gsm8k is not None:
        values |= {"data.train": str(given.gsm8k / "train.jsonl"), "data.validation": str(given.gsm8k / "test.jsonl")}
    return to_toml(replaced(load_config(ROOT / "recipes" / "gsm8k.toml", []), values))


def read(out: Path) -> dict[str, Any]:
    """What a sweep has come to: each trial, each loss over its seeds, and the paired differences in words."""
    state, table = results.read_state(out), results.table(out)
    found = {point.varied["train.loss"]: point for point in results.points(out)}
    columns = (
        "train.loss", "seed", "status", "rows", "steps", "accuracy", "accuracy_low", "accuracy_high", "gained", "lost", "nll",
        "well_formed", "cut_off", "mean_length", "mean_entropy", "training_seconds", "evaluation_seconds",
    )  # fmt: skip
    untouched = Reading(out / next(iter(state["baselines"].values()))).scores(0)
    said = [
        in_words(
            compare([[untouched[q]] for q in shared], [[scores[q] for scores in point.scores.values()] for q in shared]),
            "the untouched model", loss,
        )
        for loss, point in found.items()
        if (shared := [q for q in untouched if all(q in scores for scores in point.scores.values())])
    ]  # fmt: skip
    apart = verdicts.difference(found["nll"].scores, found["dft"].scores) if set(LOSSES) <= set(found) else None
    return {
        "problems": max((row["problems"] or 0 for row in table), default=0),
        "rows": max(row["rows"] for row in table),
        "untouched": results.baseline_scores(out),
        "losses": {
            loss: {"accuracy": point.accuracy, "interval": [point.low, point.high], "seeds": point.accuracies}
            for loss, point in found.items()
        },
        "dft_against_nll": None if apart is None else vars(apart),
        "says": said if apart is None else [in_words(apart, "nll", "dft"), *said],
        "trials": [{key: row[key] for key in columns} for row in table],
        "failures": results.failures(state, out),
        "sessions": len(state["sessions"]),
        "wall_seconds": round(sum(session["seconds"] for session in state["sessions"])),
    }


if __name__ == "__main__":
    main()

"""A real sweep that is killed once and goes on: trials, failures, wall time, and accuracy with its interval by size and kind of data.

    python bench/sweep.py --out /tmp/sweep                  # the built-in task, SmolLM2-135M, about an hour on two cores
    python bench/sweep.py --out /tmp/sweep --only-read      # write the results of a sweep that is there

The whole sweep is killed (SIGKILL) when `--kill-after` trials are finished, in the middle of the next one, and the same command is
run again.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import harness

from tutelage.runs import results, verdicts

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "recipes" / "sweep-arithmetic.toml")
    parser.add_argument("--sizes", default="32,64,128,256,full")
    parser.add_argument("--data", default="raw,filtered,control")
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--kill-after", type=int, default=11, help="trials; 0: never")
    parser.add_argument("--only-read", action="store_true")
    given, settings = parser.parse_known_args()
    if not given.only_read:
        command = [sys.executable, "-m", "tutelage", "sweep", str(given.config), "--out", str(given.out), *settings]
        command += ["--sizes", given.sizes, "--data", given.data, "--seeds", given.seeds]
        if given.kill_after:
            kill_in_the_middle(command, given.out, given.kill_after)
        subprocess.run(command, check=True)
    harness.write("sweep", read(given.out))


def kill_in_the_middle(command: list[str], out: Path, trials: int) -> None:
    """Run until so many trials are finished and the next one has trained a step, then kill."""
    process = subprocess.Popen(command)

    def trained() -> int:
        return sum('"kind": "train"' in path.read_text() for path in out.glob("trials/*/metrics.jsonl"))

    while len(list(out.glob("trials/*/result.json"))) < trials or trained() <= trials:
        if process.poll() is not None:
            raise SystemExit(f"the sweep ended with {process.returncode} before it could be killed")
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed after {trials} trials", flush=True)
    time.sleep(2)  # its trials end with it


def read(out: Path) -> dict[str, object]:
    """What a sweep has come to."""
    state, table, points = results.read_state(out), results.table(out), results.points(out)
    trials = {row["trial"]: row for row in table}
    baseline = results.baseline_scores(out)
    return {
        "points": len(table), "trials": len(trials), "finished": sum(row["status"] == "finished" for row in trials.values()),
        "failures": results.failures(state, out), "resumed": len(state["sessions"]) - 1,
        "wall_seconds": round(sum(session["seconds"] for session in state["sessions"])),
        "training_seconds": round(sum(row["training_seconds"] or 0 for row in trials.values())),
        "evaluation_seconds": round(sum(row["evaluation_seconds"] or 0 for row in trials.values())),
        "problems": max((row["problems"] or 0 for row in table), default=0),
        "untouched": None if baseline is None else [round(value, 4) for value in baseline],
        "curves": [
            {
                "data": point.kind, "size": point.label, "rows": point.rows, "accuracy": round(point.accuracy, 4),
                "interval": [round(point.low, 4), round(point.high, 4)], "seeds": [round(value, 4) for value in point.accuracies],
            }
            for point in points
        ],
        "says": verdicts.sentences(verdicts.judge(points)),
    }  # fmt: skip


if __name__ == "__main__":
    main()

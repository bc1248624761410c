"""Seconds until the first verdicts of a fresh process: of two functions, and of a limit.

    python bench/grading_start.py [--before OTHER/src] [--neighbours 9] [--rounds 5]

Each process is pinned to one core with its workers and with `--neighbours` processes that spin there. Three ways take turns: workers on
first need, workers started ahead (`start_workers`, then four seconds in which the owner waits, as it does for a model's answers), and,
with `--before`, another checkout of this project. Prints medians as JSON; writes bench/results/grading_start.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPT = r"""
import json, sys, time
ahead = float(sys.argv[1])
begin = time.monotonic()
from tutelage.grading import grade
seconds = {"import": time.monotonic() - begin}
if ahead:
    from tutelage.grading import start_workers
    begin = time.monotonic()
    start_workers(64)
    seconds["start_workers returns"] = time.monotonic() - begin
    time.sleep(ahead)
for name, gold, answer in (
    ("first pair", "x^2-1", "(x-1)(x+1)"), ("first limit", "6", r"\lim_{x \to 3} 2x"),
    ("second limit", "8", r"\lim_{x \to 4} 2x"),
):
    begin = time.monotonic()
    assert grade(gold, answer).equal
    seconds[name] = time.monotonic() - begin
print(json.dumps(seconds))
"""


def seconds_of(source: Path, ahead: float) -> dict[str, float]:
    command, environment = [sys.executable, "-c", SCRIPT, str(ahead)], {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--neighbours", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "grading_start.json")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # workers and neighbours inherit it

    source = HERE.parent / "src"
    wait = 4.0 * (1 + arguments.neighbours)  # four seconds of the core
    ways = {"on first need": (source, 0.0), "ahead": (source, wait)}
    if arguments.before:
        ways = {"before": (arguments.before.resolve(), 0.0)} | ways
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.neighbours)]
    try:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, (tree, ahead) in ways.items():
                found[way].append(seconds_of(tree, ahead))
    finally:
        for neighbour in neighbours:
            neighbour.kill()
    medians = {
        way: {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]} for way, rounds in found.items()
    }
    case = f"{arguments.neighbours} neighbours on the core, {arguments.rounds} rounds"
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    results = known | {"machine": f"{platform.platform()}, one core of {os.cpu_count()}", case: medians}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

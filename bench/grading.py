"""Speed and accuracy of the grader beside Math-Verify with its defaults, on the same pairs, alternating, on one core.

    python bench/grading.py [--table pairs.jsonl] [--rounds 3]

`--table` holds rows of gold, pred, equal, category (default: tests/data/pairs.jsonl). 1,000 pairs like those of GSM8K are made
here. Both graders run in this process group pinned to one core, in turns; imports and start-up are left out. Machines are noisy:
read the ratios. Writes bench/results/grading.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def gsm8k_like(count: int) -> list[dict[str, Any]]:
    """Whole numbers and amounts of money as models write them; three in ten are wrong."""
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        gold = draw.choice([draw.randint(1, 200), draw.randint(200, 5_000), draw.randint(5_000, 2_000_000)])
        equal = draw.random() < 0.7
        said = gold if equal else gold + draw.choice([-10, -2, -1, 1, 2, 5, 100])
        written = draw.choice(
            ["{}", "{}", "{}", "{:,}", "${:,}", "{}.", "{}.00", "{} dollars", r"\${}", "**{}**", r"\boxed{{{}}}"]
        )
        rows.append({"gold": str(gold), "pred": written.format(said), "equal": equal, "category": "gsm8k-like"})
    return rows


def ours(rows: list[dict[str, Any]]) -> list[bool]:
    from tutelage.grading import grade_all

    return [bool(verdict.equal) for verdict in grade_all([(row["gold"], row["pred"]) for row in rows], workers=1)]


def math_verify(rows: list[dict[str, Any]]) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(f"${row['gold']}$"), parse(f"${row['pred']}$"))) for row in rows]


def accuracy(rows: list[dict[str, Any]], verdicts: list[bool]) -> dict[str, int]:
    return {
        "right": sum(verdict == row["equal"] for row, verdict in zip(rows, verdicts, strict=True)),
        "false_positives": sum(verdict and not row["equal"] for row, verdict in zip(rows, verdicts, strict=True)),
        "false_negatives": sum(row["equal"] and not verdict for row, verdict in zip(rows, verdicts, strict=True)),
    }


def timed(grader: Callable[[list[dict[str, Any]]], list[bool]], rows: list[dict[str, Any]]) -> float:
    started = time.monotonic()
    grader(rows)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=HERE.parent / "tests" / "data" / "pairs.jsonl")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "grading.json")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any worker starts: they inherit it

    table = [json.loads(line) for line in arguments.table.read_text(encoding="utf-8").splitlines()]
    workloads = {"table": table, "gsm8k_like": gsm8k_like(1_000)}
    graders = {"tutelage": ours, "math_verify": math_verify}

    plain = [row for row in table if not row["category"].startswith("policy:")]
    judged = {name: grader(plain) for name, grader in graders.items()}  # also warms both up
    categories = {
        category: {
            "rows": count,
            **{
                name: sum(v == r["equal"] for r, v in zip(plain, verdicts, strict=True) if r["category"] == category)
                for name, verdicts in judged.items()
            },
        }
        for category, count in Counter(row["category"] for row in plain).most_common()
    }
    seconds: dict[str, dict[str, list[float]]] = {name: {work: [] for work in workloads} for name in graders}
    for _ in range(arguments.rounds):
        for work, rows in workloads.items():
            for name, grader in graders.items():
                seconds[name][work].append(timed(grader, rows))
    median = {name: {work: statistics.median(times) for work, times in by_work.items()} for name, by_work in seconds.items()}
    total = sum(map(len, workloads.values()))
    speed = {
        name: {
            **{work: len(rows) / median[name][work] for work, rows in workloads.items()},
            "overall": total / sum(median[name].values()),
        }
        for name in graders
    }
    results = {
        "machine": f"{platform.platform()}, one core of {os.cpu_count()}",
        "table": f"{arguments.table.name}: {len(plain)} rows without policy rows, {len(table)} timed",
        "accuracy": {name: accuracy(plain, verdicts) for name, verdicts in judged.items()},
        "right_by_category": categories,
        "pairs_per_second_per_core": speed["tutelage"]["overall"],
        "ratio_vs_math_verify": speed["tutelage"]["overall"] / speed["math_verify"]["overall"],
        "pairs_per_second_by_workload": speed,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{'category':<20}{'rows':>6}{'tutelage':>10}{'math-verify':>13}")
    for category, row in categories.items():
        print(f"{category:<20}{row['rows']:>6}{row['tutelage']:>10}{row['math_verify']:>13}")
    print(json.dumps({key: value for key, value in results.items() if key != "right_by_category"}, indent=2))


if __name__ == "__main__":
    main()

"""Speed and accuracy of the grader beside Math-Verify with its defaults, on the same pairs, in turns on one core.

    python bench/grading.py [--table pairs.jsonl]...

Each `--table` holds rows of gold, pred, equal, and category or kind. The default tables are those of tests/data: they are ours, and
the grader was built while we saw them; pairs of others say more. Rows whose category begins with "policy:" are left out.
1,000 pairs like those of GSM8K are made here. Both graders run in this process group pinned to one core; imports and start-up are left
out. Speeds are by computing time. Machines are noisy: read the ratios. Writes bench/results/grading.json, table by table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MOST_CATEGORIES = 40
"""Categories of a table that are counted apart, the most frequent ones."""


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


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [{"category": row.get("kind", "other"), **row} for row in rows]


def ours(rows: list[dict[str, Any]]) -> list[bool]:
    from tutelage.grading import grade_all

    return [bool(verdict.equal) for verdict in grade_all([(row["gold"], row["pred"]) for row in rows], workers=1)]


def math_verify(rows: list[dict[str, Any]]) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(f"${row['gold']}$"), parse(f"${row['pred']}$"))) for row in rows]


GRADERS = {"tutelage": ours, "math_verify": math_verify}


def accuracy(rows: list[dict[str, Any]], verdicts: list[bool]) -> dict[str, int]:
    return {
        "right": sum(verdict == row["equal"] for row, verdict in zip(rows, verdicts, strict=True)),
        "false_positives": sum(verdict and not row["equal"] for row, verdict in zip(rows, verdicts, strict=True)),
        "false_negatives": sum(row["equal"] and not verdict for row, verdict in zip(rows, verdicts, strict=True)),
    }


def cpu_seconds() -> float:
    """What this process and the processes that it started have computed."""
    total = time.process_time()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(file.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                total += int(file.with_name("schedstat").read_text().split()[0]) / 1e9  # "stat" counts in hundredths of a second
    return total


def judged(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy on a table, in all and by category, and pairs per second of computing time."""
    plain = [row for row in table if not row["category"].startswith("policy:")]
    verdicts, speed = {}, {}
    for name, grader in GRADERS.items():
        started = cpu_seconds()
        verdicts[name] = grader(plain)
        speed[name] = len(plain) / (cpu_seconds() - started)
    categories: dict[str, dict[str, int]] = {}
    for category, count in Counter(row["category"] for row in plain).most_common(MOST_CATEGORIES):
        categories[category] = {"rows": count}
        for name in GRADERS:
            pairs = zip(plain, verdicts[name], strict=True)
            categories[category][name] = sum(verdict == row["equal"] for row, verdict in pairs if row["category"] == category)
    return {
        "rows": len(plain),
        "unequal": sum(not row["equal"] for row in plain),
        **{name: {**accuracy(plain, verdicts[name]), "pairs_per_cpu_second": speed[name]} for name in GRADERS},
        "right_by_category": categories,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, action="append", help="rows of labelled pairs (default: all of tests/data)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "grading.json")
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any worker starts: they inherit it

    files = arguments.table or sorted((HERE.parent / "tests" / "data").glob("*.jsonl"), key=lambda file: file.stat().st_size)
    tables = {"gsm8k_like": gsm8k_like(1_000), **{file.stem: rows_of(file) for file in files}}
    for grader in GRADERS.values():
        grader(tables["gsm8k_like"][:20])  # imports and start-up are not measured
    found: dict[str, dict[str, Any]] = {}
    print("| table | rows (unequal) | grader | right | accepted wrongly | refused | pairs per second |\n|---|---|---|---|---|---|---|")
    for table, rows in tables.items():
        found[table] = each = judged(rows)
        for name in GRADERS:
            count = each[name]
            print(
                f"| {table} | {each['rows']} ({each['unequal']}) | {name} | {count['right']} ({count['right'] / each['rows']:.1%})"
                f" | {count['false_positives']} | {count['false_negatives']} | {count['pairs_per_cpu_second']:,.0f} |",
                flush=True,
            )
        results = {"machine": f"{platform.platform()}, one core of {os.cpu_count()}", "tables": found}
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

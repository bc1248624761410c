"""How fast rows become token ids, in how much memory, and how long a second start takes, beside an earlier commit.

    git worktree add /tmp/earlier 23301fc
    python bench/rows.py --gsm8k DIRECTORY --earlier /tmp/earlier --rows 10000,100000,1000000 --earlier-rows 10000,100000

DIRECTORY holds GSM8K's train.jsonl and test.jsonl. Rows are its training rows with other numbers, so that no two are equal; the test
problems are validated on. Both sides do all of `prepare` on the same file, in processes of their own, one after the other, in turns.
Seconds are without imports and the loading of the tokenizer. Memory is the largest sum over the processes of a side (PSS: a page that
several of them share counts once).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import harness

CHILD = """
import json, resource, sys, time
from tutelage.config import parse_config
train, validation, filters = sys.argv[1:]
config = parse_config({"data": {"train": train, "validation": validation, "filter": filters == "yes", "max_length": 1024}})
try:
    from tutelage.data import prepare
    from tutelage.model import load_tokenizer
except ImportError:
    from tutelage.prepare import prepare
    from tutelage.model import load_tokenizer
tokenizer = load_tokenizer("smollm2")
started = time.monotonic()
prepared = prepare(config, tokenizer)
seconds = time.monotonic() - started
rows = getattr(prepared, "rows", None) or len(prepared.train)
tokens = getattr(prepared, "tokens", None) or sum(map(len, prepared.train))
steps = time.monotonic()
for step in range(200):
    [prepared.train[(step * 7919 + k * 104729) % rows] for k in range(16)]
print("RESULT " + json.dumps({"seconds": seconds, "rows": rows, "tokens": tokens, "step": (time.monotonic() - steps) / 200}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="a directory with train.jsonl and test.jsonl")
    parser.add_argument("--earlier", type=Path, help="a worktree of an earlier commit")
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--earlier-rows", default="10000,100000", help="sizes that the earlier commit is tried at")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--filter", choices=["yes", "no"], default="yes", help="grade the rows, too")
    given = parser.parse_args()
    earlier_sizes = {int(size) for size in given.earlier_rows.split(",") if size} if given.earlier else set()
    results: list[dict[str, Any]] = []
    here = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, given.rows.split(",")):
            data = make_rows(given.gsm8k / "train.jsonl", size, Path(folder) / f"{size}.jsonl")
            measured: dict[str, list[dict[str, float]]] = {"ours": [], "again": [], "earlier": []}
            for number in range(given.rounds):
                cache = Path(folder) / f"cache-{size}-{number}"
                if size in earlier_sizes:
                    measured["earlier"].append(run(given.earlier, data, given, cache / "earlier"))
                measured["ours"].append(run(here, data, given, cache / "ours"))
                measured["again"].append(run(here, data, given, cache / "ours"))
            store = sum(file.stat().st_size for file in (Path(folder) / f"cache-{size}-0" / "ours" / "rows").rglob("*.tokens.arrow"))
            result = {"rows": size, "filter": given.filter, **summary(measured, size, store)}
            print(json.dumps(result), flush=True)
            results.append(result)
            data.unlink()
    harness.write(f"rows{'' if given.filter == 'yes' else '_unfiltered'}", {"sizes": results})


def summary(measured: dict[str, list[dict[str, float]]], size: int, store: int) -> dict[str, Any]:
    """Medians over the rounds, and the ratio of the two sides."""

    def median(side: str, key: str) -> float:
        return statistics.median(each[key] for each in measured[side])

    tokens = median("ours", "tokens")
    found = {
        "seconds_per_1000_rows": round(1000 * median("ours", "seconds") / size, 4),
        "second_start_seconds": round(median("again", "seconds"), 2),
        "peak_pss_gb": round(max(each["pss"] for each in measured["ours"]) / 1e9, 3),
        "second_start_peak_pss_gb": round(max(each["pss"] for each in measured["again"]) / 1e9, 3),
        "milliseconds_of_a_step_of_16_rows": round(1000 * median("again", "step"), 3),
        "bytes_per_token": round(store / tokens, 3),
    }
    if measured["earlier"]:
        found |= {
            "earlier_seconds_per_1000_rows": round(1000 * median("earlier", "seconds") / size, 4),
            "earlier_peak_pss_gb": round(max(each["pss"] for each in measured["earlier"]) / 1e9, 3),
            "times_the_rows_per_second": round(median("earlier", "seconds") / median("ours", "seconds"), 2),
        }
    return found


def run(tree: Path, data: Path, given: argparse.Namespace, cache: Path) -> dict[str, float]:
    """One side: what it says, and the peak of its memory."""
    cache.mkdir(parents=True, exist_ok=True)
    model = Path.home() / ".cache" / "tutelage" / "smollm2-135m-instruct"
    if model.exists() and not (cache / model.name).exists():
        (cache / model.name).symlink_to(model)
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "TUTELAGE_CACHE": str(cache), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", CHILD, str(data), str(given.gsm8k / "test.jsonl"), given.filter]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_pss(process.pid))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    watcher.join()
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return {**json.loads(line.removeprefix("RESULT ")), "pss": peak}


def tree_pss(root: int) -> int:
    """Bytes of a process and all that it started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    members = {root}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    total = 0
    for pid in members:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total += 1024 * int(found[1]) if found else 0
    return total


def make_rows(source: Path, count: int, out: Path) -> Path:
    """`count` rows of GSM8K, each with numbers of its own; the answer is the number that stands in its place."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    chosen = random.Random(0)
    with out.open("w", encoding="utf-8") as file:
        for index in range(count):
            row = rows[index % len(rows)]
            shift = index // len(rows) and chosen.randrange(1, 1000)
            question = re.sub(r"\d+", lambda found: str(int(found[0]) + shift), row["question"])  # noqa: B023
            answer = re.sub(r"(?<![.\d,])\d+(?![.\d,])", lambda found: str(int(found[0]) + shift), row["answer"])  # noqa: B023
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")
    return out


if __name__ == "__main__":
    main()

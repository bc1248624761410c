"""How large the page of a run is, how long it takes to write, and to open in a real browser without a network.

    python bench/report.py                # 2,000 problems at 10 evaluations; needs playwright and chromium

Opening is timed from the navigation to the moment when the generations can be browsed, and to the moment when all curves are
drawn. An empty page beside it, in turns, says what the browser takes by itself.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pages import make_run

from tutelage.report import page as report

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
READY = "html[data-ready=%s]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--words", type=int, default=60, help="of each response")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = tuple(range(0, 10 * given.evaluations, 10))
        run = make_run(Path(folder) / "run", problems=given.problems, steps=steps, words_each=given.words)
        started = time.monotonic()
        page = report.write(run)
        writing = time.monotonic() - started
        empty = Path(folder) / "empty.html"
        empty.write_text('<!DOCTYPE html><html data-ready="all"><title>empty</title></html>')
        opened = open_in_turns(page, empty, given.rounds)
        result = {
            "problems": given.problems, "evaluations": given.evaluations, "megabytes": round(page.stat().st_size / 1e6, 2),
            "pages": 1 + len(list(run.glob("report-*.html"))), "seconds_to_write": round(writing, 2), **opened,
        }  # fmt: skip
    for key, value in result.items():
        print(f"{key}: {value}")
    harness.write("report", result)


def open_in_turns(page: Path, empty: Path, rounds: int) -> dict[str, Any]:
    """Seconds until the page is there, and an empty one: the median of some rounds, and each."""
    from playwright.sync_api import sync_playwright

    measured: dict[str, list[float]] = {"browsing": [], "curves": [], "empty": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for _ in range(rounds):
            for path, states in ((page, {"browsing": "browser", "curves": "all"}), (empty, {"empty": "all"})):
                context = browser.new_context(offline=True)
                tab = context.new_page()
                started = time.monotonic()
                tab.goto(f"file://{path}", wait_until="commit")
                for name, state in states.items():
                    selector = f"{READY % state}, {READY % 'all'}"
                    tab.wait_for_selector(selector, state="attached", timeout=60_000)
                    measured[name].append(round(time.monotonic() - started, 3))
                context.close()
        browser.close()
    medians = {f"seconds_{name}": round(statistics.median(values), 2) for name, values in measured.items()}
    return {**medians, "each": measured}


if __name__ == "__main__":
    main()

"""A verdict does not depend on load: not on neighbours, not on clocks, not on what came before; workers start ahead."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import textwrap

import pytest
from test_grading_workers import HARD, alive, run, workers_of

from tutelage.errors import RunError
from tutelage.grading import grade, grade_all, start_workers
from tutelage.grading.serving import pool

pytestmark = pytest.mark.slow

PAIRS = [
    (r"\sqrt{8}", "2√2"), ("x^2-1", "(x-1)(x+1)"), (r"\frac{1}{4}", r"\int_0^{\pi/2} \sin^3 x \cos x dx"), (r"\frac{1}{3}", r"\int_0^1 x^2 dx"),
    ("2x", r"\frac{d}{dx} x^2"), ("7", r"\frac{d}{dx} 2x"), HARD, ("1", r"\begin{pmatrix}x&x\\x&x\end{pmatrix}" * 30),
]  # fmt: skip
"""Pairs of numbers, functions and integrals, and two whose work is over the limit."""


VERDICTS = [True, True, True, True, True, False, None, None]


def graded(pairs, before: str = "", **options) -> list[tuple[bool | None, str, str]]:
    """The verdicts on pairs, of a process of its own that does something before."""
    script = f"""
    from tutelage.grading import grade_all
    {{before}}
    print([(verdict.equal, verdict.layer, verdict.why) for verdict in grade_all({pairs!r}, workers=1)], flush=True)
    """
    done = run(textwrap.dedent(script).replace("{before}", textwrap.dedent(before)), **options)
    return ast.literal_eval(done.stdout or repr(done.stderr))


STOP_HALF_OF_THE_TIME = f"""
import os, signal, threading, time
from pathlib import Path
{inspect.getsource(workers_of)}
def slow_down():
    while True:
        below = workers_of(os.getpid())
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in below:
                try: os.kill(pid, number)
                except ProcessLookupError: pass
            time.sleep(0.2)
threading.Thread(target=slow_down, daemon=True).start()
"""


def test_verdicts_do_not_depend_on_how_busy_the_machine_is():
    """Workers that are stopped half of the time decide every comparison as others do."""
    verdicts = graded(PAIRS)
    assert [equal for equal, _, _ in verdicts] == VERDICTS
    assert graded(PAIRS, STOP_HALF_OF_THE_TIME) == verdicts


def test_no_reading_of_a_clock_takes_part_in_a_verdict(tmp_path):
    """Each reading of any clock in the owner, the workers and their children is a day after the one before."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import itertools, os, sys, time
        if "tutelage.grading.serving.worker" in sys.orig_argv:
            open(os.path.join({str(tmp_path)!r}, f"worker-{{os.getpid()}}"), "w").close()
        days = itertools.count(time.time_ns() // 86_400_000_000_000 + 1)
        for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
            setattr(time, name, lambda: 86_400.0 * next(days))
            setattr(time, name + "_ns", lambda: 86_400_000_000_000 * next(days))
        """)
    )
    leaping = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    assert [equal for equal, _, _ in graded(PAIRS, env=leaping)] == VERDICTS
    assert len(list(tmp_path.glob("worker-*"))) == 1  # the clocks leap there too


def test_the_same_comparison_costs_the_same_work_whatever_came_before():
    """Exactly so: in one process again and again, and in another process."""
    script = f"""
    from tutelage.grading.calculating import work
    from tutelage.grading.comparing import symbolic
    for gold, answer in {2 * PAIRS[:6]!r}:
        with work.limited():
            symbolic._read_and_compare(gold, answer)
            print(work.left, flush=True)
    """
    first, second = (run(script).stdout.split() for _ in range(2))
    assert len(first) == 12 and len(set(first)) > 3
    assert first == second and first[:6] == first[6:]


# ── ahead ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_workers_start_ahead_once_and_as_many_as_the_answers_need(monkeypatch):
    pool.close()
    monkeypatch.setattr(pool, "CORES", 8)
    for answers, expected in ((0, 0), (1, 1), (33, 3), (1000, 4), (1000, 4)):
        start_workers(answers)
        assert len(pool._started) == expected
    before = {worker.process.pid for worker in pool._started}
    assert grade("x^2-1", "(x-1)(x+1)").equal and grade("6", r"\lim_{x \to 3} 2x").equal
    assert {worker.process.pid for worker in pool._started} == before
    pool.close()
    assert not pool._started and not any(map(alive, before))


def test_one_that_ended_while_it_started_is_replaced():
    pool.close()
    start_workers(1)
    for worker in list(pool._started):
        worker.process.kill()
    assert grade("x^2-1", "(x-1)(x+1)").equal


def test_a_process_that_does_not_start_is_an_error_and_no_verdict(monkeypatch):
    pool.close()
    monkeypatch.setattr(pool, "_command", lambda: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RunError, match="a grading process does not start"):
        grade("x^2-1", "(x-1)(x+1)")
    assert not pool._started


def test_a_long_batch_keeps_its_order_and_counts_each_pair_once():
    pairs = [pair for count in range(60) for pair in ((str(count), f"{count}.0"), ("x+1", f"1+x+{count}-{count}"), ("x", f"y+{count}"), ("2", "2"))]
    counts: list[int] = []
    verdicts = grade_all(pairs, workers=2, on_graded=counts.append)
    assert [verdict.equal for verdict in verdicts] == [True, True, False, True] * 60
    assert sum(counts) == len(pairs)

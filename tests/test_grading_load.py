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
from tutelage.grading import grade, grade_all, pool, start_workers

pytestmark = pytest.mark.slow

PAIRS = [
    (r"\sqrt{8}", "2√2"), ("x^2-1", "(x-1)(x+1)"), (r"\frac{1}{4}", r"\int_0^{\pi/2} \sin^3 x \cos x dx"), (r"\frac{1}{3}", r"\int_0^1 x^2 dx"),
    ("2x", r"\frac{d}{dx} x^2"), ("7", r"\frac{d}{dx} 2x"), HARD, ("1", r"\begin{pmatrix}x&x\\x&x\end{pmatrix}" * 30),
]  # fmt: skip
"""Pairs of our own reading, of Math-Verify, and two whose work is over the limit."""


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
        if "tutelage.grading.worker" in sys.orig_argv:
            open(os.path.join({str(tmp_path)!r}, f"worker-{{os.getpid()}}"), "w").close()
        days = itertools.count(time.time_ns() // 86_400_000_000_000 + 1)
        for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
            setattr(time, name, lambda: 86_400.0 * next(days))
            setattr(time, name + "_ns", lambda: 86_400_000_000_000 * next(days))
        """)
    )
    leaping = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    assert [equal for equal, _, _ in graded(PAIRS, env=leaping)] == VERDICTS
    assert len(list(tmp_path.glob("worker-*"))) == 2  # one that reads, one for Math-Verify: the clocks leap there too


def test_the_same_comparison_costs_the_same_work_whatever_came_before():
    """Exactly so in one worker. Between two, sympy orders some sets by addresses: a few calls in 100,000 differ."""
    script = f"""
    import os
    from tutelage.grading import foreign, symbolic, work
    foreign.warm_up()
    for gold, answer in {2 * PAIRS[2:6]!r}:
        if os.fork() == 0:
            with work.limited(work.LIBRARY_UNITS), work.counting_calls():
                foreign._verdict(gold, answer)
                left = work.left
            with work.limited(work.OWN_UNITS):
                symbolic._read_and_compare("x^2-1", r"(x-1)(x+1)+\\sin(0)")
                print(left, work.left, flush=True)
            os._exit(0)
        os.wait()
    """
    seeded = {**os.environ, "PYTHONHASHSEED": "0"}
    first, second = ([[*map(int, line.split())] for line in run(script, env=seeded).stdout.splitlines()] for _ in range(2))
    assert len(first) == len(second) == 8
    assert first[:4] == first[4:] and second[:4] == second[4:]
    assert all(abs(a[0] - b[0]) <= 2_000 and a[1] == b[1] for a, b in zip(first, second))


# ── ahead ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def tasks() -> list[str]:
    return sorted(worker.task for worker in pool._started)


def test_workers_start_ahead_once_and_as_many_as_the_answers_need(monkeypatch):
    pool.close()
    monkeypatch.setattr(pool, "CORES", 8)
    for answers, expected in ((0, []), (1, ["read"]), (33, 3 * ["read"]), (1000, ["math-verify", *4 * ["read"]]), (1000, ["math-verify", *4 * ["read"]])):
        start_workers(answers)
        assert tasks() == expected
    before = {worker.process.pid for worker in pool._started}
    assert grade("x^2-1", "(x-1)(x+1)").equal and grade("6", r"\lim_{x \to 3} 2x").equal
    assert {worker.process.pid for worker in pool._started} == before
    pool.close()
    assert tasks() == [] and not any(map(alive, before))


def test_one_that_ended_while_it_started_is_replaced():
    pool.close()
    start_workers(1)
    for worker in list(pool._started):
        worker.process.kill()
    assert grade("x^2-1", "(x-1)(x+1)").equal


def test_a_process_that_does_not_start_is_an_error_and_no_verdict(monkeypatch):
    pool.close()
    monkeypatch.setattr(pool, "_command", lambda task: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RunError, match="a grading process does not start"):
        grade("x^2-1", "(x-1)(x+1)")
    assert tasks() == []


def test_pairs_of_both_kinds_keep_their_order():
    pairs = [(r"\sqrt{8}", "2√2"), ("2x", r"\frac{d}{dx} x^2"), ("x", "y+1"), ("7", r"\frac{d}{dx} 2x"), ("x+1", "1+x")]
    assert [verdict.layer for verdict in grade_all(pairs)] == ["algebra", "math-verify", "algebra", "math-verify", "algebra"]
    assert [verdict.equal for verdict in grade_all(pairs)] == [True, True, False, False, True]

"""The workers behind the symbolic layers: limits that hold, nothing executed, no process left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hostile_inputs import HOSTILE, PWN

from tutelage.grading import grade, grade_all
from tutelage.grading.serving import pool

HARD = (r"\frac{1}{7}", r"\int_0^1 \int_0^1 \int_0^1 \int_0^1 \sin(a b x y) \, dx \, dy \, da \, db")
"""A pair that costs more work than the limit."""
pytestmark = pytest.mark.slow


def run(script: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, **options)


def workers_of(pid: int) -> list[int]:
    """The processes below a process that is alive, children of its children too."""
    found, wanted = [], [pid]
    while wanted:
        parent = wanted.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            below = [int(child) for child in task.read_text().split()]
            found += below
            wanted += below
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


# ── nothing is executed ───────────────────────────────────────────────────────────────────────────────────────────────

EXECUTION = [
    "__import__('os').system('touch pwned')", "exec(\"open('pwned','w')\")", "eval('1+1')", "().__class__.__bases__[0].__subclasses__()",
    r"\text{__import__('os').system('touch pwned')}", r"\ln(\text{\textbackslash 137\textbackslash 137import})", 'ln("\\137\\137import\\137\\137")',
    r"\sqrt{__import__('os').system('touch pwned')}", r"\frac{exec(1)}{2}", "lambda: 0", "[x for x in (1,2)]", "f'{open(1)}'", "S('1+1')",
    "sympify('open(1)')", r"\operatorname{eval}(1)", r"\operatorname{exec}('1')", "{{7*7}}", "$(touch pwned)", "`touch pwned`", "'; touch pwned #",
    r"\int_0^1 \text{open('pwned','w')} dx", r"\sum_{k=1}^{3} eval(k)", "0x41", "1_000", "1e5j", "True", "None", "print(4)", r"\input{/etc/passwd}",
    "\\write18{touch pwned}", "4;import os", "4 if open('pwned','w') else 4", "4#", "4\n__import__('os')", "2**2or open('pwned','w')",
]  # fmt: skip


def test_no_text_of_an_answer_or_a_reference_becomes_code(tmp_path):
    """Every event of Python's own auditing is watched while all layers read the texts."""
    script = f"""
    import os, sys
    from tutelage.grading.comparing import symbolic
    from tutelage.grading.equality import Verdict, _cheap
    from tutelage.grading.wording.normalize import normalize
    symbolic.decide(r"\\int_0^1 x dx", "1/2")
    os.chdir({str(tmp_path)!r})
    events = []
    def watch(event, arguments):
        if event in ("exec", "compile", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "import"):
            events.append((event, str(arguments)[:200]))
        if event == "open" and "w" in str(arguments[1]):
            events.append((event, str(arguments)[:200]))
    sys.addaudithook(watch)
    accepted = []
    for text in {EXECUTION!r}:
        for gold, answer in (("4.5", text), (text, "4.5"), (r"\\int_0^1 x dx", text)):
            verdict = _cheap(gold, answer)
            equal = verdict.equal if isinstance(verdict, Verdict) else symbolic.decide(*verdict)[0]
            symbolic.decide(normalize(gold), normalize(answer))
            if equal:
                accepted.append((gold, answer))
    assert symbolic.decide(r"\\frac{{d}}{{dx}} x^2", r"\\frac{{d}}{{d x}} (x^{{2}})") == (True, "algebra", "")
    print("EVENTS", events, "ACCEPTED", accepted)
    """
    done = run(script)
    assert "EVENTS [] ACCEPTED []" in done.stdout, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_worker_refuses_code_made_from_text():
    script = """
    import os, subprocess, sys
    from tutelage.grading.serving.worker import refuse_code
    code = compile("1 + 1", "<string>", "eval")
    sys.addaudithook(refuse_code)
    for attempt in (
        lambda: eval("1 + 1"), lambda: exec("x = 1"), lambda: compile("1", "<string>", "eval"), lambda: eval(code),
        lambda: os.system("true"), lambda: subprocess.run(["true"]), lambda: os.fork(), lambda: __import__("ast").literal_eval("1"),
    ):
        try:
            attempt()
        except PermissionError:
            continue
        print("RAN")
    print("DONE")
    """
    assert run(script).stdout == "DONE\n"


def test_an_attempt_is_never_right_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdicts = grade_all([("4.5", text) for text in EXECUTION])
    assert [text for text, verdict in zip(EXECUTION, verdicts) if verdict.equal] == []
    assert list(tmp_path.iterdir()) == []


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_does_not_end_is_undecided_and_the_next_pair_is_graded():
    first, second = grade_all([HARD, (r"\sqrt{8}", "2√2")], workers=1)
    assert first.equal is None and first.layer == "limit" and not first.by_the_clock
    assert second.equal is True


def test_hostile_inputs_are_never_accepted_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [
        pair
        for _, *hostile in HOSTILE
        for pair in (tuple(hostile), (r"\sqrt{8}", f"2√2 + {len(hostile[1])} - {len(hostile[1])}"))
    ]
    verdicts = grade_all(pairs)
    assert [name for (name, *_), verdict in zip(HOSTILE, verdicts[::2]) if verdict.equal] == []
    assert [name for (name, *_), verdict in zip(HOSTILE, verdicts[::2]) if verdict.by_the_clock] == []  # work is the limit
    assert all(verdict.equal for verdict in verdicts[1::2])  # each next pair is as if nothing had been
    assert list(tmp_path.iterdir()) == [] and not Path(PWN).exists()


def test_a_system_without_affinity_grades_too():
    script = """
    import os
    del os.sched_getaffinity
    from tutelage.grading import grade
    from tutelage.grading.serving import pool
    print(grade("x^2-1", "(x-1)(x+1)").equal, pool.available_cores() == os.cpu_count())
    """
    assert run(script).stdout == "True True\n"


def test_memory_is_limited():
    script = """
    import os
    from tutelage.grading.serving import worker
    import resource
    child = os.fork()
    if child == 0:
        worker.restrict()
        try:
            bytearray(2 << 30)
        except MemoryError:
            os._exit(7)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(script).stdout == "7\n"


def test_a_worker_that_was_killed_is_replaced():
    assert grade("x^2-1", "(x-1)(x+1)").equal is True
    worker = pool._idle.get_nowait()
    worker.process.kill()
    worker.process.wait()
    pool._idle.put(worker)
    assert grade("x^2-1", "(x-1)(x+1)").equal is True


def test_workers_that_died_while_they_were_idle_are_replaced():
    grade_all([("x+1", f"1+x+{number}-{number}") for number in range(64)], workers=2)
    for worker in list(pool._started):
        worker.process.kill()
        worker.process.wait()
    assert grade("x+1", "1+x").equal is True


def test_ctrl_c_in_a_batch_ends_soon_and_the_next_grade_works():
    script = f"""
    import os, signal, threading, time
    from tutelage.grading import grade, grade_all
    assert grade("x+1", "1+x").equal
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    hard = {HARD!r}
    try:
        grade_all([(hard[0], hard[1] + f"+{{number}}") for number in range(600)], workers=2)
    except KeyboardInterrupt:
        print("INTERRUPTED", time.monotonic() - started < 300, grade("x+1", "1+x").equal)
    """
    done = run(script)
    assert done.stdout == "INTERRUPTED True True\n", done.stdout + done.stderr


def test_an_owner_that_ignores_its_children_is_served_too():
    script = f"""
    import signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    from tutelage.grading import grade_all
    print([verdict.equal for verdict in grade_all([{HARD!r}, ("x+1", "1+x"), ("x", "y")], workers=1)])
    """
    assert run(script).stdout == "[None, True, False]\n"


def test_a_file_in_the_current_directory_is_not_taken_for_a_library(tmp_path):
    (tmp_path / "mpmath.py").write_text("open('pwned', 'w')")
    (tmp_path / "sympy.py").write_text("open('pwned', 'w')")
    script = "from tutelage.grading import grade; print(grade(r'\\sqrt{8}', '2√2').equal)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.stdout == "True\n" and not (tmp_path / "pwned").exists()


def test_a_pair_that_ends_its_worker_costs_no_other_pair(monkeypatch):
    pool.close()
    script = """import signal, os, tutelage.grading.comparing.symbolic as s
compare = s.decide
s.decide = lambda gold, answer: os.kill(os.getpid(), signal.SIGKILL) if answer == "1+z" else compare(gold, answer)
from tutelage.grading.serving.worker import main
main()"""
    monkeypatch.setattr(pool, "_command", lambda: [sys.executable, "-c", script])
    verdicts = grade_all([("x+1", "1+x"), ("z+1", "1+z"), ("x", "y+1")], workers=1)
    pool.close()
    assert [verdict.equal for verdict in verdicts] == [True, None, False] and verdicts[1].by_the_clock


# ── wherever it is called from ────────────────────────────────────────────────────────────────────────────────────────


def test_threads_share_the_workers_and_the_caller_keeps_its_alarm():
    def handler(*_):
        raise AssertionError("the caller's alarm rang")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM, signal.SIGPROF)}
    previous = signal.signal(signal.SIGALRM, handler)
    signal.alarm(3600)
    try:
        verdicts: list[bool | None] = []
        threads = [threading.Thread(target=lambda: verdicts.append(grade("x^2-1", "(x-1)(x+1)").equal)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verdicts == [True] * 3
        assert signal.alarm(0) > 3000
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def test_asyncio_tasks_grade_side_by_side():
    async def all_of_them():
        return await asyncio.gather(*(asyncio.to_thread(grade, "x^2-1", f"(x-1)(x+1)+{n}-{n}") for n in range(6)))

    assert [verdict.equal for verdict in asyncio.run(all_of_them())] == [True] * 6


def test_a_fork_starts_workers_of_its_own():
    assert grade("x^2-1", "(x-1)(x+1)").equal is True
    child = os.fork()
    if child == 0:
        ok = grade("y^2-1", "(y-1)(y+1)").equal is True and grade("x+y", "x+z").equal is False
        pool.close()
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert grade("x+y", "y+x").equal is True


def test_datasets_map_workers_grade():
    script = """
    import datasets
    from tutelage.grading import grade
    assert grade("x^2-1", "(x-1)(x+1)").equal
    rows = datasets.Dataset.from_dict({"answer": ["(x-1)(x+1)", "x^2", "x^2-2+1", "9^{9^{9^9}}"] * 5})
    graded = rows.map(lambda row: {"equal": str(grade("x^2-1", row["answer"]).equal)}, num_proc=2)
    print(graded["equal"][:4], len(graded))
    """
    assert run(script).stdout.endswith("['True', 'False', 'True', 'None'] 20\n")


def test_grading_works_while_torch_has_threads():
    script = """
    import torch
    torch.ones(500, 500) @ torch.ones(500, 500)
    from tutelage.grading import grade
    print(grade("x^2-1", "(x-1)(x+1)").equal)
    """
    assert run(script).stdout == "True\n"


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a GPU: grading after CUDA is up")
def test_grading_works_after_cuda_is_up():
    import torch

    torch.ones(1, device="cuda")
    assert grade("x^2-1", "(x-1)(x+1)").equal is True


# ── no orphan ─────────────────────────────────────────────────────────────────────────────────────────────────────────

OWNER = """
import sys, os, time, threading
from tutelage.grading import grade
assert grade("x^2-1", "(x-1)(x+1)").equal
if {busy}:
    threading.Thread(target=grade, args={hard!r}, daemon=True).start()
    time.sleep(0.5)
print("READY", flush=True)
{end}
"""


@pytest.mark.parametrize(("end", "busy"), [("sys.exit(0)", False), ("sys.exit(0)", True), ("os._exit(3)", False), ("time.sleep(600)", True)])
def test_no_process_outlives_the_owner(end, busy):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(end="sys.stdin.readline()\n" + end, busy=busy, hard=HARD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert owner.stdin is not None and owner.stdout is not None and owner.stdout.readline() == "READY\n"
    below = workers_of(owner.pid)
    assert below
    owner.stdin.write("now\n")
    owner.stdin.flush()
    if end.startswith("time.sleep"):
        owner.kill()
    owner.wait(300)
    assert wait_until(lambda: not any(map(alive, below))), [pid for pid in below if alive(pid)]


def test_importing_the_grader_loads_and_starts_nothing():
    script = """
    import sys
    import tutelage.grading
    from tutelage.grading import grade, r1_zero_reward_fn
    from tutelage.grading.serving import pool
    r1_zero_reward_fn("<think> x </think> <answer> 0.5 </answer>", "1/2")
    print([name for name in ("torch", "sympy", "mpmath", "math_verify", "datasets") if name in sys.modules], pool._started)
    """
    assert run(script).stdout == "[] set()\n"

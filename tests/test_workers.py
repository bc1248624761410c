"""Processes beside this one: what they raise comes out as it is, one that dies is told, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest

from tutelage.errors import InputError, RunError
from tutelage.machines import workers

pytestmark = pytest.mark.slow


def answers(function, given, count=2):
    return list(workers.over_processes(function, given, None, count))


def children() -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True)
    return {int(line) for line in listed.stdout.split()}


def test_errors_come_out_as_they_are_and_one_that_cannot_travel_says_the_same():
    assert answers(jobs.fails_at, ["", "", ""]) == ["", "", ""]
    with pytest.raises(InputError, match="mend the row"):
        answers(jobs.fails_at, ["", "input", ""])
    with pytest.raises(RunError, match="NeedsTwo: one and two"):
        answers(jobs.fails_at, ["two"])


def test_a_process_that_dies_or_talks_nonsense_is_told(monkeypatch):
    before = children()
    with pytest.raises(RunError, match=r"ended \(-9\)"):
        answers(jobs.fails_at, ["", "die", ""])
    monkeypatch.setattr(workers, "SECONDS_TO_END", 0.2)
    with pytest.raises(RunError, match="ended"):
        answers(jobs.fails_at, ["nonsense"], 1)
    assert len(children() - before) <= 1, "ps itself"


def test_files_of_the_working_directory_are_no_modules_of_libraries(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert answers(jobs.fails_at, [""]) == [""]


def test_processes_end_with_their_owner(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import jobs\n"
        "from tutelage.machines.workers import over_processes\n"
        "for answer in over_processes(jobs.sleeps, [0, 0, 600, 600], None, 2):\n    print(answer, flush=True)\n"
    )
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = {int(owner.stdout.readline()), int(owner.stdout.readline())}
    owner.send_signal(signal.SIGKILL)
    _, complaints = owner.communicate()
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()] and "Traceback" not in complaints

"""A job that is asked to stop answers the same at every moment: exit code 0, and the same command begins it, or goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import lines_of

from tutelage.cli.entry import main
from tutelage.config import to_toml
from tutelage.machines import request, uninterrupted
from tutelage.machines.watch import StopRequest

POLITE = [signal.SIGTERM, signal.SIGUSR1]


def asking(monkeypatch, target: str, signal_number: int, *, once: list[str]) -> None:
    """Send a signal to this process when a function is called; then it does what it does."""
    import importlib

    module, _, name = target.rpartition(".")
    original = getattr(importlib.import_module(module), name)

    def asked(*arguments, **options):
        if not once:
            once.append(target)
            os.kill(os.getpid(), signal_number)
        return original(*arguments, **options)

    monkeypatch.setattr(target, asked)


@pytest.fixture
def toml(make_config, tmp_path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(to_toml(make_config(train__num_steps=2)))
    return path


MOMENTS = {
    "tutelage.training.loop.require": False,
    "tutelage.training.loop.prepare": False,  # while the data are prepared
    "tutelage.training.loop.load_policy": False,
    "tutelage.training.loop.explain": False,
    "tutelage.training.loop.set_up": False,
    "tutelage.training.loop._evaluator": False,
    "tutelage.training.fit.accumulate_gradients": False,  # within the first step
    "tutelage.training.loop._finished": True,
    "tutelage.training.loop._report": True,  # the report is written to its end
    "tutelage.report.show.finished": True,
}
"""Functions at whose call the signal comes, and whether the run is finished all the same."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_asked_to_stop_at_any_moment_ends_well_and_goes_on(toml, monkeypatch, capsys, moment):
    once: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    asking(monkeypatch, moment, POLITE[len(moment) % 2], once=once)
    assert main(["train", str(toml)]) == 0 and once
    run = toml.parent / "run"
    assert (run / "result.json").exists() == MOMENTS[moment]
    if not MOMENTS[moment]:
        assert POLITE[len(moment) % 2].name + ": stopped" in capsys.readouterr().err
        assert main(["train", str(toml)]) == 0
    assert (run / "report.html").exists() and signal.getsignal(signal.SIGTERM) is before
    assert [line["step"] for line in lines_of(run / "metrics.jsonl") if line["kind"] == "train"] == [1, 2]


@pytest.mark.slow
def test_a_run_asked_to_stop_while_the_last_evaluation_runs_does_it_again(toml, monkeypatch):
    from tutelage.evaluation.engine import native

    original, calls = native._generate, []

    def generate(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:  # 0: before training; 1: at the end
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(native, "_generate", generate)
    assert main(["train", str(toml)]) == 0 and not (toml.parent / "run" / "result.json").exists()
    assert main(["train", str(toml)]) == 0 and (toml.parent / "run" / "result.json").exists()


@pytest.mark.slow
def test_ctrl_c_and_commands_that_do_not_train_end_with_130(toml, monkeypatch, capsys, tmp_path):
    asking(monkeypatch, "tutelage.training.loop.prepare", signal.SIGINT, once=[])
    assert main(["train", str(toml)]) == 130
    asking(monkeypatch, "tutelage.data.reader_of", signal.SIGTERM, once=[])
    assert main(["filter", str(toml.parent / "train.jsonl"), "--out", str(tmp_path / "kept.jsonl")]) == 130
    assert "SIGTERM: interrupted" in capsys.readouterr().err and not list(tmp_path.glob("*kept*"))


def started(code: str, *arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


AT_IMPORT = """
import os, signal, sys
*sys.argv[1:], sent, module = sys.argv[1:]
class Asking:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.Signals[sent])
sys.meta_path.insert(0, Asking())
from tutelage.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "sent", "module", "code"),
    [
        ("train", "SIGTERM", "tutelage.cli", 0),
        ("train", "SIGUSR1", "tutelage.config.settings", 0),
        ("train", "SIGTERM", "torch", 0),
        ("train", "SIGINT", "torch", 130),
        ("sweep", "SIGTERM", "torch", 130),
    ],
)
def test_a_signal_while_packages_are_imported_is_answered_at_once(tmp_path, command, sent, module, code):
    process = started(AT_IMPORT, command, sent, module, cwd=tmp_path)
    _, said = process.communicate()
    assert process.returncode == code and said.strip().startswith("tutelage: ") and said.strip().count("\n") == 0, said
    assert ("SIG" in said) == (sent != "SIGINT") and not list(tmp_path.iterdir())


def test_a_signal_while_the_interpreter_ends_changes_no_exit_code():
    code = """
import atexit, os, signal, sys
sys.argv[1:] = ["train"]
import tutelage.cli.entry
tutelage.cli.entry.main = lambda: 3
from tutelage.__main__ import main
import tutelage.cli
tutelage.cli.main = lambda: 3
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), sent=signal.SIGUSR1):
        kill(pid, sent)
sys.late = Late()
main()
"""
    process = started(code)
    assert process.wait() == 3, process.communicate()[1]


def held_back() -> None:
    """Signals wait until the program listens, as its launcher has it; before that they are the interpreter's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, POLITE)


@pytest.mark.slow
def test_a_signal_at_any_time_of_a_start_ends_well(toml):
    """Real signals at a few delays, into the same run directory; in the end the same command finishes the run."""
    main_code = "from tutelage.__main__ import main; main()"
    for delay in (0.0, 0.7, 2.5, 5.0):
        process = started(main_code, "train", str(toml), preexec_fn=held_back)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
        assert process.returncode == 0 and "Traceback" not in said, (delay, said)
    assert main(["train", str(toml)]) == 0 and (toml.parent / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_job_of_two_ranks_asked_while_it_starts_ends_well(toml):
    """To the launcher at once, and when the first rank lives: nobody waits for another, and nobody is killed."""
    code = "import signal; from tutelage.__main__ import main; main()"
    for delay in (0.0, 1.5):
        process = started(code, "train", str(toml), "--launch", "2", preexec_fn=held_back)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0 and "was ended by" not in said, (delay, said)


def test_a_request_that_came_before_training_is_not_forgotten():
    """An exception that a package swallows while it is imported: the request stays, and is found before the first step."""
    with request.listening(["train"]):
        with pytest.raises(request.Asked), request.importing(now=False):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        assert request.request_of_program().by == "SIGTERM" and request.asked_in_vain().exit_code == 0
        with request.importing(now=False):
            os.kill(os.getpid(), signal.SIGUSR1)  # a second one does not disturb what cleans up
    assert not request.request_of_program().wanted and request.asked_in_vain() is None


def test_a_signal_that_waited_is_answered_as_it_would_have_been():
    with request.listening(["train"]), request.importing(now=False):
        with pytest.raises(request.Asked) as raised, uninterrupted():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
        assert raised.value.exit_code == 0


def test_rank_0_gives_up_what_it_does_alone_when_any_rank_is_asked():
    stop = StopRequest()
    with stop.listening(also_ctrl_c=True), pytest.raises(request.StopWanted), stop.interrupting():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    with pytest.raises(request.StopWanted), stop.interrupting():
        raise AssertionError("was begun")

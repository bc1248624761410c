"""Asked to stop, killed, or hung: the state is saved or was, and the same command goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import assert_same_run, interrupt_at_call, lines_of

from tutelage.cli.entry import main
from tutelage.config import to_toml
from tutelage.errors import InputError, RunError
from tutelage.evaluation.draft import PREFIX
from tutelage.evaluation.engine import native
from tutelage.training import fine_tune
from tutelage.training.ending import Preempted

pytestmark = pytest.mark.slow


def test_a_run_asked_to_stop_saves_and_goes_on_or_says_what_changed(make_config, tmp_path, monkeypatch, capsys):
    """SIGTERM and SIGUSR1 let the step finish and end the command well; another setting is refused, or allowed by name and told."""
    changes = {"train__num_steps": 5, "eval__every": 0}
    config, copy, path = make_config(**changes), tmp_path / "copy", tmp_path / "c.toml"
    path.write_text(to_toml(config))
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2, signal.SIGTERM)
        assert main(["train", str(path)]) == 0
    told = capsys.readouterr().err
    assert "SIGTERM: stopped after step 2 of 5" in told and f"tutelage train {config.run.dir}/config.toml" in told

    assert main(["train", str(path), "--train.lr", "1e-4"]) == 2
    assert "train.lr: 0.001 → 0.0001; or go on with the new values: --allow train.lr" in capsys.readouterr().err
    shutil.copytree(config.run.dir, copy)
    other = ["train", str(path), "--run.dir", str(copy), "--train.lr", "1e-4", "--allow"]
    assert main([*other, "train.l"]) == 2 and main([*other, "train.lr"]) == 0
    (line,) = (line for line in lines_of(copy / "metrics.jsonl") if line["kind"] == "config_changed")
    assert line["step"] == 2 and line["changes"] == ["train.lr: 0.001 → 0.0001"]

    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2, signal.SIGUSR1)
        assert main(["train", str(path)]) == 0
    assert "SIGUSR1: stopped after step 4 of 5" in capsys.readouterr().err
    assert main(["train", str(path)]) == 0
    undisturbed = fine_tune(make_config(run__dir=str(tmp_path / "undisturbed"), **changes)).directory
    assert_same_run(undisturbed, Path(config.run.dir))


def test_an_evaluation_goes_on_where_it_was_stopped(make_config, tmp_path, monkeypatch):
    """Of the panel's four problems two batches are asked; what the first one answered is not asked again."""
    changes = {"train__num_steps": 4, "eval__batch_size": 2, "run__save_every": 0}
    undisturbed = fine_tune(make_config(run__dir=str(tmp_path / "undisturbed"), **changes)).directory
    config = make_config(run__dir=str(tmp_path / "parts"), **changes)
    original, asked = native._generate, []

    def watched(*arguments, **options):
        asked.append(list(options["indices"]))
        if len(asked) == 4:  # the second batch of the evaluation at step 2, in the middle of it
            spoken = iter(range(10))

            def after_each_token(count, original=options["on_finished"]):
                if next(spoken) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                original(count)

            options = {**options, "on_finished": after_each_token}
        return original(*arguments, **options)

    monkeypatch.setattr(native, "_generate", watched)
    with pytest.raises(Preempted, match="after step 2 of 4"):
        fine_tune(config)
    assert len(list(Path(config.run.dir).glob(f"{PREFIX}2-*"))) == 1
    fine_tune(config)
    assert asked[4] == asked[3] and len(asked) == 7  # the batch that was stopped, then the last evaluation's two
    assert_same_run(undisturbed, Path(config.run.dir))
    assert not list(Path(config.run.dir).glob(f"{PREFIX}*"))


def test_a_torn_line_of_an_evaluation_under_way_is_asked_again(make_config, tokenizer, tmp_path):
    from tutelage.evaluation.draft import Draft
    from tutelage.evaluation.engine.contract import Completion, Sampling

    draft = Draft(tmp_path, Draft.key(2, [[1], [2]], Sampling()))
    said = [Completion("a", (1, 2), "stop", (0.5, 0.25))]
    draft.add({0: said})
    with draft.file.open("a") as file:
        file.write('{"problem": 1, "compl')
    assert draft.known() == {0: said}
    draft.add({1: said})
    assert draft.known() == {0: said, 1: said}
    for other in ((2, [[1], [3]], Sampling()), (4, [[1], [2]], Sampling()), (2, [[1], [2]], Sampling(), "another engine")):
        assert Draft(tmp_path, Draft.key(*other)).known() == {}


def test_a_full_disk_does_not_end_training_and_spoils_no_checkpoint(make_config, monkeypatch, capsys):
    """The second save meets a full disk while it writes; the run goes on, and from the first one if it must."""
    from torch.distributed.checkpoint import FileSystemWriter

    original, calls = FileSystemWriter.write_data, []

    def full(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return original(self, *arguments)

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    run = fine_tune(make_config(train__num_steps=3, eval__every=0, run__save_every=1)).directory
    failed = [line for line in lines_of(run / "metrics.jsonl") if line["kind"] == "save_failed"]
    assert len(failed) == 1 and "step-00000002: the checkpoint could not be written: the disk is full" in failed[0]["reason"]
    assert "training goes on" in capsys.readouterr().out


def test_what_cannot_be_kept_of_an_evaluation_does_not_end_it(make_config, monkeypatch, capsys):
    def full(*_):
        raise RunError("No space left on device")

    monkeypatch.setattr("tutelage.evaluation.draft.append_lines", full)
    result = fine_tune(make_config(eval__batch_size=2, train__num_steps=2))
    assert [line["step"] for line in result.evaluations] == [0, 2]
    assert capsys.readouterr().out.count("answers are not kept before the evaluation is finished: No space") == 2


def test_a_log_that_meets_a_full_disk_is_written_before_the_state_is_saved(make_config, tmp_path, monkeypatch):
    """The line of step 3 meets a full disk once: the run stops with it written and its state saved, and goes on from there."""
    from tutelage.runs import log

    original = log.append_lines
    refused = []

    def full_once(path, lines):
        if not refused and lines and lines[-1].get("step") == 3:
            refused.append(path)
            raise RunError("metrics.jsonl: cannot be written: No space left on device")
        original(path, lines)

    monkeypatch.setattr(log, "append_lines", full_once)
    config = make_config(train__num_steps=5, eval__every=0)
    with pytest.raises(RunError, match=r"No space left(.|\n)*stopped after step 3 of 5"):
        fine_tune(config)
    run = fine_tune(config).directory
    assert [line["step"] for line in lines_of(run / "metrics.jsonl") if line["kind"] == "train"] == [1, 2, 3, 4, 5]


# ── jobs of two ranks, as a person starts them ──


@pytest.fixture
def job(make_config, tmp_path):
    """Start a job of two ranks; kills what is left of it."""
    started = []

    def start(**changes) -> subprocess.Popen[str]:
        path = tmp_path / "c.toml"
        path.write_text(to_toml(make_config(**changes)))
        command = [sys.executable, "-m", "tutelage", "train", str(path), "--launch", "2"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        for rank in ranks_of(process):
            os.kill(rank, signal.SIGKILL)
        process.kill()


def ranks_of(process: subprocess.Popen) -> list[int]:
    """The processes of a job's ranks, by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process.pid:
                variables = dict(pair.split("=", 1) for pair in (entry / "environ").read_text().split("\0") if "=" in pair)
                found[int(variables["RANK"])] = int(entry.name)
        except (OSError, ValueError, IndexError, KeyError):
            continue
    return [found[rank] for rank in sorted(found)]


def wait_for_new_checkpoint(run: Path, process: subprocess.Popen) -> None:
    """Until the job has written a checkpoint that was not there before."""

    def sealed() -> set[str]:
        return {file.parent.name for file in (run / "checkpoints").glob("step-*/COMPLETE.json")}

    before, deadline = sealed(), time.monotonic() + 600
    while not sealed() - before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.02)


def test_a_job_that_hung_and_was_stopped_ends_as_if_undisturbed(job, ranks, make_config, tmp_path):
    """A hung rank is named and killed, SIGTERM to the launcher asks all; the same command goes on, to the same bits.

    bench/chaos.py does this with four ranks and sixty random disturbances.
    """
    changes = {"train__num_steps": 60, "eval__every": 0, "eval__before": False, "run__save_every": 5}
    run, calm = Path(make_config().run.dir), tmp_path / "calm"
    assert ranks.run("job_train", raw=make_config(run__dir=str(calm), **changes).model_dump(mode="json")) == ["", ""]

    hung = job(parallel__timeout=6, **changes)
    wait_for_new_checkpoint(run, hung)
    os.kill(ranks_of(hung)[1], signal.SIGSTOP)
    told = hung.communicate(timeout=300)[1]
    assert hung.returncode == 1 and "Traceback" not in told
    assert "rank 1 (does not respond" in told and "parallel.timeout" in told and "the same command goes on" in told

    stopped = job(**changes)
    wait_for_new_checkpoint(run, stopped)
    stopped.send_signal(signal.SIGTERM)
    out, told = stopped.communicate(timeout=300)
    assert stopped.returncode == 0 and "going on after step" in out and "SIGTERM: stopped after step" in told

    assert ranks.run("job_train", raw=make_config(**changes).model_dump(mode="json")) == ["", ""]
    assert_same_run(calm, run)


def test_bad_input_to_a_job_is_told_once(job):
    process = job(model__id="./no-such-model")
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and told.count("no model there") == 1 and "Traceback" not in told


# ── the launcher, with ranks that import nothing ──

RANK = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece, beside the other rank's
def on(number, frame):
    say(f"{rank} {signal.Signals(number).name}")
    if number != signal.SIGINT:
        sys.exit(4 * rank)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, on)
assert os.environ["WORLD_SIZE"] == "2" and os.environ["MASTER_PORT"].isdigit()
say("ready")
if sys.argv[1] == "fail" and rank == 1:
    sys.exit(3)
if sys.argv[1] == "die" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
LAUNCH = """
import sys
from tutelage.machines import launcher
launcher.PARTING_SECONDS = 0.3
try:
    sys.exit(launcher.launch(2, sys.argv[2:], sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def launched(tmp_path):
    """Start two ranks of a module, and wait until both listen."""
    started = []

    def start(mode: str, module: str = "a_rank") -> subprocess.Popen[str]:
        (tmp_path / f"{module}.py").write_text(RANK)
        command = [sys.executable, "-P", "-c", LAUNCH, module, mode]
        started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert [started[-1].stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGUSR1])
def test_the_launcher_passes_a_polite_signal_on(launched, asked):
    process = launched("wait")
    process.send_signal(asked)
    out, _ = process.communicate(timeout=300)
    assert sorted(out.splitlines()) == [f"0 {asked.name}", f"1 {asked.name}"] and process.returncode == 130  # not of `tutelage`


def test_the_launcher_passes_ctrl_c_on_and_kills_at_the_second(launched):
    process = launched("wait")
    process.send_signal(signal.SIGINT)
    assert sorted(process.stdout.readline() for _ in range(2)) == ["0 SIGINT\n", "1 SIGINT\n"]
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert "rank 0 was ended by SIGKILL" in told and "rank 1 was ended by SIGKILL" in told


@pytest.mark.parametrize(("mode", "code", "named"), [("fail", 3, ""), ("die", 1, "rank 1 was ended by SIGKILL; the job ends, and the same command goes on")])
def test_a_rank_that_fails_ends_the_others(launched, mode, code, named):
    process = launched(mode, "tutelage")  # in its own directory, this is a rank that imports nothing
    _, told = process.communicate(timeout=300)
    assert process.returncode == code and named in told


def test_ranks_are_started_once(monkeypatch):
    from tutelage.machines.launcher import launch
    from tutelage.machines.world import join

    with pytest.raises(InputError, match="at least one rank"):
        launch(0, [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="has ranks already"):
        launch(2, [])
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="RANK, MASTER_ADDR, MASTER_PORT not set: start with torchrun"), join("cpu", 1.0):
        pass

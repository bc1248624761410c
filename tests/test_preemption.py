"""Asked to stop, killed, or hung: the state is saved or was, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import assert_same_run, lines_of

from tutelage import train_one_size
from tutelage.cli.entry import main
from tutelage.config import to_toml
from tutelage.errors import InputError, RunError
from tutelage.evaluation.draft import PREFIX
from tutelage.evaluation.engine import native
from tutelage.training.loop import Preempted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_a_run_finishes_its_step_saves_and_ends_well(make_config, tmp_path, monkeypatch, capsys, number):
    from test_train import interrupt_at_call

    config = make_config(train__num_steps=6, eval__every=0)
    (tmp_path / "c.toml").write_text(to_toml(config))
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 3, number)
        assert main(["train", str(tmp_path / "c.toml")]) == 0
    told = capsys.readouterr().err
    assert f"{number.name}: stopped after step 3 of 6" in told and f"tutelage train {config.run.dir}/config.toml" in told
    assert main(["train", str(tmp_path / "c.toml")]) == 0
    whole = train_one_size(make_config(train__num_steps=6, eval__every=0, run__dir=str(tmp_path / "whole"))).directory
    assert_same_run(whole, Path(config.run.dir))


def test_an_evaluation_goes_on_where_it_was_stopped(make_config, tmp_path, monkeypatch):
    """Of the panel's four problems two batches are asked; what the first one answered is not asked again."""
    changes = {"train__num_steps": 4, "eval__batch_size": 2, "run__save_every": 0}
    whole = train_one_size(make_config(run__dir=str(tmp_path / "whole"), **changes)).directory
    config = make_config(run__dir=str(tmp_path / "parts"), **changes)
    original, asked = native.generate, []

    def watched(model, tokenizer, prompts, sampling, **options):
        asked.append(list(options["indices"]))
        if len(asked) == 4:  # the second batch of the evaluation at step 2, in the middle of it
            spoken = iter(range(10))

            def after_each_token(count, original=options["on_finished"]):
                if next(spoken) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                original(count)

            options = {**options, "on_finished": after_each_token}
        return original(model, tokenizer, prompts, sampling, **options)

    monkeypatch.setattr(native, "generate", watched)
    with pytest.raises(Preempted, match="after step 2 of 4"):
        train_one_size(config)
    assert len(list(Path(config.run.dir).glob(f"{PREFIX}2-*"))) == 1
    train_one_size(config)
    assert asked[4] == asked[3] and len(asked) == 7  # the batch that was stopped, then the last evaluation's two
    assert_same_run(whole, Path(config.run.dir))
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


def test_a_changed_setting_is_refused_or_allowed_by_name_and_told(make_config, tmp_path, monkeypatch, capsys):
    from test_train import interrupt_at_call

    path = tmp_path / "c.toml"
    path.write_text(to_toml(make_config(train__num_steps=4, eval__every=0)))
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2, signal.SIGTERM)
        assert main(["train", str(path)]) == 0
    assert main(["train", str(path), "--train.lr", "1e-4"]) == 2
    assert "train.lr: 0.001 → 0.0001; or go on with the new values: --allow train.lr" in capsys.readouterr().err
    assert main(["train", str(path), "--train.lr", "1e-4", "--allow", "train.l"]) == 2
    assert main(["train", str(path), "--train.lr", "1e-4", "--allow", "train.lr"]) == 0
    (told,) = (line for line in lines_of(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "config_changed")
    assert told["step"] == 2 and told["changes"] == ["train.lr: 0.001 → 0.0001"]


def test_a_disk_that_is_full_does_not_end_training_and_spoils_no_checkpoint(make_config, monkeypatch, capsys):
    """The third save meets a full disk while it writes; the run goes on, and from the second one if it must."""
    from torch.distributed.checkpoint import FileSystemWriter

    original, calls = FileSystemWriter.write_data, []

    def full(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return original(self, *arguments)

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    run = train_one_size(make_config(train__num_steps=5, eval__every=0, run__save_every=1)).directory
    failed = [line for line in lines_of(run / "metrics.jsonl") if line["kind"] == "save_failed"]
    assert len(failed) == 1 and "step-00000003: the checkpoint could not be written: No space left on device" in failed[0]["reason"]
    assert "training goes on" in capsys.readouterr().out


def test_what_cannot_be_kept_of_an_evaluation_does_not_end_it(make_config, monkeypatch, capsys):
    def full(*_):
        raise RunError("No space left on device")

    monkeypatch.setattr("tutelage.evaluation.draft.append_lines", full)
    result = train_one_size(make_config(eval__batch_size=2))
    assert [line["step"] for line in result.evaluations] == [0, 2, 4]
    assert capsys.readouterr().out.count("answers are not kept before the evaluation is finished: No space") == 3


def test_a_log_that_could_not_be_written_is_written_before_the_state_is_saved(make_config, tmp_path, monkeypatch):
    """The line of step 3 meets a full disk once: the run stops with it written and its state saved, and goes on from there."""
    from tutelage.runs import runlog

    original = runlog.append_lines
    refused = []

    def full_once(path, lines):
        if not refused and lines and lines[-1].get("step") == 3:
            refused.append(path)
            raise RunError("metrics.jsonl: cannot be written: No space left on device")
        original(path, lines)

    monkeypatch.setattr(runlog, "append_lines", full_once)
    config = make_config(train__num_steps=5, eval__every=0)
    with pytest.raises(RunError, match=r"No space left(.|\n)*stopped after step 3 of 5"):
        train_one_size(config)
    run = train_one_size(config).directory
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
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        )
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


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if (run / "metrics.jsonl").exists():
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
            if any(line["kind"] == "train" and line["step"] >= step for line in lines):
                return
        time.sleep(0.05)
    raise AssertionError("no such step in time")


FOR_LONG = {"train__num_steps": 100_000, "eval__every": 0, "eval__before": False, "run__save_every": 10}


def test_a_hung_rank_ends_the_job_and_is_named(job, make_config):
    process = job(parallel__timeout=4, **FOR_LONG)
    run = Path(make_config().run.dir)
    wait_for_step(run, 12, process)
    os.kill(ranks_of(process)[1], signal.SIGSTOP)
    told = process.communicate(timeout=90)[1]
    assert process.returncode == 1
    assert "rank 1 (does not respond" in told and "parallel.timeout" in told and "the same command goes on" in told


def test_a_killed_rank_ends_the_job_and_a_polite_signal_to_the_next_one_is_passed_on(job, make_config):
    run = Path(make_config().run.dir)
    first = job(**FOR_LONG)
    wait_for_step(run, 12, first)
    os.kill(ranks_of(first)[1], signal.SIGKILL)
    told = first.communicate(timeout=90)[1]
    assert first.returncode == 1 and "rank 1 was ended by SIGKILL; the job ends, and the same command goes on" in told
    assert "Traceback" not in told
    last = max(line["step"] for line in lines_of(run / "metrics.jsonl"))
    second = job(**FOR_LONG)
    wait_for_step(run, last + 5, second)
    second.send_signal(signal.SIGTERM)
    out, told = second.communicate(timeout=90)
    assert second.returncode == 0 and "continuing after step" in out and "SIGTERM: stopped after step" in told
    steps = [line["step"] for line in lines_of(run / "metrics.jsonl")]
    assert steps == list(range(1, steps[-1] + 1))  # each once


def test_ranks_are_started_once(monkeypatch):
    from tutelage.machines.launcher import launch

    with pytest.raises(InputError, match="at least one rank"):
        launch(0, [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="has ranks already"):
        launch(2, [])
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="RANK, MASTER_ADDR, MASTER_PORT not set: start with torchrun"):
        from tutelage.machines.world import join

        with join("cpu", 1.0):
            pass


def test_bad_input_to_a_job_is_told_once(job):
    process = job(model__id="./no-such-model")
    told = process.communicate(timeout=90)[1]
    assert process.returncode == 2 and told.count("no model there") == 1 and "Traceback" not in told


def test_chaos(tmp_path, monkeypatch):
    """Three random kills; the long form with thirty is bench/chaos.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    from chaos import chaos, tiny_job

    found = chaos(tiny_job(tmp_path, 150, save_every=2), tmp_path, kills=3, seed=5)
    assert found["kills"] == found["survived"] == found["worker"] + found["job"] == 3 and found["hashes_equal"], found

"""Memory that runs out in a step: smaller batches with the same gradients, or one message."""

from __future__ import annotations

import json
import resource
import threading
from pathlib import Path

import pytest
import torch
from lines import read_lines

from tutelage.data import prepare
from tutelage.errors import RunError
from tutelage.machines import AGAIN, launch
from tutelage.machines.world import World
from tutelage.model.load import load_policy
from tutelage.runs import SilentRunLog, checkpoint
from tutelage.training import arrange, fine_tune
from tutelage.training import fit as oom
from tutelage.training.ending import Interrupted
from tutelage.training.start import set_up
from tutelage.training.step import accumulate_gradients


@pytest.fixture
def room_for(monkeypatch):
    """Let batches of more than so many tokens run out of memory, half way through the step."""

    def limit(tokens, error=None):
        def within(policy, examples, batches, *others, **options):
            for number, batch in enumerate(batches):
                if batch.input_ids.numel() > tokens:
                    accumulate_gradients(policy, examples, batches[:number] or batches, *others, **options)
                    raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
            return accumulate_gradients(policy, examples, batches, *others, **options)

        monkeypatch.setattr(oom, "accumulate_gradients", within)

    return limit


def steps_of(result):
    return [line for line in read_lines(result.directory / "metrics.jsonl") if line["kind"] == "train"]


@pytest.mark.parametrize(
    ("error", "packs"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
        (MemoryError(), True),
    ],
)
@pytest.mark.slow
def test_adapting_gives_the_same_losses_and_gradients_in_smaller_batches(make_config, tmp_path, room_for, capsys, error, packs):
    changes = {"train__pack": packs, "data__max_length": 300, "train__batch_size": 8, "train__grad_accum": 1}
    whole = steps_of(fine_tune(make_config(**changes, run__dir=str(tmp_path / "whole"))))
    room_for(250 if packs else 350, error)
    result = fine_tune(make_config(**changes, train__on_oom="adapt"))
    adapted = steps_of(result)
    for a, b in zip(whole, adapted, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    ran_out = [line for line in read_lines(result.directory / "metrics.jsonl") if line["kind"] == "memory_ran_out"]
    assert ran_out[0]["parts"] > 1 and ran_out[0]["step"] == 1
    assert json.loads((result.directory / "plan.json").read_text())["parts"] == ran_out[-1]["parts"]
    assert "memory ran out" in capsys.readouterr().out


def test_a_run_that_goes_on_does_not_find_out_again(make_config, room_for, monkeypatch):
    from tutelage.training import taken as step

    room_for(250)
    config = make_config(data__max_length=300, train__batch_size=8, train__grad_accum=1, train__on_oom="adapt", run__save_every=1)
    update, taken = step.update_weights, []

    def interrupted(*arguments):
        taken.append(1)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(step, "update_weights", interrupted)
    with pytest.raises(Interrupted):
        fine_tune(config)
    result = fine_tune(config)
    lines = read_lines(result.directory / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "memory_ran_out"][:1] == [1]
    assert {line["step"] for line in lines if line["kind"] == "memory_ran_out"} == {1}
    assert [line["step"] for line in steps_of(result)] == [1, 2, 3, 4]


def test_stopping_says_what_was_predicted_what_happened_and_the_next_setting_down(make_config, room_for):
    room_for(250)
    with pytest.raises(RunError) as stop:
        fine_tune(make_config(data__max_length=300, train__batch_size=8, train__grad_accum=1))
    told = str(stop.value)
    assert "the memory of cpu is too small: CUDA out of memory. Tried to allocate 2.00 GiB.\n" in told
    assert "Predicted were 0.0" in told and "activations" in told
    assert "The next setting down: --train.pack_tokens" in told and "--train.on_oom adapt" in told
    assert "stopped after step 0 of 4" in told and told.endswith("config.toml")


@pytest.mark.parametrize(
    ("changes", "next_down"),
    [
        ({}, "--model.activation_checkpointing selective"),
        ({"model__activation_checkpointing": "full"}, "--model.precision bf16-sr, in a new --run.dir"),
        ({"model__activation_checkpointing": "full", "model__lora": "lora"}, "no setting further down"),
    ],
)
def test_when_each_row_is_alone_the_next_setting_down_is_another(make_config, room_for, changes, next_down):
    room_for(10)
    with pytest.raises(RunError, match=next_down):
        fine_tune(make_config(train__on_oom="adapt", **changes))


def test_equal_rows_share_a_batch_and_there_is_an_end_to_halving(make_config, room_for, tmp_path):
    from tutelage.data import arithmetic
    from tutelage.runs.files import to_lines

    row = next(iter(arithmetic.rows("train", 48)))
    (tmp_path / "same.jsonl").write_text(to_lines([row] * 12))
    room_for(10)
    with pytest.raises(RunError, match="checkpointing selective"):
        fine_tune(make_config(data__train=str(tmp_path / "same.jsonl"), data__validation="arithmetic", data__filter=False, train__on_oom="adapt"))


def test_a_rank_without_memory_records_smaller_batches_and_has_the_job_started_again(make_config, tokenizer, tmp_path, monkeypatch):
    """The other ranks wait in the middle of the step, so nothing is computed again; batches of one row cannot be smaller."""
    config = make_config(train__on_oom="adapt", train__batch_size=8, train__grad_accum=1)
    start = set_up(load_policy(config.model, tokenizer), prepare(config, tokenizer), config, SilentRunLog(tmp_path))
    (tmp_path / "plan.json").write_text(json.dumps(decided := {"activation_checkpointing": "none", "ranks": 2}))

    def no_room(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(oom, "accumulate_gradients", no_room)
    parts = 1
    while parts < 64:
        fitting = oom.Fitting(start.course, SilentRunLog(tmp_path))
        fitting.world = World(0, 2, 0, 2)
        with pytest.raises((oom.StartAgain, oom.MemoryRanOut)) as stop:
            fitting.gradients(*start.course.at(0), 0)
        if stop.type is oom.MemoryRanOut:
            break
        parts *= 2
        assert json.loads((tmp_path / "plan.json").read_text()) == {**decided, "parts": parts}
        assert stop.value.exit_code == AGAIN
        assert "the same command does" in str(stop.value)
    assert 4 <= parts < 64
    arrange.forget(tmp_path / "plan.json", config)
    assert json.loads((tmp_path / "plan.json").read_text()) == {**decided, "parts": parts}
    arrange.forget(tmp_path / "plan.json", make_config())
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.slow
def test_a_job_whose_rank_wants_it_is_started_again(tmp_path, monkeypatch):
    script = "import os, pathlib, sys\nbegun = pathlib.Path(sys.argv[1] + os.environ['RANK'])\n"
    (tmp_path / "once.py").write_text(script + "first = not begun.exists()\nbegun.touch()\nsys.exit(75 if first else 0)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert launch(2, [str(tmp_path / "begun-")], "once") == 0
    assert len(list(tmp_path.glob("begun-*"))) == 2


def test_memory_that_runs_out_in_an_evaluation_is_one_clear_error_too(make_config, monkeypatch):
    from tutelage.evaluation import validation

    def too_much(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(validation, "solve", too_much)
    with pytest.raises(RunError, match=r"(?s)memory of cpu is too small, though not for the batches.*moments.*after step 0 of 4"):
        fine_tune(make_config())


@pytest.fixture
def optimizer_that_fails(monkeypatch):
    """Let the optimizer run out of memory in the middle of its call number `call`, when half of the weights are updated."""

    def fails(call):
        original, calls = torch.optim.AdamW.step, []

        def step(self, *arguments, **options):
            calls.append(1)
            if len(calls) != call:
                return original(self, *arguments, **options)
            halves = [group["params"] for group in self.param_groups]
            for group in self.param_groups:
                group["params"] = group["params"][::2]
            try:
                original(self, *arguments, **options)
            finally:
                for group, parameters in zip(self.param_groups, halves):
                    group["params"] = parameters
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        monkeypatch.setattr(torch.optim.AdamW, "step", step)

    return fails


def test_no_room_for_the_moments_is_found_before_training(make_config, optimizer_that_fails, monkeypatch):
    with monkeypatch.context() as patch:
        optimizer_that_fails(1)
        with pytest.raises(RunError, match=r"(?s)no room for the optimizer's state, so nothing was trained.*Predicted"):
            fine_tune(make_config())
        patch.undo()
    monkeypatch.undo()
    assert len(steps_of(fine_tune(make_config()))) == 4


def test_an_update_without_memory_is_gone_back_from_in_smaller_batches(make_config, optimizer_that_fails, capsys):
    """The checkpoint takes the place of weights that are half updated; its steps are not computed again."""
    optimizer_that_fails(1 + 4)  # the first call makes the moments
    result = fine_tune(make_config(train__on_oom="adapt", train__batch_size=8, train__grad_accum=1, run__save_every=2))
    assert [line["step"] for line in steps_of(result)] == [1, 2, 3, 4]
    told = capsys.readouterr().out
    assert "step 4: memory ran out" in told and "going on after step 2 of" in told


def test_a_host_without_memory_has_its_state_saved_with_no_thread_and_no_copy(make_config, tmp_path, monkeypatch):
    calls = []

    def nothing_left(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            monkeypatch.setattr(threading.Thread, "start", lambda self: 1 / 0)
            monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.stage", lambda *given, **more: 1 / 0)
            raise MemoryError
        return accumulate_gradients(*arguments, **options)

    monkeypatch.setattr(oom, "accumulate_gradients", nothing_left)
    with pytest.raises(RunError, match="(?s)too small.*stopped after step 2 of 4") as stop:
        fine_tune(make_config(eval__before=False, eval__every=0, run__save_every=0))
    monkeypatch.undo()
    assert "not from this step" not in str(stop.value)
    assert checkpoint.damage_of(tmp_path / "run" / "checkpoints" / "step-00000002") == ""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="a process knows its address space by /proc, on Linux")
def test_a_process_without_memory_saves_and_goes_on(make_config, tmp_path, monkeypatch):
    """This process gets no more address space in the middle of training, as by ``ulimit -v``: neither a thread nor a tensor."""
    from test_train import assert_same_run

    changes = {"eval__before": False, "eval__every": 0, "run__save_every": 0}
    undisturbed = fine_tune(make_config(run__dir=str(tmp_path / "undisturbed"), **changes)).directory
    before, calls = resource.getrlimit(resource.RLIMIT_AS), []

    def grows(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
            torch.ones(2**32)  # what a long row does
        return accumulate_gradients(*arguments, **options)

    monkeypatch.setattr(oom, "accumulate_gradients", grows)
    try:
        with pytest.raises(RunError, match="(?s)too small: .*allocate.*stopped after step 2 of 4") as stop:
            fine_tune(make_config(**changes))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    monkeypatch.undo()
    assert "not from this step" not in str(stop.value)
    assert checkpoint.damage_of(tmp_path / "run" / "checkpoints" / "step-00000002") == ""
    assert_same_run(undisturbed, fine_tune(make_config(**changes)).directory)


def test_a_save_beside_training_starts_no_thread(make_config, tmp_path, monkeypatch):
    """Where a host has no memory for a thread, who starts one waits for it for ever."""
    plain = checkpoint.Checkpoints.save

    def save(self, *arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda thread: 1 / 0)
            failures = plain(self, *arguments, **options)
            self._writing.result()
            return failures

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    fine_tune(make_config(eval__before=False, eval__every=0, run__save_every=2))
    assert checkpoint.damage_of(tmp_path / "run" / "checkpoints" / "step-00000004") == ""


@pytest.mark.parametrize("update", [1, 3])
def test_memory_that_runs_out_inside_an_update_leaves_a_run_that_goes_on(make_config, tmp_path, optimizer_that_fails, monkeypatch, update):
    from test_train import assert_same_run

    undisturbed = fine_tune(make_config(run__dir=str(tmp_path / "undisturbed"))).directory
    optimizer_that_fails(1 + update)  # the first call makes the moments
    with pytest.raises(RunError, match=rf"(?s)weights of step {update} are half updated.*To go on from the last checkpoint"):
        fine_tune(make_config())
    saved = tmp_path / "run" / "checkpoints"
    assert [path.name for path in saved.glob("step-*")] == ["step-00000002"] * (update > 2)
    monkeypatch.undo()
    assert_same_run(undisturbed, fine_tune(make_config()).directory)

"""A checkpoint is there whole or not at all, and the one before it is safe whatever happens."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from rank_cases import saved
from torch.distributed.checkpoint import FileSystemWriter

from tutelage.errors import RunError
from tutelage.machines import ALONE, SEAL, checksum_of_file, unsealed
from tutelage.model.optim import fill_state
from tutelage.runs import checkpoint


@pytest.fixture
def optimizer(model):
    made = torch.optim.AdamW(model.parameters())
    model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    made.step()
    made.zero_grad()
    return made


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_written_is_the_state_of_its_moment(tmp_path, model, optimizer, monkeypatch):
    """Training goes on while it is written: weights and moments may change at once."""
    before = {name: value.clone() for name, value in checkpoint.state_of(model, optimizer).items()}
    original, changed = FileSystemWriter.write_data, threading.Event()

    def late(self, *arguments):
        assert changed.wait(600)
        return original(self, *arguments)

    monkeypatch.setattr(FileSystemWriter, "write_data", late)
    saves = checkpoint.Checkpoints(tmp_path, ALONE, keep=2)
    saves.save(1, model, optimizer)
    with torch.no_grad():
        for value in checkpoint.state_of(model, optimizer).values():
            value.add_(1)
    assert names(tmp_path) == [".tmp-step-00000001"] and checkpoint.latest(tmp_path) is None
    changed.set()
    saves.wait()
    assert checkpoint.load(checkpoint.latest(tmp_path), model, optimizer, ALONE) == 1
    after = checkpoint.state_of(model, optimizer)
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_a_full_disk_leaves_the_earlier_one(tmp_path, model, optimizer, monkeypatch):
    first = saved(tmp_path, 1, model, optimizer)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    saves = checkpoint.Checkpoints(tmp_path, ALONE, keep=2)
    assert saves.save(2, model, optimizer) == []
    [told] = saves.wait()
    assert told.startswith(f"{tmp_path}/checkpoints/step-00000002: the checkpoint could not be written: the disk is full: it needs ")
    assert saves.wait() == [] and checkpoint.latest(tmp_path) == first and names(tmp_path) == [first.name]


def test_a_directory_that_cannot_be_written_is_told(tmp_path, model, optimizer):
    (tmp_path / "checkpoints").write_text("a file in its way")
    saves = checkpoint.Checkpoints(tmp_path, ALONE, keep=2)
    assert "no checkpoint can be written" in saves.save(2, model, optimizer)[0]


@pytest.mark.parametrize("damage", ["cut off", "gone", "no seal"])
def test_an_incomplete_checkpoint_is_not_taken(tmp_path, model, optimizer, damage):
    older = saved(tmp_path, 1, model, optimizer)
    newest = saved(tmp_path, 2, model, optimizer)
    assert checkpoint.latest(tmp_path) == newest and checkpoint.latest(tmp_path, before=1) == older
    data = newest / "__0_0.distcp"
    if damage == "cut off":
        os.truncate(data, 100)
    else:
        (data if damage == "gone" else newest / SEAL).unlink()
    assert checkpoint.latest(tmp_path) == older


def test_the_seal_names_every_file_with_its_size_and_checksum(tmp_path, model, optimizer):
    path = saved(tmp_path, 3, model, optimizer)
    seal = unsealed((path / SEAL).read_text())
    files = {file.name: [file.stat().st_size, checksum_of_file(file)] for file in path.iterdir() if file.name != SEAL}
    assert seal == {"step": 3, "ranks": 1, "files": files} and set(files) == {".metadata", "__0_0.distcp"}


def test_the_newest_and_those_worth_keeping_stay_and_leftovers_go(tmp_path, model, optimizer):
    for leftover in (".tmp-step-00000007", ".del-step-00000001-1"):
        (tmp_path / "checkpoints" / leftover).mkdir(parents=True)
    saves = checkpoint.Checkpoints(tmp_path, ALONE, keep=2, to_keep=lambda: [2])
    for step in range(1, 6):
        saves.save(step, model, optimizer)
    saves.wait()
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    before = (tmp_path / "checkpoints" / "step-00000005").stat().st_ino
    assert saves.save(5, model, optimizer) == saves.wait() == []  # complete already: a stop right after a save
    assert names(tmp_path)[-1] == "step-00000005" and (tmp_path / "checkpoints" / "step-00000005").stat().st_ino == before
    checkpoint.remove_all(tmp_path, to_keep=[2])
    assert names(tmp_path) == ["step-00000002"]
    checkpoint.remove_all(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_file_that_is_shorter_here_than_its_writer_said_is_not_sealed(tmp_path, model, optimizer, monkeypatch):
    """As a shared file system may show it to the first rank."""
    original = checkpoint._seal

    def short(folder, *others):
        os.truncate(folder / "__0_0.distcp", 100)
        original(folder, *others)

    monkeypatch.setattr(checkpoint, "_seal", short)
    saves = checkpoint.Checkpoints(tmp_path, ALONE, keep=2)
    saves.save(1, model, optimizer)
    assert "__0_0.distcp is missing or too short" in saves.wait()[0] and names(tmp_path) == []


def test_no_room_for_the_copy_is_told(tmp_path, model, optimizer, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.stage", full)
    assert "could not be copied" in checkpoint.Checkpoints(tmp_path, ALONE, keep=2).save(1, model, optimizer)[0]


def test_a_checkpoint_without_moments_leaves_those_of_before_the_first_step(tmp_path, model):
    """Older versions made the moments in the first step."""
    fresh = torch.optim.AdamW(model.parameters())
    path = saved(tmp_path, 0, model, fresh)
    again = torch.optim.AdamW(model.parameters())
    fill_state(again)
    assert checkpoint.load(path, model, again, ALONE) == 0
    assert len(again.state) == len(list(model.parameters()))
    for state in again.state.values():
        assert state["step"] == 0 and not state["exp_avg"].any() and not state["exp_avg_sq"].any()


def test_a_checkpoint_of_something_else_is_refused(tmp_path, model, optimizer):
    path = saved(tmp_path, 1, model, optimizer)
    with pytest.raises(RunError, match="of another model or optimizer"):
        checkpoint.load(path, model.model, torch.optim.AdamW(model.model.parameters()), ALONE)
    (path / ".metadata").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="not a checkpoint of this version of Tutelage, or damaged"):
        checkpoint.load(path, model, optimizer, ALONE)

from __future__ import annotations

import os
from pathlib import Path

import pytest
import rank_cases
import torch

from tutelage.evaluation.engine import snapshot
from tutelage.evaluation.engine.snapshot import take
from tutelage.machines.world import ALONE
from tutelage.model import lora


def test_a_snapshot_is_the_weights_of_its_moment_in_memory_that_others_can_open(model):
    """Bit for bit, under every name (a tied head has its own), whatever becomes of the model; and without a file in /dev/shm."""
    before = set(Path("/dev/shm").iterdir())
    taken = take(lora.merged_weights(model), torch.float32)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = taken.tensors()
    assert set(found) == set(expected) and "lm_head.weight" in found
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert set(Path("/dev/shm").iterdir()) == before
    assert taken.size == sum(tensor.numel() * 4 for tensor in expected.values())


def test_where_the_system_has_no_files_in_memory_an_unnamed_file_serves(model, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = take(lora.merged_weights(model), torch.float32)
    assert all(torch.equal(taken.tensors()[name], tensor) for name, tensor in model.state_dict().items())
    assert not list(tmp_path.iterdir())


def test_its_hash_says_whether_two_are_the_same(model):
    first, again = (take(lora.merged_weights(model), torch.bfloat16) for _ in range(2))
    assert first.sha256() == again.sha256() and first.size * 2 == take(lora.merged_weights(model), torch.float32).size
    with torch.no_grad():
        model.model.norm.weight[3] += 1
    assert take(lora.merged_weights(model), torch.bfloat16).sha256() != first.sha256()


def test_integers_stay_integers():
    tensors = take([("a", torch.arange(3)), ("b", torch.ones(2, 2))], torch.bfloat16).tensors()
    assert (tensors["a"].dtype, tensors["b"].dtype) == (torch.int64, torch.bfloat16) and tensors["a"].tolist() == [0, 1, 2]


def test_memory_that_nobody_has_open_is_free_again(model):
    taken = take(lora.merged_weights(model), torch.float32)
    fd = taken.fd
    os.fstat(fd)
    del taken
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.slow
def test_sharded_weights_are_gathered_one_at_a_time_by_both_ranks_and_kept_by_one(ranks, make_config):
    """FSDP2 on two processes: the snapshot of rank 0 is the whole model, rank 1 keeps nothing."""
    configuration = make_config().model_dump(mode="json")
    first, second = ranks.run("snapshot_of_shards", raw=configuration)
    whole = rank_cases.snapshot_of_shards(ALONE, configuration)
    assert set(first) == set(whole) and "lm_head.weight" in first and not second
    assert all(torch.equal(first[name], whole[name]) for name in whole)


def test_a_rank_without_room_for_the_copy_gathers_on_and_then_says_so(tmp_path, model, monkeypatch):
    """The other ranks count on it to the end."""
    monkeypatch.setattr(snapshot, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    gathered = []
    weights = ((name, gathered.append(name) or tensor) for name, tensor in lora.merged_weights(model))
    with pytest.raises(OSError, match="No space left"):
        take(weights, torch.float32)
    assert gathered == list(model.state_dict())

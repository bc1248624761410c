from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage import lora
from tutelage.generation.snapshot import take

RANKS = """
import sys, torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM
from tutelage import lora
from tutelage.generation import snapshot

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
model = LlamaForCausalLM.from_pretrained(sys.argv[3], dtype=torch.float32)
whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
assert all(isinstance(parameter, DTensor) for parameter in model.parameters())

taken = snapshot.take(lora.merged_weights(model), torch.float32, keep=rank == 0)
tensors = taken.tensors()
assert (set(tensors) == set(whole)) if rank == 0 else not tensors
assert all(torch.equal(tensors[name], whole[name]) for name in tensors)
print("RANK", rank, len(tensors))
"""


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


def test_sharded_weights_are_gathered_one_at_a_time_by_both_ranks_and_kept_by_one(tiny_model):
    """FSDP2 on two processes: the snapshot of rank 0 is the whole model, rank 1 keeps nothing."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"tcp://localhost:{free.getsockname()[1]}"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), address, tiny_model],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert "RANK 0 " in told[0][0] and "RANK 1 0" in told[1][0]

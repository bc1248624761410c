"""Batches are ready before a step wants them: on the device, by copies that nobody waits for, and read there by nobody."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.config import parse_config
from tutelage.data.tokens import TokenizedExample
from tutelage.machines import to_device
from tutelage.model import Course
from tutelage.model.attention import Kernel
from tutelage.model.batch import pack, pad
from tutelage.model.load import load_policy, load_tokenizer
from tutelage.model.policy import Policy
from tutelage.resources import Load, step_flops
from tutelage.training.step import accumulate_gradients

ROWS = [TokenizedExample("a", (1, 2), (3, 4)), TokenizedExample("b", (1, 2), (5,)), TokenizedExample("c", (6,), (7, 8, 9))]
META, CUDA = torch.device("meta"), torch.device("cuda", 0)


class Pinned:
    """Stands for a tensor on the CPU, and notes how it is copied."""

    def __init__(self, device="cpu"):
        self.device, self.calls = torch.device(device), []

    def pin_memory(self):
        self.calls.append("pin")
        return self

    def to(self, device, non_blocking=False):
        self.calls.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("source", "target", "calls"),
    [
        ("cpu", "cuda", ["pin", ("cuda", True)]),
        ("cpu", "cpu", [("cpu", False)]),
        ("cuda", "cuda", [("cuda", True)]),
        ("cuda", "cpu", [("cpu", False)]),
    ],
)
def test_copies_to_a_gpu_are_pinned_and_do_not_block(source, target, calls):
    """A copy to the CPU blocks: who reads it at once must not read what has not come yet."""
    tensor = Pinned(source)
    to_device(tensor, torch.device(target))
    assert tensor.calls == calls


def test_every_tensor_of_a_ready_batch_is_copied_so(monkeypatch):
    copied = []
    monkeypatch.setattr("tutelage.model.batch.to_device", lambda tensor, device: copied.append((tensor.shape, device)) or tensor)
    monkeypatch.setattr("tutelage.model.attention.layout_of", lambda ends, kernel: SimpleNamespace(ends=ends.device, kernel=kernel))
    kernel = Kernel("flex", CUDA)
    ready = pack(ROWS).ready(kernel)
    assert {device for _, device in copied} == {CUDA} and len(copied) == 6
    assert ready.input_ids.shape == (1, 128) and ready.layout.ends.type == "cpu", "a layout is made where its ends are known"
    copied.clear()
    pad(ROWS, 0).ready(kernel)
    assert len(copied) == 5


class Reading(TorchDispatchMode):
    """Counts the values of tensors that Python reads: on a GPU each waits for all that was launched."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.reads += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*arguments, **(options or {}))


@pytest.fixture
def policy(tiny_model):
    config = parse_config({"model": {"id": tiny_model, "precision": "fp32", "device": "cpu"}})
    return load_policy(config.model, load_tokenizer(tiny_model))


@pytest.mark.parametrize("make", [pack, lambda rows: pack(rows, shares=False), lambda rows: pad(rows, 0)])
def test_what_is_reckoned_of_a_batch_reads_nothing_from_the_device(policy, make):
    """A tensor of the meta device has no values: reading one is an error."""
    batch = make(ROWS)
    there = batch.to(META)
    assert {tensor.device.type for tensor in vars(there).values() if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert all(targets.device.type == "cpu" for targets in there.of_examples)
    with Reading() as reading:
        assert step_flops(policy, there) == step_flops(policy, batch) > 0
        assert Load.of([[there]]) == Load.of([[batch]])
    assert reading.reads == 0
    with pytest.raises(RuntimeError), reading:
        int(there.input_ids.sum())


@pytest.mark.parametrize("packs", [True, False])
def test_the_batches_of_a_step_are_made_ready_without_reading_the_device(policy, monkeypatch, packs):
    train = SimpleNamespace(rows_per_step=2, batch_size=2, grad_accum=1, seed=0, num_epochs=1, num_steps=None, pack_tokens=None, update="step")
    prepared = SimpleNamespace(rows=len(ROWS), max_length=4, of_rows=lambda rows: [ROWS[row] for row in rows])
    policy.packs = packs
    monkeypatch.setattr(Policy, "kernel", Kernel("cpu", META))
    examples, batches = Course(prepared, SimpleNamespace(train=train), policy).at(0)
    assert sum(map(len, examples)) > 0 and all(batch.input_ids.device == META for batch in batches)
    assert all(batch.ready(policy.kernel).layout is batch.layout for batch in batches)


def test_a_step_on_ready_batches_is_that_on_new_ones(policy):
    config = parse_config({"model": {"id": "unused", "precision": "fp32", "device": "cpu"}})
    found = []
    for batch in (pack(ROWS), pack(ROWS).ready(policy.kernel)):
        gradients = accumulate_gradients(policy, ROWS, [batch], config, 0)
        found.append((gradients, [weight.grad.clone() for weight in policy.model.parameters()]))
    assert found[0][0] == found[1][0] and all(map(torch.equal, found[0][1], found[1][1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU need one")
def test_on_a_gpu_a_batch_is_copied_from_pinned_memory_as_it_was():
    batch, device = pack(ROWS), torch.device("cuda", 0)
    there = batch.to(device)
    assert there.input_ids.device.type == "cuda" and torch.equal(there.input_ids.cpu(), batch.input_ids)
    assert torch.equal(there.weights.cpu(), batch.weights)


def test_batches_that_have_no_room_ahead_are_made_ready_in_their_step(policy, monkeypatch):
    """Memory that runs out in the thread is not the end: the step meets it, and may make smaller batches."""
    train = SimpleNamespace(rows_per_step=2, batch_size=2, grad_accum=1, seed=0, num_epochs=1, num_steps=None, pack_tokens=None, update="step")
    prepared = SimpleNamespace(rows=len(ROWS), max_length=4, of_rows=lambda rows: [ROWS[row] for row in rows])
    course = Course(prepared, SimpleNamespace(train=train), policy)
    policy.packs = True

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("tutelage.model.batch.to_device", full)
        examples, batches = course.at(0)
    assert examples == course.examples(0) and all(batch.layout is None for batch in batches)
    with torch.no_grad(), policy.computing():
        assert all(policy.score(batch, batch.weights).total.isfinite() for batch in batches)

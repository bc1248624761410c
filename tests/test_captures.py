"""When a step is computed, captured and replayed, by a stand-in for torch.cuda; and what keeps a step from being captured."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tutelage.evaluation.engine import capture
from tutelage.evaluation.engine.capture import Captures, HostReads

CARD = torch.device("cuda", 1)


def test_what_makes_the_host_wait_is_found():
    values = torch.arange(4.0)
    for read in (
        lambda: values[0].item(),
        lambda: values[values > 1],
        lambda: torch.nonzero(values),
        lambda: bool(values.sum() > 3),
        lambda: values.tolist() and values.to("meta"),
        lambda: torch.empty(4, device="meta").copy_(values),
        lambda: torch.equal(values, values),
    ):
        with HostReads() as reads:
            read()
        assert reads.found
    with HostReads() as reads:
        values.to(torch.bfloat16).float().index_copy_(0, torch.tensor([1]), values[torch.tensor([2])])
    assert reads.found == []


class Cuda:
    """The calls that `Captures` makes of torch.cuda, noted."""

    def __init__(self):
        self.calls, self.devices = [], []
        cuda = self

        class Stream:
            def __init__(self, device):
                cuda.devices.append(device)

            def wait_stream(self, other):
                pass

        class CUDAGraph:
            def capture_begin(self, pool, capture_error_mode):
                cuda.calls.append(("begin", pool, capture_error_mode))

            def capture_end(self):
                cuda.calls.append("end")

            def replay(self):
                cuda.calls.append("replay")

            def pool(self):
                return "pool"

        self.Stream, self.CUDAGraph = Stream, CUDAGraph
        self.current_stream, self.stream = Stream, lambda stream: contextlib.nullcontext()
        self.synchronize, self.empty_cache = self.devices.append, lambda: None


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    names = ("Stream", "CUDAGraph", "current_stream", "stream", "synchronize", "empty_cache")
    for name in names:
        monkeypatch.setattr(capture.torch.cuda, name, getattr(made, name))
    return made


def test_a_step_is_computed_then_captured_then_replayed(cuda, monkeypatch):
    captures, steps = Captures(CARD), []
    one, two = (captures(lambda name=name: steps.append(name)) for name in "ab")
    for step in (one, one, one, two, two):
        step()
    begin = ("begin", None, "thread_local")
    assert steps == ["a", "a", "b", "b"]
    assert cuda.calls == [begin, "end", "replay", "replay", ("begin", "pool", "thread_local"), "end", "replay"]
    assert cuda.devices and set(cuda.devices) == {CARD}, "the current device may be another one"
    captures.forget()
    assert captures.pool is None and captures.reason == ""


def test_a_step_that_reads_is_never_captured_and_that_is_said_once(cuda, monkeypatch):
    lines, values = [], torch.ones(1)
    monkeypatch.setattr(capture.console, "say", lines.append)
    captures = Captures(CARD)
    one, two = captures(lambda: values.item()), captures(lambda: values.item())
    for step in (one, one, one, two, two):
        step()
    assert cuda.calls == [] and len(lines) == 1 and "_local_scalar_dense" in lines[0]


def test_a_capture_that_fails_is_said_and_the_steps_are_computed(cuda, monkeypatch):
    lines, done = [], []
    monkeypatch.setattr(capture.console, "say", lines.append)

    def step():
        if cuda.calls and cuda.calls[-1] != "end":
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        done.append(1)

    step = Captures(CARD)(step)
    for _ in range(3):
        step()
    assert len(done) == 3 and cuda.calls[-1] == "end" and "replay" not in cuda.calls
    assert lines == [
        "the steps of generation are not captured, which is slower: operation not permitted when stream is capturing"
    ]


def test_memory_that_runs_out_in_a_capture_is_raised(cuda):
    def step():
        if cuda.calls:
            raise torch.OutOfMemoryError("CUDA out of memory")

    step = Captures(CARD)(step)
    step()
    with pytest.raises(torch.OutOfMemoryError):
        step()
    assert cuda.calls[-1] == "end"

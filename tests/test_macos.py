"""What macOS does not have is not needed: training, evaluation by the model itself and the demo's words, without what Linux adds.

Nothing was tried on a Mac; a system without these functions and files is what can be tried here.
"""

import io
import os
import resource
import sys

import pytest
import torch
from lines import read_lines

from tutelage.cli import demo
from tutelage.model import load
from tutelage.resources import device as devices
from tutelage.training import fine_tune

LINUX_ALONE = (
    "sched_getaffinity", "sched_setaffinity", "pipe2", "memfd_create", "posix_fadvise", "posix_fallocate", "fdatasync", "getrandom",
    "sendfile", "copy_file_range", "splice", "pidfd_open",
)  # fmt: skip


@pytest.fixture
def as_macos(monkeypatch):
    """No /proc and /sys, no limit of memory, no functions of Linux alone, no oneDNN, no vLLM."""
    for name in LINUX_ALONE:
        monkeypatch.delattr(os, name, raising=False)
    opened, limited = io.open, resource.setrlimit

    def without_proc(path, *arguments, **options):
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc/", "/sys/", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return opened(path, *arguments, **options)

    def without_memory(kind, limits):
        if kind == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        limited(kind, limits)

    monkeypatch.setattr("io.open", without_proc)
    monkeypatch.setattr("builtins.open", without_proc)
    monkeypatch.setattr(resource, "setrlimit", without_memory)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "vllm", None)


@pytest.mark.slow
def test_a_run_with_evaluations_needs_nothing_of_linux(make_config, as_macos):
    result = fine_tune(make_config(eval__backend="auto", data__filter=True))
    assert [each["step"] for each in result.evaluations] == [0, 2, 4] and all("accuracy" in each for each in result.evaluations)
    assert len(list(read_lines(result.directory / "generations.jsonl"))) == 12


def test_a_torch_without_onednn_has_no_bfloat16_on_its_cpu(as_macos, monkeypatch):
    class Missing:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(torch.ops, "mkldnn", Missing())
    assert not load.has_bfloat16(torch.device("cpu"))


def test_a_system_that_does_not_say_what_is_free_has_its_memory(as_macos):
    assert devices.free_memory(torch.device("cpu")) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_demo_names_the_card_that_it_takes(monkeypatch):
    assert "CPU" in demo.on_device() or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    assert demo.on_device() == "on this machine's NVIDIA L4"

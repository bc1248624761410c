"""Rates of devices, names of GPUs, and the ladder of settings for when memory is short."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tutelage.config import parse_config
from tutelage.errors import InputError
from tutelage.resources import device as devices
from tutelage.resources.device import matrix_rate, memory_rate, this_machine, visible_name
from tutelage.resources.ladder import exact_rungs, smaller_state, ways

CPU = torch.device("cpu")


@pytest.fixture
def fresh():
    """Rates are measured once for a process: measure them anew."""
    for rate in (matrix_rate, memory_rate):
        rate.cache_clear()
    yield
    for rate in (matrix_rate, memory_rate):
        rate.cache_clear()


def rates():
    return matrix_rate(CPU, torch.float32), memory_rate(CPU)


def test_rates_are_measured_once(fresh, monkeypatch):
    monkeypatch.setattr(devices, "LONGEST_PRODUCT", 0.0)  # the smallest product alone
    operations, read = rates()
    assert operations > 1e8 and 1e8 < read < 1e13
    monkeypatch.setattr(torch, "randn", None)
    assert rates() == (operations, read)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_memory_that_runs_out_while_a_rate_is_measured_costs_that_rate_alone(fresh, monkeypatch, error):
    def too_much(*_, **__):
        raise error

    monkeypatch.setattr(torch, "randn", too_much)
    monkeypatch.setattr(torch, "ones", too_much)
    assert rates() == (None, None)
    assert this_machine(CPU).product_rate(torch.float32) is None  # a plan then says nothing of time


def test_measuring_holds_a_part_of_the_free_memory(fresh, monkeypatch):
    made = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **options: made.append(size[0]) or randn(*size, **options))
    monkeypatch.setattr(devices, "free_memory", lambda device: 4 * 3 * 4.0 * 1024**2)
    assert matrix_rate(CPU, torch.float32) > 0 and max(made) == 1024
    matrix_rate.cache_clear()
    monkeypatch.setattr(devices, "free_memory", lambda device: 1000.0)
    assert rates() == (None, None)


def test_gpus_have_the_names_of_the_environment(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_name(1) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert visible_name(1) == "GPU-5f"
    with pytest.raises(InputError, match="names no GPU number 2"):
        visible_name(2)


def policy_of(kind="none", packs=True, device="cuda"):
    model = SimpleNamespace(supports_gradient_checkpointing=True)
    return SimpleNamespace(packs=packs, model=model, recomputation=kind, device=torch.device(device))


def test_the_ladder_goes_from_what_changes_nothing_to_what_changes_least():
    config = parse_config({})
    assert [str(rung) for rung in exact_rungs(config, policy_of(), 1, 4096)] == [
        "--train.pack_tokens 2048", "--model.activation_checkpointing selective", "--model.activation_checkpointing full",
        "--model.activation_offload true",
    ]  # fmt: skip
    assert [str(rung) for rung in exact_rungs(config, policy_of("full", device="cpu"), 1, None)] == []
    down, names = config, []
    while rung := smaller_state(down, 1):
        names.append(str(rung))
        down = parse_config({
            "model": {**down.model.model_dump(), **{name[6:]: value for name, value in rung.settings.items() if name[:6] == "model."}},
            "train": {**down.train.model_dump(), **{name[6:]: value for name, value in rung.settings.items() if name[:6] == "train."}},
        })  # fmt: skip
    assert names == [
        "--model.precision bf16-sr", "--train.optimizer adamw-8bit",
        "--model.lora lora with --model.precision bf16-mixed with --train.optimizer adamw",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "train", "ranks", "expected"),
    [
        ({"precision": "fp32"}, {"optimizer": "adamw-8bit"}, 1, "--model.precision bf16-sr"),
        ({"precision": "bf16-sr"}, {}, 2, "--model.lora lora with --model.precision bf16-mixed"),  # 8-bit moments cannot be shared
        ({"lora": "dora"}, {}, 1, "None"),
    ],
)
def test_the_next_way_down_never_needs_more_of_anything(model, train, ranks, expected):
    assert str(smaller_state(parse_config({"model": model, "train": train}), ranks)) == expected


def test_padded_batches_are_split_without_changing_the_rows_of_a_step():
    config = parse_config({"train": {"batch_size": 6, "grad_accum": 5}})
    rung = next(exact_rungs(config, policy_of(packs=False), 1, 600))
    assert rung.settings == {"train.batch_size": 3, "train.grad_accum": 10}
    odd = parse_config({"train": {"batch_size": 5, "grad_accum": 2}})
    assert next(exact_rungs(odd, policy_of(packs=False), 1, 600)).settings == {"train.batch_size": 2, "train.grad_accum": 5}


def test_a_plan_tries_ways_that_the_device_and_the_ranks_can_have():
    config = parse_config({})
    assert len(list(ways(config, "cuda", 1))) == 5 and len(list(ways(config, "cuda", 2))) == 4
    assert list(ways(config, "cpu", 1)) == [{}, {"model.lora": "lora", "train.optimizer": "adamw"}]
    assert list(ways(parse_config({"model": {"lora": "lora"}}), "cuda", 1)) == [{}]

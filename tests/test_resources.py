"""Rates of devices, names of GPUs, and the ladder of settings for when memory is short."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tutelage.config import parse_config
from tutelage.errors import InputError
from tutelage.resources import device as devices
from tutelage.resources.device import KNOWN, Device, joined_by, matrix_rate, memory_rate, this_machine, visible_name
from tutelage.resources.ladder import MEANINGS, WAYS, exact_rungs, smaller_state, ways
from tutelage.resources.memory import Load
from tutelage.resources.seconds import Pace, Work, total_of, training_seconds

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


def policy_of(kind="none", packs=True, device="cuda", tile=0):
    model = SimpleNamespace(supports_gradient_checkpointing=True)
    return SimpleNamespace(packs=packs, model=model, recomputation=kind, device=torch.device(device), tile=tile, has_tiles=True)


def test_the_ladder_goes_from_what_changes_nothing_to_what_changes_least():
    config = parse_config({})
    assert [str(rung) for rung in exact_rungs(config, policy_of(), 4096)] == [
        "--train.pack_tokens 2048", "--model.activation_checkpointing selective", "--model.activation_checkpointing full",
        "--model.activation_checkpointing full with --model.tile 2048",
        "--model.activation_checkpointing full with --model.activation_offload true",
    ]  # fmt: skip
    assert [str(rung) for rung in exact_rungs(config, policy_of("full", device="cpu"), None, 1000)] == []
    full = parse_config({"model": {"activation_checkpointing": "full"}})
    assert [str(rung) for rung in exact_rungs(full, policy_of("full", device="cpu", tile=4096), None, 10**5)] == ["--model.tile 2048"]
    tiled = parse_config({"model": {"tile": 1024}})  # products that are kept would make tiles useless
    assert not any("selective" in str(rung) for rung in exact_rungs(tiled, policy_of(), None, 4096))
    down, names = config, []
    while rung := smaller_state(down):
        names.append(str(rung))
        down = parse_config({
            "model": {**down.model.model_dump(), **{name[6:]: value for name, value in rung.settings.items() if name[:6] == "model."}},
            "train": {**down.train.model_dump(), **{name[6:]: value for name, value in rung.settings.items() if name[:6] == "train."}},
        })  # fmt: skip
    assert names == [
        "--train.optimizer_offload true", "--model.precision bf16-sr", "--train.optimizer adamw-8bit", "--train.update in_backward",
        "--model.lora lora with --model.precision bf16-mixed with --train.optimizer adamw"
        " with --train.update step with --train.optimizer_offload false",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        ({"precision": "fp32"}, {"optimizer": "adamw-8bit"}, "--train.optimizer_offload true"),
        ({"precision": "bf16-sr"}, {"optimizer": "adamw-8bit", "optimizer_offload": True}, "--train.update in_backward"),
        ({"lora": "dora"}, {}, "None"),
    ],
)
def test_the_next_way_down_never_needs_more_of_anything(model, train, expected):
    assert str(smaller_state(parse_config({"model": model, "train": train}))) == expected


def test_padded_batches_are_split_without_changing_the_rows_of_a_step():
    config = parse_config({"train": {"batch_size": 6, "grad_accum": 5}})
    rung = next(exact_rungs(config, policy_of(packs=False), 600))
    assert rung.settings == {"train.batch_size": 3, "train.grad_accum": 10}
    odd = parse_config({"train": {"batch_size": 5, "grad_accum": 2}})
    assert next(exact_rungs(odd, policy_of(packs=False), 600)).settings == {"train.batch_size": 2, "train.grad_accum": 5}


def test_a_plan_tries_ways_that_the_device_and_the_ranks_can_have():
    config = parse_config({})
    assert list(ways(config, "cuda")) == [{}, *WAYS]
    assert list(ways(config, "cpu")) == [{}, {name: value for name, value in WAYS[-1].items() if name != "model.precision"}]
    assert list(ways(parse_config({"model": {"lora": "lora"}}), "cuda")) == [{}]


def test_a_network_takes_the_place_of_the_cards_own_link():
    h100, l4 = KNOWN["h100"], KNOWN["l4"]
    assert joined_by(h100, None) is joined_by(h100, "nvlink") is h100 and h100.link == 450e9
    assert joined_by(h100, "100gb").link == 12.5e9 and joined_by(l4, "400gb").link == 50e9
    with pytest.raises(InputError, match="no NVLink of NVIDIA L4"):
        joined_by(l4, "nvlink")
    with pytest.raises(InputError, match="write one of nvlink, pcie, 100gb, 400gb"):
        joined_by(l4, "infiniband")


def test_what_goes_on_at_the_same_time_takes_as_long_as_the_slowest():
    work = Work(Load(4096, 4096), operations=1e15, tokens=1e5, distinct=1e5, steps=10, batches=16.0)
    device = Device("a card", "cuda", 80e9, (1e14, 1e13), 1e12, link=1e10, host=1e10)
    alone = training_seconds(work, Pace(1.0, 4), 1e9, device, torch.bfloat16)
    assert set(alone) == {"products", "launches", "optimizer"}
    assert total_of(alone) == max(alone["products"], alone["launches"]) + alone["optimizer"]
    shared = training_seconds(work, Pace(1.0, 4, 8, traffic=1e9, to_host=1e6), 1e9, device, torch.bfloat16)
    assert shared["network"] == 10 * 2 * 1e9 / (0.8 * 1e10) and shared["host"] == 1e5 / 8 * 1e6 / (0.8 * 1e10)
    assert total_of(shared) == max(shared["products"], shared["launches"], shared["network"], shared["host"]) + shared["optimizer"]


def test_ways_stand_before_those_that_change_more_of_what_is_learnt():
    assert all(value in MEANINGS[name] for way in WAYS for name, value in way.items())
    first_rounded = next(index for index, way in enumerate(WAYS) if way["model.precision"] == "bf16-sr")
    assert all(way["train.optimizer"] == "adamw" for way in WAYS[:first_rounded])

"""Where an engine runs, by the memory that is free now, and by the memory of a device that is planned for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from tutelage.config import parse_config
from tutelage.errors import InputError
from tutelage.resources import estimate, generation, placement
from tutelage.resources.device import Device
from tutelage.resources.placement import Seat, place_engine, rooms, seat_of

NOTHING_YET = SimpleNamespace(state={}, param_groups=[])


def config_of(backend="auto", **settings):
    return parse_config({"eval": {"backend": backend, **settings}})


def nothing_missing(kind):
    return ""


@pytest.fixture
def two_gpus(monkeypatch):
    """GPUs of 24 GB, of which so much is free; the first one is trained on. An engine needs 5 GB."""
    free = {0: 24e9, 1: 24e9}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 24e9))
    monkeypatch.setattr(placement, "free_memory", lambda device: free[device.index])
    monkeypatch.setattr(placement, "activation_bytes", lambda policy, tokens, kind: 0.0)
    monkeypatch.setattr(placement, "engine_bytes", lambda policy, longest: 5e9)
    return free


@pytest.fixture
def place(two_gpus, monkeypatch):
    """Place an engine beside training that is to take some bytes, half of them for its moments."""

    def placed(config, training, ranks=1, missing=nothing_missing):
        state = {"moments": training / 2, "gradients": training / 2}
        monkeypatch.setattr(placement, "state_bytes", lambda policy, config: state)
        policy = SimpleNamespace(device=torch.device("cuda", 0), model=SimpleNamespace(is_gradient_checkpointing=False))
        course = SimpleNamespace(policy=policy, config=config, largest=1000, longest=500, world=SimpleNamespace(local_size=ranks))
        return place_engine(course, NOTHING_YET, missing)

    return placed


@pytest.mark.parametrize(
    ("training", "left", "gpus", "changes", "expected"),
    [
        (8e9, 21e9, 2, {}, ("cuda:1", False, True)),  # a GPU of its own: asynchronous
        (8e9, 21e9, 2, {"mode": "sync"}, ("cuda:1", False, False)),
        (8e9, 21e9, 1, {}, ("cuda:0", False, False)),  # both fit beside each other
        (8e9, 21e9, 1, {"mode": "async"}, ("cuda:0", False, True)),
        (16e9, 21e9, 1, {}, ("cuda:0", True, False)),  # only in turns
        (8e9, 21e9, 1, {"in_turns": "on"}, ("cuda:0", True, False)),
        (16e9, 21e9, 1, {"offload_optimizer": False}, ("cuda:0", True, False)),  # moments alone stay
        (32e9, 21e9, 1, {"offload_optimizer": False}, None),
        (16e9, 21e9, 1, {"in_turns": "off"}, None),
        (16e9, 3e9, 1, {}, None),  # nothing fits
    ],
)
def test_where_the_engine_runs_follows_from_the_memory(
    two_gpus, place, capsys, training, left, gpus, changes, expected
):
    two_gpus[0] = left
    if gpus == 1:
        del two_gpus[1]
    config = config_of(**changes)
    placed = place(config, training)
    if expected is None:
        assert placed is None and "by the training model itself (it needs 4.7 GiB" in capsys.readouterr().out
        asked = config_of("vllm", **changes)
        with pytest.raises(InputError, match=r"it needs 4\.7 GiB.*eval\.device"):
            place(asked, training)
    else:
        assert (str(placed.device), placed.in_turns, placed.asynchronous) == expected
        assert 5e9 / 24e9 <= placed.gpu_memory_utilization <= 0.85


def test_async_where_only_turns_fit_is_refused(two_gpus, place):
    del two_gpus[1]
    with pytest.raises(InputError, match="compute in turns"):
        place(config_of(mode="async"), 18e9)


def test_ranks_neither_take_turns_nor_lose_their_gpu(two_gpus, place):
    """What is asked for and cannot be is refused; "auto" leaves it."""
    for changes, reason in (({}, "cannot take turns"), ({"device": "cuda:1"}, "another rank trains on cuda:1")):
        assert place(config_of(**changes), 18e9, ranks=2) is None
        with pytest.raises(InputError, match=reason):
            place(config_of("vllm", **changes), 18e9, ranks=2)


def test_an_engine_that_is_missing_is_told(two_gpus, place, capsys):
    assert place(config_of(), 1e9, missing=lambda kind: "it is not installed") is None
    assert "itself (it is not installed)" in capsys.readouterr().out
    with pytest.raises(InputError, match='eval.backend = "vllm": it is not installed'):
        place(config_of("vllm"), 1e9, missing=lambda kind: "it is not installed")


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"in_turns": "on"}, {"in_turns": "off"}, {"offload_optimizer": False}, {"mode": "sync"}])
def test_training_and_the_plan_give_the_engine_the_same_seat(two_gpus, place, monkeypatch, gpus, changes):
    if gpus == 1:
        del two_gpus[1]
    config = config_of(**changes)
    monkeypatch.setattr(generation, "engine_bytes", lambda policy, longest: 5e9)
    monkeypatch.setattr(generation, "native_bytes", lambda *_: 0.0)
    estimator = estimate.Estimator(None, Device("a GPU", "cuda", 24e9), gpus)
    prepared = SimpleNamespace(longest_prompt=10, panel=4)
    seats = set()
    for training in (1e9, 8e9, 17e9, 28e9, 40e9):
        placed = place(config, training)
        needed = {"weights": 0.0, "moments": training / 2, "gradients": training / 2}
        seat, needs = estimator._seated(None, config, prepared, needed)
        turns = {Seat.IN_TURNS: True, Seat.BESIDE: False, Seat.OWN_DEVICE: False}
        assert (placed is None) == (seat is Seat.NATIVE)
        if placed is not None:
            assert placed.in_turns == turns[seat] and (placed.device.index == 1) == (seat is Seat.OWN_DEVICE)
            assert max(sum(needs.values()), 5e9) <= estimator.allowed or seat is Seat.OWN_DEVICE
        seats.add(seat)
    assert len(seats) > 1 or gpus == 2 or changes == {"in_turns": "on"}


def test_settings_say_which_seats_there_are():
    training = {"weights": 1.0, "moments": 2.0, "gradients": 3.0}

    def found(kind="cuda", ranks=1, own=None, **changes):
        return rooms(config_of(**changes).eval, kind, ranks, 10.0, training, own)

    assert found() == {Seat.BESIDE: 4.0, Seat.IN_TURNS: 9.0}
    assert found(offload_optimizer=False) == {Seat.BESIDE: 4.0, Seat.IN_TURNS: 7.0}
    assert found(in_turns="on") == {Seat.IN_TURNS: 9.0} and found(in_turns="off") == {Seat.BESIDE: 4.0}
    assert found(ranks=2) == {Seat.BESIDE: 4.0} and found(ranks=2, in_turns="on") == {}
    assert found("cpu") == found("cpu", in_turns="on") == {Seat.BESIDE: 4.0}
    assert found(own=8.0) == {Seat.OWN_DEVICE: 8.0}
    assert [seat_of(need, found()) for need in (4.0, 5.0, 10.0)] == [Seat.BESIDE, Seat.IN_TURNS, Seat.NATIVE]


# ── by hand: Qwen2.5-Math-1.5B, 1,543,714,304 weights; keys and values of a token: 2 · 28 layers · 2 heads · 128 · 2 bytes = 28,672 ──

QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
WEIGHTS = 1_543_714_304


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen")
    (directory / "config.json").write_text(json.dumps(QWEN))
    return str(directory)


@pytest.fixture(scope="module")
def shapes(qwen):
    """The model without its weights."""
    config = parse_config({"model": {"id": qwen, "precision": "bf16-mixed"}})
    return estimate.outlined(config, None, Device("a GPU", "cuda", 24e9).torch_device)


def test_an_engine_of_the_missions_model_on_24_gb_fits_only_in_turns(shapes):
    """bf16-sr and AdamW: 2 bytes of weights and of gradients, 4 of moments, and 4 GB of activations: 16.35 of 21.6 GB."""
    training = {"weights": 2.0 * WEIGHTS, "gradients": 2.0 * WEIGHTS, "moments": 4.0 * WEIGHTS, "activations": 4e9}
    found = placement.sharings(shapes, config_of().eval, 24e9, 1, 2048, training)
    needs = {"weights": 3_087_428_608.0, "cache": 469_762_048.0, "overhead": 2e9}
    beside, in_turns = found[Seat.BESIDE], found[Seat.IN_TURNS]
    assert beside.needs == in_turns.needs == needs
    assert (beside.room, beside.takes, beside.cached_tokens) == (5_250_285_568.0, 0.0, 0)
    assert in_turns.room == in_turns.takes == 18_512_571_392.0  # 21.6 GB without the weights; 0.85 of the card would be 20.4
    assert in_turns.cached_tokens == 468_231 and in_turns.while_training == 1e9
    assert in_turns.host == 8.0 * WEIGHTS  # the copy, what sleeps, and the moments
    kept = placement.sharings(shapes, config_of(offload_optimizer=False).eval, 24e9, 1, 2048, training)[Seat.IN_TURNS]
    assert (kept.room, kept.host) == (12_337_714_176.0, 4.0 * WEIGHTS)


def test_an_engine_of_the_missions_model_on_80_gb_fits_beside_training(shapes):
    """bf16-mixed and AdamW: 4 bytes of weights, 2 of copies, 4 of gradients, 8 of moments, and 20 GB of activations."""
    training = {name: size * WEIGHTS for name, size in {"weights": 4.0, "copies": 2.0, "gradients": 4.0, "moments": 8.0}.items()}
    training["activations"] = 20e9
    found = placement.sharings(shapes, config_of().eval, 80e9, 1, 2048, training)
    beside, in_turns = found[Seat.BESIDE], found[Seat.IN_TURNS]
    assert beside.room == beside.takes == beside.while_training == 24_213_142_528.0
    assert beside.cached_tokens == 667_051 and beside.host == 2.0 * WEIGHTS
    assert in_turns.takes == 65_825_142_784.0
    asked = placement.sharings(shapes, config_of(gpu_memory_utilization=0.25).eval, 80e9, 1, 2048, training)
    assert asked[Seat.BESIDE].takes == asked[Seat.IN_TURNS].takes == 20e9
    assert asked[Seat.BESIDE].cached_tokens == (20_000_000_000 - 5_087_428_608) // 28_672
    assert list(placement.sharings(shapes, config_of().eval, 80e9, 2, 2048, training)) == [Seat.BESIDE]


@pytest.mark.slow
def test_the_plan_says_both_in_its_table_and_as_json(qwen, capsys):
    from tutelage.advice import Asked, as_json, plan_run

    config = parse_config({"model": {"id": qwen, "precision": "bf16-sr", "activation_checkpointing": "full"}})
    given = as_json(plan_run(config, Asked("24", 1, 512)))["given"]
    assert set(given["engine"]) == {"beside", "in_turns"} and given["engine"]["in_turns"]["needs"]["weights"] == 2.0 * WEIGHTS
    assert given["backend"] != "in turns" or given["training_bytes"]["engine asleep"] == 1e9
    printed = capsys.readouterr().out
    assert "an engine beside training" in printed and "an engine in turns with it" in printed

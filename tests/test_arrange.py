"""What "auto" decides before the first step: which activations are kept, and whether layers are compiled."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tutelage.errors import InputError
from tutelage.machines.world import ALONE
from tutelage.model.load import load_policy
from tutelage.resources.device import matrix_rate
from tutelage.resources.memory import Load, activation_bytes, state_to_come
from tutelage.training import arrange as room
from tutelage.training.arrange import arrange


@pytest.fixture
def arranged(tokenizer, tmp_path):
    """`arrange` for a run of so many tokens in packs of so many; what it decided."""

    def of(config, pack_tokens=128, run_tokens=1_000, held=0.0, policy=None):
        policy = policy or load_policy(config.model, tokenizer)
        rows = SimpleNamespace(tokens=run_tokens)
        course = SimpleNamespace(policy=policy, config=config, world=ALONE, prepared=rows, largest=pack_tokens, total=1, epoch=1)
        rate = matrix_rate(policy.device, policy.compute_dtype)
        arrange(course, held, rate, tmp_path / "plan.json", writes=True)
        return policy, json.loads((tmp_path / "plan.json").read_text())

    return of


@pytest.mark.parametrize("kind", ["none", "selective", "full"])
def test_activations_are_kept_as_far_as_they_fit(make_config, tokenizer, arranged, monkeypatch, kind):
    config = make_config(model__compile="off")
    policy = load_policy(config.model, tokenizer)
    needed = {kind: activation_bytes(policy, Load(4096, 4096), kind) for kind in ("none", "selective", "full")}
    assert needed["none"] > needed["selective"] > needed["full"]
    state = state_to_come(policy, config)
    monkeypatch.setattr(room, "free_memory", lambda device: (state + needed[kind]) / room.HEADROOM + 1)
    assert arranged(config, 4096, policy=policy)[1]["activation_checkpointing"] == kind
    assert policy.recomputation == kind


def test_moments_that_are_allocated_already_are_not_counted_twice(make_config, tokenizer, arranged, monkeypatch):
    config = make_config(model__compile="off")
    policy = load_policy(config.model, tokenizer)
    needed, state = activation_bytes(policy, Load(4096, 4096), "none"), state_to_come(policy, config)
    monkeypatch.setattr(room, "free_memory", lambda device: (0.5 * state + needed) / room.HEADROOM + 1)
    assert arranged(config, 4096, held=0.5 * state, policy=policy)[1]["activation_checkpointing"] == "none"


@pytest.mark.parametrize(("tokens", "compiles"), [(10**3, False), (10**13, True)])
def test_layers_are_compiled_when_the_run_is_long_enough(make_config, arranged, monkeypatch, capsys, tokens, compiles):
    monkeypatch.setattr("tutelage.model.policy.layers_of", lambda model: [])
    policy, decided = arranged(make_config(), run_tokens=tokens)
    assert policy.compiled == decided["compile"] == compiles
    assert f"compilation: {'on' if compiles else 'off'}" in capsys.readouterr().out


def test_compiled_layers_are_planned_with_what_they_can_recompute(make_config, tokenizer, arranged, monkeypatch):
    """Before, "selective" was planned and "none" computed."""
    monkeypatch.setattr("tutelage.model.policy.layers_of", lambda model: [])
    config = make_config(model__compile="on")
    policy = load_policy(config.model, tokenizer)
    between = activation_bytes(policy, Load(4096, 4096), "selective") + state_to_come(policy, config)
    monkeypatch.setattr(room, "free_memory", lambda device: between / room.HEADROOM + 1)
    assert arranged(config, 4096, policy=policy)[1]["activation_checkpointing"] == "full" == policy.recomputation


def test_selective_recomputation_and_compilation_exclude_each_other(make_config, arranged):
    with pytest.raises(InputError, match='"selective" with model.compile = "on"'):
        room.require(make_config(model__compile="on", model__activation_checkpointing="selective"))
    policy, decided = arranged(make_config(model__activation_checkpointing="selective"), run_tokens=10**13)
    assert decided["compile"] is False and policy.recomputation == "selective"


def test_a_run_that_goes_on_keeps_what_was_decided(make_config, arranged, monkeypatch, capsys):
    config = make_config()
    arranged(config)
    monkeypatch.setattr(room, "free_memory", lambda device: 0.0)
    policy, _ = arranged(config, run_tokens=10**13)
    said = capsys.readouterr().out
    assert said.count("activation checkpointing: none") == 2 and "compilation: off (as before)" in said
    assert policy.recomputation == "none" and not policy.compiled


def test_a_run_of_before_goes_on_as_it_computed(make_config, arranged, monkeypatch, tmp_path):
    """An older version recorded "selective" beside "compile", and computed "none"."""
    monkeypatch.setattr("tutelage.model.policy.layers_of", lambda model: [])
    (tmp_path / "plan.json").write_text('{"ranks": 1, "activation_checkpointing": "selective", "compile": true}')
    policy, _ = arranged(make_config())
    assert policy.compiled and policy.recomputation == "none"


def test_what_a_model_or_a_device_cannot_do_is_refused(make_config, tokenizer, arranged, monkeypatch):
    config = make_config(model__activation_checkpointing="full")
    policy = load_policy(config.model, tokenizer)
    monkeypatch.setattr(type(policy.model), "supports_gradient_checkpointing", False)
    with pytest.raises(InputError, match="does not support it"):
        arranged(config, policy=policy)
    with pytest.raises(InputError, match="activation_offload"):
        arranged(make_config(model__activation_offload=True))

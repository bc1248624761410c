"""What "auto" decides before the first step: which activations are kept, and whether layers are compiled."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tutelage.errors import InputError
from tutelage.machines.world import ALONE
from tutelage.model import CHUNK, LARGE_CHUNK, liger
from tutelage.model.load import load_policy
from tutelage.resources.device import matrix_rate
from tutelage.resources.fitting import CHUNKS
from tutelage.resources.memory import Load, Shapes, activation_bytes, activations_of, state_to_come
from tutelage.training import arrange as room
from tutelage.training.arrange import arrange


@pytest.fixture
def arranged(tokenizer, tmp_path):
    """`arrange` for a run of so many tokens in packs of so many; what it decided."""

    def of(config, pack_tokens=128, run_tokens=1_000, held=0.0, policy=None):
        policy = policy or load_policy(config.model, tokenizer)
        rows = SimpleNamespace(tokens=run_tokens)
        course = SimpleNamespace(policy=policy, config=config, world=ALONE, prepared=rows, largest=pack_tokens, total=1, epoch=1, together=0)
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


def test_long_packs_go_by_tiles_where_they_would_not_fit(make_config, tokenizer, tmp_path, monkeypatch, capsys):
    """The tile is the largest that fits; a run that goes on keeps it, whatever is free by then, and a wish counts more than both."""
    config = make_config(model__compile="off")
    policy, tokens = load_policy(config.model, tokenizer), 4096
    needed = [activations_of(replace(Shapes.of(policy), tile=tile), Load(tokens, tokens), "full") for tile in (0, 2048, 1024)]
    assert needed == sorted(needed, reverse=True)
    for free, tile in zip([needed[0], needed[0] - 1, needed[1] - 1, 0.0], [0, 2048, 1024, 1024], strict=True):
        decided = decided_for(policy, config, free, tmp_path, monkeypatch)
        assert (decided["activation_checkpointing"], decided["tile"]) == ("full", tile)
    assert "MLPs and norms compute 1,024 tokens at a time" in capsys.readouterr().out
    began = {"ranks": 1, "activation_checkpointing": "full", "compile": False, "tile": 2048}
    assert decided_for(policy, config, 1e12, tmp_path, monkeypatch, **began)["tile"] == 2048
    del began["tile"]
    assert decided_for(policy, config, 0.0, tmp_path, monkeypatch, **began)["tile"] == 0  # by a version without tiles
    asked = make_config(model__compile="off", model__tile=64)
    assert decided_for(policy, asked, 1e12, tmp_path, monkeypatch, **began)["tile"] == 64
    kept = make_config(model__compile="off", model__activation_checkpointing="selective")
    assert decided_for(policy, kept, 0.0, tmp_path, monkeypatch, ranks=2)["tile"] == 0  # it keeps the products all the same


def test_tiles_beside_kept_products_are_refused(make_config):
    with pytest.raises(InputError, match=r"model\.tile.*tiles save nothing"):
        room.require(make_config(model__tile=64, model__activation_checkpointing="selective"))


def test_the_head_takes_fewer_targets_at_a_time_where_memory_is_short(make_config, tokenizer, tmp_path, monkeypatch):
    config = make_config(model__compile="off", model__activation_checkpointing="full", model__tile=64)
    policy = load_policy(config.model, tokenizer)
    shapes = replace(Shapes.of(policy), tile=64, vocabulary=100_000)
    needed = {size: activations_of(replace(shapes, chunk=size), Load(4096, 4096), "full") for size in CHUNKS}
    monkeypatch.setattr(room.Shapes, "of", staticmethod(lambda policy: shapes))
    for size in CHUNKS:
        assert decided_for(policy, config, needed[size], tmp_path, monkeypatch)["chunk"] == size
    assert decided_for(policy, config, 0.0, tmp_path, monkeypatch)["chunk"] == CHUNKS[-1]


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


@pytest.fixture
def on_a_gpu():
    """A policy that says it is on a GPU; nothing is computed there."""

    def of(policy):
        policy.device = torch.device("cuda", 0)
        return policy

    return of


def decided_for(policy, config, free, tmp_path, monkeypatch, **known):
    """What is decided where so many bytes are free beside what training holds."""
    if known:
        (tmp_path / "plan.json").write_text(json.dumps(known))
    rows = SimpleNamespace(tokens=1_000)
    course = SimpleNamespace(policy=policy, config=config, world=ALONE, prepared=rows, largest=4096, total=1, epoch=1, together=0)
    monkeypatch.setattr(room, "free_memory", lambda device: (state_to_come(policy, config) + free) / room.HEADROOM + 1)
    return room._decide(course, 0.0, None, tmp_path / "plan.json")


def test_the_head_takes_many_targets_at_a_time_where_a_gpu_has_room(make_config, tokenizer, tmp_path, monkeypatch, on_a_gpu):
    config = make_config(model__compile="off", model__activation_checkpointing="none")
    policy = load_policy(config.model, tokenizer)
    assert decided_for(policy, config, 1e12, tmp_path, monkeypatch)["chunk"] == CHUNK  # a CPU
    on_a_gpu(policy)
    policy.chunk = LARGE_CHUNK
    needed = activation_bytes(policy, Load(4096, 4096), "none")
    policy.chunk = CHUNK
    assert needed > activation_bytes(policy, Load(4096, 4096), "none")
    assert decided_for(policy, config, needed, tmp_path, monkeypatch)["chunk"] == LARGE_CHUNK and policy.chunk == CHUNK
    assert decided_for(policy, config, 0.99 * needed, tmp_path, monkeypatch)["chunk"] == CHUNK
    began = {"ranks": 1, "activation_checkpointing": "none", "compile": False}
    assert decided_for(policy, config, needed, tmp_path, monkeypatch, **began)["chunk"] == CHUNK  # by a version without the choice
    assert decided_for(policy, config, 0.0, tmp_path, monkeypatch, **began, chunk=LARGE_CHUNK)["chunk"] == LARGE_CHUNK


def test_the_chunk_and_the_kernels_are_recorded(make_config, arranged):
    policy, decided = arranged(make_config())
    assert decided["chunk"] == policy.chunk == CHUNK and decided["liger"] is False


def test_ligers_kernels_are_for_layers_that_are_not_compiled(make_config, tokenizer, tmp_path, monkeypatch, on_a_gpu):
    monkeypatch.setattr("tutelage.model.liger.importlib.util.find_spec", lambda name: SimpleNamespace())
    config = make_config(model__compile="off")
    policy = load_policy(config.model, tokenizer)
    assert not decided_for(policy, config, 1e12, tmp_path, monkeypatch)["liger"]  # never on a CPU
    on_a_gpu(policy)
    assert decided_for(policy, config, 1e12, tmp_path, monkeypatch)["liger"]
    assert not decided_for(policy, make_config(model__compile="on"), 1e12, tmp_path, monkeypatch)["liger"]
    began = {"ranks": 1, "activation_checkpointing": "none", "compile": False}
    assert not decided_for(policy, config, 1e12, tmp_path, monkeypatch, **began)["liger"]  # began without them


def test_a_run_that_began_with_ligers_kernels_asks_for_them(make_config, arranged, tmp_path):
    (tmp_path / "plan.json").write_text('{"ranks": 1, "activation_checkpointing": "none", "compile": false, "liger": true}')
    with pytest.raises(InputError, match=r"began with Liger's kernels.*pip install"):
        arranged(make_config(model__compile="off"))


class FusedNorm(torch.nn.Module):
    """What stands for Liger's RMSNorm; `wrong` makes it another function."""

    wrong = 1.0

    def forward(self, hidden):
        scale = torch.rsqrt(hidden.float().pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden.float() * scale * self.wrong).to(hidden.dtype)


@pytest.fixture
def fake_liger(monkeypatch, tokenizer, make_config):
    """A package of that name, which knows models of our kind; the arguments that it was called with."""
    asked = {}

    def patch(rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, swiglu=True, model=None):
        asked.update(rope=rope, head=cross_entropy or fused_linear_cross_entropy, rms_norm=rms_norm, swiglu=swiglu)
        files = sys.modules[type(model).__module__]
        own = files.apply_rotary_pos_emb
        files.apply_rotary_pos_emb = lambda *given, **options: own(*given, **options)
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                module.__dict__["forward"] = FusedNorm.forward.__get__(module)
                module.__dict__["wrong"] = FusedNorm.wrong

    policy = load_policy(make_config().model, tokenizer)
    patches = SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={policy.model.config.model_type: patch})
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", patches)
    return policy, asked


def test_ligers_kernels_are_kept_where_they_are_exact(fake_liger):
    policy, asked = fake_liger
    files = sys.modules[type(policy.model).__module__]
    rotate, kinds = files.apply_rotary_pos_emb, {name: value for name, value in vars(files).items() if name.endswith("RMSNorm")}
    try:
        assert liger.give_kernels(policy) == ""
        assert asked == {"rope": True, "head": False, "rms_norm": True, "swiglu": True}
        norms = [module for module in policy.model.modules() if hasattr(module, "variance_epsilon")]
        assert norms and all("forward" in vars(norm) for norm in norms)
        assert all(vars(files)[name] is kind for name, kind in kinds.items())  # other models stay as they are
        assert files.apply_rotary_pos_emb is not rotate
        assert all(parameter.requires_grad and parameter.grad is None for parameter in policy.model.parameters())
    finally:
        files.apply_rotary_pos_emb = rotate


def test_ligers_kernels_that_compute_something_else_are_taken_back(fake_liger, monkeypatch):
    policy, _ = fake_liger
    monkeypatch.setattr(FusedNorm, "wrong", 1.1)
    files = sys.modules[type(policy.model).__module__]
    rotate, before = files.apply_rotary_pos_emb, liger._scores(policy)
    assert "they differ from the model's own" in liger.give_kernels(policy)
    assert files.apply_rotary_pos_emb is rotate and not any("forward" in vars(module) for module in policy.model.modules())
    assert all(torch.equal(now, then) for now, then in zip(liger._scores(policy), before, strict=True))


def test_a_model_that_liger_does_not_know_stays_as_it_is(fake_liger):
    policy, asked = fake_liger
    policy.model.config.model_type = "another"
    assert liger.give_kernels(policy) == "it has no kernels for another" and not asked

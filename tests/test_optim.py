"""Low-precision weights and moments train as float32 ones do; plain bfloat16 would not."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tutelage.data import prepare
from tutelage.errors import InputError
from tutelage.model.change import ChangeMeter
from tutelage.model.load import load_policy
from tutelage.model.optim import fill_state, make_optimizer, offloaded, require, set_lr, state_bytes
from tutelage.model.order import step_batches
from tutelage.resources import memory
from tutelage.training.step import accumulate_gradients, update_weights


def losses_of(make_config, tokenizer, steps: int, lr: float, **changes) -> tuple[list[float], list[float]]:
    """Losses and shares of changed weights over some steps on the same eight rows."""
    config = make_config(train__lr=lr, **changes)
    policy = load_policy(config.model, tokenizer)
    examples = prepare(config, tokenizer).train[:8]
    optimizer = make_optimizer(policy.model, config)
    losses, changed = [], []
    for step in range(steps):
        gradients = accumulate_gradients(policy, examples, step_batches(examples, 10**6, 8), config, step)
        moved, weights = update_weights(policy, optimizer, lr)
        changed.append(moved / weights)
        losses.append(gradients.loss)
    return losses, changed


@pytest.mark.slow
def test_low_precision_follows_the_loss_of_float32(make_config, tokenizer):
    exact, _ = losses_of(make_config, tokenizer, 25, 2e-3)
    assert exact[-1] < 0.8 * exact[0]
    for low in (
        {"model__precision": "bf16-sr"},
        {"model__precision": "bf16-sr", "train__optimizer": "adamw-8bit"},
        {"model__precision": "fp32", "train__optimizer": "adamw-8bit"},
        {"model__precision": "bf16-mixed", "train__optimizer": "adamw-8bit"},
    ):
        ours, _ = losses_of(make_config, tokenizer, 25, 2e-3, **low)
        assert ours[-1] == pytest.approx(exact[-1], rel=0.05), low


@pytest.mark.slow
def test_stochastic_rounding_keeps_updates_that_rounding_to_nearest_loses(make_config, tokenizer):
    """At a learning rate of 1e-5 an update is far below a bfloat16 weight's last bit: few weights move, and the loss still falls."""
    exact, _ = losses_of(make_config, tokenizer, 40, 1e-5)
    rounded, changed = losses_of(make_config, tokenizer, 40, 1e-5, model__precision="bf16-sr")
    assert 0 < changed[-1] < 0.5
    assert rounded[0] - rounded[-1] == pytest.approx(exact[0] - exact[-1], rel=0.5)


def test_the_meter_tells_the_share_of_weights_that_changed():
    model = torch.nn.Linear(10, 10, bias=False)
    meter = ChangeMeter(model)
    with torch.no_grad():
        model.weight[:3] += 1
    changed, of = meter.changed()
    assert changed / of == pytest.approx(0.3)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
def test_the_learning_rate_can_be_set_whatever_holds_it(make_config, tokenizer, optimizer):
    config = make_config(model__precision="bf16-sr", train__optimizer=optimizer)
    made = make_optimizer(load_policy(config.model, tokenizer).model, config)
    set_lr(made, 0.25)
    assert all(float(group["lr"]) == 0.25 for group in made.param_groups)


def test_a_missing_compiler_is_named_with_its_remedy(make_config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require(make_config(model__precision="bf16-sr"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match=r"needs triton on CUDA, which is not installed: pip install triton"):
        require(make_config(model__precision="bf16-sr", model__device="auto"))
    require(make_config(model__device="auto"))


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-sr"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
def test_the_state_has_the_bytes_that_are_reckoned(make_config, tokenizer, precision, optimizer):
    config = make_config(model__precision=precision, train__optimizer=optimizer)
    policy = load_policy(config.model, tokenizer)
    made = make_optimizer(policy.model, config)
    fill_state(made)
    assert memory.state_bytes(policy, config)["moments"] == state_bytes(made) > 0


def test_an_optimizers_state_can_wait_in_the_hosts_memory(model):
    """Each tensor that is elsewhere goes to the CPU, and back to where it was."""
    moved = []

    class Here(torch.Tensor):
        def to(self, place):
            moved.append(place)
            return torch.Tensor._make_subclass(Elsewhere, self)

    class Elsewhere(torch.Tensor):
        @property
        def device(self):
            return torch.device("cuda", 1)

        def to(self, place):
            moved.append(place)
            return torch.Tensor._make_subclass(Here, self)

    parameter = next(model.parameters())
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state[parameter]
    values = {name: value.clone() for name, value in state.items()}
    state["exp_avg"] = torch.Tensor._make_subclass(Elsewhere, state["exp_avg"])
    with pytest.raises(ZeroDivisionError), offloaded(optimizer):
        assert type(state["exp_avg"]) is Here and moved == ["cpu"]
        1 / 0  # noqa: B018
    assert type(state["exp_avg"]) is Elsewhere and moved == ["cpu", torch.device("cuda", 1)]
    assert type(state["exp_avg_sq"]) is torch.Tensor
    assert all(torch.equal(state[name].as_subclass(torch.Tensor), values[name]) for name in values)


@pytest.mark.parametrize(
    "how", [{}, {"model__precision": "bf16-sr"}, {"model__precision": "bf16-sr", "train__optimizer": "adamw-8bit"}]
)
@pytest.mark.slow
def test_state_made_beforehand_trains_as_state_made_in_the_first_step(make_config, tokenizer, how):
    config = make_config(train__weight_decay=0.1, **how)
    found = []
    for filled in (False, True):
        policy = load_policy(config.model, tokenizer)
        optimizer = make_optimizer(policy.model, config)
        before = [weight.detach().clone() for weight in policy.model.parameters()]
        if filled:
            fill_state(optimizer)
            assert all(torch.equal(now, then) for now, then in zip(policy.model.parameters(), before))
            assert all(weight.grad is None for weight in policy.model.parameters())
        torch.manual_seed(0)
        for step in range(2):
            for weight in policy.model.parameters():
                weight.grad = torch.full_like(weight, 0.1 * (step + 1))
            update_weights(policy, optimizer, 1e-2)
        found.append([weight.detach().clone() for weight in policy.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found))

"""Weights that change in the backward pass: the same as after it, but for clipping, which is by the norm of the step before."""

from __future__ import annotations

import math

import pytest
import torch
from test_train import assert_same_run

from tutelage.data import prepare
from tutelage.errors import InputError, RunError
from tutelage.machines import ALONE
from tutelage.model.load import load_policy
from tutelage.model.policy import layers_of
from tutelage.runs import SilentRunLog
from tutelage.training import fine_tune, in_backward
from tutelage.training.in_backward import InBackward
from tutelage.training.start import require, set_up
from tutelage.training.step import HalfUpdated, accumulate_gradients, update_weights

ONE_BATCH = {"train__batch_size": 8, "train__grad_accum": 1, "train__num_steps": 3}


def started(make_config, tokenizer, tmp_path, shares=False, **changes):
    """A run that is ready for its first step; `shares`: both layers have one matrix of queries."""
    config = make_config(**ONE_BATCH | changes)
    policy = load_policy(config.model, tokenizer)
    if shares:
        first, second = (layer.self_attn.q_proj for layer in layers_of(policy.model))
        second.weight = first.weight
    return set_up(policy, prepare(config, tokenizer), config, SilentRunLog(tmp_path / "nowhere"))


def take(start, step: int, lr: float = 1e-3):
    """An optimizer step, however it updates."""
    examples, batches = start.course.at(step)
    if start.updates is not None:
        start.updates.expect(lr, True)
        return start.updates.step(examples, batches, step)
    found = accumulate_gradients(start.course.policy, examples, batches, start.course.config, step)
    update_weights(start.course.policy, start.optimizer, lr)
    return found


def tensors(start) -> dict[str, torch.Tensor]:
    """Weights and their state, by name."""
    named = dict(start.course.policy.model.named_parameters())
    state = {f"{name} {key}": value for name, weight in named.items() for key, value in start.optimizer.state.get(weight, {}).items()}
    return {name: weight.detach() for name, weight in named.items()} | state


def copied(start) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors(start).items()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


WAYS = {
    "float32, decay, padded": {"train__weight_decay": 0.1, "train__pack": False},
    "float32, 8 bits, untied": {"model__id": "untied", "train__optimizer": "adamw-8bit"},
    "masters, a shared matrix, computed again": {
        "model__precision": "bf16-mixed", "shares": True, "model__activation_checkpointing": "full",
    },
    "stochastic rounding, 8 bits, another loss": {
        "model__precision": "bf16-sr", "train__optimizer": "adamw-8bit", "train__loss": "dft",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("way", "offload"), [(way, offload) for way in WAYS for offload in (False, True) if "masters" not in way or offload]
)
def test_without_clipping_updates_in_the_backward_pass_are_the_ordinary_ones(
    make_config, tokenizer, tmp_path, untied_model, monkeypatch, way, offload
):
    """Bit for bit, moments too; so are those whose moments are in the host's memory, and visit in pieces."""
    monkeypatch.setattr("tutelage.model.adamw.by_weight.PIECE", 1024)
    changes = {"train__clip_grad": 1e9, **WAYS[way]}
    if "model__id" in changes:
        changes["model__id"] = untied_model
    ordinary = started(make_config, tokenizer, tmp_path, **changes)
    ours = started(make_config, tokenizer, tmp_path, **changes, train__update="in_backward", train__optimizer_offload=offload)
    for step in range(2):
        one, other = take(ordinary, step), take(ours, step)
        assert (one.loss, one.nll, one.response_tokens, one.flops) == (other.loss, other.nll, other.response_tokens, other.flops)
        # of bfloat16 gradients, torch computes norms in bfloat16
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-2 if "rounding" in way else 1e-7)
        assert all(weight.grad is None for weight in ours.course.policy.model.parameters())
    assert_same(tensors(ours), tensors(ordinary))
    assert ours.updates.changed()[0] > 0


def test_a_gradient_is_clipped_by_the_norm_of_the_step_before_and_the_first_by_its_own(make_config, tokenizer, tmp_path):
    start = started(make_config, tokenizer, tmp_path, train__update="in_backward", train__clip_grad=0.1)
    policy = start.course.policy
    wanted, norms = {name: torch.zeros_like(weight) for name, weight in policy.model.named_parameters()}, []
    for step in range(3):
        found = accumulate_gradients(policy, *start.course.at(step), make_config(**ONE_BATCH, train__clip_grad=1e9), step)
        scale = min(1.0, 0.1 / ([found.grad_norm, *norms][-1] + 1e-6))
        for name, weight in policy.model.named_parameters():
            wanted[name].lerp_(weight.grad * scale, 0.1)
        norms.append(take(start, step).grad_norm)
        assert norms[-1] == pytest.approx(found.grad_norm, rel=1e-6) and norms[-1] > 0.2
    moments = tensors(start)
    for name in wanted:
        assert torch.allclose(moments[f"{name} exp_avg"], wanted[name], rtol=1e-4, atol=1e-9)
    assert float(start.optimizer.state["all weights"]["norm"]) == norms[-1]


@pytest.mark.slow
def test_clipping_by_the_norm_of_the_step_before_trains_as_true_clipping_does(make_config, tokenizer, tmp_path):
    """Every gradient is clipped, from norms of 0.8 to 1.5 to 0.2; those of following steps differ by up to 14 %."""
    losses = {}
    for how in ("step", "in_backward"):
        start = started(make_config, tokenizer, tmp_path, train__update=how, train__clip_grad=0.2, train__num_steps=40)
        losses[how] = [take(start, step, 2e-3).loss for step in range(40)]
    assert losses["step"][-1] < 0.8 * losses["step"][0]
    gaps = [abs(ours / true - 1) for ours, true in zip(losses["in_backward"], losses["step"], strict=True)]
    assert 0 < max(gaps) < 0.01, max(gaps)


def test_a_loss_that_is_not_finite_changes_nothing(make_config, tokenizer, tmp_path, monkeypatch):
    start = started(make_config, tokenizer, tmp_path, train__update="in_backward")
    take(start, 0)
    before, plain = copied(start), in_backward.loss_of_batch
    monkeypatch.setattr(in_backward, "loss_of_batch", lambda *given: tuple(each * math.nan for each in plain(*given)))
    found = take(start, 1)
    assert math.isnan(found.loss) and math.isnan(found.grad_norm)
    assert_same(tensors(start), before)
    monkeypatch.undo()
    assert math.isfinite(take(start, 1).grad_norm)


def test_what_fails_before_the_first_weight_changes_is_no_half_update(make_config, tokenizer, tmp_path, monkeypatch):
    start = started(make_config, tokenizer, tmp_path, train__update="in_backward")
    take(start, 0)
    update, calls = start.optimizer.update, []

    def failing(weight):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        update(weight)

    start.optimizer.update = failing
    with pytest.raises(HalfUpdated, match="memory ran out in the middle of an update"):
        take(start, 1)
    monkeypatch.setattr(in_backward, "loss_of_batch", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(start, 1)


def quick(make_config, **changes):
    return make_config(
        **ONE_BATCH | {"train__num_steps": 4, "eval__before": False, "eval__every": 0, "eval__max_new_tokens": 1, "run__save_every": 2},
        train__update="in_backward", train__clip_grad=0.1, **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_ends_the_run_and_it_goes_on_from_its_checkpoint(make_config, tmp_path, monkeypatch):
    """The norm of the step before is part of the checkpoint: the run that goes on is the undisturbed one bit for bit."""
    undisturbed = fine_tune(quick(make_config, run__dir=str(tmp_path / "undisturbed"))).directory
    plain, calls = InBackward._complete, []

    def poisoned(self, weight):
        calls.append(1)
        if len(calls) == 90:  # 20 weights in each pass, of which the first step has two: in the middle of step 4
            weight.grad.flatten()[0] = math.inf
        plain(self, weight)

    monkeypatch.setattr(InBackward, "_complete", poisoned)
    with pytest.raises(RunError, match=r"(?s)step 4: .*gradient norm (inf|nan).*weights have changed.*not saved.*To go on from the last"):
        fine_tune(quick(make_config))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]
    assert (tmp_path / "run" / "nonsense" / "step-4.json").is_file()
    monkeypatch.undo()
    assert_same_run(undisturbed, fine_tune(quick(make_config)).directory)


# ── several batches in a step ──

SEVERAL = {"train__update": "in_backward", "train__pack_tokens": 200}
OF_SEVERAL = {
    "float32, tied": {},
    "float32, untied, padded": {"model__id": "untied", "train__pack": False, "train__batch_size": 4, "train__grad_accum": 2},
    "masters, a shared matrix, 8 bits": {"model__precision": "bf16-mixed", "shares": True, "train__optimizer": "adamw-8bit"},
    "adapters": {"model__lora": "lora"},
}  # fmt: skip


@pytest.mark.parametrize("way", OF_SEVERAL)
def test_batches_that_go_backward_together_have_the_gradient_of_one_after_another(
    make_config, tokenizer, tmp_path, untied_model, monkeypatch, way
):
    """Loss, norm and gradients to rounding; of the weights, each is updated once, and no gradient of another layer lives then."""
    changes = {"train__clip_grad": 1e9, **OF_SEVERAL[way]}
    if "model__lora" in changes:
        pytest.importorskip("peft")
    if "model__id" in changes:
        changes["model__id"] = untied_model
    ours = started(make_config, tokenizer, tmp_path, **{**SEVERAL, **changes})
    policy, examples, batches = ours.course.policy, *ours.course.at(0)
    assert len(batches) > 1
    wanted = accumulate_gradients(policy, examples, batches, ours.course.config, 0)
    gradients = {name: weight.grad.clone() for name, weight in policy.model.named_parameters() if weight.grad is not None}
    names, update, found, alive = {weight: name for name, weight in policy.model.named_parameters()}, ours.optimizer.update, {}, []

    def watched(weight):
        assert names[weight] not in found
        found[names[weight]] = weight.grad.clone()
        alive.append({names[other].split("layers.")[-1][:1] for other in names if other.grad is not None and "layers." in names[other]})
        update(weight)

    ours.optimizer.update = watched
    one = take(ours, 0)
    assert one.loss == pytest.approx(wanted.loss, rel=1e-6) and one.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
    assert found.keys() == gradients.keys()
    close = 1e-2 if policy.precision == "bf16-mixed" else 1e-5  # a shared matrix: the sums of both layers are rounded to bfloat16 apart
    for name, gradient in gradients.items():
        assert float((found[name] - gradient).norm()) <= close * float(gradient.norm()), name
    if "shares" not in changes:
        assert all(len(layers) <= 1 for layers in alive)
    assert all(weight.grad is None for weight in policy.model.parameters())


def test_inputs_that_wait_in_the_hosts_memory_and_dropout_change_nothing(make_config, tokenizer, tmp_path, monkeypatch):
    """Each layer is computed again with the random numbers of its forward pass."""
    monkeypatch.setattr("tutelage.model.offload.SMALL", 0)
    found = []
    for offload in (False, True):
        start = started(make_config, tokenizer, tmp_path, **SEVERAL)
        for layer in layers_of(start.course.policy.model):
            layer.self_attn.o_proj = torch.nn.Sequential(layer.self_attn.o_proj, torch.nn.Dropout(0.3))
        start.course.policy.offload = offload
        found.append((take(start, 0).grad_norm, take(start, 1).loss))
    assert found[0] == found[1]
    plain = accumulate_gradients(start.course.policy, *start.course.at(2), start.course.config, 2)
    assert take(start, 2).grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)


def test_a_loss_of_a_later_batch_that_is_not_finite_changes_nothing(make_config, tokenizer, tmp_path, monkeypatch):
    start = started(make_config, tokenizer, tmp_path, **SEVERAL)
    take(start, 0)
    before, plain, calls = copied(start), in_backward.loss_of_batch, []

    def poisoned(*given):
        calls.append(1)
        return tuple(each * (math.nan if len(calls) == 2 else 1) for each in plain(*given))

    monkeypatch.setattr(in_backward, "loss_of_batch", poisoned)
    assert math.isnan(take(start, 1).loss)
    assert_same(tensors(start), before)
    assert all(weight.grad is None for weight in start.course.policy.model.parameters())


def test_a_model_that_is_no_chain_of_layers_is_refused_for_several_batches(make_config, tokenizer, tmp_path, monkeypatch):
    from tutelage.model import layered

    plain = layered._compute
    monkeypatch.setattr(layered, "_compute", lambda *given: (plain(*given), "what routes tokens"))
    with pytest.raises(InputError, match="several batches in a step: LlamaForCausalLM has layers that return more than hidden states"):
        started(make_config, tokenizer, tmp_path, **SEVERAL)


@pytest.mark.slow
def test_a_run_of_several_batches_a_step_goes_on_to_the_same_bits(make_config, tmp_path, monkeypatch):
    several = {"train__pack_tokens": 200}
    undisturbed = fine_tune(quick(make_config, run__dir=str(tmp_path / "undisturbed"), **several)).directory
    plain = InBackward.step

    def failing(self, examples, batches, step, may_stop=False):
        if step == 3:
            raise RunError("stopped")
        assert len(batches) > 1
        return plain(self, examples, batches, step, may_stop)

    monkeypatch.setattr(InBackward, "step", failing)
    with pytest.raises(RunError, match="stopped after step 3"):
        fine_tune(quick(make_config, **several))
    monkeypatch.undo()
    assert_same_run(undisturbed, fine_tune(quick(make_config, **several)).directory)


def test_a_step_of_several_batches_is_refused_where_layers_are_kept(make_config, tokenizer, tmp_path):
    kept = {"train__update": "in_backward", "model__activation_checkpointing": "none"}
    with pytest.raises(InputError, match=r"the 8 longest rows have \d.*checkpointing full, or --train.pack_tokens \d+") as refused:
        started(make_config, tokenizer, tmp_path, **kept, train__pack_tokens=120)
    enough = int(str(refused.value).split("--train.pack_tokens ")[1].split(",")[0])
    roomy = started(make_config, tokenizer, tmp_path, **kept, train__pack_tokens=enough, train__batch_size=2, train__grad_accum=4)
    assert all(len(roomy.course.at(step)[1]) == 1 for step in range(3))
    with pytest.raises(InputError, match="2 batches of padded rows.*--train.batch_size 8 --train.grad_accum 1"):
        started(make_config, tokenizer, tmp_path, **kept, train__pack=False, train__batch_size=4, train__grad_accum=2)
    with pytest.raises(InputError, match="on_oom.*weights may have changed"):
        require(make_config(train__update="in_backward", train__on_oom="adapt"), ALONE, ())

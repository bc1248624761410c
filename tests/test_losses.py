"""The losses by name and from outside of the package: exact over every split of a step's rows, and over ranks."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from same_steps import assert_same

from tutelage.cli import main
from tutelage.config import to_toml
from tutelage.data import prepare
from tutelage.errors import InputError
from tutelage.model.load import load_policy
from tutelage.model.losses import LOSSES, Fused, loss_named
from tutelage.model.order import step_batches
from tutelage.training.step import accumulate_gradients

PLUG_IN = '''
import torch

def focal(log_probs, weights, entropies):
    """Focal loss (Lin et al. 2017): what is likely already counts less."""
    return -(weights * (1 - log_probs.exp()) ** 2 * log_probs).sum()

def plain(log_probs, weights, entropies):
    return -(weights * log_probs).sum()

def certain(log_probs, weights, entropies):
    return -(weights * entropies * log_probs).sum()

def a_mean(log_probs, weights, entropies):
    return -(weights * log_probs).mean()

def no_graph(log_probs, weights, entropies):
    return -(weights * log_probs.detach()).sum()

def per_target(log_probs, weights, entropies):
    return -weights * log_probs

def not_a_number(log_probs, weights, entropies):
    return (weights * log_probs).sum() * float("nan")

def writes(log_probs, weights, entropies):
    loss = -(weights * log_probs).sum()
    log_probs.detach().mul_(0.5)
    return loss

def dft(log_probs, weights, entropies):
    return -(weights * log_probs.exp().detach() * log_probs).sum()

def broken(log_probs):
    return log_probs.sum()
'''


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(PLUG_IN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_losses", None)
    loss_named.cache_clear()


def step_of(config, tokenizer, **layout):
    policy = load_policy(config.model, tokenizer)
    examples = prepare(config, tokenizer).train[:8]
    batches = step_batches(examples, **{"budget": 10**6, "rows": 8} | layout)
    found = accumulate_gradients(policy, examples, batches, config, step=0)
    return found, {name: weight.grad.clone() for name, weight in policy.model.named_parameters()}


def test_the_plain_road_gives_the_gradients_of_the_fused_one(plug_in, make_config, tokenizer):
    for normalization in ("token", "sequence"):
        settings = {"train__loss_normalization": normalization, "train__clip_grad": 1e9}
        fused = step_of(make_config(**settings), tokenizer)
        assert_same(fused, step_of(make_config(train__loss="my_losses:plain", **settings), tokenizer))
        assert fused[0].loss == pytest.approx(fused[0].nll, rel=1e-6) or normalization == "sequence"


def test_a_loss_that_writes_to_its_arguments_does_not_falsify_the_likelihood(plug_in, make_config, tokenizer, monkeypatch):
    monkeypatch.setattr("tutelage.model.losses._require_a_sum", lambda *_: None)
    found, _ = step_of(make_config(train__loss="my_losses:writes"), tokenizer)
    assert found.nll == pytest.approx(step_of(make_config(), tokenizer)[0].nll, rel=1e-5)


@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_fused_dft_gives_the_gradients_of_its_formula_on_the_plain_road(plug_in, make_config, tokenizer, normalization):
    settings = {"train__loss_normalization": normalization, "train__clip_grad": 1e9}
    fused = step_of(make_config(train__loss="dft", **settings), tokenizer)
    assert_same(fused, step_of(make_config(train__loss="my_losses:dft", **settings), tokenizer))
    assert fused[0].nll == pytest.approx(step_of(make_config(**settings), tokenizer)[0].nll, rel=1e-5)


def test_a_further_fused_loss_is_one_entry(plug_in, make_config, tokenizer, monkeypatch):
    monkeypatch.setitem(LOSSES, "unsure", Fused(lambda log_probs: (1 - log_probs.exp()) ** 2))
    found, gradients = step_of(make_config(train__loss="unsure", train__clip_grad=1e9), tokenizer)
    focal, by_focal = step_of(make_config(train__loss="my_losses:focal", train__clip_grad=1e9), tokenizer)
    assert found.loss == pytest.approx(focal.loss, rel=1e-5)  # of the same value, though its factor has no gradient
    assert any(not torch.allclose(gradient, by_focal[name], rtol=1e-3) for name, gradient in gradients.items())


@pytest.mark.parametrize("loss", ["dft", "my_losses:focal", "my_losses:certain"])
def test_a_loss_does_not_depend_on_the_split(plug_in, make_config, tokenizer, loss):
    config = make_config(train__loss=loss, train__clip_grad=1e9)
    together = step_of(config, tokenizer)
    assert together[0].loss != pytest.approx(together[0].nll, rel=1e-3)
    for layout in ({"budget": 150}, {"rows": 1, "pad_id": 0}, {"rows": 3, "pad_id": 0}):
        assert_same(together, step_of(config, tokenizer, **layout))


def test_a_loss_of_ones_own_is_the_loss_by_hand(plug_in, make_config, tokenizer):
    from tutelage.data.tokens import pad_and_shift
    from tutelage.model.specification import get_response_log_probs

    config = make_config(train__loss="my_losses:focal", train__clip_grad=1e9)
    found, gradients = step_of(config, tokenizer)
    policy = load_policy(config.model, tokenizer)
    rows = prepare(config, tokenizer).train[:8]
    tensors = pad_and_shift([(row.prompt_ids, row.response_ids) for row in rows], 0)
    scores = get_response_log_probs(policy.model, tensors["input_ids"], tensors["labels"], with_grad=True)["log_probs"]
    scores = scores[tensors["response_mask"]]
    by_hand = -((1 - scores.exp()) ** 2 * scores).sum() / len(scores)
    by_hand.backward()
    assert found.loss == pytest.approx(by_hand.item(), rel=1e-5) and found.nll == pytest.approx(-scores.mean().item(), rel=1e-5)
    for name, weight in policy.model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_a_run_learns_by_a_loss_of_ones_own_from_the_command_line(plug_in, make_config, tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(make_config(train__num_steps=6, eval__before=False)))
    assert main(["train", str(tmp_path / "config.toml"), "--train.loss", "my_losses:focal"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert steps[-1]["loss"] < steps[0]["loss"] < steps[0]["nll"]
    assert 'loss = "my_losses:focal"' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dft", "my_losses:focal"])
def test_two_ranks_give_the_gradient_of_one_by_any_loss(plug_in, make_config, tokenizer, ranks, tmp_path, loss):
    config = make_config(train__loss=loss, train__clip_grad=1e9)
    found, gradients = step_of(config, tokenizer)
    loss, nll, sharded = ranks.run("gradients_by_a_loss", raw=config.model_dump(), directory=str(tmp_path))[0]
    assert loss == pytest.approx(found.loss, rel=1e-5) and nll == pytest.approx(found.nll, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sharded[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_run_by_dft_logs_the_likelihood_beside_its_loss(make_config, tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(make_config(train__num_steps=6, eval__before=False)))
    assert main(["train", str(tmp_path / "config.toml"), "--train.loss", "dft"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert all(0 < step["loss"] < 1 / math.e < step["nll"] for step in steps) and steps[-1]["nll"] < steps[0]["nll"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my_losses:a_mean", "no sum over targets"),
        ("my_losses:not_a_number", "it is nan for ordinary"),
        ("my_losses:no_graph", "does not depend on log_probs"),
        ("my_losses:per_target", "does not return a scalar"),
        ("my_losses:broken", r"TypeError.*called as loss\(log_probs, weights, entropies\)"),
        ("my_losses:nothing", "has no nothing"),
        ("no_such_module:loss", "no_such_module cannot be imported"),
        ("crossentropy", 'write nll, dft, or "module:function"'),
    ],
)
def test_a_loss_that_could_not_be_exact_is_refused_before_anything_is_computed(plug_in, name, why):
    with pytest.raises(InputError, match=rf'train\.loss = "{name}": .*{why}|{why}'):
        loss_named(name)

"""Updates weight by weight, with moments that stay or visit in pieces; weights that are mapped from their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adamw_cases import CASES, RATES, begun, tensors, train, weights_of
from transformers import AutoConfig

from tutelage.model import mapped
from tutelage.model.adamw import ByWeight, by_weight
from tutelage.model.load import _without_memory

CARD = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"))


def ordinary(name: str, device: str) -> torch.optim.Optimizer:
    """What `make_optimizer` makes where all weights are updated at once."""
    ours = begun(*CASES[name], device)
    if name != "float32":
        return ours
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in ours.param_groups]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)


@pytest.mark.parametrize("device", ["cpu", CARD])
@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_one_weight_at_a_time_is_all_at_once_wherever_the_moments_are(monkeypatch, name, host, device):
    """On a card the copies have streams of their own, so a piece that is taken back too late, or brought too early, shows."""
    monkeypatch.setattr(by_weight, "PIECE", 2048)
    at_once, groups = ordinary(name, device), begun(*CASES[name], device).param_groups
    given = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    one_by_one = ByWeight(given, 1e-3, (0.9, 0.99), seed=3, eight_bit=CASES[name][1], host=host)
    for optimizer in (at_once, one_by_one):
        train(optimizer, range(4), RATES)
    for ours, theirs in zip(tensors(one_by_one), tensors(at_once), strict=True):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    if host:
        places = {one_by_one.state[weight]["exp_avg"].device.type for weight in weights_of(one_by_one)}
        assert places == {"cpu"}


def test_a_model_without_memory_is_filled_from_its_files_and_views_of_them_are_its_weights(tiny_model, model):
    empty = _without_memory(AutoConfig.from_pretrained(tiny_model), torch.bfloat16)
    files = mapped.files_of_weights(empty, Path(tiny_model))
    assert files is not None and set(files) == set(dict(model.named_parameters()))
    views = _without_memory(AutoConfig.from_pretrained(tiny_model), torch.float32)
    mapped.give_views(views, files)
    assert views.get_output_embeddings().weight is views.get_input_embeddings().weight
    empty.to_empty(device="cpu")
    empty.tie_weights()
    mapped.read_rows(empty, files)
    for name, weight in model.named_parameters():
        assert torch.equal(views.get_parameter(name), weight) and torch.equal(empty.get_parameter(name), weight.bfloat16())


@pytest.mark.parametrize("changed", [{"intermediate_size": 48}, {"tie_word_embeddings": False}, {"model_type": "mixtral"}])
def test_weights_that_are_not_in_the_files_as_the_model_has_them_are_not_mapped(tiny_model, changed):
    config = AutoConfig.from_pretrained(tiny_model)
    model = _without_memory(config, torch.float32)
    for name, value in changed.items():
        setattr(config, name, value)
    if "model_type" not in changed:
        model = _without_memory(config, torch.float32)
    else:
        model.config.model_type = "mixtral"
    assert mapped.files_of_weights(model, Path(tiny_model)) is None

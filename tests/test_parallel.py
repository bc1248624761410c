"""Several ranks give what one process gives on the union of their batches."""

from __future__ import annotations

import shutil

import pytest
import rank_cases
import torch

from tutelage.world import ALONE


def raw(make_config, **changes) -> dict:
    return make_config(**changes).model_dump(mode="json")


def by_both(ranks, configuration: dict, **arguments) -> tuple[dict, list[dict]]:
    return rank_cases.train_steps(ALONE, configuration, **arguments), ranks.run("train_steps", raw=configuration, **arguments)


def difference(one: dict, many: list[dict]) -> float:
    """Of the weights, at most."""
    ours, theirs = one["weights"], many[0]["weights"]
    assert set(ours) == set(theirs)
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


CASES = {
    "tied": {},
    "untied": {"model__id": "untied"},
    "a copy of the weights on each rank (HSDP)": {"parallel__shard": 1},
    "gradients exchanged after each micro-batch": {"parallel__sync": "always", "train__pack_tokens": 120},
    "many small packs": {"train__pack_tokens": 120},
    "padded rows": {"train__pack": False},
    "per sequence": {"train__loss_normalization": "sequence", "train__lr": 0.1 / 28},  # tokens of a row: steps as large
    "activations computed again": {"model__activation_checkpointing": "full"},
    "clipped": {"train__clip_grad": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process_on_the_union_batch(ranks, make_config, untied_model, case):
    """With SGD in float32, whose steps show a wrong scale as it is: AdamW hides one. lr 0.1 gives steps of about 0.02."""
    changes = {"train__lr": 0.1, "train__clip_grad": 1e9, **CASES[case]}
    if changes.get("model__id") == "untied":
        changes["model__id"] = untied_model
    configuration = raw(make_config, **changes)
    configuration["train"]["sgd"] = True
    one, many = by_both(ranks, configuration)
    assert difference(one, many) <= 2e-7
    for rank in many:
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-6) and rank["norms"] == pytest.approx(one["norms"], rel=1e-5)
        assert rank["losses"] == many[0]["losses"] and rank["norms"] == many[0]["norms"]
    whole = one["local"]
    assert [rank["local"] for rank in many] == [whole, whole] if case.startswith("a copy") else sum(r["local"] for r in many) == whole
    for name, buffer in one["buffers"].items():  # the rotary frequencies, which no file holds
        assert all(torch.equal(rank["buffers"][name], buffer) for rank in many)


def test_a_rank_without_response_tokens_is_safe(ranks, make_config):
    configuration = raw(make_config, train__lr=0.1, train__clip_grad=1e9)
    configuration["train"]["sgd"] = True
    one, many = by_both(ranks, configuration, rows=1)
    assert difference(one, many) <= 2e-7 and many[1]["losses"] == pytest.approx(one["losses"], rel=1e-6)


@pytest.mark.parametrize(
    ("needs", "changes", "bound"),
    [
        ("torch", {}, 1e-5),  # AdamW makes much of gradients near zero
        ("peft", {"model__lora": "lora", "model__lora_rank": 4}, 1e-6),
        ("peft", {"model__lora": "dora", "model__lora_rank": 4}, 1e-6),
        ("peft", {"model__lora": "lora", "model__lora_rank": 4, "model__precision": "bf16-mixed"}, 2e-3),
        ("torch", {"model__precision": "bf16-mixed"}, 3e-3),
        ("torchao", {"model__precision": "bf16-sr"}, 2**-6),  # two units in the last place of a norm's weight, which is near 1
    ],
    ids=["AdamW", "LoRA", "DoRA", "LoRA on bfloat16", "bf16-mixed", "bf16-sr"],
)
def test_two_ranks_are_one_process_within_what_the_precision_allows(ranks, make_config, needs, changes, bound):
    """Three steps of at most 0.001 each; in bfloat16 the order of sums decides the sign of small gradients, and so of AdamW's steps."""
    pytest.importorskip(needs)
    one, many = by_both(ranks, raw(make_config, train__lr=1e-3, **changes))
    assert difference(one, many) <= bound
    tolerance = 1e-5 if changes.get("model__precision", "fp32") == "fp32" else 1e-2
    assert many[0]["losses"] == pytest.approx(one["losses"], rel=tolerance)
    assert many[0]["norms"] == pytest.approx(one["norms"], rel=10 * tolerance)


@pytest.mark.parametrize("changes", [{}, {"parallel__shard": 1}, {"model__lora": "lora", "model__lora_rank": 3}], ids=str)
def test_checkpoints_are_read_by_any_number_of_ranks_bit_for_bit(ranks, make_config, tmp_path, changes):
    pytest.importorskip("peft")
    configuration = raw(make_config, **changes)
    alone, together = str(tmp_path / "alone"), str(tmp_path / "together")
    one = rank_cases.save_after_steps(ALONE, configuration, alone)
    assert rank_cases.load_and_hash(ALONE, configuration, alone) == one
    assert ranks.run("load_and_hash", raw=configuration, run=alone) == [one, one]
    many = ranks.run("save_after_steps", raw=configuration, run=together)
    assert ranks.run("load_and_hash", raw=configuration, run=together) == many
    shutil.rmtree(tmp_path / "alone")
    assert rank_cases.load_and_hash(ALONE, configuration, together) == many[0]

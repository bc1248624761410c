"""Several ranks give what one process gives on the union of their batches."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import rank_cases
import torch
from test_train import assert_same_run, lines_of, weights_of, without_times

from tutelage import train_one_size
from tutelage.machines.world import ALONE


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


# ── whole runs ──


def assert_close_runs(ours: Path, theirs: Path, weights: float = 1e-6) -> None:
    """Losses, gradient norms and weights within rounding, the same responses, each line once."""
    for name in ("metrics.jsonl", "generations.jsonl"):
        a, b = (without_times(lines_of(run / name)) for run in (ours, theirs))
        assert [(line.get("kind"), line["step"]) for line in a] == [(line.get("kind"), line["step"]) for line in b]
        for one, other in zip(a, b, strict=True):
            for key in ("loss", "grad_norm", "token_entropy", "accuracy"):
                assert one.get(key) == (None if other.get(key) is None else pytest.approx(other[key], rel=1e-5))
            assert one.get("response") == other.get("response")
    a, b = weights_of(ours), weights_of(theirs)
    assert set(a) == set(b) and max((a[name] - b[name]).abs().max().item() for name in a) <= weights


def test_a_run_of_two_ranks_is_the_run_of_one(ranks, make_config, tmp_path):
    """Model, log and evaluations, whose problems the ranks share (batch_size 2: two portions of the panel)."""
    changes = {"train__num_steps": 4, "eval__batch_size": 2}
    one = train_one_size(make_config(run__dir=str(tmp_path / "one"), **changes)).directory
    assert ranks.run("job_train", raw=raw(make_config, run__dir=str(tmp_path / "two"), **changes)) == ["", ""]
    assert_close_runs(one, tmp_path / "two")
    assert {path.name for path in one.rglob("*")} == {path.name for path in (tmp_path / "two").rglob("*")}


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_bit_for_bit(ranks, make_config, tmp_path):
    changes = {"train__num_steps": 6, "eval__every": 4}
    whole, parts = (raw(make_config, run__dir=str(tmp_path / name), **changes) for name in ("whole", "parts"))
    assert ranks.run("job_train", raw=whole) == ["", ""]
    for told in ranks.run("job_train", raw=parts, stop_at=3):
        assert re.search(r"stopped after step [34] of 6(.|\n)*--launch 2", told)  # the others hear of it within a second
    assert not (tmp_path / "parts" / "result.json").exists()
    assert ranks.run("job_train", raw=parts) == ["", ""]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_may_go_on_with_another_number_of_ranks(ranks, make_config, tmp_path):
    changes = {"train__num_steps": 6, "eval__every": 0}
    one = train_one_size(make_config(run__dir=str(tmp_path / "one"), **changes)).directory
    both = raw(make_config, run__dir=str(tmp_path / "both"), **changes)
    assert "SIGUSR1" in "".join(ranks.run("job_train", raw=both, stop_at=3))
    train_one_size(make_config(run__dir=str(tmp_path / "both"), **changes))
    assert_close_runs(one, tmp_path / "both")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_engine_evaluates_what_two_ranks_train(ranks, make_config, tmp_path, mode):
    """The first rank hands the gathered weights over; asynchronously, entropies are those of the flight's step."""
    changes = {"train__num_steps": 4, "eval__every": 2}
    one = train_one_size(make_config(run__dir=str(tmp_path / "native"), **changes)).directory
    by_engine = raw(
        make_config, run__dir=str(tmp_path / mode), eval__backend="fake", eval__mode=mode, eval__when_busy="queue", **changes
    )
    assert ranks.run("job_train", raw=by_engine, fake="slow" if mode == "async" else "good") == ["", ""]
    ours, theirs = ([line for line in lines_of(run / "metrics.jsonl") if line["kind"] == "eval"] for run in (one, tmp_path / mode))
    theirs.sort(key=lambda line: line["step"])
    assert [line["step"] for line in theirs] == [0, 2, 4]
    for native, engine in zip(ours, theirs, strict=True):
        assert engine["certificate"]["holds"] and engine["certificate"]["max_gap"] < 1e-4
        assert engine["avg_token_entropy"] == pytest.approx(native["avg_token_entropy"], abs=1e-4)
    a, b = weights_of(one), weights_of(tmp_path / mode)
    assert max((a[name] - b[name]).abs().max().item() for name in a) <= 1e-6

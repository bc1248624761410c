"""Several ranks give what one process gives on the union of their batches."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import rank_cases
import torch
from test_train import assert_same_run, lines_of, weights_of, without_times

from tutelage.config import parse_config
from tutelage.data import arithmetic
from tutelage.machines import ALONE, fault_of, files_of
from tutelage.runs.files import to_lines
from tutelage.training import fine_tune

pytestmark = pytest.mark.slow


def raw(make_config, **changes) -> dict:
    return make_config(**changes).model_dump(mode="json")


def difference(one: dict, many: list[dict]) -> float:
    """Of the weights, at most."""
    ours, theirs = one["weights"], many[0]["weights"]
    assert set(ours) == set(theirs)
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def test_what_rank_0_finds_wrong_is_wrong_everywhere_and_told_once(ranks):
    assert ranks.run("what_fails_on_rank_0") == [("InputError", "no such file", False), ("InputError", "no such file", True)]
    assert ranks.run("what_fails_on_rank_0", surprise=True) == [
        ("RunError", "rank 0 failed: KeyError: 'x'", False), ("RunError", "rank 0 failed: KeyError: 'x'", True),
    ]  # fmt: skip


CASES = {
    "tied": {},
    "tied, one row: a rank has no response tokens": {"rows": 1},
    "untied, gradients exchanged after each of many small packs": {
        "model__id": "untied", "parallel__sync": "always", "train__pack_tokens": 120, "model__tile": 30,
    },
    "a copy of the weights on each rank (HSDP), activations computed again, by tiles": {
        "parallel__shard": 1, "model__activation_checkpointing": "full", "model__tile": 40,
    },
    "padded rows, per sequence": {  # with so few tokens in a row, this lr gives steps as large
        "train__pack": False, "train__loss_normalization": "sequence", "train__lr": 0.1 / 28,
    },
    "many small packs, clipped": {"train__pack_tokens": 120, "train__clip_grad": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process_on_the_union_batch(ranks, make_config, untied_model, case):
    """With SGD in float32, whose steps show a wrong scale as it is: AdamW hides one. lr 0.1 gives steps of about 0.02."""
    changes = {"train__lr": 0.1, "train__clip_grad": 1e9, **CASES[case]}
    rows = changes.pop("rows", None)
    if changes.get("model__id") == "untied":
        changes["model__id"] = untied_model
    configuration = raw(make_config, **changes)
    configuration["train"]["sgd"] = True
    one = rank_cases.train_steps(ALONE, configuration, rows=rows)
    many = ranks.run("train_steps", raw=configuration, rows=rows)
    assert difference(one, many) <= 2e-7
    for rank in many:
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-6) and rank["norms"] == pytest.approx(one["norms"], rel=1e-5)
        assert rank["losses"] == many[0]["losses"] and rank["norms"] == many[0]["norms"]
    full = one["local"]
    assert [rank["local"] for rank in many] == [full, full] if "HSDP" in case else sum(r["local"] for r in many) == full
    for name, buffer in one["buffers"].items():  # the rotary frequencies, which no file holds
        assert all(torch.equal(rank["buffers"][name], buffer) for rank in many)


IN_BACKWARD = {"train__update": "in_backward", "train__optimizer_offload": True, "train__batch_size": 8, "train__grad_accum": 1}


@pytest.mark.parametrize(
    ("needs", "changes", "bound"),
    [
        ("peft", {"model__lora": "dora", "model__lora_rank": 4}, 1e-6),
        ("peft", {"model__lora": "lora", "model__lora_rank": 4, "model__precision": "bf16-mixed"}, 2e-3),
        ("torch", {"model__precision": "bf16-mixed"}, 3e-3),
        ("torch", {"model__precision": "bf16-sr"}, 2**-6),  # two units in the last place of a norm's weight, which is near 1
        ("torch", {"train__optimizer": "adamw-8bit", **IN_BACKWARD}, 1e-4),  # a code that falls on the other side: 2 % of a step
        ("torch", {"parallel__shard": 1, **IN_BACKWARD}, 1e-6),
    ],
    ids=["DoRA", "LoRA on bfloat16", "bf16-mixed", "bf16-sr", "8 bits, offload, in backward", "HSDP, offload, in backward"],
)
def test_two_ranks_are_one_process_within_what_the_precision_allows(ranks, make_config, needs, changes, bound):
    """Three steps of at most 0.001 each; in bfloat16 the order of sums decides the sign of small gradients, and so of AdamW's steps."""
    pytest.importorskip(needs)
    configuration = raw(make_config, train__lr=1e-3, **changes)
    one, many = rank_cases.train_steps(ALONE, configuration), ranks.run("train_steps", raw=configuration)
    assert difference(one, many) <= bound
    tolerance = 1e-5 if changes.get("model__precision", "fp32") == "fp32" else 1e-2
    assert many[0]["losses"] == pytest.approx(one["losses"], rel=tolerance)
    assert many[0]["norms"] == pytest.approx(one["norms"], rel=10 * tolerance)


@pytest.mark.parametrize(
    "changes", [{}, {"parallel__shard": 1}, {"train__optimizer": "adamw-8bit", "train__optimizer_offload": True}],
    ids=["FSDP", "HSDP", "8 bits, offload"],
)  # fmt: skip
def test_ranks_round_as_one_process_does(ranks, make_config, changes):
    """The random bits of an element depend on its index in the full weight, so not on which rank holds it; no block is shared."""
    configuration = raw(make_config, model__precision="bf16-sr", **changes)
    one = rank_cases.rounded_steps(ALONE, configuration)
    assert ranks.run("rounded_steps", raw=configuration) == [one, one]


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"parallel__shard": 1, "model__lora": "lora", "model__lora_rank": 3},
        {"model__precision": "bf16-sr", "train__optimizer": "adamw-8bit", **IN_BACKWARD},
    ],
    ids=str,
)
def test_checkpoints_are_read_by_any_number_of_ranks_bit_for_bit(ranks, make_config, tmp_path, changes):
    pytest.importorskip("peft")
    configuration = raw(make_config, **changes)
    alone, together = str(tmp_path / "alone"), str(tmp_path / "together")
    one = rank_cases.save_after_steps(ALONE, configuration, alone)
    assert rank_cases.load_and_hash(ALONE, configuration, alone) == one
    assert ranks.run("load_and_hash", raw=configuration, run=alone) == [one, one]
    many = ranks.run("save_after_steps", raw=configuration, run=together)
    [both] = (tmp_path / "together" / "checkpoints").iterdir()
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata"} == set(files_of(both)) and fault_of(both) == ""
    assert ranks.run("load_and_hash", raw=configuration, run=together) == many
    shutil.rmtree(tmp_path / "alone")
    assert rank_cases.load_and_hash(ALONE, configuration, together) == many[0]


# ── whole runs: of one process, and of two ranks in every way ──


@pytest.fixture(scope="module")
def raw_of(tiny_model, tmp_path_factory):
    """The raw configuration of a run by name, beside the run "one" of one process; two batches of the panel, two evaluations."""
    directory = tmp_path_factory.mktemp("runs")
    (directory / "train.jsonl").write_text(to_lines(arithmetic.rows("train", 48)))

    def make(name: str, **evaluation) -> dict:
        return {
            "model": {"id": tiny_model, "device": "cpu", "precision": "fp32"},
            "data": {"train": str(directory / "train.jsonl"), "prompt": "plain", "test_size": 0.2},
            "train": {"lr": 1e-3, "batch_size": 4, "grad_accum": 2, "num_steps": 6},
            "eval": {"every": 4, "examples": 4, "full": False, "max_new_tokens": 8, "batch_size": 2, "backend": "native"} | evaluation,
            "run": {"dir": str(directory / name)},
        }

    fine_tune(parse_config(make("one")))
    return make


def directory_of(raw: dict) -> Path:
    return Path(raw["run"]["dir"])


def assert_close_runs(ours: Path, theirs: Path) -> None:
    """Losses, gradient norms and weights within rounding, the same responses, each line once."""
    for name in ("metrics.jsonl", "generations.jsonl"):
        a, b = (without_times(lines_of(run / name)) for run in (ours, theirs))
        assert [(line.get("kind"), line["step"]) for line in a] == [(line.get("kind"), line["step"]) for line in b]
        for one, other in zip(a, b, strict=True):
            for key in ("loss", "grad_norm", "token_entropy", "accuracy"):
                assert one.get(key) == (None if other.get(key) is None else pytest.approx(other[key], rel=1e-5))
            assert one.get("response") == other.get("response")
    assert largest_gap(ours, theirs) <= 1e-6


def largest_gap(ours: Path, theirs: Path) -> float:
    a, b = weights_of(ours), weights_of(theirs)
    assert set(a) == set(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_a_run_of_two_ranks_is_the_run_of_one_and_goes_on_as_either(ranks, raw_of):
    """A signal to one rank stops both. With as many ranks the run goes on bit for bit; with another number, within rounding."""
    one, two, parts, mixed = (raw_of(name) for name in ("one", "two", "parts", "mixed"))
    assert ranks.run("job_train", raw=two) == ["", ""]
    assert_close_runs(directory_of(one), directory_of(two))
    names = [{path.name for path in directory_of(raw).rglob("*") if path.suffix != ".distcp"} for raw in (one, two)]
    assert names[0] == names[1]
    told = ranks.run("job_train", raw=parts, stop_at=3)
    assert "SIGUSR1" in "".join(told)  # the other rank hears of it within a second
    assert all(re.search(r"stopped after step [34] of 6(.|\n)*--launch 2", each) for each in told)
    assert not (directory_of(parts) / "result.json").exists()
    shutil.copytree(directory_of(parts), directory_of(mixed))
    assert ranks.run("job_train", raw=parts) == ["", ""]
    assert_same_run(directory_of(two), directory_of(parts))
    fine_tune(parse_config(mixed))
    assert_close_runs(directory_of(one), directory_of(mixed))


@pytest.mark.slow
def test_a_run_of_one_process_is_made_longer_by_two_ranks(ranks, raw_of):
    """It is the longer run within rounding, each line once, and says what it was before."""
    short, longer = raw_of("grown"), raw_of("straight")
    for raw in (short, longer):
        raw["train"] |= {"num_steps": 4, "schedule": "constant", "warmup_ratio": 0.0}
    fine_tune(parse_config(short))
    for raw in (short, longer):
        raw["train"]["num_steps"] = 6
    fine_tune(parse_config(longer))
    assert ranks.run("job_train", raw=short) == ["", ""]
    run = directory_of(short)
    kept = [line for line in lines_of(run / "metrics.jsonl") if line["kind"] != "prolonged"]
    assert len(kept) + 1 == len(lines_of(run / "metrics.jsonl"))
    (run / "metrics.jsonl").write_text(to_lines(kept))
    assert_close_runs(directory_of(longer), run)


@pytest.mark.slow
def test_patience_ends_all_ranks_at_the_same_step(ranks, raw_of):
    """No answer of the tiny model is right: the second evaluation is no better than the first."""
    assert ranks.run("job_train", raw=raw_of("patient", patience=1, every=2)) == ["", ""]
    result = json.loads((directory_of(raw_of("patient")) / "result.json").read_text())
    assert result["steps"] == 2 and result["stopped"]["best_step"] == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_engine_evaluates_what_two_ranks_train(ranks, raw_of, mode):
    """The first rank hands the gathered weights over; asynchronously, entropies are those of the flight's step."""
    by_engine = raw_of(mode, backend="fake", mode=mode, when_busy="queue", batch_size=4)
    assert ranks.run("job_train", raw=by_engine, fake="slow" if mode == "async" else "good") == ["", ""]
    one, run = directory_of(raw_of("one")), directory_of(by_engine)
    ours, theirs = ([line for line in lines_of(each / "metrics.jsonl") if line["kind"] == "eval"] for each in (one, run))
    theirs.sort(key=lambda line: line["step"])
    assert [line["step"] for line in theirs] == [0, 4, 6]
    for native, engine in zip(ours, theirs, strict=True):
        assert engine["certificate"]["holds"] and engine["certificate"]["max_gap"] < 1e-4
        assert engine["avg_token_entropy"] == pytest.approx(native["avg_token_entropy"], abs=1e-4)
    assert largest_gap(one, run) <= 1e-6

"""Evaluation while training through an engine in a process of its own; a stand-in for vLLM keeps it to seconds."""

from __future__ import annotations

import json
import random
import sys

import pytest
import torch

from tutelage import InputError, train_one_size
from tutelage.generation import Sampling, vllm
from tutelage.runlog import read_lines

STEPS = {"train__num_steps": 6, "eval__every": 2}


@pytest.fixture
def engine(monkeypatch):
    """Make the stand-in take vLLM's place, and say how it behaves."""

    def behave(how: str) -> None:
        monkeypatch.setenv("STAND_IN", how)

    monkeypatch.setattr(vllm, "FACTORY", "stand_in:StandIn")
    monkeypatch.setattr(vllm, "missing", lambda device: "")
    behave("good")
    return behave


def lines(directory, kind):
    return [line for line in read_lines(directory / "metrics.jsonl") if line["kind"] == kind]


def weights(directory):
    from safetensors.torch import load_file

    return load_file(directory / "model" / "model.safetensors")


def test_an_engine_generates_what_the_model_would(make_config, tmp_path, engine):
    """The same responses, lengths and entropies at every step, a certificate with each, and the same training, bit for bit."""
    native = train_one_size(make_config(**STEPS, run__dir=str(tmp_path / "a"))).directory
    result = train_one_size(make_config(**STEPS, eval__backend="vllm", run__dir=str(tmp_path / "b")))
    assert [line["step"] for line in result.evaluations] == [0, 2, 4, 6]
    for ours, theirs in zip(lines(native, "eval"), result.evaluations, strict=True):
        assert theirs["avg_token_entropy"] == pytest.approx(ours["avg_token_entropy"], abs=1e-4)
        assert theirs["avg_response_length"] == ours["avg_response_length"]
        certificate = theirs["certificate"]
        assert certificate["holds"] and certificate["max_gap"] < 1e-4 and certificate["dtype"] == "float32"
        assert len(certificate["weights_sha256"]) == 64
    hashes = [line["certificate"]["weights_sha256"] for line in result.evaluations]
    assert len(set(hashes)) == 4
    said = [[record["response"] for record in read_lines(run / "generations.jsonl")] for run in (native, result.directory)]
    assert said[0] == said[1]
    ours, theirs = weights(native), weights(result.directory)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_goes_on_while_the_engine_generates(make_config, tmp_path, engine):
    """Asynchronous results bear the step whose weights they used; they are those of the synchronous run, and all come in."""
    engine("slow")
    waiting = train_one_size(make_config(**STEPS, eval__backend="vllm", run__dir=str(tmp_path / "a")))
    flying = train_one_size(
        make_config(**STEPS, eval__backend="vllm", eval__mode="async", eval__when_busy="queue", run__dir=str(tmp_path / "b"))
    )
    assert [line["step"] for line in flying.evaluations] == [0, 2, 4, 6]
    assert flying.evaluations[0]["logged_at_step"] > 0
    for a, b in zip(waiting.evaluations, flying.evaluations, strict=True):
        assert a["certificate"]["weights_sha256"] == b["certificate"]["weights_sha256"]
        assert a["avg_token_entropy"] == pytest.approx(b["avg_token_entropy"], abs=1e-5)
        assert a["avg_response_length"] == b["avg_response_length"]
    assert flying.evaluation_cost["training_seconds"] > 0


def test_at_most_one_evaluation_is_in_flight_and_one_may_be_left_out(make_config, engine):
    engine("slow")
    result = train_one_size(make_config(**STEPS, eval__backend="vllm", eval__mode="async", eval__when_busy="skip"))
    assert [line["step"] for line in result.evaluations] == [0, 6]  # the last is never left out
    assert [line["step"] for line in lines(result.directory, "eval_skipped")] == [2, 4]


def test_by_default_training_waits_for_the_evaluation_in_flight_before_the_next(make_config, engine):
    engine("slow")
    result = train_one_size(make_config(**STEPS, eval__backend="vllm", eval__mode="async"))
    assert [(line["step"], line["logged_at_step"]) for line in result.evaluations] == [(0, 2), (2, 4), (4, 6), (6, 6)]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_engine_that_dies_is_started_again(make_config, tmp_path, engine, mode, capsys):
    engine(f"die-once@{tmp_path / 'starts'}")
    result = train_one_size(make_config(**STEPS, eval__backend="vllm", eval__mode=mode))
    assert [line["step"] for line in result.evaluations] == [0, 2, 4, 6]
    (failure,) = lines(result.directory, "engine_failed")
    assert failure["step"] == 0 and "exit code 3" in failure["reason"] and "had enough" in failure["reason"]
    assert "it is started again" in capsys.readouterr().out


def test_an_engine_that_hangs_is_ended_and_started_again(make_config, tmp_path, engine):
    engine(f"hang-once@{tmp_path / 'starts'}")
    result = train_one_size(make_config(train__num_steps=2, eval__every=0, eval__backend="vllm", eval__timeout=15))
    assert [line["step"] for line in result.evaluations] == [0, 2]
    assert "did not answer for 15 s" in lines(result.directory, "engine_failed")[0]["reason"]


@pytest.mark.parametrize(("how", "why"), [("die", "exit code 3"), ("wrong", "ValueError: the stand-in does not like this")])
def test_an_engine_that_keeps_failing_does_not_take_training_down(make_config, tmp_path, engine, capsys, how, why):
    engine(f"{how}@{tmp_path / 'starts'}")
    result = train_one_size(make_config(**STEPS, eval__backend="vllm", eval__mode="async"))
    assert result.evaluations == [] and (result.directory / "model" / "model.safetensors").is_file()
    assert len(lines(result.directory, "train")) == 6
    (failure,) = lines(result.directory, "eval_failed")
    assert why in failure["reason"]
    assert len((tmp_path / "starts").read_text().splitlines()) == 2
    assert "no more of this run" in capsys.readouterr().out


def test_stale_weights_fail_the_evaluation_and_nothing_else(make_config, engine, capsys):
    engine("stale")
    result = train_one_size(make_config(**STEPS, train__lr=1e-2, eval__backend="vllm"))
    assert [line["step"] for line in result.evaluations] == [0]
    failed = lines(result.directory, "eval_failed")
    assert [line["step"] for line in failed] == [2, 4, 6]
    assert all(not line["certificate"]["holds"] and line["certificate"]["max_gap"] > 1e-3 for line in failed)
    assert {record["step"] for record in read_lines(result.directory / "generations.jsonl")} == {0}
    assert "does not hold the trainer's weights" in capsys.readouterr().out


def test_an_engine_leaves_the_trainer_alone(tiny_model, engine):
    """Random states, threads, process groups, loaded modules: all as they were."""
    from tutelage import init_vllm

    random.seed(1)
    torch.manual_seed(2)
    before = random.getstate(), torch.get_rng_state(), torch.get_num_threads(), torch.distributed.is_initialized()
    llm = init_vllm(tiny_model, "cpu", 7)
    try:
        llm.generate([[5, 6, 7]], Sampling(3, temperature=0))
    finally:
        llm.close()
    after = random.getstate(), torch.get_rng_state(), torch.get_num_threads(), torch.distributed.is_initialized()
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2:] == after[2:]
    assert "vllm" not in sys.modules


def test_the_panel_is_asked_each_time_and_everything_at_the_ends(make_config, engine):
    result = train_one_size(make_config(**STEPS, eval__backend="vllm", eval__full=True))
    assert [line["examples"] for line in result.evaluations] == [4] * 4
    assert [line.get("full", {}).get("examples") for line in result.evaluations] == [10, None, None, 10]
    records = read_lines(result.directory / "generations.jsonl")
    asked = {step: [record["prompt"] for record in records if record["step"] == step] for step in (0, 2, 4, 6)}
    assert asked[2] == asked[4] == asked[0][:4] and asked[0] == asked[6] and len(set(asked[0])) == 10


def test_ctrl_c_saves_first_and_then_waits_for_what_is_in_flight(make_config, tmp_path, engine, monkeypatch):
    """The interrupted run, continued, has the evaluations and the weights of one that was not."""
    from test_train import interrupt_at_call

    from tutelage.train import Interrupted

    engine("slow")
    changes = {**STEPS, "eval__backend": "vllm", "eval__mode": "async"}
    whole = train_one_size(make_config(**changes, run__dir=str(tmp_path / "whole")))
    config = make_config(**changes, run__dir=str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 4)
        with pytest.raises(Interrupted):
            train_one_size(config)
    assert [line["step"] for line in lines(tmp_path / "parts", "eval")] == [0, 2]
    parts = train_one_size(config)
    assert [line["accuracy"] for line in parts.evaluations] == [line["accuracy"] for line in whole.evaluations]
    hashes = [[line["certificate"]["weights_sha256"] for line in run.evaluations] for run in (whole, parts)]
    assert hashes[0] == hashes[1]


def test_low_rank_adapters_reach_the_engine_merged(make_config, engine):
    pytest.importorskip("peft")
    result = train_one_size(
        make_config(**STEPS, model__lora="lora", model__lora_rank=2, train__lr=1e-2, eval__backend="vllm", eval__mode="async")
    )
    assert all(line["certificate"]["holds"] for line in result.evaluations) and len(result.evaluations) == 4


def test_two_engines_give_what_one_gives(make_config, tmp_path, engine, monkeypatch):
    """`tutelage eval --backend vllm` shares the problems out in portions; every engine is certified."""
    from tutelage import inference

    run = train_one_size(make_config(train__num_steps=1)).directory
    data = str(tmp_path / "train.jsonl")
    settings = ["--eval.examples=24", "--eval.backend=vllm"]
    one = inference.evaluate_file(str(run), data, settings, tmp_path / "one")
    monkeypatch.setattr(inference, "PORTION", 5)
    monkeypatch.setattr(inference, "devices_for", lambda config: [torch.device("cpu")] * 2)
    two = inference.evaluate_file(str(run), data, settings, tmp_path / "two")
    native = inference.evaluate_file(str(run), data, [*settings, "--eval.backend=native"], tmp_path / "native")
    assert len(one["certificates"]) == 1 and len(two["certificates"]) == 2
    assert all(certificate["holds"] for certificate in two["certificates"])
    said = [[line["response"] for line in read_lines(tmp_path / name / "generations.jsonl")] for name in ("one", "two", "native")]
    assert said[0] == said[1] == said[2] and len(said[0]) == 24
    assert two["avg_token_entropy"] == pytest.approx(native["avg_token_entropy"], abs=1e-4)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["accuracy"] == native["accuracy"]


def test_auto_says_what_it_picked(make_config, engine, monkeypatch, capsys, tmp_path):
    from tutelage import plan

    train_one_size(make_config(train__num_steps=1, eval__backend="auto"))
    assert "evaluation: by vLLM on cpu, while training waits" in capsys.readouterr().out
    monkeypatch.setattr(plan, "free_memory", lambda device: 1e9)
    train_one_size(make_config(train__num_steps=1, eval__backend="auto", run__dir=str(tmp_path / "small")))
    assert "evaluation: by the training model itself (it needs 2.0 GB" in capsys.readouterr().out
    with pytest.raises(InputError, match="eval.backend = .vllm.: it needs 2.0 GB, and training leaves 1.0 GB"):
        train_one_size(make_config(train__num_steps=1, eval__backend="vllm", run__dir=str(tmp_path / "smaller")))
    monkeypatch.setattr(vllm, "missing", lambda device: "vLLM is not installed")
    train_one_size(make_config(train__num_steps=1, eval__backend="auto", run__dir=str(tmp_path / "without")))
    assert "evaluation: by the training model itself (vLLM is not installed)" in capsys.readouterr().out

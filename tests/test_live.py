"""Evaluation while training through an engine in a process of its own; a stand-in for vLLM keeps it to seconds."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading

import pytest
import torch

from tutelage import InputError, train_one_size
from tutelage.evaluation.engine import vllm
from tutelage.evaluation.engine.contract import Sampling
from tutelage.runs.files import read_lines

STEPS = {"train__num_steps": 6, "eval__every": 2}


@pytest.fixture
def engine(monkeypatch):
    """Make the stand-in take vLLM's place, and say how it behaves."""

    def behave(how: str) -> None:
        monkeypatch.setenv("STAND_IN", how)

    monkeypatch.setattr(vllm, "FACTORY", "stand_in:StandIn")
    monkeypatch.setattr(vllm, "_missing", lambda device: ("", ""))
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
    assert failure["training_seconds"] >= 0


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

    from tutelage.training.ending import Interrupted

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
    from tutelage.cli import inference

    run = train_one_size(make_config(train__num_steps=1)).directory
    data = str(tmp_path / "train.jsonl")
    settings = ["--eval.examples=24", "--eval.backend=vllm"]
    one = inference.evaluate_file(str(run), data, settings, tmp_path / "one")
    monkeypatch.setattr(inference, "PORTION", 5)
    monkeypatch.setattr(inference, "engine_devices", lambda config: [torch.device("cpu")] * 2)
    two = inference.evaluate_file(str(run), data, settings, tmp_path / "two")
    native = inference.evaluate_file(str(run), data, [*settings, "--eval.backend=native"], tmp_path / "native")
    assert len(one["certificates"]) == 1 and len(two["certificates"]) == 5  # one for each portion
    assert all(certificate["holds"] for certificate in two["certificates"])
    said = [[line["response"] for line in read_lines(tmp_path / name / "generations.jsonl")] for name in ("one", "two", "native")]
    assert said[0] == said[1] == said[2] and len(said[0]) == 24
    assert two["avg_token_entropy"] == pytest.approx(native["avg_token_entropy"], abs=1e-4)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["accuracy"] == native["accuracy"]


def test_auto_says_what_it_picked(make_config, engine, monkeypatch, capsys, tmp_path):
    from tutelage.resources import placement

    train_one_size(make_config(train__num_steps=1, eval__backend="auto"))
    assert "evaluation: by vLLM on cpu, while training waits" in capsys.readouterr().out
    monkeypatch.setattr(placement, "free_memory", lambda device: 1e9)
    train_one_size(make_config(train__num_steps=1, eval__backend="auto", run__dir=str(tmp_path / "small")))
    assert "evaluation: by the training model itself (it needs 2.0 GB" in capsys.readouterr().out
    with pytest.raises(InputError, match="eval.backend = .vllm.: it needs 2.0 GB, and training leaves 1.0 GB"):
        train_one_size(make_config(train__num_steps=1, eval__backend="vllm", run__dir=str(tmp_path / "smaller")))
    monkeypatch.setattr(vllm, "_missing", lambda device: ("vLLM is not installed", "install it"))
    train_one_size(make_config(train__num_steps=1, eval__backend="auto", run__dir=str(tmp_path / "without")))
    assert "evaluation: by the training model itself (vLLM is not installed)" in capsys.readouterr().out


def test_in_turns_the_engine_sleeps_while_training_computes(make_config, tmp_path, engine, monkeypatch):
    """It is started in its own turn too; and if it dies in its sleep, it is started again."""
    from tutelage.resources import placement
    from tutelage.training import loop as train

    engine(f"good@{tmp_path / 'turns'}")
    turns = placement.Placement(torch.device("cpu"), True, 0.5, False)
    monkeypatch.setattr(train, "place_engine", lambda *_: turns)
    result = train_one_size(make_config(**STEPS, eval__backend="vllm"))
    assert [line["step"] for line in result.evaluations] == [0, 2, 4, 6]
    assert (tmp_path / "turns").read_text().split("\n")[:-1] == ["start", "sleep", *["wake up", "sleep"] * 3]


def test_an_engine_that_dies_in_its_sleep_is_started_again(make_config, tmp_path, engine, monkeypatch):
    from tutelage.evaluation import engines
    from tutelage.resources import placement
    from tutelage.training import loop as train

    engine(f"good@{tmp_path / 'turns'}")
    monkeypatch.setattr(train, "place_engine", lambda *_: placement.Placement(torch.device("cpu"), True, 0.5, False))

    class Mortal(engines.Engine):
        def sleep(self):
            super().sleep()
            if len((tmp_path / "turns").read_text().splitlines()) == 2:
                self.remote.process.kill()

    monkeypatch.setattr(engines, "Engine", Mortal)
    result = train_one_size(make_config(**STEPS, eval__backend="vllm"))
    assert [line["step"] for line in result.evaluations] == [0, 2, 4, 6]
    assert (tmp_path / "turns").read_text().splitlines().count("start") == 2


def test_the_engines_process_sees_its_gpu_alone(monkeypatch):
    from tutelage.evaluation import engines

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert engines.visible_name(1) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    assert engines.visible_name(1) == "GPU-5f"
    with pytest.raises(InputError, match="names no GPU number 2"):
        engines.visible_name(2)


def test_ctrl_c_twice_ends_the_engine_and_gives_up_what_was_in_flight(make_config, tmp_path, engine, monkeypatch, capsys):
    """No engine is started again, nothing waits for it; the run, continued, evaluates that step."""
    from tutelage.evaluation import engines, live
    from tutelage.training.ending import Interrupted

    engine(f"slow@{tmp_path / 'starts'}")
    config = make_config(**STEPS, eval__backend="vllm")

    def impatient(self, step):
        raise KeyboardInterrupt

    class Interrupting(engines.Engine):
        def generate(self, *arguments, **options):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            return super().generate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(engines, "Engine", Interrupting)
        patch.setattr(live.Evaluator, "finish", impatient)
        with pytest.raises(Interrupted):
            train_one_size(config)
    assert (tmp_path / "starts").read_text().splitlines() == ["start"]
    (lost,) = lines(tmp_path / "run", "eval_lost")
    assert lost["step"] == 0 and "is lost" in capsys.readouterr().out
    assert [line["step"] for line in train_one_size(config).evaluations] == [0, 2, 4, 6]


def test_an_engine_that_was_closed_is_not_started_again(tiny_model, engine):
    from tutelage import init_vllm
    from tutelage.evaluation.engine.process import EngineError

    llm = init_vllm(tiny_model, "cpu", 7)
    pid = llm.remote.process.pid
    llm.close()
    with pytest.raises(EngineError, match="was closed"):
        llm.start()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_run_of_before_is_read_as_what_it_was():
    """`eval.engine`, a device that was named whether it was used or not, and no problems beyond the panel."""
    from tutelage.config import parse_config

    old = parse_config({"eval": {"engine": "native", "device": "cuda:1", "examples": 64}}).eval
    assert (old.backend, old.device, old.full, old.examples) == ("native", "auto", False, 64)
    used = parse_config({"eval": {"engine": "vllm", "device": "cuda:1"}}).eval
    assert (used.backend, used.device, used.full) == ("vllm", "cuda:1", False)


def test_in_turns_one_ctrl_c_ends_the_engine_first(make_config, tmp_path, engine, monkeypatch):
    """Its memory must be free before the optimizer's state comes back."""
    from tutelage.evaluation import engines
    from tutelage.resources import placement
    from tutelage.training import loop as train
    from tutelage.training.ending import Interrupted

    engine("slow")
    turns = placement.Placement(torch.device("cpu"), True, 0.5, False)

    class Interrupting(engines.Engine):
        def generate(self, *arguments, **options):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            return super().generate(*arguments, **options)

    monkeypatch.setattr(train, "place_engine", lambda *_: turns)
    monkeypatch.setattr(engines, "Engine", Interrupting)
    with pytest.raises(Interrupted):
        train_one_size(make_config(**STEPS, eval__backend="vllm"))
    assert [line["step"] for line in lines(tmp_path / "run", "eval_lost")] == [0]
    assert not lines(tmp_path / "run", "eval_failed") and not lines(tmp_path / "run", "engine_failed")


def test_the_callers_own_mistakes_are_not_the_engines(tiny_model, engine):
    """They are raised as they are, and what the engine would have answered is not taken for the next answer."""
    from tutelage import init_vllm

    llm = init_vllm(tiny_model, "cpu", 7)
    try:
        with pytest.raises(AttributeError, match="pickle"):
            llm.generate([[5, 6]], lambda: None)
        llm.start()

        def careless(count):
            raise TypeError("mine")

        with pytest.raises(TypeError, match="mine"):
            llm.generate([[5, 6]], Sampling(3, temperature=0), on_finished=careless)
        assert not llm.running
    finally:
        llm.close()


def test_memory_that_runs_out_for_the_entropies_fails_that_evaluation_alone(make_config, engine, monkeypatch):
    from tutelage.evaluation import live

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(live, "add_entropies", too_much)
    result = train_one_size(make_config(**STEPS, eval__backend="vllm"))
    assert result.evaluations == [] and len(lines(result.directory, "eval_failed")) == 4

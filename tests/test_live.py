"""Evaluation while training through an engine: the fake, in this process where no process is the claim."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from lines import read_lines

from tutelage.errors import InputError
from tutelage.evaluation import live
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.fake import FakeEngine
from tutelage.evaluation.engine.handle import EngineHandle
from tutelage.resources import visible_name
from tutelage.resources.placement import Placement
from tutelage.training import fine_tune, loop
from tutelage.training.ending import Interrupted

STEPS = {"train__num_steps": 6, "eval__every": 2, "eval__backend": "fake"}


def lines(directory, kind):
    return [line for line in read_lines(directory / "metrics.jsonl") if line["kind"] == kind]


def steps(found):
    return [line["step"] for line in found]


def weights(directory):
    from safetensors.torch import load_file

    return load_file(directory / "model" / "model.safetensors")


@pytest.fixture
def gate(monkeypatch):
    """Hold every response back until training waits for it."""
    opened, generate, land = threading.Event(), FakeEngine.generate, live.EngineEvaluator._land

    def held(self, *arguments, **options):
        assert opened.wait(600)
        return generate(self, *arguments, **options)

    def landing(self, now):
        opened.set()
        land(self, now)
        opened.clear()

    monkeypatch.setattr(FakeEngine, "generate", held)
    monkeypatch.setattr(live.EngineEvaluator, "_land", landing)


@pytest.fixture
def gate_if_async(request, mode):
    if mode == "async":
        request.getfixturevalue("gate")


@pytest.fixture
def in_turns(monkeypatch):
    """Training and the engine take turns, as on one GPU."""
    monkeypatch.setattr(loop, "place_engine", lambda *_: Placement(torch.device("cpu"), True, 0.5, False))


# ── what an engine answers ──


@pytest.mark.slow
def test_an_engine_in_its_process_answers_what_the_model_would(make_config, tmp_path, fake):
    """The panel each time and all problems at the ends; a certificate with each; and the same training, bit for bit."""
    changes = {**STEPS, "eval__full": True}
    native = fine_tune(make_config(**{**changes, "eval__backend": "native"}, run__dir=str(tmp_path / "a"))).directory
    result = fine_tune(make_config(**changes, run__dir=str(tmp_path / "b")))
    assert steps(result.evaluations) == [0, 2, 4, 6]
    for ours, theirs in zip(lines(native, "eval"), result.evaluations, strict=True):
        assert theirs["avg_token_entropy"] == pytest.approx(ours["avg_token_entropy"], abs=1e-4)
        assert theirs["avg_response_length"] == ours["avg_response_length"]
        certificate = theirs["certificate"]
        assert certificate["holds"] and certificate["max_gap"] < 1e-4 and certificate["dtype"] == "float32"
        assert len(certificate["weights_sha256"]) == 64
    assert len({line["certificate"]["weights_sha256"] for line in result.evaluations}) == 4
    assert [line["examples"] for line in result.evaluations] == [4] * 4
    assert [line.get("full", {}).get("examples") for line in result.evaluations] == [10, None, None, 10]
    records = read_lines(result.directory / "generations.jsonl")
    assert [record["response"] for record in read_lines(native / "generations.jsonl")] == [
        record["response"] for record in records
    ]
    asked = {step: [record["prompt"] for record in records if record["step"] == step] for step in (0, 2, 4, 6)}
    assert asked[2] == asked[4] == asked[0][:4] and asked[0] == asked[6] and len(set(asked[0])) == 10
    ours, theirs = weights(native), weights(result.directory)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_goes_on_while_the_engine_generates(make_config, tmp_path, inside, gate):
    """Asynchronous results bear the step whose weights they used, and are those of the synchronous run."""
    flying = fine_tune(make_config(**STEPS, eval__mode="async", eval__when_busy="queue", run__dir=str(tmp_path / "b")))
    waiting = fine_tune(make_config(**{**STEPS, "eval__backend": "native"}, run__dir=str(tmp_path / "a")))
    assert [(line["step"], line["logged_at_step"]) for line in flying.evaluations] == [(0, 6), (2, 6), (4, 6), (6, 6)]
    for a, b in zip(waiting.evaluations, flying.evaluations, strict=True):
        assert b["certificate"]["holds"]
        assert a["avg_token_entropy"] == pytest.approx(b["avg_token_entropy"], abs=1e-4)
        assert a["avg_response_length"] == b["avg_response_length"]
    assert flying.evaluation_cost["training_seconds"] > 0


@pytest.mark.parametrize(
    ("when_busy", "evaluated", "skipped"),
    [("wait", [(0, 2), (2, 4), (4, 6), (6, 6)], []), ("skip", [(0, 6), (6, 6)], [2, 4])],  # the last is never left out
)
def test_one_evaluation_is_in_flight_at_most(make_config, inside, gate, when_busy, evaluated, skipped):
    result = fine_tune(make_config(**STEPS, eval__mode="async", eval__when_busy=when_busy))
    assert [(line["step"], line["logged_at_step"]) for line in result.evaluations] == evaluated
    assert steps(lines(result.directory, "eval_skipped")) == skipped


@pytest.mark.slow
def test_low_rank_adapters_reach_the_engine_merged(make_config, inside):
    pytest.importorskip("peft")
    result = fine_tune(make_config(**STEPS, model__lora="lora", model__lora_rank=2, train__lr=1e-2, eval__mode="async"))
    assert all(line["certificate"]["holds"] for line in result.evaluations) and len(result.evaluations) == 4


@pytest.mark.slow
def test_two_engines_give_what_one_gives(make_config, tmp_path, inside, monkeypatch):
    """`tutelage eval` shares the problems out in parts; every part has its certificate."""
    from tutelage.cli.eval import evaluate_file
    from tutelage.evaluation import spread

    run = fine_tune(make_config(train__num_steps=1, eval__before=False)).directory
    data = str(tmp_path / "train.jsonl")
    settings = ["--eval.examples=24", "--eval.backend=fake", "--eval.samples=2", "--eval.temperature=1"]
    one = evaluate_file(str(run), data, settings, tmp_path / "one")
    monkeypatch.setattr(spread, "PORTION", 5)
    monkeypatch.setattr(spread, "engine_devices", lambda config: [torch.device("cpu")] * 2)
    two = evaluate_file(str(run), data, settings, tmp_path / "two")
    native = evaluate_file(str(run), data, [*settings, "--eval.backend=native"], tmp_path / "native")
    assert len(one["certificates"]) == 1 and len(two["certificates"]) == 5
    assert all(certificate["holds"] for certificate in two["certificates"])
    said = [[line["response"] for line in read_lines(tmp_path / name / "generations.jsonl")] for name in ("one", "two", "native")]
    assert said[0] == said[1] == said[2] and len(said[0]) == 48
    assert two["avg_token_entropy"] == pytest.approx(native["avg_token_entropy"], abs=1e-4)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["accuracy"] == native["accuracy"]


@pytest.mark.slow
def test_an_engine_of_ones_own_is_one_file_beside_the_configuration(make_config, tmp_path, monkeypatch, capsys):
    """Its class is found in the current directory, by the engine's process too, and its evaluations are certified."""
    from tutelage.cli.entry import main
    from tutelage.config import to_toml

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_engine.py").write_text(
        "from tutelage.evaluation.engine.fake import FakeEngine\n\n\n"
        "class Engine:\n"
        "    def __init__(self, **setting):\n"
        "        self.inner = FakeEngine(**setting)\n\n"
        "    def load(self, weights):\n"
        "        self.inner.load(weights)\n\n"
        "    def score(self, sequences, cuts):\n"
        "        return self.inner.score(sequences, cuts)\n\n"
        "    def generate(self, prompts, sampling, indices=None, on_finished=lambda count: None):\n"
        "        print('mine was asked', flush=True)\n"
        "        return self.inner.generate(prompts, sampling, indices, on_finished)\n\n\n"
        "class Half:\n"
        "    def load(self, weights): ...\n"
    )
    (tmp_path / "config.toml").write_text(to_toml(make_config(train__num_steps=2)))
    assert main(["train", "config.toml", "--eval.backend", "my_engine:Engine"]) == 0
    evaluated = lines(tmp_path / "run", "eval")
    assert steps(evaluated) == [0, 2] and all(line["certificate"]["holds"] for line in evaluated)
    assert "mine was asked" in (tmp_path / "run" / "engine.log").read_text()
    for name, what in (("my_engine:Half", "no generate, score"), ("my_engine:None_", "no None_"), ("mine", 'choose "auto"')):
        assert main(["train", "config.toml", "--run.dir", "other", "--eval.backend", name]) == 2
        assert what in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_auto_takes_an_engine_that_can_run_and_says_so(make_config, tmp_path, inside, monkeypatch, capsys):
    from dataclasses import replace

    from tutelage.evaluation.engine import registry

    changes = {"train__num_steps": 1, "eval__before": False, "eval__backend": "auto"}
    result = fine_tune(make_config(**changes))
    assert result.evaluations[0]["certificate"]["holds"]
    assert "on cpu, while training waits" in capsys.readouterr().out
    absent = replace(registry.ENGINES["fake"], missing=lambda device: ("it is not installed", "install it"))
    monkeypatch.setitem(registry.ENGINES, "fake", absent)
    result = fine_tune(make_config(**changes, run__dir=str(tmp_path / "without")))
    assert "certificate" not in result.evaluations[0]
    assert "evaluation: by the training model itself (it is not installed)" in capsys.readouterr().out
    with pytest.raises(InputError, match="it is not installed: install it; or .*native"):
        fine_tune(
            make_config(**{**changes, "eval__backend": "fake"}, data__train="/nowhere.jsonl", run__dir=str(tmp_path / "c"))
        )


# ── what it costs training ──


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_evaluation_by_an_engine_changes_no_bit_of_training(make_config, tmp_path, inside, gate_if_async, mode):
    """Asynchronous, the exact entropies are of weights that training has left behind: the policy holds those for a while."""
    plain = fine_tune(make_config(**{**STEPS, "eval__every": 0, "eval__backend": "native"}, eval__before=False)).directory
    result = fine_tune(make_config(**STEPS, eval__mode=mode, run__dir=str(tmp_path / "watched")))
    assert all(line["entropy"] == "exact" and line["avg_token_entropy"] > 0 for line in result.evaluations)
    assert (result.evaluations[0]["logged_at_step"] > 0) == (mode == "async")
    ours, theirs = weights(plain), weights(result.directory)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_interrupted_entropy_pass_is_done_again_and_leaves_the_weights_as_trained(
    make_config, tmp_path, inside, gate, monkeypatch
):
    """Ctrl-C while the policy holds the weights of an earlier step: the state that is saved is that of training."""
    from tutelage.evaluation import solve

    unbroken = fine_tune(make_config(**{**STEPS, "eval__backend": "native"}, run__dir=str(tmp_path / "unbroken")))
    config, original, calls = make_config(**STEPS, eval__mode="async"), solve.add_entropies, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(solve, "add_entropies", interrupted)
    with pytest.raises(Interrupted):
        fine_tune(config)
    (first,) = lines(tmp_path / "run", "eval")
    assert (first["step"], first["logged_at_step"], first["entropy"]) == (0, 2, "exact")
    result = fine_tune(config)
    assert [line["avg_token_entropy"] for line in result.evaluations] == pytest.approx(
        [line["avg_token_entropy"] for line in unbroken.evaluations], abs=1e-4
    )
    ours, theirs = weights(unbroken.directory), weights(result.directory)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_evaluation_says_what_training_stood_still_for(make_config, tmp_path, inside):
    """Training that waits waits for all of it; after the last step it has nothing left to do."""
    native = fine_tune(make_config(**{**STEPS, "eval__backend": "native"}, run__dir=str(tmp_path / "native")))
    engine = fine_tune(make_config(**STEPS))
    for result, engaged in ((native, False), (engine, True)):
        for line in result.evaluations:
            parts = line["stood_still_seconds"]
            assert list(parts) == ["weights", "waiting", "entropies", "grading"]
            assert sum(parts.values()) == pytest.approx(line["training_seconds"], abs=0.003)
            assert line["generation_seconds"] > 0 and line["grading_seconds"] >= 0
            assert line["sync_seconds"] == (line["certificate"]["sync_seconds"] if engaged else None)
            if line["step"] == 6:
                assert line["training_seconds"] == 0
            else:
                assert parts["waiting"] == pytest.approx(line["generation_seconds"], abs=0.5)  # a busy machine may stop us between
                assert parts["grading"] == pytest.approx(line["grading_seconds"], abs=0.5)
                assert (parts["entropies"] > 0) == engaged and (parts["weights"] > 0 or not engaged)
        cost = json.loads((result.directory / "result.json").read_text())["evaluation_cost"]
        assert cost == result.evaluation_cost and 0 < cost["share"] < 1
        assert sum(cost["stood_still_seconds"].values()) == pytest.approx(cost["evaluation_seconds"], abs=0.03)


def test_a_wait_is_divided_from_its_end(monkeypatch):
    """It ended with grading; before that the engine generated; what is left went to its start and its loading."""
    from types import SimpleNamespace

    from tutelage.evaluation.solve import Solved
    from tutelage.evaluation.validation import Evaluation, Evaluator

    clock = iter([0.0, 1.0, 11.0, 13.0, 20.0, 21.0])
    monkeypatch.setattr("tutelage.evaluation.validation.time", SimpleNamespace(monotonic=lambda: next(clock)))
    evaluator, evaluation = SimpleNamespace(total=9), Evaluation(3, None, None, 0.0)
    with Evaluator.standing_still(evaluator, evaluation, "weights", 3), Evaluator.standing_still(evaluator, evaluation, "waiting", 3):
        pass  # 13 seconds, of which 10 are the inner part's
    assert evaluation.stood_still == {"weights": 3.0, "waiting": 10.0, "entropies": 0.0, "grading": 0.0}
    with Evaluator.standing_still(evaluator, evaluation, "entropies", 9):
        pass  # after the last step
    assert evaluation.cost == 13.0
    for waited, generation, grading, parts in (
        (10.0, 6.0, 3.0, (4.0, 6.0, 3.0)), (10.0, 60.0, 3.0, (3.0, 7.0, 3.0)), (10.0, 6.0, 30.0, (3.0, 0.0, 10.0)),
    ):  # fmt: skip
        evaluation.stood_still = {"weights": 3.0, "waiting": waited, "entropies": 0.0, "grading": 0.0}
        evaluation.divide_waiting(Solved(generation_seconds=generation, grading_seconds=grading))
        assert tuple(evaluation.stood_still[part] for part in ("weights", "waiting", "grading")) == parts
        assert evaluation.cost == 13.0


# ── engines that fail ──


@pytest.mark.slow
def test_an_engine_that_dies_is_started_again(make_config, tmp_path, fake, capsys):
    fake(f"die-once@{tmp_path / 'starts'}")
    result = fine_tune(make_config(**STEPS, eval__mode="async"))
    assert steps(result.evaluations) == [0, 2, 4, 6]
    (failure,) = lines(result.directory, "engine_failed")
    assert failure["step"] == 0 and "exit code 3" in failure["reason"] and "had enough" in failure["reason"]
    assert "it is started again" in capsys.readouterr().out


def test_an_engine_that_keeps_failing_does_not_take_training_down(make_config, tmp_path, inside, capsys):
    inside(f"wrong@{tmp_path / 'starts'}")
    result = fine_tune(make_config(**STEPS, eval__mode="async"))
    assert result.evaluations == [] and (result.directory / "model" / "model.safetensors").is_file()
    assert len(lines(result.directory, "train")) == 6
    (failure,) = lines(result.directory, "eval_failed")
    assert "ValueError: the fake engine does not like this" in failure["reason"] and failure["training_seconds"] >= 0
    assert len((tmp_path / "starts").read_text().splitlines()) == 2
    assert "no more of this run" in capsys.readouterr().out


def test_stale_weights_fail_the_evaluation_and_nothing_else(make_config, inside, capsys):
    inside("stale")
    result = fine_tune(make_config(**STEPS, train__lr=1e-2))
    assert steps(result.evaluations) == [0]
    failed = lines(result.directory, "eval_failed")
    assert steps(failed) == [2, 4, 6]
    assert all(not line["certificate"]["holds"] and line["certificate"]["max_gap"] > 1e-3 for line in failed)
    assert {record["step"] for record in read_lines(result.directory / "generations.jsonl")} == {0}
    assert "does not hold the trainer's weights" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_entropies_that_fail_leave_the_accuracy_as_it_is(make_config, tmp_path, inside, monkeypatch, capsys, mode):
    """Memory that runs out in the scoring pass, or while the copied weights come back to the device."""
    from tutelage.cli.eval import evaluate_file
    from tutelage.evaluation import solve
    from tutelage.model.policy import Policy

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate")

    monkeypatch.setattr(*((solve, "add_entropies", too_much) if mode == "sync" else (Policy, "holding", too_much)))
    result = fine_tune(make_config(**STEPS, eval__mode=mode))
    assert steps(result.evaluations) == [0, 2, 4, 6] and lines(result.directory, "eval_failed") == []
    without = (
        result.evaluations if mode == "sync" else [line for line in result.evaluations if line["step"] < line["logged_at_step"]]
    )
    for line in without:
        assert (line["entropy"], line["avg_token_entropy"]) == ("off", None) and 0 <= line["accuracy"] <= 1
        assert line["entropy_failed"] == "OutOfMemoryError: CUDA out of memory"
    assert without and "its entropies could not be computed (OutOfMemoryError" in capsys.readouterr().out
    if mode == "sync":  # `tutelage eval` keeps what was graded, too
        summary = evaluate_file(
            str(result.directory), str(tmp_path / "train.jsonl"), ["--eval.examples=4", "--eval.backend=fake"], tmp_path / "file"
        )
        assert (summary["entropy"], summary["entropy_failed"]) == ("off", "OutOfMemoryError: CUDA out of memory")


# ── one GPU in turns ──


def test_in_turns_the_engine_sleeps_while_training_computes(make_config, tmp_path, inside, in_turns):
    """It is started in its own turn, too."""
    inside(f"good@{tmp_path / 'turns'}")
    assert steps(fine_tune(make_config(**STEPS)).evaluations) == [0, 2, 4, 6]
    assert (tmp_path / "turns").read_text().splitlines() == ["start", "sleep", *["wake up", "sleep"] * 3]


@pytest.mark.slow
def test_an_engine_that_does_not_wake_up_is_started_again(make_config, tmp_path, inside, in_turns, monkeypatch):
    inside(f"good@{tmp_path / 'turns'}")
    wake_up, woken = FakeEngine.wake_up, []

    def once(self):
        woken.append(self)
        if len(woken) == 1:
            raise RuntimeError("no memory")
        wake_up(self)

    monkeypatch.setattr(FakeEngine, "wake_up", once)
    assert steps(fine_tune(make_config(**STEPS)).evaluations) == [0, 2, 4, 6]
    assert (tmp_path / "turns").read_text().splitlines().count("start") == 2


def test_an_engine_without_sleep_is_refused_where_it_would_take_turns(make_config, inside, in_turns, monkeypatch):
    from dataclasses import replace

    from tutelage.evaluation.engine import registry

    monkeypatch.setitem(registry.ENGINES, "fake", replace(registry.ENGINES["fake"], sleeps=False))
    with pytest.raises(InputError, match="no sleep and wake_up"):
        fine_tune(make_config(**STEPS))


# ── Ctrl-C ──


@pytest.fixture
def ctrl_c_while_it_generates(monkeypatch):
    def generate(self, *arguments, original=EngineHandle.generate, **options):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(EngineHandle, "generate", generate)
        yield patch


@pytest.mark.slow
def test_ctrl_c_saves_first_and_then_waits_for_what_is_in_flight(make_config, tmp_path, inside, monkeypatch):
    """The interrupted run, continued, has the evaluations and the weights of one that was not."""
    from tutelage.training import fit

    unbroken = fine_tune(make_config(**STEPS, run__dir=str(tmp_path / "unbroken")))
    inside("slow")
    config = make_config(**STEPS, eval__mode="async", run__dir=str(tmp_path / "parts"))
    accumulate = fit.accumulate_gradients

    def interrupted(policy, examples, batches, config, step, *others, **more):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return accumulate(policy, examples, batches, config, step, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "accumulate_gradients", interrupted)
        with pytest.raises(Interrupted):
            fine_tune(config)
    assert steps(lines(tmp_path / "parts", "eval")) == [0, 2]
    inside("good")
    parts = fine_tune(config)
    assert [line["accuracy"] for line in parts.evaluations] == [line["accuracy"] for line in unbroken.evaluations]
    hashes = [[line["certificate"]["weights_sha256"] for line in run.evaluations] for run in (unbroken, parts)]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_ctrl_c_twice_ends_the_engine_and_gives_up_what_was_in_flight(
    make_config, tmp_path, inside, ctrl_c_while_it_generates, capsys
):
    """No engine is started again, nothing waits for it; the run, continued, evaluates that step."""
    inside(f"slow@{tmp_path / 'starts'}")

    def impatient(self, step):
        raise KeyboardInterrupt

    ctrl_c_while_it_generates.setattr(live.EngineEvaluator, "finish", impatient)
    with pytest.raises(Interrupted):
        fine_tune(make_config(**STEPS))
    assert (tmp_path / "starts").read_text().splitlines() == ["start"]
    assert steps(lines(tmp_path / "run", "eval_lost")) == [0] and "is lost" in capsys.readouterr().out
    ctrl_c_while_it_generates.undo()
    inside("good")
    assert steps(fine_tune(make_config(**STEPS)).evaluations) == [0, 2, 4, 6]


@pytest.mark.slow
def test_in_turns_one_ctrl_c_ends_the_engine_first(make_config, tmp_path, inside, in_turns, ctrl_c_while_it_generates):
    """Its memory must be free before the optimizer's state comes back."""
    inside("slow")
    with pytest.raises(Interrupted):
        fine_tune(make_config(**STEPS))
    assert steps(lines(tmp_path / "run", "eval_lost")) == [0]
    assert not lines(tmp_path / "run", "eval_failed") and not lines(tmp_path / "run", "engine_failed")


# ── the process ──


@pytest.mark.slow
def test_an_engine_leaves_the_trainer_alone_and_a_closed_one_stays_closed(tiny_model, fake):
    """Random states, threads, process groups, loaded modules: all as they were."""
    from tutelage import init_vllm
    from tutelage.evaluation.engine.process import EngineError

    random.seed(1)
    torch.manual_seed(2)
    before = random.getstate(), torch.get_rng_state(), torch.get_num_threads(), torch.distributed.is_initialized()
    llm = init_vllm(tiny_model, "cpu", 7, backend="fake")
    try:
        llm.generate([[5, 6, 7]], Sampling(3, temperature=0))
        pid = llm.handle.remote.process.pid
    finally:
        llm.close()
    after = random.getstate(), torch.get_rng_state(), torch.get_num_threads(), torch.distributed.is_initialized()
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2:] == after[2:]
    assert "vllm" not in sys.modules
    with pytest.raises(EngineError, match="was closed"):
        llm.handle.start()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.fixture(scope="module")
def echo():
    """A process whose engine says what it is asked."""
    from tutelage.evaluation.engine.process import Remote

    remote = Remote("echo:Echo", {}, timeout=600)
    yield remote
    remote.close()


@pytest.mark.slow
def test_the_callers_own_mistakes_are_not_the_engines(echo):
    """They are raised as they are, and what the engine would have answered is not taken for the next answer."""
    echo.start()
    assert echo.call("say", "this") == "this"
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        echo.call("say", lambda: None)
    echo.start()

    def careless(count):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        echo.call("count", on_progress=careless)
    assert not echo.running


@pytest.mark.slow
def test_an_engine_that_hangs_is_ended(echo, monkeypatch):
    from tutelage.evaluation.engine.process import EngineError

    echo.start()
    monkeypatch.setattr(echo, "timeout", 2)
    with pytest.raises(EngineError, match="did not answer for 2 s and was ended"):
        echo.call("hang")
    assert not echo.running


@pytest.mark.slow
def test_an_engine_that_reads_nothing_is_ended_even_while_it_is_written_to(echo, monkeypatch):
    """A message larger than the pipe, and a process that was stopped: the caller is not blocked for ever."""
    monkeypatch.setattr(echo, "timeout", 2)
    echo.start()
    os.kill(echo.process.pid, signal.SIGSTOP)
    raised = []

    def call():
        try:
            echo.call("say", "x" * 50_000_000)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(120)
    blocked = thread.is_alive()
    echo.end()
    assert not blocked and "took nothing for 2 s and was ended" in str(raised[0])


@pytest.mark.slow
def test_temporary_files_of_an_engine_go_with_it_but_a_log_that_an_error_names(tmp_path, monkeypatch):
    from tutelage.evaluation.engine.process import EngineError, Remote

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, failing = (Remote("echo:Echo", {}) for _ in range(2))
    assert list(tmp_path.iterdir()) == []
    killed.start()
    left = Path(killed.call("leave_a_file"))
    assert left.is_relative_to(tmp_path) and left.exists()
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.close()
    assert list(tmp_path.iterdir()) == []

    failing.start()
    with pytest.raises(EngineError, match="unknown"):
        failing.call("unknown")
    failing.close()
    assert list(tmp_path.iterdir()) == [failing.log] and "unknown" in failing.log.read_text()


def test_the_engines_process_sees_its_gpu_alone(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_name(1) == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    assert visible_name(1) == "GPU-5f"
    with pytest.raises(InputError, match="names no GPU number 2"):
        visible_name(2)


# ── runs of before ──


def test_a_run_of_before_is_read_as_what_it_was():
    """`eval.engine`, a device that was named whether it was used or not, and no problems beyond the panel."""
    from tutelage.config import parse_config

    old = parse_config({"eval": {"engine": "native", "device": "cuda:1", "examples": 64}}).eval
    assert (old.backend, old.device, old.full, old.examples) == ("native", "auto", False, 64)
    used = parse_config({"eval": {"engine": "vllm", "device": "cuda:1"}}).eval
    assert (used.backend, used.device, used.full) == ("vllm", "cuda:1", False)


def test_an_engine_that_returns_too_many_or_too_few_responses_fails_that_evaluation(make_config, inside, monkeypatch):
    """A multiple of them would be taken for several samples, and graded against other problems."""
    right = FakeEngine.generate
    for change in (lambda found: found * 2, lambda found: found[:-1], lambda found: None):
        monkeypatch.setattr(FakeEngine, "generate", lambda *given, change=change, **more: change(right(*given, **more)))
        config = make_config(**STEPS, train__pack=True)
        config = config.model_copy(update={"run": config.run.model_copy(update={"dir": f"{config.run.dir}-{id(change)}"})})
        result = fine_tune(config)
        assert result.evaluations == [] and "where 4 were asked for" in lines(result.directory, "eval_failed")[0]["reason"]

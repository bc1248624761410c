"""Who answers `sample_problems`: the model itself, engines, workers of a cluster; and what a kill leaves."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lines import read_lines

from tutelage.config import parse_config
from tutelage.data import Example, template_of
from tutelage.evaluation import Wanted, sample_problems
from tutelage.evaluation.engine import native as native_engine
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.fake import FakeEngine
from tutelage.evaluation.engine.output import CompletionOutput, Logprob, to_completion
from tutelage.evaluation.sample import ask
from tutelage.evaluation.sample.answers import _Lines

NUMBERS = ("log_prob", "token_entropy")


@pytest.fixture
def sampling_config(make_config):
    def make(**changes):
        return make_config(**{"eval__temperature": 1.0, "data__prompt": "plain", "eval__max_new_tokens": 12, **changes})

    return make


def problems_for(config, tokenizer, count=5):
    template = template_of(config.data.prompt, tokenizer, {})
    return [Example(template.wrap(f"What is {index} + 1?"), "", str(index + 1), f"p:{index}") for index in range(count)]


def samples_of(out):
    return read_lines(out.with_name(out.name.replace(".jsonl", ".samples.jsonl")))


def without_numbers(lines):
    return [{key: value for key, value in line.items() if key not in NUMBERS} for line in lines]


@pytest.mark.slow
def test_engines_on_two_devices_say_what_the_model_itself_says(sampling_config, tokenizer, tmp_path, inside, monkeypatch):
    """A response depends on its problem, its sample and the seed alone; what an engine does not tell is scored afterwards."""
    monkeypatch.setattr(ask, "AT_ONCE", 4)
    native = sampling_config()
    asked = problems_for(native, tokenizer)
    sample_problems(asked, native, tmp_path / "native.jsonl", Wanted(2))
    two, made = [torch.device("cpu")] * 2, []
    monkeypatch.setattr("tutelage.evaluation.spread.engine_devices", lambda config: two)
    monkeypatch.setattr("tutelage.evaluation.sample.ask.engine_devices", lambda config: two)
    original = FakeEngine.generate

    def silent(self, *arguments, **options):
        made.append(id(self))
        return [replace(each, entropies=None, log_probs=None) for each in original(self, *arguments, **options)]

    monkeypatch.setattr(FakeEngine, "generate", silent)
    fake = sampling_config(eval__backend="fake")
    sample_problems(asked, fake, tmp_path / "fake.jsonl", Wanted(2))
    ours, theirs = samples_of(tmp_path / "native.jsonl"), samples_of(tmp_path / "fake.jsonl")
    assert without_numbers(ours) == without_numbers(theirs) and len(ours) == 10 and len(made) == 3
    for name in NUMBERS:
        assert [each[name] for each in theirs] == pytest.approx([each[name] for each in ours], rel=1e-4), name
    sample_problems(asked, sampling_config(eval__backend="fake", eval__entropy="off"), tmp_path / "off.jsonl", Wanted(2))
    assert all(each["log_prob"] is None for each in samples_of(tmp_path / "off.jsonl"))
    made.clear()
    original_native = native_engine.NativeEngine.generate
    monkeypatch.setattr(
        native_engine.NativeEngine, "generate",
        lambda self, *arguments, **options: (made.append(id(self)), original_native(self, *arguments, **options))[1],
    )  # fmt: skip
    cards = sampling_config(model__device="auto")  # on several devices, the model itself is such an engine
    sample_problems(asked, cards, tmp_path / "cards.jsonl", Wanted(2))
    assert len(made) == 3
    assert without_numbers(samples_of(tmp_path / "cards.jsonl")) == without_numbers(ours)


def test_scores_that_fail_are_told_and_all_else_counts(sampling_config, tokenizer, tmp_path, inside, monkeypatch):
    original = FakeEngine.generate
    monkeypatch.setattr(
        FakeEngine, "generate",
        lambda self, *arguments, **options: [replace(e, entropies=None, log_probs=None) for e in original(self, *arguments, **options)],
    )  # fmt: skip

    def fails(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("tutelage.model.policy.Policy.score_responses", fails)
    monkeypatch.setattr("tutelage.evaluation.spread.expected_of", lambda *arguments: None)
    monkeypatch.setattr("tutelage.evaluation.engine.handle.EngineHandle.load", lambda self, handed: HOLDS)
    config = sampling_config(eval__backend="fake")
    summary = sample_problems(problems_for(config, tokenizer), config, tmp_path / "t.jsonl", Wanted(2))
    assert summary["entropy_failed"] == "RuntimeError: out of memory" and summary["avg_token_entropy"] is None
    assert sum(summary["fates"].values()) == 10


class Holds:
    def require(self):
        pass


HOLDS = Holds()


def test_an_engine_that_fails_twice_loses_no_finished_portion(sampling_config, tokenizer, tmp_path, inside, monkeypatch):
    from tutelage.errors import RunError

    monkeypatch.setattr(ask, "AT_ONCE", 4)
    config, out = sampling_config(eval__backend="fake"), tmp_path / "t.jsonl"
    asked, original, calls = problems_for(config, tokenizer, 6), FakeEngine.generate, []

    def twice(self, prompts, sampling, indices, on_finished):
        calls.append(list(indices))
        if len(calls) in (2, 3):
            raise ValueError("no")
        return original(self, prompts, sampling, indices, on_finished)

    monkeypatch.setattr(FakeEngine, "generate", twice)
    with pytest.raises(RunError, match="ValueError: no"):
        sample_problems(asked, config, out, Wanted(2))
    sample_problems(asked, config, out, Wanted(2))
    assert calls == [[0, 1], [2, 3], [2, 3], [2, 3], [4, 5]] and len(samples_of(out)) == 12


def test_workers_of_a_cluster_answer_as_this_machine_does(sampling_config, tokenizer, tmp_path, monkeypatch):
    """Their shares are kept as they end, and after a failure the others go on."""
    config = sampling_config()
    asked = problems_for(config, tokenizer, 7)
    sample_problems(asked, config, tmp_path / "here.jsonl", Wanted(2))
    shares, failing = [], [True]

    def run_apart(function, jobs, where, *, workers, gpus_per_job):
        for index, job in enumerate(jobs):
            shares.append(list(job.indices))
            if failing[0] and index == 1:
                yield index, RuntimeError("a machine has gone")
            else:
                yield index, function(job)

    monkeypatch.setattr(ask.fanout, "run_apart", run_apart)
    monkeypatch.setattr(ask.fanout, "cluster", lambda where, workers: contextlib.nullcontext())
    monkeypatch.setattr(ask.fanout, "require", lambda where: None)
    out = tmp_path / "there.jsonl"
    with pytest.raises(RuntimeError, match="a machine has gone"):
        sample_problems(asked, config, out, Wanted(2), "ray", 3)
    failing[0] = False
    sample_problems(asked, config, out, Wanted(2), "ray", 3)
    assert shares == [[0, 1, 2], [3, 4, 5], [3, 4], [5, 6]]
    assert without_numbers(samples_of(out)) == without_numbers(samples_of(tmp_path / "here.jsonl"))


def test_log_probabilities_of_vllm_are_those_of_the_tokens_that_it_drew():
    positions = [{5: Logprob(-0.1, 1), 7: Logprob(-2.5, 2)}, {7: Logprob(-0.2, 1), 9: Logprob(-6.0, 40)}]
    output = CompletionOutput(0, "ab", [5, 9], None, positions, "stop")
    made = to_completion(output, 2)
    assert made.log_probs == (-0.1, -6.0) and made.entropies is not None
    assert to_completion(output, 0).log_probs is None


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from test_sample_engines import problems_for, tokenizer_in
from tutelage.config import parse_config
from tutelage.evaluation import Wanted, sample_problems
from tutelage.evaluation.sample import answers

class Slow(answers._Lines):
    def add(self, lines, seconds):
        super().add(lines, seconds)
        print(*(line["problem"] for line in lines), flush=True)
        time.sleep(60 if any(offset >= 0 for offset in self.offsets[4:]) else 0)

answers._Lines = Slow
config = parse_config({config!r})
sample_problems(problems_for(config, tokenizer_in(config), 12), config, Path({out!r}), Wanted(2))
"""


def tokenizer_in(config):
    from tutelage.model import tokenizer_of

    return tokenizer_of(config)


@pytest.mark.slow
def test_after_a_kill_the_same_call_goes_on_and_asks_nothing_twice(tiny_model, tmp_path, monkeypatch):
    raw = {
        "model": {"id": tiny_model, "device": "cpu", "precision": "fp32"}, "data": {"prompt": "plain"},
        "eval": {"backend": "native", "max_new_tokens": 6, "temperature": 1.0, "batch_size": 4},
    }  # fmt: skip
    folder, storm = Path(__file__).parent, tmp_path / "storm.jsonl"
    code = SCRIPT.format(path=[str(folder), str(folder.parent / "src")], config=raw, out=str(storm))
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    answered = []
    while not any(index >= 4 for index in answered):
        answered += [int(word) for word in killed.stdout.readline().split() if word.isdigit()]
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not storm.exists() and len(answered) < 12

    asked, config = [], parse_config(raw)
    add = _Lines.add
    monkeypatch.setattr(
        _Lines, "add", lambda self, lines, seconds: (asked.extend(line["problem"] for line in lines), add(self, lines, seconds))
    )
    problems = problems_for(config, tokenizer_in(config), 12)
    sample_problems(problems, config, storm, Wanted(2))
    assert sorted([*answered, *asked]) == list(range(12))
    sample_problems(problems, config, tmp_path / "calm.jsonl", Wanted(2))
    assert without_numbers(samples_of(storm)) == without_numbers(samples_of(tmp_path / "calm.jsonl"))
    left = sorted(each.name for each in tmp_path.iterdir() if "storm" in each.name)
    assert left == [f"storm.{kind}" for kind in ("jsonl", "ledger.jsonl", "samples.jsonl", "summary.json")]


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the model itself answers on it")
def test_the_model_itself_samples_on_a_card(make_config, tokenizer, tmp_path):
    config = make_config(eval__temperature=1.0, data__prompt="plain", model__device="cuda", model__precision="bf16-mixed")
    summary = sample_problems(problems_for(config, tokenizer), config, tmp_path / "t.jsonl", Wanted(4))
    assert sum(summary["fates"].values()) == 20 and summary["avg_token_entropy"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and vLLM: engines answer on it")
def test_vllm_samples_on_a_card(make_config, tokenizer, tmp_path):
    pytest.importorskip("vllm")
    config = make_config(eval__temperature=1.0, data__prompt="plain", eval__backend="vllm", model__device="cuda")
    summary = sample_problems(problems_for(config, tokenizer), config, tmp_path / "t.jsonl", Wanted(4))
    assert sum(summary["fates"].values()) == 20 and summary["avg_token_entropy"] > 0
    assert all(line["log_prob"] < 0 for line in samples_of(tmp_path / "t.jsonl"))
    assert json.loads((tmp_path / "t.summary.json").read_text())["backend"] == "vllm"


def test_the_seed_of_the_request_is_that_of_the_responses(sampling_config, tokenizer, tmp_path):
    config = sampling_config()
    asked = problems_for(config, tokenizer, 2)
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample_problems(asked, config, tmp_path / f"{name}.jsonl", Wanted(2, seed=seed))
        texts.append([each["response"] for each in samples_of(tmp_path / f"{name}.jsonl")])
    assert texts[0] == texts[1] != texts[2] and Sampling(seed=1).seed_of(0, 0) != Sampling(seed=2).seed_of(0, 0)

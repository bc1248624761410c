"""The specification's engine: `init_vllm` starts one, `load_policy_into_vllm_instance` gives it the policy's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch

from tutelage.data import Stops
from tutelage.errors import InputError
from tutelage.evaluation.certificate import Certificate
from tutelage.evaluation.engine import given, registry
from tutelage.evaluation.engine.contract import Completion, Sampling
from tutelage.evaluation.engine.handle import EngineHandle, EngineSetting, hand_over
from tutelage.evaluation.engine.output import RequestOutput, of_completions, to_completion
from tutelage.model import Policy, choose_device, resolve

FULL_VOCABULARY = 1 << 30
Prompt = tuple[str | None, list[int]]
"""The text of a prompt, if it has one, and its token ids."""


class VllmInstance:
    """An engine that is used as vLLM's `LLM` is; `handle` is what the trainer sees of it.

    A text is tokenized as vLLM does it, with each special token that the tokenizer adds. Prompts of training, and of
    `log_generations_vllm`, have the start token too, but once where the text names it already, and never an end token.
    """

    def __init__(self, handle: EngineHandle) -> None:
        self.handle = handle

    def generate(
        self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool | Callable[..., Any] = True
    ) -> list[RequestOutput]:
        """Responses to prompts, in their order.

        Args:
            prompts: a text, token ids, or ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``; or a list of them.
            sampling_params: vLLM's SamplingParams, or a list of one for each prompt; or a `Sampling`. None: vLLM's defaults for
                the model.
            use_tqdm: show a bar of responses; or what makes one, as tqdm does.

        Raises:
            InputError: a prompt is none of these, or has no token; or there are not as many sampling parameters as prompts.
            EngineError: the engine died, hung or failed.
        """
        asked = _listed(prompts)
        if isinstance(sampling_params, (list, tuple)):
            _check_list(sampling_params, len(asked))
        if not asked:
            return []
        each = sampling_params.samples if isinstance(sampling_params, Sampling) else 1
        with _bar(use_tqdm, len(asked) * each) as on_finished:
            if isinstance(sampling_params, Sampling):
                found = [self._ids(index, prompt) for index, prompt in enumerate(asked)]
                completions = self.handle.generate([ids for _, ids in found], sampling_params, None, on_finished)
                return of_completions(found, completions, sampling_params)
            for index, prompt in enumerate(asked):
                _check(index, prompt)
            return self.answer(asked, sampling_params, on_finished)

    def answer(self, prompts: Sequence[Any], params: Any, on_finished: Callable[[int], None]) -> list[RequestOutput]:
        """What vLLM answers to prompts of its kinds and to its own SamplingParams."""
        if not registry.entry_of(self.handle.setting.backend).takes_params:
            raise InputError(f"{self.handle.title} does not take vLLM's SamplingParams: pass a tutelage.evaluation.Sampling")
        for each in params if isinstance(params, (list, tuple)) else [params]:
            if each is not None and not hasattr(each, "max_tokens"):
                raise InputError(f"sampling_params: vLLM's SamplingParams or a tutelage.evaluation.Sampling is needed, not {_kind(each)}")
        answers: list[RequestOutput] = self.handle.remote.call("answer", prompts, params, on_progress=on_finished)
        return answers

    def complete(
        self, prompts: Sequence[list[int]], params: Any, indices: Sequence[int], on_finished: Callable[[int], None]
    ) -> list[Completion]:
        """Completions of token ids, all samples of a prompt one after the other; `params` as in `generate`."""
        if isinstance(params, Sampling):
            return self.handle.generate(prompts, params, indices, on_finished)
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        likeliest = getattr(params, "logprobs", None) or 0  # -1: all
        return [
            to_completion(output, likeliest if likeliest >= 0 else FULL_VOCABULARY)
            for request in self.answer(asked, params, on_finished)
            for output in request.outputs
        ]

    def get_tokenizer(self) -> Any:
        return self.handle.get_tokenizer()

    def close(self) -> None:
        """End the engine's process. A `vllm.LLM` goes on."""
        self.handle.close()

    def __enter__(self) -> VllmInstance:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ids(self, index: int, prompt: Any) -> Prompt:
        """A prompt as vLLM reads it."""
        _check(index, prompt)
        if isinstance(prompt, dict) and "prompt_token_ids" in prompt:
            return prompt.get("prompt"), list(prompt["prompt_token_ids"])
        text = prompt["prompt"] if isinstance(prompt, dict) else prompt
        if not isinstance(text, str):
            return None, list(text)
        ids = self.get_tokenizer().encode(text)
        if not ids:
            raise InputError(f"prompts[{index}] is a text without a token, and this tokenizer begins none with a start token")
        return text, list(ids)


def _listed(prompts: Any) -> list[Any]:
    """Prompts as a list; one prompt alone is a list of one."""
    if isinstance(prompts, (str, dict)) or _are_ids(prompts):
        return [prompts]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        raise InputError(f"prompts: a text, token ids, a dict, or a list of them is needed, not {type(prompts).__name__}")
    return list(prompts)


def _are_ids(prompt: Any) -> bool:
    return isinstance(prompt, (list, tuple)) and len(prompt) > 0 and all(type(token) is int for token in prompt)


def _check(index: int, prompt: Any) -> None:
    """Raises InputError where a prompt is none of those that `VllmInstance.generate` takes."""
    content = prompt
    if isinstance(prompt, dict):
        content = prompt.get("prompt_token_ids", prompt.get("prompt"))
    if not isinstance(content, str) and not _are_ids(content):
        shown = repr(prompt)
        raise InputError(
            f"prompts[{index}] = {shown if len(shown) <= 80 else shown[:80] + '…'}: a text, a list of token ids with at least one,"
            ' {"prompt": text} or {"prompt_token_ids": ids} is needed'
        )


def _check_list(params: Sequence[Any], count: int) -> None:
    if len(params) != count:
        raise InputError(f"{len(params)} sampling_params for {count} prompts: pass one for all, or one for each")
    if any(isinstance(each, Sampling) for each in params):
        raise InputError("sampling_params: a list holds vLLM's SamplingParams; a Sampling is for all prompts, pass it alone")


@contextlib.contextmanager
def _bar(use_tqdm: bool | Callable[..., Any], total: int) -> Iterator[Callable[[int], None]]:
    """What to call with each number of finished responses."""
    if not use_tqdm:
        yield lambda count: None
        return
    from tqdm import tqdm

    with (use_tqdm if callable(use_tqdm) else tqdm)(total=total, desc="Processed prompts") as bar:
        yield bar.update


def init_vllm(model_id: str, device: str, seed: int, gpu_memory_utilization: float = 0.85, **options: Any) -> VllmInstance:
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
        The engine, which is used as a `vllm.LLM`: ``generate``, ``get_tokenizer``; and ``close``, or a ``with`` statement, ends it.

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
    return VllmInstance(engine)


def instance_of(llm: Any) -> VllmInstance:
    """What `init_vllm` returned, a handle, or a `vllm.LLM`, as one and the same.

    Raises:
        InputError: it is none of them.
    """
    if isinstance(llm, VllmInstance):
        return llm
    if isinstance(llm, EngineHandle):
        return VllmInstance(llm)
    if given.is_llm(llm):
        return VllmInstance(given.handle_of(llm))
    raise InputError(f"an engine is needed, which init_vllm returns, or a vllm.LLM, not {_kind(llm)}")


def load_policy_into_vllm_instance(policy: Any, llm: Any) -> Certificate:
    """Copy the policy's weights into an engine, which forgets what it had cached under the old ones, and prove that it has them.

    Args:
        policy: the model that is trained: a Hugging Face model, compiled or not, with or without adapters of PEFT; or a `Policy`.
        llm: what `init_vllm` returned, or a `vllm.LLM`. Where the LLM's engine is in a process of its own, the weights go through a
            temporary file.

    Returns:
        The certificate of the sync.

    Raises:
        InputError: the policy is no such model, or the engine none of these.
        UncertifiedWeights: trainer and engine differ beyond the bound (docs/evaluation.md).
        EngineError: the engine died, hung or failed.
    """
    handle = instance_of(llm).handle
    policy = as_policy(policy, handle.get_tokenizer())
    handed = hand_over(policy, handle)
    proof = handle.load(handed)
    proof.require()
    if handed.snapshot is not None:
        handle.holds = policy, handed.snapshot
    return proof


def as_policy(model: Any, tokenizer: Any) -> Policy:
    """A Hugging Face model as a policy that computes in the precision of its weights, one row beside the other.

    Raises:
        InputError: it is something else.
    """
    if isinstance(model, Policy):
        return model
    given_as: Any = model
    model = getattr(model, "_orig_mod", model)  # torch.compile's
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's: the adapters stay in its layers
    model = getattr(model, "_orig_mod", model)
    if not hasattr(model, "get_output_embeddings"):
        raise InputError(f"a model of transformers is needed, compiled or not, or a Policy, not {_kind(given_as)}")
    weight = model.get_output_embeddings().weight
    precision = "fp32" if weight.dtype == torch.float32 else "bf16-sr"
    return Policy(model, tokenizer, Stops.of(tokenizer), weight.device, precision)


def _kind(thing: Any) -> str:
    return f'"{thing}"' if isinstance(thing, str) else f"a {type(thing).__module__}.{type(thing).__qualname__}"

"""A stand-in for the package vllm: what Tutelage calls of it, answered by the native generator. `install` makes it importable."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.native import NativeEngine


@dataclass
class SamplingParams:
    """As of vLLM 0.24; 0.30 brought the watermark (`NewerParams`)."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    allowed_token_ids: list[int] | None = None
    seen_ends: list[int] = field(default_factory=list)

    def __post_init__(self):
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01

    def update_from_generation_config(self, generation_config, eos_token_id=None):
        self.seen_ends.append(eos_token_id)


@dataclass
class NewerParams(SamplingParams):
    watermarking: bool | None = None


class LLM:
    """`separate`: the engine is in a process of its own, to which neither functions nor tensors go."""

    def __init__(self, model: str, dtype: str = "float32", max_model_len: int | None = 256, separate: bool = False, **options: Any):
        self.engine, self.separate, self.options, self.asked = NativeEngine(model, "cpu", dtype, 0), separate, options, []
        configuration = SimpleNamespace(
            model=model, dtype=getattr(torch, dtype), max_model_len=max_model_len,
            try_get_generation_config=lambda: {"eos_token_id": self.engine.model.generation_config.eos_token_id},
        )  # fmt: skip
        self.llm_engine = SimpleNamespace(model_config=configuration)
        if not separate:
            worker = SimpleNamespace(get_model=lambda: self.engine.model)
            self.llm_engine.model_executor = SimpleNamespace(driver_worker=worker)
        self.resets, self.is_stale = 0, False

    def get_tokenizer(self):
        return self.engine.tokenizer

    def reset_prefix_cache(self) -> bool:
        self.resets += 1
        return True

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        if callable(method):
            if self.separate:
                raise TypeError("Object of type function is not serializable: set VLLM_ALLOW_INSECURE_SERIALIZATION=1")
            return [method(self.llm_engine.model_executor.driver_worker)]
        assert method == "reload_weights" and not (self.separate and "weights_iterator" in kwargs)
        weights = dict(kwargs["weights_iterator"]) if "weights_iterator" in kwargs else self._read(kwargs["weights_path"])
        if not self.is_stale:
            self.engine.load(weights)
        return [None]

    def _read(self, directory):
        from safetensors.torch import load_file

        (file,) = Path(directory).glob("*.safetensors")
        return load_file(file)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        single = isinstance(prompts, (str, dict)) or (len(prompts) > 0 and all(isinstance(each, int) for each in prompts))
        prompts = [prompts] if single else prompts
        default = sys.modules["vllm"].SamplingParams()
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params or default] * len(prompts)
        assert len(params) == len(prompts)
        bars = [use_tqdm(total=len(prompts), desc=each) for each in ("Rendering prompts", "Processed prompts") if use_tqdm]
        found = []
        for index, (prompt, each) in enumerate(zip(prompts, params, strict=True)):
            self.asked.append((prompt, each))
            each = copy.deepcopy(each)
            each.update_from_generation_config({}, self.engine.tokenizer.eos_token_id)
            found.append(self._answer(index, prompt, each))
            for bar in bars:
                bar.update(1)
        return found

    def _answer(self, index, prompt, params):
        text = prompt if isinstance(prompt, str) else prompt.get("prompt") if isinstance(prompt, dict) else None
        ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else prompt
        ids = self.engine.tokenizer.encode(text) if ids is None or isinstance(ids, str) else list(ids)
        outputs = [self._forced(ids, params)] if params.max_tokens == 1 else [self._output(ids, params, n) for n in range(params.n)]
        scored = None
        if params.prompt_logprobs is not None:
            values = self.engine.score([ids], [])["plain"][0]
            scored = [None, *({token: logprob(value)} for token, value in zip(ids[1:], values, strict=True))]
        return SimpleNamespace(
            request_id=str(index), prompt=text, prompt_token_ids=ids, prompt_logprobs=scored, outputs=outputs, num_cached_tokens=None
        )

    def _forced(self, ids, params):
        """One token: the one that is allowed, else the likeliest."""
        with torch.no_grad():
            log_probs = self.engine.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        token = params.allowed_token_ids[0] if params.allowed_token_ids else int(log_probs.argmax())
        value = log_probs[token].item()
        return SimpleNamespace(
            index=0, text="", token_ids=[token], cumulative_logprob=value, logprobs=[{token: logprob(value)}],
            finish_reason="length", stop_reason=None,
        )  # fmt: skip

    def _output(self, ids, params, sample):
        stop = [params.stop] if isinstance(params.stop, str) else params.stop or []
        end = params.stop_token_ids[0] if params.stop_token_ids and params.ignore_eos else None
        sampling = Sampling(params.max_tokens, params.temperature, params.top_p, tuple(stop), params.seed or 0, 1, params.min_tokens, 0, end)
        (made,) = self.engine.generate([ids], sampling, [sample])
        stopped = next((each for each in stop if made.finish_reason == "stop" and made.text.endswith(each)), None)
        text = made.text[: -len(stopped)] if stopped and not params.include_stop_str_in_output else made.text
        entries = [{token: logprob(value)} for token, value in zip(made.token_ids, made.log_probs, strict=True)]
        return SimpleNamespace(
            index=sample, text=text, token_ids=list(made.token_ids), cumulative_logprob=sum(made.log_probs),
            logprobs=entries if params.logprobs is not None else None, finish_reason=made.finish_reason, stop_reason=stopped,
        )  # fmt: skip


def logprob(value: float) -> SimpleNamespace:
    return SimpleNamespace(logprob=value, rank=1, decoded_token="…")


def install(monkeypatch, params=SamplingParams) -> ModuleType:
    """From now on `import vllm` finds the stand-in."""
    from tutelage.evaluation.engine import vllm as ours

    package = ModuleType("vllm")
    package.LLM, package.SamplingParams = LLM, params
    monkeypatch.setitem(sys.modules, "vllm", package)
    ours._params_class.cache_clear()
    return package

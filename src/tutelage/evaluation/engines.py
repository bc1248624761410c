"""vLLM engines as a trainer sees them: processes of their own, which are handed its weights and prove that they hold them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.config import EvalConfig, ModelConfig
from tutelage.data import Stops
from tutelage.errors import InputError
from tutelage.evaluation import certificate
from tutelage.evaluation.certificate import Certificate
from tutelage.evaluation.engine import Completion, EngineError, Remote, Sampling, Snapshot, take, vllm
from tutelage.machines import reshard
from tutelage.model import Policy, choose_device, load_policy, load_tokenizer, lora, resolve

PORTION = 256
"""Problems that an engine is asked at a time, at most: enough to keep it busy, few enough to keep what is done."""


@dataclass(frozen=True)
class Handover:
    """What a sync needs of the trainer: its scores of the probes, and a copy of its weights (None: the engine has read them itself).

    Attributes:
        seconds: how long the trainer stood still for it.
    """

    expected: list[torch.Tensor]
    snapshot: Snapshot | None = None
    seconds: float = 0.0


class Engine:
    """A vLLM engine in a process of its own: nothing that it does reaches this one's random state, threads, devices or groups.

    Args:
        model: a model directory or hub name.
        device: where it runs; it sees no other GPU.
        dtype: of its weights, "bfloat16" or "float32".
        max_model_len: longest prompt + response in tokens; None: what the model allows.
        sleeps: whether `sleep` will be called (CUDA only).
        log: the file for what it prints; None: a temporary one.
        timeout: seconds without a finished response after which it counts as hung.
    """

    def __init__(
        self,
        model: str,
        device: torch.device,
        seed: int = 0,
        *,
        dtype: str = "bfloat16",
        gpu_memory_utilization: float = 0.85,
        max_model_len: int | None = None,
        sleeps: bool = False,
        log: Path | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.holds: tuple[Policy, Snapshot] | None = None
        self._tokenizer: Any = None
        self._own_policy: Policy | None = None
        options = {
            "model": model, "device": device.type, "dtype": dtype, "seed": seed, "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len, "sleeps": sleeps,
        }  # fmt: skip
        environment = {} if device.type == "cpu" else {"CUDA_VISIBLE_DEVICES": visible_name(device.index or 0)}
        if dtype == "float32":
            environment["TRITON_F32_DEFAULT"] = "ieee"  # its default, tf32, is no float32: the certificate would not hold
        self.remote = Remote(vllm.FACTORY, options, environment, log, timeout)
        self.probes = certificate.probes(self.get_tokenizer(), max_model_len and max_model_len - 1)

    @property
    def running(self) -> bool:
        return self.remote.running

    def start(self) -> None:
        """Start the process, or start it again: it then has the weights of `model`. Raises EngineError if it does not start."""
        self.holds = None
        self.remote.start()

    def close(self) -> None:
        """End the process for good."""
        self.remote.close()

    def get_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model)
        return self._tokenizer

    def hand_over(self, policy: Policy) -> Handover:
        """What `load` needs, taken from the policy now: see `hand_over`."""
        return hand_over(policy, self.probes, self.dtype)

    def load(self, handed: Handover) -> Certificate:
        """Give the engine the weights, and compare its scores of the probes with the trainer's.

        Raises:
            EngineError: it died, hung or failed.
        """
        known: dict[str, Any] = {}
        self.holds = None
        if handed.snapshot is not None:
            started = time.monotonic()
            self.remote.call("load", snapshot=handed.snapshot)
            seconds = handed.seconds + time.monotonic() - started
            known = {
                "weights_sha256": handed.snapshot.sha256(), "sync_seconds": round(seconds, 3),
                "training_seconds": round(handed.seconds, 3),
            }  # fmt: skip
        return certificate.compare(handed.expected, self.score(), certificate.cuts_of(self.probes), self.dtype, **known)

    def score(self) -> dict[str, Any]:
        """The engine's scores of the probes."""
        answer: dict[str, Any] = self.remote.call("score", self.probes, certificate.cuts_of(self.probes))
        return answer

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Any,
        numbers: Sequence[int] | None = None,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """Completions of tokenized prompts, all samples of one after the other; `sampling` may be vLLM's SamplingParams.

        Raises:
            EngineError: the engine died, hung or failed.
        """
        asked = [list(prompt) for prompt in prompts]
        completions: list[Completion] = self.remote.call("generate", asked, sampling, numbers, on_progress=on_finished)
        return completions

    def answer(
        self,
        handed: Handover,
        prompts: Mapping[int, Sequence[int]],
        sampling: Sampling,
        on_finished: Callable[[int], None] = lambda count: None,
        on_failure: Callable[[EngineError], None] = lambda error: None,
        on_portion: Callable[[dict[int, list[Completion]]], None] = lambda answers: None,
    ) -> tuple[Certificate, dict[int, list[Completion]]]:
        """Sync, certify and generate, a portion of the prompts after the other.

        An engine that is not there is started; one that fails is started again, once, and asked what it had not answered yet.

        Args:
            prompts: by the numbers of their problems.
            on_portion: is given each portion's answers as they come.

        Returns:
            The certificate, and all samples of each problem.

        Raises:
            UncertifiedWeights: trainer and engine differ beyond the bound.
            EngineError: it failed twice, or was closed.
        """
        answers: dict[int, list[Completion]] = {}
        for again in (True, False):
            try:
                if not self.running:
                    self.start()
                proof = self.load(handed)
                proof.require()
                missing = [number for number in prompts if number not in answers]
                for start in range(0, len(missing), PORTION):
                    numbers = missing[start : start + PORTION]
                    completions = self.generate([prompts[number] for number in numbers], sampling, numbers, on_finished)
                    portion = by_problem(numbers, completions)
                    answers |= portion
                    on_portion(portion)
                self.score()  # what the cache holds of the probes shall outlast what was generated, to be found if it is stale
                return proof, answers
            except EngineError as error:
                self.remote.end()
                if not again or self.remote.closed:
                    raise
                on_failure(error)
        raise AssertionError("unreachable")

    def sleep(self) -> None:
        self.remote.call("sleep")

    def wake_up(self) -> None:
        self.remote.call("wake_up")

    @contextlib.contextmanager
    def policy(self) -> Iterator[Policy]:
        """A policy with the weights that the engine has: the one they came from, or, if none was loaded, its model."""
        if self.holds is not None:
            policy, snapshot = self.holds
            with policy.holding(snapshot.tensors()):
                yield policy
            return
        if self._own_policy is None:
            config = ModelConfig(id=self.model, precision="fp32" if self.dtype == "float32" else "bf16-mixed")
            self._own_policy = load_policy(config, self.get_tokenizer(), to_train=False)
        yield self._own_policy


def hand_over(policy: Policy, probes: Sequence[tuple[int, ...]], dtype: str, keep: bool = True) -> Handover:
    """What an engine needs of the policy, taken now: it may be trained on meanwhile.

    Args:
        dtype: of the engine's weights.
        keep: whether this rank holds the copy. Of a sharded policy, all ranks take part.

    Raises:
        EngineError: there is no memory for the copy.
    """
    started = time.monotonic()
    expected = certificate.trainer_scores(policy, probes)
    reshard(policy.model)
    try:
        snapshot = take(lora.merged_weights(policy.model), getattr(torch, dtype), keep)
    except (OSError, MemoryError) as error:
        raise EngineError(f"the weights could not be copied to the host's memory: {error}") from None
    return Handover(expected, snapshot, time.monotonic() - started)


def by_problem(numbers: Sequence[int], completions: Sequence[Completion]) -> dict[int, list[Completion]]:
    """Completions of problems, all samples of one after the other, by the problems' numbers."""
    samples = len(completions) // len(numbers)
    return {number: list(completions[place * samples : (place + 1) * samples]) for place, number in enumerate(numbers)}


def engine_for(
    policy: Policy,
    model: str,
    config: EvalConfig,
    device: torch.device,
    *,
    share: float,
    longest: int,
    log: Path,
    sleeps: bool = False,
) -> Engine:
    """The engine of a configured evaluation, not started yet; its precision is the policy's.

    Args:
        share: of the GPU's memory.
        longest: prompt + response in tokens, at most.
    """
    return Engine(
        model, device, config.seed, dtype="float32" if policy.precision == "fp32" else "bfloat16", gpu_memory_utilization=share,
        max_model_len=longest, sleeps=sleeps, log=log, timeout=config.timeout,
    )  # fmt: skip


def init_vllm(model_id: str, device: str, seed: int, gpu_memory_utilization: float = 0.85, **options: Any) -> Engine:
    """Start a vLLM engine in a process of its own, on a device of its own or on the one that is trained on.

    Its prefix cache is on; `load_policy_into_vllm_instance` resets it. Nothing of this process changes: not its random state, its
    process groups, its threads, nor its current device.

    Args:
        model_id: a model directory or hub name, or "smollm2".
        device: "cuda:1", "cuda", "cpu".
        seed: the engine's seed.
        gpu_memory_utilization: the share of the GPU's memory that the engine may take.
        options: further arguments of `Engine`.

    Returns:
        The engine: ``generate``, ``get_tokenizer``, ``close``.

    Raises:
        InputError: vLLM is not installed, or the device is not there.
        EngineError: the engine does not start; the message says where it left its reasons.
    """
    where = choose_device(device)
    vllm.require(where.type)
    engine = Engine(resolve(model_id), where, seed, gpu_memory_utilization=gpu_memory_utilization, **options)
    engine.start()
    return engine


def load_policy_into_vllm_instance(policy: Any, llm: Engine) -> Certificate:
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
    handed = llm.hand_over(policy)
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


def visible_name(index: int) -> str:
    """How the GPU that is number `index` here is called in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return str(index)
    names = [name.strip() for name in visible.split(",")]
    if index >= len(names):
        raise InputError(f"CUDA_VISIBLE_DEVICES = {visible} names no GPU number {index}")
    return names[index]

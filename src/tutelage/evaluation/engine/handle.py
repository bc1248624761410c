"""An engine as the trainer sees it: a process of its own that is handed weights and proves that it has them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.config import Config, ModelConfig
from tutelage.data import TokenizedExample
from tutelage.errors import InputError
from tutelage.evaluation import certificate
from tutelage.evaluation.certificate import Certificate, Expected, Held
from tutelage.evaluation.engine import registry
from tutelage.evaluation.engine.contract import Completion, Sampling, Scores
from tutelage.evaluation.engine.process import EngineError, Remote
from tutelage.evaluation.engine.snapshot import Snapshot, take
from tutelage.machines import reshard
from tutelage.model import Policy, embedding_rows, load_policy, load_tokenizer, lora, resolve
from tutelage.resources import visible_name


@dataclass(frozen=True)
class EngineSetting:
    """Which engine is made, and how.

    Attributes:
        model: a model directory or hub name.
        device: where it runs; it sees no other GPU.
        seed: of the engine; responses have seeds of their own.
        dtype: of its weights, "bfloat16" or "float32".
        backend: as `eval.backend`.
        gpu_memory_utilization: the share of the GPU's memory that it may take.
        max_model_len: longest prompt + response in tokens; None: what the model allows.
        sleeps: whether `sleep` will be called (CUDA only).
        log: the file for what it prints; None: a temporary one.
        timeout: seconds without a finished response after which it counts as hung.
    """

    model: str
    device: torch.device
    seed: int = 0
    dtype: str = "bfloat16"
    backend: str = "auto"
    gpu_memory_utilization: float = 0.85
    max_model_len: int | None = None
    sleeps: bool = False
    log: Path | None = None
    timeout: float = 600.0


def engine_setting(config: Config, precision: str, device: torch.device, longest: int, log: Path, **others: Any) -> EngineSetting:
    """The setting of a configured evaluation's engine.

    Args:
        precision: of the policy, which the engine's dtype follows.
        longest: prompt + response in tokens, at most.
        others: fields that take the place of what is configured.
    """
    dtype = "float32" if precision == "fp32" else "bfloat16"
    path, asked = resolve(config.model.id, by_engine=True), config.eval
    setting = EngineSetting(path, device, asked.seed, dtype, asked.backend, asked.gpu_memory_utilization, longest)
    return replace(setting, log=log, timeout=asked.timeout, **others)


@dataclass(frozen=True)
class Handover:
    """What a sync needs of the trainer: what it says of its weights, and a copy of them (None: the engine has read them itself).

    Attributes:
        seconds: how long the trainer stood still for it.
    """

    expected: Expected
    snapshot: Snapshot | None = None
    seconds: float = 0.0


class EngineHandle:
    """An engine in a process of its own. Nothing that it does reaches this process's random state, threads, devices or groups.

    It is made without being started.

    Args:
        remote: an engine that is there already, with the face of `Remote`.
    """

    def __init__(self, setting: EngineSetting, remote: Any = None) -> None:
        entry = registry.entry_of(setting.backend)
        self.setting, self.title = setting, entry.title
        self.holds: tuple[Policy, Snapshot] | None = None
        self.held: Held | None = None
        self._tokenizer = load_tokenizer(setting.model)
        rows = embedding_rows(setting.model)
        if len(self._tokenizer) > rows:
            raise InputError(
                f"{setting.model}: {entry.title} reads the model as it was published, whose embedding has {rows} rows for the"
                f" tokenizer's {len(self._tokenizer)} tokens, and model.resize adds them in training alone: write eval.backend ="
                ' "native"'
            )
        self._own_policy: Policy | None = None
        options = {
            "model": setting.model, "device": setting.device.type, "dtype": setting.dtype, "seed": setting.seed,
            "gpu_memory_utilization": setting.gpu_memory_utilization, "max_model_len": setting.max_model_len, "sleeps": setting.sleeps,
        }  # fmt: skip
        self.remote = remote or Remote(entry.factory, options, setting.log, setting.timeout)
        self.probes = certificate.probes(self._tokenizer, setting.max_model_len and setting.max_model_len - 1)

    @property
    def running(self) -> bool:
        return self.remote.running

    @property
    def closed(self) -> bool:
        return self.remote.closed

    def start(self) -> None:
        """Start the process, or start it again: it then has the weights of its model. Raises EngineError if it does not start."""
        self.holds = None
        self.remote.start(self._environment())

    def _environment(self) -> dict[str, str]:
        """Variables of the engine's process, beyond those of this one."""
        device = self.setting.device
        environment = {} if device.type == "cpu" else {"CUDA_VISIBLE_DEVICES": visible_name(device.index or 0)}
        if self.setting.dtype == "float32":
            environment["TRITON_F32_DEFAULT"] = "ieee"  # its default, tf32, is no float32: the certificate would not hold
        return environment

    def end(self) -> None:
        """End the process at once; it may be started again."""
        self.remote.end()

    def close(self) -> None:
        """End the process for good."""
        self.remote.close()

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    def load(self, handed: Handover) -> Certificate:
        """Give the engine the weights, and compare its scores with the trainer's, now and since the last sync.

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
        scored = self.score()
        rows = handed.expected.sequences[len(self.probes) :]
        if rows:
            scored["plain"] += self.remote.call("score", rows, ())["plain"]
        cuts, expected = certificate.cuts_of(self.probes), handed.expected
        proof = certificate.compare(expected, scored, cuts, self.setting.dtype, self.held, **known)
        self.held = certificate.held_after(proof, expected, scored, self.held)
        return proof

    def score(self) -> Scores:
        """The engine's scores of the probes."""
        scores: Scores = self.remote.call("score", self.probes, certificate.cuts_of(self.probes))
        return scores

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        indices: Sequence[int] | None = None,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Completion]:
        """`Engine.generate`.

        Raises:
            EngineError: the engine died, hung or failed.
        """
        asked = [list(prompt) for prompt in prompts]
        completions: list[Completion] = self.remote.call("generate", asked, sampling, indices, on_progress=on_finished)
        count = len(asked) * sampling.samples
        if not isinstance(completions, list) or len(completions) != count:
            found = len(completions) if isinstance(completions, list) else type(completions).__name__
            raise EngineError(f"{self.title} returned {found} completions where {count} were asked for (see `Engine.generate`)")
        return completions

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
            precision: Any = "fp32" if self.setting.dtype == "float32" else "bf16-mixed"
            config = ModelConfig(id=self.setting.model, precision=precision)
            self._own_policy = load_policy(config, self._tokenizer, to_train=False)
        yield self._own_policy


def hand_over(policy: Policy, engine: EngineHandle, keep: bool = True, rows: Sequence[TokenizedExample] = ()) -> Handover:
    """What an engine needs of the policy, taken now: training may go on meanwhile.

    Args:
        keep: whether this rank holds the copy. Of a sharded policy, all ranks take part.
        rows: that will be trained on next, from which the next sync sees what has changed.

    Raises:
        EngineError: there is no memory for the copy.
    """
    started = time.monotonic()
    expected = certificate.expected_of(policy, engine.setting.dtype, engine.probes, rows, engine.held)
    reshard(policy.model)
    try:
        snapshot = take(lora.merged_weights(policy.model), getattr(torch, engine.setting.dtype), keep)
    except (OSError, MemoryError) as error:
        raise EngineError(f"the weights could not be copied to the host's memory: {error}") from None
    return Handover(expected, snapshot, time.monotonic() - started)
